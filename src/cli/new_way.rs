//! The ways in that a user asks for: public keys, a passphrase, or one that is made by chance.

use std::path::{Path, PathBuf};

use clap::Args;
use packvault::format::KeyName;
use packvault::repo::keys::{self, NewWay, Passphrase, Recipient, WORK_FACTOR};
use packvault::{Error, ErrorKind, Result};

use super::session::Session;
use super::settings::given;
use super::{awaited, guard, secrets, terminal};

/// The longest file of public keys; an RSA key of 4,096 bits has 725 bytes.
const RECIPIENTS_BYTES_MAX: u64 = 256 * 1024;
/// Public keys of one command.
const RECIPIENTS_MAX: usize = 50;

/// For whom a way in is made.
#[derive(Debug, Args)]
pub struct NewWayFlags {
    /// A public key that may open it: age1…, ssh-ed25519 …, ssh-rsa …, or a file of them; may be repeated
    #[arg(long, value_name = "KEY|FILE")]
    pub recipient: Vec<String>,
    /// Make a passphrase by chance, and print it
    #[arg(long)]
    pub generate: bool,
}

impl NewWayFlags {
    /// Returns the public keys.
    pub fn recipients(&self, session: &Session) -> Result<Vec<NewWay>> {
        let mut found = Vec::new();
        for text in &self.recipient {
            match text.starts_with("age1") || text.starts_with("ssh-") || looks_private(text) {
                true => found.push(recipient(text, "--recipient")?),
                false => found.extend(recipients_of(Path::new(text), session)?),
            }
        }
        match found.len() > RECIPIENTS_MAX {
            true => Err(usage("more than 50 public keys: make the others with `packvault key add`")),
            false => Ok(found),
        }
    }
}

fn looks_private(text: &str) -> bool {
    text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") || text.starts_with("-----BEGIN")
}

fn recipient(text: &str, place: &str) -> Result<NewWay> {
    let parsed = Recipient::parse(text);
    let recipient = parsed.map_err(|error| usage(&format!("{place}: {error}")))?;
    Ok(NewWay::Recipient(recipient))
}

fn recipients_of(file: &Path, session: &Session) -> Result<Vec<NewWay>> {
    given::refuse_tilde(file, "--recipient", session.settings().user_home())?;
    let name = file.display();
    let failed = |error| {
        let message = format!("--recipient: neither a public key nor a file that can be read: {name}");
        Error::caused(ErrorKind::Usage, message, error)
    };
    let bytes = awaited::read(file, RECIPIENTS_BYTES_MAX, session.cancel(), failed)?;
    if bytes.len() as u64 > RECIPIENTS_BYTES_MAX {
        return Err(usage(&format!("--recipient: {name} is longer than any list of public keys")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| failed(std::io::Error::other(error)))?;
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let found: Vec<NewWay> = lines
        .map(|(number, line)| recipient(line, &format!("{name}, line {}", number + 1)))
        .collect::<Result<_>>()?;
    match found.is_empty() {
        true => Err(usage(&format!("--recipient: {name} holds no public key"))),
        false => Ok(found),
    }
}

/// A passphrase to be, and whether it was made by chance and must be shown.
pub struct NewPassphrase {
    /// The passphrase.
    pub passphrase: Passphrase,
    /// Whether nobody knows it yet.
    pub is_generated: bool,
}

impl NewPassphrase {
    /// Makes one by chance.
    pub fn generate() -> Result<Self> {
        guard::seal();
        Ok(Self { passphrase: keys::generate()?, is_generated: true })
    }

    /// Takes one that somebody has chosen.
    pub fn chosen(passphrase: Passphrase) -> Self {
        Self { passphrase, is_generated: false }
    }

    /// Asks for one, twice; where nobody can be asked, says what may be given instead.
    pub fn ask(session: &Session, question: &str, instead: &str) -> Result<Self> {
        guard::seal();
        match terminal::is_there() {
            true => terminal::new_passphrase(question, session.cancel()).map(Self::chosen),
            false => Err(usage(&format!(
                "no passphrase was given, and there is no terminal to ask for one: {instead}"
            ))),
        }
    }

    /// Returns the way in.
    pub fn way(&self) -> NewWay {
        NewWay::Passphrase { passphrase: self.passphrase.clone(), work_factor: WORK_FACTOR }
    }
}

/// Where the new passphrase of a key is.
#[derive(Debug, Args)]
pub struct NewPassphraseFlags {
    /// A file that holds the new passphrase
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recipient", "generate"])]
    pub new_passphrase_file: Option<PathBuf>,
    /// A program that prints the new passphrase, with its arguments; no shell runs it
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["recipient", "generate", "new_passphrase_file"])]
    pub new_passphrase_command: Option<String>,
}

impl NewPassphraseFlags {
    /// Returns the passphrase that they name.
    pub fn fetch(&self, session: &Session) -> Result<Option<NewPassphrase>> {
        guard::seal();
        let found = secrets::passphrase_of(
            self.new_passphrase_file.as_deref(),
            self.new_passphrase_command.as_deref(),
            ("--new-passphrase-file", "--new-passphrase-command"),
            session.settings().user_home(),
            session.cancel(),
        );
        Ok(found?.map(NewPassphrase::chosen))
    }
}

/// Gives each way a name: the one that was asked for, or that of its kind, and a number where several would share one.
pub fn named(ways: Vec<NewWay>, name: Option<&KeyName>) -> Result<Vec<(KeyName, NewWay)>> {
    let mut named: Vec<(KeyName, NewWay)> = Vec::new();
    for way in ways {
        let base = name.map_or(way.kind(), KeyName::as_str).to_owned();
        let candidates = std::iter::once(base.clone()).chain((2..).map(|number| format!("{base}-{number}")));
        for candidate in candidates.take(2 * RECIPIENTS_MAX) {
            let candidate = KeyName::parse(&candidate).map_err(|error| usage(&error.to_string()))?;
            if named.iter().all(|(taken, _)| *taken != candidate) {
                named.push((candidate, way));
                break;
            }
        }
    }
    Ok(named)
}

fn usage(message: &str) -> Error {
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_that_would_share_a_name_are_numbered() {
        let way =
            || recipient("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "x").unwrap();
        let names = |name: Option<&KeyName>| -> Vec<String> {
            let named = named(vec![way(), way(), way()], name).unwrap();
            named.iter().map(|(name, _)| name.to_string()).collect()
        };
        assert_eq!(names(None), ["x25519", "x25519-2", "x25519-3"]);
        assert_eq!(names(Some(&KeyName::parse("ann").unwrap())), ["ann", "ann-2", "ann-3"]);
        assert!(named(vec![way(), way()], Some(&KeyName::parse(&"x".repeat(64)).unwrap())).is_err());
    }
}
