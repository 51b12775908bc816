//! Scripts as files: finding them, running them, telling what failed.

use crate::{Options, Report, Summary, run_script};
use selvedge::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Runs the scripts named by `paths` and writes what came of them to `out`.
///
/// A folder stands for all files below it that end in `.wast`, in the order of their names. Each failure and
/// each skipped command gets a line with its place; the last line is `3 passed, 0 failed, 0 skipped`. Whether
/// the whole failed is in the sums: `summary.failed`.
///
/// # Errors
/// A path that cannot be read, folders without any script (nothing would have been run), and a failed write to
/// `out`. A script that fails, or is not text, is no error.
pub fn run_paths(paths: &[PathBuf], options: &Options, out: &mut dyn Write) -> Result<Summary, Error> {
    let mut scripts = Vec::new();
    for path in paths {
        find_scripts(path, &mut scripts)?;
    }
    if scripts.is_empty() {
        return Err(Error::msg(format!(
            "no .wast file in the {} paths given",
            paths.len()
        )));
    }
    let mut summary = Summary::default();
    for script in &scripts {
        let report = run_file(script, options)?;
        write_report(&report, out)?;
        summary.add(&report);
    }
    writeln!(out, "{summary}")?;
    Ok(summary)
}

/// Adds the script at `path`, or those below it. Only folders are picky about names.
fn find_scripts(path: &Path, scripts: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !path.is_dir() {
        scripts.push(path.to_owned());
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| cannot_read(path, error))? {
        entries.push(entry.map_err(|error| cannot_read(path, error))?.path());
    }
    entries.sort();
    for entry in entries {
        if entry.is_dir() || entry.extension().is_some_and(|extension| extension == "wast") {
            find_scripts(&entry, scripts)?;
        }
    }
    Ok(())
}

fn run_file(path: &Path, options: &Options) -> Result<Report, Error> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| cannot_read(path, error))?;
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => run_script(&name, text, options),
        Err(error) => Report::refused(&name, format!("the script is not UTF-8: {error}")),
    })
}

fn cannot_read(path: &Path, error: std::io::Error) -> Error {
    Error::new(error).context(format!("cannot read {}", path.display()))
}

fn write_report(report: &Report, out: &mut dyn Write) -> Result<(), Error> {
    for failure in &report.failed {
        writeln!(out, "{failure}")?;
    }
    for skip in &report.skipped {
        writeln!(out, "{skip}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "(module)\n(module)\n";
    const BAD: &str = "(module)\n(invoke \"nothing\")\n";

    #[test]
    fn folders_are_walked_in_order_and_the_sums_come_last() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/good.wast"), GOOD).unwrap();
        fs::write(folder.path().join("bad.wast"), BAD).unwrap();
        fs::write(folder.path().join("not-a-script.txt"), BAD).unwrap();

        let mut out = Vec::new();
        let summary = run_paths(&[folder.path().to_owned()], &Options::default(), &mut out).unwrap();

        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 2, "{out}");
        assert!(lines[0].contains("bad.wast:2:2: "), "{out}");
        assert_eq!(lines[1], "3 passed, 1 failed, 0 skipped");
        assert_eq!(
            summary,
            Summary {
                scripts: 2,
                passed: 3,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn a_missing_path_is_an_error_that_names_it() {
        let paths = [PathBuf::from("no/such/script.wast")];
        let error = run_paths(&paths, &Options::default(), &mut Vec::new()).unwrap_err();
        assert!(
            format!("{error:#}").contains("cannot read no/such/script.wast"),
            "{error:#}"
        );
    }

    #[test]
    fn a_folder_without_scripts_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_owned()];
        assert!(run_paths(&paths, &Options::default(), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_script_that_is_not_text_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin1.wast");
        fs::write(&path, b"(module) ;; \xe9").unwrap();
        let summary = run_paths(&[path], &Options::default(), &mut Vec::new()).unwrap();
        assert_eq!((summary.passed, summary.failed), (0, 1));
    }
}
