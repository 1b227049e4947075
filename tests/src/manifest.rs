//! Manifests for tests, as data: what a test does not set is the manifest's default.

use std::fmt::Display;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::recorder::Recorder;

/// A KafkaConsumer manifest. Written as JSON, which is YAML too.
#[derive(Clone, Debug)]
pub struct Manifest {
    group: String,
    spec: Value,
}

impl Manifest {
    /// One handler, in order, from the oldest message on.
    pub fn in_order(bootstrap: &str, group: &str, topic: &str) -> Self {
        Self {
            group: group.to_owned(),
            spec: json!({
                "group": group,
                "topics": [topic],
                "mode": "InOrder",
                "offsetReset": "Earliest",
                "kafka": {"bootstrapServers": bootstrap, "config": {}},
                "handler": {"image": "none", "timeout": "10s"},
                "delivery": {"backoff": {"initial": "50ms", "max": "1s"}},
            }),
        }
    }

    /// `handlers` side by side, from the oldest message on; only what was handled
    /// is committed, about every 200 ms.
    pub fn fast(bootstrap: &str, group: &str, topic: &str, handlers: usize) -> Self {
        Self::in_order(bootstrap, group, topic)
            .set("/mode", "Fast")
            .set("/maxConcurrency", handlers)
            .set("/commit", "Handled")
            .kafka("auto.commit.interval.ms", "200")
    }

    /// `handlers` side by side, never two for one key; otherwise as [`Self::fast`].
    pub fn key_ordered(bootstrap: &str, group: &str, topic: &str, handlers: usize) -> Self {
        Self::fast(bootstrap, group, topic, handlers).set("/mode", "KeyOrdered")
    }

    /// Sets a field of `spec` by its JSON pointer, such as `/delivery/maxAttempts`.
    /// Objects on the way are made.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.spec;
        for name in pointer.split('/').skip(1) {
            place = &mut place[name];
        }
        *place = value.into();
        self
    }

    /// Takes a field of `spec` away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        if let Some(spec) = self.spec.as_object_mut() {
            spec.remove(name);
        }
        self
    }

    /// Sets a librdkafka property.
    #[must_use]
    pub fn kafka(mut self, property: &str, value: &str) -> Self {
        self.spec["kafka"]["config"][property] = value.into();
        self
    }

    /// Takes a librdkafka property away.
    #[must_use]
    pub fn without_kafka(mut self, property: &str) -> Self {
        if let Some(config) = self.spec["kafka"]["config"].as_object_mut() {
            config.remove(property);
        }
        self
    }

    /// Has the group notice after a second that this member is gone.
    #[must_use]
    pub fn short_session(self) -> Self {
        self.kafka("session.timeout.ms", "1000")
            .kafka("heartbeat.interval.ms", "250")
    }

    /// Makes it a static member: after a crash it is back at once, without a rebalance.
    #[must_use]
    pub fn static_member(self) -> Self {
        let instance = format!("{}-0", self.group);
        self.kafka("group.instance.id", &instance)
            .kafka("session.timeout.ms", "10000")
            .kafka("heartbeat.interval.ms", "500")
    }

    /// Gives the messages to `recorder`, by whatever it listens on.
    #[must_use]
    pub fn handler(self, recorder: &Recorder) -> Self {
        if let Some(path) = recorder.journal() {
            let embedded = self.set("/handler/protocol", "Embedded");
            return embedded.env("PENSTOCK_TEST_JOURNAL", path.display());
        }
        let manifest = match recorder.is_grpc() {
            true => self.set("/handler/protocol", "Grpc"),
            false => self,
        };
        match recorder.socket() {
            Some(path) => manifest.set("/handler/socket", path.display().to_string()),
            None => manifest.set("/handler/port", recorder.port()),
        }
    }

    /// Gives the messages to `recorder` from a pod, whose handler passes them on to
    /// `host`, the address at which pods reach this machine.
    #[must_use]
    pub fn handler_in_pod(self, host: Ipv4Addr, recorder: &Recorder) -> Self {
        let address = format!("{host}:{}", recorder.port());
        let manifest = match recorder.is_grpc() {
            true => self.set("/handler/protocol", "Grpc"),
            false => self,
        };
        manifest
            .set(
                "/handler/image",
                "registry.example/penstock-test-handler:test",
            )
            .set(
                "/handler/env",
                json!([{"name": "RECORDER", "value": address}]),
            )
    }

    /// Adds a variable of the handler's, `{"name": …, "value": …}`, as Kubernetes has it.
    #[must_use]
    pub fn variable(mut self, variable: Value) -> Self {
        let environment = &mut self.spec["handler"]["env"];
        match environment.as_array_mut() {
            Some(variables) => variables.push(variable),
            None => *environment = json!([variable]),
        }
        self
    }

    /// Adds a variable of the handler's with a value.
    #[must_use]
    pub fn env(self, name: &str, value: impl Display) -> Self {
        self.variable(json!({"name": name, "value": value.to_string()}))
    }

    /// Whether the handler is embedded.
    pub fn is_embedded(&self) -> bool {
        self.spec["handler"]["protocol"] == "Embedded"
    }

    /// The handler's variables, by name.
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = self.spec["handler"]["env"].as_array().into_iter().flatten();
        variables
            .filter_map(|variable| {
                let text = |field: &str| Some(variable[field].as_str()?.to_owned());
                Some((text("name")?, text("value")?))
            })
            .collect()
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The manifest's text.
    pub fn text(&self) -> String {
        self.named("under-test")
    }

    /// The manifest's text, of a consumer with this name.
    pub fn named(&self, name: &str) -> String {
        json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "KafkaConsumer",
            "metadata": {"name": name},
            "spec": self.spec,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_crds::manifest::read_one;

    #[test]
    fn what_tests_use_is_valid() {
        for manifest in [
            Manifest::in_order("b:1", "a.b", "t").static_member(),
            Manifest::fast("b:1", "a.b", "t", 8)
                .short_session()
                .set("/delivery/onFailure", "DeadLetter")
                .set("/delivery/deadLetterTopic", "dead"),
        ] {
            let text = manifest.text();
            assert!(
                read_one(&text).is_ok(),
                "{text}: {:?}",
                read_one(&text).err()
            );
        }
    }

    #[test]
    fn fields_are_set_and_taken_away() {
        let manifest = Manifest::in_order("b:1", "a.b", "t")
            .set("/pod/labels/a", "b")
            .without("offsetReset");
        let value: Value = serde_json::from_str(&manifest.text()).unwrap();
        assert_eq!(value["spec"]["pod"]["labels"]["a"], "b");
        assert!(value["spec"].get("offsetReset").is_none());
    }
}
