//! Where the secrets come from that open a repository: flags, the environment, the configuration, a question.
//!
//! The first of these that names any secret gives all of them; what stands further down is not looked at.

use std::path::{Path, PathBuf};

use packvault::repo::keys::secrets::IDENTITY_BYTES_MAX;
use packvault::repo::keys::{KeyIdentity, Passphrase, Secrets};
use packvault::{Cancel, Error, ErrorKind, Result};

use super::key_flags::KeyFlags;
use super::session::Session;
use super::settings::secret::SecretSource;
use super::settings::{Environment, RepositoryChoice, given, secret};
use super::{awaited, guard, terminal};

/// Where secrets are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Flags of this command.
    Flags,
    /// The environment.
    Environment,
    /// The repository's section of the configuration.
    Configuration,
}

impl Place {
    /// Returns the place as a message names it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Flags => "a flag",
            Self::Environment => "the environment",
            Self::Configuration => "the configuration",
        }
    }
}

/// Where the secrets for one repository are named, not yet fetched.
pub struct Named<'a> {
    flags: &'a KeyFlags,
    environment: &'a Environment,
    choice: &'a RepositoryChoice,
    home: Option<&'a Path>,
    cancel: &'a Cancel,
    /// Whether it is one of two repositories of the command: then its own section counts before the environment,
    /// which cannot mean both.
    is_one_of_two: bool,
}

impl<'a> Named<'a> {
    /// Looks where they are named.
    pub fn of(session: &'a Session, choice: &'a RepositoryChoice) -> Self {
        let settings = session.settings();
        Self {
            flags: session.key_flags(),
            environment: settings.environment(),
            choice,
            home: settings.user_home(),
            cancel: session.cancel(),
            is_one_of_two: false,
        }
    }

    /// The same for one of two repositories, which has flags of its own.
    pub fn of_two(session: &'a Session, choice: &'a RepositoryChoice, flags: &'a KeyFlags) -> Self {
        Self { flags, is_one_of_two: true, ..Self::of(session, choice) }
    }

    /// Returns the first place that names any.
    pub fn place(&self) -> Option<Place> {
        let section = self.choice.section.as_ref();
        let is_configured = section.is_some_and(|section| section.names_a_secret());
        match () {
            () if self.flags.name_a_secret() => Some(Place::Flags),
            () if self.is_one_of_two && is_configured => Some(Place::Configuration),
            () if self.environment.names_a_secret() => Some(Place::Environment),
            () if is_configured => Some(Place::Configuration),
            () => None,
        }
    }

    /// Tells whether that place names a passphrase, and not identities alone.
    pub fn has_passphrase(&self) -> bool {
        match self.place() {
            None => false,
            Some(Place::Flags) => {
                self.flags.passphrase_file.is_some() || self.flags.passphrase_command.is_some()
            }
            Some(Place::Environment) => self.environment.names_a_passphrase(),
            Some(Place::Configuration) => {
                self.choice.section.as_ref().is_some_and(|section| section.passphrase.is_some())
            }
        }
    }

    /// Fetches them; nothing where none are named.
    pub fn fetch(&self) -> Result<Secrets> {
        guard::seal();
        let Some(place) = self.place() else { return Ok(Secrets::default()) };
        let passphrase = self.passphrase(place)?;
        let mut identities = Vec::new();
        for file in self.identity_files(place)? {
            identities.extend(read_identities(&file, self.cancel)?);
        }
        Ok(Secrets { passphrase, identities })
    }

    /// Fetches the passphrase alone; `None` where none is named.
    pub fn fetch_passphrase(&self) -> Result<Option<Passphrase>> {
        guard::seal();
        self.place().map_or(Ok(None), |place| self.passphrase(place))
    }

    fn passphrase(&self, place: Place) -> Result<Option<Passphrase>> {
        match place {
            Place::Flags => passphrase_of(
                self.flags.passphrase_file.as_deref(),
                self.flags.passphrase_command.as_deref(),
                ("--passphrase-file", "--passphrase-command"),
                self.home,
                self.cancel,
            ),
            Place::Environment => match guard::passphrase()? {
                Some(passphrase) => checked("PACKVAULT_PASSPHRASE", passphrase).map(Some),
                None => passphrase_of(
                    self.environment.passphrase_file.as_deref(),
                    self.environment.passphrase_command.as_deref(),
                    ("PACKVAULT_PASSPHRASE_FILE", "PACKVAULT_PASSPHRASE_COMMAND"),
                    self.home,
                    self.cancel,
                ),
            },
            Place::Configuration => {
                let source = self.choice.section.as_ref().and_then(|section| section.passphrase.as_ref());
                let fetch = |source: &SecretSource| source.fetch("passphrase", self.home, self.cancel);
                source.map(|source| fetch(source).map(Passphrase::new)).transpose()
            }
        }
    }

    fn identity_files(&self, place: Place) -> Result<Vec<PathBuf>> {
        match place {
            Place::Flags => {
                self.flags
                    .identity
                    .iter()
                    .try_for_each(|file| given::refuse_tilde(file, "--identity", self.home))?;
                Ok(self.flags.identity.clone())
            }
            Place::Environment => Ok(self.environment.identity.iter().cloned().collect()),
            Place::Configuration => {
                self.choice.section.as_ref().map_or(Ok(Vec::new()), |section| section.identities(self.home))
            }
        }
    }
}

/// Returns the passphrase that a file or a program gives.
pub fn passphrase_of(
    file: Option<&Path>,
    command: Option<&str>,
    (file_name, command_name): (&str, &str),
    home: Option<&Path>,
    cancel: &Cancel,
) -> Result<Option<Passphrase>> {
    if let Some(file) = file {
        given::refuse_tilde(file, file_name, home)?;
        return secret::from_file(file_name, file, cancel).map(|text| Some(Passphrase::new(text)));
    }
    let Some(command) = command else { return Ok(None) };
    let words = words(command).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{command_name}: a quote is not closed, or no program is named"))
    })?;
    secret::from_command(command_name, &words, cancel).map(|text| Some(Passphrase::new(text)))
}

fn checked(what: &str, passphrase: Passphrase) -> Result<Passphrase> {
    match passphrase.expose().chars().any(char::is_control) {
        true => Err(Error::new(ErrorKind::Usage, format!("{what} is not one line of text"))),
        false => Ok(passphrase),
    }
}

/// Reads what a file of identities holds.
fn read_identities(file: &Path, cancel: &Cancel) -> Result<Vec<KeyIdentity>> {
    let name = file.display().to_string();
    let failed = |error| Error::caused(ErrorKind::Usage, format!("cannot read the identity {name}"), error);
    let bytes = awaited::read(file, IDENTITY_BYTES_MAX, cancel, failed)?;
    if bytes.len() as u64 > IDENTITY_BYTES_MAX {
        let message = format!("cannot use the identity {name}: it is longer than any");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| failed(std::io::Error::other(error)))?;
    KeyIdentity::parse_file(text, &name)
}

/// Returns what answers for the passphrase of an SSH key: a question, where there is somebody to ask.
pub fn ask_for_ssh_key(session: &Session) -> impl Fn(&str) -> Result<Option<Passphrase>> + Sync {
    let cancel = session.cancel().clone();
    move |file| match terminal::is_there() {
        true => terminal::passphrase(&format!("passphrase of the SSH key {file}: "), &cancel).map(Some),
        false => Ok(None),
    }
}

/// Splits a command into words, as a shell does that knows quotes and backslashes and nothing else; `None` where a
/// quote is not closed, or there is no word.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, ' ' | '\t' | '\n') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), closing) if open == closing => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().push(characters.next()?),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (quote.is_none() && !words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_into_words_and_no_shell_sees_it() {
        for (command, expected) in [
            ("pass show packvault", Some(&["pass", "show", "packvault"][..])),
            ("  a  'b c' \"d \\\" e\" f\\ g '' ", Some(&["a", "b c", "d \" e", "f g", ""])),
            ("a;b $(c) `d` > e", Some(&["a;b", "$(c)", "`d`", ">", "e"])),
            ("a'b'\"c\"", Some(&["abc"])),
            ("a 'b", None),
            ("a \\", None),
            ("  ", None),
        ] {
            let split = words(command);
            assert_eq!(
                split.as_deref().map(|words| words.iter().map(String::as_str).collect()),
                expected.map(<[&str]>::to_vec),
                "{command}"
            );
        }
    }
}
