//! Each test that lets a signal happen runs in a process of its own.

use super::*;
use crate::vm::child;
use crate::vm::code::{ModuleCode, RuntimeSlots};
use crate::vm::linear::{LinearMemory, MemoryPool, VMMemory};
use fibers::pool::{PoolConfig, PooledStack, StackPool};
use selvedge_compiler::image::RUNTIME_SLOTS_BYTES;
use selvedge_compiler::{CompiledModule, FaultSite, Image, MemoryStyle, MemoryType, ModuleInfo};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// What a guest of the tests is made of: code, a stack, a memory, a store.
struct Guest {
    code: Arc<ModuleCode>,
    stack: PooledStack,
    memory: LinearMemory,
    /// What `store.memories` points to.
    _list: Box<[*const VMMemory; 1]>,
    store: Box<VMStoreContext>,
}

const FIRST: usize = RUNTIME_SLOTS_BYTES;

/// A load from where the word points to, an undefined instruction, a push and a jump back to it, and what waits for ever with
/// the word as its stack pointer.
#[cfg(target_arch = "x86_64")]
mod text {
    pub(super) const LOAD: [u8; 2] = [0x8b, 0x07]; // mov eax, [rdi]
    pub(super) const UNDEFINED: [u8; 2] = [0x0f, 0x0b]; // ud2
    pub(super) const PUSH: [u8; 3] = [0x50, 0xeb, 0xfd]; // push rax; jmp
    pub(super) const PUSH_BYTES: usize = 8;
    pub(super) const WAIT: [u8; 5] = [0x48, 0x8d, 0x27, 0xeb, 0xfe]; // lea rsp, [rdi]; jmp self
}
#[cfg(target_arch = "aarch64")]
mod text {
    pub(super) const LOAD: [u8; 4] = 0xb940_0000_u32.to_le_bytes(); // ldr w0, [x0]
    pub(super) const UNDEFINED: [u8; 4] = 0x0000_0000_u32.to_le_bytes(); // udf #0
    pub(super) const PUSH: [u8; 8] = 0x17ff_ffff_f81f_0fe0_u64.to_le_bytes(); // str x0, [sp, #-16]!; b
    pub(super) const PUSH_BYTES: usize = 16;
    pub(super) const WAIT: [u8; 8] = 0x1400_0000_9100_001f_u64.to_le_bytes(); // mov sp, x0; b self
}
const LOAD: usize = FIRST;
const UNDEFINED: usize = LOAD + text::LOAD.len();
const PUSH: usize = UNDEFINED + text::UNDEFINED.len();

impl Guest {
    fn new() -> Guest {
        let mut image = Image::default();
        image.text = vec![0; FIRST];
        image.text.extend(text::LOAD);
        image.text.extend(text::UNDEFINED);
        image.text.extend(text::PUSH);
        let site = |code: usize, trap| FaultSite {
            code: code as u32,
            trap,
            wasm: 1,
            fuel: 2,
        };
        image.fault_sites = vec![
            site(LOAD, TrapCode::MemoryOutOfBounds),
            site(UNDEFINED, TrapCode::IntegerDivisionByZero),
        ];
        let module = CompiledModule {
            info: ModuleInfo::default(),
            image,
        };
        let code = ModuleCode::publish(
            module,
            RuntimeSlots {
                raise: 0,
                fuel_check: 0,
                fuel_check_integers: 0,
            },
        )
        .unwrap();
        let config = PoolConfig {
            stack_bytes: 64 << 10,
            ..PoolConfig::default()
        };
        let stack = StackPool::new(config).unwrap().take().unwrap();
        let memory = LinearMemory::new(
            &MemoryType::new(1, None),
            MemoryStyle::Reserved,
            &MemoryPool::new(0),
        )
        .unwrap();
        let list = Box::new([memory.vm().cast_const()]);
        // SAFETY: integers and raw pointers.
        let mut store = Box::new(unsafe { std::mem::zeroed::<VMStoreContext>() });
        store.memories = list.as_ptr();
        store.memory_count = 1;
        stack.header().register((&raw mut *store).cast());
        Guest {
            code,
            stack,
            memory,
            _list: list,
            store,
        }
    }

    /// A fault of an instruction of this guest.
    fn fault(&self, signal: c_int, offset: usize, address: usize) -> Fault {
        let pc = self.code.text_base() + offset;
        let sp = self.stack.header().stack_base() - 256;
        Fault {
            signal,
            code: 1,
            address,
            registers: Registers {
                pc,
                sp,
                fp: 0,
                fuel: 0,
            },
        }
    }

    fn behind_memory(&self) -> usize {
        self.memory.as_slice().as_ptr_range().end.addr()
    }

    fn trap(&self, trap: TrapCode) -> Verdict {
        Verdict::Trap(NonNull::from(&*self.store), trap)
    }

    /// Runs the code at `offset` with `word` as its argument, as a guest, and gives the word it comes back with.
    fn run(&mut self, offset: usize, word: u64) -> u64 {
        install().unwrap();
        ensure_alternate_stack().unwrap();
        let base = self.stack.header().stack_base();
        self.store.link = base - fibers::raw::LINK_OFFSET;
        // SAFETY: nobody uses the stack; the code there needs nothing but its word.
        let sp = unsafe { fibers::raw::init_entry(base, self.code.code_at(offset as u32) as usize) };
        // SAFETY: `sp` is new; the code faults, and the handler leads back to here.
        let (word, sp) = unsafe { fibers::raw::switch_and_link(word, sp, self.store.link) };
        assert_eq!(sp, 0, "it never comes back");
        word
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stack.header().register(ptr::null_mut());
    }
}

#[test]
fn a_load_behind_the_memory_traps() {
    let guest = Guest::new();
    let fault = guest.fault(libc::SIGSEGV, LOAD, guest.behind_memory());
    assert_eq!(judge(&fault), guest.trap(TrapCode::MemoryOutOfBounds));
    let fault = Fault {
        signal: libc::SIGBUS,
        ..fault
    };
    assert_eq!(judge(&fault), guest.trap(TrapCode::MemoryOutOfBounds));
}

#[test]
fn a_load_outside_of_every_memory_is_not_ours() {
    let guest = Guest::new();
    for address in [
        0,
        guest.memory.as_slice().as_ptr().addr() - 1,
        guest.behind_memory() + (7 << 30),
    ] {
        assert_eq!(
            judge(&guest.fault(libc::SIGSEGV, LOAD, address)),
            Verdict::NotOurs
        );
    }
}

#[test]
fn an_instruction_without_a_site_is_not_ours() {
    let guest = Guest::new();
    for offset in [LOAD + 1, PUSH, 0, 1 << 30] {
        let fault = guest.fault(libc::SIGSEGV, offset, guest.behind_memory());
        assert_eq!(judge(&fault), Verdict::NotOurs);
    }
}

#[test]
fn an_address_in_the_guard_is_an_overflow() {
    let guest = Guest::new();
    let header = guest.stack.header();
    let exit = Registers {
        pc: arch::trap_exit as *const () as usize,
        sp: 0,
        fp: 0,
        fuel: 0,
    };
    for address in [header.stack_limit(), header.guard_end() - 1] {
        let mut fault = guest.fault(libc::SIGSEGV, PUSH, address);
        for sp in [header.guard_end(), header.guard_end() - 8, header.stack_limit()] {
            fault.registers.sp = sp;
            assert_eq!(judge(&fault), guest.trap(TrapCode::StackOverflow));
        }
        // Our trampolines run on the guest's stack too; the host's code does not.
        fault.registers.pc = exit.pc;
        assert_eq!(judge(&fault), guest.trap(TrapCode::StackOverflow));
        fault.registers.pc = judge as *const () as usize;
        assert_eq!(judge(&fault), Verdict::NotOurs);
    }
    let fault = guest.fault(libc::SIGSEGV, PUSH, header.guard_end());
    assert_eq!(judge(&fault), Verdict::NotOurs);
}

#[test]
fn arithmetic_faults_trap_at_their_sites_only() {
    let guest = Guest::new();
    for signal in [libc::SIGFPE, libc::SIGILL] {
        assert_eq!(
            judge(&guest.fault(signal, UNDEFINED, 0)),
            guest.trap(TrapCode::IntegerDivisionByZero)
        );
        assert_eq!(judge(&guest.fault(signal, PUSH, 0)), Verdict::NotOurs);
    }
}

#[test]
fn a_fault_on_a_host_stack_is_not_ours() {
    let guest = Guest::new();
    let mut fault = guest.fault(libc::SIGSEGV, LOAD, guest.behind_memory());
    let local = 0;
    fault.registers.sp = (&raw const local).addr();
    assert_eq!(judge(&fault), Verdict::NotOurs);
}

#[test]
fn a_fault_on_a_stack_without_an_owner_is_not_ours() {
    let guest = Guest::new();
    guest.stack.header().register(ptr::null_mut());
    let fault = guest.fault(libc::SIGSEGV, LOAD, guest.behind_memory());
    assert_eq!(judge(&fault), Verdict::NotOurs);
}

#[test]
fn a_signal_sent_by_a_process_is_not_ours() {
    let guest = Guest::new();
    for code in [libc::SI_USER, libc::SI_TKILL, libc::SI_QUEUE] {
        for (signal, offset) in [(libc::SIGSEGV, LOAD), (libc::SIGFPE, UNDEFINED)] {
            let fault = Fault {
                code,
                ..guest.fault(signal, offset, guest.behind_memory())
            };
            assert_eq!(judge(&fault), Verdict::NotOurs);
        }
    }
}

#[test]
fn a_signal_without_room_on_the_guest_stack_has_a_verdict_of_its_own() {
    let guest = Guest::new();
    let fault = Fault {
        code: SI_KERNEL,
        ..guest.fault(libc::SIGSEGV, PUSH, 0)
    };
    assert_eq!(judge(&fault), Verdict::NoRoomForSignal);
}

#[test]
fn a_fault_leads_back_to_the_host_and_is_noted() {
    child::check(
        "vm::signals::tests::a_fault_leads_back_to_the_host_and_is_noted",
        || {
            let mut guest = Guest::new();
            let address = guest.behind_memory() + 5;
            for _ in 0..1000 {
                assert_eq!(guest.run(LOAD, address as u64), arch::EXIT_TRAP);
                assert_eq!(guest.store.trap_code, TrapCode::MemoryOutOfBounds as u32);
                assert_eq!(guest.store.trap_pc, guest.code.text_base() + LOAD);
                assert_eq!(guest.store.fault_address, address);
            }
            assert_eq!(guest.run(UNDEFINED, 0), arch::EXIT_TRAP);
            assert_eq!(guest.store.trap_code, TrapCode::IntegerDivisionByZero as u32);
        },
    );
}

#[test]
fn an_overflow_leads_back_to_the_host_on_any_thread() {
    child::check(
        "vm::signals::tests::an_overflow_leads_back_to_the_host_on_any_thread",
        || {
            let overflow = || {
                let mut guest = Guest::new();
                assert_eq!(guest.run(PUSH, 0), arch::EXIT_TRAP);
                assert_eq!(guest.store.trap_code, TrapCode::StackOverflow as u32);
                let header = guest.stack.header();
                assert_eq!(guest.store.fault_address, header.guard_end() - text::PUSH_BYTES);
            };
            overflow();
            for _ in 0..100 {
                std::thread::spawn(overflow).join().unwrap();
            }
        },
    );
}

/// Makes `handler` the action of SIGSEGV, as a host would before it makes an engine.
fn set_action(handler: usize, flags: c_int, mask: &[c_int]) {
    let mut action = default_action();
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    for &signal in mask {
        // SAFETY: an initialised set.
        unsafe { libc::sigaddset(&mut action.sa_mask, signal) };
    }
    change_action(libc::SIGSEGV, Some(&action)).unwrap();
}

/// An address nothing is mapped at.
const NOWHERE: usize = 0x1230;

fn fault_now() {
    let nowhere = ptr::without_provenance::<u8>(std::hint::black_box(NOWHERE));
    // SAFETY: deliberately not: it faults, which is the test.
    unsafe { nowhere.read_volatile() };
}

/// Runs the body in a child after our handler is installed over `handler`; gives the exit code or the signal.
fn end_of(test: &str, handler: usize, flags: c_int, body: impl FnOnce()) -> (Option<i32>, Option<i32>) {
    let output = child::run(test, || {
        set_action(handler, flags, &[libc::SIGUSR1]);
        install().unwrap();
        body();
    });
    (output.status.code(), output.status.signal())
}

#[test]
fn a_fault_under_the_default_action_kills() {
    let test = "vm::signals::tests::a_fault_under_the_default_action_kills";
    assert_eq!(
        end_of(test, libc::SIG_DFL, 0, fault_now),
        (None, Some(libc::SIGSEGV))
    );
}

#[test]
fn a_sent_signal_under_the_default_action_kills() {
    let test = "vm::signals::tests::a_sent_signal_under_the_default_action_kills";
    assert_eq!(
        end_of(test, libc::SIG_DFL, 0, send_to_ourselves),
        (None, Some(libc::SIGSEGV))
    );
}

#[test]
fn an_ignored_fault_kills_all_the_same() {
    let test = "vm::signals::tests::an_ignored_fault_kills_all_the_same";
    assert_eq!(
        end_of(test, libc::SIG_IGN, 0, fault_now),
        (None, Some(libc::SIGSEGV))
    );
}

#[test]
fn an_ignored_sent_signal_is_ignored() {
    let test = "vm::signals::tests::an_ignored_sent_signal_is_ignored";
    assert_eq!(end_of(test, libc::SIG_IGN, 0, send_to_ourselves), (Some(0), None));
}

fn send_to_ourselves() {
    // SAFETY: what the signal does is the test.
    unsafe { libc::raise(libc::SIGSEGV) };
}

fn exit_now(code: c_int) -> ! {
    // SAFETY: ends the process at once, as a handler may.
    unsafe { libc::_exit(code) }
}

/// Whether `signal` is blocked on this thread.
fn is_blocked(signal: c_int) -> bool {
    let mut mask = default_action().sa_mask;
    // SAFETY: the set is valid to write to.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut mask) };
    // SAFETY: an initialised set.
    unsafe { libc::sigismember(&mask, signal) == 1 }
}

extern "C" fn plain_handler(signal: c_int) {
    let masked = is_blocked(libc::SIGUSR1) && is_blocked(libc::SIGSEGV);
    exit_now(if signal == libc::SIGSEGV && masked { 40 } else { 1 })
}

#[test]
fn a_plain_handler_is_called_with_its_mask() {
    let test = "vm::signals::tests::a_plain_handler_is_called_with_its_mask";
    assert_eq!(
        end_of(test, plain_handler as *const () as usize, 0, fault_now),
        (Some(40), None)
    );
}

extern "C" fn info_handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: called as with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: a SIGSEGV has an address.
    let address = unsafe { info.si_addr() }.addr();
    let right = signal == libc::SIGSEGV && address == NOWHERE && !context.is_null();
    exit_now(if right && !is_blocked(libc::SIGSEGV) {
        41
    } else {
        1
    })
}

#[test]
fn an_info_handler_is_called_with_what_the_kernel_said() {
    let test = "vm::signals::tests::an_info_handler_is_called_with_what_the_kernel_said";
    let flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    assert_eq!(
        end_of(test, info_handler as *const () as usize, flags, fault_now),
        (Some(41), None)
    );
}

static PAGE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn repairing_handler(_: c_int) {
    let page = ptr::with_exposed_provenance_mut(PAGE.load(Ordering::Relaxed));
    // SAFETY: the page is the test's; giving rights takes nothing away.
    unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE) };
}

#[test]
fn a_handler_that_repairs_the_fault_goes_on() {
    let test = "vm::signals::tests::a_handler_that_repairs_the_fault_goes_on";
    let end = end_of(test, repairing_handler as *const () as usize, 0, || {
        for _ in 0..3 {
            let page = map_inaccessible(4096).unwrap();
            PAGE.store(page.expose_provenance(), Ordering::Relaxed);
            // SAFETY: the page is ours; the first write faults and is repeated.
            unsafe { page.cast::<u8>().write_volatile(9) };
            // SAFETY: the page is readable now.
            assert_eq!(unsafe { page.cast::<u8>().read_volatile() }, 9);
            assert!(
                !is_blocked(libc::SIGSEGV) && !is_blocked(libc::SIGUSR1),
                "the mask is what it was"
            );
        }
    });
    assert_eq!(end, (Some(0), None));
}

#[test]
fn a_handler_for_one_time_is_called_once() {
    let test = "vm::signals::tests::a_handler_for_one_time_is_called_once";
    let end = end_of(
        test,
        repairing_handler as *const () as usize,
        libc::SA_RESETHAND,
        || {
            let page = map_inaccessible(4096).unwrap();
            PAGE.store(page.expose_provenance(), Ordering::Relaxed);
            // SAFETY: the page is ours; the write faults and is repeated.
            unsafe { page.cast::<u8>().write_volatile(9) };
            fault_now();
        },
    );
    assert_eq!(end, (None, Some(libc::SIGSEGV)));
}

#[test]
fn the_standard_librarys_overflow_message_still_comes() {
    fn recurse(depth: u64) -> u64 {
        let frame = std::hint::black_box([depth; 64]);
        if depth == u64::MAX {
            0
        } else {
            recurse(depth + 1) + frame[3]
        }
    }
    let output = child::run(
        "vm::signals::tests::the_standard_librarys_overflow_message_still_comes",
        || {
            install().unwrap();
            let thread = std::thread::spawn(|| {
                ensure_alternate_stack().unwrap();
                recurse(0)
            });
            thread.join().unwrap();
        },
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("has overflowed its stack"), "{errors}");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
}

/// Where the kernel finds no room on the guest's stack for the frame of a handler without SA_ONSTACK.
#[test]
fn a_handler_without_an_alternate_stack_is_named_when_there_is_no_room() {
    extern "C" fn tick(_: c_int) {}
    let test = "vm::signals::tests::a_handler_without_an_alternate_stack_is_named_when_there_is_no_room";
    let output = child::run(test, || {
        set_action(libc::SIG_DFL, 0, &[]);
        let mut action = default_action();
        action.sa_sigaction = tick as *const () as usize;
        change_action(libc::SIGUSR2, Some(&action)).unwrap();
        // SAFETY: asks for a number.
        let guest_thread = unsafe { libc::pthread_self() };
        std::thread::spawn(move || {
            // Until one comes while the guest runs, however long it takes to get there.
            for _ in 0..1000 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                // SAFETY: the thread does not end before the process does.
                unsafe { libc::pthread_kill(guest_thread, libc::SIGUSR2) };
            }
            exit_now(2); // else the child would wait for ever
        });
        // A guest that is nearly out of stack, and waits.
        let mut image = Image::default();
        image.text = vec![0; FIRST];
        image.text.extend(text::WAIT);
        let module = CompiledModule {
            info: ModuleInfo::default(),
            image,
        };
        let mut guest = Guest::new();
        guest.code = ModuleCode::publish(
            module,
            RuntimeSlots {
                raise: 0,
                fuel_check: 0,
                fuel_check_integers: 0,
            },
        )
        .unwrap();
        let word = guest.stack.header().guard_end() + 128;
        guest.run(FIRST, word as u64);
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("without SA_ONSTACK"), "{errors}");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV));
}

fn present_stack() -> libc::stack_t {
    change_alternate_stack(None).unwrap()
}

#[test]
fn a_small_alternate_stack_is_replaced_and_restored() {
    let own_thread = std::thread::spawn(|| {
        let small = vec![0u8; 16 << 10];
        let stack = libc::stack_t {
            ss_sp: small.as_ptr().cast_mut().cast(),
            ss_flags: 0,
            ss_size: small.len(),
        };
        let before = change_alternate_stack(Some(&stack)).unwrap();
        ensure_alternate_stack().unwrap();
        assert_eq!(present_stack().ss_size, ALTERNATE_BYTES);
        ensure_alternate_stack().unwrap();
        ALTERNATE.with(|made| assert_eq!(made.get().unwrap().previous.ss_sp, stack.ss_sp));
        let mut made = AlternateStack::new(stack).unwrap();
        made.previous = stack;
        drop(made);
        assert_eq!(
            present_stack().ss_sp,
            stack.ss_sp,
            "what was there before is there again"
        );
        change_alternate_stack(Some(&before)).unwrap();
    });
    own_thread.join().unwrap();
}

#[test]
fn a_large_alternate_stack_is_kept() {
    let own_thread = std::thread::spawn(|| {
        let large = vec![0u8; MIN_ALTERNATE_BYTES];
        let stack = libc::stack_t {
            ss_sp: large.as_ptr().cast_mut().cast(),
            ss_flags: 0,
            ss_size: large.len(),
        };
        let before = change_alternate_stack(Some(&stack)).unwrap();
        ensure_alternate_stack().unwrap();
        assert_eq!(present_stack().ss_sp, stack.ss_sp);
        change_alternate_stack(Some(&before)).unwrap();
    });
    own_thread.join().unwrap();
}

#[test]
fn alternate_stacks_of_ended_threads_are_unmapped() {
    child::check(
        "vm::signals::tests::alternate_stacks_of_ended_threads_are_unmapped",
        || {
            let mappings = || {
                std::fs::read_to_string("/proc/self/maps")
                    .unwrap()
                    .lines()
                    .count()
            };
            let on_a_thread = || {
                std::thread::spawn(|| ensure_alternate_stack().unwrap())
                    .join()
                    .unwrap()
            };
            on_a_thread();
            let before = mappings();
            (0..100).for_each(|_| on_a_thread());
            assert!(
                mappings() <= before + 10,
                "{} mappings after {before}",
                mappings()
            );
        },
    );
}
