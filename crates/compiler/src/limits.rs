//! What is too large to compile, so that no module makes compiling take without bound.
//!
//! The validator's limits come first. They are those that engines have agreed on (JavaScript interface, implementation-defined
//! limits), and its errors have the offset and the limit:
//!
//! ```text
//!   1 000 000 of types, functions, imports, exports, globals, tags     1 000 parameters, 1 000 results
//!     100 000 of tables, data segments, element segments              50 000 locals of a function
//!         100 memories                                             7 654 321 bytes of a function's body
//!     100 000 bytes of a name                                         10 000 clauses of a try_table
//!  10 000 000 elements of an element segment
//! ```
//!
//! One more of its limits is not on that list: imports and exports together have less than 1 000 000 of types, where a function's counts for 1,
//! its parameters and its results, and any other for 1. It is told as ours are.
//!
//! Ours are below. Compiling uses the heap for nesting, never the host's stack; what is
//! left is work that grows with a product: a local is looked up through every loop around it, and each of
//! them may get a parameter for it; a call or a branch of two bytes may carry a thousand values, and a call's stack map names every
//! reference that is held across it. A local also has a place in a table for each block, and a value where two paths meet before
//! it is read.
//!
//! Branches to one label grow with the square too, calls that may go on at one clause of a `try_table`, and parameters of blocks: they are bounded
//! in pairs, all together. Chains of operators are linear: 40 000 additions took 0.9 s,
//! 80 000 some 2.3 s.
//!
//! How large a memory or a table gets is the runtime's to say. `tests/adversaries.rs` compiles modules that meet each of these.
//!
//! Many small functions make that work anew for each: a module of a few kilobytes can have hundreds that take and
//! return a thousand values, or declare fifty thousand locals in five bytes. So the functions of a module share a
//! [`Budget`] in proportion to its bytes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{CompileError, FuncType};

/// The most bytes in a module: code offsets into it are 32-bit.
const MODULE_BYTES: u64 = u32::MAX as u64;
/// The most bytes of text, so that any call reaches any function.
#[cfg(not(target_arch = "aarch64"))]
const TEXT_BYTES: u64 = 1 << 30;
#[cfg(target_arch = "aarch64")]
const TEXT_BYTES: u64 = 1 << 27;
/// The most targets in a `br_table`.
const BR_TABLE_TARGETS: u64 = 1 << 16;
/// The most blocks inside each other.
const NESTING: u64 = 1 << 16;
/// The most loops inside each other: what finds loops looks through each of them from the innermost.
///
/// What stands in them costs the square besides, and a branch back from each of them the cube: see [`SQUARES_PER_BYTE`].
const LOOPS: u64 = 1 << 9;
/// The most `if`s inside each other: the time to compile them grows faster than their number.
const IFS: u64 = 1 << 14;
/// The most locals, times the loops that are around each other.
const LOCALS_TIMES_LOOPS: u64 = 1 << 22;

/// The most locals, times the blocks of code: 4 bytes each.
const LOCALS_TIMES_BLOCKS: u64 = 1 << 27;
/// The most blocks of code and calls in a function, together, those included that a trap takes: they decide how much memory it takes while it is
/// compiled. 800 000 `if`s, three blocks each, took 1.75 GB; a million calls 1.6 GB; 40 000 divisions, four blocks and two calls of traps each,
/// 0.4 GB.
const PLACES: u64 = 1 << 20;
/// The most values in a function, those included that only say that two paths bring the same.
const VALUES: u64 = 1 << 22;
/// The most values that the calls and branches of a function carry, all together.
const CARRIED: u64 = 1 << 22;

/// The most references that frames hold while others are called, all calls of a function together: each is named in the call's stack map.
const HELD: u64 = 1 << 23;

/// The most parameters and results that the types of a module have together: a module of 13.8 MB that meets it, with 599 000 signatures,
/// takes 0.8 GB while it is compiled, the validator's part of it included.
const TYPES_VALUES: u64 = 1 << 24;
/// For how many more a type counts.
const TYPE_VALUES: usize = 8;

/// The validator's limit on the types of imports and exports: this is the first size that is too large,
const TYPE_SIZE: u64 = 1_000_000;
/// and so begins what it says then. `adversaries.rs` has a module that meets it.
pub(crate) const TYPE_SIZE_MESSAGE: &str = "effective type size exceeds the limit";

/// What the functions of a module may carry, declare and return together: so many values, whatever its size,
const SHARED_BASE: u64 = 1 << 17;
/// and for each of its bytes so many more.
const SHARED_PER_BYTE: u64 = 64;
/// A function takes from the budget in pieces of this many values; what is left at its end is not counted.
const SHARED_STEP: u64 = 256;

/// How many pairs of branches to one label the functions of a module may have together: so many, whatever its size,
const PAIRS_BASE: u64 = 1 << 24;
/// and for each of its bytes so many more. Where many ways meet, Cranelift's time grows with their pairs, some 10 ns for each: removing code that
/// is never reached looks through all ways that meet where it leads, and the allocator of registers comes back to a condition for each of
/// its branches. 20 000 branches on constants took 2.1 s, 40 000 four times that.
const PAIRS_PER_BYTE: u64 = 1 << 10;
/// As [`SHARED_STEP`], of pairs.
const PAIRS_STEP: u64 = 1 << 14;
/// How many pairs of a function's block parameters and the values that branches bring them count for a pair of branches: each takes some 0.5 ns.
/// The allocator of registers looks through the values of all parameters again for each parameter that keeps its register.
/// 40 000 `try_table`s with a call in each, two parameters each, took 4.7 s; 80 000 `if`s with a result 5 s.
const PARAMETER_PAIRS: u64 = 1 << 4;

/// How much the operators of a module's functions may come to together, where each counts for the square of the loops around it: so much, whatever the
/// module's size,
const SQUARES_BASE: u64 = 1 << 29;
/// and for each of its bytes so much more: 80 loops around each operator of a byte.
///
/// For each operand of a computation without effects, Cranelift (`egraph/elaborate.rs`) asks of the loops around it, from the outermost, whether the operand is made in
/// that loop, and each answer is a walk outwards from the operand's: some 0.4 ns for each pair of loops. 40 000 additions of globals, 240 kB, took 18 s within 512 loops, and
/// 1.3 s within 128. A metered loop has such a computation in its check: 512 inside each other, each with a branch back, take 0.13 s.
const SQUARES_PER_BYTE: u64 = 1 << 13;
/// As [`SHARED_STEP`], of squares.
const SQUARES_STEP: u64 = 1 << 19;

/// For how many pairs each pair of a trampoline's parameters and results counts. All of them are held at once: one of 1000 parameters took 15 ms, and
/// 2000 such signatures 30 s.
const TRAMPOLINE_PAIRS: u64 = 4;

/// For how many pairs of branches a function counts whose blocks have so many parameters, which branches bring so many values.
pub(crate) fn parameter_pairs(parameters: u64, brought: u64) -> u64 {
    parameters * brought / PARAMETER_PAIRS
}

/// What the functions of a module share: parameters, results, locals, and values that calls and branches carry; pairs of branches to
/// one label, to one clause of a `try_table`, and of block parameters; and squares of the loops around operators.
///
/// Functions are compiled in any order, but each of them takes what it takes at the same operators, up to its
/// end or its own error. So whether all of them together take too much does not depend on the order: if they do,
/// that is the module's error, whatever else is wrong with it.
#[derive(Debug)]
pub(crate) struct Budget {
    values: Share,
    pairs: Share,
    squares: Share,
}

#[derive(Debug)]
struct Share {
    limit: u64,
    step: u64,
    taken: AtomicU64,
}

impl Share {
    fn new(limit: u64, step: u64) -> Share {
        Share {
            limit,
            step,
            taken: AtomicU64::new(0),
        }
    }

    /// Takes the steps from `before` to `now` of one function. Whether there were any.
    fn take(&self, before: u64, now: u64) -> bool {
        let steps = now / self.step - before / self.step;
        if steps > 0 {
            self.taken.fetch_add(steps * self.step, Ordering::Relaxed);
        }
        steps > 0
    }

    fn check(&self, what: &'static str) -> Result<(), CompileError> {
        // How much too much it is depends on when the others stopped: the least that it can be is told.
        let taken = self.taken.load(Ordering::Relaxed).min(self.limit + 1);
        check(what, taken, self.limit, 0)
    }
}

impl Budget {
    /// The budget of a module of this size.
    pub(crate) fn of(module_bytes: usize) -> Budget {
        let bytes = module_bytes as u64;
        Budget {
            values: Share::new(SHARED_BASE + SHARED_PER_BYTE * bytes, SHARED_STEP),
            pairs: Share::new(PAIRS_BASE + PAIRS_PER_BYTE * bytes, PAIRS_STEP),
            squares: Share::new(SQUARES_BASE + SQUARES_PER_BYTE * bytes, SQUARES_STEP),
        }
    }

    /// For what is translated again: it took what it takes the first time.
    pub(crate) fn taken_before() -> Budget {
        Budget {
            values: Share::new(u64::MAX - 1, SHARED_STEP),
            pairs: Share::new(u64::MAX - 1, PAIRS_STEP),
            squares: Share::new(u64::MAX - 1, SQUARES_STEP),
        }
    }

    /// Takes the steps from `before` to `now` values of one function.
    pub(crate) fn take(&self, before: u64, now: u64) -> Result<(), CompileError> {
        self.check_after(self.values.take(before, now))
    }

    /// Takes the steps from `before` to `now` pairs of one function's branches.
    pub(crate) fn take_pairs(&self, before: u64, now: u64) -> Result<(), CompileError> {
        self.check_after(self.pairs.take(before, now))
    }

    /// Takes the steps from `before` to `now` of one function's squares.
    pub(crate) fn take_squares(&self, before: u64, now: u64) -> Result<(), CompileError> {
        self.check_after(self.squares.take(before, now))
    }

    /// Takes what a trampoline of this signature takes.
    pub(crate) fn take_trampoline(&self, ty: &FuncType) -> Result<(), CompileError> {
        let values = ty.params().len() + ty.results().len();
        self.take_pairs(0, TRAMPOLINE_PAIRS * (values as u64).pow(2))
    }

    /// [`check`](Self::check), after something was taken.
    fn check_after(&self, is_taken: bool) -> Result<(), CompileError> {
        match is_taken {
            true => self.check(),
            false => Ok(()),
        }
    }

    /// Whether the functions so far took no more than there is.
    pub(crate) fn check(&self) -> Result<(), CompileError> {
        self.values
            .check("values that the functions carry, declare and return")?;
        self.pairs.check("pairs of branches to one label")?;
        self.squares
            .check("operators, each times the square of the loops around it")
    }
}

pub(crate) fn module_bytes(count: usize) -> Result<(), CompileError> {
    check("bytes in the module", count as u64, MODULE_BYTES, 0)
}

pub(crate) fn text_bytes(count: usize) -> Result<(), CompileError> {
    check("bytes of code", count as u64, TEXT_BYTES, 0)
}

pub(crate) fn br_table_targets(count: u32, offset: u32) -> Result<(), CompileError> {
    check("targets of a br_table", count.into(), BR_TABLE_TARGETS, offset)
}

pub(crate) fn nesting(depth: usize, offset: u32) -> Result<(), CompileError> {
    check("blocks inside each other", depth as u64, NESTING, offset)
}

pub(crate) fn ifs(depth: usize, offset: u32) -> Result<(), CompileError> {
    check("ifs inside each other", depth as u64, IFS, offset)
}

pub(crate) fn loops(locals: usize, depth: usize, offset: u32) -> Result<(), CompileError> {
    check("loops inside each other", depth as u64, LOOPS, offset)?;
    check(
        "locals times loops inside each other",
        locals as u64 * depth as u64,
        LOCALS_TIMES_LOOPS,
        offset,
    )
}

pub(crate) fn blocks(locals: usize, blocks: usize, offset: u32) -> Result<(), CompileError> {
    check(
        "locals times blocks of code",
        locals as u64 * blocks as u64,
        LOCALS_TIMES_BLOCKS,
        offset,
    )
}

pub(crate) fn places(count: usize, offset: u32) -> Result<(), CompileError> {
    check(
        "blocks of code and calls in a function",
        count as u64,
        PLACES,
        offset,
    )
}

pub(crate) fn values(count: usize, offset: u32) -> Result<(), CompileError> {
    check("values in a function", count as u64, VALUES, offset)
}

pub(crate) fn carried(count: usize, offset: u32) -> Result<(), CompileError> {
    check(
        "values that calls and branches carry",
        count as u64,
        CARRIED,
        offset,
    )
}

pub(crate) fn held(count: usize, offset: u32) -> Result<(), CompileError> {
    check("references held across calls", count as u64, HELD, offset)
}

/// The validator has met [`TYPE_SIZE`].
pub(crate) fn type_size(offset: u64) -> CompileError {
    CompileError::TooLarge {
        what: "parameters and results of imports and exports, and of these themselves",
        count: TYPE_SIZE,
        limit: TYPE_SIZE - 1,
        offset,
    }
}

/// Takes what a type of so many parameters and results counts for from what the types of its module may have.
pub(crate) fn types(taken: &mut usize, values: usize, offset: u64) -> Result<(), CompileError> {
    *taken += TYPE_VALUES + values;
    match *taken as u64 > TYPES_VALUES {
        true => Err(CompileError::TooLarge {
            what: "parameters and results of the types",
            count: *taken as u64,
            limit: TYPES_VALUES,
            offset,
        }),
        false => Ok(()),
    }
}

/// Signatures of a module, if there are numbers for them: see `func_type.rs`.
pub(crate) fn signatures(made: Option<Vec<FuncType>>, offset: u64) -> Result<Vec<FuncType>, CompileError> {
    made.ok_or(CompileError::TooLarge {
        what: "distinct signatures in this process",
        count: 1 << 32,
        limit: (1 << 32) - 1,
        offset,
    })
}

fn check(what: &'static str, count: u64, limit: u64, offset: u32) -> Result<(), CompileError> {
    match count > limit {
        true => Err(CompileError::TooLarge {
            what,
            count,
            limit,
            offset: offset.into(),
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
