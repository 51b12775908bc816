//! The command line.

use crate::failure::Failure;
use crate::proposals::Proposals;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs WebAssembly programs on fibers.
#[derive(Parser)]
#[command(name = "selvedge", version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs a WASI preview 1 program, or one exported function of a module.
    Run(RunArgs),
    /// Shows what fibers are for on embedded guests, with measured costs. Needs no files.
    Demo,
    /// Runs WebAssembly specification scripts.
    Wast(WastArgs),
}

#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Call this export instead of `_start`; ARGS are parsed by its parameter types.
    #[arg(long, value_name = "NAME")]
    pub(crate) invoke: Option<String>,
    /// Meter the guest and trap after this many units (about one per operator).
    #[arg(long, value_name = "N", allow_negative_numbers = true)] // to refuse them by name
    pub(crate) fuel: Option<u64>,
    /// How many bytes of stack the guest has.
    #[arg(long, value_name = "N", allow_negative_numbers = true)] // to refuse them by name
    pub(crate) stack_bytes: Option<usize>,
    /// Let the guest use the directory HOST, which it sees as GUEST. May be repeated.
    #[arg(long = "dir", value_name = "HOST::GUEST", value_parser = directory)]
    pub(crate) dirs: Vec<Directory>,
    /// Set an environment variable for the guest, which inherits none. May be repeated.
    #[arg(long = "env", value_name = "K=V", value_parser = variable)]
    pub(crate) env: Vec<Variable>,
    /// What to do about functions the module imports and nobody defines.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub(crate) unknown_imports: UnknownImports,
    #[command(flatten)]
    pub(crate) proposals: Proposals,
    /// The program, .wasm or .wat, and what it is given; all that follows FILE is the guest's.
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["FILE", "ARGS"])]
    pub(crate) program: Vec<OsString>,
}

#[derive(clap::Args)]
pub(crate) struct WastArgs {
    #[command(flatten)]
    pub(crate) proposals: Proposals,
    /// Scripts, and directories that are searched for `.wast` files.
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Clone)]
pub(crate) struct Directory {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
}

#[derive(Clone)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum UnknownImports {
    /// Refuse the module.
    #[default]
    Refuse,
    /// Functions that trap when they are called.
    Trap,
    /// Functions that return zeros and nulls.
    Default,
}

/// Parses the process's command line. Help and version are printed and come back as a finished run.
pub(crate) fn parse() -> Result<Command, Failure> {
    match Line::try_parse() {
        Ok(line) => Ok(line.command),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = error.print(); // nobody reads it: there is nobody to tell
            Err(Failure::Finished)
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Err(
            Failure::Input("no command given, see `selvedge --help`".to_owned()),
        ),
        Err(error) => Err(Failure::Input(first_paragraph(&error.to_string()))),
    }
}

/// What clap says before its usage and its hints, on one line.
fn first_paragraph(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let lines = message.lines().take_while(|line| !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

fn directory(text: &str) -> Result<Directory, String> {
    match text.split_once("::") {
        Some((host, guest)) if !host.is_empty() && !guest.is_empty() => Ok(Directory {
            host: host.into(),
            guest: guest.into(),
        }),
        _ => Err("expected HOST::GUEST".into()),
    }
}

fn variable(text: &str) -> Result<Variable, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Variable {
            name: name.into(),
            value: value.into(),
        }),
        _ => Err("expected K=V".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn what_follows_the_file_is_the_guests() {
        let line = [
            "selvedge", "run", "--fuel", "7", "a.wasm", "-c", "--fuel", "8", "--help", "--", "x",
        ];
        let Command::Run(run) = Line::try_parse_from(line).unwrap().command else {
            panic!("not run")
        };
        assert_eq!(run.fuel, Some(7));
        assert_eq!(run.program, ["a.wasm", "-c", "--fuel", "8", "--help", "--", "x"]);
    }
}
