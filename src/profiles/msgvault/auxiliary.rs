//! msgvault's own auxiliary artifact: what was derived from documents (section 7.6).
//!
//! It holds numbers and no text: that the database holds the text of documents in plain words, and how much of it. A
//! restore writes nothing of it to disk; it only has to be what it claims to be.

use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::queries::count;
use crate::archive::profile::Artifact;
use crate::{Error, ErrorKind, Result};

/// What the artifact is called.
pub const NAME: &str = "document-derivatives";
/// The version that is written.
const SCHEMA_VERSION: i64 = 2;
const FORMAT: &str = "application/vnd.msgvault.document-derivatives+json; contains-normalized-plaintext=true";

/// The keys come in this order.
#[derive(Deserialize, Serialize)]
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

/// Returns the artifact of a database that holds the text of documents.
pub fn disclose(connection: &Connection, database: &Path) -> Result<Option<Artifact>> {
    let number = |table: &str, question: &str| {
        let is_there =
            format!("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{table}'");
        if count(connection, database, &is_there)? == 0 {
            return Ok(0);
        }
        let found = count(connection, database, &format!("SELECT {question} FROM {table}"))?;
        i64::try_from(found)
            .map_err(|error| Error::caused(ErrorKind::Source, format!("too many {table}"), error))
    };
    let chunks = number("document_chunks", "count(*)")?;
    if chunks == 0 {
        return Ok(None);
    }
    let enabled = "count(*) FILTER (WHERE enabled AND retired_at IS NULL)";
    let disclosure = Disclosure {
        schema_version: SCHEMA_VERSION,
        contains_normalized_attachment_plaintext: true,
        chunks,
        characters: number("document_chunks", "coalesce(sum(char_count), 0)")?,
        profiles: number("document_extraction_profiles", "count(*)")?,
        enabled_profiles: number("document_extraction_profiles", enabled)?,
        consented_profiles: number("document_provider_consents", "count(*)")?,
        extractions: number("document_extractions", "count(*)")?,
        current_heads: number("document_extraction_heads", "count(*)")?,
    };
    if !disclosure.is_consistent() {
        let message = "what the database says of documents contradicts itself, and no restore would take it";
        return Err(Error::new(ErrorKind::Source, message));
    }
    let body = serde_json::to_vec(&disclosure).expect("numbers can be written");
    Ok(Some(Artifact { name: NAME, format: FORMAT, body }))
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

    const TABLES: &str = "
        CREATE TABLE document_chunks (id INTEGER PRIMARY KEY, text TEXT, char_count INTEGER);
        CREATE TABLE document_extraction_profiles (id INTEGER PRIMARY KEY, enabled INTEGER, retired_at TEXT);
        CREATE TABLE document_provider_consents (id INTEGER PRIMARY KEY);
        CREATE TABLE document_extractions (id INTEGER PRIMARY KEY);";

    fn disclosed(statements: &str) -> Result<Option<Artifact>> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(statements).unwrap();
        disclose(&connection, Path::new("a.db"))
    }

    #[test]
    fn a_database_without_document_text_has_nothing_to_disclose() {
        assert_eq!(disclosed("").unwrap(), None);
        assert_eq!(disclosed(TABLES).unwrap(), None);
    }

    #[test]
    fn what_is_disclosed_is_counted_and_is_what_a_restore_takes() {
        let rows = "
            INSERT INTO document_chunks (char_count) VALUES (400), (500), (NULL);
            INSERT INTO document_extraction_profiles (enabled, retired_at) VALUES (1, NULL), (1, 'x'), (0, NULL);
            INSERT INTO document_extractions DEFAULT VALUES;";
        let artifact = disclosed(&format!("{TABLES}{rows}")).unwrap().unwrap();
        let body = std::str::from_utf8(&artifact.body).unwrap();
        assert_eq!(
            body,
            "{\"schema_version\":2,\"contains_normalized_attachment_plaintext\":true,\"chunks\":3,\
             \"characters\":900,\"profiles\":3,\"enabled_profiles\":1,\"consented_profiles\":0,\
             \"extractions\":1,\"current_heads\":0}"
        );
        check(artifact.name, artifact.format, &artifact.body).unwrap();
    }

    #[test]
    fn numbers_that_no_restore_would_take_make_no_snapshot() {
        let rows = "
            INSERT INTO document_chunks (char_count) VALUES (1);
            INSERT INTO document_provider_consents DEFAULT VALUES;";
        let error = disclosed(&format!("{TABLES}{rows}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
    }

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
