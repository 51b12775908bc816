//! What is said where the kernel promises no more memory than it has (`vm.overcommit_memory` is 2).
//!
//! That is one setting for the whole system, which no test may change. So a child process sees it: in a mount namespace of its
//! own, files lie over those of `/proc` that say so, and a filter refuses what the kernel would refuse, with the same number. All
//! between, from the call to the message, is what runs elsewhere. Who may not make such a namespace says so.
#![cfg(all(target_arch = "x86_64", target_os = "linux", feature = "pool"))]

mod common;

use std::ffi::{CString, c_ulong};
use std::io::{Error, Result};

use common::{child_command, is_child, skip};
use fibers::pool::{GRANULE_BYTES, PoolConfig, PoolError, StackPool};
use fibers::{GuardedStack, KernelLimit, StackError};

/// How the child says that it may not do this.
const NOT_PERMITTED: i32 = 42;

const COMMIT_LIMIT_KIB: usize = 4 << 20;
const COMMITTED_KIB: usize = COMMIT_LIMIT_KIB - 1000;

const EXPECTED: KernelLimit = KernelLimit::Overcommit {
    in_use_bytes: COMMITTED_KIB << 10,
    max_bytes: COMMIT_LIMIT_KIB << 10,
};

const ADVICE: &str = "vm.overcommit_memory is 2 and CommitLimit 4294967296: \
     ask for fewer or smaller stacks and memories, or raise vm.overcommit_ratio";

fn check(result: i32) -> Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}

fn mount(source: &str, target: &str, flags: c_ulong) -> Result<()> {
    let [source, target] = [source, target].map(|text| CString::new(text).expect("no zero in it"));
    // SAFETY: two strings, and no data. It changes this thread's namespace, which is the child's own.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    })
}

/// Lets this thread see other contents of a file.
fn cover(file: &str, text: &str) -> Result<()> {
    let name = file.replace('/', "-");
    let other = std::env::temp_dir().join(format!("fibers-{}{name}", std::process::id()));
    std::fs::write(&other, text)?;
    let covered = mount(other.to_str().expect("a path in UTF-8"), file, libc::MS_BIND);
    std::fs::remove_file(&other)?; // what is mounted stays
    covered
}

/// Lets this thread see a system that promises no more than it has, and has promised nearly all.
fn see_a_strict_system() -> Result<()> {
    // SAFETY: no preconditions.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // From here on nothing that is mounted reaches other processes.
    mount("none", "/", libc::MS_REC | libc::MS_PRIVATE)?;
    cover("/proc/sys/vm/overcommit_memory", "2\n")?;
    cover(
        "/proc/meminfo",
        &format!(
            "MemTotal: 8000000 kB\nCommitLimit: {COMMIT_LIMIT_KIB} kB\nCommitted_AS: {COMMITTED_KIB} kB\n"
        ),
    )
}

/// From now on `mprotect` does not make 64 MiB or more of memory writable in this thread, for ENOMEM.
fn refuse_writable_memory() -> Result<()> {
    // Classic BPF over `struct seccomp_data` (linux/seccomp.h): number at 0, the second argument's halves at 24 and 28,
    // the third's lower half at 32.
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut lines = [
        line(LOAD, 0, 0, 0),
        line(IF_EQUAL, 0, 7, libc::SYS_mprotect as u32),
        line(LOAD, 0, 0, 32),
        line(IF_EQUAL, 0, 5, (libc::PROT_READ | libc::PROT_WRITE) as u32),
        line(LOAD, 0, 0, 28),
        line(IF_AT_LEAST, 2, 0, 1),
        line(LOAD, 0, 0, 24),
        line(IF_AT_LEAST, 0, 1, GRANULE_BYTES as u32),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOMEM as u32),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: lines.len() as u16,
        filter: lines.as_mut_ptr(),
    };
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the kernel copies the program, which has so many lines.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    })
}

fn ask_for_stacks() {
    let pool = StackPool::new(PoolConfig::default()).expect("addresses are not promised");
    let error = pool.take().unwrap_err();
    let refused = PoolError::Commit {
        bytes: GRANULE_BYTES,
        errno: libc::ENOMEM,
        limit: EXPECTED,
    };
    assert_eq!(error, refused);
    assert!(error.to_string().ends_with(ADVICE), "{error}");
    let bytes = 128 << 20;
    let error = GuardedStack::new(bytes).unwrap_err();
    let refused = StackError::Protect {
        bytes,
        errno: libc::ENOMEM,
        limit: EXPECTED,
    };
    assert_eq!(error, refused);
    assert!(error.to_string().ends_with(ADVICE), "{error}");
    GuardedStack::new(64 << 10).expect("the filter lets small ones through");
}

#[test]
fn memory_that_the_system_does_not_promise_is_an_error_that_names_the_limit() {
    let name = "memory_that_the_system_does_not_promise_is_an_error_that_names_the_limit";
    if is_child() {
        if let Err(error) = see_a_strict_system().and_then(|()| refuse_writable_memory()) {
            eprintln!("{error}");
            std::process::exit(NOT_PERMITTED);
        }
        return ask_for_stacks();
    }
    let output = child_command(&[], name)
        .output()
        .expect("a test binary can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NOT_PERMITTED) {
        return skip(
            name,
            "unshare",
            &format!("no mount namespace, or no filter: {text}"),
        );
    }
    assert!(output.status.success(), "{}: {text}", output.status);
}
