//! What the transactional producer tells: its log, logins by token, and which record
//! was not delivered.

use std::error::Error;
use std::path::PathBuf;

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use crate::client::ClientCallbacks;

/// The producer's callbacks.
pub(super) struct Reports {
    callbacks: ClientCallbacks,
    failure: Mutex<Option<(usize, RDKafkaErrorCode)>>,
}

impl Reports {
    pub(super) fn new(oauth_token: Option<PathBuf>) -> Self {
        Self {
            callbacks: ClientCallbacks { oauth_token },
            failure: Mutex::default(),
        }
    }

    /// The first record of the transaction that was not delivered, by its place, and why.
    pub(super) fn failure(&self) -> Option<(usize, RDKafkaErrorCode)> {
        *self.failure.lock()
    }

    /// Another transaction begins.
    pub(super) fn forget(&self) {
        *self.failure.lock() = None;
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
            self.failure.lock().get_or_insert((place, code));
        }
    }
}
