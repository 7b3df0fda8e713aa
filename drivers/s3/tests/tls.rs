//! TLS: a server is believed only if its certificate is; one of one's own needs its authority named.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::sync::Arc;

use packvault_s3::{S3Config, S3Storage};
use packvault_storage::{ErrorKind, Key, Storage};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Starts a server with a certificate of its own authority; returns its address and the authority's.
async fn start() -> (String, Vec<u8>) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((line, _)) = listener.accept().await {
            let Ok(mut line) = acceptor.accept(line).await else { continue };
            let _ = line.read(&mut [0; 4096]).await;
            let answer = [fake::head("200 OK", "Content-Length: 4\r\n"), b"safe".to_vec()].concat();
            let _ = line.write_all(&answer).await;
            let _ = line.shutdown().await;
        }
    });
    (endpoint, authority.pem().into_bytes())
}

fn open(endpoint: &str, ca_certificate: Option<Vec<u8>>) -> packvault_storage::Result<S3Storage> {
    let config = S3Config { allow_http: false, ca_certificate, ..fake::config(endpoint) };
    S3Storage::open(config, None, Arc::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_ones_own_is_trusted_only_if_its_authority_is_named() {
    let (endpoint, authority) = start().await;
    let key = Key::parse("a").unwrap();
    // A system without any certificates refuses as early as here.
    let error = match open(&endpoint, None) {
        Ok(storage) => storage.read(&key).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let storage = open(&endpoint, Some(authority)).unwrap();
    assert_eq!(storage.read(&key).await.unwrap(), "safe");
    let (stranger, _) = start().await;
    let (_, authority) = start().await;
    let error = open(&stranger, Some(authority)).unwrap().read(&key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn an_authority_that_is_no_certificate_is_refused_at_once() {
    for rubbish in [&b""[..], b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let opened = open("https://127.0.0.1:1", Some(rubbish.to_vec()));
        let Err(error) = opened else { panic!("{:?} was taken", String::from_utf8_lossy(rubbish)) };
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
