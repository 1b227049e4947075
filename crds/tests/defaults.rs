//! What a manifest comes to when it leaves out what it may.

mod common;

use std::time::Duration;

use common::{base, crd_schema, validated, with_spec};
use kube::core::cel::apply_defaults;
use penstock_crds::spec::{Commit, Format, KafkaConsumer, OffsetReset, OnOffsetLost};
use penstock_crds::validate::{Address, ConsumeMode, Endpoint, FailureAction, Transport, validate};
use serde_json::json;

fn http(address: Address) -> Endpoint {
    Endpoint::Remote {
        transport: Transport::Http,
        address,
    }
}

#[test]
fn a_fast_consumer_has_the_documented_defaults() {
    let consumer = validated(&base());
    assert_eq!(consumer.name.as_str(), "kafka_consumer.orders");
    let ConsumeMode::Fast { handlers, replicas } = consumer.mode else {
        panic!("{:?}", consumer.mode);
    };
    assert_eq!((handlers.get(), replicas), (1, 1));
    assert_eq!(consumer.commit, Commit::Read);
    assert!(!consumer.paused);
    assert_eq!(consumer.replicas(), 1);
    assert_eq!(consumer.consume_batch_size.get(), 1);
    assert_eq!(consumer.offset_reset, OffsetReset::Latest);
    assert_eq!(consumer.on_offset_lost, OnOffsetLost::Earliest);
    assert_eq!(consumer.format, Format::Json);
    assert_eq!(consumer.prometheus_client_name, "");
    assert_eq!(consumer.stop_timeout, Duration::from_secs(30));
    assert_eq!(consumer.endpoint, http(Address::Port(8080)));
    assert_eq!(consumer.handler.path, "/");
    assert_eq!(consumer.handler.timeout.get(), Duration::from_secs(30));
    let (wait, longest) = (
        consumer.handler.wait_timeout(),
        consumer.handler.max_timeout(),
    );
    assert_eq!(
        (wait.get(), longest.get()),
        (Duration::from_secs(60), consumer.handler.timeout.get())
    );
    assert_eq!(consumer.delivery.max_attempts.get(), 1);
    assert_eq!(consumer.delivery.initial, Duration::from_millis(100));
    assert_eq!(consumer.delivery.max, Duration::from_secs(30));
    assert_eq!(
        (consumer.delivery.factor, consumer.delivery.jitter),
        (2.0, 0.2)
    );
    assert_eq!(consumer.delivery.on_failure, FailureAction::Stop);
}

#[test]
fn the_crds_defaults_are_those_of_the_types() {
    let defaulted = apply_defaults(&crd_schema(), &base());
    assert_eq!(defaulted["spec"]["delivery"]["backoff"]["initial"], "100ms");
    let by_crd: KafkaConsumer = serde_json::from_value(defaulted).unwrap();
    let by_serde: KafkaConsumer = serde_json::from_value(base()).unwrap();
    assert_eq!(by_crd.spec, by_serde.spec);
}

/// kstatus takes a resource without a status for one that is ready.
#[test]
fn a_consumer_that_no_operator_has_seen_counts_as_unseen() {
    let defaulted = apply_defaults(&crd_schema(), &base());
    assert_eq!(defaulted["status"], json!({ "observedGeneration": -1 }));
}

#[test]
fn defaults_within_an_object_do_not_need_the_whole_object() {
    let consumer = validated(&with_spec(
        json!({ "delivery": { "backoff": { "max": "5s" } } }),
    ));
    assert_eq!(consumer.delivery.initial, Duration::from_millis(100));
    assert_eq!(consumer.delivery.max, Duration::from_secs(5));
}

#[test]
fn a_consumer_in_order_has_one_replica_or_is_paused() {
    let running = validated(&with_spec(json!({ "mode": "InOrder" })));
    assert_eq!(running.mode, ConsumeMode::InOrder);
    assert_eq!((running.replicas(), running.paused), (1, false));
    let paused = validated(&with_spec(json!({ "mode": "InOrder", "replicas": 0 })));
    assert_eq!((paused.replicas(), paused.paused), (0, true));
}

#[test]
fn a_consumer_ordered_by_key_has_handlers_and_replicas() {
    let spec = json!({ "mode": "KeyOrdered", "maxConcurrency": 16, "replicas": 3 });
    let consumer = validated(&with_spec(spec));
    assert_eq!((consumer.mode.handlers(), consumer.replicas()), (16, 3));
    assert!(matches!(consumer.mode, ConsumeMode::KeyOrdered { .. }));
}

#[test]
fn a_handler_is_reached_as_it_says() {
    let endpoint = |handler| validated(&with_spec(json!({ "handler": handler }))).endpoint;
    assert_eq!(endpoint(json!({ "port": 3000 })), http(Address::Port(3000)));
    assert_eq!(
        endpoint(json!({ "socket": "/run/handler/http.sock" })),
        http(Address::Socket("/run/handler/http.sock".into()))
    );
    let grpc = |address| Endpoint::Remote {
        transport: Transport::Grpc,
        address,
    };
    assert_eq!(
        endpoint(json!({ "protocol": "Grpc" })),
        grpc(Address::Socket("/run/penstock/handler.sock".into()))
    );
    assert_eq!(
        endpoint(json!({ "protocol": "Grpc", "port": 50051 })),
        grpc(Address::Port(50051))
    );
    assert_eq!(
        endpoint(json!({ "protocol": "Embedded" })),
        Endpoint::Embedded
    );
}

#[test]
fn dead_letters_go_to_the_named_topic() {
    let delivery = json!({ "onFailure": "DeadLetter", "deadLetterTopic": "orders-dead" });
    let consumer = validated(&with_spec(json!({ "delivery": delivery })));
    let FailureAction::DeadLetter(topic) = consumer.delivery.on_failure else {
        panic!();
    };
    assert_eq!(topic.as_str(), "orders-dead");
}

#[test]
fn a_spec_that_was_not_read_from_yaml_is_held_to_the_schemas_bounds_too() {
    let mut consumer: KafkaConsumer = serde_json::from_value(base()).unwrap();
    consumer.spec.topics = (0..101).map(|n| format!("topic-{n}")).collect();
    consumer.spec.prometheus_client_name = "x".repeat(250);
    let said = validate(&consumer.spec).unwrap_err().to_string();
    assert_eq!(
        said,
        "spec.prometheusClientName: has 250 characters; at most 249 are allowed\n\
         spec.topics: has 101 items; at most 100 are allowed"
    );
}
