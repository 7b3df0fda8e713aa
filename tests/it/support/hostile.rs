//! A hostile repository in a folder, and the real program in front of it: with little memory, and not for long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use packvault::format::{RepoConfig, recovery_page};
use packvault_storage::MemoryStorage;
use tempfile::TempDir;

use crate::support::memory_repo::{Archive, Made, repository_key, repository_of, runtime, scratch};

/// What the program may allocate, in KiB, unless a row says otherwise: its stacks and buffers, and room for
/// the largest honest object of a small repository many times over.
pub const MEMORY_KIB: u64 = 256 * 1024;

/// How long a command may take on the slowest machine.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// What a look reads of a snapshot, and a repository may lie about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Manifest,
    /// Where pages lie and what they hash to.
    Maps,
    /// The blobs that hold pages.
    Pages,
    /// The lists of attachments.
    Lists,
    /// The list of extra files.
    Tree,
}

/// A command that looks inside a snapshot.
pub struct Look {
    /// Its words; `ID` stands for the snapshot, `HONEST` for one that is sound.
    pub words: &'static [&'static str],
    /// Without any of these it must refuse.
    pub needs: &'static [Part],
}

impl Look {
    pub fn name(&self) -> &'static str {
        self.words[0]
    }

    /// Returns the exit code that a snapshot calls for in which these parts are lies.
    pub fn code(&self, lies: &[Part]) -> i32 {
        match lies.iter().any(|lie| self.needs.contains(lie)) {
            // They go on, and name what they cannot use.
            true if matches!(self.name(), "stats" | "history") => 3,
            true => 1,
            false => 0,
        }
    }

    fn words_for<'a>(&'a self, id: &'a str, honest: &'a str) -> Vec<&'a str> {
        let word = |word: &&'static str| match *word {
            "ID" => id,
            "HONEST" => honest,
            other => other,
        };
        self.words.iter().map(word).collect()
    }
}

/// Every look, by each way to the parts of a snapshot: all hostile repositories meet all of them. A test compares it
/// with the commands that there are.
pub const LOOKS: [Look; 8] = [
    Look { words: &["ls", "ID"], needs: &[Part::Manifest, Part::Tree] },
    Look { words: &["ls", "ID", "--recursive"], needs: &[Part::Manifest, Part::Lists, Part::Tree] },
    Look { words: &["find", "ID", "*"], needs: &[Part::Manifest, Part::Lists, Part::Tree] },
    Look {
        words: &["dump", "ID", "msgvault.db"],
        needs: &[Part::Manifest, Part::Maps, Part::Pages, Part::Tree],
    },
    Look {
        words: &["sql", "ID", "SELECT count(*) FROM messages NOT INDEXED"],
        needs: &[Part::Manifest, Part::Maps, Part::Pages],
    },
    Look { words: &["diff", "HONEST", "ID"], needs: &[Part::Manifest, Part::Maps, Part::Lists, Part::Tree] },
    Look { words: &["history", "--table", "messages", "--row", "1"], needs: &[Part::Manifest, Part::Maps] },
    Look { words: &["stats"], needs: &[Part::Manifest] },
];

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
        stage.write_key();
        stage
    }

    /// Writes the page of an encrypted repository, which opens it.
    fn write_key(&self) {
        let config = fs::read(self.path("repository/config.toml")).unwrap_or_default();
        let Ok(config) = RepoConfig::parse(&config, 5) else { return };
        if config.is_encrypted() {
            fs::write(self.path("page.txt"), &*recovery_page::encode(&config.repo_id, &repository_key()))
                .unwrap();
        }
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
        if self.path("page.txt").exists() {
            command.env("PACKVAULT_IDENTITY", "page.txt");
        }
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

    /// Looks at a snapshot in every way: each look ends with the code that the lies call for, and says why.
    pub fn assert_looks(&self, memory_kib: u64, id: &str, lies: &[Part], case: &str) {
        for look in &LOOKS {
            self.assert_look(memory_kib, look, id, look.code(lies), case);
        }
    }

    /// Looks at a snapshot in one way.
    pub fn assert_look(&self, memory_kib: u64, look: &Look, id: &str, code: i32, case: &str) {
        let ended = self.run_within(memory_kib, &look.words_for(id, &self.honest.id));
        let told = short(&ended.told);
        assert_eq!(ended.code, Some(code), "{case}, {:?}: {told}", look.words);
        let said = ["error: ", "problem: ", "warning: "].iter().any(|word| ended.told.contains(word));
        assert!(code == 0 || said, "{case}, {:?}: {told}", look.words);
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
