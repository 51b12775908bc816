//! Hardware faults of guests, told apart from everybody else's.
//!
//! One handler serves SIGSEGV, SIGBUS, SIGFPE and SIGILL, on an alternate stack: a guest that ran out of stack has none
//! left. It asks, in this order:
//!
//! ```text
//!   the stack pointer lies in a slot of the stack pool that has an owner?  -> the store that runs here
//!   the program counter lies in guest code or in our trampolines?
//!   the address lies in the slot's guard                                   -> stack overflow
//!   the instruction is a fault site, the address in the store's memories   -> the site's trap
//!   the instruction is a fault site of a null, the address next to 0         -> the site's trap
//!   SIGFPE, SIGILL: the instruction is a fault site                        -> the site's trap
//!   anything else                                                          -> the handler that was there before
//! ```
//!
//! A trap is written into the store, and the handler returns into a trampoline at the base of the activation, which
//! goes to the host by the parent link. Nothing is unwound: the guest's frames are simply left.
//!
//! Invariants
//! 1. On the way to a trap the handler takes no lock, allocates nothing, makes no system call and touches no
//!    thread-local. All it reads are statics, the slot's header, the store, and a module that the store keeps alive.
//! 2. A slot that a guest runs on has that guest's store, a [`VMStoreContext`], for its owner. One that nobody runs on may have the store that it
//!    served last ([`super::guest_stack`]), which may be gone: no stack pointer leads there.
//! 3. An entry of `PREVIOUS` is null or the address of a leaked `sigaction`, set before our handler is installed.
//!
//! The previous handler is called as the kernel would have called it (its mask, `SA_SIGINFO`, `SA_RESETHAND`), but for
//! one thing: without `SA_ONSTACK` it would run on the interrupted stack, and here runs on the alternate one.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod poke;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
use aarch64::{Registers, registers};
#[cfg(target_arch = "x86_64")]
use x86_64::{Registers, registers};

pub(crate) use poke::{install_poke, poke};

use super::store::VMStoreContext;
use super::{arch, code};
use crate::error::{Context, Error, Result};
use fibers::pool::{SlotHeader, slot_of};
use libc::{c_int, c_void};
use selvedge_compiler::TrapCode;
use std::cell::{Cell, OnceCell};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

const SIGNALS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
/// What handled `SIGNALS` before (invariant 3); null stands for the default action.
static PREVIOUS: [AtomicPtr<libc::sigaction>; 4] = [const { AtomicPtr::new(ptr::null_mut()) }; 4];

/// `si_code` of a signal without an address of its own: include/uapi/asm-generic/siginfo.h. Codes above 0 are the
/// kernel's, those up to 0 come from processes.
const SI_KERNEL: c_int = 0x80;

const NO_ROOM: &[u8] =
    b"selvedge: a signal could not be delivered: its handler was installed without SA_ONSTACK \
    and did not fit onto the guest's stack\n";

/// Installs the handler, once a process.
///
/// # Errors
/// When the kernel refuses; the next call goes on where this one stopped.
pub(crate) fn install() -> Result<()> {
    /// How many of `SIGNALS` have the handler. None gets it twice: it would hand on to itself.
    static INSTALLED: Mutex<usize> = Mutex::new(0);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    while *installed < SIGNALS.len() {
        install_one(*installed)
            .map_err(|error| Error::new(error).context("cannot install the handlers of guest faults"))?;
        *installed += 1;
    }
    Ok(())
}

fn install_one(index: usize) -> io::Result<()> {
    let (signal, slot) = (SIGNALS[index], &PREVIOUS[index]);
    let before = change_action(signal, None)?;
    slot.store(Box::leak(Box::new(before)), Ordering::Release); // invariant 3
    let mut ours = default_action();
    ours.sa_sigaction = handle as *const () as usize;
    // SA_NODEFER: a fault within is not held back, which would kill the process unseen by the handler before us.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    let replaced = change_action(signal, Some(&ours))?;
    if replaced.sa_sigaction != before.sa_sigaction {
        slot.store(Box::leak(Box::new(replaced)), Ordering::Release); // another thread came in between
    }
    Ok(())
}

/// Sets a signal's action, if one is given, and gives the one before.
fn change_action(signal: c_int, action: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::uninit();
    let action = action.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both pointers are valid or null; our handler keeps to what a handler may do (invariant 1), and hands on.
    let result = unsafe { libc::sigaction(signal, action, before.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it wrote the action before.
    Ok(unsafe { before.assume_init() })
}

/// `SIG_DFL` without flags, with an empty mask.
fn default_action() -> libc::sigaction {
    // SAFETY: integers and an optional function pointer; `SIG_DFL` is 0 and so is an empty mask on Linux.
    unsafe { std::mem::zeroed() }
}

/// The handler of all four signals.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's arguments, on the alternate stack.
    if let Err(fault) = unsafe { try_handle(signal, info, context) } {
        chain(&fault, info, context);
    }
}

/// For an embedder with handlers of its own ([`Config::signal_handlers`](crate::Config::signal_handlers)): if the signal is a
/// guest's fault, makes the handler return into the host, to whoever called the guest, and says so. The handler has to return
/// at once then. Otherwise nothing has changed.
///
/// Takes no lock, allocates nothing, makes no system call and touches no thread-local.
///
/// # Safety
/// Called by a handler of SIGSEGV, SIGBUS, SIGFPE or SIGILL that was installed with SA_SIGINFO and SA_ONSTACK, in the thread that was
/// interrupted, with the handler's own arguments.
pub unsafe fn handle_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe { try_handle(signal, info, context) }.is_ok()
}

/// Handles a guest's fault; gives back what is none.
///
/// # Safety
/// As for [`handle_signal`].
unsafe fn try_handle(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) -> std::result::Result<(), Fault> {
    // SAFETY: the kernel gives a valid `siginfo_t`, for as long as the handler runs.
    let info_ref = unsafe { &*info };
    // SAFETY: the four signals have an address.
    let address = unsafe { info_ref.si_addr() }.addr();
    // SAFETY: with SA_SIGINFO the third argument is a `ucontext_t` that is ours until we return.
    let context_ref = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let fault = Fault {
        signal,
        code: info_ref.si_code,
        address,
        registers: registers(context_ref),
    };
    match judge(&fault) {
        Verdict::Trap(store, trap) => {
            // SAFETY: invariant 2; the guest that may touch the store's context is this thread's, interrupted.
            let store = unsafe { &mut *store.as_ptr() };
            leave_guest(store, trap, &fault, context_ref);
            Ok(())
        }
        Verdict::NoRoomForSignal => {
            // SAFETY: a plain write of a constant; `write` may be called in a handler.
            unsafe { libc::write(libc::STDERR_FILENO, NO_ROOM.as_ptr().cast(), NO_ROOM.len()) };
            Err(fault)
        }
        Verdict::NotOurs => Err(fault),
    }
}

/// What the kernel said about a signal.
#[derive(Debug, Clone, Copy)]
struct Fault {
    signal: c_int,
    /// `si_code`.
    code: c_int,
    /// `si_addr`; meaningless where `code` is not positive.
    address: usize,
    registers: Registers,
}

/// Whose a fault is.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The guest of this store trapped.
    Trap(NonNull<VMStoreContext>, TrapCode),
    /// The kernel found no room for another signal's frame on a guest's stack.
    NoRoomForSignal,
    NotOurs,
}

/// Decides whose a fault is. Async-signal-safe.
fn judge(fault: &Fault) -> Verdict {
    // The guard belongs to the slot, so a stack pointer that has run into it still names its store.
    let Some(slot) = slot_of(fault.registers.sp) else {
        return Verdict::NotOurs;
    };
    let Some(owner) = NonNull::new(slot.owner()) else {
        return Verdict::NotOurs;
    };
    let owner = owner.cast::<VMStoreContext>();
    if fault.code == SI_KERNEL && fault.signal == libc::SIGSEGV {
        return Verdict::NoRoomForSignal;
    }
    // SAFETY: invariant 2; only the interrupted guest may write to the store's context.
    let store = unsafe { owner.as_ref() };
    match trap_of(fault, slot, store) {
        Some(trap) => Verdict::Trap(owner, trap),
        None => Verdict::NotOurs,
    }
}

/// The trap that a fault of `store`'s guest is, if it is one.
fn trap_of(fault: &Fault, slot: &SlotHeader, store: &VMStoreContext) -> Option<TrapCode> {
    let pc = fault.registers.pc;
    if fault.code <= 0 {
        return None; // sent by a process
    }
    match fault.signal {
        libc::SIGSEGV | libc::SIGBUS => {
            let in_guard = slot.stack_limit() <= fault.address && fault.address < slot.guard_end();
            if in_guard && (code::is_guest_code(pc) || is_trampoline(pc)) {
                return Some(TrapCode::StackOverflow);
            }
            fault_site(pc).filter(|trap| match trap {
                TrapCode::IndirectCallToNull | TrapCode::NullReference => fault.address < NULL_BYTES,
                _ => lies_in_memory(store, fault.address),
            })
        }
        _ => fault_site(pc),
    }
}

/// Where a field of something at address zero may lie: below the least address that anything is mapped at.
const NULL_BYTES: usize = 4096;

/// The trap of the fault site at `pc`.
fn fault_site(pc: usize) -> Option<TrapCode> {
    let code = code::find(pc)?;
    // SAFETY: the running store keeps the modules of its instances alive (`code::find`).
    let code = unsafe { &*code };
    let site = code.image().fault_site(code.offset_of(pc)?)?;
    Some(site.trap)
}

/// Whether `address` lies in the mapping of one of the store's memories.
fn lies_in_memory(store: &VMStoreContext, address: usize) -> bool {
    (0..store.memory_count).any(|index| {
        // SAFETY: the store's list has `memory_count` entries and does not change while a guest runs.
        let memory = unsafe { store.memories.wrapping_add(index).read() };
        // SAFETY: a memory lives as long as its store, and does not change while a guest runs.
        let memory = unsafe { &*memory };
        (address.wrapping_sub(memory.base.addr()) as u64) < memory.reservation_bytes
    })
}

/// Whether `pc` lies in our hand-written code, which may run on a guest's stack.
fn is_trampoline(pc: usize) -> bool {
    // The linker defines these for a section whose name is an identifier (ld manual, "Orphan Sections").
    unsafe extern "C" {
        static __start_selvedge_text: u8;
        static __stop_selvedge_text: u8;
    }
    (&raw const __start_selvedge_text).addr() <= pc && pc < (&raw const __stop_selvedge_text).addr()
}

/// Notes the trap, and makes the handler return to the host by way of the activation's base.
fn leave_guest(store: &mut VMStoreContext, trap: TrapCode, fault: &Fault, context: &mut libc::ucontext_t) {
    store.trap_code = trap as u32;
    store.trap_pc = fault.registers.pc;
    store.trap_is_fault = true;
    store.trap_fp = fault.registers.fp;
    store.trap_fuel = fault.registers.fuel;
    store.fault_address = fault.address;
    let exit = arch::trap_exit as *const () as usize;
    // SAFETY: `link` is the parent link of the activation that runs (the store's promise to its trampolines), and
    // `trap_exit` expects what is set up here. The guest's frames hold nothing that needs dropping.
    let target = unsafe { fibers::raw::setup_trap_trampoline_raw(store.link, exit, 0) };
    target.write_to(context);
}

/// Does what the kernel would have done without us.
fn chain(fault: &Fault, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(index) = SIGNALS.iter().position(|&signal| signal == fault.signal) else {
        return;
    };
    let previous = PREVIOUS[index].load(Ordering::Acquire);
    // SAFETY: invariant 3.
    let previous = unsafe { previous.as_ref() };
    match previous {
        Some(action) if action.sa_sigaction == libc::SIG_IGN && fault.code <= 0 => {}
        // A fault cannot be ignored: the kernel takes the default action.
        Some(action) if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN => {
            if action.sa_flags & libc::SA_RESETHAND != 0 {
                PREVIOUS[index].store(ptr::null_mut(), Ordering::Release);
            }
            call(action, fault.signal, info, context);
        }
        _ => take_default_action(fault),
    }
}

/// Calls a previous handler with the signals blocked that it asked for. Our return restores the mask.
fn call(action: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let mut mask = action.sa_mask;
    if action.sa_flags & libc::SA_NODEFER == 0 {
        // SAFETY: an initialised set and a valid signal.
        unsafe { libc::sigaddset(&mut mask, signal) };
    }
    // SAFETY: an initialised set, and nothing wanted back.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &mask, ptr::null_mut()) };
    if action.sa_flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        // SAFETY: neither SIG_DFL nor SIG_IGN, and installed with SA_SIGINFO: a function of this type.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(action.sa_sigaction) };
        handler(signal, info, context);
    } else {
        // SAFETY: neither SIG_DFL nor SIG_IGN, and installed without SA_SIGINFO: a function of this type.
        let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(action.sa_sigaction) };
        handler(signal);
    }
}

/// Ends the process by the signal's default action.
fn take_default_action(fault: &Fault) {
    // It cannot fail for a signal we installed a handler for; and if it did, the fault would only come again.
    let _ = change_action(fault.signal, Some(&default_action()));
    if fault.code <= 0 || fault.code == SI_KERNEL {
        // No instruction to repeat that would raise it again.
        // SAFETY: `raise` may be called in a handler.
        unsafe { libc::raise(fault.signal) };
    }
}

/// An existing alternate stack of this size is kept.
const MIN_ALTERNATE_BYTES: usize = 32 << 10;
/// The size of those we make, besides a guard.
const ALTERNATE_BYTES: usize = 64 << 10;

thread_local! {
    /// Whether this thread was seen to have an alternate stack that is large enough.
    static READY: Cell<bool> = const { Cell::new(false) };
    /// The stack we made for this thread, taken down when the thread ends.
    static ALTERNATE: OnceCell<AlternateStack> = const { OnceCell::new() };
}

/// Sees to it that this thread has an alternate signal stack on which the handler fits.
///
/// A thread is asked once. Who replaces the stack afterwards has to leave one of 32 KiB or more.
///
/// # Errors
/// When the kernel refuses, or the thread is about to end.
#[inline]
pub(crate) fn ensure_alternate_stack() -> Result<()> {
    if READY.get() {
        Ok(())
    } else {
        make_alternate_stack()
    }
}

#[cold]
fn make_alternate_stack() -> Result<()> {
    let present = change_alternate_stack(None).context("cannot ask for the alternate signal stack")?;
    if present.ss_flags & libc::SS_DISABLE != 0 || present.ss_size < MIN_ALTERNATE_BYTES {
        let stack = AlternateStack::new(present)
            .with_context(|| format!("cannot make an alternate signal stack of {ALTERNATE_BYTES} bytes"))?;
        ALTERNATE
            .try_with(|place| place.set(stack).is_ok())
            .ok()
            .filter(|&is_set| is_set)
            .context("this thread ends or has lost its alternate signal stack")?;
    }
    READY.set(true);
    Ok(())
}

/// Sets this thread's alternate stack, if one is given, and gives the one before.
fn change_alternate_stack(stack: Option<&libc::stack_t>) -> io::Result<libc::stack_t> {
    let mut before = MaybeUninit::uninit();
    let stack = stack.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both pointers are valid or null; the stack is one of ours, or was this thread's before ours.
    let result = unsafe { libc::sigaltstack(stack, before.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it wrote the stack before.
    Ok(unsafe { before.assume_init() })
}

/// No alternate stack.
const NO_STACK: libc::stack_t = libc::stack_t {
    ss_sp: ptr::null_mut(),
    ss_flags: libc::SS_DISABLE,
    ss_size: 0,
};

/// An alternate stack of ours, in use by the thread that made it: `[guard | stack]`.
struct AlternateStack {
    mapping: *mut c_void,
    mapping_bytes: usize,
    stack: libc::stack_t,
    previous: libc::stack_t,
}

impl AlternateStack {
    /// Maps a stack and makes it the thread's, in the place of `present`.
    fn new(present: libc::stack_t) -> io::Result<AlternateStack> {
        let guard_bytes = region::page::size();
        let mapping_bytes = guard_bytes + ALTERNATE_BYTES;
        let mapping = map_inaccessible(mapping_bytes)?;
        let start = mapping.wrapping_byte_add(guard_bytes);
        let stack = libc::stack_t {
            ss_sp: start,
            ss_flags: 0,
            ss_size: ALTERNATE_BYTES,
        };
        // From here on an early return unmaps.
        let mut this = AlternateStack {
            mapping,
            mapping_bytes,
            stack,
            previous: present,
        };
        // SAFETY: the pages are ours and nobody knows them yet.
        unsafe { region::protect(start, ALTERNATE_BYTES, region::Protection::READ_WRITE) }
            .map_err(io::Error::other)?;
        this.previous = change_alternate_stack(Some(&this.stack))?;
        Ok(this)
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        READY.set(false);
        super::host_stack::forget();
        // Only where ours is still in use: who has replaced it may have unmapped what was there before ours, as
        // the standard library does at the end of a thread.
        let ours = |present: libc::stack_t| present.ss_sp == self.stack.ss_sp;
        if change_alternate_stack(None).map_or(true, ours)
            && change_alternate_stack(Some(&self.previous)).is_err()
            && change_alternate_stack(Some(&NO_STACK)).is_err()
        {
            return; // still in use: better to leak it
        }
        // SAFETY: the mapping is ours, and is no longer the thread's alternate stack.
        unsafe { super::unmap::unmap(self.mapping, self.mapping_bytes) };
    }
}

fn map_inaccessible(bytes: usize) -> io::Result<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    if mapping == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(mapping)
    }
}

#[cfg(test)]
mod tests;
