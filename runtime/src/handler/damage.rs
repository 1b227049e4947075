//! Damaged bytes, for property tests.

use proptest::prelude::*;

/// Returns the bytes of `sent`, truncated, longer, or changed in up to three places.
pub(crate) fn damaged(sent: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
    (sent, prop::collection::vec(damage, 1..4)).prop_map(|(mut bytes, all)| {
        for (place, byte, kind) in all {
            let place = place.index(bytes.len() + 1);
            match kind {
                0 => bytes.truncate(place),
                1 => bytes.insert(place, byte),
                _ if place == bytes.len() => bytes.push(byte),
                2 => bytes[place] = byte,
                _ => bytes[place] ^= 1 << (byte % 8),
            }
        }
        bytes
    })
}
