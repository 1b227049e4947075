//! One stream, from hello to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::answers::{AnswerStream, Answers};
use crate::lanes::{BatchState, Lanes};
use crate::server::{Handle, MAX_BYTES, Settings};
use crate::v1::from_runtime::Message;
use crate::v1::{Batch, Feature, FromRuntime, Hello, Order, Range, Welcome};
use crate::{VERSION, message};

/// The maximum wait for the runtime to read the end of a stream.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// The time between two checks for calls that block their threads.
const LOOK: Duration = Duration::from_millis(100);

/// Serves a stream. Returns the stream of answers.
pub(crate) async fn start<H: Handle>(
    mut incoming: Streaming<FromRuntime>,
    handler: Arc<H>,
    settings: Settings,
    stop: CancellationToken,
) -> Result<AnswerStream, Status> {
    let first = incoming.message().await?;
    let hello = match first.and_then(|first| first.message) {
        Some(Message::Hello(hello)) => hello,
        _ => Hello::default(),
    };
    let order = accept(&hello)?;
    let lanes = match order {
        Order::Batch => 1,
        Order::Key | Order::Unspecified => settings.concurrency,
    };
    let answers = Arc::new(Answers::new(lanes, settings.window, welcome()));
    let stream = AnswerStream::new(Arc::clone(&answers));
    let mut open = OpenStream {
        incoming,
        lanes: Lanes::start(order, &handler, &answers, &stop),
        group: hello.group.into(),
        timeout: Duration::from_millis(hello.timeout_ms),
        batches: BTreeMap::new(),
    };
    answers.open();
    tokio::spawn(async move {
        // However the stream ends, the running calls finish.
        let work = async {
            let _ = open.read(&stop).await;
            let incoming = open.finish().await;
            answers.end(Ok(()));
            drain(incoming).await;
        };
        let looks = async {
            loop {
                tokio::time::sleep(LOOK).await;
                answers.report_news();
            }
        };
        tokio::select! {
            biased;
            () = work => {}
            () = looks => {}
        }
    });
    Ok(stream)
}

/// Returns the order that the runtime needs, if this version of the handler's half keeps it.
fn accept(hello: &Hello) -> Result<Order, Status> {
    if hello.version < VERSION {
        return Err(Status::failed_precondition(format!(
            "this SDK speaks version {VERSION} of the protocol, and the runtime {}; update the runtime",
            hello.version
        )));
    }
    Order::try_from(hello.order).map_err(|_| {
        Status::failed_precondition(format!(
            "this SDK does not know the order {} that the consumer needs; update the SDK",
            hello.order
        ))
    })
}

fn welcome() -> Welcome {
    let orders = [Order::Unspecified, Order::Batch, Order::Key];
    let features = [Feature::Begun, Feature::Cancel];
    Welcome {
        version: VERSION,
        sdk_name: "penstock-rust".into(),
        sdk_version: env!("CARGO_PKG_VERSION").into(),
        orders: orders.map(i32::from).into(),
        features: features.map(i32::from).into(),
        max_batch: 0,
        max_message_bytes: MAX_BYTES as u64,
    }
}

/// Continues to read until the runtime has read the end and ends its half. If the connection
/// were closed while the runtime sends, the runtime would see a broken stream, not an ended
/// one.
async fn drain(mut incoming: Streaming<FromRuntime>) {
    let read = async { while let Ok(Some(_)) = incoming.message().await {} };
    // This only decides whether an attempt counts.
    let _ = tokio::time::timeout(DRAIN_LIMIT, read).await;
}

struct OpenStream {
    incoming: Streaming<FromRuntime>,
    lanes: Lanes,
    group: Arc<str>,
    timeout: Duration,
    batches: Batches,
}

impl OpenStream {
    async fn read(&mut self, stop: &CancellationToken) -> Result<(), Status> {
        while let Some(next) = stop.run_until_cancelled(self.incoming.message()).await {
            let next = match next {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(()),
                Err(status) => {
                    void(&self.batches, ALL);
                    return Err(status);
                }
            };
            match next.message {
                Some(Message::Batch(batch)) => self.begin(batch),
                Some(Message::Cancel(cancel)) => {
                    cancel
                        .deliveries
                        .iter()
                        .for_each(|it| void(&self.batches, *it));
                }
                // A message of a later version of the contract.
                Some(Message::Hello(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Waits until the calls have ended. Calls that are cancelled in the meantime end
    /// immediately.
    async fn finish(self) -> Streaming<FromRuntime> {
        let Self {
            mut incoming,
            lanes,
            batches,
            ..
        } = self;
        let cancels = async {
            loop {
                match incoming
                    .message()
                    .await
                    .map(|next| next.map(|it| it.message))
                {
                    Ok(Some(Some(Message::Cancel(cancel)))) => {
                        cancel.deliveries.iter().for_each(|it| void(&batches, *it));
                    }
                    // The runtime sends late messages again.
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => {
                        void(&batches, ALL);
                        break;
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = lanes.finish() => {}
            () = cancels => {}
        }
        incoming
    }

    fn begin(&mut self, batch: Batch) {
        self.batches.retain(|_, batch| batch.strong_count() > 0);
        let first_id = batch.first_id;
        let (head, messages) = message::split(&self.group, self.timeout, batch);
        let batch = self.lanes.give(head, messages);
        self.batches.insert(first_id, Arc::downgrade(&batch));
    }
}

/// Batches that may still be running, by their first number.
type Batches = BTreeMap<u64, Weak<BatchState>>;

/// Every delivery.
const ALL: Range = Range {
    first_id: 0,
    count: u64::MAX,
};

/// Ends the calls of some deliveries: no runtime waits for their verdicts.
fn void(batches: &Batches, range: Range) {
    let before = batches.range(..=range.first_id).next_back();
    let from = before.map_or(range.first_id, |(first, _)| *first);
    let end = range.first_id.saturating_add(range.count);
    for (_, batch) in batches.range(from..end.max(from)) {
        if let Some(batch) = batch.upgrade() {
            batch.cancel(range);
        }
    }
}
