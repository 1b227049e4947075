//! librdkafka's properties: which exist, whom they are for and what they hold.

use std::fmt;

use super::table::TABLE;

/// One property of librdkafka.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Property {
    /// Name, as in librdkafka's CONFIGURATION.md.
    pub name: &'static str,
    /// The clients that have it.
    pub scope: Scope,
    /// The values that it may have.
    pub kind: Kind,
}

/// The clients that have a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Consumers and producers.
    Any,
    /// Consumers only.
    Consumer,
    /// Producers only.
    Producer,
}

/// The values that a property may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Boolean,
    /// A whole number from the first to the second, both included.
    Integer(i64, i64),
    /// A number from the first to the second, both included.
    Number(f64, f64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Some of these words, separated by commas.
    Flags(&'static [&'static str]),
    /// Code or memory of the program: text can't set it.
    Api,
}

impl Kind {
    /// Returns `true` if librdkafka accepts the text for a property of this kind.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Self::Text => true,
            Self::Boolean => parse_boolean(text).is_some(),
            Self::Integer(min, max) => {
                parse_integer(text).is_some_and(|value| (min..=max).contains(&value))
            }
            Self::Number(min, max) => text
                .parse::<f64>()
                .is_ok_and(|value| (min..=max).contains(&value)),
            Self::Choice(words) => is_one_of(words, text),
            Self::Flags(words) => text.split(',').all(|word| is_one_of(words, word.trim())),
            Self::Api => false,
        }
    }
}

/// Completes "must be …".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Boolean => f.write_str("'true' or 'false'"),
            Self::Integer(min, max) => write!(f, "a whole number from {min} to {max}"),
            Self::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::Flags(words) => write!(f, "some of {}, separated by commas", words.join(", ")),
            Self::Api => f.write_str("left out: only a program can set it"),
        }
    }
}

/// Every property, sorted by name.
pub fn all() -> &'static [Property] {
    TABLE
}

/// The property of that name.
pub fn find(name: &str) -> Option<&'static Property> {
    TABLE
        .binary_search_by(|property| property.name.cmp(name))
        .ok()
        .map(|index| &TABLE[index])
}

/// Returns the value of a whole number in decimal digits, perhaps with a minus sign. There
/// is no plus sign nor a leading zero: librdkafka takes `010` for 8, an octal number.
pub fn parse_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit())
        && (text == "0" || !digits.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// The same as CEL, for numbers that are not negative and have up to `digits` digits.
pub fn cel_is_integer(value: &str, digits: usize) -> String {
    let more = digits.saturating_sub(1);
    format!("{value}.matches('^(0|[1-9][0-9]{{0,{more}}})$')")
}

/// The truth value of a boolean property, in the spellings that librdkafka takes.
pub fn parse_boolean(text: &str) -> Option<bool> {
    if is_one_of(&TRUE, text) {
        Some(true)
    } else if is_one_of(&FALSE, text) {
        Some(false)
    } else {
        None
    }
}

/// librdkafka's spellings of true, in lower case; the case does not matter.
pub const TRUE: [&str; 3] = ["true", "t", "1"];

/// librdkafka's spellings of false, in lower case; the case does not matter.
pub const FALSE: [&str; 3] = ["false", "f", "0"];

fn is_one_of(words: &[&str], text: &str) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(all().is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn a_value_is_held_to_its_propertys_kind_and_range() {
        let kind = |name: &str| find(name).unwrap().kind;
        assert!(kind("fetch.min.bytes").accepts("1"));
        assert!(!kind("fetch.min.bytes").accepts("0"));
        assert!(!kind("fetch.min.bytes").accepts("one"));
        for other in ["01", "+1", "-01", "-0", "0x1", " 1", "", "-"] {
            assert_eq!(parse_integer(other), None, "{other}");
        }
        assert!(kind("socket.keepalive.enable").accepts("1"));
        assert_eq!(parse_integer("-1"), Some(-1));
        assert_eq!(parse_integer("0"), Some(0));
        assert!(kind("check.crcs").accepts("True"));
        assert!(!kind("check.crcs").accepts("yes"));
        assert!(kind("isolation.level").accepts("read_uncommitted"));
        assert!(!kind("isolation.level").accepts("serializable"));
        assert!(kind("debug").accepts("cgrp,topic"));
        assert!(!kind("debug").accepts("cgrp,topics"));
        assert!(!kind("rebalance_cb").accepts("anything"));
    }

    #[test]
    fn producer_properties_are_told_apart() {
        assert_eq!(find("linger.ms").unwrap().scope, Scope::Producer);
        assert_eq!(find("fetch.min.bytes").unwrap().scope, Scope::Consumer);
        assert_eq!(find("client.id").unwrap().scope, Scope::Any);
        assert_eq!(find("fetch.min.byte"), None);
    }
}
