//! Reports of the transactional producer: its log, logins by token, and records that were not
//! delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use crate::kafka::client::ClientCallbacks;
use crate::kafka::{is_for_good, is_of_the_batch};

/// The producer's callbacks.
pub(super) struct Reports {
    callbacks: ClientCallbacks,
    failures: Mutex<BTreeMap<usize, RDKafkaErrorCode>>,
}

impl Reports {
    pub(super) fn new(oauth_token: Option<PathBuf>) -> Self {
        Self {
            callbacks: ClientCallbacks { oauth_token },
            failures: Mutex::default(),
        }
    }

    /// Returns a record of the transaction that was not delivered, by its place, and why:
    /// one that is refused for good if there is one, the first in any case.
    pub(super) fn failure(&self) -> Option<(usize, RDKafkaErrorCode)> {
        let failures = self.failures.lock();
        let for_good = failures.iter().find(|(_, code)| is_for_good(**code));
        let (place, code) = for_good.or_else(|| failures.iter().next())?;
        Some((*place, *code))
    }

    /// Returns the records that were refused for their batches, by their places. One of
    /// several may be the only one that is meant.
    pub(super) fn refused_together(&self) -> BTreeSet<usize> {
        let failures = self.failures.lock();
        let refused = failures.iter().filter(|(_, code)| is_of_the_batch(**code));
        refused.map(|(place, _)| *place).collect()
    }

    /// Another transaction begins.
    pub(super) fn forget(&self) {
        self.failures.lock().clear();
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.callbacks.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.callbacks.error(error, reason);
    }

    /// Asked for by `statistics.interval.ms`, which the consumer may have; not used.
    fn stats_raw(&self, _: &[u8]) {}

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.callbacks.generate_oauth_token(config)
    }
}

impl ProducerContext for Reports {
    /// The record's place in its transaction.
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, place: usize) {
        if let Err((error, _)) = delivery {
            let code = error.rdkafka_error_code();
            let code = code.unwrap_or(RDKafkaErrorCode::Unknown);
            self.failures.lock().entry(place).or_insert(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(codes: &[(usize, RDKafkaErrorCode)]) -> Reports {
        let reports = Reports::new(None);
        reports.failures.lock().extend(codes.iter().copied());
        reports
    }

    #[test]
    fn the_record_that_is_meant_is_told_rather_than_its_neighbours() {
        let reports = failed(&[
            (4, RDKafkaErrorCode::InvalidDifferentRecord),
            (5, RDKafkaErrorCode::InvalidRecord),
            (6, RDKafkaErrorCode::InvalidDifferentRecord),
            (9, RDKafkaErrorCode::PurgeQueue),
        ]);
        assert_eq!(
            reports.failure(),
            Some((5, RDKafkaErrorCode::InvalidRecord))
        );
        assert_eq!(reports.refused_together(), BTreeSet::from([4, 5, 6]));
        reports.forget();
        assert_eq!(reports.failure(), None);
    }

    #[test]
    fn without_one_that_is_refused_for_good_the_first_counts() {
        let reports = failed(&[
            (2, RDKafkaErrorCode::MessageTimedOut),
            (3, RDKafkaErrorCode::PurgeQueue),
        ]);
        let first = (2, RDKafkaErrorCode::MessageTimedOut);
        assert_eq!(reports.failure(), Some(first));
        assert!(reports.refused_together().is_empty());
    }
}
