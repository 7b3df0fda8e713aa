//! The danger: a restore brings every byte back, and the application cannot use it: the files belong to somebody
//! else, have other modes or times, or do not fit on the disk that they came from.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use crate::support::{Scratch, stderr};

const USER: u32 = 4001;
const GROUP: u32 = 5000;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes an application with a database and a file in a folder, and a repository with one snapshot of it.
fn backed_up(scratch: &Scratch) -> std::path::PathBuf {
    let home = scratch.path("app");
    fs::create_dir_all(home.join("media/deep")).unwrap();
    let database = Connection::open(home.join("a.db")).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    database.close().unwrap();
    fs::write(home.join("media/deep/photo"), "a photo").unwrap();
    for (name, mode) in
        [("a.db", 0o640), ("media/deep/photo", 0o604), ("media/deep", 0o2770), ("media", 0o751)]
    {
        let path = home.join(name);
        if is_root() {
            chown(&path, Some(USER), Some(GROUP)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let photo = fs::File::open(home.join("media/deep/photo")).unwrap();
    photo.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(981_173_106_123_456_789)).unwrap();
    if is_root() {
        chown(&home, Some(USER), Some(GROUP)).unwrap();
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    scratch.json(&["init", "--repo", "./repo"]);
    scratch.json(&["create", "--repo", "./repo", "--database", "app/a.db", "--files", "media/**"]);
    home
}

fn traits(folder: &Path, name: &str) -> (u32, u32, u32, i64, i64) {
    let found = fs::metadata(folder.join(name)).unwrap();
    (found.permissions().mode() & 0o7777, found.uid(), found.gid(), found.mtime(), found.mtime_nsec())
}

#[test]
fn owners_modes_and_times_come_back_with_a_restore() {
    let scratch = Scratch::new();
    let home = backed_up(&scratch);
    let restored = scratch.json(&["restore", "--repo", "./repo", "--target", "out"]);
    assert_eq!(restored["warnings"], serde_json::json!([]));
    for name in ["a.db", "media/deep/photo", "media/deep", "media", "."] {
        assert_eq!(traits(&scratch.path("out"), name), traits(&home, name), "{name}");
    }
}

#[test]
fn a_restore_over_an_application_leaves_its_files_to_it() {
    if !is_root() {
        return eprintln!("NOT RUN: giving files away needs root");
    }
    let scratch = Scratch::new();
    let home = backed_up(&scratch);
    let before = traits(&home, "a.db");
    // As of a program that records no owners: what is replaced says whose it shall be.
    for entry in fs::read_dir(scratch.path("repo/snapshots")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "packvault-attributes") {
            fs::remove_file(path).unwrap();
        }
    }
    scratch.json(&["restore", "--repo", "./repo", "--target", "app", "--overwrite"]);
    let after = traits(&home, "a.db");
    assert_eq!((after.0, after.1, after.2), (before.0, before.1, before.2));
    scratch.json(&["restore", "--repo", "./repo", "--target", "given", "--owner", "7:8"]);
    let given = traits(&scratch.path("given"), "media/deep/photo");
    assert_eq!((given.1, given.2), (7, 8));
    scratch.json(&["restore", "--repo", "./repo", "--target", "own", "--no-owner"]);
    assert_eq!(traits(&scratch.path("own"), "a.db").1, 0);
}

#[test]
fn damaged_attributes_cost_what_they_say_and_not_the_snapshot() {
    let scratch = Scratch::new();
    backed_up(&scratch);
    for entry in fs::read_dir(scratch.path("repo/snapshots")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "packvault-attributes") {
            let mut object = fs::read(&path).unwrap();
            object[20] ^= 1;
            fs::write(&path, object).unwrap();
        }
    }
    let restored = scratch.json(&["restore", "--repo", "./repo", "--target", "out"]);
    assert!(restored["warnings"][0].as_str().unwrap().contains("owners, modes and times"), "{restored}");
}

#[test]
fn a_sparse_file_comes_back_sparse() {
    let scratch = Scratch::new();
    backed_up(&scratch);
    let sparse = fs::File::create(scratch.path("app/media/image")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"hello", 1_000_000).unwrap();
    sparse.set_len(100 << 20).unwrap();
    scratch.json(&["create", "--repo", "./repo", "--database", "app/a.db", "--files", "media/**"]);
    scratch.json(&["restore", "--repo", "./repo", "--target", "out"]);
    let restored = fs::metadata(scratch.path("out/media/image")).unwrap();
    assert_eq!(restored.len(), 100 << 20);
    assert!(restored.blocks() * 512 < 1 << 20, "{} blocks", restored.blocks());
    let text = fs::read(scratch.path("out/media/image")).unwrap();
    assert!(&text[1_000_000..1_000_005] == b"hello" && text[..1_000_000].iter().all(|byte| *byte == 0));
}

#[test]
fn a_limit_on_the_size_of_files_ends_a_command_with_a_sentence_and_nothing_stays_behind() {
    let scratch = Scratch::new();
    let home = backed_up(&scratch);
    // Nothing that compression could make smaller.
    let mut state = 1_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let large: Vec<u8> = (0..750_000).flat_map(|_| noise()).collect();
    fs::write(home.join("media/large"), large).unwrap();
    let limited = |arguments: &str| {
        let program = env!("CARGO_BIN_EXE_packvault");
        let line = format!("ulimit -f 1000; exec {program} {arguments} --progress none");
        let mut command = std::process::Command::new("bash");
        command
            .args(["-c", &line])
            .env_clear()
            .env("HOME", scratch.path(""))
            .env("PACKVAULT_CONFIG", "/dev/null");
        command.env("PATH", "/usr/bin:/bin").current_dir(scratch.path("")).output().unwrap()
    };
    let create = "create --repo ./repo --database app/a.db --files 'media/**'";
    let refused = limited(create);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("ulimit -f"), "{}", stderr(&refused));
    assert_eq!(fs::read_dir(scratch.path("repo/locks")).unwrap().count(), 0);
    scratch.json(&["create", "--repo", "./repo", "--database", "app/a.db", "--files", "media/**"]);
    let refused = limited("restore --repo ./repo --target out");
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("ulimit -f"), "{}", stderr(&refused));
    assert!(!scratch.path("out").exists());
}
