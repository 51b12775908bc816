//! Client requests to valgrind: instructions that do nothing, and mean something to it (valgrind.h, 3.x).
//!
//! Without the registration valgrind takes a switch for a very large frame, or its end, and marks what is between as
//! undefined. On other processors than x86-64 nothing is told.

/// Says that a stack is gone when it is dropped.
pub(crate) struct Registered {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nothing is told"))]
    id: usize,
}

impl Registered {
    #[inline(always)]
    pub(crate) fn new(base: usize, limit: usize) -> Registered {
        Registered {
            id: request(STACK_REGISTER, limit, base),
        }
    }
}

impl Drop for Registered {
    #[inline(always)]
    fn drop(&mut self) {
        request(STACK_DEREGISTER, self.id, 0);
    }
}

/// `VG_USERREQ__STACK_REGISTER`: lowest address, highest address; gives an id.
const STACK_REGISTER: usize = 0x1501;
/// `VG_USERREQ__STACK_DEREGISTER`: id.
const STACK_DEREGISTER: usize = 0x1502;

/// Valgrind's answer, or 0 when the program runs without it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn request(code: usize, first: usize, second: usize) -> usize {
    let request = [code, first, second, 0, 0, 0];
    let mut answer = 0usize;
    // SAFETY: the rotations add up to 128 bits: rdi stays, and so does rbx. Valgrind reads the request, and writes rdx.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            inout("rdx") answer,
            in("rax") request.as_ptr(),
            in("rdi") 0usize,
            options(nostack),
        );
    }
    answer
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn request(_code: usize, _first: usize, _second: usize) -> usize {
    0
}
