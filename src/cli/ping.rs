//! A ping: a URL that is asked when a run begins, and when it ends, as healthchecks.io and its kin understand it.
//!
//! `URL/start`, then `URL` or `URL/fail`. Whoever listens there notices what nobody on this machine can: that no run
//! begins any more. The URL is a secret, for whoever knows it can say that all is well; it stands in no message.
//! Each ping is bounded in time and tried twice. What is sent has names and exit codes, and no paths.

use std::error::Error as _;
use std::time::Duration;

use packvault::{Error, ErrorKind, Result};
use reqwest::{Client, StatusCode, Url};

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);
/// How often it is tried.
const ATTEMPTS: u32 = 2;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest text that is sent.
const TEXT_BYTES_MAX: usize = 10_000;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A run begins.
    Start,
    /// All was done.
    Success,
    /// Something was not.
    Failure,
}

/// Returns why the URL cannot be used, if so.
pub fn refusal(url: &str) -> Option<&'static str> {
    let Ok(url) = Url::parse(url) else { return Some("is no URL; it begins with https://") };
    let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match url.scheme() {
        "https" => {}
        "http" if is_here => {}
        "http" => return Some("is a secret that anybody on the line can read over http; use https"),
        _ => return Some("is no URL that begins with https://"),
    }
    let has_password = !url.username().is_empty() || url.password().is_some();
    has_password.then_some("holds a user or a password, which a ping does not need")
}

/// Tells the listener; `text` says for people how the run ended.
pub async fn send(url: &str, signal: Signal, text: &str) -> Result<()> {
    let why = match attempt(url, signal, text).await {
        Ok(()) => return Ok(()),
        Err(failed) if failed.is_final => failed.why,
        Err(_) => {
            let mut last = String::new();
            for _ in 1..ATTEMPTS {
                tokio::time::sleep(PAUSE).await;
                match attempt(url, signal, text).await {
                    Ok(()) => return Ok(()),
                    Err(failed) => last = failed.why,
                }
            }
            last
        }
    };
    Err(Error::new(ErrorKind::Io, format!("the ping of `notify` failed: {why}")))
}

/// Why an attempt failed, without the URL.
struct Failed {
    why: String,
    /// Whether it would fail again.
    is_final: bool,
}

async fn attempt(url: &str, signal: Signal, text: &str) -> std::result::Result<(), Failed> {
    let passing = |why: String| Failed { why, is_final: false };
    let url =
        address(url, signal).ok_or(Failed { why: "its URL cannot be used".to_owned(), is_final: true })?;
    let client = client(url.scheme() == "http").map_err(|error| passing(meaning(&error)))?;
    let request = client.post(url).body(shortened(text).to_owned());
    let answer = request.send().await.map_err(|error| passing(meaning(&error)))?;
    let status = answer.status();
    let may_pass = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    match status.is_success() {
        true => Ok(()),
        false => Err(Failed { why: format!("the server answered {}", status.as_u16()), is_final: !may_pass }),
    }
}

/// Returns the URL for a signal.
fn address(url: &str, signal: Signal) -> Option<Url> {
    let mut url = Url::parse(url).ok()?;
    let end = match signal {
        Signal::Start => "start",
        Signal::Success => return Some(url),
        Signal::Failure => "fail",
    };
    url.path_segments_mut().ok()?.pop_if_empty().push(end);
    Some(url)
}

fn client(is_plain: bool) -> reqwest::Result<Client> {
    // An error means that another one is in place, which will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ATTEMPT_MAX)
        .user_agent(concat!("packvault/", env!("CARGO_PKG_VERSION")));
    if is_plain {
        // Certificates are of no use here, and a system without any must not stand in the way.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

/// Returns what went wrong. The error's own words may hold the URL; its innermost cause does not.
fn meaning(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", ATTEMPT_MAX.as_secs());
    }
    let mut cause = error.source();
    let mut said = None;
    while let Some(inner) = cause {
        said = Some(inner.to_string());
        cause = inner.source();
    }
    let what = if error.is_connect() { "cannot connect" } else { "the request failed" };
    said.map_or_else(|| what.to_owned(), |said| format!("{what}: {said}"))
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str, signal: Signal) -> String {
        address(url, signal).unwrap().to_string()
    }

    #[test]
    fn each_signal_has_its_address() {
        let url = "https://hc-ping.com/uuid";
        assert_eq!(shown(url, Signal::Start), "https://hc-ping.com/uuid/start");
        assert_eq!(shown(url, Signal::Success), url);
        assert_eq!(shown(url, Signal::Failure), "https://hc-ping.com/uuid/fail");
        let other = "https://example.org/ping/key/mail/?create=1";
        assert_eq!(shown(other, Signal::Failure), "https://example.org/ping/key/mail/fail?create=1");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ü".repeat(TEXT_BYTES_MAX);
        assert!(shortened(&text).len() <= TEXT_BYTES_MAX);
        assert_eq!(shortened("short"), "short");
    }

    #[tokio::test]
    async fn a_ping_that_finds_nobody_says_so_without_the_url() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = send(&format!("http://127.0.0.1:{port}/hush"), Signal::Success, "x").await.unwrap_err();
        let said = error.chain();
        assert!(said.contains("cannot connect") && !said.contains("hush"), "{said}");
    }
}
