//! Payments and checks of fuel in one instruction each: here for x86-64, in `in_place/aarch64.rs` for aarch64, which has no places.
//!
//! To Cranelift the pinned register is something to copy from and to: it never computes in it. This writes payments
//! into the places that are kept for them, and rewrites what Cranelift makes of a check and of a payment that it
//! computes. Every offset is kept by prefixes that do nothing:
//!
//! ```text
//!   mfence | mfence                                 ds ds sub r15, 7
//!   mfence | mfence | mfence                        ds ds sub r15, 700
//!   mov rax, r15 | sub rax, 7 | mov r15, rax        ds ds ds sub r15, 7
//!   mov rax, r15 | test rax, rax | jl               ds ds ds test r15, r15 | jl
//!   mov rax, r15 | cmp rax, 7 | jl                  ds ds ds sub r15, 7 | jl
//!   mov rax, r15 | test rax, rax | jle              ds ds sub r15, 1 | jl
//! ```
//!
//! A place is a payment only once it is filled, and the last of these only once it is rewritten: one that does not look as expected is
//! refused, and its function compiled otherwise. That flags change in a place is no matter: no flag lives from one CLIF instruction to
//! the next. Those of the comparison are the subtraction's, and `jl` is what asks for them; where it leads is for `cold.rs`.
//!
//! Why the others are right: the copy is a value of its own, made for the payment or the check and used by nothing else, so
//! nobody reads its register behind them; the flags are the same. Only places that the table of sites names are looked
//! at, where an instruction begins; what looks otherwise there, because the allocator moved something in between, stays.

mod aarch64;

/// The pinned register's low bits; its high bit goes into the prefix.
const R15: u8 = 7;
/// A segment override that does nothing in 64-bit code.
const PREFIX: u8 = 0x3e;
const MOV: u8 = 0x89;
const LOAD: u8 = 0x8b;
const XOR: u8 = 0x33;
const TEST: u8 = 0x85;
const ARITHMETIC_8: u8 = 0x83;
const ARITHMETIC_32: u8 = 0x81;
/// The operation of an arithmetic instruction, in the middle of its ModRM byte.
const ADD: u8 = 0;
const SUB: u8 = 5;
const CMP: u8 = 7;
/// `cmp rax` and a constant of 32 bits.
const CMP_RAX: u8 = 0x3d;
/// The second bytes of branches with 32 bits of distance: less, and less or equal.
const JL: u8 = 0x8c;
const JLE: u8 = 0x8e;
const NOP_3: [u8; 3] = [0x0f, 0x1f, 0x00];
/// As recommended by the processors' makers.
const NOP_9: [u8; 9] = [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
/// The second byte of operands: at the stack pointer, without an index.
const RSP: u8 = 0x24;
const MFENCE: [u8; 3] = [0x0f, 0xae, 0xf0];
/// `test r15, r15`.
const TEST_R15: [u8; 3] = [0x4d, TEST, 0xff];

/// How many fences keep the place of a payment.
pub(crate) fn fences(amount: i32) -> usize {
    match i8::try_from(amount) {
        Ok(_) => 2,
        Err(_) => 3,
    }
}

/// Writes a payment into the place that begins here. Whether it is such a place.
#[must_use]
pub(crate) fn fill(code: &mut [u8], amount: i32) -> bool {
    let bytes = fences(amount) * MFENCE.len();
    let Some(place) = code.get_mut(..bytes) else {
        return false;
    };
    if place.chunks(MFENCE.len()).any(|fence| fence != MFENCE) {
        return false;
    }
    let (prefixes, payment) = place.split_at_mut(2);
    prefixes.fill(PREFIX);
    write_payment(payment, amount);
    true
}

/// Writes the subtraction of an amount from the counter: 4 bytes, or 7 if it is large.
fn write_payment(code: &mut [u8], amount: i32) {
    let immediate = amount.to_le_bytes();
    match i8::try_from(amount) {
        Ok(_) => code.copy_from_slice(&[rex(0, 15), ARITHMETIC_8, registers(SUB, 15), immediate[0]]),
        Err(_) => {
            code[..3].copy_from_slice(&[rex(0, 15), ARITHMETIC_32, registers(SUB, 15)]);
            code[3..].copy_from_slice(&immediate);
        }
    }
}

/// Makes the fences that begin here do nothing. Whether there are that many.
#[must_use]
pub(crate) fn clear(code: &mut [u8], fences: u8) -> bool {
    let Some(space) = code.get_mut(..usize::from(fences) * MFENCE.len()) else {
        return false;
    };
    let is_space = space.chunks(MFENCE.len()).all(|fence| fence == MFENCE);
    if is_space {
        for nop in space.chunks_mut(NOP_9.len()) {
            match nop.len() {
                9 => nop.copy_from_slice(&NOP_9),
                _ => nop.chunks_mut(3).for_each(|nop| nop.copy_from_slice(&NOP_3)),
            }
        }
    }
    is_space
}

/// Rewrites the payment that Cranelift computes here for the architecture it calls `isa`, or the check, if it looks as expected.
pub(crate) fn rewrite(code: &mut [u8], isa: &str) {
    match isa {
        "x64" => rewrite_x86_64(code),
        "aarch64" => aarch64::rewrite(code),
        _ => {}
    }
}

fn rewrite_x86_64(code: &mut [u8]) {
    let Some(copy) = copy_of_fuel(code) else {
        return;
    };
    if counter_tested(code).is_some() {
        code[..3].fill(PREFIX);
        code[3..6].copy_from_slice(&TEST_R15);
    } else if let Some(payment) = payment(&code[3..], copy) {
        let end = 3 + payment.bytes;
        if code[end..].starts_with(&[rex(copy, 15), MOV, registers(copy, 15)]) {
            pay(&mut code[..end + 3], &payment);
        }
    }
}

/// Makes the comparison of the counter with an amount that begins here its subtraction, and lets the branch ask whether the counter
/// became negative. Where that branch begins; None if there is no such comparison or branch.
#[must_use]
pub(crate) fn pay_in_check(code: &mut [u8], amount: i32) -> Option<usize> {
    let others = put_others_first(code);
    let bytes = pay_in_comparison(&mut code[others..], amount)?;
    Some(others + bytes)
}

/// Between the copy of the counter and the comparison Cranelift may make a constant that the program has too, and put it where it
/// belongs. That has nothing to do with the copy: the two change places. The length of what is first now.
fn put_others_first(code: &mut [u8]) -> usize {
    let Some(copy) = copy_of_fuel(code) else {
        return 0;
    };
    let mut bytes = 0;
    while let Some(other) = constant_or_move(&code[3 + bytes..], copy) {
        bytes += other;
    }
    code[..3 + bytes].rotate_left(3);
    bytes
}

/// The length of what begins here, if that sets a register to a constant, or moves one to or from another or the frame, and neither is
/// `copy` or the counter.
fn constant_or_move(code: &[u8], copy: u8) -> Option<usize> {
    let (prefix, length, code) = match code {
        [prefix @ 0x40..=0x4f, code @ ..] => (*prefix, 1, code),
        code => (0x40, 0, code),
    };
    let is_free = |register: u8| register != copy && register != 15;
    let low = |bits: u8| bits & 7 | (prefix & 1) << 3;
    let middle = |operands: u8| operands >> 3 & 7 | (prefix & 4) << 1;
    let (is_it, bytes) = match *code {
        [XOR, operands @ 0xc0..=0xff, ..] => {
            let is_zero = low(operands) == middle(operands);
            (is_zero && is_free(low(operands)), 2)
        }
        [opcode @ 0xb8..=0xbf, ..] if prefix & 8 == 0 => (is_free(low(opcode)), 5),
        [MOV, operands @ 0xc0..=0xff, ..] => (is_free(low(operands)) && is_free(middle(operands)), 2),
        // At rsp, at rsp and 8 bits, or 32.
        [MOV | LOAD, operands, RSP, ..] if operands & 7 == 4 && prefix & 3 == 0 => {
            let displacement = [0, 1, 4][usize::from(operands >> 6)];
            (is_free(middle(operands)), 3 + displacement)
        }
        _ => return None,
    };
    (is_it && bytes <= code.len()).then_some(length + bytes)
}

/// As [`pay_in_check`], with nothing in between.
fn pay_in_comparison(code: &mut [u8], amount: i32) -> Option<usize> {
    let bytes = match amount {
        0 | 1 => counter_tested(code)?,
        _ => counter_compared_with(code, amount)?,
    };
    let (counter, branch) = code.split_at_mut(bytes);
    let (Some([0x0f, condition]), expected) = (branch.first_chunk_mut(), [JL, JLE][usize::from(amount == 1)])
    else {
        return None;
    };
    if *condition != expected {
        return None;
    }
    *condition = JL;
    let instruction = match (amount, i8::try_from(amount)) {
        (0, _) => 3,
        (_, Ok(_)) => 4,
        (_, Err(_)) => 7,
    };
    let (prefixes, instruction) = counter.split_at_mut(bytes - instruction);
    prefixes.fill(PREFIX);
    match amount {
        0 => instruction.copy_from_slice(&TEST_R15),
        _ => write_payment(instruction, amount),
    }
    Some(bytes)
}

/// The length of `mov register, r15`, `test register, register`, if that begins here: a comparison with 0, by which
/// `less` becomes `less or equal` to Cranelift if it was one with 1.
fn counter_tested(code: &[u8]) -> Option<usize> {
    let copy = copy_of_fuel(code)?;
    code[3..]
        .starts_with(&[rex(copy, copy), TEST, registers(copy, copy)])
        .then_some(6)
}

/// The length of `mov register, r15`, `cmp register, amount`, if that begins here.
fn counter_compared_with(code: &[u8], amount: i32) -> Option<usize> {
    let copy = copy_of_fuel(code)?;
    let compared = &code[3..];
    let (operand, immediate) = match *compared {
        [prefix, ARITHMETIC_8, operand, immediate, ..] if prefix == rex(0, copy) => {
            (Some(operand), Some((i32::from(immediate as i8), 4)))
        }
        [prefix, ARITHMETIC_32, operand, ref immediate @ ..] if prefix == rex(0, copy) => (
            Some(operand),
            immediate
                .first_chunk()
                .map(|amount| (i32::from_le_bytes(*amount), 7)),
        ),
        [prefix, CMP_RAX, ref immediate @ ..] if prefix == rex(0, 0) && copy == 0 => (
            None,
            immediate
                .first_chunk()
                .map(|amount| (i32::from_le_bytes(*amount), 6)),
        ),
        _ => return None,
    };
    let (compared, bytes) = immediate?;
    let is_it = compared == amount && operand.is_none_or(|operand| operand == registers(CMP, copy));
    is_it.then_some(3 + bytes)
}

/// The register that `mov register, r15` writes, if that is the instruction.
fn copy_of_fuel(code: &[u8]) -> Option<u8> {
    let [prefix @ (0x4c | 0x4d), MOV, operands, ..] = *code else {
        return None;
    };
    let register = operands & 7 | (prefix & 1) << 3;
    (operands == registers(15, register)).then_some(register)
}

struct Payment {
    operation: u8,
    amount: i32,
    /// Length of the instruction.
    bytes: usize,
}

/// The addition of a constant to a register, or its subtraction.
fn payment(code: &[u8], register: u8) -> Option<Payment> {
    let [prefix, opcode, operands, amount @ ..] = code else {
        return None;
    };
    let operation = operands >> 3 & 7;
    let is_known = *prefix == rex(0, register) && *operands == registers(operation, register);
    if !is_known || !matches!(operation, ADD | SUB) {
        return None;
    }
    let (amount, bytes) = match *opcode {
        ARITHMETIC_8 => (i32::from(*amount.first()? as i8), 4),
        ARITHMETIC_32 => (i32::from_le_bytes(*amount.first_chunk()?), 7),
        _ => return None,
    };
    Some(Payment {
        operation,
        amount,
        bytes,
    })
}

/// Fills a place of 10 or 13 bytes.
fn pay(place: &mut [u8], payment: &Payment) {
    let (padding, rest) = place.split_at_mut(3);
    padding.fill(PREFIX);
    let (instruction, rest) = rest.split_at_mut(7);
    instruction[..3].copy_from_slice(&[rex(0, 15), ARITHMETIC_32, registers(payment.operation, 15)]);
    instruction[3..].copy_from_slice(&payment.amount.to_le_bytes());
    if !rest.is_empty() {
        rest.copy_from_slice(&NOP_3);
    }
}

/// The prefix of a 64-bit operation.
fn rex(from: u8, to: u8) -> u8 {
    0x48 | from >> 3 << 2 | to >> 3
}

/// The ModRM byte of two registers, or of an operation and a register.
fn registers(from: u8, to: u8) -> u8 {
    0xc0 | (from & 7) << 3 | to & R15
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(code: &[u8]) -> Vec<u8> {
        let mut code = code.to_vec();
        rewrite(&mut code, "x64");
        code
    }

    #[test]
    fn a_place_takes_a_payment_of_its_length() {
        let mut code = [MFENCE, MFENCE, MFENCE].concat();
        assert!(fill(&mut code, 7));
        assert_eq!(code, [0x3e, 0x3e, 0x49, 0x83, 0xef, 7, 0x0f, 0xae, 0xf0]);
        let mut code = [MFENCE, MFENCE].concat();
        assert!(fill(&mut code, -128));
        assert_eq!(code, [0x3e, 0x3e, 0x49, 0x83, 0xef, 0x80]);
        let mut code = [MFENCE, MFENCE, MFENCE].concat();
        assert!(fill(&mut code, 128));
        assert_eq!(code, [0x3e, 0x3e, 0x49, 0x81, 0xef, 128, 0, 0, 0]);
    }

    #[test]
    fn space_does_nothing() {
        let mut code = MFENCE.repeat(5);
        assert!(clear(&mut code, 4));
        assert_eq!(code, [&NOP_9[..], &NOP_3, &MFENCE].concat());
        assert!(!clear(&mut code, 1));
    }

    #[test]
    fn a_place_that_was_torn_apart_is_refused_and_stays() {
        let mov = [0x48, 0x89, 0xc8];
        for (place, amount) in [
            ([MFENCE, mov, MFENCE].concat(), 7),
            ([MFENCE, MFENCE, mov].concat(), 700),
            ([mov, MFENCE, MFENCE].concat(), 7),
            (MFENCE.to_vec(), 7),
            (Vec::new(), 7),
        ] {
            let mut code = place.clone();
            assert!(!fill(&mut code, amount));
            assert_eq!(code, place);
        }
    }

    #[test]
    fn a_payment_is_one_subtraction_of_the_same_length() {
        // mov r10, r15; sub r10, 2; mov r15, r10
        let code = [0x4d, 0x89, 0xfa, 0x49, 0x83, 0xea, 0x02, 0x4d, 0x89, 0xd7];
        let expected = [0x3e, 0x3e, 0x3e, 0x49, 0x81, 0xef, 0x02, 0, 0, 0];
        assert_eq!(rewritten(&code), expected);
    }

    #[test]
    fn what_is_paid_back_is_one_addition() {
        // mov rcx, r15; add rcx, 0x115; mov r15, rcx
        let code = [
            0x4c, 0x89, 0xf9, 0x48, 0x81, 0xc1, 0x15, 1, 0, 0, 0x49, 0x89, 0xcf,
        ];
        let expected = [
            0x3e, 0x3e, 0x3e, 0x49, 0x81, 0xc7, 0x15, 1, 0, 0, 0x0f, 0x1f, 0x00,
        ];
        assert_eq!(rewritten(&code), expected);
    }

    #[test]
    fn a_check_tests_the_counter_itself() {
        // mov rax, r15; test rax, rax; jl
        let code = [0x4c, 0x89, 0xf8, 0x48, 0x85, 0xc0, 0x0f, 0x8c];
        let expected = [0x3e, 0x3e, 0x3e, 0x4d, 0x85, 0xff, 0x0f, 0x8c];
        assert_eq!(rewritten(&code), expected);
    }

    #[test]
    fn a_check_pays_in_one_subtraction_of_the_same_length() {
        let payment = [0x3e, 0x3e, 0x3e, 0x49, 0x83, 0xef, 9, 0x0f, 0x8c];
        let large = [0x3e, 0x3e, 0x3e, 0x49, 0x81, 0xef, 44, 1, 0, 0, 0x0f, 0x8c];
        for (code, amount, expected) in [
            // mov rcx, r15; cmp rcx, 9; jl
            (
                &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xf9, 9, 0x0f, 0x8c][..],
                9,
                &payment[..],
            ),
            // mov r10, r15; cmp r10, 9; jl
            (&[0x4d, 0x89, 0xfa, 0x49, 0x83, 0xfa, 9, 0x0f, 0x8c], 9, &payment),
            // mov rcx, r15; cmp rcx, 300; jl
            (
                &[0x4c, 0x89, 0xf9, 0x48, 0x81, 0xf9, 44, 1, 0, 0, 0x0f, 0x8c],
                300,
                &large,
            ),
            // mov rax, r15; cmp rax, 300, which is a byte shorter; jl
            (
                &[0x4c, 0x89, 0xf8, 0x48, 0x3d, 44, 1, 0, 0, 0x0f, 0x8c],
                300,
                &large[1..],
            ),
            // mov rcx, r15; test rcx, rcx; jl, and jle
            (
                &[0x4c, 0x89, 0xf9, 0x48, 0x85, 0xc9, 0x0f, 0x8c],
                0,
                &[0x3e, 0x3e, 0x3e, 0x4d, 0x85, 0xff, 0x0f, 0x8c],
            ),
            (
                &[0x4c, 0x89, 0xf9, 0x48, 0x85, 0xc9, 0x0f, 0x8e],
                1,
                &[0x3e, 0x3e, 0x49, 0x83, 0xef, 1, 0x0f, 0x8c],
            ),
        ] {
            let mut paid = code.to_vec();
            let branch = expected.len() - 2;
            assert_eq!(pay_in_check(&mut paid, amount), Some(branch), "{code:02x?}");
            assert_eq!(paid, expected, "{code:02x?}");
        }
    }

    #[test]
    fn a_constant_of_the_program_may_be_made_in_between() {
        for (code, amount, expected) in [
            // mov rcx, r15; mov edx, 9; cmp rcx, 9; jl
            (
                &[
                    0x4c, 0x89, 0xf9, 0xba, 9, 0, 0, 0, 0x48, 0x83, 0xf9, 9, 0x0f, 0x8c,
                ][..],
                9,
                &[
                    0xba, 9, 0, 0, 0, 0x3e, 0x3e, 0x3e, 0x49, 0x83, 0xef, 9, 0x0f, 0x8c,
                ][..],
            ),
            // mov rax, r15; mov r9d, 300; cmp rax, 300; jl
            (
                &[
                    0x4c, 0x89, 0xf8, 0x41, 0xb9, 44, 1, 0, 0, 0x48, 0x3d, 44, 1, 0, 0, 0x0f, 0x8c,
                ],
                300,
                &[
                    0x41, 0xb9, 44, 1, 0, 0, 0x3e, 0x3e, 0x49, 0x81, 0xef, 44, 1, 0, 0, 0x0f, 0x8c,
                ],
            ),
            // mov rcx, r15; xor edx, edx; test rcx, rcx; jl
            (
                &[0x4c, 0x89, 0xf9, 0x33, 0xd2, 0x48, 0x85, 0xc9, 0x0f, 0x8c],
                0,
                &[0x33, 0xd2, 0x3e, 0x3e, 0x3e, 0x4d, 0x85, 0xff, 0x0f, 0x8c],
            ),
            // mov rcx, r15; xor r9d, r9d; test rcx, rcx; jle
            (
                &[0x4c, 0x89, 0xf9, 0x45, 0x33, 0xc9, 0x48, 0x85, 0xc9, 0x0f, 0x8e],
                1,
                &[0x45, 0x33, 0xc9, 0x3e, 0x3e, 0x49, 0x83, 0xef, 1, 0x0f, 0x8c],
            ),
        ] {
            let mut paid = code.to_vec();
            assert_eq!(
                pay_in_check(&mut paid, amount),
                Some(expected.len() - 2),
                "{code:02x?}"
            );
            assert_eq!(paid, expected, "{code:02x?}");
        }
    }

    /// `mov r9, r15`, this, `cmp r9, 9`, `jl`.
    fn copy_and_check(between: &[u8]) -> Vec<u8> {
        let (copy, check) = ([0x4d, 0x89, 0xf9], [0x49, 0x83, 0xf9, 9, 0x0f, 0x8c]);
        [&copy, between, &check].concat()
    }

    #[test]
    fn what_does_not_concern_the_copy_changes_places_with_it() {
        for code in [
            // mov ecx, 8; xor edx, edx; xor r10, r10; mov rbx, rsi; mov [rsp], rdx; mov [rsp+8], r10; mov rbx, [rsp+0x100]
            &[0xb9, 8, 0, 0, 0][..],
            &[0x33, 0xd2],
            &[0x4d, 0x33, 0xd2],
            &[0x48, 0x89, 0xf3],
            &[0x48, 0x89, 0x14, 0x24],
            &[0x4c, 0x89, 0x54, 0x24, 8],
            &[0x48, 0x8b, 0x9c, 0x24, 0, 1, 0, 0],
        ] {
            let mut paid = copy_and_check(code);
            assert_eq!(pay_in_check(&mut paid, 9), Some(code.len() + 7), "{code:02x?}");
            let payment = [0x3e, 0x3e, 0x3e, 0x49, 0x83, 0xef, 9, 0x0f, 0x8c];
            assert_eq!(paid, [code, &payment].concat());
        }
    }

    #[test]
    fn what_concerns_the_copy_or_the_counter_is_refused() {
        for code in [
            // The copy's register: mov r9d, 8; xor r9, r9; mov r9, rsi; mov rsi, r9; mov [rsp+8], r9; mov r9, [rsp]
            &[0x41, 0xb9, 8, 0, 0, 0][..],
            &[0x4d, 0x33, 0xc9],
            &[0x49, 0x89, 0xf1],
            &[0x4c, 0x89, 0xce],
            &[0x4c, 0x89, 0x4c, 0x24, 8],
            &[0x4c, 0x8b, 0x0c, 0x24],
            // The counter's: mov r15, rsi; mov rsi, r15; xor r15, r15
            &[0x49, 0x89, 0xf7],
            &[0x4c, 0x89, 0xfe],
            &[0x4d, 0x33, 0xff],
            // xor of two registers; mov [rbx+8], rdx; mov [rsp+rsi], rdx; mov [r12], rdx; 64 bits of constant
            &[0x48, 0x33, 0xd1],
            &[0x48, 0x89, 0x53, 8],
            &[0x48, 0x89, 0x14, 0x34],
            &[0x49, 0x89, 0x14, 0x24],
            &[0x48, 0xb9, 1, 2, 3, 4, 5, 6, 7, 8],
        ] {
            assert_eq!(pay_in_check(&mut copy_and_check(code), 9), None, "{code:02x?}");
        }
    }

    #[test]
    fn a_comparison_that_is_not_the_check_is_refused_and_stays() {
        for code in [
            // Another amount.
            &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xf9, 8, 0x0f, 0x8c][..],
            // Another register compared; of 32 bits; the same comparison of another copy; r10 and not rdx.
            &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xf8, 9, 0x0f, 0x8c],
            &[0x4c, 0x89, 0xf9, 0x83, 0xf9, 9, 0x0f, 0x8c, 0],
            &[0x4c, 0x89, 0xf1, 0x48, 0x83, 0xf9, 9, 0x0f, 0x8c],
            &[0x4d, 0x89, 0xfa, 0x48, 0x83, 0xfa, 9, 0x0f, 0x8c],
            // A subtraction, and no branch that asks for less: jle, jb, and a short one.
            &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xe9, 9, 0x0f, 0x8c],
            &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xf9, 9, 0x0f, 0x8e],
            &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xf9, 9, 0x0f, 0x82],
            &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xf9, 9, 0x7c, 0],
            // A constant of the program in between, whose bytes are the comparison's.
            &[
                0x4c, 0x89, 0xf9, 0x48, 0xb8, 0x48, 0x83, 0xf9, 9, 0x0f, 0x8c, 0, 0, 0x48, 0x83, 0xf9, 9,
                0x0f, 0x8c,
            ],
            // The end of the code.
            &[0x4c, 0x89, 0xf9, 0x48, 0x83, 0xf9, 9],
            &[0x4c, 0x89, 0xf9],
            &[],
        ] {
            let mut paid = code.to_vec();
            assert_eq!(pay_in_check(&mut paid, 9), None, "{code:02x?}");
            assert_eq!(paid, code);
        }
    }

    #[test]
    fn whatever_looks_otherwise_stays() {
        // The copy of another register, another register subtracted from, another written back, the end of the code.
        for code in [
            &[0x4c, 0x89, 0xf0, 0x48, 0x83, 0xe8, 0x01, 0x49, 0x89, 0xc7][..],
            &[0x4c, 0x89, 0xf8, 0x48, 0x83, 0xe9, 0x01, 0x49, 0x89, 0xc7],
            &[0x4c, 0x89, 0xf8, 0x48, 0x83, 0xe8, 0x01, 0x49, 0x89, 0xcf],
            &[0x4c, 0x89, 0xf8, 0x48, 0x83, 0xe8, 0x01],
            &[0x4c, 0x89, 0xf8],
            &[],
        ] {
            assert_eq!(rewritten(code), code);
        }
    }
}
