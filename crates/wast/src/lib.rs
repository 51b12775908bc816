//! Runs WebAssembly specification scripts (`.wast`) on Selvedge.
//!
//! A *script* is a list of commands: modules to instantiate, functions to invoke, and assertions about both.
//! A *command* counts once: it passes, fails, or is skipped for a reason that is named. Nothing here panics,
//! not even when the runtime does: every failure is a [`Failure`] with file, line and column.
//!
//! ```text
//!   run_paths  finds scripts, prints failures and the sums      paths.rs
//!   run_script one script on a store of its own                 below
//!   WastRunner one store, its named instances, the commands     runner.rs
//!              a script's commands                             script.rs
//!              modules: those that compile and those refused    modules.rs
//!              arguments, expected results, NaN patterns        values.rs
//!              the host module that every script may import     spectest.rs
//!   Report     what came of it                                  report.rs
//! ```
//!
//! ```
//! use selvedge_wast::{Options, run_script};
//!
//! let script = r#"
//!     (module (func (export "add") (param i32 i32) (result i32)
//!         (i32.add (local.get 0) (local.get 1))))
//!     (assert_return (invoke "add" (i32.const 1) (i32.const 2)) (i32.const 3))
//! "#;
//! let report = run_script("add.wast", script, &Options::default());
//! assert_eq!((report.passed, report.failed.len(), report.skipped.len()), (2, 0, 0));
//! ```

#![warn(missing_docs)]

mod modules;
mod paths;
mod report;
mod runner;
mod script;
mod spectest;
mod values;

pub use paths::run_paths;
pub use report::{Failure, Report, Skip, Summary};
pub use runner::WastRunner;

use selvedge::{Engine, Module, Result};

/// How scripts are run.
#[derive(Clone)]
pub struct Options {
    engine: Engine,
    fuel_units: Option<u64>,
    compile: fn(&Engine, &[u8]) -> Result<Module>,
}

impl Options {
    /// Runs scripts on `engine`. Scripts share nothing of it but its settings and its pools.
    pub fn new(engine: Engine) -> Options {
        Options {
            engine,
            fuel_units: None,
            compile: |engine, bytes| Module::new(engine, bytes),
        }
    }

    /// Gives each command `units` of fuel: for an engine with fuel, whose stores start with none.
    ///
    /// A command that runs out of it fails, so this also ends a script that loops.
    pub fn fuel_units(mut self, units: u64) -> Options {
        self.fuel_units = Some(units);
        self
    }

    /// Makes modules of their bytes in another way than by [`Module::new`].
    pub fn compile_with(mut self, compile: fn(&Engine, &[u8]) -> Result<Module>) -> Options {
        self.compile = compile;
        self
    }
}

impl Default for Options {
    /// An engine with the default settings, and no fuel.
    fn default() -> Options {
        Options::new(Engine::default())
    }
}

/// Runs the script `text` on a store of its own; `name` is what the report calls it.
pub fn run_script(name: &str, text: &str, options: &Options) -> Report {
    match WastRunner::new(options) {
        Ok(mut runner) => runner.run(name, text),
        Err(error) => Report::refused(name, format!("cannot set up a store: {error:#}")),
    }
}
