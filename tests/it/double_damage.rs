//! The danger: one damage hides another. `verify` stops at the first thing it finds, blames the wrong snapshot
//! when two objects are damaged at once, or calls sound what two wrongs seem to make right; `restore` gets
//! past a check that the other damage has broken.
//!
//! Every pair of kinds of damage, and random pairs of damaged bytes, on a small repository. Who suffers from
//! each alone is worked out without the engine (as in `damage.rs`); together they must all be named, each for
//! what is its own, within little memory. Of the pairs one in so many is tried, and some in an encrypted repository as
//! well; `PACKVAULT_FIRE=all` tries all of them in both, and many more random ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::engine::Selection;
use packvault::engine::report::VerifyReport;
use packvault::engine::restore::RestoreOptions;
use packvault::engine::verify::{VerifyOptions, verify};
use packvault::format::{BlobId, PackId, SnapshotId};
use packvault::profiles::msgvault::Msgvault;
use packvault::{ErrorKind, Result};
use packvault_storage::{ErrorKind as StorageErrorKind, Fault, FaultStorage, Key, MemoryStorage, Storage};

use crate::support::anatomy::{Repo, Role, dissect, manifest_key, pack_key};
use crate::support::hostile::Stage;
use crate::support::memory_repo::*;

/// No case may take longer; a case takes a fraction of a second.
const HANG_AFTER: Duration = Duration::from_secs(60);

/// Random pairs that are always tried, and with `PACKVAULT_FIRE=all`.
const RANDOM_PAIRS: [usize; 2] = [80, 3000];

/// Where the random pairs begin; a failure names its pair, and the same pairs come again.
const SEED: u64 = 0x0005_eed0_fda1_1a9e;

/// One pair in so many is shown to the real program too, with little memory.
const PROGRAM_EVERY: usize = 7;

/// Which of the pairs are tried in a plain repository, and which in an encrypted one as well, unless all are.
const PLAIN_EVERY: usize = 3;
const ENCRYPTED_EVERY: usize = 11;

const ROLES: [Role; 7] =
    [Role::PageBlob, Role::PageMap, Role::PageHashes, Role::List, Role::Attachment, Role::Tree, Role::Extra];

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Flip(usize, u8),
    CutTo(usize),
    Lose,
}

impl Blow {
    fn strike(self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Flip(at, bits) => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bits),
            Self::CutTo(length) => bytes.truncate(length),
            Self::Lose => return None,
        }
        Some(bytes)
    }
}

/// One damaged object, and who suffers from it if it is the only one.
#[derive(Debug, Clone)]
struct Hurt {
    kind: &'static str,
    key: Key,
    blow: Blow,
    /// Blobs that are of no use any more.
    blobs: Vec<BlobId>,
    /// Snapshots that suffer whatever their blobs are.
    broken: BTreeSet<String>,
    /// What the problems of a sufferer name, one of them.
    words: Vec<String>,
    /// What a problem that is no snapshot's alone names.
    shared: Option<String>,
}

/// A small repository, and all that is known of it.
struct Scene {
    kind: Kind,
    made: Vec<Made>,
    repo: Repo,
    objects: BTreeMap<Key, Vec<u8>>,
}

/// Two damaged objects, and who suffers.
struct Pair<'a> {
    name: String,
    hurts: [&'a Hurt; 2],
    storage: MemoryStorage,
    /// The snapshots that are still listed and suffer.
    suffer: BTreeSet<String>,
    /// The snapshots that cannot be restored, listed or not.
    lost: BTreeSet<String>,
}

impl Scene {
    async fn of(kind: Kind) -> Self {
        let (storage, _archive, made) = repository_of_kind(kind, 4).await;
        let repo = dissect(&storage);
        let objects = storage.objects().into_iter().map(|(key, bytes)| (key, bytes.to_vec())).collect();
        Self { kind, made, repo, objects }
    }

    fn hurt(&self, kind: &'static str, key: &Key, blow: Blow) -> Hurt {
        let (key, broken) = (key.clone(), BTreeSet::new());
        Hurt { kind, key, blow, blobs: vec![], broken, words: vec![], shared: None }
    }

    fn pack(&self, kind: &'static str, pack: &PackId, blow: Blow) -> Hurt {
        let (key, entries) = &self.repo.packs[pack];
        let blobs = entries.iter().map(|entry| entry.id).collect();
        Hurt { blobs, words: vec![pack.to_string()], ..self.hurt(kind, key, blow) }
    }

    fn blob(&self, kind: &'static str, blob: &BlobId, blow: Blow) -> Hurt {
        let place = &self.repo.blobs[blob];
        let words = vec![blob.to_string()];
        Hurt { blobs: vec![*blob], words, ..self.hurt(kind, &pack_key(&place.pack), blow) }
    }

    fn manifest(&self, kind: &'static str, id: &str, blow: Blow) -> Hurt {
        let through = self.repo.snapshots.iter().filter(|found| found.chain.contains(id));
        let broken = through.map(|found| found.manifest.snapshot_id.clone()).collect();
        Hurt { broken, words: vec![id.to_owned()], ..self.hurt(kind, &manifest_key(id), blow) }
    }

    fn index(&self, kind: &'static str, index: &Key, blow: Blow) -> Hurt {
        let shared = (blow != Blow::Lose).then(|| format!("index {}", index.name()));
        let words = vec!["no index names it".to_owned()];
        Hurt { words, shared, ..self.hurt(kind, index, blow) }
    }

    /// Returns one damage of each kind; the number chooses among the objects of a kind.
    fn one_of_each_kind(&self, number: usize) -> Vec<Hurt> {
        let pick = |count: usize| number % count;
        let (pack, (key, entries)) = self.repo.packs.iter().nth(pick(self.repo.packs.len())).unwrap();
        let length = self.objects[key].len();
        let in_footer = match self.kind {
            Kind::Plain => length - 40 - 61 * entries.len() + 33,
            // It is one sealed item before a trailer of 20 bytes.
            Kind::Encrypted => length - 20 - 33,
        };
        let index = self.repo.indexes.keys().nth(pick(self.repo.indexes.len())).unwrap();
        let id = &self.made[pick(self.made.len())].id;
        let mut hurts = vec![
            self.hurt("configuration cut", &key_of_config(), Blow::CutTo(30)),
            self.manifest("manifest flipped", id, Blow::Flip(100, 1)),
            self.manifest("manifest lost", id, Blow::Lose),
            self.index("index flipped", index, Blow::Flip(20, 1)),
            self.index("index cut", index, Blow::CutTo(30)),
            self.index("index lost", index, Blow::Lose),
            self.pack("pack header flipped", pack, Blow::Flip(1, 1)),
            self.pack("pack footer flipped", pack, Blow::Flip(in_footer, 1)),
            self.pack("pack trailer flipped", pack, Blow::Flip(length - 20, 1)),
            self.pack("pack cut", pack, Blow::CutTo(length / 2)),
            self.pack("pack lost", pack, Blow::Lose),
        ];
        for role in ROLES {
            let blobs = self.blobs_of(role);
            let blob = blobs[pick(blobs.len())];
            let entry = self.repo.blobs[&blob].entry;
            let at = entry.offset + entry.stored_bytes / 2;
            hurts.push(self.blob(name_of(role), &blob, Blow::Flip(at as usize, 1)));
        }
        hurts
    }

    fn blobs_of(&self, role: Role) -> Vec<BlobId> {
        let needs = self.repo.snapshots.iter().flat_map(|found| &found.needs);
        let of_role = needs.filter(|(_, roles)| roles.contains(&role)).map(|(id, _)| *id);
        let blobs: BTreeSet<BlobId> =
            of_role.filter(|id| self.repo.blobs[id].entry.stored_bytes > 0).collect();
        blobs.into_iter().collect()
    }

    /// Returns a damaged byte anywhere in any object that a snapshot needs.
    fn anywhere(&self, random: &mut Random) -> Hurt {
        let is_needed = |key: &&Key| {
            **key != key_of_config()
                && !key.name().contains(".packvault")
                && !key.as_str().starts_with("keys/")
        };
        let keys: Vec<&Key> = self.objects.keys().filter(is_needed).collect();
        let key = keys[random.below(keys.len())];
        let at = random.below(self.objects[key].len());
        let blow = match random.below(8) {
            0 => Blow::Lose,
            1 => Blow::CutTo(at),
            _ => Blow::Flip(at, 1 << random.below(8)),
        };
        if let Some(id) = key.name().strip_suffix(".mvmanifest") {
            return self.manifest("manifest", id, blow);
        }
        if self.repo.indexes.contains_key(key) {
            return self.index("index", key, blow);
        }
        let (pack, (_, entries)) = self.repo.packs.iter().find(|(_, (found, _))| found == key).unwrap();
        let is_at = |start: u64, bytes: u64| (start..start + bytes).contains(&(at as u64));
        let entry = entries.iter().find(|entry| is_at(entry.offset, entry.stored_bytes));
        match (blow, entry) {
            (Blow::Flip(..), Some(entry)) => self.blob("blob", &entry.id, blow),
            _ => self.pack("pack", pack, blow),
        }
    }

    fn pair<'a>(&self, hurts: [&'a Hurt; 2], name: String) -> Pair<'a> {
        let storage = MemoryStorage::new();
        for (key, bytes) in &self.objects {
            let mut left = Some(bytes.clone());
            for hurt in hurts.iter().filter(|hurt| hurt.key == *key) {
                left = left.and_then(|bytes| hurt.blow.strike(bytes));
            }
            if let Some(bytes) = left {
                storage.put_raw(key, bytes, SystemTime::now());
            }
        }
        let mut suffer: BTreeSet<String> = hurts.iter().flat_map(|hurt| hurt.broken.clone()).collect();
        let mut lost = suffer.clone();
        let useless: Vec<BlobId> = hurts.iter().flat_map(|hurt| &hurt.blobs).copied().collect();
        let unfound = self.unfound(hurts);
        suffer.extend(self.repo.sufferers(useless.iter().chain(&unfound)));
        lost.extend(self.repo.readers(&useless));
        lost.extend(self.repo.sufferers(&unfound));
        // A snapshot exists if and only if its manifest does.
        for hurt in hurts.iter().filter(|hurt| hurt.blow == Blow::Lose) {
            suffer.retain(|id| manifest_key(id) != hurt.key);
        }
        Pair { name, hurts, storage, suffer, lost }
    }

    /// Returns the blobs that only damaged indexes name.
    fn unfound(&self, hurts: [&Hurt; 2]) -> Vec<BlobId> {
        let is_hurt = |key: &Key| hurts.iter().any(|hurt| hurt.key == *key);
        let (hurt, whole): (Vec<_>, Vec<_>) = self.repo.indexes.iter().partition(|(key, _)| is_hurt(key));
        let elsewhere: BTreeSet<&BlobId> = whole.into_iter().flat_map(|(_, blobs)| blobs).collect();
        let named = hurt.into_iter().flat_map(|(_, blobs)| blobs);
        named.filter(|blob| !elsewhere.contains(blob)).copied().collect()
    }

    /// Returns the snapshots that suffer from the one damage, if it were alone.
    fn suffer_from(&self, hurt: &Hurt) -> BTreeSet<String> {
        self.pair([hurt, hurt], String::new()).suffer
    }

    /// Tells whether nothing is found by way of what is damaged: neither other blobs nor other snapshots.
    fn hides_nothing(&self, hurt: &Hurt) -> bool {
        use Role::{List, PageMap, Tree};
        let leads_on = |role: &Role| matches!(role, PageMap | List | Tree);
        let needs = self.repo.snapshots.iter().flat_map(|found| &found.needs);
        let mut roles = needs.filter(|(id, _)| hurt.blobs.contains(id)).flat_map(|(_, roles)| roles);
        hurt.blobs.len() == 1 && !roles.any(leads_on)
    }

    async fn judge(&self, pair: &Pair<'_>) {
        let judged = tokio::time::timeout(HANG_AFTER, async {
            self.judge_verify(pair).await;
            for (number, made) in self.made.iter().enumerate() {
                if pair.lost.contains(&made.id) || pair.hurts.iter().any(|hurt| hurt.is_config()) {
                    assert_refused(pair, made, number % 2 == 1).await;
                } else {
                    assert_comes_back(shared(&pair.storage), made, &pair.name).await;
                }
            }
        });
        judged.await.unwrap_or_else(|_| panic!("{}: hangs", pair.name));
    }

    async fn judge_verify(&self, pair: &Pair<'_>) {
        let name = &pair.name;
        let report = check(shared(&pair.storage), Selection::All, false).await;
        if pair.hurts.iter().any(|hurt| hurt.is_config()) {
            assert_eq!(report.unwrap_err().kind(), ErrorKind::Damaged, "{name}");
            return;
        }
        let report = report.unwrap_or_else(|error| panic!("{name}: no report: {error:?}"));
        let blamed: BTreeSet<String> =
            report.problems.iter().filter_map(|problem| problem.snapshot.clone()).collect();
        assert_eq!(blamed, pair.suffer, "{name}: {:#?}", report.problems);
        let told = |id: Option<&String>| {
            let own = report.problems.iter().filter(|problem| problem.snapshot.as_ref() == id);
            own.map(|problem| format!("{problem:?}\n")).collect::<String>()
        };
        for id in &pair.suffer {
            let (told, mut causes) = (told(Some(id)), pair.hurts.to_vec());
            // What suffers from one of them alone is told which.
            causes.retain(|hurt| self.suffer_from(hurt).contains(id));
            let is_named = causes.is_empty() || causes.iter().any(|hurt| hurt.is_named_in(&told));
            assert!(is_named, "{name}: {id} suffers from {causes:?}, and is told {told}");
        }
        let everything: String = report.problems.iter().map(|problem| format!("{problem:?}\n")).collect();
        for (hurt, other) in [(pair.hurts[0], pair.hurts[1]), (pair.hurts[1], pair.hurts[0])] {
            if self.hides_nothing(other) && !self.suffer_from(hurt).is_disjoint(&pair.suffer) {
                assert!(hurt.is_named_in(&everything), "{name}: {} goes unnamed: {everything}", hurt.kind);
            }
        }
        for hurt in pair.hurts {
            let named = hurt.shared.iter().all(|word| told(None).contains(word));
            assert!(named, "{name}: {:?} not in {}", hurt.shared, told(None));
        }
        let is_clean = pair.suffer.is_empty() && pair.hurts.iter().all(|hurt| hurt.shared.is_none());
        assert_eq!(report.ok, is_clean, "{name}: {:#?}", report.problems);
    }

    /// Tells whether the pair of this number is tried.
    fn is_due(&self, number: usize) -> bool {
        let every = if self.kind == Kind::Plain { PLAIN_EVERY } else { ENCRYPTED_EVERY };
        number % every == 1 || runs_everything()
    }

    /// Shows the pair to the real program, which has little memory.
    fn judge_program(&self, pair: &Pair<'_>) {
        let stage = Stage::of(pair.storage.clone(), Archive::unmade(), self.made[0].clone());
        let verified = stage.run(&["verify", "--all", "--paths"]);
        let is_shared = pair.hurts.iter().any(|hurt| hurt.shared.is_some());
        let expected = match () {
            () if pair.hurts.iter().any(|hurt| hurt.is_config()) => 1,
            () if pair.suffer.is_empty() && !is_shared => 0,
            () => 3,
        };
        assert_eq!(verified.code, Some(expected), "{}: {}", pair.name, verified.told);
        let target = stage.path("target");
        for made in self.made.iter().filter(|made| pair.lost.contains(&made.id)) {
            let restored = stage.run(&["restore", &made.id, "--target", target.to_str().unwrap()]);
            assert_eq!(restored.code, Some(1), "{}: {}", pair.name, restored.told);
            assert!(!target.exists(), "{}: the target is touched", pair.name);
        }
    }
}

impl Hurt {
    fn is_config(&self) -> bool {
        self.key == key_of_config()
    }

    /// Tells whether of the two there is only one, or none: what is lost has no bytes that could be damaged,
    /// and a bit that is flipped twice is whole again.
    fn hides(&self, other: &Self) -> bool {
        let is_lost = self.blow == Blow::Lose || other.blow == Blow::Lose;
        self.key == other.key && (is_lost || self.blow == other.blow)
    }

    fn is_named_in(&self, text: &str) -> bool {
        self.words.iter().any(|word| text.contains(word))
    }
}

fn key_of_config() -> Key {
    key("config.toml")
}

fn name_of(role: Role) -> &'static str {
    match role {
        Role::PageBlob => "pages flipped",
        Role::PageMap => "page map flipped",
        Role::PageHashes => "page hashes flipped",
        Role::List => "attachment list flipped",
        Role::Attachment => "attachment flipped",
        Role::Tree => "tree of extras flipped",
        Role::Extra => "extra flipped",
    }
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

async fn assert_refused(pair: &Pair<'_>, made: &Made, overwrite: bool) {
    let folder = scratch();
    let target = folder.path().join("target");
    if overwrite {
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("msgvault.db"), "old database").unwrap();
    }
    let before = files_below(folder.path());
    let options = RestoreOptions { target: target.clone(), overwrite, ..RestoreOptions::default() };
    let restored = bring_back_with(shared(&pair.storage), &made.id, options).await;
    let Err(error) = restored else { panic!("{}: {} was restored", pair.name, made.id) };
    let kinds = [ErrorKind::Damaged, ErrorKind::NotFound, ErrorKind::Unsupported];
    assert!(kinds.contains(&error.kind()), "{}: {error:?}", pair.name);
    assert_eq!(target.exists(), overwrite, "{}: the target is as it was", pair.name);
    assert_same_files(&files_below(folder.path()), &before, &pair.name);
}

#[test]
fn every_pair_of_kinds_of_damage_is_named_and_never_restored() {
    let runtime = runtime();
    for kind in KINDS {
        let scene = runtime.block_on(Scene::of(kind));
        let mut cases = 0;
        // The same object twice, where there is one for both, and two that differ.
        for apart in [0, 1] {
            let (first, second) = (scene.one_of_each_kind(cases), scene.one_of_each_kind(cases + apart));
            for (index, one) in first.iter().enumerate() {
                for other in second[index..].iter().filter(|other| !one.hides(other)) {
                    let what = format!("{} ({}) and {} ({})", one.kind, one.key, other.kind, other.key);
                    cases += 1;
                    if !scene.is_due(cases) {
                        continue;
                    }
                    let pair = scene.pair([one, other], format!("{kind:?}: {what}"));
                    runtime.block_on(scene.judge(&pair));
                    if cases % PROGRAM_EVERY == 1 {
                        scene.judge_program(&pair);
                    }
                }
            }
        }
        assert!(cases > 300, "{cases}");
    }
}

/// Verifies as the command does by default: databases of ordinary archives are not built to look at paths.
async fn check_blobs(storage: Arc<dyn Storage>, selection: Selection) -> Result<VerifyReport> {
    let repository = opened(storage).await?;
    let options = VerifyOptions::default();
    verify(&repository, Arc::new(Msgvault), selection, options, &context()).await
}

/// What is read a second time, to tell whose a damaged blob is, may fail where it went well before.
#[test]
fn damage_beside_a_call_that_fails_is_never_called_clean() {
    let runtime = runtime();
    let scene = runtime.block_on(Scene::of(Kind::Plain));
    let newest = &scene.made[2].id;
    for role in ROLES {
        // A blob that a snapshot deep in a chain needs, as late as there is one.
        let needs = &scene.repo.snapshots[2].needs;
        let blob =
            needs.iter().filter(|(_, roles)| roles.contains(&role)).map(|(id, _)| *id).next_back().unwrap();
        let entry = scene.repo.blobs[&blob].entry;
        let hurt = scene.blob(name_of(role), &blob, Blow::Flip(entry.offset as usize, 1));
        let storage = scene.pair([&hurt, &hurt], String::new()).storage;
        // Once more, for the pair has flipped it twice.
        let bytes = hurt.blow.strike(scene.objects[&hurt.key].clone()).unwrap();
        storage.put_raw(&hurt.key, bytes, SystemTime::now());
        for selection in [Selection::All, Selection::One(SnapshotId::parse(newest).unwrap())] {
            for kind in [StorageErrorKind::NotFound, StorageErrorKind::Io, StorageErrorKind::Timeout] {
                for number in 1.. {
                    let faulty = FaultStorage::new(shared(&copy_of(&storage)));
                    faulty.at_call(number, Fault::Before(kind));
                    let report = runtime.block_on(check_blobs(Arc::new(faulty.clone()), selection.clone()));
                    let is_clean = report.is_ok_and(|report| report.ok);
                    let at = faulty.calls().get(number as usize - 1).cloned();
                    assert!(!is_clean, "{role:?} flipped, {kind:?} at call {number}, {at:?}: called clean");
                    if faulty.call_count() < number {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn random_pairs_of_damaged_bytes_are_named_and_never_restored() {
    let runtime = runtime();
    for kind in KINDS {
        let scene = runtime.block_on(Scene::of(kind));
        let mut random = Random(SEED);
        for number in 0..RANDOM_PAIRS[usize::from(runs_everything())] {
            let (one, other) = (scene.anywhere(&mut random), scene.anywhere(&mut random));
            if one.hides(&other) || !scene.is_due(number) {
                continue;
            }
            let (first, second) = ((&one.key, one.blow), (&other.key, other.blow));
            let name = format!("{kind:?}: random pair {number}: {first:?} and {second:?}");
            let pair = scene.pair([&one, &other], name);
            runtime.block_on(scene.judge(&pair));
            if number % PROGRAM_EVERY == 0 {
                scene.judge_program(&pair);
            }
        }
    }
}
