//! What a memory holds at first: its module's data segments, in a file that is mapped copy-on-write.
//!
//! All images of an engine lie one behind the other in one file without a name (`memfd_create`). Places in it are never used
//! again, as the file is as sparse as it is long: an image that ends leaves a hole. An image goes from the first page with data
//! to the last.
//!
//! However little data there is, an image is cheaper than copying: a fault, which the first write of an instance would cost, takes
//! longer (2 us on a virtual machine) than all the rest of making one, and a guest may never write there.
//!
//! A module has an image of a memory only if all its active segments of that memory lie inside its first size and at constant
//! addresses, so that none of them can fail. (Others may, before: `vm/instance.rs` sees to that.)

use super::pool::MemoryPool;
use super::{MemoryLayout, whole_pages};
use selvedge_compiler::{ConstExpr, DataMode, MemoryStyle, ModuleInfo};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How many bytes of an image may be between segments: reading them takes memory of the file.
const MAX_HOLES_BYTES: u64 = 1 << 20;

static NEXT_IMAGE: AtomicU64 = AtomicU64::new(1);

/// The file of an engine's images, made with the first.
#[derive(Debug, Default)]
pub(super) struct ImageFile {
    file: OnceLock<Option<(File, u32)>>,
    /// Where the next image goes.
    end: Mutex<u64>,
}

impl ImageFile {
    /// None where the kernel has no such files, or no descriptor is left: modules go without images then.
    fn get(&self) -> Option<&File> {
        let made = || Some((memory_file().ok()?, std::process::id()));
        Some(&self.file.get_or_init(made).as_ref()?.0)
    }

    /// Whether this process made the file: one that was forked off since shares it, and must not change it.
    fn is_ours(&self) -> bool {
        matches!(self.file.get(), Some(Some((_, process))) if *process == std::process::id())
    }

    /// A place of so many bytes, all zero.
    fn extend(&self, bytes: u64) -> Option<(&File, u64)> {
        let file = self.get()?;
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let (offset, new_end) = (*end, end.checked_add(bytes)?);
        // Beyond the limit of a file's size, a signal would end the process.
        if !self.is_ours() || new_end > max_file_bytes() {
            return None;
        }
        file.set_len(new_end).ok()?;
        *end = new_end;
        Some((file, offset))
    }
}

/// `RLIMIT_FSIZE`.
fn max_file_bytes() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives through the call.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    limit.rlim_cur
}

fn memory_file() -> io::Result<File> {
    const NAME: &CStr = c"selvedge images";
    // SAFETY: the name is a string that lives through the call.
    let descriptor = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made, and that nobody else has.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// The first contents of a memory.
#[derive(Debug)]
pub(crate) struct Image {
    /// Never used again.
    id: u64,
    pool: Arc<MemoryPool>,
    offset: u64,
    start: u64,
    bytes: u64,
}

impl Image {
    /// The image of a memory that the module defines; none where it is to be filled by copying.
    pub(crate) fn of(
        info: &ModuleInfo,
        memory: u32,
        style: MemoryStyle,
        pool: &Arc<MemoryPool>,
    ) -> Option<Image> {
        let ty = &info.memories[memory as usize];
        if memory < info.imported_memories
            || ty.is_shared()
            || MemoryLayout::of(ty, style) != MemoryLayout::Reserved
        {
            return None;
        }
        let segments = constant_segments(info, memory, ty.minimum.checked_mul(ty.page_size())?)?;
        let data_bytes: u64 = segments.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        // Those without bytes may begin anywhere, also before the image.
        let filled = segments.iter().filter(|(_, bytes)| !bytes.is_empty());
        let start = filled.clone().map(|(start, _)| *start).min()?;
        let end = filled
            .clone()
            .map(|(start, bytes)| start + bytes.len() as u64)
            .max()?;
        let page = region::page::size() as u64;
        let start = start / page * page;
        let bytes = whole_pages(end)? - start;
        if bytes > data_bytes.saturating_add(MAX_HOLES_BYTES) {
            return None;
        }
        let (file, offset) = pool.images.extend(bytes)?;
        // From here on dropping it gives the place back.
        let image = Image {
            id: NEXT_IMAGE.fetch_add(1, Ordering::Relaxed),
            pool: pool.clone(),
            offset,
            start,
            bytes,
        };
        for (address, data) in filled {
            file.write_all_at(data, offset + (address - start)).ok()?;
        }
        Some(image)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Where it begins in a memory.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Its length, of whole pages.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it is to be mapped from.
    pub(super) fn place(&self) -> (&File, u64) {
        let file = self.pool.images.get().expect("the file that the image is in");
        (file, self.offset)
    }

    /// What it fills of a memory.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.bytes) as usize
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        self.pool.forget_image(self.id);
        if !self.pool.images.is_ours() {
            return;
        }
        let (file, offset) = self.place();
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: changes this image's bytes of the file, which are in no memory in use: those hold their image.
            let result = unsafe {
                libc::fallocate(
                    file.as_raw_fd(),
                    mode,
                    offset as libc::off_t,
                    self.bytes as libc::off_t,
                )
            };
            // A signal may come between. Where it fails otherwise, the bytes stay until the file goes.
            if result == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                return;
            }
        }
    }
}

/// Addresses and bytes of the active segments of a memory, if all are at constant addresses inside `length`, and there is room for the list.
fn constant_segments(info: &ModuleInfo, memory: u32, length: u64) -> Option<Vec<(u64, &[u8])>> {
    let mut segments = Vec::new();
    for data in &info.data {
        let DataMode::Active { memory: to, offset } = data.mode else {
            continue;
        };
        if to != memory {
            continue;
        }
        let ConstExpr::I32(address) = offset else {
            return None;
        };
        let address = u64::from(address as u32);
        if address + data.bytes.len() as u64 > length {
            return None;
        }
        segments.try_reserve(1).ok()?;
        segments.push((address, &*data.bytes));
    }
    Some(segments)
}
