//! Which container, where, and with which credentials.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opendal::Builder as _;
use opendal::raw::Servicer;
use opendal::services::{Azblob, Gcs};
use packvault_storage::{ErrorKind, Operation, Result, Step};

/// What an object may have to be sent in one request; a longer one goes in parts.
pub const ONE_PUT_BYTES_MAX: u64 = 64 << 20;

/// Where Google's own tools keep a user's credentials, below the home folder.
const GOOGLE_CREDENTIALS: &str = ".config/gcloud/application_default_credentials.json";

/// A store that opendal reaches and that keeps the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Azure Blob Storage.
    Azblob,
    /// Google Cloud Storage.
    Gcs,
}

impl Service {
    /// Returns the scheme of its locations.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Azblob => "azblob",
            Self::Gcs => "gs",
        }
    }
}

/// How long the store may keep us waiting.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without any byte in either direction.
    pub idle: Duration,
}

impl Timeouts {
    /// Returns the same time for everything.
    pub fn all(time: Duration) -> Self {
        Self { connect: time, idle: time }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(30), idle: Duration::from_secs(60) }
    }
}

/// A folder in a container and how it is reached.
#[derive(Clone)]
pub struct OpendalConfig {
    /// Whose store it is.
    pub service: Service,
    /// The container, or bucket.
    pub container: String,
    /// The folder in it, without slashes at its ends; empty for the whole container.
    pub prefix: String,
    /// The server's URL; without one, the provider's.
    pub endpoint: Option<String>,
    /// The account of an Azure store; without one, what the variables say.
    pub account: Option<String>,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: bool,
    /// Whether requests are not signed.
    pub anonymous: bool,
    /// The environment variables of the provider's own tools.
    pub variables: HashMap<String, String>,
    /// The home folder, in which Google's own tools keep credentials.
    pub home: Option<PathBuf>,
    /// How long is waited.
    pub timeouts: Timeouts,
    /// What is sent in one request at most.
    pub one_put_bytes_max: u64,
}

impl fmt::Debug for OpendalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpendalConfig").field("location", &self.location()).finish_non_exhaustive()
    }
}

impl OpendalConfig {
    /// Makes a configuration with nothing else settled.
    pub fn new(service: Service, container: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            service,
            container: container.into(),
            prefix: prefix.into(),
            endpoint: None,
            account: None,
            allow_http: false,
            anonymous: false,
            variables: HashMap::new(),
            home: None,
            timeouts: Timeouts::default(),
            one_put_bytes_max: ONE_PUT_BYTES_MAX,
        }
    }

    /// Returns the place as a user writes it, without what is settled about its server.
    pub fn location(&self) -> String {
        let (scheme, container) = (self.service.scheme(), &self.container);
        match self.prefix.as_str() {
            "" => format!("{scheme}://{container}"),
            prefix => format!("{scheme}://{container}/{prefix}"),
        }
    }

    /// Returns what tells this server from others with a container of the same name.
    pub fn server(&self) -> &str {
        let part = |name: &str| {
            let text = self.variable("AZURE_STORAGE_CONNECTION_STRING")?;
            text.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let of_azure = || {
            let account = self.account.as_deref().or_else(|| self.variable("AZURE_STORAGE_ACCOUNT"));
            account.or_else(|| part("BlobEndpoint")).or_else(|| part("AccountName"))
        };
        let found = self.endpoint.as_deref();
        found.or_else(|| (self.service == Service::Azblob).then(of_azure)?).unwrap_or("the provider's")
    }

    /// Makes opendal's service, or says what of the settings is missing.
    pub(crate) fn servicer(&self) -> Result<Servicer> {
        if !self.allow_http && self.endpoint.as_deref().is_some_and(|url| !url.starts_with("https:")) {
            return Err(self.refused("its endpoint is no https:// address; allow_http=true permits others"));
        }
        match self.service {
            Service::Azblob => self.azblob(),
            Service::Gcs => self.gcs(),
        }
    }

    fn azblob(&self) -> Result<Servicer> {
        let mut builder = Azblob::default();
        let account = self.account.as_deref().or_else(|| self.variable("AZURE_STORAGE_ACCOUNT"));
        let (key, token) = (self.variable("AZURE_STORAGE_KEY"), self.variable("AZURE_STORAGE_SAS_TOKEN"));
        match self.variable("AZURE_STORAGE_CONNECTION_STRING") {
            Some(text) if self.account.is_none() && key.is_none() && token.is_none() => {
                let signs = ["AccountKey=", "SharedAccessSignature=", "UseDevelopmentStorage=true"];
                if !self.anonymous && !signs.iter().any(|sign| text.contains(sign)) {
                    return Err(self.refused("AZURE_STORAGE_CONNECTION_STRING holds no credentials"));
                }
                let parsed = Azblob::from_connection_string(text);
                builder = parsed
                    .map_err(|_| self.refused("AZURE_STORAGE_CONNECTION_STRING is no connection string"))?;
            }
            _ => {
                let lacking =
                    "no account is named: set AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_CONNECTION_STRING";
                let account = account.ok_or_else(|| self.refused(lacking))?;
                let is_plain = account.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
                if account.is_empty() || !is_plain {
                    return Err(
                        self.refused("the account's name has other characters than letters and digits")
                    );
                }
                builder = builder.account_name(account);
                builder = builder.endpoint(&format!("https://{account}.blob.core.windows.net"));
                if key.is_none() && token.is_none() && !self.anonymous {
                    let lacking = "no credentials: set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN";
                    return Err(self.refused(lacking));
                }
            }
        }
        builder = builder.container(&self.container);
        if let Some(key) = key {
            builder = builder.account_key(key);
        }
        if let Some(token) = token {
            builder = builder.sas_token(token.trim_start_matches('?'));
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if self.anonymous {
            builder = builder.skip_signature();
        }
        Ok(Arc::new(builder.build().map_err(|_| self.unusable())?))
    }

    fn gcs(&self) -> Result<Servicer> {
        // Nothing but what is handed in: no variables of this process, no metadata service of a machine.
        let mut builder = Gcs::default().bucket(&self.container).disable_config_load().disable_vm_metadata();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if self.anonymous {
            builder = builder.skip_signature();
        } else {
            let named = self.variable("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from);
            let usual = || Some(self.home.as_ref()?.join(GOOGLE_CREDENTIALS)).filter(|path| path.is_file());
            let lacking = "no credentials: name a file of them in GOOGLE_APPLICATION_CREDENTIALS, or run \
                           gcloud auth application-default login";
            let path = named.or_else(usual).ok_or_else(|| self.refused(lacking))?;
            if !path.is_file() {
                let detail = format!("GOOGLE_APPLICATION_CREDENTIALS names no file: {}", path.display());
                return Err(self.refused(detail));
            }
            builder = builder.credential_path(&path.to_string_lossy());
        }
        Ok(Arc::new(builder.build().map_err(|_| self.unusable())?))
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn refused(&self, detail: impl Into<String>) -> packvault_storage::Error {
        Step::new(Operation::Open, &self.location()).error(ErrorKind::Config, detail)
    }

    /// opendal's own words might repeat a part of a secret.
    fn unusable(&self) -> packvault_storage::Error {
        self.refused("its settings cannot be used; look at the account, its key and the endpoint")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn refusal(config: &OpendalConfig) -> String {
        let error = config.servicer().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    }

    #[test]
    fn what_is_missing_is_named_and_no_secret_is() {
        let mut config = OpendalConfig::new(Service::Azblob, "mail", "a");
        assert!(refusal(&config).contains("AZURE_STORAGE_ACCOUNT"));
        config.variables.insert("AZURE_STORAGE_ACCOUNT".into(), "ann".into());
        assert!(refusal(&config).contains("AZURE_STORAGE_KEY"));
        config.variables.insert("AZURE_STORAGE_KEY".into(), "hunter2 is no base64".into());
        assert!(!refusal(&config).contains("hunter2"));
        config.variables.insert("AZURE_STORAGE_KEY".into(), "aHVudGVyMg==".into());
        assert!(config.servicer().is_ok());
        assert!(!format!("{config:?}").contains("aHVudGVyMg"));
        config.endpoint = Some("http://127.0.0.1:1".into());
        assert!(refusal(&config).contains("allow_http"));

        let mut config = OpendalConfig::new(Service::Azblob, "mail", "");
        let text = "DefaultEndpointsProtocol=https;AccountName=bob";
        config.variables.insert("AZURE_STORAGE_CONNECTION_STRING".into(), text.into());
        assert!(refusal(&config).contains("holds no credentials"));
        assert_eq!(config.server(), "bob");
        let text = format!("{text};AccountKey=aHVudGVyMg==;EndpointSuffix=core.windows.net");
        config.variables.insert("AZURE_STORAGE_CONNECTION_STRING".into(), text);
        assert!(config.servicer().is_ok());

        let mut config = OpendalConfig::new(Service::Gcs, "mail", "");
        assert!(refusal(&config).contains("GOOGLE_APPLICATION_CREDENTIALS"));
        config.variables.insert("GOOGLE_APPLICATION_CREDENTIALS".into(), "/missing".into());
        assert!(refusal(&config).contains("/missing"));
        config.anonymous = true;
        assert!(config.servicer().is_ok());
    }
}
