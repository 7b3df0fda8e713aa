//! A power cut shows which step came too late, or never. Here every sync is noted with what the repository looked
//! like at that moment, and then the power fails after each of them: what no sync has reached is gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use packvault_storage::{Key, Operation, Step};

use crate::client::{Client, Steps, make_root};
use crate::staging::StagingFile;
use crate::{change, publish};

/// Paths and what lies there: for a file its bytes, for a folder nothing.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// One sync: of what, and what lay in its place when it had happened.
#[derive(Debug)]
struct Synced {
    inode: u64,
    entries: HashMap<String, u64>,
    bytes: Vec<u8>,
    /// Everything visible at that moment.
    visible: Tree,
}

#[derive(Debug, Default)]
struct Journal {
    root: PathBuf,
    synced: Vec<Synced>,
}

thread_local! {
    static JOURNAL: RefCell<Option<Journal>> = const { RefCell::new(None) };
}

/// Notes that a file or folder was synced, where a test listens.
pub(super) fn note(synced: &File) {
    JOURNAL.with_borrow_mut(|journal| {
        let Some(journal) = journal else { return };
        let inode = synced.metadata().unwrap().ino();
        let visible = tree(&journal.root);
        let (mut entries, mut bytes) = (HashMap::new(), Vec::new());
        for path in visible.keys().filter(|path| fs::symlink_metadata(path).unwrap().ino() == inode) {
            match &visible[path] {
                Some(content) => bytes = content.clone(),
                None => entries = entries_of(path),
            }
        }
        journal.synced.push(Synced { inode, entries, bytes, visible });
    });
}

fn entries_of(folder: &Path) -> HashMap<String, u64> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino())).collect()
}

/// Everything from the folder down, the folder included.
fn tree(folder: &Path) -> Tree {
    let mut found = Tree::from([(folder.to_owned(), None)]);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(tree(&path)),
            false => drop(found.insert(path.clone(), Some(fs::read(&path).unwrap()))),
        }
    }
    found
}

/// A repository whose every sync is noted.
struct Bench {
    _folder: tempfile::TempDir,
    root: PathBuf,
    root_inode: u64,
    client: Client,
}

impl Bench {
    fn new(steps: Steps) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("repository");
        make_root(&root).unwrap();
        let root_inode = fs::metadata(&root).unwrap().ino();
        let client = Client::open(&root, steps).unwrap();
        Self { _folder: folder, root, root_inode, client }
    }

    /// Runs the step; returns its syncs in their order.
    fn run(&self, step: impl FnOnce(&Client)) -> Vec<Synced> {
        JOURNAL.set(Some(Journal { root: self.root.clone(), synced: Vec::new() }));
        step(&self.client);
        JOURNAL.take().unwrap().synced
    }

    /// Returns what a power cut after these syncs, and no other, leaves under the key.
    fn left(&self, synced: &[Synced], key: &Key) -> Option<Vec<u8>> {
        let last = |inode: u64| synced.iter().rev().find(|synced| synced.inode == inode);
        let mut inode = self.root_inode;
        for name in key.as_str().split('/') {
            inode = *last(inode)?.entries.get(name)?;
        }
        Some(last(inode).map_or_else(Vec::new, |synced| synced.bytes.clone()))
    }

    fn visible<'a>(&self, synced: &'a Synced, key: &Key) -> Option<&'a Vec<u8>> {
        synced.visible.get(&self.root.join(key.as_str()))?.as_ref()
    }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

const EVERY_WAY: [Steps; 2] = [Steps::ALL, Steps { hard_link: false, exclusive_rename: true }];

#[test]
fn what_was_created_survives_a_power_cut_and_is_never_there_in_part() {
    let object = key("packs/ab/new.mvpack");
    let whole = b"the whole object".to_vec();
    for steps in EVERY_WAY {
        let streamed = |client: &Client| {
            let step = Step::new(Operation::Seal, object.as_str());
            let mut staging = StagingFile::begin(client, step, &object).unwrap();
            for piece in [&whole[..5], &whole[5..]] {
                staging.write(step, &[Bytes::copy_from_slice(piece)]).unwrap();
            }
            publish::publish_new(client, step, &object, staging).unwrap();
        };
        let at_once = |client: &Client| publish::create(client, &object, &whole.clone().into()).unwrap();
        let anyway = |client: &Client| publish::replace(client, &object, &whole.clone().into()).unwrap();
        for way in [&streamed as &dyn Fn(&Client), &at_once, &anyway] {
            let bench = Bench::new(steps);
            // Another process has made the folders, and whether they are durable nobody knows.
            fs::create_dir_all(bench.root.join("packs/ab")).unwrap();
            let synced = bench.run(way);
            assert_eq!(bench.left(&synced, &object), Some(whole.clone()), "{synced:#?}");
            let mut is_durable = false;
            for (count, at) in synced.iter().enumerate() {
                // Under its name, durable or not, there is nothing whose bytes were not synced before.
                if let Some(bytes) = bench.visible(at, &object) {
                    assert_eq!(bytes, &whole);
                    assert!(is_durable, "it had its name before its bytes were durable: {synced:#?}");
                }
                is_durable |= at.bytes == whole;
                let left = bench.left(&synced[..=count], &object);
                assert!(left.is_none() || left == Some(whole.clone()), "{synced:#?}");
            }
        }
    }
}

#[test]
fn what_is_replaced_is_the_old_or_the_new_at_every_power_cut() {
    let object = key("config.toml");
    let bench = Bench::new(Steps::ALL);
    let mut synced = bench.run(|client| publish::create(client, &object, &"old".into()).unwrap());
    let before = synced.len();
    synced.extend(bench.run(|client| publish::replace(client, &object, &"new".into()).unwrap()));
    for count in before..=synced.len() {
        let left = bench.left(&synced[..count], &object).unwrap();
        assert!(left == b"old" || left == b"new", "{synced:#?}");
    }
    assert_eq!(bench.left(&synced, &object).unwrap(), b"new", "{synced:#?}");
}

#[test]
fn what_is_renamed_lies_under_one_of_its_names_at_every_power_cut() {
    let (from, to) = (key("locks/exclusive.json"), key("claimed/one.json"));
    for steps in [Steps::ALL, Steps { hard_link: true, exclusive_rename: false }] {
        let bench = Bench::new(steps);
        let mut synced = bench.run(|client| publish::create(client, &from, &"held".into()).unwrap());
        let before = synced.len();
        synced.extend(bench.run(|client| change::rename(client, &from, &to).unwrap()));
        for count in before..=synced.len() {
            let left = [&from, &to].map(|key| bench.left(&synced[..count], key));
            assert!(left.contains(&Some(b"held".to_vec())), "after {count} syncs: {synced:#?}");
        }
        assert_eq!(bench.left(&synced, &from), None, "{synced:#?}");
        assert_eq!(bench.left(&synced, &to).unwrap(), b"held", "{synced:#?}");
    }
}

#[test]
fn what_was_removed_does_not_come_back_after_a_power_cut() {
    let object = key("locks/exclusive.json");
    let bench = Bench::new(Steps::ALL);
    let mut synced = bench.run(|client| publish::create(client, &object, &"held".into()).unwrap());
    synced.extend(bench.run(|client| change::remove(client, &object).unwrap()));
    assert_eq!(bench.left(&synced, &object), None, "{synced:#?}");
}

#[test]
fn a_folder_that_is_made_anew_survives_a_power_cut_as_the_first_did() {
    let object = key("packs/ab/new.mvpack");
    let bench = Bench::new(Steps::ALL);
    bench.run(|client| publish::create(client, &object, &"first".into()).unwrap());
    fs::remove_dir_all(bench.root.join("packs")).unwrap();
    let synced = bench.run(|client| publish::create(client, &object, &"second".into()).unwrap());
    let again = bench.run(|client| publish::replace(client, &object, &"third".into()).unwrap());
    let packs = fs::metadata(bench.root.join("packs")).unwrap().ino();
    assert!(synced.iter().any(|synced| synced.inode == packs && synced.entries.contains_key("ab")));
    assert!(synced.iter().any(|synced| synced.entries.get("packs") == Some(&packs)));
    assert!(again.iter().all(|synced| synced.inode != packs), "once is enough: {again:#?}");
}

#[test]
fn a_folder_that_was_asked_for_survives_a_power_cut() {
    let bench = Bench::new(Steps::ALL);
    let synced = bench.run(|client| {
        client.make_folder(Step::new(Operation::MakeFolder, "keys/empty"), "keys/empty").unwrap();
    });
    let last = |inode: u64| synced.iter().rev().find(|synced| synced.inode == inode).unwrap();
    let keys = last(bench.root_inode).entries["keys"];
    assert!(last(keys).entries.contains_key("empty"), "{synced:#?}");
}

#[test]
fn a_repository_and_the_folders_above_it_survive_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b/repository");
    JOURNAL.set(Some(Journal { root: folder.path().to_owned(), synced: Vec::new() }));
    make_root(&root).unwrap();
    let synced = JOURNAL.take().unwrap().synced;
    let mut inode = fs::metadata(folder.path()).unwrap().ino();
    for name in ["a", "b", "repository"] {
        inode = synced.iter().rev().find(|synced| synced.inode == inode).unwrap().entries[name];
    }
}
