//! Log lines: none is lost. The log is global, so this has a process of its own.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use penstock_runtime::telemetry::{self, LogFormat};
use rdkafka::ClientConfig;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `penstock dev` has this filter: librdkafka's warnings are disabled. A new client asks for the
/// level of its log on the thread of the caller, without an event.
#[test]
fn no_line_is_lost_after_a_question_about_a_disabled_level() {
    let log = Log::default();
    let writer = log.clone();
    let filter = "warn,librdkafka=error";
    let _telemetry =
        telemetry::init_to(move || writer.clone(), LogFormat::Text, filter, "billing").unwrap();
    for number in 0..10 {
        drop(ClientConfig::new());
        tracing::error!(number, "dead-lettering a message");
    }
    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    assert_eq!(text.lines().count(), 10, "{text}");
}
