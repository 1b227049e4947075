//! The recording handler, asked by a client of its own.

use std::time::Duration;

use penstock_tests::Position;
use penstock_tests::recorder::{Gate, Recorder, Reply, Verdict};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Outcome;

const SOON: Duration = Duration::from_secs(10);

fn request(offset: i64, attempt: u32) -> String {
    format!(
        "POST /orders HTTP/1.1\r\nhost: x\r\nce-id: 1\r\nce-kafkatopic: t\r\n\
         ce-kafkapartition: 2\r\nce-kafkaoffset: {offset}\r\nce-partitionkey: a%20b\r\n\
         ce-attempt: {attempt}\r\ncontent-length: 9\r\n\r\n{{\"seq\":7}}"
    )
}

/// Sends one request and reads whatever comes back at first; nothing at the end.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    text: &str,
) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut buffer = vec![0; 4096];
    let length = timeout(SOON, stream.read(&mut buffer)).await??;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

async fn connect(recorder: &Recorder) -> std::io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", recorder.port())).await
}

#[tokio::test]
async fn a_delivery_is_recorded_in_full() -> Outcome {
    let recorder = Recorder::start()?;
    recorder.behave(|delivery| match delivery.attempt {
        1 => Reply::status(503)
            .with_header("retry-after", "1")
            .with_body("busy"),
        _ => Reply::ok(),
    });
    let mut stream = connect(&recorder).await?;
    let first = exchange(&mut stream, &request(5, 1)).await?;
    assert!(first.starts_with("HTTP/1.1 503 "), "{first}");
    assert!(first.contains("retry-after: 1\r\n"), "{first}");
    assert!(first.ends_with("content-length: 4\r\n\r\nbusy"), "{first}");
    let second = exchange(&mut stream, &request(5, 2)).await?;
    assert_eq!(second, "HTTP/1.1 204 Recorded\r\n\r\n");

    let deliveries = recorder.deliveries();
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[0].verdict, Verdict::Answered(503));
    let last = &deliveries[1];
    assert_eq!(last.position, Position::new("t", 2, 5));
    assert_eq!(last.key.as_deref(), Some("a b"));
    assert_eq!(
        (last.method.as_str(), last.path.as_str()),
        ("POST", "/orders")
    );
    assert_eq!(last.header("ce-id"), Some("1"));
    assert_eq!(last.json()["seq"], 7);
    assert_eq!(last.verdict, Verdict::Answered(204));
    assert!(deliveries[0].end <= Some(last.start) && last.end >= Some(last.start));
    assert_eq!((recorder.handled(), recorder.connections()), (1, 1));
    assert_eq!((recorder.in_flight(), recorder.max_in_flight()), (0, 1));
    Ok(())
}

#[tokio::test]
async fn a_gate_holds_deliveries_in_flight() -> Outcome {
    let recorder = Recorder::start()?;
    let gate = Gate::closed();
    let held = gate.clone();
    recorder.behave(move |_| Reply::ok().once(&held));
    let (mut one, mut two) = (connect(&recorder).await?, connect(&recorder).await?);
    let (first, second) = (request(0, 1), request(1, 1));
    let both = async { tokio::join!(exchange(&mut one, &first), exchange(&mut two, &second)) };
    let open = async {
        recorder.wait_for_in_flight(2, SOON).await?;
        assert_eq!(recorder.handled(), 0);
        gate.open();
        recorder.wait_for_handled(2, SOON).await
    };
    let ((first, second), opened) = tokio::join!(both, open);
    opened?;
    assert!(first?.contains(" 204 ") && second?.contains(" 204 "));
    assert_eq!((recorder.in_flight(), recorder.max_in_flight()), (0, 2));
    Ok(())
}

/// A batch of these offsets, all on one line.
fn batch(offsets: &[i64]) -> String {
    let events = offsets.iter().map(|offset| {
        format!(
            r#"{{"id": "1", "kafkatopic": "t", "kafkapartition": 2, "kafkaoffset": "{offset}",
                "attempt": 1, "partitionkey": "a%20b", "datacontenttype": "application/json",
                "kafkaheaders": "Trace=a%26b&empty=", "data": {{"seq": {offset}}}}}"#
        )
    });
    let body = format!("[{}]", events.collect::<Vec<_>>().join(","));
    format!(
        "POST /orders HTTP/1.1\r\ncontent-type: application/cloudevents-batch+json; \
         charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_batch_is_a_delivery_for_each_event_and_one_answer() -> Outcome {
    let recorder = Recorder::start()?;
    recorder.behave(|delivery| match delivery.position.offset {
        1 => Reply::ok(),
        2 => Reply::status(503)
            .with_header("retry-after", "2")
            .with_body("busy"),
        _ => Reply::status(422).with_body("bad"),
    });
    let mut stream = connect(&recorder).await?;
    let answer = exchange(&mut stream, &batch(&[1, 2, 3])).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains("content-type: application/json\r\n"),
        "{head}"
    );
    let verdicts: serde_json::Value = serde_json::from_str(body)?;
    assert_eq!(
        verdicts,
        serde_json::json!({"verdicts": [
            "done",
            {"verdict": "retry", "reason": "busy", "retryAfter": 2.0},
            {"verdict": "fail", "reason": "bad"},
        ]})
    );

    let deliveries = recorder.deliveries();
    let statuses = [204, 503, 422].map(Verdict::Answered);
    assert!(deliveries.iter().map(|one| one.verdict).eq(statuses));
    assert!(
        deliveries
            .iter()
            .all(|one| one.start == deliveries[0].start)
    );
    let second = &deliveries[1];
    assert_eq!(second.position, Position::new("t", 2, 2));
    assert_eq!(second.key.as_deref(), Some("a%20b"));
    assert_eq!(second.json(), serde_json::json!({"seq": 2}));
    assert_eq!(second.header("ce-id"), Some("1"));
    assert_eq!(second.header("content-type"), Some("application/json"));
    assert_eq!(second.header("kafka-header-trace"), Some("a%26b"));
    assert_eq!((recorder.handled(), recorder.max_in_flight()), (1, 3));
    Ok(())
}

#[tokio::test]
async fn what_holds_for_a_whole_batch_holds_for_each_of_it() -> Outcome {
    let recorder = Recorder::start()?;
    for (reply, beginning, verdict) in [
        (Reply::close(), "", Verdict::Broken),
        (Reply::garbage(), "\0\u{1} not HTTP", Verdict::Broken),
        (
            Reply::garbled_verdicts("{"),
            "HTTP/1.1 200 ",
            Verdict::Broken,
        ),
        (
            Reply::status(503).for_all(),
            "HTTP/1.1 503 ",
            Verdict::Answered(503),
        ),
    ] {
        recorder.behave(move |delivery| match delivery.position.offset {
            2 => reply.clone(),
            _ => Reply::ok(),
        });
        let seen = recorder.count();
        let mut stream = connect(&recorder).await?;
        let answer = exchange(&mut stream, &batch(&[1, 2])).await?;
        assert!(answer.starts_with(beginning), "{answer:?}");
        let deliveries = recorder.deliveries().split_off(seen);
        let verdicts: Vec<_> = deliveries.iter().map(|one| one.verdict).collect();
        assert_eq!(verdicts, [verdict; 2]);
    }
    assert_eq!(recorder.handled(), 0);
    Ok(())
}

#[tokio::test]
async fn wrong_answers_are_given_as_asked_for() -> Outcome {
    let recorder = Recorder::start()?;
    let replies = [
        (Reply::close(), ""),
        (Reply::garbage(), "\0\u{1} not HTTP"),
        (Reply::truncated(), "HTTP/1.1 200 OK\r\ncontent-length: 100"),
    ];
    for (number, (reply, beginning)) in replies.into_iter().enumerate() {
        recorder.behave(move |_| reply.clone());
        let mut stream = connect(&recorder).await?;
        let answer = exchange(&mut stream, &request(0, 1)).await?;
        assert!(answer.starts_with(beginning), "{answer:?}");
        // Nothing follows: the connection is closed.
        let rest = timeout(SOON, stream.read_to_end(&mut Vec::new())).await?;
        assert!(matches!(rest, Ok(0) | Err(_)), "{rest:?}");
        assert_eq!(recorder.deliveries()[number].verdict, Verdict::Broken);
    }
    assert_eq!(recorder.handled(), 0);
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_during_a_delay_and_a_hang() -> Outcome {
    let recorder = Recorder::start()?;
    let replies = [Reply::hang(), Reply::ok().after(Duration::from_secs(600))];
    for (number, reply) in replies.into_iter().enumerate() {
        recorder.behave(move |_| reply.clone());
        let mut stream = connect(&recorder).await?;
        stream.write_all(request(0, 1).as_bytes()).await?;
        recorder.wait_for_in_flight(1, SOON).await?;
        drop(stream);
        penstock_tests::wait::until("the client to be missed", SOON, async || {
            recorder.deliveries()[number].verdict == Verdict::Abandoned
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_delivery_is_told_apart() -> Outcome {
    let recorder = Recorder::start()?;
    for text in ["no HTTP\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = connect(&recorder).await?;
        let answer = exchange(&mut stream, text).await?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(recorder.count(), 0);
    let malformed = recorder.malformed();
    assert!(malformed[0].starts_with("no HTTP"), "{malformed:?}");
    assert_eq!(malformed[1], "GET without ce-kafkatopic");
    Ok(())
}

#[tokio::test]
async fn it_goes_down_and_comes_up_at_the_same_address() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("handler.sock");
    let recorder = Recorder::start_unix(&path)?;
    recorder.behave(|_| Reply::hang());
    let mut stream = UnixStream::connect(&path).await?;
    stream.write_all(request(0, 1).as_bytes()).await?;
    recorder.wait_for_in_flight(1, SOON).await?;

    recorder.down().await;
    assert_eq!(recorder.deliveries()[0].verdict, Verdict::Broken);
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    assert!(UnixStream::connect(&path).await.is_err());

    recorder.behave(|_| Reply::ok());
    recorder.up()?;
    let mut stream = UnixStream::connect(&path).await?;
    assert!(
        exchange(&mut stream, &request(0, 2))
            .await?
            .contains(" 204 ")
    );

    let tcp = Recorder::start()?;
    tcp.down().await;
    assert!(connect(&tcp).await.is_err());
    tcp.up()?;
    assert!(
        exchange(&mut connect(&tcp).await?, &request(0, 1))
            .await?
            .contains(" 204 ")
    );
    Ok(())
}
