//! Users of a broker that runs.

use std::time::Duration;

use super::{Kafka, KafkaError, Scram, java};

/// Longest time for Kafka's tool; usually 2 s.
const LIMIT: Duration = Duration::from_secs(60);

impl Kafka {
    /// Gives a user of the SASL listener another password for SCRAM-SHA-512.
    /// Connections that are open stay.
    ///
    /// # Errors
    /// [`KafkaError::NotOurs`], or [`KafkaError::Password`] with what Kafka's tool said.
    pub async fn change_password(&self, user: &str, password: &str) -> Result<(), KafkaError> {
        let own = self.own.as_ref().ok_or(KafkaError::NotOurs)?;
        let scram = Scram {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        let tool = java(&own.jars, own.dir.path())
            .args(["kafka.admin.ConfigCommand", "--bootstrap-server"])
            .args([self.bootstrap(), "--alter", "--entity-type", "users"])
            .args(["--entity-name", user, "--add-config"])
            .arg(scram.as_config("SCRAM-SHA-512"))
            .start()?;
        match tool.wait(LIMIT).await?.success() {
            true => Ok(()),
            false => Err(KafkaError::Password {
                user: user.to_owned(),
                tail: tool.tail(),
            }),
        }
    }
}
