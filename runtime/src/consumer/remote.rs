//! A handler in another process, with the protocol of its manifest.

use std::time::Duration;

use penstock_crds::spec::{Commit, Format};
use penstock_crds::validate::{Address, ConsumeMode, Endpoint, Transport, ValidatedConsumer};
use tokio_util::sync::CancellationToken;

use super::server::{RunError, Runtime};
use crate::handler::HandlerError;
use crate::handler::decode::{JsonText, Raw};
use crate::handler::grpc::GrpcHandler;
use crate::handler::http::{BatchHttpHandler, HttpHandler, HttpHandlerError};

/// A handler in another process.
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
    /// Creates the handler of a consumer. Returns `None` if the handler is embedded.
    ///
    /// # Errors
    /// Returns an error if the settings of the handler are not valid.
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

    /// Returns the address at which the handler listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits until the handler accepts connections, at most for `limit`.
    ///
    /// # Errors
    /// Returns the last error after `limit`. The error is permanent, and returned immediately,
    /// if the handler cannot work with this runtime.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        match &self.protocol {
            Protocol::Http(handler) => handler.wait_until_up(limit).await,
            Protocol::BatchHttp(handler) => handler.wait_until_up(limit).await,
            Protocol::Grpc(handler) => handler.wait_until_up(limit).await,
        }
    }

    /// Runs as [`Runtime::run`] does, with this handler. The handler's process decodes the
    /// messages.
    ///
    /// # Errors
    /// Returns an error as [`Runtime::run`] does.
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
