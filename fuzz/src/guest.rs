//! A case in one engine, and what is done with it.

use crate::case::{Numbers, mix};
use crate::trace::{End, State, Step, Stop, Trace};
use crate::value::{Type, Value};

/// The most calls of a case.
const MAX_CALLS: usize = 24;
/// The name of the step that makes an instance.
pub const INSTANTIATE: &str = "instantiate";

/// An exported function: its name and its parameters.
pub type Export = (String, Vec<Type>);

/// A case in one engine.
pub trait Guest {
    /// Makes an instance, which the other methods are about.
    fn instantiate(&mut self) -> End;
    /// The exported functions by name. None without an instance.
    fn functions(&self) -> Vec<Export>;
    /// Calls one of them.
    fn call(&mut self, index: usize, params: &[Value]) -> End;
    /// What can be seen of the instance.
    fn state(&mut self) -> State;
    /// Calls of host functions and a hash of them.
    fn host(&self) -> (u64, u64);
    /// Units of fuel used, where they are counted.
    fn fuel_used(&self) -> Option<u64>;
}

/// Makes an instance and calls what it exports, in two rounds, until the stack overflows.
///
/// A trap by `unreachable` may mean that the module has used up what it lets itself do: a new instance follows, in the same store.
pub fn drive(who: String, guest: &mut impl Guest, seed: u64) -> Trace {
    let mut trace = Trace {
        who,
        steps: Vec::new(),
    };
    let mut numbers = Numbers::new(seed);
    if !instantiate(guest, &mut trace) {
        return trace;
    }
    let functions = guest.functions();
    for call in 0..MAX_CALLS.min(2 * functions.len()) {
        let index = call % functions.len();
        let (name, types) = &functions[index];
        let params = types.iter().map(|ty| Value::argument(*ty, &mut numbers));
        let params = params.collect::<Vec<_>>();
        let end = guest.call(index, &params);
        let is_over = matches!(end, End::Stopped(Stop::StackOverflow | Stop::Unpaid));
        let is_used_up = end == End::Stopped(Stop::Unreachable);
        push(guest, &mut trace, format!("call {name} {params:?}"), end);
        if is_over || (is_used_up && !instantiate(guest, &mut trace)) {
            break;
        }
    }
    trace
}

/// Whether that worked.
fn instantiate(guest: &mut impl Guest, trace: &mut Trace) -> bool {
    let end = guest.instantiate();
    let works = matches!(end, End::Returned(_));
    push(guest, trace, INSTANTIATE.to_owned(), end);
    works
}

fn push(guest: &mut impl Guest, trace: &mut Trace, what: String, end: End) {
    trace.steps.push(Step {
        what,
        end,
        host: guest.host(),
        state: guest.state(),
        fuel_used: guest.fuel_used(),
    });
}

/// A hash of a memory's bytes.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let step = |hash: u64, word: &[u8; 8]| {
        (hash ^ u64::from_le_bytes(*word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    };
    words.iter().chain([&last]).fold(bytes.len() as u64, step)
}

/// A hash of words in their order.
pub fn hash_words(words: impl IntoIterator<Item = u64>) -> u64 {
    words.into_iter().fold(0, |hash, word| mix(hash ^ word))
}
