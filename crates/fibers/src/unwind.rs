//! What happens at the base of a fiber when Rust code there returns or panics, and how a fiber is made to unwind.

use core::mem::ManuallyDrop;

use crate::arch;
use crate::hooks;
#[cfg(feature = "unwind")]
use crate::value::decode;
use crate::value::encode;

/// What stands for a stack pointer when a fiber has returned, and when it has panicked.
pub(crate) const RETURNED: usize = 0;
pub(crate) const PANICKED: usize = 1;

/// The payload of the panic that unwinds a fiber which is dropped, or told to by
/// [`Fiber::force_unwind`](crate::Fiber::force_unwind).
///
/// Code that catches panics in a fiber can tell it from others by this type, and has to resume it. The
/// panic hook is not called for it.
#[derive(Debug)]
pub struct ForcedUnwind(());

/// Why a fiber did not return a value.
#[cfg(feature = "unwind")]
pub(crate) type Payload = std::boxed::Box<dyn core::any::Any + Send>;
#[cfg(not(feature = "unwind"))]
pub(crate) type Payload = core::convert::Infallible;

/// Whether a fiber with frames can be unwound.
pub(crate) const CAN_UNWIND: bool = cfg!(all(feature = "unwind", panic = "unwind"));

/// Runs the last function of a fiber and goes back to the parent with what became of it.
///
/// # Safety
/// This runs at the base of the fiber whose link is `link`, and no frame between needs dropping.
#[inline(always)]
pub(crate) unsafe fn run_to_end<R>(link: usize, body: impl FnOnce() -> R) -> ! {
    let result = catch(body);
    // SAFETY: the caller's promise: the fiber noted its parent when it was resumed.
    unsafe { hooks::about_to_finish(link) };
    match result {
        Ok(value) => {
            let value = ManuallyDrop::new(value);
            // SAFETY: the caller's promise. The value stays on the stack, which the parent keeps until it has read it.
            unsafe { arch::switch_and_finish(encode(&value), link, RETURNED) }
        }
        Err(payload) => {
            let payload = ManuallyDrop::new(payload);
            // SAFETY: as above.
            unsafe { arch::switch_and_finish(encode(&payload), link, PANICKED) }
        }
    }
}

#[cfg(feature = "unwind")]
#[inline(always)]
pub(crate) fn catch<R>(body: impl FnOnce() -> R) -> Result<R, Payload> {
    // Whatever the panic has broken, the resumer sees the panic too.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body))
}

/// Without unwinding a panic ends in the `extern` function at the fiber's base, which aborts.
#[cfg(not(feature = "unwind"))]
#[inline(always)]
pub(crate) fn catch<R>(body: impl FnOnce() -> R) -> Result<R, Payload> {
    Ok(body())
}

/// A payload in a word that needs no stack.
#[cfg(feature = "unwind")]
pub(crate) fn pack(payload: Payload) -> *mut Payload {
    std::boxed::Box::into_raw(std::boxed::Box::new(payload))
}

/// Nothing is caught without the feature.
#[cfg(not(feature = "unwind"))]
pub(crate) fn pack(payload: Payload) -> *mut Payload {
    match payload {}
}

/// Goes on with a packed panic.
///
/// # Safety
/// `packed` came from [`pack`], and is used once.
#[cold]
#[inline(never)]
#[cfg(feature = "unwind")]
pub(crate) unsafe fn resume_packed(packed: *mut Payload) -> ! {
    // SAFETY: the caller's promise.
    std::panic::resume_unwind(*unsafe { std::boxed::Box::from_raw(packed) })
}

/// Nothing is caught without the feature.
///
/// # Safety
/// None.
#[cfg(not(feature = "unwind"))]
pub(crate) unsafe fn resume_packed(_: *mut Payload) -> ! {
    die("a call on another stack has panicked, which it cannot")
}

/// Goes on with the panic of a fiber, in its resumer.
///
/// # Safety
/// `word` came with [`PANICKED`], just now.
#[cold]
#[inline(never)]
#[cfg(feature = "unwind")]
pub(crate) unsafe fn resume_panic(word: arch::Word) -> ! {
    // SAFETY: the caller's promise.
    std::panic::resume_unwind(unsafe { decode::<Payload>(word) })
}

/// Nothing panics past a fiber's base without the feature.
///
/// # Safety
/// None.
#[cfg(not(feature = "unwind"))]
pub(crate) unsafe fn resume_panic(_: arch::Word) -> ! {
    die("a fiber has panicked, which it cannot")
}

/// The same for a fiber that was told to unwind: returns when that is all that happened.
///
/// # Safety
/// As for [`resume_panic`].
#[cfg(feature = "unwind")]
pub(crate) unsafe fn resume_other_panic(word: arch::Word) {
    // SAFETY: the caller's promise.
    let payload = unsafe { decode::<Payload>(word) };
    if !payload.is::<ForcedUnwind>() {
        std::panic::resume_unwind(payload);
    }
}

/// Nothing is unwound without the feature.
///
/// # Safety
/// None.
#[cfg(not(feature = "unwind"))]
pub(crate) unsafe fn resume_other_panic(_: arch::Word) {}

/// Drops a value while a fiber is being unwound, which must go on.
pub(crate) fn drop_or_die<T>(value: T) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            die("what a fiber suspended with while it was unwound has panicked in its drop");
        }
    }
    let bomb = Bomb;
    drop(value);
    core::mem::forget(bomb);
}

/// Unwinds the running fiber, because it was told to.
// Inlined: one frame less to unwind, which is a tenth of the time.
#[inline(always)]
pub(crate) fn throw() -> ! {
    #[cfg(feature = "unwind")]
    std::panic::resume_unwind(std::boxed::Box::new(ForcedUnwind(())));
    #[cfg(not(feature = "unwind"))]
    die("a fiber was told to unwind, which it cannot");
}

/// Says why, and aborts.
#[cold]
#[inline(never)]
pub(crate) fn die(why: &str) -> ! {
    for text in ["fibers: ", why, "\n"] {
        // SAFETY: a valid range; what became of the write does not matter.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}
