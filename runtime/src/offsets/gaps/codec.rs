//! The text in a commit's metadata.
//!
//! ```text
//! penstock/1:<base64, standard alphabet, no padding>
//!
//! base          varint   the committed offset
//! length        varint   offsets from there to the horizon
//! kind          byte     how the offsets between are told
//!   0, runs     varints  lengths: not done with, done with, not done with, …
//!   1, bitmap   bytes    a bit each, lowest first: set where not done with
//! attempts      varint   how many follow
//!   each        varints  offset, from the one before or the base; attempts made
//! checksum      4 bytes  CRC-32 of the prefix and all before, lowest first
//! ```
//!
//! Version 2, where the topic's id is known:
//!
//! ```text
//! penstock/2:<base64 as above>
//!
//! topic id      16 bytes, highest first
//! base …        as in version 1
//! ```
//!
//! Version 3, where the text says something of messages and their leader epoch is known:
//!
//! ```text
//! penstock/3:<base64 as above>
//!
//! fields        byte     1: the topic's id follows; 2: a leader epoch follows
//! topic id      16 bytes, as in version 2
//! leader epoch  varint   of no message below the horizon is it higher
//! base …        as in version 1
//! ```
//!
//! A message below the horizon with a higher leader epoch was written after an unclean
//! election truncated the log there: from that message on the text says nothing.
//!
//! Runtimes that know only the earlier versions do not use a text of version 3: they warn,
//! and hand out everything from the committed offset on, as if it were the first time. A
//! text without an epoch is used as it always was, without that check.
//!
//! A text that says anything else, or is for another offset, says nothing.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use thiserror::Error;

use super::{Gaps, varint};

/// The prefix of texts of version 1.
pub const PREFIX: &str = "penstock/1:";

/// The prefix of texts with a topic's id; it has the same length.
pub(super) const PREFIX_WITH_TOPIC: &str = "penstock/2:";

/// The prefix of texts with a leader epoch; it has the same length.
pub(super) const PREFIX_WITH_EPOCH: &str = "penstock/3:";

/// The prefix of the texts of all versions.
const FAMILY: &str = "penstock/";

/// The maximum length of a text that is decoded, in bytes. It bounds the memory: a range takes
/// 16 bytes, and there are at most four for each byte of a bitmap.
const LONGEST: usize = 64 * 1024;

const CHECKSUM: usize = size_of::<u32>();

/// Bytes for the topic's id.
const TOPIC_ID: usize = size_of::<u128>();

/// Fields of version 3.
const HAS_TOPIC_ID: u8 = 1;
const HAS_EPOCH: u8 = 2;

const RUNS: u8 = 0;
const BITMAP: u8 = 1;

/// The reason that a text is ignored.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GapsError {
    /// A text of another program.
    #[error("the metadata was not written by Penstock")]
    Foreign,
    /// A text of another version.
    #[error("the version of the metadata is not known to this release")]
    Version,
    /// A text that is longer than any that Penstock writes.
    #[error("the metadata is too long")]
    TooLong,
    /// Not base64.
    #[error("the metadata is damaged: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The checksum differs.
    #[error("the metadata is damaged: its checksum is wrong")]
    Checksum,
    /// The checksum is right, but the content is not valid.
    #[error("the metadata is damaged: {0}")]
    Malformed(&'static str),
    /// A text for another committed offset: the group's offset was set by another client.
    #[error("the metadata belongs to offset {base}, and {committed} is committed")]
    OtherOffset {
        /// The offset for which it was written.
        base: i64,
        /// The committed offset with which it was found.
        committed: i64,
    },
}

impl Gaps {
    /// Returns the text for a commit of [`Gaps::base`], at most `limit` bytes long. It is empty
    /// if nothing is known, or nothing fits.
    pub fn encode(&self, limit: usize) -> String {
        self.encode_after(limit, || None)
    }

    /// Encodes as [`encode`](Self::encode) does, but leaves out no message that is settled by
    /// the text which the brokers have. `known` reads that; it is called only if not
    /// everything fits.
    pub fn encode_after(&self, limit: usize, known: impl FnOnce() -> Option<Self>) -> String {
        // Base64 without padding: the last bytes may take less than four characters.
        let characters = limit.saturating_sub(PREFIX.len());
        let room = characters / 4 * 3 + characters % 4 * 3 / 4;
        let room = room.saturating_sub(CHECKSUM);
        // The id is omitted first, also in favour of messages that the brokers know. The epoch
        // stays: without it, a text might settle messages of another log.
        let heads = [self.topic_id, None].map(|topic_id| Head {
            topic_id,
            epoch: self.leader_epoch,
        });
        let left = |head: &Head| room.checked_sub(head.length());
        let least = least_length(self.base);
        let has_room = |head: &Head, length: usize| left(head).is_some_and(|left| length <= left);
        let is_whole = has_room(&heads[0], self.length().max(least));
        let known = if is_whole { None } else { known() };
        let known =
            known.filter(|known| known.topic_id.is_none() || known.topic_id == self.topic_id);
        let needed = known
            .as_ref()
            .map_or(least, |known| self.least_with(known).max(least));
        let with_room_for = |length| heads.into_iter().find(|head| has_room(head, length));
        let Some(head) = with_room_for(needed).or_else(|| with_room_for(least)) else {
            return String::new();
        };
        let fitted = self.fit(left(&head).unwrap_or_default(), known.as_ref());
        if fitted.is_empty() && head.topic_id.is_none() {
            return String::new();
        }
        let (prefix, mut body) = Head {
            epoch: fitted.leader_epoch,
            ..head
        }
        .begin();
        fitted.append_to(&mut body);
        seal(prefix, &body)
    }

    /// Decodes the text that was found with the offset `committed`. Returns `None` for an empty
    /// text.
    ///
    /// # Errors
    /// Returns [`GapsError`] if the text cannot be used. Then nothing is known.
    pub fn decode(text: &[u8], committed: i64) -> Result<Option<Self>, GapsError> {
        if text.is_empty() {
            return Ok(None);
        }
        let encoded = |prefix: &'static str| {
            let encoded = text.strip_prefix(prefix.as_bytes())?;
            Some((prefix, encoded))
        };
        let prefixes = [PREFIX, PREFIX_WITH_TOPIC, PREFIX_WITH_EPOCH];
        let Some((prefix, encoded)) = prefixes.into_iter().find_map(encoded) else {
            return Err(match text.starts_with(FAMILY.as_bytes()) {
                true => GapsError::Version,
                false => GapsError::Foreign,
            });
        };
        if text.len() > LONGEST {
            return Err(GapsError::TooLong);
        }
        let bytes = STANDARD_NO_PAD.decode(encoded)?;
        let (body, sum) = bytes.split_last_chunk().ok_or(GapsError::Checksum)?;
        if u32::from_le_bytes(*sum) != checksum(prefix, body) {
            return Err(GapsError::Checksum);
        }
        let mut body = body;
        let head = Head::take(prefix, &mut body)?;
        let gaps = parse(body).map_err(GapsError::Malformed)?;
        let gaps = gaps.with_topic_id(head.topic_id);
        let gaps = gaps.with_leader_epoch(head.epoch);
        match gaps.base == committed {
            true => Ok(Some(gaps)),
            false => Err(GapsError::OtherOffset {
                base: gaps.base,
                committed,
            }),
        }
    }

    fn append_to(&self, body: &mut Vec<u8>) {
        varint::put(body, distance(0, self.base));
        varint::put(body, distance(self.base, self.horizon));
        let (kind, _) = kind_and_length(self, self.horizon);
        body.push(kind);
        match kind {
            RUNS => runs(self, self.horizon).for_each(|run| varint::put(body, run)),
            _ => body.extend(bitmap(self)),
        }
        varint::put(body, self.attempts.len() as u64);
        let mut last = self.base;
        for (offset, made) in &self.attempts {
            varint::put(body, distance(last, *offset));
            varint::put(body, u64::from(*made));
            last = *offset;
        }
    }
}

/// The fields before the offset.
#[derive(Clone, Copy)]
struct Head {
    topic_id: Option<u128>,
    epoch: Option<i32>,
}

impl Head {
    fn length(&self) -> usize {
        let id = self.topic_id.map_or(0, |_| TOPIC_ID);
        let epoch = self.epoch_number();
        id + epoch.map_or(0, |epoch| 1 + varint::length(epoch))
    }

    fn epoch_number(&self) -> Option<u64> {
        self.epoch.and_then(|epoch| u64::try_from(epoch).ok())
    }

    /// Returns the prefix of a text and the first bytes of its body.
    fn begin(&self) -> (&'static str, Vec<u8>) {
        let mut body = Vec::new();
        let epoch = self.epoch_number();
        if epoch.is_some() {
            let named = self.topic_id.map_or(0, |_| HAS_TOPIC_ID);
            body.push(named | HAS_EPOCH);
        }
        body.extend(self.topic_id.iter().flat_map(|id| id.to_be_bytes()));
        if let Some(epoch) = epoch {
            varint::put(&mut body, epoch);
        }
        let prefix = match (epoch, self.topic_id) {
            (Some(_), _) => PREFIX_WITH_EPOCH,
            (None, Some(_)) => PREFIX_WITH_TOPIC,
            (None, None) => PREFIX,
        };
        (prefix, body)
    }

    fn take(prefix: &str, body: &mut &[u8]) -> Result<Self, GapsError> {
        let fields = match prefix {
            PREFIX_WITH_EPOCH => {
                let (fields, rest) = body
                    .split_first()
                    .ok_or(GapsError::Malformed("the fields"))?;
                *body = rest;
                *fields
            }
            PREFIX_WITH_TOPIC => HAS_TOPIC_ID,
            _ => 0,
        };
        if fields & !(HAS_TOPIC_ID | HAS_EPOCH) != 0 {
            return Err(GapsError::Version);
        }
        let mut head = Self {
            topic_id: None,
            epoch: None,
        };
        if fields & HAS_TOPIC_ID != 0 {
            let split = body.split_first_chunk();
            let (id, rest) = split.ok_or(GapsError::Malformed("the topic's id"))?;
            *body = rest;
            head.topic_id = Some(u128::from_be_bytes(*id));
        }
        if fields & HAS_EPOCH != 0 {
            let epoch = varint::take(body).and_then(|epoch| i32::try_from(epoch).ok());
            head.epoch = Some(epoch.ok_or(GapsError::Malformed("the leader epoch"))?);
        }
        Ok(head)
    }
}

/// Returns the text with these bytes. For tests: [`Gaps::encode`] writes only valid texts.
#[doc(hidden)]
pub fn sealed(body: &[u8]) -> String {
    seal(PREFIX, body)
}

pub(super) fn seal(prefix: &str, body: &[u8]) -> String {
    let mut bytes = body.to_vec();
    bytes.extend(checksum(prefix, body).to_le_bytes());
    let mut text = prefix.to_owned();
    STANDARD_NO_PAD.encode_string(bytes, &mut text);
    text
}

fn checksum(prefix: &str, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(prefix.as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Returns the distance from the first offset to the second. Offsets are not negative.
fn distance(from: i64, to: i64) -> u64 {
    to.abs_diff(from)
}

/// Returns the bytes for base, length and kind.
pub(super) fn head_length(base: i64, horizon: i64) -> usize {
    varint::length(distance(0, base)) + varint::length(distance(base, horizon)) + 1
}

/// Returns the bytes of a body with only the offset.
fn least_length(base: i64) -> usize {
    head_length(base, base) + attempts_length(base, &[])
}

/// Returns the shorter encoding of the offsets below a horizon, and its bytes.
pub(super) fn kind_and_length(gaps: &Gaps, horizon: i64) -> (u8, usize) {
    let runs: usize = runs(gaps, horizon).map(varint::length).sum();
    let bitmap = distance(gaps.base, horizon).div_ceil(8);
    match usize::try_from(bitmap) {
        Ok(bitmap) if bitmap < runs => (BITMAP, bitmap),
        _ => (RUNS, runs),
    }
}

/// Returns the bytes for attempts.
pub(super) fn attempts_length(base: i64, attempts: &[(i64, u32)]) -> usize {
    let mut length = varint::length(attempts.len() as u64);
    let mut last = base;
    for (offset, made) in attempts {
        length += varint::length(distance(last, *offset)) + varint::length(u64::from(*made));
        last = *offset;
    }
    length
}

/// Returns the lengths of unsettled and settled runs, in turns, up to a horizon. Only the first
/// may be 0.
fn runs(gaps: &Gaps, horizon: i64) -> impl Iterator<Item = u64> {
    let starts_complete = gaps
        .incomplete
        .first()
        .is_none_or(|first| first.start > gaps.base);
    let first = (starts_complete && horizon > gaps.base).then_some(gaps.base);
    let ends = gaps
        .incomplete
        .iter()
        .flat_map(|range| [range.start, range.end]);
    // The offsets where one run ends and the next begins; the base is not one.
    let turns = ends.filter(move |turn| *turn > gaps.base && *turn < horizon);
    let last = (horizon > gaps.base).then_some(horizon);
    let mut from = gaps.base;
    first.into_iter().chain(turns).chain(last).map(move |turn| {
        let run = distance(from, turn);
        from = turn;
        run
    })
}

fn bitmap(gaps: &Gaps) -> Vec<u8> {
    let offsets = distance(gaps.base, gaps.horizon);
    let mut bits = vec![0; usize::try_from(offsets.div_ceil(8)).unwrap_or_default()];
    for offset in gaps.incomplete.iter().cloned().flatten() {
        let place = distance(gaps.base, offset);
        if let Some(byte) = bits.get_mut((place / 8) as usize) {
            *byte |= 1 << (place % 8);
        }
    }
    bits
}

fn parse(mut body: &[u8]) -> Result<Gaps, &'static str> {
    let bytes = &mut body;
    let base = varint::take(bytes).and_then(|base| i64::try_from(base).ok());
    let base = base.ok_or("the offset")?;
    let length = varint::take(bytes).and_then(|length| i64::try_from(length).ok());
    let horizon = length.and_then(|length| base.checked_add(length));
    let horizon = horizon.ok_or("the length")?;
    let (kind, rest) = bytes.split_first().ok_or("the kind")?;
    *bytes = rest;
    let incomplete = match *kind {
        RUNS => take_runs(bytes, base, horizon).ok_or("the runs")?,
        BITMAP => take_bitmap(bytes, base, horizon).ok_or("the bitmap")?,
        _ => return Err("the kind"),
    };
    let attempts = take_attempts(bytes, base).ok_or("the attempts")?;
    let whole = Gaps::new(base, horizon, incomplete, attempts.iter().copied());
    match bytes.is_empty() && whole.attempts == attempts {
        true => Ok(whole),
        false => Err("the end"),
    }
}

fn take_runs(bytes: &mut &[u8], base: i64, horizon: i64) -> Option<Vec<Range<i64>>> {
    let mut ranges = Vec::new();
    let (mut from, mut is_incomplete) = (base, true);
    while from < horizon {
        let run = i64::try_from(varint::take(bytes)?).ok()?;
        let to = from.checked_add(run).filter(|to| *to <= horizon)?;
        if run == 0 && !(is_incomplete && from == base) {
            return None;
        }
        if is_incomplete {
            ranges.push(from..to);
        }
        (from, is_incomplete) = (to, !is_incomplete);
    }
    Some(ranges)
}

fn take_bitmap(bytes: &mut &[u8], base: i64, horizon: i64) -> Option<Vec<Range<i64>>> {
    let offsets = usize::try_from(distance(base, horizon)).ok()?;
    let (bits, rest) = bytes.split_at_checked(offsets.div_ceil(8))?;
    *bytes = rest;
    let mut ranges: Vec<Range<i64>> = Vec::new();
    for (offset, place) in (base..horizon).zip(0..) {
        let byte: &u8 = bits.get(place / 8)?;
        if byte >> (place % 8) & 1 == 0 {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == offset => last.end += 1,
            _ => ranges.push(offset..offset + 1),
        }
    }
    Some(ranges)
}

fn take_attempts(bytes: &mut &[u8], base: i64) -> Option<Vec<(i64, u32)>> {
    let count = varint::take(bytes)?;
    let mut attempts: Vec<(i64, u32)> = Vec::new();
    for _ in 0..count {
        let ahead = i64::try_from(varint::take(bytes)?).ok()?;
        let last = attempts.last().map(|(last, _)| *last);
        if last.is_some() && ahead == 0 {
            return None;
        }
        let offset = last.unwrap_or(base).checked_add(ahead)?;
        attempts.push((offset, u32::try_from(varint::take(bytes)?).ok()?));
    }
    Some(attempts)
}
