//! A handler that records what it is given and answers as the test says.
//!
//! It speaks HTTP/1.1 itself, to be able to answer wrongly, or gRPC by the library, and
//! runs in a thread of its own, so that a busy test does not falsify its times. An embedded
//! handler does as it likes, and the recorder reads its [`Journal`].
//!
//! A request of BatchHttp is as many deliveries as it has events. It is answered once,
//! after the longest delay, with the verdicts that the replies' statuses mean; unless they
//! are handled one by one.

mod batch;
mod grpc;
mod http;
mod journal;
mod produce;
mod reply;
mod serve;

pub use journal::{Begun, Given, Journal};
pub use reply::{Gate, Reply};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use penstock_handler::Server;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sync::lock;
use crate::wait::{self, TimedOut};
use crate::{Position, ports};
use serve::Shared;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not answered yet.
    Open,
    /// Answered with this status. Whether the client was still there is not known.
    Answered(u16),
    /// Ended on purpose without a whole answer.
    Broken,
    /// The client left before the answer.
    Abandoned,
}

impl Verdict {
    /// Whether the message was handled: status 200 to 299.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(200..300))
    }
}

/// One message, given once.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Where the message lies: `ce-kafkatopic`, `ce-kafkapartition`, `ce-kafkaoffset`.
    pub position: Position,
    /// Its key, `ce-partitionkey`, with percent-encoding undone.
    pub key: Option<String>,
    /// Which attempt this is, `ce-attempt`, from 1.
    pub attempt: u32,
    /// Method of the request.
    pub method: String,
    /// Path of the request.
    pub path: String,
    /// All headers, names in lower case. Of two with one name the later is kept.
    pub headers: BTreeMap<String, String>,
    /// The message's value. JSON from a batch is written anew.
    pub body: Vec<u8>,
    /// Number of the connection it came on, from 0.
    pub connection: usize,
    /// When the request had been read: one moment for all that it brought.
    pub start: Instant,
    /// When the verdict was given: before the answer was written.
    pub end: Option<Instant>,
    /// What became of it.
    pub verdict: Verdict,
}

/// The header with the end of an attempt's time.
pub const DEADLINE: &str = "ce-attemptdeadline";

impl Delivery {
    /// Returns `true` if each message has a verdict of its own, whatever it came with.
    pub fn is_answered_alone(&self) -> bool {
        self.path == grpc::PATH
    }

    /// A header by its name in lower case, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// When the time of the attempt is over, where the request says so.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline: Timestamp = self.header(DEADLINE)?.parse().ok()?;
        let left = SystemTime::from(deadline).duration_since(SystemTime::now());
        Some(match left {
            Ok(left) => Instant::now() + left,
            Err(past) => Instant::now().checked_sub(past.duration())?,
        })
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Where a recorder listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Journal(PathBuf),
}

/// What a recorder speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Grpc,
    Embedded,
}

/// The recording handler. It stops when it is dropped; dropped by a panic, it shows
/// the requests that it could not read.
#[derive(Debug)]
pub struct Recorder {
    protocol: Protocol,
    address: Address,
    shared: Arc<Shared>,
    handle: Handle,
    up: Mutex<Option<(CancellationToken, TaskTracker)>>,
    /// Its drop ends the thread.
    _end: tokio::sync::oneshot::Sender<()>,
}

impl Recorder {
    /// A handler on a free port of 127.0.0.1 that answers 204 to everything.
    ///
    /// # Errors
    /// When the system gives no port or no thread.
    pub fn start() -> io::Result<Self> {
        Self::start_on([127, 0, 0, 1].into())
    }

    /// The same at a free port of another address of this machine, which pods of a
    /// test cluster reach through `penstock-test-handler`.
    ///
    /// # Errors
    /// When the system gives no port or no thread.
    pub fn start_on(host: IpAddr) -> io::Result<Self> {
        Self::start_at(Protocol::Http, Address::Tcp((host, 0).into()))
    }

    /// The same on a Unix socket at `path`, which must not exist.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn start_unix(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::start_at(Protocol::Http, Address::Unix(path.into()))
    }

    /// A Grpc handler on a free port of 127.0.0.1 that is done with everything. The
    /// statuses that it is told to answer become the verdicts that HTTP means by them.
    ///
    /// # Errors
    /// When the system gives no port or no thread.
    pub fn start_grpc() -> io::Result<Self> {
        Self::start_grpc_on([127, 0, 0, 1].into())
    }

    /// The same at a free port of another address of this machine.
    ///
    /// # Errors
    /// When the system gives no port or no thread.
    pub fn start_grpc_on(host: IpAddr) -> io::Result<Self> {
        let [port] = ports::free(&host.to_string())?;
        Self::start_at(Protocol::Grpc, Address::Tcp((host, port).into()))
    }

    /// The same on a Unix socket at `path`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_grpc_unix(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::start_at(Protocol::Grpc, Address::Unix(path.into()))
    }

    /// The recorder of embedded handlers, whose journal is at `path`. They are
    /// `penstock-test-embedded`, and do as that says.
    ///
    /// # Errors
    /// When the file can't be made, or the system gives no thread.
    pub fn start_embedded(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::start_at(Protocol::Embedded, Address::Journal(path.into()))
    }

    fn start_at(protocol: Protocol, address: Address) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || runtime.block_on(ended))?;
        let mut recorder = Self {
            protocol,
            address,
            shared: Arc::default(),
            handle,
            up: Mutex::new(None),
            _end: end,
        };
        recorder.address = recorder.listen()?;
        Ok(recorder)
    }

    /// Says how to answer from now on. `behaviour` sees each delivery as it arrives.
    pub fn behave(&self, behaviour: impl Fn(&Delivery) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.behaviour) = Arc::new(behaviour);
    }

    /// From now on handles the messages of a batch one after the other, up to the first
    /// that fails, as BatchHttp in mode InOrder wants it. (Over gRPC the runtime tells.)
    pub fn handle_one_by_one(&self) {
        self.shared.one_by_one.store(true, Ordering::Relaxed);
    }

    /// TCP port; 0 where it has none.
    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) | Address::Journal(_) => 0,
        }
    }

    /// Path of the Unix socket, if it listens on one.
    pub fn socket(&self) -> Option<&Path> {
        match &self.address {
            Address::Unix(path) => Some(path),
            Address::Tcp(_) | Address::Journal(_) => None,
        }
    }

    /// The journal of its embedded handlers, if it has such.
    pub fn journal(&self) -> Option<&Path> {
        match &self.address {
            Address::Journal(path) => Some(path),
            Address::Tcp(_) | Address::Unix(_) => None,
        }
    }

    /// Whether it speaks gRPC.
    pub fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// Stops listening and breaks all connections, as a handler that crashes; over gRPC
    /// it ends its streams in order, as one that is asked to. What was recorded stays.
    pub async fn down(&self) {
        let Some((cancel, tasks)) = lock(&self.up).take() else {
            return;
        };
        cancel.cancel();
        tasks.close();
        tasks.wait().await;
        if let Address::Unix(path) = &self.address {
            // Gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Listens again at the same address after [`Recorder::down`].
    ///
    /// # Errors
    /// When the address is taken.
    pub fn up(&self) -> io::Result<()> {
        self.listen().map(drop)
    }

    fn listen(&self) -> io::Result<Address> {
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let _context = self.handle.enter();
        let shared = Arc::clone(&self.shared);
        let address = match &self.address {
            Address::Tcp(address) if self.is_grpc() => {
                let server = Server::tcp(*address);
                tasks.spawn(grpc::serve(server, shared, cancel.clone()));
                Address::Tcp(*address)
            }
            Address::Unix(path) if self.is_grpc() => {
                let server = Server::unix(path);
                tasks.spawn(grpc::serve(server, shared, cancel.clone()));
                Address::Unix(path.clone())
            }
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let accept = serve::accept_tcp(listener, shared, cancel.clone(), tasks.clone());
                tasks.spawn(accept);
                Address::Tcp(address)
            }
            Address::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(listener)?;
                let accept = serve::accept_unix(listener, shared, cancel.clone(), tasks.clone());
                tasks.spawn(accept);
                Address::Unix(path.clone())
            }
            Address::Journal(path) => {
                journal::make(path)?;
                tasks.spawn(journal::follow(path.clone(), shared, cancel.clone()));
                Address::Journal(path.clone())
            }
        };
        *lock(&self.up) = Some((cancel, tasks));
        Ok(address)
    }

    /// All deliveries so far, in the order of their arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.with(<[Delivery]>::to_vec)
    }

    /// Looks at all deliveries so far without copying them.
    pub fn with<T>(&self, look: impl FnOnce(&[Delivery]) -> T) -> T {
        look(&lock(&self.shared.log).deliveries)
    }

    /// Number of deliveries so far.
    pub fn count(&self) -> usize {
        self.with(<[Delivery]>::len)
    }

    /// Number of different messages handled with success so far.
    pub fn handled(&self) -> usize {
        lock(&self.shared.log).handled.len()
    }

    /// Deliveries without a verdict now.
    pub fn in_flight(&self) -> usize {
        lock(&self.shared.log).in_flight
    }

    /// The most deliveries that ever were without a verdict at once.
    pub fn max_in_flight(&self) -> usize {
        lock(&self.shared.log).max_in_flight
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        lock(&self.shared.log).connections
    }

    /// What was wrong with requests that are no delivery: they lack a header, or are
    /// not HTTP. They were answered with 400 and are not among the deliveries.
    pub fn malformed(&self) -> Vec<String> {
        lock(&self.shared.log).malformed.clone()
    }

    /// Waits until at least `count` deliveries have arrived.
    ///
    /// # Errors
    /// [`TimedOut`] with the number that did.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Result<(), TimedOut> {
        self.wait_for_number(format!("{count} deliveries"), count, limit, Self::count)
            .await
    }

    /// Waits until at least `count` different messages were handled with success.
    ///
    /// # Errors
    /// [`TimedOut`] with the number that were.
    pub async fn wait_for_handled(&self, count: usize, limit: Duration) -> Result<(), TimedOut> {
        self.wait_for_number(
            format!("{count} messages handled"),
            count,
            limit,
            Self::handled,
        )
        .await
    }

    /// Waits until at least `count` deliveries are without a verdict.
    ///
    /// # Errors
    /// [`TimedOut`] with the number that are.
    pub async fn wait_for_in_flight(&self, count: usize, limit: Duration) -> Result<(), TimedOut> {
        self.wait_for_number(format!("{count} in flight"), count, limit, Self::in_flight)
            .await
    }

    async fn wait_for_number(
        &self,
        what: String,
        wanted: usize,
        limit: Duration,
        number: impl Fn(&Self) -> usize,
    ) -> Result<(), TimedOut> {
        wait::value(what, limit, async || match number(self) {
            seen if seen >= wanted => Ok(()),
            seen => Err(match self.malformed().first() {
                None => format!("{seen}"),
                Some(why) => format!("{seen}, and requests that are no deliveries: {why}"),
            }),
        })
        .await
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Address::Unix(path) | Address::Journal(path) = &self.address {
            // Gone already is as good.
            let _ = std::fs::remove_file(path);
        }
        let malformed = self.malformed();
        if std::thread::panicking() && !malformed.is_empty() {
            eprintln!("requests that are no deliveries: {malformed:#?}");
        }
    }
}

/// All that was recorded.
#[derive(Debug, Default)]
struct Log {
    deliveries: Vec<Delivery>,
    handled: BTreeSet<Position>,
    in_flight: usize,
    max_in_flight: usize,
    connections: usize,
    malformed: Vec<String>,
}

impl Log {
    /// Adds a delivery and returns its number.
    fn begin(&mut self, delivery: Delivery) -> usize {
        self.deliveries.push(delivery);
        self.in_flight += 1;
        self.max_in_flight = self.max_in_flight.max(self.in_flight);
        self.deliveries.len() - 1
    }

    /// Ends the delivery `number` now.
    fn end(&mut self, number: usize, verdict: Verdict) {
        self.end_at(number, verdict, Instant::now());
    }

    fn end_at(&mut self, number: usize, verdict: Verdict, at: Instant) {
        let delivery = &mut self.deliveries[number];
        delivery.end = Some(at);
        delivery.verdict = verdict;
        self.in_flight -= 1;
        if verdict.is_success() {
            self.handled.insert(delivery.position.clone());
        }
    }
}
