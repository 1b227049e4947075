//! The truth about partitions and their messages, and what contradicts the promises.

use std::collections::HashSet;

use super::story::{Ending, Fate, MAX_ATTEMPTS, backoff};
use super::*;
use crate::handler::FailureKind;
use crate::offsets::gaps::Gaps;

/// Partition, offset and attempt of each message of a call.
pub(super) type Call = Vec<(usize, i64, u32)>;

pub(super) struct World {
    mode: Mode,
    partitions: Vec<Truth>,
    wrong: Vec<String>,
}

struct Truth {
    story: Story,
    partition: Arc<Partition>,
    is_draining: bool,
    is_swept: bool,
    is_revoked: bool,
    messages: Vec<Known>,
}

/// What is known of a message.
#[derive(Clone, Default)]
struct Known {
    is_running: bool,
    /// Handled or given up, by a verdict that counts.
    is_settled: bool,
    /// The last attempt that failed, and when the next may begin.
    failed: Option<(u32, Instant)>,
}

impl Truth {
    fn first_unsettled(&self) -> i64 {
        let settled = self.messages.iter().take_while(|it| it.is_settled);
        i64::try_from(settled.count()).unwrap()
    }

    fn known(&mut self, offset: i64) -> &mut Known {
        &mut self.messages[usize::try_from(offset).unwrap()]
    }

    fn planned(&self, offset: i64) -> &Planned {
        &self.story.messages[usize::try_from(offset).unwrap()]
    }
}

impl World {
    pub(super) fn new(mode: Mode, stories: &[Story], metrics: &Metrics) -> Self {
        let truth = |(number, story): (usize, &Story)| Truth {
            partition: partition(metrics, i32::try_from(number).unwrap()),
            is_draining: false,
            is_swept: false,
            is_revoked: false,
            messages: story
                .messages
                .iter()
                .map(|planned| Known {
                    is_settled: matches!(planned.fate, Fate::Invalid),
                    ..Known::default()
                })
                .collect(),
            story: story.clone(),
        };
        Self {
            mode,
            partitions: stories.iter().enumerate().map(truth).collect(),
            wrong: Vec::new(),
        }
    }

    pub(super) fn partition(&self, number: usize) -> &Arc<Partition> {
        &self.partitions[number].partition
    }

    /// Attempts begin. Returns how long they take.
    pub(super) fn begin(&mut self, call: &Call) -> Duration {
        for (place, message) in call.iter().enumerate() {
            for wrong in self.wrong_with(*message, &call[..place]) {
                self.wrong.push(format!("{message:?} begins: {wrong}"));
            }
        }
        let mut takes = 0;
        for (number, offset, _) in call {
            let truth = &mut self.partitions[*number];
            truth.known(*offset).is_running = true;
            takes = takes.max(truth.planned(*offset).takes);
        }
        self.check_commits();
        ms(takes)
    }

    fn wrong_with(&self, message: (usize, i64, u32), before: &[(usize, i64, u32)]) -> Vec<String> {
        let (number, offset, attempt) = message;
        let truth = &self.partitions[number];
        let at = usize::try_from(offset).unwrap();
        let known = &truth.messages[at];
        let ends = match self.mode.redelivers() {
            true => truth.is_draining,
            false => truth.is_revoked,
        };
        let too_early = match known.failed {
            _ if attempt == 1 => false,
            Some((failed, due)) => failed != attempt - 1 || Instant::now() < due,
            None => true,
        };
        let in_call = |earlier: usize| {
            before
                .iter()
                .any(|it| (it.0, it.1) == (number, earlier as i64))
        };
        let overtakes = (0..at).find(|earlier| {
            let ordered = match self.mode {
                Mode::InOrder => true,
                Mode::KeyOrdered => {
                    let key = |at: usize| truth.story.messages[at].key;
                    key(*earlier) == key(at)
                }
                Mode::Fast | Mode::Read => false,
            };
            ordered && !truth.messages[*earlier].is_settled && !in_call(*earlier)
        });
        let rules = [
            (ends, "its partition drains or is revoked".to_owned()),
            (known.is_running, "it runs already".to_owned()),
            (known.is_settled, "it is settled".to_owned()),
            (attempt > MAX_ATTEMPTS, "it has no more attempts".to_owned()),
            (
                too_early,
                format!("not after its back-off: {:?}", known.failed),
            ),
            (overtakes.is_some(), format!("it overtakes {overtakes:?}")),
        ];
        let broken = rules.into_iter().filter(|(broken, _)| *broken);
        broken.map(|(_, rule)| rule).collect()
    }

    /// Attempts end. Returns the verdicts, whether they count or not.
    pub(super) fn end(&mut self, call: &Call) -> Vec<Result<(), HandlerError>> {
        let now = Instant::now();
        let (mut is_void, mut stopped) = (false, HashSet::new());
        let mut verdicts = Vec::new();
        for (number, offset, attempt) in call {
            let truth = &mut self.partitions[*number];
            let Planned { fate, key, .. } = *truth.planned(*offset);
            let is_revoked = truth.is_revoked;
            let known = truth.known(*offset);
            known.is_running = false;
            let verdict = fate.verdict(*attempt);
            let counts = !is_revoked && !is_void && !stopped.contains(&(*number, key));
            match &verdict {
                Err(error) if counts => {
                    let again = error.kind() == FailureKind::Retryable && *attempt < MAX_ATTEMPTS;
                    if again {
                        known.failed = Some((*attempt, now + backoff(*attempt, error)));
                    }
                    known.is_settled = !again;
                    is_void = self.mode == Mode::InOrder && error.kind() != FailureKind::Skip;
                    if self.mode == Mode::KeyOrdered && error.kind() != FailureKind::Skip {
                        stopped.insert((*number, key));
                    }
                }
                Ok(()) if counts => known.is_settled = true,
                _ => {}
            }
            verdicts.push(verdict);
        }
        self.check_commits();
        verdicts
    }

    /// A call is cut short.
    pub(super) fn cut(&mut self, call: &Call) {
        if call.iter().any(|it| !self.partitions[it.0].is_revoked) {
            self.wrong.push(format!("{call:?} is cut for some of it"));
        }
        for (number, offset, _) in call {
            self.partitions[*number].known(*offset).is_running = false;
        }
    }

    /// A handler asks for a commit behind a message.
    pub(super) fn commit(&mut self, partition: &Partition, message: i64) -> CommitResult {
        if partition.is_revoked() {
            return CommitResult::Revoked;
        }
        let truth = &self.partitions[usize::try_from(partition.number).unwrap()];
        let first = truth.first_unsettled();
        match partition.commit_point_behind(message) {
            Some(point) if point.offset > first => {
                self.wrong.push(format!("{point:?} passes {first}"));
            }
            Some(_) => {}
            None => self.wrong.push(format!("no commit behind {message}")),
        }
        CommitResult::Committed
    }

    /// What the runtime would commit by itself passes nothing, and says of nothing that it
    /// is settled unless it is.
    fn check_commits(&mut self) {
        for truth in &self.partitions {
            let Some(point) = truth.partition.commit_point() else {
                continue;
            };
            let gaps = Gaps::decode(point.metadata.as_bytes(), point.offset).unwrap();
            let is_said = |offset: i64| {
                offset < point.offset || gaps.as_ref().is_some_and(|gaps| gaps.is_complete(offset))
            };
            let mut messages = (0..).zip(&truth.messages);
            if let Some((offset, _)) = messages.find(|(at, it)| is_said(*at) && !it.is_settled) {
                self.wrong.push(format!("{point:?} passes {offset}"));
            }
        }
    }

    /// Drains and revokes what is to be by now. Returns partitions whose messages the
    /// pump takes out of the queue.
    pub(super) fn advance(&mut self, elapsed: Duration) -> HashSet<i32> {
        let redelivers = self.mode.redelivers();
        let mut swept = HashSet::new();
        for truth in &mut self.partitions {
            let Some(Ending {
                drain,
                sweep,
                revoke,
            }) = truth.story.ending
            else {
                continue;
            };
            if elapsed >= ms(drain) && !truth.is_draining {
                truth.is_draining = true;
                truth.partition.drain(redelivers);
            }
            if elapsed >= ms(drain + sweep) && redelivers && !truth.is_swept {
                truth.is_swept = true;
                swept.insert(truth.partition.number);
            }
            let revoked_at = revoke.map(|revoke| ms(drain + sweep + revoke));
            if revoked_at.is_some_and(|at| elapsed >= at) && !truth.is_revoked {
                truth.is_revoked = true;
                truth.partition.revoke();
            }
        }
        self.check_commits();
        swept
    }

    /// Returns `true` if every message is settled or abandoned.
    pub(super) fn is_idle(&self) -> bool {
        let mut partitions = self.partitions.iter();
        partitions.all(|truth| truth.partition.in_flight() == 0)
    }

    /// Returns what was wrong.
    pub(super) fn finish(&mut self) -> Vec<String> {
        self.check_commits();
        for truth in &self.partitions {
            let number = truth.partition.number;
            let count = i64::try_from(truth.messages.len()).unwrap();
            let left = truth.partition.in_flight();
            if left > 0 {
                self.wrong.push(format!(
                    "{left} of {number} neither settle nor are abandoned"
                ));
            }
            let committable = truth.partition.committable();
            if !truth.is_draining && committable != Some(count) {
                self.wrong
                    .push(format!("{number} ends at {committable:?} of {count}"));
            }
            if !truth.is_draining && truth.first_unsettled() != count {
                self.wrong.push(format!("{number} has unsettled messages"));
            }
        }
        std::mem::take(&mut self.wrong)
    }
}
