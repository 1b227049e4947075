//! What a recorder answers.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::{Verdict, produce};

/// What to do with one delivery.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) delay: Duration,
    pub(super) gate: Option<Gate>,
    pub(super) closes: bool,
    pub(super) for_all: bool,
    pub(super) action: Action,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    Hang,
    Close,
    Garbage,
    Truncated,
    GarbledVerdicts(&'static str),
}

impl Action {
    /// What it is for the message that it answers.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Answer { status, .. } => Verdict::Answered(*status),
            Self::Hang => Verdict::Abandoned,
            Self::Close | Self::Garbage | Self::Truncated | Self::GarbledVerdicts(_) => {
                Verdict::Broken
            }
        }
    }
}

impl Reply {
    /// Answers with `status` and no body.
    pub fn status(status: u16) -> Self {
        Self::action(Action::Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Answers 204: handled.
    pub fn ok() -> Self {
        Self::status(204)
    }

    /// Answers that the message is handled, and gives a record to produce.
    pub fn produce(topic: &str, key: &str, data: &Value) -> Self {
        Self::status(200)
            .with_header("content-type", "application/json")
            .with_body(produce::body(topic, key, data))
    }

    /// Never answers; ends when the client leaves.
    pub fn hang() -> Self {
        Self::action(Action::Hang)
    }

    /// Closes the connection without an answer.
    pub fn close() -> Self {
        Self::action(Action::Close)
    }

    /// Answers what is no HTTP, and closes the connection.
    pub fn garbage() -> Self {
        Self::action(Action::Garbage)
    }

    /// Answers 200 with less of a body than announced, and closes the connection.
    pub fn truncated() -> Self {
        Self::action(Action::Truncated)
    }

    /// Answers a batch with 200 and `body`, which can't be read as verdicts, without a content
    /// type. Only for BatchHttp: to a single message that would be a success.
    pub fn garbled_verdicts(body: &'static str) -> Self {
        Self::action(Action::GarbledVerdicts(body))
    }

    /// Answers the whole request so, without verdicts, where the message is one of a
    /// batch.
    #[must_use]
    pub fn for_all(mut self) -> Self {
        self.for_all = true;
        self
    }

    /// Does it only after `delay`.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Does it only once `gate` is open.
    #[must_use]
    pub fn once(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Closes the connection once the answer is written, without announcing it, as
    /// servers do with connections that are idle.
    #[must_use]
    pub fn then_close(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Adds a body to an answer.
    #[must_use]
    pub fn with_body(mut self, text: impl Into<Vec<u8>>) -> Self {
        if let Action::Answer { body, .. } = &mut self.action {
            *body = text.into();
        }
        self
    }

    /// Adds a header to an answer.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Action::Answer { headers, .. } = &mut self.action {
            headers.push((name.into(), value.into()));
        }
        self
    }

    fn action(action: Action) -> Self {
        Self {
            delay: Duration::ZERO,
            gate: None,
            closes: false,
            for_all: false,
            action,
        }
    }
}

/// Holds answers back until the test opens it. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets through all that wait and all that come.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Holds back what comes from now on.
    pub fn close(&self) {
        self.0.send_replace(false);
    }

    /// Whether it lets answers through.
    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    pub(super) async fn passed(&self) {
        // The sender lives as long as this does.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
