//! The order in which credentials are looked for, as AWS's own tools do it.
//!
//! Each link is tried, and its failure noted, until one gives keys. Where a profile was chosen by name the
//! variables with keys are left out, so that keys left over in a shell never stand in for it.

use reqsign_aws_v4::{
    AssumeRoleCredentialProvider, AssumeRoleWithWebIdentityCredentialProvider, Credential,
    ECSCredentialProvider, EnvCredentialProvider, IMDSv2CredentialProvider, ProcessCredentialProvider,
    ProfileCredentialProvider, RequestSigner, SSOCredentialProvider,
};
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain, ProvideCredentialDyn, Signer};

use crate::profile::{Profile, Role, SignOn, Source};

/// How a role's sessions are called where the profile does not say.
const SESSION_NAME: &str = "packvault";

/// Where the token of a role is asked for if the profile names no region.
const STS_REGION: &str = "us-east-1";

type Link = (&'static str, Box<dyn ProvideCredentialDyn<Credential = Credential>>);

fn link(name: &'static str, provider: impl ProvideCredential<Credential = Credential>) -> Link {
    (name, Box::new(provider))
}

/// Returns what to ask, first things first.
pub(crate) fn links(context: &Context, profile: Profile) -> Vec<Link> {
    let name = profile.name.unwrap_or_else(|| "default".to_owned());
    let mut links = vec![link("variables", EnvCredentialProvider::new())];
    if context.env_var("AWS_PROFILE").as_deref() != Some(&name) && name != "default" {
        links.clear();
    }
    if let Some(role) = profile.role {
        // Nothing after it: a role that cannot be assumed must not make us somebody else.
        links.push(link("assumed role", assumed(context, role)));
        return links;
    }
    links.push(link("shared files", ProfileCredentialProvider::new().with_profile(&name)));
    links.push(link("single sign-on", signed_on(&name, profile.sign_on)));
    links.push(link("web identity", AssumeRoleWithWebIdentityCredentialProvider::new()));
    links.push(link("process", ProcessCredentialProvider::new().with_profile(&name)));
    links.push(link("container", ECSCredentialProvider::new()));
    links.push(link("machine", IMDSv2CredentialProvider::new()));
    links
}

fn signed_on(profile: &str, sign_on: Option<SignOn>) -> SSOCredentialProvider {
    let provider = SSOCredentialProvider::new().with_profile(profile);
    match sign_on {
        Some(SignOn { session, region, account_id, role_name }) => provider
            .with_account_id(account_id)
            .with_region(region)
            .with_role_name(role_name)
            // It only names the file of the token, which the tools name after the session where there is one.
            .with_start_url(session),
        None => provider,
    }
}

fn assumed(context: &Context, role: Role) -> AssumeRoleCredentialProvider {
    let region = role.region.unwrap_or_else(|| STS_REGION.to_owned());
    let signer = RequestSigner::new("sts", &region);
    let signer = Signer::new(context.clone(), source(role.source), signer);
    let session_name = role.session_name.unwrap_or_else(|| SESSION_NAME.to_owned());
    let provider = AssumeRoleCredentialProvider::new(role.arn, signer)
        .with_role_session_name(session_name)
        .with_region(region)
        .with_regional_sts_endpoint();
    match role.external_id {
        Some(id) => provider.with_external_id(id),
        None => provider,
    }
}

fn source(source: Source) -> ProvideCredentialChain<Credential> {
    let chain = ProvideCredentialChain::new();
    match source {
        Source::Profile(name, sign_on) => chain
            .push(ProfileCredentialProvider::new().with_profile(&name))
            .push(signed_on(&name, sign_on))
            .push(ProcessCredentialProvider::new().with_profile(&name)),
        Source::Environment => chain.push(EnvCredentialProvider::new()),
        Source::Container => chain.push(ECSCredentialProvider::new()),
        Source::Machine => chain.push(IMDSv2CredentialProvider::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use reqsign_core::{HttpSend, StaticEnv};

    use super::*;
    use crate::config::Environment;
    use crate::means::Files;

    /// A service that hands out the keys of any role.
    #[derive(Debug, Default, Clone)]
    struct Roles(Arc<Mutex<Vec<String>>>);

    impl HttpSend for Roles {
        async fn http_send(
            &self,
            request: http::Request<Bytes>,
        ) -> reqsign_core::Result<http::Response<Bytes>> {
            let signature = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            let body = String::from_utf8_lossy(request.body()).into_owned();
            let asked = format!("{} {} {body}", request.uri(), signature.unwrap_or_default());
            self.0.lock().unwrap().push(asked);
            let body = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ROLEROLEROLEROLE</AccessKeyId>\
                <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
                <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
            Ok(http::Response::new(Bytes::from_static(body.as_bytes())))
        }
    }

    #[tokio::test]
    async fn a_profile_assumes_its_role_with_the_keys_of_its_source() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let config = "[profile work]\nrole_arn = arn:aws:iam::123456789012:role/backup\nsource_profile = base\nregion = eu-west-3\n";
        std::fs::write(home.path().join(".aws/config"), config).unwrap();
        let keys = "[base]\naws_access_key_id = BASE\naws_secret_access_key = s\n";
        std::fs::write(home.path().join(".aws/credentials"), keys).unwrap();
        let environment = Environment { home: Some(home.path().to_owned()), ..Environment::default() };
        let roles = Roles::default();
        let context = Context::new()
            .with_file_read(Files)
            .with_http_send(roles.clone())
            .with_env(StaticEnv { home_dir: environment.home.clone(), ..StaticEnv::default() });
        let links = links(&context, Profile::read(&environment, Some("work")));
        assert_eq!(links.len(), 1, "a role that cannot be assumed makes us somebody else");
        let (name, first) = links.first().unwrap();
        let found = first.provide_credential_dyn(&context).await.unwrap().unwrap();
        assert_eq!((*name, found.access_key_id.as_str()), ("assumed role", "ROLEROLEROLEROLE"));
        let asked = roles.0.lock().unwrap().join("\n");
        assert!(asked.contains("sts.eu-west-3.amazonaws.com"), "{asked}");
        assert!(asked.contains("Credential=BASE/") && asked.contains("role%2Fbackup"), "{asked}");
    }
}
