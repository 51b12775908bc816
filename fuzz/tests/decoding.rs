//! The decoder's target on stable: inputs of a fixed sequence for some seconds, every module of the scripts, and what was found.

use selvedge_fuzz::corpus::MODULES;
use selvedge_fuzz::decode::{Answer, bytes, check};
use selvedge_fuzz::inputs::Inputs;

/// The answer to `bytes`; a panic or a fault prints them.
fn checked(what: &str, bytes: &[u8]) -> Option<Answer> {
    let fault = match std::panic::catch_unwind(|| check(bytes)) {
        Ok(Ok(answer)) => return Some(answer),
        Ok(Err(fault)) => fault,
        Err(_) => "the compiler panics".to_owned(),
    };
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    println!("{what}: {fault}: {}", digits.collect::<String>());
    None
}

#[test]
fn random_bytes_are_a_module_or_an_error_with_an_offset_in_bounded_time() {
    let mut inputs = Inputs::from_environment();
    let (mut executions, mut taken, mut faults) = (0_u64, 0_u64, 0_u64);
    for (seed, data) in &mut inputs {
        let Some(bytes) = bytes(&data) else { continue };
        executions += 1;
        match checked(&format!("input {seed}"), &bytes) {
            Some(Answer::Taken) => taken += 1,
            Some(Answer::Refused { .. }) => {}
            None => faults += 1,
        }
    }
    println!("{executions} executions, {taken} modules");
    assert_eq!(faults, 0, "printed above");
    assert!(executions >= inputs.seconds, "only {executions} inputs");
    assert!(
        taken * 100 > executions,
        "only {taken} of {executions} were modules"
    );
    assert!(
        taken * 2 < executions,
        "{taken} of {executions} were modules still"
    );
}

#[test]
fn every_module_of_the_scripts_has_an_answer() {
    let answers = MODULES.iter().map(|module| checked("a script's module", module));
    let answers = answers.collect::<Vec<_>>();
    assert!(answers.iter().all(Option::is_some), "printed above");
    let taken = answers.iter().filter(|answer| **answer == Some(Answer::Taken));
    let taken = taken.count();
    assert!(
        taken > 500 && taken < answers.len(),
        "{taken} of {}",
        answers.len()
    );
}
