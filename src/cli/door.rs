//! How a repository is opened: is it the one that was seen here, which key opens it, what of it is gone.
//!
//! Before a secret is fetched, the repository is compared with what this machine remembers of the location, so that
//! nobody is asked for a passphrase by what was laid in its place. Afterwards the key is, and the newest snapshot.

use std::sync::{Arc, Mutex, PoisonError};

use packvault::format::{KeyName, RepoConfig, RepoId, RepositoryKey, SnapshotId};
use packvault::location::seen::{self, Seen, Sighting};
use packvault::repo::keys::{self, Choice, Opened, Secrets};
use packvault::repo::{Repository, Storage, config};
use packvault::{Error, ErrorKind, Result};

use super::key_flags::KeyFlags;
use super::secrets::{Named, Place, ask_for_ssh_key};
use super::session::Session;
use super::settings::RepositoryChoice;
use super::terminal;

/// How often a passphrase is asked for.
const QUESTIONS_MAX: u32 = 3;

/// The way into one repository.
pub struct Door<'a> {
    session: &'a Session,
    choice: &'a RepositoryChoice,
    seen: Seen,
    except: Option<&'a KeyName>,
    /// The flags of the repository, where it is one of two.
    of_two: Option<&'a KeyFlags>,
}

/// The keys that were found in this run, each of a repository and the place where it lies: a run of many steps asks for
/// a passphrase once, and pays for it once.
#[derive(Default)]
pub struct FoundKeys(Mutex<Vec<Found>>);

struct Found {
    location: String,
    repository: RepoId,
    key: RepositoryKey,
    name: Option<KeyName>,
}

impl FoundKeys {
    /// Returns the key that opened this place before, if the repository that lies there now says that it is its own.
    fn of(&self, location: &str, config: &RepoConfig) -> Option<Opened> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|one| one.location == location && one.repository == config.repo_id)?;
        let is_proved = config.key_check.is_some() && config.check_key(&found.key).is_ok();
        is_proved.then(|| Opened {
            repository: found.repository.clone(),
            key: found.key.clone(),
            name: found.name.clone(),
        })
    }

    fn keep(&self, location: &str, opened: &Opened) {
        let (repository, key, name) = (opened.repository.clone(), opened.key.clone(), opened.name.clone());
        let found = Found { location: location.to_owned(), repository, key, name };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    }
}

/// A repository that was opened, and what this machine knows of it now.
pub struct Entered {
    /// The repository.
    pub repository: Repository,
    /// What was seen of it.
    pub known: Known,
}

/// What this machine knows of the repository that is open.
pub struct Known {
    seen: Seen,
    sighting: Sighting,
    opened_with: Option<String>,
}

impl Known {
    /// Returns the name of the key file that opened it.
    pub fn opened_with(&self) -> Option<String> {
        self.opened_with.clone()
    }

    /// Tells whether a snapshot that was the newest is gone.
    pub fn misses_a_snapshot(&self) -> bool {
        !self.sighting.gone.is_empty()
    }

    /// Remembers that the newest snapshot has a new id, if it is this one.
    pub fn squashed(&mut self, from: &str, to: &str) {
        if self.sighting.newest.as_deref() == Some(from) {
            self.made(to);
        }
    }

    /// Remembers a snapshot that was just brought there, if it is the newest.
    pub fn saw(&mut self, snapshot: &str) {
        if self.sighting.newest.as_deref().is_none_or(|newest| newest < snapshot) {
            self.made(snapshot);
        }
    }

    /// Remembers a snapshot that was just made.
    pub fn made(&mut self, snapshot: &str) {
        self.sighting.newest = Some(snapshot.to_owned());
        self.seen.remember(self.sighting.clone());
    }
}

impl<'a> Door<'a> {
    /// Stands before the repository that was chosen.
    pub fn of(session: &'a Session, choice: &'a RepositoryChoice) -> Self {
        let folder = session.settings().state().map(|state| state.join("repositories"));
        let (place, location) = (choice.location.settled_place(), choice.location.to_string());
        let seen = Seen::load(folder.as_deref(), &place, &location);
        Self { session, choice, seen, except: None, of_two: None }
    }

    /// The repository is one of two, and has flags of its own.
    pub fn of_two(self, flags: &'a KeyFlags) -> Self {
        Self { of_two: Some(flags), ..self }
    }

    fn flags(&self) -> &'a KeyFlags {
        self.of_two.unwrap_or(self.session.key_flags())
    }

    fn named(&self) -> Named<'a> {
        match self.of_two {
            Some(flags) => Named::of_two(self.session, self.choice, flags),
            None => Named::of(self.session, self.choice),
        }
    }

    /// Does not count this key file: what is left must be known to open.
    pub fn except(self, name: &'a KeyName) -> Self {
        Self { except: Some(name), ..self }
    }

    /// Returns what was seen here last.
    pub fn last_seen(&self) -> Option<&Sighting> {
        self.seen.last()
    }

    /// Opens the repository.
    pub async fn enter(self, storage: Arc<dyn Storage>) -> Result<Entered> {
        let mut opened = None;
        let repository = Repository::open_with(Arc::clone(&storage), async |config| {
            self.expect(config)?;
            if !config.is_encrypted() {
                self.refuse_a_key_for_plain()?;
                return Ok(None);
            }
            let found = self.find_key(storage.as_ref(), config).await?;
            let key = found.key.clone();
            opened = Some(found);
            Ok(Some(key))
        })
        .await?;
        self.compare(repository, opened).await
    }

    /// Opens a repository whose `config.toml` is lost or damaged: an encrypted one by its keys, which name it; a plain one
    /// as the one that was seen here, or under a new id.
    pub async fn enter_without_config(&self, storage: Arc<dyn Storage>) -> Result<Repository> {
        let is_encrypted = !keys::list(storage.as_ref()).await?.is_empty() || self.names_a_secret_for_it();
        let (id, key) = if is_encrypted {
            let opened = self.unlock(storage.as_ref(), None, None).await?;
            (opened.repository, Some(opened.key))
        } else {
            let seen = self.last_seen().filter(|seen| !seen.encrypted);
            (seen.and_then(|seen| RepoId::parse(&seen.id).ok()).unwrap_or_else(config::new_id), None)
        };
        let fingerprint = key.as_ref().map(|key| keys::fingerprint(&id, key));
        let repository = Repository::open_remade(storage, id, key, packvault::clock::now()?).await?;
        self.expect(repository.config())?;
        if let Some(fingerprint) = fingerprint.filter(|_| !self.flags().accept_change) {
            self.seen.expect_key(repository.config().repo_id.as_str(), &fingerprint)?;
        }
        Ok(repository)
    }

    /// A variable may be meant for another repository of this machine.
    fn names_a_secret_for_it(&self) -> bool {
        self.named().place().is_some_and(|place| place != Place::Environment)
    }

    /// Remembers a repository that was just made here.
    pub fn made(mut self, id: &str, key: Option<(&RepoConfig, &RepositoryKey)>) {
        let key = key.map(|(config, key)| keys::fingerprint(&config.repo_id, key));
        let sighting = Sighting { id: id.to_owned(), encrypted: key.is_some(), key, ..Sighting::default() };
        self.seen.remember(sighting);
    }

    /// Refuses a repository that is not the one it must be, as far as that shows without its key.
    pub fn expect(&self, config: &RepoConfig) -> Result<()> {
        if !config.is_encrypted() && self.session.settings().requires_encryption(self.choice) {
            let message = format!(
                "the repository at {} is not encrypted, and the configuration says `encryption = \"required\"`",
                self.choice.location
            );
            return Err(Error::new(ErrorKind::NotTheSame, message));
        }
        match self.flags().accept_change {
            true => Ok(()),
            false => self.seen.expect(config.repo_id.as_str(), config.is_encrypted()),
        }
    }

    /// A secret that was meant for this repository says that it is encrypted. Variables are often set for all
    /// repositories of a machine: then one that is not encrypted is told about, and no error.
    fn refuse_a_key_for_plain(&self) -> Result<()> {
        let Some(place) = self.named().place() else { return Ok(()) };
        let location = &self.choice.location;
        if place == Place::Environment && self.of_two.is_some() {
            // It may well be meant for the other one.
            return Ok(());
        }
        if place == Place::Environment && !self.choice.is_from_environment {
            self.session.announce(&format!(
                "the repository at {location} is not encrypted; the key that the environment names is not used"
            ));
            return Ok(());
        }
        let message =
            format!("the repository at {location} is not encrypted, and {} names a key for it", place.noun());
        Err(Error::new(ErrorKind::NotTheSame, message))
    }

    async fn find_key(&self, storage: &dyn Storage, config: &RepoConfig) -> Result<Opened> {
        let known = self.seen.of(config.repo_id.as_str());
        let (found, location) = (self.session.found_keys(), self.choice.location.to_string());
        // What is left without one key file is asked for anew.
        let before = self.except.map_or_else(|| found.of(&location, config), |_| None);
        let is_new = before.is_none();
        let opened = match before {
            Some(opened) => opened,
            None => self.unlock(storage, Some(&config.repo_id), known).await?,
        };
        let fingerprint = keys::fingerprint(&config.repo_id, &opened.key);
        if !self.flags().accept_change {
            self.seen.expect_key(config.repo_id.as_str(), &fingerprint)?;
        }
        if is_new && self.except.is_none() {
            found.keep(&location, &opened);
        }
        Ok(opened)
    }

    /// Finds the key with the secrets that are named, or asks.
    async fn unlock(
        &self,
        storage: &dyn Storage,
        repository: Option<&RepoId>,
        known: Option<&Sighting>,
    ) -> Result<Opened> {
        let named = self.named();
        let mut secrets = named.fetch()?;
        let preferred = known.and_then(|known| known.opened_with.as_deref());
        let preferred = preferred.and_then(|name| KeyName::parse(name).ok());
        let named_key = self.flags().named()?;
        let choice = Choice { named: named_key.as_ref(), preferred: preferred.as_ref(), except: self.except };
        let (ask, cancel) = (ask_for_ssh_key(self.session), self.session.cancel());
        let mut left = QUESTIONS_MAX;
        loop {
            let found = keys::open(storage, repository, &mut secrets, choice, &ask, cancel).await;
            let may_ask = named.place().is_none() && terminal::is_there() && left > 0;
            match found {
                Err(error) if may_ask && error.kind() == ErrorKind::NoKey => {
                    if !keys::take_a_passphrase(storage, choice.named).await? {
                        return Err(error);
                    }
                }
                Err(error) if may_ask && error.kind() == ErrorKind::WrongKey => {
                    self.session.announce(&error.chain());
                }
                found => return found,
            }
            left -= 1;
            let question = format!("passphrase of the repository at {}: ", self.choice.location);
            let passphrase = terminal::passphrase(&question, cancel)?;
            secrets = Secrets { passphrase: Some(passphrase), identities: Vec::new() };
        }
    }

    async fn compare(mut self, repository: Repository, opened: Option<Opened>) -> Result<Entered> {
        let config = repository.config();
        let opened_with = opened.as_ref().and_then(|opened| opened.name.as_ref()).map(KeyName::to_string);
        let (id, encrypted) = (config.repo_id.as_str().to_owned(), config.is_encrypted());
        // What cannot be listed is told by the operation itself.
        let listed = repository.list_snapshots().await;
        let mut sighting = match &listed {
            Ok(files) => {
                // One that is marked as forgotten is shown by no command, and anybody who may write there can mark it.
                let shown = files.listed().filter(|name| SnapshotId::parse(name).is_ok());
                self.seen.compare(&id, encrypted, &shown.collect::<Vec<_>>())
            }
            Err(_) => {
                Sighting { id: id.clone(), encrypted, ..self.seen.of(&id).cloned().unwrap_or_default() }
            }
        };
        if let Some(opened) = opened {
            sighting.key = Some(keys::fingerprint(&config.repo_id, &opened.key));
            sighting.opened_with = opened_with.clone().or(sighting.opened_with);
        }
        if self.flags().accept_change {
            sighting.gone.clear();
        }
        if let Ok(files) = &listed {
            let gone = std::mem::take(&mut sighting.gone);
            for id in gone {
                // Another machine may have squashed it; the note of what it is now says so.
                if !matches!(repository.formerly(files, &id).await, Ok(Some(_))) {
                    sighting.gone.push(id);
                }
            }
        }
        if let Some(missing) = seen::missing(&sighting) {
            self.session.announce(&format!(
                "{missing}; somebody removed it, or put an older copy in place. If that was you, say \
                 --accept-change once"
            ));
        }
        self.seen.remember(sighting.clone());
        Ok(Entered { repository, known: Known { seen: self.seen, sighting, opened_with } })
    }
}
