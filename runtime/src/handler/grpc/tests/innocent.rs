//! Handlers that fail by themselves: no message is charged for that.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt as _;
use tonic::Status;
use v1::from_runtime::Message as Said;

use super::crash::{Death, charges, end, mortal};
use super::*;

/// Reads all that is sent for so long, and says nothing.
async fn read_for(call: &mut Call, time: Duration) {
    let read = async { while call.next_if_open().await.is_some() {} };
    let _ = tokio::time::timeout(time, read).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ends_by_itself_charges_nothing() {
    for lives in [Duration::from_millis(50), Duration::from_secs(3)] {
        let fixture = fixture("Fast", "30s");
        let mut server = Scripted::start(fixture.socket());
        let availability = Arc::clone(fixture.handler.availability());
        let process = tokio::spawn(async move {
            let mut lacks = Vec::new();
            for _ in 0..20 {
                let mut call = server.call().await;
                lacks.push(availability.lack());
                call.welcome(1000);
                read_for(&mut call, lives).await;
                call.break_off(Status::unavailable("its configuration is wrong"));
            }
            let sound = tokio::spawn(mortal(server, BTreeSet::new(), Death::Silent));
            (lacks, sound)
        });
        let charged = charges(&fixture, (0..4).collect(), 1).await;
        assert_eq!(charged, BTreeMap::new(), "{lives:?}");
        let (lacks, sound) = process.await.unwrap();
        assert_eq!(lacks.last(), Some(&Some(Lack::Stability)), "{lacks:?}");
        assert_eq!(fixture.handler.availability().lack(), None);
        end(sound).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_handler_charges_nothing() {
    let fixture = Arc::new(fixture("Fast", "30s"));
    let mut server = Scripted::start(fixture.socket());
    let given = {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move { charges(&fixture, (0..4).collect(), 1).await })
    };
    // Two streams break first, so each message is sent alone.
    for _ in 0..2 {
        let mut call = server.call().await;
        call.welcome(1000);
        call.batch().await;
        call.break_off(Status::unavailable("killed"));
    }
    let mut call = server.call().await;
    call.welcome(1000);
    read_for(&mut call, Duration::from_secs(3 * 3600)).await;
    let mut given = given;
    assert!((&mut given).now_or_never().is_none());
    let lack = fixture.handler.availability().lack();
    assert_eq!(lack, Some(Lack::Credits));
    drop(call);
    tokio::spawn(mortal(server, BTreeSet::new(), Death::Reported));
    assert_eq!(given.await.unwrap(), BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_blocks_its_handler_until_that_is_killed_is_charged() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    tokio::spawn(async move {
        loop {
            let mut call = server.call().await;
            call.welcome(1000);
            while let Some(batch) = call.batch_if_open().await {
                let sent = offsets(&batch);
                if sent.contains(&2) {
                    // Longer than a message may wait; then its liveness probe has failed.
                    tokio::time::sleep(Duration::from_secs(100)).await;
                    call.break_off(Status::unavailable("killed"));
                    break;
                }
                call.begin(batch.first_id, sent.len() as u64);
                call.settle(batch.first_id, sent.len() as u64, done());
            }
        }
    });
    let charged = charges(&fixture, (0..4).collect(), 2).await;
    assert_eq!(charged, BTreeMap::from([(2, 2)]));
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_call_that_never_returns_is_not_charged() {
    let fixture = fixture("InOrder", "5s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give([0]);
    let mut call = server.call().await;
    call.welcome(1000);
    let first = call.batch().await.first_id;
    call.begin(first, 1);
    assert_eq!(kinds(&verdicts(given).await).len(), 1);
    let waits = tokio::spawn(async move { charges(&fixture, vec![1], 1).await });
    // It takes what comes, and grants as much again for what is withdrawn.
    let answer = async {
        while let Some(said) = call.next_if_open().await {
            if matches!(said, Said::Cancel(_)) {
                call.grant(1);
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1000), answer).await;
    assert!(!waits.is_finished());
    waits.abort();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_blocks_its_handler_before_the_report_is_charged() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    tokio::spawn(async move {
        let mut call = server.call().await;
        call.welcome(1000);
        while let Some(batch) = call.batch_if_open().await {
            let sent = offsets(&batch);
            let count = sent.len() as u64;
            if sent.contains(&2) {
                // Longer than a message may wait; the handler finds them cancelled then.
                tokio::time::sleep(Duration::from_secs(100)).await;
                call.grant(count as u32);
                continue;
            }
            call.begin(batch.first_id, count);
            call.settle(batch.first_id, count, done());
            call.grant(count as u32);
        }
    });
    let charged = charges(&fixture, (0..4).collect(), 2).await;
    assert_eq!(charged, BTreeMap::from([(2, 2)]));
}
