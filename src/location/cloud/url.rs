//! Locations in Azure Blob Storage and Google Cloud Storage as text.

use std::fmt;

use super::super::url::{
    container_and_folder, encode, endpoint, query_pairs, query_value, truth, usage, write_query,
};
use super::CloudOptions;
use crate::error::Result;

/// Whose store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Google,
}

impl Cloud {
    /// Returns the store's own name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Azure => "Azure Blob Storage",
            Self::Google => "Google Cloud Storage",
        }
    }

    fn scheme(self) -> &'static str {
        match self {
            Self::Azure => "azblob",
            Self::Google => "gs",
        }
    }
}

/// A container and the folder in it: `azblob://container/folder` or `gs://bucket/folder`. Secrets have no
/// place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudLocation {
    /// Whose store it is.
    pub cloud: Cloud,
    /// The container, or bucket.
    pub container: String,
    /// The folder in it, without slashes at its ends; empty for the whole container.
    pub prefix: String,
    /// The server's URL; without one, the provider's.
    pub endpoint: Option<String>,
    /// The account of an Azure store; without one, what the environment says.
    pub account: Option<String>,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: bool,
    /// Whether requests are not signed.
    pub anonymous: bool,
    /// What is settled otherwise.
    pub options: CloudOptions,
}

pub(in super::super) fn parse(cloud: Cloud, rest: &str) -> Result<CloudLocation> {
    let wrong = || {
        let scheme = cloud.scheme();
        usage(format!("a location in {} must be {scheme}://container/folder", cloud.name()))
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (container, prefix) = container_and_folder(place).ok_or_else(wrong)?;
    let mut location = CloudLocation {
        cloud,
        container,
        prefix,
        endpoint: None,
        account: None,
        allow_http: false,
        anonymous: false,
        options: CloudOptions::default(),
    };
    for (name, value) in query_pairs(query) {
        let value = query_value(value).ok_or_else(wrong)?;
        match name {
            "endpoint" => location.endpoint = Some(endpoint(value)?),
            "account" if cloud == Cloud::Azure => location.account = Some(value),
            "allow_http" => location.allow_http = truth(name, &value)?,
            "anonymous" => location.anonymous = truth(name, &value)?,
            _ => {
                return Err(usage(format!(
                    "a location in {} knows ?endpoint=, account= (Azure), allow_http= and anonymous=; it \
                     holds no secrets",
                    cloud.name()
                )));
            }
        }
    }
    Ok(location)
}

impl fmt::Display for CloudLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.cloud.scheme(), self.container)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", encode(&self.prefix))?;
        }
        let truth = |value: bool| value.then(|| "true".to_owned());
        let settled = [
            ("endpoint", self.endpoint.clone()),
            ("account", self.account.clone()),
            ("allow_http", truth(self.allow_http)),
            ("anonymous", truth(self.anonymous)),
        ];
        write_query(f, &settled)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Location;
    use super::*;

    #[test]
    fn a_container_and_a_folder_are_read_and_shown_again() {
        for (text, cloud, container, prefix) in [
            ("azblob://mail/a/b%20c", Cloud::Azure, "mail", "a/b c"),
            ("gs://my.mail_1", Cloud::Google, "my.mail_1", ""),
            (
                "azblob://mail/a?endpoint=http://127.0.0.1:1/x&account=ann&allow_http=true",
                Cloud::Azure,
                "mail",
                "a",
            ),
            (
                "gs://mail?endpoint=http://127.0.0.1:1&allow_http=true&anonymous=true",
                Cloud::Google,
                "mail",
                "",
            ),
        ] {
            let Location::Cloud(found) = Location::parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(
                (found.cloud, found.container.as_str(), found.prefix.as_str()),
                (cloud, container, prefix)
            );
            assert_eq!(found.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_place_or_might_be_a_secret_is_refused_and_not_repeated() {
        for text in [
            "azblob://",
            "azblob://mail/../a",
            "azblob://mail/a%0ab",
            "gs://mail?account=hunter2",
            "azblob://mail?sas_token=hunter2",
            "azblob://mail?allow_http=hunter2",
            "azblob://ann:hunter2@mail/a",
            "azblob://mail?endpoint=https://x.example/%3Fsig%3Dhunter2",
            "gs://mail?endpoint=https://ann:hunter2@x.example",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
