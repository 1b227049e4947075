//! Variable-length integers: seven bits in each byte, the lowest first.

/// Bytes that a number takes.
pub(super) fn length(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends a number.
pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number from the front; `None` if there is none, or it has over 64 bits.
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn more_than_64_bits_are_refused() {
        let mut largest = Vec::new();
        put(&mut largest, u64::MAX);
        assert_eq!(take(&mut largest.as_slice()), Some(u64::MAX));
        largest[9] = 2;
        assert_eq!(take(&mut largest.as_slice()), None);
        assert_eq!(take(&mut [0x80; 11].as_slice()), None);
        assert_eq!(take(&mut [].as_slice()), None);
    }

    proptest! {
        #[test]
        fn a_number_comes_back_as_it_was(number: u64, shift in 0u32..64) {
            let number = number >> shift;
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            prop_assert_eq!(bytes.len(), length(number));
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Some(number));
            prop_assert!(rest.is_empty());
        }
    }
}
