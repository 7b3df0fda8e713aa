//! The danger: a command that is quick on a local disk asks a server once for every pack, or one thing after the
//! other, and takes hours over a line on which each request waits for its answer.
//!
//! The numbers here are those of `docs/remote.md`. What the lock asks for is left out; it is the same for every
//! command. Waiting is counted in round trips of a clock that only the waiting moves.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use packvault::engine::verify::{Depth, VerifyOptions, verify};
use packvault::engine::{Selection, list};
use packvault::format::sealed::{self, Binding};
use packvault::format::{BlobId, PackId, SnapshotId, index};
use packvault::location;
use packvault::profiles::msgvault::Msgvault;
use packvault_storage::{MemoryStorage, Operation, RecordStorage, Storage};

use crate::support::anatomy::{Repo, Role, dissect};
use crate::support::crowd::noise;
use crate::support::line::{Line, ROUND_TRIP};
use crate::support::memory_repo::*;

/// How often each operation was asked for, by the folder of its object.
type Requests = HashMap<(Operation, String), usize>;

/// What the folders of a repository are asked for: reads and lists.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reading {
    config: usize,
    snapshots: usize,
    indexes: usize,
    packs: usize,
    lists: usize,
}

impl Reading {
    fn of(requests: &Requests) -> Self {
        let reads = |folder: &str| *requests.get(&(Operation::Read, folder.to_owned())).unwrap_or(&0);
        Self {
            config: reads("config.toml"),
            snapshots: reads("snapshots"),
            indexes: reads("indexes"),
            packs: reads("packs"),
            lists: requests
                .iter()
                .filter(|((what, _), _)| *what == Operation::List)
                .map(|(_, count)| count)
                .sum(),
        }
    }
}

/// Returns what was asked for, but for locks and what is done around them.
fn requests(record: &RecordStorage) -> Requests {
    let mut requests = Requests::new();
    for call in record.take_calls() {
        let folder = call.object.split('/').next().unwrap_or_default().to_owned();
        if folder != "locks" && !matches!(call.operation, Operation::Sweep | Operation::Now) {
            *requests.entry((call.operation, folder)).or_default() += 1;
        }
    }
    requests
}

fn assert_reads_and_lists_alone(requests: &Requests) {
    let others = requests.keys().find(|(what, _)| !matches!(what, Operation::Read | Operation::List));
    assert_eq!(others, None, "{requests:?}");
}

/// The packs that hold a blob of these roles, for one snapshot or for all.
fn packs_with(repo: &Repo, snapshot: Option<&str>, wanted: impl Fn(&Role) -> bool) -> BTreeSet<PackId> {
    let chosen = repo.snapshots.iter();
    let chosen = chosen.filter(|found| snapshot.is_none_or(|id| found.manifest.snapshot_id == id));
    chosen
        .flat_map(|found| &found.needs)
        .filter(|(_, roles)| roles.iter().any(&wanted))
        .map(|(id, _)| repo.blobs[id].pack)
        .collect()
}

fn is_metadata(role: &Role) -> bool {
    matches!(role, Role::PageMap | Role::PageHashes | Role::List | Role::Tree)
}

async fn verify_all(storage: Arc<dyn Storage>, depth: Depth) {
    let repository = opened(storage).await.unwrap();
    let options = VerifyOptions { depth, paths: false, ..VerifyOptions::default() };
    let report = verify(&repository, Arc::new(Msgvault), Selection::All, options, &context()).await.unwrap();
    assert!(report.ok, "{:#?}", report.problems);
}

/// Checks every command's requests to a repository whose packs are all small enough to be read whole.
async fn assert_requests_of_every_command(
    storage: Arc<dyn Storage>,
    repo: &Repo,
    made: &[Made],
    archive: &Archive,
) {
    let record = RecordStorage::new(storage);
    let shared = || Arc::new(record.clone()) as Arc<dyn Storage>;
    let (snapshots, indexes) = (repo.snapshots.len(), repo.indexes.len());
    let everything = Reading { config: 1, snapshots, indexes, packs: repo.packs.len(), lists: 3 };

    list::list(&opened(shared()).await.unwrap()).await.unwrap();
    let found = requests(&record);
    assert_eq!(Reading::of(&found), Reading { indexes: 0, packs: 0, lists: 1, ..everything }, "list");
    assert_reads_and_lists_alone(&found);

    verify_all(shared(), Depth::Presence).await;
    let found = requests(&record);
    let packs = packs_with(repo, None, is_metadata).len();
    assert_eq!(Reading::of(&found), Reading { packs, ..everything }, "verify --presence");
    assert_reads_and_lists_alone(&found);

    verify_all(shared(), Depth::Footers).await;
    let found = requests(&record);
    assert_eq!(Reading::of(&found), everything, "verify --quick");
    assert_reads_and_lists_alone(&found);

    verify_all(shared(), Depth::Content).await;
    let found = requests(&record);
    // The manifests, and the attributes of each snapshot.
    assert_eq!(Reading::of(&found), Reading { snapshots: 2 * snapshots, ..everything }, "verify");
    assert_reads_and_lists_alone(&found);

    for (number, made) in made.iter().enumerate() {
        let target = scratch();
        bring_back(shared(), &made.id, &target.path().join("target")).await.unwrap();
        let found = requests(&record);
        let anatomy = repo.snapshots.iter().find(|found| found.manifest.snapshot_id == made.id).unwrap();
        let packs = packs_with(repo, Some(&made.id), |_| true).len();
        // The manifests of the chain, and the attributes of the snapshot.
        let expected = Reading { snapshots: anatomy.chain.len() + 1, packs, ..everything };
        assert_eq!(Reading::of(&found), expected, "restore of snapshot {number}");
        assert_reads_and_lists_alone(&found);
    }

    capture(shared(), archive).await.unwrap();
    let mut found = requests(&record);
    let newest = made.last().map(|made| made.id.as_str());
    let packs = packs_with(repo, newest, is_metadata).len();
    // The tree of extra files is not read, and its pack is one of those with maps all the same.
    // Packs, indexes and manifests are listed again before the snapshot exists.
    assert_eq!(Reading::of(&found), Reading { packs, lists: 6, ..everything }, "create");
    found.retain(|(what, _), _| !matches!(what, Operation::Read | Operation::List));
    let written: Vec<(Operation, &str, usize)> =
        found.iter().map(|((what, folder), count)| (*what, folder.as_str(), *count)).collect();
    for (what, folder) in
        [(Operation::Create, "indexes"), (Operation::Stage, "packs"), (Operation::Seal, "packs")]
    {
        assert!(written.contains(&(what, folder, 1)), "create: {written:?}");
    }
    // The manifest, and its attributes.
    assert!(written.contains(&(Operation::Create, "snapshots", 2)), "create: {written:?}");
    let others = written.iter().find(|(what, ..)| {
        !matches!(what, Operation::Create | Operation::Stage | Operation::Write | Operation::Seal)
    });
    assert_eq!(others, None, "create: {written:?}");
}

#[test]
fn every_command_asks_for_each_thing_once() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, archive, made) = repository_of_kind(kind, 5).await;
            let repo = dissect(&storage);
            assert_eq!((repo.snapshots.len(), repo.packs.len()), (5, 5));
            assert_requests_of_every_command(shared(&storage), &repo, &made, &archive).await;
        }
    });
}

#[test]
fn every_command_asks_a_local_disk_for_each_thing_once() {
    runtime().block_on(async {
        let (storage, archive, made) = repository_of(3).await;
        let folder = scratch();
        let local = copied_to(&storage, folder.path()).await;
        assert_requests_of_every_command(local, &dissect(&storage), &made, &archive).await;
    });
}

async fn copied_to(storage: &MemoryStorage, folder: &Path) -> Arc<dyn Storage> {
    let local = location::folder(&folder.join("repository")).await.unwrap();
    for (key, bytes) in storage.objects() {
        local.create(&key, bytes).await.unwrap();
    }
    local
}

/// Returns a repository with so many packs, each with these attachments; the newest snapshot needs all.
async fn crowded(packs: &[Vec<Vec<u8>>]) -> (MemoryStorage, String) {
    let (storage, _, _) = repository_of(1).await;
    let before = dissect(&storage).snapshots[0].manifest.clone();
    let id = crate::support::crowd::publish(&storage, &before, packs);
    (storage, id)
}

/// Adds so many snapshots that differ in their tags, each with a note.
async fn add_snapshots(kind: Kind, storage: &MemoryStorage, count: usize) {
    let sealed = |number: usize, binding: Binding<'_>, plain: &[u8]| match kind {
        Kind::Plain => plain.to_vec(),
        Kind::Encrypted => {
            let mut nonce = [0; 24];
            nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
            nonce[8] = u8::from(matches!(binding, Binding::Note(_)));
            sealed::seal(&repository_key(), nonce, &binding, plain)
        }
    };
    let found = opened(shared(storage)).await.unwrap().find_snapshots().await.unwrap();
    let mut manifest = found.into_iter().next().unwrap().manifest.unwrap();
    let note = r#"{"version":1,"source_problems":["torn"]}"#;
    let put_note = |number: usize, id: &str| {
        let name = format!("{id}.packvault.json");
        let note = sealed(number, Binding::Note(&name), note.as_bytes());
        storage.put_raw(&key(&format!("snapshots/{name}")), note, SystemTime::now());
    };
    put_note(0, &manifest.snapshot_id);
    for number in 1..=count {
        manifest.options.tag = format!("number {number}");
        manifest.seal_id().unwrap();
        let id = manifest.snapshot_id.clone();
        put_note(number, &id);
        let name = key(&format!("snapshots/{id}.mvmanifest"));
        let id = SnapshotId::parse(&id).unwrap();
        let bytes = sealed(number, Binding::Manifest(&id), &manifest.encode());
        storage.put_raw(&name, bytes, SystemTime::now());
    }
}

#[test]
fn a_list_asks_once_for_each_manifest_and_each_note_however_many_there_are() {
    // By hand: how long it takes, for so many snapshots.
    let by_hand = std::env::var("PACKVAULT_LIST").ok().and_then(|count| count.parse::<usize>().ok());
    let counts = by_hand.map_or(vec![40, 400], |count| vec![count]);
    for (kind, count) in KINDS.into_iter().flat_map(|kind| counts.iter().map(move |count| (kind, *count))) {
        runtime().block_on(async {
            let (storage, ..) = repository_of_kind(kind, 1).await;
            add_snapshots(kind, &storage, count - 1).await;
            let record = RecordStorage::new(shared(&storage));
            let repository = opened(Arc::new(record.clone())).await.unwrap();
            let begun = std::time::Instant::now();
            let rows = list::list(&repository).await.unwrap();
            if by_hand.is_some() {
                eprintln!("{count} snapshots, {kind:?}: {:?}", begun.elapsed());
            }
            assert_eq!(rows.len(), count);
            assert!(rows.iter().all(|row| row.problem.is_none() && row.source_problems == ["torn"]));
            let found = requests(&record);
            let once = Reading { config: 1, snapshots: 2 * count, lists: 1, ..Reading::default() };
            assert_eq!(Reading::of(&found), once);
            assert_reads_and_lists_alone(&found);
        });
    }
}

fn thousand_packs() -> Vec<Vec<Vec<u8>>> {
    (0..1000).map(|number| vec![noise(number, 2000)]).collect()
}

#[test]
fn a_verify_of_a_thousand_packs_opens_those_with_metadata_or_each_once() {
    runtime().block_on(async {
        let (storage, _) = crowded(&thousand_packs()).await;
        let record = RecordStorage::new(shared(&storage));
        verify_all(Arc::new(record.clone()), Depth::Presence).await;
        // The pack of the archive, and that of the new list.
        let present = Reading { config: 1, snapshots: 2, indexes: 2, packs: 2, lists: 3 };
        let found = requests(&record);
        assert_eq!(Reading::of(&found), present);
        assert_reads_and_lists_alone(&found);
        verify_all(Arc::new(record.clone()), Depth::Footers).await;
        let found = requests(&record);
        assert_eq!(Reading::of(&found), Reading { packs: 1002, ..present });
        assert_reads_and_lists_alone(&found);
        verify_all(Arc::new(record.clone()), Depth::Content).await;
        // Each once; those with metadata again if others were opened in between.
        let packs = Reading::of(&requests(&record)).packs;
        assert!((1002..=1004).contains(&packs), "{packs}");
    });
}

#[test]
fn a_large_pack_is_opened_with_one_request_and_read_by_few() {
    runtime().block_on(async {
        let blobs: Vec<Vec<u8>> = (0..200).map(|number| noise(number, 100_000)).collect();
        let stored: usize = blobs.iter().map(Vec::len).sum();
        let (storage, _) = crowded(&[blobs]).await;
        let record = RecordStorage::new(shared(&storage));
        verify_all(Arc::new(record.clone()), Depth::Content).await;
        let found = Reading::of(&requests(&record));
        // Ends, batches of up to 4 MiB, and one each for the small packs of the archive and the list.
        let batches = stored.div_ceil((4 << 20) - 100_000);
        assert_eq!(found.packs, 1 + batches + 2, "{found:?}");
    });
}

#[test]
fn an_index_that_names_few_blobs_of_a_pack_costs_one_more_request() {
    runtime().block_on(async {
        let blobs: Vec<Vec<u8>> = (0..2000).map(|number| noise(number, 200)).collect();
        let named: BTreeSet<BlobId> = blobs.iter().step_by(400).map(|raw| BlobId::of(raw)).collect();
        let (storage, _) = crowded(&[blobs]).await;
        let (key, bytes) =
            storage.objects().into_iter().find(|(key, _)| key.name().ends_with(".mvidx")).unwrap();
        let mut entries = index::decode(&bytes).unwrap();
        let pack = entries.iter().find(|entry| named.contains(&entry.id)).unwrap().pack;
        entries.retain(|entry| entry.pack != pack || named.contains(&entry.id));
        storage.put_raw(&key, index::encode(&entries), SystemTime::now());
        let record = RecordStorage::new(shared(&storage));
        let report = check(Arc::new(record.clone()), Selection::All, false).await.unwrap();
        assert!(report.problems.iter().all(|problem| problem.detail.contains("no index names it")));
        assert_eq!(report.problems.len(), 2000 - named.len());
        let pack = crate::support::anatomy::pack_key(&pack).to_string();
        let reads = record.calls().into_iter().filter(|call| call.object == pack).count();
        // The ends, the footer that is longer than the index lets expect, and what is wanted.
        assert_eq!(reads, 2 + named.len());
    });
}

/// Runs on a clock that stands still but for waiting, and returns the round trips that were waited for.
fn round_trips<T>(work: impl Future<Output = T>) -> u32 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let begun = tokio::time::Instant::now();
        work.await;
        begun.elapsed().div_duration_f64(ROUND_TRIP).round() as u32
    })
}

/// The round trips of a verify that are not waited for beside others: lock, lists, manifests, indexes, maps.
const ONE_AFTER_THE_OTHER: u32 = 40;

#[test]
fn many_packs_are_opened_at_once() {
    let (storage, _) = runtime().block_on(crowded(&thousand_packs()));
    for depth in [Depth::Content, Depth::Footers] {
        let line = Line::to(shared(&storage));
        let waited = round_trips(verify_all(Arc::new(line.clone()), depth));
        assert!(line.requests() > 1000);
        assert!(
            waited <= 1000 / 16 + ONE_AFTER_THE_OTHER,
            "{depth:?}: {waited} round trips for {} requests",
            line.requests()
        );
        assert!((16..=32).contains(&line.most_under_way()), "{depth:?}: {} at once", line.most_under_way());
    }
}

#[test]
fn many_batches_of_one_pack_are_fetched_at_once() {
    let blobs: Vec<Vec<u8>> = (0..32).map(|number| noise(number, 2 << 20)).collect();
    let (storage, _) = runtime().block_on(crowded(&[blobs]));
    let line = Line::to(shared(&storage));
    let waited = round_trips(verify_all(Arc::new(line.clone()), Depth::Content));
    // 16 batches of 4 MiB in a budget of 32 MiB.
    assert!(waited <= ONE_AFTER_THE_OTHER, "{waited} round trips for {} requests", line.requests());
    assert!((7..=32).contains(&line.most_under_way()), "{} at once", line.most_under_way());
}

/// What a blob takes once it is decoded keeps nothing off the line while its bytes are on their way.
#[test]
fn blobs_that_are_much_larger_than_their_frames_fill_the_line_too() {
    let page_blob = |number| [noise(number, 1 << 20), vec![0; 3 << 20]].concat();
    let blobs: Vec<Vec<u8>> = (0..64).map(page_blob).collect();
    let (storage, _) = runtime().block_on(crowded(&[blobs]));
    let line = Line::to(shared(&storage));
    let waited = round_trips(verify_all(Arc::new(line.clone()), Depth::Content));
    // 16 batches of four, of little more than 4 MiB each, in a budget of 32 MiB.
    assert!(line.most_under_way() >= 7, "{} at once", line.most_under_way());
    assert!(waited <= ONE_AFTER_THE_OTHER - 10, "{waited} round trips for {} requests", line.requests());
}

#[test]
fn pieces_of_one_large_blob_are_fetched_at_once() {
    let mut packs = vec![vec![noise(1, 240 << 20)]];
    let (storage, _) = runtime().block_on(crowded(&packs));
    packs.clear();
    let line = Line::to(shared(&storage));
    let waited = round_trips(verify_all(Arc::new(line.clone()), Depth::Content));
    assert!(line.requests() > 120, "{} requests", line.requests());
    assert!(waited <= 120 / 7 + ONE_AFTER_THE_OTHER, "{waited} round trips for {} requests", line.requests());
    assert!((7..=32).contains(&line.most_under_way()), "{} at once", line.most_under_way());
}

#[test]
fn the_metadata_of_many_snapshots_is_fetched_ahead() {
    let (storage, _archive, _) = runtime().block_on(repository_of(24));
    let metadata = packs_with(&dissect(&storage), None, is_metadata).len() as u32;
    let line = Line::to(shared(&storage));
    let waited = round_trips(verify_all(Arc::new(line.clone()), Depth::Presence));
    assert!(metadata >= 20, "{metadata} packs with metadata");
    assert!(waited <= ONE_AFTER_THE_OTHER - 10, "{waited} round trips, {metadata} packs with metadata");
}
