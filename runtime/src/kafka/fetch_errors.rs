//! Errors of fetches that librdkafka retries: counted, and warned of now and then.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

/// The shortest time between two warnings of the same error of a topic. A fetch is
/// retried every half second, in each partition.
const WARN_INTERVAL: Duration = Duration::from_secs(30);

/// The time of the last warning of each error, and the number of errors since.
#[derive(Debug, Default)]
pub(crate) struct FetchErrors(HashMap<(String, i32), Seen>);

#[derive(Debug)]
struct Seen {
    warned: Instant,
    since: u64,
}

impl FetchErrors {
    /// Notes an error that is retried. Warns of it, unless that was done a moment ago.
    pub(crate) fn note(&mut self, topic: &str, code: RDKafkaErrorCode, text: &str) {
        if let Some(more) = self.is_due(topic, code) {
            tracing::warn!(
                topic,
                error = %code,
                detail = %text,
                suppressed = more,
                "a fetch failed and is retried from the same offset"
            );
        }
    }

    /// Returns how often the error came since the last warning, if another is due.
    fn is_due(&mut self, topic: &str, code: RDKafkaErrorCode) -> Option<u64> {
        let now = Instant::now();
        let key = (topic.to_owned(), code as i32);
        let Some(seen) = self.0.get_mut(&key) else {
            let first = Seen {
                warned: now,
                since: 0,
            };
            self.0.insert(key, first);
            return Some(0);
        };
        if now.saturating_duration_since(seen.warned) < WARN_INTERVAL {
            seen.since += 1;
            return None;
        }
        seen.warned = now;
        Some(std::mem::take(&mut seen.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_is_warned_of_now_and_then_and_the_others_are_counted() {
        let mut errors = FetchErrors::default();
        let mut due = |topic| errors.is_due(topic, RDKafkaErrorCode::Unknown);
        assert_eq!(due("orders"), Some(0));
        assert_eq!(due("orders"), None);
        assert_eq!(due("orders"), None);
        assert_eq!(due("returns"), Some(0));
        tokio::time::advance(WARN_INTERVAL).await;
        assert_eq!(due("orders"), Some(2));
        assert_eq!(due("orders"), None);
    }
}
