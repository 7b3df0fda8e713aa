//! msgvault's own auxiliary artifact: what was derived from documents (section 7.6).
//!
//! A restore writes nothing of it to disk; it only has to be what it claims to be.

use serde::Deserialize;

use crate::{Error, ErrorKind, Result};

const NAME: &str = "document-derivatives";
const FORMAT: &str = "application/vnd.msgvault.document-derivatives+json; contains-normalized-plaintext=true";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Disclosure {
    schema_version: i64,
    contains_normalized_attachment_plaintext: bool,
    chunks: i64,
    characters: i64,
    profiles: i64,
    enabled_profiles: i64,
    consented_profiles: i64,
    extractions: i64,
    current_heads: i64,
}

/// Accepts msgvault's artifact and refuses every other by name.
pub fn check(name: &str, format: &str, body: &[u8]) -> Result<()> {
    if name != NAME || format != FORMAT {
        let message = format!("the snapshot carries the auxiliary artifact {name:?} of an unknown kind");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let disclosure: Disclosure = serde_json::from_slice(body).map_err(|error| {
        Error::caused(ErrorKind::Damaged, format!("cannot read artifact {name:?}"), error)
    })?;
    if disclosure.is_consistent() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Damaged, format!("the numbers in artifact {name:?} contradict each other")))
}

impl Disclosure {
    fn is_consistent(&self) -> bool {
        let counts = [
            self.characters,
            self.profiles,
            self.enabled_profiles,
            self.consented_profiles,
            self.extractions,
            self.current_heads,
        ];
        matches!(self.schema_version, 1 | 2)
            && self.contains_normalized_attachment_plaintext
            && self.chunks > 0
            && counts.iter().all(|&count| count >= 0)
            && self.enabled_profiles <= self.profiles
            && self.consented_profiles <= self.profiles
            && self.current_heads <= self.extractions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"schema_version":2,"contains_normalized_attachment_plaintext":true,"chunks":3,
        "characters":900,"profiles":1,"enabled_profiles":1,"consented_profiles":0,"extractions":2,
        "current_heads":2}"#;

    #[test]
    fn the_disclosure_is_accepted() {
        check(NAME, FORMAT, BODY.as_bytes()).unwrap();
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let error = check("notes", FORMAT, BODY.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("\"notes\""), "{error}");
        assert!(check(NAME, "text/plain", BODY.as_bytes()).is_err());
    }

    #[test]
    fn contradicting_numbers_are_refused() {
        for (old, new) in [
            ("\"chunks\":3", "\"chunks\":0"),
            ("\"enabled_profiles\":1", "\"enabled_profiles\":2"),
            ("\"current_heads\":2", "\"current_heads\":3"),
            ("\"schema_version\":2", "\"schema_version\":3"),
            ("\"characters\":900", "\"characters\":-1"),
            ("\"characters\":900", "\"characters\":900,\"more\":1"),
        ] {
            let body = BODY.replace(old, new);
            assert!(check(NAME, FORMAT, body.as_bytes()).is_err(), "{new}");
        }
    }
}
