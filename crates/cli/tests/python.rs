//! A real program of 26 MB: CPython 3.12 for WASI, its standard library inside the module.
//!
//! The module is the file that `SELVEDGE_PYTHON_WASM` names, or `target/real-programs/` as
//! `.ci/fetch-python` fills it; the test calls that script when the file is missing, and fails when
//! there is no file after all. Compiling it takes seconds, so each process checks as much as it can.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Checks the standard library, recursion beyond Python's limits, and the exit code, in one process.
const PROGRAM: &str = r#"
import hashlib, json, sys, zlib

print(sys.argv)
print(hashlib.sha256(b"abc").hexdigest())
print(hashlib.md5(b"abc").hexdigest())
print("%08x" % zlib.crc32(b"123456789"))
text = b"selvedge " * 1000
packed = zlib.compress(text, 9)
print(len(packed) < 100, zlib.decompress(packed) == text)
print(json.dumps(json.loads('{"b": [1, 2.5, null], "a": "x"}'), sort_keys=True))

def f(n): return f(n + 1)
try:
    f(0)
except RecursionError as error:
    print("caught:", error)

try:
    json.loads("[" * 100000)
except RecursionError as error:
    print("caught:", error)

sys.exit(3)
"#;

/// What it prints. The digests of "abc" are the test vectors of FIPS 180-4 and RFC 1321, the
/// checksum of "123456789" is CRC-32's customary check value.
const PRINTED: &str = r#"['-c', 'one', '--two']
ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
900150983cd24fb0d6963f7d28e17f72
cbf43926
True True
{"a": "x", "b": [1, 2.5, null]}
caught: maximum recursion depth exceeded
caught: maximum recursion depth exceeded while decoding a JSON array from a unicode string
"#;

#[test]
fn python_computes_recurses_and_hands_on_its_exit_code() {
    let output = python(&["-c", PROGRAM, "one", "--two"], "");
    assert_eq!(text(&output.stdout), PRINTED, "{output:?}");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn python_runs_a_script_from_standard_input() {
    let script = "import sys\nprint(sum(range(10)), sys.argv)\nraise ValueError('as told')\n";
    let output = python(&["-", "a"], script);
    assert_eq!(text(&output.stdout), "45 ['-', 'a']\n", "{output:?}");
    assert!(
        text(&output.stderr).ends_with("ValueError: as told\n"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// Runs `selvedge run python.wasm args...`.
fn python(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .arg("run")
        .arg(module())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // Small enough for the pipe, so this does not wait for the guest to read. If it fails, the guest has
    // ended, and its output says why.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("the binary ends")
}

/// The module's path; fetches it when it is missing.
fn module() -> &'static Path {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    MODULE.get_or_init(|| {
        if let Some(named) = std::env::var_os("SELVEDGE_PYTHON_WASM") {
            let named = PathBuf::from(named);
            assert!(
                named.is_file(),
                "SELVEDGE_PYTHON_WASM names {}, which is no file",
                named.display()
            );
            return named;
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let fetched = Command::new(workspace.join(".ci/fetch-python")).status();
        let file = workspace.join("target/real-programs/python-3.12.0.wasm");
        assert!(
            fetched.is_ok_and(|status| status.success()) && file.is_file(),
            "no CPython to run: .ci/fetch-python failed; make it work (it needs python3 with pip), or name \
             a python-3.12.0.wasm in SELVEDGE_PYTHON_WASM"
        );
        file
    })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the guest prints UTF-8")
}
