//! How much memory stacks have, and giving it back.

use core::ptr::NonNull;

use super::advise::Ranges;
use super::list::Handful;
use super::magazine;
use super::region::{HEADER_BYTES, SlotHeader};
use crate::stack::{PAGE_BYTES, whole_pages};

/// Gives what lies deeper than `keep_bytes` in these stacks back to the kernel: all but the page with the header.
///
/// The stacks are free, and in the hands of this thread.
pub(super) fn trim(slots: &Handful, keep_bytes: usize) {
    let mut ranges = Ranges::<{ magazine::MOST }>::new();
    for (start, end) in slots.iter().filter_map(|slot| deeper_than(slot, keep_bytes)) {
        ranges.push(start, end - start);
    }
    let mut done = 0;
    while done < ranges.len() {
        // SAFETY: whole pages of free stacks that this thread has (invariant 2 of the pool), without their headers.
        done += unsafe { ranges.advise(done, libc::MADV_DONTNEED) };
        done += 1; // locked memory does not go back, and that is what its owner wants
    }
}

/// Where what lies deeper than `keep_bytes` begins and ends, if that is anything.
fn deeper_than(slot: NonNull<SlotHeader>, keep_bytes: usize) -> Option<(usize, usize)> {
    let keep = whole_pages(keep_bytes.max(PAGE_BYTES))?;
    let end = (slot.as_ptr() as usize + HEADER_BYTES).checked_sub(keep)?;
    // SAFETY: headers are always valid (invariant 1 of the pool).
    let start = unsafe { slot.as_ref() }.guard_end();
    (start < end).then_some((start, end))
}

/// How many bytes from `start` on are resident. Cost: 4 ns a page (`mincore(2)`).
pub(super) fn resident_bytes(start: usize, bytes: usize) -> usize {
    const PAGES_A_CALL: usize = 1024;
    let mut flags = [0u8; PAGES_A_CALL];
    let mut resident = 0;
    for at in (start..start + bytes).step_by(PAGES_A_CALL * PAGE_BYTES) {
        let len = (start + bytes - at).min(PAGES_A_CALL * PAGE_BYTES);
        // SAFETY: there is a flag for each page; the kernel looks at the range and changes nothing.
        if unsafe { libc::mincore(at as *mut _, len, flags.as_mut_ptr()) } == 0 {
            let pages = flags[..len / PAGE_BYTES].iter().filter(|flags| **flags & 1 == 1);
            resident += pages.count() * PAGE_BYTES;
        }
    }
    resident
}
