//! How the credential chain reaches files, services and programs: each with a bound on time and bytes.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use reqsign_core::{CommandExecute, CommandOutput, Error, FileRead, HttpSend, Result};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// The longest file, answer or output that is taken in.
const TAKEN_BYTES_MAX: u64 = 1 << 20;

/// How long a service that hands out keys may take.
const SERVICE_SECONDS_MAX: u64 = 30;

/// How long the metadata service of the machine may take, which no answer means is not there.
const MACHINE_SECONDS_MAX: u64 = 2;

/// What is never asked through a proxy: this machine's own services would be another machine's then.
const LOCAL: &str = "169.254.0.0/16,127.0.0.0/8,localhost";

/// How long a program that prints keys may take; it may have to ask somebody.
const COMMAND_SECONDS_MAX: u64 = 120;

/// Reads files.
#[derive(Debug)]
pub(crate) struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> Result<Vec<u8>> {
        let failed = |error: std::io::Error| Error::unexpected(format!("cannot read {path}: {error}"));
        if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
            return Err(Error::config_invalid(format!("{path} is no plain file")));
        }
        take(tokio::fs::File::open(path).await.map_err(failed)?).await.map_err(failed)
    }
}

async fn take(from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(TAKEN_BYTES_MAX).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Asks services over HTTP.
#[derive(Debug)]
pub(crate) struct Services(Option<reqwest::Client>);

impl Services {
    pub(crate) fn new(proxy: Option<&str>) -> Self {
        crate::client::use_ring();
        let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(Ok(proxy)) = proxy.map(reqwest::Proxy::all) {
            builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_string(LOCAL)));
        }
        Self(builder.timeout(Duration::from_secs(SERVICE_SECONDS_MAX)).build().ok())
    }

    async fn ask(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        // Neither the request nor the answer may show in an error: both may hold keys.
        let failed = |error: reqwest::Error| {
            Error::unexpected(if error.is_timeout() { "it does not answer" } else { "it cannot be asked" })
        };
        let client = self.0.as_ref().ok_or_else(|| Error::unexpected("no HTTP client could be made"))?;
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let mut answer = client.execute(request).await.map_err(failed)?;
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            *headers = std::mem::take(answer.headers_mut());
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if (body.len() + piece.len()) as u64 > TAKEN_BYTES_MAX {
                return Err(Error::unexpected("its answer is too long"));
            }
            body.extend_from_slice(&piece);
        }
        response.body(body.into()).map_err(|_| Error::unexpected("its answer cannot be read"))
    }
}

impl HttpSend for Services {
    async fn http_send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let is_machine = request.uri().host().is_some_and(|host| host.starts_with("169.254."));
        let seconds = if is_machine { MACHINE_SECONDS_MAX } else { SERVICE_SECONDS_MAX };
        let answer = tokio::time::timeout(Duration::from_secs(seconds), self.ask(request));
        answer.await.unwrap_or_else(|_| Err(Error::unexpected("it does not answer")))
    }
}

/// Runs programs. What they have to say goes where ours does, and into no error: it may hold what they know.
#[derive(Debug)]
pub(crate) struct Commands;

impl CommandExecute for Commands {
    async fn command_execute(&self, program: &str, args: &[&str]) -> Result<CommandOutput> {
        let failed = |error: std::io::Error| Error::unexpected(format!("cannot run {program}: {error}"));
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let Some(stdout) = child.stdout.take() else {
            return Err(Error::unexpected(format!("cannot run {program}: it has no output")));
        };
        let run = async {
            let stdout = take(stdout).await?;
            Ok((child.wait().await?, stdout))
        };
        let run = tokio::time::timeout(Duration::from_secs(COMMAND_SECONDS_MAX), run).await;
        let run = run.map_err(|_| Error::unexpected(format!("{program} does not end")))?;
        let (status, stdout) = run.map_err(failed)?;
        Ok(CommandOutput { status: status.code().unwrap_or(-1), stdout, stderr: Vec::new() })
    }
}
