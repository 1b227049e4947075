//! A recorder that speaks gRPC: the library's own server half, before the same log.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use penstock_handler::{Delivered, Handle, Server};
use penstock_runtime::Done;
use penstock_runtime::handler::HandlerError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::produce;
use super::reply::Action;
use super::serve::{OpenDelivery, Shared};
use super::{DEADLINE, Delivery, Verdict};
use crate::Position;
use crate::sync::lock;

/// Messages at once; no test has more handlers.
const CONCURRENCY: usize = 64;

pub(super) async fn serve(server: Server, shared: Arc<Shared>, stop: CancellationToken) {
    let recording = Recording(Arc::clone(&shared));
    if let Err(error) = server.concurrency(CONCURRENCY).run(recording, stop).await {
        lock(&shared.log).malformed.push(error.to_string());
    }
}

struct Recording(Arc<Shared>);

impl Handle for Recording {
    async fn handle(&self, message: Delivered) -> Result<Done, HandlerError> {
        let delivery = delivery(message);
        let behaviour = Arc::clone(&lock(&self.0.behaviour));
        let reply = behaviour(&delivery);
        let number = lock(&self.0.log).begin(delivery);
        let mut open = OpenDelivery::new(Arc::clone(&self.0), number);
        if !reply.delay.is_zero() {
            sleep(reply.delay).await;
        }
        if let Some(gate) = &reply.gate {
            gate.passed().await;
        }
        match reply.action {
            Action::Answer { status, body, .. } => {
                open.end(Verdict::Answered(status));
                verdict(status, &String::from_utf8_lossy(&body))
            }
            // Dropped when the runtime cancels it.
            Action::Hang => pending().await,
            Action::Close | Action::Garbage | Action::Truncated | Action::GarbledVerdicts(_) => {
                open.end(Verdict::Broken);
                Err(HandlerError::retryable("this reply is of HTTP only"))
            }
        }
    }
}

/// The path of deliveries over gRPC.
pub(super) const PATH: &str = "penstock.handler.v1.Handler";

/// As the statuses of HTTP mean it.
fn verdict(status: u16, text: &str) -> Result<Done, HandlerError> {
    match status {
        200..300 => Ok(produce::read(text).into()),
        408 | 425 | 429 | 500.. => Err(HandlerError::retryable(text)),
        _ => Err(HandlerError::permanent(text)),
    }
}

/// What CloudEvents say in headers stands in headers here too.
fn delivery(message: Delivered) -> Delivery {
    let mut headers = BTreeMap::from([
        ("ce-id".to_owned(), message.idempotency_key()),
        ("ce-kafkaepoch".to_owned(), message.epoch.to_string()),
    ]);
    if let Ok(deadline) = Timestamp::try_from(message.deadline) {
        headers.insert(DEADLINE.to_owned(), deadline.to_string());
    }
    for (name, value) in &message.headers {
        let value = String::from_utf8_lossy(value.as_deref().unwrap_or_default());
        headers.insert(format!("kafka-header-{name}"), value.into_owned());
    }
    let key = message.key.as_deref().map(String::from_utf8_lossy);
    Delivery {
        position: Position::new(&*message.topic, message.partition, message.offset),
        key: key.map(|key| key.into_owned()),
        attempt: message.attempt,
        method: "Handle".into(),
        path: PATH.into(),
        headers,
        body: message.value.map(Into::into).unwrap_or_default(),
        connection: 0,
        start: Instant::now(),
        end: None,
        verdict: Verdict::Open,
    }
}
