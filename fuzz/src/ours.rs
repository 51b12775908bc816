//! The case in Selvedge.

use crate::case::{Case, Setup};
use crate::guest::{Export, Guest, drive, hash_bytes, hash_words};
use crate::host::{Host, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, SPECTEST_FUNCTIONS, SPECTEST_GLOBALS};
use crate::trace::{End, State, Stop, Trace};
use crate::value::{Type, Value};
use crate::watchdog;
use selvedge::{
    AsContextMut, Caller, Config, Engine, Error, Exception, Extern, ExternRef, ExternType, FuelPolicy, Func,
    FuncType, Global, GlobalType, HeapType, Instance, Linker, Memory, MemoryStyle, MemoryType, Module,
    OptLevel, RefType, Result, Store, StoreLimits, StoreLimitsBuilder, Table, TableType, Trap, V128, Val,
    ValType,
};
use std::num::NonZero;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

type Data = Host<Func, StoreLimits>;

/// More than any case uses.
const FUEL_UNITS: u64 = 1 << 40;
/// What a module of a script may use: it is stopped then.
pub const SCRIPT_FUEL_UNITS: u64 = 1 << 20;
/// How often a setup with fuel yields: a prime, so that it is in any place.
const YIELD_EVERY: NonZero<u64> = NonZero::new(997).unwrap();
/// A call that was polled so often will never be ready.
const MAX_POLLS: u32 = 10_000_000;

/// Engines are made once: one has the process's stacks and trampolines.
static ENGINES: [LazyLock<[Engine; 5]>; 2] =
    [LazyLock::new(|| engines(false)), LazyLock::new(|| engines(true))];

fn engines(exact_nans: bool) -> [Engine; 5] {
    use Setup::*;
    [Plain, Metered, Yielding, Waiting, Bounded].map(|setup| {
        let engine = Engine::new(config(setup).canonical_nans(exact_nans));
        engine.unwrap_or_else(|error| panic!("no engine for {setup:?}: {error:#}"))
    })
}

fn engine_of(case: &Case, setup: Setup) -> &'static Engine {
    &ENGINES[usize::from(case.exact_nans())][setup as usize]
}

fn config(setup: Setup) -> Config {
    let mut config = Config::new();
    config
        .parallel_compilation(false)
        .max_guest_stacks(64)
        .wasm_wide_arithmetic(true)
        .wasm_custom_page_sizes(true);
    match setup {
        Setup::Plain => &mut config,
        Setup::Metered => config.memory_style(MemoryStyle::Bounded).fuel(true),
        Setup::Yielding => config.fuel(true).collect_at_every_allocation(true),
        Setup::Waiting => config
            .memory_style(MemoryStyle::Bounded)
            .opt_level(OptLevel::None),
        Setup::Bounded => config.memory_style(MemoryStyle::Bounded),
    };
    config
}

struct Ours {
    setup: Setup,
    /// What fuel there was at first.
    fuel_units: u64,
    libraries: Vec<(String, Module)>,
    module: Module,
    linker: Linker<Data>,
    store: Store<Data>,
    exports: Vec<(String, Extern)>,
    /// Of the host's functions.
    names: Vec<String>,
}

/// What the case does there.
pub fn run(case: &Case, setup: Setup) -> Trace {
    let who = format!("selvedge {setup:?}");
    match Ours::new(case, setup) {
        Ok(mut ours) => drive(who, &mut ours, case, usize::MAX),
        Err(error) => panic!("selvedge refuses a module that wasmi takes: {error:#}"),
    }
}

/// What a script's module does there in so many steps.
///
/// # Errors
/// It is refused.
pub fn run_script(case: &Case, setup: Setup, steps: usize) -> Result<Trace> {
    let who = match case.exact_nans() {
        true => format!("selvedge {setup:?}, canonical NaNs"),
        false => format!("selvedge {setup:?}"),
    };
    let mut ours = Ours::new(case, setup)?;
    let _watched = watchdog::watch(ours.store.interrupt_handle()?);
    Ok(drive(who, &mut ours, case, steps))
}

impl Ours {
    fn new(case: &Case, setup: Setup) -> Result<Ours> {
        let engine = engine_of(case, setup);
        let module = Module::new(engine, &case.wasm)?;
        let mut store = Store::new(engine, Data::default());
        let fuel_units = match (&case.script, setup) {
            (Some(_), Setup::Metered) => SCRIPT_FUEL_UNITS,
            _ => FUEL_UNITS,
        };
        if engine_has_fuel(setup) {
            store.set_fuel(fuel_units)?;
        }
        let mut linker = Linker::new(engine);
        let mut libraries = Vec::new();
        match &case.script {
            Some(script) => {
                let limits = StoreLimitsBuilder::new().memory_bytes(MAX_MEMORY_BYTES as u64);
                store.data_mut().limits = limits.table_elements(MAX_TABLE_ELEMENTS as u64).build();
                store.limiter(|data| &mut data.limits);
                define_spectest(&mut linker, &mut store)?;
                for (name, wasm) in &script.libraries {
                    libraries.push((name.clone(), Module::new(engine, wasm)?));
                }
            }
            None => define_host(&mut linker, &mut store, setup)?,
        }
        Ok(Ours {
            setup,
            fuel_units,
            libraries,
            module,
            linker,
            store,
            exports: Vec::new(),
            names: Vec::new(),
        })
    }

    /// Start functions are run by a synchronous call, in which nothing can wait.
    fn set_waiting(&mut self, waits: bool) {
        self.store.data_mut().may_wait = waits;
        let policy = match self.setup == Setup::Yielding && waits {
            true => FuelPolicy::Yield { every: YIELD_EVERY },
            false => FuelPolicy::Trap,
        };
        let set = match engine_has_fuel(self.setup) {
            true => self.store.set_fuel_policy(policy),
            false => Ok(()),
        };
        set.unwrap_or_else(|error| panic!("a policy is refused: {error:#}"));
    }

    /// Fuel may run out where there is little.
    fn end_of(&self, error: &Error) -> End {
        let is_unpaid = error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel);
        match is_unpaid && self.fuel_units == SCRIPT_FUEL_UNITS {
            true => End::Stopped(Stop::Unpaid),
            false => end_of(error),
        }
    }

    /// Makes the modules that the case's imports from.
    fn link(&mut self) -> Result<()> {
        for (name, module) in &self.libraries {
            let instance = self.linker.instantiate(&mut self.store, module)?;
            self.linker.instance(&mut self.store, name, instance)?;
        }
        Ok(())
    }

    fn list_exports(&mut self, instance: Instance) {
        let mut exports = instance.exports(&mut self.store);
        exports.sort_by(|a, b| a.0.cmp(&b.0));
        let funcs = exports.iter().filter_map(|(name, item)| {
            let func = item.clone().into_func()?;
            Some((name.clone(), (func, params_of(&func.ty(&self.store))?)))
        });
        let (names, funcs) = funcs.unzip();
        self.names = names;
        self.store.data_mut().functions = funcs;
        self.exports = exports;
    }
}

fn engine_has_fuel(setup: Setup) -> bool {
    matches!(setup, Setup::Metered | Setup::Yielding)
}

impl Guest for Ours {
    fn instantiate(&mut self) -> End {
        self.store.data_mut().functions.clear();
        self.exports.clear();
        self.set_waiting(false);
        let made = self
            .link()
            .and_then(|()| self.linker.instantiate(&mut self.store, &self.module));
        self.set_waiting(true);
        match made {
            Ok(instance) => {
                self.list_exports(instance);
                End::Returned(Vec::new())
            }
            Err(error) => self.end_of(&error),
        }
    }

    fn functions(&self) -> Vec<Export> {
        let types = self.store.data().functions.iter().map(|(_, types)| types.clone());
        self.names.iter().cloned().zip(types).collect()
    }

    fn call(&mut self, index: usize, params: &[Value]) -> End {
        let (func, _) = self.store.data().functions[index];
        let results = match self.setup.is_async() {
            true => block_on(call_async(&mut self.store, func, params)),
            false => call(&mut self.store, func, params),
        };
        match results {
            Ok(results) => End::Returned(results),
            Err(error) => self.end_of(&error),
        }
    }

    fn state(&mut self) -> State {
        let mut state = State::default();
        for (_, item) in &self.exports {
            match item {
                Extern::Memory(memory) => {
                    let hash = hash_bytes(memory.data(&self.store));
                    state.memories.push((memory.size(&self.store), hash));
                }
                Extern::SharedMemory(memory) => {
                    let bytes = memory.data().iter().map(|byte| byte.load(Ordering::Relaxed));
                    let hash = hash_bytes(&bytes.collect::<Vec<_>>());
                    state.memories.push((memory.size(), hash));
                }
                Extern::Table(table) => {
                    let size = table.size(&self.store);
                    let nulls = (0..size).map(|at| is_null(table.get(&mut self.store, at)).into());
                    let hash = hash_words(nulls);
                    state.tables.push((size, hash));
                }
                Extern::Global(global) => {
                    let value = global.get(&mut self.store);
                    state.globals.push(from_val(&self.store, value));
                }
                _ => {}
            }
        }
        state
    }

    fn host(&self) -> (u64, u64) {
        self.store.data().seen()
    }

    fn fuel_used(&self) -> Option<u64> {
        let left = self.store.get_fuel().ok()?;
        // What a function without loops and calls has used beyond the end is not seen.
        (left > 0).then(|| self.fuel_units - left)
    }
}

fn is_null(value: Option<Val>) -> bool {
    matches!(
        value,
        Some(Val::FuncRef(None) | Val::ExternRef(None) | Val::ExnRef(None))
    )
}

fn define_items(linker: &mut Linker<Data>, store: &mut Store<Data>) -> Result<()> {
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(8)))?;
    let ty = TableType::new(RefType::FUNCREF, 4, Some(20));
    let table = Table::new(&mut *store, ty, Val::FuncRef(None))?;
    let constant = Global::new(&mut *store, global_type(ValType::I64, false), Val::I64(77))?;
    let variable = Global::new(&mut *store, global_type(ValType::I32, true), Val::I32(5))?;
    linker.define("host", "memory", memory)?;
    linker.define("host", "table", table)?;
    linker.define("host", "constant", constant)?;
    linker.define("host", "variable", variable)?;
    Ok(())
}

fn define_host(linker: &mut Linker<Data>, store: &mut Store<Data>, setup: Setup) -> Result<()> {
    define_items(linker, store)?;
    define_functions(linker)?;
    match setup.is_async() {
        true => define_waiting_functions(linker),
        false => define_plain_functions(linker),
    }
}

/// What every script may import.
fn define_spectest(linker: &mut Linker<Data>, store: &mut Store<Data>) -> Result<()> {
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2)))?;
    linker.define("spectest", "memory", memory)?;
    let ty = TableType::new(RefType::FUNCREF, 10, Some(20));
    let table = Table::new(&mut *store, ty, Val::FuncRef(None))?;
    linker.define("spectest", "table", table)?;
    for (name, value) in SPECTEST_GLOBALS {
        let value = to_val(store, value)?;
        let global = Global::new(&mut *store, global_type(value.ty(), false), value)?;
        linker.define("spectest", name, global)?;
    }
    for (name, types) in SPECTEST_FUNCTIONS {
        let ty = FuncType::new(types.iter().map(|ty| val_type(*ty)), []);
        linker.func_new("spectest", name, ty, |mut caller, params, _| {
            let seen = params
                .iter()
                .map(|value| from_val(&caller, *value))
                .collect::<Vec<_>>();
            caller.data_mut().note(&seen);
            Ok(())
        })?;
    }
    Ok(())
}

fn val_type(ty: Type) -> ValType {
    match ty {
        Type::I32 => ValType::I32,
        Type::I64 => ValType::I64,
        Type::F32 => ValType::F32,
        Type::F64 => ValType::F64,
        Type::V128 => ValType::V128,
        Type::Func => ValType::FUNCREF,
        Type::Extern => ValType::EXTERNREF,
    }
}

fn global_type(content: ValType, mutable: bool) -> GlobalType {
    GlobalType { content, mutable }
}

/// Those that never wait.
fn define_functions(linker: &mut Linker<Data>) -> Result<()> {
    linker.func_wrap("host", "blend", |mut caller: Caller<'_, Data>, a: f32, b: f64| {
        caller.data_mut().blend(a, b)
    })?;
    linker.func_wrap("host", "turn", |mut caller: Caller<'_, Data>, a: V128, b: i32| {
        let turned = caller.data_mut().turn(a.into(), b);
        (V128::from(turned), i64::from(b))
    })?;
    linker.func_wrap(
        "host",
        "stop",
        |mut caller: Caller<'_, Data>, a: i32| match caller.data_mut().stops(a) {
            true => Err(Error::msg("stop")),
            false => Ok(()),
        },
    )?;
    let ty = FuncType::new(
        [ValType::EXTERNREF, ValType::FUNCREF],
        [ValType::FUNCREF, ValType::EXTERNREF],
    );
    linker.func_new("host", "pass", ty, |mut caller, params, results| {
        let seen = params
            .iter()
            .map(|value| from_val(&caller, *value))
            .collect::<Vec<_>>();
        caller.data_mut().note(&seen);
        results.copy_from_slice(&[params[1], params[0]]);
        Ok(())
    })?;
    Ok(())
}

fn define_plain_functions(linker: &mut Linker<Data>) -> Result<()> {
    linker.func_wrap("host", "mix", |mut caller: Caller<'_, Data>, a: i32, b: i64| {
        caller.data_mut().mix(a, b)
    })?;
    linker.func_wrap(
        "host",
        "many",
        |mut caller: Caller<'_, Data>, a: i64, b: f32, c: i32| {
            let (x, y, z) = caller.data_mut().many(a, b.to_bits(), c);
            (x, f64::from_bits(y), z)
        },
    )?;
    linker.func_wrap(
        "host",
        "again",
        |mut caller: Caller<'_, Data>, a: i32| -> Result<i32> {
            let Some((func, params)) = caller.data_mut().begin_again(a) else {
                return Ok(-1);
            };
            let end = call(&mut caller, func, &params);
            caller.data_mut().end_again();
            end.map(hash_results)
        },
    )?;
    Ok(())
}

fn define_waiting_functions(linker: &mut Linker<Data>) -> Result<()> {
    linker.func_wrap_async(
        "host",
        "mix",
        async |mut caller: Caller<'_, Data>, (a, b): (i32, i64)| -> Result<i64> {
            if caller.data().may_wait {
                Once::default().await;
            }
            Ok(caller.data_mut().mix(a, b))
        },
    )?;
    linker.func_wrap_async(
        "host",
        "many",
        async |mut caller: Caller<'_, Data>, (a, b, c): (i64, f32, i32)| -> Result<(i32, f64, i64)> {
            let (x, y, z) = caller.data_mut().many(a, b.to_bits(), c);
            Ok((x, f64::from_bits(y), z))
        },
    )?;
    linker.func_wrap_async(
        "host",
        "again",
        async |mut caller: Caller<'_, Data>, a: i32| -> Result<i32> {
            let Some((func, params)) = caller.data_mut().begin_again(a) else {
                return Ok(-1);
            };
            let end = call_async(&mut caller, func, &params).await;
            caller.data_mut().end_again();
            end.map(hash_results)
        },
    )?;
    Ok(())
}

fn hash_results(results: Vec<Value>) -> i32 {
    hash_words(results.into_iter().map(Value::word)) as i32
}

fn call(mut store: impl AsContextMut<Data = Data>, func: Func, params: &[Value]) -> Result<Vec<Value>> {
    let (params, mut results) = prepare(&mut store, func, params)?;
    func.call(&mut store, &params, &mut results)?;
    Ok(from_vals(&store, &results))
}

async fn call_async(
    store: &mut impl AsContextMut<Data = Data>,
    func: Func,
    params: &[Value],
) -> Result<Vec<Value>> {
    let (params, mut results) = prepare(store, func, params)?;
    func.call_async(store, &params, &mut results).await?;
    Ok(from_vals(store, &results))
}

fn prepare(
    store: &mut impl AsContextMut<Data = Data>,
    func: Func,
    params: &[Value],
) -> Result<(Vec<Val>, Vec<Val>)> {
    let params = params
        .iter()
        .map(|value| to_val(store, *value))
        .collect::<Result<_>>()?;
    let ty = func.ty(&*store);
    // A reference that is never null has no default; any value is overwritten.
    let results = ty
        .results()
        .iter()
        .map(|ty| Val::default_for(*ty).unwrap_or(Val::I32(0)));
    Ok((params, results.collect()))
}

/// A future that is pending once.
#[derive(Default)]
struct Once {
    is_ready: bool,
}

impl Future for Once {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.is_ready, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MAX_POLLS {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("a call was polled {MAX_POLLS} times and is not ready");
}

/// Whether references to exceptions cross the border to the host, for which there is no neutral value.
pub fn takes_exceptions(case: &Case) -> bool {
    let Ok(module) = Module::new(engine_of(case, Setup::Plain), &case.wasm) else {
        return false;
    };
    let is_exception = |ty: &ValType| {
        ty.as_ref()
            .is_some_and(|ty| ty.heap_type().top() == HeapType::Exn)
    };
    module.exports().any(|export| match export.ty() {
        ExternType::Func(ty) => ty.params().iter().chain(ty.results()).any(is_exception),
        ExternType::Global(ty) => is_exception(&ty.content),
        _ => false,
    })
}

/// Its parameters, if the host has a value of each type.
fn params_of(ty: &FuncType) -> Option<Vec<Type>> {
    let neutral = |ty: &ValType| match ty {
        ValType::I32 => Some(Type::I32),
        ValType::I64 => Some(Type::I64),
        ValType::F32 => Some(Type::F32),
        ValType::F64 => Some(Type::F64),
        ValType::V128 => Some(Type::V128),
        ty if *ty == ValType::FUNCREF => Some(Type::Func),
        ty if *ty == ValType::EXTERNREF => Some(Type::Extern),
        _ => None,
    };
    ty.params().iter().map(neutral).collect()
}

fn to_val(store: &mut impl AsContextMut<Data = Data>, value: Value) -> Result<Val> {
    Ok(match value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(bits) => Val::F32(bits),
        Value::F64(bits) => Val::F64(bits),
        Value::V128(bits) => Val::V128(bits.into()),
        Value::Func(false) => Val::FuncRef(None),
        Value::Func(true) => Val::FuncRef(Some(store.as_context_mut().data().functions[0].0)),
        Value::Extern(None) => Val::ExternRef(None),
        Value::Extern(Some(value)) => Val::ExternRef(Some(ExternRef::new(store, value)?)),
        Value::Opaque(_) => return Err(Error::msg("no argument")),
    })
}

fn from_vals(store: &impl selvedge::AsContext<Data = Data>, values: &[Val]) -> Vec<Value> {
    values.iter().map(|value| from_val(store, *value)).collect()
}

fn from_val(store: &impl selvedge::AsContext<Data = Data>, value: Val) -> Value {
    match value {
        Val::I32(value) => Value::I32(value),
        Val::I64(value) => Value::I64(value),
        Val::F32(bits) => Value::f32(bits),
        Val::F64(bits) => Value::f64(bits),
        Val::V128(vector) => Value::V128(vector.into()),
        Val::FuncRef(value) => Value::Func(value.is_some()),
        Val::ExternRef(value) => Value::Extern(value.map(|value| {
            let data = value.data(store).ok().and_then(|data| data.downcast_ref());
            *data.expect("the host makes references to u32 only")
        })),
        Val::ExnRef(value) => Value::Opaque(value.is_some()),
        other => panic!("no engine has values like {other:?}"),
    }
}

fn end_of(error: &Error) -> End {
    if error.is::<Exception>() {
        return End::Stopped(Stop::Exception);
    }
    let Some(trap) = error.downcast_ref::<Trap>() else {
        return match error.root_cause().to_string().as_str() {
            "stop" => End::Stopped(Stop::Host),
            _ => End::Refused(format!("{error:#}")),
        };
    };
    End::Stopped(match trap {
        Trap::Unreachable => Stop::Unreachable,
        Trap::MemoryOutOfBounds => Stop::MemoryOutOfBounds,
        Trap::TableOutOfBounds => Stop::TableOutOfBounds,
        Trap::IndirectCallToNull => Stop::CallToNull,
        Trap::IntegerDivisionByZero => Stop::DivisionByZero,
        Trap::IntegerOverflow | Trap::BadConversionToInteger => Stop::OverflowOrConversion,
        Trap::StackOverflow => Stop::StackOverflow,
        Trap::BadSignature => Stop::BadSignature,
        Trap::NullReference => Stop::NullReference,
        Trap::UnalignedAtomic => Stop::Unaligned,
        Trap::ExpectedSharedMemory => Stop::NotShared,
        _ => Stop::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_beyond_the_end_is_not_compared() {
        let wasm = wat::parse_str(r#"(module (func (export "f") (result i32) (i32.const 7)))"#);
        let case = Case::new(wasm.expect("well-formed"), 0);
        let mut ours = Ours::new(&case, Setup::Metered).expect("supported");
        assert_eq!(ours.instantiate(), End::Returned(Vec::new()));
        let before = ours.fuel_used().expect("there is much left");
        for (fuel_units, used) in [(1, None), (3, Some(2))] {
            ours.store.set_fuel(fuel_units).expect("fuel is on");
            assert_eq!(ours.call(0, &[]), End::Returned(vec![Value::I32(7)]));
            assert_eq!(
                ours.fuel_used(),
                used.map(|used| before + FUEL_UNITS - fuel_units + used)
            );
        }
    }
}
