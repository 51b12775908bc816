//! The floor: kernels as native code, made by the C compiler of the machine if there is one.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// A kernel's `int run(int)`.
type Run = extern "C" fn(i32) -> i32;

/// Compiles a kernel's source with `cc -O2` and loads it; what is in the way is the error. It stays loaded.
pub fn kernel(source: &Path) -> Result<Run, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let library = folder.path().join("kernel.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-O2", "-fno-builtin", "-shared", "-fPIC", "-o"])
        .args([library.as_os_str(), source.as_os_str()])
        .status();
    match status {
        Err(error) => Err(format!("{} cannot be run: {error}", compiler.display())),
        Ok(status) if !status.success() => Err(format!("{} failed: {status}", compiler.display())),
        Ok(_) => load(library.as_os_str()),
    }
}

fn load(library: &OsStr) -> Result<Run, String> {
    let path = CString::new(library.as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: the path is a string of C; the library is one of our kernels, which has no constructors.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        return Err("the kernel cannot be loaded".to_owned());
    }
    // SAFETY: the library was just opened and is never closed.
    let run = unsafe { libc::dlsym(library, c"run".as_ptr()) };
    if run.is_null() {
        return Err("the kernel has no `run`".to_owned());
    }
    // SAFETY: every kernel defines `int run(int n)`, and touches nothing but its own variables.
    Ok(unsafe { std::mem::transmute::<*mut libc::c_void, Run>(run) })
}
