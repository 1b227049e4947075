//! What is compared with what, and what is to be reached.

mod peers;

use crate::peer::{Peer, Version};
use crate::side::Side;
use crate::source::Mode;

/// A reference and ours.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Short name, to choose it by.
    pub name: &'static str,
    /// The reference, in words.
    pub reference_is: &'static str,
    /// Ours, in words.
    pub ours_is: &'static str,
    /// The reference.
    pub reference: Runner,
    /// Ours.
    pub ours: Runner,
    /// What our rate must be of the reference's; absent where it is only of interest.
    pub goal: Option<f64>,
    /// What our peak RSS may be of the reference's at most; absent likewise.
    pub memory_goal: Option<f64>,
}

impl Pair {
    /// The programs of both.
    pub fn programs(&self) -> [RunnerProgram; 2] {
        [self.reference.program, self.ours.program]
    }

    /// Whether the reference is a program of others.
    pub fn is_beside_others(&self) -> bool {
        self.reference.program.is_of_others()
    }
}

/// How one side is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner {
    /// The program.
    pub program: RunnerProgram,
    /// Messages, of the whole topic.
    pub count: Count,
    /// Handlers, or requests in flight.
    pub handlers: u32,
    /// Where HTTP goes.
    pub transport: Option<Transport>,
    /// Threads for tasks; one for each core unless given.
    pub threads: Option<u32>,
}

/// The program of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunnerProgram {
    /// One of ours.
    Side(Side),
    /// The source.
    Source {
        /// Its mode.
        mode: Mode,
        /// Messages in one read.
        batch: u32,
    },
    /// A peer.
    Peer {
        /// Which.
        peer: Peer,
        /// Messages handed over at a time.
        batch: u32,
    },
}

impl RunnerProgram {
    /// Whether it is neither ours nor a bare loop.
    pub fn is_of_others(self) -> bool {
        !matches!(self, Self::Side(_))
    }
}

/// How many messages a side handles, so that it takes seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// As many as the topic has.
    All,
    /// Part of them, but never more than there are.
    UpTo(u64),
}

impl Count {
    /// Messages, of a topic with so many.
    pub fn of(self, all: u64) -> u64 {
        match self {
            Self::All => all,
            Self::UpTo(most) => most.min(all),
        }
    }
}

/// How HTTP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP on the loopback address.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// Handlers of the Fast consumers, unless the pair is about their number.
const HANDLERS: u32 = 16;

/// Reads everything, to be done before anything is timed.
pub const WARM_UP: Runner = Runner {
    program: RunnerProgram::Side(Side::LoopRaw),
    count: Count::All,
    handlers: 1,
    transport: None,
    threads: None,
};

const COMMITS: Count = Count::UpTo(20_000);
const REQUESTS: Count = Count::UpTo(300_000);
const REQUESTS_ONE_BY_ONE: Count = Count::UpTo(50_000);
const SOURCE_FAST: Count = Count::UpTo(50_000);
const SOURCE_IN_ORDER: Count = Count::UpTo(8_000);

/// All pairs, in the order in which they are run.
pub fn all() -> Vec<Pair> {
    let fast = [
        embedded("fast", Side::LoopJson, Side::FastJson, Some(0.8)),
        one_thread(embedded(
            "fast-one-thread",
            Side::LoopJson,
            Side::FastJson,
            None,
        )),
        embedded("fast-handled", Side::LoopJson, Side::FastHandled, None),
        embedded("fast-raw", Side::LoopRaw, Side::FastRaw, None),
        grpc("fast-grpc", Side::LoopJson, Side::FastGrpc, Some(0.5)),
        grpc("fast-grpc-raw", Side::LoopRaw, Side::FastGrpcRaw, None),
        embedded("key-ordered", Side::LoopJson, Side::KeyOrdered, None),
        grpc(
            "key-ordered-grpc",
            Side::LoopJson,
            Side::KeyOrderedGrpc,
            None,
        ),
    ];
    let in_order = Pair {
        name: "in-order",
        reference_is: "consume, commit, wait",
        ours_is: "InOrder, Embedded",
        reference: side(Side::LoopCommit, COMMITS, 1),
        ours: side(Side::InOrder, COMMITS, 1),
        goal: Some(0.95),
        memory_goal: None,
    };
    let http = [
        http("http-tcp-64", Transport::Tcp, 64, Some(0.7)),
        http("http-unix-64", Transport::Unix, 64, Some(0.7)),
        http("http-tcp-1", Transport::Tcp, 1, Some(0.7)),
        http("http-unix-1", Transport::Unix, 1, Some(0.7)),
    ];
    let source = [
        Pair {
            name: "source-fast",
            reference_is: "baseplate 2.7.1 Fast, 10 handlers",
            ours_is: "Fast, Embedded, Json",
            reference: source(Mode::Fast, 10, 1, SOURCE_FAST),
            ours: side(Side::FastJson, Count::All, HANDLERS),
            goal: Some(100.0),
            memory_goal: None,
        },
        Pair {
            name: "source-fast-100",
            reference_is: "the same, batches of 100",
            ours_is: "Fast, Embedded, Json",
            reference: source(Mode::Fast, 10, 100, SOURCE_FAST),
            ours: side(Side::FastJson, Count::All, HANDLERS),
            goal: None,
            memory_goal: None,
        },
        Pair {
            name: "source-in-order",
            reference_is: "baseplate 2.6.0 InOrder",
            ours_is: "InOrder, Embedded",
            reference: source(Mode::InOrder, 1, 1, SOURCE_IN_ORDER),
            ours: side(Side::InOrder, COMMITS, 1),
            goal: Some(2.5),
            memory_goal: None,
        },
    ];
    fast.into_iter()
        .chain([in_order])
        .chain(http)
        .chain(source)
        .chain(peers::all())
        .collect()
}

/// The versions of others' programs among these, each once.
pub fn others(programs: impl IntoIterator<Item = RunnerProgram>) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    for program in programs {
        let version = match program {
            RunnerProgram::Side(_) => continue,
            RunnerProgram::Source { mode, .. } => mode.version(),
            RunnerProgram::Peer { peer, .. } => peer.version(),
        };
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

fn embedded(name: &'static str, reference: Side, ours: Side, goal: Option<f64>) -> Pair {
    let (reference_is, ours_is) = match ours {
        Side::FastRaw => ("poll loop", "Fast, Embedded, Raw"),
        Side::FastHandled => ("poll loop, JSON decoded", "the same, commit: Handled"),
        Side::KeyOrdered => ("poll loop, JSON decoded", "KeyOrdered, Embedded, Json"),
        Side::FastGrpc => ("poll loop, JSON decoded", "Fast, Grpc, Json, Unix socket"),
        Side::FastGrpcRaw => ("poll loop", "Fast, Grpc, Raw, Unix socket"),
        Side::KeyOrderedGrpc => (
            "poll loop, JSON decoded",
            "KeyOrdered, Grpc, Json, Unix socket",
        ),
        _ => ("poll loop, JSON decoded", "Fast, Embedded, Json"),
    };
    Pair {
        name,
        reference_is,
        ours_is,
        reference: side(reference, Count::All, 1),
        ours: side(ours, Count::All, HANDLERS),
        goal,
        memory_goal: None,
    }
}

/// Beside the loop, with the handler in a process of its own.
fn grpc(name: &'static str, reference: Side, ours: Side, goal: Option<f64>) -> Pair {
    let pair = embedded(name, reference, ours, goal);
    Pair {
        ours: over(Transport::Unix, pair.ours),
        ..pair
    }
}

/// The same with ours on one thread, as is advised for handlers that never wait.
fn one_thread(pair: Pair) -> Pair {
    Pair {
        ours_is: "the same on one thread",
        ours: Runner {
            threads: Some(1),
            ..pair.ours
        },
        ..pair
    }
}

fn http(name: &'static str, transport: Transport, in_flight: u32, goal: Option<f64>) -> Pair {
    let count = match in_flight {
        1 => REQUESTS_ONE_BY_ONE,
        _ => REQUESTS,
    };
    let at = |program| over(transport, side(program, count, in_flight));
    Pair {
        name,
        reference_is: "bare HTTP client, no Kafka",
        ours_is: "Fast, Http",
        reference: at(Side::HttpPair),
        ours: at(Side::FastHttp),
        goal,
        memory_goal: None,
    }
}

fn side(side: Side, count: Count, handlers: u32) -> Runner {
    Runner {
        program: RunnerProgram::Side(side),
        count,
        handlers,
        transport: None,
        // As the runtime's own program does.
        threads: (handlers == 1).then_some(1),
    }
}

fn source(mode: Mode, handlers: u32, batch: u32, count: Count) -> Runner {
    Runner {
        program: RunnerProgram::Source { mode, batch },
        count,
        handlers,
        transport: None,
        threads: None,
    }
}

/// The same with HTTP carried so.
fn over(transport: Transport, side: Runner) -> Runner {
    Runner {
        transport: Some(transport),
        ..side
    }
}
