//! `packvault init`: makes a repository, plain or encrypted: from its first byte to its last.
//!
//! On a folder of this machine plain is the default. On a server somebody has to decide; a script that was written
//! before there was anything to decide goes on, and is told.

use packvault::engine::init::init_with;
use packvault::engine::report::InitReport;
use packvault::format::{KeyName, RepoConfig, RepositoryKey};
use packvault::location::{Opening, Purpose};
use packvault::repo::config::NewKey;
use packvault::repo::keys::{self, NewWay};
use packvault::repo::{Storage, locks};
use packvault::{Error, ErrorKind, Result};

use super::door::Door;
use super::key_flags::key_name;
use super::new_way::{NewPassphrase, NewWayFlags, named};
use super::report::Exit;
use super::secrets::Named;
use super::session::Session;
use super::settings::RepositoryChoice;
use super::two_places::Place;
use super::{guard, summary, terminal};

/// Make a new, empty repository
///
/// The folder is made if it is missing; one that already holds a repository is refused. A repository is plain or
/// encrypted for its whole life. Plain, whoever can read it can read the archive: keep it where only you can.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault init --repo /mnt/backup
  packvault init --repo nas --encrypt          asks for a passphrase, twice
  packvault init --repo nas --encrypt --generate
  packvault init --repo nas --encrypt --recipient ~/.ssh/id_ed25519.pub

{}", super::exit_codes("")))]
pub struct Arguments {
    #[command(flatten)]
    new: NewRepository,
    /// Remove the lock of another init first, even a fresh one
    ///
    /// An encrypted repository is made under a lock, and so is one on servers that do not notice when two programs write
    /// one name.
    #[arg(long)]
    force_unlock: bool,
}

/// What a repository that is made is to be.
#[derive(Debug, clap::Args)]
pub struct NewRepository {
    /// Encrypt everything that is stored in a repository that is made
    ///
    /// With a passphrase, unless --recipient is given. Whoever loses every way in has lost the data: print the page of
    /// `packvault key export`.
    #[arg(long, conflicts_with = "plaintext")]
    encrypt: bool,
    /// Encrypt nothing in a repository that is made
    #[arg(long)]
    plaintext: bool,
    #[command(flatten)]
    ways: NewWayFlags,
    /// What the way in is called; its kind by default
    #[arg(long, value_name = "NAME")]
    key_name: Option<String>,
}

/// Ways in, and what they are called.
type NamedWays = Vec<(KeyName, NewWay)>;

/// What a new repository is to be.
enum Decision {
    Encrypted,
    Plain,
    /// Nobody has said; what was said before there was a choice.
    PlainByDefault,
}

/// Makes the repository and says what to run next.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let new = &arguments.new;
    new.check(session)?;
    let (choice, opening) = session.chosen(None, Purpose::Init)?;
    let decision = new.decide(session, &choice, &Named::of(session, &choice))?;
    let (ways, generated) = match decision {
        Decision::Encrypted => new.new_ways(session, &Named::of(session, &choice))?,
        Decision::Plain | Decision::PlainByDefault => (Vec::new(), None),
    };
    let storage = session.open(&choice.location, &opening).await?;
    let door = Door::of(session, &choice);
    if let Some(seen) = door.last_seen() {
        let (id, at) = (seen.id.clone(), seen.seen_at.clone());
        session.warn(&format!(
            "this machine saw the repository {id} here on {at}; a new one is not a part of it"
        ));
    }
    let mut report = match ways.is_empty() {
        true => {
            let report = init_with(storage.as_ref(), arguments.force_unlock, None).await?;
            door.made(&report.id, None);
            report
        }
        false => encrypted(storage.as_ref(), arguments.force_unlock, &ways, door).await?,
    };
    report.passphrase = generated.as_ref().map(|new| new.passphrase.expose().to_owned());
    // What a server decides by itself is worth a line; on a disk it is always the same.
    let exclusion = (!choice.location.is_local()).then(|| locks::exclusion(storage.guarantees()));
    let text = |report: &InitReport| summary::init(report, &choice.location.to_string(), exclusion);
    let shown = match &report.passphrase {
        Some(_) => session.show_always(&report, text),
        None => session.show(&report, text),
    };
    if matches!(decision, Decision::PlainByDefault) && !choice.location.is_local() {
        session.warn(
            "the repository is not encrypted: whoever can read it there can read the archive. Nobody said what it is \
             to be; say --encrypt or --plaintext",
        );
    }
    let Err(error) = shown else { return Ok(Exit::Done) };
    let made = format!("the repository at {} was made", choice.location);
    if report.passphrase.is_some() {
        let message = format!("{made}, and its passphrase could not be shown: remove it and make it anew");
        return Err(Error::caused(ErrorKind::Io, message, error));
    }
    session.unshown(&made, error)
}

/// Makes the target of another command, which has opened nothing there yet.
pub async fn make_beside(new: &NewRepository, session: &Session, place: &Place) -> Result<()> {
    let named = Named::of_two(session, &place.choice, &place.keys);
    let is_encrypted = match (new.is_decided(), session.settings().requires_encryption(&place.choice)) {
        (false, false) => matches!(ask(session)?, Decision::Encrypted),
        _ => {
            !matches!(new.decide(session, &place.choice, &named)?, Decision::Plain | Decision::PlainByDefault)
        }
    };
    let ways = if is_encrypted { new.new_ways(session, &named)?.0 } else { Vec::new() };
    let opening = Opening { purpose: Purpose::Init, ..place.opening.clone() };
    let storage = session.open(&place.choice.location, &opening).await?;
    let door = Door::of(session, &place.choice).of_two(&place.keys);
    let report = match ways.is_empty() {
        true => {
            let report = init_with(storage.as_ref(), false, None).await?;
            door.made(&report.id, None);
            report
        }
        false => encrypted(storage.as_ref(), false, &ways, door).await?,
    };
    session.announce(&format!("the repository {} was made at {}", report.id, place.choice.location));
    Ok(())
}

/// Makes an encrypted repository: its key files are durable before there is one.
async fn encrypted(
    storage: &dyn Storage,
    force_unlock: bool,
    ways: &[(KeyName, NewWay)],
    door: Door<'_>,
) -> Result<InitReport> {
    let key = keys::new_key()?;
    let kept = std::sync::Mutex::new(None);
    let keep = |config: RepoConfig| {
        let (key, kept) = (&key, &kept);
        let work = async move {
            let files: Vec<_> = ways
                .iter()
                .map(|(name, way)| Ok((name.clone(), keys::wrap(way, &config.repo_id, key)?)))
                .collect::<Result<_>>()?;
            keys::create_first(storage, files).await?;
            *kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(config);
            Ok(())
        };
        Box::pin(work) as futures::future::BoxFuture<'_, Result<()>>
    };
    let new_key = NewKey { key: &key, keep: Box::new(keep) };
    let mut report = init_with(storage, force_unlock, Some(new_key)).await?;
    let config = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    remember(door, &report.id, config.as_ref(), &key);
    report.keys = ways.iter().map(|(name, _)| name.to_string()).collect();
    Ok(report)
}

fn remember(door: Door<'_>, id: &str, config: Option<&RepoConfig>, key: &RepositoryKey) {
    door.made(id, config.map(|config| (config, key)));
}

impl NewRepository {
    /// Tells whether somebody has said what it is to be.
    pub fn is_decided(&self) -> bool {
        self.encrypt || self.plaintext
    }

    /// Refuses flags that cannot be meant together.
    pub fn check(&self, session: &Session) -> Result<()> {
        if !session.key_flags().identity.is_empty() {
            return Err(usage(
                "--identity opens a repository; a new one is made for public keys, named by --recipient",
            ));
        }
        let wants_a_key = self.ways.generate || !self.ways.recipient.is_empty() || self.key_name.is_some();
        match wants_a_key && !self.encrypt {
            true => Err(usage("--generate, --recipient and --key-name belong to --encrypt")),
            false => Ok(()),
        }
    }

    fn decide(&self, session: &Session, choice: &RepositoryChoice, named: &Named<'_>) -> Result<Decision> {
        let requires = session.settings().requires_encryption(choice);
        if self.plaintext {
            return match (requires, named.place()) {
                (true, _) => {
                    Err(usage("--plaintext, and the configuration says `encryption = \"required\"`"))
                }
                (false, Some(place)) if place != super::secrets::Place::Environment => {
                    Err(usage(&format!("--plaintext, and {} names a key for the repository", place.noun())))
                }
                _ => Ok(Decision::Plain),
            };
        }
        // Whoever says where the passphrase is means a repository that has one.
        if self.encrypt || requires || named.has_passphrase() {
            return Ok(Decision::Encrypted);
        }
        match choice.location.is_local() || !terminal::is_there() {
            true => Ok(Decision::PlainByDefault),
            false => ask(session),
        }
    }

    /// Returns the ways in, and the passphrase that must be shown.
    fn new_ways(
        &self,
        session: &Session,
        named_secrets: &Named<'_>,
    ) -> Result<(NamedWays, Option<NewPassphrase>)> {
        guard::seal();
        let name = self.key_name.as_deref().map(key_name).transpose()?;
        let mut ways = self.ways.recipients(session)?;
        let given = named_secrets.fetch_passphrase()?;
        let passphrase = match (self.ways.generate, given) {
            (true, Some(_)) => {
                return Err(usage("--generate, and a passphrase is given already: leave one of them out"));
            }
            (true, None) => Some(NewPassphrase::generate()?),
            (false, Some(passphrase)) => Some(NewPassphrase::chosen(passphrase)),
            (false, None) if ways.is_empty() => Some(NewPassphrase::ask(
                session,
                "a passphrase for the new repository: ",
                "name one with --passphrase-file, --passphrase-command or PACKVAULT_PASSPHRASE, let --generate make \
                 one, or name public keys with --recipient",
            )?),
            (false, None) => None,
        };
        ways.extend(passphrase.as_ref().map(NewPassphrase::way));
        Ok((named(ways, name.as_ref())?, passphrase.filter(|new| new.is_generated)))
    }
}

fn ask(session: &Session) -> Result<Decision> {
    let question = "Whoever can read the server can read a repository that is not encrypted.\n\
                    Make it [e]ncrypted, [p]lain, or [s]top? ";
    super::report::say(question);
    match terminal::line("", session.cancel())?.to_ascii_lowercase().as_str() {
        "e" | "encrypted" | "encrypt" => Ok(Decision::Encrypted),
        "p" | "plain" => Ok(Decision::Plain),
        _ => Err(usage("stopped; nothing was made. --encrypt and --plaintext say it beforehand")),
    }
}

fn usage(message: &str) -> Error {
    Error::new(ErrorKind::Usage, message)
}
