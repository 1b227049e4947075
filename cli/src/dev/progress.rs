//! Showing how a run goes on: one line that changes on a terminal, else a line
//! every few seconds; and a summary at the end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::HumanCount;

use super::snapshot::Snapshot;
use crate::console::Console;

/// How often a line is written where none can change.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The time over which the rate is measured.
const RATE_SPAN: Duration = Duration::from_secs(3);

/// The progress of one run.
pub struct Progress {
    console: Console,
    group: String,
    now: Snapshot,
    looks: VecDeque<(Instant, u64)>,
    written: Instant,
    /// From the last look at which nothing was settled to the first at which all
    /// that is settled now was.
    busy: Option<(Instant, Instant)>,
    previous_look: Instant,
}

impl Progress {
    /// Nothing has happened yet.
    pub fn new(console: Console, group: String) -> Self {
        let now = Instant::now();
        Self {
            console,
            group,
            now: Snapshot::default(),
            looks: VecDeque::new(),
            written: now,
            busy: None,
            previous_look: now,
        }
    }

    /// The last look.
    pub fn now(&self) -> Snapshot {
        self.now
    }

    /// How long nothing has been settled.
    pub fn quiet_for(&self) -> Duration {
        self.busy.map_or(Duration::ZERO, |(_, last)| last.elapsed())
    }

    /// Takes a look and shows it.
    pub fn show(&mut self, snapshot: Snapshot) {
        let now = Instant::now();
        if snapshot.settled() > self.now.settled() {
            let (begin, _) = self.busy.unwrap_or((self.previous_look, now));
            self.busy = Some((begin, now));
        }
        self.previous_look = now;
        self.now = snapshot;
        self.looks.push_back((now, snapshot.settled()));
        while self
            .looks
            .front()
            .is_some_and(|(at, _)| now - *at > RATE_SPAN)
        {
            self.looks.pop_front();
        }
        if self.console.is_terminal() {
            self.console.progress(self.line());
        } else if now - self.written >= LINE_INTERVAL {
            self.written = now;
            self.console.say(self.line());
        }
    }

    fn line(&self) -> String {
        if self.now.partitions == 0 && self.now.settled() == 0 {
            return format!("waiting for group {} to assign partitions", self.group);
        }
        let mut parts = vec![
            format!("{} handled", HumanCount(self.now.handled)),
            format!("{}/s", HumanCount(self.rate())),
        ];
        parts.extend(lag(&self.now));
        parts.push(format!("{} in flight", HumanCount(self.now.in_flight)));
        parts.extend(troubles(&self.now));
        parts.join(" · ")
    }

    fn rate(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.looks.front(), self.looks.back())
        else {
            return 0;
        };
        per_second(after.saturating_sub(*before), *to - *from)
    }

    /// What the whole run came to.
    pub fn summary(&self) -> String {
        let Snapshot { handled, .. } = self.now;
        let mut parts = vec![match self.busy {
            Some((begin, end)) => format!(
                "{} handled in {:.1} s ({}/s)",
                HumanCount(handled),
                (end - begin).as_secs_f64(),
                HumanCount(per_second(handled, end - begin))
            ),
            None => format!("{} handled", HumanCount(handled)),
        }];
        parts.extend(troubles(&self.now));
        parts.join(" · ")
    }
}

fn per_second(count: u64, time: Duration) -> u64 {
    match time.as_secs_f64() {
        0.0 => 0,
        seconds => (count as f64 / seconds).round() as u64,
    }
}

fn lag(snapshot: &Snapshot) -> Option<String> {
    snapshot.lag.map(|lag| format!("lag {}", HumanCount(lag)))
}

/// What did not go well; nothing is said of what did not happen.
fn troubles(snapshot: &Snapshot) -> Vec<String> {
    [
        (snapshot.failed, "failed"),
        (snapshot.retries, "retried"),
        (snapshot.invalid, "invalid"),
        (snapshot.skipped, "skipped"),
        (snapshot.dead_lettered, "dead-lettered"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", HumanCount(count)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_happened_and_no_more() {
        let mut progress = Progress::new(Console::new(), "billing.orders".into());
        assert_eq!(
            progress.line(),
            "waiting for group billing.orders to assign partitions"
        );
        progress.show(Snapshot {
            partitions: 4,
            ..Snapshot::default()
        });
        assert_eq!(progress.line(), "0 handled · 0/s · 0 in flight");
        assert_eq!(progress.summary(), "0 handled");
        progress.show(Snapshot {
            handled: 12_345,
            failed: 3,
            retries: 7,
            dead_lettered: 3,
            in_flight: 2,
            lag: Some(1_000),
            partitions: 4,
            ..Snapshot::default()
        });
        let line = progress.line();
        assert!(line.starts_with("12,345 handled · "), "{line}");
        let end = " · lag 1,000 · 2 in flight · 3 failed · 7 retried · 3 dead-lettered";
        assert!(line.ends_with(end), "{line}");
        let summary = progress.summary();
        assert!(summary.starts_with("12,345 handled in "), "{summary}");
        assert!(
            summary.ends_with("/s) · 3 failed · 7 retried · 3 dead-lettered"),
            "{summary}"
        );
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(per_second(500, Duration::from_millis(250)), 2_000);
        assert_eq!(per_second(500, Duration::ZERO), 0);
    }
}
