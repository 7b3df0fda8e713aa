//! What a command is about: an archive of the configuration, a snapshot, or both.
//!
//! `restore vaultwarden`, `restore a3d383f8` and `restore vaultwarden a3d383f8` are all understood. A word that
//! the configuration has an archive for is that archive; an id can be written longer.

use packvault::{Error, ErrorKind, Result};

use super::settings::{Archive, Settings, given};

/// What was named.
#[derive(Debug, Default)]
pub struct Subject {
    /// The archive, whose repository is meant.
    pub archive: Option<Archive>,
    /// The snapshot, as typed.
    pub snapshot: Option<String>,
}

impl Subject {
    /// Reads the words of a command line.
    pub fn of(settings: &Settings, words: &[String]) -> Result<Self> {
        match words {
            [] => Ok(Self::default()),
            [word] if settings.archive_names().contains(&word.as_str()) => {
                Ok(Self { archive: Some(settings.archive_to_read(word)?), snapshot: None })
            }
            [word] => Ok(Self { archive: None, snapshot: Some(word.clone()) }),
            [archive, snapshot, ..] => Ok(Self {
                archive: Some(settings.archive_to_read(archive)?),
                snapshot: Some(snapshot.clone()),
            }),
        }
    }

    /// Adds to an error, where a word may have been meant as an archive, that there is none of that name.
    pub fn explain(&self, settings: &Settings, error: Error) -> Error {
        let may_be_meant = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Usage);
        match self.snapshot.as_deref().filter(|word| self.archive.is_none() && !may_be_an_id(word)) {
            Some(word) if may_be_meant && !settings.archive_names().is_empty() => {
                let unknown = given::unknown_name("archive", word, &settings.archive_names());
                Error::new(error.kind(), format!("{}; {unknown}", error.chain()))
            }
            _ => error,
        }
    }
}

/// An id is a time and a hash; as much of it as was typed has no other letters.
fn may_be_an_id(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, 'T' | 'Z' | '-'))
}
