//! With `Config::canonical_nans` a NaN that an operator makes has one form, whatever it is made of; what no operator makes keeps its own.

use selvedge::{Config, Engine, Instance, MemoryStyle, Module, OptLevel, Result, Store, Val};

/// The one form.
const CANONICAL_F32: u32 = 0x7fc0_0000;
const CANONICAL_F64: u64 = 0x7ff8_0000_0000_0000;

/// Of each kind of NaN, one that has another payload or sign; and what makes new ones.
const F32: [u32; 12] = [
    0x7fc0_0000,
    0xffc0_0000,
    0x7fc0_1234,
    0xffe0_0001,
    0x7f80_0001, // signalling
    0xffa5_a5a5,
    0x7f80_0000,
    0xff80_0000,
    0,
    0x8000_0000,
    0x3f80_0000,
    0xc020_0000,
];
const F64: [u64; 12] = [
    0x7ff8_0000_0000_0000,
    0xfff8_0000_0000_0000,
    0x7ff8_0000_1234_5678,
    0xfffc_0000_0000_0001,
    0x7ff0_0000_0000_0001, // signalling
    0xfff4_a5a5_a5a5_a5a5,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0,
    0x8000_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xc004_0000_0000_0000,
];

/// What every shape has, by the number of operands.
const UNARY: [&str; 5] = ["sqrt", "ceil", "floor", "trunc", "nearest"];
const BINARY: [&str; 6] = ["add", "sub", "mul", "div", "min", "max"];
const SHAPES: [&str; 4] = ["f32", "f64", "f32x4", "f64x2"];
/// What only vectors have.
const RELAXED: [(&str, usize); 4] = [
    ("relaxed_min", 2),
    ("relaxed_max", 2),
    ("relaxed_madd", 3),
    ("relaxed_nmadd", 3),
];
/// Operator, shape of its operand, shape of its result.
const CONVERSIONS: [(&str, &str, &str); 4] = [
    ("f32.demote_f64", "f64", "f32"),
    ("f64.promote_f32", "f32", "f64"),
    ("f32x4.demote_f64x2_zero", "f64x2", "f32x4"),
    ("f64x2.promote_low_f32x4", "f32x4", "f64x2"),
];

/// An operator that makes numbers.
struct Operator {
    name: String,
    operand: &'static str,
    operands: usize,
    result: &'static str,
}

fn operators() -> Vec<Operator> {
    let mut all = Vec::new();
    let mut push = |name, operand, operands, result| {
        all.push(Operator {
            name,
            operand,
            operands,
            result,
        });
    };
    for shape in SHAPES {
        let is_vector = shape.contains('x');
        UNARY
            .iter()
            .for_each(|name| push(format!("{shape}.{name}"), shape, 1, shape));
        BINARY
            .iter()
            .for_each(|name| push(format!("{shape}.{name}"), shape, 2, shape));
        for (name, operands) in RELAXED.into_iter().filter(|_| is_vector) {
            push(format!("{shape}.{name}"), shape, operands, shape);
        }
    }
    for (name, operand, result) in CONVERSIONS {
        push(name.to_owned(), operand, 1, result);
    }
    all
}

fn value_type(shape: &str) -> &str {
    if shape.contains('x') { "v128" } else { shape }
}

/// A module with a function for each operator, by its name.
fn module(operators: &[Operator]) -> String {
    let functions = operators.iter().map(|operator| {
        let params = format!(" {}", value_type(operator.operand)).repeat(operator.operands);
        let gets: String = (0..operator.operands)
            .map(|index| format!(" (local.get {index})"))
            .collect();
        let (name, result) = (&operator.name, value_type(operator.result));
        format!("(func (export \"{name}\") (param{params}) (result {result}) ({name}{gets}))")
    });
    format!("(module {})", functions.collect::<String>())
}

/// Values of a shape: scalars; vectors whose lanes are neighbours in the lists.
fn values(shape: &str) -> Vec<Val> {
    let lanes32 = |at: usize| {
        (0..4)
            .map(|lane| u128::from(F32[(at + lane) % F32.len()]) << (32 * lane))
            .sum::<u128>()
    };
    let lanes64 = |at: usize| u128::from(F64[at]) | u128::from(F64[(at + 1) % F64.len()]) << 64;
    match shape {
        "f32" => F32.map(Val::F32).to_vec(),
        "f64" => F64.map(Val::F64).to_vec(),
        "f32x4" => (0..F32.len()).map(|at| Val::V128(lanes32(at).into())).collect(),
        _ => (0..F64.len()).map(|at| Val::V128(lanes64(at).into())).collect(),
    }
}

/// How many NaNs are in a value, and how many of them have another form than the canonical one.
fn nans(shape: &str, value: Val) -> (u64, u64) {
    let of32 = |bits: u32| (f32::from_bits(bits).is_nan(), bits != CANONICAL_F32);
    let of64 = |bits: u64| (f64::from_bits(bits).is_nan(), bits != CANONICAL_F64);
    let lanes: Vec<(bool, bool)> = match value {
        Val::F32(bits) => vec![of32(bits)],
        Val::F64(bits) => vec![of64(bits)],
        Val::V128(vector) => {
            let bits = u128::from(vector);
            match shape {
                "f32x4" => (0..4).map(|lane| of32((bits >> (32 * lane)) as u32)).collect(),
                _ => (0..2).map(|lane| of64((bits >> (64 * lane)) as u64)).collect(),
            }
        }
        other => panic!("no float operator returns {other:?}"),
    };
    let nans = lanes.iter().filter(|(is_nan, _)| *is_nan);
    let odd = nans.clone().filter(|(_, is_odd)| *is_odd).count();
    (nans.count() as u64, odd as u64)
}

/// Calls an operator's function with all combinations of values. The NaNs that come back, and those that are not canonical.
fn made(store: &mut Store<()>, instance: Instance, operator: &Operator) -> Result<(u64, u64)> {
    let func = instance.get_func(&mut *store, &operator.name).expect("exported");
    let values = values(operator.operand);
    let (mut all, mut odd) = (0, 0);
    for turn in 0..values.len().pow(operator.operands as u32) {
        let pick = |place: usize| values[turn / values.len().pow(place as u32) % values.len()];
        let params: Vec<Val> = (0..operator.operands).map(pick).collect();
        let mut results = [Val::I32(0)];
        func.call(&mut *store, &params, &mut results)?;
        let (more, more_odd) = nans(operator.result, results[0]);
        all += more;
        odd += more_odd;
    }
    Ok((all, odd))
}

/// An instance of `text` in an engine of its own.
fn instance(config: &Config, text: &str) -> Result<(Store<()>, Instance)> {
    let engine = Engine::new(config)?;
    let mut store = Store::new(&engine, ());
    if store.get_fuel().is_ok() {
        store.set_fuel(1 << 40)?;
    }
    let module = Module::new(&engine, text)?;
    let instance = Instance::new(&mut store, &module, &[])?;
    Ok((store, instance))
}

/// Every way to compile that might treat floats in another way.
fn configs(canonical: bool) -> Vec<Config> {
    let ways: [fn(&mut Config) -> &mut Config; 4] = [
        |config| config,
        |config| config.opt_level(OptLevel::None),
        |config| config.portable_code(true),
        |config| config.fuel(true).memory_style(MemoryStyle::Bounded),
    ];
    let config = |way: fn(&mut Config) -> &mut Config| {
        let mut config = Config::new();
        way(config.canonical_nans(canonical)).clone()
    };
    ways.map(config).to_vec()
}

#[test]
fn every_nan_that_an_operator_makes_is_the_canonical_one() -> Result<()> {
    let operators = operators();
    assert_eq!(operators.len(), 4 * 11 + 2 * 4 + 4);
    for config in configs(true) {
        let (mut store, instance) = instance(&config, &module(&operators))?;
        for operator in &operators {
            let (all, odd) = made(&mut store, instance, operator)?;
            assert!(all > 0, "{} made no NaN", operator.name);
            assert_eq!(odd, 0, "of {all} NaNs that {} made, {config:?}", operator.name);
        }
    }
    Ok(())
}

#[test]
fn without_the_switch_every_operator_makes_other_nans() -> Result<()> {
    let operators = operators();
    for config in configs(false) {
        let (mut store, instance) = instance(&config, &module(&operators))?;
        for operator in &operators {
            let (_, odd) = made(&mut store, instance, operator)?;
            assert!(odd > 0, "{} cannot show a difference, {config:?}", operator.name);
        }
    }
    Ok(())
}

#[test]
fn what_is_computed_of_constants_is_canonical() -> Result<()> {
    let text = r#"(module
        (func (export "quotient") (result f32) (f32.div (f32.const 0) (f32.const 0)))
        (func (export "sum") (result f32) (f32.add (f32.const -nan:0x1234) (f32.const 1)))
        (func (export "root") (result f32) (f32.sqrt (f32.const -1)))
        (func (export "least") (result f32) (f32.min (f32.const 1) (f32.const -nan:0x200001)))
        (func (export "small") (result f32) (f32.demote_f64 (f64.const -nan:0x4000000000001))))"#;
    for config in configs(true) {
        let (mut store, instance) = instance(&config, text)?;
        for name in ["quotient", "sum", "root", "least", "small"] {
            let result: f32 = instance.call(&mut store, name, ())?;
            assert_eq!(result.to_bits(), CANONICAL_F32, "{name}, {config:?}");
        }
    }
    Ok(())
}

#[test]
fn what_no_operator_makes_keeps_its_payload() -> Result<()> {
    let text = r#"(module (memory 1) (global (mut f32) (f32.const -nan:0x1234))
        (func (export "constant") (param f32) (result f32) (f32.const -nan:0x1234))
        (func (export "parameter") (param f32) (result f32) (local.get 0))
        (func (export "loaded") (param f32) (result f32) (f32.store (i32.const 8) (local.get 0)) (f32.load (i32.const 8)))
        (func (export "global") (param f32) (result f32) (global.get 0))
        (func (export "negated") (param f32) (result f32) (f32.neg (f32.abs (local.get 0))))
        (func (export "copied") (param f32) (result f32) (f32.copysign (local.get 0) (f32.const -1)))
        (func (export "chosen") (param f32) (result f32) (select (local.get 0) (f32.const 1) (i32.const 1)))
        (func (export "pseudo") (param f32) (result f32)
            (f32x4.extract_lane 2 (f32x4.pmin (f32x4.splat (local.get 0)) (f32x4.splat (f32.const 1)))))
        (func (export "reinterpreted") (param f32) (result f32) (f32.reinterpret_i32 (i32.reinterpret_f32 (local.get 0)))))"#;
    let names = [
        "constant",
        "parameter",
        "loaded",
        "global",
        "negated",
        "copied",
        "chosen",
        "pseudo",
        "reinterpreted",
    ];
    for config in configs(true) {
        let (mut store, instance) = instance(&config, text)?;
        for name in names {
            let result: f32 = instance.call(&mut store, name, f32::from_bits(0xff80_1234))?;
            assert_eq!(result.to_bits(), 0xff80_1234, "{name}, {config:?}");
        }
    }
    Ok(())
}
