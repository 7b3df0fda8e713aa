//! Talking to a daemon over HTTP/1.1 on this machine.
//!
//! No redirect is followed, no proxy is used whatever the environment says, no connection is used twice, and
//! no name is looked up: a request goes to the address of the record or nowhere. Every call ends by a
//! deadline and reads a bounded answer, however slowly or lavishly the other side talks. It takes no thread: the
//! library's own look-up would start one for each request, and panic where the system refuses it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::{HeaderValue, Response, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::super::config::Secret;
use super::record::Record;
use crate::{Error, ErrorKind, Result};

/// How long a connection on this machine may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a ping may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the identity proof may take.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the beginning of a freeze may take; the daemon itself waits 10 s for other work.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the end of a freeze may take, which nothing else bounds: it is sent even when interrupted.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an answer's body.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// Characters of a foreign text that are shown.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// A way to one daemon.
pub struct Client {
    agent: Agent,
    base: String,
}

fn agent(address: SocketAddr) -> Agent {
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .max_response_header_size(HEAD_BYTES_MAX)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .accept("application/json")
        .user_agent(concat!("packvault/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::with_parts(config, DefaultConnector::default(), Known(address))
}

/// Whatever a request names, the address is known.
#[derive(Debug)]
struct Known(SocketAddr);

impl Resolver for Known {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

/// What a daemon answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The identity proof, as sent.
    pub proof: Option<String>,
    body: Vec<u8>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a way to the daemon of a record.
    pub fn new(record: &Record) -> Result<Self> {
        Ok(Self { agent: agent(record.address), base: format!("http://{}", record.address) })
    }

    /// Asks the daemon who it is, in its own words.
    pub fn ping(&self) -> Result<Answer> {
        let request = self.agent.get(self.url("/api/ping"));
        self.answer(request.config().timeout_global(Some(PING_TIMEOUT)).build().call())
    }

    /// Tells whether anything answers at all, whatever it says.
    pub fn is_answered(&self) -> bool {
        let request = self.agent.get(self.url("/api/ping"));
        request.config().timeout_global(Some(PING_TIMEOUT)).build().call().is_ok()
    }

    /// Asks the daemon to prove who it is.
    pub fn identify(&self, challenge: &str) -> Result<Answer> {
        let request = self.agent.get(self.url("/api/daemon/identity"));
        let request = request.header("X-Msgvault-Daemon-Challenge", challenge);
        self.answer(request.config().timeout_global(Some(IDENTITY_TIMEOUT)).build().call())
    }

    /// Asks the daemon to hold its writers off.
    pub fn begin_freeze(&self, key: Option<&Secret>) -> Result<Answer> {
        self.post("/api/v1/backup/freeze/begin", key, "", BEGIN_TIMEOUT)
    }

    /// Tells the daemon to let its writers go on.
    pub fn end_freeze(&self, key: Option<&Secret>, token: &str) -> Result<Answer> {
        let body = serde_json::json!({ "token": token }).to_string();
        self.post("/api/v1/backup/freeze/end", key, &body, END_TIMEOUT)
    }

    fn post(&self, path: &str, key: Option<&Secret>, body: &str, timeout: Duration) -> Result<Answer> {
        let mut request = self.agent.post(self.url(path)).header("X-Msgvault-Client", "cli");
        request = request.content_type("application/json");
        if let Some(key) = key {
            request = request.header("X-Api-Key", header_value(key)?);
        }
        self.answer(request.config().timeout_global(Some(timeout)).build().send(body))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn answer(&self, sent: std::result::Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer> {
        let failed =
            |error| Error::caused(ErrorKind::Io, format!("msgvault does not answer at {}", self.base), error);
        let mut response = sent.map_err(failed)?;
        let proof = response.headers().get("X-Msgvault-Daemon-Proof");
        let proof = proof.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec().map_err(failed)?;
        Ok(Answer { status: response.status().as_u16(), proof, body })
    }
}

impl Answer {
    /// Returns the body if it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Returns the code of an error answer, empty if it has none.
    pub fn code(&self) -> String {
        self.json().and_then(|body| Some(body["error"].as_str()?.to_owned())).unwrap_or_default()
    }

    /// Returns what the daemon says about an error, fit to be shown; never the key, should it repeat it.
    pub fn message(&self, key: Option<&Secret>) -> Option<String> {
        let body = self.json()?;
        let message = body["message"].as_str().filter(|message| !message.is_empty())?;
        if key.is_some_and(|key| message.contains(key.expose())) {
            return None;
        }
        Some(shown(message))
    }

    /// Says what kind of answer it is, for one that nobody expects.
    pub fn describe(&self) -> String {
        match self.status {
            300..=399 => format!("answers with a redirect ({}), which is not followed", self.status),
            status => format!("answers with status {status}"),
        }
    }
}

/// Cuts a foreign text to what an error may quote.
pub fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS_MAX).collect()
}

/// Makes the header of the key, marked as secret.
fn header_value(key: &Secret) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(key.expose()).map_err(|_| {
        let message = "the API key in msgvault's configuration cannot be sent: it holds control characters";
        Error::new(ErrorKind::Source, message)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn no_name_is_looked_up_so_no_thread_is_needed_for_that() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let count = connection.read(&mut request).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            connection.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        // A name that no look-up finds: the address is the one that is known.
        let client = Client { agent: agent(address), base: "http://nobody.invalid:1".to_owned() };
        assert_eq!(client.ping().unwrap().json(), Some(serde_json::json!({})));
        assert!(server.join().unwrap().starts_with("GET /api/ping HTTP/1.1\r\n"));
    }
}
