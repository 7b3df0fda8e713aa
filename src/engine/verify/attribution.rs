//! Which snapshots suffer from a finding. Runs only when there is one, and reads what the snapshots share once.

use std::collections::{HashMap, HashSet};

use super::checks::{Fault, Finding};
use super::pages::WrongPage;
use crate::engine::chain::{self, Manifests, RollingHashes, RollingMap};
use crate::engine::metadata::MetadataReader;
use crate::engine::report::VerifyProblem;
use crate::format::{BlobId, Manifest, PageHashes, PageMap};
use crate::{Error, Result};

/// The blobs of one snapshot that have findings, each with what it is to the snapshot.
type Roles = HashMap<BlobId, &'static str>;

/// Lays findings to the snapshots that need the blobs.
pub struct Attribution<'a, 'r> {
    manifests: &'a mut Manifests<'r>,
    /// The chains of the snapshot at hand.
    halves: (RollingMap, RollingHashes),
    /// Whether a page is wrong, so that what pages hash to matters.
    knows_wrong_pages: bool,
    reader: &'a MetadataReader,
    findings: HashMap<BlobId, Vec<Finding>>,
    /// For each list and tree, those of its blobs that have findings.
    holdings: HashMap<BlobId, HashSet<BlobId>>,
}

impl<'a, 'r> Attribution<'a, 'r> {
    /// Takes the findings.
    pub fn new(manifests: &'a mut Manifests<'r>, reader: &'a MetadataReader, found: Vec<Finding>) -> Self {
        let knows_wrong_pages = found.iter().any(|finding| matches!(finding.fault, Fault::Page(_)));
        let mut findings: HashMap<BlobId, Vec<Finding>> = HashMap::new();
        for finding in found {
            findings.entry(finding.blob).or_default().push(finding);
        }
        let (halves, holdings) = (Default::default(), HashMap::new());
        Self { manifests, halves, knows_wrong_pages, reader, findings, holdings }
    }

    /// Returns the problems of one snapshot.
    pub async fn of(&mut self, manifest: &Manifest) -> Result<Vec<VerifyProblem>> {
        let mut roles = Roles::new();
        let mut problems = Vec::new();
        let mut objects = HashSet::new();
        self.note_maps(manifest, &mut roles, &mut problems).await?;
        for list in manifest.lists().unwrap_or_default() {
            objects.insert(list);
            self.note_list(list, &mut roles).await?;
        }
        if let Ok(Some(tree)) = manifest.extras_tree() {
            objects.insert(tree);
            self.note_tree(tree, &mut roles).await?;
        }
        let artifacts = manifest.auxiliary.iter().filter_map(|artifact| artifact.blob().ok());
        let metadata = manifest.metadata.iter().filter_map(|metadata| metadata.blob().ok());
        let own: HashSet<BlobId> = artifacts.chain(metadata).collect();
        own.iter().for_each(|id| self.note(*id, "artifact", &mut roles));
        for (blob, role) in &roles {
            for finding in &self.findings[blob] {
                let detail = match &finding.fault {
                    Fault::Unreadable(detail, _) => detail,
                    Fault::Length(Some(object), detail) if objects.contains(object) => detail,
                    Fault::Length(None, detail) if own.contains(blob) => detail,
                    Fault::Length(..) | Fault::Page(_) => continue,
                };
                problems.push(self.problem(manifest, role, finding, detail.clone()));
            }
        }
        Ok(problems)
    }

    async fn note_maps(
        &mut self,
        manifest: &Manifest,
        roles: &mut Roles,
        problems: &mut Vec<VerifyProblem>,
    ) -> Result<()> {
        if manifest.metadata.is_some() {
            return Ok(());
        }
        // What is wrong with the chain itself has been reported by the survey.
        let Some(links) = known(chain::links(self.manifests, manifest).await)? else { return Ok(()) };
        for link in &links {
            self.note(link.page_map, "page map", roles);
            self.note(link.page_hashes, "page-hash map", roles);
        }
        // Taken out while they are looked at; each object is read once, for the next snapshot builds on them.
        let (mut maps, mut hashes) = std::mem::take(&mut self.halves);
        let map = known(maps.advance(self.reader, manifest, &links).await)?;
        let hashes_now = match self.knows_wrong_pages {
            true => known(hashes.advance(self.reader, manifest, &links).await)?,
            false => None,
        };
        if let Some(map) = map {
            map.blobs().for_each(|blob| self.note(*blob, "page blob", roles));
            if let Some(hashes) = hashes_now {
                self.note_pages(manifest, map, hashes, problems);
            }
        }
        self.halves = (maps, hashes);
        Ok(())
    }

    fn note_pages(
        &self,
        manifest: &Manifest,
        map: &PageMap,
        hashes: &PageHashes,
        problems: &mut Vec<VerifyProblem>,
    ) {
        for run in map.runs() {
            let found = self.findings.get(&map.blob_of(run)).into_iter().flatten();
            let wrong = found.filter_map(|finding| match finding.fault {
                Fault::Page(wrong) => Some((finding, wrong)),
                _ => None,
            });
            let mut pages = wrong.filter_map(|(finding, wrong)| {
                let page = page_at(&wrong, run, map.page_size())?;
                (hashes.get(page) != wrong.found.as_ref()).then_some((finding, page, wrong.found))
            });
            // The first wrong page of a run says enough.
            if let Some((finding, page, found)) = pages.next() {
                let detail = match found {
                    Some(_) => format!("page {page} is not what the page-hash map says"),
                    None => format!("page {page} is not there: the blob ends before it"),
                };
                problems.push(self.problem(manifest, "page blob", finding, detail));
            }
        }
    }

    fn note(&self, id: BlobId, role: &'static str, roles: &mut Roles) {
        if self.findings.contains_key(&id) {
            roles.entry(id).or_insert(role);
        }
    }

    async fn note_list(&mut self, list: BlobId, roles: &mut Roles) -> Result<()> {
        self.note(list, "attachment list", roles);
        if !self.holdings.contains_key(&list) {
            let entries = known(self.reader.attachment_list(&list).await)?.unwrap_or_default();
            self.hold(list, entries.into_iter().map(|entry| entry.id));
        }
        self.holdings[&list].iter().for_each(|id| self.note(*id, "attachment", roles));
        Ok(())
    }

    async fn note_tree(&mut self, tree: BlobId, roles: &mut Roles) -> Result<()> {
        self.note(tree, "extras tree", roles);
        if !self.holdings.contains_key(&tree) {
            let entries = known(self.reader.extras_tree(&tree).await)?.unwrap_or_default();
            self.hold(tree, entries.into_iter().map(|entry| entry.blob));
        }
        self.holdings[&tree].iter().for_each(|id| self.note(*id, "extra file", roles));
        Ok(())
    }

    fn hold(&mut self, object: BlobId, held: impl Iterator<Item = BlobId>) {
        let held = held.filter(|id| self.findings.contains_key(id)).collect();
        self.holdings.insert(object, held);
    }

    /// Returns what is wrong with blobs that no problem names: what was needed to tell whose they are could be
    /// read before, and now cannot.
    pub fn nobodys(&self, named: &[VerifyProblem]) -> Vec<VerifyProblem> {
        let named: HashSet<&str> = named.iter().filter_map(|problem| problem.blob.as_deref()).collect();
        let unnamed = self.findings.iter().filter(|(blob, _)| !named.contains(blob.to_string().as_str()));
        let problem = |finding: &Finding| VerifyProblem {
            blob: Some(finding.blob.to_string()),
            pack: self.pack_of(finding),
            kind: finding.kind(),
            detail: match &finding.fault {
                Fault::Unreadable(detail, _) | Fault::Length(_, detail) => detail.clone(),
                Fault::Page(_) => "a page in it is not what a page-hash map says".to_owned(),
            },
            ..VerifyProblem::default()
        };
        unnamed.flat_map(|(_, findings)| findings.first()).map(problem).collect()
    }

    fn pack_of(&self, finding: &Finding) -> Option<String> {
        let pack = finding.pack.or_else(|| self.reader.store().pack_of(&finding.blob));
        pack.map(|pack| pack.to_string())
    }

    fn problem(&self, manifest: &Manifest, role: &str, finding: &Finding, detail: String) -> VerifyProblem {
        VerifyProblem {
            snapshot: Some(manifest.snapshot_id.clone()),
            object: Some(role.to_owned()),
            blob: Some(finding.blob.to_string()),
            pack: self.pack_of(finding),
            detail,
            kind: finding.kind(),
        }
    }
}

/// Returns what was read; nothing where it is damaged, which the survey has reported.
fn known<T, E: Into<Error>>(read: std::result::Result<T, E>) -> Result<Option<T>> {
    match read.map_err(Into::into) {
        Ok(read) => Ok(Some(read)),
        Err(error) if super::is_fatal(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Returns the page of the run that lies at the wrong place, if one does.
fn page_at(wrong: &WrongPage, run: &crate::format::Run, page_size: u32) -> Option<u64> {
    let into = wrong.offset.checked_sub(run.blob_offset)?;
    let page_size = u64::from(page_size);
    let position = into / page_size;
    let is_there = into.is_multiple_of(page_size) && position < u64::from(run.pages);
    is_there.then_some(run.start_page + position)
}
