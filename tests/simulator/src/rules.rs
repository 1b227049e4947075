//! The rules that every run must keep.

mod assignments;
mod deliveries;
mod ends;
mod evidence;
mod losses;
mod outputs;
mod owners;

use std::fmt;

use penstock_runtime::simulation::{Happened, Run, Scenario, run};

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// No task of the engine panics.
    NothingPanics,
    /// Everything is settled and committed once disturbances have ended, and a stop ends.
    NothingHangs,
    /// Every message is settled.
    EverythingSettled,
    /// Committed offsets never pass an unsettled message.
    CommitsWithinSettled,
    /// Committed offsets never go back.
    CommitsNeverGoBack,
    /// InOrder never overlaps or inverts within a partition.
    InOrder,
    /// KeyOrdered never overlaps or inverts within a key.
    KeyOrder,
    /// A message that was settled, or taken from its handler, comes again only under another
    /// assignment.
    DuplicatesExplained,
    /// Where nothing disturbs commits, nothing settled comes again at all.
    NoDuplicatesInOrderlyRuns,
    /// A message never names more attempts than allowed, and counts on within an
    /// assignment; where nothing disturbs commits, under the next one too.
    AttemptsCounted,
    /// An attempt follows a failed one only after its back-off.
    BackOffKept,
    /// Nothing is begun by a process that was told to stop.
    NothingBegunAtAStop,
    /// Each handled message of a transactional consumer has one output record, in order.
    ExactlyOnce,
    /// A message that was given up to the dead letters is among them.
    DeadLettersWritten,
    /// A message that retention or another log has taken is named as lost, and nothing else
    /// is.
    LossesCounted,
    /// A consumer ends by a failure only where a message or the brokers give cause.
    EndsExplained,
    /// Where nothing disturbs commits, nothing that was read is passed over.
    ReadKeptInOrderlyRuns,
}

/// Every rule, in the order in which they are checked.
pub const ALL: [Rule; 17] = [
    Rule::NothingPanics,
    Rule::NothingHangs,
    Rule::EverythingSettled,
    Rule::CommitsWithinSettled,
    Rule::CommitsNeverGoBack,
    Rule::InOrder,
    Rule::KeyOrder,
    Rule::DuplicatesExplained,
    Rule::NoDuplicatesInOrderlyRuns,
    Rule::AttemptsCounted,
    Rule::BackOffKept,
    Rule::NothingBegunAtAStop,
    Rule::ExactlyOnce,
    Rule::DeadLettersWritten,
    Rule::LossesCounted,
    Rule::EndsExplained,
    Rule::ReadKeptInOrderlyRuns,
];

/// A breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The message that it concerns, by partition and offset, if one does.
    pub message: Option<(i32, i64)>,
    /// What happened.
    pub text: String,
}

impl Violation {
    fn of(rule: Rule, message: (i32, i64), text: impl Into<String>) -> Self {
        Self {
            rule,
            message: Some(message),
            text: text.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// Plays a scenario and judges it.
pub fn judge(scenario: &Scenario) -> (Run, Vec<Violation>) {
    let run = run(scenario, false);
    let violations = violations(scenario, &run);
    (run, violations)
}

/// Everything in a run that breaks a rule.
pub fn violations(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let panics = panics(run);
    if !panics.is_empty() {
        return panics;
    }
    if let Some(text) = &run.hung {
        // What else is missing follows from that.
        return vec![Violation {
            rule: Rule::NothingHangs,
            message: None,
            text: text.clone(),
        }];
    }
    let mut violations = evidence::violations(scenario, run);
    violations.extend(deliveries::no_duplicates_in_orderly_runs(scenario, run));
    violations.extend(deliveries::duplicates_explained(scenario, run));
    violations.extend(deliveries::attempts_counted(scenario, run));
    violations.extend(deliveries::back_off_kept(scenario, run));
    violations.extend(deliveries::nothing_begun_at_a_stop(scenario, run));
    violations.extend(outputs::exactly_once(scenario, run));
    violations.extend(outputs::dead_letters_written(scenario, run));
    violations.extend(losses::losses_counted(scenario, run));
    violations.extend(assignments::attempts_counted(scenario, run));
    violations.extend(assignments::comes_again_in_order(scenario, run));
    violations.extend(assignments::ends_with_its_assignment(scenario, run));
    violations.extend(ends::ends_explained(scenario, run));
    violations.extend(ends::read_kept_in_orderly_runs(scenario, run));
    violations
}

fn panics(run: &Run) -> Vec<Violation> {
    let ends = run
        .processes
        .iter()
        .filter_map(|(_, _, happened)| match happened {
            Happened::Ended(Some(error)) if error.starts_with(UNEXPECTED) => Some(error),
            _ => None,
        });
    ends.map(|error| Violation {
        rule: Rule::NothingPanics,
        message: None,
        text: error.clone(),
    })
    .collect()
}

/// How the error of a task that panicked begins.
const UNEXPECTED: &str = "a task ended unexpectedly";
