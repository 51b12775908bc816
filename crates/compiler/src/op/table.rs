//! Table instructions. An element is 8 bytes: the address of a function record, or an externref
//! zero-extended; zero is null.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use crate::abi::{POINTER, address_type, clif_type};
use crate::layout::{TABLE_BASE, TABLE_ELEMENT_BYTES, TABLE_LENGTH};
use crate::regions::Region;
use crate::translate::Translator;
use crate::{Builtin, TableType, TrapCode, ValType};

impl Translator<'_> {
    /// `table.get x`
    pub(crate) fn table_get(&mut self, table: u32) {
        let index = self.pop();
        let reference = self.table_element(table, index);
        self.push(reference);
    }

    /// `table.set x`
    pub(crate) fn table_set(&mut self, table: u32) {
        let (index, reference) = self.pop2();
        let address = self.table_address(table, index);
        let reference = match self.b.func.dfg.value_type(reference) {
            types::I32 => self.widen(reference),
            _ => reference,
        };
        let flags = Region::Table.mutable(self.b.func);
        self.b.ins().store(flags, reference, address, 0);
    }

    /// `table.size x`
    pub(crate) fn table_size(&mut self, table: u32) {
        let length = self.table_length(table);
        let length = match self.env.info.tables[table as usize].is_64 {
            true => length,
            false => self.b.ins().ireduce(types::I32, length),
        };
        self.push(length);
    }

    /// `table.grow x`: pop a reference and how many to add; push the old size, or -1.
    pub(crate) fn table_grow(&mut self, table: u32) {
        let (reference, delta) = self.pop2();
        self.builtin(Builtin::TableGrow, &[table], &[reference, delta]);
        let old = self.builtin_result(address_type(self.env.info.tables[table as usize].is_64));
        self.push(old);
    }

    /// `table.fill x`: pop start, reference and length.
    pub(crate) fn table_fill(&mut self, table: u32) {
        let (start, reference, length) = self.pop3();
        self.builtin(Builtin::TableFill, &[table], &[start, reference, length]);
    }

    /// `table.copy x y`: pop destination, source and length.
    pub(crate) fn table_copy(&mut self, to_table: u32, from_table: u32) {
        let (to, from, length) = self.pop3();
        self.builtin(Builtin::TableCopy, &[to_table, from_table], &[to, from, length]);
    }

    /// `table.init x y`: pop destination, offset in the segment, and length.
    pub(crate) fn table_init(&mut self, table: u32, segment: u32) {
        let (to, from, length) = self.pop3();
        self.builtin(Builtin::TableInit, &[table, segment], &[to, from, length]);
    }

    /// `elem.drop x`
    pub(crate) fn elem_drop(&mut self, segment: u32) {
        self.builtin(Builtin::ElemDrop, &[segment], &[]);
    }

    /// The reference at an index. Traps if that is out of bounds.
    pub(crate) fn table_element(&mut self, table: u32, index: Value) -> Value {
        let address = self.table_address(table, index);
        let ty = ValType::Ref(self.env.info.tables[table as usize].element);
        let flags = Region::Table.mutable(self.b.func);
        let reference = self.b.ins().load(clif_type(ty), flags, address, 0);
        self.track(ty, reference);
        reference
    }

    /// The address of an element. Traps if the index is out of bounds.
    fn table_address(&mut self, table: u32, index: Value) -> Value {
        let index = self.widen(index);
        let length = self.table_length(table);
        let beyond = self
            .b
            .ins()
            .icmp(IntCC::UnsignedGreaterThanOrEqual, index, length);
        self.trap_if(beyond, TrapCode::TableOutOfBounds);
        let base = self.table_field(table, TABLE_BASE);
        let offset = self
            .b
            .ins()
            .ishl_imm_u(index, i64::from(TABLE_ELEMENT_BYTES.trailing_zeros()));
        self.b.ins().iadd(base, offset)
    }

    /// The length in elements: a constant if the table's type leaves no choice.
    fn table_length(&mut self, table: u32) -> Value {
        let ty = self.env.info.tables[table as usize];
        match is_fixed(&ty) {
            true => self.b.ins().iconst(types::I64, ty.minimum as i64),
            false => self.table_field(table, TABLE_LENGTH),
        }
    }

    /// A field of a table's definition, which growing changes; a table that cannot grow never moves.
    fn table_field(&mut self, table: u32, field: i32) -> Value {
        let flags = Region::Vmctx.anywhere(self.b.func);
        let offset = self.env.info.layout.table(table) as i32;
        let definition = self.b.ins().load(POINTER, flags, self.vmctx, offset);
        let flags = match is_fixed(&self.env.info.tables[table as usize]) {
            true => Region::TableDefinition.anywhere(self.b.func),
            false => Region::TableDefinition.mutable(self.b.func),
        };
        self.b.ins().load(types::I64, flags, definition, field)
    }
}

/// Whether a table has one size for good: one that is imported as such has it, too.
fn is_fixed(ty: &TableType) -> bool {
    ty.maximum == Some(ty.minimum)
}
