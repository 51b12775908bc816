//! Throwing: from a guest's `throw`, or from a host function that returns an [`Exception`] as its error.
//!
//! A throw looks for a handler in the frames of the innermost activation, by the return addresses of their calls: the tables of
//! the image say what each call is within ([`selvedge_compiler::TryCall`]). A clause's tag is the module's; the frame's vmctx, whose place
//! the table names, says which tag of the store that is. Found, the handler's address, stack pointer and frame go into the store's
//! context, and the swap leaves through them ([`UNWIND`]): nothing below that frame is touched again. Not found, the activation ends
//! with the exception as an error; the host function that made the call may return it, and then it is thrown there.
//!
//! The walk is linear in the frames it passes, uses no stack, and costs no fuel: each frame was paid for by its call.

use super::activation::Activation;
use super::arch::{self, EXIT, UNWIND};
use super::instance::InstanceVm;
use super::roots::OwnedRoot;
use super::store::{Stop, StoreVm};
use super::trap;
use super::vmctx::ValRaw;
use super::{builtins, frames};
use crate::error::Error;
use crate::trap::Trap;
use selvedge_compiler::Builtin;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

/// An exception of a guest, or one that the host made: a tag and the values that go with it.
///
/// A call that ends with one that nothing caught is an error in which `downcast_ref::<Exception>()` finds it. A host function that returns
/// such an error, or one with an exception of its own, throws it: the guest that called may catch it. It keeps what it
/// refers to alive; a clone is the same exception.
#[derive(Clone, Debug)]
pub struct Exception {
    pub(crate) root: OwnedRoot,
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an exception was thrown and not caught")
    }
}

impl std::error::Error for Exception {}

/// Runs [`Builtin::Throw`] and [`Builtin::ThrowRef`].
///
/// # Safety
/// As for [`super::builtins::dispatch`], whose part it is.
pub(crate) unsafe fn run(instance: *mut InstanceVm, slots: *mut ValRaw, builtin: Builtin) -> u64 {
    // SAFETY: the caller's promise.
    let instance = unsafe { &*instance };
    let vm = instance.store();
    // SAFETY: the caller's promise: the guest is parked, and nobody holds a reference into the store.
    let store = unsafe { &mut *vm };
    // SAFETY: the caller's promise: the first operand.
    let operand = unsafe { slots.read() };
    if builtin == Builtin::ThrowRef {
        return match operand.u32() {
            0 => builtins::leave(store, Trap::NullReference),
            reference => store.throw(reference),
        };
    }
    let tag = instance.tag(operand.u32());
    let count = store.tags[tag as usize].ty.params().len();
    // SAFETY: the caller's promise: the values follow the tag.
    let values = unsafe { slots.add(1) };
    // SAFETY: as above.
    let values = unsafe { slice::from_raw_parts(values, count) };
    let made = store.make_exception(tag, values);
    let dead = store.take_dead();
    // Destructors are user code: no reference into the store is used while they run.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(dead))) {
        // SAFETY: as above.
        unsafe { &mut *vm }.stop = Some(Stop::Panic(payload));
        return EXIT;
    }
    // SAFETY: as above.
    let store = unsafe { &mut *vm };
    match made {
        Ok(reference) => store.throw(reference),
        Err(error) => {
            store.stop = Some(Stop::Error(error));
            EXIT
        }
    }
}

impl StoreVm {
    /// A new exception; references among the values have no other root. The caller drops what died.
    pub(crate) fn make_exception(&mut self, tag: u32, values: &[ValRaw]) -> crate::error::Result<u32> {
        let mark = self.roots.mark();
        let references = self.tags[tag as usize].references().len();
        if references > 0 {
            self.reserve_roots(references)?;
        }
        for index in 0..references {
            let field = self.tags[tag as usize].references()[index];
            self.root(values[field as usize].u32());
        }
        let made = self.new_exception(tag, values);
        self.roots.truncate(mark);
        made
    }

    /// Throws an exception where the innermost activation left its guest; answers with the word for the swap.
    fn throw(&mut self, reference: u32) -> u64 {
        if self.find_handler(reference) {
            return UNWIND;
        }
        let error = match self.own(reference) {
            Ok(root) => Error::new(Exception { root }),
            Err(error) => error,
        };
        self.stop = Some(Stop::Error(error));
        EXIT
    }

    /// Whether an error of a host function is an exception that the guest catches: then it is on its way.
    pub(crate) fn is_caught(&mut self, error: &Error) -> bool {
        match error
            .downcast_ref::<Exception>()
            .map(|exception| self.owned(&exception.root))
        {
            Some(Ok(reference)) => self.find_handler(reference),
            // An exception of another store is an error like any other.
            _ => false,
        }
    }

    /// Looks for what catches the exception in the innermost activation, and notes where the guest goes on.
    fn find_handler(&mut self, reference: u32) -> bool {
        let tag = self
            .heap
            .exception_tag(reference)
            .expect("what is thrown is an exception");
        let Some(segment) = frames::segments(self, self.cx.guest_fp).next() else {
            return false;
        };
        for frame in segment.clone() {
            let Some((code, offset)) = trap::code_at(frame.pc) else {
                continue;
            };
            let Some(call) = code.image().try_call(offset) else {
                continue;
            };
            let sp = frame.fp.wrapping_sub(call.frame_bytes as usize);
            if !segment.contains(sp, call.frame_bytes as usize) {
                return false;
            }
            let vmctx = match call.vmctx_below {
                Some(below) => frame.fp - below as usize,
                // A call of the runtime, so it is this throw's: the swap keeps the vmctx behind its frame record.
                None => self.cx.guest_fp - 8,
            };
            // SAFETY: within the frame, where the image says that it keeps its vmctx, or in the swap's.
            let vmctx = unsafe { (vmctx as *const *mut u8).read() };
            let instance = InstanceVm::from_vmctx(vmctx);
            // SAFETY: instances live as long as the store.
            let instance = unsafe { &*instance };
            let mut clauses = call.clauses.iter();
            if let Some(clause) =
                clauses.find(|clause| clause.tag.is_none_or(|index| instance.tag(index) == tag))
            {
                self.cx.unwind_pc = code.code_at(clause.code) as usize;
                self.cx.unwind_sp = sp;
                self.cx.unwind_fp = frame.fp;
                self.cx.unwind_exception = u64::from(reference);
                return true;
            }
        }
        false
    }
}

/// Makes a parked guest go on in the handler that [`StoreVm::is_caught`] found.
///
/// # Safety
/// The activation is parked in a host call, at the context `sp`.
pub(crate) unsafe fn resume_in_handler(sp: usize) {
    let at = arch::unwind_parked as *const () as usize + fibers::raw::PRELUDE_BYTES;
    // SAFETY: the caller's promise: the word at a parked context is the address where it goes on.
    unsafe { (sp as *mut usize).write(at) };
}

impl StoreVm {
    /// The activation's pending host function has failed, and its future is gone: whether the guest catches that.
    ///
    /// # Safety
    /// `act` is the innermost activation, parked in a host call.
    pub(crate) unsafe fn is_caught_parked(&mut self, act: *mut Activation, error: &Error) -> bool {
        if !self.is_caught(error) {
            return false;
        }
        // SAFETY: the caller's promise.
        let sp = unsafe { Activation::parked_sp(act) };
        // SAFETY: as above.
        unsafe { resume_in_handler(sp) };
        true
    }
}
