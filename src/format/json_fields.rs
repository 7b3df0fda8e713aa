//! One JSON object taken apart by hand, so that the order of checks is ours.
//!
//! Fields are taken by exact name and typed when they are taken. What nobody took is unknown, and reported
//! only when the caller asks: after the version gate. A key that comes twice is refused at once.
//!
//! Keys and items are counted as they are read: three bytes of text can become a hundred in memory, so what no
//! program writes is refused before it has taken them.

use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{FormatError, Result};

/// The most keys of one object; the largest of the format has 18.
const KEYS_MAX: usize = 1024;
/// The most strings of one array: a snapshot of as many packs has 32 TiB.
const STRINGS_MAX: usize = 1 << 20;

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

    /// Takes an array of at most `MAX` objects, if the field is there and not null; each is taken apart when
    /// its turn comes, so that they are never in memory all at once.
    pub(super) fn objects<const MAX: usize>(
        &mut self,
        key: &'static str,
    ) -> Result<impl Iterator<Item = Result<Fields<'a>>> + use<'a, MAX>> {
        let items: Option<Items<&'a RawValue, MAX>> = self.value(key)?;
        let items = items.map(|items| items.0).unwrap_or_default();
        Ok(items.into_iter().map(move |item| Fields::parse(item.get()).map_err(|error| error.within(key))))
    }

    /// Takes an array of strings; a missing one reads as `null`.
    pub(super) fn strings(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        Ok(self.value::<Option<Items<String, STRINGS_MAX>>>(key)?.map(|items| items.0))
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
        struct FieldsVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for FieldsVisitor<'a> {
            type Value = RawFields<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, &'de RawValue>()? {
                    if fields.len() == KEYS_MAX {
                        return Err(A::Error::custom(format_args!("more than {KEYS_MAX} keys")));
                    }
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor(PhantomData))
    }
}

/// An array of at most `MAX` items.
struct Items<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Items<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ItemsVisitor<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ItemsVisitor<T, MAX> {
            type Value = Items<T, MAX>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut sequence: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == MAX {
                        return Err(A::Error::custom(format_args!("more than {MAX} items")));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(ItemsVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array_of(item: &str, count: usize) -> String {
        format!("{{\"items\":[{}]}}", vec![item; count].join(","))
    }

    #[test]
    fn an_object_with_more_keys_than_any_program_writes_is_refused() {
        let object = |count: usize| {
            let keys: Vec<String> = (0..count).map(|number| format!("\"{number}\":0")).collect();
            format!("{{{}}}", keys.join(","))
        };
        assert!(Fields::parse(&object(KEYS_MAX)).is_ok());
        let refused = Fields::parse(&object(KEYS_MAX + 1)).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|message| message.contains("more than 1024 keys")));
    }

    #[test]
    fn an_array_with_more_items_than_it_may_have_is_refused_before_they_are_taken_apart() {
        let refusal = |item: &str, count| {
            let text = array_of(item, count);
            let objects = Fields::parse(&text).unwrap().objects::<3>("items");
            let collected = objects.and_then(|objects| objects.collect::<Result<Vec<_>>>());
            collected.err().map(|error| error.to_string())
        };
        assert_eq!(refusal("{}", 3), None);
        let message = refusal("{}", 4).unwrap();
        assert!(message.contains("items: not the JSON expected: more than 3 items"), "{message}");
        // No item is an object; that there are too many is seen before.
        assert!(refusal("0", 4).unwrap().contains("more than 3 items"));
        assert!(refusal("0", 3).unwrap().contains("an object"));
    }

    #[test]
    fn an_array_of_more_strings_than_there_can_be_packs_is_refused() {
        let strings = |count| {
            Fields::parse(&array_of("\"\"", count))
                .unwrap()
                .strings("items")
                .map(|items| items.unwrap().len())
        };
        assert_eq!(strings(STRINGS_MAX), Ok(STRINGS_MAX));
        assert!(strings(STRINGS_MAX + 1).is_err());
        assert_eq!(Fields::parse("{}").unwrap().strings("items"), Ok(None));
        assert_eq!(Fields::parse("{\"items\":null}").unwrap().strings("items"), Ok(None));
    }
}
