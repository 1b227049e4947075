//! Our sides: the runtime as a library, with handlers that count.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use penstock_runtime::decode::{Decoder, Json, JsonText, Raw};
use penstock_runtime::handler::http::HttpHandler;
use penstock_runtime::handler::{Handler, HandlerError};
use penstock_runtime::record::Message;
use penstock_runtime::{Done, Runtime};

use super::{Failed, Work};
use crate::consumer::{self, EMBEDDED, IN_ORDER, Settings, fast};
use crate::meter::Meter;
use crate::workload::Order;

/// Counts what another handler has handled.
struct Counted<H> {
    inner: H,
    meter: Arc<Meter>,
}

impl<T: Send + Sync, H: Handler<T>> Handler<T> for Counted<H> {
    async fn handle(&self, message: Message<'_, T>) -> Result<Done, HandlerError> {
        let done = self.inner.handle(message).await?;
        self.meter.count();
        Ok(done)
    }
}

/// Looks at the message and is done.
struct Look;

impl<T: Send + Sync> Handler<T> for Look {
    async fn handle(&self, message: Message<'_, T>) -> Result<Done, HandlerError> {
        black_box(message.data());
        black_box(message.payload());
        Ok(Done::default())
    }
}

/// Takes its time.
struct Wait(Duration);

impl<T: Send + Sync> Handler<T> for Wait {
    async fn handle(&self, _: Message<'_, T>) -> Result<Done, HandlerError> {
        tokio::time::sleep(self.0).await;
        Ok(Done::default())
    }
}

/// Fast, Embedded, with JSON decoded to a struct.
pub async fn fast_json(work: &Work, commit: &str, meter: &Arc<Meter>) -> Result<(), Failed> {
    let mode = fast(work.handlers, commit);
    consume(work, &mode, EMBEDDED, Json::<Order>::new(), Look, meter).await
}

/// Fast, Embedded, without decoding.
pub async fn fast_raw(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    let mode = fast(work.handlers, "Read") + ", format: Raw";
    consume(work, &mode, EMBEDDED, Raw, Look, meter).await
}

/// InOrder, Embedded, with JSON decoded to a struct.
pub async fn in_order(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    consume(work, IN_ORDER, EMBEDDED, Json::<Order>::new(), Look, meter).await
}

/// KeyOrdered, Embedded, with JSON decoded to a struct.
pub async fn key_ordered(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    let mode = consumer::key_ordered(work.handlers);
    consume(work, &mode, EMBEDDED, Json::<Order>::new(), Look, meter).await
}

/// Fast, Http: what the runtime's own program does.
pub async fn fast_http(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    let mode = fast(work.handlers, "Read");
    let address = match (&work.socket, work.port) {
        (Some(socket), _) => format!("protocol: Http, socket: {}", socket.display()),
        (None, Some(port)) => format!("protocol: Http, port: {port}"),
        (None, None) => return Err(Failed::other("neither --port nor --socket is given")),
    };
    let consumer = settings(work, &mode, &address).consumer()?;
    let listens_at = consumer.endpoint.address();
    let handler = HttpHandler::new(
        listens_at.ok_or_else(|| Failed::other("the manifest's handler is embedded"))?,
        &consumer.handler.path,
        true,
        consumer.handler.timeout.get(),
        false,
        true,
    )?;
    consume(work, &mode, &address, JsonText, handler, meter).await
}

/// Fast, Embedded, commit Handled, with a backlog before slow handlers.
pub async fn slow(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    let mode = fast(work.handlers, "Handled");
    let handler = Wait(Duration::from_millis(work.delay));
    consume(work, &mode, EMBEDDED, Json::<Order>::new(), handler, meter).await
}

pub(super) fn settings<'a>(work: &'a Work, mode: &'a str, handler: &'a str) -> Settings<'a> {
    Settings {
        bootstrap: &work.bootstrap,
        topic: &work.topic,
        mode,
        handler,
        properties: &work.properties,
    }
}

async fn consume<D, H>(
    work: &Work,
    mode: &str,
    address: &str,
    decoder: D,
    handler: H,
    meter: &Arc<Meter>,
) -> Result<(), Failed>
where
    D: Decoder,
    H: Handler<D::Data>,
{
    let consumer = settings(work, mode, address).consumer()?;
    let handler = Counted {
        inner: handler,
        meter: Arc::clone(meter),
    };
    Runtime::new(consumer)
        .metrics_address(None)
        .health_address(None)
        .run(decoder, handler, meter.done())
        .await?;
    Ok(())
}
