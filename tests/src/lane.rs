//! The ways to consume that a group is put through.

mod behaviour;
mod combination;
mod covering;

pub use behaviour::{Behaviour, Odd};
pub use combination::{Assignor, Combination, recipe};

use std::io;

use tempfile::NamedTempFile;

use crate::Manifest;
use crate::oracle::Rule;
use crate::recorder::Recorder;

/// A consumer's mode. Fast commits what was handled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// One message at a time.
    InOrder,
    /// One message of a key at a time.
    KeyOrdered,
    /// In no order.
    Fast,
}

const MODES: [Mode; 3] = [Mode::InOrder, Mode::KeyOrdered, Mode::Fast];

impl Mode {
    /// A consumer in this mode, with so many handlers where there may be several.
    pub fn manifest(self, bootstrap: &str, group: &str, topic: &str, handlers: usize) -> Manifest {
        match self {
            Self::InOrder => Manifest::in_order(bootstrap, group, topic),
            Self::KeyOrdered => Manifest::key_ordered(bootstrap, group, topic, handlers),
            Self::Fast => Manifest::fast(bootstrap, group, topic, handlers),
        }
    }

    /// What it promises of the order.
    pub fn order(self) -> Option<Rule> {
        match self {
            Self::InOrder => Some(Rule::InOrder),
            Self::KeyOrdered => Some(Rule::KeyOrder),
            Self::Fast => None,
        }
    }
}

/// What a handler speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    /// One message a request.
    Http,
    /// Several messages a request.
    BatchHttp,
    /// Batches on one stream.
    Grpc,
    /// One message a call, in the consumer's process.
    Embedded,
}

/// A mode, and what its handler speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lane {
    /// The mode.
    pub mode: Mode,
    /// The protocol.
    pub protocol: Protocol,
}

impl Lane {
    /// Every mode with each of these protocols.
    pub fn all(protocols: &[Protocol]) -> Vec<Self> {
        let lanes = protocols
            .iter()
            .flat_map(|protocol| MODES.map(|mode| (mode, *protocol)));
        lanes
            .map(|(mode, protocol)| Self { mode, protocol })
            .collect()
    }

    /// Whether messages that wait are given together.
    pub fn has_batches(self) -> bool {
        matches!(self.protocol, Protocol::BatchHttp | Protocol::Grpc)
    }

    /// A recorder that speaks it, at a port, or has a journal in the directory for
    /// temporary files. In order it does one message after the other.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn recorder(self) -> io::Result<Recorder> {
        let recorder = match self.protocol {
            Protocol::Http | Protocol::BatchHttp => Recorder::start()?,
            Protocol::Grpc => Recorder::start_grpc()?,
            Protocol::Embedded => {
                let journal = NamedTempFile::with_prefix("penstock-journal-")?;
                Recorder::start_embedded(journal.into_temp_path().keep()?)?
            }
        };
        if self.mode == Mode::InOrder {
            recorder.handle_one_by_one();
        }
        Ok(recorder)
    }

    /// A consumer that has up to `handlers` handlers and, where there are batches, gives
    /// up to `batch` messages at once.
    pub fn manifest(
        self,
        bootstrap: &str,
        group: &str,
        topic: &str,
        handlers: usize,
        batch: usize,
    ) -> Manifest {
        let manifest = self.mode.manifest(bootstrap, group, topic, handlers);
        let manifest = match self.protocol {
            Protocol::BatchHttp => manifest.set("/handler/protocol", "BatchHttp"),
            Protocol::Http | Protocol::Grpc | Protocol::Embedded => manifest,
        };
        match self.has_batches() {
            true => manifest.set("/consumeBatchSize", batch),
            false => manifest,
        }
    }
}
