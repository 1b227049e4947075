//! A broker that answers, and advertises an address of which there is none.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Mock, Recorder, Running};
use penstock_runtime::{ConnectError, METADATA_TIMEOUT, RunError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const UNSUPPORTED_VERSION: i16 = 35;

/// What clients ask for beyond [`METADATA`]; none of it is ever asked of this broker.
const OTHERS: [i16; 7] = [0, 1, 2, 8, 9, 10, 11];

/// Starts a broker that tells of one topic with one partition, whose leader, itself, has this
/// name.
async fn broker(advertised: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, advertised, i32::from(address.port())));
        }
    });
    address
}

/// Answers until the client leaves.
async fn serve(mut stream: TcpStream, advertised: &'static str, port: i32) -> Option<()> {
    loop {
        let length = stream.read_i32().await.ok()?;
        let mut request = vec![0; usize::try_from(length).ok()?];
        stream.read_exact(&mut request).await.ok()?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let (api, version) = (number(0), number(2));
        let mut answer = request[4..8].to_vec();
        match (api, version) {
            (API_VERSIONS, _) => answer.extend(api_versions(version)),
            (METADATA, 1) => answer.extend(metadata(advertised, port)),
            // Never answered: a connection that closes would be a cause too.
            _ => continue,
        }
        stream
            .write_i32(i32::try_from(answer.len()).ok()?)
            .await
            .ok()?;
        stream.write_all(&answer).await.ok()?;
    }
}

/// The first version is the only one.
fn api_versions(version: i16) -> Vec<u8> {
    let error = if version == 0 { 0 } else { UNSUPPORTED_VERSION };
    let ranges = OTHERS.iter().map(|api| (*api, 0, 0));
    let ranges: Vec<_> = ranges
        .chain([(METADATA, 1, 1), (API_VERSIONS, 0, 0)])
        .collect();
    let mut answer = i16::to_be_bytes(error).to_vec();
    answer.extend(i32::to_be_bytes(ranges.len() as i32));
    for (api, from, to) in ranges {
        [api, from, to]
            .into_iter()
            .for_each(|number| answer.extend(number.to_be_bytes()));
    }
    answer
}

fn metadata(advertised: &str, port: i32) -> Vec<u8> {
    let mut answer = Vec::new();
    let text = |answer: &mut Vec<u8>, text: &str| {
        answer.extend((text.len() as i16).to_be_bytes());
        answer.extend(text.as_bytes());
    };
    let numbers = |answer: &mut Vec<u8>, numbers: &[i32]| {
        numbers
            .iter()
            .for_each(|number| answer.extend(number.to_be_bytes()));
    };
    // One broker: number, name, port, and no rack.
    numbers(&mut answer, &[1, 7]);
    text(&mut answer, advertised);
    numbers(&mut answer, &[port]);
    answer.extend((-1_i16).to_be_bytes());
    // The controller, and one topic without an error that is not internal.
    numbers(&mut answer, &[7, 1]);
    answer.extend(0_i16.to_be_bytes());
    text(&mut answer, "orders");
    answer.push(0);
    // One partition without an error: number, leader, replicas, and those in sync.
    numbers(&mut answer, &[1]);
    answer.extend(0_i16.to_be_bytes());
    numbers(&mut answer, &[0, 7, 1, 7, 1, 7]);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advertised_name_without_an_address_ends_it_within_the_time_for_metadata() {
    let address = broker("nowhere.invalid").await;
    let mut consumer = Mock::new("orders", 1).consumer("InOrder", "");
    consumer.kafka.bootstrap_servers = address.to_string();
    let began = Instant::now();
    let ended = Running::start(consumer, &Recorder::new()).ended().await;
    // The list of topics comes at once, and the leader has the time for metadata.
    let limit = METADATA_TIMEOUT + Duration::from_secs(5);
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    let Err(RunError::Connect(ConnectError::Advertised(cause))) = ended else {
        panic!("{ended:?}");
    };
    let cause = cause.to_string();
    let name = format!("nowhere.invalid:{}/7: Failed to resolve", address.port());
    assert!(cause.starts_with(&name), "{cause}");
    let remedy = "The brokers advertise this address: correct their advertised.listeners, or make the name known to the DNS here";
    assert!(cause.ends_with(remedy), "{cause}");
}
