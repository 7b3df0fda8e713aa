//! A fake HTTP server of the tests' own: it says whatever a test wants said, and keeps what it was asked.

#![allow(clippy::unwrap_used, dead_code, reason = "a test may panic, and not every test needs all of it")]

pub mod store;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimePrinter;
use packvault_s3::{S3Config, S3Credentials, S3Storage, S3Timeouts};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// More than any test may take in; an endless body ends here if nobody stops it.
const ENDLESS_BYTES_MAX: usize = 1 << 30;

/// One request as it came.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The lines of the head, in lower case as far as the colon.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        self.headers.iter().find_map(|line| line.strip_prefix(&start))
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }
}

/// What is said and done.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A whole answer.
    Say(Vec<u8>),
    /// The bytes, then the connection closes; whatever length was announced.
    Cut(Vec<u8>),
    /// The bytes, then nothing more.
    Stall(Vec<u8>),
    /// The bytes, then a byte now and then.
    Drip(Vec<u8>),
    /// The bytes, then more without end.
    Endless(Vec<u8>),
}

/// Makes an answer with a body.
pub fn say(status: &str, headers: &str, body: &[u8]) -> Reply {
    let mut bytes = head(status, &format!("Content-Length: {}\r\n{headers}", body.len()));
    bytes.extend_from_slice(body);
    Reply::Say(bytes)
}

/// Makes the head of an answer.
pub fn head(status: &str, headers: &str) -> Vec<u8> {
    dated_head("Sat, 28 Nov 2026 05:00:00 GMT", status, headers)
}

fn dated_head(date: &str, status: &str, headers: &str) -> Vec<u8> {
    let common = format!("Date: {date}\r\nServer: fake\r\nConnection: close\r\n");
    format!("HTTP/1.1 {status}\r\n{common}{headers}\r\n").into_bytes()
}

/// Makes a refusal as S3 says it, by a clock that is right: a wrong one would explain it.
pub fn refuse(status: &str, code: &str, more: &str) -> Reply {
    let body = format!("<Error><Code>{code}</Code><Message>told so</Message>{more}</Error>");
    let now = DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now()).unwrap();
    let mut bytes = dated_head(&now, status, &format!("Content-Length: {}\r\n", body.len()));
    bytes.extend_from_slice(body.as_bytes());
    Reply::Say(bytes)
}

type Answers = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A server that answers by a function.
pub struct Fake {
    pub endpoint: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Fake {
    pub async fn start(answers: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, noted): (Arc<Answers>, _) = (Arc::new(answers), Arc::clone(&asked));
        let listening = tokio::spawn(async move {
            while let Ok((line, _)) = listener.accept().await {
                let (answers, noted) = (Arc::clone(&answers), Arc::clone(&noted));
                tokio::spawn(async move { serve(line, &*answers, &noted).await });
            }
        });
        Self { endpoint, asked, listening }
    }

    pub fn config(&self) -> S3Config {
        config(&self.endpoint)
    }

    pub fn storage(&self) -> S3Storage {
        S3Storage::open(self.config(), None, Arc::default()).unwrap()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.is(method, part)).count()
    }
}

/// Returns the configuration of a server on loopback, with little patience.
pub fn config(endpoint: &str) -> S3Config {
    let credentials = S3Credentials::Static {
        access_key_id: "AKIDFAKE".into(),
        secret_access_key: "hush-secret".into(),
        session_token: Some("hush-token".into()),
    };
    let mut config = S3Config::new("bucket", "repo", credentials);
    config.endpoint = Some(endpoint.to_owned());
    config.allow_http = true;
    let (connect, idle) = (Duration::from_secs(5), Duration::from_millis(600));
    config.timeouts = S3Timeouts { connect, idle };
    config
}

async fn serve(mut line: TcpStream, answers: &Answers, noted: &Mutex<Vec<Asked>>) {
    let Some(asked) = read(&mut line).await else { return };
    noted.lock().unwrap().push(asked.clone());
    // A racing store takes its time in here.
    let reply = tokio::task::block_in_place(|| answers(&asked));
    let (Reply::Say(bytes)
    | Reply::Cut(bytes)
    | Reply::Stall(bytes)
    | Reply::Drip(bytes)
    | Reply::Endless(bytes)) = &reply;
    if line.write_all(bytes).await.is_err() {
        return;
    }
    match reply {
        Reply::Say(_) | Reply::Cut(_) => {
            let _ = line.shutdown().await;
        }
        Reply::Stall(_) => tokio::time::sleep(Duration::from_secs(60)).await,
        Reply::Drip(_) => {
            for _ in 0..1000 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if line.write_all(b" ").await.is_err() {
                    return;
                }
            }
        }
        Reply::Endless(_) => {
            for _ in 0..ENDLESS_BYTES_MAX / (1 << 16) {
                if line.write_all(&[b'x'; 1 << 16]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn read(line: &mut TcpStream) -> Option<Asked> {
    let mut line = BufReader::new(line);
    let mut text = String::new();
    line.read_line(&mut text).await.ok()?;
    let (method, rest) = text.split_once(' ')?;
    let mut asked =
        Asked { method: method.into(), target: rest.split(' ').next()?.into(), ..Asked::default() };
    loop {
        let mut text = String::new();
        line.read_line(&mut text).await.ok()?;
        let Some((name, value)) = text.trim_end().split_once(':') else { break };
        asked.headers.push(format!("{}: {}", name.to_lowercase(), value.trim()));
    }
    let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    asked.body = vec![0; length];
    line.read_exact(&mut asked.body).await.ok()?;
    Some(asked)
}
