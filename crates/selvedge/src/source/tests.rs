//! DWARF that nobody vouches for: cut, mutated, and made to take as much as it can.

use super::*;
use selvedge_compiler::{Settings, compile};

const LINES: [&[u8]; 2] = [
    include_bytes!("../../../../tests/fixtures/lines/lines.wasm"),
    include_bytes!("../../../../tests/fixtures/lines/lines5.wasm"),
];

/// A module's debug sections, by name. Its sections: core/binary/modules.
fn sections_of(wasm: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut sections = Vec::new();
    let mut rest = Bytes::new(&wasm[8..], LittleEndian);
    while let Ok(id) = gimli::Reader::read_u8(&mut rest) {
        let length = gimli::Reader::read_uleb128(&mut rest).expect("a length");
        let mut body = gimli::Reader::split(&mut rest, length as usize).expect("as long as it says");
        if id != 0 {
            continue;
        }
        let length = gimli::Reader::read_uleb128(&mut body).expect("a length");
        let name = gimli::Reader::split(&mut body, length as usize).expect("a name");
        let name = String::from_utf8(name.slice().to_vec()).expect("a name is UTF-8");
        if name.starts_with(".debug_") {
            sections.push((name, body.slice().to_vec()));
        }
    }
    sections
}

fn uleb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = value as u8 & 0x7f;
        value >>= 7;
        bytes.push(low | if value > 0 { 0x80 } else { 0 });
        if value == 0 {
            return bytes;
        }
    }
}

/// The sections as a module without code keeps them.
fn kept(sections: &[(String, Vec<u8>)]) -> DebugSections {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (name, bytes) in sections {
        let mut body = uleb(name.len() as u64);
        body.extend(name.as_bytes());
        body.extend(bytes);
        wasm.push(0);
        wasm.extend(uleb(body.len() as u64));
        wasm.extend(body);
    }
    let settings = Settings::host().expect("a host").keep_debug(true);
    compile(&wasm, &settings).expect("a module").info.debug
}

/// A generator of numbers: xorshift64 (Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// How many of the addresses of the fixture, whose code section has 34 bytes, have symbols.
fn ask_everywhere(sections: &DebugSections) -> usize {
    let map = SourceMap::default();
    let known = |offset: &u32| !map.symbols(sections, *offset).is_empty();
    (0..48).filter(known).count()
}

#[test]
fn whole_sections_have_answers() {
    for wasm in LINES {
        let known = ask_everywhere(&kept(&sections_of(wasm)));
        assert!(known > 20, "{known} of the 34 bytes of code");
    }
}

#[test]
fn mutated_sections_never_panic_and_end() {
    let mut random = Random(0x5e1ed6e);
    let mut answers = 0;
    for round in 0..2000 {
        let mut sections = sections_of(LINES[round % 2]);
        for _ in 0..=random.below(4) {
            let section = random.below(sections.len());
            let bytes = &mut sections[section].1;
            let Some(last) = bytes.len().checked_sub(1) else {
                continue;
            };
            let at = random.below(last + 1);
            match random.below(5) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, [0, 0x7f, 0x80, 0xff][random.below(4)]),
                _ => {
                    let from = random.below(last + 1);
                    bytes[at] = bytes[from];
                }
            }
        }
        answers += ask_everywhere(&kept(&sections));
    }
    assert!(answers > 0, "some mutations leave something to find");
}

#[test]
fn sections_cut_anywhere_never_panic() {
    for wasm in LINES {
        let whole = sections_of(wasm);
        for section in 0..whole.len() {
            for length in (0..whole[section].1.len()).step_by(3) {
                let mut cut = whole.clone();
                cut[section].1.truncate(length);
                ask_everywhere(&kept(&cut));
            }
        }
    }
}

/// Tag, children, and pairs of attribute and form.
fn abbreviation(code: u8, tag: gimli::DwTag, attributes: &[(gimli::DwAt, gimli::DwForm)]) -> Vec<u8> {
    let mut bytes = vec![code];
    bytes.extend(uleb(u64::from(tag.0)));
    bytes.push(1);
    for (name, form) in attributes {
        bytes.extend(uleb(u64::from(name.0)));
        bytes.extend(uleb(u64::from(form.0)));
    }
    bytes.extend([0, 0]);
    bytes
}

/// A unit of DWARF 4 with the first table of abbreviations and these entries.
fn unit(entries: &[u8]) -> Vec<u8> {
    let mut bytes = (entries.len() as u32 + 7).to_le_bytes().to_vec();
    bytes.extend([4, 0, 0, 0, 0, 0, 4]);
    bytes.extend(entries);
    bytes
}

const RANGE: [(gimli::DwAt, gimli::DwForm); 2] = [
    (gimli::DW_AT_low_pc, gimli::DW_FORM_addr),
    (gimli::DW_AT_high_pc, gimli::DW_FORM_data4),
];

/// A function at 16, of 16 bytes, by the second abbreviation.
const FUNCTION: [u8; 9] = [2, 16, 0, 0, 0, 16, 0, 0, 0];

fn sections(abbreviations: Vec<u8>, info: Vec<u8>, more: &[(&str, Vec<u8>)]) -> DebugSections {
    let mut all = vec![
        (".debug_abbrev".to_owned(), abbreviations),
        (".debug_info".to_owned(), info),
    ];
    all.extend(
        more.iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.clone())),
    );
    kept(&all)
}

/// Asks for one address, which takes seconds of the processor if all is paid, and hours if not.
fn ask(sections: &DebugSections) -> Vec<FrameSymbol> {
    let start = ticks_of_this_thread();
    let symbols = SourceMap::default().symbols(sections, 20);
    let ticks = ticks_of_this_thread() - start;
    assert!(ticks < 60_000, "{ticks} hundredths of a second");
    symbols
}

/// How long this thread has run, in hundredths of a second: other processes do not count. See proc(5), `stat`.
fn ticks_of_this_thread() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has /proc");
    let (_, fields) = stat.rsplit_once(')').expect("the name of the program");
    let times = fields.split_whitespace().skip(11).take(2);
    times.map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn a_million_functions_inlined_in_each_other_are_told_up_to_the_cap() {
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &RANGE));
    abbreviations.extend(abbreviation(3, gimli::DW_TAG_inlined_subroutine, &RANGE));
    abbreviations.push(0);
    let mut entries = vec![1];
    entries.extend(FUNCTION);
    for _ in 0..1_000_000 {
        entries.push(3);
        entries.extend(&FUNCTION[1..]);
    }
    let symbols = ask(&sections(abbreviations, unit(&entries), &[]));
    assert_eq!(symbols.len(), INLINED);
}

#[test]
fn units_that_share_a_large_table_of_abbreviations_are_not_all_read() {
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &RANGE));
    let used = abbreviations.len();
    for code in 3..100_000 {
        abbreviations.extend(uleb(code));
        abbreviations.extend(&abbreviation(0, gimli::DW_TAG_member, &[])[1..]);
    }
    abbreviations.push(0);
    assert!(used < abbreviations.len() && abbreviations.len() < 1 << 20);
    let mut entries = vec![1];
    entries.extend(FUNCTION);
    let info = unit(&entries).repeat(100_000);
    let symbols = ask(&sections(abbreviations, info, &[]));
    assert_eq!(symbols.len(), 1, "what was read before is told");
}

#[test]
fn units_that_share_a_table_without_an_end_are_not_all_tried() {
    let mut abbreviations = Vec::new();
    for code in 1..100_000 {
        abbreviations.extend(uleb(code));
        abbreviations.extend(&abbreviation(0, gimli::DW_TAG_member, &[])[1..]);
    }
    let info = unit(&[1]).repeat(100_000);
    assert!(ask(&sections(abbreviations, info, &[])).is_empty());
}

#[test]
fn functions_that_share_a_name_without_an_end_are_not_all_tried() {
    let named = [RANGE[0], RANGE[1], (gimli::DW_AT_name, gimli::DW_FORM_strp)];
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &named));
    abbreviations.extend(abbreviation(3, gimli::DW_TAG_inlined_subroutine, &named));
    abbreviations.push(0);
    let mut entries = vec![1];
    for code in [vec![2], vec![3; 1000]].concat() {
        entries.push(code);
        entries.extend(&FUNCTION[1..]);
        entries.extend([0; 4]);
    }
    let names = vec![b'n'; 64 << 20];
    let symbols = ask(&sections(abbreviations, unit(&entries), &[(".debug_str", names)]));
    assert!(symbols.iter().all(|symbol| symbol.name().is_none()));
}

#[test]
fn functions_that_share_a_long_list_of_ranges_are_not_all_read() {
    let by_list = [(gimli::DW_AT_ranges, gimli::DW_FORM_sec_offset)];
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &by_list));
    abbreviations.push(0);
    // New base addresses, none of which is a range.
    let mut ranges = [[0xff; 4], [1, 0, 0, 0]].concat().repeat(1_000_000);
    ranges.extend([0; 8]);
    let mut entries = vec![1];
    for _ in 0..100_000 {
        entries.extend([2, 0, 0, 0, 0]);
    }
    let sections = sections(abbreviations, unit(&entries), &[(".debug_ranges", ranges)]);
    assert!(ask(&sections).is_empty());
}

#[test]
fn entries_whose_attributes_take_no_bytes_are_paid_all_the_same() {
    let none = vec![(gimli::DW_AT_external, gimli::DW_FORM_flag_present); 300_000];
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &none));
    abbreviations.push(0);
    let mut entries = vec![2; 1_000_000];
    entries[0] = 1;
    assert!(ask(&sections(abbreviations, unit(&entries), &[])).is_empty());
}

#[test]
fn a_name_that_refers_to_itself_is_none() {
    let named = [
        RANGE[0],
        RANGE[1],
        (gimli::DW_AT_specification, gimli::DW_FORM_ref4),
    ];
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &named));
    abbreviations.push(0);
    let mut entries = vec![1];
    entries.extend(FUNCTION);
    entries.extend([12, 0, 0, 0]); // the function's own offset: behind the unit's head and first entry
    let symbols = ask(&sections(abbreviations, unit(&entries), &[]));
    assert_eq!(symbols, [FrameSymbol::default()]);
}

#[test]
fn a_long_entry_that_many_functions_take_their_names_from_is_paid_each_time() {
    const LONG: usize = 4 << 20;
    let referring = [
        RANGE[0],
        RANGE[1],
        (gimli::DW_AT_abstract_origin, gimli::DW_FORM_ref4),
    ];
    let named = [
        (gimli::DW_AT_producer, gimli::DW_FORM_string),
        (gimli::DW_AT_name, gimli::DW_FORM_string),
    ];
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &referring));
    abbreviations.extend(abbreviation(3, gimli::DW_TAG_inlined_subroutine, &referring));
    abbreviations.extend(abbreviation(4, gimli::DW_TAG_member, &named));
    abbreviations.push(0);
    // Behind the unit's head, its first entry and those that refer to it.
    let origin = (11 + 1 + INLINED * (FUNCTION.len() + 4)) as u32;
    let mut entries = vec![1];
    for code in [vec![2], vec![3; INLINED - 1]].concat() {
        entries.push(code);
        entries.extend(&FUNCTION[1..]);
        entries.extend(origin.to_le_bytes());
    }
    entries.push(4);
    entries.extend(vec![b'p'; LONG]);
    entries.extend(b"\0f\0");
    let symbols = ask(&sections(abbreviations, unit(&entries), &[]));
    assert_eq!(symbols.len(), INLINED);
    let named = symbols.iter().filter(|symbol| symbol.name() == Some("f"));
    let most = LOOKUP_STEPS as usize / LONG;
    assert!(
        (1..=most).contains(&named.count()),
        "no more than {most} are paid"
    );
}

/// The number of a place that a mangled name refers back to: base 62.
fn back_reference(place: usize) -> String {
    let digits = (b'0'..=b'9')
        .chain(b'a'..=b'z')
        .chain(b'A'..=b'Z')
        .collect::<Vec<_>>();
    let Some(mut rest) = place.checked_sub(1) else {
        return "B_".to_owned();
    };
    let mut number = vec![digits[rest % 62]];
    while rest >= 62 {
        rest /= 62;
        number.push(digits[rest % 62]);
    }
    number.reverse();
    format!("B{}_", String::from_utf8(number).expect("ASCII"))
}

#[test]
fn a_name_that_grows_when_it_is_demangled_is_cut() {
    // a::f::<(u32,), (A, A), (B, B), ..>, each twice as long as the one before.
    let mut name = "INvC1a1f".to_owned();
    let mut place = name.len();
    name.push_str("TmE");
    for _ in 0..40 {
        let before = back_reference(place);
        place = name.len();
        name.push_str(&format!("T{before}{before}E"));
    }
    let name = format!("_R{name}E\0");
    let named = [
        RANGE[0],
        RANGE[1],
        (gimli::DW_AT_linkage_name, gimli::DW_FORM_string),
    ];
    let mut abbreviations = abbreviation(1, gimli::DW_TAG_compile_unit, &[]);
    abbreviations.extend(abbreviation(2, gimli::DW_TAG_subprogram, &named));
    abbreviations.push(0);
    let entries = [&[1], &FUNCTION[..], name.as_bytes()].concat();
    let symbols = ask(&sections(abbreviations, unit(&entries), &[]));
    let name = symbols[0].name().expect("there is one");
    assert!(
        name.starts_with("a::f::<(u32,), ((u32,), (u32,)), "),
        "{:.80}",
        name
    );
    assert!(name.len() <= 4096, "{} bytes", name.len());
}
