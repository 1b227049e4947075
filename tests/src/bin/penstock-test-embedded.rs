//! A consumer whose handler is embedded, and keeps a journal for the recorder of a test.
//!
//! It is done with every other message at once, blocks its thread for a moment at a few,
//! and waits for the others. Its environment says how:
//!
//! - `PENSTOCK_TEST_JOURNAL`: the journal's file
//! - `PENSTOCK_TEST_LONGEST`: below how many milliseconds it waits
//! - `PENSTOCK_TEST_GATE`: a file; until it exists no message is done; none if absent
//! - `PENSTOCK_TEST_POISON`: one in so many messages is refused; none if absent
//! - `PENSTOCK_TEST_BEHAVIOUR`: what it does wrong, see `lane::Behaviour`; nothing if absent
//! - `PENSTOCK_TEST_PRODUCE`: the topic of a record for each message; none if absent

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use penstock_runtime::decode::Json;
use penstock_runtime::handler::{HandlerError, handler_fn};
use penstock_runtime::record::Message;
use penstock_runtime::{Done, ProducerRecord};
use penstock_tests::Position;
use penstock_tests::lane::{Behaviour, Odd};
use penstock_tests::recorder::{Begun, Given, Journal};
use penstock_tests::variable;
use serde_json::{Value, json};

/// One in so many messages blocks the thread, for so long.
const BLOCKING: u64 = 50;
const BLOCKED: Duration = Duration::from_millis(1);

/// The status of a call that was dropped.
const CUT: u16 = 499;

/// How often a message looks whether the gate is open.
const LOOK: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() -> ExitCode {
    let handler = match Embedded::from_env() {
        Ok(handler) => Arc::new(handler),
        Err(error) => {
            eprintln!("penstock-test-embedded: {error}");
            return ExitCode::FAILURE;
        }
    };
    let handler = handler_fn(move |message: Message<'_, Value>| {
        let call = handler.begin(&message);
        let handler = Arc::clone(&handler);
        async move { handler.end(call?).await }
    });
    penstock_runtime::run_main(Json::new(), handler).await
}

struct Embedded {
    journal: Journal,
    longest: u64,
    gate: Option<PathBuf>,
    poison: Option<u64>,
    behaviour: Behaviour,
    produce: Option<String>,
}

/// A message at work.
struct Call {
    begun: Begun,
    given: Given,
}

/// What the variable says that it does wrong.
fn behaviour() -> Result<Behaviour, String> {
    const NAME: &str = "PENSTOCK_TEST_BEHAVIOUR";
    let Some(text) = variable::text(NAME) else {
        return Ok(Behaviour::Steady);
    };
    Behaviour::from_env(&text).ok_or_else(|| format!("{NAME} is {text}, which is none"))
}

impl Embedded {
    fn from_env() -> Result<Self, Box<dyn Error>> {
        let journal = env::var("PENSTOCK_TEST_JOURNAL");
        let journal = journal.map_err(|error| format!("PENSTOCK_TEST_JOURNAL: {error}"))?;
        Ok(Self {
            journal: Journal::open(journal)?,
            longest: variable::number("PENSTOCK_TEST_LONGEST")?.unwrap_or(0),
            gate: env::var_os("PENSTOCK_TEST_GATE").map(PathBuf::from),
            poison: variable::number("PENSTOCK_TEST_POISON")?,
            behaviour: behaviour()?,
            produce: env::var("PENSTOCK_TEST_PRODUCE").ok(),
        })
    }

    fn begin(&self, message: &Message<'_, Value>) -> Result<Call, HandlerError> {
        let key = message.key().map(String::from_utf8_lossy);
        let given = Given {
            position: Position::new(message.topic(), message.partition(), message.offset()),
            key: key.map(Into::into),
            attempt: message.attempt(),
            epoch: message.epoch(),
        };
        let begun = self.journal.begin(given.clone()).map_err(no_journal)?;
        Ok(Call { begun, given })
    }

    async fn end(&self, call: Call) -> Result<Done, HandlerError> {
        let Call { begun, given } = call;
        let offset = given.position.offset.unsigned_abs();
        let scatter = given.position.scatter();
        while self.gate.as_ref().is_some_and(|gate| !gate.exists()) {
            tokio::time::sleep(LOOK).await;
        }
        match self.behaviour.embedded(scatter, given.attempt) {
            Some(Odd::Fails) => {
                self.journal.end(begun, 503).map_err(no_journal)?;
                return Err(HandlerError::retryable("odd"));
            }
            Some(Odd::Hangs) => {
                // Dropped when its time is up.
                let _cut = Cut(&self.journal, Some(begun));
                return std::future::pending().await;
            }
            Some(Odd::Takes(time)) => {
                let mut cut = Cut(&self.journal, Some(begun));
                tokio::time::sleep(time).await;
                return cut.end(204).map(|()| self.done(given));
            }
            None => {}
        }
        if scatter.is_multiple_of(BLOCKING) {
            thread::sleep(BLOCKED);
        } else if scatter % 2 == 1 && self.longest > 0 {
            tokio::time::sleep(Duration::from_millis(scatter % self.longest)).await;
        }
        if self
            .poison
            .is_some_and(|poison| offset % poison == poison - 1)
        {
            self.journal.end(begun, 422).map_err(no_journal)?;
            return Err(HandlerError::permanent("poison"));
        }
        self.journal.end(begun, 204).map_err(no_journal)?;
        Ok(self.done(given))
    }

    fn done(&self, given: Given) -> Done {
        self.record(given).map_or_else(Done::default, Done::from)
    }

    fn record(&self, given: Given) -> Option<ProducerRecord> {
        let topic = self.produce.as_ref()?;
        let Position {
            partition, offset, ..
        } = given.position;
        let data = json!({ "partition": partition, "offset": offset });
        let record = ProducerRecord::new(topic.as_str(), data.to_string());
        Some(record.key(given.key.unwrap_or_default()))
    }
}

/// A delivery that gets a verdict in any case, even when its call is dropped.
struct Cut<'a>(&'a Journal, Option<Begun>);

impl Cut<'_> {
    fn end(&mut self, status: u16) -> Result<(), HandlerError> {
        let begun = self.1.take();
        begun.map_or(Ok(()), |begun| {
            self.0.end(begun, status).map_err(no_journal)
        })
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        // A journal that can't be written leaves it open, which a test sees.
        let _ = self.end(CUT);
    }
}

/// What can't be noted must not count as handled.
fn no_journal(error: io::Error) -> HandlerError {
    HandlerError::permanent(format_args!("the journal can't be written: {error}"))
}
