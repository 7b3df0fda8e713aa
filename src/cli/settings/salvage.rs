//! What can still be used of a configuration file that is wrong somewhere.
//!
//! Whoever needs his backup now has no time for a slip in the section of another archive. So each section is read
//! by itself; what is wrong is reported, and is an error for whoever needs it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{ConfigFile, ProfileKind};

/// Returns the sections that are sound by themselves; none where the text is no TOML.
pub(super) fn usable(text: &str) -> ConfigFile {
    let Ok(table) = text.parse::<Table>() else { return ConfigFile::default() };
    let default_repository = table.get("default_repository").and_then(Value::as_str).map(str::to_owned);
    let mut file = ConfigFile {
        default_repository,
        repository: sections(&table, "repository"),
        archive: sections(&table, "archive"),
        other_homes: Vec::new(),
    };
    let archives = table.get("archive").and_then(Value::as_table);
    let unusable =
        archives.into_iter().flatten().filter(|(name, _)| !file.archive.contains_key(name.as_str()));
    let homes = unusable.filter_map(|(_, section)| section.get("home")?.as_str().map(str::to_owned));
    file.other_homes = homes.collect();
    file
}

fn sections<T: DeserializeOwned>(table: &Table, kind: &str) -> BTreeMap<String, T> {
    let sections = table.get(kind).and_then(Value::as_table);
    let sections = sections.into_iter().flatten();
    sections.filter_map(|(name, section)| Some((name.clone(), section.clone().try_into().ok()?))).collect()
}

impl ConfigFile {
    /// Takes out the sections that cannot be meant; returns what is wrong with the first of them.
    pub(super) fn take_out_refused(&mut self) -> Option<String> {
        let mut first = None;
        self.repository.retain(|name, repository| {
            let refusal = repository.refusal();
            let refusal = refusal.map(|(key, why)| format!("repository.{name}.{key} {why}"));
            let is_sound = refusal.is_none();
            first = first.take().or(refusal);
            is_sound
        });
        let homes = &mut self.other_homes;
        self.archive.retain(|name, archive| {
            let refusal = archive.refusal().map(|why| format!("archive.{name}.{why}"));
            if refusal.is_some() {
                homes.push(archive.home.clone());
            }
            let is_sound = refusal.is_none();
            first = first.take().or(refusal);
            is_sound
        });
        first
    }
}

impl super::ArchiveSection {
    /// Returns the key that cannot be meant, and why.
    fn refusal(&self) -> Option<String> {
        if self.zstd_level.is_some_and(|level| !(1..=19).contains(&level)) {
            return Some("zstd_level is not a number from 1 to 19".to_owned());
        }
        let key = self.misplaced_key()?;
        let why = match self.profile {
            ProfileKind::Msgvault => "belongs to archives with `profile = \"sqlite\"`",
            ProfileKind::Sqlite => "is missing",
        };
        Some(format!("{key} {why}"))
    }
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
        let file = usable(text);
        assert_eq!(file.default_repository.as_deref(), Some("nas"));
        assert_eq!(file.repository.keys().collect::<Vec<_>>(), ["nas"]);
        assert_eq!(file.archive.keys().collect::<Vec<_>>(), ["mail"]);
        assert_eq!(file.other_homes, ["/srv/chats"]);
    }

    #[test]
    fn of_a_text_that_is_no_toml_nothing_is_used() {
        let file = usable("[repository.nas]\nlocation = '/mnt/nas'\n[[[");
        assert!(file.repository.is_empty() && file.archive.is_empty());
    }
}
