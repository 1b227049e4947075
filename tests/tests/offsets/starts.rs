//! Groups without offsets, and partitions that they have not seen.

use penstock_tests::kafka::Kafka;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::Recorder;
use penstock_tests::{Consumer, Manifest, groups, topics};

use super::{Outcome, SOON, handled};

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_added_is_read_from_its_beginning() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "added", 1).await?;
    let group = topics::unique("test.added");
    Produce::to(&topic).count(10).send(bootstrap).await?;
    let recorder = Recorder::start()?;
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4)
        .without("offsetReset")
        .kafka("topic.metadata.refresh.interval.ms", "1000")
        .handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    // Where it began is committed though nothing has come.
    groups::wait_for_committed(bootstrap, &group, &topic, 10, SOON).await?;

    topics::add_partitions(bootstrap, &topic, 4).await?;
    Produce::to(&topic)
        .first_seq(100)
        .count(300)
        .partition(|seq| 1 + i32::from((seq % 3) as u8))
        .send(bootstrap)
        .await?;
    consumer
        .wait_until("all of them to be handled", SOON, async || {
            handled(&recorder).len() == 300
        })
        .await?;
    assert_eq!(handled(&recorder), (100..400).collect::<Vec<_>>());
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_new_group_take_no_partition_for_a_new_one() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "members", 4).await?;
    let group = topics::unique("test.members");
    let by_number = |seq: u64| i32::from((seq % 4) as u8);
    Produce::to(&topic)
        .count(400)
        .partition(by_number)
        .send(bootstrap)
        .await?;
    let recorder = Recorder::start()?;
    let manifest = Manifest::fast(bootstrap, &group, &topic, 2)
        .without("offsetReset")
        .handler(&recorder);
    let members = [
        Consumer::start(&manifest)?,
        Consumer::start(&manifest)?,
        Consumer::start(&manifest)?,
    ];
    groups::wait_for_committed(bootstrap, &group, &topic, 400, SOON).await?;
    Produce::to(&topic)
        .first_seq(400)
        .count(40)
        .partition(by_number)
        .send(bootstrap)
        .await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 440, SOON).await?;
    assert_eq!(handled(&recorder), (400..440).collect::<Vec<_>>());
    for member in members {
        assert!(member.stop(SOON).await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_partition_continues_where_its_group_began() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "quiet", 2).await?;
    let group = topics::unique("test.quiet");
    let by_number = |seq: u64| i32::from(seq % 2 == 1);
    Produce::to(&topic)
        .count(40)
        .partition(by_number)
        .send(bootstrap)
        .await?;
    let recorder = Recorder::start()?;
    let manifest = Manifest::in_order(bootstrap, &group, &topic)
        .without("offsetReset")
        .handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    groups::wait_for_committed(bootstrap, &group, &topic, 40, SOON).await?;
    Produce::to(&topic)
        .first_seq(40)
        .count(5)
        .partition(|_| 0)
        .send(bootstrap)
        .await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 45, SOON).await?;
    assert!(consumer.stop(SOON).await?.success());

    // The other partition, which never had a message of this group, gets some now.
    Produce::to(&topic)
        .first_seq(45)
        .count(5)
        .partition(|_| 1)
        .send(bootstrap)
        .await?;
    let consumer = Consumer::start(&manifest)?;
    groups::wait_for_committed(bootstrap, &group, &topic, 50, SOON).await?;
    assert_eq!(handled(&recorder), (40..50).collect::<Vec<_>>());
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}
