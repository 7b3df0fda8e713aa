//! The danger: whoever looks at one file is shown what nobody checked, gets another file than a restore would bring,
//! or pays for the whole repository.
//!
//! What is shown of a snapshot is compared with the files that were captured, plain and encrypted. Requests are counted
//! by the recording storage; what the lock asks for is left out, as in `requests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use packvault::engine::inside::diff::{Change, DiffOptions, diff};
use packvault::engine::inside::dump::{DumpOptions, dump};
use packvault::engine::inside::find::{FindOptions, find};
use packvault::engine::inside::ls::{LsOptions, ls};
use packvault::engine::inside::pattern::Patterns;
use packvault::engine::inside::report::{Entry, EntryKind};
use packvault::engine::inside::sql::{More, Rows, SqlOptions, Value, sql};
use packvault::engine::inside::stats::stats;
use packvault::engine::inside::{Inside, Output, Reach, look};
use packvault::engine::{ReadLocking, Selection};
use packvault::format::index::{self, IndexEntry};
use packvault::format::{BlobId, PageMapKind, PageMapObject, Run, SnapshotId};
use packvault::{ErrorKind, Result};
use packvault_page_vfs::PageSource;
use packvault_storage::record::Call;
use packvault_storage::{Key, MemoryStorage, Operation, RecordStorage, Storage};

use crate::support::anatomy::{Role, dissect};
use crate::support::forge::Forge;
use crate::support::memory_repo::*;
use crate::support::{Scratch, archives, stderr};

/// Content that was handed out.
#[derive(Default)]
struct Taken(Mutex<Vec<u8>>);

impl Output for Taken {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
}

fn one(id: &str) -> Selection {
    Selection::One(SnapshotId::parse(id).unwrap())
}

async fn shown(storage: Arc<dyn Storage>, id: &str, path: &str, recursive: bool) -> Result<Vec<Entry>> {
    let options = LsOptions { path: path.to_owned(), recursive, ..LsOptions::default() };
    let repository = opened(storage).await?;
    ls(&repository, one(id), &options, &context()).await.map(|report| report.entries)
}

/// Returns what was handed out of a file, and how that ended.
async fn dumped(storage: Arc<dyn Storage>, id: &str, path: &str) -> (Vec<u8>, Result<()>) {
    let taken = Arc::new(Taken::default());
    let output: Arc<dyn Output> = taken.clone();
    let options = DumpOptions { path: path.to_owned(), ..DumpOptions::default() };
    let repository = opened(storage).await.unwrap();
    let ended = dump(&repository, one(id), &options, &output, &context()).await.map(drop);
    let bytes = taken.0.lock().unwrap().clone();
    (bytes, ended)
}

#[test]
fn what_is_shown_and_handed_out_is_what_was_captured() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, _archive, made) = repository_of_kind(kind, 3).await;
            for made in &made {
                let entries = shown(shared(&storage), &made.id, "", true).await.unwrap();
                let sizes: BTreeMap<String, u64> =
                    made.files.iter().map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect();
                let found: BTreeMap<String, u64> =
                    entries.iter().map(|entry| (entry.path.clone(), entry.bytes)).collect();
                assert_eq!(found, sizes, "{kind:?}");
                assert!(entries.is_sorted_by_key(|entry| entry.path.clone()), "{kind:?}");
                for (path, bytes) in &made.files {
                    let (taken, ended) = dumped(shared(&storage), &made.id, path).await;
                    ended.unwrap();
                    assert!(taken == *bytes, "{kind:?}: {path}");
                }
            }
            assert_sound(shared(&storage), "after the looks").await;
        }
    });
}

#[test]
fn a_folder_is_shown_with_what_is_in_it_and_an_attachment_by_its_hash_alone() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(1).await;
        let made = &made[0];
        let top = shown(shared(&storage), &made.id, "/", false).await.unwrap();
        let names: Vec<(&str, EntryKind)> =
            top.iter().map(|entry| (entry.path.as_str(), entry.kind)).collect();
        let folder = EntryKind::Folder;
        assert_eq!(
            names,
            [("attachments", folder), ("deletions", folder), ("msgvault.db", EntryKind::Database)]
        );
        for name in ["attachments", "deletions"] {
            let below = made.files.iter().filter(|(path, _)| path.starts_with(&format!("{name}/")));
            let sizes: Vec<u64> = below.map(|(_, bytes)| bytes.len() as u64).collect();
            let entry = top.iter().find(|entry| entry.path == name).unwrap();
            assert_eq!((entry.files, entry.bytes), (Some(sizes.len() as u64), sizes.iter().sum()), "{name}");
        }
        let inner = shown(shared(&storage), &made.id, "./deletions/", false).await.unwrap();
        assert!(inner.iter().all(|entry| entry.path.starts_with("deletions/")) && !inner.is_empty());
        assert!(inner.iter().all(|entry| entry.modified.is_some() && entry.mode.is_some()));
        let (path, bytes) = made.files.iter().find(|(path, _)| path.starts_with("attachments/")).unwrap();
        let hash = BlobId::of(bytes).to_string();
        assert!(path.ends_with(&hash));
        let (taken, ended) = dumped(shared(&storage), &made.id, &hash.to_uppercase()).await;
        ended.unwrap();
        assert!(taken == *bytes);
        for (path, kind) in [
            ("nowhere", ErrorKind::NotFound),
            ("deletions", ErrorKind::Usage),
            ("../deletions", ErrorKind::NotFound),
            ("attachments/00/00", ErrorKind::NotFound),
            (&BlobId::of(b"of nobody").to_string(), ErrorKind::NotFound),
        ] {
            let (taken, ended) = dumped(shared(&storage), &made.id, path).await;
            assert_eq!((taken.len(), ended.unwrap_err().kind()), (0, kind), "{path}");
        }
        let error = shown(shared(&storage), &made.id, "nowhere", false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn an_attachment_is_handed_out_by_the_name_that_its_application_knows() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, archive) = (MemoryStorage::new(), Archive::small());
            let database = rusqlite::Connection::open(archive.home().join("msgvault.db")).unwrap();
            let hashes: Vec<String> = {
                let stored = "SELECT DISTINCT content_hash FROM attachments WHERE attachment_state = 'stored'
                              AND storage_path NOT LIKE 'http%' AND content_hash <> '' ORDER BY 1 LIMIT 3";
                let mut statement = database.prepare(stored).unwrap();
                statement.query_map([], |row| row.get(0)).unwrap().map(|hash| hash.unwrap()).collect()
            };
            let name = "UPDATE attachments SET filename = ?1 WHERE content_hash = ?2";
            for (name_of, hash) in [("it's one.pdf", 0), ("two/of \"it\".pdf", 1), ("two/of \"it\".pdf", 2)] {
                database.execute(name, [name_of, &hashes[hash]]).unwrap();
            }
            // Twice the same, and one whose content was never fetched.
            let copy = "INSERT INTO attachments (message_id, filename, content_hash, storage_path)
                        SELECT message_id, filename, content_hash, storage_path FROM attachments
                        WHERE content_hash = ?1 LIMIT 1";
            database.execute(copy, [&hashes[0]]).unwrap();
            database
                .execute_batch(
                    "INSERT INTO attachments (message_id, filename, storage_path) VALUES (1, 'lost.pdf', '')",
                )
                .unwrap();
            database.close().unwrap();
            let made = fill_kind(kind, &storage, &archive, 1).await.remove(0);
            let path = |hash: &str| format!("attachments/{}/{hash}", &hash[..2]);
            let (taken, ended) = dumped(shared(&storage), &made.id, "it's one.pdf").await;
            ended.unwrap();
            assert!(taken == made.files[&path(&hashes[0])], "{kind:?}");
            let (taken, ended) = dumped(shared(&storage), &made.id, "two/of \"it\".pdf").await;
            let error = ended.unwrap_err();
            assert_eq!((taken.len(), error.kind()), (0, ErrorKind::Usage), "{error:?}");
            assert!(hashes[1..].iter().all(|hash| error.to_string().contains(hash)), "{error}");
            assert!(!error.to_string().contains(&hashes[0]), "{error}");
            for name in ["lost.pdf", "IT'S ONE.PDF", "it_s one%"] {
                let (taken, ended) = dumped(shared(&storage), &made.id, name).await;
                assert_eq!((taken.len(), ended.unwrap_err().kind()), (0, ErrorKind::NotFound), "{name}");
            }
        }
    });
}

/// Returns the requests that were made, but for locks and what is done around them.
fn requests(record: &RecordStorage) -> Vec<Call> {
    let calls = record.take_calls().into_iter();
    let counted = calls.filter(|call| {
        !call.object.starts_with("locks") && !matches!(call.operation, Operation::Sweep | Operation::Now)
    });
    counted.collect()
}

#[test]
fn a_look_asks_for_little_however_large_the_repository_is() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, _archive, made) = repository_of_kind(kind, 1).await;
            let path = made[0].files.keys().find(|path| path.starts_with("attachments/")).unwrap();
            assert_few_requests(&storage, &made[0].id, path).await;
        }
        // Packs that are too large to be read whole, each with its own footer.
        let archive = Archive::make(&packvault_sample::SampleOptions {
            messages: 300,
            attachments: 60,
            attachment_mean_bytes: 100_000,
            ..packvault_sample::SampleOptions::default()
        });
        for kind in KINDS {
            let storage = MemoryStorage::new();
            let made = fill_kind(kind, &storage, &archive, 1).await.remove(0);
            let largest = made.files.iter().filter(|(path, _)| path.starts_with("attachments/"));
            let (path, _) = largest.max_by_key(|(_, bytes)| bytes.len()).unwrap();
            assert_few_requests(&storage, &made.id, path).await;
            assert_few_requests(&storage, &made.id, path.rsplit('/').next().unwrap()).await;
        }
    });
}

async fn assert_few_requests(storage: &MemoryStorage, id: &str, path: &str) {
    let record = RecordStorage::new(shared(storage));
    let recorded = || Arc::new(record.clone()) as Arc<dyn Storage>;
    for (folder, recursive) in [("", false), ("", true), ("attachments", false)] {
        shown(recorded(), id, folder, recursive).await.unwrap();
        let asked = requests(&record);
        assert!(asked.len() <= 10, "ls {folder:?}: {asked:#?}");
    }
    dumped(recorded(), id, path).await.1.unwrap();
    let asked = requests(&record);
    assert!(asked.len() <= 8, "dump: {asked:#?}");
}

#[test]
fn an_index_from_which_the_length_of_a_pack_does_not_follow_hides_nothing() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(1).await;
        let (path, bytes) = made[0].files.iter().find(|(path, _)| path.starts_with("attachments/")).unwrap();
        let of_indexes = |key: &Key| key.name().ends_with(".mvidx");
        let (key, index) = storage.objects().into_iter().find(|(key, _)| of_indexes(key)).unwrap();
        let whole = index::decode(&index).unwrap();
        let needed = whole.iter().find(|entry| entry.id == BlobId::of(bytes)).unwrap();
        for left_out in whole.iter().filter(|entry| entry.pack == needed.pack && entry.id != needed.id) {
            let rest: Vec<IndexEntry> =
                whole.iter().filter(|entry| entry.id != left_out.id).copied().collect();
            storage.put_raw(&key, index::encode(&rest), SystemTime::now());
            let (taken, ended) = dumped(shared(&storage), &made[0].id, path).await;
            let lacks_list =
                ended.as_ref().is_err_and(|error| error.to_string().contains("cannot read blob"));
            assert!(lacks_list || taken == *bytes, "{ended:?}");
        }
    });
}

/// The captured file, which notes the pages that SQLite reads.
struct Noted {
    bytes: Vec<u8>,
    page_size: u64,
    pages: Mutex<Vec<u64>>,
}

impl PageSource for Noted {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let at = offset as usize;
        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
        self.pages.lock().unwrap().push(offset / self.page_size);
        true
    }
}

/// Returns the pages that the answer to a question needs, in the order in which SQLite reads them.
fn needed(database: &[u8], page_size: u64, question: &str) -> Vec<u64> {
    let noted = Arc::new(Noted { bytes: database.to_vec(), page_size, pages: Mutex::default() });
    let connection = packvault_page_vfs::open(noted.clone()).unwrap();
    connection.query_row(question, [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    noted.pages.lock().unwrap().clone()
}

#[test]
fn a_count_and_a_lookup_ask_for_little_more_than_the_pages_they_need() {
    runtime().block_on(async {
        // A page blob of 512 KiB, so that a small database has many.
        let archive = Archive::of_small_pages();
        for kind in KINDS {
            let storage = MemoryStorage::new();
            let made = fill_kind(kind, &storage, &archive, 1).await;
            let database = &made[0].files["msgvault.db"];
            for question in ["SELECT count(*) FROM messages", "SELECT subject FROM messages WHERE id = 2345"]
            {
                let trace = needed(database, 512, question);
                let (asked, blobs) = asked_for(&storage, &made[0].id, &trace).await;
                let distinct = trace.iter().collect::<BTreeSet<_>>().len();
                // One request opens the pack.
                assert!(
                    2 * (asked - 1) <= 3 * blobs,
                    "{kind:?}, {question}: {asked} requests, {blobs} blobs"
                );
                assert!(
                    2 * asked <= 3 * distinct,
                    "{kind:?}, {question}: {asked} requests, {distinct} pages"
                );
            }
        }
    });
}

/// Reads these pages one after the other; returns how many requests it took, and in how many blobs they lie.
async fn asked_for(storage: &MemoryStorage, id: &str, trace: &[u64]) -> (usize, usize) {
    let record = RecordStorage::new(shared(storage));
    let repository = opened(Arc::new(record.clone())).await.unwrap();
    let reach = (Reach::Many, ReadLocking::default());
    let work = async |inside: &Inside| {
        let pages = inside.snapshot(&one(id)).await?.pages().await?;
        requests(&record);
        let mut blobs = BTreeSet::new();
        for page in trace {
            pages.read(page * pages.page_size(), &mut [0; 100]).await?;
            blobs.insert(pages.map().blob_of(&pages.map().page(*page).unwrap()));
        }
        Ok((requests(&record).len(), blobs.len()))
    };
    look(&repository, "test", reach, &context(), work).await.unwrap().0
}

#[test]
fn a_database_whose_pages_are_scattered_is_handed_out_with_each_blob_read_once() {
    runtime().block_on(async {
        const BLOBS: usize = 24;
        let (storage, _archive, made) = repository_of(1).await;
        let database = &made[0].files["msgvault.db"];
        let mut manifest = dissect(&storage).snapshots[0].manifest.clone();
        let size = manifest.db.page_size as usize;
        let pages: Vec<&[u8]> = database.chunks_exact(size).collect();
        // Page after page lies in another blob, and all of them together are more than is kept.
        let mut forge = Forge::new(&storage, 9);
        let blobs = (0..BLOBS).map(|blob| {
            let mut raw = pages.iter().skip(blob).step_by(BLOBS).copied().collect::<Vec<_>>().concat();
            raw.resize(3 << 20, blob as u8);
            forge.blob(&raw)
        });
        let blobs: Vec<BlobId> = blobs.collect();
        let run = |page: usize| Run {
            start_page: page as u64,
            pages: 1,
            blob_index: (page % BLOBS) as u32,
            blob_offset: (page / BLOBS * size) as u64,
        };
        let map = PageMapObject {
            kind: PageMapKind::Keyframe,
            page_size: manifest.db.page_size,
            page_count: manifest.db.page_count,
            blobs,
            runs: (0..pages.len()).map(run).collect(),
        };
        manifest.db.page_map = forge.blob(&map.encode()).to_string();
        manifest.created_at = "2031-01-01T00:00:00Z".into();
        forge.seal();
        let id = forge.publish(&manifest);
        assert!(pages.len() > 2 * BLOBS, "a blob that is read for each page would show");
        let record = RecordStorage::new(shared(&storage));
        let (taken, ended) = dumped(Arc::new(record.clone()), &id, "msgvault.db").await;
        ended.unwrap();
        assert!(taken == *database);
        let pack = crate::support::anatomy::pack_key(&forge.pack()).to_string();
        let reads = record.calls().into_iter().filter(|call| call.object == pack).count();
        // One for its ends, one for the map.
        assert!(reads <= BLOBS + 2, "{reads} requests for {BLOBS} blobs");
    });
}

/// Puts a flipped byte into the frame of a blob.
pub fn damage(storage: &MemoryStorage, id: &BlobId) {
    let repo = dissect(storage);
    let place = &repo.blobs[id];
    let name = crate::support::anatomy::pack_key(&place.pack);
    let mut bytes = storage.objects().into_iter().find(|(key, _)| *key == name).unwrap().1.to_vec();
    bytes[place.entry.offset as usize + place.entry.stored_bytes as usize / 2] ^= 1;
    storage.put_raw(&name, bytes, SystemTime::now());
}

#[test]
fn what_is_damaged_is_not_handed_out_and_the_rest_is() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(1).await;
        let made = &made[0];
        let (path, bytes) = made.files.iter().find(|(path, _)| path.starts_with("attachments/")).unwrap();
        damage(&storage, &BlobId::of(bytes));
        let (taken, ended) = dumped(shared(&storage), &made.id, path).await;
        assert_eq!((taken.len(), ended.unwrap_err().kind()), (0, ErrorKind::Damaged));
        let (taken, ended) = dumped(shared(&storage), &made.id, "msgvault.db").await;
        ended.unwrap();
        assert!(taken == made.files["msgvault.db"]);
        let repo = dissect(&storage);
        let is_of_pages = |roles: &std::collections::BTreeSet<Role>| roles.contains(&Role::PageBlob);
        let pages = repo.snapshots[0].needs.iter().find(|(_, roles)| is_of_pages(roles)).unwrap().0;
        damage(&storage, pages);
        let (taken, ended) = dumped(shared(&storage), &made.id, "msgvault.db").await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Damaged);
        assert!(made.files["msgvault.db"].starts_with(&taken), "what was handed out is true");
    });
}

#[test]
fn a_large_file_is_handed_out_by_way_of_the_spool_when_all_of_it_was_checked() {
    runtime().block_on(async {
        for kind in KINDS {
            let archive = Archive::small();
            let large: Vec<u8> = crate::support::crowd::noise(1, 20 << 20);
            archive.write("deletions/large", &large);
            let storage = MemoryStorage::new();
            let made = fill_kind(kind, &storage, &archive, 1).await;
            let (taken, ended) = dumped(shared(&storage), &made[0].id, "deletions/large").await;
            ended.unwrap();
            assert!(taken == large, "{kind:?}");
            damage(&storage, &BlobId::of(&large));
            let (taken, ended) = dumped(shared(&storage), &made[0].id, "deletions/large").await;
            assert_eq!((taken.len(), ended.unwrap_err().kind()), (0, ErrorKind::Damaged), "{kind:?}");
        }
    });
}

#[test]
fn a_search_of_all_snapshots_goes_past_one_that_is_damaged() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(3).await;
        let options = |pattern: &str| FindOptions {
            patterns: Patterns::parse(&[pattern.to_owned()], false).unwrap(),
            locking: ReadLocking::default(),
        };
        let search = async |pattern: &str| {
            let repository = opened(shared(&storage)).await.unwrap();
            find(&repository, Selection::All, &options(pattern), &context()).await.unwrap()
        };
        let report = search("later.json").await;
        let found: Vec<(&str, &str)> =
            report.found.iter().map(|found| (found.snapshot.as_str(), found.entry.path.as_str())).collect();
        let later = "deletions/later.json";
        assert_eq!(found, [(made[1].id.as_str(), later), (made[2].id.as_str(), later)]);
        let manifest = key(&format!("snapshots/{}.mvmanifest", made[1].id));
        storage.put_raw(&manifest, "no manifest", SystemTime::now());
        let report = search("deletions/*.json").await;
        assert_eq!((report.snapshots, report.problems.len()), (2, 1));
        assert_eq!(report.problems[0].snapshot, made[1].id);
        assert!(report.found.iter().all(|found| found.snapshot != made[1].id));
    });
}

/// A repository in a folder, made by the program.
fn in_a_folder() -> Scratch {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    archives::make(&home, &archives::tiny());
    fs::write(home.join("deletions/\u{1b}[2J\u{202e}.json"), "{}").unwrap();
    for arguments in [&["init", "--repo", "./repo"][..], &["create", "home", "--repo", "./repo"]] {
        let output = scratch.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    scratch
}

#[test]
fn the_program_shows_finds_and_hands_out_and_nothing_moves_the_terminal() {
    let scratch = in_a_folder();
    let run = |words: &[&str]| scratch.run(&[words, &["--repo", "./repo"]].concat());
    let output = run(&["ls", "latest", "deletions"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\\u{1b}[2J\\u{202e}.json") && !text.contains('\u{1b}'), "{text}");
    let found = run(&["find", "*2J*"]);
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.contains("\\u{1b}[2J") && text.ends_with("1 match in 1 snapshot\n"), "{text}");
    let taken = run(&["dump", "msgvault.db"]);
    assert!(taken.status.success() && taken.stdout == fs::read(scratch.path("home/msgvault.db")).unwrap());
    for (words, code) in [
        (&["dump", "latest", "nothing"][..], 1),
        (&["dump", "latest", "deletions"], 2),
        (&["ls", "latest", "nothing"], 1),
        (&["ls", "nobody"], 1),
        (&["dump", "msgvault.db", "--json"], 2),
        (&["find", "--all", "latest", "x"], 2),
        (&["find", "a["], 2),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{words:?}");
        assert_eq!(
            stderr(&output).lines().filter(|line| line.starts_with("error: ")).count(),
            1,
            "{words:?}"
        );
    }
    let asked = "SELECT filename FROM attachments GROUP BY filename
                 HAVING count(DISTINCT CASE WHEN attachment_state = 'stored' THEN content_hash END) = 1 LIMIT 1";
    let asked = scratch.json(&["sql", asked, "--repo", "./repo"]);
    let named = run(&["dump", asked["rows"][0][0].as_str().unwrap()]);
    assert!(named.status.success() && !named.stdout.is_empty(), "{}", stderr(&named));
    let listed = scratch.json(&["ls", "--repo", "./repo", "-R"]);
    let taken = files_below(&scratch.path("home"));
    let is_taken =
        |path: &str| ["attachments/", "deletions/", "msgvault.db"].iter().any(|part| path.starts_with(part));
    let expected = taken.keys().filter(|path| is_taken(path)).count();
    assert_eq!(listed["entries"].as_array().unwrap().len(), expected);
}

#[test]
fn output_that_takes_no_more_is_an_error_of_one_sentence() {
    let scratch = in_a_folder();
    let words = ["dump", "msgvault.db", "--repo", "./repo"];
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = scratch.packvault(&words).stdout(full).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: cannot write to standard output\n"), "{said}");
    let mut child = scratch.packvault(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("Broken pipe"), "{}", stderr(&output));
}

/// Rows of an answer.
#[derive(Default, Clone)]
struct Answer(Arc<Mutex<Vec<String>>>);

impl Rows for Answer {
    fn columns(&mut self, _: &str, names: &[String]) -> Result<()> {
        self.0.lock().unwrap().push(names.join("|"));
        Ok(())
    }

    fn row(&mut self, values: &[Value<'_>]) -> Result<More> {
        let cell = |value: &Value<'_>| match value {
            Value::Null => "null".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(bytes) | Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        };
        self.0.lock().unwrap().push(values.iter().map(cell).collect::<Vec<_>>().join("|"));
        Ok(More::Wanted)
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

async fn asked_within(
    storage: Arc<dyn Storage>,
    id: &str,
    statement: &str,
    time: Option<Duration>,
) -> Result<Vec<String>> {
    let answer = Answer::default();
    let options = SqlOptions { statement: statement.to_owned(), time, ..SqlOptions::default() };
    let repository = opened(storage).await?;
    sql(&repository, one(id), &options, Box::new(answer.clone()), &context()).await?;
    let rows = answer.0.lock().unwrap().clone();
    Ok(rows)
}

async fn asked(storage: Arc<dyn Storage>, id: &str, statement: &str) -> Result<Vec<String>> {
    asked_within(storage, id, statement, None).await
}

/// Asks the captured file itself.
fn truth(database: &[u8], statement: &str) -> Vec<String> {
    let folder = scratch();
    let path = folder.path().join("truth.db");
    fs::write(&path, database).unwrap();
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut statement = connection.prepare(statement).unwrap();
    let columns = statement.column_count();
    let names = statement.column_names().collect::<Vec<_>>().join("|");
    let rows = statement.query_map([], |row| {
        let cells: rusqlite::Result<Vec<String>> = (0..columns)
            .map(|column| {
                Ok(match row.get::<_, rusqlite::types::Value>(column)? {
                    rusqlite::types::Value::Null => "null".to_owned(),
                    rusqlite::types::Value::Integer(number) => number.to_string(),
                    rusqlite::types::Value::Real(number) => number.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    rusqlite::types::Value::Blob(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                })
            })
            .collect();
        cells.map(|cells| cells.join("|"))
    });
    std::iter::once(names).chain(rows.unwrap().map(|row| row.unwrap())).collect()
}

#[test]
fn a_question_is_answered_as_the_captured_database_answers_it() {
    runtime().block_on(async {
        let archive = Archive::make(&packvault_sample::SampleOptions {
            messages: 300,
            attachments: 4,
            full_text: true,
            ..packvault_sample::SampleOptions::default()
        });
        for kind in KINDS {
            let storage = MemoryStorage::new();
            let made = fill_kind(kind, &storage, &archive, 3).await;
            for made in &made {
                for statement in [
                    "SELECT count(*) FROM messages",
                    "SELECT * FROM messages ORDER BY id LIMIT 5 OFFSET 100",
                    "SELECT name, rootpage FROM sqlite_schema ORDER BY name",
                    "SELECT count(*), sum(size) FROM attachments",
                    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 9) SELECT sum(i) FROM n",
                    "PRAGMA table_info(messages)",
                    "PRAGMA integrity_check",
                    "SELECT count(*) FROM messages_fts WHERE messages_fts MATCH 'a*'",
                    "SELECT count(*) FROM pragma_table_info('messages')",
                ] {
                    let answer = asked(shared(&storage), &made.id, statement).await.unwrap();
                    assert_eq!(answer, truth(&made.files["msgvault.db"], statement), "{kind:?}: {statement}");
                }
            }
            assert_sound(shared(&storage), "after the questions").await;
        }
    });
}

#[test]
fn a_question_can_only_read_its_own_database_and_ends_in_time() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(1).await;
        for (statement, kind) in [
            ("DELETE FROM messages", ErrorKind::Refused),
            ("CREATE TEMP TABLE t (a)", ErrorKind::Refused),
            ("ATTACH '/etc/passwd' AS p", ErrorKind::Refused),
            ("SELECT load_extension('x')", ErrorKind::Refused),
            ("PRAGMA journal_mode = WAL", ErrorKind::Refused),
            ("PRAGMA writable_schema = ON", ErrorKind::Refused),
            ("VACUUM INTO '/tmp/x'", ErrorKind::Refused),
            ("SELECT length(hex(zeroblob(400000000)))", ErrorKind::Refused),
            ("SELEC 1", ErrorKind::Usage),
            ("SELECT * FROM nowhere", ErrorKind::Usage),
            ("SELECT 1; SELECT 2", ErrorKind::Usage),
        ] {
            let error = asked(shared(&storage), &made[0].id, statement).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{statement}: {error:?}");
        }
        let endless =
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";
        let time = Some(Duration::from_millis(100));
        let error = asked_within(shared(&storage), &made[0].id, endless, time).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        let repository = opened(shared(&storage)).await.unwrap();
        let context = context();
        let options = SqlOptions { statement: endless.to_owned(), ..SqlOptions::default() };
        let question = sql(&repository, Selection::Latest, &options, Box::new(Answer::default()), &context);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            context.cancel.cancel();
        };
        let (answered, ()) = tokio::join!(question, stop);
        assert_eq!(answered.unwrap_err().kind(), ErrorKind::Interrupted);
    });
}

#[test]
fn a_question_names_the_page_that_is_damaged_and_asks_for_each_blob_once() {
    runtime().block_on(async {
        let archive = Archive::make(&packvault_sample::SampleOptions {
            messages: 4000,
            attachments: 0,
            full_text: false,
            ..packvault_sample::SampleOptions::default()
        });
        let storage = MemoryStorage::new();
        let made = fill(&storage, &archive, 1).await;
        let record = RecordStorage::new(shared(&storage));
        let recorded = || Arc::new(record.clone()) as Arc<dyn Storage>;
        asked(recorded(), &made[0].id, "SELECT sum(length(CAST(id AS TEXT))) FROM messages").await.unwrap();
        let counted = requests(&record).len();
        let repo = dissect(&storage);
        let is_of_pages = |roles: &std::collections::BTreeSet<Role>| roles.contains(&Role::PageBlob);
        let blobs: Vec<BlobId> = repo.snapshots[0]
            .needs
            .iter()
            .filter(|(_, roles)| is_of_pages(roles))
            .map(|(id, _)| *id)
            .collect();
        // Configuration, three lists, manifest, index, maps and the ends of packs; then at most one for each blob.
        assert!(counted <= 12 + blobs.len(), "{counted} requests, {} blobs", blobs.len());
        for id in &blobs {
            damage(&storage, id);
        }
        let error = asked(shared(&storage), &made[0].id, "SELECT count(*) FROM messages").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains("cannot read blob"), "{error}");
    });
}

#[test]
fn what_differs_between_two_snapshots_is_named_by_file_and_by_table() {
    runtime().block_on(async {
        let (storage, archive, mut made) = repository_of(1).await;
        let database = rusqlite::Connection::open(archive.home().join("msgvault.db")).unwrap();
        let long = "long ".repeat(10_000);
        database
            .execute("UPDATE messages SET subject = ?1 WHERE id = (SELECT min(id) FROM messages)", [&long])
            .unwrap();
        drop(database);
        archive.write("deletions/new.json", b"{}");
        let report = capture(shared(&storage), &archive).await.unwrap();
        made.push(Made { id: report.id.unwrap(), files: archive.expected() });
        let repository = opened(shared(&storage)).await.unwrap();
        let compare = async |before: &str, after: &str| {
            let options = DiffOptions::default();
            diff(&repository, (one(before), one(after)), &options, &context()).await.unwrap()
        };
        let same = compare(&made[0].id, &made[0].id).await;
        assert!(same.files.is_empty() && same.database.unwrap().pages_changed == 0);
        let report = compare(&made[0].id, &made[1].id).await;
        let files: Vec<(&str, Change)> =
            report.files.iter().map(|file| (file.path.as_str(), file.change)).collect();
        assert_eq!(files, [("deletions/new.json", Change::Added)]);
        let database = report.database.unwrap();
        assert_eq!(database.pages_changed, report_pages(&made));
        let trees = database.trees.unwrap();
        assert_eq!(trees.iter().map(|tree| tree.pages_changed).sum::<u64>(), database.pages_changed);
        assert_eq!(trees[0].name.as_deref(), Some("messages"), "{trees:?}");
        assert!(trees[0].pages_changed >= 50_000 / 4096, "its overflow pages too: {trees:?}");
        let back = compare(&made[1].id, &made[0].id).await;
        assert_eq!(back.files[0].change, Change::Removed);
    });
}

/// Counts the pages of the second database that the first has not, or otherwise.
fn report_pages(made: &[Made]) -> u64 {
    let [before, after] = [0, 1].map(|number: usize| &made[number].files["msgvault.db"]);
    let page = |bytes: &Vec<u8>, at: usize| bytes.get(at * 4096..(at + 1) * 4096).map(<[u8]>::to_vec);
    (0..after.len() / 4096).filter(|at| page(before, *at) != page(after, *at)).count() as u64
}

#[test]
fn amounts_are_those_of_the_manifests_and_the_packs() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(2).await;
        let repository = opened(shared(&storage)).await.unwrap();
        let report = stats(&repository, ReadLocking::default(), &context()).await.unwrap();
        let packs = dissect(&storage).packs;
        assert_eq!((report.packs, report.snapshots.len()), (packs.len() as u64, 2));
        let bytes = |folder: &str| -> u64 {
            let objects = storage.objects().into_iter();
            objects
                .filter(|(key, _)| key.as_str().starts_with(folder))
                .map(|(_, bytes)| bytes.len() as u64)
                .sum()
        };
        assert_eq!(report.pack_bytes, bytes("packs/"));
        assert_eq!(report.index_bytes, bytes("indexes/"));
        assert_eq!(report.snapshots[0].database_bytes, Some(made[0].files["msgvault.db"].len() as u64));
        assert!(report.saved.unwrap() > 1.0);
    });
}
