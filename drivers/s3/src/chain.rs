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

use crate::profile::{Profile, Role, Source};

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
        links.push(link("assumed role", assumed(context, role)));
    }
    links.push(link("shared files", ProfileCredentialProvider::new().with_profile(&name)));
    links.push(link("single sign-on", SSOCredentialProvider::new().with_profile(&name)));
    links.push(link("web identity", AssumeRoleWithWebIdentityCredentialProvider::new()));
    links.push(link("process", ProcessCredentialProvider::new().with_profile(&name)));
    links.push(link("container", ECSCredentialProvider::new()));
    links.push(link("machine", IMDSv2CredentialProvider::new()));
    links
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
        Source::Profile(name) => chain
            .push(ProfileCredentialProvider::new().with_profile(&name))
            .push(SSOCredentialProvider::new().with_profile(&name))
            .push(ProcessCredentialProvider::new().with_profile(&name)),
        Source::Environment => chain.push(EnvCredentialProvider::new()),
        Source::Container => chain.push(ECSCredentialProvider::new()),
        Source::Machine => chain.push(IMDSv2CredentialProvider::new()),
    }
}
