//! The librdkafka configuration, layer by layer, against the source's own.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{validated, with_spec};
use penstock_crds::librdkafka::{ConsumerConfig, SecretError, consumer_config, oauth_token_path};
use serde_json::{Value, json};
use tempfile::TempDir;

fn config(spec: Value) -> ConsumerConfig {
    consumer_config(&validated(&with_spec(spec)))
}

fn pairs(layer: &[(String, String)]) -> Vec<(&str, &str)> {
    layer
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn resolved(spec: Value) -> BTreeMap<String, String> {
    config(spec).resolve(Path::new("/nowhere")).unwrap()
}

fn dict(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

/// A directory of Secrets as they are mounted.
fn secrets(entries: &[(&str, &str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (secret, key, text) in entries {
        let secret = directory.path().join(secret);
        std::fs::create_dir_all(&secret).unwrap();
        std::fs::write(secret.join(key), text).unwrap();
    }
    directory
}

#[test]
fn in_order_has_exactly_the_sources_configuration() {
    let config = config(json!({ "mode": "InOrder" }));
    assert_eq!(
        pairs(config.base()),
        [
            ("bootstrap.servers", "kafka:9092"),
            ("group.id", "billing.orders"),
            ("auto.offset.reset", "latest"),
        ]
    );
    assert_eq!(
        pairs(config.mode()),
        [
            ("heartbeat.interval.ms", "3000"),
            ("session.timeout.ms", "10000"),
            ("max.poll.interval.ms", "300000"),
            ("enable.auto.commit", "false"),
        ]
    );
    assert_eq!(config.connection(), []);
    assert_eq!(config.user(), []);
}

#[test]
fn fast_with_commit_on_read_has_exactly_the_sources_configuration() {
    let mut config = resolved(json!({}));
    // Penstock's own bound of the memory; all the rest is the source's.
    let queued = config.remove("queued.max.messages.kbytes");
    let backoff = config.remove("fetch.queue.backoff.ms");
    assert_eq!(
        (queued.as_deref(), backoff.as_deref()),
        (Some("8192"), Some("10"))
    );
    assert_eq!(
        config,
        dict(&[
            ("bootstrap.servers", "kafka:9092"),
            ("group.id", "billing.orders"),
            ("auto.offset.reset", "latest"),
            ("heartbeat.interval.ms", "3000"),
            ("session.timeout.ms", "10000"),
            ("max.poll.interval.ms", "300000"),
            ("enable.auto.commit", "true"),
            ("auto.commit.interval.ms", "5000"),
            ("enable.auto.offset.store", "true"),
        ])
    );
}

#[test]
fn half_as_much_is_fetched_ahead_of_handlers_that_are_given_batches_elsewhere() {
    for (protocol, queued) in [
        ("Embedded", "8192"),
        ("Http", "8192"),
        ("BatchHttp", "4096"),
        ("Grpc", "4096"),
    ] {
        let handler = match protocol {
            "Embedded" => json!({ "image": "billing:1", "protocol": protocol }),
            _ => json!({ "image": "billing:1", "protocol": protocol, "port": 8080 }),
        };
        let config = resolved(json!({ "handler": handler }));
        assert_eq!(config["queued.max.messages.kbytes"], queued, "{protocol}");
    }
    let own = json!({ "queued.max.messages.kbytes": "8192" });
    let config = resolved(json!({
        "handler": { "image": "billing:1", "protocol": "Grpc", "port": 8080 },
        "kafka": { "bootstrapServers": "kafka:9092", "config": own },
    }));
    assert_eq!(config["queued.max.messages.kbytes"], "8192");
}

#[test]
fn fast_with_commit_when_handled_leaves_commits_to_the_runtime() {
    let read = resolved(json!({ "commit": "Read" }));
    let mut handled = resolved(json!({ "commit": "Handled" }));
    for property in ["enable.auto.commit", "enable.auto.offset.store"] {
        let instead = handled.insert(property.into(), "true".into());
        assert_eq!(instead.as_deref(), Some("false"), "{property}");
    }
    assert_eq!(handled, read);
}

#[test]
fn transactions_follow_each_other_closely_and_are_waited_for_in_each_mode() {
    for mode in ["Fast", "InOrder", "KeyOrdered"] {
        let config = resolved(json!({ "mode": mode, "commit": "Transactional" }));
        for (property, value) in [
            ("enable.auto.commit", "false"),
            ("auto.commit.interval.ms", "100"),
            ("enable.auto.offset.store", "false"),
            ("isolation.level", "read_committed"),
        ] {
            assert_eq!(config[property], value, "{mode}, {property}");
        }
    }
}

#[test]
fn offset_reset_has_librdkafkas_words() {
    for (reset, word) in [
        ("Latest", "latest"),
        ("Earliest", "earliest"),
        ("Fail", "error"),
    ] {
        let config = resolved(json!({ "offsetReset": reset }));
        assert_eq!(config["auto.offset.reset"], word);
    }
}

#[test]
fn the_users_properties_come_last_and_win() {
    let own = json!({
        "auto.offset.reset": "earliest",
        "heartbeat.interval.ms": "1000",
        "fetch.min.bytes": "7",
    });
    let config = resolved(json!({ "kafka": { "config": own } }));
    assert_eq!(config["auto.offset.reset"], "earliest");
    assert_eq!(config["heartbeat.interval.ms"], "1000");
    assert_eq!(config["fetch.min.bytes"], "7");
    assert_eq!(config["session.timeout.ms"], "10000");
}

#[test]
fn brokers_lose_the_spaces_between_them() {
    let config = resolved(json!({ "kafka": { "bootstrapServers": "a:1, b:2 ,c:3" } }));
    assert_eq!(config["bootstrap.servers"], "a:1,b:2,c:3");
}

#[test]
fn the_consumer_protocol_is_told_neither_session_nor_heartbeat() {
    let own = json!({ "group.protocol": "consumer" });
    let config = resolved(json!({ "kafka": { "config": own } }));
    assert!(!config.contains_key("session.timeout.ms"));
    assert!(!config.contains_key("heartbeat.interval.ms"));
    assert_eq!(config["max.poll.interval.ms"], "300000");
}

fn scram() -> Value {
    json!({ "kafka": {
        "tls": { "trustedCertificates": [{ "secretName": "ca", "certificate": "ca.crt" }] },
        "authentication": {
            "type": "scram-sha-256",
            "username": "billing",
            "passwordSecret": { "secretName": "billing", "password": "pw" },
        },
    } })
}

#[test]
fn a_password_is_read_from_its_secret_and_an_authority_is_named_by_its_file() {
    let secrets = secrets(&[("billing", "pw", "hunter2\n"), ("ca", "ca.crt", "PEM")]);
    let config = config(scram()).resolve(secrets.path()).unwrap();
    assert_eq!(config["security.protocol"], "sasl_ssl");
    assert_eq!(config["sasl.mechanism"], "SCRAM-SHA-256");
    assert_eq!(config["sasl.username"], "billing");
    assert_eq!(config["sasl.password"], "hunter2");
    let ca = secrets.path().join("ca/ca.crt");
    assert_eq!(config["ssl.ca.location"], ca.display().to_string());
}

#[test]
fn several_authorities_are_joined() {
    let secrets = secrets(&[("ca", "new", "NEW\n\n"), ("ca", "old", "OLD")]);
    let trusted = json!([
        { "secretName": "ca", "certificate": "new" },
        { "secretName": "ca", "certificate": "old" },
    ]);
    let config = config(json!({ "kafka": { "tls": { "trustedCertificates": trusted } } }));
    let config = config.resolve(secrets.path()).unwrap();
    assert_eq!(config["security.protocol"], "ssl");
    assert_eq!(config["ssl.ca.pem"], "NEW\nOLD\n");
    assert!(!config.contains_key("ssl.ca.location"));
}

#[test]
fn a_client_certificate_is_named_by_its_files() {
    let secrets = secrets(&[("me", "tls.crt", "CERT"), ("me", "tls.key", "KEY")]);
    let config = config(json!({ "kafka": {
        "tls": {},
        "authentication": {
            "type": "tls",
            "certificateAndKey": { "secretName": "me", "certificate": "tls.crt", "key": "tls.key" },
        },
    } }));
    let names: Vec<&str> = config.secrets().map(|entry| entry.key.as_str()).collect();
    assert_eq!(names, ["tls.crt", "tls.key"]);
    let config = config.resolve(secrets.path()).unwrap();
    assert_eq!(config["security.protocol"], "ssl");
    assert!(config["ssl.certificate.location"].ends_with("me/tls.crt"));
    assert!(config["ssl.key.location"].ends_with("me/tls.key"));
    assert!(!config.contains_key("sasl.mechanism"));
}

#[test]
fn an_access_token_is_left_to_the_runtime_which_is_told_where_it_lies() {
    let object = with_spec(json!({ "kafka": { "authentication": {
        "type": "oauth",
        "accessToken": { "secretName": "idp", "key": "token" },
    } } }));
    let consumer = validated(&object);
    let config = consumer_config(&consumer)
        .resolve(Path::new("/nowhere"))
        .unwrap();
    assert_eq!(config["sasl.mechanism"], "OAUTHBEARER");
    assert_eq!(config["security.protocol"], "sasl_plaintext");
    assert_eq!(
        oauth_token_path(&consumer.kafka, Path::new("/secrets")).as_deref(),
        Some(Path::new("/secrets/idp/token"))
    );
}

#[test]
fn only_oauth_has_a_token_path() {
    let consumer = validated(&with_spec(scram()));
    assert_eq!(
        oauth_token_path(&consumer.kafka, Path::new("/secrets")),
        None
    );
}

#[test]
fn a_missing_secret_is_named_with_its_entry_its_path_and_a_remedy() {
    let secrets = secrets(&[("ca", "ca.crt", "PEM")]);
    let error = config(scram()).resolve(secrets.path()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SecretError::Unreadable { .. }));
    for part in ["'billing'", "'pw'", "/billing/pw", "create the Secret"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_empty_password_is_refused() {
    let secrets = secrets(&[("billing", "pw", "\n"), ("ca", "ca.crt", "PEM")]);
    let error = config(scram()).resolve(secrets.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 'pw' of Secret 'billing' is empty; put the credential into it"
    );
}

#[test]
fn other_clients_get_the_connection_and_nothing_of_the_consumer() {
    let mut spec = scram();
    spec["kafka"]["config"] = json!({ "client.id": "me", "fetch.min.bytes": "7" });
    let config = config(spec);
    let client = config
        .resolve_client_with(|entry| Some(format!("{}/{}", entry.secret, entry.key)))
        .unwrap();
    assert_eq!(
        client,
        dict(&[
            ("bootstrap.servers", "kafka:9092"),
            ("client.id", "me"),
            ("sasl.mechanism", "SCRAM-SHA-256"),
            ("sasl.password", "billing/pw"),
            ("sasl.username", "billing"),
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.pem", "ca/ca.crt\n"),
        ])
    );
    let error = config.resolve_client_with(|_| None).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Secret 'ca' has no entry 'ca.crt'")
    );
}
