//! The metrics and health pages: their addresses, and reading the metrics.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use penstock_runtime::Metrics;
use tokio::net::TcpStream;

use super::error::DevError;
use super::snapshot::Snapshot;
use crate::args::DevArguments;

/// How long a page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(2);

/// Where the pages are served.
#[derive(Clone, Copy)]
pub struct Pages {
    pub metrics: SocketAddr,
    pub health: SocketAddr,
}

/// The addresses, held from before anything starts until they are served, so that
/// nobody else's pages are taken for ours.
pub struct Listeners {
    pub metrics: TcpListener,
    pub health: TcpListener,
    /// The handler's port, where it was found rather than given.
    pub handler: Option<TcpListener>,
}

impl Listeners {
    /// Takes the arguments' addresses. Returns them with ports instead of 0.
    ///
    /// # Errors
    /// Returns the error of every address in use, also of the `port` that the handler is to
    /// listen on.
    pub fn open(
        arguments: &DevArguments,
        handler: Option<TcpListener>,
        port: Option<u16>,
    ) -> Result<(Self, Pages), DevError> {
        let metrics = open("metrics", arguments.metrics_address);
        let health = open("health", arguments.health_address);
        let port = port.map_or(Ok(()), check_port);
        let (metrics, health, pages) = match (metrics, health, port) {
            (Ok((metrics, metrics_address)), Ok((health, health_address)), Ok(())) => {
                let pages = Pages {
                    metrics: metrics_address,
                    health: health_address,
                };
                (metrics, health, pages)
            }
            (metrics, health, port) => {
                let errors = [metrics.err(), health.err(), port.err()];
                return Err(DevError::Several(errors.into_iter().flatten().collect()));
            }
        };
        let listeners = Self {
            metrics,
            health,
            handler,
        };
        Ok((listeners, pages))
    }
}

fn open(page: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), DevError> {
    take(address).map_err(|source| DevError::Page {
        page,
        address,
        source,
    })
}

/// Checks that the handler can listen on a port, and that no other program is taken for it.
pub fn check_port(port: u16) -> Result<(), DevError> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(source) => Err(DevError::HandlerPort { port, source }),
    }
}

/// Takes an address, and says which it is, with a port instead of 0.
pub fn take(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// An address as this machine reaches it.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

/// Where a run's progress is read. It has the same form in both cases: the text
/// of the metrics page.
pub enum Source {
    /// The consumer runs in this process.
    Own(Box<Metrics>),
    /// It is a process of its own, with its page here.
    Page(SocketAddr),
}

impl Source {
    /// The progress now; nothing while there is no page.
    pub async fn look(&self) -> Option<Snapshot> {
        let page = match self {
            Self::Own(metrics) => metrics.render().ok()?,
            Self::Page(address) => {
                let page = fetch(reachable(*address));
                tokio::time::timeout(PAGE_LIMIT, page).await.ok()??
            }
        };
        Some(Snapshot::parse(&page))
    }
}

async fn fetch(address: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driver = tokio::spawn(connection);
    let request = Request::get("/metrics")
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let found = response.status() == StatusCode::OK;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    driver.abort();
    found.then(|| String::from_utf8_lossy(&body).into_owned())
}
