//! The commands, run as processes on the release binary.
//!
//! One round is a whole life: a fresh repository, the first snapshot, one of the unchanged archive, a
//! verification, a restore without and one with the database's own check. Every restore
//! has a folder of its own, and nothing is removed before the end: a file system that has just removed
//! thousands of files takes much longer to make new ones, which would be measured as the command's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::support::process::{self, Usage};

/// The measured commands, in the order they run.
pub const NAMES: [&str; 5] =
    ["first create", "unchanged create", "verify --all", "restore", "restore + check"];

/// A key pair of age that everybody may know: it opens nothing but what is measured here.
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

/// What each command of one round used, in the order of [`NAMES`].
pub type Round = [Usage; NAMES.len()];

/// Runs one round.
pub fn measure(archive: &Path, work: &Path, jobs: u32, encrypted: bool) -> Result<Round> {
    let life = Life {
        archive,
        identity: encrypted.then(|| work.join("identity.txt")),
        repository: work.join("repository"),
        output: work.join("output.txt"),
        jobs: jobs.to_string(),
    };
    fs::create_dir(work).with_context(|| format!("cannot make {}", work.display()))?;
    life.run(life.init()?)?;
    let round = [
        life.run(life.create())?,
        life.run(life.create())?,
        life.run(life.verify())?,
        life.run_restore(&work.join("restored"), &["--skip-integrity-check"])?,
        life.run_restore(&work.join("restored-and-checked"), &[])?,
    ];
    Ok(round)
}

/// The folders of a round.
struct Life<'a> {
    archive: &'a Path,
    /// The way in to an encrypted repository.
    identity: Option<PathBuf>,
    repository: PathBuf,
    output: PathBuf,
    jobs: String,
}

impl Life<'_> {
    fn packvault(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
        command.arg(verb);
        if verb == "create" {
            command.arg(self.archive);
        }
        command.arg("--repo").arg(&self.repository);
        if let Some(identity) = &self.identity {
            command.env("PACKVAULT_IDENTITY", identity);
        }
        command
    }

    fn init(&self) -> Result<Command> {
        let mut command = self.packvault("init");
        if let Some(identity) = &self.identity {
            fs::write(identity, format!("{IDENTITY}\n"))
                .with_context(|| format!("cannot write {}", identity.display()))?;
            command.args(["--encrypt", "--recipient", RECIPIENT]);
        }
        Ok(command)
    }

    fn create(&self) -> Command {
        let mut command = self.packvault("create");
        command.args(["--jobs", &self.jobs]);
        command
    }

    fn verify(&self) -> Command {
        let mut command = self.packvault("verify");
        command.args(["--all", "--jobs", &self.jobs]);
        command
    }

    fn run_restore(&self, target: &Path, flags: &[&str]) -> Result<Usage> {
        let mut command = self.packvault("restore");
        command.arg("--target").arg(target).args(flags).args(["--jobs", &self.jobs]);
        let usage = self.run(command)?;
        let database = target.join("msgvault.db");
        anyhow::ensure!(database.is_file(), "restore succeeded and made no {}", database.display());
        Ok(usage)
    }

    fn run(&self, mut command: Command) -> Result<Usage> {
        // What earlier commands left to write is not this one's.
        rustix::fs::sync();
        process::run(&mut command, &self.output)
    }
}
