//! The programs that are compared, and how each is told to do a step.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum;

/// A password for repositories that are removed again.
const PASSWORD: &str = "a password of a benchmark";

/// A backup program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// This one
    Packvault,
    /// <https://restic.net>
    Restic,
    /// <https://rustic.cli.rs>
    Rustic,
    /// <https://www.borgbackup.org>
    Borg,
    /// <https://kopia.io>
    Kopia,
}

/// What a program is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the repository; not measured.
    Init,
    /// The first backup.
    First,
    /// A backup of the archive a day later.
    DayAfter,
    /// A backup of the archive as it was at the one before.
    Unchanged,
    /// Read everything back, and check it.
    ReadBack,
    /// Restore the newest backup.
    Restore,
}

/// What is measured, in this order.
pub const STEPS: [Step; 5] = [Step::First, Step::DayAfter, Step::Unchanged, Step::ReadBack, Step::Restore];

/// The folders of one program in one round.
#[derive(Debug, Clone)]
pub struct Place {
    /// What is backed up.
    pub archive: PathBuf,
    /// The program's repository.
    pub repository: PathBuf,
    /// Where it restores into.
    pub target: PathBuf,
    /// What it takes for the user's home, with its settings and caches.
    pub home: PathBuf,
}

impl Step {
    /// Returns what a table calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Init => "make a repository",
            Self::First => "first backup",
            Self::DayAfter => "the day after",
            Self::Unchanged => "nothing changed",
            Self::ReadBack => "read everything back",
            Self::Restore => "restore",
        }
    }

    /// Returns what the backup is called, where a program wants a name.
    fn backup(self) -> String {
        self.title().replace(' ', "-")
    }
}

impl Tool {
    /// Returns what people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packvault => "packvault",
            Self::Restic => "restic",
            Self::Rustic => "rustic",
            Self::Borg => "Borg",
            Self::Kopia => "Kopia",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Packvault => env!("CARGO_BIN_EXE_packvault"),
            Self::Restic => "restic",
            Self::Rustic => "rustic",
            Self::Borg => "borg",
            Self::Kopia => "kopia",
        }
    }

    fn version_argument(self) -> &'static str {
        if self == Self::Restic { "version" } else { "--version" }
    }

    /// Tells whether the program can be started.
    pub fn is_here(&self) -> bool {
        let mut command = Command::new(self.program());
        command.arg(self.version_argument()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Returns the first line of what the program says of its version.
    pub fn version(self) -> Result<String> {
        let output = Command::new(self.program()).arg(self.version_argument()).output();
        let output = output.with_context(|| format!("cannot start {}", self.program()))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Returns the commands of a step; all but the last only prepare it.
    pub fn commands(self, step: Step, place: &Place) -> Vec<Command> {
        let lines = match self {
            Self::Packvault => packvault(step, place),
            Self::Restic => restic(step, place),
            Self::Rustic => rustic(step, place),
            Self::Borg => borg(step, place),
            Self::Kopia => kopia(step, place),
        };
        lines.into_iter().map(|arguments| self.command(&arguments, place)).collect()
    }

    fn command(self, arguments: &[String], place: &Place) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).env("HOME", &place.home).env("XDG_CACHE_HOME", place.home.join("cache"));
        command.env("XDG_CONFIG_HOME", place.home.join("config"));
        match self {
            Self::Packvault => command.env("PACKVAULT_CONFIG", "/dev/null"),
            Self::Restic => {
                command.env("RESTIC_PASSWORD", PASSWORD).env("RESTIC_REPOSITORY", &place.repository)
            }
            Self::Rustic => {
                command.env("RUSTIC_PASSWORD", PASSWORD).env("RUSTIC_REPOSITORY", &place.repository)
            }
            // It restores into the folder it is started in.
            Self::Borg => command
                .env("BORG_PASSPHRASE", PASSWORD)
                .env("BORG_REPO", &place.repository)
                .current_dir(&place.target),
            Self::Kopia => command.env("KOPIA_PASSWORD", PASSWORD).env("KOPIA_CHECK_FOR_UPDATES", "false"),
        };
        command
    }
}

/// Returns the words of one command.
fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the working folder is named in UTF-8: it is below one of cargo's")
}

fn packvault(step: Step, place: &Place) -> Vec<Vec<String>> {
    let (archive, repository) = (text(&place.archive), text(&place.repository));
    vec![match step {
        Step::Init => words(&["init", "--repo", repository]),
        Step::First | Step::DayAfter | Step::Unchanged => words(&["create", archive, "--repo", repository]),
        Step::ReadBack => words(&["verify", "--all", "--repo", repository]),
        Step::Restore => words(&["restore", "--repo", repository, "--target", text(&place.target)]),
    }]
}

fn restic(step: Step, place: &Place) -> Vec<Vec<String>> {
    vec![match step {
        Step::Init => words(&["init"]),
        Step::First | Step::DayAfter | Step::Unchanged => words(&["backup", text(&place.archive)]),
        Step::ReadBack => words(&["check", "--read-data"]),
        Step::Restore => words(&["restore", "latest", "--target", text(&place.target)]),
    }]
}

fn rustic(step: Step, place: &Place) -> Vec<Vec<String>> {
    vec![match step {
        Step::Init => words(&["init"]),
        Step::First | Step::DayAfter | Step::Unchanged => words(&["backup", text(&place.archive)]),
        Step::ReadBack => words(&["check", "--read-data"]),
        Step::Restore => words(&["restore", "latest", text(&place.target)]),
    }]
}

fn borg(step: Step, place: &Place) -> Vec<Vec<String>> {
    let backup = format!("::{}", step.backup());
    vec![match step {
        Step::Init => words(&["init", "--encryption", "repokey"]),
        Step::First | Step::DayAfter | Step::Unchanged => {
            words(&["create", "--compression", "zstd,3", &backup, text(&place.archive)])
        }
        Step::ReadBack => words(&["check", "--verify-data"]),
        Step::Restore => words(&["extract", &format!("::{}", Step::Unchanged.backup())]),
    }]
}

fn kopia(step: Step, place: &Place) -> Vec<Vec<String>> {
    let (archive, repository) = (text(&place.archive), text(&place.repository));
    match step {
        Step::Init => vec![
            words(&["repository", "create", "filesystem", "--path", repository]),
            words(&["policy", "set", "--global", "--compression", "zstd"]),
        ],
        Step::First | Step::DayAfter | Step::Unchanged => vec![words(&["snapshot", "create", archive])],
        Step::ReadBack => vec![words(&["snapshot", "verify", "--verify-files-percent=100"])],
        Step::Restore => {
            vec![words(&["snapshot", "restore", archive, text(&place.target), "--snapshot-time=latest"])]
        }
    }
}
