//! Locations in an S3-compatible store as text.

use std::fmt;

use super::super::url::{
    container_and_folder, encode, endpoint, query_pairs, query_value, truth, usage, write_query,
};
use super::{S3Location, S3Query};
use crate::error::Result;

pub(in super::super) fn parse(rest: &str) -> Result<S3Location> {
    let wrong = || usage("an S3 location must be s3://bucket or s3://bucket/folder");
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = container_and_folder(place).ok_or_else(wrong)?;
    Ok(S3Location { bucket, prefix, query: s3_query(query)?, options: Box::default() })
}

fn s3_query(text: &str) -> Result<S3Query> {
    let mut query = S3Query::default();
    for (name, value) in query_pairs(text) {
        let value =
            query_value(value).ok_or_else(|| usage("the query of the S3 location is not plain text"))?;
        match name {
            "endpoint" => query.endpoint = Some(endpoint(value)?),
            "region" => query.region = Some(region(value)?),
            "profile" => query.profile = Some(value),
            "path_style" => query.path_style = Some(truth(name, &value)?),
            "allow_http" => query.allow_http = Some(truth(name, &value)?),
            _ if name.contains("key") || name.contains("secret") || name.contains("token") => {
                return Err(usage(
                    "a location holds no secrets: name them in the configuration file, by reference",
                ));
            }
            _ => {
                return Err(usage(
                    "an S3 location knows ?endpoint=, region=, profile=, path_style= and allow_http=",
                ));
            }
        }
    }
    Ok(query)
}

/// Refuses what is no name of a region, for the location is shown: a key may stand there by mistake.
fn region(value: String) -> Result<String> {
    let is_name = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_name.then_some(value).ok_or_else(|| usage("the region of a location is letters, digits and dashes"))
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", encode(&self.prefix))?;
        }
        let S3Query { endpoint, region, profile, path_style, allow_http } = &self.query;
        let truth = |value: &Option<bool>| value.map(|value| value.to_string());
        let settled = [
            ("endpoint", endpoint.clone()),
            ("region", region.clone()),
            ("profile", profile.clone()),
            ("path_style", truth(path_style)),
            ("allow_http", truth(allow_http)),
        ];
        write_query(f, &settled)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Location;
    use super::super::super::url::tests::refused;

    fn parse(text: &str) -> crate::error::Result<Location> {
        Location::parse(text)
    }

    #[test]
    fn an_s3_location_is_a_bucket_and_a_folder() {
        for (text, bucket, prefix) in [
            ("s3://mail", "mail", ""),
            ("s3://mail/", "mail", ""),
            ("S3://my.mail-1/a/b%20c/", "my.mail-1", "a/b c"),
        ] {
            let Location::S3(found) = parse(text).unwrap() else { panic!("{text}") };
            assert_eq!((found.bucket.as_str(), found.prefix.as_str()), (bucket, prefix));
        }
        for text in
            ["s3://", "s3:///a", "s3://a b/c", "s3://b/a//c", "s3://b/../c", "s3://b/a%00", "s3://u@b/a"]
        {
            refused(text);
        }
    }

    #[test]
    fn an_s3_location_may_name_its_server_and_no_secret() {
        let text = "s3://mail/a?endpoint=http://127.0.0.1:9000&region=eu&path_style=true&allow_http=true";
        let Location::S3(found) = parse(text).unwrap() else { panic!() };
        assert_eq!(found.query.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!((found.query.path_style, found.query.allow_http), (Some(true), Some(true)));
        assert_eq!(found.to_string(), text);
        for text in ["s3://b?secret_access_key=hunter2", "s3://b?access_key_id=hunter2", "s3://b?x=hunter2"] {
            assert!(!refused(text).contains("hunter2"), "{text}");
        }
        refused("s3://b?path_style=yes");
    }
}
