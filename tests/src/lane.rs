//! The ways to consume that a group is put through.

use std::io;

use penstock_tests::Manifest;
use penstock_tests::oracle::Rule;
use penstock_tests::recorder::Recorder;

/// Messages of a batch, where there are batches.
const BATCH: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    InOrder,
    KeyOrdered,
    Fast,
}

const MODES: [Mode; 3] = [Mode::InOrder, Mode::KeyOrdered, Mode::Fast];

impl Mode {
    fn manifest(self, bootstrap: &str, group: &str, topic: &str) -> Manifest {
        match self {
            Self::InOrder => Manifest::in_order(bootstrap, group, topic),
            Self::KeyOrdered => Manifest::key_ordered(bootstrap, group, topic, 4),
            Self::Fast => Manifest::fast(bootstrap, group, topic, 4),
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

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Http,
    BatchHttp,
    Grpc,
}

/// A mode, and what its handler speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lane {
    pub mode: Mode,
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
        self.protocol != Protocol::Http
    }

    pub fn recorder(self) -> io::Result<Recorder> {
        let recorder = match self.protocol {
            Protocol::Http | Protocol::BatchHttp => Recorder::start()?,
            Protocol::Grpc => Recorder::start_grpc()?,
        };
        if self.mode == Mode::InOrder {
            recorder.handle_one_by_one();
        }
        Ok(recorder)
    }

    pub fn manifest(self, bootstrap: &str, group: &str, topic: &str) -> Manifest {
        let manifest = self.mode.manifest(bootstrap, group, topic);
        let manifest = match self.protocol {
            Protocol::BatchHttp => manifest.set("/handler/protocol", "BatchHttp"),
            Protocol::Http | Protocol::Grpc => manifest,
        };
        match self.has_batches() {
            true => manifest.set("/consumeBatchSize", BATCH),
            false => manifest,
        }
    }
}
