//! What guests see of WASI preview 1: small guests that do nothing but forward their arguments.

use selvedge::{Engine, Error, Instance, Linker, Memory, Module, Store};
use selvedge_wasi::{Exit, OutputPipe, WasiCtx, add_to_linker};
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Numbers of `errno` (preview 1, witx/typenames).
const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const IO: i32 = 29;
const NOSPC: i32 = 51;
const NOTSUP: i32 = 58;
const PERM: i32 = 63;

/// Bytes of the guests' memory: one page.
const MEMORY: i32 = 65536;

/// All functions and their parameters, as preview 1's witx lowers them; `l` is an i64, `i` an i32.
const FUNCTIONS: [(&str, &str); 46] = [
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "ili"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("fd_advise", "illi"),
    ("fd_allocate", "ill"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "ill"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "il"),
    ("fd_filestat_set_times", "illi"),
    ("fd_pread", "iiili"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_prestat_get", "ii"),
    ("fd_pwrite", "iiili"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiili"),
    ("fd_renumber", "ii"),
    ("fd_seek", "ilii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiilli"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiillii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("proc_exit", "i"),
    ("proc_raise", "i"),
    ("random_get", "ii"),
    ("sched_yield", ""),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

/// A module that imports every function and exports one of the same name that forwards to it.
fn forwarder(memory: &str) -> String {
    let mut imports = String::new();
    let mut exports = String::new();
    for (name, params) in FUNCTIONS {
        let types: String = params
            .chars()
            .map(|c| if c == 'l' { " i64" } else { " i32" })
            .collect();
        let result = if name == "proc_exit" { "" } else { "(result i32)" };
        let locals: String = (0..params.len())
            .map(|index| format!("(local.get {index})"))
            .collect();
        imports += &format!(
            "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param{types}) {result}))\n"
        );
        exports += &format!("(func (export \"{name}\") (param{types}) {result} (call ${name} {locals}))\n");
    }
    format!("(module {imports} {memory} {exports})")
}

struct Guest {
    store: Store<WasiCtx>,
    instance: Instance,
    memory: Memory,
}

impl Guest {
    fn new(ctx: WasiCtx) -> Guest {
        let (mut store, instance) = instantiate(ctx, "(memory (export \"memory\") 1)");
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        Guest {
            store,
            instance,
            memory,
        }
    }

    fn bare() -> Guest {
        Guest::new(WasiCtx::builder().build().unwrap())
    }

    fn write(&mut self, offset: i32, bytes: &[u8]) {
        self.memory
            .write(&mut self.store, offset as usize, bytes)
            .unwrap();
    }

    fn write_words(&mut self, offset: i32, words: &[i32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(offset, &bytes);
    }

    fn read(&self, offset: i32, len: i32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.memory
            .read(&self.store, offset as usize, &mut bytes)
            .unwrap();
        bytes
    }

    fn word(&self, offset: i32) -> i32 {
        i32::from_le_bytes(self.read(offset, 4).try_into().unwrap())
    }

    fn long(&self, offset: i32) -> u64 {
        u64::from_le_bytes(self.read(offset, 8).try_into().unwrap())
    }
}

/// `call!(guest, fd_close(3))` calls the forwarder of that name and gives its `errno`.
macro_rules! call {
    ($guest:expr, $name:ident($($arg:expr),*)) => {
        $guest.instance.call::<_, i32>(&mut $guest.store, stringify!($name), ($($arg,)*)).unwrap()
    };
}

fn instantiate(ctx: WasiCtx, memory: &str) -> (Store<WasiCtx>, Instance) {
    let engine = Engine::default();
    let module = Module::new(&engine, forwarder(memory)).unwrap();
    let mut linker = Linker::<WasiCtx>::new(&engine);
    add_to_linker(&mut linker, |ctx| ctx).unwrap();
    let mut store = Store::new(&engine, ctx);
    let instance = linker.instantiate(&mut store, &module).unwrap();
    (store, instance)
}

#[test]
fn output_reaches_its_pipe_and_no_other() {
    let (stdout, stderr) = (OutputPipe::new(100), OutputPipe::new(100));
    let ctx = WasiCtx::builder()
        .stdout_pipe(&stdout)
        .stderr_pipe(&stderr)
        .build()
        .unwrap();
    let mut guest = Guest::new(ctx);
    guest.write(100, b"hello, world");
    guest.write_words(0, &[100, 7, 107, 5]);
    assert_eq!(call!(guest, fd_write(1, 0, 2, 16)), SUCCESS);
    assert_eq!(guest.word(16), 12);
    assert_eq!(call!(guest, fd_write(2, 8, 1, 16)), SUCCESS);
    assert_eq!(
        (stdout.contents(), stderr.contents()),
        (b"hello, world".to_vec(), b"world".to_vec())
    );
}

#[test]
fn a_full_pipe_is_enospc() {
    let stdout = OutputPipe::new(3);
    let mut guest = Guest::new(WasiCtx::builder().stdout_pipe(&stdout).build().unwrap());
    guest.write_words(0, &[100, 5]);
    assert_eq!(call!(guest, fd_write(1, 0, 1, 16)), SUCCESS);
    assert_eq!(guest.word(16), 3);
    assert_eq!(call!(guest, fd_write(1, 0, 1, 16)), NOSPC);
}

#[test]
fn input_is_what_was_given_and_then_ends() {
    let mut guest = Guest::new(WasiCtx::builder().stdin_bytes("typed").build().unwrap());
    guest.write_words(0, &[100, 50]);
    assert_eq!(call!(guest, fd_read(0, 0, 1, 16)), SUCCESS);
    assert_eq!((guest.word(16), guest.read(100, 5)), (5, b"typed".to_vec()));
    assert_eq!(call!(guest, fd_read(0, 0, 1, 16)), SUCCESS);
    assert_eq!(guest.word(16), 0);
}

#[test]
fn nothing_of_the_host_is_visible_unless_it_was_given() {
    let mut guest = Guest::bare();
    guest.write_words(16, &[-1, -1]);
    assert_eq!(call!(guest, args_sizes_get(16, 20)), SUCCESS);
    assert_eq!((guest.word(16), guest.word(20)), (0, 0));
    guest.write_words(16, &[-1, -1]);
    assert_eq!(call!(guest, environ_sizes_get(16, 20)), SUCCESS);
    assert_eq!((guest.word(16), guest.word(20)), (0, 0));
    assert_eq!(call!(guest, fd_prestat_get(3, 16)), BADF);
    guest.write_words(0, &[100, 50]);
    assert_eq!(call!(guest, fd_read(0, 0, 1, 16)), SUCCESS);
    assert_eq!(guest.word(16), 0, "standard input is empty");
}

#[test]
fn arguments_and_variables_arrive_in_order() {
    let ctx = WasiCtx::builder()
        .arg("program")
        .args(["", "zwei"])
        .env("A", "1")
        .env("B", "x=y");
    let mut guest = Guest::new(ctx.build().unwrap());
    assert_eq!(call!(guest, args_sizes_get(0, 4)), SUCCESS);
    assert_eq!((guest.word(0), guest.word(4)), (3, 14));
    assert_eq!(call!(guest, args_get(16, 64)), SUCCESS);
    assert_eq!(guest.read(64, 14), b"program\0\0zwei\0");
    assert_eq!([guest.word(16), guest.word(20), guest.word(24)], [64, 72, 73]);

    assert_eq!(call!(guest, environ_sizes_get(0, 4)), SUCCESS);
    assert_eq!((guest.word(0), guest.word(4)), (2, 10));
    assert_eq!(call!(guest, environ_get(16, 64)), SUCCESS);
    assert_eq!(guest.read(64, 10), b"A=1\0B=x=y\0");
}

#[test]
fn an_iovec_may_end_where_memory_ends_and_not_beyond() {
    let stdout = OutputPipe::new(100);
    let mut guest = Guest::new(WasiCtx::builder().stdout_pipe(&stdout).build().unwrap());
    guest.write(MEMORY - 4, b"last");
    guest.write_words(0, &[MEMORY - 4, 4]);
    assert_eq!(call!(guest, fd_write(1, 0, 1, 16)), SUCCESS);
    for iovec in [[MEMORY - 4, 5], [MEMORY, 1], [0, -1], [-1, 1], [-1, -1], [-4, 8]] {
        guest.write_words(0, &iovec);
        assert_eq!(
            call!(guest, fd_write(1, 0, 1, 16)),
            FAULT,
            "writing from {iovec:?}"
        );
        assert_eq!(call!(guest, fd_read(0, 0, 1, 16)), FAULT, "reading to {iovec:?}");
    }
    assert_eq!(stdout.contents(), b"last");
}

#[test]
fn pointers_out_of_memory_are_efault_in_every_position() {
    let mut guest = Guest::new(WasiCtx::builder().arg("program").build().unwrap());
    guest.write_words(0, &[100, 4]);
    for end in [MEMORY, -4] {
        assert_eq!(call!(guest, fd_write(1, end, 1, 16)), FAULT);
        assert_eq!(call!(guest, fd_write(1, 0, 1, end)), FAULT);
        assert_eq!(call!(guest, args_get(end, 64)), FAULT);
        assert_eq!(call!(guest, args_get(16, end)), FAULT);
        assert_eq!(call!(guest, args_sizes_get(end, 16)), FAULT);
        assert_eq!(call!(guest, clock_time_get(0, 0_i64, end & !7)), FAULT);
        assert_eq!(call!(guest, poll_oneoff(end & !7, 64, 1, 16)), FAULT);
        assert_eq!(call!(guest, random_get(end, 8)), FAULT);
    }
    assert_eq!(call!(guest, random_get(MEMORY - 8, 9)), FAULT);
    assert_eq!(call!(guest, random_get(MEMORY - 8, 8)), SUCCESS);
    assert_eq!(
        call!(guest, fd_write(1, MEMORY - 8, 2, 16)),
        FAULT,
        "the second iovec is outside"
    );
    assert_eq!(
        call!(guest, fd_write(1, 0, -1, 16)),
        FAULT,
        "as many iovecs as there are numbers"
    );
}

#[test]
fn arguments_that_mean_nothing_are_einval() {
    let mut guest = Guest::bare();
    guest.write_words(0, &[100, 4]);
    assert_eq!(
        call!(guest, clock_time_get(77, 0_i64, 16)),
        INVAL,
        "no such clock"
    );
    for origin in [3, 256] {
        assert_eq!(
            call!(guest, fd_seek(1, 0_i64, origin, 16)),
            INVAL,
            "no such origin"
        );
    }
    assert_eq!(
        call!(guest, fd_fdstat_set_flags(1, 1 << 15)),
        INVAL,
        "no such flag"
    );
    assert_eq!(call!(guest, fd_write(1, 2, 1, 16)), INVAL, "not aligned");
    assert_eq!(
        call!(guest, poll_oneoff(0, 64, 0, 16)),
        INVAL,
        "nothing to wait for"
    );
    assert_eq!(call!(guest, fd_close(99)), BADF);
    assert_eq!(call!(guest, proc_raise(6)), NOTSUP);
}

#[test]
fn proc_exit_ends_the_call_with_any_code() {
    for code in [0, 3, 125, 126, 255, 256, -1] {
        let mut guest = Guest::bare();
        let error = guest
            .instance
            .call::<_, ()>(&mut guest.store, "proc_exit", (code,))
            .unwrap_err();
        assert_eq!(error.downcast_ref::<Exit>(), Some(&Exit(code)));
        assert!(
            error.to_string().contains(&format!("exited with code {code}")),
            "{error}"
        );
        assert_eq!(
            call!(guest, sched_yield()),
            SUCCESS,
            "the instance is still usable"
        );
    }
}

#[test]
fn a_guest_without_memory_is_told_which_function_needs_it() {
    for memory in ["", "(memory 1)", "(memory (export \"mem\") 1)"] {
        let (mut store, instance) = instantiate(WasiCtx::builder().build().unwrap(), memory);
        let error: Error = instance
            .call::<_, i32>(&mut store, "random_get", (0, 8))
            .unwrap_err();
        let message = format!("{error:#}");
        assert!(
            message.contains("random_get") && message.contains("`memory`"),
            "{message}"
        );
    }
}

/// Opens `path` below descriptor 3 with `oflags` and the rights to read, write and seek.
fn open(guest: &mut Guest, path: &str, oflags: i32) -> Result<i32, i32> {
    const READ_SEEK_WRITE: i64 = 1 << 1 | 1 << 2 | 1 << 6;
    const FOLLOW: i32 = 1;
    guest.write(1000, path.as_bytes());
    let len = path.len() as i32;
    match call!(
        guest,
        path_open(3, FOLLOW, 1000, len, oflags, READ_SEEK_WRITE, 0_i64, 0, 32)
    ) {
        SUCCESS => Ok(guest.word(32)),
        errno => Err(errno),
    }
}

const CREATE: i32 = 1;

#[test]
fn files_below_a_preopened_directory_are_the_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = WasiCtx::builder()
        .preopened_dir(dir.path(), "/data")
        .build()
        .unwrap();
    let mut guest = Guest::new(ctx);

    assert_eq!(call!(guest, fd_prestat_get(3, 16)), SUCCESS);
    assert_eq!(guest.word(20), 5);
    assert_eq!(call!(guest, fd_prestat_dir_name(3, 16, 5)), SUCCESS);
    assert_eq!(guest.read(16, 5), b"/data");

    let fd = open(&mut guest, "new.txt", CREATE).unwrap();
    guest.write(100, b"from the guest");
    guest.write_words(0, &[100, 14]);
    assert_eq!(call!(guest, fd_write(fd, 0, 1, 16)), SUCCESS);
    assert_eq!(fs::read(dir.path().join("new.txt")).unwrap(), b"from the guest");

    fs::write(dir.path().join("new.txt"), "from the host!").unwrap();
    assert_eq!(call!(guest, fd_seek(fd, 5_i64, 0, 16)), SUCCESS);
    guest.write_words(0, &[200, 100]);
    assert_eq!(call!(guest, fd_read(fd, 0, 1, 16)), SUCCESS);
    assert_eq!((guest.word(16), guest.read(200, 9)), (9, b"the host!".to_vec()));

    assert_eq!(call!(guest, fd_readdir(3, 2000, 1000, 0_i64, 16)), SUCCESS);
    let listing = guest.read(2000, guest.word(16));
    assert!(listing.windows(7).any(|name| name == b"new.txt"), "{listing:?}");

    guest.write(1000, b"new.txt");
    assert_eq!(call!(guest, path_unlink_file(3, 1000, 7)), SUCCESS);
    assert!(!dir.path().join("new.txt").exists());
    assert_eq!(call!(guest, fd_close(fd)), SUCCESS);
    assert_eq!(call!(guest, fd_close(fd)), BADF);
}

#[test]
fn no_path_leads_out_of_a_preopened_directory() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(outer.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", inner.join("relative")).unwrap();
    std::os::unix::fs::symlink(outer.path().join("secret"), inner.join("absolute")).unwrap();
    let mut guest = Guest::new(WasiCtx::builder().preopened_dir(&inner, "/").build().unwrap());
    for path in ["../secret", "./../secret", "/etc/passwd", "relative", "absolute"] {
        assert_eq!(open(&mut guest, path, 0), Err(PERM), "{path}");
    }
}

#[test]
fn a_file_older_than_1970_does_not_end_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("old")).unwrap();
    file.set_modified(UNIX_EPOCH - Duration::from_secs(86400))
        .unwrap();
    let mut guest = Guest::new(WasiCtx::builder().preopened_dir(dir.path(), "/").build().unwrap());
    guest.write(1000, b"old");
    assert_eq!(call!(guest, path_filestat_get(3, 0, 1000, 3, 64)), IO);
    assert!(open(&mut guest, "old", 0).is_ok(), "the context is still usable");
}

#[test]
fn clocks_tell_the_hosts_time() {
    let mut guest = Guest::bare();
    assert_eq!(call!(guest, clock_time_get(0, 0_i64, 16)), SUCCESS);
    let told = UNIX_EPOCH + Duration::from_nanos(guest.long(16));
    let now = SystemTime::now();
    assert!(
        told <= now && now.duration_since(told).unwrap() < Duration::from_secs(60),
        "{told:?} {now:?}"
    );

    assert_eq!(call!(guest, clock_time_get(1, 0_i64, 16)), SUCCESS);
    let before = guest.long(16);
    assert_eq!(call!(guest, clock_time_get(1, 0_i64, 16)), SUCCESS);
    assert!(guest.long(16) >= before);
    assert_eq!(call!(guest, clock_res_get(1, 16)), SUCCESS);
    assert!((1..=1_000_000_000).contains(&guest.long(16)));
}

#[test]
fn polling_a_clock_sleeps() {
    let mut guest = Guest::bare();
    // subscription: userdata, tag 0 (clock), id 1 (monotonic), timeout, precision, flags 0 (relative)
    guest.write_words(64, &[42, 0, 0, 0, 1, 0, 20_000_000, 0, 0, 0, 0, 0]);
    let before = Instant::now();
    assert_eq!(call!(guest, poll_oneoff(64, 256, 1, 16)), SUCCESS);
    assert!(before.elapsed() >= Duration::from_millis(20));
    assert_eq!((guest.word(16), guest.word(256)), (1, 42));
}

#[test]
fn random_bytes_fill_the_buffer_and_differ() {
    let mut guest = Guest::bare();
    assert_eq!(call!(guest, random_get(0, 32)), SUCCESS);
    assert_eq!(call!(guest, random_get(32, 32)), SUCCESS);
    assert_ne!(guest.read(0, 32), guest.read(32, 32));
    assert_ne!(guest.read(24, 8), [0; 8]);
    assert_eq!(guest.read(64, 8), [0; 8], "nothing beyond the buffer");
}

#[test]
fn what_a_guest_could_not_see_whole_is_refused_when_building() {
    let refused = |builder: selvedge_wasi::WasiCtxBuilder| match builder.build() {
        Ok(_) => panic!("built"),
        Err(error) => format!("{error:#}"),
    };
    assert_eq!(
        refused(WasiCtx::builder().arg("a").arg("b\0c")),
        "argument 1 holds a NUL byte at 1"
    );
    assert_eq!(
        refused(WasiCtx::builder().env("A", "\0")),
        "the variable `A` holds a NUL byte at 0"
    );
    assert!(refused(WasiCtx::builder().env("A=B", "1")).contains("`A=B`"));
    assert!(refused(WasiCtx::builder().env("", "1")).contains("``"));
    let gone = refused(WasiCtx::builder().preopened_dir("/no/such/directory", "/"));
    assert!(
        gone.starts_with("cannot open directory `/no/such/directory`: "),
        "{gone}"
    );
}
