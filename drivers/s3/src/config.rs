//! Where an S3 repository lies, and how it is reached.
//!
//! Nothing here reads the environment or the home folder: what the credential chain may look at is handed
//! over as an [`Environment`].

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The largest object that is sent in one request, unless told otherwise.
pub const ONE_PUT_BYTES_MAX: u64 = 64 << 20;

/// What [`crate::S3Storage::open`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// The bucket, which must exist.
    pub bucket: String,
    /// The folder of the repository in the bucket, without slashes at its ends; empty for the whole bucket,
    /// which then belongs to the repository alone.
    pub prefix: String,
    /// The server's URL; `None` is AWS in the region.
    pub endpoint: Option<String>,
    /// The region requests are signed for; `None` takes the chain's, and `us-east-1` where it names none.
    pub region: Option<String>,
    /// Whether the bucket is part of the path rather than of the host's name. `None` is true for an endpoint
    /// of one's own and for a bucket with dots in its name.
    pub path_style: Option<bool>,
    /// Whether plain http will do, which shows everything but the secret key to the network.
    pub allow_http: bool,
    /// Certificates in PEM that are trusted besides the system's.
    pub ca_certificate: Option<Vec<u8>>,
    /// The URL of a proxy for all requests. Variables such as `HTTPS_PROXY` are not looked at.
    pub proxy: Option<String>,
    /// Who asks.
    pub credentials: S3Credentials,
    /// The profile of the shared files; `None` is `AWS_PROFILE` of the chain's environment, or `default`.
    pub profile: Option<String>,
    /// How long to wait for the server.
    pub timeouts: S3Timeouts,
    /// The largest object that is sent in one request; a streamed one keeps that much in memory. A larger
    /// one is sent in parts.
    pub one_put_bytes_max: u64,
}

impl S3Config {
    /// Makes the configuration of a place in AWS, with the credentials of the chain in the environment.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>, credentials: S3Credentials) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            path_style: None,
            allow_http: false,
            ca_certificate: None,
            proxy: None,
            credentials,
            profile: None,
            timeouts: S3Timeouts::default(),
            one_put_bytes_max: ONE_PUT_BYTES_MAX,
        }
    }
}

/// How long the server may take. There is no limit on a whole request: a large object on a slow line is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// Without progress: no piece of the request taken, no answer, or less than a kibibyte of it.
    pub idle: Duration,
}

impl S3Timeouts {
    /// Returns the same time for everything.
    pub fn all(time: Duration) -> Self {
        Self { connect: time, idle: time }
    }
}

impl Default for S3Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(20), idle: Duration::from_secs(60) }
    }
}

/// Who asks the store.
#[derive(Clone, PartialEq, Eq)]
pub enum S3Credentials {
    /// What AWS's own tools find, in this order: variables, the profile's keys in the shared credentials and
    /// configuration files, a role the profile assumes, single sign-on, a web identity, the profile's
    /// process, the container's service, the machine's metadata service.
    Chain(Environment),
    /// Fixed keys.
    Static {
        /// The public part.
        access_key_id: String,
        /// The secret part.
        secret_access_key: String,
        /// The token of temporary keys.
        session_token: Option<String>,
    },
    /// Nobody: requests are not signed.
    Anonymous,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain(_) => "Chain",
            Self::Static { .. } => "Static(..)",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// The variables and the home folder the credential chain looks at: a copy, made by whoever may read them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The variables.
    pub variables: HashMap<String, String>,
    /// The folder that `~` stands for.
    pub home: Option<PathBuf>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_in_debug() {
        let credentials = S3Credentials::Static {
            access_key_id: "AKIDSHOWN".into(),
            secret_access_key: "hush-secret".into(),
            session_token: Some("hush-token".into()),
        };
        let mut config = S3Config::new("bucket", "", credentials);
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        let variables = HashMap::from([("AWS_SECRET_ACCESS_KEY".to_owned(), "hush-variable".to_owned())]);
        config.credentials = S3Credentials::Chain(Environment { variables, home: None });
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    }
}
