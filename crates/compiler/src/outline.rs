//! A module without its code: as valid as the module was, and all that [`ModuleInfo`](crate::ModuleInfo) is made of.
//!
//! Sections keep their bytes, but each function's body is one `unreachable`, and custom sections that nobody reads are left out.

use wasmparser::{Encoding, Parser, Payload};

use crate::CompileError;
use crate::debug;

/// The number of the code section. Spec: binary format, modules, sections.
const CODE: u8 = 10;
/// The number of a custom section.
const CUSTOM: u8 = 0;
/// A function's code: its size in bytes, no locals, `unreachable`, `end`.
const BODY: [u8; 4] = [3, 0, 0x00, 0x0b];

/// The outline of a module that is valid; with the sections for debuggers, if they are wanted.
pub(crate) fn outline(wasm: &[u8], keep_debug: bool) -> Result<Vec<u8>, CompileError> {
    let mut outline = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match &payload {
            Payload::Version {
                encoding: Encoding::Module,
                range,
                ..
            } => outline.extend_from_slice(&wasm[range.start as usize..range.end as usize]),
            Payload::CodeSectionStart { count, .. } => code_section(&mut outline, *count),
            Payload::CustomSection(section) => {
                let bytes = match section.name() {
                    "name" => section.data(),
                    name if debug::is_kept(name) && keep_debug => section.data(),
                    // That there is one is remembered.
                    debug::INFO => &[],
                    _ => continue,
                };
                custom_section(&mut outline, section.name(), bytes);
            }
            payload => {
                if let Some((id, range)) = payload.as_section() {
                    let bytes = &wasm[range.start as usize..range.end as usize];
                    header(&mut outline, id, bytes.len());
                    outline.extend_from_slice(bytes);
                }
            }
        }
    }
    Ok(outline)
}

fn code_section(out: &mut Vec<u8>, functions: u32) {
    let mut count = Vec::new();
    number(&mut count, functions);
    header(out, CODE, count.len() + BODY.len() * functions as usize);
    out.extend(count);
    out.extend(BODY.repeat(functions as usize));
}

fn custom_section(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let mut head = Vec::new();
    number(&mut head, name.len() as u32);
    head.extend_from_slice(name.as_bytes());
    header(out, CUSTOM, head.len() + bytes.len());
    out.extend(head);
    out.extend_from_slice(bytes);
}

fn header(out: &mut Vec<u8>, id: u8, bytes: usize) {
    out.push(id);
    number(out, bytes as u32); // below 4 GiB: `limits::module_bytes`, and no section grows by more than its functions
}

/// Spec: binary format, values, integers: unsigned LEB128.
fn number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_is_valid_and_holds_no_code() {
        let wasm = wat::parse_str(
            r#"(module $m (type $t (func (param i32) (result i64)))
                (import "a" "b" (func $i (type $t))) (memory 1) (table 2 funcref)
                (func $f (type $t) (i64.const 0x1234567812345678))
                (func $g (result i32) (i32.const 0x13579bd))
                (export "f" (func $f)) (elem (i32.const 0) $f $g) (data (i32.const 3) "data")
                (@custom ".debug_info" "about debugging") (@custom "other" "nobody reads this"))"#,
        )
        .expect("text");
        for (keep_debug, has_info) in [(false, false), (true, true)] {
            let outline = outline(&wasm, keep_debug).expect("valid");
            wasmparser::validate(&outline).expect("valid");
            let has = |bytes: &[u8]| outline.windows(bytes.len()).any(|window| window == bytes);
            assert!(has(b"data") && has(b".debug_info") && !has(b"nobody reads"));
            assert!(!has(&[0x78, 0x56, 0x34, 0x12]));
            assert_eq!(has(b"about debugging"), has_info);
        }
    }

    #[test]
    fn numbers_are_leb128() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[128, 1]),
            (624_485, &[0xe5, 0x8e, 0x26]),
            (u32::MAX, &[255, 255, 255, 255, 15]),
        ] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, bytes);
        }
    }
}
