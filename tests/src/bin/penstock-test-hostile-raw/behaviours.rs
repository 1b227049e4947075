//! What is done with deliveries.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use penstock_handler::v1::{Batch, Delivery, Extension, FromHandler, Order, Range};
use prost::Message as _;
use tonic::Status;

use crate::service::Answers;
use crate::words::{self, Opening, begun, done, fail, release, verdict, welcome};
use crate::{State, lock};

pub const NAMES: [&str; 36] = [
    "answer-twice",
    "answer-for-nobody",
    "answer-without-outcome",
    "answer-nothing",
    "answer-late",
    "begin-twice",
    "begin-after-the-verdict",
    "begin-and-release",
    "release-often",
    "release-for-years",
    "never-begin",
    "extend-unbegun",
    "extend-for-years",
    "flood-credits",
    "flood-nothing",
    "count-nothing",
    "welcome-twice",
    "huge-verdict",
    "longest-reason",
    "send-garbage",
    "send-odd-text",
    "send-too-much",
    "end-with-error",
    "end-with-huge-error",
    "end-in-order",
    "no-welcome",
    "old-welcome",
    "unknown-orders",
    "order-not-listed",
    "refuse",
    "say-nothing",
    "no-credits",
    "batch-of-one",
    "huge-headers",
    "not-serving",
    "stop-listening",
];

/// The handler's side of one stream.
pub struct Talk {
    state: Arc<State>,
    answers: Answers,
    order: Order,
}

/// A delivery of a batch.
struct Given {
    id: u64,
    partition: i32,
    delivery: Delivery,
}

/// What became of a delivery.
enum After {
    /// It is settled, and the next one may begin.
    Settled,
    /// It failed, or is open still: nothing behind it in an order may begin.
    Held,
    /// The stream is over.
    Over,
}

impl Talk {
    pub fn new(state: Arc<State>, answers: Answers, order: Order) -> Self {
        Self {
            state,
            answers,
            order,
        }
    }

    pub fn say(&self, message: FromHandler) {
        self.say_bytes(message.encode_to_vec());
    }

    fn say_bytes(&self, bytes: Vec<u8>) {
        // The runtime may have left.
        let _ = self.answers.send(Some(Ok(bytes)));
    }

    pub fn say_later(&self, (wait, message): (Duration, FromHandler)) {
        let answers = self.answers.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = answers.send(Some(Ok(message.encode_to_vec())));
        });
    }

    /// Handles a batch, one delivery after the other. Breaks at the end of the stream.
    pub async fn take(&mut self, batch: Batch) -> ControlFlow<()> {
        let given = deliveries(batch);
        if self.order == Order::Unspecified
            && let Some(first) = given.first()
        {
            // All begin at once, so that none is innocent by its report when the stream breaks.
            self.say(begun(first.id, given.len() as u64));
        }
        let mut is_held = false;
        for one in given {
            let id = one.id;
            self.say(words::credits(1));
            if is_held {
                self.say(release(id, 0));
                continue;
            }
            match self.handle(one).await {
                After::Settled => {}
                After::Held => is_held = self.order != Order::Unspecified,
                After::Over => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    async fn handle(&mut self, given: Given) -> After {
        let Given {
            id,
            partition,
            delivery,
        } = given;
        let count = self
            .state
            .note(partition, delivery.offset, delivery.attempt);
        let header = |name: &str| {
            let found = delivery.headers.iter().find(|header| header.name == name)?;
            String::from_utf8(found.value.as_ref()?.to_vec()).ok()
        };
        let times = header("times").and_then(|times| times.parse().ok());
        let name = header("behaviour").filter(|_| delivery.attempt <= times.unwrap_or(u32::MAX));
        let Some(name) = name else {
            self.say(done(id));
            return After::Settled;
        };
        if let Some(openings) = openings(&name) {
            return self.begin_again(id, count, openings);
        }
        match name.as_str() {
            name if name.starts_with("send-") || name.starts_with("end-") => {
                self.say(begun(id, 1));
                self.end(name, id, count).await
            }
            "not-serving" if count == 0 => {
                self.state.fall_ill();
                self.close()
            }
            "stop-listening" if count == 0 => {
                self.state.stop_listening();
                self.close()
            }
            name => match self.say_odd(name, id, count) {
                true => After::Settled,
                false => After::Held,
            },
        }
    }

    /// Ends the stream in order, so that all comes again on streams with these openings.
    fn begin_again(&self, id: u64, count: u32, openings: Vec<Opening>) -> After {
        if count == 0 {
            lock(&self.state.openings).extend(openings);
        } else {
            self.say(done(id));
        }
        self.close()
    }

    fn close(&self) -> After {
        let _ = self.answers.send(None);
        After::Over
    }

    /// Breaks the stream.
    async fn end(&self, name: &str, id: u64, count: u32) -> After {
        // The report leaves first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        match name {
            "send-garbage" => self.say_bytes(vec![0xff; 100]),
            // A fail whose reason is not UTF-8.
            "send-odd-text" => {
                let mut bytes = fail(id, "??").encode_to_vec();
                let text = bytes.len() - 2;
                bytes[text..].copy_from_slice(&[0xff, 0xfe]);
                self.say_bytes(bytes);
            }
            "send-too-much" => self.say(fail(id, "x".repeat(80 << 20))),
            "end-with-error" => {
                let _ = self.answers.send(Some(Err(Status::internal("enough"))));
            }
            "end-with-huge-error" => {
                let status = Status::internal("x".repeat(1 << 20));
                let _ = self.answers.send(Some(Err(status)));
            }
            // In order: it costs no attempt.
            _ if count > 0 => self.say(done(id)),
            _ => {}
        }
        self.close()
    }

    /// Says something odd of a delivery. Returns `true` if that settles it as done.
    fn say_odd(&self, name: &str, id: u64, count: u32) -> bool {
        match name {
            "answer-without-outcome" => self.say(verdict(id, 1, None)),
            "answer-nothing" => self.say(begun(id, 1)),
            "answer-late" => {
                self.say(begun(id, 1));
                self.say_later((Duration::from_millis(2500), done(id)));
            }
            "begin-and-release" => {
                self.say(begun(id, 1));
                self.say(release(id, 0));
            }
            "release-often" if count < 5 => self.say(release(id, 0)),
            "release-for-years" if count == 0 => self.say(release(id, u64::MAX)),
            "never-begin" if count == 0 => {}
            "extend-for-years" => {
                self.say(begun(id, 1));
                for _ in 0..100 {
                    self.say(extension(id, 1, u64::MAX));
                    self.say(extension(0, u64::MAX, 1));
                }
            }
            "huge-verdict" => self.say(fail(id, "x".repeat(20 << 20))),
            "longest-reason" => self.say(fail(id, "x\n".repeat(7 << 20))),
            name => {
                self.say_done(name, id);
                return true;
            }
        }
        false
    }

    /// Says that a delivery is done, with something odd around it.
    fn say_done(&self, name: &str, id: u64) {
        match name {
            "answer-for-nobody" => {
                self.say(fail(0, "nobody"));
                self.say(verdict(id + (1 << 40), u64::MAX, fail_outcome()));
                self.say(begun(u64::MAX, u64::MAX));
            }
            "begin-twice" => {
                self.say(begun(id, 1));
                self.say(begun(id, 1));
            }
            "extend-unbegun" => self.say(extension(id, 1, 1)),
            "flood-credits" => (0..1000).for_each(|_| self.say(words::credits(u32::MAX))),
            "flood-nothing" => (0..20_000).for_each(|_| self.say(FromHandler::default())),
            "welcome-twice" => self.say(FromHandler {
                welcome: Some(welcome()),
                ..FromHandler::default()
            }),
            _ => {}
        }
        match name {
            "count-nothing" => {
                let outcome = done(id).verdicts.remove(0).outcome;
                self.say(verdict(id, 0, outcome));
            }
            _ => self.say(done(id)),
        }
        match name {
            "answer-twice" => self.say(fail(id, "no, it failed")),
            "begin-after-the-verdict" => self.say(begun(id, 1)),
            _ => {}
        }
    }
}

/// How the next streams begin after a behaviour of the handshake.
fn openings(name: &str) -> Option<Vec<Opening>> {
    Some(match name {
        "no-welcome" => vec![Opening::NoWelcome],
        "old-welcome" => vec![Opening::Old, Opening::Old],
        "unknown-orders" => vec![Opening::Future],
        "order-not-listed" => vec![Opening::Unordered, Opening::Unordered],
        "refuse" => vec![Opening::Refused, Opening::Refused],
        "say-nothing" => vec![Opening::Silent],
        "no-credits" => vec![Opening::NoCredits],
        "batch-of-one" => vec![Opening::BatchOfOne],
        "huge-headers" => vec![Opening::HugeHeaders, Opening::HugeHeaders],
        _ => return None,
    })
}

fn deliveries(batch: Batch) -> Vec<Given> {
    let runs = batch.runs.into_iter();
    let deliveries = runs.flat_map(|run| {
        let partition = run.partition;
        run.deliveries.into_iter().map(move |it| (partition, it))
    });
    (batch.first_id..)
        .zip(deliveries)
        .map(|(id, (partition, delivery))| Given {
            id,
            partition,
            delivery,
        })
        .collect()
}

fn extension(first_id: u64, count: u64, time_ms: u64) -> FromHandler {
    FromHandler {
        extensions: vec![Extension {
            deliveries: Some(Range { first_id, count }),
            time_ms,
        }],
        ..FromHandler::default()
    }
}

fn fail_outcome() -> Option<penstock_handler::v1::verdict::Outcome> {
    fail(0, "nobody").verdicts.remove(0).outcome
}
