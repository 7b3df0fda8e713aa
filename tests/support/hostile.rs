//! A hostile repository in a folder, and the real program in front of it: with little memory, and not for long.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use packvault_storage::MemoryStorage;
use tempfile::TempDir;

use crate::memory_repo::{Archive, Made, repository_of, runtime, scratch};

/// What the program may allocate, in KiB, unless a row says otherwise: its stacks and buffers, and room for
/// the largest honest object of a small repository many times over.
pub const MEMORY_KIB: u64 = 256 * 1024;

/// How long a command may take on the slowest machine.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub told: String,
}

/// A folder with a repository of one snapshot, its archive, and a folder that nothing may reach.
pub struct Stage {
    folder: TempDir,
    pub storage: MemoryStorage,
    pub archive: Archive,
    pub honest: Made,
}

impl Stage {
    pub fn new() -> Self {
        let (storage, archive, mut made) = runtime().block_on(repository_of(1));
        Self::of(storage, archive, made.remove(0))
    }

    /// Makes a stage of a repository that is there already.
    pub fn of(storage: MemoryStorage, archive: Archive, honest: Made) -> Self {
        let stage = Self { folder: scratch(), storage, archive, honest };
        fs::create_dir(stage.path("outside")).unwrap();
        fs::write(stage.path("outside/precious"), "precious").unwrap();
        stage.write();
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes what lies in memory into the folder of the repository, beside what lies there.
    pub fn write(&self) {
        for (key, bytes) in self.storage.objects() {
            let file = self.path("repository").join(key.as_str());
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
        for name in ["locks", "staging", "keys"] {
            fs::create_dir_all(self.path("repository").join(name)).unwrap();
        }
    }

    /// Runs a command on the repository within the usual memory.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_within(MEMORY_KIB, arguments)
    }

    /// Runs a command on the repository; it must end by itself, and not by a signal.
    pub fn run_within(&self, memory_kib: u64, arguments: &[&str]) -> Ended {
        let output = self.path("output");
        let told = fs::File::create(&output).unwrap();
        let mut command = Command::new("sh");
        let limited = r#"ulimit -d "$0" && ulimit -c 0 && exec "$@""#;
        command.args(["-c", limited, &memory_kib.to_string(), env!("CARGO_BIN_EXE_packvault")]);
        command.args(arguments).args(["--repo", "./repository", "--progress", "none"]);
        command.current_dir(self.folder.path()).env_clear().env("HOME", self.folder.path());
        command.env("TMPDIR", self.folder.path()).env("PACKVAULT_CONFIG", "/dev/null");
        // One arena: what is reserved for threads that never come is no memory.
        command.env("MALLOC_ARENA_MAX", "1").stdin(Stdio::null());
        let mut child = command.stdout(told.try_clone().unwrap()).stderr(told).spawn().unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > COMMAND_MAX {
                child.kill().unwrap();
                panic!("{arguments:?} hangs: {}", fs::read_to_string(output).unwrap());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let told = String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned();
        assert!(status.code().is_some(), "{arguments:?} died: {status:?}: {}", short(&told));
        assert!(!told.contains("panicked"), "{arguments:?}: {}", short(&told));
        Ended { code: status.code(), told }
    }

    /// Nothing was written where nothing may be written.
    pub fn assert_outside_is_untouched(&self, case: &str) {
        let names: Vec<_> =
            fs::read_dir(self.path("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["precious"], "{case}");
        assert_eq!(fs::read(self.path("outside/precious")).unwrap(), b"precious", "{case}");
    }

    pub fn home(&self) -> String {
        self.archive.home().to_str().unwrap().to_owned()
    }
}

/// Returns the beginning of a text that a hostile repository may have made long.
pub fn short(text: &str) -> String {
    text.chars().take(2000).collect()
}

/// Makes a file that claims so many bytes and has none.
pub fn sparse(path: &Path, bytes: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
}
