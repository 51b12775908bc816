//! The command `selvedge`: runs WebAssembly programs on fibers.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | the guest's | it called `proc_exit`; codes beyond 255 become 255 |
//! | 0 | it returned |
//! | 1 | `selvedge wast`: a script failed |
//! | 2 | bad input, said in one line on standard error |
//! | 134 | the guest was stopped, by a trap or a host function's error, which standard error names |
#![warn(missing_docs)]

mod args;
mod demo;
mod entry;
mod failure;
mod proposals;
mod run;
mod values;
mod wast;

use args::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = args::parse().and_then(|command| match command {
        Command::Run(args) => run::run(&args),
        Command::Demo => demo::run(),
        Command::Wast(args) => wast::run(&args),
    });
    outcome.map_or_else(|failure| failure.report(), ExitCode::from)
}
