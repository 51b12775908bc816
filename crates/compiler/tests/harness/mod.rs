//! The least that runs an image: no store, no stack of its own, one guest at a time.
//!
//! A guest runs on the test's stack. `enter` saves where it came from in `SAVED_SP`; a trap stub jumps to
//! `raise`, which goes back there with the trap's number, the site's return address and the fuel register.
//! Fault handlers there are none: what would fault is only looked up in the tables.
//!
//! Invariants
//! 1. `LOCK` is held while a guest runs, so `SAVED_SP` and what builtins and host functions saw belong to it.
//! 2. A vmctx and what it points to live in the `Guest`, which outlives the call.

// Each test uses a part of this.
#![allow(dead_code)]

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use selvedge_compiler::layout::*;
use selvedge_compiler::{
    Builtin, CallSite, CompiledModule, ConstExpr, ElementItems, ElementMode, ExternIndex, FuncType, Image,
    MemoryType, ModuleInfo, Settings, TrapCode, compile, compile_host_trampolines, image,
};

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
use aarch64::{enter, fuel_check, make_visible, raise};
#[cfg(target_arch = "x86_64")]
use x86_64::{enter, fuel_check, make_visible, raise};

static LOCK: Mutex<()> = Mutex::new(());
/// Stack pointer to go back to on a trap.
static SAVED_SP: AtomicU64 = AtomicU64::new(0);
/// How much the fuel check refills, and how often it was called.
static REFILL: AtomicI64 = AtomicI64::new(0);
static REFILLS: AtomicU64 = AtomicU64::new(0);
/// What host functions add to their first argument.
pub const HOST_ADDS: u64 = 1000;

/// How a guest's call ended: two words, which the C ABI returns in registers.
#[repr(C)]
struct Left {
    /// 0: it returned. Else the trap's number.
    code: u64,
    /// The return address of the trap's stub.
    site: u64,
}

#[repr(C)]
struct StoreContext {
    fuel: i64,
    builtin_call: u64,
    guest: *mut Guest,
}

#[repr(C)]
struct HostRecord {
    store: *mut StoreContext,
    host_call: u64,
    private: [u64; 2],
}

/// A definition of a memory or a table: base and length.
#[repr(C)]
struct Definition {
    base: u64,
    length: u64,
}

/// A module ready to run.
pub struct Guest {
    pub module: CompiledModule,
    text: region::Allocation,
    host: Vec<(FuncType, region::Allocation, u64)>,
    vmctx: Vec<u128>,
    store: Box<StoreContext>,
    record: Box<HostRecord>,
    memory: Vec<u64>,
    memory_definition: Box<Definition>,
    tables: Vec<(Vec<u64>, Box<Definition>)>,
    /// What was asked of the builtins: which, and five words of operands.
    pub builtins: Vec<(Builtin, [u64; 5])>,
}

/// What a call came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Returned(Vec<u64>),
    Trapped(TrapCode, CallSite),
}

/// Pages that the memory of a guest may grow to.
const MEMORY_PAGES: usize = 4;

/// The number of a type in this process: the first equal type stands for all.
fn type_id(info: &ModuleInfo, index: u32) -> u32 {
    let ty = &info.types[index as usize];
    info.types.iter().position(|other| other == ty).unwrap() as u32 + 100
}

impl Guest {
    /// Compiles a module and makes an instance.
    pub fn new(wat: &str, settings: &Settings) -> Box<Guest> {
        let wasm = wat::parse_str(wat).expect("the test's module is well formed");
        let module = compile(&wasm, settings).expect("the test's module compiles");
        let pages = module.info.memories.first().map_or(0, |memory| memory.minimum);
        let mut guest = Box::new(Guest {
            text: load(&module.image),
            host: host_functions(&module, settings),
            vmctx: vec![0; module.info.layout.size() as usize / 16],
            store: Box::new(StoreContext {
                fuel: 0,
                builtin_call: builtin_call as *const () as u64,
                guest: std::ptr::null_mut(),
            }),
            record: Box::new(HostRecord {
                store: std::ptr::null_mut(),
                host_call: host_call as *const () as u64,
                private: [0; 2],
            }),
            memory: vec![0; MEMORY_PAGES * MemoryType::PAGE_BYTES as usize / 8],
            memory_definition: Box::new(Definition {
                base: 0,
                length: pages * MemoryType::PAGE_BYTES,
            }),
            tables: Vec::new(),
            builtins: Vec::new(),
            module,
        });
        guest.fill();
        guest
    }

    fn fill(&mut self) {
        let (guest, store): (*mut Guest, *mut StoreContext) = (self, &mut *self.store);
        self.store.guest = guest;
        self.record.store = store;
        self.memory_definition.base = self.memory.as_mut_ptr() as u64;
        let info = self.module.info.clone();
        let layout = &info.layout;
        self.put(CONTEXT_STORE as u32, store as u64);
        for function in 0..info.imported_functions {
            let (code, context) = self.callable(function);
            self.put(layout.imported_function(function), code);
            self.put(layout.imported_function(function) + 8, context);
        }
        if !info.memories.is_empty() {
            let definition: *const Definition = &*self.memory_definition;
            self.put(layout.memory(0), definition as u64);
            self.put(layout.memory(0) + 8, self.memory_definition.base);
        }
        for index in 0..info.types.len() as u32 {
            self.put_u32(layout.type_id(index), type_id(&info, index));
        }
        for (function, offset) in layout.func_refs() {
            let ty = info.functions[function as usize];
            let (code, context) = self.callable(function);
            let entry = self.base() + u64::from(self.module.image.entry_trampolines[ty as usize].unwrap());
            self.put(offset + FUNC_REF_CODE as u32, code);
            self.put(offset + FUNC_REF_CONTEXT as u32, context);
            self.put(offset + FUNC_REF_ENTRY as u32, entry);
            self.put_u32(offset + FUNC_REF_TYPE_ID as u32, type_id(&info, ty));
        }
        for (index, init) in info.global_inits.iter().enumerate() {
            let value = self.constant(*init);
            self.put(layout.defined_global(index as u32), value);
        }
        self.fill_tables(&info);
    }

    fn fill_tables(&mut self, info: &ModuleInfo) {
        let layout = &info.layout;
        for (index, ty) in info.tables.iter().enumerate() {
            let mut elements = vec![0; ty.minimum as usize];
            let definition = Definition {
                base: elements.as_mut_ptr() as u64,
                length: ty.minimum,
            };
            self.tables.push((elements, Box::new(definition)));
            let definition: *const Definition = &*self.tables[index].1;
            self.put(layout.table(index as u32), definition as u64);
        }
        for segment in &info.elements {
            let ElementMode::Active {
                table,
                offset: ConstExpr::I32(at),
            } = segment.mode
            else {
                continue;
            };
            let ElementItems::Funcs(functions) = &segment.items else {
                continue;
            };
            for (i, function) in functions.iter().enumerate() {
                let record = self.vmctx() + u64::from(layout.func_ref(*function).unwrap());
                self.tables[table as usize].0[at as usize + i] = record;
            }
        }
    }

    fn constant(&self, init: ConstExpr) -> u64 {
        match init {
            ConstExpr::I32(value) => u64::from(value as u32),
            ConstExpr::I64(value) => value as u64,
            ConstExpr::F32(bits) => bits.into(),
            ConstExpr::F64(bits) => bits,
            ConstExpr::RefFunc(f) => self.vmctx() + u64::from(self.module.info.layout.func_ref(f).unwrap()),
            _ => 0,
        }
    }

    fn base(&self) -> u64 {
        self.text.as_ptr::<u8>() as u64
    }

    fn vmctx(&self) -> u64 {
        self.vmctx.as_ptr() as u64
    }

    /// Code and context of a function.
    fn callable(&self, function: u32) -> (u64, u64) {
        let imported = self.module.info.imported_functions;
        match function.checked_sub(imported) {
            Some(defined) => {
                let start = self.module.image.functions[defined as usize].start;
                (self.base() + u64::from(start), self.vmctx())
            }
            None => {
                let (_, text, import) = &self.host[function as usize];
                let record: *const HostRecord = &*self.record;
                (text.as_ptr::<u8>() as u64 + import, record as u64)
            }
        }
    }

    fn put(&mut self, offset: u32, value: u64) {
        self.put_u32(offset, value as u32);
        self.put_u32(offset + 4, (value >> 32) as u32);
    }

    fn put_u32(&mut self, offset: u32, value: u32) {
        let (cell, shift) = (offset as usize / 16, offset % 16 * 8);
        let mask = u128::from(u32::MAX) << shift;
        self.vmctx[cell] = self.vmctx[cell] & !mask | u128::from(value) << shift;
    }

    /// The fuel slice of the next call, and after it what the register held at its end.
    pub fn fuel(&mut self) -> &mut i64 {
        &mut self.store.fuel
    }

    /// The memory's words.
    pub fn memory(&mut self) -> &mut [u64] {
        &mut self.memory
    }

    /// Calls an export with the low words of its arguments.
    pub fn call(&mut self, name: &str, args: &[u64]) -> Outcome {
        let _lock: MutexGuard<'_, ()> = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        self.call_locked(name, args)
    }

    fn call_locked(&mut self, name: &str, args: &[u64]) -> Outcome {
        let export = self.module.info.exports.iter().find(|export| export.name == name);
        let ExternIndex::Func(function) = export.expect("exported").index else {
            panic!("{name}: no function")
        };
        let ty = self.module.info.function_type(function).clone();
        let index = self.module.info.functions[function as usize];
        let entry = self.base() + u64::from(self.module.image.entry_trampolines[index as usize].unwrap());
        let (code, context) = self.callable(function);
        let mut slots = vec![[0xdead_beef_dead_beefu64; 2]; args.len().max(ty.results().len())];
        for (slot, arg) in slots.iter_mut().zip(args) {
            slot[0] = *arg;
        }
        let mut fuel = 0;
        // SAFETY: invariants 1 and 2; the entry trampoline is of the function's type, and `slots` has room.
        let left = unsafe { enter(entry, code, context, slots.as_mut_ptr(), &mut fuel) };
        match TrapCode::from_u8(left.code as u8) {
            None => {
                let values = slots.iter().zip(ty.results());
                Outcome::Returned(values.map(|(slot, ty)| slot[0] & mask(*ty)).collect())
            }
            Some(trap) => {
                self.store.fuel = fuel;
                let site = self.module.image.call_site((left.site - self.base()) as u32);
                Outcome::Trapped(trap, *site.expect("every trap has a site"))
            }
        }
    }

    /// Calls an export; each fuel check sets the register to `refill`. Returns how many there were, too.
    pub fn call_refilled(&mut self, name: &str, args: &[u64], refill: i64) -> (Outcome, u64) {
        let _lock: MutexGuard<'_, ()> = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        REFILL.store(refill, Ordering::Relaxed);
        REFILLS.store(0, Ordering::Relaxed);
        let outcome = self.call_locked(name, args);
        (outcome, REFILLS.load(Ordering::Relaxed))
    }

    /// Calls an export that returns one value.
    pub fn run(&mut self, name: &str, args: &[u64]) -> u64 {
        match self.call(name, args) {
            Outcome::Returned(values) => values[0],
            other => panic!("{name}{args:?}: {other:?}"),
        }
    }

    /// Calls an export that traps; the fuel register is then in `fuel`.
    pub fn trap(&mut self, name: &str, args: &[u64]) -> (TrapCode, CallSite) {
        match self.call(name, args) {
            Outcome::Trapped(trap, site) => (trap, site),
            other => panic!("{name}{args:?}: {other:?}"),
        }
    }
}

/// The bytes of a slot that hold a value of the type.
fn mask(ty: selvedge_compiler::ValType) -> u64 {
    use selvedge_compiler::ValType::*;
    match ty {
        I32 | F32 => u32::MAX.into(),
        Ref(ty) if ty.heap_type().top() == selvedge_compiler::HeapType::Extern => u32::MAX.into(),
        _ => u64::MAX,
    }
}

/// Maps an image executable, its slots filled.
fn load(image: &Image) -> region::Allocation {
    let mut text = image.text.clone();
    text[8 * image::SLOT_RAISE..][..8].copy_from_slice(&(raise as *const () as u64).to_le_bytes());
    for slot in [image::SLOT_FUEL_CHECK, image::SLOT_FUEL_CHECK_INTEGERS] {
        text[8 * slot..][..8].copy_from_slice(&(fuel_check as *const () as u64).to_le_bytes());
    }
    let mut memory = region::alloc(text.len(), region::Protection::READ_WRITE).unwrap();
    // SAFETY: a fresh, writable allocation of at least this size.
    let copy = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr::<u8>(), text.len()) };
    copy.copy_from_slice(&text);
    make_visible(copy);
    // SAFETY: the pages are this allocation's; nothing writes to them from now on.
    unsafe {
        region::protect(
            memory.as_ptr::<u8>(),
            text.len(),
            region::Protection::READ_EXECUTE,
        )
    }
    .unwrap();
    memory
}

/// For each imported function, the trampolines of a host function of its type.
fn host_functions(module: &CompiledModule, settings: &Settings) -> Vec<(FuncType, region::Allocation, u64)> {
    (0..module.info.imported_functions)
        .map(|function| {
            let ty = module.info.function_type(function).clone();
            let made = compile_host_trampolines(&ty, settings).unwrap();
            (ty, load(&made.image), u64::from(made.import))
        })
        .collect()
}

/// Every host function: the first argument plus `HOST_ADDS`, for each result one more.
unsafe extern "C" fn host_call(_record: *mut HostRecord, args: *mut [u64; 2]) {
    // SAFETY: an import trampoline always passes at least one slot.
    let first = unsafe { &mut (*args)[0] };
    *first += HOST_ADDS;
}

/// Every builtin: notes what it was asked; growing a memory grows it.
unsafe extern "C" fn builtin_call(vmctx: *mut *mut StoreContext, args: *mut [u64; 2], id: u32) {
    // SAFETY: a vmctx starts with the address of its store context.
    let store = unsafe { *vmctx };
    // SAFETY: invariant 2: the store context was filled in by `Guest::fill`, and lives.
    let guest = unsafe { (*store).guest };
    // SAFETY: invariant 2: the guest is in a call, which uses no reference to it while its code runs.
    let guest = unsafe { &mut *guest };
    // SAFETY: the array of a builtin has five slots.
    let args = unsafe { std::slice::from_raw_parts_mut(args, Builtin::MAX_OPERANDS as usize) };
    let builtin = Builtin::from_u32(id).unwrap();
    guest
        .builtins
        .push((builtin, std::array::from_fn(|i| args[i][0])));
    if builtin == Builtin::MemoryGrow {
        let old = guest.memory_definition.length / MemoryType::PAGE_BYTES;
        let new = old + args[1][0];
        args[0][0] = match new <= MEMORY_PAGES as u64 {
            true => old,
            false => u64::MAX,
        };
        if new <= MEMORY_PAGES as u64 {
            guest.memory_definition.length = new * MemoryType::PAGE_BYTES;
        }
    } else if builtin == Builtin::TableGrow {
        args[0][0] = u64::MAX;
    }
}
