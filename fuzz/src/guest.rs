//! A case in one engine, and what is done with it.

use crate::case::{Case, Numbers, Script, mix};
use crate::trace::{End, State, Step, Stop, Trace};
use crate::value::{Type, Value};

/// The most calls of a case.
const MAX_CALLS: usize = 24;
/// The name of the step that makes an instance.
pub const INSTANTIATE: &str = "instantiate";

/// An exported function that can be called: its name and its parameters.
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
/// A module of a script has not, and keeps its instance. It is driven for at most `steps`.
pub fn drive(who: String, guest: &mut impl Guest, case: &Case, steps: usize) -> Trace {
    let mut trace = Trace {
        who,
        steps: Vec::new(),
    };
    let mut numbers = Numbers::new(case.seed);
    if !instantiate(guest, &mut trace) {
        return trace;
    }
    let functions = guest.functions();
    let calls = match &case.script {
        Some(_) if !functions.is_empty() => MAX_CALLS,
        _ => MAX_CALLS.min(2 * functions.len()),
    };
    for call in 0..calls {
        if trace.steps.len() == steps {
            break;
        }
        let (index, params) = match &case.script {
            Some(script) => script_call(script, &functions, call, &mut numbers),
            None => random_call(&functions, call, &mut numbers),
        };
        let end = guest.call(index, &params);
        let is_over = matches!(end, End::Stopped(Stop::StackOverflow | Stop::Unpaid));
        let is_used_up = case.script.is_none() && end == End::Stopped(Stop::Unreachable);
        push(
            guest,
            &mut trace,
            format!("call {} {params:?}", functions[index].0),
            end,
        );
        if is_over || (is_used_up && !instantiate(guest, &mut trace)) {
            break;
        }
    }
    trace
}

fn random_call(functions: &[Export], call: usize, numbers: &mut Numbers) -> (usize, Vec<Value>) {
    let index = call % functions.len();
    let params = functions[index].1.iter().map(|ty| Value::argument(*ty, numbers));
    (index, params.collect())
}

/// Three of four calls are of a function that was changed; half of the arguments are the script's, or nearby.
fn script_call(
    script: &Script,
    functions: &[Export],
    call: usize,
    numbers: &mut Numbers,
) -> (usize, Vec<Value>) {
    let indices = |names: &[String]| {
        let functions = functions.iter().enumerate();
        let named = functions.filter(|(_, (name, _))| names.contains(name));
        named.map(|(index, _)| index).collect::<Vec<_>>()
    };
    let (focus, others) = (indices(&script.focus), indices(&script.others));
    let pick = numbers.next_u64() as usize;
    let index = match call % 4 {
        0..3 if !focus.is_empty() => focus[call % focus.len()],
        _ if !others.is_empty() => others[pick % others.len()],
        _ => pick % functions.len(),
    };
    let (name, types) = &functions[index];
    let fits = |(of, values): &&(String, Vec<Value>)| {
        of == name
            && values
                .iter()
                .map(|value| value.ty())
                .eq(types.iter().copied().map(Some))
    };
    let known: Vec<_> = script.calls.iter().filter(fits).collect();
    let pick = numbers.next_u64() as usize;
    if known.is_empty() || pick.is_multiple_of(2) {
        let argument = |ty: &Type| match numbers.next_u64() % 4 {
            0 => Value::near_an_edge(*ty, numbers),
            _ => Value::argument(*ty, numbers),
        };
        return (index, types.iter().map(argument).collect());
    }
    let mut params = known[pick / 8 % known.len()].1.clone();
    if (pick / 2).is_multiple_of(2) && !params.is_empty() {
        let at = numbers.next_u64() as usize % params.len();
        params[at] = params[at].nearby(numbers);
    }
    (index, params)
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

/// A hash of a memory's bytes: of four sequences of words, as half of a test's time would go by in one.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let (rows, rest) = bytes.as_chunks::<32>();
    let mut last = [0; 32];
    last[..rest.len()].copy_from_slice(rest);
    let mut lanes = [bytes.len() as u64, 1, 2, 3];
    for row in rows {
        hash_row(&mut lanes, row);
    }
    hash_row(&mut lanes, &last);
    hash_words(lanes)
}

fn hash_row(lanes: &mut [u64; 4], row: &[u8; 32]) {
    let (words, _) = row.as_chunks::<8>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let mixed = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *lane = mixed.rotate_left(29);
    }
}

/// A hash of words in their order.
pub fn hash_words(words: impl IntoIterator<Item = u64>) -> u64 {
    words.into_iter().fold(0, |hash, word| mix(hash ^ word))
}
