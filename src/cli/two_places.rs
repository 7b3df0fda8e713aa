//! Commands on two repositories: which they are, that they are two, and with what each is opened.
//!
//! A variable of the environment cannot mean both, so what the configuration says of each counts before it.

use clap::Args;
use packvault::location::{Opening, Purpose};
use packvault::repo::Repository;
use packvault::{Error, ErrorKind, Location, Result};
use std::path::PathBuf;

use super::door::{Door, Entered, Known};
use super::key_flags::KeyFlags;
use super::session::Session;
use super::settings::RepositoryChoice;

/// What opens the repository that is copied from.
#[derive(Debug, Clone, Default, Args)]
pub struct FromKeyFlags {
    /// A file that holds the passphrase of the repository to copy from
    ///
    /// Without a flag, each repository is opened with `passphrase` and `identity` of its section of the configuration,
    /// then with what the environment names, then by a question on the terminal.
    #[arg(long, value_name = "FILE")]
    from_passphrase_file: Option<PathBuf>,
    /// A program that prints that passphrase, with its arguments; no shell runs it
    #[arg(long, value_name = "LINE", conflicts_with = "from_passphrase_file")]
    from_passphrase_command: Option<String>,
    /// A file with an age identity, an SSH private key, or a recovery key that opens it; may be repeated
    #[arg(long, value_name = "FILE")]
    from_identity: Vec<PathBuf>,
    /// The key file to open it with, by its name, where there are many
    #[arg(long, value_name = "NAME")]
    from_key: Option<String>,
}

impl FromKeyFlags {
    /// Returns them as the flags of one repository.
    pub fn key_flags(&self, session: &Session) -> KeyFlags {
        KeyFlags::of(
            self.from_passphrase_file.clone(),
            self.from_passphrase_command.clone(),
            self.from_identity.clone(),
            self.from_key.clone(),
            session.key_flags().accept_change,
        )
    }
}

/// One of two repositories, as the user means it.
pub struct Place {
    /// Which it is.
    pub choice: RepositoryChoice,
    /// How it is reached.
    pub opening: Opening,
    /// What opens it.
    pub keys: KeyFlags,
}

impl Place {
    /// Finds the place that a flag names: a name from the configuration, or a location.
    pub fn named(
        session: &Session,
        flag: &'static str,
        text: &str,
        purpose: Purpose,
        keys: KeyFlags,
    ) -> Result<Self> {
        let (choice, opening) = session.chosen_by(flag, text, purpose)?;
        Ok(Self { choice, opening, keys })
    }

    /// Opens the repository that lies there.
    pub async fn enter(&self, session: &Session) -> Result<(Repository, Known)> {
        let storage = session.open(&self.choice.location, &self.opening).await?;
        let door = Door::of(session, &self.choice).of_two(&self.keys);
        let Entered { repository, known } = door.enter(storage).await?;
        session.record().opened(&self.choice.location, &repository);
        Ok((repository, known))
    }
}

/// Refuses one place twice, and one that lies inside the other.
pub fn expect_apart(from: &Location, to: &Location) -> Result<()> {
    let (one, other) = (from.settled_place(), to.settled_place());
    let message = match relation(&one, &other) {
        Relation::Apart => return Ok(()),
        Relation::Same => format!("{from} and {to} are one and the same place"),
        Relation::Inside => format!("one of {from} and {to} lies inside the other"),
    };
    Err(Error::new(ErrorKind::Usage, message))
}

#[derive(Debug, PartialEq, Eq)]
enum Relation {
    Apart,
    Same,
    Inside,
}

/// Compares two places as text; behind a line feed stands the server.
fn relation(one: &str, other: &str) -> Relation {
    let split = |place: &str| {
        let (path, server) = place.split_once('\n').unwrap_or((place, ""));
        (format!("{}/", path.trim_end_matches('/')), server.to_owned())
    };
    let ((one, one_server), (other, other_server)) = (split(one), split(other));
    match () {
        () if one_server != other_server => Relation::Apart,
        () if one == other => Relation::Same,
        () if one.starts_with(&other) || other.starts_with(&one) => Relation::Inside,
        () => Relation::Apart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_compared_with_their_servers_and_by_whole_names() {
        for (one, other, expected) in [
            ("/mnt/a", "/mnt/a/", Relation::Same),
            ("/mnt/a", "/mnt/ab", Relation::Apart),
            ("/mnt/a", "/mnt/a/b", Relation::Inside),
            ("s3://b/a\nhttps://one", "s3://b/a\nhttps://two", Relation::Apart),
            ("s3://b/a\nhttps://one", "s3://b\nhttps://one", Relation::Inside),
        ] {
            assert_eq!(relation(one, other), expected, "{one} {other}");
            assert_eq!(relation(other, one), expected, "{other} {one}");
        }
    }
}
