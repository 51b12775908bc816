//! Steps by breakpoints, where no processor flag does: also in an emulator. The instruction that comes next is found by
//! decoding the one that is there, and is replaced by a trap until it is reached.
//!
//! Calls of other libraries are one step. Code that other threads run must not be stepped through: [`NEEDS_OWN_PROCESS`].

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod decode;
#[cfg(target_arch = "riscv64")]
#[path = "riscv64.rs"]
mod decode;

use std::cell::Cell;

pub use decode::{decides, pc_and_sp, trap};

/// Breakpoints are everybody's.
pub const NEEDS_OWN_PROCESS: bool = true;

const PAGE_BYTES: usize = 4096;

/// Where control goes.
pub enum Next {
    /// To this address.
    Jump(usize),
    /// To the first address, and back to the second.
    Call(usize, usize),
}

thread_local! {
    /// The breakpoint: its address, and what was there.
    static PLANTED: Cell<Option<(usize, decode::Trap)>> = const { Cell::new(None) };
}

/// Whether this trap is the breakpoint. Then that is gone.
pub fn is_step(_: *const libc::siginfo_t, context: &libc::ucontext_t) -> bool {
    let (pc, _) = pc_and_sp(context);
    let is_here = PLANTED.get().is_some_and(|(at, _)| at == pc);
    if is_here {
        uproot();
    }
    is_here
}

/// After a trap of [`trap`]: a breakpoint behind it.
pub fn start(context: &mut libc::ucontext_t, _: fn(usize) -> bool) {
    decode::skip_trap(context);
    plant(pc_and_sp(context).0);
}

/// After a step: a breakpoint at the instruction that comes next in code that `is_inside`.
pub fn go_on(context: &mut libc::ucontext_t, is_inside: fn(usize) -> bool) {
    let next = match decode::next(context) {
        Next::Call(to, _) | Next::Jump(to) if is_inside(to) => to,
        Next::Call(_, back) => back,
        Next::Jump(_) => decode::return_address(context),
    };
    plant(next);
}

/// After a trap of [`trap`]: no more.
pub fn stop(context: &mut libc::ucontext_t) {
    uproot();
    decode::skip_trap(context);
}

fn uproot() {
    if let Some((at, was)) = PLANTED.take() {
        write_code(at, was);
    }
}

fn plant(at: usize) {
    // SAFETY: an instruction of this program.
    let was = unsafe { (at as *const decode::Trap).read_unaligned() };
    PLANTED.set(Some((at, was)));
    write_code(at, decode::TRAP);
}

fn write_code(at: usize, code: decode::Trap) {
    let page = at & !(PAGE_BYTES - 1);
    let bytes = at + size_of::<decode::Trap>() - page;
    let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: pages of this program's code stay readable and executable.
    let done = unsafe { libc::mprotect(page as *mut _, bytes, access) };
    assert_eq!(done, 0, "code cannot be written to");
    // SAFETY: just made writable; this process runs the stepped code in this thread alone.
    unsafe { (at as *mut decode::Trap).write_unaligned(code) };
    decode::flush(at);
}
