//! What a manifest may say of the connection, the clients must take: the consumer, and
//! the producers that share its properties.

use std::path::Path;

use penstock_crds::librdkafka::consumer_config;
use penstock_crds::librdkafka::properties::{self, Kind, Property, Scope};
use penstock_crds::manifest;
use penstock_crds::validate::ValidatedConsumer;

use super::*;

/// Texts at the limits of what a property may hold.
fn limits(property: &Property) -> Vec<String> {
    match property.kind {
        Kind::Boolean => ["true", "false"].map(String::from).to_vec(),
        Kind::Integer(min, max) => [min, max, 5, 6, 10_100, 10_101]
            .into_iter()
            .filter(|number| (min..=max).contains(number))
            .map(|number| number.to_string())
            .collect(),
        Kind::Number(min, max) => vec![min.to_string(), max.to_string()],
        Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        Kind::Flags(words) => words[..1].iter().map(|word| (*word).to_owned()).collect(),
        // Names of files and the like, and code.
        Kind::Text | Kind::Api => Vec::new(),
    }
}

/// The consumer with that property; nothing where the rules refuse it.
fn consumer(commit: &str, delivery: &str, name: &str, value: &str) -> Option<ValidatedConsumer> {
    let text = format!(
        r#"
apiVersion: penstock.dev/v1alpha1
kind: KafkaConsumer
metadata: {{name: orders}}
spec:
  group: billing.orders
  topics: [orders]
  mode: Fast
  commit: {commit}
  kafka: {{bootstrapServers: "127.0.0.1:9", config: {{"{name}": "{value}"}}}}
  handler: {{image: "billing:1"}}
  delivery: {delivery}
"#
    );
    manifest::read_one(&text).ok().map(|(_, consumer)| consumer)
}

/// What a client says against its properties.
fn refusal(consumer: &ValidatedConsumer) -> Option<KafkaError> {
    let config = consumer_config(consumer);
    let nowhere = Path::new("/nowhere");
    let client = config.resolve_client(nowhere).unwrap();
    let mut whole = ClientConfig::new();
    whole.extend(config.resolve(nowhere).unwrap());
    let consumer = whole.create::<BaseConsumer>().err();
    let letters = || {
        let config = dead_letter::config(&client);
        config.create::<BaseProducer>().err()
    };
    let records = || start(&super::config(&client, "test"), None).err();
    consumer.or_else(letters).or_else(records)
}

#[test]
fn clients_take_every_property_that_a_manifest_may_set() {
    let letters = "{onFailure: DeadLetter, deadLetterTopic: dead}";
    let mut tried = 0;
    let mut refused = Vec::new();
    for property in properties::all() {
        if property.scope == Scope::Producer {
            continue;
        }
        for value in limits(property) {
            let Some(consumer) = consumer("Transactional", letters, property.name, &value) else {
                continue;
            };
            tried += 1;
            if let Some(error) = refusal(&consumer) {
                refused.push(format!("{}={value}: {error}", property.name));
            }
        }
    }
    assert!(tried > 100, "{tried}");
    assert_eq!(refused, Vec::<String>::new());
}

/// Whatever the text is, librdkafka must have been built with what it needs.
#[test]
fn a_manifest_may_set_no_text_that_this_librdkafka_does_not_know() {
    let mut unknown = Vec::new();
    for property in properties::all() {
        let name = property.name;
        if property.kind == Kind::Text && consumer("Handled", "{}", name, "x").is_some() {
            let mut config = ClientConfig::new();
            let set = config.set(name, "x").create_native_config();
            unknown.extend(
                set.err()
                    .map(|error| error.to_string())
                    .filter(|error| error.contains("not supported in this build")),
            );
        }
    }
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn what_the_producers_refuse_is_refused_by_the_rules() {
    let letters = "{onFailure: DeadLetter, deadLetterTopic: dead}";
    for (name, value) in [
        ("max.in.flight", "6"),
        ("max.in.flight.requests.per.connection", "6"),
        ("api.version.request", "false"),
    ] {
        assert!(
            consumer("Handled", letters, name, value).is_none(),
            "{name}"
        );
        assert!(consumer("Handled", "{}", name, value).is_some(), "{name}");
    }
    let timeout = "socket.timeout.ms";
    assert!(consumer("Transactional", "{}", timeout, "10101").is_none());
    assert!(consumer("Handled", letters, timeout, "10101").is_some());
}
