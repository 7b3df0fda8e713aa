//! One JSON object taken apart by hand, so that the order of checks is ours.
//!
//! Fields are taken by exact name and typed when they are taken. What nobody took is unknown, and reported
//! only when the caller asks: after the version gate. A key that comes twice is refused at once.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{FormatError, Result};

/// The fields of an object that were not taken yet.
pub(super) struct Fields<'a> {
    fields: Vec<(String, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Takes an object apart that makes up a whole file or blob.
    pub(super) fn parse_bytes(json: &'a [u8]) -> Result<Self> {
        Self::parse(std::str::from_utf8(json).map_err(|_| FormatError::corrupt("text is not UTF-8"))?)
    }

    /// Takes an object apart.
    pub(super) fn parse(json: &'a str) -> Result<Self> {
        let RawFields(fields) = serde_json::from_str(json).map_err(unreadable)?;
        let mut keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(FormatError::corrupt(format!("key {:?} comes twice", pair[0])));
        }
        Ok(Self { fields })
    }

    /// Takes a field as raw text, if there is one.
    pub(super) fn raw(&mut self, key: &str) -> Option<&'a str> {
        let position = self.fields.iter().position(|(known, _)| known == key)?;
        Some(self.fields.swap_remove(position).1.get())
    }

    /// Takes a field of the given type; a missing one reads as the type's zero.
    pub(super) fn value<T: Deserialize<'a> + Default>(&mut self, key: &str) -> Result<T> {
        match self.raw(key) {
            Some(json) => parse_value(key, json),
            None => Ok(T::default()),
        }
    }

    /// Takes a field of the given type; a missing one or `null` reads as the type's zero.
    pub(super) fn lenient<T: Deserialize<'a> + Default>(&mut self, key: &str) -> Result<T> {
        Ok(self.value::<Option<T>>(key)?.unwrap_or_default())
    }

    /// Takes a float; parsed by the standard library, which never rounds to a neighbour.
    pub(super) fn float(&mut self, key: &str) -> Result<f64> {
        let Some(json) = self.raw(key) else { return Ok(0.0) };
        let _: serde_json::Number = parse_value(key, json)?;
        match json.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(FormatError::corrupt(format!("{key}: {json} is out of range"))),
        }
    }

    /// Takes an object apart in turn, if the field is there.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Fields<'a>>> {
        let parse = |json| Fields::parse(json).map_err(|error| error.within(key));
        self.raw(key).map(parse).transpose()
    }

    /// Takes an array of objects apart, if the field is there and not null.
    pub(super) fn objects(&mut self, key: &str) -> Result<Option<Vec<Fields<'a>>>> {
        let items: Option<Vec<&'a RawValue>> = self.value(key)?;
        let parse = |item: &'a RawValue| Fields::parse(item.get()).map_err(|error| error.within(key));
        items.map(|items| items.into_iter().map(parse).collect()).transpose()
    }

    /// Appends the names of the fields that nobody took.
    pub(super) fn leave(self, place: &str, unknown: &mut Vec<String>) {
        unknown.extend(self.fields.into_iter().map(|(key, _)| format!("{place}{key}")));
    }
}

fn parse_value<'a, T: Deserialize<'a>>(key: &str, json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| unreadable(error).within(key))
}

fn unreadable(error: serde_json::Error) -> FormatError {
    FormatError::corrupt(format!("not the JSON expected: {error}"))
}

struct RawFields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct FieldsVisitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for FieldsVisitor<'a> {
            type Value = RawFields<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor(std::marker::PhantomData))
    }
}
