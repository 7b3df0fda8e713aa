//! A folder on a machine that `ssh` reaches: the location, what is settled about it, and its driver.

pub(super) mod url;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use packvault_sftp::{SftpConfig, SftpFeatures, SftpPath, SftpStorage, SftpTimeouts};
use packvault_storage::Wire;
use packvault_storage::probe::ProbeReport;

use super::server::{Driver, named_by};
use super::{Opening, Purpose};

/// A folder on a machine that `ssh` reaches: `sftp://user@host:port/folder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpLocation {
    /// The user; without one, whom `ssh` takes.
    pub user: Option<String>,
    /// The host, or its name in the configuration of `ssh`.
    pub host: String,
    /// The port; without one, which `ssh` takes.
    pub port: Option<u16>,
    /// The folder: absolute, or relative to the one a login begins in.
    pub path: String,
    /// What is settled besides.
    pub options: SftpOptions,
}

/// What is settled about machines that `ssh` reaches, besides what `ssh` knows itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SftpOptions {
    /// The program to run; without one, `ssh`.
    pub ssh_program: Option<String>,
    /// Its options, before the name of the host.
    pub ssh_options: Vec<String>,
    /// How many connections there may be at once.
    pub connections_max: Option<usize>,
    /// The folder for temporary files; without one, `/tmp`.
    pub temporary: Option<PathBuf>,
}

impl Driver for SftpLocation {
    type Features = SftpFeatures;
    type Storage = SftpStorage;

    /// One for each connection.
    const UPLOADS_MAX: usize = 4;

    fn remembered_as(&self) -> String {
        self.to_string()
    }

    fn told_apart_by(&self) -> String {
        named_by(None, None, &self.options.ssh_options, &HashMap::new())
    }

    async fn connect(
        &self,
        opening: &Opening,
        features: Option<SftpFeatures>,
        wire: Arc<Wire>,
    ) -> packvault_storage::Result<SftpStorage> {
        let config = config(self, opening);
        match opening.purpose {
            Purpose::Init => SftpStorage::create_root(config, features, wire).await,
            Purpose::Work | Purpose::Read | Purpose::Look => SftpStorage::open(config, features, wire).await,
        }
    }

    async fn ask(storage: &SftpStorage) -> packvault_storage::Result<(SftpFeatures, ProbeReport)> {
        storage.probe().await
    }

    fn believing(storage: SftpStorage, features: SftpFeatures) -> SftpStorage {
        storage.with_features(features)
    }
}

fn config(location: &SftpLocation, opening: &Opening) -> SftpConfig {
    let options = &location.options;
    let path = match location.path.starts_with('/') {
        true => SftpPath::Absolute(location.path.clone()),
        false => SftpPath::Relative(location.path.clone()),
    };
    let mut config = SftpConfig::new(&location.host, path);
    config.user = location.user.clone();
    config.port = location.port;
    config.ssh_options = options.ssh_options.clone();
    config.temporary = options.temporary.clone();
    config.timeouts = opening.timeout.map_or_else(SftpTimeouts::default, SftpTimeouts::all);
    if let Some(program) = &options.ssh_program {
        config.ssh_program = program.into();
    }
    if let Some(connections_max) = options.connections_max {
        config.connections_max = connections_max;
    }
    config
}
