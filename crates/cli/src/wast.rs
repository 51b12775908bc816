//! `selvedge wast`.

use crate::args::WastArgs;
use crate::failure::Failure;
use selvedge::{Config, Engine};
use selvedge_wast::{Options, run_paths};
use std::io;

/// The exit code when a script failed.
const FAILED: u8 = 1;

/// Runs the scripts, prints what failed and the counts, and gives the exit code.
pub(crate) fn run(args: &WastArgs) -> Result<u8, Failure> {
    let mut config = Config::new();
    args.proposals.switch(&mut config);
    let engine = Engine::new(&config).map_err(|error| Failure::input(format_args!("{error:#}")))?;
    let options = Options::new(engine);
    let summary = run_paths(&args.paths, &options, &mut io::stdout().lock()).map_err(|error| match error
        .downcast_ref::<io::Error>(
    ) {
        Some(closed) if closed.kind() == io::ErrorKind::BrokenPipe => Failure::Finished,
        _ => Failure::input(format_args!("{error:#}")),
    })?;
    Ok(if summary.failed == 0 { 0 } else { FAILED })
}
