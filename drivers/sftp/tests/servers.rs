//! What goes wrong between here and a real server: each in a sentence of its own, and nothing left behind.
//!
//! The danger is an error that does not say what to do, a host key that is believed, a link that is
//! followed, and a step that works on an empty disk alone.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and shows what it found")]

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use packvault_sftp::{SftpConfig, SftpPath, SftpStorage};
use packvault_storage::{Error, ErrorKind, Key, ListedObject, Prefix, Result, Storage, Wire};
use packvault_test_servers::openssh::{self, OpensshOptions};
use packvault_test_servers::{SftpServer, missing, proftpd};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn config(server: &SftpServer, folder: &str) -> SftpConfig {
    let root = server.root.trim_end_matches('/');
    let mut config = SftpConfig::new(&server.host, SftpPath::Absolute(format!("{root}/{folder}")));
    config.user = server.user.clone();
    config.port = server.port;
    config.ssh_options = server.ssh_options.clone();
    config
}

fn openssh(options: OpensshOptions) -> Option<SftpServer> {
    openssh::start(options).map_err(|absent| missing(&absent)).ok()
}

async fn open(config: SftpConfig) -> Result<SftpStorage> {
    SftpStorage::open(config, None, Arc::new(Wire::default())).await
}

/// Makes the root, probes, and believes what was found.
async fn probed(config: SftpConfig) -> SftpStorage {
    let storage = SftpStorage::create_root(config, None, Arc::new(Wire::default())).await.unwrap();
    let (features, _) = storage.probe().await.unwrap();
    storage.with_features(features)
}

async fn refusal(config: SftpConfig, kind: ErrorKind, words: &str) {
    let error = open(config).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn bytes(len: usize) -> Bytes {
    (0..len).map(|at| (at ^ (at >> 7)) as u8).collect()
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_connection_is_told_in_a_sentence() {
    let Some(server) = openssh(OpensshOptions::default()) else { return };
    refusal(config(&server, "nothing"), ErrorKind::NotFound, "does not exist").await;

    let mut no_key = config(&server, "");
    no_key.ssh_options.retain(|option| option != "-i" && !option.ends_with("/user"));
    refusal(no_key, ErrorKind::Denied, "lets us not log in").await;

    let mut nobody_listens = config(&server, "");
    nobody_listens.port = Some(packvault_test_servers::free_port());
    refusal(nobody_listens, ErrorKind::Connection, "nothing listens there").await;

    let mut no_name = config(&server, "");
    no_name.host = "no-such-host.invalid".into();
    refusal(no_name, ErrorKind::Connection, "no server of that name").await;

    let mut no_program = config(&server, "");
    no_program.ssh_program = "no-such-ssh".into();
    refusal(no_program, ErrorKind::Config, "install OpenSSH's client").await;

    let mut unknown = config(&server, "");
    for option in &mut unknown.ssh_options {
        if option.starts_with("UserKnownHostsFile=") {
            *option = "UserKnownHostsFile=/dev/null".into();
        }
    }
    refusal(unknown, ErrorKind::Denied, "not known to ssh").await;
}

#[tokio::test]
async fn a_changed_host_key_is_refused() {
    let (Some(server), Some(other)) =
        (openssh(OpensshOptions::default()), openssh(OpensshOptions::default()))
    else {
        return;
    };
    let known_hosts = |server: &SftpServer| {
        let option = server.ssh_options.iter().find_map(|option| option.strip_prefix("UserKnownHostsFile="));
        PathBuf::from(option.unwrap())
    };
    let foreign = std::fs::read_to_string(known_hosts(&other)).unwrap();
    let foreign = foreign.replace(&other.port.unwrap().to_string(), &server.port.unwrap().to_string());
    std::fs::write(known_hosts(&server), foreign).unwrap();
    refusal(config(&server, ""), ErrorKind::Denied, "is not the one known to ssh").await;
}

#[tokio::test]
async fn a_server_without_sftp_is_told_apart() {
    let Some(server) = openssh(OpensshOptions { has_sftp: false, ..OpensshOptions::default() }) else {
        return;
    };
    refusal(config(&server, ""), ErrorKind::Config, "the server has no SFTP").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_one_session_per_connection_gets_connections() {
    let Some(server) = openssh(OpensshOptions { sessions_max: 1, ..OpensshOptions::default() }) else {
        return;
    };
    let storage = probed(config(&server, "vault")).await;
    let uploads = (0..6).map(|number| {
        let storage = storage.clone();
        async move { storage.create(&key(&format!("packs/01/{number}.mvpack")), bytes(3 << 20)).await }
    });
    futures::future::try_join_all(uploads).await.unwrap();
    assert!(storage.read(&key("packs/01/5.mvpack")).await.unwrap() == bytes(3 << 20));
}

#[tokio::test]
async fn a_relative_path_begins_where_the_user_logs_in() {
    let Some(server) = proftpd::start(true).map_err(|absent| missing(&absent)).ok() else { return };
    let mut config = config(&server, "");
    config.path = SftpPath::Relative("some/where".into());
    let storage = probed(config).await;
    storage.create(&key("a"), "bytes".into()).await.unwrap();
    assert!(server.folder.as_ref().unwrap().join("some/where/a").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_and_every_step_leave_nothing_in_staging_and_private_modes() {
    let Some(server) = openssh(OpensshOptions::default()) else { return };
    let folder = server.folder.clone().unwrap().join("vault");
    let storage = probed(config(&server, "vault")).await;
    storage.create(&key("locks/exclusive.json"), "lock".into()).await.unwrap();
    storage.create(&key("locks/exclusive.json"), "other".into()).await.unwrap_err();
    storage.touch(&key("locks/exclusive.json"), b"lock").await.unwrap();
    storage.rename(&key("locks/exclusive.json"), &key("locks/releasing.json")).await.unwrap();
    storage.replace(&key("config.toml"), "config".into()).await.unwrap();
    let mut staged = storage.stage(&key("packs/01/a.mvpack")).await.unwrap();
    staged.write(bytes(1 << 20)).await.unwrap();
    staged.seal().await.unwrap();
    assert!(names(&folder.join("staging")).is_empty(), "{:?}", names(&folder.join("staging")));
    for (name, mode) in [
        ("", 0o700),
        ("staging", 0o700),
        ("packs", 0o700),
        ("packs/01", 0o700),
        ("packs/01/a.mvpack", 0o600),
        ("config.toml", 0o600),
        ("locks/releasing.json", 0o600),
    ] {
        assert_eq!(std::fs::metadata(folder.join(name)).unwrap().mode() & 0o777, mode, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_fifty_open_files_do_not_break_handles() {
    let Some(server) = openssh(OpensshOptions::default()) else { return };
    let storage = probed(config(&server, "vault")).await;
    let mut uploads = Vec::new();
    for number in 0..150 {
        let mut staged = storage.stage(&key(&format!("packs/01/{number}.mvpack"))).await.unwrap();
        staged.write(bytes(1_000 + number)).await.unwrap();
        uploads.push(staged);
    }
    for staged in uploads {
        staged.seal().await.unwrap();
    }
    for number in 0..150 {
        let key = key(&format!("packs/01/{number}.mvpack"));
        let found = storage.read_range(&key, 500..1_000).await.unwrap();
        assert!(found == bytes(1_000)[500..], "{key}");
    }
}

async fn assert_every_step_is_refused(storage: &SftpStorage, key: &Key) {
    let unsafe_ = |what: &str, error: Error| assert_eq!(error.kind(), ErrorKind::Unsafe, "{what}: {error}");
    unsafe_("read", storage.read(key).await.unwrap_err());
    unsafe_("range", storage.read_range(key, 0..1).await.unwrap_err());
    unsafe_("stat", storage.stat(key).await.unwrap_err());
    unsafe_("create", storage.create(key, "bytes".into()).await.unwrap_err());
    unsafe_("replace", storage.replace(key, "bytes".into()).await.unwrap_err());
    unsafe_("touch", storage.touch(key, b"precious").await.unwrap_err());
    unsafe_("rename", storage.rename(key, &self::key("elsewhere")).await.unwrap_err());
    unsafe_("remove", storage.remove(key).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_devices_are_refused_and_nothing_outside_is_touched() {
    let Some(server) = openssh(OpensshOptions::default()) else { return };
    let data = server.folder.clone().unwrap();
    let (inside, outside) = (data.join("vault"), data.join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "precious").unwrap();
    let storage = probed(config(&server, "vault")).await;

    symlink(outside.join("precious"), inside.join("config.toml")).unwrap();
    std::fs::create_dir(inside.join("packs")).unwrap();
    symlink(&outside, inside.join("packs/01")).unwrap();
    assert!(Command::new("mkfifo").arg(inside.join("fifo")).status().unwrap().success());
    for name in ["config.toml", "packs/01/precious", "fifo"] {
        let key = key(name);
        let steps = assert_every_step_is_refused(&storage, &key);
        tokio::time::timeout(Duration::from_secs(60), steps).await.expect("a refusal waits for nobody");
    }
    let listed: Result<Vec<ListedObject>> = storage.list(&Prefix::root()).try_collect().await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Unsafe);

    std::fs::create_dir_all(inside.join("staging/kit-restore-1")).unwrap();
    symlink(&outside, inside.join("staging/kit-restore-1/link")).unwrap();
    symlink(&outside, inside.join("staging/link")).unwrap();
    assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 2);
    assert!(names(&inside.join("staging")).is_empty());
    assert_eq!(names(&outside), ["precious"]);
    assert_eq!(std::fs::read_to_string(outside.join("precious")).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_dead_process_blocks_no_publication_for_long() {
    let Some(server) = proftpd::start(false).map_err(|absent| missing(&absent)).ok() else { return };
    let staging = server.folder.clone().unwrap().join("vault/staging");
    let storage = probed(config(&server, "vault")).await;
    // The claim of `config.toml`, as a process leaves it that is killed before its rename.
    let claim = |generation| staging.join(format!("claim-{:016x}-{generation}", hash("config.toml")));
    std::fs::create_dir(claim(0)).unwrap();
    let held = storage.create(&key("config.toml"), "ours".into()).await.unwrap_err();
    assert_eq!(held.kind(), ErrorKind::Conflict, "{held}");
    assert_eq!(storage.stat(&key("config.toml")).await.unwrap_err().kind(), ErrorKind::NotFound);

    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3_600);
    std::fs::File::open(claim(0)).unwrap().set_modified(long_ago).unwrap();
    storage.create(&key("config.toml"), "ours".into()).await.unwrap();
    assert!(!claim(1).exists(), "the claim was given up");
    storage.create(&key("config.toml"), "other".into()).await.unwrap_err();
    assert_eq!(storage.read(&key("config.toml")).await.unwrap(), "ours");
    assert_eq!(storage.sweep(Duration::from_secs(1_800)).await.unwrap().removed, 1);
    assert!(names(&staging).is_empty(), "{:?}", names(&staging));
}

/// FNV-1a, as claims are named by.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_from_the_terminal_does_not_end_ssh() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("ssh");
    // Interrupts itself, as the terminal would, and tells whether it lived on.
    let script = "#!/bin/sh\nkill -INT $$\nkill -HUP $$\necho 'it lived on' >&2\nexit 3\n";
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&program, mode).unwrap();
    let mut config = SftpConfig::new("nowhere", SftpPath::Absolute("/".into()));
    config.ssh_program = program.into();
    refusal(config, ErrorKind::Connection, "it lived on").await;
}

/// By hand: `cargo test -p packvault-sftp --test servers speed -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement for people"]
async fn speed_of_four_packs_up_and_down() {
    let Some(server) = openssh(OpensshOptions::default()) else { return };
    let storage = probed(config(&server, "vault")).await;
    let pack = bytes(32 << 20);
    for round in 0..3 {
        let begun = std::time::Instant::now();
        futures::future::join_all((0..4).map(|number| {
            let (storage, pack) = (storage.clone(), pack.clone());
            tokio::spawn(async move {
                let mut staged =
                    storage.stage(&key(&format!("packs/0{round}/{number}.mvpack"))).await.unwrap();
                for at in 0..32 {
                    staged.write(pack.slice(at << 20..(at + 1) << 20)).await.unwrap();
                }
                staged.seal().await.unwrap();
            })
        }))
        .await;
        let up = 128.0 / begun.elapsed().as_secs_f64();
        let begun = std::time::Instant::now();
        futures::future::join_all((0..4).map(|number| {
            let storage = storage.clone();
            let len = pack.len() as u64;
            tokio::spawn(async move {
                let key = key(&format!("packs/0{round}/{number}.mvpack"));
                assert_eq!(storage.read_range(&key, 0..len).await.unwrap().len() as u64, len);
            })
        }))
        .await;
        let down = 128.0 / begun.elapsed().as_secs_f64();
        let [their_up, their_down] = ["put", "get"].map(|verb| speed_of_sftp(&server, verb, &pack));
        println!(
            "4 x 32 MiB: {up:.0} MiB/s up, {down:.0} down; sftp: {their_up:.0} up, {their_down:.0} down"
        );
    }
}

/// Moves the same bytes with four `sftp` at once.
fn speed_of_sftp(server: &SftpServer, verb: &str, pack: &[u8]) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().display();
    std::fs::write(folder.path().join("pack"), pack).unwrap();
    let begun = std::time::Instant::now();
    let children = (0..4).map(|number| {
        let remote = format!("{}/sftp-{number}", server.root);
        let order = match verb {
            "put" => format!("put {local}/pack {remote}"),
            _ => format!("get {remote} {local}/{number}"),
        };
        std::fs::write(folder.path().join(format!("order-{number}")), order).unwrap();
        let mut command = Command::new("sftp");
        command.args(&server.ssh_options).args(["-q", "-b", &format!("{local}/order-{number}"), "-P"]);
        command.arg(server.port.unwrap().to_string()).arg(&server.host);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    });
    for mut child in children.collect::<Vec<_>>() {
        assert!(child.wait().unwrap().success());
    }
    128.0 / begun.elapsed().as_secs_f64()
}

/// By hand, on a server of one's own behind a slow line (`PACKVAULT_TEST_SFTP`): how long each step takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement for people"]
async fn time_of_each_step() {
    let Some(server) = SftpServer::own() else { return };
    let storage = probed(config(&server, &format!("vault-{}", std::process::id()))).await;
    storage.create(&key("locks/a"), "first".into()).await.unwrap();
    storage.create(&key("packs/01/a.mvpack"), bytes(100_000)).await.unwrap();
    storage.now().await.unwrap();
    let begun = std::cell::Cell::new(std::time::Instant::now());
    let told = |what: &str| {
        println!("{what}: {} ms", begun.get().elapsed().as_millis());
        begun.set(std::time::Instant::now());
    };
    told("");
    storage.create(&key("locks/b"), "lock".into()).await.unwrap();
    told("create, 4 bytes");
    storage.create(&key("packs/01/b.mvpack"), bytes(100_000)).await.unwrap();
    told("create, 100 kB");
    storage.read(&key("locks/b")).await.unwrap();
    told("read, never seen");
    storage.read(&key("locks/b")).await.unwrap();
    told("read, seen");
    storage.read_range(&key("packs/01/a.mvpack"), 0..1_000).await.unwrap();
    told("range of a pack, never seen");
    storage.read_range(&key("packs/01/a.mvpack"), 0..1_000).await.unwrap();
    told("range of a pack, open");
    storage.stat(&key("locks/b")).await.unwrap();
    told("stat");
    storage.touch(&key("locks/b"), b"lock").await.unwrap();
    told("touch");
    storage.now().await.unwrap();
    told("now");
    storage.rename(&key("locks/b"), &key("locks/c")).await.unwrap();
    told("rename");
    storage.replace(&key("locks/c"), "other".into()).await.unwrap();
    told("replace");
    storage.remove(&key("locks/c")).await.unwrap();
    told("remove");
    let listed: Vec<ListedObject> = storage.list(&Prefix::root()).try_collect().await.unwrap();
    told(&format!("list of {} objects", listed.len()));
    storage.sweep(Duration::ZERO).await.unwrap();
    told("sweep of nothing");
    storage.probe().await.unwrap();
    told("probe");
    drop(storage);
    begun.set(std::time::Instant::now());
    open(config(&server, "")).await.unwrap();
    told("open");
}
