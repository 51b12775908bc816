//! What one guest may see of the host.

use crate::OutputPipe;
use selvedge::Error;
use std::path::{Path, PathBuf};
use wasi_common::pipe::{ReadPipe, WritePipe};
use wasi_common::sync::{Dir, WasiCtxBuilder as Ambient, ambient_authority, dir, stdio};

/// Arguments, environment, directories and streams of one guest; lies in the store's data.
///
/// Whatever was not given to the builder is not there: no argument, no variable, no directory, an
/// empty standard input, and output that is thrown away. Clocks, randomness and sleeping always are.
pub struct WasiCtx(pub(crate) wasi_common::WasiCtx);

impl WasiCtx {
    /// Starts with nothing.
    pub fn builder() -> WasiCtxBuilder {
        WasiCtxBuilder::default()
    }
}

/// Collects what a [`WasiCtx`] is made of; nothing is opened or checked before [`build`](Self::build).
#[derive(Default)]
pub struct WasiCtxBuilder {
    args: Vec<String>,
    env: Vec<(String, String)>,
    dirs: Vec<(PathBuf, String)>,
    stdin: Input,
    stdout: Output,
    stderr: Output,
}

#[derive(Default)]
enum Input {
    #[default]
    Empty,
    Host,
    Bytes(Vec<u8>),
}

#[derive(Default)]
enum Output {
    #[default]
    Sink,
    Host,
    Pipe(OutputPipe),
}

impl WasiCtxBuilder {
    /// Appends an argument. The first one is the program's name.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Appends arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds the environment variable `name=value`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Lets the guest read and write below the host's directory `host`, which it sees as `guest`.
    ///
    /// No path of the guest leads out of it, be it by `..` or by a symbolic link.
    pub fn preopened_dir(mut self, host: impl AsRef<Path>, guest: impl Into<String>) -> Self {
        self.dirs.push((host.as_ref().to_owned(), guest.into()));
        self
    }

    /// Hands on the host's three standard streams. Reading from standard input blocks.
    pub fn inherit_stdio(self) -> Self {
        self.inherit_stdin().inherit_stdout().inherit_stderr()
    }

    /// Hands on the host's standard input. Reading from it blocks.
    ///
    /// The host reads it ahead, some kilobytes at a time: `poll_oneoff` does not know of input that was
    /// read ahead and waits for more.
    pub fn inherit_stdin(mut self) -> Self {
        self.stdin = Input::Host;
        self
    }

    /// Hands on the host's standard output; it is flushed at each write.
    pub fn inherit_stdout(mut self) -> Self {
        self.stdout = Output::Host;
        self
    }

    /// Hands on the host's standard error.
    pub fn inherit_stderr(mut self) -> Self {
        self.stderr = Output::Host;
        self
    }

    /// Makes `bytes` the standard input. It never blocks, and `poll_oneoff` on it is `EINVAL`.
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// Collects the standard output in `pipe`. It never blocks, and `poll_oneoff` on it is `EINVAL`.
    pub fn stdout_pipe(mut self, pipe: &OutputPipe) -> Self {
        self.stdout = Output::Pipe(pipe.clone());
        self
    }

    /// Collects the standard error in `pipe`, as [`stdout_pipe`](Self::stdout_pipe) does.
    pub fn stderr_pipe(mut self, pipe: &OutputPipe) -> Self {
        self.stderr = Output::Pipe(pipe.clone());
        self
    }

    /// Opens the directories and makes the context.
    ///
    /// # Errors
    ///
    /// A directory that cannot be opened; a name that is empty or holds `=`; a string with a NUL byte,
    /// which the guest would see cut; arguments or an environment of more than 4 GiB.
    pub fn build(self) -> Result<WasiCtx, Error> {
        let mut ambient = Ambient::new();
        for (index, arg) in self.args.iter().enumerate() {
            refuse_nul(&format!("argument {index}"), arg)?;
            ambient.arg(arg)?;
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') {
                return Err(Error::msg(format!(
                    "`{name}` is not a name of an environment variable"
                )));
            }
            refuse_nul("a variable's name", name)?;
            refuse_nul(&format!("the variable `{name}`"), value)?;
            ambient.env(name, value)?;
        }
        let ctx = ambient.build();
        self.stdin.install(&ctx);
        self.stdout.install(1, &ctx);
        self.stderr.install(2, &ctx);
        for (host, guest) in &self.dirs {
            preopen(&ctx, host, guest)?;
        }
        Ok(WasiCtx(ctx))
    }
}

impl Input {
    fn install(self, ctx: &wasi_common::WasiCtx) {
        match self {
            Input::Empty => {}
            Input::Host => ctx.set_stdin(Box::new(stdio::stdin())),
            Input::Bytes(bytes) => ctx.set_stdin(Box::new(ReadPipe::from(bytes))),
        }
    }
}

impl Output {
    fn install(self, fd: u32, ctx: &wasi_common::WasiCtx) {
        let file: Box<dyn wasi_common::WasiFile> = match self {
            Output::Sink => return,
            Output::Host if fd == 1 => Box::new(stdio::stdout()),
            Output::Host => Box::new(stdio::stderr()),
            Output::Pipe(pipe) => Box::new(WritePipe::new(pipe)),
        };
        ctx.insert_file(fd, file, wasi_common::file::FileAccessMode::WRITE);
    }
}

fn refuse_nul(what: &str, text: &str) -> Result<(), Error> {
    match text.find('\0') {
        Some(at) => Err(Error::msg(format!("{what} holds a NUL byte at {at}"))),
        None => Ok(()),
    }
}

fn preopen(ctx: &wasi_common::WasiCtx, host: &Path, guest: &str) -> Result<(), Error> {
    refuse_nul("a directory's name for the guest", guest)?;
    let opened = Dir::open_ambient_dir(host, ambient_authority())
        .map_err(|error| Error::msg(format!("cannot open directory `{}`: {error}", host.display())))?;
    ctx.push_preopened_dir(Box::new(dir::Dir::from_cap_std(opened)), guest)?;
    Ok(())
}
