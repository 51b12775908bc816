//! What all typed fibers are made of: a parked side, its link, and the words that go between.
//!
//! Invariants
//! 1. `sp` is 0 if and only if the fiber is finished; else it is the newest `sp` of a fiber that is parked, or of
//!    one that runs, and then the core is borrowed by who resumed it.
//! 2. `sp == initial_sp` if and only if the fiber was never resumed: a fiber parks below its initial object.
//! 3. The memory from the base down stays in place, and nobody else uses it, until the core is finished or forgotten.
//! 4. A core that is not finished is ended (`end`) before the memory is used for something else, unless its maker's
//!    caller has promised otherwise.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use crate::arch::{self, LINK_OFFSET, Word};
use crate::hooks::{self, Bounds};
use crate::stack::Stack;
use crate::start::{self, Main};
use crate::suspender::Suspender;
use crate::trap::TrapHandler;
use crate::unwind::{self, CAN_UNWIND, PANICKED, RETURNED};
use crate::value::{decode, encode};

/// Bytes that a new fiber has below its closure, at least.
const MIN_ROOM: usize = 1024;

/// How often a fiber that is being unwound may suspend all the same.
const UNWIND_ATTEMPTS: u32 = 1000;

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

/// A fiber without its stack.
pub(crate) struct Core<Input, Yield, Return> {
    sp: usize,
    link: usize,
    initial_sp: usize,
    bounds: Bounds,
    // Takes inputs, gives results; and neither `Send` nor `Sync`: what lies on its stack is not told by its type.
    marker: PhantomData<(Resume<Input, Yield, Return>, *mut ())>,
}

/// How values go.
type Resume<Input, Yield, Return> = fn(Input) -> FiberResult<Yield, Return>;

impl<Input, Yield, Return> Core<Input, Yield, Return> {
    /// A fiber that will run `body` on `stack`.
    ///
    /// # Panics
    /// When the stack has no room for `body` and 1 KiB more.
    ///
    /// # Safety
    /// Invariants 3 and 4 are kept, and the hooks were told of the stack. What `body` and the values borrow stays borrowed as long.
    #[inline(always)]
    pub(crate) unsafe fn new<F>(stack: &impl Stack, body: F) -> Self
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return,
    {
        let (stack_base, limit) = (stack.base(), stack.limit());
        check_room::<F>(stack_base - limit - stack.guard_bytes());
        let base = stack_base - hooks::NOTE_BYTES;
        // SAFETY: the stack is ours, aligned by its contract, and has room.
        let sp = unsafe { start::prepare::<Body<Input, Yield, Return, F>>(base, body) };
        Core {
            sp,
            link: base - LINK_OFFSET,
            initial_sp: sp,
            bounds: Bounds::new(stack_base, limit),
            marker: PhantomData,
        }
    }

    /// Runs the fiber until it suspends or ends.
    ///
    /// # Panics
    /// When the fiber is finished, and when it panics.
    #[inline(always)]
    pub(crate) fn resume(&mut self, input: Input) -> FiberResult<Yield, Return> {
        if self.sp == RETURNED {
            resumed_when_finished();
        }
        let input = ManuallyDrop::new(input);
        // SAFETY: invariant 1: the fiber is parked.
        let left = unsafe { hooks::about_to_resume(&self.bounds, self.link) };
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

    /// Ends the fiber: drops its initial object with `drop_initial` if it was never resumed, else unwinds it.
    ///
    /// # Panics
    /// When the fiber panics meanwhile.
    ///
    /// # Safety
    /// `drop_initial` drops the body that the core was made with.
    #[inline(always)]
    pub(crate) unsafe fn end(&mut self, drop_initial: unsafe fn(*mut u8)) {
        if self.sp != RETURNED {
            let parts = self.parts();
            self.sp = RETURNED;
            // SAFETY: the caller's promise; `self` does not use the numbers again.
            unsafe { parts.end(drop_initial) }
        }
    }

    /// The numbers of a core that is not used again.
    #[inline(always)]
    pub(crate) fn parts(&self) -> Parts<Yield, Return> {
        Parts {
            sp: self.sp,
            link: self.link,
            initial_sp: self.initial_sp,
            bounds: self.bounds,
            marker: PhantomData,
        }
    }

    /// Declares the fiber finished.
    ///
    /// # Safety
    /// Nothing on the fiber's stack needs to be dropped or is referred to from elsewhere.
    pub(crate) unsafe fn reset(&mut self) {
        self.sp = RETURNED;
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        arch::prefetch(self.sp, self.link);
    }

    pub(crate) fn started(&self) -> bool {
        self.sp != self.initial_sp
    }

    pub(crate) fn done(&self) -> bool {
        self.sp == RETURNED
    }

    /// What a signal handler needs, given the stack's limit.
    pub(crate) fn trap_handler(&self, limit: usize) -> TrapHandler<Return> {
        TrapHandler::new(self.link + LINK_OFFSET, limit)
    }
}

/// What a team needs.
#[cfg(feature = "std")]
impl<Input, Yield, Return> Core<Input, Yield, Return> {
    /// What a transfer needs: where it is parked, and its link.
    pub(crate) fn parked_at(&self) -> (usize, usize) {
        (self.sp, self.link)
    }

    /// What tools are told of it.
    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Takes what came with the last word: where it is parked, or that it is finished.
    pub(crate) fn set_parked(&mut self, sp: usize) {
        self.sp = if sp > PANICKED { sp } else { RETURNED };
    }

    /// Where a transfer from this fiber writes its `sp`.
    ///
    /// # Safety
    /// `this` points to a core.
    pub(crate) unsafe fn parked_mut(this: *mut Self) -> *mut usize {
        // SAFETY: the caller's promise.
        unsafe { &raw mut (*this).sp }
    }
}

/// What is left of a core that is ended.
pub(crate) struct Parts<Yield, Return> {
    sp: usize,
    link: usize,
    initial_sp: usize,
    bounds: Bounds,
    marker: PhantomData<fn() -> FiberResult<Yield, Return>>,
}

impl<Yield, Return> Parts<Yield, Return> {
    /// As [`Core::end`].
    ///
    /// # Safety
    /// As there, and the parts are the core's last.
    #[inline(always)]
    unsafe fn end(self, drop_initial: unsafe fn(*mut u8)) {
        let initial = (self.sp == self.initial_sp).then_some(drop_initial);
        // SAFETY: invariants 1 and 2: the fiber is parked at `sp`, which nobody uses again, and has its
        // initial object if it was never resumed.
        unsafe { end_parked::<Yield, Return>(self.sp, self.link, initial, self.bounds) }
    }

    /// Ends the fiber if it is not finished, and drops what it had.
    ///
    /// # Safety
    /// As for `end`; the stack is the fiber's.
    #[inline(always)]
    pub(crate) unsafe fn finish<S>(self, drop_initial: unsafe fn(*mut u8), tag: hooks::StackTag, stack: S) {
        // SAFETY: the caller's promise.
        unsafe {
            finish::<Yield, Return, S>(
                self.sp,
                self.link,
                self.initial_sp,
                self.bounds,
                drop_initial,
                tag,
                stack,
            )
        }
    }
}

/// [`Parts::finish`], with arguments that travel in registers.
///
/// # Safety
/// As there.
#[inline]
unsafe fn finish<Yield, Return, S>(
    sp: usize,
    link: usize,
    initial_sp: usize,
    bounds: Bounds,
    drop_initial: unsafe fn(*mut u8),
    tag: hooks::StackTag,
    stack: S,
) {
    // Dropped after the tag, also when the fiber's unwinding panics.
    let _stack = stack;
    let _tag = tag;
    if sp != RETURNED {
        let initial = (sp == initial_sp).then_some(drop_initial);
        // SAFETY: the caller's promise, as in `Parts::end`.
        unsafe { end_parked::<Yield, Return>(sp, link, initial, bounds) }
    }
}

/// The function at the base of a fiber that runs a body of type `F`.
struct Body<Input, Yield, Return, F>(PhantomData<(Input, Yield, Return, F)>);

impl<Input, Yield, Return, F> Main for Body<Input, Yield, Return, F>
where
    F: FnOnce(&Suspender<Input, Yield>, Input) -> Return,
{
    type Object = F;

    unsafe extern "C" fn main(word: Word, link: usize, body: *mut F) -> ! {
        // SAFETY: the fiber runs; its base is below its note.
        unsafe { hooks::note_parent(link, hooks::switched(hooks::Left::NOTHING)) };
        // SAFETY: `prepare` moved it there, and this runs once.
        let body = unsafe { body.read() };
        // SAFETY: the first resume encoded an `Input`, as a fiber that was never resumed is not unwound.
        let input = unsafe { decode::<Input>(word) };
        // SAFETY: this is the fiber with that link, and what its function gets by reference does not leave it.
        let suspender = unsafe { Suspender::new(link) };
        // SAFETY: this is the base of the fiber, and nothing here is left to be dropped.
        unsafe { unwind::run_to_end(link, || body(&suspender, input)) }
    }
}

/// Ends a fiber that is parked: drops its initial object, or unwinds it.
///
/// Takes numbers and not the fiber, so that a fiber can live in registers.
///
/// # Safety
/// The fiber with this link, which yields `Yield` and returns `Return`, is parked at `sp`, and `initial` drops its initial
/// object if it was never resumed.
#[cold]
#[inline(never)]
unsafe fn end_parked<Yield, Return>(
    sp: usize,
    link: usize,
    initial: Option<unsafe fn(*mut u8)>,
    mut bounds: Bounds,
) {
    if let Some(drop_initial) = initial {
        // SAFETY: the caller's promise.
        return unsafe { start::drop_object(sp, drop_initial) };
    }
    if !CAN_UNWIND {
        unwind::die(
            "a suspended fiber was dropped, and without unwinding its frames cannot be: \
             let it finish, or use force_reset",
        );
    }
    let mut parked = sp;
    for _ in 0..UNWIND_ATTEMPTS {
        // SAFETY: the caller's promise, and below: the fiber is parked.
        let left = unsafe { hooks::about_to_resume(&bounds, link) };
        // SAFETY: the caller's promise, and below: the fiber is parked in a suspend.
        let (word, sp) = unsafe { arch::switch_and_throw(parked, link) };
        bounds = hooks::switched(left);
        match sp {
            // SAFETY: the function returned all the same; its end encoded a `Return`.
            RETURNED => return drop(unsafe { decode::<Return>(Word::new(word)) }),
            // SAFETY: as `sp` says.
            PANICKED => return unsafe { unwind::resume_other_panic(Word::new(word)) },
            // It caught the unwinding and went on, to its next suspend: once more.
            // SAFETY: a suspend of this fiber encoded a `Yield`, and is parked.
            _ => unwind::drop_or_die(unsafe { decode::<Yield>(Word::new(word)) }),
        }
        parked = sp;
    }
    unwind::die("a fiber that was unwound has caught that and suspended a thousand times")
}

/// # Safety
/// `at` points to a `T`, which is not used again.
pub(crate) unsafe fn drop_at<T>(at: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<T>().drop_in_place() }
}

/// Panics when a stack with `room` bytes has no room for a closure of type `F`.
#[inline(always)]
fn check_room<F>(room: usize) {
    let needed = size_of::<F>() + align_of::<F>() + arch::INIT_OVERHEAD + hooks::NOTE_BYTES + MIN_ROOM;
    if needed > room {
        no_room(needed, room);
    }
}

#[cold]
#[inline(never)]
fn no_room(needed: usize, room: usize) -> ! {
    panic!("a stack of {room} bytes has no room for a fiber that needs {needed} to start");
}

#[cold]
#[inline(never)]
fn resumed_when_finished() -> ! {
    panic!("a finished fiber was resumed");
}
