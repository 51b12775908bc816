//! The hand-written code between the guest's stack and the host's, for the processor we are built for.

#[cfg(all(target_arch = "aarch64", unix))]
mod aarch64;
#[cfg(all(target_arch = "aarch64", unix))]
pub(crate) use aarch64::*;
#[cfg(all(target_arch = "x86_64", unix))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", unix))]
pub(crate) use x86_64::*;

#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix)))]
compile_error!("selvedge runs on x86-64 and aarch64 Unix; other targets are not supported yet");

/// How a host function gets its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// In slots that an import trampoline makes; the shim is a [`HostShim`](super::vmctx::HostShim).
    Slots,
    /// In registers, being few integers; the shim is a [`RegisterShim`](super::vmctx::RegisterShim).
    Registers,
    /// In registers, but the shim is a [`HostShim`](super::vmctx::HostShim): the swap makes slots.
    Spilled,
}

/// Word with which the guest comes back: its function returned.
pub(crate) const DONE: u64 = 0;
/// The guest was left for good: [`super::store::StoreVm::stop`] says why.
pub(crate) const EXIT: u64 = 1;
/// The guest is parked and can be resumed.
pub(crate) const SUSPEND: u64 = 2;
/// The guest goes on at a handler of an exception: the `unwind_` fields of [`super::store::VMStoreContext`] say where.
pub(crate) const UNWIND: u64 = 4;
/// The guest trapped: the `trap_` fields of [`super::store::VMStoreContext`] say where.
pub(crate) const EXIT_TRAP: u64 = 3;
