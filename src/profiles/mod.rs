//! Profiles: what packvault knows of each kind of application, one module per kind.
//!
//! A new kind is a folder here, which fills in [`Profile`] and [`KnownArchive`], and a line of `profiles!` below.

pub mod archive;
mod kinds;
pub mod msgvault;
mod selection;
pub mod sqlite;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};

use self::archive::{ExpandHome, KnownArchive, Place};
use crate::archive::profile::{ArchivePaths, Figure, Profile};
use crate::archive::target::LiveHome;
use crate::{Error, ErrorKind, Result};

kinds::profiles! {
    Msgvault: msgvault::MsgvaultArchive,
    Sqlite: sqlite::SqliteArchive,
}

/// Returns what is known of the application whose snapshots do not say whose they are.
pub fn unnamed() -> Arc<dyn Profile> {
    Arc::new(msgvault::Msgvault)
}

/// Returns the name of the profile that the statistics of a snapshot are of.
pub fn name_of_stats(stats: &str) -> String {
    recorded_name(stats).unwrap_or_else(|| unnamed().name().to_owned())
}

/// Returns what is known of the application whose statistics a snapshot records; `unnamed` where they do
/// not say whose they are, as those of msgvault do not.
pub fn of_stats(stats: &str, unnamed: &Arc<dyn Profile>) -> Result<Arc<dyn Profile>> {
    let Some(name) = recorded_name(stats) else { return Ok(unnamed.clone()) };
    match ProfileKind::named(&name) {
        Some(kind) => kind.of_stats(stats),
        None => {
            let message = format!("the snapshot is of an application of the unknown kind {name:?}");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

/// Returns what a list shows of a snapshot with these statistics; nothing where they are of an unknown kind.
pub fn figures(stats: &str) -> Vec<Figure> {
    of_stats(stats, &unnamed()).map(|profile| profile.figures(stats)).unwrap_or_default()
}

/// Tells whether a snapshot with artifacts of these names says that its database holds the text of documents.
pub fn has_document_text(artifacts: &[String]) -> bool {
    artifacts.iter().any(|name| name == msgvault::auxiliary::NAME)
}

/// Returns how statistics that count attachments disagree with the number that there are.
fn contradiction(stats: &str, attachments: i64) -> Option<String> {
    let stats: serde_json::Value = serde_json::from_str(stats).ok()?;
    let count = stats.get("attachment_blobs").filter(|count| count.as_i64() != Some(attachments))?;
    Some(format!("the statistics count {count} attachments, the manifest {attachments}"))
}

fn recorded_name(stats: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Owner {
        profile: Option<String>,
    }
    serde_json::from_str::<Owner>(stats).ok()?.profile
}

impl ProfileKind {
    /// Returns the kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl Default for ProfileKind {
    fn default() -> Self {
        Self::ALL[0]
    }
}

impl<'de> Deserialize<'de> for ProfileKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(|kind| format!("`{}`", kind.name())).collect();
            // The words of serde, whose list of names would have to be one of constants.
            de::Error::custom(format!("unknown variant `{name}`, expected {}", names.join(" or ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_a_kind_says_it_has_are_those_that_it_reads() {
        for kind in ProfileKind::ALL {
            let unknown = toml::de::ValueDeserializer::parse("{ no-such-key = 1 }").unwrap();
            let error = kind.read_keys(unknown).expect_err(kind.name()).to_string();
            let read: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
            assert_eq!(read, kind.own_keys(), "{}: {error}", kind.name());
        }
    }

    #[test]
    fn a_kind_is_found_by_its_name_and_no_two_share_one() {
        for kind in ProfileKind::ALL {
            assert_eq!(ProfileKind::named(kind.name()), Some(*kind));
        }
        assert_eq!(ProfileKind::default().name(), "msgvault");
        assert_eq!(ProfileKind::named("other"), None);
    }

    #[test]
    fn what_a_list_shows_is_what_the_profile_says() {
        let of_msgvault = Figure { heading: "messages", count: 7 };
        assert_eq!(figures(r#"{"messages":7,"labels":2}"#), [of_msgvault]);
        let of_sqlite = r#"{"profile":"sqlite","database":"a.db","queries":[],"messages":7}"#;
        assert_eq!(figures(of_sqlite), []);
        assert_eq!(figures(r#"{"profile":"other","messages":7}"#), []);
        assert_eq!(figures("["), []);
    }

    #[test]
    fn statistics_that_count_attachments_must_agree_with_the_manifest() {
        let said = contradiction(r#"{"attachment_blobs":3}"#, 2).unwrap();
        assert_eq!(said, "the statistics count 3 attachments, the manifest 2");
        assert!(contradiction(r#"{"attachment_blobs":"3"}"#, 3).is_some(), "a text is no number");
        for agreeing in [r#"{"attachment_blobs":2}"#, "{}", "["] {
            assert_eq!(contradiction(agreeing, 2), None, "{agreeing}");
        }
    }
}
