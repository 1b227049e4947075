//! The transport with a handler in this process.

mod acceptance;
mod begun;
mod connection;
mod crash;
mod credits;
mod innocent;
mod keys;
mod serve;
mod server;
mod verdicts;
mod waiting;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::manifest;
use penstock_crds::validate::Address;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::handler::FailureKind;
use crate::handler::record::{OwnedRecord, Record};
use server::{Call, LIMIT, Scripted, done, offsets};

type Verdicts = Vec<Result<Done, HandlerError>>;

/// A directory for the handler's socket, and the transport to it.
struct Fixture {
    _directory: TempDir,
    socket: std::path::PathBuf,
    handler: Arc<GrpcHandler>,
}

fn fixture(mode: &str, timeout: &str) -> Fixture {
    extended(mode, timeout, "")
}

/// With other settings of the handler.
fn extended(mode: &str, timeout: &str, settings: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("handler.sock");
    let manifest = format!(
        "{{apiVersion: penstock.dev/v1alpha1, kind: KafkaConsumer, metadata: {{name: orders}}, \
         spec: {{group: shop.orders, topics: [orders], mode: {mode}, kafka: {{bootstrapServers: 'kafka:9092'}}, \
         consumeBatchSize: 50, handler: {{image: x, protocol: Grpc, timeout: {timeout}, {settings}}}}}}}"
    );
    let (_, consumer) = manifest::read_one(&manifest).unwrap();
    let address = Address::Socket(socket.clone());
    Fixture {
        _directory: directory,
        handler: Arc::new(GrpcHandler::new(&consumer, &address)),
        socket,
    }
}

impl Fixture {
    /// Gives messages with these offsets to the handler, as one batch.
    fn give(&self, offsets: impl IntoIterator<Item = i64>) -> JoinHandle<Verdicts> {
        let records: Vec<Record> = offsets
            .into_iter()
            .map(|offset| {
                Record::from(OwnedRecord {
                    topic: "orders".into(),
                    offset,
                    payload: Some(vec![b'x'; 100]),
                    ..OwnedRecord::default()
                })
            })
            .collect();
        self.give_records(records)
    }

    fn give_records(&self, records: Vec<Record>) -> JoinHandle<Verdicts> {
        let handler = Arc::clone(&self.handler);
        tokio::spawn(async move {
            let messages = records.iter().map(|record| Message::new(record, &(), 1));
            let messages: Vec<_> = messages.collect();
            handler.handle_batch(&messages).await
        })
    }

    fn socket(&self) -> &Path {
        &self.socket
    }
}

/// The verdicts of a batch that was given.
async fn verdicts(given: JoinHandle<Verdicts>) -> Verdicts {
    let verdicts = tokio::time::timeout(LIMIT, given).await;
    verdicts.expect("the batch ends").unwrap()
}

fn kinds(verdicts: &Verdicts) -> Vec<Result<(), FailureKind>> {
    let verdicts = verdicts.iter();
    verdicts
        .map(|verdict| verdict.as_ref().map(|_| ()).map_err(HandlerError::kind))
        .collect()
}

/// What is wrong with the first that failed.
fn reason(verdicts: &Verdicts) -> &str {
    let failed = verdicts.iter().find_map(|verdict| verdict.as_ref().err());
    failed.expect("one failed").reason()
}
