//! What the chain's own parts do not read of a profile: its region, the role it assumes, and the session of a
//! single sign-on that several profiles share.
//!
//! Variables come first, as in AWS's tools. A file that is not there, or is too large, says nothing.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;

use crate::config::Environment;

/// The longest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One profile of the shared configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Its name, if one was chosen: by the configuration or by `AWS_PROFILE`.
    pub name: Option<String>,
    region: Option<String>,
    /// The role it assumes.
    pub role: Option<Role>,
    /// The session it signs on with, and as what.
    pub sign_on: Option<SignOn>,
}

/// A profile of a single sign-on whose session has a section of its own, as `aws configure sso` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignOn {
    pub session: String,
    pub region: String,
    pub account_id: String,
    pub role_name: String,
}

/// A role to assume, and whose keys do it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Role {
    pub arn: String,
    pub session_name: Option<String>,
    pub external_id: Option<String>,
    pub region: Option<String>,
    pub source: Source,
}

/// Whose keys assume a role.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Profile(String, Option<SignOn>),
    Environment,
    Container,
    Machine,
}

impl Profile {
    pub(crate) fn read(environment: &Environment, chosen: Option<&str>) -> Self {
        let name = chosen.or(environment.variables.get("AWS_PROFILE").map(String::as_str));
        let text = config_file(environment).and_then(read_bounded).unwrap_or_default();
        let shown = name.unwrap_or("default");
        let values = profile_section(&text, shown);
        Self {
            name: name.map(str::to_owned),
            region: values.get("region").cloned(),
            role: role(&text, shown, &values),
            sign_on: sign_on(&text, &values),
        }
    }

    /// Returns the region of the variables or of the profile.
    pub(crate) fn region(&self, environment: &Environment) -> Option<String> {
        let variable = |name| environment.variables.get(name).filter(|value| !value.is_empty());
        variable("AWS_REGION").or(variable("AWS_DEFAULT_REGION")).or(self.region.as_ref()).cloned()
    }
}

fn config_file(environment: &Environment) -> Option<PathBuf> {
    let path = environment.variables.get("AWS_CONFIG_FILE").map_or("~/.aws/config", String::as_str);
    match path.strip_prefix("~/") {
        Some(rest) => Some(environment.home.as_ref()?.join(rest)),
        None => Some(path.into()),
    }
}

fn read_bounded(path: PathBuf) -> Option<String> {
    // A fifo would never end.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= FILE_BYTES_MAX).then_some(text)
}

/// Returns the values of the profile's section.
fn profile_section(text: &str, profile: &str) -> HashMap<String, String> {
    section(text, |name| match name.strip_prefix("profile ") {
        Some(name) => name.trim() == profile,
        None => name == "default" && profile == "default",
    })
}

/// Returns the values of the sections whose name is wanted.
fn section(text: &str, is_wanted: impl Fn(&str) -> bool) -> HashMap<String, String> {
    let mut is_inside = false;
    let mut values = HashMap::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_inside = is_wanted(name.trim());
        } else if is_inside
            && !line.starts_with([' ', '\t'])
            && let Some((name, value)) = line.split_once('=')
        {
            values.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    values
}

fn sign_on(text: &str, values: &HashMap<String, String>) -> Option<SignOn> {
    let session = values.get("sso_session")?;
    let shared =
        section(text, |name| name.strip_prefix("sso-session ").is_some_and(|name| name.trim() == session));
    Some(SignOn {
        session: session.clone(),
        region: shared.get("sso_region")?.clone(),
        account_id: values.get("sso_account_id")?.clone(),
        role_name: values.get("sso_role_name")?.clone(),
    })
}

fn role(text: &str, profile: &str, values: &HashMap<String, String>) -> Option<Role> {
    let named = |name: &str| {
        let sign_on = sign_on(text, &profile_section(text, name));
        Source::Profile(name.to_owned(), sign_on)
    };
    let source = match (values.get("source_profile"), values.get("credential_source").map(String::as_str)) {
        (Some(source), _) => named(source),
        (None, Some("Environment")) => Source::Environment,
        (None, Some("EcsContainer")) => Source::Container,
        (None, Some("Ec2InstanceMetadata")) => Source::Machine,
        (None, _) => named(profile),
    };
    Some(Role {
        arn: values.get("role_arn")?.clone(),
        session_name: values.get("role_session_name").cloned(),
        external_id: values.get("external_id").cloned(),
        region: values.get("region").cloned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
[default]
region = eu-central-1

# region = never
[profile work]
region=eu-west-3
role_arn = arn:aws:iam::1:role/backup
source_profile = base
s3 =
    region = nested
[profile worker]
region = us-east-2
";

    fn environment(config: &std::path::Path, variables: &[(&str, &str)]) -> Environment {
        let mut environment = Environment::default();
        environment.variables.insert("AWS_CONFIG_FILE".into(), config.display().to_string());
        for (name, value) in variables {
            environment.variables.insert((*name).to_owned(), (*value).to_owned());
        }
        environment
    }

    #[test]
    fn region_and_role_are_those_of_the_chosen_profile() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, CONFIG).unwrap();
        let plain = environment(&file, &[]);
        let region = |environment, chosen| Profile::read(environment, chosen).region(environment);
        assert_eq!(region(&plain, None).as_deref(), Some("eu-central-1"));
        assert_eq!(region(&plain, Some("work")).as_deref(), Some("eu-west-3"));
        assert_eq!(region(&plain, Some("nobody")), None);
        let chosen = environment(&file, &[("AWS_PROFILE", "worker")]);
        assert_eq!(region(&chosen, None).as_deref(), Some("us-east-2"));
        assert_eq!(region(&chosen, Some("work")).as_deref(), Some("eu-west-3"));
        let set = environment(&file, &[("AWS_REGION", "sa-east-1")]);
        assert_eq!(region(&set, Some("work")).as_deref(), Some("sa-east-1"));
        let role = Profile::read(&plain, Some("work")).role.unwrap();
        assert_eq!(role.arn, "arn:aws:iam::1:role/backup");
        assert_eq!(role.source, Source::Profile("base".into(), None));
        assert_eq!(Profile::read(&plain, None).role, None);
        assert_eq!(Profile::read(&Environment::default(), None), Profile::default());
    }

    #[test]
    fn a_session_is_found_in_the_section_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = "[profile mail]\nsso_session = home\nsso_account_id = 123\nsso_role_name = backup\n\
                    [profile lost]\nsso_session = none\nsso_account_id = 123\nsso_role_name = backup\n\
                    [profile work]\nrole_arn = arn:aws:iam::1:role/backup\nsource_profile = mail\n\
                    [sso-session home]\nsso_region = eu-west-1\nsso_start_url = https://example.org/start\n";
        std::fs::write(&file, text).unwrap();
        let plain = environment(&file, &[]);
        let home = SignOn {
            session: "home".into(),
            region: "eu-west-1".into(),
            account_id: "123".into(),
            role_name: "backup".into(),
        };
        assert_eq!(Profile::read(&plain, Some("mail")).sign_on, Some(home.clone()));
        assert_eq!(Profile::read(&plain, Some("lost")).sign_on, None);
        let role = Profile::read(&plain, Some("work")).role.unwrap();
        assert_eq!(role.source, Source::Profile("mail".into(), Some(home)));
    }
}
