//! A handler in a process of its own, by whichever protocol its manifest names.

use std::time::Duration;

use penstock_crds::spec::{Commit, Format};
use penstock_crds::validate::{Address, ConsumeMode, Endpoint, Transport, ValidatedConsumer};
use tokio_util::sync::CancellationToken;

use super::HandlerError;
use super::grpc::GrpcHandler;
use super::http::{BatchHttpHandler, HttpHandler, HttpHandlerError};
use crate::decode::{JsonText, Raw};
use crate::server::{RunError, Runtime};

/// A handler in a process of its own.
pub struct RemoteHandler {
    address: Address,
    format: Format,
    protocol: Protocol,
}

enum Protocol {
    Http(HttpHandler),
    BatchHttp(BatchHttpHandler),
    Grpc(Box<GrpcHandler>),
}

impl RemoteHandler {
    /// The handler of a consumer; `None` if it is embedded.
    ///
    /// # Errors
    /// When its settings can't be used.
    pub fn new(consumer: &ValidatedConsumer) -> Result<Option<Self>, HttpHandlerError> {
        let Endpoint::Remote { transport, address } = &consumer.endpoint else {
            return Ok(None);
        };
        let (handler, format) = (&consumer.handler, consumer.format);
        let (path, json, timeout) = (&handler.path, format == Format::Json, handler.timeout.get());
        let produces = consumer.commit == Commit::Transactional;
        let protocol = match transport {
            Transport::Http => {
                let is_shared = consumer.mode.handlers() > 1;
                let handler = HttpHandler::new(address, path, json, timeout, produces, is_shared)?;
                Protocol::Http(handler)
            }
            Transport::BatchHttp => {
                let in_order = consumer.mode == ConsumeMode::InOrder;
                let handler = BatchHttpHandler::new(address, path, json, timeout, in_order)?;
                Protocol::BatchHttp(handler)
            }
            Transport::Grpc => Protocol::Grpc(Box::new(GrpcHandler::new(consumer, address))),
        };
        Ok(Some(Self {
            address: address.clone(),
            format,
            protocol,
        }))
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits until it accepts connections, at most `limit`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        match &self.protocol {
            Protocol::Http(handler) => handler.wait_until_up(limit).await,
            Protocol::BatchHttp(handler) => handler.wait_until_up(limit).await,
            Protocol::Grpc(handler) => handler.wait_until_up(limit).await,
        }
    }

    /// As [`Runtime::run`], with this handler, whose process decodes the messages.
    ///
    /// # Errors
    /// As [`Runtime::run`].
    pub async fn run(self, runtime: Runtime, stop: CancellationToken) -> Result<(), RunError> {
        let runtime = runtime.availability(match &self.protocol {
            Protocol::Http(handler) => handler.availability(),
            Protocol::BatchHttp(handler) => handler.availability(),
            Protocol::Grpc(handler) => handler.availability(),
        });
        match (self.protocol, self.format) {
            (Protocol::Http(handler), Format::Json) => runtime.run(JsonText, handler, stop).await,
            (Protocol::Http(handler), Format::Raw) => runtime.run(Raw, handler, stop).await,
            (Protocol::BatchHttp(handler), Format::Json) => {
                runtime.run_in_batches(JsonText, handler, stop).await
            }
            (Protocol::BatchHttp(handler), Format::Raw) => {
                runtime.run_in_batches(Raw, handler, stop).await
            }
            (Protocol::Grpc(handler), Format::Json) => {
                runtime.run_in_batches(JsonText, *handler, stop).await
            }
            (Protocol::Grpc(handler), Format::Raw) => {
                runtime.run_in_batches(Raw, *handler, stop).await
            }
        }
    }
}
