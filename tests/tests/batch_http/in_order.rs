//! Batches whose messages are handled one after the other.

use std::collections::BTreeMap;

use penstock_tests::lane::Mode;
use penstock_tests::oracle::Rule;
use penstock_tests::recorder::{Delivery, Reply, Verdict};
use penstock_tests::{Position, topics};

use crate::{ALWAYS, Outcome, Scene, batches};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_may_take_a_batch_one_by_one() -> Outcome {
    let scene = Scene::new(Mode::InOrder).await?;
    scene.recorder.handle_one_by_one();
    scene
        .recorder
        .behave(|one| match (one.position.offset % 20, one.attempt) {
            (7, 1 | 2) | (8, 1) => Reply::status(503),
            _ => Reply::ok(),
        });
    let manifest = scene.manifest.clone().set("/delivery/maxAttempts", 3);
    let manifest = manifest.set("/delivery/backoff/initial", "5ms");
    let ran = scene.run(&manifest, 1_000).await?;
    let retried = ran.deliveries.iter().filter(|one| one.attempt == 3).count();
    assert!(retried >= 45, "{retried} reached the third attempt");
    let evidence = ran.evidence();
    evidence.check(&ALWAYS)?;
    evidence.check(&[
        Rule::InOrder,
        Rule::NeverTwiceAtOnce,
        Rule::AttemptsWithin(3),
    ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_behind_a_failure_does_not_count() -> Outcome {
    let scene = Scene::new(Mode::InOrder).await?;
    let dead = topics::create(&scene.bootstrap, "batch-dead", 1).await?;
    // What is refused is given up, and what follows it comes again all the same.
    let refused = |one: &Delivery| one.position.offset % 20 == 13;
    scene
        .recorder
        .behave(move |one| match (one.position.offset % 20, one.attempt) {
            (7, 1 | 2) => Reply::status(503),
            _ if refused(one) => Reply::status(422),
            _ => Reply::ok(),
        });
    let manifest = scene
        .manifest
        .clone()
        .set("/delivery/maxAttempts", 3)
        .set("/delivery/backoff/initial", "5ms")
        .set("/delivery/onFailure", "DeadLetter")
        .set("/delivery/deadLetterTopic", dead.as_str());
    let mut ran = scene.run(&manifest, 1_000).await?;

    // Whatever was said behind a failure, it is as if nothing was.
    let mut behind = 0;
    for batch in ran
        .deliveries
        .chunk_by_mut(|one, next| one.start == next.start)
    {
        let counted = batch.iter().position(|one| !one.verdict.is_success());
        let counted = counted.map_or(batch.len(), |failed| failed + 1);
        for one in &mut batch[counted..] {
            one.verdict = Verdict::Broken;
            behind += 1;
        }
    }
    assert!(behind > 100, "only {behind} verdicts behind a failure");

    // Each partition goes on where the last verdict that counts has left it.
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for batch in batches(&ran.deliveries) {
        let mut expected = next.clone();
        for one in batch {
            let Position {
                partition, offset, ..
            } = one.position;
            let place = expected.entry(partition).or_default();
            assert_eq!(offset, *place, "of partition {partition}");
            *place += 1;
            if one.verdict.is_success() || refused(one) && one.verdict == Verdict::Answered(422) {
                next.insert(partition, offset + 1);
            }
            let retried = offset % 20 == 7;
            assert!(one.attempt == 1 || retried, "{one:?}");
        }
    }
    assert_eq!(next.values().sum::<i64>(), 1_000);
    let letters = topics::read_all(&scene.bootstrap, &dead).await?;
    let expected = ran
        .produced
        .iter()
        .filter(|one| one.position.offset % 20 == 13);
    assert_eq!(letters.len(), expected.count());
    ran.evidence()
        .settled_by(|one| one.verdict.is_success() || one.verdict == Verdict::Answered(422))
        .check(&ALWAYS[1..])?;
    Ok(())
}
