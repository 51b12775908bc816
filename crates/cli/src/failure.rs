//! How a run that did not go well ends: what is printed, and the exit code.

use selvedge::{Error, Trap};
use selvedge_wasi::Exit;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit code for input that cannot be run.
const BAD_INPUT: u8 = 2;
/// The exit code for a trap: that of a shell's child killed by SIGABRT, 128 + 6 (signal(7)).
const TRAPPED: u8 = 134;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is done: help was printed, or nobody reads the output any more.
    Finished,
    /// Something is wrong with what we were given; one line.
    Input(String),
    /// The guest called `proc_exit`.
    Exited(Exit),
    /// The guest was stopped: a trap, or a host function that failed.
    Stopped(Error),
}

impl Failure {
    /// Bad input, in one line.
    pub(crate) fn input(message: impl Display) -> Failure {
        Failure::Input(one_line(&message.to_string()))
    }

    /// What it means that instantiating a module ended with `error`: its start function may have run.
    pub(crate) fn of_instantiation(error: Error) -> Failure {
        match error.is::<Trap>() || error.is::<Exit>() {
            true => Failure::of_call(error),
            false => Failure::input(format_args!("{error:#}")),
        }
    }

    /// What it means that a call of the guest ended with `error`.
    pub(crate) fn of_call(error: Error) -> Failure {
        match error.downcast_ref::<Exit>() {
            Some(exit) => Failure::Exited(*exit),
            None => Failure::Stopped(error),
        }
    }

    /// What it means that writing to standard output failed.
    pub(crate) fn of_output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Finished,
            _ => Failure::input(format_args!("cannot write to standard output: {error}")),
        }
    }

    /// Prints what is to be said and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Finished => ExitCode::SUCCESS,
            Failure::Exited(exit) => ExitCode::from(u8::try_from(exit.0).unwrap_or(u8::MAX)),
            Failure::Input(line) => {
                say(&format!("selvedge: {line}\n"));
                ExitCode::from(BAD_INPUT)
            }
            Failure::Stopped(error) => {
                say(&stopped(&error));
                ExitCode::from(TRAPPED)
            }
        }
    }
}

/// The name of the trap, or what the host function said, and the guest's backtrace.
fn stopped(error: &Error) -> String {
    let what = if error.is::<Trap>() { "trap" } else { "stopped" };
    match error.backtrace() {
        Some(backtrace) => format!("selvedge: {what}: {error:#}\n{backtrace}\n"),
        None => format!("selvedge: {what}: {error:#}\n"),
    }
}

/// Writes to standard error, which may be closed.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A message of several lines as one: its first line, behind the source position that the text
/// format's parser draws below it (`--> file:line:column`).
fn one_line(message: &str) -> String {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.find_map(|line| line.strip_prefix("--> ")) {
        Some(position) => format!("{position}: {first}"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_a_drawing_becomes_one_line() {
        let drawn = "expected `)`\n     --> a.wat:1:9\n      |\n    1 | (module x\n      |         ^";
        assert_eq!(one_line(drawn), "a.wat:1:9: expected `)`");
        assert_eq!(one_line("unknown import"), "unknown import");
    }
}
