//! The safe fiber: a closure on a stack of its own, resumed and suspended with values.
//!
//! ```text
//!   new ----> parked, not started ----> running ----> parked ----> running ...
//!                     |                   ^  |           |
//!                     | drop: the closure |  |           | drop: unwound to its base
//!                     v                   |  v           v
//!                  finished <---------- return or panic: finished
//! ```
//!
//! Invariants
//! 1. `sp` is 0 if and only if the fiber is finished; else it is the newest `sp` of a fiber that is parked, or of
//!    one that runs, and then `&mut self` is borrowed by who resumed it.
//! 2. `sp == initial_sp` if and only if the fiber was never resumed: a fiber parks below its initial object.
//! 3. The stack is the fiber's own, and stays in place when the fiber is moved.
//!
//! A fiber is not `Send`: what lies on its stack is not told by its type. Nor is a suspender: a reference to
//! it must not reach another fiber, another thread, or [`Suspender::on_parent_stack`].

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use crate::arch::{self, FRAME_POINTER_OFFSET, InitialFunc, LINK_OFFSET, STACK_ALIGN, Word};
use crate::hooks;
use crate::raw;
use crate::stack::Stack;
use crate::trap::TrapHandler;
use crate::unwind::{self, CAN_UNWIND, PANICKED, RETURNED};
use crate::value::{decode, encode};

#[cfg(feature = "pool")]
use crate::stack::pool::{PoolConfig, PoolError, PooledStack, StackPool};

/// Bytes that a new fiber has below its closure, at least.
const MIN_ROOM: usize = 1024;

/// What a fiber gave when it was resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FiberResult<Yield, Return> {
    /// It suspended with this value, and can be resumed.
    Yield(Yield),
    /// Its function returned this value: it is finished.
    Return(Return),
}

impl<Yield, Return> FiberResult<Yield, Return> {
    /// The value of a suspend.
    pub fn into_yield(self) -> Option<Yield> {
        match self {
            FiberResult::Yield(value) => Some(value),
            FiberResult::Return(_) => None,
        }
    }

    /// The value that the function returned.
    pub fn into_return(self) -> Option<Return> {
        match self {
            FiberResult::Yield(_) => None,
            FiberResult::Return(value) => Some(value),
        }
    }
}

macro_rules! define_fiber {
    ($($default:tt)*) => {
        /// A function on a stack of its own, which can suspend in the middle.
        ///
        /// Dropping a fiber that is parked in its function unwinds it, so that what lies on its stack is
        /// dropped, with a panic whose payload is [`ForcedUnwind`](crate::ForcedUnwind). Where nothing can be
        /// unwound (`panic = "abort"`, or no feature `unwind`) that aborts and says so.
        ///
        /// A fiber stays on its thread, as its type does not tell what lies on its stack:
        ///
        /// ```compile_fail,E0277
        /// fn send<T: Send>() {}
        /// send::<fibers::Fiber<(), (), (), fibers::GuardedStack>>();
        /// ```
        ///
        /// # What the types do not see
        /// Code that lends something for the time of a call takes for granted that calls end in order; those in a
        /// suspended fiber may end later. So:
        /// - A fiber that is suspended in `LocalKey::with` has to end before that
        ///   thread-local is dropped: do not keep such a fiber in a thread-local itself.
        /// - Do not suspend in a call that has put a reference into a thread-local place for its time, as scoped
        ///   thread-locals do.
        pub struct Fiber<Input, Yield, Return, S: Stack $($default)*> {
            sp: usize,
            link: usize,
            initial_sp: usize,
            drop_initial: unsafe fn(*mut u8),
            /// Before the stack, as fields are dropped in order.
            tag: hooks::StackTag,
            stack: S,
            bounds: hooks::Bounds,
            // Takes inputs, gives results; and neither `Send` nor `Sync`, see the head.
            marker: PhantomData<(fn(Input) -> FiberResult<Yield, Return>, *mut ())>,
        }
    };
}

#[cfg(feature = "pool")]
define_fiber!(= PooledStack);
#[cfg(not(feature = "pool"))]
define_fiber!();

#[cfg(feature = "pool")]
impl<Input, Yield, Return> Fiber<Input, Yield, Return> {
    /// A fiber that will run `body`, on a stack of the process's own pool: 65536 stacks of 1 MiB.
    ///
    /// # Errors
    /// As [`StackPool::new`] and [`StackPool::take`].
    pub fn new<F>(body: F) -> Result<Self, PoolError>
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return + 'static,
        Input: 'static,
        Yield: 'static,
        Return: 'static,
    {
        Ok(Fiber::with_stack(default_pool()?.take()?, body))
    }
}

/// The pool of [`Fiber::new`].
#[cfg(feature = "pool")]
fn default_pool() -> Result<&'static StackPool, PoolError> {
    static POOL: std::sync::OnceLock<Result<StackPool, PoolError>> = std::sync::OnceLock::new();
    let make = || {
        StackPool::new(PoolConfig {
            max_stacks: 1 << 16,
            ..PoolConfig::default()
        })
    };
    POOL.get_or_init(make).as_ref().map_err(|error| *error)
}

impl<Input, Yield, Return, S: Stack> Fiber<Input, Yield, Return, S> {
    /// A fiber that will run `body` on `stack`.
    ///
    /// Cost: a few nanoseconds. `body` is moved to the stack.
    ///
    /// # Panics
    /// When the stack has no room for `body` and 1 KiB more.
    #[inline]
    pub fn with_stack<F>(stack: S, body: F) -> Self
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return + 'static,
        Input: 'static,
        Yield: 'static,
        Return: 'static,
        S: 'static,
    {
        // SAFETY: nothing is borrowed, as the bounds say.
        unsafe { Self::with_stack_unchecked(stack, body) }
    }

    /// [`with_stack`](Self::with_stack) for values and stacks that borrow.
    ///
    /// # Panics
    /// As `with_stack`.
    ///
    /// # Safety
    /// What `body`, the values and the stack borrow stays borrowed until the fiber is finished or dropped; if it
    /// is forgotten, for ever. `body` does not use the suspender of another fiber.
    #[inline]
    pub unsafe fn with_stack_unchecked<F>(stack: S, body: F) -> Self
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return,
    {
        check_room::<F>(&stack);
        let base = stack.base() - hooks::NOTE_BYTES;
        let main: FiberMain<F> = fiber_main::<Input, Yield, Return, F>;
        // SAFETY: the types differ in `MaybeUninit<u64>` for `u64`, which is passed in the same way.
        let main = unsafe { core::mem::transmute::<FiberMain<F>, InitialFunc<F>>(main) };
        // SAFETY: the stack is ours, aligned by its contract, and has room.
        let sp = unsafe { arch::init_stack(base, main, body) };
        Fiber {
            sp,
            link: base - LINK_OFFSET,
            initial_sp: sp,
            drop_initial: drop_at::<F>,
            tag: hooks::stack_created(stack.base(), stack.limit()),
            bounds: hooks::Bounds::new(stack.base(), stack.limit()),
            stack,
            marker: PhantomData,
        }
    }

    /// Runs the fiber until it suspends or ends, and gives it `input`: what its function is called with, or what
    /// its suspend returns.
    ///
    /// Cost: with the suspend that answers, two switches of about a nanosecond each. Values of up to 8 bytes
    /// travel in a register.
    ///
    /// # Panics
    /// When the fiber is finished. When its function panics: that panic goes on here, with its payload.
    #[inline]
    pub fn resume(&mut self, input: Input) -> FiberResult<Yield, Return> {
        if self.sp == RETURNED {
            resumed_when_finished();
        }
        let input = ManuallyDrop::new(input);
        let left = hooks::about_to_switch(&self.bounds, true);
        // SAFETY: invariant 1: the fiber is parked at `sp`, which is replaced below. The input is decoded
        // before anything else runs here, and not used again.
        let (word, sp) = unsafe { arch::switch_and_link_direct_word(encode(&input), self.sp, self.link) };
        self.bounds = hooks::switched(left);
        if sp > PANICKED {
            self.sp = sp;
            // SAFETY: a suspend of this fiber encoded a `Yield`, and is parked.
            return FiberResult::Yield(unsafe { decode(word) });
        }
        self.sp = RETURNED;
        if sp == PANICKED {
            // SAFETY: as `sp` says.
            unsafe { unwind::resume_panic(word) }
        }
        // SAFETY: the function's end encoded a `Return`, and the stack is still ours.
        FiberResult::Return(unsafe { decode(word) })
    }

    /// Starts to load what [`resume`](Self::resume) touches first, for a fiber that is resumed a few fibers later.
    #[inline]
    pub fn prefetch(&self) {
        arch::prefetch(self.sp, self.link);
    }

    /// Whether the fiber was resumed.
    pub fn started(&self) -> bool {
        self.sp != self.initial_sp
    }

    /// Whether the fiber is finished: its function has returned, panicked or was unwound.
    pub fn done(&self) -> bool {
        self.sp == RETURNED
    }

    /// Ends the fiber: unwinds what is on its stack, as a drop does. Nothing happens to one that is finished.
    ///
    /// # Panics
    /// When a destructor on the fiber's stack panics, or its function panics otherwise: that panic goes on here.
    ///
    /// # Aborts
    /// When the fiber has frames and nothing can be unwound, and when it suspends instead of unwinding: both say so.
    #[inline]
    pub fn force_unwind(&mut self) {
        if self.sp != RETURNED {
            let sp = core::mem::replace(&mut self.sp, RETURNED);
            let initial = (sp == self.initial_sp).then_some(self.drop_initial);
            // SAFETY: invariants 1 and 2: the fiber is parked at `sp`, which nobody uses again, and has its
            // initial object if it was never resumed.
            unsafe { end_parked::<Return>(sp, self.link, initial, &self.bounds) }
        }
    }

    /// Declares the fiber finished, whatever is on its stack. Cost: nothing.
    ///
    /// # Safety
    /// Nothing on the fiber's stack needs to be dropped or is referred to from elsewhere; a closure that was never
    /// started is forgotten.
    pub unsafe fn force_reset(&mut self) {
        self.sp = RETURNED;
    }

    /// The stack, after [`force_unwind`](Self::force_unwind).
    ///
    /// # Panics
    /// As `force_unwind`.
    #[inline]
    pub fn into_stack(self) -> S {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so the stack is moved out once. It stays in place (invariant 3), and is
        // dropped should the fiber's unwinding panic.
        let stack = unsafe { core::ptr::read(&this.stack) };
        // SAFETY: the same.
        let _tag = unsafe { core::ptr::read(&this.tag) };
        this.force_unwind();
        stack
    }

    /// What a signal handler needs to end this fiber when its code traps.
    ///
    /// To be made and put where the handler finds it before the fiber is resumed.
    pub fn trap_handler(&self) -> TrapHandler<Return> {
        TrapHandler::new(self.link + LINK_OFFSET, self.stack.limit())
    }
}

impl<Input, Yield, Return, S: Stack> Drop for Fiber<Input, Yield, Return, S> {
    #[inline]
    fn drop(&mut self) {
        self.force_unwind();
    }
}

impl<Input, Yield, Return, S: Stack> fmt::Debug for Fiber<Input, Yield, Return, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fiber")
            .field("started", &self.started())
            .field("done", &self.done())
            .finish()
    }
}

/// What a fiber's function suspends with. It lies on the fiber's stack: it is the parent link.
#[repr(transparent)]
pub struct Suspender<Input, Yield> {
    /// Written by whoever resumes; the cell also keeps references to it from other threads.
    link: UnsafeCell<usize>,
    marker: PhantomData<fn(Yield) -> Input>,
}

impl<Input, Yield> Suspender<Input, Yield> {
    /// Suspends the fiber: its resume returns `value`. Returns what the next resume gives.
    ///
    /// Unwinds instead when the fiber is dropped meanwhile ([`ForcedUnwind`](crate::ForcedUnwind)).
    // Inlined, so that the return predictor stays in step: see the head of the architecture's file.
    #[inline(always)]
    pub fn suspend(&self, value: Yield) -> Input {
        let value = ManuallyDrop::new(value);
        // SAFETY: the fiber runs, and noted its parent when it was resumed.
        let parent = unsafe { hooks::parent_of(self.link()) };
        let left = hooks::about_to_switch(&parent, true);
        // SAFETY: a suspender is reachable on its fiber only, as it is not `Sync` and no closure that can be given to
        // another fiber may borrow it; so this runs there. The value is decoded before the fiber goes on.
        let (word, unwind) = unsafe { arch::switch_yield_word(encode(&value), self.link()) };
        // SAFETY: the fiber runs; its base is below its note.
        unsafe { hooks::note_parent(self.link(), hooks::switched(left)) };
        if unwind {
            unwind::throw();
        }
        // SAFETY: the resume of this fiber encoded an `Input`, and is parked.
        unsafe { decode(word) }
    }

    /// Calls `body` on the stack of whoever resumed this fiber, and comes back. Panics pass through.
    ///
    /// For code that needs more stack than the fiber has. Cost: two calls.
    ///
    /// # Aborts
    /// When the fiber suspends in `body`: what is parked would lie on the stack of somebody who goes on. `Send` keeps the
    /// suspender out, unless something hides it that is `Send` by checking the thread.
    ///
    /// ```compile_fail,E0277
    /// use fibers::{Fiber, GuardedStack};
    /// let stack = GuardedStack::new(1 << 16).unwrap();
    /// Fiber::<(), (), (), _>::with_stack(stack, |suspender, ()| suspender.on_parent_stack(|| suspender.suspend(())));
    /// ```
    #[inline]
    pub fn on_parent_stack<F, R>(&self, body: F) -> R
    where
        F: FnOnce() -> R + Send,
    {
        // SAFETY: the fiber runs, so the link holds P, the address of its parked parent's frame record.
        let parked = unsafe { self.link.get().read_volatile() };
        let mut loan = arch::Loan::default();
        // SAFETY: `parked` was just read from the link.
        let lent = unsafe { arch::lend(&mut loan, parked) };
        // SAFETY: the word is ours as long as the fiber runs. The loan stays in place until `_back` is dropped.
        unsafe { self.link.get().write_volatile(lent) };
        let _back = GiveBack {
            link: &self.link,
            parked,
        };
        let free = (parked - FRAME_POINTER_OFFSET) & !(STACK_ALIGN - 1);
        // SAFETY: what is below the parent's frame record is free to be borrowed while it is parked.
        unsafe { raw::on_stack(free, body) }
    }

    #[inline(always)]
    fn link(&self) -> usize {
        self.link.get() as usize
    }
}

/// Ends a loan of the parent's stack: writes P into the parent link.
struct GiveBack<'fiber> {
    link: &'fiber UnsafeCell<usize>,
    parked: usize,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        // SAFETY: the word is the fiber's as long as it runs, and this is on it.
        unsafe { self.link.get().write_volatile(self.parked) };
    }
}

/// An [`InitialFunc`] whose word may be partly uninitialised.
type FiberMain<F> = unsafe extern "C" fn(Word, usize, *mut F) -> !;

/// The first function on a fiber's stack.
///
/// # Safety
/// Entered as `init_stack` arranges it.
unsafe extern "C" fn fiber_main<Input, Yield, Return, F>(word: Word, link: usize, body: *mut F) -> !
where
    F: FnOnce(&Suspender<Input, Yield>, Input) -> Return,
{
    // SAFETY: the fiber runs; its base is below its note.
    unsafe { hooks::note_parent(link, hooks::switched(hooks::Left::NOTHING)) };
    // SAFETY: `init_stack` moved it there, and this runs once.
    let body = unsafe { body.read() };
    // SAFETY: the first resume encoded an `Input`, as a fiber that was never resumed is not unwound.
    let input = unsafe { decode::<Input>(word) };
    // SAFETY: the link lies at the base of this stack, which outlives the function; a suspender is that word.
    let suspender = unsafe { &*(link as *const Suspender<Input, Yield>) };
    // SAFETY: this is the base of the fiber, and nothing here is left to be dropped.
    unsafe { unwind::run_to_end(link, || body(suspender, input)) }
}

/// Ends a fiber that is parked: drops its initial object, or unwinds it.
///
/// Takes numbers and not the fiber, so that a fiber can live in registers.
///
/// # Safety
/// The fiber with this link, whose function returns a `Return`, is parked at `sp`, and `initial` drops its initial object
/// if it was never resumed.
#[cold]
#[inline(never)]
unsafe fn end_parked<Return>(
    sp: usize,
    link: usize,
    initial: Option<unsafe fn(*mut u8)>,
    bounds: &hooks::Bounds,
) {
    if let Some(drop_initial) = initial {
        // SAFETY: the caller's promise.
        return unsafe { arch::drop_initial_obj(sp, drop_initial) };
    }
    if !CAN_UNWIND {
        unwind::die(
            "a suspended fiber was dropped, and without unwinding its frames cannot be: \
             let it finish, or use force_reset",
        );
    }
    let left = hooks::about_to_switch(bounds, true);
    // SAFETY: the caller's promise: the fiber is parked in a suspend.
    let (word, sp) = unsafe { arch::switch_and_throw(sp, link) };
    hooks::switched(left);
    match sp {
        // SAFETY: the function returned all the same; its end encoded a `Return`.
        RETURNED => drop(unsafe { decode::<Return>(Word::new(word)) }),
        // SAFETY: as `sp` says.
        PANICKED => unsafe { unwind::resume_other_panic(Word::new(word)) },
        _ => unwind::die("a fiber suspended while it was being unwound"),
    }
}

/// # Safety
/// `at` points to a `T`, which is not used again.
unsafe fn drop_at<T>(at: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<T>().drop_in_place() }
}

/// Panics when a stack has no room for a closure of type `F`.
#[inline]
fn check_room<F>(stack: &impl Stack) {
    let room = stack.base() - stack.limit() - stack.guard_bytes();
    let needed = size_of::<F>() + align_of::<F>() + arch::INIT_OVERHEAD + hooks::NOTE_BYTES + MIN_ROOM;
    assert!(
        needed <= room,
        "a stack of {room} bytes has no room for a fiber that needs {needed} to start"
    );
}

#[cold]
#[inline(never)]
fn resumed_when_finished() -> ! {
    panic!("a finished fiber was resumed");
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod tests;
