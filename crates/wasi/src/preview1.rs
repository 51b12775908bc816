//! The functions of `wasi_snapshot_preview1`, as host functions.
//!
//! One table names them with their Wasm parameters; every row becomes the same host function: find
//! the guest's memory, hand both to `wasi-common`'s decoder of that name, turn the answer into an
//! `errno`. `proc_exit` and `proc_raise` have no `errno` of their own there and stand apart.
//!
//! `wasi-common`'s functions are `async` in form. Over its synchronous files and scheduler they block
//! instead of waiting, so one poll finishes each.

use crate::errno::errno;
use crate::{Exit, WasiCtx};
use selvedge::{Caller, Error, Extern, Linker, Memory};
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use wasi_common::snapshots::preview_1::types::Errno;
use wasi_common::snapshots::preview_1::wasi_snapshot_preview1 as abi;
use wiggle::GuestMemory;

/// The module name guests import preview 1 from.
const MODULE: &str = "wasi_snapshot_preview1";

macro_rules! functions {
    ($linker:ident, $get:ident; $($name:ident($($arg:ident: $ty:ident),*);)*) => {
        $(
            let host = move |mut caller: Caller<'_, T>, $($arg: $ty),*| -> Result<i32, Error> {
                let memory = guest_memory(&mut caller, stringify!($name))?;
                let (bytes, data) = memory.data_and_store_mut(&mut caller);
                let mut bytes = GuestMemory::Unshared(bytes);
                answer(stringify!($name), abi::$name(&mut $get(data).0, &mut bytes, $($arg),*))
            };
            $linker.func_wrap(MODULE, stringify!($name), host)?;
        )*
    };
}

/// Defines the functions of WASI preview 1 in `linker`, over the context that `get` finds in the
/// store's data.
///
/// # Errors
///
/// One of the names is defined already, and the linker does not allow shadowing.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    get: impl Fn(&mut T) -> &mut WasiCtx + Copy + Send + Sync + 'static,
) -> Result<(), Error> {
    functions! { linker, get;
        args_get(argv: i32, argv_buf: i32);
        args_sizes_get(count: i32, buf_len: i32);
        environ_get(environ: i32, environ_buf: i32);
        environ_sizes_get(count: i32, buf_len: i32);
        clock_res_get(id: i32, resolution: i32);
        clock_time_get(id: i32, precision: i64, time: i32);
        fd_advise(fd: i32, offset: i64, len: i64, advice: i32);
        fd_allocate(fd: i32, offset: i64, len: i64);
        fd_close(fd: i32);
        fd_datasync(fd: i32);
        fd_fdstat_get(fd: i32, stat: i32);
        fd_fdstat_set_flags(fd: i32, flags: i32);
        fd_fdstat_set_rights(fd: i32, base: i64, inheriting: i64);
        fd_filestat_get(fd: i32, stat: i32);
        fd_filestat_set_size(fd: i32, size: i64);
        fd_filestat_set_times(fd: i32, atim: i64, mtim: i64, fst_flags: i32);
        fd_pread(fd: i32, iovs: i32, iovs_len: i32, offset: i64, nread: i32);
        fd_prestat_get(fd: i32, prestat: i32);
        fd_prestat_dir_name(fd: i32, path: i32, path_len: i32);
        fd_pwrite(fd: i32, iovs: i32, iovs_len: i32, offset: i64, nwritten: i32);
        fd_read(fd: i32, iovs: i32, iovs_len: i32, nread: i32);
        fd_readdir(fd: i32, buf: i32, buf_len: i32, cookie: i64, used: i32);
        fd_renumber(from: i32, to: i32);
        fd_seek(fd: i32, offset: i64, whence: i32, position: i32);
        fd_sync(fd: i32);
        fd_tell(fd: i32, position: i32);
        fd_write(fd: i32, iovs: i32, iovs_len: i32, nwritten: i32);
        path_create_directory(fd: i32, path: i32, path_len: i32);
        path_filestat_get(fd: i32, flags: i32, path: i32, path_len: i32, stat: i32);
        path_filestat_set_times(
            fd: i32, flags: i32, path: i32, path_len: i32, atim: i64, mtim: i64, fst_flags: i32
        );
        path_link(old_fd: i32, flags: i32, old: i32, old_len: i32, new_fd: i32, new: i32, new_len: i32);
        path_open(
            fd: i32, dirflags: i32, path: i32, path_len: i32, oflags: i32, base: i64, inheriting: i64,
            fdflags: i32, opened: i32
        );
        path_readlink(fd: i32, path: i32, path_len: i32, buf: i32, buf_len: i32, used: i32);
        path_remove_directory(fd: i32, path: i32, path_len: i32);
        path_rename(fd: i32, old: i32, old_len: i32, new_fd: i32, new: i32, new_len: i32);
        path_symlink(old: i32, old_len: i32, fd: i32, new: i32, new_len: i32);
        path_unlink_file(fd: i32, path: i32, path_len: i32);
        poll_oneoff(subscriptions: i32, events: i32, count: i32, nevents: i32);
        random_get(buf: i32, buf_len: i32);
        sched_yield();
        sock_accept(fd: i32, flags: i32, accepted: i32);
        sock_recv(fd: i32, iovs: i32, iovs_len: i32, flags: i32, nread: i32, roflags: i32);
        sock_send(fd: i32, iovs: i32, iovs_len: i32, flags: i32, nwritten: i32);
        sock_shutdown(fd: i32, how: i32);
    }
    add_processes(linker)
}

/// What a process does to itself. It needs no context.
fn add_processes<T: 'static>(linker: &mut Linker<T>) -> Result<(), Error> {
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> Result<(), Exit> {
        Err(Exit(code))
    })?;
    linker.func_wrap(MODULE, "proc_raise", |_signal: i32| Errno::Notsup as i32)?;
    Ok(())
}

/// The memory the guest's pointers mean.
fn guest_memory<T: 'static>(caller: &mut Caller<'_, T>, function: &str) -> Result<Memory, Error> {
    caller
        .get_export("memory")
        .and_then(Extern::into_memory)
        .ok_or_else(|| {
            Error::msg(format!(
                "`{MODULE}::{function}` needs a memory, and the guest exports none named `memory` that is not shared"
            ))
        })
}

/// Runs `call` to its end and gives the guest its `errno`.
///
/// `wasi-common` panics on what it cannot represent, such as a file last changed before 1970. A guest
/// may come across one, and must not end its host: that is `EIO`.
fn answer(function: &str, call: impl Future<Output = wiggle::anyhow::Result<i32>>) -> Result<i32, Error> {
    let mut call = pin!(call);
    // Unwind safety: the call's own state is dropped, and of the context's locks a poisoned one panics
    // again, which ends here again.
    let poll = AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(Waker::noop())));
    match panic::catch_unwind(poll) {
        Ok(Poll::Ready(Ok(errno))) => Ok(errno),
        Ok(Poll::Ready(Err(error))) => Ok(errno(&error) as i32),
        Ok(Poll::Pending) => Err(Error::msg(format!(
            "`{MODULE}::{function}` waits, which no file of ours does"
        ))),
        Err(_panic) => Ok(Errno::Io as i32),
    }
}
