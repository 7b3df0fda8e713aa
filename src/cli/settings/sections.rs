//! Reads the configuration file, each section by itself: a slip in one leaves the others usable.
//!
//! The keys of an archive are those of every archive and those of its kind of application, which reads them itself.
//! Of several mistakes the first in the file is told.

use std::collections::BTreeMap;
use std::ops::Range;

use packvault::profiles::{Keys, ProfileKind};
use serde::de::{DeserializeOwned, IgnoredAny, IntoDeserializer as _};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{ArchiveSection, CommonKeys, ConfigFile};
use super::mistake::Mistake;

/// The keys of the file itself.
const FILE_KEYS: [&str; 6] =
    ["default_repository", "encryption", "history_days", "repository", "archive", "notify"];

/// The keys that every archive has.
const ARCHIVE_KEYS: [&str; 19] = [
    "profile",
    "home",
    "repository",
    "zstd_level",
    "check_source",
    "reread",
    "max_wal_growth",
    "before",
    "after",
    "hold",
    "max_hold",
    "allow_plaintext_secrets",
    "keep",
    "max_age",
    "verify",
    "restore_check",
    "prune",
    "notify",
    "copies",
];

/// A table, and where it stands in the file.
type Table<'i> = (Range<usize>, DeTable<'i>);

type Read<T> = Result<T, Mistake>;

/// Returns what is sound, and the first mistake; nothing is sound where the text is no TOML.
pub(super) fn read(text: &str) -> (ConfigFile, Option<Mistake>) {
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => return (ConfigFile::default(), Some(error.into())),
    };
    let (mut file, mut mistakes) = (ConfigFile::default(), Mistakes::default());
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "default_repository" => file.default_repository = mistakes.keep(value_of(value)),
            "encryption" => file.encryption = mistakes.keep(value_of(value)),
            "history_days" => file.history_days = mistakes.keep(value_of(value)),
            "notify" => file.notify = mistakes.keep(value_of(value)),
            "repository" => file.repository = mistakes.sections(value, value_of),
            "archive" => {
                let homes: Vec<(String, Option<String>)> = homes(&value);
                file.archive = mistakes.sections(value, archive);
                let unusable = homes.into_iter().filter(|(name, _)| !file.archive.contains_key(name));
                file.other_homes = unusable.filter_map(|(_, home)| home).collect();
            }
            name => mistakes.add(unknown(name, key.span(), FILE_KEYS.to_vec())),
        }
    }
    (file, mistakes.0)
}

/// The first mistake so far, by its place in the file.
#[derive(Default)]
struct Mistakes(Option<Mistake>);

impl Mistakes {
    fn add(&mut self, mistake: Mistake) {
        let is_first = self.0.as_ref().is_none_or(|first| mistake.offset < first.offset);
        if is_first {
            self.0 = Some(mistake);
        }
    }

    fn keep<T>(&mut self, read: Read<T>) -> Option<T> {
        read.map_err(|mistake| self.add(mistake)).ok()
    }

    fn sections<'i, T>(
        &mut self,
        value: Spanned<DeValue<'i>>,
        read: impl Fn(Spanned<DeValue<'i>>) -> Read<T>,
    ) -> BTreeMap<String, T> {
        let Some((_, table)) = self.keep(table_of(value)) else { return BTreeMap::new() };
        let sections = table.into_iter();
        let sections = sections
            .filter_map(|(name, value)| Some((name.into_inner().into_owned(), self.keep(read(value))?)));
        sections.collect()
    }
}

/// Returns the home that each archive names, as far as it is a text.
fn homes(archives: &Spanned<DeValue<'_>>) -> Vec<(String, Option<String>)> {
    let table = archives.get_ref().as_table().into_iter().flatten();
    let home = |section: &Spanned<DeValue<'_>>| {
        section.get_ref().as_table()?.get("home")?.get_ref().as_str().map(str::to_owned)
    };
    table.map(|(name, section)| (name.get_ref().to_string(), home(section))).collect()
}

fn archive(value: Spanned<DeValue<'_>>) -> Read<ArchiveSection> {
    let (span, mut table) = table_of(value)?;
    let common: CommonKeys =
        value_of(Spanned::new(span.clone(), DeValue::Table(take(&mut table, &ARCHIVE_KEYS))))?;
    let keys = |kind: ProfileKind, own| -> Read<Keys> {
        let own = Spanned::new(span.clone(), DeValue::Table(own));
        kind.read_keys(own.into_deserializer()).map_err(Mistake::from)
    };
    let own = keys(common.profile, take(&mut table, common.profile.own_keys()))?;
    let mut misplaced = None;
    for kind in ProfileKind::ALL.iter().filter(|kind| **kind != common.profile) {
        let others = take(&mut table, kind.own_keys());
        let first = kind.own_keys().iter().find(|key| others.contains_key(**key));
        misplaced = misplaced.or(first.map(|key| (*key, *kind)));
        // What could not be meant there either is the worse mistake.
        keys(*kind, others)?;
    }
    if let Some((key, _)) = table.iter().next() {
        let own = ProfileKind::ALL.iter().flat_map(|kind| kind.own_keys());
        return Err(unknown(key.get_ref(), key.span(), ARCHIVE_KEYS.iter().chain(own).copied().collect()));
    }
    Ok(ArchiveSection { common, keys: own, misplaced })
}

/// Moves the entries with these keys into a table of their own.
fn take<'i>(table: &mut DeTable<'i>, keys: &[&str]) -> DeTable<'i> {
    let mut taken = DeTable::new();
    for key in keys {
        taken.extend(table.remove_entry(*key));
    }
    taken
}

fn table_of(value: Spanned<DeValue<'_>>) -> Read<Table<'_>> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Ok((span, table)),
        other => {
            // Fails, and says what belongs there.
            let _: BTreeMap<String, IgnoredAny> = value_of(Spanned::new(span.clone(), other))?;
            Ok((span, DeTable::new()))
        }
    }
}

fn value_of<T: DeserializeOwned>(value: Spanned<DeValue<'_>>) -> Read<T> {
    T::deserialize(value.into_deserializer()).map_err(Mistake::from)
}

/// The words of the parser, which `mistake` reads.
fn unknown(name: &str, span: Range<usize>, known: Vec<&str>) -> Mistake {
    let known: Vec<String> = known.into_iter().map(|known| format!("`{known}`")).collect();
    let message = format!("unknown field `{name}`, expected one of {}", known.join(", "));
    Mistake { offset: span.start, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_one_section_leaves_the_others_usable() {
        let text = "
            colour = 'red'
            default_repository = 'nas'
            [repository.nas]
            location = '/mnt/nas'
            [repository.usb]
            location = 7
            [archive.mail]
            home = '/srv/mail'
            [archive.chats]
            home = '/srv/chats'
            zstd_level = 'much'
        ";
        let (file, mistake) = read(text);
        assert_eq!(file.default_repository.as_deref(), Some("nas"));
        assert_eq!(file.repository.keys().collect::<Vec<_>>(), ["nas"]);
        assert_eq!(file.archive.keys().collect::<Vec<_>>(), ["mail"]);
        assert_eq!(file.other_homes, ["/srv/chats"]);
        assert!(mistake.unwrap().message.contains("`colour`"), "the first in the file is told");
    }

    #[test]
    fn of_a_text_that_is_no_toml_nothing_is_used() {
        let (file, mistake) = read("[repository.nas]\nlocation = '/mnt/nas'\n[[[");
        assert!(file.repository.is_empty() && file.archive.is_empty() && mistake.is_some());
    }

    #[test]
    fn the_keys_that_every_archive_has_are_those_that_are_read() {
        let mut table = DeTable::parse("home = '/x'\nno-such-key = 1").unwrap();
        let table = DeValue::Table(std::mem::take(table.get_mut()));
        let error = value_of::<CommonKeys>(Spanned::new(0..0, table)).unwrap_err().message;
        let read: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(read, ARCHIVE_KEYS, "{error}");
    }

    #[test]
    fn a_key_of_another_kind_is_known_and_belongs_elsewhere() {
        let (file, mistake) = read("[archive.mail]\nhome = '/x'\nfiles = ['a']\ndatabase = 'b'");
        assert!(mistake.is_none());
        assert_eq!(
            file.archive["mail"].misplaced.map(|(key, kind)| (key, kind.name())),
            Some(("database", "sqlite"))
        );
    }
}
