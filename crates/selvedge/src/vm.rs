//! What generated code touches, and everything unsafe that keeps it apart from the host.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `vmctx.rs` | the blocks that generated code reads and writes |
//! | `store.rs` | what a store owns, without the type of the host's data |
//! | `block.rs` | the heap block of a store, and who may touch it |
//! | `call.rs` | calls with values, sync and as futures |
//! | `activation.rs` | entering the guest, parking it, leaving it |
//! | `few.rs` | the short way of a sync call with few integers |
//! | `guest_stack.rs` | the stack that a store has, or leases |
//! | `arch/x86_64.rs` | the assembly between the two stacks |
//! | `shim.rs`, `host.rs` | host functions: values in, values out, panics caught |
//! | `arena.rs` | the place of parked host futures |
//! | `fuel.rs` | slices, refills, yields |
//! | `limits.rs` | asking the host before something grows |
//! | `interrupt.rs`, `deadline.rs` | stopping a guest from another thread, and when its time is over |
//! | `heap.rs`, `lazy_heap.rs`, `roots.rs`, `collect.rs` | what references name, who holds it, when it goes |
//! | `throw.rs` | exceptions: the way from a throw to its handler |
//! | `frames.rs` | walking the guest's frames |
//! | `trap.rs` | what a trap left behind, as an error with a backtrace |
//! | `host_stack.rs` | how deep the host's stack may get |
//! | `signals.rs`, `code.rs` | faults, and which code they lie in |
//! | `kept.rs`, `thin.rs` | what stays at its address on the heap; lists that are mostly empty |
//! | `shared.rs`, `waiters.rs`, `wait.rs`, `racing.rs` | shared memories, who waits in them, copies that race |
//! | `linear/` | where memories lie: a pool of reservations, images, a slab |
//! | `unmap.rs` | giving addresses back, also where the kernel refuses it at first |
//! | `linear.rs`, `table.rs`, `table_pool.rs`, `builtins.rs`, `instance.rs` | memories, tables, bulk operations, instantiation |

pub(crate) mod activation;
pub(crate) mod arch;
pub(crate) mod arena;
pub(crate) mod block;
pub(crate) mod builtins;
pub(crate) mod call;
#[cfg(test)]
pub(crate) mod child;
pub(crate) mod code;
pub(crate) mod collect;
pub(crate) mod deadline;
pub(crate) mod few;
pub(crate) mod frames;
pub(crate) mod fuel;
pub(crate) mod grow;
pub(crate) mod guest_stack;
pub(crate) mod heap;
pub(crate) mod host;
pub(crate) mod host_stack;
pub(crate) mod instance;
pub(crate) mod interrupt;
pub(crate) mod kept;
pub(crate) mod lazy_heap;
pub(crate) mod limits;
pub(crate) mod linear;
pub(crate) mod racing;
pub(crate) mod roots;
pub(crate) mod shared;
pub(crate) mod shim;
pub(crate) mod signals;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod table_pool;
pub(crate) mod thin;
pub(crate) mod throw;
pub(crate) mod trap;
mod unmap;
pub(crate) mod vmctx;
pub(crate) mod wait;
pub(crate) mod waiters;
