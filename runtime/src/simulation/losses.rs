//! What the runtime says about lost offsets: its warnings, as an operator reads them.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// A process said that the brokers no longer have its position of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// When, from the beginning of the run.
    pub at: Duration,
    /// The number of the process.
    pub process: usize,
    /// The partition.
    pub partition: i32,
    /// Why: `retention`, `truncation` or `recreation`.
    pub reason: String,
    /// The offsets that are skipped, from the first on.
    pub skipped: (i64, i64),
    /// Messages that were read from a log that is gone, and not settled.
    pub unsettled: u64,
    /// Where reading continues.
    pub offset: i64,
    /// The truncation was noticed only as messages behind it were read, and reading goes on:
    /// what the group knew of `offset` and those behind it is void.
    pub is_departure: bool,
}

thread_local! {
    /// A run plays on one thread.
    static LOSSES: RefCell<(Option<Instant>, Vec<Loss>)> = const { RefCell::new((None, Vec::new())) };
    static PROCESS: Cell<usize> = const { Cell::new(0) };
    static DISPATCH: Dispatch = Dispatch::new(Listener);
}

/// Notes whose task is polled from now on.
pub(super) fn set_process(number: usize) {
    PROCESS.set(number);
}

/// Listens on this thread until the guard is dropped.
pub(super) fn listen() -> tracing::subscriber::DefaultGuard {
    LOSSES.set((Some(Instant::now()), Vec::new()));
    DISPATCH.with(tracing::dispatcher::set_default)
}

/// Returns what was said so far.
pub(super) fn heard() -> Vec<Loss> {
    LOSSES.with_borrow(|(_, losses)| losses.clone())
}

struct Listener;

fn is_meant(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::WARN
        && metadata.is_event()
        && metadata.target().ends_with("pump::positions")
        && ["skipped_from", "departs_at"]
            .iter()
            .any(|name| metadata.fields().field(name).is_some())
}

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match is_meant(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_meant(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut loss = Loss {
            process: PROCESS.get(),
            ..Loss::default()
        };
        event.record(&mut Reading(&mut loss));
        LOSSES.with_borrow_mut(|(origin, losses)| {
            loss.at = origin.map_or(Duration::ZERO, |origin| origin.elapsed());
            losses.push(loss);
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Reading<'a>(&'a mut Loss);

impl Visit for Reading<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "partition" => self.0.partition = i32::try_from(value).unwrap_or(-1),
            "skipped_from" => self.0.skipped.0 = value,
            "skipped_to" => self.0.skipped.1 = value,
            "offset" => self.0.offset = value,
            "departs_at" => {
                self.0.offset = value;
                self.0.skipped = (value, value);
                self.0.is_departure = true;
            }
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "unsettled" {
            self.0.unsettled = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "reason" {
            value.clone_into(&mut self.0.reason);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
