//! Opening a container through opendal.

use std::sync::Arc;

use packvault_opendal::{OpendalConfig, OpendalFeatures, OpendalStorage, Service, Timeouts};
use packvault_storage::{Storage as _, Wire};

use super::super::{Opening, Probed, Purpose, cannot_open, first_words, may_go_unasked, remembered};
use super::{Cloud, CloudLocation};
use crate::error::Result;

/// Uploads at once. Each holds a pack in memory, of 32 MiB and a little more.
pub(in super::super) const UPLOADS_MAX: usize = 3;

fn config(location: &CloudLocation, opening: &Opening) -> OpendalConfig {
    let options = &opening.cloud;
    let service = match location.cloud {
        Cloud::Azure => Service::Azblob,
        Cloud::Google => Service::Gcs,
    };
    OpendalConfig {
        endpoint: location.endpoint.clone(),
        account: location.account.clone(),
        allow_http: location.allow_http,
        anonymous: location.anonymous,
        variables: options.variables.clone(),
        home: options.home.clone(),
        timeouts: opening.timeout.map_or_else(Timeouts::default, Timeouts::all),
        ..OpendalConfig::new(service, &location.container, &location.prefix)
    }
}

pub(in super::super) async fn open(
    location: &CloudLocation,
    opening: &Opening,
    wire: Arc<Wire>,
) -> Result<OpendalStorage> {
    let config = config(location, opening);
    let memory = opening.memory.as_deref();
    let known: Option<OpendalFeatures> = match opening.purpose {
        Purpose::Init => None,
        Purpose::Work | Purpose::Read | Purpose::Look => remembered::recall(memory, &remembered_as(&config)),
    };
    let lift = |error| cannot_open(location, error);
    let storage = OpendalStorage::open(&config, known.as_ref(), Arc::clone(&wire)).map_err(lift)?;
    if known.is_some() || opening.purpose == Purpose::Look {
        return Ok(storage);
    }
    let (features, _) = match first_words(location, opening, || Box::pin(storage.probe())).await {
        Err(error) if may_go_unasked(opening, &error) => return Ok(storage),
        asked => asked?,
    };
    remembered::remember(memory, &remembered_as(&config), &features);
    OpendalStorage::open(&config, Some(&features), wire).map_err(lift)
}

pub(in super::super) async fn probe(location: &CloudLocation, opening: &Opening) -> Result<Probed> {
    let config = config(location, opening);
    let lift = |error| cannot_open(location, error);
    let storage = OpendalStorage::open(&config, None, Arc::default()).map_err(lift)?;
    let (features, report) = first_words(location, opening, || Box::pin(storage.probe())).await?;
    remembered::remember(opening.memory.as_deref(), &remembered_as(&config), &features);
    let storage = OpendalStorage::open(&config, Some(&features), Arc::default()).map_err(lift)?;
    Ok(Probed { location: location.to_string(), report, guarantees: storage.guarantees() })
}

/// Returns what the memory of the server goes by: the container, the folder, and the server itself.
fn remembered_as(config: &OpendalConfig) -> String {
    format!("{} at {}", config.location(), config.server())
}
