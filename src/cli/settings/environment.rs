//! The environment, as far as it settles anything. An empty variable counts as unset.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use packvault::Result;

use super::super::guard;
use super::usage;

/// The environment, as far as it settles anything.
#[derive(Clone, Default)]
pub struct Environment {
    /// `HOME`: what `~` stands for.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub cache_home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// `PACKVAULT_CONFIG`.
    pub config_file: Option<PathBuf>,
    /// `PACKVAULT_REPO`.
    pub repository: Option<OsString>,
    /// `PACKVAULT_PASSPHRASE_FILE`.
    pub passphrase_file: Option<PathBuf>,
    /// `PACKVAULT_PASSPHRASE_COMMAND`.
    pub passphrase_command: Option<String>,
    /// `PACKVAULT_IDENTITY`.
    pub identity: Option<PathBuf>,
    /// `NO_COLOR`: whether colours are unwanted.
    pub no_color: bool,
    /// `MSGVAULT_HOME`.
    pub msgvault_home: Option<PathBuf>,
    /// Every variable that begins with `AWS_`, as Amazon's own tools have them.
    pub aws: HashMap<String, String>,
    /// Every variable that begins with `AZURE_STORAGE_` or `GOOGLE_`, as those clouds' own tools have them.
    pub clouds: HashMap<String, String>,
}

/// Shows the names of variables that may hold secrets, and not their values.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: BTreeSet<&String> = self.aws.keys().chain(self.clouds.keys()).collect();
        let mut shown = f.debug_struct("Environment");
        shown.field("home", &self.home).field("config_file", &self.config_file);
        shown.field("secrets", &names).finish_non_exhaustive()
    }
}

impl Environment {
    /// Reads the environment of this process.
    pub fn read() -> Self {
        let path = |name| variable(name).map(PathBuf::from);
        Self {
            // What is relative would be another folder wherever a command is run. It is invalid by the XDG
            // specification, and to be ignored.
            home: path("HOME").filter(|path| path.is_absolute()),
            config_home: path("XDG_CONFIG_HOME").filter(|path| path.is_absolute()),
            cache_home: path("XDG_CACHE_HOME").filter(|path| path.is_absolute()),
            state_home: path("XDG_STATE_HOME").filter(|path| path.is_absolute()),
            config_file: path("PACKVAULT_CONFIG"),
            repository: variable("PACKVAULT_REPO"),
            passphrase_file: path("PACKVAULT_PASSPHRASE_FILE"),
            passphrase_command: variable("PACKVAULT_PASSPHRASE_COMMAND")
                .map(|command| command.to_string_lossy().into_owned()),
            identity: path("PACKVAULT_IDENTITY"),
            no_color: variable("NO_COLOR").is_some(),
            msgvault_home: path("MSGVAULT_HOME"),
            aws: variables(&["AWS_"]),
            clouds: variables(if cfg!(feature = "opendal") { &["AZURE_STORAGE_", "GOOGLE_"] } else { &[] }),
        }
    }

    /// Tells whether it says where a secret is that opens repositories, or holds a passphrase itself.
    pub fn names_a_secret(&self) -> bool {
        self.names_a_passphrase() || self.identity.is_some()
    }

    /// Tells whether it says where a passphrase is, or holds one itself.
    pub fn names_a_passphrase(&self) -> bool {
        guard::has_passphrase() || self.passphrase_file.is_some() || self.passphrase_command.is_some()
    }

    /// Returns what `PACKVAULT_REPO` says.
    pub(super) fn typed_repository(&self) -> Result<Option<&str>> {
        match &self.repository {
            Some(value) => value.to_str().map(Some).ok_or_else(|| usage("PACKVAULT_REPO is not valid UTF-8")),
            None => Ok(None),
        }
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns every variable whose name begins in one of these ways.
fn variables(beginnings: &[&str]) -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| beginnings.iter().any(|beginning| name.starts_with(beginning)))
        .collect()
}
