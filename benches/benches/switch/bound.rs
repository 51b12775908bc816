//! Switches written by hand for one purpose: how fast could one be, and what is the rest for?
//!
//! Each goes so many times to and fro between this stack and the one with the given base, with a word each way. Paired calls
//! and returns, the fiber's stack pointer and the link in memory as in `fibers`. Frames begin at cache lines, so that how they
//! happen to lie does not count. The names tell how many stores a round trip has: that is what it costs.
//!
//! # Safety
//! Of each: the base is 16-aligned, and the 128 bytes below it are writable and unused.

use core::arch::naked_asm;

/// A function of this file.
pub type RoundTrips = unsafe extern "sysv64" fn(times: u64, base: usize) -> u64;

/// The least: nothing is saved, and nothing is checked. Both sides know where everything is.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn four_stores(times: u64, base: usize) -> u64 {
    naked_asm!(
        "push rbx",
        "lea rbx, [rsi - 32]", // the handle: sp, link
        "lea rax, [rip + 3f]",
        "mov [rsi - 48], rax",
        "lea rax, [rsi - 48]",
        "mov [rbx], rax",
        "lea rax, [rsi - 16]",
        "mov [rbx + 8], rax",
        "mov r8, rdi",
        "2:", // resume
        "mov rdx, [rbx]",
        "mov rsi, [rbx + 8]",
        "mov edi, 7",
        "call [rdx]",     // store: the return address
        "mov [rbx], rdx", // store: sp
        "dec r8",
        "jnz 2b",
        "pop rbx",
        "ret",
        "3:",             // the fiber goes on
        "mov [rsi], rsp", // store: the link
        "lea rsp, [rdx + 8]",
        "mov rax, rdi",
        "lea rcx, [rip + 3b]", // suspend
        "push rcx",            // store: where it goes on
        "mov rdx, rsp",
        "mov rsp, [rsi]",
        "ret",
    )
}

/// A frame of its own, whose rsp is at a cache line, with the handle at `rbx = rsp + 64`; and a fiber that is parked at label 3.
macro_rules! begin {
    () => {
        "push rbp
         push rbx
         mov rbp, rsp
         and rsp, -64
         sub rsp, 128
         mov [rsp + 120], rbp
         lea rbx, [rsp + 64]
         lea rax, [rip + 3f]
         mov [rsi - 64], rax
         lea rax, [rsi - 64]
         mov [rbx], rax
         lea rax, [rsi - 32]
         mov [rbx + 8], rax"
    };
}

/// Leaves it.
macro_rules! end {
    () => {
        "mov rsp, [rsp + 120]
         pop rbx
         pop rbp
         ret"
    };
}

/// The fiber: suspends at label 4, and goes on at label 3, behind the prelude.
macro_rules! fiber {
    () => {
        "4:
         mov rax, rdi
         push rbp           # store: rbp of the fiber
         push rbx           # store: rbx of the fiber
         lea rcx, [rip + 3f]
         push rcx           # store: where it goes on
         mov rdx, rsp
         mov rsp, r8
         pop rbp
         ret
         push rbp           # store: rbp of the resumer, its frame record
         mov [rsi], rsp     # store: the link
         lea rsp, [rdx + 8]
         3:
         pop rbx
         pop rbp
         test sil, 1
         je 4b
         ud2"
    };
}

/// What a library cannot do without: the compiler owns rbx and rbp, on both sides; the flag that a fiber shall unwind is looked at.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn eight_stores(times: u64, base: usize) -> u64 {
    naked_asm!(
        begin!(),
        "mov r9, rdi",
        "mov rdx, [rbx]",
        "2:",
        "mov rsi, [rbx + 8]",
        "mov edi, 7",
        "lea r8, [rsp - 24]",
        "push rbx", // store: rbx of the resumer
        "mov rcx, [rdx]",
        "sub rcx, 8",
        "call rcx", // store: the return address
        "pop rbx",
        "mov [rbx], rdx", // store: sp
        "dec r9",
        "jnz 2b",
        end!(),
        fiber!(),
    )
}

/// The loop of the bench around it, as the compiler makes it, and its checks; with further stores, if any.
macro_rules! all_of_it {
    ($($more:literal)?) => {
        naked_asm!(
            begin!(),
            "mov [rsp + 24], rbx",
            "mov rdx, [rbx]",
            "mov rax, [rbx + 8]",
            "mov [rsp + 32], rax",
            "mov ebx, edi",
            "2:",
            "mov qword ptr [rsp + 16], 7", // store: the word that the bench asks with
            "test rdx, rdx",               // finished?
            "je 9f",
            "mov rdi, [rsp + 16]",
            "mov rsi, [rsp + 32]",
            "lea r8, [rsp - 24]",
            "push rbx", // store: rbx of the resumer, which has the loop's counter
            "mov rcx, [rdx]",
            "sub rcx, 8",
            "call rcx", // store: the return address
            "pop rbx",
            "cmp rdx, 1", // a suspend, or the end?
            "jbe 9f",
            "mov rcx, [rsp + 24]",
            "mov [rcx], rdx", // store: sp
            "xor ecx, ecx",
            "mov [rsp], rcx",     // store: the result's tag
            "mov [rsp + 8], rax", // store: its word
            $($more,)?
            "dec ebx",
            "jnz 2b",
            end!(),
            "9:",
            "ud2",
            fiber!(),
        )
    };
}

/// All that `fibers` does in this bench's loop.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn eleven_stores(times: u64, base: usize) -> u64 {
    all_of_it!()
}

/// The same and two stores more, to lines of their own: what does a store cost?
#[unsafe(naked)]
pub unsafe extern "sysv64" fn thirteen_stores(times: u64, base: usize) -> u64 {
    all_of_it!("mov [rsp - 128], rax\nmov [rsp - 192], rax")
}
