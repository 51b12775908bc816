//! Steps by the processor's trap flag.

/// EFLAGS.TF: Intel SDM, volume 1, 3.4.3.3.
const TRAP_FLAG: i64 = 1 << 8;

/// `si_code` of a step, and not of an `int3`: Linux, asm-generic/siginfo.h.
const TRAP_TRACE: i32 = 2;

/// Other threads are not disturbed.
pub const NEEDS_OWN_PROCESS: bool = false;

/// Traps into the handler, which goes on behind it.
#[inline(always)]
pub fn trap() {
    // SAFETY: the handler takes it; the registers stay.
    unsafe { std::arch::asm!("int3") };
}

/// The program counter and the stack pointer.
pub fn pc_and_sp(context: &libc::ucontext_t) -> (usize, usize) {
    let gregs = &context.uc_mcontext.gregs;
    (
        gregs[libc::REG_RIP as usize] as usize,
        gregs[libc::REG_RSP as usize] as usize,
    )
}

/// What decides whether a walk is one of the fiber's frames: the stack pointer.
pub fn decides(context: &libc::ucontext_t) -> usize {
    pc_and_sp(context).1
}

/// Whether this trap is the end of a step.
pub fn is_step(info: *const libc::siginfo_t, _: &libc::ucontext_t) -> bool {
    // SAFETY: SA_SIGINFO: the kernel gives it.
    (unsafe { (*info).si_code }) == TRAP_TRACE
}

/// After a trap of [`trap`]: traps after each instruction from now on.
pub fn start(context: &mut libc::ucontext_t, _: fn(usize) -> bool) {
    context.uc_mcontext.gregs[libc::REG_EFL as usize] |= TRAP_FLAG;
}

/// After a step: one more.
pub fn go_on(_: &mut libc::ucontext_t, _: fn(usize) -> bool) {}

/// After a trap of [`trap`]: no more.
pub fn stop(context: &mut libc::ucontext_t) {
    context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG;
}
