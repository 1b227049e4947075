//! Reads JSON as any type, and is as strict in what the type leaves out as in what it keeps.
//!
//! serde_json checks only the parts of a value that a type keeps; [`json::check`] looks at
//! the whole value, in a second pass. Most types keep everything, so that pass is made only
//! for a value of which something was skipped.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::{DecodeError, json};

/// The name by which serde_json knows a `RawValue`, which it takes without a check.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Reads one JSON value.
///
/// # Errors
/// [`DecodeError::Json`] where `payload` is not valid JSON, also in a part that `T` leaves
/// out, and [`DecodeError::Shape`] where it is not of `T`'s shape.
pub(super) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    let skipped = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let watched = Watched {
        inner: &mut deserializer,
        watch: Watch {
            skipped: &skipped,
            depth: 0,
        },
    };
    let read = T::deserialize(watched).and_then(|data| deserializer.end().map(|()| data));
    if skipped.get() || read.is_err() {
        json::check(payload)?;
    }
    Ok(read?)
}

/// The state while a value is read.
#[derive(Clone, Copy)]
struct Watch<'s> {
    /// A part was taken without the check that [`json::check`] makes.
    skipped: &'s Cell<bool>,
    depth: u32,
}

impl<'s> Watch<'s> {
    fn skips(self) {
        self.skipped.set(true);
    }

    /// Within one more array or object.
    fn deeper(self) -> Self {
        let depth = self.depth + 1;
        if depth > json::MAX_DEPTH {
            self.skips();
        }
        Self { depth, ..self }
    }

    fn over<I>(self, inner: I) -> Watched<'s, I> {
        Watched { inner, watch: self }
    }
}

/// A deserializer, a visitor, a seed or an access that passes everything on to `inner`.
struct Watched<'s, I> {
    inner: I,
    watch: Watch<'s>,
}

/// Methods of a deserializer that pass on the visitor alone.
macro_rules! pass_on {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(self.watch.over(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Watched<'_, D> {
    type Error = D::Error;

    pass_on! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_option deserialize_unit
        deserialize_seq deserialize_map deserialize_identifier
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.watch.skips();
        self.inner.deserialize_ignored_any(visitor)
    }

    // As bytes, a string may have any bytes and lone surrogates.
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.watch.skips();
        self.inner.deserialize_bytes(self.watch.over(visitor))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.watch.skips();
        self.inner.deserialize_byte_buf(self.watch.over(visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.watch.over(visitor);
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if name == RAW_VALUE {
            self.watch.skips();
        }
        let visitor = self.watch.over(visitor);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, self.watch.over(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.watch.over(visitor);
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.watch.over(visitor);
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.watch.over(visitor);
        self.inner.deserialize_enum(name, variants, visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Methods of a visitor that pass on a value alone.
macro_rules! visit {
    ($($method:ident: $value:ty,)*) => {$(
        #[inline]
        fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Watched<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    visit! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64,
        visit_i128: i128, visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64,
        visit_u128: u128, visit_f32: f32, visit_f64: f64, visit_char: char, visit_str: &str,
        visit_borrowed_str: &'de str, visit_string: String, visit_bytes: &[u8],
        visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(self.watch.over(some))
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(self.watch.over(inner))
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(self.watch.deeper().over(elements))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(self.watch.deeper().over(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(self.watch.deeper().over(variant))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Watched<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(self.watch.over(value))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Watched<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(self.watch.over(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Watched<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(self.watch.over(seed))
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(self.watch.over(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 's, A: EnumAccess<'de>> EnumAccess<'de> for Watched<'s, A> {
    type Error = A::Error;
    type Variant = Watched<'s, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.inner.variant_seed(self.watch.over(seed))?;
        Ok((name, self.watch.over(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Watched<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(self.watch.over(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, self.watch.over(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, self.watch.over(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Part {
        a: Option<Value>,
        #[serde(default)]
        rest: BTreeMap<String, Skipping>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    enum Skipping {
        One(IgnoredAny),
        Two { b: (u8, IgnoredAny) },
        Three(Vec<IgnoredAny>, Option<IgnoredAny>),
    }

    fn is_invalid<T: DeserializeOwned>(payload: &str) -> bool {
        matches!(read::<T>(payload.as_bytes()), Err(DecodeError::Json(_)))
    }

    #[test]
    fn what_a_type_skips_is_checked_wherever_it_is() {
        for bad in ["1e999", r#""\ud800""#, &"[".repeat(200)] {
            assert!(is_invalid::<IgnoredAny>(bad), "{bad}");
            for around in [
                format!(r#"{{"unknown": {bad}}}"#),
                format!(r#"{{"a": 1, "rest": {{"x": {{"One": {bad}}}}}}}"#),
                format!(r#"{{"rest": {{"x": {{"Two": {{"b": [1, {bad}]}}}}}}}}"#),
                format!(r#"{{"rest": {{"x": {{"Three": [[0, {bad}], null]}}}}}}"#),
                format!(r#"{{"rest": {{"x": {{"Three": [[], {bad}]}}}}}}"#),
            ] {
                assert!(is_invalid::<Part>(&around), "{around}");
            }
        }
    }

    #[test]
    fn a_value_that_is_read_in_full_is_as_deep_as_any_may_be() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let deepest = json::MAX_DEPTH as usize;
        assert!(read::<Value>(nested(deepest).as_bytes()).is_ok());
        assert!(is_invalid::<Value>(&nested(deepest + 1)));
    }

    #[test]
    fn a_valid_value_of_another_shape_is_told_from_an_invalid_one() {
        let other = read::<Part>(br#"{"rest": 1}"#);
        assert!(matches!(other, Err(DecodeError::Shape(_))), "{other:?}");
        assert!(is_invalid::<Part>(r#"{"rest": 1"#));
        assert!(is_invalid::<Value>("{} {}"));
    }

    fn text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<f64>().prop_map(|number| format!("{number:e}")),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| Value::from(text).to_string()),
            Just("1e999".to_owned()),
            Just(r#""\udc00""#.to_owned()),
            Just(r#""\ud83d\ude00""#.to_owned()),
            "[\\[\\]{},:\"a1 ]{0,6}",
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(("[a-c]", inner), 0..4).prop_map(|all| {
                    let all: Vec<_> = all.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
                    format!("{{{}}}", all.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_is_invalid_for_every_type_or_for_none(text in text()) {
            let is_valid = json::check(text.as_bytes()).is_ok();
            prop_assert_eq!(read::<Value>(text.as_bytes()).is_ok(), is_valid);
            prop_assert_eq!(read::<IgnoredAny>(text.as_bytes()).is_ok(), is_valid);
            prop_assert_eq!(is_invalid::<Part>(&text), !is_valid);
        }
    }
}
