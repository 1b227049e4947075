//! The page that is scraped.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn failed_fetches_are_counted_by_their_error() {
    let metrics = Metrics::new("", "kafka_consumer.orders").unwrap();
    metrics.count_fetch_error(RDKafkaErrorCode::Unknown);
    metrics.count_fetch_error(RDKafkaErrorCode::Unknown);
    let line =
        "penstock_fetch_errors_total{consumer=\"kafka_consumer.orders\",error=\"Unknown\"} 2\n";
    let page = metrics.render().unwrap();
    assert!(page.contains(line), "{page}");
}

#[test]
fn the_page_shows_whether_the_handler_takes_messages_and_why_not() {
    let metrics = Metrics::new("", "kafka_consumer.orders").unwrap();
    let series = |page: &str| {
        let lines = page.lines();
        let lines = lines.filter(|line| line.starts_with("penstock_handler_available"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(series(&metrics.render().unwrap()).is_empty());
    let handler = Arc::new(Availability::default());
    metrics.watch_handler(Arc::clone(&handler));
    let line = |reason, value| {
        format!(
            "penstock_handler_available{{consumer=\"kafka_consumer.orders\",reason=\"{reason}\"}} {value}"
        )
    };
    assert_eq!(series(&metrics.render().unwrap()), [line("", 1)]);
    handler.lacks(Lack::Credits, "none");
    assert_eq!(series(&metrics.render().unwrap()), [line("credits", 0)]);
    handler.lacks(Lack::Connection, "refused");
    assert_eq!(series(&metrics.render().unwrap()), [line("connection", 0)]);
    handler.has(Lack::Credits);
    assert_eq!(series(&metrics.render().unwrap()), [line("", 1)]);
}

#[test]
fn the_page_shows_the_queue_as_it_is_then() {
    let metrics = Metrics::new("", "kafka_consumer.orders").unwrap();
    let load = Arc::new(AtomicUsize::new(0));
    let watched = Arc::clone(&load);
    metrics.watch_queue(move || {
        let messages = watched.load(Ordering::Relaxed);
        (messages, messages * 100)
    });
    for messages in [7, 3] {
        load.store(messages, Ordering::Relaxed);
        let page = metrics.render().unwrap();
        let labels = "{consumer=\"kafka_consumer.orders\"}";
        for line in [
            format!("penstock_queued_messages{labels} {messages}\n"),
            format!("penstock_queued_bytes{labels} {messages}00\n"),
        ] {
            assert!(page.contains(&line), "{page}");
        }
    }
}
