//! The meaning of scalars in YAML 1.1, as Go's yaml.v2 has it, and the JSON that Go
//! writes for it.

use std::sync::LazyLock;

use k8s_openapi::ByteString;
use regex::Regex;
use serde_json::{Number, Value};

/// The prefix of YAML's own tags.
const CORE: &str = "tag:yaml.org,2002:";

/// Returns the value of a scalar. `tag` is its tag in full, if it has one; `plain` is
/// `true` if it has neither quotes nor a block's indicator.
///
/// # Errors
/// Returns the reason why kubectl can't read it.
pub(super) fn value(text: &str, tag: Option<&str>, plain: bool) -> Result<Value, String> {
    let Some(tag) = tag.filter(|tag| *tag != "!") else {
        return match plain && tag.is_none() {
            true => resolved(text),
            false => Ok(Value::from(text)),
        };
    };
    let wanted = tag.strip_prefix(CORE).unwrap_or_default();
    let cannot = || format!("'{text}' is no !!{wanted}; correct it, or leave the tag out");
    match wanted {
        "bool" => Some(resolved(text)?).filter(Value::is_boolean),
        "null" => Some(resolved(text)?).filter(Value::is_null),
        "int" => Some(resolved(text)?).filter(|it| it.is_i64() || it.is_u64()),
        "float" => Some(resolved(text)?).filter(Value::is_number),
        "binary" => return binary(text).map(Value::String),
        // Of an unknown tag Go takes the text alone.
        _ => Some(Value::from(text)),
    }
    .ok_or_else(cannot)
}

/// Returns the meaning of a plain scalar.
fn resolved(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            Value::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => return Err(format!("JSON has no number {text}")),
        _ => number(text).map_or_else(|| Value::from(text), Value::Number),
    })
}

/// Returns the text of which base64 is given.
fn binary(text: &str) -> Result<String, String> {
    let bytes: Result<ByteString, _> = serde_json::from_value(Value::from(text));
    match bytes {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes.0).into_owned()),
        Err(_) => Err("a !!binary value must be base64".to_owned()),
    }
}

/// Returns the number that a plain scalar is, if it is one.
fn number(text: &str) -> Option<Number> {
    static FLOAT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
            .expect("the pattern is valid")
    });
    if !text.starts_with([
        '+', '-', '.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
    ]) {
        return None;
    }
    let plain = match text.starts_with('.') {
        true => text.to_owned(),
        false => text.replace('_', ""),
    };
    if let Some(number) = integer(&plain) {
        return Some(number);
    }
    if !FLOAT.is_match(&plain) {
        return None;
    }
    float(plain.parse().ok()?)
}

/// Returns a whole number as Go's `ParseInt` and `ParseUint` read it with base 0: decimal,
/// `0x` hexadecimal, `0b` binary, `0o` or `0` octal.
fn integer(text: &str) -> Option<Number> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("-", digits) => (-1, digits),
        ("+", digits) => (1, digits),
        _ => (1, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_str() {
        it if it.starts_with("0x") => (16, &it[2..]),
        it if it.starts_with("0b") => (2, &it[2..]),
        it if it.starts_with("0o") => (8, &it[2..]),
        it if it.starts_with('0') && it.len() > 1 => (8, &it[1..]),
        it => (10, it),
    };
    // `from_str_radix` takes a sign.
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    match i128::from_str_radix(digits, base) {
        Ok(number) => match i64::try_from(sign * number) {
            Ok(number) => Some(Number::from(number)),
            Err(_) if text.starts_with('+') => None,
            Err(_) => u64::try_from(sign * number).ok().map(Number::from),
        },
        Err(_) => None,
    }
}

/// Go writes a whole number without a fraction, up to 1e18 here; the API server then reads a
/// whole number.
pub(super) fn float(value: f64) -> Option<Number> {
    let is_whole = value.fract() == 0.0 && value.abs() < 1e18;
    match is_whole {
        true => Some(Number::from(value as i64)),
        false => Number::from_f64(value),
    }
}

/// Returns the text of a key.
///
/// # Errors
/// Returns the reason why kubectl takes no such key.
pub(super) fn key(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(it) => Ok(it.to_string()),
        Value::Number(it) if it.is_i64() => Ok(it.to_string()),
        _ => Err("a key must be text; put it in quotes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As `kubectl create` reads them.
    #[test]
    fn plain_scalars_mean_what_yaml_1_1_says() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!(true)),
            ("oN", json!("oN")),
            ("0644", json!(420)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("-0b11", json!(-3)),
            ("0689", json!(689)),
            ("1_000", json!(1000)),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("+7", json!(7)),
            ("-", json!("-")),
            ("+-1", json!("+-1")),
            ("0x-1", json!("0x-1")),
            ("1:30", json!("1:30")),
            ("12e03", json!(12_000)),
            ("2024-01-02", json!("2024-01-02")),
            ("~", json!(null)),
            (
                "18446744073709551615",
                json!(18_446_744_073_709_551_615_u64),
            ),
            ("\u{661}", json!("\u{661}")),
        ] {
            assert_eq!(value(text, None, true), Ok(expected), "{text}");
            assert_eq!(value(text, None, false), Ok(json!(text)), "{text}");
        }
    }

    #[test]
    fn numbers_that_json_lacks_are_refused() {
        for text in [".nan", ".inf", "-.Inf"] {
            assert!(value(text, None, true).is_err(), "{text}");
        }
    }

    #[test]
    fn tags_decide_and_must_fit() {
        let tagged = |tag: &str, text: &str| value(text, Some(&format!("{CORE}{tag}")), false);
        assert_eq!(tagged("str", "5"), Ok(json!("5")));
        assert_eq!(tagged("int", "5"), Ok(json!(5)));
        assert!(tagged("int", "five").is_err());
        assert!(tagged("bool", "5").is_err());
        assert_eq!(value("5", Some("!"), true), Ok(json!("5")));
        assert_eq!(value("5", Some("!own"), true), Ok(json!("5")));
    }
}
