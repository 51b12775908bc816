//! Telling AddressSanitizer and ThreadSanitizer of each switch.
//!
//! Which of them is linked in is not known to stable Rust (`cfg(sanitize)`), so their functions are looked for with weak
//! references: a table of addresses, of which those that nobody defines are 0.
//!
//! - AddressSanitizer has a pointer to the bounds of the running stack, so that a panic can clear the marks on the
//!   frames that it leaves; and, with `detect_stack_use_after_return`, a second stack on the heap for each stack, where
//!   locals lie that are referred to. The resumer reads a result out of such a local after the fiber has finished: so
//!   the second stack is freed with the [`Announced`], by telling of a switch to the fiber that does not happen.
//! - ThreadSanitizer takes a fiber for a thread of its own, and a switch for a synchronisation.
//!   It keeps a list of calls for each. Where a fiber inside parks the outer one too, a call may be noted in one list and its return
//!   in the other; a list that more returns than calls were noted in is written to below its start, and ThreadSanitizer crashes.
//!   Seen where a fiber inside borrows a team member's stack and transfers; nothing is done about it.
//!
//! Calls between telling and switching must not be: the inlined code does both.

use core::ffi::c_void;
use core::ptr::null_mut;

use crate::arch::LINK_OFFSET;

// A weak definition, as two versions of this crate may be linked into one program.
core::arch::global_asm!(
    ".pushsection .data.rel.ro.selvedge_fibers_tools, \"aw\"",
    ".balign 8",
    ".weak selvedge_fibers_tools",
    ".hidden selvedge_fibers_tools",
    "selvedge_fibers_tools:",
    ".weak __sanitizer_start_switch_fiber",
    ".8byte __sanitizer_start_switch_fiber",
    ".weak __sanitizer_finish_switch_fiber",
    ".8byte __sanitizer_finish_switch_fiber",
    ".weak __asan_unpoison_memory_region",
    ".8byte __asan_unpoison_memory_region",
    ".weak __tsan_get_current_fiber",
    ".8byte __tsan_get_current_fiber",
    ".weak __tsan_create_fiber",
    ".8byte __tsan_create_fiber",
    ".weak __tsan_destroy_fiber",
    ".8byte __tsan_destroy_fiber",
    ".weak __tsan_switch_to_fiber",
    ".8byte __tsan_switch_to_fiber",
    ".popsection",
);

/// What the weak references lead to (compiler-rt: sanitizer/common_interface_defs.h, asan_interface.h, tsan_interface.h).
#[repr(C)]
struct Tools {
    start_switch: Option<unsafe extern "C" fn(*mut *mut c_void, *const c_void, usize)>,
    finish_switch: Option<unsafe extern "C" fn(*mut c_void, *mut *const c_void, *mut usize)>,
    unpoison: Option<unsafe extern "C" fn(*const c_void, usize)>,
    current_fiber: Option<unsafe extern "C" fn() -> *mut c_void>,
    create_fiber: Option<unsafe extern "C" fn(u32) -> *mut c_void>,
    destroy_fiber: Option<unsafe extern "C" fn(*mut c_void)>,
    switch_to_fiber: Option<unsafe extern "C" fn(*mut c_void, u32)>,
}

unsafe extern "C" {
    #[link_name = "selvedge_fibers_tools"]
    safe static TOOLS: Tools;
}

/// Where a stack lies that can be switched to; for a fiber's parent, also which thread ThreadSanitizer takes it for.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    limit: *const c_void,
    bytes: usize,
    thread: *mut c_void,
}

/// What has to be given back when the side that leaves goes on.
pub(crate) struct Left {
    /// AddressSanitizer's second stack of this side.
    second_stack: *mut c_void,
}

/// What a fiber keeps above its base.
#[repr(C, align(16))]
struct Note {
    parent: Bounds,
    /// What ThreadSanitizer takes the fiber for.
    thread: *mut c_void,
    /// The second stack of a fiber that has finished.
    second_stack: *mut c_void,
}

/// Bytes at the top of a fiber's stack that its base lies below; a multiple of 16.
pub(crate) const NOTE_BYTES: usize = size_of::<Note>();

/// The note of the fiber with this link.
#[inline(always)] // as all that runs between telling and switching
fn note_of(link: usize) -> *mut Note {
    (link + LINK_OFFSET) as *mut Note
}

impl Bounds {
    /// The stack from `limit` to `base`.
    #[inline(always)]
    pub(crate) fn new(base: usize, limit: usize) -> Bounds {
        Bounds {
            limit: limit as *const c_void,
            bytes: base - limit,
            thread: null_mut(),
        }
    }
}

impl Left {
    /// For a stack that runs for the first time.
    pub(crate) const NOTHING: Left = Left {
        second_stack: null_mut(),
    };
}

/// A stack that a fiber is on.
pub(crate) struct Announced {
    base: usize,
    limit: usize,
    thread: *mut c_void,
}

impl Announced {
    pub(crate) fn new(base: usize, limit: usize) -> Announced {
        clear_marks(base, limit);
        let note = (base - NOTE_BYTES) as *mut Note;
        // SAFETY: the note is this fiber's, as nothing of it lies above its base.
        unsafe { (*note).second_stack = null_mut() };
        // SAFETY: no preconditions.
        let thread = TOOLS
            .create_fiber
            .map_or(null_mut(), |create| unsafe { create(0) });
        // SAFETY: as for the second stack.
        unsafe { (*note).thread = thread };
        Announced { base, limit, thread }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let note = (self.base - NOTE_BYTES) as *mut Note;
        // SAFETY: written in `new`, and the stack is still the fiber's.
        let second_stack = unsafe { (*note).second_stack };
        if !second_stack.is_null() {
            self.free_second_stack(second_stack);
        }
        if let Some(destroy) = TOOLS.destroy_fiber {
            // SAFETY: made in `new`; the fiber does not run.
            unsafe { destroy(self.thread) };
        }
    }
}

impl Announced {
    #[cold]
    fn free_second_stack(&self, second_stack: *mut c_void) {
        let fiber = Bounds {
            limit: self.limit as *const c_void,
            bytes: self.base - self.limit,
            thread: null_mut(),
        };
        let ours = about_to_call(&fiber, true);
        // We are told to be on the fiber; and go back for good: that frees the second stack.
        let parent = switched(Left { second_stack });
        about_to_call(&parent, false);
        switched(ours);
    }
}

/// Forgets the marks that abandoned frames have left. Async-signal-safe.
pub(crate) fn clear_marks(base: usize, limit: usize) {
    if let Some(unpoison) = TOOLS.unpoison {
        // SAFETY: a stack's own addresses; the guard is not touched, its marks are elsewhere.
        unsafe { unpoison(limit as *const c_void, base - limit) };
    }
}

#[inline(always)]
fn switch_thread(to: *mut c_void) {
    if let Some(switch) = TOOLS.switch_to_fiber {
        // SAFETY: the thread of a fiber that is parked, or of its parent; 0: a switch synchronises.
        unsafe { switch(to, 0) };
    }
}

/// Control is about to leave for the fiber with this link, parked on the stack `to`.
///
/// # Safety
/// The fiber is parked, and was announced.
#[inline(always)]
pub(crate) unsafe fn about_to_resume(to: &Bounds, link: usize) -> Left {
    let note = note_of(link);
    // SAFETY: no preconditions.
    let resumer = TOOLS
        .current_fiber
        .map_or(null_mut(), |current| unsafe { current() });
    // SAFETY: the caller's promise: the note is the fiber's, which does not run.
    unsafe { (*note).parent.thread = resumer };
    // SAFETY: as above; `Announced::new` wrote it.
    let thread = unsafe { (*note).thread };
    let left = about_to_call(to, true);
    switch_thread(thread);
    left
}

/// Control is about to leave the fiber with the link `from` for the one with this link, which then has the first one's parent.
///
/// # Safety
/// As for [`about_to_resume`]; the first runs, and noted its parent.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) unsafe fn about_to_transfer(to: &Bounds, from: usize, link: usize) -> Left {
    // SAFETY: the caller's promise.
    let parent = unsafe { (*note_of(from)).parent.thread };
    let note = note_of(link);
    // SAFETY: as above.
    unsafe { (*note).parent.thread = parent };
    // SAFETY: as above.
    let thread = unsafe { (*note).thread };
    let left = about_to_call(to, true);
    switch_thread(thread);
    left
}

/// Control is about to leave a fiber for its parent `to`.
#[inline(always)]
pub(crate) fn about_to_suspend(to: &Bounds) -> Left {
    let left = about_to_call(to, true);
    switch_thread(to.thread);
    left
}

/// Control is about to leave for the stack `to`, in the same fiber; unless it `comes_back`, the running stack is finished.
#[inline(always)]
pub(crate) fn about_to_call(to: &Bounds, comes_back: bool) -> Left {
    let mut left = Left::NOTHING;
    if let Some(start) = TOOLS.start_switch {
        let second_stack = if comes_back {
            &raw mut left.second_stack
        } else {
            null_mut()
        };
        // SAFETY: the bounds of a stack.
        unsafe { start(second_stack, to.limit, to.bytes) };
    }
    left
}

/// Control is about to leave the fiber with this link for the last time.
///
/// # Safety
/// The fiber runs, and noted its parent.
#[inline(always)]
pub(crate) unsafe fn about_to_finish(link: usize) {
    // SAFETY: the caller's promise.
    let parent = unsafe { parent_of(link) };
    let left = about_to_suspend(&parent);
    // SAFETY: as above; the note is the fiber's.
    unsafe { (*note_of(link)).second_stack = left.second_stack };
}

/// Control has come to this stack, which `left` before. Returns the bounds of the stack it came from.
#[inline(always)]
pub(crate) fn switched(left: Left) -> Bounds {
    let mut from = Bounds {
        limit: core::ptr::null(),
        bytes: 0,
        thread: null_mut(),
    };
    if let Some(finish) = TOOLS.finish_switch {
        // SAFETY: what `about_to_call` gave when this side was left.
        unsafe { finish(left.second_stack, &mut from.limit, &mut from.bytes) };
    }
    from
}

/// Keeps the bounds of the parent of the fiber with this link. Its thread was noted by who resumed.
///
/// # Safety
/// The fiber runs, and [`NOTE_BYTES`] above its base are its own.
#[inline(always)]
pub(crate) unsafe fn note_parent(link: usize, parent: Bounds) {
    let note = note_of(link);
    // SAFETY: the caller's promise.
    unsafe { (*note).parent.limit = parent.limit };
    // SAFETY: as above.
    unsafe { (*note).parent.bytes = parent.bytes };
}

/// What was noted.
///
/// # Safety
/// As for [`note_parent`], and something was noted.
#[inline(always)]
pub(crate) unsafe fn parent_of(link: usize) -> Bounds {
    // SAFETY: the caller's promise.
    unsafe { (*note_of(link)).parent }
}
