//! In what two statistics differ: those that a snapshot records and those that its database gives.

use serde_json::{Map, Value};

/// How many differences are named.
const NAMED_MAX: usize = 5;
/// A value of any length is shown by its beginning.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// Returns the differences in one sentence: each name with the value of record and the value found.
pub fn differences(recorded: &str, found: &str) -> String {
    let parsed = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (recorded, found) = (named(&parsed(recorded)), named(&parsed(found)));
    let none = Value::String("nothing".to_owned());
    let mut said: Vec<String> = Vec::new();
    for (name, value) in &recorded {
        let other = found.iter().find(|(other, _)| other == name).map_or(&none, |(_, other)| other);
        if other != value {
            said.push(format!("{name:?} is recorded as {}, found {}", shown(value), shown(other)));
        }
    }
    for (name, value) in &found {
        if !recorded.iter().any(|(other, _)| other == name) {
            said.push(format!("{name:?} is not recorded, found {}", shown(value)));
        }
    }
    let more = said.len().saturating_sub(NAMED_MAX);
    said.truncate(NAMED_MAX);
    match (said.is_empty(), more) {
        (true, _) => "they are written differently".to_owned(),
        (_, 0) => said.join("; "),
        (_, more) => format!("{}; and {more} more", said.join("; ")),
    }
}

/// Returns every value under the name that people know it by: a question by its own.
fn named(statistics: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut values = Vec::new();
    for (key, value) in statistics {
        match value.as_array().filter(|_| key == "queries") {
            None => values.push((key.clone(), value.clone())),
            Some(queries) => values.extend(queries.iter().map(|query| {
                let name = query["name"].as_str().unwrap_or_default().to_owned();
                (name, query["value"].clone())
            })),
        }
    }
    values
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_named_with_both_answers() {
        let of = |mails: &str| {
            format!(
                r#"{{"profile":"sqlite","queries":[{{"name":"mails","sql":"s","value":{mails}}},
                {{"name":"same","sql":"s","value":null}}]}}"#
            )
        };
        let said = differences(&of("7"), &of("8"));
        assert_eq!(said, r#""mails" is recorded as 7, found 8"#);
        assert!(differences(&of("7"), &of(&format!("\"{}\"", "ü".repeat(5000)))).len() < 250);
    }

    #[test]
    fn plain_statistics_and_what_is_none_are_named_too() {
        let said = differences(r#"{"messages":1,"labels":2}"#, r#"{"messages":3,"labels":2,"more":1}"#);
        assert_eq!(said, r#""messages" is recorded as 1, found 3; "more" is not recorded, found 1"#);
        assert_eq!(differences("{}", "{}"), "they are written differently");
        assert!(differences("[", r#"{"messages":1}"#).contains("not recorded"));
    }
}
