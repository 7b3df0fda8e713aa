//! The danger: programs that know nothing of packvault are shown through a mount what nobody checked, or another file
//! than a restore would bring; the mount outlives its program, or its program the mount; a store that is slow makes
//! both deaf.
//!
//! The kernel is the real one. Where it does not let this user mount, the tests say aloud that they do not run.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use packvault::engine::inside::mount::{End, MountOptions, Mounted, Witness, mount};
use packvault::format::BlobId;
use packvault::{Cancel, ErrorKind, Result};
use packvault_sample::{self as sample, Change};
use packvault_storage::fault::{Fault, FaultStorage};
use packvault_storage::{Operation, Storage};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use crate::support::anatomy::{Role, dissect};
use crate::support::memory_repo::*;
use crate::support::{Scratch, archives, stderr};

/// The name by which `PACKVAULT_REQUIRE` demands these tests.
const NAME: &str = "fuse";

/// Tells whether snapshots can be mounted here. Where not, says aloud that the test does not run, or fails it if it is
/// demanded.
fn can_mount() -> bool {
    let opens = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    let is_there = |folder: &str| Path::new(folder).join("fusermount3").is_file();
    let may =
        Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|run| run.status.success());
    if opens && may && ["/usr/bin", "/bin"].into_iter().any(is_there) {
        return true;
    }
    let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
    let text =
        format!("{NAME}: nothing can be mounted; install fuse3, and run the tests as root with /dev/fuse");
    assert!(!required.split(',').any(|one| one.trim() == NAME), "PACKVAULT_REQUIRE demands {text}");
    // Straight to the terminal: the test runner keeps what a passing test prints to itself.
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("NOT RUN, {text}\n").as_bytes());
    false
}

/// Tells whether something is mounted on a folder.
fn is_mounted(folder: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == folder.to_str())
}

/// The program with a mount; whatever happens, both are gone with this value.
struct Running {
    child: Child,
    folder: PathBuf,
}

impl Running {
    /// Starts it, and waits until it says that the snapshots are mounted.
    fn start(mut command: Command, folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Self { child, folder };
        let mut line = String::new();
        BufReader::new(running.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("{:?}", running.wait());
        }
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; returns it with what was said.
    fn wait(&mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }

    /// Has it end as a user would, and makes sure that nothing is left of it.
    fn stop(mut self) -> String {
        self.send(Signal::INT);
        let (status, said) = self.wait();
        assert_eq!(status.code(), Some(0), "{said}");
        self.assert_gone();
        said
    }

    fn assert_gone(&self) {
        assert!(!is_mounted(&self.folder));
        assert_eq!(fs::read_dir(&self.folder).unwrap().count(), 0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if is_mounted(&self.folder) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
        }
    }
}

/// A repository in a folder, of two snapshots, and the files of each.
fn in_a_folder(options: &[&str]) -> (Scratch, Vec<Files>) {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    archives::make(&home, &archives::tiny());
    // A name that stands before another in the order of names, and behind it in that of paths.
    fs::create_dir(home.join("deletions/a")).unwrap();
    for name in ["a/inner.json", "a-b.json", "a0.json"] {
        fs::write(home.join("deletions").join(name), name).unwrap();
    }
    assert_done(&keyed(&scratch, &[&["init", "--repo", "./repo"], options].concat()).output().unwrap());
    let mut taken = Vec::new();
    for _ in 0..2 {
        let create = keyed(&scratch, &["create", "home", "--repo", "./repo"]).output().unwrap();
        assert_done(&create);
        let is_taken = |path: &String| {
            ["attachments/", "deletions/", "msgvault.db"].iter().any(|part| path.starts_with(part))
        };
        taken.push(files_below(&home).into_iter().filter(|(path, _)| is_taken(path)).collect());
        sample::mutate(&home, &Change::default()).unwrap();
    }
    (scratch, taken)
}

fn keyed(scratch: &Scratch, words: &[&str]) -> Command {
    let mut command = scratch.packvault(words);
    command
        .env("PACKVAULT_PASSPHRASE", "correct horse")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn assert_done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_mounted_is_what_was_captured_to_any_program() {
    if !can_mount() {
        return;
    }
    for options in [&["--plaintext"][..], &["--encrypt"]] {
        let (scratch, taken) = in_a_folder(options);
        let mut command = keyed(&scratch, &["mount", "mnt", "--repo", "./repo"]);
        if options == ["--plaintext"] {
            command.env_remove("PACKVAULT_PASSPHRASE");
        }
        let mounted = Running::start(command, scratch.path("mnt"));
        let mut names: Vec<PathBuf> =
            fs::read_dir(mounted.path("snapshots")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert_eq!(names.len(), 2);
        assert_eq!(fs::canonicalize(mounted.path("latest")).unwrap(), names[1]);
        for (folder, taken) in names.iter().zip(&taken) {
            assert_same_files(&files_below(folder), taken, &format!("{options:?}"));
        }
        let folder = names[1].to_str().unwrap();
        assert_copied(&scratch, folder, &taken[1]);
        assert_asked(&names[1].join("msgvault.db"), &taken[1]["msgvault.db"]);
        for path in taken[1].keys().filter(|path| path.starts_with("deletions/")) {
            let (source, found) = (
                fs::metadata(scratch.path("home").join(path)).unwrap(),
                fs::metadata(names[1].join(path)).unwrap(),
            );
            assert_eq!((source.mode(), source.mtime()), (found.mode(), found.mtime()), "{path}");
        }
        let written = fs::write(names[1].join("new"), "x").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
        assert!(fs::metadata(names[1].join("deletions/nothing")).is_err());
        let said = mounted.stop();
        assert!(!said.contains("error"), "{said}");
        assert_eq!(fs::read_dir(scratch.path("repo/locks")).unwrap().count(), 0);
    }
}

/// Programs that copy and find see the same.
fn assert_copied(scratch: &Scratch, folder: &str, taken: &Files) {
    let copy = scratch.path("copy");
    run("cp", &["-a", folder, copy.to_str().unwrap()]);
    assert_same_files(&files_below(&copy), taken, "cp -a");
    let found = run("find", &[folder, "-type", "f", "-size", "+0"]);
    let whole = taken.values().filter(|bytes| !bytes.is_empty()).count();
    assert_eq!(found.lines().count(), whole);
    if Command::new("rsync").arg("--version").output().is_ok() {
        let (from, to) = (format!("{folder}/"), copy.to_str().unwrap());
        // What was copied is found to be the same, by content.
        let differing = run("rsync", &["-ac", "--dry-run", "--itemize-changes", "--delete", &from, to]);
        let files: Vec<&str> =
            differing.lines().filter(|line| line.starts_with(">f") || line.starts_with('*')).collect();
        assert!(files.is_empty(), "{files:?}");
    }
    fs::remove_dir_all(copy).unwrap();
}

/// SQLite itself reads the database there, and finds it sound.
fn assert_asked(database: &Path, captured: &[u8]) {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", database.display());
    let connection = rusqlite::Connection::open_with_flags(uri, flags).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let count: i64 = connection.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
    assert!(count > 0);
    // Backwards, and at odd places.
    let file = fs::File::open(database).unwrap();
    for at in (0..captured.len()).step_by(70_001).rev() {
        let mut read = vec![0; 999.min(captured.len() - at)];
        file.read_exact_at(&mut read, at as u64).unwrap();
        assert!(read == captured[at..at + read.len()], "at {at}");
    }
}

#[test]
fn a_mount_ends_with_its_program_and_the_program_with_its_mount() {
    if !can_mount() {
        return;
    }
    let (scratch, taken) = in_a_folder(&["--plaintext"]);
    let folder = scratch.path("mnt");
    let start =
        || Running::start(keyed(&scratch, &["mount", "mnt", "--repo", "./repo", "--json"]), folder.clone());
    // Somebody has a file open, and a folder is where he is.
    let mounted = start();
    let busy = fs::File::open(mounted.path("latest/msgvault.db")).unwrap();
    let mut waiting =
        Command::new("cat").current_dir(mounted.path("latest")).stdin(Stdio::piped()).spawn().unwrap();
    mounted.send(Signal::TERM);
    let mut mounted = mounted;
    let (status, said) = mounted.wait();
    assert_eq!(status.code(), Some(0), "{said}");
    mounted.assert_gone();
    let mut rest = Vec::new();
    let after = (&busy).read_to_end(&mut rest);
    assert!(after.is_err() || rest == taken[1]["msgvault.db"], "what is read late is an error or true");
    drop(waiting.stdin.take());
    waiting.wait().unwrap();
    // Somebody unmounts it.
    let mut mounted = start();
    run("fusermount3", &["-u", folder.to_str().unwrap()]);
    let (status, said) = mounted.wait();
    assert_eq!((status.code(), said.lines().last()), (Some(0), Some("unmounted")), "{said}");
    mounted.assert_gone();
    assert_eq!(fs::read_dir(scratch.path("repo/locks")).unwrap().count(), 0);
    // It is killed, and leaves what the next one explains.
    let mut mounted = start();
    mounted.send(Signal::KILL);
    mounted.child.wait().unwrap();
    let refused = keyed(&scratch, &["mount", "mnt", "--repo", "./repo"]).output().unwrap();
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("left whose program was killed; `fusermount3 -u mnt` removes it"), "{said}");
    run("fusermount3", &["-u", folder.to_str().unwrap()]);
    drop(mounted);
    start().stop();
}

#[test]
fn a_folder_that_cannot_be_meant_is_refused_before_anything_is_mounted() {
    if !can_mount() {
        return;
    }
    let (scratch, _) = in_a_folder(&["--plaintext"]);
    fs::create_dir_all(scratch.path("full/x")).unwrap();
    fs::create_dir_all(scratch.path("repo/staging/y")).unwrap();
    fs::create_dir_all(scratch.path("spool")).unwrap();
    fs::write(scratch.path("file"), "x").unwrap();
    let repo = scratch.path("repo");
    for (words, code, told) in [
        (&["file"][..], 2, "cannot mount on file: it is no folder"),
        (&["nowhere"], 1, "cannot mount on nowhere\n  caused by: No such file"),
        (&["full"], 1, "it is not empty (x), and what is in it would be out of sight"),
        (&["repo"], 1, "it is not empty"),
        (&["repo/staging/y"], 2, "it lies in the repository"),
        (&["spool", "--spool", "spool"], 2, "the spool lies there"),
        (&["~/mnt"], 2, "a `~` stands for no folder here"),
        (&["nobody", "full"], 2, "no archive is called nobody"),
    ] {
        let words = [&["mount"], words, &["--repo", repo.to_str().unwrap()]].concat();
        let output = keyed(&scratch, &words).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(told) && output.stdout.is_empty(), "{words:?}: {said}");
    }
    assert_eq!(fs::read_dir(repo.join("locks")).unwrap().count(), 0);
    // A machine without the device, which another set of mounts stands for.
    fs::create_dir(scratch.path("mnt")).unwrap();
    let mut alone = Command::new("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    alone.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_packvault")]);
    alone.args(["mount", "mnt", "--repo", repo.to_str().unwrap()]);
    let output = alone.current_dir(scratch.path("")).env("HOME", scratch.path("")).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("error: cannot mount: this machine has no /dev/fuse: load the module"),
        "{said}"
    );
}

/// Hears what becomes of a mount in this process.
struct Heard {
    begun: Mutex<Option<oneshot::Sender<Mounted>>>,
    problems: Mutex<Vec<String>>,
}

impl Witness for Heard {
    fn mounted(&self, mounted: &Mounted) -> Result<()> {
        let _ = self.begun.lock().unwrap().take().unwrap().send(mounted.clone());
        Ok(())
    }

    fn problem(&self, text: &str) {
        self.problems.lock().unwrap().push(text.to_owned());
    }
}

/// Mounts a repository in this process, does something with the folder, and ends it; returns how it ended, and what was
/// told of problems.
async fn while_mounted(
    storage: Arc<dyn Storage>,
    work: impl AsyncFnOnce(&Path, &Cancel),
) -> (Result<End>, Vec<String>) {
    let folder = scratch();
    let (begin, begun) = oneshot::channel();
    let heard = Arc::new(Heard { begun: Mutex::new(Some(begin)), problems: Mutex::default() });
    let repository = opened(storage).await.unwrap();
    let own = context();
    let options = MountOptions { folder: folder.path().to_owned(), ..MountOptions::default() };
    let mounting = mount(&repository, &options, heard.clone(), &own);
    let using = async {
        begun.await.unwrap();
        work(folder.path(), &own.cancel).await;
    };
    let (ended, ()) = tokio::join!(mounting, using);
    assert!(!is_mounted(folder.path()));
    let problems = heard.problems.lock().unwrap().clone();
    (ended.map(|(end, _)| end), problems)
}

/// Reads a file on a thread that may wait.
async fn read(path: PathBuf) -> std::io::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || fs::read(path)).await.unwrap()
}

#[test]
fn what_is_damaged_is_an_error_to_its_reader_and_one_line_to_whoever_has_mounted_it() {
    if !can_mount() {
        return;
    }
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(2).await;
        let made = &made[1];
        let attachments: Vec<_> =
            made.files.iter().filter(|(path, _)| path.starts_with("attachments/")).collect();
        let (damaged, whole) = (attachments[0], attachments[1]);
        crate::inside::damage(&storage, &BlobId::of(damaged.1));
        let repo = dissect(&storage);
        let snapshot =
            repo.snapshots.iter().find(|snapshot| snapshot.manifest.snapshot_id == made.id).unwrap();
        let pages = snapshot.needs.iter().find(|(_, roles)| roles.contains(&Role::PageBlob)).unwrap().0;
        crate::inside::damage(&storage, pages);
        let (ended, problems) = while_mounted(shared(&storage), async |folder, cancel| {
            let latest = folder.join("latest");
            for path in [damaged.0.as_str(), "msgvault.db"] {
                for _ in 0..2 {
                    let error = read(latest.join(path)).await.unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{path}");
                }
            }
            assert!(read(latest.join(whole.0)).await.unwrap() == *whole.1);
            cancel.cancel();
        })
        .await;
        assert_eq!(ended.unwrap(), End::Stopped);
        let of = |name: &str| problems.iter().filter(|told| told.contains(name)).count();
        assert_eq!(of(damaged.0), 1, "{problems:?}");
        assert!(of("cannot read \"msgvault.db\"") >= 1, "{problems:?}");
    });
}

#[test]
fn a_store_that_gives_no_answer_does_not_make_a_mount_deaf() {
    if !can_mount() {
        return;
    }
    runtime().block_on(async {
        let (storage, _archive, _made) = repository_of(2).await;
        let faulty = FaultStorage::new(shared(&storage));
        let own = faulty.clone();
        let (ended, problems) = while_mounted(Arc::new(faulty), async move |folder, cancel| {
            let (hang, hung) = oneshot::channel();
            let hang = Mutex::new(Some(hang));
            own.at_match(0, Fault::Hang, move |operation, key| {
                let is_it = operation != Operation::List && key.starts_with("packs/");
                if is_it && let Some(hang) = hang.lock().unwrap().take() {
                    let _ = hang.send(());
                }
                is_it
            });
            let reading = tokio::spawn(read(folder.join("latest/msgvault.db")));
            hung.await.unwrap();
            // What is at hand is still shown.
            assert_eq!(fs::read_dir(folder.join("snapshots")).unwrap().count(), 2);
            cancel.cancel();
            assert!(reading.await.unwrap().is_err());
        })
        .await;
        assert_eq!(ended.unwrap(), End::Stopped);
        assert!(problems.is_empty(), "{problems:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn a_mount_whose_lock_is_lost_says_so_and_ends() {
    if !can_mount() {
        return;
    }
    let (storage, _archive, _made) = repository_of(1).await;
    let own = storage.clone();
    let (ended, _) = while_mounted(shared(&storage), async move |_, _| {
        let locks: Vec<_> = own.objects().into_iter().map(|(key, _)| key).collect();
        let lock = locks.into_iter().find(|key| key.as_str().starts_with("locks/")).unwrap();
        own.remove(&lock).await.unwrap();
    })
    .await;
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("cannot keep the snapshots mounted"), "{error}");
}
