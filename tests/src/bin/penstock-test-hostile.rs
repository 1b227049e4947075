//! A handler that does what the header `behaviour` of a message says, and nothing without
//! one, on the SDK for Rust.
//!
//! `--list` prints the behaviours. Each call writes partition, offset and attempt to
//! `HOSTILE_JOURNAL`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::future::pending;
use std::io::Write as _;
use std::panic::panic_any;
use std::process::{self, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use penstock_handler::signals::stop_on_signal;
use penstock_handler::{Delivered, Server};
use penstock_runtime::Done;
use penstock_runtime::handler::HandlerError;
use penstock_runtime::produce::ProducerRecord;
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};
use tokio::time::sleep;

const BEHAVIOURS: [&str; 34] = [
    "raise",
    "panic",
    "throw-nothing",
    "unreadable-error",
    "allocate-too-much",
    "return-retry",
    "return-skip",
    "return-dead-letter",
    "return-fail",
    "huge-reason",
    "reason-with-lines",
    "reason-empty",
    "endless-delay",
    "produce",
    "take-too-long",
    "wait-forever",
    "outlive",
    "background-error",
    "flood-output",
    "leak",
    "start-a-process",
    "exhaust-files",
    "exit-with-0",
    "exit-with-1",
    "abort",
    "kill-itself",
    "segfault",
    "overflow-the-stack",
    "exit-and-stay-away",
    "terminate-itself",
    "exit-later",
    "freeze",
    "block-a-thread",
    "panic-halfway",
];

type Verdict = Result<Done, HandlerError>;

/// Never freed.
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn keep(bytes: Vec<u8>) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push(bytes);
}

/// An error without a text.
struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("no text")
    }
}

fn done() -> Verdict {
    Ok(Done::default())
}

fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        return 0;
    }
    recurse(depth + 1) + frame[7]
}

async fn behave(name: &str) -> Verdict {
    match name {
        "panic" => panic!("no database"),
        "throw-nothing" => panic_any(()),
        "panic-halfway" => {
            sleep(Duration::from_millis(5)).await;
            panic!("no database")
        }
        "allocate-too-much" => {
            keep(Vec::with_capacity(std::hint::black_box(usize::MAX)));
            done()
        }
        "take-too-long" => {
            sleep(Duration::from_secs(3)).await;
            done()
        }
        "wait-forever" => pending().await,
        "exhaust-files" => exhaust_files(),
        "freeze" => {
            let script = format!("sleep 3; kill -CONT {}", process::id());
            Command::new("sh").args(["-c", &script]).spawn()?;
            signal(Signal::STOP)
        }
        "block-a-thread" => {
            thread::sleep(Duration::from_secs(3));
            done()
        }
        name => match end(name) {
            Some(verdict) => verdict,
            None => leave(name).unwrap_or_else(|| verdict(name)),
        },
    }
}

/// What gives a verdict.
fn verdict(name: &str) -> Verdict {
    Err(match name {
        "raise" => HandlerError::retryable("no database"),
        "unreadable-error" => HandlerError::retryable(Unreadable),
        "return-retry" => HandlerError::retryable("still busy"),
        "return-skip" => HandlerError::skip("a test message"),
        "return-dead-letter" => HandlerError::dead_letter("a negative amount"),
        "return-fail" => HandlerError::permanent("no such order"),
        "huge-reason" => HandlerError::permanent("x".repeat(8 << 20)),
        "reason-with-lines" => HandlerError::permanent("first\r\nsecond\0 \x1b[31mred"),
        "reason-empty" => HandlerError::permanent(""),
        "endless-delay" => HandlerError::retryable("much later").after(Duration::MAX),
        "produce" => return Ok(ProducerRecord::new("out", "1").into()),
        name => HandlerError::permanent(format_args!("there is no behaviour {name}")),
    })
}

/// What leaves something behind.
fn leave(name: &str) -> Option<Verdict> {
    match name {
        "outlive" => {
            let until = Instant::now() + Duration::from_secs(2);
            thread::spawn(move || {
                while Instant::now() < until {
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        "background-error" => {
            tokio::spawn(async { panic!("in the background") });
        }
        "flood-output" => {
            let line = "flood ".repeat(170);
            for _ in 0..2000 {
                eprintln!("{line}");
            }
        }
        "leak" => keep(vec![b'x'; 32 << 20]),
        "start-a-process" => {
            let started = Command::new("sleep").arg("30").spawn();
            return Some(started.map(|_| Done::default()).map_err(Into::into));
        }
        _ => return None,
    }
    Some(done())
}

/// What ends the process.
fn end(name: &str) -> Option<Verdict> {
    Some(match name {
        "exit-with-0" => process::exit(0),
        "exit-with-1" => process::exit(1),
        "exit-and-stay-away" => process::exit(75),
        "abort" => process::abort(),
        "kill-itself" => die(Signal::KILL),
        "segfault" => die(Signal::SEGV),
        "overflow-the-stack" => Err(HandlerError::retryable(recurse(0))),
        "terminate-itself" => signal(Signal::TERM),
        "exit-later" => {
            thread::spawn(|| {
                thread::sleep(Duration::from_millis(20));
                process::exit(1);
            });
            done()
        }
        _ => return None,
    })
}

fn signal(signal: Signal) -> Verdict {
    kill_process(getpid(), signal)?;
    done()
}

/// Sends a signal that ends the process, until it does: std has a handler that lets the first
/// SIGSEGV pass, as it expects the fault to come again.
fn die(deadly: Signal) -> Verdict {
    loop {
        signal(deadly)?;
        thread::yield_now();
    }
}

fn exhaust_files() -> Verdict {
    let limits = getrlimit(Resource::Nofile);
    let low = Rlimit {
        current: Some(256),
        maximum: limits.maximum,
    };
    setrlimit(Resource::Nofile, low)?;
    let mut files = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
    };
    thread::sleep(Duration::from_millis(300));
    setrlimit(Resource::Nofile, limits)?;
    eprintln!("{error}");
    Err(error.into())
}

fn header(message: &Delivered, name: &str) -> Option<String> {
    let (_, value) = message.headers.iter().find(|(found, _)| found == name)?;
    String::from_utf8(value.as_ref()?.to_vec()).ok()
}

async fn handle(journal: Arc<File>, message: Delivered) -> Verdict {
    let Delivered {
        partition,
        offset,
        attempt,
        ..
    } = message;
    // In one write, so that no line is mixed with another.
    let place = format!("{partition} {offset} {attempt}\n");
    (&*journal).write_all(place.as_bytes())?;
    let times = header(&message, "times").and_then(|times| times.parse().ok());
    match header(&message, "behaviour").filter(|_| attempt <= times.unwrap_or(u32::MAX)) {
        Some(name) => {
            let verdict = behave(&name).await;
            if let Err(error) = &verdict {
                eprintln!("{name}: {:.100}", error.reason());
            }
            verdict
        }
        // Some are at work whenever another one ends the process.
        None => {
            sleep(Duration::from_millis(3)).await;
            done()
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().any(|argument| argument == "--list") {
        println!("{}", BEHAVIOURS.join("\n"));
        return Ok(());
    }
    let path = std::env::var("HOSTILE_JOURNAL")?;
    let journal = Arc::new(File::options().create(true).append(true).open(path)?);
    let handle = move |message| handle(Arc::clone(&journal), message);
    Server::from_env()?.run(handle, stop_on_signal()?).await?;
    Ok(())
}
