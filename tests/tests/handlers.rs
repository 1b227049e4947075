//! Handlers that misbehave.

#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use penstock_tests::groups;
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Recorder, Reply, Verdict};
use penstock_tests::{Consumer, Manifest, topics};
use tokio::time::sleep;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

struct Scene {
    bootstrap: String,
    topic: String,
    group: String,
    produced: Vec<Produced>,
    recorder: Recorder,
}

impl Scene {
    async fn new(messages: u64) -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "handlers", 1).await?;
        Ok(Self {
            produced: Produce::to(&topic).count(messages).send(&bootstrap).await?,
            recorder: Recorder::start()?,
            group: topics::unique("test.handlers"),
            topic,
            bootstrap,
        })
    }

    fn in_order(&self) -> Manifest {
        Manifest::in_order(&self.bootstrap, &self.group, &self.topic).handler(&self.recorder)
    }

    fn fast(&self) -> Manifest {
        Manifest::fast(&self.bootstrap, &self.group, &self.topic, 8).handler(&self.recorder)
    }

    /// Waits until all is committed, stops the consumer and looks for losses.
    async fn finish(self, consumer: Consumer) -> Result<Vec<Delivery>, Box<dyn Error>> {
        let total = i64::try_from(self.produced.len())?;
        groups::wait_for_committed(&self.bootstrap, &self.group, &self.topic, total, SOON)
            .await
            .map_err(|error| format!("{error}\n{}", consumer.tail()))?;
        assert!(consumer.stop(SOON).await?.success(), "{}", consumer.tail());
        let deliveries = self.recorder.deliveries();
        Evidence::new(&self.produced, deliveries.clone())
            .check(&[Rule::NothingLost, Rule::DuplicatesExplained])?;
        Ok(deliveries)
    }
}

/// Attempts at the message with this offset: what became of each.
fn attempts_at(deliveries: &[Delivery], offset: i64) -> Vec<(u32, Verdict)> {
    let mut attempts: Vec<_> = deliveries
        .iter()
        .filter(|delivery| delivery.position.offset == offset)
        .collect();
    attempts.sort_by_key(|delivery| delivery.start);
    attempts
        .into_iter()
        .map(|delivery| (delivery.attempt, delivery.verdict))
        .collect()
}

/// One attempt at message 3 fails as `reply` says, and costs an attempt; the next
/// one succeeds. `reason` is logged.
async fn fails_once(reply: Reply, timeout: &str, reason: &str) -> Result<Verdict, Box<dyn Error>> {
    let scene = Scene::new(6).await?;
    scene.recorder.behave(
        move |delivery| match (delivery.position.offset, delivery.attempt) {
            (3, 1) => reply.clone(),
            _ => Reply::ok(),
        },
    );
    let manifest = scene
        .in_order()
        .set("/delivery/maxAttempts", 2)
        .set("/handler/timeout", timeout);
    let consumer = Consumer::start(&manifest)?;
    consumer
        .wait_for_line("the next attempt follows", SOON)
        .await?;
    assert_eq!(consumer.count(reason), 1, "{}", consumer.tail());
    let deliveries = scene.finish(consumer).await?;
    let attempts = attempts_at(&deliveries, 3);
    assert_eq!(attempts.last(), Some(&(2, Verdict::Answered(204))));
    Evidence::new(&[], deliveries).check(&[Rule::InOrder])?;
    Ok(attempts[0].1)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_is_left_after_its_timeout() -> Outcome {
    let verdict = fails_once(Reply::hang(), "300ms", "the handler took longer than 300ms").await?;
    assert_eq!(verdict, Verdict::Abandoned);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_garbage_has_failed() -> Outcome {
    let verdict = fails_once(Reply::garbage(), "10s", "the handler gave no answer").await?;
    assert_eq!(verdict, Verdict::Broken);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_answer_breaks_off_has_failed() -> Outcome {
    let verdict = fails_once(Reply::truncated(), "10s", "the handler's answer broke off").await?;
    assert_eq!(verdict, Verdict::Broken);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_an_error_at_great_length_has_failed() -> Outcome {
    let huge = Reply::status(500).with_body(vec![b'x'; 4 << 20]);
    let verdict = fails_once(huge, "10s", "the handler answered 500").await?;
    assert_eq!(verdict, Verdict::Answered(500));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_at_great_length_has_still_handled_it() -> Outcome {
    let scene = Scene::new(20).await?;
    scene
        .recorder
        .behave(|_| Reply::status(200).with_body(vec![b'x'; 4 << 20]));
    let consumer = Consumer::start(&scene.in_order())?;
    let deliveries = scene.finish(consumer).await?;
    assert_eq!(deliveries.len(), 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_closes_instead_of_answering_costs_attempts_and_then_stops_it() -> Outcome {
    let scene = Scene::new(6).await?;
    scene
        .recorder
        .behave(|delivery| match delivery.position.offset {
            3 => Reply::close(),
            _ => Reply::ok(),
        });
    let consumer = Consumer::start(&scene.in_order().set("/delivery/maxAttempts", 3))?;
    let status = consumer.wait(SOON).await?;
    assert_eq!(status.code(), Some(1), "{}", consumer.tail());
    let reason = "the handler failed at attempt 3: the handler gave no answer";
    assert!(consumer.count(reason) >= 1, "{}", consumer.tail());
    let attempts = attempts_at(&scene.recorder.deliveries(), 3);
    // A connection that was kept may have been closed before the message came, so
    // the first attempt is made again on a new one.
    let numbers: Vec<_> = attempts.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 1, 2, 3]);
    let offsets = groups::committed(&scene.bootstrap, &scene.group, &scene.topic).await?;
    assert_eq!(offsets.get(&(scene.topic.clone(), 0)), Some(&3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_closes_idle_connections_costs_no_attempt() -> Outcome {
    for manifest in [Scene::in_order, Scene::fast] {
        let scene = Scene::new(300).await?;
        scene
            .recorder
            .behave(|delivery| match delivery.position.offset % 3 {
                0 => Reply::ok().then_close(),
                _ => Reply::ok(),
            });
        // One attempt: were a closed connection to count, the consumer would end.
        let consumer = Consumer::start(&manifest(&scene).set("/delivery/maxAttempts", 1))?;
        consumer
            .wait_until("all", SOON, async || scene.recorder.handled() == 300)
            .await?;
        assert!(scene.recorder.connections() > 50);
        let deliveries = scene.finish(consumer).await?;
        assert_eq!(deliveries.len(), 300);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_and_no_more_than_handlers() -> Outcome {
    let scene = Scene::new(300).await?;
    scene
        .recorder
        .behave(|_| Reply::ok().after(Duration::from_millis(2)));
    let consumer = Consumer::start(&scene.fast())?;
    consumer
        .wait_until("all", SOON, async || scene.recorder.handled() == 300)
        .await?;
    assert!(
        scene.recorder.connections() <= 9,
        "{}",
        scene.recorder.connections()
    );
    assert_eq!(scene.recorder.max_in_flight(), 8);
    scene.finish(consumer).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_up_late_is_waited_for() -> Outcome {
    let scene = Scene::new(10).await?;
    scene.recorder.down().await;
    let consumer = Consumer::start(&scene.in_order())?;
    consumer
        .wait_for_line("waiting for the handler to accept", SOON)
        .await?;
    sleep(Duration::from_secs(2)).await;
    let members = groups::describe(&scene.bootstrap, &scene.group)
        .await?
        .members;
    assert_eq!(members, [], "it joined the group before it can work");
    assert_eq!(consumer.status(), None);
    scene.recorder.up()?;
    let deliveries = scene.finish(consumer).await?;
    assert_eq!(deliveries.len(), 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_restarts_costs_at_most_the_attempts_in_flight() -> Outcome {
    for manifest in [Scene::in_order, Scene::fast] {
        let scene = Scene::new(400).await?;
        scene
            .recorder
            .behave(|_| Reply::ok().after(Duration::from_millis(5)));
        let consumer = Consumer::start(&manifest(&scene).set("/delivery/maxAttempts", 2))?;
        consumer
            .wait_until("some", SOON, async || scene.recorder.handled() >= 50)
            .await?;
        scene.recorder.down().await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(consumer.status(), None, "{}", consumer.tail());
        scene.recorder.up()?;
        let deliveries = scene.finish(consumer).await?;
        Evidence::new(&[], deliveries).check(&[Rule::NeverTwiceAtOnce])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stays_down_is_waited_for_and_costs_no_attempt() -> Outcome {
    let scene = Scene::new(10).await?;
    let consumer = Consumer::start(&scene.in_order().set("/handler/timeout", "2s"))?;
    consumer
        .wait_until("all", SOON, async || scene.recorder.handled() == 10)
        .await?;
    scene.recorder.down().await;
    Produce::to(&scene.topic)
        .first_seq(10)
        .count(10)
        .send(&scene.bootstrap)
        .await?;
    let reason = format!(
        "no connection to the handler at 127.0.0.1:{}",
        scene.recorder.port()
    );
    consumer.wait_for_line(&reason, SOON).await?;
    let offsets = groups::committed(&scene.bootstrap, &scene.group, &scene.topic).await?;
    assert_eq!(offsets.get(&(scene.topic.clone(), 0)), Some(&10));
    scene.recorder.up()?;
    consumer
        .wait_until("the rest", SOON, async || scene.recorder.handled() == 20)
        .await?;
    let deliveries = scene.recorder.deliveries();
    assert!(deliveries.iter().all(|delivery| delivery.attempt == 1));
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_may_pass_are_tried_again_and_others_are_not() -> Outcome {
    const STATUSES: [(u16, usize); 14] = [
        (200, 1),
        (202, 1),
        (301, 1),
        (304, 1),
        (400, 1),
        (404, 1),
        (422, 1),
        (408, 3),
        (425, 3),
        (429, 3),
        (500, 3),
        (502, 3),
        (503, 3),
        (504, 3),
    ];
    let scene = Scene::new(STATUSES.len() as u64).await?;
    scene.recorder.behave(|delivery| {
        let place = usize::try_from(delivery.position.offset).unwrap_or_default();
        Reply::status(STATUSES[place].0)
    });
    let manifest = scene
        .in_order()
        .set("/delivery/maxAttempts", 3)
        .set("/delivery/onFailure", "Skip")
        .set("/delivery/backoff/initial", "5ms");
    let consumer = Consumer::start(&manifest)?;
    let total = STATUSES.len() as i64;
    groups::wait_for_committed(&scene.bootstrap, &scene.group, &scene.topic, total, SOON).await?;
    for (offset, (status, attempts)) in (0..).zip(STATUSES) {
        let made = attempts_at(&scene.recorder.deliveries(), offset);
        assert_eq!(made.len(), attempts, "{status}: {made:?}");
        assert!(
            made.iter()
                .all(|(_, verdict)| *verdict == Verdict::Answered(status))
        );
    }
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for() -> Outcome {
    let scene = Scene::new(2).await?;
    // The first charges an attempt, the second says that the handler took nothing.
    let given = AtomicUsize::new(0);
    scene
        .recorder
        .behave(move |_| match given.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::status(429).with_header("retry-after", "1"),
            2 => Reply::status(503).with_header("retry-after", "1"),
            _ => Reply::ok(),
        });
    let manifest = scene
        .in_order()
        .set("/delivery/maxAttempts", 2)
        .set("/delivery/backoff/initial", "1ms");
    let consumer = Consumer::start(&manifest)?;
    let deliveries = scene.finish(consumer).await?;
    let starts: Vec<Instant> = deliveries.iter().map(|delivery| delivery.start).collect();
    let attempts: Vec<_> = deliveries.iter().map(|delivery| delivery.attempt).collect();
    assert_eq!(attempts, [1, 2, 1, 1]);
    for pair in starts.chunks(2) {
        let waited = pair[1].duration_since(pair[0]);
        assert!(waited >= Duration::from_secs(1), "{waited:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_told_when_the_time_of_each_attempt_is_over() -> Outcome {
    const TIMEOUT: SignedDuration = SignedDuration::from_secs(40);
    for protocol in ["Http", "BatchHttp"] {
        let scene = Scene::new(6).await?;
        scene.recorder.behave(
            |delivery| match (delivery.position.offset, delivery.attempt) {
                (3, 1) => Reply::status(503),
                _ => Reply::ok(),
            },
        );
        let manifest = scene
            .in_order()
            .set("/handler/protocol", protocol)
            .set("/handler/timeout", "40s")
            .set("/delivery/maxAttempts", 2);
        // It is told to the millisecond.
        let before = Timestamp::from_millisecond(Timestamp::now().as_millisecond())?;
        let consumer = Consumer::start(&manifest)?;
        let deliveries = scene.finish(consumer).await?;
        let after = Timestamp::now();
        let mut told = Vec::new();
        for delivery in &deliveries {
            let deadline = delivery.header("ce-attemptdeadline").unwrap_or_default();
            let deadline: Timestamp = deadline
                .parse()
                .map_err(|error| format!("{protocol}: {deadline:?}: {error}"))?;
            let possible = before + TIMEOUT..=after + TIMEOUT;
            assert!(possible.contains(&deadline), "{protocol}: {deadline}");
            told.push((delivery.position.offset, delivery.attempt, deadline));
        }
        let of = |attempt| told.iter().find(|one| (one.0, one.1) == (3, attempt));
        let (first, second) = (of(1).ok_or("no first")?, of(2).ok_or("no second")?);
        assert!(first.2 < second.2, "{protocol}: {told:?}");
    }
    Ok(())
}
