//! JSON with the habits of the Go decoder that every config was written for: keys match whatever their case,
//! `null` leaves the default, unknown keys pass, invalid UTF-8 becomes U+FFFD. Only structs fold the case of
//! their keys: what a person put into a free-form map stays as it is.

use super::error::{Code, Error, Result};
pub use super::print::{compact, to_text};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// Reads one JSON document.
///
/// # Errors
/// Code 6 when it is not JSON, or something follows it.
pub fn parse(text: &[u8]) -> Result<Value> {
    serde_json::from_str(&String::from_utf8_lossy(text))
        .map_err(|error| Error::new(Code::DECODE, "network config is not valid JSON").details(error))
}

/// Reads a struct out of `value`.
///
/// # Errors
/// Code 6 when a value has the wrong type; the message names the key, the value, and what would be right.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(Folding(value)).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        Error::new(Code::DECODE, format!("config key {path:?}: {inner}"))
    })
}

/// A deserializer over a [`Value`] that folds the case of struct keys and passes over `null` in structs.
#[derive(Clone, Copy)]
struct Folding<'a>(&'a Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for Folding<'de> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Folding<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut seq = SeqDeserializer::new(items.iter().map(Folding));
                let value = visitor.visit_seq(&mut seq)?;
                seq.end()?;
                Ok(value)
            }
            Value::Object(map) => visitor.visit_map(MapDeserializer::new(
                map.iter().map(|(key, value)| (key.as_str(), Folding(value))),
            )),
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let map = match self.0 {
            Value::Object(map) => map,
            // Serde would take a list for the fields in order.
            Value::Array(_) => return Err(serde_json::Error::invalid_type(Unexpected::Seq, &visitor)),
            plain => return plain.deserialize_any(visitor),
        };
        let mut known: Vec<(&str, &Value)> = Vec::with_capacity(fields.len());
        for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(key)) else { continue };
            match known.iter_mut().find(|(seen, _)| seen == field) {
                // Two spellings of one key: the one that needs no folding counts.
                Some(entry) if key == field => entry.1 = value,
                Some(_) => {}
                None => known.push((field, value)),
            }
        }
        visitor.visit_map(MapDeserializer::new(known.into_iter().map(|(key, value)| (key, Folding(value)))))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Conf {
        is_gateway: bool,
        mtu: i64,
        inner: Inner,
        list: Vec<Inner>,
        free: BTreeMap<String, String>,
        maybe: Option<i64>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Inner {
        data_dir: String,
    }

    fn read(text: &str) -> Result<Conf> {
        decode(&parse(text.as_bytes())?)
    }

    #[test]
    fn keys_match_whatever_their_case_but_not_in_free_maps() {
        let text = r#"{"ISGATEWAY":true,"Mtu":9,"INNER":{"datadir":"a"},"list":[{"DATADIR":"b"}],"free":{"Key":"v"}}"#;
        let conf = read(text).unwrap();
        assert!(conf.is_gateway);
        assert_eq!((conf.mtu, conf.inner.data_dir.as_str(), conf.list[0].data_dir.as_str()), (9, "a", "b"));
        assert_eq!(conf.free.get("Key").map(String::as_str), Some("v"));
    }

    #[test]
    fn null_leaves_the_default_and_unknown_keys_pass() {
        let conf = read(r#"{"isGateway":null,"inner":null,"maybe":null,"other":{"x":[1]}}"#).unwrap();
        assert_eq!(conf, Conf::default());
    }

    #[test]
    fn the_last_of_two_equal_keys_wins_and_the_exact_spelling_beats_a_folded_one() {
        assert_eq!(read(r#"{"mtu":1,"mtu":2}"#).unwrap().mtu, 2);
        assert_eq!(read(r#"{"MTU":1,"mtu":2}"#).unwrap().mtu, 2);
        assert_eq!(read(r#"{"mtu":2,"mTU":1}"#).unwrap().mtu, 2);
    }

    #[test]
    fn a_wrong_type_is_named_with_its_key() {
        for (text, words) in [
            (r#"{"mtu":"5"}"#, ["\"mtu\"", "string \"5\""]),
            (r#"{"mtu":1500.0}"#, ["\"mtu\"", "1500.0"]),
            (r#"{"list":[{},{"dataDir":7}]}"#, ["list[1].dataDir", "7"]),
            (r#"{"list":{}}"#, ["\"list\"", "map"]),
            (r"[]", ["sequence", "struct Conf"]),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.code, Code::DECODE);
            for word in words {
                assert!(error.msg().contains(word), "{text} → {error}");
            }
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "{} x", r#"{"a":}"#, "\u{1}", &"[".repeat(100_000)] {
            assert_eq!(read(text).unwrap_err().code, Code::DECODE, "{text:.20}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_ok(), "invalid UTF-8 is replaced");
    }
}
