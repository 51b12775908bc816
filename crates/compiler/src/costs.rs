//! What operators cost in fuel: [`FuelCosts`].

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use wasmparser::Operator;

/// Fuel units by operator, and for moving memory.
///
/// The default is Wasmtime's, so that figures compare: 1 for each operator, 0 for those that only structure the code (`nop`, `drop`, `block`,
/// `loop`, `unreachable`, `return`, `else`, `end`). Entering a function costs 1 more. An operation on many bytes or elements
/// pays for them as well: see [`bytes_per_unit`](FuelCosts::bytes_per_unit).
///
/// ```
/// use selvedge_compiler::FuelCosts;
///
/// let mut costs = FuelCosts::new();
/// costs.set("i64.div_s", 20)?.set("memory.grow", 200)?;
/// assert_eq!(costs.get("i64.div_s")?, 20);
/// assert_eq!(costs.get("i64.add")?, 1);
/// # Ok::<(), selvedge_compiler::UnknownOperator>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct FuelCosts {
    units: Arc<[u8; NAMES.len()]>,
    bytes_per_unit: NonZeroU32,
}

/// A name that no operator has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no operator named `{name}`; names are those of the text format, such as `i64.add`")]
pub struct UnknownOperator {
    name: String,
}

/// The table of wasmparser's operators: an index for each, and its name as its visitor has it.
macro_rules! operators {
    ($(@$proposal:ident $op:ident $({ $($field:ident: $ty:ty),* })? => $visit:ident ($($arity:tt)*))*) => {
        /// Indices into the costs.
        enum Index { $($op),* }

        /// `visit_i32_add`, by index.
        const NAMES: [&str; [$(stringify!($op)),*].len()] = [$(stringify!($visit)),*];

        /// The index of an operator.
        fn index(operator: &Operator<'_>) -> Option<usize> {
            match operator {
                $(Operator::$op { .. } => Some(Index::$op as usize),)*
                _ => None, // of a later version of the parser
            }
        }
    };
}
wasmparser::for_each_operator!(operators);

/// Those that only structure the code.
const FREE: [Index; 8] = [
    Index::Nop,
    Index::Drop,
    Index::Block,
    Index::Loop,
    Index::Unreachable,
    Index::Return,
    Index::Else,
    Index::End,
];

/// The index of the operator with this name in the text format. Its dots are the visitor's underscores.
fn named(name: &str) -> Result<usize, UnknownOperator> {
    let is_it = |visit: &&str| {
        let visit = visit.trim_start_matches("visit_").bytes();
        visit.eq(name.bytes().map(|byte| if byte == b'.' { b'_' } else { byte }))
    };
    NAMES.iter().position(is_it).ok_or_else(|| UnknownOperator {
        name: name.to_owned(),
    })
}

impl FuelCosts {
    /// The default: 1 for each operator that does something.
    pub fn new() -> FuelCosts {
        let mut units = [1; NAMES.len()];
        for free in FREE {
            units[free as usize] = 0;
        }
        FuelCosts {
            units: Arc::new(units),
            bytes_per_unit: NonZeroU32::new(64).expect("not zero"),
        }
    }

    /// Sets what an operator costs, by its name in the text format.
    ///
    /// At most 255: the cost of a longest function without a branch still fits the counter.
    ///
    /// # Errors
    /// A name that no operator has.
    pub fn set(&mut self, operator: &str, units: u8) -> Result<&mut FuelCosts, UnknownOperator> {
        let index = named(operator)?;
        Arc::make_mut(&mut self.units)[index] = units;
        Ok(self)
    }

    /// What an operator costs.
    ///
    /// # Errors
    /// A name that no operator has.
    pub fn get(&self, operator: &str) -> Result<u8, UnknownOperator> {
        Ok(self.units[named(operator)?])
    }

    /// Sets how many bytes a bulk memory operation (`memory.copy`, `memory.fill`, `memory.init`) moves for one unit, beside what the
    /// operator costs. Default: 64, a cache line. Bulk table operations pay one unit for each element.
    pub fn set_bytes_per_unit(&mut self, bytes: NonZeroU32) -> &mut FuelCosts {
        self.bytes_per_unit = bytes;
        self
    }

    /// How many bytes a bulk memory operation moves for one unit.
    pub fn bytes_per_unit(&self) -> NonZeroU32 {
        self.bytes_per_unit
    }

    /// All of it, to be compared: the units by operator, and the bytes for a unit.
    pub(crate) fn table(&self) -> (Vec<u8>, u32) {
        (self.units.to_vec(), self.bytes_per_unit.get())
    }

    /// The name of the operator with this place in the table, dots as underscores.
    pub(crate) fn name(place: usize) -> &'static str {
        NAMES[place].trim_start_matches("visit_")
    }

    /// What an operator costs.
    pub(crate) fn of(&self, operator: &Operator<'_>) -> u32 {
        index(operator).map_or(1, |index| u32::from(self.units[index]))
    }
}

impl Default for FuelCosts {
    fn default() -> FuelCosts {
        FuelCosts::new()
    }
}

/// Those that differ from the default.
impl fmt::Debug for FuelCosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = FuelCosts::new();
        let differ = NAMES.iter().zip(self.units.iter().zip(default.units.iter()));
        f.debug_map()
            .entries(
                differ
                    .filter(|(_, (ours, default))| ours != default)
                    .map(|(name, (ours, _))| (name.trim_start_matches("visit_"), ours)),
            )
            .entry(&"bytes_per_unit", &self.bytes_per_unit)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_found_by_its_name() {
        for (text, index) in [
            ("i32.add", Index::I32Add as usize),
            ("br_if", Index::BrIf as usize),
            ("local.get", Index::LocalGet as usize),
            ("i64.trunc_sat_f32_s", Index::I64TruncSatF32S as usize),
            ("memory.grow", Index::MemoryGrow as usize),
            ("i32.load8_s", Index::I32Load8S as usize),
            ("ref.func", Index::RefFunc as usize),
        ] {
            assert_eq!(named(text), Ok(index), "{text}");
        }
        assert_eq!(
            named("i32.plus").map_err(|error| error.to_string()),
            Err("there is no operator named `i32.plus`; names are those of the text format, such as `i64.add`".to_owned())
        );
    }

    #[test]
    fn no_two_operators_share_a_name() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }

    #[test]
    fn only_what_was_set_differs_from_the_default() {
        let mut costs = FuelCosts::new();
        costs
            .set("i32.mul", 3)
            .expect("it exists")
            .set("nop", 7)
            .expect("it exists");
        assert_eq!(costs.of(&Operator::I32Mul), 3);
        assert_eq!(costs.of(&Operator::Nop), 7);
        assert_eq!(costs.of(&Operator::End), 0);
        assert_eq!(costs.of(&Operator::I32Add), 1);
        assert_ne!(costs, FuelCosts::new());
        assert_eq!(
            format!("{costs:?}"),
            r#"{"nop": 7, "i32_mul": 3, "bytes_per_unit": 64}"#
        );
    }
}
