//! What came of running scripts: counts, and every failure with its place.

use std::fmt;

/// What came of one script. Each command is counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many commands passed.
    pub passed: usize,
    /// The commands that failed, in the order of the script.
    pub failed: Vec<Failure>,
    /// The commands that were not run, in the order of the script.
    pub skipped: Vec<Skip>,
}

impl Report {
    /// A script of which nothing could be run.
    pub(crate) fn refused(file: &str, message: String) -> Report {
        let failure = Failure {
            file: file.to_owned(),
            line: 1,
            column: 1,
            message,
        };
        Report {
            failed: vec![failure],
            ..Report::default()
        }
    }

    /// Whether nothing failed.
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty()
    }
}

/// A command that did not do what the script says, or a script that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The script's name, as it was given to the runner.
    pub file: String,
    /// The command's line, from 1.
    pub line: usize,
    /// The command's column in bytes, from 1.
    pub column: usize,
    /// What was expected and what happened.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// A command that was not run because what it asks for is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The script's name, as it was given to the runner.
    pub file: String,
    /// The command's line, from 1.
    pub line: usize,
    /// What is not supported, by name.
    pub reason: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: skipped: {}", self.file, self.line, self.reason)
    }
}

/// The sums over several scripts. Displays as `3 passed, 0 failed, 1 skipped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many scripts were run.
    pub scripts: usize,
    /// How many commands passed.
    pub passed: usize,
    /// How many commands failed.
    pub failed: usize,
    /// How many commands were skipped.
    pub skipped: usize,
}

impl Summary {
    /// Adds the counts of one script.
    pub fn add(&mut self, report: &Report) {
        self.scripts += 1;
        self.passed += report.passed;
        self.failed += report.failed.len();
        self.skipped += report.skipped.len();
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}
