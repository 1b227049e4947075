//! Brokers that a tenant runs, and that mean harm.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock_operator::kafka::BrokerPolicy;
use penstock_operator::key::Key;
use serde_json::json;

use crate::world::{NAMESPACE, World};

/// What a broker does with a connection.
#[derive(Clone, Copy)]
pub enum Script {
    /// Reads, and never answers.
    Silent,
    /// Announces an answer of so many bytes, and sends them.
    Flood(u32),
    /// Answers each request with these bytes, whatever was asked.
    Says(&'static [u8]),
}

/// A broker on a port of this machine, until it is dropped.
pub struct Broker {
    pub address: String,
    pub connections: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
}

impl Broker {
    pub fn new(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let ends = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let broker = Self {
            address,
            connections: Arc::clone(&connections),
            ends: Arc::clone(&ends),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                connections.fetch_add(1, Ordering::AcqRel);
                thread::spawn(move || play(script, stream));
            }
        });
        broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // The listener looks at it once more.
        drop(TcpStream::connect(&self.address));
    }
}

/// Ends when the client closes the connection.
fn play(script: Script, mut stream: TcpStream) -> Option<()> {
    let mut size = [0; 4];
    loop {
        stream.read_exact(&mut size).ok()?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut request).ok()?;
        match script {
            Script::Silent => {}
            Script::Flood(announced) => {
                stream.write_all(&announced.to_be_bytes()).ok()?;
                stream.write_all(&request[4..8]).ok()?;
                let zeros = vec![0; 1 << 20];
                for _ in 0..announced >> 20 {
                    stream.write_all(&zeros).ok()?;
                }
            }
            Script::Says(bytes) => stream.write_all(bytes).ok()?,
        }
    }
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

/// The most memory that the process has while `work` is done, beyond what it has now.
async fn growth(work: impl Future<Output = ()>) -> usize {
    let before = resident();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut most = 0;
            while !done.load(Ordering::Acquire) {
                most = most.max(resident());
                thread::sleep(Duration::from_millis(5));
            }
            most
        }
    });
    work.await;
    done.store(true, Ordering::Release);
    watcher.join().expect("it measures").saturating_sub(before)
}

#[tokio::test]
async fn a_broker_that_announces_900_mb_takes_no_memory_and_is_told_of() {
    let broker = Broker::new(Script::Flood(900 << 20));
    let world = World::new();
    let kafka = json!({
        "bootstrapServers": broker.address,
        "config": { "receive.message.max.bytes": "2000000000" },
    });
    world.apply("orders", json!({ "kafka": kafka }));
    let grown = growth(async {
        world.pass("orders").await.unwrap();
    })
    .await;
    assert!(broker.connections.load(Ordering::Acquire) > 0);
    assert!(grown < 200 << 20, "{} MB", grown >> 20);
    let told = world.condition("orders", "TopicsResolved");
    assert_eq!(told, Some(("Unknown".into(), "BrokersUnreachable".into())));
    assert!(world.api.get("deployments", "orders").is_none());
}

#[tokio::test]
async fn brokers_that_talk_nonsense_end_in_a_condition() {
    let nonsense: [&[u8]; 3] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0, 0, 0, 4, 0, 0, 0, 1],
        &[0xff; 64],
    ];
    for says in nonsense {
        let broker = Broker::new(Script::Says(says));
        let world = World::new();
        world.apply(
            "orders",
            json!({ "kafka": { "bootstrapServers": broker.address } }),
        );
        world.pass("orders").await.unwrap();
        let told = world.condition("orders", "TopicsResolved").unwrap();
        assert_eq!(told.0, "Unknown", "{told:?}");
    }
}

#[tokio::test]
async fn a_silent_broker_ends_in_a_condition() {
    let broker = Broker::new(Script::Silent);
    let world = World::new();
    world.apply(
        "orders",
        json!({ "kafka": { "bootstrapServers": broker.address } }),
    );
    world.pass("orders").await.unwrap();
    let told = world.condition("orders", "TopicsResolved");
    assert_eq!(told, Some(("Unknown".into(), "BrokersUnreachable".into())));
}

/// A thousand consumers of one namespace, each with a connection of its own to a broker
/// that never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dead_clusters_do_not_keep_another_namespace_waiting() {
    let broker = Broker::new(Script::Silent);
    let world = World::new();
    for number in 0..1000 {
        let kafka = json!({
            "bootstrapServers": broker.address,
            "config": { "client.id": format!("c{number}") },
        });
        world.apply_in(
            "noisy",
            &format!("noisy-{number}"),
            json!({ "kafka": kafka }),
        );
    }
    let running = world.run();
    running
        .until("each has had a pass", |world| {
            world.api.count("patch kafkaconsumers/status noisy-") >= 900
        })
        .await;
    let began = Instant::now();
    running.world.apply("orders", json!({}));
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let told = running.world.condition("noisy-500", "TopicsResolved");
    assert_eq!(told, Some(("Unknown".into(), "BrokersNotAsked".into())));
    // A few connections for the whole namespace, though all of them are tried in turn.
    let connections = broker.connections.load(Ordering::Acquire);
    assert!(connections < 50, "{connections}");
}

/// The watch tells of a deletion while a pass is under way.
#[tokio::test]
async fn a_consumer_that_is_deleted_during_its_pass_is_forgotten() {
    let world = World::new();
    let secret = json!([{ "secretRef": { "name": "s", "optional": true } }]);
    world.apply("orders", json!({ "handler": { "envFrom": secret } }));
    let key = Key::new(NAMESPACE, "orders");
    let context = Arc::clone(&world.context);
    // Secrets are read before Kafka is asked.
    world.api.disturb(move |call| {
        if call.to_string().starts_with("get secrets") {
            context.forget(&key);
        }
        None
    });
    world.pass("orders").await.unwrap();
    let key = Key::new(NAMESPACE, "orders");
    assert!(!world.context.kafka.knows(&key), "its cluster is forgotten");
    assert!(world.context.siblings.of(&key).is_empty());
}

/// As `kubectl replace --force` does: the watch shows a deletion and a creation while a pass is
/// under way.
#[tokio::test]
async fn a_consumer_that_is_created_again_during_its_pass_is_reconciled() {
    let world = World::new();
    let secret = json!([{ "secretRef": { "name": "s", "optional": true } }]);
    world.apply("orders", json!({ "handler": { "envFrom": secret } }));
    let (context, found) = (Arc::clone(&world.context), world.found("orders"));
    world.api.disturb(move |call| {
        if call.to_string().starts_with("get secrets") {
            context.forget(&Key::new(NAMESPACE, "orders"));
            context.saw(&found);
        }
        None
    });
    world.pass("orders").await.unwrap();
    let key = Key::new(NAMESPACE, "orders");
    assert!(world.context.passes.begin(&key), "the next pass is made");
}

#[tokio::test]
async fn a_consumer_that_is_being_deleted_is_not_asked_for_any_more() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    let key = Key::new(NAMESPACE, "orders");
    assert!(world.context.kafka.knows(&key));
    world.api.edit("kafkaconsumers", "orders", |object| {
        object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
    });
    world.pass("orders").await.unwrap();
    assert!(!world.context.kafka.knows(&key));
}

/// An operator with these patterns and networks, and a consumer of a broker that counts
/// connections.
async fn refused(allowed: &[&str], denied: &[&str]) -> (World, usize) {
    let broker = Broker::new(Script::Silent);
    let policy = BrokerPolicy::new(
        allowed
            .iter()
            .map(|text| text.parse().expect("a pattern"))
            .collect(),
        denied
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect(),
    );
    let world = World::with_policy(policy);
    let kafka = json!({ "bootstrapServers": broker.address });
    world.apply("orders", json!({ "kafka": kafka }));
    world.pass("orders").await.expect("a pass");
    let connections = broker.connections.load(Ordering::Acquire);
    (world, connections)
}

#[tokio::test]
async fn no_connection_is_made_that_the_administrator_does_not_allow() {
    let cases: [(&[&str], &[&str]); 3] = [
        (&[], &["loopback", "link-local"]),
        (&["*.kafka.svc:9092"], &[]),
        (&["other=*:*"], &[]),
    ];
    for (allowed, denied) in cases {
        let (world, connections) = refused(allowed, denied).await;
        let told = world.condition("orders", "TopicsResolved");
        assert_eq!(told, Some(("Unknown".into(), "BrokersNotAllowed".into())));
        assert_eq!(connections, 0, "{allowed:?} {denied:?}");
        assert!(world.api.get("deployments", "orders").is_none());
    }
}

/// The mock cluster's broker says that it is at 127.0.0.1, whatever name led to it.
#[tokio::test]
async fn brokers_that_brokers_name_must_be_allowed_too() {
    let policy = BrokerPolicy::new(vec!["localhost:*".parse().unwrap()], Vec::new());
    let world = World::with_policy(policy);
    let brokers = world
        .kafka
        .bootstrap_servers()
        .replace("127.0.0.1", "localhost");
    world.apply(
        "orders",
        json!({ "kafka": { "bootstrapServers": brokers } }),
    );
    world.pass("orders").await.unwrap();
    let told = world.condition("orders", "TopicsResolved");
    assert_eq!(told, Some(("Unknown".into(), "BrokersNotAllowed".into())));
    assert!(
        world
            .message("orders", "TopicsResolved")
            .contains("'127.0.0.1:")
    );
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let page = std::fs::read_to_string(format!("{root}/SECURITY.md")).expect("the page");
    let mut named = 0;
    for line in page.lines() {
        let mut file = String::new();
        // What stands between backquotes.
        for text in line.split('`').skip(1).step_by(2) {
            if text.ends_with(".rs") {
                file = std::fs::read_to_string(format!("{root}/{text}")).expect(text);
            } else if !file.is_empty() {
                assert!(file.contains(&format!("fn {text}(")), "{text}");
                named += 1;
            }
        }
    }
    assert!(named >= 15, "{named}");
}
