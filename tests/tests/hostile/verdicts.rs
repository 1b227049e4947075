//! What became of the messages, held against the table.

use std::collections::BTreeMap;
use std::error::Error;

use penstock_tests::Position;
use penstock_tests::promtext::Exposition;
use penstock_tests::topics::Stored;
use penstock_tests::usage::Memory;

use crate::run::Sent;
use crate::table::{End, Row};

/// The number of failures after which an SDK may log no more in a second.
const MAX_FAILURES: usize = 10;

/// The evidence of a run.
pub struct Found {
    pub letters: Vec<Stored>,
    pub attempts: Attempts,
    pub metrics: Exposition,
    pub memory: Memory,
    pub files: usize,
    pub handler: Vec<String>,
    pub runtime: Vec<String>,
}

/// The attempts at each message that handlers wrote down, by partition and offset.
pub struct Attempts(BTreeMap<(i32, i64), Vec<u32>>);

impl Attempts {
    /// Reads a journal: partition, offset and attempt in each line.
    pub fn read(journal: &str) -> Result<Self, Box<dyn Error>> {
        let mut attempts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for line in journal.lines() {
            let parts: Vec<_> = line.split(' ').collect();
            let [partition, offset, attempt] = parts.as_slice() else {
                return Err(format!("{line:?} in the journal").into());
            };
            let place = (partition.parse()?, offset.parse()?);
            attempts.entry(place).or_default().push(attempt.parse()?);
        }
        Ok(Self(attempts))
    }

    fn of(&self, position: &Position) -> &[u32] {
        let place = (position.partition, position.offset);
        self.0.get(&place).map_or(&[], Vec::as_slice)
    }
}

/// A dead letter's facts.
struct Letter {
    attempts: u32,
    reason: String,
}

/// Returns all that is not as the table wants it.
pub fn problems(sent: &[Sent], found: &Found) -> Vec<String> {
    let letters = letters(&found.letters);
    let mut wrong = Vec::new();
    for message in sent {
        let position = &message.position;
        let attempts = found.attempts.of(position);
        let letter = letters.get(&(position.partition, position.offset));
        if let Some(row) = &message.row {
            let mut add = |text: String| wrong.push(format!("{}: {text}", row.name));
            check_row(row, attempts, letter, &mut add);
            check_logs(row, found, &mut add);
            continue;
        }
        let most = if message.may_be_charged { 2 } else { 1 };
        if !(1..=most).contains(&charged(attempts)) || letter.is_some() {
            let reason = letter.map(|letter| &letter.reason);
            wrong.push(format!(
                "the innocent message {position:?} had the attempts {attempts:?}, dead-lettered: {reason:?}"
            ));
        }
    }
    check_counts(sent, found, &mut wrong);
    check_lines(&found.runtime, &mut wrong);
    wrong
}

/// The number of the last attempt; 0 without any.
fn charged(attempts: &[u32]) -> u32 {
    attempts.iter().copied().max().unwrap_or(0)
}

/// Holds that no reason of a handler's begins a line of the log.
fn check_lines(lines: &[String], wrong: &mut Vec<String>) {
    let is_odd = |line: &&String| !line.starts_with(|first: char| first.is_ascii_digit());
    if let Some(line) = lines.iter().find(is_odd) {
        wrong.push(format!("the runtime's log has the line {line:?}"));
    }
}

fn check_row(row: &Row, attempts: &[u32], letter: Option<&Letter>, add: &mut impl FnMut(String)) {
    let least = if row.fewer { 1 } else { row.attempts };
    if !(least..=row.attempts).contains(&charged(attempts)) {
        add(format!(
            "the attempts were {attempts:?}, not {}",
            row.attempts
        ));
    }
    match (letter, row.end) {
        (Some(letter), End::DeadLettered) => {
            let wanted = row.reason.as_deref().unwrap_or_default();
            if letter.attempts != row.attempts || !letter.reason.contains(wanted) {
                add(format!(
                    "dead-lettered after {} attempts: {:.300?}",
                    letter.attempts, letter.reason
                ));
            }
        }
        (None, End::DeadLettered) => add("there is no dead letter".into()),
        (Some(letter), _) => add(format!("dead-lettered: {:.300}", letter.reason)),
        (None, _) => {}
    }
}

fn check_logs(row: &Row, found: &Found, add: &mut impl FnMut(String)) {
    let has = |lines: &[String], wanted: &Option<String>| {
        let Some(wanted) = wanted else {
            return true;
        };
        lines.iter().any(|line| line.contains(wanted.as_str()))
    };
    // SDKs log ten failures a second.
    let failures = found.handler.iter();
    let failures = failures.filter(|line| line.contains("a message failed"));
    if !has(&found.handler, &row.handler) && failures.count() < MAX_FAILURES {
        add(format!("the handler's log has no {:?}", row.handler));
    }
    if !has(&found.runtime, &row.runtime) {
        add(format!("the runtime's log has no {:?}", row.runtime));
    }
}

/// Holds the runtime's own counts against the table.
fn check_counts(sent: &[Sent], found: &Found, wrong: &mut Vec<String>) {
    let rows = || sent.iter().filter_map(|message| message.row.as_ref());
    let ended = |end: End| rows().filter(|row| row.end == end).count();
    let (skipped, dead) = (ended(End::Skipped), ended(End::DeadLettered));
    let attempts = sent
        .iter()
        .map(|message| found.attempts.of(&message.position));
    let retries: u32 = attempts.map(|them| charged(them).saturating_sub(1)).sum();
    let count = |name: &str, labels: &[(&str, &str)]| found.metrics.value(name, labels);
    let processed = |success| {
        count(
            "kafka_consumer_messages_processed_total",
            &[("kafka_success", success)],
        )
    };
    let mut hold = |what: &str, seen: Option<f64>, wanted: usize| {
        if seen.unwrap_or(0.0) != wanted as f64 {
            wrong.push(format!("the metrics count {seen:?} {what}, not {wanted}"));
        }
    };
    hold(
        "skipped",
        count("penstock_skipped_messages_total", &[]),
        skipped,
    );
    hold(
        "dead letters",
        count("penstock_dead_lettered_messages_total", &[]),
        dead,
    );
    hold("handled", processed("true"), sent.len() - skipped - dead);
    hold("not handled", processed("false"), skipped + dead);
    hold(
        "retries",
        count("penstock_retries_total", &[]),
        retries as usize,
    );
    if found.letters.len() != dead {
        wrong.push(format!("{} dead letters, not {dead}", found.letters.len()));
    }
}

/// The dead letters, by partition and offset of their messages.
fn letters(stored: &[Stored]) -> BTreeMap<(i32, i64), Letter> {
    let letters = stored.iter().filter_map(|letter| {
        let header = |name: &str| {
            let name = format!("penstock.failure.{name}");
            let (_, value) = letter.headers.iter().find(|(found, _)| *found == name)?;
            String::from_utf8(value.clone()?).ok()
        };
        let place = (
            header("partition")?.parse().ok()?,
            header("offset")?.parse().ok()?,
        );
        let letter = Letter {
            attempts: header("attempts")?.parse().ok()?,
            reason: header("reason")?,
        };
        Some((place, letter))
    });
    letters.collect()
}
