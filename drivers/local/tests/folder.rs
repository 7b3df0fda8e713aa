//! What lies in the folder is read by other programs and outlives crashes: wrong modes show private mail
//! to others, and leftovers in `staging/` fill the disk.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use packvault_local::{LocalConfig, LocalStorage};
use packvault_storage::{ErrorKind, Key, Prefix, Storage};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

async fn repository() -> (TempDir, PathBuf, LocalStorage) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repository");
    let storage = LocalStorage::create_root(LocalConfig::new(&root)).await.unwrap();
    (folder, root, storage)
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn staging_names(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join("staging")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b/repository");
    let storage = LocalStorage::create_root(LocalConfig::new(&root)).await.unwrap();
    storage.create(&key("locks/exclusive.json"), "bytes".into()).await.unwrap();
    storage.replace(&key("config.toml"), "bytes".into()).await.unwrap();
    let mut staged = storage.stage(&key("packs/01/a.mvpack")).await.unwrap();
    staged.write("bytes".into()).await.unwrap();
    assert_eq!(mode(&root.join("staging/a.staging")), 0o600);
    staged.seal().await.unwrap();
    storage.rename(&key("locks/exclusive.json"), &key("moved/to/releasing.json")).await.unwrap();
    storage.make_folder(&Prefix::folder("keys/empty").unwrap()).await.unwrap();
    for file in ["config.toml", "packs/01/a.mvpack", "moved/to/releasing.json"] {
        assert_eq!(mode(&root.join(file)), 0o600, "{file}");
    }
    for made in ["", "staging", "locks", "packs", "packs/01", "moved", "moved/to", "keys", "keys/empty"] {
        assert_eq!(mode(&root.join(made)), 0o700, "{made:?}");
    }
    assert_eq!(mode(&folder.path().join("a")), 0o700);
    assert_eq!(mode(&folder.path().join("a/b")), 0o700);
}

#[tokio::test]
async fn a_place_is_named_by_its_path() {
    let (_folder, root, storage) = repository().await;
    assert_eq!(storage.location(), root.display().to_string());
}

#[tokio::test]
async fn the_root_must_be_a_folder_and_is_made_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let missing = LocalConfig::new(folder.path().join("missing"));
    assert_eq!(LocalStorage::open(missing.clone()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!missing.root.exists());
    fs::write(folder.path().join("file"), "bytes").unwrap();
    for root in ["file", "file/below"] {
        let config = LocalConfig::new(folder.path().join(root));
        LocalStorage::open(config.clone()).await.unwrap_err();
        LocalStorage::create_root(config).await.unwrap_err();
    }
    let file = LocalConfig::new(folder.path().join("file"));
    assert_eq!(LocalStorage::create_root(file).await.unwrap_err().kind(), ErrorKind::Unsafe);
    LocalStorage::create_root(missing.clone()).await.unwrap();
    LocalStorage::create_root(missing).await.unwrap();
}

#[tokio::test]
async fn staging_files_have_the_names_of_the_format() {
    let (_folder, root, storage) = repository().await;
    let _pack = storage.stage(&key("packs/01/01kw.mvpack")).await.unwrap();
    let _index = storage.stage(&key("indexes/01kx.mvidx")).await.unwrap();
    let _second = storage.stage(&key("packs/01/01kw.mvpack")).await.unwrap();
    let mut names = staging_names(&root);
    names.sort();
    assert_eq!(names[1], "01kw.staging");
    for (name, start) in [(&names[0], "01kw.mvpack."), (&names[2], "01kx.mvidx.")] {
        let digits = name.strip_prefix(start).unwrap();
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
    }
}

#[tokio::test]
async fn nothing_stays_in_staging_however_a_write_ends() {
    let (_folder, root, storage) = repository().await;
    let taken = key("packs/01/taken.mvpack");
    storage.create(&taken, "bytes".into()).await.unwrap();
    storage.replace(&taken, "bytes".into()).await.unwrap();
    storage.create(&taken, "bytes".into()).await.unwrap_err();
    storage.now().await.unwrap();
    assert!(staging_names(&root).is_empty());

    for end in ["drop", "discard", "seal"] {
        let mut staged = storage.stage(&taken).await.unwrap();
        staged.write(vec![7; 3 << 20].into()).await.unwrap();
        assert_eq!(staging_names(&root), ["taken.staging"]);
        match end {
            "drop" => drop(staged),
            "discard" => staged.discard().await.unwrap(),
            _ => assert_eq!(staged.seal().await.unwrap_err().kind(), ErrorKind::AlreadyExists),
        }
        assert!(staging_names(&root).is_empty(), "after {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_create_is_done_or_not_and_leaves_nothing() {
    let (_folder, root, storage) = repository().await;
    let bytes = Bytes::from(vec![7; 8 << 20]);
    for number in 0..20 {
        let key = key(&format!("objects/{number}"));
        let limit = Duration::from_micros(number * 500);
        let _ = tokio::time::timeout(limit, storage.create(&key, bytes.clone())).await;
    }
    while !staging_names(&root).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 0..20 {
        if let Ok(found) = storage.read(&key(&format!("objects/{number}"))).await {
            assert!(found == bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_survives_another_process_that_cleans_staging() {
    let (_folder, root, storage) = repository().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let cleaner = {
        let (staging, is_over) = (root.join("staging"), Arc::clone(&is_over));
        std::thread::spawn(move || clean_until(&is_over, &staging))
    };
    for number in 0..200 {
        let key = key(&format!("objects/{number}"));
        storage.create(&key, "created".into()).await.unwrap();
        storage.replace(&key, "replaced".into()).await.unwrap();
        assert_eq!(storage.read(&key).await.unwrap(), "replaced");
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(cleaner.join().unwrap() > 0, "the cleaner never met a write");
}

/// Removes every file in the folder, and at times the folder, but no object's files more often than a write gives
/// its object another try. Returns how many files it removed.
fn clean_until(is_over: &AtomicBool, staging: &Path) -> u32 {
    let mut removed_of_object = HashMap::<String, u32>::new();
    for round in 1.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        for entry in fs::read_dir(staging).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let removed = removed_of_object.entry(name.split('.').next().unwrap().to_owned()).or_default();
            if *removed < 4 {
                *removed += u32::from(fs::remove_file(entry.path()).is_ok());
            }
        }
        if round % 50 == 0 {
            let _ = fs::remove_dir(staging);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    removed_of_object.values().sum()
}

#[tokio::test]
async fn an_upload_whose_file_was_swept_away_fails_and_shows_nothing() {
    let (_folder, root, storage) = repository().await;
    let pack = key("packs/01/swept.mvpack");
    let mut staged = storage.stage(&pack).await.unwrap();
    staged.write("bytes".into()).await.unwrap();
    fs::remove_file(root.join("staging/swept.staging")).unwrap();
    let error = staged.seal().await.unwrap_err();
    assert!(error.to_string().contains("staging"), "{error}");
    assert_eq!(storage.read(&pack).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_sweep_takes_what_is_old_and_spares_what_is_in_use() {
    let (_folder, root, storage) = repository().await;
    let staging = root.join("staging");
    fs::create_dir_all(staging.join("in-use/deep")).unwrap();
    fs::create_dir_all(staging.join("abandoned/deep")).unwrap();
    let old = SystemTime::now() - 2 * HOUR;
    for (file, is_old) in
        [("old", true), ("young", false), ("in-use/deep/young", false), ("abandoned/deep/old", true)]
    {
        fs::write(staging.join(file), "scratch").unwrap();
        if is_old {
            File::options().write(true).open(staging.join(file)).unwrap().set_modified(old).unwrap();
        }
    }
    for folder in ["in-use", "in-use/deep", "abandoned", "abandoned/deep"] {
        File::open(staging.join(folder)).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(storage.sweep(HOUR).await.unwrap().removed, 2);
    let mut names = staging_names(&root);
    names.sort();
    assert_eq!(names, ["in-use", "young"]);
    assert!(staging.join("in-use/deep/young").exists());
    assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 2);
}

#[tokio::test]
async fn a_killed_upload_is_found_by_the_sweep() {
    let (_folder, root, storage) = repository().await;
    let mut staged = storage.stage(&key("packs/01/killed.mvpack")).await.unwrap();
    staged.write(vec![7; 2 << 20].into()).await.unwrap();
    std::mem::forget(staged);
    assert_eq!(storage.sweep(HOUR).await.unwrap().removed, 0);
    assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 1);
    assert!(staging_names(&root).is_empty());
}

#[tokio::test]
async fn no_object_lies_in_staging() {
    let (_folder, root, storage) = repository().await;
    storage.now().await.unwrap();
    fs::write(root.join("staging/file"), "scratch").unwrap();
    let file = key("staging/file");
    assert_eq!(storage.read(&file).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.stat(&file).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.remove(&file).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.rename(&file, &key("a")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.create(&file, "bytes".into()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(storage.replace(&file, "bytes".into()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(storage.stage(&file).await.map(drop).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_name_too_long_for_the_file_system_is_refused_without_remains() {
    let (_folder, root, storage) = repository().await;
    let long = key(&"x".repeat(300));
    assert_eq!(storage.create(&long, "bytes".into()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(staging_names(&root).is_empty());
    let longest = key(&"x".repeat(255));
    storage.create(&longest, "bytes".into()).await.unwrap();
    assert_eq!(storage.read(&longest).await.unwrap(), "bytes");
}

#[tokio::test]
async fn nothing_is_renamed_onto_a_folder_or_to_a_name_too_long() {
    let (_folder, root, storage) = repository().await;
    storage.create(&key("locks/mine"), "bytes".into()).await.unwrap();
    for (to, kind) in [("packs/01", ErrorKind::Unsafe), (&*"x".repeat(300), ErrorKind::Unsupported)] {
        fs::create_dir_all(root.join("packs/01")).unwrap();
        let error = storage.rename(&key("locks/mine"), &key(to)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(storage.read(&key("locks/mine")).await.unwrap(), "bytes");
    }
    let error = storage.rename(&key("locks/mine"), &key("packs/01")).await.unwrap_err();
    assert!(error.to_string().contains("packs/01 is a folder"), "{error}");
}

#[tokio::test]
async fn the_time_of_an_object_is_its_files_whenever_that_was() {
    let (_folder, root, storage) = repository().await;
    storage.create(&key("old"), "bytes".into()).await.unwrap();
    let file = File::options().write(true).open(root.join("old")).unwrap();
    let epoch = SystemTime::UNIX_EPOCH;
    for time in [epoch + Duration::from_millis(1_700_000_000_250), epoch - Duration::from_millis(1250)] {
        file.set_modified(time).unwrap();
        assert_eq!(storage.stat(&key("old")).await.unwrap().modified, time);
    }
}

#[tokio::test]
async fn a_streamed_object_is_written_as_it_comes_and_small_pieces_together() {
    let (_folder, root, storage) = repository().await;
    let written = || fs::metadata(root.join("staging/a.staging")).unwrap().len();
    let mut staged = storage.stage(&key("packs/01/a.mvpack")).await.unwrap();
    for count in 1..1024 {
        staged.write("x".into()).await.unwrap();
        assert_eq!(written(), 0, "{count} pieces of a byte are worth no write");
    }
    staged.write("x".into()).await.unwrap();
    assert_eq!(written(), 1024, "no more pieces are kept");
    for mebibytes in 1..=3 {
        staged.write(Bytes::from(vec![7; 1 << 19])).await.unwrap();
        assert_eq!(written(), 1024 + (mebibytes - 1) * (1 << 20));
        staged.write(Bytes::from(vec![7; 1 << 19])).await.unwrap();
        assert_eq!(written(), 1024 + mebibytes * (1 << 20), "no more bytes are kept");
    }
    staged.seal().await.unwrap();
    assert_eq!(storage.stat(&key("packs/01/a.mvpack")).await.unwrap().size_bytes, 1024 + 3 * (1 << 20));
}
