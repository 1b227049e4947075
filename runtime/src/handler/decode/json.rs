//! The check of valid JSON (RFC 8259), the same for all messages and answers.
//!
//! serde_json checks only the values that it keeps. In a value that it skips, it accepts
//! invalid UTF-8, any depth, lone surrogates and numbers beyond a double's range. A program
//! that parses such a value in full then rejects it, and in a batch everything around it.
//!
//! A value that passes here can be read by serde_json as any type, and by Python's `json`,
//! alone and in a batch. The check keeps no stack and allocates nothing.

use thiserror::Error;

/// The maximum depth of arrays and objects. serde_json accepts 127, and a batch puts a
/// message's value two levels deeper: into an object of a list.
pub(crate) const MAX_DEPTH: u32 = 125;

/// The first error in a value, and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} at byte {offset}")]
pub struct JsonError {
    what: &'static str,
    offset: usize,
}

/// Returns an error unless `bytes` are one JSON value in UTF-8, at most [`MAX_DEPTH`] levels
/// deep, with finite numbers and paired surrogates.
pub(crate) fn check(bytes: &[u8]) -> Result<(), JsonError> {
    let mut scanner = Scanner {
        bytes,
        at: 0,
        seen: 0,
    };
    let mut open = Open::default();
    loop {
        scanner.skip_space();
        if scanner.begin_value(&mut open)? {
            continue;
        }
        loop {
            scanner.skip_space();
            let Some(within) = open.innermost() else {
                return scanner.finish();
            };
            match (scanner.peek(), within) {
                (Some(b','), Within::Array) => {
                    scanner.at += 1;
                    break;
                }
                (Some(b','), Within::Object) => {
                    scanner.at += 1;
                    scanner.name()?;
                    break;
                }
                (Some(b']'), Within::Array) | (Some(b'}'), Within::Object) => {
                    scanner.at += 1;
                    open.pop();
                }
                (None, _) => return Err(scanner.error("an early end")),
                (_, Within::Array) => return Err(scanner.error("neither a comma nor ]")),
                (_, Within::Object) => return Err(scanner.error("neither a comma nor }")),
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Within {
    Array,
    Object,
}

/// The open arrays and objects: one bit for each, the innermost lowest.
#[derive(Default)]
struct Open {
    objects: u128,
    depth: u32,
}

// A bit for each level.
const _: () = assert!(MAX_DEPTH <= u128::BITS);

impl Open {
    /// Opens one. Returns `false` if that would be too deep.
    fn push(&mut self, within: Within) -> bool {
        self.objects = (self.objects << 1) | u128::from(matches!(within, Within::Object));
        self.depth += 1;
        self.depth <= MAX_DEPTH
    }

    fn pop(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    fn innermost(&self) -> Option<Within> {
        match (self.depth, self.objects & 1) {
            (0, _) => None,
            (_, 0) => Some(Within::Array),
            _ => Some(Within::Object),
        }
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// All bytes of strings, combined by OR: shows a byte beyond ASCII.
    seen: u64,
}

/// Returns a word with this byte in each place.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Sets the highest bit of the lowest byte that is less than `limit`, and possibly of higher
/// bytes. `limit` is at most 128.
const fn less(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(each(limit)) & !word & each(0x80)
}

/// The maximum length of a number that is finite with any digits, if its exponent has at most
/// two digits.
const SURELY_FINITE: usize = 200;

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn error(&self, what: &'static str) -> JsonError {
        JsonError {
            what,
            offset: self.at,
        }
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Reads a value, or the beginning of one that contains others. In that case returns
    /// `true`, and the first of these follows.
    fn begin_value(&mut self, open: &mut Open) -> Result<bool, JsonError> {
        match self.peek() {
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'{') => return self.begin(open, Within::Object),
            Some(b'[') => return self.begin(open, Within::Array),
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            Some(_) => return Err(self.error("no value")),
            None => return Err(self.error("an early end")),
        }
        Ok(false)
    }

    fn begin(&mut self, open: &mut Open, within: Within) -> Result<bool, JsonError> {
        if !open.push(within) {
            return Err(self.error("more than 125 levels"));
        }
        self.at += 1;
        self.skip_space();
        match (self.peek(), within) {
            (Some(b']'), Within::Array) | (Some(b'}'), Within::Object) => {
                self.at += 1;
                open.pop();
                return Ok(false);
            }
            (_, Within::Array) => {}
            (_, Within::Object) => self.name()?,
        }
        Ok(true)
    }

    /// Reads a member's name and the colon after it.
    fn name(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return Err(self.error("no name of a member"));
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.error("no colon"));
        }
        self.at += 1;
        Ok(())
    }

    fn literal(&mut self, text: &[u8]) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(text) {
            return Err(self.error("no value"));
        }
        self.at += text.len();
        Ok(())
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        loop {
            self.skip_plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.error("a control character in a string")),
                None => return Err(self.error("a string without an end")),
            }
        }
    }

    /// Skips to the next quotation mark, backslash or control character.
    fn skip_plain(&mut self) {
        let mut rest = &self.bytes[self.at..];
        while let Some((word, more)) = rest.split_first_chunk() {
            let word = u64::from_le_bytes(*word);
            self.seen |= word;
            let special =
                less(word, 0x20) | less(word ^ each(b'"'), 1) | less(word ^ each(b'\\'), 1);
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
            rest = more;
        }
        for byte in rest {
            if matches!(byte, b'"' | b'\\' | 0..0x20) {
                return;
            }
            self.seen |= u64::from(*byte);
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.code_unit()? {
                0xDC00..=0xDFFF => Err(self.error("half a surrogate pair before this")),
                0xD800..=0xDBFF => {
                    let is_escape = self.bytes[self.at..].starts_with(b"\\u");
                    match is_escape.then(|| self.code_unit()).transpose()? {
                        Some(0xDC00..=0xDFFF) => Ok(()),
                        _ => Err(self.error("half a surrogate pair before this")),
                    }
                }
                _ => Ok(()),
            },
            _ => Err(self.error("an unknown escape")),
        }
    }

    /// Reads `\u` and its four digits.
    fn code_unit(&mut self) -> Result<u32, JsonError> {
        let digits = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
        let mut unit = (digits.len() == 4).then_some(0);
        for byte in digits {
            let digit = char::from(*byte).to_digit(16);
            unit = unit.zip(digit).map(|(unit, digit)| unit * 16 + digit);
        }
        let unit = unit.ok_or_else(|| self.error("an unknown escape"))?;
        self.at += 6;
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let begin = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => {
                self.digits()?;
            }
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let mut exponent = 0;
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            exponent = self.digits()?;
        }
        if exponent > 2 || self.at - begin > SURELY_FINITE {
            let number = &self.bytes[begin..self.at];
            if serde_json::from_slice::<f64>(number).is_err() {
                self.at = begin;
                return Err(self.error("a number beyond a double's range"));
            }
        }
        Ok(())
    }

    /// Reads digits, at least one. Returns their number.
    fn digits(&mut self) -> Result<usize, JsonError> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        match self.at - begin {
            0 => Err(self.error("no digit")),
            count => Ok(count),
        }
    }

    /// Checks that nothing follows, and that bytes beyond ASCII are UTF-8.
    fn finish(&self) -> Result<(), JsonError> {
        if self.at < self.bytes.len() {
            return Err(self.error("more than one value"));
        }
        if self.seen & each(0x80) != 0
            && let Err(error) = std::str::from_utf8(self.bytes)
        {
            return Err(JsonError {
                what: "text that is not UTF-8",
                offset: error.valid_up_to(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::handler::damage::damaged;

    /// A value as a batch brings it.
    fn in_batch(bytes: &[u8]) -> Vec<u8> {
        [br#"[{"data":"#, bytes, b"}]"].concat()
    }

    /// Whether serde_json reads it in full, alone and in a batch.
    fn is_readable(bytes: &[u8]) -> bool {
        let reads = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).is_ok();
        reads(bytes) && reads(&in_batch(bytes))
    }

    fn nested(depth: usize) -> [Vec<u8>; 2] {
        [("[", "", "]"), ("{\"a\":", "1", "}")].map(|(begin, within, end)| {
            format!("{}{within}{}", begin.repeat(depth), end.repeat(depth)).into_bytes()
        })
    }

    #[test]
    fn valid_values_pass() {
        let long = format!("0.{}", "3".repeat(1000));
        let large = format!("1{}", "0".repeat(308));
        let texts: [&[u8]; 26] = [
            b"{}",
            b" [ ] ",
            b"\t\r\n1",
            b"-0",
            b"-1.50E+3",
            b"0e99999999999999999999",
            b"1e-99999999999999999999",
            b"1.7976931348623157e308",
            b"18446744073709551616",
            long.as_bytes(),
            large.as_bytes(),
            b"true",
            b"[false, null]",
            b"\"\"",
            b"\"\x7f\"",
            b"\"1234567\"",
            b"\"12345678\"",
            b"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD834\\udd1e\"",
            "\"gr\u{fc}n, \u{1d11e}\"".as_bytes(),
            "{\"\u{fc}\": \"\u{ffff}\"}".as_bytes(),
            b"{\"a\": 1, \"a\": 2}",
            b"{ \"a\" : [ 1 , { } ] , \"\" : \"\" }",
            b"[[[]], [], {\"a\": {}}, {}]",
            b"\"]}\"",
            b"\"\\u0000\"",
            b"[1,2,3]",
        ];
        let deep = nested(MAX_DEPTH as usize);
        for text in texts.iter().copied().chain(deep.iter().map(Vec::as_slice)) {
            let shown = String::from_utf8_lossy(text);
            assert_eq!(check(text), Ok(()), "{shown}");
            assert!(is_readable(text), "{shown}");
        }
    }

    #[test]
    fn invalid_values_are_refused_where_they_go_wrong() {
        let invalid: [(&[u8], &str); 48] = [
            (b"", "an early end at byte 0"),
            (b"  ", "an early end at byte 2"),
            (b"{", "no name of a member at byte 1"),
            (b"[", "an early end at byte 1"),
            (b"[1", "an early end at byte 2"),
            (b"[1,", "an early end at byte 3"),
            (b"[1,]", "no value at byte 3"),
            (b"[,1]", "no value at byte 1"),
            (b"[1 2]", "neither a comma nor ] at byte 3"),
            (b"[1}", "neither a comma nor ] at byte 2"),
            (b"{\"a\":1]", "neither a comma nor } at byte 6"),
            (b"{\"a\":1,}", "no name of a member at byte 7"),
            (b"{\"a\"}", "no colon at byte 4"),
            (b"{\"a\":}", "no value at byte 5"),
            (b"{a:1}", "no name of a member at byte 1"),
            (b"{'a':1}", "no name of a member at byte 1"),
            (b"{1:1}", "no name of a member at byte 1"),
            (b"]", "no value at byte 0"),
            (b"{} {}", "more than one value at byte 3"),
            (b"{}\0", "more than one value at byte 2"),
            (b"\xef\xbb\xbf{}", "no value at byte 0"),
            (b"NaN", "no value at byte 0"),
            (b"[Infinity]", "no value at byte 1"),
            (b"-Infinity", "no digit at byte 1"),
            (b"tru", "no value at byte 0"),
            (b"nulll", "more than one value at byte 4"),
            (b"True", "no value at byte 0"),
            (b"\xa0", "no value at byte 0"),
            (b"01", "more than one value at byte 1"),
            (b"+1", "no value at byte 0"),
            (b"-", "no digit at byte 1"),
            (b"1.", "no digit at byte 2"),
            (b".5", "no value at byte 0"),
            (b"1e", "no digit at byte 2"),
            (b"1e+", "no digit at byte 3"),
            (
                b"{\"a\":[1e999]}",
                "a number beyond a double's range at byte 6",
            ),
            (b"[-1.5E+309]", "a number beyond a double's range at byte 1"),
            (b"\"a", "a string without an end at byte 2"),
            (b"\"abcdefghijk", "a string without an end at byte 12"),
            (b"\"\x01\"", "a control character in a string at byte 1"),
            (
                b"\"abcdefgh\n\"",
                "a control character in a string at byte 9",
            ),
            (b"\"\\x\"", "an unknown escape at byte 1"),
            (b"\"\\u12\"", "an unknown escape at byte 1"),
            (b"\"\\u+123\"", "an unknown escape at byte 1"),
            (
                b"{\"a\":{\"b\":\"\xff\"}}",
                "text that is not UTF-8 at byte 11",
            ),
            (b"[[\"\xed\xa0\x80\"]]", "text that is not UTF-8 at byte 3"),
            (
                b"[[\"\\ud800\"]]",
                "half a surrogate pair before this at byte 9",
            ),
            (
                b"\"\\udc00\\ud800\"",
                "half a surrogate pair before this at byte 7",
            ),
        ];
        for (text, reason) in invalid {
            let shown = String::from_utf8_lossy(text);
            let error = check(text).expect_err(&shown).to_string();
            assert_eq!(error, reason, "{shown}");
            assert!(!is_readable(text), "{shown}");
        }
        let digits = "9".repeat(400);
        let surrogates = "\"\\ud800\\u0041\"";
        for text in [digits.as_str(), surrogates] {
            assert!(check(text.as_bytes()).is_err(), "{text}");
        }
        for depth in [MAX_DEPTH as usize + 1, 100_000] {
            for text in nested(depth) {
                let error = check(&text).unwrap_err().to_string();
                assert!(error.starts_with("more than 125 levels"), "{error}");
            }
        }
        // The reason for the limit: one level more, and the whole batch can't be read.
        let [arrays, _] = nested(MAX_DEPTH as usize + 1);
        assert!(serde_json::from_slice::<Value>(&arrays).is_ok());
        assert!(serde_json::from_slice::<Value>(&in_batch(&arrays)).is_err());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((".{0,9}", inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Pieces of JSON, and of what looks like it, in any order.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: [&[u8]; 36] = [
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b" ",
            b"\n",
            b"\"",
            b"\"a\"",
            b"\"a\":",
            b"\"\":",
            b"1",
            b"0",
            b"-",
            b".",
            b"e",
            b"E+",
            b"999",
            b"308",
            b"1e999",
            b"0.5",
            b"true",
            b"false",
            b"null",
            b"\\",
            b"\\n",
            b"\\u00e9",
            b"\\ud800",
            b"\\udc00",
            b"\\ud83d\\ude00",
            b"\xc3\xa9",
            b"\xff",
            b"\xed\xa0\x80",
            b"\x1f",
            b"abcdefgh",
        ];
        let pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..16);
        pieces.prop_map(|pieces| pieces.concat())
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let compact = value().prop_map(|value| value.to_string().into_bytes());
        let pretty = value().prop_map(|value| format!("{value:#}").into_bytes());
        let in_string = pieces().prop_map(|pieces| [b"[\"", &pieces[..], b"\"]"].concat());
        let in_array = pieces().prop_map(|pieces| [b"[", &pieces[..], b"]"].concat());
        prop_oneof![
            2 => compact.boxed(),
            1 => pretty.boxed(),
            3 => damaged(value().prop_map(|value| value.to_string().into_bytes())).boxed(),
            2 => pieces().boxed(),
            2 => in_string.boxed(),
            2 => in_array.boxed(),
            1 => prop::collection::vec(any::<u8>(), 0..30).boxed(),
        ]
    }

    proptest! {
        /// PROPTEST_CASES sets how many.
        #[test]
        fn what_passes_is_what_can_be_read_alone_and_in_a_batch(bytes in bytes()) {
            let shown = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(check(&bytes).is_ok(), is_readable(&bytes), "{}", shown);
        }
    }
}
