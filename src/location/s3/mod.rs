//! A bucket of an S3-compatible store: the location, what is settled about it, and its driver.

pub(super) mod url;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use packvault_s3::{Environment, S3Config, S3Credentials, S3Features, S3Storage, S3Timeouts};
use packvault_storage::Wire;
use packvault_storage::probe::ProbeReport;

use super::Opening;
use super::server::{Driver, named_by};

/// A bucket and the folder in it: `s3://bucket/folder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// The folder in it, without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
    /// What the URL's query settles: `?endpoint=https://nas:9000&region=eu`.
    pub query: S3Query,
    /// What is settled otherwise.
    pub options: Box<S3Options>,
}

/// What a location may say of its server besides the bucket. Secrets have no place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Query {
    /// The server's URL; without one, Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The profile of the shared credentials and configuration files.
    pub profile: Option<String>,
    /// Whether the bucket is part of the path and not of the host name.
    pub path_style: Option<bool>,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: Option<bool>,
}

/// What is settled about an S3 store besides its location, whose own word counts more.
#[derive(Clone, Default, PartialEq, Eq)]
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
#[derive(Clone, PartialEq, Eq)]
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

impl Driver for S3Location {
    type Features = S3Features;
    type Storage = S3Storage;

    /// Each upload holds a pack in memory, of 32 MiB and a little more.
    const UPLOADS_MAX: usize = 3;

    fn remembered_as(&self) -> String {
        let endpoint = self.query.endpoint.as_ref().or(self.options.endpoint.as_ref());
        format!("s3://{}/{} at {}", self.bucket, self.prefix, endpoint.map_or("aws", String::as_str))
    }

    fn told_apart_by(&self) -> String {
        let S3Options { endpoint, profile, variables, .. } = self.options.as_ref();
        named_by(endpoint.as_deref(), profile.as_deref(), &[], variables)
    }

    async fn connect(
        &self,
        opening: &Opening,
        features: Option<S3Features>,
        wire: Arc<Wire>,
    ) -> packvault_storage::Result<S3Storage> {
        S3Storage::open(config(self, opening), features, wire)
    }

    async fn ask(storage: &S3Storage) -> packvault_storage::Result<(S3Features, ProbeReport)> {
        storage.probe().await
    }

    fn believing(storage: S3Storage, features: S3Features) -> S3Storage {
        storage.with_features(features)
    }
}

fn config(location: &S3Location, opening: &Opening) -> S3Config {
    let S3Location { query, options, .. } = location;
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

#[cfg(test)]
mod tests {
    use super::super::{Location, Purpose};
    use super::*;

    #[test]
    fn the_location_counts_more_than_the_options_and_keys_more_than_the_chain() {
        let text = "s3://mail/a?endpoint=https://nas:9000&allow_http=false";
        let Location::S3(mut location) = Location::parse(text).unwrap() else { panic!() };
        let secrets =
            S3Secrets { access_key_id: "id".into(), secret_access_key: "hush".into(), session_token: None };
        let options = S3Options {
            endpoint: Some("https://other".into()),
            region: Some("eu".into()),
            allow_http: true,
            secrets: Some(secrets),
            ..S3Options::default()
        };
        let opening = Opening::new(Purpose::Look, "/tmp");
        *location.options = options.clone();
        let found = config(&location, &opening);
        assert_eq!(found.endpoint.as_deref(), Some("https://nas:9000"));
        assert_eq!((found.region.as_deref(), found.allow_http), (Some("eu"), false));
        assert!(matches!(found.credentials, S3Credentials::Static { .. }));
        assert!(!format!("{options:?}").contains("hush"));
        location.options.anonymous = true;
        assert_eq!(config(&location, &opening).credentials, S3Credentials::Anonymous);
    }
}
