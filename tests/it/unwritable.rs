//! The danger: a repository that can only be read (a read-only mount, another owner, a full disk) or that is
//! locked by whoever will never come back keeps its owner from his own backup.
//!
//! The real program meets real file systems.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use crate::support::archives::{make, tiny};
use crate::support::small_disk::SmallDisk;
use crate::support::{Scratch, copy_program, stderr, tree, write_program};

/// A lock of another machine, as msgvault writes it.
const FOREIGN: &str =
    r#"{"hostname":"dead-server","pid":4242,"operation":"create","acquired_at":"2026-01-01T00:00:00Z"}"#;
/// A user who owns nothing.
const STRANGER: u32 = 4001;

/// A repository of one snapshot.
struct Case {
    scratch: Scratch,
    repository: PathBuf,
}

impl Case {
    fn at(repository: &Path) -> Self {
        let scratch = Scratch::new();
        make(&scratch.path("home"), &tiny());
        let case = Self { scratch, repository: repository.to_owned() };
        case.expect_done(&["init"]);
        case.expect_done(&["create", "home"]);
        case
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.scratch.packvault(arguments);
        command.arg("--repo").arg(&self.repository);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn expect_done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    }

    /// Reads the repository in every way; each says that it did so without a lock.
    fn assert_read_without_lock(&self, target: &str) {
        self.expect_done(&["list"]);
        for arguments in [&["verify", "--all"][..], &["restore", "--target", target]] {
            let said = self.expect_done(arguments);
            assert!(said.contains("warning: the repository is read without a lock"), "{arguments:?}: {said}");
        }
        assert!(self.scratch.path(target).join("msgvault.db").is_file());
    }

    fn lock(&self, body: &str, age: Duration) -> PathBuf {
        let path = self.repository.join("locks/exclusive.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, body).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    }
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

#[test]
fn a_repository_on_a_read_only_medium_is_verified_and_restored_without_a_lock() {
    let Some(disk) = SmallDisk::mount("size=8m") else { return };
    let case = Case::at(&disk.path("repository"));
    // As the snapshot of a NAS has it that was taken during a backup.
    case.lock(FOREIGN, minutes(5));
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.root()).status().unwrap();
    assert!(remounted.success());
    case.assert_read_without_lock("target");
    let said = case.expect_done(&["verify"]);
    assert!(said.contains("beside exclusive.json held by dead-server pid 4242"), "{said}");
    let create = case.run(&["create", "home"]);
    assert_eq!(create.status.code(), Some(1), "{}", stderr(&create));
}

#[test]
fn a_repository_on_a_full_disk_is_verified_and_restored_without_a_lock() {
    let Some(disk) = SmallDisk::mount("size=8m") else { return };
    let case = Case::at(&disk.path("repository"));
    disk.leave_bytes(0);
    case.assert_read_without_lock("target");
}

#[test]
fn a_repository_of_another_owner_is_verified_and_restored_without_a_lock() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else; the file systems of the other tests need it as well.
        assert!(SmallDisk::mount("size=64k").is_none());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let case = Case::at(&folder.path().join("repository"));
    let opened = Command::new("chmod").args(["-R", "go+rX"]).arg(folder.path()).status().unwrap();
    assert!(opened.success());
    // The stranger may not even reach the program where it was built.
    let program = folder.path().join("packvault");
    copy_program(&program);
    let home = folder.path().join("stranger");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(STRANGER), Some(STRANGER)).unwrap();
    let before = tree(&case.repository);
    for arguments in [&["list"][..], &["verify", "--all"], &["restore", "--target", "target"]] {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", &home).env("TMPDIR", &home).current_dir(&home);
        command.uid(STRANGER).gid(STRANGER).args(arguments).arg("--repo").arg(&case.repository);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        let is_told = stderr(&output).contains("warning: the repository is read without a lock");
        assert_eq!(is_told, arguments[0] != "list", "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(tree(&case.repository), before);
}

#[test]
fn who_waits_for_a_dead_holder_is_told_how_long_and_what_else_he_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::at(&folder.path().join("repository"));
    let lock = case.lock(FOREIGN, minutes(5));
    for arguments in [&["verify"][..], &["restore", "--target", "target"], &["create", "home"]] {
        let output = case.run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(11), "{arguments:?}: {said}");
        for words in
            ["dead-server pid 4242", "ends by itself in 25 min", "packvault unlock", "--force-unlock"]
        {
            assert!(said.contains(words), "{arguments:?}: {words:?} not in {said}");
        }
        assert_eq!(said.contains("--no-lock"), arguments[0] != "create", "{said}");
        assert_eq!(fs::read_to_string(&lock).unwrap(), FOREIGN, "a refused command changes nothing");
    }
    for arguments in [&["verify", "--no-lock"][..], &["restore", "--target", "target", "--no-lock"]] {
        let said = case.expect_done(arguments);
        assert!(said.contains("read without a lock, beside exclusive.json held by dead-server"), "{said}");
        assert_eq!(fs::read_to_string(&lock).unwrap(), FOREIGN);
    }
    let both = case.run(&["verify", "--no-lock", "--force-unlock"]);
    assert_eq!(both.status.code(), Some(2));
    case.expect_done(&["restore", "--target", "again", "--force-unlock"]);
    assert!(!lock.exists());
    case.lock(FOREIGN, minutes(5));
    case.expect_done(&["verify", "--force-unlock"]);
    assert!(!lock.exists());
}

#[test]
fn unlock_leaves_a_fresh_lock_of_another_machine_unless_it_is_forced() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::at(&folder.path().join("repository"));
    // It is wanted most when other things are wrong, too.
    fs::create_dir_all(case.scratch.path(".config/packvault")).unwrap();
    let lock = case.lock(FOREIGN, minutes(5));
    let output = case.run(&["unlock"]);
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(11), "{}", stderr(&output));
    assert!(shown.starts_with("left exclusive.json held by dead-server pid 4242"), "{shown}");
    assert!(shown.contains("ends by itself in 25 min") && stderr(&output).contains("--force"), "{shown}");
    assert!(lock.exists());
    let output = case.run(&["unlock", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["left"][0]["hostname"], "dead-server");
    assert_eq!(json["left"][0]["ends_in_minutes"], 25);
    let output = case.run(&["unlock", "--force"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("removed exclusive.json"));
    assert_eq!(output.status.code(), Some(0));
    assert!(!lock.exists());
    let output = case.run(&["unlock"]);
    assert_eq!(output.stdout, b"there are no locks\n");
}

#[test]
fn the_lock_of_a_backup_that_was_killed_here_is_no_hindrance_after_ninety_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::at(&folder.path().join("repository"));
    let lock = kill_a_create(&case);
    let output = case.run(&["verify"]);
    assert_eq!(output.status.code(), Some(11), "{}", stderr(&output));
    assert!(stderr(&output).contains("its process is gone"), "{}", stderr(&output));
    let file = fs::File::options().write(true).open(&lock).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(95)).unwrap();
    case.expect_done(&["verify"]);
    assert!(!lock.exists());
    // Who asks for it need not wait.
    let lock = kill_a_create(&case);
    let output = case.run(&["unlock"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!lock.exists());
}

/// Kills a backup while it holds its lock; returns the lock.
fn kill_a_create(case: &Case) -> PathBuf {
    let lock = case.repository.join("locks/exclusive.json");
    let shared = case.repository.join("locks/shared-01arz3ndektsv4rrffq69g5fav.json");
    fs::create_dir_all(shared.parent().unwrap()).unwrap();
    // It waits a minute for a reader to go, and holds its own lock meanwhile.
    fs::write(&shared, FOREIGN).unwrap();
    let mut create = case.command(&["create", "home"]);
    let mut create =
        create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !fs::read(&lock).is_ok_and(|body| !body.is_empty()) {
        assert!(create.try_wait().unwrap().is_none(), "it ended without waiting");
        std::thread::yield_now();
    }
    create.kill().unwrap();
    create.wait().unwrap();
    fs::remove_file(&shared).unwrap();
    lock
}

/// Where OpenSSH keeps the program that speaks SFTP.
const SFTP_SERVERS: [&str; 2] = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"];

#[test]
fn a_repository_behind_an_account_that_may_only_read_is_verified_and_restored_without_a_lock() {
    let Some(server) = SFTP_SERVERS.into_iter().find(|server| Path::new(server).exists()) else {
        let _ = rustix::io::write(rustix::stdio::stderr(), b"NOT RUN, there is no sftp-server of OpenSSH\n");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let case = Case::at(&folder.path().join("repository"));
    let ssh = folder.path().join("ssh");
    write_program(&ssh, &format!("#!/bin/sh\nexec {server} -R\n"));
    let (repository, ssh) = (case.repository.display(), ssh.display());
    let config = folder.path().join("config.toml");
    let text =
        format!("[repository.nas]\nlocation = 'sftp://localhost{repository}'\nssh_program = '{ssh}'\n");
    fs::write(&config, text).unwrap();
    for arguments in [&["verify", "--all"][..], &["restore", "--target", "target"]] {
        let mut command = case.scratch.packvault(arguments);
        let output = command.args(["--repo", "nas"]).env("PACKVAULT_CONFIG", &config).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        assert!(said.contains("warning: the repository is read without a lock"), "{arguments:?}: {said}");
    }
}
