//! The signal that makes a guest look whether it has to stop ([`crate::vm::interrupt`]).
//!
//! SIGURG: nobody minds one too many, and its default action is to be ignored. It is sent to one thread. The handler stops the
//! guest only between two instructions of its own code, where the stack pointer names the store; anywhere else it
//! does nothing, and whoever asked sends another. Signals that are not ours go to the handler that was there before.
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
/// `si_code` of a signal sent by tgkill(2): include/uapi/asm-generic/siginfo.h.
const SI_TKILL: c_int = -6;

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
    // SAFETY: takes integers: tgkill(2); the signal has a handler, which is ready for it at any time.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, POKE) };
}

/// The handler.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid `siginfo_t`, for as long as the handler runs.
    let code = unsafe { (*info).si_code };
    // SAFETY: with SA_SIGINFO the third argument is a `ucontext_t` that is ours until we return.
    let context_ref = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let fault = Fault {
        signal,
        code,
        address: 0,
        registers: registers(context_ref),
    };
    if let Some(mut store) = guest(&fault) {
        // SAFETY: the guest that this thread runs was interrupted in guest code.
        if unsafe { interrupt::must_stop(store.as_ptr()) } {
            // SAFETY: invariant 2 of `super`; the guest that may touch the store's context is interrupted.
            leave_guest(
                unsafe { store.as_mut() },
                TrapCode::Interrupt,
                &fault,
                context_ref,
            );
        }
    } else if code != SI_TKILL {
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
}

/// The store whose guest's own code was interrupted.
fn guest(fault: &Fault) -> Option<NonNull<VMStoreContext>> {
    let slot = slot_of(fault.registers.sp)?;
    let owner = NonNull::new(slot.owner())?;
    code::is_guest_code(fault.registers.pc).then(|| owner.cast())
}
