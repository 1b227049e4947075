use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::handler::record::OwnedRecord;

/// Takes notes, and answers as it is told.
#[derive(Clone)]
struct Sink {
    sent: Arc<Mutex<Vec<ProducerRecord>>>,
    answer: fn(&ProducerRecord) -> Result<(), RDKafkaErrorCode>,
}

impl LetterSink for Sink {
    fn send<'a>(
        &'a self,
        letter: &'a ProducerRecord,
    ) -> BoxFuture<'a, Result<(), RDKafkaErrorCode>> {
        self.sent.lock().push(letter.clone());
        futures_util::future::ready((self.answer)(letter)).boxed()
    }
}

fn message() -> OwnedRecord {
    OwnedRecord {
        topic: "orders".into(),
        partition: 3,
        offset: 42,
        key: Some(b"k".to_vec()),
        payload: Some(b"value".to_vec()),
        timestamp: Some(7),
        headers: vec![("trace".into(), Some(b"x".to_vec()))],
    }
}

/// Sends a letter; what was written, in order, and how it ended.
async fn send(
    message: OwnedRecord,
    reason: &str,
    answer: fn(&ProducerRecord) -> Result<(), RDKafkaErrorCode>,
) -> (Vec<ProducerRecord>, Result<Done, DeadLetterError>) {
    let sink = Sink {
        sent: Arc::default(),
        answer,
    };
    let sent = Arc::clone(&sink.sent);
    let letters = DeadLetters::new(
        Some(Box::new(sink)),
        TopicName::parse("dead").unwrap(),
        "billing.orders".into(),
    );
    let record = Record::from(message);
    let ended = letters
        .send(Failed {
            record: &record,
            attempts: 5,
            reason,
        })
        .await;
    let sent = std::mem::take(&mut *sent.lock());
    (sent, ended)
}

fn text(letter: &ProducerRecord, name: &str) -> String {
    let found: Vec<_> = letter
        .headers
        .iter()
        .filter(|(header, _)| header == name)
        .collect();
    assert_eq!(found.len(), 1, "{name}: {found:?}");
    String::from_utf8(found[0].1.clone().unwrap()).unwrap()
}

fn too_large(letter: &ProducerRecord) -> Result<(), RDKafkaErrorCode> {
    match is_stub(letter) {
        true => Ok(()),
        false => Err(RDKafkaErrorCode::MessageSizeTooLarge),
    }
}

#[tokio::test]
async fn a_letter_has_the_message_and_says_why_it_failed() {
    let (sent, ended) = send(message(), "no such order", |_| Ok(())).await;
    assert_eq!(ended.unwrap(), Done::default());
    let [letter] = &*sent else { panic!("{sent:?}") };
    assert_eq!(letter.topic, "dead");
    assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(letter.payload.as_deref(), Some(&b"value"[..]));
    assert_eq!(letter.timestamp, Some(7));
    for (name, value) in [
        ("trace", "x"),
        ("penstock.failure.topic", "orders"),
        ("penstock.failure.partition", "3"),
        ("penstock.failure.offset", "42"),
        ("penstock.failure.group", "billing.orders"),
        ("penstock.failure.attempts", "5"),
        ("penstock.failure.reason", "no such order"),
    ] {
        assert_eq!(text(letter, name), value);
    }
}

#[tokio::test]
async fn a_long_reason_is_cut_between_two_characters() {
    let reason = format!("{}ä and more", "x".repeat(MAX_REASON_BYTES - 1));
    let (sent, _) = send(message(), &reason, |_| Ok(())).await;
    let kept = text(&sent[0], "penstock.failure.reason");
    assert_eq!(kept, "x".repeat(MAX_REASON_BYTES - 1));
    let exact = "y".repeat(MAX_REASON_BYTES);
    let (sent, _) = send(message(), &exact, |_| Ok(())).await;
    assert_eq!(text(&sent[0], "penstock.failure.reason"), exact);
}

#[tokio::test]
async fn headers_of_an_earlier_failure_are_replaced() {
    let mut before = message();
    for (name, value) in [
        ("penstock.failure.topic", "earlier"),
        ("penstock.failure.reason", "earlier"),
        ("penstock.failure.omitted", "value"),
    ] {
        before
            .headers
            .push((name.into(), Some(value.as_bytes().to_vec())));
    }
    let (sent, _) = send(before, "again", |_| Ok(())).await;
    let [letter] = &*sent else { panic!("{sent:?}") };
    assert_eq!(text(letter, "penstock.failure.topic"), "orders");
    assert_eq!(text(letter, "penstock.failure.reason"), "again");
    assert!(!is_stub(letter), "{letter:?}");
    assert_eq!(letter.headers.len(), 7);
}

#[tokio::test]
async fn a_stub_takes_the_place_of_a_letter_that_is_refused_for_good() {
    for code in [
        RDKafkaErrorCode::MessageSizeTooLarge,
        RDKafkaErrorCode::InvalidRecord,
        RDKafkaErrorCode::PolicyViolation,
    ] {
        let refuse: fn(&ProducerRecord) -> _ = match code {
            RDKafkaErrorCode::InvalidRecord => |letter| match is_stub(letter) {
                true => Ok(()),
                false => Err(RDKafkaErrorCode::InvalidRecord),
            },
            RDKafkaErrorCode::PolicyViolation => |letter| match is_stub(letter) {
                true => Ok(()),
                false => Err(RDKafkaErrorCode::PolicyViolation),
            },
            _ => too_large,
        };
        let (sent, ended) = send(message(), "poison", refuse).await;
        assert_eq!(ended.unwrap(), Done::default(), "{code}");
        let [_, stub] = &*sent else {
            panic!("{sent:?}")
        };
        assert_eq!(stub.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(stub.payload.as_deref(), Some(&b""[..]), "no tombstone");
        assert_eq!(text(stub, "penstock.failure.omitted"), "value, headers");
        assert_eq!(text(stub, "penstock.failure.offset"), "42");
        assert_eq!(text(stub, "penstock.failure.reason"), "poison");
        assert!(
            stub.headers
                .iter()
                .all(|(name, _)| name.starts_with(PREFIX))
        );
    }
}

#[tokio::test]
async fn a_stub_leaves_out_a_long_key_and_says_so() {
    let mut large = message();
    large.key = Some(vec![b'k'; MAX_STUB_KEY_BYTES + 1]);
    large.headers.clear();
    let (sent, _) = send(large, "poison", too_large).await;
    assert_eq!(sent[1].key, None);
    assert_eq!(text(&sent[1], "penstock.failure.omitted"), "key, value");
    let mut tombstone = message();
    tombstone.payload = None;
    let (sent, _) = send(tombstone, "poison", too_large).await;
    assert_eq!(sent[1].payload, None);
    assert_eq!(text(&sent[1], "penstock.failure.omitted"), "headers");
}

#[tokio::test]
async fn the_consumer_ends_where_the_brokers_do_not_answer_or_refuse_the_stub_too() {
    let (sent, ended) = send(message(), "x", |_| Err(RDKafkaErrorCode::MessageTimedOut)).await;
    assert_eq!(sent.len(), 1);
    let error = ended.unwrap_err();
    assert!(
        matches!(error, DeadLetterError::NotAcknowledged { .. }),
        "{error}"
    );
    let (sent, ended) = send(message(), "x", |_| Err(RDKafkaErrorCode::InvalidRecord)).await;
    assert_eq!(sent.len(), 2);
    let error = ended.unwrap_err();
    assert!(matches!(error, DeadLetterError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("'dead'"), "{error}");
}

#[tokio::test]
async fn without_a_sink_the_letter_is_a_record_of_the_transaction() {
    let letters = DeadLetters::new(
        None,
        TopicName::parse("dead").unwrap(),
        "billing.orders".into(),
    );
    let record = Record::from(message());
    let failed = Failed {
        record: &record,
        attempts: 1,
        reason: "poison",
    };
    let done = letters.send(failed).await.unwrap();
    let [letter] = &*done.produce else {
        panic!("{done:?}")
    };
    assert!(letter.is_letter);
    assert_eq!(text(letter, "penstock.failure.reason"), "poison");
}
