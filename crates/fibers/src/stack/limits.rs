//! Which of the kernel's limits a refused call has met.
//!
//! A call that maps memory fails with ENOMEM for any of them: the figures tell which. Read when
//! something has failed only, with the C library alone, into a buffer on the stack.

use core::ffi::CStr;
use core::fmt;

/// The limit that a refused mapping has met, with what was in use then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelLimit {
    /// `vm.max_map_count`: how many mappings a process can have.
    Mappings {
        /// How many it has.
        in_use: usize,
        /// The limit.
        max: usize,
    },
    /// `RLIMIT_AS`: how much address space a process can have.
    AddressSpace {
        /// Bytes that it has.
        in_use_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// `RLIMIT_DATA`: how much private writable memory a process can have, touched or not.
    Data {
        /// Bytes that it has.
        in_use_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// `vm.overcommit_memory` is 2: how much memory the whole system promises.
    Overcommit {
        /// Bytes that are promised (`Committed_AS`).
        in_use_bytes: usize,
        /// The limit (`CommitLimit`).
        max_bytes: usize,
    },
    /// None that could be read, or none that explains it.
    Unknown,
}

impl KernelLimit {
    /// The limit that a call has met which has failed just now, with `ENOMEM`.
    ///
    /// `address_bytes` and `writable_bytes` are what the call would have added to the process. Reads a few files of `/proc`.
    pub fn met_by(address_bytes: usize, writable_bytes: usize) -> KernelLimit {
        met_by(address_bytes, writable_bytes)
    }
}

impl fmt::Display for KernelLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            KernelLimit::Mappings { in_use, max } => {
                write!(
                    f,
                    "{in_use} mappings in use, vm.max_map_count is {max}: \
                     raise that (sysctl), or ask for fewer stacks and memories"
                )
            }
            KernelLimit::AddressSpace {
                in_use_bytes,
                max_bytes,
            } => {
                write!(
                    f,
                    "{in_use_bytes} bytes of address space in use, RLIMIT_AS is {max_bytes}: \
                     raise that (ulimit -v), or ask for fewer or smaller stacks and memories"
                )
            }
            KernelLimit::Data {
                in_use_bytes,
                max_bytes,
            } => {
                write!(
                    f,
                    "{in_use_bytes} bytes of writable memory in use, RLIMIT_DATA is {max_bytes}: \
                     raise that (ulimit -d), or ask for fewer or smaller stacks and memories"
                )
            }
            KernelLimit::Overcommit {
                in_use_bytes,
                max_bytes,
            } => {
                write!(
                    f,
                    "{in_use_bytes} bytes promised, vm.overcommit_memory is 2 and CommitLimit {max_bytes}: \
                     ask for fewer or smaller stacks and memories, or raise vm.overcommit_ratio"
                )
            }
            KernelLimit::Unknown => write!(f, "not a limit of mappings or sizes"),
        }
    }
}

/// How many mappings a call needs at most: the one it splits becomes three.
const MAPPINGS_NEEDED: usize = 2;

/// What the kernel counts, and what it allows; the largest number where there is no limit.
#[derive(Clone, Copy)]
struct Figures {
    mappings: usize,
    max_mappings: usize,
    address_bytes: usize,
    max_address_bytes: usize,
    data_bytes: usize,
    max_data_bytes: usize,
    committed_bytes: usize,
    max_committed_bytes: usize,
}

/// The limit that a call has met which has failed just now.
///
/// `address_bytes` and `writable_bytes` are what it would have added to the process.
pub(crate) fn met_by(address_bytes: usize, writable_bytes: usize) -> KernelLimit {
    Figures::read().met_by(address_bytes, writable_bytes)
}

impl Figures {
    fn read() -> Figures {
        const STATUS: &CStr = c"/proc/self/status";
        const MEMORY: &CStr = c"/proc/meminfo";
        let kib = |path, key| number(path, key).map(|kib| kib.saturating_mul(1024));
        let is_strict = number(c"/proc/sys/vm/overcommit_memory", b"") == Some(2);
        let max_committed_bytes = kib(MEMORY, b"CommitLimit:").filter(|_| is_strict);
        Figures {
            mappings: count_lines(c"/proc/self/maps"),
            max_mappings: number(c"/proc/sys/vm/max_map_count", b"").unwrap_or(usize::MAX),
            address_bytes: kib(STATUS, b"VmSize:").unwrap_or(0),
            max_address_bytes: resource_limit(libc::RLIMIT_AS),
            data_bytes: kib(STATUS, b"VmData:").unwrap_or(0),
            max_data_bytes: resource_limit(libc::RLIMIT_DATA),
            committed_bytes: kib(MEMORY, b"Committed_AS:").unwrap_or(0),
            max_committed_bytes: max_committed_bytes.unwrap_or(usize::MAX),
        }
    }

    fn met_by(&self, address_bytes: usize, writable_bytes: usize) -> KernelLimit {
        let is_over = |used: usize, added: usize, max: usize| added > 0 && used.saturating_add(added) > max;
        if is_over(self.address_bytes, address_bytes, self.max_address_bytes) {
            return KernelLimit::AddressSpace {
                in_use_bytes: self.address_bytes,
                max_bytes: self.max_address_bytes,
            };
        }
        if is_over(self.data_bytes, writable_bytes, self.max_data_bytes) {
            return KernelLimit::Data {
                in_use_bytes: self.data_bytes,
                max_bytes: self.max_data_bytes,
            };
        }
        if is_over(self.committed_bytes, writable_bytes, self.max_committed_bytes) {
            return KernelLimit::Overcommit {
                in_use_bytes: self.committed_bytes,
                max_bytes: self.max_committed_bytes,
            };
        }
        if is_over(self.mappings, MAPPINGS_NEEDED, self.max_mappings) {
            return KernelLimit::Mappings {
                in_use: self.mappings,
                max: self.max_mappings,
            };
        }
        KernelLimit::Unknown
    }
}

/// The soft limit of a resource; the largest number when there is none.
fn resource_limit(resource: libc::__rlimit_resource_t) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: room for the answer.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    // RLIM_INFINITY is the largest number.
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// The first number after `key` in a file, where `key` is at the start of a line.
fn number(path: &CStr, key: &[u8]) -> Option<usize> {
    /// Where the search is: this many bytes of the key seen, past it, or in a line with another.
    enum At {
        Key(usize),
        Value(Option<usize>),
        Skip,
    }
    let mut at = At::Key(0);
    read(path, |byte| {
        if let (b'\n', At::Key(_) | At::Skip) = (byte, &at) {
            at = At::Key(0);
            return true;
        }
        if matches!(at, At::Key(seen) if seen == key.len()) {
            at = At::Value(None);
        }
        at = match at {
            At::Key(seen) if byte == key[seen] => At::Key(seen + 1),
            At::Key(_) | At::Skip => At::Skip,
            At::Value(value) if byte.is_ascii_digit() => {
                let value = value.unwrap_or(0).saturating_mul(10);
                At::Value(Some(value.saturating_add(usize::from(byte - b'0'))))
            }
            At::Value(Some(_)) => return false,
            At::Value(None) => At::Value(None),
        };
        true
    });
    match at {
        At::Value(value) => value,
        At::Key(_) | At::Skip => None,
    }
}

fn count_lines(path: &CStr) -> usize {
    let mut lines = 0;
    read(path, |byte| {
        lines += usize::from(byte == b'\n');
        true
    });
    lines
}

/// Gives the bytes of a file to `each`, until it says `false`. No byte when it cannot be read.
fn read(path: &CStr, mut each: impl FnMut(u8) -> bool) {
    // SAFETY: a string that ends with 0.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return;
    }
    let mut buffer = [0u8; 512];
    loop {
        // SAFETY: room for so many bytes.
        let len = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        let len = usize::try_from(len).unwrap_or(0);
        if len == 0 || !buffer[..len].iter().all(|byte| each(*byte)) {
            break;
        }
    }
    // SAFETY: our descriptor, closed once.
    unsafe { libc::close(file) };
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    const NONE_MET: Figures = Figures {
        mappings: 100,
        max_mappings: 65530,
        address_bytes: 1 << 30,
        max_address_bytes: usize::MAX,
        data_bytes: 1 << 20,
        max_data_bytes: usize::MAX,
        committed_bytes: 1 << 32,
        max_committed_bytes: usize::MAX,
    };

    #[test]
    fn the_limit_is_the_one_that_the_wanted_bytes_exceed() {
        let met = |change: fn(&mut Figures), address, writable| {
            let mut figures = NONE_MET;
            change(&mut figures);
            figures.met_by(address, writable)
        };
        assert_eq!(met(|_| (), 1 << 40, 1 << 40), KernelLimit::Unknown);
        let met_address = met(|f| f.max_address_bytes = 2 << 30, (1 << 30) + 1, 0);
        assert_eq!(
            met_address.to_string(),
            "1073741824 bytes of address space in use, RLIMIT_AS is 2147483648: \
             raise that (ulimit -v), or ask for fewer or smaller stacks and memories"
        );
        assert_eq!(
            met(|f| f.max_address_bytes = 2 << 30, 1 << 30, 0),
            KernelLimit::Unknown
        );
        let met_data = met(|f| f.max_data_bytes = 2 << 20, 0, 2 << 20);
        assert_eq!(
            met_data.to_string(),
            "1048576 bytes of writable memory in use, RLIMIT_DATA is 2097152: \
             raise that (ulimit -d), or ask for fewer or smaller stacks and memories"
        );
        assert_eq!(
            met(|f| f.max_data_bytes = 2 << 20, 1 << 40, 0),
            KernelLimit::Unknown
        );
        let met_committed = met(|f| f.max_committed_bytes = 5 << 30, 0, 2 << 30);
        assert_eq!(
            met_committed.to_string(),
            "4294967296 bytes promised, vm.overcommit_memory is 2 and CommitLimit 5368709120: \
             ask for fewer or smaller stacks and memories, or raise vm.overcommit_ratio"
        );
        let met_mappings = met(|f| f.mappings = 65529, 0, 0);
        assert_eq!(
            met_mappings.to_string(),
            "65529 mappings in use, vm.max_map_count is 65530: \
             raise that (sysctl), or ask for fewer stacks and memories"
        );
        assert_eq!(met(|f| f.mappings = 65528, 0, 0), KernelLimit::Unknown);
    }

    #[test]
    fn the_figures_of_this_process_are_read() {
        let figures = Figures::read();
        assert!((10..100_000).contains(&figures.mappings), "{}", figures.mappings);
        assert!((1000..usize::MAX).contains(&figures.max_mappings));
        assert!(figures.address_bytes > figures.data_bytes && figures.data_bytes > 4096);
        assert!(figures.committed_bytes > 1 << 20);
        assert_eq!(
            number(c"/proc/self/status", b"Pid:"),
            Some(std::process::id() as usize)
        );
        assert_eq!(number(c"/proc/self/status", b"NoSuchKey:"), None);
        assert_eq!(number(c"/no/such/file", b""), None);
    }
}
