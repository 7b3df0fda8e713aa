//! Whether everything that a snapshot reaches is there, asked once more before the snapshot exists.
//!
//! A capture takes hours, and what was there when it began may be gone: a disk, another program, a hand. So packs,
//! indexes and manifests are listed again when all is written, and whatever was relied on must be there with the
//! length it had. What is missing makes the capture fail, and no snapshot is listed that nobody can restore; the
//! next capture stores again what is lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::join;

use super::known::KnownBlobs;
use crate::archive::profile::Profile;
use crate::engine::{Context, verify};
use crate::format::Manifest;
use crate::repo::Repository;
use crate::repo::indexes::Claim;
use crate::{Error, ErrorKind, Result};

/// What a snapshot was built on and what was written for it.
pub struct Reach<'a> {
    /// The blobs that were not stored again.
    pub known: &'a KnownBlobs,
    /// What was written, as its index says.
    pub written: &'a [Claim],
    /// The index that names what was written; empty if nothing was.
    pub index: &'a str,
    /// The snapshots that its chain goes through.
    pub chain: &'a [String],
}

impl Reach<'_> {
    /// Fails if anything is not there any more. The index of what was written must be published before.
    pub async fn confirm(&self, repository: &Repository) -> Result<()> {
        let (packs, indexes, snapshots) =
            join!(repository.pack_lengths(), repository.list_indexes(), repository.list_snapshots());
        let (packs, indexes, snapshots) = (packs?, indexes?, snapshots?);
        let relied_on = self.known.relied_on().map(|(claim, _)| claim);
        if let Some(lost) = self.written.iter().chain(relied_on).find(|claim| !claim.is_sound(&packs)) {
            let found = packs
                .get(&lost.pack)
                .map(|bytes| format!("has {bytes} bytes instead of {}", lost.implied_bytes));
            return Err(gone(&format!("pack {}", lost.pack), found));
        }
        let indexes: HashMap<&str, u64> =
            indexes.iter().map(|index| (index.name.as_str(), index.bytes)).collect();
        for (_, file) in self.known.relied_on() {
            let found = indexes.get(file.name.as_str());
            if found != Some(&file.bytes) {
                let found = found.map(|bytes| format!("has {bytes} bytes instead of {}", file.bytes));
                return Err(gone(&format!("index {}", file.name), found));
            }
        }
        if !self.index.is_empty() && !indexes.contains_key(format!("{}.mvidx", self.index).as_str()) {
            return Err(gone(&format!("index {}", self.index), None));
        }
        let snapshots: HashSet<&str> = snapshots.names().collect();
        match self.chain.iter().find(|id| !snapshots.contains(id.as_str())) {
            Some(lost) => Err(gone(&format!("the manifest of snapshot {lost}"), None)),
            None => Ok(()),
        }
    }
}

fn gone(what: &str, found: Option<String>) -> Error {
    let found = found.unwrap_or_else(|| "is not in the repository any more".to_owned());
    let message = format!(
        "no snapshot was made: it needs {what}, which {found}; run the command again, and what is lost is stored again"
    );
    Error::new(ErrorKind::Damaged, message)
}

/// Reads everything that the snapshot reaches back from the store and compares it, as a verify would.
pub async fn read_back(
    repository: &Repository,
    profile: &Arc<dyn Profile>,
    manifest: &Manifest,
    context: &Context,
) -> Result<()> {
    let problems = verify::read_back(repository, profile.clone(), manifest, context).await?;
    let Some(first) = problems.first() else { return Ok(()) };
    let more = match problems.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more problems"),
    };
    let named = [("blob", &first.blob), ("pack", &first.pack)];
    let named = named.iter().filter_map(|(noun, name)| Some(format!("{noun} {}: ", name.as_ref()?)));
    let message = format!(
        "no snapshot was made: what it needs was read back and is damaged: {}{}{more}",
        named.collect::<String>(),
        first.detail
    );
    Err(Error::new(ErrorKind::Damaged, message))
}
