//! Fibers that hand control to each other: a team, of which one member runs at a time.
//!
//! ```text
//!   run(a) --resume--> a --transfer--> b --transfer--> c      each transfer parks who makes it, and gives its parent,
//!     ^                                                |      the caller of `run`, to the other
//!     +------------- leave, return or panic -----------+      `run` returns with who that was
//! ```
//!
//! A transfer is one switch where going through the resumer is two. It does not nest: nobody waits for who was transferred to, so
//! any member can transfer to any parked one, to and fro, without growing anything.
//!
//! Invariants
//! 1. `running` names the member that runs; its core's `sp` is stale, and nobody reads it. All others are parked or finished.
//! 2. Members are added by `&mut Team`, and `run` has that while one runs: so the vector does not move then.
//! 3. All values that travel are `T`, so whoever goes back to `run`, and whoever is transferred to, finds what it expects.

use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::mem::ManuallyDrop;
use std::rc::Rc;
use std::vec::Vec;

use crate::arch;
use crate::hooks::{self, Bounds};
use crate::parked::{Core, FiberResult, drop_at};
use crate::stack::Stack;
use crate::suspender::Suspender;
use crate::trap::TrapHandler;
use crate::unwind;
use crate::value::{decode, encode};

/// Names a member of a [`Team`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(usize);

/// Why a member cannot be run or transferred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TeamError {
    /// The team has no such member: the name is another team's.
    Unknown {
        /// The number of the member.
        member: usize,
        /// How many members the team has.
        members: usize,
    },
    /// It has returned, panicked or was unwound.
    Finished {
        /// The number of the member.
        member: usize,
    },
    /// It is the one that runs.
    Running {
        /// The number of the member.
        member: usize,
    },
    /// The team is being dropped.
    Ending,
}

impl fmt::Display for TeamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TeamError::Unknown { member, members } => {
                write!(f, "there is no member {member} in a team of {members}")
            }
            TeamError::Finished { member } => write!(f, "member {member} is finished"),
            TeamError::Running { member } => write!(f, "member {member} is the one that runs"),
            TeamError::Ending => write!(f, "the team is being dropped"),
        }
    }
}

impl core::error::Error for TeamError {}

/// Fibers that transfer control to each other, with values of one type.
///
/// ```
/// use fibers::{FiberResult, GuardedStack, Team};
///
/// let mut team = Team::new();
/// let pong = team.add(GuardedStack::new(64 << 10)?, |me, mut ball: u32| loop {
///     ball = me.transfer(me.sender().unwrap(), ball * 2).unwrap();
/// });
/// let ping = team.add(GuardedStack::new(64 << 10)?, move |me, mut ball| {
///     for _ in 0..3 {
///         ball = me.transfer(pong, ball + 1).unwrap();
///     }
///     ball
/// });
/// assert_eq!(team.run(ping, 0)?, (ping, FiberResult::Return(14)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping a team unwinds its members, in the order in which they were added.
pub struct Team<T, S: Stack> {
    shared: Rc<Shared<T>>,
    // Dropped after the members are ended.
    stacks: Vec<(hooks::StackTag, S)>,
}

/// What the members know.
struct Shared<T> {
    cores: UnsafeCell<Vec<Place<T>>>,
    running: Cell<Option<usize>>,
    sender: Cell<Option<usize>>,
    is_ending: Cell<bool>,
    /// Bounds of the stack of the caller of `run`.
    parent: Cell<Bounds>,
}

/// A member's place.
struct Place<T> {
    core: Core<T, T, T>,
    drop_initial: unsafe fn(*mut u8),
}

impl<T> Shared<T> {
    /// The place of a member, and how many there are.
    fn place(&self, member: usize) -> Result<*mut Place<T>, TeamError> {
        let cores = self.cores.get();
        // SAFETY: nobody has a reference to the vector but for a moment, as here.
        let cores = unsafe { &mut *cores };
        let members = cores.len();
        if member >= members {
            return Err(TeamError::Unknown { member, members });
        }
        // No reference to the places is made: pointers to two of them are in use at a time.
        // SAFETY: in bounds, as just seen.
        Ok(unsafe { cores.as_mut_ptr().add(member) })
    }

    /// The place of a member that can be continued.
    fn parked(&self, member: usize) -> Result<*mut Place<T>, TeamError> {
        if self.is_ending.get() {
            return Err(TeamError::Ending);
        }
        let place = self.place(member)?;
        if self.running.get() == Some(member) {
            return Err(TeamError::Running { member });
        }
        // SAFETY: the vector stays (invariant 2).
        if unsafe { &(*place).core }.done() {
            return Err(TeamError::Finished { member });
        }
        Ok(place)
    }

    /// Tells tools: control has come to the member with this link from the stack `from`, of the caller of `run` or of the sender.
    #[inline(always)]
    fn arrived(&self, link: usize, from: Bounds) {
        match self.sender.get().map(|sender| self.place(sender)) {
            // SAFETY: the vector stays (invariant 2), and nobody has a reference into it.
            Some(Ok(sender)) => unsafe { &mut (*sender).core }.set_bounds(from),
            _ => self.parent.set(from),
        }
        // SAFETY: the member runs; its base is below its note.
        unsafe { hooks::note_parent(link, self.parent.get()) };
    }
}

impl<T: 'static, S: Stack + 'static> Team<T, S> {
    /// A team without members.
    pub fn new() -> Self {
        Team {
            shared: Rc::new(Shared {
                cores: UnsafeCell::new(Vec::new()),
                running: Cell::new(None),
                sender: Cell::new(None),
                is_ending: Cell::new(false),
                parent: Cell::new(Bounds::new(0, 0)),
            }),
            stacks: Vec::new(),
        }
    }

    /// Adds a member that will run `body` on `stack`, with the first value that reaches it.
    ///
    /// # Panics
    /// When the stack has no room for `body` and 1 KiB more.
    pub fn add<F>(&mut self, stack: S, body: F) -> MemberId
    where
        F: FnOnce(&Member<'_, T>, T) -> T + 'static,
    {
        self.stacks.reserve(1);
        let member = self.stacks.len();
        let shared = Rc::clone(&self.shared);
        let main = move |suspender: &Suspender<T, T>, first: T| {
            // SAFETY: the member runs, and has noted where it came from.
            shared.arrived(suspender.link(), unsafe { hooks::parent_of(suspender.link()) });
            let member = Member {
                shared: &shared,
                suspender,
                member,
            };
            body(&member, first)
        };
        let tag = hooks::stack_created(stack.base(), stack.limit());
        let place = place_of(&stack, main);
        // SAFETY: `&mut self`: no member runs (invariant 2), so nobody else looks at the vector.
        unsafe { &mut *self.shared.cores.get() }.push(place);
        self.stacks.push((tag, stack));
        MemberId(member)
    }

    /// Gives `value` to a member and lets it run, and those it transfers to, until one of them leaves, returns or panics. Says who.
    ///
    /// # Errors
    /// `Unknown` and `Finished`. The value is lost then.
    ///
    /// # Panics
    /// When a member panics: that panic goes on here, and that member is finished. The others stay parked where they are.
    pub fn run(&mut self, member: MemberId, value: T) -> Result<(MemberId, FiberResult<T, T>), TeamError> {
        let shared = &*self.shared;
        let place = shared.parked(member.0)?;
        // SAFETY: the vector stays while members run (invariant 2).
        let (sp, link) = unsafe { &(*place).core }.parked_at();
        let value = ManuallyDrop::new(value);
        shared.sender.set(None);
        shared.running.set(Some(member.0));
        // SAFETY: the vector stays (invariant 2).
        let bounds = unsafe { &*place }.core.bounds();
        // SAFETY: the member is parked.
        let left = unsafe { hooks::about_to_resume(bounds, link) };
        // SAFETY: the member is parked there, as it is not finished and nobody runs. Its number is replaced below, or was by its
        // transfer. The value is decoded before this goes on.
        let (word, sp) = unsafe { arch::switch_and_link_direct_word(encode(&value), sp, link) };
        let last = shared.running.take().expect("the one that came back");
        let place = shared.place(last).expect("members stay");
        // SAFETY: nobody runs, and nobody else has a reference into the vector.
        let core = unsafe { &mut (*place).core };
        core.set_bounds(hooks::switched(left));
        core.set_parked(sp);
        let result = match sp {
            // SAFETY: the member's end encoded a `T`, and its stack is still ours.
            unwind::RETURNED => FiberResult::Return(unsafe { decode(word) }),
            // SAFETY: as `sp` says.
            unwind::PANICKED => unsafe { unwind::resume_panic(word) },
            // SAFETY: its suspend encoded a `T` (invariant 3), and is parked.
            _ => FiberResult::Yield(unsafe { decode(word) }),
        };
        Ok((MemberId(last), result))
    }

    /// What a signal handler needs to end a member when its code traps.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn trap_handler(&self, member: MemberId) -> Result<TrapHandler<T>, TeamError> {
        let place = self.shared.place(member.0)?;
        // SAFETY: a look only; the vector stays.
        Ok(unsafe { &(*place).core }.trap_handler(self.stacks[member.0].1.limit()))
    }
}

/// A place for a member, generic over the closure that really runs, whose drop it names.
fn place_of<T, F: FnOnce(&Suspender<T, T>, T) -> T>(stack: &impl Stack, main: F) -> Place<T> {
    Place {
        // SAFETY: the team owns the stack, and ends the member before it drops that. All is `'static` there.
        core: unsafe { Core::new(stack, main) },
        drop_initial: drop_at::<F>,
    }
}

impl<T: 'static, S: Stack + 'static> Default for Team<T, S> {
    fn default() -> Self {
        Team::new()
    }
}

impl<T, S: Stack> Drop for Team<T, S> {
    fn drop(&mut self) {
        self.shared.is_ending.set(true);
        for member in 0..self.stacks.len() {
            let place = self.shared.place(member).expect("members stay");
            // SAFETY: nobody runs, and no member is continued by another while the team is ending. Each place was made by `place_of`.
            // Should a member panic in its unwinding, the rest is leaked, stacks included: see the guard.
            let guard = LeakRest(&raw mut self.stacks);
            // SAFETY: as above.
            let drop_initial = unsafe { (*place).drop_initial };
            // SAFETY: as above.
            let core = unsafe { &mut (*place).core };
            // SAFETY: as above.
            unsafe { core.end(drop_initial) };
            core::mem::forget(guard);
        }
    }
}

/// Leaks the stacks of members that cannot be ended any more.
struct LeakRest<S>(*mut Vec<S>);

impl<S> Drop for LeakRest<S> {
    fn drop(&mut self) {
        // SAFETY: the team is being dropped, and nobody else has its vector.
        core::mem::forget(core::mem::take(unsafe { &mut *self.0 }));
    }
}

impl<T, S: Stack> fmt::Debug for Team<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("members", &self.stacks.len())
            .finish_non_exhaustive()
    }
}

/// What a member's function has of its team.
pub struct Member<'fiber, T> {
    shared: &'fiber Rc<Shared<T>>,
    suspender: &'fiber Suspender<T, T>,
    member: usize,
}

impl<T> Member<'_, T> {
    /// The name of this member.
    pub fn id(&self) -> MemberId {
        MemberId(self.member)
    }

    /// Who transferred to this member last; `None` when [`Team::run`] did.
    pub fn sender(&self) -> Option<MemberId> {
        self.shared.sender.get().map(MemberId)
    }

    /// Parks this member and gives `value` to another, which runs in its place. Returns what is given to this one next.
    ///
    /// Unwinds instead when the team is dropped meanwhile ([`ForcedUnwind`](crate::ForcedUnwind)). Cost: one switch.
    ///
    /// # Errors
    /// When the other cannot be continued; nothing has happened then, and the value is lost.
    #[inline(always)]
    pub fn transfer(&self, to: MemberId, value: T) -> Result<T, TeamError> {
        let other = self.shared.parked(to.0)?;
        let own = self.shared.place(self.member)?;
        // SAFETY: the vector stays while members run (invariant 2).
        let (sp, link) = unsafe { &(*other).core }.parked_at();
        // SAFETY: as above.
        let bounds = unsafe { &*other }.core.bounds();
        // SAFETY: this member runs, and the other is parked.
        let left = unsafe { hooks::about_to_transfer(bounds, self.suspender.link(), link) };
        // SAFETY: as above; a place only.
        let own = unsafe { &raw mut (*own).core };
        // SAFETY: as above.
        let parked = unsafe { Core::parked_mut(own) };
        let value = ManuallyDrop::new(value);
        self.shared.sender.set(Some(self.member));
        self.shared.running.set(Some(to.0));
        // SAFETY: a member is reachable in its function only, so this runs on its fiber, or on one inside that is parked with it. The other
        // is parked (`parked`), on this thread, as a team is not `Send`. The caller of `run` reads `running`.
        let resumed =
            unsafe { arch::switch_transfer_word(encode(&value), self.suspender.link(), sp, link, parked) };
        self.suspender.note_parent(resumed.parent);
        let from = hooks::switched(left);
        if resumed.unwind {
            // SAFETY: the member runs, to be unwound; its base is below its note.
            unsafe { hooks::note_parent(self.suspender.link(), from) };
            unwind::throw();
        }
        self.shared.arrived(self.suspender.link(), from);
        // SAFETY: whoever continued this member encoded a `T` (invariant 3), and is parked.
        Ok(unsafe { decode(resumed.word) })
    }

    /// Parks this member and goes back to the caller of [`Team::run`] with `value`. Returns what is given to this one next.
    ///
    /// Unwinds instead when the team is dropped meanwhile.
    #[inline(always)]
    pub fn leave(&self, value: T) -> T {
        let value = self.suspender.suspend(value);
        let link = self.suspender.link();
        // SAFETY: the member runs, and has noted where it came from.
        self.shared.arrived(link, unsafe { hooks::parent_of(link) });
        value
    }
}

impl<T> fmt::Debug for Member<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Member").field(&self.member).finish()
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod tests;
