//! Payments and checks of fuel in one instruction each (aarch64), from what Cranelift computes:
//!
//! ```text
//!   mov x0, x21 | sub x1, x0, #7 | mov x21, x1        nop | nop | sub x21, x21, #7
//!   mov x0, x21 | subs xzr, x0, #0                    nop | subs xzr, x21, #0
//! ```
//!
//! Why that is right is in the head of `in_place.rs`. A larger amount than an instruction has is computed as it was.
//! Encodings: Arm Architecture Reference Manual, "Add/subtract (immediate)" and "Logical (shifted register)".

/// The pinned register.
const X21: u32 = 21;
const NOP: u32 = 0xd503_201f;
/// `mov x0, xzr`, being `orr x0, xzr, xzr` without its last register.
const MOV: u32 = 0xaa00_03e0;
/// `subs xzr, x0, #0`.
const TEST: u32 = 0xf100_001f;
/// What is not a register in an addition or a subtraction of a constant; its bit 30 says which.
const OPERATION: u32 = 0xffc0_0000;
const ADD: u32 = 0x9100_0000;
const SUB: u32 = 0xd100_0000;
/// The constant, which may be shifted by 12 bits: bit 22.
const CONSTANT: u32 = 0xfff << 10;
const SHIFTED: u32 = 1 << 22;

/// Rewrites the payment that Cranelift computes here, or the check, if it looks as expected.
pub(super) fn rewrite(code: &mut [u8]) {
    let Some(copy) = word(code, 0).and_then(copy_of_fuel) else {
        return;
    };
    let Some(next) = word(code, 1) else {
        return;
    };
    if next == TEST | copy << 5 {
        write(code, [NOP, TEST | X21 << 5]);
    } else if let Some(payment) = payment(next, copy)
        && next & 31 != 31 // the stack pointer here, zero in what follows
        && word(code, 2) == Some(MOV | (next & 31) << 16 | X21)
    {
        write(code, [NOP, NOP, payment]);
    }
}

/// The register that `mov register, x21` writes, if that is the instruction.
fn copy_of_fuel(instruction: u32) -> Option<u32> {
    let register = instruction & 31;
    (instruction == MOV | X21 << 16 | register && register != 31).then_some(register)
}

/// The same addition or subtraction of a constant in the pinned register, if it is one that reads `register`.
fn payment(instruction: u32, register: u32) -> Option<u32> {
    let is_known = matches!(instruction & OPERATION & !SHIFTED, ADD | SUB);
    let reads = instruction >> 5 & 31;
    (is_known && reads == register).then_some(instruction & (OPERATION | CONSTANT) | X21 << 5 | X21)
}

fn word(code: &[u8], index: usize) -> Option<u32> {
    let bytes = code.get(4 * index..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn write<const N: usize>(code: &mut [u8], words: [u32; N]) {
    for (bytes, word) in code.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(words: &[u32]) -> Vec<u32> {
        let mut code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        rewrite(&mut code);
        (0..words.len()).map_while(|index| word(&code, index)).collect()
    }

    #[test]
    fn a_payment_is_one_subtraction() {
        // mov x0, x21; sub x1, x0, #7; mov x21, x1
        assert_eq!(
            rewritten(&[0xaa15_03e0, 0xd100_1c01, 0xaa01_03f5]),
            [NOP, NOP, 0xd100_1eb5]
        );
        // sub x0, x0, #1, lsl #12
        assert_eq!(
            rewritten(&[0xaa15_03e0, 0xd140_0400, 0xaa00_03f5]),
            [NOP, NOP, 0xd140_06b5]
        );
    }

    #[test]
    fn what_is_paid_back_is_one_addition() {
        // mov x9, x21; add x9, x9, #0xfff; mov x21, x9
        assert_eq!(
            rewritten(&[0xaa15_03e9, 0x913f_fd29, 0xaa09_03f5]),
            [NOP, NOP, 0x913f_feb5]
        );
    }

    #[test]
    fn a_check_tests_the_counter_itself() {
        // mov x1, x21; subs xzr, x1, #0; b.lt
        assert_eq!(
            rewritten(&[0xaa15_03e1, 0xf100_003f, 0x5400_000b]),
            [NOP, 0xf100_02bf, 0x5400_000b]
        );
    }

    #[test]
    fn whatever_looks_otherwise_stays() {
        // The copy of another register, another register subtracted from, another written back, a register subtracted, flags set, 32
        // bits, the stack pointer written, a check of another register, no copy but nothing, the end of the code.
        for words in [
            &[0xaa14_03e0, 0xd100_1c00, 0xaa00_03f5][..],
            &[0xaa15_03e0, 0xd100_1c20, 0xaa00_03f5],
            &[0xaa15_03e0, 0xd100_1c01, 0xaa00_03f5],
            &[0xaa15_03e0, 0xd100_1c00, 0xaa00_03f4],
            &[0xaa15_03e0, 0xcb01_0000, 0xaa00_03f5],
            &[0xaa15_03e0, 0xf100_1c00, 0xaa00_03f5],
            &[0xaa15_03e0, 0x5100_1c00, 0xaa00_03f5],
            &[0xaa15_03e0, 0xd100_1c1f, 0xaa1f_03f5],
            &[0xaa15_03e1, 0xf100_005f],
            &[0xaa15_03ff, 0xf100_03ff],
            &[0xaa15_03e0, 0xd100_1c00],
            &[0xaa15_03e0],
            &[],
        ] {
            assert_eq!(rewritten(words), words);
        }
    }
}
