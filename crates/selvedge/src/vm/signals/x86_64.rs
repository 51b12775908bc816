//! What the signal handler reads from and writes to the interrupted registers, on x86-64 Linux.

/// The registers that say where a thread was interrupted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registers {
    pub(super) pc: usize,
    pub(super) sp: usize,
    /// rbp: a frame record in guest code, but for a function's first two instructions.
    pub(super) fp: usize,
    /// r15, the pinned register of the compiler: the fuel slice, where the guest is metered.
    pub(super) fuel: i64,
}

/// Reads them. Async-signal-safe.
pub(super) fn registers(context: &libc::ucontext_t) -> Registers {
    let register = |name: libc::c_int| context.uc_mcontext.gregs[name as usize];
    Registers {
        pc: register(libc::REG_RIP) as usize,
        sp: register(libc::REG_RSP) as usize,
        fp: register(libc::REG_RBP) as usize,
        fuel: register(libc::REG_R15),
    }
}
