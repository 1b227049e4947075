//! Ours beside the peers.

use super::{Count, HANDLERS, Pair, REQUESTS, Runner, RunnerProgram, Transport, over, side};
use crate::peer::{Peer, Sender};
use crate::side::Side;

/// Messages in one request, or in one call of a handler.
const BATCH: u32 = 100;

/// Requests in flight.
const IN_FLIGHT: u32 = 64;

/// Handlers of those in the order of keys.
const KEY_HANDLERS: u32 = 16;

const ONE_BY_ONE: Count = Count::UpTo(100_000);
const BULK: Count = Count::UpTo(300_000);
const LINES: Count = Count::UpTo(1_000_000);
const KEYS_ONE_BY_ONE: Count = Count::UpTo(200_000);
const KEYS_IN_BATCHES: Count = Count::UpTo(400_000);

/// All pairs with a peer.
pub fn all() -> Vec<Pair> {
    let dapr = Peer::Sender(Sender::Dapr);
    let connect = Peer::Sender(Sender::Connect);
    let http = over(Transport::Unix, side(Side::FastHttp, REQUESTS, IN_FLIGHT));
    let embedded = side(Side::FastRaw, Count::All, HANDLERS);
    let keys = side(Side::KeyOrdered, Count::All, KEY_HANDLERS);
    let grpc = over(
        Transport::Unix,
        side(Side::FastGrpcRaw, Count::All, HANDLERS),
    );
    let keys_grpc = over(
        Transport::Unix,
        side(Side::KeyOrderedGrpcRaw, Count::All, KEY_HANDLERS),
    );
    vec![
        Pair {
            name: "java",
            reference_is: "Java KafkaConsumer",
            ours_is: "Fast, Embedded, Raw",
            reference: peer(Peer::JavaConsumer, 1, 1, Count::All),
            ours: embedded,
            goal: None,
            memory_goal: None,
        },
        Pair {
            name: "parallel-consumer-key",
            reference_is: "Parallel Consumer, KEY, 16",
            ours_is: "KeyOrdered, Embedded, Json",
            reference: peer(Peer::ParallelConsumer, KEY_HANDLERS, 1, KEYS_ONE_BY_ONE),
            ours: keys,
            goal: Some(5.0),
            memory_goal: Some(0.1),
        },
        Pair {
            name: "parallel-consumer-key-100",
            reference_is: "the same, batches of 100",
            ours_is: "KeyOrdered, Grpc, Raw, Unix socket",
            reference: peer(Peer::ParallelConsumer, KEY_HANDLERS, BATCH, KEYS_IN_BATCHES),
            ours: keys_grpc,
            goal: Some(5.0),
            memory_goal: Some(0.1),
        },
        Pair {
            name: "dapr-http",
            reference_is: "Dapr, HTTP, one by one",
            ours_is: "Fast, Http, Unix socket, 64 in flight",
            reference: peer(dapr, 1, 1, ONE_BY_ONE),
            ours: http,
            goal: Some(4.0),
            memory_goal: None,
        },
        Pair {
            name: "dapr-bulk",
            reference_is: "Dapr, HTTP, 100 a request",
            ours_is: "Fast, Grpc, Raw, Unix socket",
            reference: peer(dapr, 1, BATCH, BULK),
            ours: grpc,
            goal: Some(8.0),
            memory_goal: None,
        },
        Pair {
            name: "connect-http",
            reference_is: "Redpanda Connect, HTTP, 64 in flight",
            ours_is: "Fast, Http, Unix socket, 64 in flight",
            reference: peer(connect, IN_FLIGHT, 1, ONE_BY_ONE),
            ours: http,
            goal: None,
            memory_goal: None,
        },
        Pair {
            name: "connect-batch",
            reference_is: "Redpanda Connect, HTTP, 64 in flight, 100 a request",
            ours_is: "Fast, Grpc, Raw, Unix socket",
            reference: peer(connect, IN_FLIGHT, BATCH, LINES),
            ours: grpc,
            goal: Some(2.0),
            memory_goal: None,
        },
    ]
}

/// A peer with so many handlers or requests in flight, where that can be said.
fn peer(peer: Peer, handlers: u32, batch: u32, count: Count) -> Runner {
    Runner {
        program: RunnerProgram::Peer { peer, batch },
        count,
        handlers,
        transport: None,
        threads: None,
    }
}
