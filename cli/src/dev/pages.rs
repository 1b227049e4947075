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
    /// Takes the arguments' addresses, and says which they are, with ports instead
    /// of 0.
    pub fn open(
        arguments: &DevArguments,
        handler: Option<TcpListener>,
    ) -> Result<(Self, Pages), DevError> {
        let (metrics, metrics_address) = open("metrics", arguments.metrics_address)?;
        let (health, health_address) = open("health", arguments.health_address)?;
        let pages = Pages {
            metrics: metrics_address,
            health: health_address,
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
