//! Opening a container through opendal.

use std::sync::Arc;

use packvault_opendal::{OpendalConfig, OpendalFeatures, OpendalStorage, Service, Timeouts};
use packvault_storage::Wire;
use packvault_storage::probe::ProbeReport;

use super::super::Opening;
use super::super::server::{Driver, named_by};
use super::{Cloud, CloudLocation};

impl Driver for CloudLocation {
    type Features = OpendalFeatures;
    type Storage = OpendalStorage;

    /// Each upload holds a pack in memory, of 32 MiB and a little more.
    const UPLOADS_MAX: usize = 3;

    fn remembered_as(&self) -> String {
        let config = config(self);
        format!("{} at {}", config.location(), config.server())
    }

    fn told_apart_by(&self) -> String {
        named_by(None, None, &[], &self.options.variables)
    }

    async fn connect(
        &self,
        opening: &Opening,
        features: Option<OpendalFeatures>,
        wire: Arc<Wire>,
    ) -> packvault_storage::Result<OpendalStorage> {
        let timeouts = opening.timeout.map_or_else(Timeouts::default, Timeouts::all);
        OpendalStorage::open(&OpendalConfig { timeouts, ..config(self) }, features.as_ref(), wire)
    }

    async fn ask(storage: &OpendalStorage) -> packvault_storage::Result<(OpendalFeatures, ProbeReport)> {
        storage.probe().await
    }

    fn believing(storage: OpendalStorage, features: OpendalFeatures) -> OpendalStorage {
        storage.with_features(&features)
    }
}

fn config(location: &CloudLocation) -> OpendalConfig {
    let service = match location.cloud {
        Cloud::Azure => Service::Azblob,
        Cloud::Google => Service::Gcs,
    };
    OpendalConfig {
        endpoint: location.endpoint.clone(),
        account: location.account.clone(),
        allow_http: location.allow_http,
        anonymous: location.anonymous,
        variables: location.options.variables.clone(),
        home: location.options.home.clone(),
        ..OpendalConfig::new(service, &location.container, &location.prefix)
    }
}
