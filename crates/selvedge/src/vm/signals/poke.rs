//! The signal that makes a guest look whether it has to stop ([`crate::vm::interrupt`]).
//!
//! SIGURG: nobody minds one too many, and its default action is to be ignored. It is sent to one thread. The handler stops the
//! guest only between two instructions of its own code, where the stack pointer names the store; anywhere else it
//! does nothing, and whoever asked sends another. Ours carry a value that nobody else's has; all others go to the handler that was there
//! before. The kernel keeps one of a kind pending: another's that comes while one of ours is pending is lost with it.
//!
//! The invariants are those of [`super`], whose first one holds here as well.

use super::{Fault, call, change_action, code, default_action, leave_guest, registers, slot_of};
use crate::error::{Error, Result};
use crate::vm::interrupt;
use crate::vm::store::VMStoreContext;
use libc::{c_int, c_void};
use selvedge_compiler::TrapCode;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

const POKE: c_int = libc::SIGURG;
/// `si_code` of a signal that carries a value: include/uapi/asm-generic/siginfo.h.
const SI_QUEUE: c_int = -1;

/// Its address is the value that our signals carry.
static OURS: u8 = 0;

/// A `siginfo_t` with a value, on 64-bit Linux: include/uapi/asm-generic/siginfo.h.
#[repr(C)]
struct QueuedInfo {
    signal: c_int,
    errno: c_int,
    code: c_int,
    _padding: c_int,
    process: libc::pid_t,
    user: libc::uid_t,
    value: *const u8,
    _rest: [u64; 12],
}

const _: () = assert!(size_of::<QueuedInfo>() == size_of::<libc::siginfo_t>());

/// What handled the signal before: null, or the address of a leaked `sigaction`.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Installs the handler, once a process.
///
/// # Errors
/// When the kernel refuses; the next call tries again.
pub(crate) fn install_poke() -> Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed {
        install()
            .map_err(|error| Error::new(error).context("cannot install the handler that stops guests"))?;
        *installed = true;
    }
    Ok(())
}

fn install() -> io::Result<()> {
    let before = change_action(POKE, None)?;
    PREVIOUS.store(Box::leak(Box::new(before)), Ordering::Release);
    let mut ours = default_action();
    ours.sa_sigaction = handle as *const () as usize;
    // SA_RESTART: host functions whose system calls it meets go on with them.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    change_action(POKE, Some(&ours))?;
    Ok(())
}

/// Makes the guest on a thread look. A thread that is gone, or runs no guest, is no harm.
pub(crate) fn poke(thread: i32) {
    let process = std::process::id() as libc::pid_t;
    let info = QueuedInfo {
        signal: POKE,
        errno: 0,
        code: SI_QUEUE,
        _padding: 0,
        process,
        user: 0,
        value: &raw const OURS,
        _rest: [0; 12],
    };
    // SAFETY: rt_tgsigqueueinfo(2) reads a `siginfo_t`, which this is; the signal has a handler, which is ready for it at any time.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            process,
            thread,
            POKE,
            &raw const info,
        )
    };
    if sent != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH) {
        // A filter of system calls may not know it. Without a value it counts as others' signal too.
        // SAFETY: takes integers: tgkill(2); else as above.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, POKE) };
    }
}

/// Whether a signal is one of [`poke`]'s.
fn is_ours(info: &libc::siginfo_t) -> bool {
    // SAFETY: a signal with this code carries a value.
    info.si_code == SI_QUEUE && unsafe { info.si_value() }.sival_ptr.cast_const() == (&raw const OURS).cast()
}

/// The handler.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid `siginfo_t`, for as long as the handler runs.
    let info_ref = unsafe { &*info };
    // SAFETY: with SA_SIGINFO the third argument is a `ucontext_t` that is ours until we return.
    let context_ref = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let fault = Fault {
        signal,
        code: info_ref.si_code,
        address: 0,
        registers: registers(context_ref),
    };
    if !is_ours(info_ref) {
        chain(signal, info, context);
    }
    // Whoever sent it: one of ours may have met another that was pending, and be lost for it.
    let Some(mut store) = guest(&fault) else {
        return;
    };
    // SAFETY: the guest that this thread runs was interrupted in guest code.
    if unsafe { interrupt::must_stop(store.as_ptr()) } {
        // SAFETY: invariant 2 of `super`; the guest that may touch the store's context is interrupted.
        let store = unsafe { store.as_mut() };
        leave_guest(store, TrapCode::Interrupt, &fault, context_ref);
    }
}

/// Hands a signal on to the handler that was there before.
fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: null, or leaked by `install`.
    let previous = unsafe { previous.as_ref() };
    let is_function = |action: &&libc::sigaction| {
        action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
    };
    if let Some(action) = previous.filter(is_function) {
        call(action, signal, info, context);
    }
}

/// The store whose guest's own code was interrupted.
fn guest(fault: &Fault) -> Option<NonNull<VMStoreContext>> {
    let slot = slot_of(fault.registers.sp)?;
    let owner = NonNull::new(slot.owner())?;
    code::is_guest_code(fault.registers.pc).then(|| owner.cast())
}
