//! Operations that generated code leaves to the runtime: growing, and the bulk operations on memories and tables.
//!
//! They run on the host's stack through [`super::arch::builtin_call`], with operands and results in 16-byte slots. Bulk operations
//! pay fuel by length before they do anything: by bytes and by elements ([`selvedge_compiler::FuelCosts`]).
//! A range that does not fit traps before anything is written. Spec: core/exec/instructions, memory and table instructions.
//!
//! Where others may stop the guest, fills and copies of memories go in pieces of [`PIECE_BYTES`], with a look between them. One that is stopped has
//! done a part of its work, and is paid for as a whole. The others are as short as a data segment, or as a table, of ten million elements at most.

use super::arch::{DONE, EXIT_TRAP, UNWIND};
use super::grow::Grow;
use super::instance::{self, InstanceVm};
use super::store::StoreVm;
use super::vmctx::ValRaw;
use super::{limits, racing, wait};
use crate::trap::Trap;
use selvedge_compiler::Builtin;
use std::ptr;

/// Bytes that are copied or set without looking: a millisecond or so where the kernel has to find their pages first.
const PIECE_BYTES: usize = 4 << 20;

/// One call of an operation: where it came from and its operands.
struct Call<'a> {
    store: &'a mut StoreVm,
    instance: &'a mut InstanceVm,
    operands: [u64; Builtin::MAX_OPERANDS as usize],
}

/// Runs operation `id`, and looks whether the guest has to stop before it goes on. Called by [`super::arch::builtin_call`].
///
/// # Safety
/// `vmctx` is that of the instance whose code runs; `slots` has as many slots as the operation has operands, at least one.
pub(crate) unsafe extern "C" fn dispatch(vmctx: *mut u8, slots: *mut ValRaw, id: u32) -> u64 {
    // SAFETY: the caller's promise.
    let word = unsafe { operate(vmctx, slots, id) };
    if word != DONE && word != UNWIND {
        return word;
    }
    let instance = InstanceVm::from_vmctx(vmctx);
    // SAFETY: the caller's promise; an instance lives as long as its store.
    let vm = unsafe { &*instance }.store();
    // SAFETY: as above: the guest is parked, and the operation, which may be user code, is over.
    let store = unsafe { &mut *vm };
    if store.is_stopped_on_return() {
        return leave(store, Trap::Interrupt);
    }
    word
}

/// # Safety
/// As for [`dispatch`].
unsafe fn operate(vmctx: *mut u8, slots: *mut ValRaw, id: u32) -> u64 {
    let Some(builtin) = Builtin::from_u32(id) else {
        unreachable!("the compiler knows no builtin {id}");
    };
    if let Builtin::Throw | Builtin::ThrowRef = builtin {
        let instance = InstanceVm::from_vmctx(vmctx);
        // SAFETY: the caller's promise.
        return unsafe { super::throw::run(instance, slots, builtin) };
    }
    let mut operands = [0; Builtin::MAX_OPERANDS as usize];
    for (index, operand) in operands.iter_mut().enumerate().take(operand_count(builtin)) {
        // SAFETY: the caller's promise about the number of slots.
        let slot = unsafe { slots.add(index) };
        // SAFETY: as above.
        *operand = unsafe { slot.read() }.u64();
    }
    if let Builtin::MemoryAtomicWait32 | Builtin::MemoryAtomicWait64 | Builtin::MemoryAtomicNotify = builtin {
        // They run wakers, while no reference into the store may be held.
        // SAFETY: the caller's promise.
        return unsafe { wait::run(vmctx, slots, builtin, operands) };
    }
    let instance = InstanceVm::from_vmctx(vmctx);
    // SAFETY: the caller's promise: the guest is parked, and nobody holds a reference into the store.
    let instance = unsafe { &mut *instance };
    // SAFETY: as above; an instance and its store are separate allocations.
    let store = unsafe { &mut *instance.store() };
    if store.limiter.is_some() && matches!(builtin, Builtin::MemoryGrow | Builtin::TableGrow) {
        // It runs user code, while no reference into the store may be held: those above are over.
        // SAFETY: the caller's promise.
        return unsafe { limits::run(vmctx, slots, builtin, operands) };
    }
    let mut call = Call {
        store,
        instance,
        operands,
    };
    match call.run(builtin) {
        Ok(result) => {
            if let Some(value) = result {
                // SAFETY: the caller's promise: there is at least one slot.
                unsafe { slots.write(ValRaw::from_u64(value)) };
            }
            DONE
        }
        Err(trap) => leave(call.store, trap),
    }
}

/// Leaves the guest, which called an operation of ours, by a trap at that call.
pub(super) fn leave(store: &mut StoreVm, trap: Trap) -> u64 {
    // SAFETY: `guest_fp` is the frame record that the swap has just made on the guest's stack.
    unsafe { store.set_trap_at_exit(trap) };
    EXIT_TRAP
}

/// How many slots an operation reads.
fn operand_count(builtin: Builtin) -> usize {
    match builtin {
        Builtin::DataDrop | Builtin::ElemDrop => 1,
        Builtin::MemoryGrow => 2,
        Builtin::TableGrow => 3,
        Builtin::MemoryFill | Builtin::TableFill | Builtin::MemoryAtomicNotify => 4,
        _ => 5,
    }
}

/// Bytes of a memory.
struct Bytes {
    start: *mut u8,
    /// Whether others may access them at the same time.
    is_shared: bool,
}

impl Call<'_> {
    fn run(&mut self, builtin: Builtin) -> Result<Option<u64>, Trap> {
        let [a, b, c, d, e] = self.operands;
        match builtin {
            Builtin::MemoryGrow | Builtin::TableGrow => {
                let grow = Grow::of_guest(self.instance, builtin, self.operands);
                return grow.run(self.store).map(Some);
            }
            Builtin::MemoryFill => self.memory_fill(a, b, c as u8, d)?,
            Builtin::MemoryCopy => self.memory_copy(a, b, c, d, e)?,
            Builtin::MemoryInit => self.memory_init(a, b, c, d, e)?,
            Builtin::DataDrop => self.instance.drop_data(a as u32),
            Builtin::TableFill => self.table_fill(a, b, c, d)?,
            Builtin::TableCopy => self.table_copy(a, b, c, d, e)?,
            Builtin::TableInit => self.table_init(a as u32, b as u32, c, d, e)?,
            Builtin::ElemDrop => self.instance.drop_elements(a as u32),
            other => unreachable!("builtin {other:?} is not known here"),
        }
        Ok(None)
    }

    /// The store's index of one of the instance's memories.
    fn memory(&self, index: u64) -> usize {
        self.instance.memories()[index as usize] as usize
    }

    fn table(&self, index: u64) -> usize {
        self.instance.tables()[index as usize] as usize
    }

    /// `length` bytes of a memory, if it has them.
    fn bytes(&mut self, memory: u64, start: u64, length: u64) -> Result<Bytes, Trap> {
        let memory = &self.store.memories[self.memory(memory)];
        match start.checked_add(length) {
            Some(end) if end <= memory.length_bytes() => Ok(Bytes {
                start: memory.base().wrapping_add(start as usize),
                is_shared: memory.is_shared(),
            }),
            _ => Err(Trap::MemoryOutOfBounds),
        }
    }

    /// Works on `length` bytes by pieces, which `piece` is given in order, each by its offset and how many bytes it has.
    ///
    /// # Errors
    /// The guest has to stop.
    fn in_pieces(&self, length: usize, mut piece: impl FnMut(usize, usize)) -> Result<(), Trap> {
        let most = if self.store.cx.interrupt.is_null() {
            length // nobody asks
        } else {
            PIECE_BYTES
        };
        let mut done = 0;
        while length - done > most {
            piece(done, most);
            done += most;
            if self.store.is_stopped() {
                return Err(Trap::Interrupt);
            }
        }
        piece(done, length - done);
        Ok(())
    }

    /// `memory.fill`.
    fn memory_fill(&mut self, memory: u64, start: u64, value: u8, length: u64) -> Result<(), Trap> {
        let to = self.bytes(memory, start, length)?;
        self.store.charge_bytes(length)?;
        self.in_pieces(length as usize, |offset, bytes| {
            let start = to.start.wrapping_add(offset);
            if to.is_shared {
                // SAFETY: `bytes` checked that the memory has `length` bytes there, and it never shrinks.
                unsafe { racing::fill(start, value, bytes) };
            } else {
                // SAFETY: `bytes` checked that the memory, which is this store's alone, has `length` bytes there.
                unsafe { ptr::write_bytes(start, value, bytes) };
            }
        })
    }

    /// `memory.copy`, also of overlapping ranges.
    fn memory_copy(
        &mut self,
        dst_memory: u64,
        src_memory: u64,
        dst: u64,
        src: u64,
        length: u64,
    ) -> Result<(), Trap> {
        let from = self.bytes(src_memory, src, length)?;
        let to = self.bytes(dst_memory, dst, length)?;
        self.store.charge_bytes(length)?;
        let is_shared = from.is_shared || to.is_shared;
        let length = length as usize;
        // Where the destination begins within the source, the last piece comes first: no piece is written over before it was read.
        let overtakes = to.start.addr().wrapping_sub(from.start.addr()) < length;
        self.in_pieces(length, |offset, bytes| {
            let offset = if overtakes {
                length - offset - bytes
            } else {
                offset
            };
            let (start, from) = (to.start.wrapping_add(offset), from.start.wrapping_add(offset));
            if is_shared {
                // SAFETY: `bytes` checked both ranges, and memories do not shrink; they may overlap.
                unsafe { racing::copy(from, start, bytes) };
            } else {
                // SAFETY: `bytes` checked both ranges, of memories that are this store's alone; `copy` allows them to overlap.
                unsafe { ptr::copy(from, start, bytes) };
            }
        })
    }

    /// `memory.init`.
    fn memory_init(
        &mut self,
        memory: u64,
        segment: u64,
        dst: u64,
        src: u64,
        length: u64,
    ) -> Result<(), Trap> {
        let to = self.bytes(memory, dst, length)?;
        let end = src.checked_add(length).ok_or(Trap::MemoryOutOfBounds)?;
        let data = self.instance.data(segment as u32);
        let Some(from) = data.get(src as usize..end as usize) else {
            return Err(Trap::MemoryOutOfBounds);
        };
        self.store.charge_bytes(length)?;
        if to.is_shared {
            // SAFETY: `bytes` checked the destination; a segment's bytes are the module's and never written.
            unsafe { racing::copy(from.as_ptr(), to.start, from.len()) };
        } else {
            // SAFETY: `bytes` checked the destination; a segment's bytes are the module's, not a memory's.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.start, from.len()) };
        }
        Ok(())
    }

    /// `table.fill`.
    fn table_fill(&mut self, table: u64, start: u64, value: u64, length: u64) -> Result<(), Trap> {
        let table = self.table(table);
        if self.store.tables[table].range(start, length).is_none() {
            return Err(Trap::TableOutOfBounds);
        }
        self.store.charge(length)?;
        let elements = self.store.tables[table].range_mut(start, length);
        elements.ok_or(Trap::TableOutOfBounds)?.fill(value);
        Ok(())
    }

    /// `table.init`.
    fn table_init(&mut self, table: u32, segment: u32, dst: u64, src: u64, length: u64) -> Result<(), Trap> {
        instance::check_table_init(self.store, self.instance, table, segment, [dst, src, length])?;
        self.store.charge(length)?;
        instance::table_init(self.store, self.instance, table, segment, [dst, src, length])
    }

    /// `table.copy`, also of overlapping ranges.
    fn table_copy(
        &mut self,
        dst_table: u64,
        src_table: u64,
        dst: u64,
        src: u64,
        length: u64,
    ) -> Result<(), Trap> {
        let (to, from) = (self.table(dst_table), self.table(src_table));
        let tables = &self.store.tables;
        if tables[from].range(src, length).is_none() || tables[to].range(dst, length).is_none() {
            return Err(Trap::TableOutOfBounds);
        }
        self.store.charge(length)?;
        if to == from {
            // Both ranges lie in it, as just checked.
            let (src, dst, length) = (src as usize, dst as usize, length as usize);
            self.store.tables[to]
                .elements_mut()
                .copy_within(src..src + length, dst);
            return Ok(());
        }
        let both = self.store.tables.get_disjoint_mut([to, from]);
        let [to, from] = both.expect("two tables of the store");
        let from = from.range(src, length).ok_or(Trap::TableOutOfBounds)?;
        let to = to.range_mut(dst, length).ok_or(Trap::TableOutOfBounds)?;
        to.copy_from_slice(from);
        Ok(())
    }
}
