// One range is what is meant.
#![allow(clippy::single_range_in_vec_init)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

/// Random texts in the long run.
const TEXTS: usize = 300_000;

/// Gaps as somebody may have met them: in bursts, scattered, or none.
fn gaps() -> impl Strategy<Value = Gaps> {
    let ranges = prop::collection::vec((0i64..20, 1i64..200), 0..60);
    let scattered = prop::collection::vec((1i64..3, 1i64..3), 0..400);
    let attempts = prop::collection::btree_map(0i64..4000, 1u32..100, 0..30);
    let base = prop_oneof![0i64..1000, Just(i64::MAX / 2)];
    let id = prop::option::of(any::<u128>());
    let epoch = prop::option::of(0..=i32::MAX);
    (
        base,
        prop_oneof![ranges, scattered],
        attempts,
        0i64..1000,
        (id, epoch),
    )
        .prop_map(|(base, turns, attempts, behind, (id, epoch))| {
            let mut at = base;
            let mut incomplete = Vec::new();
            for (ahead, length) in turns {
                incomplete.push(at + ahead..at + ahead + length);
                at += ahead + length;
            }
            let attempts = attempts
                .into_iter()
                .map(|(ahead, made)| (base + ahead, made));
            Gaps::new(base, at + behind, incomplete, attempts)
                .with_topic_id(id)
                .with_leader_epoch(epoch)
        })
}

fn complete(gaps: &Gaps) -> BTreeSet<i64> {
    (gaps.base..gaps.horizon)
        .filter(|offset| gaps.is_complete(*offset))
        .collect()
}

#[test]
fn what_is_known_ends_with_the_last_that_is_done_with_or_was_tried() {
    let gaps = |attempts: &[(i64, u32)]| Gaps::new(5, 20, [5..8, 10..20], attempts.to_vec());
    let none = gaps(&[]);
    assert_eq!((none.horizon(), none.incomplete()), (10, &[5..8][..]));
    let tried = gaps(&[(6, 1), (8, 9), (12, 2), (30, 1)]);
    assert_eq!(
        (tried.horizon(), tried.attempts()),
        (13, &[(6, 1), (12, 2)][..])
    );
    assert!(Gaps::new(5, 20, [0..9, 9..20], []).is_empty());
    assert_eq!(Gaps::new(5, 20, [5..20], []).encode(METADATA_LIMIT), "");
}

#[test]
fn ranges_are_joined_and_cut_to_what_is_known() {
    let gaps = Gaps::new(5, 20, [0..6, 6..8, 7..9, 12..13, 12..13], []);
    assert_eq!(gaps.incomplete(), [5..9, 12..13]);
    assert_eq!(complete(&gaps), (9..12).chain(13..20).collect());
}

/// The form is an interface: another version must go on reading it.
#[test]
fn the_text_is_as_it_was_in_version_1() {
    let runs = Gaps::new(1000, 1300, [1000..1001, 1100..1102], [(1000, 3), (1101, 1)]);
    let bitmap = Gaps::new(7, 15, (7..15).step_by(2).map(|at| at..at + 1), []);
    let texts = [runs, bitmap].map(|gaps| gaps.encode(METADATA_LIMIT));
    assert_eq!(
        texts,
        [
            "penstock/1:6AesAgABYwLGAQIAA2UBxD1WYA",
            "penstock/1:BwgBVQC2fKM4"
        ]
    );
}

#[test]
fn foreign_and_newer_texts_are_told_apart() {
    for (text, error) in [
        (&b"owner=billing"[..], GapsError::Foreign),
        (b"\xff\xfe", GapsError::Foreign),
        (b"penstock/2:", GapsError::Checksum),
        (b"penstock/3:", GapsError::Checksum),
        (b"penstock/4:AAAA", GapsError::Version),
        (b"penstock/1:", GapsError::Checksum),
        (b"penstock/1:AA", GapsError::Checksum),
    ] {
        assert_eq!(Gaps::decode(text, 0), Err(error));
    }
    assert!(matches!(
        Gaps::decode(b"penstock/1:%", 0),
        Err(GapsError::Base64(_))
    ));
    let long = sealed(&vec![0; 64 * 1024]);
    assert_eq!(Gaps::decode(long.as_bytes(), 0), Err(GapsError::TooLong));
    assert_eq!(Gaps::decode(b"", 0), Ok(None));
}

/// The form of texts that name their topic is an interface too.
#[test]
fn the_text_with_a_topic_is_as_it_was_in_version_2() {
    let id = Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let none = Gaps::new(1000, 1000, [], []).with_topic_id(id);
    let text = none.encode(METADATA_LIMIT);
    assert_eq!(text, "penstock/2:ASNFZ4mrze8BI0VniavN7+gHAAAADudhew");
    assert!(none.is_empty());
    assert_eq!(Gaps::decode(text.as_bytes(), 1000), Ok(Some(none)));
    // Where there is no room for both, the id is left out and the messages are kept.
    let some = Gaps::new(7, 15, (7..15).step_by(2).map(|at| at..at + 1), []).with_topic_id(id);
    let short = some.encode(40);
    assert_eq!(short, "penstock/1:BwgBVQC2fKM4");
    let without = Gaps::decode(short.as_bytes(), 7).unwrap();
    assert_eq!(without, Some(some.with_topic_id(None)));
}

/// The form of texts that name a leader epoch is an interface too.
#[test]
fn the_text_with_a_leader_epoch_is_as_it_was_in_version_3() {
    let id = Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let gaps = Gaps::new(7, 15, (7..15).step_by(2).map(|at| at..at + 1), []);
    let with_epoch = gaps.clone().with_leader_epoch(Some(300));
    let both = with_epoch.clone().with_topic_id(id);
    let texts = [&with_epoch, &both].map(|gaps| gaps.encode(METADATA_LIMIT));
    assert_eq!(
        texts,
        [
            "penstock/3:AqwCBwgBVQDIs8vK",
            "penstock/3:AwEjRWeJq83vASNFZ4mrze+sAgcIAVUATuToLg"
        ]
    );
    for (gaps, text) in [(&with_epoch, &texts[0]), (&both, &texts[1])] {
        assert_eq!(&Gaps::decode(text.as_bytes(), 7), &Ok(Some(gaps.clone())));
    }
    // Where there is no room for both, the id is left out, and the epoch is not: without it
    // nothing is said.
    assert_eq!(both.encode(32), texts[0]);
    assert_eq!(both.encode(24), "");
    // Where nothing is known of messages, an epoch says nothing.
    let none = Gaps::new(7, 7, [], []).with_topic_id(id);
    assert_eq!(none.clone().with_leader_epoch(Some(300)), none);
}

#[test]
fn a_text_with_fields_that_are_not_known_is_of_another_version() {
    let text = codec::seal("penstock/3:", &[4, 0, 0, 0, 0]);
    assert_eq!(Gaps::decode(text.as_bytes(), 0), Err(GapsError::Version));
    for (body, what) in [(&[][..], "the fields"), (&[2, 0x80], "the leader epoch")] {
        let text = codec::seal("penstock/3:", body);
        let error = Gaps::decode(text.as_bytes(), 0);
        assert_eq!(error, Err(GapsError::Malformed(what)));
    }
}

#[test]
fn a_text_with_a_topic_that_is_damaged_says_nothing() {
    let text = Gaps::new(5, 9, [5..6], []).with_topic_id(Some(7));
    let text = text.encode(METADATA_LIMIT);
    let swapped = text.replace("penstock/2", "penstock/1");
    assert_eq!(
        Gaps::decode(swapped.as_bytes(), 5),
        Err(GapsError::Checksum)
    );
    let short = codec::seal(codec::PREFIX_WITH_TOPIC, &[0; 15]);
    let error = Gaps::decode(short.as_bytes(), 0);
    assert_eq!(error, Err(GapsError::Malformed("the topic's id")));
}

#[test]
fn a_group_that_was_moved_begins_anew() {
    let text = Gaps::new(10, 20, [10..12], []).encode(METADATA_LIMIT);
    let error = GapsError::OtherOffset {
        base: 10,
        committed: 11,
    };
    assert_eq!(Gaps::decode(text.as_bytes(), 11), Err(error));
}

#[test]
fn lengths_that_would_not_fit_in_memory_are_refused() {
    // Base 0, 2^62 offsets, as a bitmap or as runs that end too soon.
    let length = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    for kind in [0, 1] {
        let body: Vec<u8> = [&[0][..], &length, &[kind, 1, 1, 0]].concat();
        let error = Gaps::decode(sealed(&body).as_bytes(), 0);
        assert!(matches!(error, Err(GapsError::Malformed(_))), "{error:?}");
    }
}

#[test]
fn every_second_message_of_twenty_thousand_fits_in_the_brokers_limit() {
    let every_second = (0..20_000).step_by(2).map(|at| at..at + 1);
    let gaps = Gaps::new(0, 20_000, every_second, []);
    let text = gaps.encode(METADATA_LIMIT);
    assert_eq!(Gaps::decode(text.as_bytes(), 0), Ok(Some(gaps)));
}

/// Whatever the bytes, reading them ends well, and what it gives is well-formed.
/// Half of them have the right checksum, or few would be looked into.
#[test]
fn random_texts_are_read_or_refused() {
    let seed = 0x9a95;
    let mut random = StdRng::seed_from_u64(seed);
    let mut read = 0;
    for _ in 0..TEXTS {
        let mut body = vec![0; random.random_range(0..14)];
        random.fill_bytes(&mut body);
        // Small numbers make sense more often.
        let mask = [0xff, 0x0f, 0x03, 0x01][random.random_range(0..4)];
        body.iter_mut().for_each(|byte| *byte &= mask);
        let base = body.first().map_or(0, |base| i64::from(*base));
        let text = match random.random() {
            true => sealed(&body).into_bytes(),
            false => [PREFIX.as_bytes(), &body].concat(),
        };
        if let Ok(Some(gaps)) = Gaps::decode(&text, base) {
            read += 1;
            check_form(&gaps, seed);
        }
    }
    assert!(read > TEXTS / 1000, "only {read} of {TEXTS} could be read");
}

fn check_form(gaps: &Gaps, seed: u64) {
    let context = format!("seed {seed}: {gaps:?}");
    assert!(gaps.base <= gaps.horizon, "{context}");
    let (from, to) = (gaps.base, gaps.horizon);
    let within =
        |range: &Range<i64>| from <= range.start && range.start < range.end && range.end <= to;
    assert!(gaps.incomplete.iter().all(within), "{context}");
    assert!(
        gaps.incomplete
            .windows(2)
            .all(|two| two[0].end < two[1].start),
        "{context}"
    );
    assert!(
        gaps.attempts.windows(2).all(|two| two[0].0 < two[1].0),
        "{context}"
    );
    assert!(
        gaps.attempts.iter().all(|(at, _)| !gaps.is_complete(*at)),
        "{context}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn gaps_come_back_as_they_were(gaps in gaps()) {
        let text = gaps.encode(usize::MAX);
        let read = Gaps::decode(text.as_bytes(), gaps.base).unwrap();
        match gaps.is_empty() && gaps.topic_id().is_none() {
            true => prop_assert_eq!(read, None),
            false => prop_assert_eq!(read, Some(gaps)),
        }
    }

    #[test]
    fn a_limit_is_kept_and_costs_only_what_lies_behind(gaps in gaps(), limit in 0usize..600) {
        let text = gaps.encode(limit);
        prop_assert!(text.len() <= limit);
        let read = Gaps::decode(text.as_bytes(), gaps.base).unwrap();
        let read = read.unwrap_or_else(|| Gaps::new(gaps.base, gaps.base, [], []));
        let expected: BTreeSet<_> = complete(&gaps).range(..read.horizon).copied().collect();
        prop_assert_eq!(complete(&read), expected);
        let known: BTreeMap<_, _> = gaps.attempts.iter().copied().collect();
        let kept: Vec<_> = known.range(..).take(read.attempts.len()).map(|(at, made)| (*at, *made)).collect();
        prop_assert_eq!(&read.attempts, &kept);
    }

    #[test]
    fn what_the_brokers_know_is_never_left_out(
        gaps in gaps(),
        settled in prop::collection::btree_set(0usize..64, 0..40),
        tried in 1u32..1_000_000,
        limit in 40usize..200,
    ) {
        let first = gaps.encode(limit);
        let known = Gaps::decode(first.as_bytes(), gaps.base).unwrap();
        let known = known.unwrap_or_else(|| Gaps::new(gaps.base, gaps.base, [], []));
        // Later more is settled, and more attempts are made.
        let open: Vec<_> = gaps.incomplete.iter().cloned().flatten().take(64).collect();
        let is_settled = |place: &usize| settled.contains(place);
        let (done, left): (Vec<_>, Vec<_>) = (0..open.len()).partition(is_settled);
        let still: Vec<_> = left.iter().map(|place| open[*place]..open[*place] + 1).collect();
        let last = open.last().map_or(gaps.base, |last| last + 1);
        let rest = gaps.incomplete.iter().filter(|it| it.start >= last).cloned();
        let attempts = left.iter().map(|place| (open[*place], tried));
        let later = Gaps::new(gaps.base, gaps.horizon, still.iter().cloned().chain(rest), attempts)
            .with_topic_id(gaps.topic_id())
            .with_leader_epoch(gaps.leader_epoch());
        // Nor with as little room as the first text took, or once the topic's id is known.
        let named = later.clone().with_topic_id(gaps.topic_id().or(Some(7)));
        for (later, limit) in [(&later, limit), (&later, first.len()), (&named, limit)] {
            let text = later.encode_after(limit, || Some(known.clone()));
            prop_assert!(text.len() <= limit);
            let read = Gaps::decode(text.as_bytes(), gaps.base).unwrap();
            let read = read.unwrap_or_else(|| Gaps::new(gaps.base, gaps.base, [], []));
            prop_assert!(complete(&read).is_superset(&complete(&known)), "{done:?}");
            prop_assert!(complete(&read).is_subset(&complete(later)));
        }
    }

    #[test]
    fn a_changed_character_is_noticed(gaps in gaps(), place: prop::sample::Index, bit in 0u8..8) {
        prop_assume!(!gaps.is_empty());
        let mut text = gaps.encode(METADATA_LIMIT).into_bytes();
        let place = place.index(text.len());
        text[place] ^= 1 << bit;
        prop_assert!(Gaps::decode(&text, gaps.base).is_err());
    }

    #[test]
    fn a_text_that_was_cut_off_is_noticed(gaps in gaps(), length: prop::sample::Index) {
        prop_assume!(!gaps.is_empty());
        let text = gaps.encode(METADATA_LIMIT).into_bytes();
        let length = 1 + length.index(text.len() - 1);
        prop_assert!(Gaps::decode(&text[..length], gaps.base).is_err());
    }
}

#[test]
fn what_lies_behind_an_end_is_left_out() {
    let gaps = Gaps::new(5, 20, [5..6, 8..9, 14..16], [(8, 2), (15, 3)]);
    let cut = gaps.until(12);
    assert_eq!(cut, Gaps::new(5, 12, [5..6, 8..9], [(8, 2)]));
    assert!(cut.is_complete(11) && !cut.is_complete(12) && !cut.is_complete(8));
    assert_eq!(gaps.until(20), gaps);
    let gaps = gaps.with_leader_epoch(Some(4));
    assert_eq!(gaps.until(12).leader_epoch(), Some(4));
    assert_eq!(gaps.until(5).leader_epoch(), None);
    assert_eq!(
        [5, 6, 15, 16].map(|at| gaps.incomplete_from(at)),
        [4, 3, 1, 0]
    );
    assert!(gaps.until(6).is_empty());
}
