//! Who signs: fixed keys, nobody, or the chain of AWS's own tools, bridged to `object_store`'s signer.
//!
//! Keys of the chain are kept until [`REFRESH_SECONDS`] before they expire. A refresh that fails while the
//! keys still hold is tried again after [`REFRESH_PAUSE_SECONDS`], so that a short outage of the service
//! that hands them out stops nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, StaticCredentialProvider};
use packvault_storage::{Error, ErrorKind, Operation, Result};
use reqsign_aws_v4::Credential;
use reqsign_core::time::Timestamp;
use reqsign_core::{Context, ProvideCredentialDyn, SigningCredential, StaticEnv};
use tokio::sync::Mutex;

use crate::chain;
use crate::config::{Environment, S3Config, S3Credentials};
use crate::means::{Commands, Files, Services};
use crate::profile::Profile;

/// How long before they expire new keys are fetched.
const REFRESH_SECONDS: u64 = 300;

/// How long after a failed refresh the next is tried.
const REFRESH_PAUSE_SECONDS: u64 = 20;

/// How long keys must still hold for one more request to be signed with them.
const HOLD_SECONDS: u64 = 10;

/// Whoever gives the keys; `None` signs nothing.
pub(crate) type Identity = Option<Arc<dyn CredentialProvider<Credential = AwsCredential>>>;

/// What the configuration says of the identity, and the region its profile names.
pub(crate) fn identity(config: &S3Config, location: &str) -> Result<(Identity, Option<String>)> {
    match &config.credentials {
        S3Credentials::Anonymous => Ok((None, None)),
        S3Credentials::Static { access_key_id, secret_access_key, session_token } => {
            let credential = AwsCredential {
                key_id: access_key_id.clone(),
                secret_key: secret_access_key.clone(),
                token: session_token.clone(),
            };
            let error = |detail| Error::new(ErrorKind::Config, Operation::Open, location, detail);
            check(&credential).map_err(error)?;
            Ok((Some(Arc::new(StaticCredentialProvider::new(credential))), None))
        }
        S3Credentials::Chain(environment) => {
            let profile = Profile::read(environment, config.profile.as_deref());
            let region = profile.region(environment);
            let chain = Chain::new(environment, profile, config.proxy.as_deref());
            Ok((Some(Arc::new(chain)), region))
        }
    }
}

/// Refuses keys that no header can carry; the signer would panic on them.
fn check(credential: &AwsCredential) -> std::result::Result<(), &'static str> {
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    if !is_plain(&credential.key_id) {
        return Err("the access key id is empty or holds a blank or a control character");
    }
    if credential.secret_key.is_empty() {
        return Err("the secret access key is empty");
    }
    if credential.token.as_deref().is_some_and(|token| !is_plain(token)) {
        return Err("the session token is empty or holds a blank or a control character");
    }
    Ok(())
}

/// The chain, and the keys it gave last.
#[derive(Debug)]
struct Chain {
    links: Vec<(&'static str, Box<dyn ProvideCredentialDyn<Credential = Credential>>)>,
    context: Context,
    last: Mutex<Option<Keys>>,
}

#[derive(Debug, Clone)]
struct Keys {
    credential: Credential,
    signing: Arc<AwsCredential>,
    refresh_failed: Option<Instant>,
}

impl Keys {
    fn hold_for(&self, seconds: u64) -> bool {
        self.credential.is_valid_at(Timestamp::now() + Duration::from_secs(seconds))
    }

    fn may_wait(&self) -> bool {
        let failed = self.refresh_failed;
        failed.is_some_and(|failed| failed.elapsed().as_secs() < REFRESH_PAUSE_SECONDS)
    }
}

/// Why no keys were found; names no secret.
#[derive(Debug)]
struct NoKeys(String);

impl std::fmt::Display for NoKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoKeys {}

impl Chain {
    fn new(environment: &Environment, profile: Profile, proxy: Option<&str>) -> Self {
        let context = Context::new()
            .with_file_read(Files)
            .with_http_send(Services::new(proxy))
            .with_command_execute(Commands)
            .with_env(StaticEnv { home_dir: environment.home.clone(), envs: environment.variables.clone() });
        Self { links: chain::links(&context, profile), context, last: Mutex::default() }
    }

    async fn ask(&self) -> std::result::Result<Keys, NoKeys> {
        let mut tried = String::new();
        for (name, link) in &self.links {
            match link.provide_credential_dyn(&self.context).await {
                Ok(Some(credential)) => return keys(name, credential),
                Ok(None) => {}
                Err(error) => tried.push_str(&format!("; {name}: {}", told(&error.to_string()))),
            }
        }
        let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or name a profile";
        Err(NoKeys(format!("no credentials were found; {hint}{tried}")))
    }
}

fn keys(name: &str, credential: Credential) -> std::result::Result<Keys, NoKeys> {
    let signing = AwsCredential {
        key_id: credential.access_key_id.clone(),
        secret_key: credential.secret_access_key.clone(),
        token: credential.session_token.clone(),
    };
    check(&signing).map_err(|reason| NoKeys(format!("the credentials of {name}: {reason}")))?;
    Ok(Keys { credential, signing: Arc::new(signing), refresh_failed: None })
}

/// Returns what may be shown of a link's error: its first line, and nothing of an answer it could not read,
/// for that may hold the keys.
fn told(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    let end = line.find("parse").map_or(line.len(), |at| at + "parse".len());
    let mut text = line[..end.min(line.floor_char_boundary(200))].to_owned();
    text.truncate(text.trim_end_matches([':', ' ']).len());
    if end < line.len() {
        text.push_str(" what it was given");
    }
    text
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().await;
        if let Some(keys) = &*last
            && (keys.hold_for(REFRESH_SECONDS) || (keys.hold_for(HOLD_SECONDS) && keys.may_wait()))
        {
            return Ok(Arc::clone(&keys.signing));
        }
        match self.ask().await {
            Ok(keys) => Ok(Arc::clone(&last.insert(keys).signing)),
            Err(error) => match &mut *last {
                Some(keys) if keys.hold_for(HOLD_SECONDS) => {
                    keys.refresh_failed = Some(Instant::now());
                    Ok(Arc::clone(&keys.signing))
                }
                _ => Err(object_store::Error::Generic { store: "S3", source: Box::new(error) }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_no_header_can_carry_are_refused_and_not_shown() {
        for (id, secret, token) in [
            ("", "hush", None),
            ("a\nb", "hush", None),
            ("ä", "hush", None),
            ("id", "", None),
            ("id", "hush", Some("hush\r\nx: y")),
        ] {
            let credentials = S3Credentials::Static {
                access_key_id: id.into(),
                secret_access_key: secret.into(),
                session_token: token.map(Into::into),
            };
            let error = identity(&S3Config::new("b", "", credentials), "s3://b").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn an_answer_that_could_not_be_read_is_not_repeated() {
        let shown = told("unexpected: failed to parse output: invalid type: string \"hush\", expected u32");
        assert_eq!(shown, "unexpected: failed to parse what it was given");
        assert_eq!(told("x: process ended with 3: no\nhush"), "x: process ended with 3: no");
        assert_eq!(told("x: process ended with 3: "), "x: process ended with 3");
    }
}
