//! The configuration file: what its sections say.
//!
//! Each section is read by itself: a mistake in the section of one archive must not stop the restore of another. It is
//! reported, and is an error only for a command that needs its section.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::num::NonZeroU32;
use std::path::Path;

use packvault::profiles::{Keys, ProfileKind};
use packvault::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::super::application::Hold;
use super::super::keep::{Keep, Span};
use super::super::text::ByteSize;
use super::archive::RereadChoice;
use super::repository::{Encryption, RepositorySection};
use super::schedule::{Notify, Sampling};
use super::{mistake, sections, usage};

/// The longest configuration that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What the file says, as far as it can be used.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigFile {
    pub(super) default_repository: Option<String>,
    /// Whether every repository must be encrypted.
    pub(super) encryption: Option<Encryption>,
    /// For how many days the ledger keeps what it records.
    pub(super) history_days: Option<NonZeroU32>,
    pub(super) repository: BTreeMap<String, RepositorySection>,
    pub(super) archive: BTreeMap<String, ArchiveSection>,
    /// Who is told how a run ended.
    pub(super) notify: Option<Notify>,
    /// The homes of archives whose sections are wrong otherwise: a restore keeps out of them all the same.
    pub(super) other_homes: Vec<String>,
}

/// `[archive.NAME]`.
#[derive(Debug, Clone)]
pub(super) struct ArchiveSection {
    pub(super) common: CommonKeys,
    /// The keys that its kind of application alone has.
    pub(super) keys: Keys,
    /// A key of another kind of application, and the kind that has it.
    pub(super) misplaced: Option<(&'static str, ProfileKind)>,
}

/// The keys that a section has whatever its kind of application is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CommonKeys {
    #[serde(default)]
    pub(super) profile: ProfileKind,
    pub(super) home: String,
    pub(super) repository: Option<String>,
    pub(super) zstd_level: Option<i32>,
    pub(super) check_source: Option<bool>,
    pub(super) reread: Option<RereadChoice>,
    pub(super) max_wal_growth: Option<ByteSize>,
    #[serde(default)]
    pub(super) before: Vec<String>,
    #[serde(default)]
    pub(super) after: Vec<String>,
    #[serde(default)]
    pub(super) hold: Hold,
    pub(super) max_hold: Option<NonZeroU32>,
    #[serde(default)]
    pub(super) allow_plaintext_secrets: bool,
    #[serde(default)]
    pub(super) keep: Keep,
    pub(super) max_age: Option<Span>,
    pub(super) verify: Option<Sampling>,
    pub(super) restore_check: Option<Span>,
    pub(super) prune: Option<Span>,
    #[serde(default)]
    pub(super) notify: Notify,
    #[serde(default)]
    pub(super) copies: Vec<String>,
}

impl ConfigFile {
    /// Takes out the sections that cannot be meant; returns what is wrong with the first of them.
    pub(super) fn take_out_refused(&mut self) -> Option<String> {
        let mut first = None;
        self.repository.retain(|name, repository| {
            let refusal = repository.refusal();
            let refusal = refusal.map(|(key, why)| format!("repository.{name}.{key} {why}"));
            let refusal = unnamed("repository", name).or(refusal);
            let is_sound = refusal.is_none();
            first = first.take().or(refusal);
            is_sound
        });
        if let Some((key, why)) = self.notify.as_ref().and_then(Notify::refusal) {
            self.notify = None;
            first = first.or(Some(format!("notify.{key} {why}")));
        }
        let homes = &mut self.other_homes;
        self.archive.retain(|name, archive| {
            let refusal = archive.refusal().map(|why| format!("archive.{name}.{why}"));
            let refusal = unnamed("archive", name).or(refusal);
            if refusal.is_some() {
                homes.push(archive.common.home.clone());
            }
            let is_sound = refusal.is_none();
            first = first.take().or(refusal);
            is_sound
        });
        first
    }
}

/// Returns why nobody could name the section.
fn unnamed(kind: &str, name: &str) -> Option<String> {
    name.is_empty().then(|| format!("[{kind}.\"\"] has no name"))
}

impl ArchiveSection {
    /// Returns the key that cannot be meant, and why.
    fn refusal(&self) -> Option<String> {
        if self.common.zstd_level.is_some_and(|level| !(1..=19).contains(&level)) {
            return Some("zstd_level is not a number from 1 to 19".to_owned());
        }
        if let Some((key, why)) = self.common.notify.refusal() {
            return Some(format!("notify.{key} {why}"));
        }
        match (self.misplaced, self.keys.missing_key()) {
            (Some((key, kind)), _) => {
                Some(format!("{key} belongs to archives with `profile = \"{}\"`", kind.name()))
            }
            (None, missing) => missing.map(|key| format!("{key} is missing")),
        }
    }
}

/// Returns what the file says as far as it can be used, and the first thing that is wrong with it.
pub(super) fn read_config(path: &Path, must_exist: bool) -> (ConfigFile, Option<Error>) {
    let text = match read_text(path, must_exist) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => return (ConfigFile::default(), Some(error)),
    };
    let (mut file, mistake) = sections::read(&text);
    let problem = mistake.map(|mistake| {
        let (line, why) = mistake::of(&text, &mistake);
        usage(format!("{}, line {line}: {why}", path.display()))
    });
    let refused = file.take_out_refused();
    let refused = refused.map(|why| usage(format!("{}: {why}", path.display())));
    (file, problem.or(refused))
}

/// Reads the file, which must be of ordinary length: a device may never end.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it has more than 1 MiB"));
    }
    Ok(text)
}

/// Returns the text of the file, or `None` where there is none and there need not be.
fn read_text(path: &Path, must_exist: bool) -> Result<Option<String>> {
    match read_bounded(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => Ok(None),
        Err(error) => {
            let message = format!("cannot read the configuration {}", path.display());
            Err(Error::caused(ErrorKind::Usage, message, error))
        }
    }
}
