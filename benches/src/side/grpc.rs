//! Our sides whose handler is another process, reached over gRPC: that of `serve`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_runtime::decode::JsonText;
use penstock_runtime::handler::grpc::GrpcHandler;
use penstock_runtime::handler::grpc::serve::{Delivered, ServeError, Server};
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

/// Fast, Grpc.
pub async fn fast_grpc(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    consume(work, &fast(work.handlers, "Read"), meter).await
}

/// KeyOrdered, Grpc.
pub async fn key_ordered_grpc(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    consume(work, &key_ordered(work.handlers), meter).await
}

async fn consume(work: &Work, mode: &str, meter: &Arc<Meter>) -> Result<(), Failed> {
    let socket = work.socket.as_deref();
    let socket = socket.ok_or_else(|| Failed::other("--socket is not given"))?;
    let address = format!("protocol: Grpc, socket: {}", beside(socket).display());
    let consumer = settings(work, mode, &address).consumer()?;
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
        .run_in_batches(JsonText, handler, meter.done())
        .await?;
    Ok(())
}

/// Where the gRPC server listens that belongs to an HTTP server's socket.
fn beside(socket: &Path) -> PathBuf {
    socket.with_extension("grpc")
}

/// The other half: decodes each message to a struct, and is done.
pub async fn serve(http_socket: &Path) -> Result<(), ServeError> {
    let handle = async |message: Delivered| {
        let value = message.value.as_deref().unwrap_or_default();
        serde_json::from_slice::<Order>(value).map_err(HandlerError::permanent)?;
        Ok(())
    };
    Server::unix(beside(http_socket))
        .window(WINDOW)
        .run(handle, CancellationToken::new())
        .await
}
