//! The server of pages, and the metrics page.

use std::io;
use std::net::{self, SocketAddr};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::observe::metrics::Metrics;

/// The error of listening at an address.
#[derive(Debug, Error)]
#[error(
    "the {page} page can't be served at {address}: {source}; choose another address with --{page}-address"
)]
pub struct ListenError {
    /// The page: "metrics" or "health".
    page: &'static str,
    /// The address.
    address: String,
    /// The error of the operating system.
    source: io::Error,
}

/// The address or listener of a page.
pub(crate) enum Place {
    /// An address without a listener.
    Address(SocketAddr),
    /// A listener of the caller.
    Held(net::TcpListener),
}

impl Place {
    /// Listens at the address. Called before the consumer starts, so that a conflict is
    /// reported early.
    pub(crate) fn listen(self, page: &'static str) -> Result<TcpListener, ListenError> {
        let (address, listener) = match self {
            Self::Address(address) => (Some(address), net::TcpListener::bind(address)),
            Self::Held(listener) => (listener.local_addr().ok(), Ok(listener)),
        };
        listener.and_then(serving).map_err(|source| ListenError {
            page,
            address: address.map_or_else(|| "its listener".into(), |it| it.to_string()),
            source,
        })
    }
}

fn serving(listener: net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A page that is being served.
pub(crate) struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves until `stop` is called.
    pub(crate) fn start(listener: TcpListener, router: Router) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let serving = axum::serve(listener, router)
                .with_graceful_shutdown(async move { stopped.cancelled().await });
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the server of a page ended");
            }
        });
        Self { stop, task }
    }

    /// Stops serving, and releases the address. Open connections of clients are cut.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.abort();
        // Ends with the abort, or has ended by itself.
        let _ = self.task.await;
    }
}

/// `/metrics` in Prometheus' text format.
pub(crate) fn metrics_page(metrics: Metrics) -> Router {
    Router::new().route(
        "/metrics",
        get(move || async move {
            match metrics.render() {
                Ok(page) => (
                    [(
                        header::CONTENT_TYPE,
                        "text/plain; version=0.0.4; charset=utf-8",
                    )],
                    page,
                )
                    .into_response(),
                Err(error) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
                }
            }
        }),
    )
}
