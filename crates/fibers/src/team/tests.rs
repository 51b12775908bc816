use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::testing::{in_child, on_signals_of};
use crate::{ForcedUnwind, GuardedStack, ScopedFiber};

fn stack() -> GuardedStack {
    GuardedStack::new(64 << 10).expect("a stack")
}

/// The name of the member with this number.
fn id(number: usize) -> MemberId {
    MemberId(number)
}

#[test]
fn control_goes_round_a_ring_and_comes_back_from_anywhere() {
    const MEMBERS: usize = 7;
    let mut team = Team::new();
    for number in 0..MEMBERS {
        team.add(stack(), move |me: &Member<'_, Vec<usize>>, mut path| {
            assert_eq!(me.id(), id(number));
            loop {
                path.push(number);
                path = match path.len() % 10 {
                    0 => me.leave(path),
                    _ => me.transfer(id((number + 1) % MEMBERS), path).unwrap(),
                };
            }
        });
    }
    let mut path = Vec::new();
    let mut next = 0;
    for round in 1..=30 {
        let (last, result) = team.run(id(next), path).unwrap();
        path = result.into_yield().unwrap();
        assert_eq!(path.len(), 10 * round);
        assert_eq!(last, id(path[path.len() - 1]));
        next = (last.0 + 1) % MEMBERS;
    }
    assert!(
        path.iter()
            .enumerate()
            .all(|(at, member)| *member == at % MEMBERS)
    );
}

#[test]
fn transfers_do_not_nest_and_need_no_room() {
    let mut team = Team::new();
    let pong = team.add(stack(), |me: &Member<'_, u32>, mut left| {
        let mut places = std::collections::HashSet::new();
        loop {
            let local = 0u8;
            places.insert((&raw const local) as usize);
            assert_eq!(places.len(), 1);
            left = me.transfer(me.sender().unwrap(), left).unwrap();
        }
    });
    let ping = team.add(stack(), move |me, mut left| {
        while left > 0 {
            left = me.transfer(pong, left - 1).unwrap();
        }
        left
    });
    assert_eq!(team.run(ping, 1_000_000), Ok((ping, FiberResult::Return(0))));
}

#[test]
fn who_cannot_be_continued_is_an_error_with_its_number() {
    let mut team = Team::new();
    let done = team.add(stack(), |_: &Member<'_, u32>, value| value);
    let other = team.add(stack(), move |me: &Member<'_, u32>, value| {
        assert_eq!(me.transfer(done, value), Err(TeamError::Finished { member: 0 }));
        assert_eq!(me.transfer(me.id(), value), Err(TeamError::Running { member: 1 }));
        let unknown = TeamError::Unknown {
            member: 9,
            members: 2,
        };
        assert_eq!(me.transfer(id(9), value), Err(unknown));
        assert_eq!(me.sender(), None);
        value + 1
    });
    assert_eq!(team.run(done, 1), Ok((done, FiberResult::Return(1))));
    assert_eq!(team.run(done, 1), Err(TeamError::Finished { member: 0 }));
    assert_eq!(team.run(other, 1), Ok((other, FiberResult::Return(2))));
    let text = team.run(id(5), 0).unwrap_err().to_string();
    assert_eq!(text, "there is no member 5 in a team of 2");
}

#[test]
fn a_panic_after_transfers_goes_on_in_run_and_the_others_stay() {
    let mut team = Team::new();
    let panics = team.add(stack(), |_: &Member<'_, u32>, value: u32| {
        std::panic::resume_unwind(Box::new(value))
    });
    let stays = team.add(stack(), move |me: &Member<'_, u32>, value| {
        let answer = me.transfer(panics, value + 1).unwrap();
        assert_eq!(me.transfer(panics, 0), Err(TeamError::Finished { member: 0 }));
        answer
    });
    let payload = catch_unwind(AssertUnwindSafe(|| team.run(stays, 4))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&5u32));
    assert_eq!(team.run(stays, 6), Ok((stays, FiberResult::Return(6))));
}

/// Notes its number when it is dropped.
struct Note(u32, Rc<std::cell::RefCell<Vec<u32>>>);

impl Note {
    fn number(&self) -> u32 {
        self.0
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
    }
}

#[test]
fn a_dropped_team_unwinds_its_members_and_frees_what_they_share() {
    let notes = Rc::new(std::cell::RefCell::new(Vec::new()));
    let mut team = Team::new();
    for number in 0..3u32 {
        let (captured, notes) = (Note(10 * number, notes.clone()), notes.clone());
        team.add(stack(), move |me: &Member<'_, u32>, value| {
            let _captured = captured;
            let _local = Note(10 * number + 1, notes);
            let payload =
                catch_unwind(AssertUnwindSafe(|| me.transfer(id(number as usize + 1), value))).unwrap_err();
            assert!(payload.is::<ForcedUnwind>());
            // The team is ending: nobody else is continued by those who are unwound.
            assert_eq!(me.transfer(id(2), 0), Err(TeamError::Ending));
            std::panic::resume_unwind(payload);
        });
    }
    team.add(stack(), |me: &Member<'_, u32>, value| me.leave(value + 1));
    // Never started: its closure is dropped.
    let never = Note(77, notes.clone());
    team.add(stack(), move |_: &Member<'_, u32>, _| Note::number(&never));
    let shared = Rc::downgrade(&team.shared);
    assert_eq!(team.run(id(0), 1), Ok((id(3), FiberResult::Yield(2))));
    drop(team);
    assert_eq!(*notes.borrow(), [1, 0, 11, 10, 21, 20, 77]);
    assert_eq!(shared.strong_count(), 0);
}

#[test]
fn a_fiber_inside_a_member_is_parked_with_it() {
    let mut team = Team::new();
    let other = team.add(stack(), |me: &Member<'_, u32>, mut value| {
        loop {
            value = me.transfer(me.sender().unwrap(), value * 2).unwrap();
        }
    });
    let outer = team.add(stack(), move |me: &Member<'_, u32>, first| {
        let fiber = ScopedFiber::with_stack(stack(), |inner: &Suspender<u32, u32>, value| {
            let doubled = me.transfer(other, value).unwrap();
            let given = inner.suspend(doubled);
            me.leave(me.transfer(other, given + 1).unwrap())
        });
        fiber.scope(|mut fiber| {
            let doubled = fiber.resume(first).into_yield().unwrap();
            fiber.resume(doubled).into_return().unwrap()
        })
    });
    assert_eq!(team.run(outer, 5), Ok((outer, FiberResult::Yield(22))));
    assert_eq!(team.run(outer, 3), Ok((outer, FiberResult::Return(3))));
}

#[test]
fn a_trap_after_a_transfer_ends_who_trapped() {
    fn trapping(depth: u32) -> u64 {
        if depth > 0 {
            return trapping(depth - 1) + 1;
        }
        // SAFETY: a fault, which the handler answers.
        unsafe { (16 as *const u64).read_volatile() }
    }
    let output = in_child("team::tests::a_trap_after_a_transfer_ends_who_trapped", || {
        let mut team = Team::new();
        let traps = team.add(stack(), |_: &Member<'_, u64>, _| trapping(20));
        let first = team.add(stack(), move |me: &Member<'_, u64>, value| {
            me.transfer(traps, value).unwrap() + 1
        });
        let handler = team.trap_handler(traps).unwrap();
        let handle = move |stack_pointer| {
            handler.is_stack_pointer_inside(stack_pointer).then(|| {
                // SAFETY: the member read an address, and has nothing to drop.
                unsafe { handler.setup_trap_trampoline(|| 42) }
            })
        };
        let result = on_signals_of(handle, || (team.run(first, 1), team));
        let (result, mut team) = result;
        assert_eq!(result, Ok((traps, FiberResult::Return(42))));
        assert_eq!(team.run(traps, 0), Err(TeamError::Finished { member: traps.0 }));
        assert_eq!(team.run(first, 6), Ok((first, FiberResult::Return(7))));
        std::process::exit(0);
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What crates offer that make anything `Send` by checking the thread at each access.
struct OfOneThread<T>(T, std::thread::ThreadId);

// SAFETY: `get` gives the value to its own thread only, and the tests drop it there.
unsafe impl<T> Send for OfOneThread<T> {}

impl<T> OfOneThread<T> {
    fn new(value: T) -> OfOneThread<T> {
        OfOneThread(value, std::thread::current().id())
    }

    fn get(&self) -> &T {
        assert_eq!(self.1, std::thread::current().id());
        &self.0
    }
}

#[test]
fn a_member_is_parked_while_a_fiber_inside_runs_on_its_stack() {
    let rc = Rc::new(());
    for runs in 1..=2 {
        let in_member = rc.clone();
        let mut team = Team::new();
        let other = team.add(stack(), |me: &Member<'_, u32>, value| {
            let first = me.sender().expect("the first transferred");
            let value = me.transfer(first, value + 1).expect("it waits");
            me.leave(value + 100)
        });
        let first = team.add(stack(), move |me: &Member<'_, u32>, value| {
            let inner = ScopedFiber::<(), (), u32, _, _>::with_stack(stack(), |suspender, ()| {
                let hidden = OfOneThread::new((me, in_member));
                suspender.on_parent_stack(move || {
                    let (me, _dropped_here) = hidden.get();
                    let value = me.transfer(other, value).expect("it is new");
                    me.transfer(other, value + 10).expect("it waits")
                })
            });
            let result = inner.scope(|mut inner| inner.resume(()));
            result.into_return().expect("it does not suspend")
        });
        assert_eq!(team.run(first, 7), Ok((other, FiberResult::Yield(118))));
        if runs == 2 {
            assert_eq!(team.run(first, 5), Ok((first, FiberResult::Return(5))));
        }
        drop(team);
        assert_eq!(Rc::strong_count(&rc), 1, "after {runs} runs");
    }
}
