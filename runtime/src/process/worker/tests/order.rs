//! The promise of order, held to random histories.

use proptest::prelude::*;

use super::*;

/// Which attempts at a message fail before one succeeds, if any does.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Handled { after: u32 },
    Poison,
    Invalid,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => (0u32..3).prop_map(|after| Fate::Handled { after }),
        1 => Just(Fate::Poison),
        1 => Just(Fate::Invalid),
    ]
}

/// Steps of a history in which each message met its fate, and how it ended.
fn history(
    fates: &[Fate],
    batch: usize,
    on_failure: FailureAction,
) -> (Vec<String>, Option<i64>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let known = fates.to_vec();
        let fixture = fixture("", attempts(3, on_failure), move |message| {
            match known[usize::try_from(message.offset()).unwrap()] {
                Fate::Handled { after } if message.attempt() > after => Ok(()),
                Fate::Handled { .. } => Err(HandlerError::retryable("not yet")),
                Fate::Poison | Fate::Invalid => Err(HandlerError::permanent("poison")),
            }
        })
        .in_order(CommitResult::Committed);
        let deliveries = (0..).zip(fates).map(|(offset, fate)| {
            let payload = if matches!(fate, Fate::Invalid) {
                "{"
            } else {
                "{}"
            };
            fixture.message(offset, payload)
        });
        let deliveries: Vec<_> = deliveries.collect();
        let mut failed = false;
        let mut deliveries = deliveries.into_iter().peekable();
        while deliveries.peek().is_some() && !failed {
            let some: Vec<_> = deliveries.by_ref().take(batch).collect();
            failed = if batch == 1 {
                let only = some.into_iter().next().unwrap();
                fixture.process_alone(only).await.is_err()
            } else {
                fixture
                    .shared
                    .process_batch(some, &fixture.seat)
                    .await
                    .is_err()
            };
        }
        (fixture.steps(), fixture.partition.committable(), failed)
    })
}

proptest! {
    /// In order, one by one or in batches: a message is given only once all
    /// before it are done with; commits rise and never pass what is not done.
    #[test]
    fn in_order_holds_for_every_history(
        fates in prop::collection::vec(fate(), 1..30),
        batch in 1usize..6,
        stop in any::<bool>(),
    ) {
        let on_failure = if stop { FailureAction::Stop } else { FailureAction::Skip };
        let (steps, committable, failed) = history(&fates, batch, on_failure);
        let stops = |fate: &Fate| match fate {
            Fate::Handled { after } => *after >= 3,
            Fate::Poison => true,
            Fate::Invalid => false,
        };
        let first_stop = fates.iter().position(stops);
        let end = match first_stop {
            Some(place) if stop => place,
            _ => fates.len(),
        };
        prop_assert_eq!(failed, stop && first_stop.is_some());
        prop_assert_eq!(committable, Some(i64::try_from(end).unwrap()));
        let (mut last_new, mut last_commit) = (-1, 0);
        for step in &steps {
            if let Some(commit) = step.strip_prefix("commit ") {
                let commit: i64 = commit.parse().unwrap();
                prop_assert!(commit > last_commit, "commits rise: {:?}", steps);
                prop_assert!(commit <= end as i64, "commits pass nothing: {:?}", steps);
                last_commit = commit;
            } else {
                let offset: i64 = step[7..step.find('#').unwrap()].parse().unwrap();
                // Given for the first time only in rising order.
                if offset > last_new {
                    last_new = offset;
                } else {
                    prop_assert!(offset >= last_commit, "nothing committed comes again: {:?}", steps);
                }
            }
        }
        let last_done = (0..end).rev().find(|place| !matches!(fates[*place], Fate::Invalid));
        let expected = last_done.map_or(0, |place| place as i64 + 1);
        prop_assert_eq!(last_commit, expected);
    }
}
