//! Memories are used again, bytes are not: what one guest wrote, no later one reads, whatever lay there before.

use selvedge::{
    Config, Engine, Instance, Memory, MemoryStyle, MemoryType, Module, Store, Table, TableType, Val,
};
use selvedge::{RefType, Trap};

const PAGE: usize = 65_536;

fn engine(style: MemoryStyle) -> Engine {
    Engine::new(Config::new().memory_style(style)).unwrap()
}

/// A module of `pages` pages, with `byte` all over a data segment of `length` bytes at `offset`.
fn module(engine: &Engine, pages: usize, offset: usize, length: usize, byte: u8) -> Module {
    let data = format!("\\{byte:02x}").repeat(length);
    let text = format!(
        r#"(module (memory (export "m") {pages})
             (data (i32.const {offset}) "{data}")
             (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
             (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#
    );
    Module::new(engine, text).unwrap()
}

fn instantiate(engine: &Engine, module: &Module) -> (Store<()>, Instance, Memory) {
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, module, &[]).unwrap();
    let memory = instance.get_memory(&mut store, "m").unwrap();
    (store, instance, memory)
}

/// One guest: finds what its module says and no more, writes over all of it, also over pages it adds, and goes.
fn guest(
    engine: &Engine,
    module: &Module,
    pages: usize,
    data: std::ops::Range<usize>,
    byte: u8,
    more: usize,
) -> usize {
    let (mut store, instance, memory) = instantiate(engine, module);
    let bytes = memory.data(&store);
    assert_eq!(bytes.len(), pages * PAGE);
    for (address, found) in bytes.iter().enumerate() {
        let expected = if data.contains(&address) { byte } else { 0 };
        assert_eq!(*found, expected, "at {address} of a memory with data at {data:?}");
    }
    let beyond: Result<i32, _> = instance.call(&mut store, "load", (pages * PAGE) as i32);
    assert_eq!(beyond.unwrap_err().downcast_ref(), Some(&Trap::MemoryOutOfBounds));
    assert_eq!(
        instance.call::<_, i32>(&mut store, "grow", more as i32).unwrap(),
        pages as i32
    );
    assert!(memory.data(&store)[pages * PAGE..].iter().all(|&byte| byte == 0));
    memory.data_mut(&mut store).fill(0xee);
    memory.data(&store).as_ptr() as usize
}

#[test]
fn no_guest_reads_what_another_wrote_whatever_came_before() {
    for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
        let engine = engine(style);
        // Pages, offset, length: no image, small and large images, at the start, in the middle, up to the end.
        let shapes = [
            (1, 100, 10),
            (1, 0, PAGE),
            (3, 70_000, 5000),
            (2, 2 * PAGE - 9000, 9000),
            (40, 4096, 8192),
            (1, 60_000, 5536),
        ];
        let modules: Vec<_> = shapes
            .iter()
            .zip(1..)
            .map(|(&(pages, offset, length), byte)| {
                (
                    module(&engine, pages, offset, length, byte),
                    pages,
                    offset..offset + length,
                    byte,
                )
            })
            .collect();
        let mut places = std::collections::HashSet::new();
        let mut runs = 0;
        for first in &modules {
            for second in &modules {
                for more in [0, 1, 20] {
                    for (module, pages, data, byte) in [first, second, second] {
                        places.insert(guest(&engine, module, *pages, data.clone(), *byte, more));
                        runs += 1;
                    }
                }
            }
        }
        // Addresses were indeed used again, or nothing was tried.
        assert!(
            places.len() * 4 < runs,
            "{} places of {runs} guests",
            places.len()
        );
    }
}

#[test]
fn an_image_outlives_its_module_and_its_place_is_clean_for_the_next() {
    let engine = engine(MemoryStyle::Reserved);
    for round in 0..20u8 {
        let data = module(&engine, 1, 0, PAGE, round + 1);
        let (store, _, memory) = instantiate(&engine, &data);
        let place = memory.data(&store).as_ptr();
        drop(data);
        assert!(memory.data(&store).iter().all(|&byte| byte == round + 1));
        drop(store);
        let bare = Module::new(&engine, r#"(module (memory (export "m") 1))"#).unwrap();
        let (store, _, memory) = instantiate(&engine, &bare);
        assert_eq!(memory.data(&store).as_ptr(), place);
        assert!(memory.data(&store).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn two_live_instances_do_not_share_what_they_write() {
    let engine = engine(MemoryStyle::Reserved);
    let module = module(&engine, 1, 0, PAGE, 5);
    let (mut first, _, one) = instantiate(&engine, &module);
    one.data_mut(&mut first)[..PAGE / 2].fill(9);
    let (second, _, other) = instantiate(&engine, &module);
    assert!(other.data(&second).iter().all(|&byte| byte == 5));
    assert!(one.data(&first)[..PAGE / 2].iter().all(|&byte| byte == 9));
}

#[test]
fn memories_of_hosts_and_of_guests_are_clean_for_each_other() {
    for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
        let engine = engine(style);
        let module = module(&engine, 1, 0, PAGE, 5);
        for _ in 0..10 {
            let mut store = Store::new(&engine, ());
            let memory = Memory::new(&mut store, MemoryType::new(1, None)).unwrap();
            assert!(memory.data(&store).iter().all(|&byte| byte == 0));
            memory.data_mut(&mut store).fill(7);
            drop(store);
            let (mut store, _, memory) = instantiate(&engine, &module);
            assert!(memory.data(&store).iter().all(|&byte| byte == 5));
            memory.data_mut(&mut store).fill(7);
        }
    }
}

/// A function that an element segment put into another instance's table sees the memory of a failed instance: what came after
/// the failure must not be there, and what came before must.
#[test]
fn segments_after_one_that_does_not_fit_leave_no_trace() {
    let engine = engine(MemoryStyle::Reserved);
    let big = "\\07".repeat(5000);
    let text = |offset: u32, elements: u32| {
        format!(
            r#"(module (import "e" "t" (table 2 funcref)) (import "e" "m" (memory 1)) (memory 1)
                 (elem (i32.const 0) $sum)
                 (elem (i32.const {elements}) $sum)
                 (data (memory 1) (i32.const 10) "\01")
                 (data (memory 0) (i32.const {offset}) "x")
                 (data (memory 1) (i32.const 20) "{big}")
                 (func $sum (result i32) (i32.add (i32.load8_u 1 (i32.const 10)) (i32.load8_u 1 (i32.const 21)))))"#
        )
    };
    // Everything fits, the data of the other memory does not, an element segment does not.
    for (offset, elements, expected) in [(0, 1, Some(8)), (PAGE as u32, 1, Some(1)), (0, 2, Some(0))] {
        let module = Module::new(&engine, text(offset, elements)).unwrap();
        let mut store = Store::new(&engine, ());
        let memory = Memory::new(&mut store, MemoryType::new(1, None)).unwrap();
        let table = Table::new(
            &mut store,
            TableType::new(RefType::FUNCREF, 2, None),
            Val::FuncRef(None),
        )
        .unwrap();
        let instance = Instance::new(&mut store, &module, &[table.into(), memory.into()]);
        assert_eq!(instance.is_ok(), (offset, elements) == (0, 1));
        let Some(Val::FuncRef(Some(func))) = table.get(&mut store, 0) else {
            panic!("the first element segment fits");
        };
        let mut results = [Val::I32(0)];
        func.call(&mut store, &[], &mut results).unwrap();
        assert_eq!(results[0].i32(), expected, "offset {offset}, elements {elements}");
    }
}

#[test]
fn threads_share_a_pool() {
    for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
        let engine = engine(style);
        let modules = [
            (module(&engine, 1, 0, PAGE, 3), 1, 0..PAGE, 3),
            (module(&engine, 2, 5000, 50, 4), 2, 5000..5050, 4),
        ];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (engine, modules) = (&engine, &modules);
                scope.spawn(move || {
                    for round in 0..60 {
                        let (module, pages, data, byte) = &modules[(round + thread) % 2];
                        guest(engine, module, *pages, data.clone(), *byte, round % 3);
                    }
                });
            }
        });
    }
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .count()
}

#[test]
fn many_small_bounded_memories_take_a_handful_of_mappings() {
    let engine = engine(MemoryStyle::Bounded);
    let module = module(&engine, 1, 0, 4, 1);
    let before = mappings();
    let guests: Vec<_> = (0..20_000).map(|_| instantiate(&engine, &module)).collect();
    let added = mappings().saturating_sub(before);
    // Other tests of this process may map something, too; the heap is among it.
    assert!(added < 200, "{added} mappings for {} memories", guests.len());
}

#[test]
fn a_segment_without_bytes_may_lie_before_an_image() {
    let engine = engine(MemoryStyle::Reserved);
    let text = r#"(module (memory (export "m") 2) (data (i32.const 0) "") (data (i32.const 70000) "x") (data (i32.const 131072) ""))"#;
    let module = Module::new(&engine, text).unwrap();
    let (store, _, memory) = instantiate(&engine, &module);
    let data = memory.data(&store);
    assert_eq!(data[70_000], b'x');
    assert_eq!(data.iter().filter(|&&byte| byte != 0).count(), 1);
}
