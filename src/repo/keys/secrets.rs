//! What somebody has that opens a repository: a passphrase, identities, or the key itself on a recovery page.
//!
//! None of it is ever shown, and all of it is wiped. Where it came from is known to the command line alone.

use std::fmt;
use std::str::FromStr;

use age::secrecy::SecretString;
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::format::key_file::payload;
use crate::format::{RepoId, RepositoryKey, WayIn, recovery_page};
use crate::{Error, ErrorKind, Result};

/// The longest file of identities that is read; an RSA key of 16,384 bits has 13 KiB.
pub const IDENTITY_BYTES_MAX: u64 = 256 * 1024;
/// Identities of one file.
const IDENTITIES_MAX: usize = 100;

/// A passphrase.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Wraps a text that was read with care.
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// Returns the text. It is not to be kept.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(super) fn for_age(&self) -> SecretString {
        SecretString::from(self.0.as_str().to_owned())
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Asks the user for the passphrase of an SSH key, which the text names; `None` where nobody can be asked.
pub type Ask<'a> = dyn Fn(&str) -> Result<Option<Passphrase>> + Sync + 'a;

/// One private key.
pub struct KeyIdentity(Kind);

enum Kind {
    X25519(Box<age::x25519::Identity>),
    Ssh { identity: Box<age::ssh::Identity>, tag: String },
    SealedSsh { key: Box<age::ssh::EncryptedKey>, tag: String, file: String },
    Recovery(RepoId, RepositoryKey),
}

impl fmt::Debug for KeyIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyIdentity({}, ..)", self.kind())
    }
}

/// What was given to open a repository with.
#[derive(Debug, Default)]
pub struct Secrets {
    /// A passphrase.
    pub passphrase: Option<Passphrase>,
    /// Private keys.
    pub identities: Vec<KeyIdentity>,
}

impl Secrets {
    /// Returns whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.passphrase.is_none() && self.identities.is_empty()
    }
}

impl KeyIdentity {
    /// Reads what a file holds: age identities, one SSH private key, or a recovery page. `file` names it in
    /// errors, which hold nothing of it.
    pub fn parse_file(text: &str, file: &str) -> Result<Vec<Self>> {
        if recovery_page::is_one(text) {
            let (repository, key) =
                recovery_page::parse(text).map_err(|error| refused(file, &error.to_string()))?;
            return Ok(vec![Self(Kind::Recovery(repository, key))]);
        }
        if let Ok((repository, key)) = payload::parse(text.as_bytes()) {
            return Ok(vec![Self(Kind::Recovery(repository, key))]);
        }
        if let Some(why) = not_an_identity(text) {
            return Err(refused(file, why));
        }
        match text.trim_start().starts_with("-----BEGIN ") {
            true => Ok(vec![ssh(text, file)?]),
            false => x25519(text, file),
        }
    }

    /// Returns which kind of key it is.
    pub fn kind(&self) -> &'static str {
        match self.0 {
            Kind::X25519(_) => "age identity",
            Kind::Ssh { .. } | Kind::SealedSsh { .. } => "SSH key",
            Kind::Recovery(..) => "recovery key",
        }
    }

    /// Returns the key of the repository, if that is what it is.
    pub(super) fn recovery(&self) -> Option<(&RepoId, &RepositoryKey)> {
        match &self.0 {
            Kind::Recovery(repository, key) => Some((repository, key)),
            _ => None,
        }
    }

    /// Tells whether it may open a file of this kind.
    pub(super) fn fits(&self, way: &WayIn) -> bool {
        match (&self.0, way) {
            (Kind::X25519(_), WayIn::X25519) => true,
            (
                Kind::Ssh { tag, .. } | Kind::SealedSsh { tag, .. },
                WayIn::SshEd25519 { tag: wanted } | WayIn::SshRsa { tag: wanted },
            ) => tag == wanted,
            _ => false,
        }
    }

    /// Returns the identity as the crate knows it; asks for the passphrase of a key that has one, once.
    pub(super) fn opened(&mut self, ask: &Ask<'_>) -> Result<Option<&dyn age::Identity>> {
        if let Kind::SealedSsh { key, tag, file } = &self.0 {
            let passphrase = ask(file)?.ok_or_else(|| {
                refused(
                    file,
                    "this SSH key has a passphrase of its own, and there is no terminal to ask for it",
                )
            })?;
            let opened = key.decrypt(passphrase.for_age()).map_err(|_| {
                Error::new(ErrorKind::WrongKey, format!("the passphrase does not open the SSH key {file}"))
            })?;
            self.0 = Kind::Ssh { identity: Box::new(opened.into()), tag: tag.clone() };
        }
        Ok(match &self.0 {
            Kind::X25519(identity) => Some(identity.as_ref()),
            Kind::Ssh { identity, .. } => Some(identity.as_ref()),
            Kind::SealedSsh { .. } | Kind::Recovery(..) => None,
        })
    }
}

fn not_an_identity(text: &str) -> Option<&'static str> {
    let start = text.trim_start();
    if start.starts_with("ssh-") || start.starts_with("age1") {
        return Some("this is a public key; the private one belongs here");
    }
    if start.starts_with("age-encryption.org/") || start.starts_with("-----BEGIN AGE ENCRYPTED") {
        return Some(
            "this identity is itself encrypted; open it with `age -d` first, into a pipe or a file in memory",
        );
    }
    None
}

fn x25519(text: &str, file: &str) -> Result<Vec<KeyIdentity>> {
    let mut found = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity = age::x25519::Identity::from_str(line).map_err(|_| {
            let plugin = line.to_ascii_uppercase().starts_with("AGE-PLUGIN-");
            let why = match plugin {
                true => "is the identity of an age plugin, which packvault does not run",
                false => "is no age identity, no SSH private key and no recovery key",
            };
            refused(file, &format!("line {} {why}", number + 1))
        })?;
        found.push(KeyIdentity(Kind::X25519(Box::new(identity))));
        if found.len() > IDENTITIES_MAX {
            return Err(refused(file, "it holds more than 100 identities"));
        }
    }
    match found.is_empty() {
        true => Err(refused(file, "it holds no identity")),
        false => Ok(found),
    }
}

fn ssh(text: &str, file: &str) -> Result<KeyIdentity> {
    let no_key = || refused(file, "this is no SSH private key of a kind that age knows (ed25519, RSA)");
    let identity = age::ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|_| no_key())?;
    let public = age::ssh::Recipient::try_from(identity.clone()).map_err(|_| no_key())?;
    let (age::ssh::Recipient::SshRsa(bytes, _) | age::ssh::Recipient::SshEd25519(bytes, _)) = &public;
    let tag = base64::prelude::BASE64_STANDARD_NO_PAD.encode(&Sha256::digest(bytes)[..4]);
    Ok(KeyIdentity(match identity {
        age::ssh::Identity::Encrypted(key) => {
            Kind::SealedSsh { key: Box::new(key), tag, file: file.to_owned() }
        }
        identity => Kind::Ssh { identity: Box::new(identity), tag },
    }))
}

fn refused(file: &str, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("cannot use the identity {file}: {why}"))
}
