//! What grows, where it is looked at, and what is run there.

use clap::ValueEnum;

use crate::pairs::{Count, Runner, RunnerProgram, Transport};
use crate::peer::{Peer, Sender};
use crate::side::Side;
use crate::source::Mode;
use crate::workload::Workload;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    /// Handlers side by side, or requests in flight
    Concurrency,
    /// Bytes of a value
    Size,
    /// Partitions of the topic
    Partitions,
    /// Messages in the topic
    Backlog,
}

/// Bytes of the values in a topic of large ones.
const MOST_BYTES: u64 = 256_000_000;

/// Handlers, where their number does not grow.
const HANDLERS: u32 = 16;

/// Requests in flight, likewise.
const IN_FLIGHT: u32 = 64;

/// A program along an axis.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// What it is called in the table and the plot.
    pub name: &'static str,
    /// The program.
    pub program: RunnerProgram,
    /// The most messages that one run handles.
    most: u64,
    /// The most messages for each handler: a single one has fewer.
    most_each: u64,
    handlers: Handlers,
    transport: Option<Transport>,
}

#[derive(Clone, Copy, Debug)]
enum Handlers {
    /// As many as the place on the axis says.
    Grow,
    /// As many everywhere.
    Fixed(u32),
}

impl Axis {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Concurrency,
        Self::Size,
        Self::Partitions,
        Self::Backlog,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Size => "size",
            Self::Partitions => "partitions",
            Self::Backlog => "backlog",
        }
    }

    /// What the numbers along it are.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Concurrency => "handlers",
            Self::Size => "bytes",
            Self::Partitions => "partitions",
            Self::Backlog => "messages",
        }
    }

    /// Where it is looked at. The smallest value is what a message's fields need.
    pub fn places(self, messages: u64) -> Vec<u64> {
        match self {
            Self::Concurrency => vec![1, 4, 16, 64, 256],
            Self::Size => vec![110, 1_000, 10_000, 100_000, 1_000_000],
            Self::Partitions => vec![1, 4, 16, 64, 128],
            Self::Backlog => vec![messages / 5, messages, messages * 3, messages * 6],
        }
    }

    /// The topic for one place.
    pub fn workload(self, at: u64, messages: u64) -> Workload {
        let workload = Workload::of(messages);
        match self {
            Self::Concurrency => workload,
            Self::Size => Workload {
                count: messages.min(MOST_BYTES / at),
                value_size: usize::try_from(at).unwrap_or(usize::MAX),
                ..workload
            },
            Self::Partitions => Workload {
                partitions: i32::try_from(at).unwrap_or(i32::MAX),
                ..workload
            },
            Self::Backlog => Workload::of(at),
        }
    }

    /// What is run.
    pub fn series(self) -> Vec<Series> {
        let handlers = match self {
            Self::Concurrency => Handlers::Grow,
            _ => Handlers::Fixed(HANDLERS),
        };
        let in_flight = match self {
            Self::Concurrency => Handlers::Grow,
            _ => Handlers::Fixed(IN_FLIGHT),
        };
        let fast = ours("Fast, Embedded", Side::FastJson, handlers);
        let poll = ours("poll loop", Side::LoopJson, Handlers::Fixed(1));
        let http = over_http("Fast, Http", Side::FastHttp, in_flight);
        let bare = over_http("bare HTTP", Side::HttpPair, in_flight);
        let java = others(
            "Java KafkaConsumer",
            peer(Peer::JavaConsumer),
            u64::MAX,
            Handlers::Fixed(1),
        );
        let grpc = over_grpc("Fast, Grpc", Side::FastGrpc, handlers);
        let keys = ours("KeyOrdered, Embedded", Side::KeyOrdered, handlers);
        let keys_grpc = over_grpc("KeyOrdered, Grpc", Side::KeyOrderedGrpc, handlers);
        let confluent = others(
            "Parallel Consumer, KEY",
            peer(Peer::ParallelConsumer),
            100_000,
            handlers,
        );
        let connect = others(
            "Redpanda Connect, HTTP",
            peer(Peer::Sender(Sender::Connect)),
            50_000,
            in_flight,
        );
        let dapr = others(
            "Dapr, HTTP",
            peer(Peer::Sender(Sender::Dapr)),
            50_000,
            Handlers::Fixed(1),
        );
        let source = RunnerProgram::Source {
            mode: Mode::Fast,
            batch: 1,
        };
        let source = others("baseplate, Fast", source, 50_000, handlers);
        match self {
            Self::Concurrency => vec![
                poll, fast, grpc, keys, keys_grpc, bare, http, confluent, connect, source,
            ],
            Self::Size => vec![
                poll, fast, grpc, keys, keys_grpc, bare, http, java, confluent, dapr, connect,
                source,
            ],
            Self::Partitions | Self::Backlog => vec![
                poll, fast, grpc, keys, keys_grpc, http, java, confluent, dapr, connect, source,
            ],
        }
    }
}

impl Series {
    /// How it is run at a place.
    pub fn runner(&self, at: u64) -> Runner {
        let handlers = match self.handlers {
            Handlers::Grow => u32::try_from(at).unwrap_or(u32::MAX),
            Handlers::Fixed(handlers) => handlers,
        };
        let most = self
            .most
            .min(self.most_each.saturating_mul(handlers.into()));
        Runner {
            program: self.program,
            count: Count::UpTo(most),
            handlers,
            transport: self.transport,
            threads: (handlers == 1).then_some(1),
        }
    }
}

fn ours(name: &'static str, side: Side, handlers: Handlers) -> Series {
    Series {
        name,
        program: RunnerProgram::Side(side),
        most: u64::MAX,
        most_each: u64::MAX,
        handlers,
        transport: None,
    }
}

fn over_grpc(name: &'static str, side: Side, handlers: Handlers) -> Series {
    Series {
        transport: Some(Transport::Unix),
        ..ours(name, side, handlers)
    }
}

fn over_http(name: &'static str, side: Side, in_flight: Handlers) -> Series {
    Series {
        most: 200_000,
        most_each: 50_000,
        transport: Some(Transport::Unix),
        ..ours(name, side, in_flight)
    }
}

fn others(name: &'static str, program: RunnerProgram, most: u64, handlers: Handlers) -> Series {
    Series {
        name,
        program,
        most,
        most_each: u64::MAX,
        handlers,
        transport: None,
    }
}

fn peer(peer: Peer) -> RunnerProgram {
    RunnerProgram::Peer { peer, batch: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_axis_changes_what_it_is_called_after() {
        let fast = |axis: Axis, at| {
            let mut series = axis.series().into_iter();
            let fast = series.find(|series| series.name == "Fast, Http").unwrap();
            (fast.runner(at).handlers, axis.workload(at, 1000))
        };
        assert_eq!(fast(Axis::Concurrency, 256).0, 256);
        assert_eq!(fast(Axis::Partitions, 64).0, IN_FLIGHT);
        assert_eq!(fast(Axis::Partitions, 64).1.partitions, 64);
        assert_eq!(fast(Axis::Size, 1_000_000).1.value_size, 1_000_000);
        assert_eq!(fast(Axis::Size, 1_000_000).1.count, 256);
        assert_eq!(fast(Axis::Backlog, 5000).1.count, 5000);
    }
}
