//! What the chain's own parts do not read of a profile: its region, and the role it assumes.
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
    Profile(String),
    Environment,
    Container,
    Machine,
}

impl Profile {
    pub(crate) fn read(environment: &Environment, chosen: Option<&str>) -> Self {
        let name = chosen.or(environment.variables.get("AWS_PROFILE").map(String::as_str));
        let text = config_file(environment).and_then(read_bounded).unwrap_or_default();
        let shown = name.unwrap_or("default");
        let values = section(&text, shown);
        Self {
            name: name.map(str::to_owned),
            region: values.get("region").cloned(),
            role: role(shown, &values),
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
fn section(text: &str, profile: &str) -> HashMap<String, String> {
    let mut is_inside = false;
    let mut values = HashMap::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.trim();
            is_inside = name.strip_prefix("profile ").map_or(name == "default", |_| true)
                && name.trim_start_matches("profile ").trim() == profile;
        } else if is_inside
            && !line.starts_with([' ', '\t'])
            && let Some((name, value)) = line.split_once('=')
        {
            values.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    values
}

fn role(profile: &str, values: &HashMap<String, String>) -> Option<Role> {
    let source = match (values.get("source_profile"), values.get("credential_source").map(String::as_str)) {
        (Some(source), _) => Source::Profile(source.clone()),
        (None, Some("Environment")) => Source::Environment,
        (None, Some("EcsContainer")) => Source::Container,
        (None, Some("Ec2InstanceMetadata")) => Source::Machine,
        (None, _) => Source::Profile(profile.to_owned()),
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
        assert_eq!(role.source, Source::Profile("base".into()));
        assert_eq!(Profile::read(&plain, None).role, None);
        assert_eq!(Profile::read(&Environment::default(), None), Profile::default());
    }
}
