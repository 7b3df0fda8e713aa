//! How secrets become the key of a repository: which files are tried, in which order, and at what cost.
//!
//! Identities cost nothing and are tried first, on the files whose headers name their kind. A passphrase costs
//! scrypt on every file it is tried on, so the file that opened last time comes first, then the cheapest; no
//! file may ask for more than [`WORK_FACTOR_MAX`], and all that are tried together for no more than
//! [`WORK_MAX`]. `Choice::named` says which file is meant, and then only that one is read.
//!
//! A file that opens and is of another repository is refused by name and never used: whoever laid it there would
//! have us seal under a key that is known elsewhere.

use std::io::Read as _;

use packvault_storage::Storage;
use zeroize::Zeroizing;

use super::secrets::{Ask, Passphrase, Secrets};
use super::wrap::WORK_FACTOR_MAX;
use super::{KeyFile, list, read};
use crate::format::key_file::payload;
use crate::format::{KeyHeader, KeyName, RepoId, RepositoryKey};
use crate::{Cancel, Error, ErrorKind, Result};

/// What all files together may cost on which one passphrase is tried: as much as 32 of ours.
const WORK_MAX: u64 = 1 << 22;
/// Bytes of memory that scrypt takes for each unit of its cost.
const SCRYPT_BYTES: usize = 128 * 8;
/// How many ways in are named in a message.
const NAMED_MAX: usize = 20;

/// Which key files are tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// This one alone.
    pub named: Option<&'a KeyName>,
    /// This one first: it opened the last time.
    pub preferred: Option<&'a KeyName>,
    /// Not this one.
    pub except: Option<&'a KeyName>,
}

/// A repository's key, and the way that led to it.
#[derive(Debug)]
pub struct Opened {
    /// The repository whose key it is.
    pub repository: RepoId,
    /// The key.
    pub key: RepositoryKey,
    /// The key file that was opened; `None` for a recovery key, which needs none.
    pub name: Option<KeyName>,
}

/// Finds the key of a repository with what was given.
///
/// `ErrorKind::NoKey` where nothing was given, `ErrorKind::WrongKey` where it opens nothing; both name the ways
/// in that there are. Where `config.toml` is lost nobody knows which repository it is, and the first key is taken
/// that what was given opens.
pub async fn open(
    storage: &dyn Storage,
    repository: Option<&RepoId>,
    secrets: &mut Secrets,
    choice: Choice<'_>,
    ask: &Ask<'_>,
    cancel: &Cancel,
) -> Result<Opened> {
    if let Some(opened) = recovered(repository, secrets)? {
        return Ok(opened);
    }
    let mut files = match choice.named {
        Some(name) => vec![read(storage, name).await?],
        None => list(storage).await?,
    };
    files.retain(|file| Some(&file.name) != choice.except);
    let place = storage.location();
    if secrets.is_empty() {
        let message =
            format!("the repository at {place} is encrypted, and no key was given; {}", ways(&files));
        return Err(Error::new(ErrorKind::NoKey, message));
    }
    // Right here, on the thread of the command: nothing else is under way yet, and the library's other threads
    // are free for locks and signals.
    let mut attempt = Attempt { repository, cancel, foreign: Vec::new(), refusals: Vec::new() };
    if let Some(opened) = attempt.identities(&files, secrets, ask)? {
        return Ok(opened);
    }
    if let Some(passphrase) = &secrets.passphrase
        && let Some(opened) = attempt.passphrase(&files, passphrase, choice.preferred)?
    {
        return Ok(opened);
    }
    Err(attempt.failed(&place, &files))
}

fn recovered(repository: Option<&RepoId>, secrets: &Secrets) -> Result<Option<Opened>> {
    let mut others = None;
    for (of, key) in secrets.identities.iter().filter_map(|identity| identity.recovery()) {
        match repository.is_none_or(|repository| of == repository) {
            true => return Ok(Some(Opened { repository: of.clone(), key: key.clone(), name: None })),
            false => others = Some(of),
        }
    }
    match others.zip(repository) {
        Some((of, repository)) => {
            let message = format!("the recovery key is of the repository {of}, and this one is {repository}");
            Err(Error::new(ErrorKind::WrongKey, message))
        }
        None => Ok(None),
    }
}

/// The ways in for a message.
pub(super) fn ways(files: &[KeyFile]) -> String {
    let named = files.iter().filter(|file| file.header.is_ok()).take(NAMED_MAX);
    let named: Vec<String> = named.map(|file| format!("{} ({})", file.name, file.kinds())).collect();
    match (named.is_empty(), files.len() > NAMED_MAX) {
        (true, _) => "no key file of it can be used: only its recovery key opens it".to_owned(),
        (false, false) => format!("it opens with {}", named.join(", ")),
        (false, true) => format!("it opens with {} and others", named.join(", ")),
    }
}

struct Attempt<'a> {
    repository: Option<&'a RepoId>,
    cancel: &'a Cancel,
    /// Files that opened, and are of other repositories.
    foreign: Vec<String>,
    /// Why files were not tried, or cannot be used.
    refusals: Vec<String>,
}

impl Attempt<'_> {
    fn identities(
        &mut self,
        files: &[KeyFile],
        secrets: &mut Secrets,
        ask: &Ask<'_>,
    ) -> Result<Option<Opened>> {
        for file in files {
            let Ok(header) = &file.header else { continue };
            for identity in &mut secrets.identities {
                if !header.ways.iter().any(|way| identity.fits(way)) {
                    continue;
                }
                self.cancel.check()?;
                let Some(identity) = identity.opened(ask)? else { continue };
                if let Some(opened) = self.try_one(file, identity) {
                    return Ok(Some(opened));
                }
            }
        }
        Ok(None)
    }

    fn passphrase(
        &mut self,
        files: &[KeyFile],
        passphrase: &Passphrase,
        preferred: Option<&KeyName>,
    ) -> Result<Option<Opened>> {
        let (candidates, dear) = affordable(files, preferred);
        self.refusals.extend(dear);
        for (file, work) in candidates {
            self.cancel.check()?;
            expect_memory(work)?;
            let mut identity = age::scrypt::Identity::new(passphrase.for_age());
            identity.set_max_work_factor(WORK_FACTOR_MAX);
            if let Some(opened) = self.try_one(file, &identity) {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }

    fn try_one(&mut self, file: &KeyFile, identity: &dyn age::Identity) -> Option<Opened> {
        let name = &file.name;
        let payload = match unwrap(&file.bytes, identity) {
            Ok(payload) => payload?,
            Err(why) => {
                self.refusals.push(format!("{name} is damaged ({why})"));
                return None;
            }
        };
        match payload::parse(&payload) {
            Ok((of, key)) if self.repository.is_none_or(|repository| of == *repository) => {
                Some(Opened { repository: of, key, name: Some(name.clone()) })
            }
            Ok((of, _)) => {
                tracing::warn!(target: "packvault::keys", key = name.as_str(), of = of.as_str(), "is of another repository");
                self.foreign.push(format!("{name} is the key file of another repository, {of}"));
                None
            }
            Err(error) => {
                self.refusals.push(format!("{name} cannot be used: {error}"));
                None
            }
        }
    }

    fn failed(self, place: &str, files: &[KeyFile]) -> Error {
        let mut message = format!("what was given does not open the repository at {place}; {}", ways(files));
        for why in self.foreign.iter().chain(&self.refusals).take(NAMED_MAX) {
            message.push_str("; ");
            message.push_str(why);
        }
        Error::new(ErrorKind::WrongKey, message)
    }
}

/// Returns the files a passphrase is tried on, in order, with the exponents of their costs; and why others are not.
pub(super) fn affordable<'a>(
    files: &'a [KeyFile],
    preferred: Option<&KeyName>,
) -> (Vec<(&'a KeyFile, u8)>, Vec<String>) {
    let work = |file: &KeyFile| file.header.as_ref().ok().and_then(KeyHeader::work_factor);
    let mut candidates: Vec<(&KeyFile, u8)> =
        files.iter().filter_map(|file| Some((file, work(file)?))).collect();
    candidates.sort_by_key(|(file, work)| (Some(&file.name) != preferred, *work));
    let (mut spent, mut chosen, mut refusals) = (0_u64, Vec::new(), Vec::new());
    for (file, work) in candidates {
        if work > WORK_FACTOR_MAX {
            let name = &file.name;
            refusals.push(format!("{name} asks for more work than a passphrase needs (2^{work})"));
            continue;
        }
        spent += 1 << work;
        if spent > WORK_MAX {
            refusals.push("others were not tried: name the one that is meant with --key".to_owned());
            break;
        }
        chosen.push((file, work));
    }
    (chosen, refusals)
}

/// scrypt's crate ends the program where it finds no memory.
fn expect_memory(work_factor: u8) -> Result<()> {
    let mut probe: Vec<u8> = Vec::new();
    probe.try_reserve_exact(SCRYPT_BYTES << work_factor).map_err(|error| {
        let mebibytes = (SCRYPT_BYTES << work_factor) >> 20;
        Error::caused(ErrorKind::Io, format!("trying the passphrase takes {mebibytes} MiB of memory"), error)
    })
}

/// Returns what the file wraps; `None` if the identity does not open it, an error if the file is not whole.
fn unwrap(
    file: &[u8],
    identity: &dyn age::Identity,
) -> std::result::Result<Option<Zeroizing<Vec<u8>>>, String> {
    use age::DecryptError::{DecryptionFailed, ExcessiveWork, KeyDecryptionFailed, NoMatchingKeys};
    let damaged = |error: age::DecryptError| error.to_string();
    let decryptor = age::Decryptor::new_buffered(file).map_err(damaged)?;
    let mut reader = match decryptor.decrypt(std::iter::once(identity)) {
        Ok(reader) => reader,
        Err(NoMatchingKeys | DecryptionFailed | KeyDecryptionFailed | ExcessiveWork { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(damaged(error)),
    };
    // Room for all of it, and one more byte to see whether there is more: a buffer that grows leaves copies.
    let mut payload = Zeroizing::new(vec![0; payload::PAYLOAD_BYTES + 1]);
    let mut filled = 0;
    while filled < payload.len() {
        match reader.read(&mut payload[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    payload.truncate(filled);
    Ok(Some(payload))
}
