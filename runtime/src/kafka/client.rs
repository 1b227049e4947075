//! Callbacks of Kafka clients other than the consumer: its dead-letter producer, and the
//! clients of embedding programs.

use std::error::Error;
use std::path::PathBuf;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use crate::kafka::oauth;
use crate::kafka::{log_client_error, log_librdkafka};

/// Writes librdkafka's log under the target `librdkafka`, and provides access tokens.
#[derive(Clone, Debug, Default)]
pub struct ClientCallbacks {
    /// The file of the access token, for `OAUTHBEARER`:
    /// [`oauth_token_path`](penstock_crds::librdkafka::oauth_token_path).
    pub oauth_token: Option<PathBuf>,
}

impl ClientContext for ClientCallbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_librdkafka(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_client_error(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        Ok(oauth::read_token(self.oauth_token.as_deref())?)
    }
}

impl ConsumerContext for ClientCallbacks {}
