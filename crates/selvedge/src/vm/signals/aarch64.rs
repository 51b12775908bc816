//! What the signal handler reads from and writes to the interrupted registers, on aarch64 Linux.

/// The registers that say where a thread was interrupted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registers {
    pub(super) pc: usize,
    pub(super) sp: usize,
    /// x29: a frame record in guest code, but for a function's first two instructions.
    pub(super) fp: usize,
    /// x21, the pinned register of the compiler: the fuel slice, where the guest is metered.
    pub(super) fuel: i64,
}

/// Reads them. Async-signal-safe.
pub(super) fn registers(context: &libc::ucontext_t) -> Registers {
    let machine = &context.uc_mcontext;
    Registers {
        pc: machine.pc as usize,
        sp: machine.sp as usize,
        fp: machine.regs[29] as usize,
        fuel: machine.regs[21].cast_signed(),
    }
}
