//! The flags that say where a secret is. A secret itself never stands on a command line, which every user of the
//! machine can read.

use std::path::PathBuf;

use clap::Args;
use packvault::format::KeyName;
use packvault::{Error, ErrorKind, Result};

use super::help;

/// How an encrypted repository is opened.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyFlags {
    /// A file that holds the passphrase
    ///
    /// Without a flag: PACKVAULT_PASSPHRASE, PACKVAULT_PASSPHRASE_FILE, PACKVAULT_PASSPHRASE_COMMAND or PACKVAULT_IDENTITY,
    /// then `passphrase` and `identity` of the configuration, then a question on the terminal.
    #[arg(long, global = true, value_name = "FILE", help_heading = help::COMMON)]
    pub passphrase_file: Option<PathBuf>,
    /// A program that prints the passphrase, with its arguments; no shell runs it
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "passphrase_file")]
    #[arg(help_heading = help::COMMON)]
    pub passphrase_command: Option<String>,
    /// A file with an age identity, an SSH private key, or a recovery key; may be repeated
    #[arg(long, global = true, value_name = "FILE", help_heading = help::COMMON)]
    pub identity: Vec<PathBuf>,
    /// The key file to open the repository with, by its name, where there are many
    #[arg(long = "key", global = true, value_name = "NAME", help_heading = help::COMMON)]
    named: Option<String>,
    /// Take the repository as it is now for the right one
    ///
    /// This machine remembers of each location which repository lies there, whether it is encrypted, and its newest
    /// snapshot. Where another lies there, commands refuse; where the newest snapshot is gone, they say so. Say this
    /// once when the change is your own.
    #[arg(long, global = true, help_heading = help::COMMON)]
    pub accept_change: bool,
}

impl KeyFlags {
    /// Returns the flags of a repository that has flags of its own.
    pub fn of(
        passphrase_file: Option<PathBuf>,
        passphrase_command: Option<String>,
        identity: Vec<PathBuf>,
        named: Option<String>,
        accept_change: bool,
    ) -> Self {
        Self { passphrase_file, passphrase_command, identity, named, accept_change }
    }

    /// Tells whether a secret is named.
    pub fn name_a_secret(&self) -> bool {
        self.passphrase_file.is_some() || self.passphrase_command.is_some() || !self.identity.is_empty()
    }

    /// Returns the key file that is meant.
    pub fn named(&self) -> Result<Option<KeyName>> {
        self.named.as_deref().map(key_name).transpose()
    }
}

/// Parses the name of a key. The parser of the command line would repeat it, and it may be a passphrase.
pub fn key_name(text: &str) -> Result<KeyName> {
    KeyName::parse(text).map_err(|error| Error::new(ErrorKind::Usage, error.to_string()))
}
