//! Whoever may write into a repository's folder can plant a link, a fifo or a device there. Following it
//! would read or destroy files elsewhere, or wait for ever.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures::TryStreamExt;
use packvault_local::{LocalConfig, LocalStorage};
use packvault_storage::{ErrorKind, Key, ListedObject, Prefix, Result, Storage};
use tempfile::TempDir;

/// A repository beside a folder that nothing in it may reach.
struct Bench {
    folder: TempDir,
    storage: LocalStorage,
}

async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("outside")).unwrap();
    fs::write(folder.path().join("outside/precious"), "precious").unwrap();
    let storage =
        LocalStorage::create_root(LocalConfig::new(folder.path().join("repository"))).await.unwrap();
    Bench { folder, storage }
}

impl Bench {
    fn inside(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join("repository").join(path)
    }

    fn outside(&self) -> std::path::PathBuf {
        self.folder.path().join("outside")
    }

    fn assert_outside_is_untouched(&self) {
        assert_eq!(fs::read_dir(self.outside()).unwrap().count(), 1);
        assert_eq!(fs::read(self.outside().join("precious")).unwrap(), b"precious");
    }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn folder(text: &str) -> Prefix {
    Prefix::folder(text).unwrap()
}

async fn listed(storage: &LocalStorage, prefix: &Prefix) -> Result<Vec<ListedObject>> {
    storage.list(prefix).try_collect().await
}

/// The refusal must say where the trap lies.
fn assert_unsafe<T: std::fmt::Debug>(result: Result<T>, path: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsafe, "{error}");
    assert!(error.to_string().contains(path), "{error}");
}

async fn assert_every_step_is_refused(storage: &LocalStorage, key: &Key, trap: &str) {
    let elsewhere = Key::parse("elsewhere").unwrap();
    assert_unsafe(storage.read(key).await, trap);
    assert_unsafe(storage.read_range(key, 0..1).await, trap);
    assert_unsafe(storage.read_ranges(key, &[0..1, 2..3]).await, trap);
    assert_unsafe(storage.stat(key).await, trap);
    assert_unsafe(storage.create(key, "bytes".into()).await, trap);
    assert_unsafe(storage.stage(key).await.unwrap().seal().await, trap);
    assert_unsafe(storage.replace(key, "bytes".into()).await, trap);
    assert_unsafe(storage.touch(key, b"precious").await, trap);
    assert_unsafe(storage.rename(key, &elsewhere).await, trap);
    assert_unsafe(storage.remove(key).await, trap);
}

#[tokio::test]
async fn a_link_in_place_of_an_object_is_refused() {
    let bench = bench().await;
    for target in [bench.outside().join("precious"), bench.outside(), bench.outside().join("nothing")] {
        symlink(&target, bench.inside("config.toml")).unwrap();
        assert_every_step_is_refused(&bench.storage, &key("config.toml"), "is a symbolic link").await;
        assert_unsafe(listed(&bench.storage, &Prefix::root()).await, "config.toml");
        bench.storage.create(&key("a"), "bytes".into()).await.unwrap();
        assert_unsafe(bench.storage.rename(&key("a"), &key("config.toml")).await, "config.toml");
        bench.storage.remove(&key("a")).await.unwrap();
        bench.assert_outside_is_untouched();
        fs::remove_file(bench.inside("config.toml")).unwrap();
    }
}

#[tokio::test]
async fn a_link_to_another_object_is_refused_too() {
    let bench = bench().await;
    bench.storage.create(&key("packs/01/real.mvpack"), "bytes".into()).await.unwrap();
    symlink("real.mvpack", bench.inside("packs/01/fake.mvpack")).unwrap();
    assert_every_step_is_refused(&bench.storage, &key("packs/01/fake.mvpack"), "packs/01/fake.mvpack").await;
    assert_unsafe(listed(&bench.storage, &folder("packs")).await, "packs/01/fake.mvpack");
}

#[tokio::test]
async fn a_link_in_place_of_a_folder_is_refused() {
    let bench = bench().await;
    fs::create_dir(bench.inside("packs")).unwrap();
    symlink(bench.outside(), bench.inside("packs/01")).unwrap();
    for name in ["packs/01/precious", "packs/01/deeper/still"] {
        assert_every_step_is_refused(&bench.storage, &key(name), "packs/01").await;
    }
    for prefix in [Prefix::root(), folder("packs"), folder("packs/01"), folder("packs/01/deeper")] {
        assert_unsafe(listed(&bench.storage, &prefix).await, "packs/01");
    }
    assert_unsafe(bench.storage.make_folder(&folder("packs/01/new")).await, "packs/01");
    bench.assert_outside_is_untouched();
}

#[tokio::test]
async fn a_link_in_place_of_staging_is_refused() {
    let bench = bench().await;
    symlink(bench.outside(), bench.inside("staging")).unwrap();
    assert_unsafe(bench.storage.sweep(Duration::ZERO).await, "staging");
    assert_unsafe(bench.storage.now().await, "staging");
    assert_unsafe(bench.storage.create(&key("a"), "bytes".into()).await, "staging");
    assert_unsafe(bench.storage.replace(&key("a"), "bytes".into()).await, "staging");
    assert_unsafe(bench.storage.stage(&key("a")).await.map(drop), "staging");
    bench.assert_outside_is_untouched();
}

#[tokio::test]
async fn a_sweep_removes_links_and_not_what_they_point_to() {
    let bench = bench().await;
    fs::create_dir_all(bench.inside("staging/kit-restore-1/deep")).unwrap();
    fs::write(bench.inside("staging/kit-restore-1/deep/file"), "scratch").unwrap();
    for link in ["staging/link", "staging/kit-restore-1/link", "staging/kit-restore-1/deep/link"] {
        symlink(bench.outside(), bench.inside(link)).unwrap();
    }
    symlink(bench.outside().join("precious"), bench.inside("staging/file-link")).unwrap();
    assert_eq!(bench.storage.sweep(Duration::ZERO).await.unwrap().removed, 3);
    assert_eq!(fs::read_dir(bench.inside("staging")).unwrap().count(), 0);
    bench.assert_outside_is_untouched();
}

#[tokio::test]
async fn fifos_sockets_and_devices_are_refused_without_waiting() {
    let bench = bench().await;
    make_fifo(&bench.inside("fifo"));
    let _listener = UnixListener::bind(bench.inside("socket")).unwrap();
    for name in ["fifo", "socket"] {
        let key = key(name);
        let error = bench.storage.stat(&key).await.unwrap_err();
        assert!(error.to_string().contains(&format!("{name} is a {name}")), "{error}");
        let refusals = assert_every_step_is_refused(&bench.storage, &key, name);
        tokio::time::timeout(Duration::from_secs(60), refusals).await.expect("a refusal waits for nobody");
    }
    listed(&bench.storage, &Prefix::root()).await.unwrap_err();
    make_fifo(&bench.inside("staging/fifo"));
    assert_eq!(bench.storage.sweep(Duration::ZERO).await.unwrap().removed, 1);
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test]
async fn names_that_are_no_keys_are_left_out_of_a_listing() {
    use std::os::unix::ffi::OsStrExt;
    let bench = bench().await;
    bench.storage.create(&key("good"), "bytes".into()).await.unwrap();
    for name in [&b"bad\\name"[..], b"bad\nname", b"bad\xffname"] {
        fs::write(bench.inside("").join(std::ffi::OsStr::from_bytes(name)), "bytes").unwrap();
    }
    let found = listed(&bench.storage, &Prefix::root()).await.unwrap();
    assert_eq!(found.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["good"]);
}

#[tokio::test]
async fn the_root_may_be_a_link_and_is_resolved_once() {
    let bench = bench().await;
    let link = bench.folder.path().join("link");
    symlink(bench.inside(""), &link).unwrap();
    let storage = LocalStorage::open(LocalConfig::new(&link)).await.unwrap();
    storage.create(&key("a"), "bytes".into()).await.unwrap();
    fs::remove_file(&link).unwrap();
    symlink(bench.outside(), &link).unwrap();
    assert_eq!(storage.read(&key("a")).await.unwrap(), "bytes");
    storage.create(&key("b"), "bytes".into()).await.unwrap();
    assert!(bench.inside("b").exists());
    bench.assert_outside_is_untouched();
}
