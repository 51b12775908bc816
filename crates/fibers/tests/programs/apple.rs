//! The assembly of an architecture with nothing around it, for an assembler that makes Mach-O: `.ci/cross` compiles this for Apple's
//! targets, which the library itself does not support. What the files need of the library is made up here.
#![no_std]
#![allow(dead_code, unused_imports, unexpected_cfgs, missing_docs)]

extern crate self as libc;
extern crate self as fibers;

#[path = "../../src/arch/text.rs"]
#[macro_use]
mod text;

#[cfg(target_arch = "aarch64")]
#[path = "../../src/arch/aarch64.rs"]
mod machine;
#[cfg(target_arch = "x86_64")]
#[path = "../../src/arch/x86_64.rs"]
mod machine;
pub use machine::*;

#[path = "../../src/arch/common.rs"]
mod common;
pub use common::*;

/// What the files call their parent module.
pub mod arch {
    pub use super::{common::*, machine::*};
}
pub use arch as raw;

mod start {
    use crate::arch::Word;

    pub(crate) trait Main {
        type Object;
        /// # Safety
        /// None is asked.
        unsafe extern "C" fn main(word: Word, link: usize, object: *mut Self::Object) -> !;
    }

    #[repr(C)]
    pub(crate) struct Answer(Word, usize);

    pub(crate) trait StackCall {
        /// # Safety
        /// None is asked.
        unsafe extern "C" fn call(word: Word) -> Answer;
    }

    pub(crate) struct Nothing;

    impl Main for Nothing {
        type Object = ();
        unsafe extern "C" fn main(_: Word, _: usize, _: *mut ()) -> ! {
            loop {}
        }
    }

    impl StackCall for Nothing {
        unsafe extern "C" fn call(word: Word) -> Answer {
            Answer(word, 0)
        }
    }
}

mod unwind {
    pub(crate) fn die(_: &str) -> ! {
        loop {}
    }
}

// Linux's signal context: only what is written to it is looked at by the compiler.
pub const REG_RIP: i32 = 0;
pub const REG_RSP: i32 = 1;
pub const REG_RBP: i32 = 2;
pub const REG_RDI: i32 = 3;
pub const REG_RSI: i32 = 4;
pub const REG_EFL: i32 = 5;

#[allow(non_camel_case_types)]
pub struct ucontext_t {
    pub uc_mcontext: Machine,
}

pub struct Machine {
    pub gregs: [i64; 8],
    pub regs: [u64; 31],
    pub pc: u64,
    pub sp: u64,
    pub pstate: u64,
}

/// Makes code of every switch, also of those that are inlined.
///
/// # Safety
/// Not to be called.
#[unsafe(no_mangle)]
pub unsafe fn all_of_it(word: u64, sp: usize, link: usize, parked: *mut usize) -> u64 {
    unsafe {
        let (a, sp) = arch::switch_and_link(word, sp, link);
        let (b, sp) = arch::switch_and_link_direct(a, sp, link);
        let (c, sp) = arch::switch_and_throw(sp, link + b as usize);
        let (d, _) = arch::switch_yield(c, link);
        let (e, _) = arch::switch_transfer(d, link, sp, link, parked);
        let new = arch::init_entry(sp, arch::base_return());
        arch::prefetch(new, link);
        #[cfg(target_arch = "x86_64")]
        {
            let new = arch::init_start::<start::Nothing>(link, ());
            let (word, _) = arch::stack_call::<start::Nothing>(arch::Word::new(e), new);
            parked.write(word.assume_init() as usize);
        }
        let mut loan = arch::Loan::default();
        parked.write(arch::lend(&mut loan, link));
        if e == 7 {
            return e;
        }
        arch::switch_and_reset(e, link)
    }
}
