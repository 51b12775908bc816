//! Entering the guest, leaving it, and what lies between: activations.
//!
//! An *activation* is one call from the host into the guest. It is plain data at the base of its piece of the
//! store's guest stack; a call made from a host function makes another one below the parked frames of the first.
//!
//! ```text
//!   created --run--> running --DONE/EXIT--> (popped)
//!                     |   ^
//!             SUSPEND |   | run, when the pending future is ready or fuel goes on
//!                     v   |
//!                    parked --pop--> (gone: nothing on a guest stack has a destructor)
//! ```
//!
//! Invariants
//! 1. Last in, first out: only the activation at `StoreVm::top` runs or is popped; [`cut_to`] removes those that a
//!    user leaked with `mem::forget` before anything else happens.
//! 2. An activation's memory is valid from [`push`] until it is popped or cut: nobody else is given that piece of the
//!    stack meanwhile, as new pieces begin below `VMStoreContext::guest_fp`.
//! 3. `pending` is set exactly while a host future of this activation lies in the arena, at `mark` or above.
//! 4. No Rust frame lies on a guest stack while it is parked; guest frames hold integers and addresses of the store.

mod poll;

pub(crate) use poll::{leave, poll};

use super::arch::{self, DONE, EXIT, EXIT_TRAP};
use super::arena::ArenaMark;
use super::interrupt::{Running, index_of};
use super::limits::Grow;
use super::store::{Stop, StoreVm};
use super::vmctx::{VMFuncRef, ValRaw};
use super::{host_stack, trap};
use crate::error::{Error, Result};
use crate::trap::Trap;
use fibers::raw::{BASE_RETURN_OFFSET, LINK_OFFSET, PRELUDE_BYTES, base_return};
use std::mem::{MaybeUninit, offset_of, size_of};
use std::panic::resume_unwind;
use std::ptr::{self, NonNull};
use std::task::{Context, Poll};

/// Bytes that have to be free below an activation for it to be entered: the entry trampoline's frame and the link.
const ENTRY_BYTES: usize = 512;

/// How a parked host future is polled and dropped, made by the shim that knows its type.
pub(crate) struct PendingVTable {
    /// Polls the future; when it is ready with values, writes them to the slots.
    ///
    /// Safety: the future lies at the pointer, was polled before, and is not done.
    pub(crate) poll: unsafe fn(*mut u8, *mut StoreVm, *mut ValRaw, &mut Context<'_>) -> Poll<Result<()>>,
    /// Drops the future in place.
    ///
    /// Safety: as for `poll`, and nobody uses it afterwards.
    pub(crate) drop: unsafe fn(*mut u8),
    /// The future was forgotten: gives up its place where others would still count on it. Drops nothing and runs no user code.
    ///
    /// Safety: as for `poll`, and nobody uses it afterwards.
    pub(crate) forget: unsafe fn(*mut u8),
}

/// A host future that an activation waits for.
#[derive(Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) future: *mut u8,
    pub(crate) vtable: &'static PendingVTable,
    /// Where its results go: the import trampoline's slots on the guest stack.
    pub(crate) slots: *mut ValRaw,
    pub(crate) mark: ArenaMark,
    /// Where the scope of the references that the host function makes begins.
    pub(crate) roots: usize,
    /// What the guest grows if the future, the limiter's, grants it.
    pub(crate) grow: Option<Grow>,
}

/// What an activation is entered with, and resumed.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Entry {
    // The first four are read by `arch::guest_start`.
    pub(crate) entry: *const u8,
    pub(crate) code: *const u8,
    pub(crate) ctx: *mut u8,
    /// Arguments, then results.
    pub(crate) args: *mut ValRaw,
    /// The store's word as it was, put back when this one comes back.
    outer_link: usize,
    /// Context to resume while created or parked; 0 while it runs.
    sp: usize,
}

/// One call from the host into the guest.
#[repr(C)]
pub(crate) struct Activation {
    /// Written by [`push`], and not by the short way, which a store less is worth a cycle. First: assembly takes its address for
    /// the activation's.
    entry: MaybeUninit<Entry>,
    /// Address of the parent link; base - 16.
    link: usize,
    /// The next outer one.
    pub(crate) parent: *mut Activation,
    /// The store's word as it was, put back when this one ends.
    outer_guest_fp: usize,
    /// The context of the poll in progress; null: entered by a sync call.
    pub(crate) poll_context: *mut Context<'static>,
    pub(crate) is_async: bool,
    pub(crate) pending: Option<Pending>,
}

const _: () = assert!(offset_of!(Activation, entry) == 0);

impl Activation {
    /// Writes the activation of the short way ([`super::few`]) at the base of an idle store's stack: outermost, entered by a sync call.
    ///
    /// # Safety
    /// The stack that ends at `stack_base` is unused, and has room for it and the base of a fiber.
    #[inline(always)]
    pub(crate) unsafe fn write_outermost(stack_base: usize) -> *mut Activation {
        const BYTES: usize = size_of::<Activation>().next_multiple_of(16);
        let base = stack_base - BYTES;
        let activation = base as *mut Activation;
        // SAFETY: the caller's promise; stacks end at multiples of 16.
        unsafe {
            activation.write(Activation {
                entry: MaybeUninit::uninit(),
                link: base - LINK_OFFSET,
                parent: ptr::null_mut(),
                outer_guest_fp: 0,
                poll_context: ptr::null_mut(),
                is_async: false,
                pending: None,
            });
        }
        // SAFETY: as above; what makes the link a frame record.
        unsafe { ((base - BASE_RETURN_OFFSET) as *mut usize).write(base_return()) };
        activation
    }

    /// The activation of the short way whose link is at this address.
    #[inline(always)]
    pub(crate) fn above(link: usize) -> *mut Activation {
        (link + LINK_OFFSET) as *mut Activation
    }

    /// Whether the activation of the short way lies on the stack that ends at `stack_base`, as it was written there, and `link` is its.
    ///
    /// # Safety
    /// [`write_outermost`](Activation::write_outermost) was called for this base before, and the stack is the caller's.
    pub(crate) unsafe fn is_outermost(stack_base: usize, link: usize) -> bool {
        let base = stack_base - size_of::<Activation>().next_multiple_of(16);
        // SAFETY: the caller's promise: an activation was written there, whatever is there now.
        let act = unsafe { &*(base as *const Activation) };
        // SAFETY: the caller's promise.
        let returns = unsafe { ((base - BASE_RETURN_OFFSET) as *const usize).read() };
        link == base - LINK_OFFSET
            && act.link == link
            && act.parent.is_null()
            && act.outer_guest_fp == 0
            && act.poll_context.is_null()
            && !act.is_async
            && act.pending.is_none()
            && returns == base_return()
    }

    /// One that is created and has not run, on the stack below `base`.
    #[inline(always)]
    fn new(
        entry: Entry,
        base: usize,
        parent: *mut Activation,
        outer_guest_fp: usize,
        is_async: bool,
    ) -> Activation {
        Activation {
            entry: MaybeUninit::new(entry),
            link: base - LINK_OFFSET,
            parent,
            outer_guest_fp,
            poll_context: ptr::null_mut(),
            is_async,
            pending: None,
        }
    }

    /// What it was entered with.
    ///
    /// # Safety
    /// `act` has not ended, and was made by [`push`].
    #[inline(always)]
    unsafe fn entry<'a>(act: *mut Activation) -> &'a mut Entry {
        // SAFETY: the caller's promise: it is the first field, and written; nobody holds another reference.
        unsafe { &mut *act.cast::<Entry>() }
    }

    /// Where its arguments are, and then its results.
    ///
    /// # Safety
    /// As for [`entry`](Activation::entry).
    #[inline(always)]
    pub(crate) unsafe fn args(act: *mut Activation) -> *mut ValRaw {
        // SAFETY: the caller's promise; the reference ends with the statement.
        unsafe { Activation::entry(act) }.args
    }

    /// The context to resume while it is parked.
    ///
    /// # Safety
    /// As for [`entry`](Activation::entry).
    pub(crate) unsafe fn parked_sp(act: *mut Activation) -> usize {
        // SAFETY: as above.
        unsafe { Activation::entry(act) }.sp
    }

    /// The store whose activation this is: every context, a vmctx or a host record, begins with it.
    ///
    /// # Safety
    /// As for [`entry`](Activation::entry).
    #[inline(always)]
    pub(crate) unsafe fn store_of(act: *mut Activation) -> *mut StoreVm {
        // SAFETY: the caller's promise; the reference ends with the statement.
        let context = unsafe { Activation::entry(act) }.ctx;
        // SAFETY: the first word of a context, which lives as long as the store.
        unsafe { context.cast::<*mut StoreVm>().read() }
    }

    /// The highest address of the piece of stack that guest frames of this activation use.
    pub(crate) fn link(&self) -> usize {
        self.link
    }

    /// Where the store's `guest_fp` stood when this activation began: the outer one's exit frame.
    pub(crate) fn outer_guest_fp(&self) -> usize {
        self.outer_guest_fp
    }
}

/// Where an activation's arguments are.
#[derive(Clone, Copy)]
pub(crate) enum Args {
    /// In slots of the caller's, valid until the activation ends, for the larger of parameters and results.
    At(*mut ValRaw),
    /// In so many slots of its own, at least one.
    Own(usize),
    /// In so many slots of its own, at least one; and `func` takes and returns few integers, in an engine without fuel.
    Few(usize),
}

impl Args {
    #[inline(always)]
    fn own_slots(self) -> usize {
        match self {
            Args::At(_) => 0,
            Args::Own(slots) | Args::Few(slots) => slots,
        }
    }

    /// Where the guest starts.
    #[inline(always)]
    fn start(self) -> usize {
        match self {
            Args::Few(_) => arch::guest_start_few as *const () as usize,
            _ => arch::guest_start as *const () as usize,
        }
    }
}

/// Makes a new innermost activation of `func`. Runs nothing.
///
/// # Errors
/// No stack to be had; [`Trap::StackOverflow`] when the segment has no room or the host's stack is too deep.
///
/// # Safety
/// `vm` is a live store, `owner` the activation on whose behalf this is asked (null: the store itself), `func` one of
/// its function records, and `args` says the truth.
#[inline]
pub(crate) unsafe fn push(
    vm: *mut StoreVm,
    owner: *mut Activation,
    func: NonNull<VMFuncRef>,
    args: Args,
    is_async: bool,
) -> Result<*mut Activation> {
    // SAFETY: the caller's promise; store invariant 1: nobody else refers to it, and this function runs no user code.
    let store = unsafe { &mut *vm };
    if store.top != owner {
        store.cut_to(owner);
    }
    let slots = args.own_slots() * size_of::<ValRaw>();
    let start = store.start_of_piece(owner)?;
    let base = (start - size_of::<Activation>() - slots) & !15;
    if base < store.stack.guard_end() + ENTRY_BYTES {
        return Err(store.refuse_entry());
    }
    let activation = (base + slots) as *mut Activation;
    // SAFETY: `base` lies above the segment's limit with ENTRY_BYTES to spare, as just compared, and below everything
    // in use (invariant 2); the code where it starts expects what `init_entry` writes.
    let sp = unsafe { fibers::raw::init_entry(base, args.start() + PRELUDE_BYTES) };
    // SAFETY: one of the store's records, by the caller's promise; records live as long as the store.
    let target = unsafe { func.read() };
    let entry = Entry {
        entry: target.entry,
        code: target.code,
        ctx: target.ctx,
        args: match args {
            Args::At(at) => at,
            _ => base as *mut ValRaw,
        },
        outer_link: store.cx.link,
        sp,
    };
    // SAFETY: inside the piece that was just reserved, aligned to 16.
    unsafe { activation.write(Activation::new(entry, base, owner, store.cx.guest_fp, is_async)) };
    store.top = activation;
    Ok(activation)
}

/// Runs an activation until it comes back, and says with which word.
///
/// # Safety
/// `act` is the innermost activation of `vm`, created or parked without a pending future; no reference into the store is held.
#[inline(always)]
unsafe fn run(vm: *mut StoreVm, act: *mut Activation) -> u64 {
    // SAFETY: the caller's promise; a plain word.
    if unsafe { (*vm).cx.interrupt.is_null() } {
        // SAFETY: the caller's promise.
        unsafe { switch(vm, act) }
    } else {
        // SAFETY: as above.
        unsafe { run_watched(vm, act) }
    }
}

/// [`run`] for a store whose guest others may stop.
///
/// # Safety
/// As for [`run`].
#[cold]
unsafe fn run_watched(vm: *mut StoreVm, act: *mut Activation) -> u64 {
    // SAFETY: the caller's promise; a plain word.
    let state = unsafe { (*vm).cx.interrupt };
    // SAFETY: interrupt invariant 1.
    let state = unsafe { &*state };
    let _running = Running::new(state);
    // SAFETY: the caller's promise.
    if state.stops(unsafe { index_of(act) }) {
        // SAFETY: the caller's promise; store invariant 1.
        let store = unsafe { &mut *vm };
        store.stop = Some(Stop::Error(trap::interrupted(store)));
        return EXIT;
    }
    // SAFETY: the caller's promise.
    unsafe { switch(vm, act) }
}

/// The switch to the guest and back.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn switch(vm: *mut StoreVm, act: *mut Activation) -> u64 {
    // SAFETY: invariant 2; a plain word.
    let link = unsafe { (*act).link };
    // SAFETY: invariant 2: what comes here was made by `push`; the reference ends with the statement.
    let Entry { sp, outer_link, .. } = *unsafe { Activation::entry(act) };
    // SAFETY: the caller's promise; a field of plain data.
    unsafe { (*vm).cx.link = link };
    // SAFETY: `sp` is a context that `init_entry` made or a park left, and is resumed once: it is replaced below. The word
    // is what `guest_start` asks for; who resumes from a park looks at none. The prelude precedes all three.
    let (word, sp) = unsafe { fibers::raw::switch_and_link_direct(act as u64, sp, link) };
    // SAFETY: as above.
    unsafe { Activation::entry(act) }.sp = sp;
    // The outer guest runs next, be it that this one ended or that its host function parks as well.
    // SAFETY: as above.
    unsafe { (*vm).cx.link = outer_link };
    word
}

/// Ends the innermost activation: drops its pending future, gives back its piece of the stack.
///
/// # Safety
/// `act` is an activation of `vm` that has not ended, and nothing above it is in use any more.
#[inline]
pub(crate) unsafe fn pop(vm: *mut StoreVm, act: *mut Activation) {
    // SAFETY: the caller's promise; a plain word.
    let waits = unsafe { (*act).pending.is_some() };
    if waits {
        // SAFETY: the caller's promise.
        unsafe { drop_pending(vm, act) };
    }
    // SAFETY: the caller's promise; store invariant 1.
    let store = unsafe { &mut *vm };
    if store.top != act {
        store.cut_to(act);
    }
    // SAFETY: invariant 2. By value: the stack it lies on may be given back.
    let Activation {
        parent,
        outer_guest_fp,
        ..
    } = *unsafe { &*act };
    store.unlink(parent, outer_guest_fp);
}

/// Gives the bytes of a host future back when its destructor is over, be it by a panic.
///
/// Calls that the future had parked and forgot are cut off first: their own futures lie above in the arena, and
/// nothing may be written over what is pinned and was never dropped.
pub(crate) struct GiveBack {
    /// A live store.
    pub(crate) vm: *mut StoreVm,
    /// An activation of it that has not ended; the future was its.
    pub(crate) act: *mut Activation,
    pub(crate) mark: ArenaMark,
}

impl Drop for GiveBack {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: a live store; the destructor that ran is over (store invariant 1).
        let store = unsafe { &mut *self.vm };
        if store.top != self.act {
            store.cut_to(self.act);
        }
        store.arena.pop(self.mark);
    }
}

/// Drops the host future an activation waits for, if any, and gives back its bytes, also when the destructor panics.
///
/// # Safety
/// As for [`pop`].
#[inline(always)]
unsafe fn drop_pending(vm: *mut StoreVm, act: *mut Activation) {
    // SAFETY: invariant 2; the reference ends before the future is dropped.
    let Some(pending) = (unsafe { &(*act).pending }) else {
        return;
    };
    let Pending {
        future,
        vtable,
        mark,
        roots,
        ..
    } = *pending;
    // SAFETY: invariant 2.
    unsafe { (*act).pending = None };
    // SAFETY: the caller's promise; store invariant 1.
    unsafe { &mut *vm }.heap.forbid_collections();
    let _give_back = GiveBack { vm, act, mark };
    let _end_scope = EndScope { vm, roots };
    // SAFETY: invariant 3: it lay there; with `pending` taken away this is the only drop.
    unsafe { (vtable.drop)(future) };
}

/// Ends the scope of a host function's references when its future is gone, be it by a panic.
///
/// Nothing is collected while that is being dropped: its results are in slots already, where no root is.
struct EndScope {
    vm: *mut StoreVm,
    roots: usize,
}

impl Drop for EndScope {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: a live store; the destructor that ran is over (store invariant 1).
        let store = unsafe { &mut *self.vm };
        store.roots.truncate(self.roots);
        store.heap.allow_collections();
    }
}

/// How a call ended early: an error, or a panic of a host function to go on with.
fn raise_stop(stop: Option<Stop>) -> Error {
    match stop {
        Some(Stop::Error(error)) => error,
        Some(Stop::Panic(payload)) => resume_unwind(payload),
        None => unreachable!("whoever leaves the guest says why"),
    }
}

/// Calls `func` and waits for it to return. On success its results are in `args`.
///
/// # Errors
/// A trap, a host function's error, or no room to enter.
///
/// # Safety
/// As for [`push`], with `args` as for [`Args::At`]; no reference into the store is held.
#[inline]
pub(crate) unsafe fn call_sync(
    vm: *mut StoreVm,
    owner: *mut Activation,
    func: NonNull<VMFuncRef>,
    args: *mut ValRaw,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let act = unsafe { push(vm, owner, func, Args::At(args), false)? };
    // SAFETY: just made, hence innermost and without a future.
    let word = unsafe { run(vm, act) };
    if word != DONE {
        // SAFETY: the guest came back; `act` has not ended.
        return Err(unsafe { end_early(vm, act, word) });
    }
    // SAFETY: as above.
    unsafe { pop(vm, act) };
    Ok(())
}

/// Ends a sync call that came back with another word than [`DONE`], and says why.
///
/// # Safety
/// `act` is the innermost activation of `vm`, and has just come back with `word`; no reference into the store is held.
#[cold]
#[inline(never)]
pub(crate) unsafe fn end_early(vm: *mut StoreVm, act: *mut Activation, word: u64) -> Error {
    // SAFETY: the caller's promise.
    let stop = unsafe { take_stop(vm, act, word) };
    // SAFETY: the caller's promise.
    unsafe { pop(vm, act) };
    raise_stop(stop)
}

/// Why the guest was left with `word`.
///
/// # Safety
/// `act` is the innermost activation of `vm` and has just come back with `word`.
#[cold]
unsafe fn take_stop(vm: *mut StoreVm, act: *mut Activation, word: u64) -> Option<Stop> {
    // SAFETY: the caller's promise; store invariant 1.
    let store = unsafe { &mut *vm };
    match word {
        EXIT_TRAP => Some(Stop::Error(trap::take(store))),
        EXIT => {
            let mut stop = store.stop.take();
            if let Some(Stop::Error(error)) = &mut stop {
                trap::add_backtrace(store, error);
            }
            stop
        }
        // Guarded in the shims and in `refill`: under a sync call nothing parks.
        other => unreachable!("activation {act:p} came back with word {other}"),
    }
}

impl StoreVm {
    /// Where the piece of stack begins, at its highest address, that the next activation gets: at the stack's base, or below the frames of
    /// `owner`, the innermost one.
    ///
    /// # Errors
    /// No stack to be had; [`Trap::StackOverflow`] when the host's stack is too deep.
    #[inline(always)]
    fn start_of_piece(&mut self, owner: *mut Activation) -> Result<usize> {
        let host_sp = arch::stack_pointer();
        host_stack::check(host_sp)?;
        if owner.is_null() {
            self.outer_host_sp = host_sp;
            let context = self.context_ptr().cast();
            self.stack.take(self.engine.stacks(), context)?;
            return Ok(self.stack.base());
        }
        self.check_nesting(host_sp)?;
        Ok(self.cx.guest_fp - arch::EXIT_BYTES)
    }

    /// Whether a call of a host function may go on with the host's stack at `host_sp`.
    ///
    /// # Errors
    /// [`Trap::StackOverflow`] when that is too deep.
    #[inline(always)]
    fn check_nesting(&self, host_sp: usize) -> Result<()> {
        let outer = self.outer_host_sp;
        // An outer call on another thread's stack says nothing of this thread's own, which has its floor. A stack of the host's
        // making has none, and nobody knows where it ends: there the distance is all there is.
        let is_measured = || host_stack::is_own(outer) || !host_stack::is_own(host_sp);
        match outer > host_sp && outer - host_sp > self.max_host_stack && is_measured() {
            true => Err(Error::from(Trap::StackOverflow)),
            false => Ok(()),
        }
    }

    /// Whether a poll of `act` has nothing to do before the guest goes on, if that waits for nothing: nobody may stop it, no yield is owed, and
    /// nothing above it was leaked.
    #[inline(always)]
    fn has_nothing_but(&self, act: *mut Activation) -> bool {
        self.cx.interrupt.is_null() && !self.fuel.owes_yields() && self.top == act
    }

    /// Removes the activations above `owner`: their futures were leaked, so they are never polled or dropped again.
    #[cold]
    #[inline(never)]
    pub(crate) fn cut_to(&mut self, owner: *mut Activation) {
        while self.top != owner && !self.top.is_null() {
            // SAFETY: invariants 1 and 2: `top` has not ended.
            let Activation {
                parent,
                outer_guest_fp,
                pending,
                ..
            } = *unsafe { &*self.top };
            if let Some(pending) = pending {
                // SAFETY: invariant 3: it lies there; the activation ends here, and nobody reaches it afterwards.
                unsafe { (pending.vtable.forget)(pending.future) };
                self.arena.abandon();
                self.roots.truncate(pending.roots);
            }
            self.forget_deadlines();
            self.unlink(parent, outer_guest_fp);
        }
    }

    /// Takes the innermost activation off the list and puts the store's words back.
    #[inline]
    fn unlink(&mut self, parent: *mut Activation, outer_guest_fp: usize) {
        self.fuel.forget_owed_yields();
        self.cx.guest_fp = outer_guest_fp;
        self.top = parent;
        self.release_stack_if_idle();
        if !self.cx.interrupt.is_null() {
            self.answer_requests(); // last: it may drop a waker, which is user code
        }
    }

    /// The outermost activation has ended, by the short way ([`super::few`]), on a stack that was leased: takes it off the list.
    #[inline(always)]
    pub(crate) fn leave_outermost(&mut self) {
        self.cx.guest_fp = 0; // a call that is entered and has not run has no frames: not those of this one either
        self.top = ptr::null_mut();
        self.arena.reset();
        if !self.cx.interrupt.is_null() {
            self.answer_requests(); // last: it may drop a waker, which is user code
        }
    }

    /// There is no room to enter.
    #[cold]
    fn refuse_entry(&mut self) -> Error {
        self.release_stack_if_idle();
        Error::from(Trap::StackOverflow)
    }

    /// Sets whether the stack stays when nothing is active.
    #[cold]
    pub(crate) fn set_keep_stack(&mut self, keep: bool) {
        self.keep_stack = keep;
        self.stack.forget_ready();
        self.release_stack_if_idle();
    }

    /// Gives the stack back when nothing is active any more (store invariant 3).
    #[inline]
    fn release_stack_if_idle(&mut self) {
        if self.top.is_null() {
            self.release_stack();
            self.arena.reset();
        }
    }

    /// Gives the stack back, unless it is to be kept. Nothing is active.
    #[inline]
    pub(crate) fn release_stack(&mut self) {
        if !self.keep_stack {
            self.stack.release();
        }
    }
}
