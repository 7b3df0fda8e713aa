//! Opening a bucket of an S3-compatible store.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use packvault_s3::{Environment, S3Config, S3Credentials, S3Features, S3Storage, S3Timeouts};
use packvault_storage::{Storage as _, Wire};

use super::url::S3Location;
use super::{Opening, Probed, Purpose, cannot_open, first_words, may_go_unasked, remembered};
use crate::error::Result;

/// Uploads at once. Each holds a pack in memory, of 32 MiB and a little more.
pub(super) const UPLOADS_MAX: usize = 3;

/// What is settled about an S3 store besides its location, whose own word counts more.
#[derive(Clone, Default)]
pub struct S3Options {
    /// The server's URL; without one, Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The profile of the shared credentials and configuration files.
    pub profile: Option<String>,
    /// Whether the bucket is part of the path and not of the host name.
    pub path_style: Option<bool>,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: bool,
    /// Certificates in PEM that are trusted besides the system's.
    pub ca_certificate: Option<Vec<u8>>,
    /// The URL of a proxy.
    pub proxy: Option<String>,
    /// Whether requests are not signed.
    pub anonymous: bool,
    /// Fixed keys; without them, what Amazon's own tools would find.
    pub secrets: Option<S3Secrets>,
    /// The environment variables in which keys are sought.
    pub variables: HashMap<String, String>,
    /// The home folder, in which the shared files are sought.
    pub home: Option<PathBuf>,
}

/// Fixed keys of an S3 store.
#[derive(Clone)]
pub struct S3Secrets {
    /// The public part.
    pub access_key_id: String,
    /// The secret part.
    pub secret_access_key: String,
    /// The token of temporary keys.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl fmt::Debug for S3Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Secrets(..)")
    }
}

fn config(location: &S3Location, opening: &Opening) -> S3Config {
    let options = &opening.s3;
    let query = &location.query;
    let credentials = match &options.secrets {
        _ if options.anonymous => S3Credentials::Anonymous,
        Some(secrets) => S3Credentials::Static {
            access_key_id: secrets.access_key_id.clone(),
            secret_access_key: secrets.secret_access_key.clone(),
            session_token: secrets.session_token.clone(),
        },
        None => S3Credentials::Chain(Environment {
            variables: options.variables.clone(),
            home: options.home.clone(),
        }),
    };
    S3Config {
        endpoint: query.endpoint.clone().or_else(|| options.endpoint.clone()),
        region: query.region.clone().or_else(|| options.region.clone()),
        profile: query.profile.clone().or_else(|| options.profile.clone()),
        path_style: query.path_style.or(options.path_style),
        allow_http: query.allow_http.unwrap_or(options.allow_http),
        ca_certificate: options.ca_certificate.clone(),
        proxy: options.proxy.clone(),
        timeouts: opening.timeout.map_or_else(S3Timeouts::default, S3Timeouts::all),
        ..S3Config::new(&location.bucket, &location.prefix, credentials)
    }
}

/// Returns what the memory of the server goes by: the bucket, the folder, and the server itself.
fn remembered_as(config: &S3Config) -> String {
    let endpoint = config.endpoint.as_deref().unwrap_or("aws");
    format!("s3://{}/{} at {endpoint}", config.bucket, config.prefix)
}

pub(super) async fn open(location: &S3Location, opening: &Opening, wire: Arc<Wire>) -> Result<S3Storage> {
    let config = config(location, opening);
    let memory = opening.memory.as_deref();
    let name = remembered_as(&config);
    let known: Option<S3Features> = match opening.purpose {
        Purpose::Init => None,
        Purpose::Work | Purpose::Read | Purpose::Look => remembered::recall(memory, &name),
    };
    let lift = |error| cannot_open(location, error);
    let storage = S3Storage::open(config.clone(), known.clone(), Arc::clone(&wire)).map_err(lift)?;
    if known.is_some() || opening.purpose == Purpose::Look {
        return Ok(storage);
    }
    let (features, _) = match first_words(location, opening, || Box::pin(storage.probe())).await {
        Err(error) if may_go_unasked(opening, &error) => return Ok(storage),
        asked => asked?,
    };
    remembered::remember(memory, &name, &features);
    S3Storage::open(config, Some(features), wire).map_err(lift)
}

pub(super) async fn probe(location: &S3Location, opening: &Opening) -> Result<Probed> {
    let config = config(location, opening);
    let lift = |error| cannot_open(location, error);
    let wire = Arc::new(Wire::default());
    let storage = S3Storage::open(config.clone(), None, Arc::clone(&wire)).map_err(lift)?;
    let (features, report) = first_words(location, opening, || Box::pin(storage.probe())).await?;
    remembered::remember(opening.memory.as_deref(), &remembered_as(&config), &features);
    let storage = S3Storage::open(config, Some(features), wire).map_err(lift)?;
    Ok(Probed { location: location.to_string(), report, guarantees: storage.guarantees() })
}

#[cfg(test)]
mod tests {
    use super::super::Location;
    use super::*;

    #[test]
    fn the_location_counts_more_than_the_options_and_keys_more_than_the_chain() {
        let text = "s3://mail/a?endpoint=https://nas:9000&allow_http=false";
        let Location::S3(location) = Location::parse(text).unwrap() else { panic!() };
        let secrets =
            S3Secrets { access_key_id: "id".into(), secret_access_key: "hush".into(), session_token: None };
        let options = S3Options {
            endpoint: Some("https://other".into()),
            region: Some("eu".into()),
            allow_http: true,
            secrets: Some(secrets),
            ..S3Options::default()
        };
        let opening = |options| Opening { s3: options, ..Opening::new(Purpose::Look, "/tmp") };
        let found = config(&location, &opening(options.clone()));
        assert_eq!(found.endpoint.as_deref(), Some("https://nas:9000"));
        assert_eq!((found.region.as_deref(), found.allow_http), (Some("eu"), false));
        assert!(matches!(found.credentials, S3Credentials::Static { .. }));
        assert!(!format!("{options:?}").contains("hush"));
        let anonymous = S3Options { anonymous: true, ..options };
        assert_eq!(config(&location, &opening(anonymous)).credentials, S3Credentials::Anonymous);
    }
}
