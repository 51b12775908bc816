//! The case in `wasmtime`, which takes minutes to build: only with the feature of that name.
//!
//! It does what Selvedge does, exceptions included, and counts fuel at the same costs.

use crate::case::Case;
use crate::guest::{Export, Guest, drive, hash_bytes, hash_words};
use crate::host::{Host, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, SPECTEST_FUNCTIONS, SPECTEST_GLOBALS};
use crate::trace::{End, State, Stop, Trace};
use crate::value::{Type, Value};
use std::sync::LazyLock;
use wasmtime::{
    AsContext, AsContextMut, Caller, Config, Engine, Error, Extern, ExternRef, Func, FuncType, Global,
    GlobalType, HeapType, Instance, Linker, Memory, MemoryType, Module, Mutability, Ref, RefType, Result,
    Store, StoreLimits, StoreLimitsBuilder, Table, TableType, ThrownException, Trap, V128, Val, ValType,
};

type Data = Host<Func, StoreLimits>;

/// More than any case uses: what is asked of `table.grow` is paid for, also in vain.
const FUEL_UNITS: u64 = 1 << 62;

/// What a module of a script may use: more than of ours, as bulk operations have other costs.
const SCRIPT_FUEL_UNITS: u64 = 16 * crate::ours::SCRIPT_FUEL_UNITS;

static ENGINES: [LazyLock<Engine>; 2] = [LazyLock::new(|| engine(false)), LazyLock::new(|| engine(true))];

fn engine(exact_nans: bool) -> Engine {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .cranelift_nan_canonicalization(exact_nans)
        .parallel_compilation(false)
        .relaxed_simd_deterministic(true)
        .shared_memory(true)
        .wasm_backtrace_max_frames(None)
        .wasm_custom_page_sizes(true)
        .wasm_exceptions(true)
        .wasm_extended_const(true)
        .wasm_memory64(true)
        .wasm_multi_memory(true)
        .wasm_tail_call(true)
        .wasm_wide_arithmetic(true);
    Engine::new(&config).unwrap_or_else(|error| panic!("wasmtime's engine: {error:#}"))
}

fn engine_of(case: &Case) -> &'static Engine {
    &ENGINES[usize::from(case.exact_nans())]
}

struct Rival {
    libraries: Vec<(String, Module)>,
    /// What fuel there was at first.
    fuel_units: u64,
    module: Module,
    linker: Linker<Data>,
    store: Store<Data>,
    exports: Vec<(String, Extern)>,
    /// Of the host's functions.
    names: Vec<String>,
}

/// What the case does there. None if it refuses the module.
pub fn run(case: &Case, steps: usize) -> Option<Trace> {
    let engine = engine_of(case);
    let module = Module::new(engine, &case.wasm).ok()?;
    let mut store = Store::new(engine, Data::default());
    let fuel_units = match &case.script {
        Some(_) => SCRIPT_FUEL_UNITS,
        None => FUEL_UNITS,
    };
    let set = store.set_fuel(fuel_units);
    set.unwrap_or_else(|error| panic!("wasmtime's fuel: {error:#}"));
    let mut libraries = Vec::new();
    let linker = match &case.script {
        Some(script) => {
            for (name, wasm) in &script.libraries {
                libraries.push((name.clone(), Module::new(engine, wasm).ok()?));
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
        fuel_units,
        exports: Vec::new(),
        names: Vec::new(),
    };
    Some(drive("wasmtime".to_owned(), &mut rival, case, steps))
}

/// What every script may import, and the limits that its modules are kept to.
fn spectest(store: &mut Store<Data>) -> Linker<Data> {
    let limits = StoreLimitsBuilder::new().memory_size(MAX_MEMORY_BYTES);
    store.data_mut().limits = limits.table_elements(MAX_TABLE_ELEMENTS).build();
    store.limiter(|data| &mut data.limits);
    let mut linker = Linker::new(store.engine());
    define_spectest(&mut linker, store).unwrap_or_else(|error| panic!("wasmtime's imports: {error:#}"));
    linker
}

fn define_spectest(linker: &mut Linker<Data>, store: &mut Store<Data>) -> Result<()> {
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2)))?;
    linker.define(&mut *store, "spectest", "memory", memory)?;
    let table = Table::new(
        &mut *store,
        TableType::new(RefType::FUNCREF, 10, Some(20)),
        Ref::Func(None),
    )?;
    linker.define(&mut *store, "spectest", "table", table)?;
    for (name, value) in SPECTEST_GLOBALS {
        let value = to_val(&mut *store, value)?;
        let ty = GlobalType::new(value.ty(&mut *store)?, Mutability::Const);
        let global = Global::new(&mut *store, ty, value)?;
        linker.define(&mut *store, "spectest", name, global)?;
    }
    for (name, types) in SPECTEST_FUNCTIONS {
        let ty = FuncType::new(store.engine(), types.iter().map(|ty| val_type(*ty)), []);
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
        Type::Func => ValType::FUNCREF,
        Type::Extern => ValType::EXTERNREF,
    }
}

impl Guest for Rival {
    fn instantiate(&mut self) -> End {
        self.store.data_mut().functions.clear();
        self.exports.clear();
        match self
            .link()
            .and_then(|()| self.linker.instantiate(&mut self.store, &self.module))
        {
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
        match call(&mut self.store, func, params) {
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
                    // SAFETY: the memory's bytes live as long as it, and no thread but this one, which runs no guest now, knows it.
                    let bytes = memory.data().iter().map(|byte| unsafe { *byte.get() });
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
                    state.globals.push(from_val(&self.store, &value));
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
        Some(self.fuel_units - left)
    }
}

impl Rival {
    /// Makes the modules that the case's imports from.
    fn link(&mut self) -> Result<()> {
        for (name, module) in &self.libraries {
            let instance = self.linker.instantiate(&mut self.store, module)?;
            self.linker.instance(&mut self.store, name, instance)?;
        }
        Ok(())
    }

    fn list_exports(&mut self, instance: Instance) {
        let exports = instance.exports(&mut self.store);
        let mut exports = exports
            .map(|export| (export.name().to_owned(), export.into_extern()))
            .collect::<Vec<_>>();
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

    fn end_of(&mut self, error: &Error) -> End {
        if error.is::<ThrownException>() {
            self.store.take_pending_exception();
            return End::Stopped(Stop::Exception);
        }
        end_of(error)
    }
}

fn is_null(value: Option<Ref>) -> bool {
    matches!(value, Some(Ref::Func(None) | Ref::Extern(None) | Ref::Exn(None)))
}

fn linker(store: &mut Store<Data>) -> Linker<Data> {
    let mut linker = Linker::new(store.engine());
    define_items(&mut linker, store).unwrap_or_else(|error| panic!("wasmtime's imports: {error:#}"));
    define_functions(&mut linker).unwrap_or_else(|error| panic!("wasmtime's imports: {error:#}"));
    linker
}

fn define_items(linker: &mut Linker<Data>, store: &mut Store<Data>) -> Result<()> {
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(8)))?;
    let ty = TableType::new(RefType::FUNCREF, 4, Some(20));
    let table = Table::new(&mut *store, ty, Ref::Func(None))?;
    let ty = GlobalType::new(ValType::I64, Mutability::Const);
    let constant = Global::new(&mut *store, ty, Val::I64(77))?;
    let ty = GlobalType::new(ValType::I32, Mutability::Var);
    let variable = Global::new(&mut *store, ty, Val::I32(5))?;
    linker.define(&mut *store, "host", "memory", memory)?;
    linker.define(&mut *store, "host", "table", table)?;
    linker.define(&mut *store, "host", "constant", constant)?;
    linker.define(&mut *store, "host", "variable", variable)?;
    Ok(())
}

fn define_functions(linker: &mut Linker<Data>) -> Result<()> {
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
            true => Err(Error::msg("stop")),
            false => Ok(()),
        },
    )?;
    linker.func_wrap("host", "again", again)?;
    let ty = FuncType::new(
        linker.engine(),
        [ValType::EXTERNREF, ValType::FUNCREF],
        [ValType::FUNCREF, ValType::EXTERNREF],
    );
    linker.func_new("host", "pass", ty, |mut caller, params, results| {
        let seen = params
            .iter()
            .map(|value| from_val(&caller, value))
            .collect::<Vec<_>>();
        caller.data_mut().note(&seen);
        results.copy_from_slice(&[params[1], params[0]]);
        Ok(())
    })?;
    Ok(())
}

fn again(mut caller: Caller<'_, Data>, a: i32) -> Result<i32> {
    let Some((func, params)) = caller.data_mut().begin_again(a) else {
        return Ok(-1);
    };
    let end = call(&mut caller, func, &params);
    caller.data_mut().end_again();
    end.map(|results| hash_words(results.into_iter().map(Value::word)) as i32)
}

fn call(mut store: impl AsContextMut<Data = Data>, func: Func, params: &[Value]) -> Result<Vec<Value>> {
    let params = params
        .iter()
        .map(|value| to_val(&mut store, *value))
        .collect::<Result<Vec<_>>>()?;
    let mut results = vec![Val::I32(0); func.ty(&store).results().len()];
    func.call(&mut store, &params, &mut results)?;
    Ok(results.iter().map(|value| from_val(&store, value)).collect())
}

/// Its parameters, if the host has a value of each type.
fn params_of(ty: &FuncType) -> Option<Vec<Type>> {
    let neutral = |ty: ValType| match ty {
        ValType::I32 => Some(Type::I32),
        ValType::I64 => Some(Type::I64),
        ValType::F32 => Some(Type::F32),
        ValType::F64 => Some(Type::F64),
        ValType::V128 => Some(Type::V128),
        ValType::Ref(ty) if ty.is_nullable() && matches!(ty.heap_type(), HeapType::Func) => Some(Type::Func),
        ValType::Ref(ty) if ty.is_nullable() && matches!(ty.heap_type(), HeapType::Extern) => {
            Some(Type::Extern)
        }
        _ => None,
    };
    ty.params().map(neutral).collect()
}

fn to_val(mut store: impl AsContextMut<Data = Data>, value: Value) -> Result<Val> {
    Ok(match value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(bits) => Val::F32(bits),
        Value::F64(bits) => Val::F64(bits),
        Value::V128(bits) => Val::V128(bits.into()),
        Value::Func(false) => Val::FuncRef(None),
        Value::Func(true) => Val::FuncRef(Some(store.as_context_mut().data().functions[0].0)),
        Value::Extern(None) => Val::ExternRef(None),
        Value::Extern(Some(value)) => Val::ExternRef(Some(ExternRef::new(&mut store, value)?)),
        Value::Opaque(_) => return Err(Error::msg("no argument")),
    })
}

fn from_val(store: &impl AsContext, value: &Val) -> Value {
    match value {
        Val::I32(value) => Value::I32(*value),
        Val::I64(value) => Value::I64(*value),
        Val::F32(bits) => Value::f32(*bits),
        Val::F64(bits) => Value::f64(*bits),
        Val::V128(vector) => Value::V128(vector.as_u128()),
        Val::FuncRef(value) => Value::Func(value.is_some()),
        Val::ExternRef(value) => Value::Extern(value.map(|value| {
            let data = value.data(store.as_context()).ok().flatten();
            let data = data.and_then(|data| data.downcast_ref::<u32>());
            *data.expect("the host makes references to u32 only")
        })),
        Val::ExnRef(value) => Value::Opaque(value.is_some()),
        other => panic!("modules are made without values like {other:?}"),
    }
}

fn end_of(error: &Error) -> End {
    let Some(trap) = error.downcast_ref::<Trap>() else {
        return match error.root_cause().to_string().as_str() {
            "stop" => End::Stopped(Stop::Host),
            _ => End::Refused(format!("{error:#}")),
        };
    };
    End::Stopped(match trap {
        Trap::UnreachableCodeReached => Stop::Unreachable,
        Trap::MemoryOutOfBounds => Stop::MemoryOutOfBounds,
        Trap::TableOutOfBounds => Stop::TableOutOfBounds,
        Trap::IndirectCallToNull => Stop::CallToNull,
        Trap::IntegerDivisionByZero => Stop::DivisionByZero,
        Trap::IntegerOverflow | Trap::BadConversionToInteger => Stop::OverflowOrConversion,
        Trap::StackOverflow => Stop::StackOverflow,
        Trap::BadSignature => Stop::BadSignature,
        Trap::OutOfFuel => Stop::Unpaid,
        Trap::NullReference => Stop::NullReference,
        Trap::HeapMisaligned => Stop::Unaligned,
        Trap::AtomicWaitNonSharedMemory => Stop::NotShared,
        _ => Stop::Other,
    })
}
