//! How deep the host's stack may get before a guest is entered, whatever nests in whatever.
//!
//! The bound of a store (`max_host_stack_bytes`) does not see other stores: a host function that makes a store and calls into
//! it, without end, nests in none of them. So each thread knows its *floor*: the lowest stack pointer at which it
//! enters a guest. It is learnt once a thread, together with the alternate signal stack that entering needs, so
//! that the way of a call compares one word for both.
//!
//! A stack that the host made, of a fiber of its own, is not known here: on one, the bound of the store is the only one.

use super::signals;
use crate::error::{Error, Result};
use crate::trap::Trap;
use std::cell::Cell;
use std::mem::MaybeUninit;

/// Bytes that stay free below the floor, for host functions: a quarter of the stack where that is less.
const FLOOR_BYTES: usize = 128 << 10;

/// No stack pointer is above it: the thread has to be prepared.
const UNKNOWN: usize = usize::MAX;

thread_local! {
    static FLOOR: Cell<usize> = const { Cell::new(UNKNOWN) };
    /// The thread's own stack, lowest and highest address; empty where the C library does not know it.
    static BOUNDS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Whether this thread is prepared, and not too deep. Else [`check`] knows more.
#[inline(always)]
pub(crate) fn has_room(sp: usize) -> bool {
    sp >= FLOOR.get()
}

/// Sees to it that this thread can enter a guest with its stack pointer at `sp`.
///
/// # Errors
/// [`Trap::StackOverflow`] below the floor; what [`signals::ensure_alternate_stack`] says, on the first call of a thread.
#[inline]
pub(crate) fn check(sp: usize) -> Result<()> {
    if has_room(sp) { Ok(()) } else { check_slowly(sp) }
}

#[cold]
fn check_slowly(sp: usize) -> Result<()> {
    if FLOOR.get() == UNKNOWN {
        signals::ensure_alternate_stack()?;
        let (low, high) = own_stack().unwrap_or((0, 0));
        BOUNDS.set((low, high));
        FLOOR.set(low + FLOOR_BYTES.min((high - low) / 4));
    }
    // Lower than the thread's own stack lies another one, of a fiber of the host's: where that ends is not known.
    if sp >= FLOOR.get() || sp < BOUNDS.get().0 {
        return Ok(());
    }
    Err(Error::from(Trap::StackOverflow))
}

/// Whether an address lies in this thread's own stack. Asked after a [`check`].
pub(crate) fn is_own(address: usize) -> bool {
    let (low, high) = BOUNDS.get();
    (low..high).contains(&address)
}

/// The thread's alternate stack is gone: it has to be prepared again.
pub(crate) fn forget() {
    FLOOR.set(UNKNOWN);
}

/// The bounds of this thread's stack. Source: pthread_getattr_np(3).
fn own_stack() -> Option<(usize, usize)> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: asks for the calling thread itself.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: `attributes` is written when the call succeeds.
    if unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut low, mut bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: initialised by the call above.
    let result = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut bytes) };
    // SAFETY: as above; not used after.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    (result == 0).then_some((low as usize, low as usize + bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::arch;

    #[test]
    fn the_own_stack_is_known_and_has_a_floor() {
        let run = || {
            let sp = arch::stack_pointer();
            check(sp).expect("there is room");
            assert!(is_own(sp));
            let (low, high) = BOUNDS.get();
            assert!(
                (256 << 10..=(256 << 10) + 8192).contains(&(high - low)),
                "{} bytes",
                high - low
            );
            assert!(check(low + 1000).is_err(), "near the end of the stack");
            assert!(check(low - 1000).is_ok(), "on another stack");
        };
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(run);
        thread.expect("a thread").join().expect("no panic");
    }
}
