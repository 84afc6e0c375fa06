//! JSON that means one thing only: no repeated members, no fractions, no depth.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::json::JsonError;

/// How deep runtime-data may nest. Ours needs four levels (`coffer`, `keys`, `tls`, its members); a stock JWK two.
const MAX_DEPTH: u8 = 8;

/// The largest integer that RFC 8785, whose numbers are IEEE doubles, writes without rounding: 2^53 - 1.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Parses text whose canonical form is unambiguous; see [`JsonError::Parse`] for what is refused.
pub(crate) fn parse_strict(what: &'static str, text: &[u8]) -> Result<Value, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: MAX_DEPTH }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|source| JsonError::Parse { what, source })?;
    Ok(value)
}

/// Builds a [`Value`] and refuses what would make its canonical form ambiguous.
#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        self.depth.checked_sub(1).map(|depth| Self { depth }).ok_or_else(|| E::custom(format!("nested deeper than {MAX_DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without fractions")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_INTEGER {
            return Err(E::custom(format!("integer {value} is larger than {MAX_INTEGER}")));
        }
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MAX_INTEGER {
            return Err(E::custom(format!("integer {value} is smaller than -{MAX_INTEGER}")));
        }
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inner)?;
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("member `{name}` is repeated")));
            }
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::canonical;

    #[test]
    fn refuses_what_has_no_single_meaning() {
        let deep = format!("{}1{}", "[".repeat(9), "]".repeat(9));
        for (text, reason) in [
            (r#"{"a":1,"a":1}"#, "member `a` is repeated"),
            (r#"{"a":1,"\u0061":2}"#, "member `a` is repeated"),
            (r#"{"x":{"b":1,"b":2}}"#, "member `b` is repeated"),
            ("1.0", "floating point"),
            ("[1e3]", "floating point"),
            ("-0", "floating point"),
            ("9007199254740992", "larger than"),
            ("-9007199254740992", "smaller than"),
            ("18446744073709551616", "floating point"),
            (&deep, "nested deeper than 8"),
            (r#""\ud800""#, "hex escape"),
            ("{} {}", "trailing"),
            ("", "EOF"),
        ] {
            let error = parse_strict("test", text.as_bytes()).expect_err(text);
            let JsonError::Parse { source, .. } = error else { panic!("{text}: {error}") };
            assert!(source.to_string().contains(reason), "{text}: {source}");
        }
        assert!(parse_strict("test", b"[[[[[[[[9007199254740991]]]]]]]]").is_ok());
    }

    #[test]
    fn canonical_form_sorts_by_utf16_and_drops_spaces() {
        // RFC 8785, section 3.2.3: U+1F600 sorts before U+FB33, by its first surrogate.
        let value = parse_strict("test", "{ \"\u{fb33}\": 1, \"\u{1f600}\": [ -1, true, null ], \"a\": \"\\u000f\\/\" }".as_bytes())
            .expect("valid");
        let bytes = canonical(&value).expect("encodes");
        assert_eq!(String::from_utf8(bytes).expect("text"), "{\"a\":\"\\u000f/\",\"\u{1f600}\":[-1,true,null],\"\u{fb33}\":1}");
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = parse_strict("test", &bytes);
        }

        #[test]
        fn canonical_form_is_a_fixed_point(text in r#"[\[\]{}:,"a-c0-9 .e-]{0,40}"#) {
            if let Ok(value) = parse_strict("test", text.as_bytes()) {
                let once = canonical(&value).expect("encodes");
                prop_assert_eq!(parse_strict("test", &once).expect("parses again"), value);
            }
        }
    }
}
