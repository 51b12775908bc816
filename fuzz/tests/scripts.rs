//! The target of changed scripts on stable: inputs of a fixed sequence for some seconds, and what was executed, by proposal.

use selvedge_fuzz::inputs::Inputs;
use selvedge_fuzz::mutants::{self, Mutant, Rivals, mutant};
use selvedge_fuzz::scripts::FOLDERS;
use selvedge_fuzz::{Counts, Outcome};
use std::sync::LazyLock;

/// Fewer executions a second than this, and the test has stopped testing.
const EXECUTIONS_A_SECOND: u64 = 1;
/// With fewer, shares say nothing.
const ENOUGH: u64 = 100;

/// What was executed of one folder.
#[derive(Default)]
struct Executed {
    executions: u64,
    wasmi: u64,
    wasmtime: u64,
    skipped: u64,
    doubtful: u64,
    counts: Counts,
}

impl Executed {
    fn note(&mut self, rivals: Rivals, counts: Counts) {
        self.executions += 1;
        self.wasmi += u64::from(rivals.wasmi);
        self.wasmtime += u64::from(rivals.wasmtime);
        self.counts.add(counts);
    }

    fn add(&mut self, other: &Executed) {
        self.executions += other.executions;
        self.wasmi += other.wasmi;
        self.wasmtime += other.wasmtime;
        self.skipped += other.skipped;
        self.doubtful += other.doubtful;
        self.counts.add(other.counts);
    }

    fn print(&self, name: &str) {
        let Executed {
            executions,
            wasmi,
            wasmtime,
            skipped,
            doubtful,
            counts,
        } = self;
        println!(
            "{name}: {executions} executions, {wasmi} beside wasmi, {wasmtime} beside wasmtime, {skipped} skipped, {doubtful} doubtful; {} calls, \
             {} trapped, {} threw",
            counts.calls, counts.traps, counts.exceptions
        );
    }
}

/// Runs a mutant; an engine's panic names it.
fn run_or_say(seed: u64, mutant: &Mutant) -> (Outcome, Rivals) {
    let run = std::panic::AssertUnwindSafe(|| mutants::run(mutant));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        println!("input {seed}:\n{}\nan engine panics", mutant.case.text());
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn changed_scripts_do_in_all_engines_the_same() {
    LazyLock::force(&FOLDERS);
    let mut inputs = Inputs::from_environment();
    let mut folders: Vec<Executed> = FOLDERS.iter().map(|_| Executed::default()).collect();
    let mut differences = 0;
    for (seed, data) in &mut inputs {
        let Some(mutant) = mutant(&data) else { continue };
        let folder = &mut folders[mutant.folder];
        let (outcome, rivals) = run_or_say(seed, &mutant);
        match outcome {
            Outcome::Agreed(counts) => folder.note(rivals, counts),
            Outcome::Skipped => folder.skipped += 1,
            Outcome::Doubtful => folder.doubtful += 1,
            Outcome::Differs(difference) => {
                differences += 1;
                println!("input {seed} of {}:\n{difference}", FOLDERS[mutant.folder].name);
            }
        }
    }
    let mut sum = Executed::default();
    for (folder, executed) in FOLDERS.iter().zip(&folders) {
        executed.print(folder.name);
        sum.add(executed);
    }
    sum.print("changed scripts");
    assert_eq!(differences, 0, "printed above");
    check_shares(sum, inputs.seconds);
}

/// Fails if so little was executed that agreeing says nothing.
fn check_shares(sum: Executed, seconds: u64) {
    let Executed {
        executions,
        wasmi,
        wasmtime,
        skipped,
        doubtful,
        counts,
    } = sum;
    assert!(
        executions >= seconds * EXECUTIONS_A_SECOND,
        "only {executions} executions"
    );
    if executions < ENOUGH {
        return;
    }
    assert!(skipped * 4 < executions, "{skipped} inputs were skipped");
    assert!(
        wasmi * 4 > executions,
        "only {wasmi} of {executions} beside wasmi"
    );
    assert!(
        wasmtime * 5 > executions * 4 || cfg!(not(feature = "wasmtime")),
        "only {wasmtime} of {executions} beside wasmtime"
    );
    assert!(
        doubtful * 100 < executions,
        "{doubtful} of {executions} are doubtful"
    );
    assert!(
        counts.calls > 4 * executions,
        "only {} calls were compared",
        counts.calls
    );
    assert!(
        counts.traps * 2 < counts.calls,
        "{} of {} calls trapped",
        counts.traps,
        counts.calls
    );
}
