//! The consumers that are measured, as manifests.

use std::path::Path;

use penstock_crds::librdkafka::consumer_config;
use penstock_crds::manifest::{self, ManifestErrors};
use penstock_crds::validate::ValidatedConsumer;
use penstock_tests::topics;
use rdkafka::ClientConfig;

use crate::side::Failed;

/// What differs between the consumers.
pub struct Settings<'a> {
    /// Broker, host:port.
    pub bootstrap: &'a str,
    /// Topic to read from its beginning, by a group of its own.
    pub topic: &'a str,
    /// The mode and what belongs to it, as fields of `spec`.
    pub mode: &'a str,
    /// The handler's protocol and address, as fields of `spec.handler`.
    pub handler: &'a str,
    /// librdkafka properties, as NAME=VALUE.
    pub properties: &'a [String],
}

/// One message at a time.
pub const IN_ORDER: &str = "mode: InOrder";

/// A handler within the process.
pub const EMBEDDED: &str = "protocol: Embedded";

/// The Fast mode.
pub fn fast(handlers: u32, commit: &str) -> String {
    format!("mode: Fast, maxConcurrency: {handlers}, commit: {commit}, consumeBatchSize: 1000")
}

/// The order of keys.
pub fn key_ordered(handlers: u32) -> String {
    format!("mode: KeyOrdered, maxConcurrency: {handlers}, consumeBatchSize: 1000")
}

impl Settings<'_> {
    /// The manifest, read and checked as any other.
    pub fn consumer(&self) -> Result<ValidatedConsumer, ManifestErrors> {
        let Self {
            bootstrap,
            topic,
            mode,
            handler,
            properties,
        } = self;
        let config: Vec<_> = properties
            .iter()
            .map(|property| property.replacen('=', ": \"", 1) + "\"")
            .collect();
        let config = config.join(", ");
        let group = topics::unique("bench.orders");
        let text = format!(
            "apiVersion: penstock.dev/v1alpha1
kind: KafkaConsumer
metadata: {{name: bench}}
spec: {{group: {group}, topics: [{topic}], {mode}, offsetReset: Earliest,
  kafka: {{bootstrapServers: \"{bootstrap}\", config: {{{config}}}}},
  handler: {{image: registry.example/bench:1, {handler}}}}}
"
        );
        manifest::read_one(&text).map(|(_, consumer)| consumer)
    }

    /// The client of a reference: with the properties that the consumer has.
    pub fn client(&self) -> Result<ClientConfig, Failed> {
        let properties = consumer_config(&self.consumer()?)
            .resolve(Path::new("/nonexistent"))
            .map_err(Failed::other)?;
        let mut config = ClientConfig::new();
        config.extend(properties);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings<'a>(mode: &'a str, handler: &'a str) -> Settings<'a> {
        Settings {
            bootstrap: "127.0.0.1:9092",
            topic: "orders",
            mode,
            handler,
            properties: &[],
        }
    }

    #[test]
    fn the_manifests_are_valid() {
        let fast = fast(16, "Read");
        for mode in [IN_ORDER, &key_ordered(16), &fast] {
            for handler in [EMBEDDED, "protocol: Http, port: 80", "socket: /run/a.sock"] {
                let checked = settings(mode, handler).consumer();
                assert!(checked.is_ok(), "{mode} {handler}: {checked:?}");
            }
        }
    }

    #[test]
    fn a_reference_commits_as_its_mode_does() {
        let in_order = settings(IN_ORDER, EMBEDDED).client().unwrap();
        assert_eq!(in_order.get("enable.auto.commit"), Some("false"));
        assert_eq!(in_order.get("auto.offset.reset"), Some("earliest"));
        let fast = fast(16, "Read");
        let fast = settings(&fast, EMBEDDED).client().unwrap();
        assert_eq!(fast.get("enable.auto.offset.store"), Some("true"));
    }
}
