//! The case in `wasmi`.

use crate::case::Case;
use crate::guest::{Export, Guest, drive, hash_bytes, hash_words};
use crate::host::{Host, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, SPECTEST_FUNCTIONS, SPECTEST_GLOBALS};
use crate::trace::{End, State, Stop, Trace};
use crate::value::{Type, Value};
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use wasmi::{
    AsContextMut, Caller, CompilationMode, Config, Engine, Error, Extern, ExternRef, F32, F64, Func,
    FuncType, Global, Instance, Linker, Memory, MemoryType, Module, Mutability, Nullable, Ref, RefType,
    Store, StoreLimits, StoreLimitsBuilder, Table, TableType, TrapCode, V128, Val, ValType,
};

/// What a module of a script may use.
const SCRIPT_FUEL_UNITS: u64 = crate::ours::SCRIPT_FUEL_UNITS;

type Data = Host<Func, StoreLimits>;

/// With fuel for modules of scripts, which may run for ever.
static ENGINES: [LazyLock<Engine>; 2] = [LazyLock::new(|| engine(false)), LazyLock::new(|| engine(true))];

fn engine(has_fuel: bool) -> Engine {
    let mut config = Config::default();
    config
        .compilation_mode(CompilationMode::Eager)
        .consume_fuel(has_fuel)
        .set_max_recursion_depth(30_000)
        .set_max_stack_height(8 << 20)
        .wasm_wide_arithmetic(true)
        .wasm_custom_page_sizes(true);
    Engine::new(&config)
}

struct Rival {
    libraries: Vec<(String, Module)>,
    module: Module,
    linker: Linker<Data>,
    store: Store<Data>,
    instance: Option<Instance>,
    exports: Vec<(String, Extern)>,
    /// Of the host's functions.
    names: Vec<String>,
}

/// What the case does there. None where `wasmi` has no room for the module, or its translator panics, which it does now and then
/// ("a register operand already exists on the stack").
pub fn run(case: &Case, steps: usize) -> Option<Trace> {
    let engine = &ENGINES[usize::from(case.script.is_some())];
    let module = compile(engine, &case.wasm)?;
    let mut store = Store::new(engine, Data::default());
    let mut libraries = Vec::new();
    let linker = match &case.script {
        Some(script) => {
            for (name, wasm) in &script.libraries {
                libraries.push((name.clone(), compile(engine, wasm)?));
            }
            spectest(&mut store)
        }
        None => linker(&mut store),
    };
    let mut rival = Rival {
        libraries,
        module,
        linker,
        store,
        instance: None,
        exports: Vec::new(),
        names: Vec::new(),
    };
    Some(drive("wasmi".to_owned(), &mut rival, case, steps))
}

fn compile(engine: &Engine, wasm: &[u8]) -> Option<Module> {
    let compile = AssertUnwindSafe(|| Module::new(engine, wasm));
    std::panic::catch_unwind(compile).ok()?.ok()
}

/// What every script may import, and the limits that its modules are kept to.
fn spectest(store: &mut Store<Data>) -> Linker<Data> {
    let limits = StoreLimitsBuilder::new().memory_size(MAX_MEMORY_BYTES);
    store.data_mut().limits = limits.table_elements(MAX_TABLE_ELEMENTS).build();
    store.limiter(|data| &mut data.limits);
    let set = store.set_fuel(SCRIPT_FUEL_UNITS);
    set.unwrap_or_else(|error| panic!("wasmi's fuel: {error}"));
    let mut linker = Linker::new(store.engine());
    define_spectest(&mut linker, store).unwrap_or_else(|error| panic!("wasmi's imports: {error}"));
    linker
}

fn define_spectest(linker: &mut Linker<Data>, store: &mut Store<Data>) -> Result<(), Error> {
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2)))?;
    linker.define("spectest", "memory", memory)?;
    let ty = TableType::new(RefType::Func, 10, Some(20));
    let table = Table::new(&mut *store, ty, Ref::Func(Nullable::Null))?;
    linker.define("spectest", "table", table)?;
    for (name, value) in SPECTEST_GLOBALS {
        let value = to_val(&mut *store, value);
        let global = Global::new(&mut *store, value, Mutability::Const);
        linker.define("spectest", name, global)?;
    }
    for (name, types) in SPECTEST_FUNCTIONS {
        let ty = FuncType::new(types.iter().map(|ty| val_type(*ty)), []);
        linker.func_new("spectest", name, ty, |mut caller, params, _| {
            let seen = params
                .iter()
                .map(|value| from_val(&caller, value))
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
        Type::Func => ValType::FuncRef,
        Type::Extern => ValType::ExternRef,
    }
}

impl Guest for Rival {
    fn instantiate(&mut self) -> End {
        self.store.data_mut().functions.clear();
        self.exports.clear();
        let made = self
            .link()
            .and_then(|()| self.linker.instantiate_and_start(&mut self.store, &self.module));
        match made {
            Ok(instance) => {
                self.instance = Some(instance);
                self.list_exports(instance);
                End::Returned(Vec::new())
            }
            Err(error) => end_of(&error),
        }
    }

    fn functions(&self) -> Vec<Export> {
        let types = self.store.data().functions.iter().map(|(_, types)| types.clone());
        self.names.iter().cloned().zip(types).collect()
    }

    fn call(&mut self, index: usize, params: &[Value]) -> End {
        let (func, _) = self.store.data().functions[index];
        match call(&mut self.store, func, params) {
            Ok(results) => End::Returned(results),
            Err(error) => end_of(&error),
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
                Extern::Table(table) => {
                    let size = table.size(&self.store);
                    let nulls =
                        (0..size).map(|at| table.get(&self.store, at).is_some_and(|it| it.is_null()).into());
                    state.tables.push((size, hash_words(nulls)));
                }
                Extern::Global(global) => {
                    let value = global.get(&self.store);
                    state.globals.push(from_val(&self.store, &value));
                }
                Extern::Func(_) => {}
            }
        }
        state
    }

    fn host(&self) -> (u64, u64) {
        self.store.data().seen()
    }

    fn fuel_used(&self) -> Option<u64> {
        let left = self.store.get_fuel().ok()?;
        Some(SCRIPT_FUEL_UNITS - left)
    }
}

impl Rival {
    /// Makes the modules that the case's imports from.
    fn link(&mut self) -> Result<(), Error> {
        for (name, module) in &self.libraries {
            let instance = self.linker.instantiate_and_start(&mut self.store, module)?;
            self.linker.instance(&mut self.store, name, instance)?;
        }
        Ok(())
    }

    fn list_exports(&mut self, instance: Instance) {
        let exports = instance.exports(&self.store);
        let mut exports = exports
            .map(|export| (export.name().to_owned(), export.into_extern()))
            .collect::<Vec<_>>();
        exports.sort_by(|a, b| a.0.cmp(&b.0));
        let funcs = exports.iter().filter_map(|(name, item)| {
            let func = item.into_func()?;
            Some((name.clone(), (func, params_of(&func.ty(&self.store))?)))
        });
        let (names, funcs) = funcs.unzip();
        self.names = names;
        self.store.data_mut().functions = funcs;
        self.exports = exports;
    }
}

fn linker(store: &mut Store<Data>) -> Linker<Data> {
    let mut linker = Linker::new(store.engine());
    define_items(&mut linker, store).unwrap_or_else(|error| panic!("wasmi's imports: {error}"));
    define_functions(&mut linker).unwrap_or_else(|error| panic!("wasmi's imports: {error}"));
    linker
}

fn define_items(linker: &mut Linker<Data>, store: &mut Store<Data>) -> Result<(), Error> {
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(8)))?;
    let ty = TableType::new(RefType::Func, 4, Some(20));
    let table = Table::new(&mut *store, ty, Ref::Func(Nullable::Null))?;
    let constant = Global::new(&mut *store, Val::I64(77), Mutability::Const);
    let variable = Global::new(&mut *store, Val::I32(5), Mutability::Var);
    linker.define("host", "memory", memory)?;
    linker.define("host", "table", table)?;
    linker.define("host", "constant", constant)?;
    linker.define("host", "variable", variable)?;
    Ok(())
}

fn define_functions(linker: &mut Linker<Data>) -> Result<(), Error> {
    linker.func_wrap("host", "mix", |mut caller: Caller<'_, Data>, a: i32, b: i64| {
        caller.data_mut().mix(a, b)
    })?;
    linker.func_wrap("host", "blend", |mut caller: Caller<'_, Data>, a: f32, b: f64| {
        caller.data_mut().blend(a, b)
    })?;
    linker.func_wrap(
        "host",
        "many",
        |mut caller: Caller<'_, Data>, a: i64, b: f32, c: i32| {
            let (x, y, z) = caller.data_mut().many(a, b.to_bits(), c);
            (x, f64::from_bits(y), z)
        },
    )?;
    linker.func_wrap("host", "turn", |mut caller: Caller<'_, Data>, a: V128, b: i32| {
        let turned = caller.data_mut().turn(a.as_u128(), b);
        (V128::from(turned), i64::from(b))
    })?;
    linker.func_wrap(
        "host",
        "stop",
        |mut caller: Caller<'_, Data>, a: i32| match caller.data_mut().stops(a) {
            true => Err(Error::new("stop")),
            false => Ok(()),
        },
    )?;
    linker.func_wrap("host", "again", again)?;
    let ty = FuncType::new(
        [ValType::ExternRef, ValType::FuncRef],
        [ValType::FuncRef, ValType::ExternRef],
    );
    linker.func_new("host", "pass", ty, |mut caller, params, results| {
        let seen = params
            .iter()
            .map(|value| from_val(&caller, value))
            .collect::<Vec<_>>();
        caller.data_mut().note(&seen);
        results[0] = params[1].clone();
        results[1] = params[0].clone();
        Ok(())
    })?;
    Ok(())
}

fn again(mut caller: Caller<'_, Data>, a: i32) -> Result<i32, Error> {
    let Some((func, params)) = caller.data_mut().begin_again(a) else {
        return Ok(-1);
    };
    let end = call(&mut caller, func, &params);
    caller.data_mut().end_again();
    end.map(|results| hash_words(results.into_iter().map(Value::word)) as i32)
}

fn call(
    mut store: impl AsContextMut<Data = Data>,
    func: Func,
    params: &[Value],
) -> Result<Vec<Value>, Error> {
    let params = params
        .iter()
        .map(|value| to_val(&mut store, *value))
        .collect::<Vec<_>>();
    let ty = func.ty(&store);
    let mut results = ty
        .results()
        .iter()
        .map(|ty| Val::default_for_ty(*ty))
        .collect::<Vec<_>>();
    func.call(&mut store, &params, &mut results)?;
    Ok(results.iter().map(|value| from_val(&store, value)).collect())
}

fn params_of(ty: &FuncType) -> Option<Vec<Type>> {
    let neutral = |ty: &ValType| match ty {
        ValType::I32 => Type::I32,
        ValType::I64 => Type::I64,
        ValType::F32 => Type::F32,
        ValType::F64 => Type::F64,
        ValType::FuncRef => Type::Func,
        ValType::ExternRef => Type::Extern,
        ValType::V128 => Type::V128,
    };
    Some(ty.params().iter().map(neutral).collect())
}

fn to_val(mut store: impl AsContextMut<Data = Data>, value: Value) -> Val {
    match value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(bits) => Val::F32(F32::from(f32::from_bits(bits))),
        Value::F64(bits) => Val::F64(F64::from(f64::from_bits(bits))),
        Value::V128(bits) => Val::V128(bits.into()),
        Value::Func(false) => Val::FuncRef(Nullable::Null),
        Value::Func(true) => Val::FuncRef(Nullable::Val(store.as_context_mut().data().functions[0].0)),
        Value::Extern(None) => Val::ExternRef(Nullable::Null),
        Value::Extern(Some(value)) => Val::from(ExternRef::new(&mut store, value)),
        Value::Opaque(_) => Val::ExternRef(Nullable::Null),
    }
}

fn from_val(store: &impl wasmi::AsContext, value: &Val) -> Value {
    match value {
        Val::I32(value) => Value::I32(*value),
        Val::I64(value) => Value::I64(*value),
        Val::F32(value) => Value::f32(value.to_bits()),
        Val::F64(value) => Value::f64(value.to_bits()),
        Val::FuncRef(value) => Value::Func(!value.is_null()),
        Val::ExternRef(value) => Value::Extern(value.val().map(|value| {
            let data = value.data(store.as_context()).downcast_ref::<u32>();
            *data.expect("the host makes references to u32 only")
        })),
        Val::V128(vector) => Value::V128(vector.as_u128()),
    }
}

fn end_of(error: &Error) -> End {
    let Some(code) = error.as_trap_code() else {
        return match error.to_string().as_str() {
            "stop" => End::Stopped(Stop::Host),
            other => End::Refused(other.to_owned()),
        };
    };
    End::Stopped(match code {
        TrapCode::UnreachableCodeReached => Stop::Unreachable,
        TrapCode::MemoryOutOfBounds => Stop::MemoryOutOfBounds,
        TrapCode::TableOutOfBounds => Stop::TableOutOfBounds,
        TrapCode::IndirectCallToNull => Stop::CallToNull,
        TrapCode::IntegerDivisionByZero => Stop::DivisionByZero,
        TrapCode::IntegerOverflow | TrapCode::BadConversionToInteger => Stop::OverflowOrConversion,
        TrapCode::StackOverflow => Stop::StackOverflow,
        TrapCode::BadSignature => Stop::BadSignature,
        TrapCode::OutOfFuel => Stop::Unpaid,
        TrapCode::GrowthOperationLimited | TrapCode::OutOfSystemMemory => Stop::Other,
    })
}
