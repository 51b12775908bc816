//! Rivals side by side: criterion's reports, and a table of ratios from interleaved samples.
//!
//! A *duel* is one question put to two sides. Criterion measures them one after the other, which is good
//! for following one side over time; on a machine whose clock drifts by a quarter the ratio of two such
//! figures says little. So each duel is also measured in *rounds*: a batch of the one, a batch of the
//! other, the order swapped each round. The table has the medians and minima over the rounds, per operation, and
//! the ratio of the medians. What a *family* of questions comes to is the geometric mean of its ratios.
//!
//! Without `--bench` among the arguments (`cargo test`) everything runs once, to see that it runs.

#![warn(missing_docs)]

pub mod guest;
pub mod native;
#[cfg(feature = "wasmer")]
pub mod third;

use criterion::Criterion;
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long a batch takes, about.
const BATCH: Duration = Duration::from_micros(200);
/// Rounds of a duel.
const ROUNDS: usize = 501;
/// How long criterion measures a side.
const REPORT: Duration = Duration::from_millis(700);

/// What is asked, and what answer is hoped for.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// In a few words.
    pub what: &'static str,
    /// Operations that one call of a side does.
    pub operations: u32,
    /// The ratio to reach, if there is one.
    pub goal: Option<f64>,
    /// Which mean the ratio counts for.
    pub family: Option<&'static str>,
    /// How often each side takes its turn.
    pub rounds: usize,
}

impl Question {
    /// A question about one operation a call.
    pub const fn new(what: &'static str, goal: f64) -> Question {
        Question {
            what,
            operations: 1,
            goal: Some(goal),
            family: None,
            rounds: ROUNDS,
        }
    }

    /// The same, with so many operations a call.
    pub const fn times(mut self, operations: u32) -> Question {
        self.operations = operations;
        self
    }

    /// The same, without a goal.
    pub const fn without_goal(mut self) -> Question {
        self.goal = None;
        self
    }

    /// The same, as one of a family.
    pub const fn of(mut self, family: &'static str) -> Question {
        self.family = Some(family);
        self
    }

    /// The same, with fewer rounds and without criterion's report: where one operation takes long.
    pub const fn slow(mut self, rounds: usize) -> Question {
        self.rounds = rounds;
        self
    }
}

/// One side of a duel.
#[derive(Debug)]
pub struct Side<F> {
    /// Who.
    pub who: &'static str,
    /// Does the operations once.
    pub run: F,
}

/// A side.
pub fn side<F: FnMut()>(who: &'static str, run: F) -> Side<F> {
    Side { who, run }
}

/// A row of the table. Times are nanoseconds an operation.
struct Row {
    question: Question,
    who: [&'static str; 2],
    medians: [f64; 2],
    minima: [f64; 2],
}

impl Row {
    fn ratio(&self) -> f64 {
        self.medians[0] / self.medians[1]
    }

    fn ratio_of_minima(&self) -> f64 {
        self.minima[0] / self.minima[1]
    }
}

/// What the questions of a family come to.
struct Mean {
    family: &'static str,
    goal: Option<f64>,
}

/// All duels of a bench.
pub struct Contest {
    name: &'static str,
    criterion: Criterion,
    filter: Option<String>,
    is_measured: bool,
    rows: Vec<Row>,
    means: Vec<Mean>,
    notes: Vec<String>,
}

impl Contest {
    /// A contest with the arguments of the process: `--bench` to measure, and part of a question's words to
    /// ask only those.
    pub fn from_args(name: &'static str) -> Contest {
        let arguments = std::env::args().skip(1).collect::<Vec<_>>();
        let criterion = Criterion::default()
            .without_plots()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(REPORT)
            .sample_size(30);
        Contest {
            name,
            criterion,
            filter: arguments.iter().find(|text| !text.starts_with('-')).cloned(),
            is_measured: arguments.iter().any(|text| text == "--bench"),
            rows: Vec::new(),
            means: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Asks for the geometric mean of a family's ratios.
    pub fn mean(&mut self, family: &'static str, goal: Option<f64>) {
        self.means.push(Mean { family, goal });
    }

    /// Adds a line below the table: for what is no time.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// Whether anything is measured, or only run once.
    pub fn is_measured(&self) -> bool {
        self.is_measured
    }

    /// Whether a question with these words may be asked: for what is costly to prepare.
    pub fn asks(&self, words: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|part| words.contains(part.as_str()) || part.contains(words))
    }

    /// Puts a question to both sides; the first is ours.
    pub fn duel(&mut self, question: Question, mut ours: Side<impl FnMut()>, mut theirs: Side<impl FnMut()>) {
        let is_asked = self
            .filter
            .as_ref()
            .is_none_or(|part| question.what.contains(part.as_str()));
        if !is_asked {
            return;
        }
        if !self.is_measured {
            (ours.run)();
            (theirs.run)();
            return;
        }
        if question.rounds == ROUNDS {
            self.report(question, &mut ours);
            self.report(question, &mut theirs);
        }
        let samples = interleave(question.rounds, &mut ours.run, &mut theirs.run);
        let operations = f64::from(question.operations);
        self.rows.push(Row {
            question,
            who: [ours.who, theirs.who],
            medians: samples.each_ref().map(|samples| median(samples) / operations),
            minima: samples
                .each_ref()
                .map(|samples| samples.iter().copied().fold(f64::INFINITY, f64::min) / operations),
        });
    }

    fn report(&mut self, question: Question, side: &mut Side<impl FnMut()>) {
        let mut group = self
            .criterion
            .benchmark_group(format!("{}/{}", self.name, question.what));
        group.throughput(criterion::Throughput::Elements(question.operations.into()));
        group.bench_function(side.who, |bencher| bencher.iter(&mut side.run));
        group.finish();
    }

    /// Prints the table.
    pub fn finish(self) {
        if self.is_measured {
            print!("{self}");
        }
    }
}

impl fmt::Display for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{}: medians [minima] in ns an operation, interleaved rounds",
            self.name
        )?;
        writeln!(f, "| what | ours | rival | ratio | goal | |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        self.rows.iter().try_for_each(|row| write!(f, "{row}"))?;
        self.means.iter().try_for_each(|mean| self.fmt_mean(mean, f))?;
        self.notes.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Contest {
    fn fmt_mean(&self, mean: &Mean, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self
            .rows
            .iter()
            .filter(|row| row.question.family == Some(mean.family));
        let (ratios, of_minima) = rows.map(|row| (row.ratio(), row.ratio_of_minima())).unzip();
        let (Some(ratio), Some(minimum)) = (geometric_mean(ratios), geometric_mean(of_minima)) else {
            return Ok(());
        };
        let (goal, verdict) = verdict(ratio, mean.goal);
        let family = mean.family;
        writeln!(
            f,
            "| {family}: geometric mean | | | {ratio:.3} [{minimum:.3}] | {goal} | {verdict} |"
        )
    }
}

fn geometric_mean(ratios: Vec<f64>) -> Option<f64> {
    let logarithms = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>();
    (!ratios.is_empty()).then(|| (logarithms / ratios.len() as f64).exp())
}

/// A goal's text, and what became of it.
fn verdict(ratio: f64, goal: Option<f64>) -> (String, &'static str) {
    match goal {
        None => ("-".to_owned(), ""),
        Some(goal) if ratio <= goal => (format!("{goal}"), "reached"),
        Some(goal) => (format!("{goal}"), "missed"),
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ours, theirs] = [0, 1].map(|i| {
            let (median, minimum) = (self.medians[i], self.minima[i]);
            format!("{} {median:.2} [{minimum:.2}]", self.who[i])
        });
        let (ratio, minimum) = (self.ratio(), self.ratio_of_minima());
        let (goal, verdict) = verdict(ratio, self.question.goal);
        let what = self.question.what;
        writeln!(
            f,
            "| {what} | {ours} | {theirs} | {ratio:.3} [{minimum:.3}] | {goal} | {verdict} |"
        )
    }
}

/// Nanoseconds a call of each side, one sample of each a round.
fn interleave(rounds: usize, ours: &mut impl FnMut(), theirs: &mut impl FnMut()) -> [Vec<f64>; 2] {
    let calls = [calls_of_batch(ours), calls_of_batch(theirs)];
    let mut samples = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
    for round in 0..rounds {
        if round % 2 == 0 {
            samples[0].push(sample(ours, calls[0]));
            samples[1].push(sample(theirs, calls[1]));
        } else {
            samples[1].push(sample(theirs, calls[1]));
            samples[0].push(sample(ours, calls[0]));
        }
    }
    samples
}

/// How many calls make a batch; warms up besides.
fn calls_of_batch(run: &mut impl FnMut()) -> u32 {
    let mut calls = 1;
    loop {
        let nanoseconds = sample(run, calls) * f64::from(calls);
        if nanoseconds >= BATCH.as_nanos() as f64 / 2.0 || calls >= 1 << 20 {
            return calls;
        }
        calls *= 2;
    }
}

/// Nanoseconds a call.
fn sample(run: &mut impl FnMut(), calls: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        black_box(&mut *run)();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&[5.0, 1.0, 9.0]), 5.0);
        assert_eq!(median(&[2.0]), 2.0);
    }

    #[test]
    fn a_half_and_a_double_come_to_one() {
        let mean = geometric_mean(vec![0.5, 2.0]).expect("two ratios have a mean");
        assert!((mean - 1.0).abs() < 1e-9, "the mean is {mean}");
        assert_eq!(geometric_mean(Vec::new()), None);
    }

    #[test]
    fn a_slower_side_has_the_larger_ratio() {
        let spin = |turns: u64| {
            move || {
                black_box((0..turns).fold(0, |sum, turn| black_box(sum + turn)));
            }
        };
        let [fast, slow] = interleave(ROUNDS, &mut spin(1000), &mut spin(4000));
        let ratio = median(&slow) / median(&fast);
        assert!((2.0..8.0).contains(&ratio), "the ratio is {ratio}");
    }
}
