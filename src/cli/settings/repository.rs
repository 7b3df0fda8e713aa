//! What the configuration file says of a repository: where it lies and how its server is reached.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use packvault::location::{S3Options, S3Secrets, SftpOptions, endpoint_refusal};
use packvault::{Cancel, Error, ErrorKind, Location, Result};
use serde::Deserialize;

use super::super::awaited;
use super::super::text::ByteSize;
use super::home::expand_home;
use super::secret::SecretSource;
use super::{Environment, places};

/// What a user may wait for a server: not so short that no server answers, nor so long that a night is over.
const TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=3600;

/// The longest file of certificates; those of a whole system have some hundred kilobytes.
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;

/// Why a path is refused: from which folder a command will be run, whoever wrote the file did not know.
pub(super) const IS_RELATIVE: &str = "is a relative path; write it from the root, or from your home with ~";

/// Tells whether what a path means depends on the folder a command is run in.
pub(super) fn is_relative(path: &str) -> bool {
    Path::new(path).is_relative() && path != "~" && !path.starts_with("~/")
}

/// The same of a program: a bare name is looked for where programs are.
pub(super) fn is_relative_program(program: &str) -> bool {
    program.contains('/') && Path::new(program).is_relative()
}

/// The repository the user means, and what is settled about it.
#[derive(Debug, Clone)]
pub struct RepositoryChoice {
    /// Where it lies.
    pub location: Location,
    /// Its section of the configuration file, if it has one.
    pub section: Option<RepositorySection>,
    /// Whether it is the environment that names it, with what else stands there.
    pub is_from_environment: bool,
}

/// `[repository.NAME]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositorySection {
    /// A path or a URL.
    pub location: String,
    /// How many seconds a server may leave an attempt without a sign of life.
    pub timeout_seconds: Option<u64>,
    /// Bytes per second that may be sent.
    pub limit_upload: Option<ByteSize>,
    /// Bytes per second that may be received.
    pub limit_download: Option<ByteSize>,
    /// Where packs wait for their upload.
    pub spool: Option<String>,
    /// How many bytes may wait there.
    pub spool_size: Option<ByteSize>,
    /// Whether this client removes nothing there.
    #[serde(default)]
    pub append_only: bool,
    /// Where the passphrase of the repository is.
    pub passphrase: Option<SecretSource>,
    /// Whether the repository must be encrypted.
    pub encryption: Option<Encryption>,
    identity: Option<OneOrMore>,
    endpoint: Option<String>,
    region: Option<String>,
    profile: Option<String>,
    path_style: Option<bool>,
    allow_http: Option<bool>,
    ca_certificate: Option<String>,
    proxy: Option<String>,
    anonymous: Option<bool>,
    access_key_id: Option<PlainOrSource>,
    secret_access_key: Option<SecretSource>,
    session_token: Option<SecretSource>,
    ssh_program: Option<String>,
    ssh_options: Option<Vec<String>>,
    connections: Option<usize>,
}

/// What the configuration asks of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// It must be encrypted.
    Required,
}

/// A file, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

/// The public part of a key, which may stand in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum PlainOrSource {
    Plain(String),
    Source(SecretSource),
}

impl RepositorySection {
    /// Returns the name of a key that cannot be meant, and why.
    pub fn refusal(&self) -> Option<(&'static str, &'static str)> {
        let s3 = [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("profile", self.profile.is_some()),
            ("path_style", self.path_style.is_some()),
            ("allow_http", self.allow_http.is_some()),
            ("ca_certificate", self.ca_certificate.is_some()),
            ("proxy", self.proxy.is_some()),
            ("anonymous", self.anonymous.is_some()),
            ("access_key_id", self.access_key_id.is_some()),
            ("secret_access_key", self.secret_access_key.is_some()),
            ("session_token", self.session_token.is_some()),
        ];
        let sftp = [
            ("ssh_program", self.ssh_program.is_some()),
            ("ssh_options", self.ssh_options.is_some()),
            ("connections", self.connections.is_some()),
        ];
        let first =
            |keys: &[(&'static str, bool)]| keys.iter().find(|(_, is_there)| *is_there).map(|key| key.0);
        if self.timeout_seconds.is_some_and(|seconds| !TIMEOUT_SECONDS.contains(&seconds)) {
            return Some(("timeout_seconds", "is a number from 1 to 3600"));
        }
        let rates = [("limit_upload", self.limit_upload), ("limit_download", self.limit_download)];
        if let Some((key, _)) = rates.iter().find(|(_, rate)| *rate == Some(ByteSize(0))) {
            return Some((key, "is at least 1 byte per second; leave it out for no limit"));
        }
        if let Some(why) = self.passphrase.as_ref().and_then(SecretSource::refusal) {
            return Some(("passphrase", why));
        }
        if self.identity_files().iter().any(|file| is_relative(file)) {
            return Some(("identity", IS_RELATIVE));
        }
        if self.ca_certificate.as_deref().is_some_and(is_relative) {
            return Some(("ca_certificate", IS_RELATIVE));
        }
        if self.ssh_program.as_deref().is_some_and(is_relative_program) {
            return Some(("ssh_program", IS_RELATIVE));
        }
        if let Some(why) = self.endpoint.as_deref().and_then(endpoint_refusal) {
            return Some(("endpoint", why));
        }
        let kind = self.location.split_once("://").map_or("", |(scheme, _)| scheme);
        let misplaced = |key| (key, "belongs to another kind of storage");
        match kind.to_ascii_lowercase().as_str() {
            "s3" => first(&sftp).map(misplaced).or_else(|| self.wrong_keys()),
            "sftp" => first(&s3)
                .map(misplaced)
                .or_else(|| (self.connections == Some(0)).then_some(("connections", "is at least 1"))),
            _ => first(&s3).or_else(|| first(&sftp)).map(misplaced),
        }
    }

    /// Tells whether it says where a secret is that opens the repository.
    pub fn names_a_secret(&self) -> bool {
        self.passphrase.is_some() || !self.identity_files().is_empty()
    }

    /// Returns the files of identities.
    pub fn identities(&self, home: Option<&Path>) -> Result<Vec<PathBuf>> {
        self.identity_files().iter().map(|file| expand_home(file, home)).collect()
    }

    fn identity_files(&self) -> &[String] {
        self.identity.as_ref().map_or(&[], OneOrMore::as_slice)
    }

    fn wrong_keys(&self) -> Option<(&'static str, &'static str)> {
        let pair = (self.access_key_id.is_some(), self.secret_access_key.is_some());
        match pair {
            (true, false) => return Some(("secret_access_key", "is missing beside access_key_id")),
            (false, true) => return Some(("access_key_id", "is missing beside secret_access_key")),
            (false, false) if self.session_token.is_some() => {
                return Some(("session_token", "needs access_key_id and secret_access_key"));
            }
            (true, true) if self.anonymous == Some(true) => return Some(("anonymous", "has no keys")),
            _ => {}
        }
        let id = match &self.access_key_id {
            Some(PlainOrSource::Source(source)) => Some(source),
            _ => None,
        };
        let sources = [
            ("access_key_id", id),
            ("secret_access_key", self.secret_access_key.as_ref()),
            ("session_token", self.session_token.as_ref()),
        ];
        sources.into_iter().find_map(|(key, source)| Some((key, source?.refusal()?)))
    }

    /// Returns what is settled about an S3 store; fetches its secrets.
    pub fn s3(&self, environment: &Environment, cancel: &Cancel) -> Result<S3Options> {
        let home = environment.home.as_deref();
        Ok(S3Options {
            region: self.region.clone(),
            profile: self.profile.clone(),
            path_style: self.path_style,
            allow_http: self.allow_http.unwrap_or(false),
            ca_certificate: self
                .ca_certificate
                .as_deref()
                .map(|path| read_certificate(path, home, cancel))
                .transpose()?,
            proxy: self.proxy.clone(),
            anonymous: self.anonymous.unwrap_or(false),
            secrets: self.secrets(home, cancel)?,
            ..environment.s3(self.endpoint.clone(), cancel)?
        })
    }

    fn secrets(&self, home: Option<&Path>, cancel: &Cancel) -> Result<Option<S3Secrets>> {
        let (Some(id), Some(secret)) = (&self.access_key_id, &self.secret_access_key) else {
            return Ok(None);
        };
        let access_key_id = match id {
            PlainOrSource::Plain(id) => id.clone(),
            PlainOrSource::Source(source) => source.fetch("access_key_id", home, cancel)?.to_string(),
        };
        let token = self.session_token.as_ref().map(|source| source.fetch("session_token", home, cancel));
        let token = token.transpose()?.map(|token| token.to_string());
        Ok(Some(S3Secrets {
            access_key_id,
            secret_access_key: secret.fetch("secret_access_key", home, cancel)?.to_string(),
            session_token: token,
        }))
    }

    /// Returns what is settled about a machine that `ssh` reaches.
    pub fn sftp(&self) -> SftpOptions {
        SftpOptions {
            ssh_program: self.ssh_program.clone(),
            ssh_options: self.ssh_options.clone().unwrap_or_default(),
            connections_max: self.connections,
            temporary: Some(places::first_usable(None, places::temporary())),
        }
    }
}

impl Environment {
    /// Returns what the variables of Amazon's own tools settle, for a server whose URL may be settled already.
    pub fn s3(&self, endpoint: Option<String>, cancel: &Cancel) -> Result<S3Options> {
        let variable = |name: &str| self.aws.get(name).filter(|value| !value.is_empty());
        let endpoint = match endpoint {
            Some(endpoint) => Some(endpoint),
            None => self.endpoint()?,
        };
        let certificate =
            variable("AWS_CA_BUNDLE").map(|path| read_certificate(path, self.home.as_deref(), cancel));
        Ok(S3Options {
            endpoint,
            ca_certificate: certificate.transpose()?,
            variables: self.aws.clone(),
            home: self.home.clone(),
            ..S3Options::default()
        })
    }
}

impl Environment {
    /// Returns the URL of the server that a variable names.
    fn endpoint(&self) -> Result<Option<String>> {
        let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        let found =
            names.iter().find_map(|name| Some((name, self.aws.get(*name).filter(|url| !url.is_empty())?)));
        let Some((name, url)) = found else { return Ok(None) };
        match endpoint_refusal(url) {
            None => Ok(Some(url.clone())),
            Some(why) => Err(Error::new(ErrorKind::Usage, format!("{name} {why}"))),
        }
    }
}

fn read_certificate(path: &str, home: Option<&Path>, cancel: &Cancel) -> Result<Vec<u8>> {
    let path = expand_home(path, home)?;
    let message = format!("cannot read the certificates in {}", path.display());
    let failed = |error| Error::caused(ErrorKind::Usage, message.clone(), error);
    let bytes = awaited::read(&path, CERTIFICATES_BYTES_MAX, cancel, failed)?;
    match bytes.len() as u64 > CERTIFICATES_BYTES_MAX {
        true => Err(Error::new(ErrorKind::Usage, format!("{message}: they are longer than any"))),
        false => Ok(bytes.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> RepositorySection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_key_of_another_kind_of_storage_is_refused_by_name() {
        for (text, key) in [
            ("location = '/mnt/nas'\nendpoint = 'https://x'", "endpoint"),
            ("location = '/mnt/nas'\nssh_options = ['-v']", "ssh_options"),
            ("location = 's3://b'\nconnections = 2", "connections"),
            ("location = 'sftp://h/a'\nregion = 'eu'", "region"),
            ("location = 'sftp://h/a'\nconnections = 0", "connections"),
            ("location = 's3://b'\nendpoint = 'https://ann:hush@nas'", "endpoint"),
            ("location = 's3://b'\nendpoint = 'https://nas/?token=hush'", "endpoint"),
            ("location = 's3://b'\nendpoint = 'nas'", "endpoint"),
            ("location = 's3://b'\nlimit_upload = '0'", "limit_upload"),
            ("location = 's3://b'\nlimit_download = '0 MiB'", "limit_download"),
            ("location = 's3://b'\nca_certificate = 'ca.pem'", "ca_certificate"),
            ("location = 'sftp://h/a'\nssh_program = './ssh'", "ssh_program"),
            (
                "location = 's3://b'\naccess_key_id = 'AK'\nsecret_access_key = { file = 'key' }",
                "secret_access_key",
            ),
            (
                "location = 's3://b'\naccess_key_id = 'AK'\nsecret_access_key = { command = ['bin/key'] }",
                "secret_access_key",
            ),
            ("location = 's3://b'\ntimeout_seconds = 0", "timeout_seconds"),
            ("location = 'sftp://h/a'\ntimeout_seconds = 3601", "timeout_seconds"),
            ("location = 's3://b'\naccess_key_id = 'AK'", "secret_access_key"),
            ("location = 's3://b'\nsecret_access_key = { env = 'S' }", "access_key_id"),
            ("location = 's3://b'\nsession_token = { env = 'S' }", "session_token"),
            (
                "location = 's3://b'\naccess_key_id = 'AK'\nsecret_access_key = { env = 'S', file = 'f' }",
                "secret_access_key",
            ),
            (
                "location = 's3://b'\nanonymous = true\naccess_key_id = 'AK'\nsecret_access_key = { env = 'S' }",
                "anonymous",
            ),
        ] {
            assert_eq!(section(text).refusal().map(|(key, _)| key), Some(key), "{text}");
        }
        assert!(section("location = 's3://b'\nregion = 'eu'").refusal().is_none());
    }

    #[test]
    fn a_secret_itself_does_not_stand_in_the_file() {
        let text = "location = 's3://b'\naccess_key_id = 'AK'\nsecret_access_key = 'hush'";
        let error = toml::from_str::<RepositorySection>(text).unwrap_err();
        assert!(error.message().contains("string"), "{error}");
    }

    #[test]
    fn keys_are_fetched_and_variables_fill_in_the_rest() {
        let text =
            "location = 's3://b'\naccess_key_id = 'AK'\nsecret_access_key = { command = ['echo', 'hush'] }";
        let mut environment = Environment::default();
        environment.aws.insert("AWS_ENDPOINT_URL".into(), "https://nas".into());
        let options = section(text).s3(&environment, &Cancel::new()).unwrap();
        assert_eq!(options.endpoint.as_deref(), Some("https://nas"));
        let secrets = options.secrets.unwrap();
        assert_eq!((secrets.access_key_id.as_str(), secrets.secret_access_key.as_str()), ("AK", "hush"));
    }
}
