//! The fields of Kafka's protocol as bytes.

use std::io;

/// Writes the body of a request.
pub(super) struct Writer {
    bytes: Vec<u8>,
    flexible: bool,
}

impl Writer {
    pub(super) fn new(flexible: bool) -> Self {
        Self {
            bytes: Vec::new(),
            flexible,
        }
    }

    pub(super) fn is_flexible(&self) -> bool {
        self.flexible
    }

    pub(super) fn i8(&mut self, value: i8) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(super) fn string(&mut self, text: &str) {
        match self.flexible {
            true => self.varint(text.len() + 1),
            false => self.bytes.extend((text.len() as u16).to_be_bytes()),
        }
        self.bytes.extend(text.as_bytes());
    }

    /// Begins an array of so many elements.
    pub(super) fn array(&mut self, length: usize) {
        match self.flexible {
            true => self.varint(length + 1),
            false => self.bytes.extend((length as u32).to_be_bytes()),
        }
    }

    /// Ends a structure of a flexible version.
    pub(super) fn tags(&mut self) {
        self.bytes.push(0);
    }

    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// The whole request with its length and header.
    pub(super) fn framed(self, api: i16, version: i16) -> io::Result<Vec<u8>> {
        const CLIENT_ID: &[u8] = b"penstock-tests";
        let mut header = Vec::new();
        header.extend(api.to_be_bytes());
        header.extend(version.to_be_bytes());
        header.extend(1_i32.to_be_bytes());
        header.extend((CLIENT_ID.len() as u16).to_be_bytes());
        header.extend(CLIENT_ID);
        if self.flexible {
            header.push(0);
        }
        let length = i32::try_from(header.len() + self.bytes.len()).map_err(io::Error::other)?;
        Ok([&length.to_be_bytes()[..], &header, &self.bytes].concat())
    }
}

/// Reads the body of an answer; `None` where it ends early.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self {
            rest: bytes,
            flexible,
        }
    }

    pub(super) fn skip(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// Passes over the time for which the broker would like to be left alone.
    pub(super) fn skip_throttle(&mut self) -> Option<()> {
        self.i32().map(drop)
    }

    pub(super) fn i8(&mut self) -> Option<i8> {
        self.skip(1).map(|bytes| bytes[0] as i8)
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        let bytes = self.skip(2)?.try_into().ok()?;
        Some(i16::from_be_bytes(bytes))
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        let bytes = self.skip(4)?.try_into().ok()?;
        Some(i32::from_be_bytes(bytes))
    }

    /// A text; an absent one is empty.
    pub(super) fn string(&mut self) -> Option<String> {
        let length = match self.flexible {
            true => self.varint()?.saturating_sub(1),
            false => usize::try_from(self.i16()?).unwrap_or(0),
        };
        let bytes = self.skip(length)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// An array; an absent one is empty.
    pub(super) fn array<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let length = match self.flexible {
            true => self.varint()?.saturating_sub(1),
            false => usize::try_from(self.i32()?).unwrap_or(0),
        };
        (0..length).map(|_| element(self)).collect()
    }

    /// The end of a structure of a flexible version. Tags are unknown here and skipped.
    pub(super) fn tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.skip(length)?;
        }
        Some(())
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.skip(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for flexible in [false, true] {
            let long = "x".repeat(300);
            let mut writer = Writer::new(flexible);
            writer.i8(-3);
            writer.i32(70_000);
            writer.string(&long);
            writer.array(2);
            writer.string("a");
            writer.string("");
            writer.tags();
            let bytes = writer.framed(43, 1).unwrap();
            let head = 4 + 2 + 2 + 4 + 2 + 14 + usize::from(flexible);
            assert_eq!(bytes[..4], (bytes.len() as i32 - 4).to_be_bytes());

            let mut reader = Reader::new(&bytes[head..], flexible);
            assert_eq!(reader.i8(), Some(-3));
            assert_eq!(reader.i32(), Some(70_000));
            assert_eq!(reader.string(), Some(long));
            let two = reader.array(Reader::string);
            assert_eq!(two, Some(vec!["a".to_owned(), String::new()]));
            assert_eq!(reader.tags(), Some(()));
            assert_eq!(reader.i8(), None, "there is no more");
        }
    }
}
