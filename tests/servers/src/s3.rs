//! What tests need to know of an S3 server, and the one request they make by hand: a new bucket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// How long the server may take to make a bucket.
const BUCKET_SECONDS_MAX: u64 = 30;

/// Where a server listens and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Place {
    /// `http://127.0.0.1:port`, or whatever a user gave.
    pub endpoint: String,
    /// The region requests are signed for.
    pub region: String,
    /// A bucket that exists.
    pub bucket: String,
    /// The public part of the key.
    pub access_key_id: String,
    /// The secret part, which opens nothing but this server.
    pub secret_access_key: String,
}

/// Returns the user's own server, if the environment names one: `PACKVAULT_TEST_S3_ENDPOINT`, `_BUCKET`,
/// `_ACCESS_KEY_ID`, `_SECRET_ACCESS_KEY` and `_REGION`.
pub fn own_s3() -> Option<S3Place> {
    let variable = |name: &str| std::env::var(format!("PACKVAULT_TEST_S3_{name}")).ok();
    let needed = |name: &str| variable(name).unwrap_or_else(|| panic!("PACKVAULT_TEST_S3_{name} is not set"));
    Some(S3Place {
        endpoint: variable("ENDPOINT")?,
        region: variable("REGION").unwrap_or_else(|| "us-east-1".to_owned()),
        bucket: needed("BUCKET"),
        access_key_id: needed("ACCESS_KEY_ID"),
        secret_access_key: needed("SECRET_ACCESS_KEY"),
    })
}

/// Makes the place's bucket on a server of loopback.
pub(crate) fn make_bucket(place: &S3Place) {
    let host = place.endpoint.strip_prefix("http://").expect("test servers speak plain http");
    let request = signed_put(place, host, &amz_date());
    let mut line = TcpStream::connect(host).expect("the server answers");
    line.set_read_timeout(Some(Duration::from_secs(BUCKET_SECONDS_MAX))).expect("a time limit can be set");
    line.write_all(request.as_bytes()).expect("the server takes the request");
    let mut answer = [0; 12];
    line.read_exact(&mut answer).expect("the server answers the request");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.ends_with(" 200"), "no bucket {}: {answer}", place.bucket);
}

/// Returns the present time as signatures have it.
fn amz_date() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn signed_put(place: &S3Place, host: &str, date: &str) -> String {
    let S3Place { region, bucket, access_key_id, .. } = place;
    let empty = hex::encode(Sha256::digest(b""));
    let headers = format!("host:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{date}\n");
    let names = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!("PUT\n/{bucket}\n\n{headers}\n{names}\n{empty}");
    let scope = format!("{}/{region}/s3/aws4_request", &date[..8]);
    let digest = hex::encode(Sha256::digest(canonical));
    let signature = sign(place, &date[..8], &format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}"));
    format!(
        "PUT /{bucket} HTTP/1.1\r\nHost: {host}\r\nx-amz-content-sha256: {empty}\r\nx-amz-date: {date}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={names}, \
         Signature={signature}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

fn sign(place: &S3Place, day: &str, text: &str) -> String {
    let mut key = format!("AWS4{}", place.secret_access_key).into_bytes();
    for step in [day, &place.region, "s3", "aws4_request", text] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length will do");
        mac.update(step.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    hex::encode(key)
}
