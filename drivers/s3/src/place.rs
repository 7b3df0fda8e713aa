//! The repository's place as URLs and full keys, checked once when the storage is opened.

use http::Uri;
use packvault_storage::{Error, ErrorKind, Key, Operation, Prefix, Result};

use crate::config::S3Config;

/// The region where none is named.
const REGION: &str = "us-east-1";

/// A bucket, a folder in it, and how to reach both.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Scheme, host and port, without a slash at the end.
    origin: String,
    /// What stands between the host and an object: empty, or `/bucket`, or `/path/bucket`.
    base: String,
    pub bucket: String,
    /// Empty, or the folder with a slash at its end.
    prefix: String,
    pub region: String,
    pub location: String,
}

impl Place {
    pub(crate) fn new(config: &S3Config, chain_region: Option<String>) -> Result<Self> {
        let location = location(&config.bucket, &config.prefix);
        let refused = |detail: String| Error::new(ErrorKind::Config, Operation::Open, &location, detail);
        if !is_bucket(&config.bucket) {
            return Err(refused(format!("{:?} is no name of a bucket", config.bucket)));
        }
        let prefix = config.prefix.trim_matches('/');
        if !prefix.is_empty() {
            Key::parse(prefix).map_err(|error| refused(error.to_string()))?;
        }
        let region = config.region.clone().or(chain_region).unwrap_or_else(|| REGION.to_owned());
        if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            // It is not shown: what stands there instead may be a key.
            let detail =
                "the region is no name of one, which is letters, digits and dashes, as in eu-central-1";
            return Err(refused(detail.to_owned()));
        }
        let (origin, base) = reach(config, &region).map_err(refused)?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { origin, base, bucket: config.bucket.clone(), prefix, region, location })
    }

    /// Returns the key as the bucket knows it.
    pub(crate) fn full_key(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Returns what every full key below the prefix begins with.
    pub(crate) fn full_prefix(&self, prefix: &Prefix) -> String {
        match prefix.as_key() {
            Some(folder) => format!("{}{folder}/", self.prefix),
            None => self.prefix.clone(),
        }
    }

    /// Returns the key of an object of the bucket, if it is one of the repository's.
    pub(crate) fn key_of(&self, full_key: &str) -> Option<Key> {
        Key::parse(full_key.strip_prefix(&self.prefix)?).ok()
    }

    /// Returns the address of an object, or of the bucket.
    pub(crate) fn uri(
        &self,
        full_key: Option<&str>,
        query: &[(&str, &str)],
    ) -> std::result::Result<Uri, http::Error> {
        let mut text = format!("{}{}/", self.origin, self.base);
        if let Some(key) = full_key {
            encode(&mut text, key, true);
        } else if !self.base.is_empty() {
            text.pop();
        }
        for (number, (name, value)) in query.iter().enumerate() {
            text.push(if number == 0 { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            encode(&mut text, value, false);
        }
        text.parse::<Uri>().map_err(http::Error::from)
    }
}

/// Returns the place as a user writes it.
pub(crate) fn location(bucket: &str, prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => format!("s3://{bucket}"),
        prefix => format!("s3://{bucket}/{prefix}"),
    }
}

fn is_bucket(name: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(is_legal) && !name.bytes().all(|byte| byte == b'.')
}

/// Returns origin and base.
fn reach(config: &S3Config, region: &str) -> std::result::Result<(String, String), String> {
    let bucket = &config.bucket;
    let path_style = config.path_style.unwrap_or(config.endpoint.is_some() || bucket.contains('.'));
    let aws = format!("https://s3.{region}.amazonaws.com");
    let endpoint = config.endpoint.as_deref().unwrap_or(&aws);
    // Whatever of it is not a scheme, a host and a port may be a secret, and is not shown.
    let url = reqwest::Url::parse(endpoint).map_err(|_| match config.endpoint {
        Some(_) => "the endpoint is no URL; write it like https://host:9000".to_owned(),
        None => "the region cannot be a part of a host's name; write it like eu-west-3".to_owned(),
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the endpoint holds a user or a password; credentials are given apart from it".to_owned());
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the endpoint does not begin with https://; write it like https://host:9000".to_owned());
    }
    let Some(host) = url.host_str() else { return Err("the endpoint names no host".to_owned()) };
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the endpoint has a query, which has no place there".to_owned());
    }
    if url.scheme() == "http" && !config.allow_http {
        return Err(format!(
            "the endpoint {} is plain http, which shows the archive to the network; \
             use https, or allow plain http for it",
            url.origin().ascii_serialization()
        ));
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let path = url.path().trim_end_matches('/');
    let scheme = url.scheme();
    Ok(if path_style {
        (format!("{scheme}://{host}{port}"), format!("{path}/{bucket}"))
    } else {
        (format!("{scheme}://{bucket}.{host}{port}"), path.to_owned())
    })
}

/// Appends the text with everything encoded that has a meaning in URLs.
fn encode(out: &mut String, text: &str, keep_slash: bool) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            b'/' if keep_slash => out.push('/'),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(DIGITS[usize::from(byte >> 4)].into());
                out.push(DIGITS[usize::from(byte & 15)].into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::S3Credentials;

    fn config() -> S3Config {
        S3Config::new("bucket", "a/b", S3Credentials::Anonymous)
    }

    fn uri(config: &S3Config) -> String {
        let place = Place::new(config, None).unwrap();
        let key = place.full_key(&Key::parse("x y/ü+%").unwrap());
        place.uri(Some(&key), &[("uploadId", "a/b=")]).unwrap().to_string()
    }

    #[test]
    fn objects_have_the_address_the_server_expects() {
        let mut config = config();
        let rest = "a/b/x%20y/%C3%BC%2B%25?uploadId=a%2Fb%3D";
        assert_eq!(uri(&config), format!("https://bucket.s3.us-east-1.amazonaws.com/{rest}"));
        config.path_style = Some(true);
        config.region = Some("eu-west-3".into());
        assert_eq!(uri(&config), format!("https://s3.eu-west-3.amazonaws.com/bucket/{rest}"));
        config.endpoint = Some("https://nas:9000/store/".into());
        config.path_style = None;
        assert_eq!(uri(&config), format!("https://nas:9000/store/bucket/{rest}"));
        let place = Place::new(&config, None).unwrap();
        assert_eq!(place.uri(None, &[]).unwrap().to_string(), "https://nas:9000/store/bucket");
        assert_eq!(place.location, "s3://bucket/a/b");
        assert_eq!(place.key_of("a/b/c/d").unwrap().as_str(), "c/d");
        for foreign in ["a/bc", "a/b", "a/b/", "a/b//c", "a/b/../c", "c"] {
            assert_eq!(place.key_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_in_words() {
        let refusal = |change: fn(&mut S3Config)| {
            let mut config = config();
            change(&mut config);
            let error = Place::new(&config, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            error.to_string()
        };
        let plain = refusal(|config| config.endpoint = Some("http://nas:9000".into()));
        assert!(plain.contains("plain http"), "{plain}");
        let user = refusal(|config| config.endpoint = Some("https://me:hush@nas".into()));
        assert!(user.contains("a user or a password") && !user.contains("hush"), "{user}");
        for endpoint in
            ["me:hush@nas:port", "hush:x", "hush", "https://nas/?token=hush", "ftp://hush", "http://nas/hush"]
        {
            let error =
                Place::new(&S3Config { endpoint: Some(endpoint.into()), ..config() }, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!error.to_string().contains("hush"), "{endpoint}: {error}");
        }
        refusal(|config| config.bucket = "a/b".into());
        refusal(|config| config.bucket = "..".into());
        refusal(|config| config.prefix = "a/../b".into());
        let region = refusal(|config| config.region = Some("hush/west".into()));
        assert!(region.contains("no name of one") && !region.contains("hush"), "{region}");
        refusal(|config| config.endpoint = Some("ftp://nas".into()));
        refusal(|config| config.endpoint = Some("https://nas/?x=y".into()));
    }
}
