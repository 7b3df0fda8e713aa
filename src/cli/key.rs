//! `packvault key`: the ways in to an encrypted repository.

use std::io::IsTerminal as _;

use jiff::Timestamp;
use packvault::format::{KeyName, recovery_page};
use packvault::location::Purpose;
use packvault::repo::keys::{self, KeyFile, NewWay};
use packvault::repo::locks::LockRequest;
use packvault::repo::{Repository, config};
use packvault::{Error, ErrorKind, Result};
use serde::Serialize;
use zeroize::Zeroizing;

use super::key_flags::key_name;
use super::new_way::{NewPassphrase, NewPassphraseFlags, NewWayFlags};
use super::report::Exit;
use super::session::Session;
use super::text::escape;
use super::{export, text};

/// Show and change the ways in to an encrypted repository
///
/// Each way in is a small age file of its own: for a passphrase, an age recipient, or an SSH public key. It wraps the
/// one key of the repository, which never changes. Who loses every way in has lost the data.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault key list --repo nas
  packvault key add laptop --recipient ~/.ssh/id_ed25519.pub
  packvault key change passphrase              asks for the old one, and twice for the new
  packvault key export > page.txt              print it, put it in a safe, remove the file
  packvault key add new --identity page.txt    the way back in from that page

{}", super::exit_codes("")))]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the ways in: name, kind and date; needs no key
    List,
    /// Add a way in: a passphrase, unless a public key is named
    Add(New),
    /// Put a new passphrase, or another public key, in the place of a way in
    Change(New),
    /// Remove a way in; the last one stays
    ///
    /// Whoever could open it may have kept the key of the repository: what is stored stays readable to him. Another
    /// way in must be opened, so that what is left is known to open.
    Remove {
        /// Its name
        name: String,
    },
    /// Print the key of the repository as a page for a safe, with a QR code
    ///
    /// Whoever has the page can read everything. Its text is an identity: --identity takes a file of it.
    Export {
        /// Print the text alone, without the QR code
        #[arg(long)]
        no_qr: bool,
    },
    /// See whether what is given opens the repository, and by which key
    Test,
}

/// A way in that is made.
#[derive(Debug, clap::Args)]
struct New {
    /// Its name: 1 to 64 of a-z, 0-9 and -
    name: String,
    #[command(flatten)]
    way: NewWayFlags,
    #[command(flatten)]
    passphrase: NewPassphraseFlags,
    /// Remove the repository's lock first
    ///
    /// Only when the process that holds it is known to be gone for good.
    #[arg(long)]
    force_unlock: bool,
}

/// A way in, for `--json`.
#[derive(Debug, Serialize)]
struct KeyRow {
    name: String,
    kind: String,
    modified_at: String,
    problem: Option<String>,
}

/// What was done to a way in, for `--json`.
#[derive(Debug, Serialize)]
struct KeyReport {
    name: Option<String>,
    kind: Option<String>,
    keys: Option<Vec<String>>,
    passphrase: Option<String>,
}

/// The page, for `--json`.
#[derive(Debug, Serialize)]
struct ExportReport<'a> {
    id: &'a str,
    location: &'a str,
    recovery_key: &'a str,
}

/// Runs the command.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    match &arguments.command {
        Command::List => list(session).await,
        Command::Add(new) => add(new, session).await,
        Command::Change(new) => change(new, session).await,
        Command::Remove { name } => remove(&key_name(name)?, session).await,
        Command::Export { no_qr } => export_page(*no_qr, session).await,
        Command::Test => test(session).await,
    }
}

async fn list(session: &Session) -> Result<Exit> {
    let (choice, opening) = session.chosen(None, Purpose::Look)?;
    let storage = session.open(&choice.location, &opening).await?;
    let config = config::read(storage.as_ref()).await?;
    expect_encrypted(config.is_encrypted(), &storage.location())?;
    let rows: Vec<KeyRow> = keys::list(storage.as_ref()).await?.iter().map(row).collect();
    session.show_always(&rows, |rows| table(rows))?;
    Ok(Exit::Done)
}

fn row(file: &KeyFile) -> KeyRow {
    let at = Timestamp::try_from(file.modified).unwrap_or_default();
    KeyRow {
        name: file.name.to_string(),
        kind: file.kinds(),
        modified_at: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        problem: file.header.as_ref().err().map(ToString::to_string),
    }
}

fn table(rows: &[KeyRow]) -> String {
    if rows.is_empty() {
        return "no key files: only the recovery key opens the repository\n".to_owned();
    }
    let widest =
        |field: fn(&KeyRow) -> &str| rows.iter().map(|row| text::width(field(row))).max().unwrap_or(0);
    let (names, kinds) = (widest(|row| &row.name), widest(|row| &row.kind));
    let lines = rows.iter().map(|row| {
        let problem = row.problem.as_ref().map_or(String::new(), |why| format!("  {}", escape(why)));
        format!("{:names$}  {:kinds$}  {}{problem}\n", row.name, row.kind, row.modified_at)
    });
    lines.collect()
}

async fn add(new: &New, session: &Session) -> Result<Exit> {
    let name = key_name(&new.name)?;
    let repository = opened(session, Purpose::Work).await?;
    let (way, passphrase) = new.way(session, &format!("a passphrase for {name}: "))?;
    let bytes = wrapped(&repository, &way)?;
    let request = request(session, new.force_unlock);
    let changed = repository.add_key(&name, bytes, &request).await?;
    shown(session, "added", Some((&name, way.kind())), &changed.files, passphrase)
}

async fn change(new: &New, session: &Session) -> Result<Exit> {
    let name = key_name(&new.name)?;
    let repository = opened(session, Purpose::Work).await?;
    keys::read(repository.storage().as_ref(), &name).await?;
    let (way, passphrase) = new.way(session, &format!("a new passphrase for {name}: "))?;
    let bytes = wrapped(&repository, &way)?;
    let request = request(session, new.force_unlock);
    let changed = repository.change_key(&name, bytes, &request).await?;
    shown(session, "changed", Some((&name, way.kind())), &changed.files, passphrase)
}

async fn remove(name: &KeyName, session: &Session) -> Result<Exit> {
    let repository = session.repository_without(name, Purpose::Work).await?;
    let changed = repository.remove_key(name, &request(session, false)).await?;
    shown(session, "removed", Some((name, "")), &changed.files, None)
}

async fn test(session: &Session) -> Result<Exit> {
    let repository = opened(session, Purpose::Look).await?;
    let name = session.opened_with().map(|name| key_name(&name)).transpose()?;
    let kind = match &name {
        Some(name) => Some(keys::read(repository.storage().as_ref(), name).await?.kinds()),
        None => None,
    };
    let name = name.map(|name| name.to_string());
    let report = KeyReport { name, kind, keys: None, passphrase: None };
    session.show(&report, |report| match (&report.name, &report.kind) {
        (Some(name), Some(kind)) => format!("{name} ({kind}) opens the repository\n"),
        _ => "the recovery key opens the repository\n".to_owned(),
    })?;
    Ok(Exit::Done)
}

async fn export_page(no_qr: bool, session: &Session) -> Result<Exit> {
    let repository = opened(session, Purpose::Look).await?;
    let (id, location) = (repository.config().repo_id.clone(), repository.storage().location());
    let key = repository.sealing().key().ok_or_else(|| not_encrypted(&location))?;
    let page = recovery_page::encode(&id, key);
    let report = ExportReport { id: id.as_str(), location: &location, recovery_key: &page };
    let qr = if no_qr { None } else { Some(export::qr(&page, std::io::stdout().is_terminal())?) };
    session.show_always(&report, |_| export::page(&location, &page, qr.as_deref().map(String::as_str)))?;
    Ok(Exit::Done)
}

impl New {
    /// Returns the way in, and the passphrase that must be shown.
    fn way(&self, session: &Session, question: &str) -> Result<(NewWay, Option<Zeroizing<String>>)> {
        let mut recipients = self.way.recipients(session)?;
        match (recipients.len(), self.way.generate) {
            (0, _) => {}
            (1, false) => return Ok((recipients.remove(0), None)),
            (1, true) => {
                return Err(usage("--recipient and --generate are two ways in: add one after the other"));
            }
            _ => {
                return Err(usage(
                    "each public key is a way in of its own, with its own name: add them one by one",
                ));
            }
        }
        let new = match self.way.generate {
            true => NewPassphrase::generate()?,
            false => match self.passphrase.fetch(session)? {
                Some(new) => new,
                None => NewPassphrase::ask(
                    session,
                    question,
                    "name one with --new-passphrase-file or --new-passphrase-command, let --generate make one, or name \
                     a public key with --recipient",
                )?,
            },
        };
        let shown = new.is_generated.then(|| Zeroizing::new(new.passphrase.expose().to_owned()));
        Ok((new.way(), shown))
    }
}

async fn opened(session: &Session, purpose: Purpose) -> Result<Repository> {
    let repository = session.repository(None, purpose).await?;
    expect_encrypted(repository.sealing().is_encrypted(), &repository.storage().location())?;
    Ok(repository)
}

fn expect_encrypted(is_encrypted: bool, location: &str) -> Result<()> {
    if is_encrypted { Ok(()) } else { Err(not_encrypted(location)) }
}

fn not_encrypted(location: &str) -> Error {
    usage(&format!("the repository at {location} is not encrypted: it has no keys"))
}

fn wrapped(repository: &Repository, way: &NewWay) -> Result<bytes::Bytes> {
    let key = repository.sealing().key().ok_or_else(|| not_encrypted(&repository.storage().location()))?;
    keys::wrap(way, &repository.config().repo_id, key)
}

fn request(session: &Session, force: bool) -> LockRequest {
    session.context(None).lock_request("key", force)
}

fn names(files: &[KeyFile]) -> Vec<String> {
    files.iter().map(|file| file.name.to_string()).collect()
}

fn shown(
    session: &Session,
    done: &str,
    key: Option<(&KeyName, &str)>,
    files: &[KeyFile],
    passphrase: Option<Zeroizing<String>>,
) -> Result<Exit> {
    let report = KeyReport {
        name: key.map(|(name, _)| name.to_string()),
        kind: key.map(|(_, kind)| kind.to_owned()).filter(|kind| !kind.is_empty()),
        keys: Some(names(files)),
        passphrase: passphrase.map(|passphrase| passphrase.to_string()),
    };
    let text = |report: &KeyReport| {
        let name = report.name.as_deref().unwrap_or_default();
        let kind = report.kind.as_ref().map_or(String::new(), |kind| format!(" ({kind})"));
        let mut text = format!("{done} {name}{kind}\n");
        if let Some(passphrase) = &report.passphrase {
            text.push_str(&format!("  passphrase   {passphrase}\n"));
        }
        text.push_str(&format!("  ways in      {}\n", report.keys.as_deref().unwrap_or_default().join(", ")));
        text
    };
    match report.passphrase {
        Some(_) => session.show_always(&report, text)?,
        None => session.show(&report, text)?,
    }
    Ok(Exit::Done)
}

fn usage(message: &str) -> Error {
    Error::new(ErrorKind::Usage, message)
}
