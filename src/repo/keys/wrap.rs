//! How the key of a repository is wrapped for somebody: as an age file with one recipient.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

use bytes::Bytes;
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use super::secrets::Passphrase;
use crate::format::key_file::payload;
use crate::format::{RepoId, RepositoryKey};
use crate::{Error, ErrorKind, Result};

/// The exponent of scrypt's cost in files that are written: 128 MiB of memory, and some tenths of a second.
pub const WORK_FACTOR: u8 = 17;
/// The largest that is accepted in a file that is read: 1 GiB of memory, and some seconds.
pub const WORK_FACTOR_MAX: u8 = 20;

/// Letters of a generated passphrase: none that is taken for another, on paper or on the telephone.
const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
/// Groups of a generated passphrase, and letters of each: 125 bits.
const GROUPS: usize = 5;
const GROUP_LETTERS: usize = 5;

/// The way in that is made.
#[derive(Debug)]
pub enum NewWay {
    /// For whoever knows this passphrase.
    Passphrase {
        /// The passphrase.
        passphrase: Passphrase,
        /// The exponent of scrypt's cost; [`WORK_FACTOR`] but in tests.
        work_factor: u8,
    },
    /// For whoever has the private key.
    Recipient(Recipient),
}

/// A public key.
pub struct Recipient(Kind);

enum Kind {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

impl NewWay {
    /// Returns what a way in of this kind is called where nobody has named it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase",
            Self::Recipient(recipient) => recipient.kind(),
        }
    }
}

impl Recipient {
    /// Parses `age1…`, `ssh-ed25519 …` or `ssh-rsa …`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") || text.starts_with("-----BEGIN") {
            return Err(usage("this is a private key; the public one belongs here"));
        }
        if text.starts_with("ssh-") {
            return ssh(text).map(|recipient| Self(Kind::Ssh(recipient)));
        }
        let is_plugin = text.strip_prefix("age1").is_some_and(|rest| rest.contains('1'));
        let why = match is_plugin {
            true => "the recipient belongs to an age plugin, which packvault does not run",
            false => "the recipient is neither age1…, ssh-ed25519 … nor ssh-rsa …",
        };
        let recipient = age::x25519::Recipient::from_str(text).map_err(|_| usage(why))?;
        Ok(Self(Kind::X25519(recipient)))
    }

    /// Returns the kind of key.
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            Kind::X25519(_) => "x25519",
            Kind::Ssh(age::ssh::Recipient::SshEd25519(..)) => "ssh-ed25519",
            Kind::Ssh(age::ssh::Recipient::SshRsa(..)) => "ssh-rsa",
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.kind())
    }
}

fn ssh(text: &str) -> Result<age::ssh::Recipient> {
    use age::ssh::ParseRecipientKeyError::{RsaModulusTooLarge, RsaModulusTooSmall, Unsupported};
    // What follows the key is a comment.
    let words: Vec<&str> = text.split_ascii_whitespace().take(2).collect();
    age::ssh::Recipient::from_str(&words.join(" ")).map_err(|error| match error {
        RsaModulusTooLarge => usage("the RSA key has more than 4,096 bits, which age does not take"),
        RsaModulusTooSmall => usage("the RSA key has less than 2,048 bits, which is too weak"),
        Unsupported(_) => usage("SSH keys of this kind cannot decrypt; age takes ssh-ed25519 and ssh-rsa"),
        _ => usage("this is no SSH public key"),
    })
}

/// Wraps the key of a repository: returns the bytes of a key file.
pub fn wrap(way: &NewWay, repository: &RepoId, key: &RepositoryKey) -> Result<Bytes> {
    let payload = payload::encode(repository, key);
    let sealed = match way {
        NewWay::Passphrase { passphrase, work_factor } => {
            let mut recipient = age::scrypt::Recipient::new(passphrase.for_age());
            recipient.set_work_factor(*work_factor);
            seal(&recipient, &payload)
        }
        NewWay::Recipient(Recipient(Kind::X25519(recipient))) => seal(recipient, &payload),
        NewWay::Recipient(Recipient(Kind::Ssh(recipient))) => seal(recipient, &payload),
    };
    sealed.map(Bytes::from)
}

fn seal(recipient: &dyn age::Recipient, payload: &[u8]) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient))
        .map_err(|error| Error::new(ErrorKind::Usage, format!("cannot wrap the key: {error}")))?;
    let failed = |error| Error::caused(ErrorKind::Io, "cannot wrap the key", error);
    let mut writer = encryptor.wrap_output(&mut file).map_err(failed)?;
    writer.write_all(payload).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}

/// Makes a passphrase by chance: 125 bits, in five groups of letters and digits.
pub fn generate() -> Result<Passphrase> {
    let mut random = Zeroizing::new([0; GROUPS * GROUP_LETTERS]);
    random_bytes(random.as_mut())?;
    let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP_LETTERS + 1)));
    for group in random.chunks(GROUP_LETTERS) {
        if !text.is_empty() {
            text.push('-');
        }
        text.extend(group.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])));
    }
    Ok(Passphrase::new(text))
}

/// Makes the key of a new repository.
pub fn new_key() -> Result<RepositoryKey> {
    let mut bytes = Zeroizing::new([0; RepositoryKey::BYTES]);
    random_bytes(bytes.as_mut())?;
    Ok(RepositoryKey::from_bytes(*bytes))
}

fn random_bytes(bytes: &mut [u8]) -> Result<()> {
    let wanted = bytes.len();
    // So few bytes come in one piece, or not at all.
    match retry_on_intr(|| getrandom(&mut *bytes, GetRandomFlags::empty())) {
        Ok(filled) if filled == wanted => Ok(()),
        Ok(_) => Err(Error::new(ErrorKind::Io, "the system gives no random bytes")),
        Err(errno) => Err(Error::caused(ErrorKind::Io, "the system gives no random bytes", errno)),
    }
}

fn usage(message: &str) -> Error {
    Error::new(ErrorKind::Usage, message)
}
