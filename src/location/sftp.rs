//! Opening a folder on a machine that `ssh` reaches.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use packvault_sftp::{SftpConfig, SftpFeatures, SftpPath, SftpStorage, SftpTimeouts};
use packvault_storage::{Storage as _, Wire};

use super::url::SftpLocation;
use super::{Opening, Probed, Purpose, first_words, may_go_unasked, remembered};
use crate::error::Result;

/// Uploads at once: one for each connection.
pub(super) const UPLOADS_MAX: usize = 4;

/// What is settled about machines that `ssh` reaches, besides what `ssh` knows itself.
#[derive(Debug, Clone, Default)]
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

fn config(location: &SftpLocation, opening: &Opening) -> SftpConfig {
    let options = &opening.sftp;
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

/// Opens the folder and asks its server what it promises, unless that is remembered.
pub(super) async fn open(location: &SftpLocation, opening: &Opening, wire: Arc<Wire>) -> Result<SftpStorage> {
    let config = config(location, opening);
    let memory = opening.memory.as_deref();
    let known: Option<SftpFeatures> = match opening.purpose {
        Purpose::Init => None,
        Purpose::Work | Purpose::Read | Purpose::Look => remembered::recall(memory, location),
    };
    let is_init = opening.purpose == Purpose::Init;
    let open = || -> BoxFuture<'_, _> {
        let (config, wire) = (config.clone(), Arc::clone(&wire));
        match is_init {
            true => Box::pin(SftpStorage::create_root(config, known, wire)),
            false => Box::pin(SftpStorage::open(config, known, wire)),
        }
    };
    let storage = first_words(location, opening, open).await?;
    if known.is_some() || opening.purpose == Purpose::Look {
        return Ok(storage);
    }
    let (features, _) = match first_words(location, opening, || Box::pin(storage.probe())).await {
        Err(error) if may_go_unasked(opening, &error) => return Ok(storage),
        asked => asked?,
    };
    remembered::remember(memory, location, &features);
    Ok(storage.with_features(features))
}

pub(super) async fn probe(location: &SftpLocation, opening: &Opening) -> Result<Probed> {
    let config = config(location, opening);
    let open = || -> BoxFuture<'_, _> { Box::pin(SftpStorage::open(config.clone(), None, Arc::default())) };
    let storage = first_words(location, opening, open).await?;
    let (features, report) = first_words(location, opening, || Box::pin(storage.probe())).await?;
    remembered::remember(opening.memory.as_deref(), location, &features);
    let guarantees = storage.with_features(features).guarantees();
    Ok(Probed { location: location.to_string(), report, guarantees })
}
