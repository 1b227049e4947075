//! Our sides whose handler is another process, reached over gRPC: that of `serve`.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_handler::{Delivered, ServeError, Server};
use penstock_runtime::decode::{Decoder, JsonText, Raw};
use penstock_runtime::handler::grpc::GrpcHandler;
use penstock_runtime::handler::{BatchHandler, HandlerError};
use penstock_runtime::record::Message;
use penstock_runtime::{Done, Runtime};
use tokio_util::sync::CancellationToken;

use super::consume::settings;
use super::{Failed, Work};
use crate::consumer::{fast, key_ordered};
use crate::meter::Meter;
use crate::workload::Order;

/// Messages that the handler takes at once: enough for a read of each of 16 workers.
const WINDOW: u32 = 16_000;

/// Counts the messages that another handler was done with.
struct Counted<H> {
    inner: H,
    meter: Arc<Meter>,
}

impl<T: Send + Sync, H: BatchHandler<T>> BatchHandler<T> for Counted<H> {
    async fn handle_batch(&self, messages: &[Message<'_, T>]) -> Vec<Result<Done, HandlerError>> {
        let verdicts = self.inner.handle_batch(messages).await;
        let done = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
        self.meter.count_many(done as u64);
        verdicts
    }

    fn keeps_time(&self) -> bool {
        self.inner.keeps_time()
    }

    fn keeps_key_order(&self) -> bool {
        self.inner.keeps_key_order()
    }
}

/// Fast, Grpc, JSON.
pub async fn fast_json(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    consume(work, &fast(work.handlers, "Read"), JsonText, meter).await
}

/// Fast, Grpc, without a look at what the values are.
pub async fn fast_raw(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    consume(work, &fast(work.handlers, "Read"), Raw, meter).await
}

/// KeyOrdered, Grpc, JSON.
pub async fn key_ordered_json(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    consume(work, &key_ordered(work.handlers), JsonText, meter).await
}

/// KeyOrdered, Grpc, without a look at what the values are.
pub async fn key_ordered_raw(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    consume(work, &key_ordered(work.handlers), Raw, meter).await
}

async fn consume<D>(work: &Work, mode: &str, decoder: D, meter: &Arc<Meter>) -> Result<(), Failed>
where
    D: Format + 'static,
{
    let socket = work.socket.as_deref();
    let socket = socket.ok_or_else(|| Failed::other("--socket is not given"))?;
    let mode = format!("{mode}, format: {}", D::NAME);
    let address = format!(
        "protocol: Grpc, socket: {}",
        beside(socket, D::NAME).display()
    );
    let consumer = settings(work, &mode, &address).consumer()?;
    let listens_at = consumer.endpoint.address();
    let handler = Counted {
        inner: GrpcHandler::new(
            &consumer,
            listens_at.ok_or_else(|| Failed::other("the manifest's handler is embedded"))?,
        ),
        meter: Arc::clone(meter),
    };
    Runtime::new(consumer)
        .metrics_address(None)
        .health_address(None)
        .run_in_batches(decoder, handler, meter.done())
        .await?;
    Ok(())
}

/// A decoder that has a handler of its own.
trait Format: Decoder {
    /// As the manifest calls it.
    const NAME: &str;
}

impl Format for JsonText {
    const NAME: &str = "Json";
}

impl Format for Raw {
    const NAME: &str = "Raw";
}

/// Where the gRPC server for that format listens that belongs to an HTTP server's socket.
fn beside(socket: &Path, format: &str) -> PathBuf {
    socket.with_extension(format)
}

/// The other half, twice: one decodes each message, the other looks at its bytes.
pub async fn serve(http_socket: &Path) -> Result<(), ServeError> {
    let server = |format| Server::unix(beside(http_socket, format)).window(WINDOW);
    let end = CancellationToken::new;
    tokio::try_join!(
        server(JsonText::NAME).run(decode, end()),
        server(Raw::NAME).run(look, end()),
    )?;
    Ok(())
}

/// Decodes a message to a struct, and is done.
async fn decode(message: Delivered) -> Result<(), HandlerError> {
    let value = message.value.as_deref().unwrap_or_default();
    serde_json::from_slice::<Order>(value).map_err(HandlerError::permanent)?;
    Ok(())
}

/// Looks at a message, and is done.
async fn look(message: Delivered) -> Result<(), HandlerError> {
    black_box(&message.value);
    Ok(())
}
