//! Payments and checks of fuel in one instruction each (x86-64).
//!
//! To Cranelift the pinned register is something to copy from and to: it never computes in it. This rewrites
//! what it makes of a payment and of a check, in the machine code, and keeps every offset by prefixes that do nothing:
//!
//! ```text
//!   mov rax, r15 | sub rax, 7 | mov r15, rax        ds ds ds sub r15, 7
//!   mov rax, r15 | test rax, rax                    ds ds ds test r15, r15
//! ```
//!
//! Why that is right: the copy is a value of its own, made for the payment or the check and used by nothing else, so
//! nobody reads its register behind them; the flags are the same. Only places that the table of sites names are looked
//! at, where an instruction begins; what looks otherwise there, because the allocator moved something in between, stays.

/// The pinned register's low bits; its high bit goes into the prefix.
const R15: u8 = 7;
/// A segment override that does nothing in 64-bit code.
const PREFIX: u8 = 0x3e;
const MOV: u8 = 0x89;
const TEST: u8 = 0x85;
const ARITHMETIC_8: u8 = 0x83;
const ARITHMETIC_32: u8 = 0x81;
/// The operation of an arithmetic instruction, in the middle of its ModRM byte.
const ADD: u8 = 0;
const SUB: u8 = 5;
const NOP_3: [u8; 3] = [0x0f, 0x1f, 0x00];

/// Rewrites the payment or check that begins here, if it looks as expected.
pub(crate) fn rewrite(code: &mut [u8]) {
    let Some(copy) = copy_of_fuel(code) else {
        return;
    };
    if code[3..].starts_with(&[rex(copy, copy), TEST, registers(copy, copy)]) {
        let test = [rex(15, 15), TEST, registers(15, 15)];
        code[..3].fill(PREFIX);
        code[3..6].copy_from_slice(&test);
    } else if let Some(payment) = payment(&code[3..], copy) {
        let end = 3 + payment.bytes;
        if code[end..].starts_with(&[rex(copy, 15), MOV, registers(copy, 15)]) {
            pay(&mut code[..end + 3], &payment);
        }
    }
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
        rewrite(&mut code);
        code
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
