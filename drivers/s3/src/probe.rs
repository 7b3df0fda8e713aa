//! The probe: what a server does is found out by having it do it, on scratch keys that are removed.
//!
//! It costs about [`REQUESTS_ABOUT`] small requests. A race of a few writers over a few rounds shows a
//! server that looks first and writes then; one that was lucky in all of them would pass, so this is
//! evidence and no proof.

mod conditions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{HeaderName, HeaderValue, RANGE};
use http::{Method, StatusCode};
use packvault_storage::probe::{Answer, ProbeReport};
use packvault_storage::{
    Error, ErrorKind, Key, Operation, Prefix, Result, Step, clean_scratch, scratch_folder,
};

use crate::body::Payload;
use crate::client::{Client, Request};
use crate::error::{Refusal, shorten};
use crate::features::{Checksum, S3Features};
use crate::times::parse_http_date;
use crate::upload::Upload;
use crate::{list, read, sweep, write};

/// What a probe costs, the removal of its keys included, of a server that answers. One that is busy or lists what
/// is not there makes it more: it is begun three times at most, and a look for what to remove takes a hundred keys
/// at most.
pub const REQUESTS_ABOUT: usize = 200;

/// How often the probe begins anew when the server is busy. Whether one that does not answer is asked again is
/// for the caller to decide.
const ATTEMPTS_MAX: u32 = 3;

/// The pause before it does.
const PAUSE: Duration = Duration::from_secs(1);

/// The size of a scratch object.
const SCRATCH_BYTES: usize = 4 << 10;

/// How often a listing is asked for what was just written.
const LIST_ROUNDS: usize = 3;

/// How many scratch objects and uploads are removed at most.
const REMOVED_MAX: usize = 100;

/// How far a written object's time may lie from the `Date` of the answer.
const STAMPS_APART_MAX: Duration = Duration::from_secs(5);

/// How far the beginning of an upload may lie from the server's time when it is listed right after.
const BEGUN_APART_MAX: Duration = Duration::from_secs(120);

/// Asks the server everything; see [`crate::S3Storage::probe`].
pub(crate) async fn probe(client: &Arc<Client>) -> Result<(S3Features, ProbeReport)> {
    let mut attempt = 1;
    loop {
        let probe = Probe::new(client)?;
        // Nothing has been written yet, so a server that does not answer this is asked for nothing else.
        let server = probe.server().await?;
        let asked = probe.ask(server).await;
        let cleaned = clean_scratch(asked.as_ref().err(), || probe.clean()).await;
        let is_busy = |error: &Error| matches!(error.kind(), ErrorKind::Throttled | ErrorKind::Conflict);
        match asked.and_then(|found| cleaned.map(|()| found)) {
            Err(error) if is_busy(&error) && attempt < ATTEMPTS_MAX => attempt += 1,
            result => return result,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How a conditional write went.
#[derive(Debug)]
enum Outcome {
    Done,
    Refused(Refusal),
}

struct Probe<'c> {
    client: &'c Arc<Client>,
    folder: Prefix,
    name: String,
}

impl<'c> Probe<'c> {
    fn new(client: &'c Arc<Client>) -> Result<Self> {
        let name = scratch_folder();
        let step = Step::new(Operation::Open, &client.place.location);
        let illegal = |error| step.error(ErrorKind::Config, "no scratch name can be made").with_source(error);
        Ok(Self { client, folder: Prefix::folder(name.as_str()).map_err(illegal)?, name })
    }

    fn step(&self) -> Step<'c> {
        Step::new(Operation::Open, &self.client.place.location)
    }

    fn key(&self, name: &str) -> Result<Key> {
        let key = Key::parse(format!("{}/{name}", self.name));
        key.map_err(|error| {
            self.step().error(ErrorKind::Config, "no scratch key can be made").with_source(error)
        })
    }

    async fn ask(&self, server: String) -> Result<(S3Features, ProbeReport)> {
        let mut report = ProbeReport { server, ..ProbeReport::default() };
        self.read_after_write(&mut report).await?;
        self.list_after_write(&mut report).await?;
        let create_only = self.create_only(&mut report).await?;
        let features = S3Features {
            server: report.server.clone(),
            create_only,
            create_only_streamed: self.create_only_streamed(&mut report).await?,
            overwrite_if_match: self.overwrite_if_match(&mut report).await?,
            checksum: self.checksum(&mut report).await?,
            ranges: self.ranges(&mut report).await?,
            uploads_listed: self.uploads(&mut report).await?,
            clock_offset_seconds: self.clock(&mut report).await?,
        };
        self.pages(&mut report).await?;
        Ok((features, report))
    }

    /// The first request: a wrong bucket, region, key or clock shows here.
    async fn server(&self) -> Result<String> {
        let prefix = self.client.place.full_prefix(&self.folder);
        let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", prefix.as_str())];
        let answer = self.client.send(self.step(), Request::new(Method::GET, None).query(&query)).await?;
        if answer.status() != StatusCode::OK {
            return Err(answer.refused(self.step()).await);
        }
        Ok(answer.header("server").map(shorten).unwrap_or_default())
    }

    async fn read_after_write(&self, report: &mut ProbeReport) -> Result<()> {
        let key = self.key("object")?;
        for round in 0..2 {
            let bytes = scratch(round);
            self.put_plain(&key, bytes.clone()).await?;
            if read::read(self.client, &key).await? != bytes {
                let detail = "the server does not show what was just written; no repository can lie there";
                return Err(self.step().error(ErrorKind::Unsupported, detail));
            }
        }
        report.add("what was written is read at once", Answer::Yes, "");
        Ok(())
    }

    async fn list_after_write(&self, report: &mut ProbeReport) -> Result<()> {
        for round in 0..LIST_ROUNDS {
            let key = self.key(&format!("listed-{round}"))?;
            self.put_plain(&key, scratch(round as u64)).await?;
            if !self.listed(list::PAGE_OBJECTS).await?.contains(&key) {
                let detail = "a listing does not show what was just written; a server without \
                              read-after-write listing is refused, for locks and snapshots rest on it";
                return Err(self.step().error(ErrorKind::Unsupported, detail));
            }
        }
        report.add("what was written is listed at once", Answer::Yes, "");
        Ok(())
    }

    async fn listed(&self, page_objects: u32) -> Result<BTreeSet<Key>> {
        let objects = list::list(self.client, self.folder.clone(), page_objects);
        objects.map_ok(|object| object.key).try_collect().await
    }

    async fn pages(&self, report: &mut ProbeReport) -> Result<()> {
        let (whole, paged) = (self.listed(list::PAGE_OBJECTS).await?, self.listed(3).await?);
        if whole != paged {
            let detail = format!("a listing in pages shows {} of {} objects", paged.len(), whole.len());
            return Err(self.step().error(ErrorKind::Unsupported, detail));
        }
        report.add("a listing in pages is complete", Answer::Yes, "");
        Ok(())
    }

    async fn checksum(&self, report: &mut ProbeReport) -> Result<Checksum> {
        let key = self.key("damaged")?;
        let wrong = Payload::from(scratch(99)).digest().await;
        let question = "damaged bytes are refused";
        if self.client.is_signed() {
            let mut request = put(scratch(1));
            request.digest = Some(wrong);
            if matches!(self.outcome(&key, request).await?, Outcome::Refused(_)) {
                report.add(question, Answer::Yes, "by the SHA-256 that is signed");
                return Ok(Checksum::Signed);
            }
        }
        let mut request = put(scratch(1));
        write::add_checksum(&mut request.headers, wrong);
        if matches!(self.outcome(&key, request).await?, Outcome::Refused(_)) {
            let mut request = put(scratch(1));
            write::add_checksum(&mut request.headers, Payload::from(scratch(1)).digest().await);
            if matches!(self.outcome(&key, request).await?, Outcome::Done) {
                report.add(question, Answer::Yes, "by a header with the SHA-256");
                return Ok(Checksum::Header);
            }
        }
        report.add(question, Answer::No, "they are found when they are read");
        Ok(Checksum::Unchecked)
    }

    async fn ranges(&self, report: &mut ProbeReport) -> Result<bool> {
        let key = self.key("ranged")?;
        self.put_plain(&key, scratch(5)).await?;
        let full_key = self.client.place.full_key(&key);
        let request = Request::new(Method::GET, Some(&full_key))
            .header(RANGE, HeaderValue::from_static("bytes=100-199"));
        let answer = self.client.send(self.step(), request).await?;
        let (status, length) = (answer.status(), answer.length());
        drop(answer);
        if read::read_range(self.client, &key, 100..200).await? != scratch(5).slice(100..200) {
            let detail = "the server answers a range with other bytes; no repository can lie there";
            return Err(self.step().error(ErrorKind::Unsupported, detail));
        }
        let is_alone = length == Some(100);
        let note = match (status, is_alone) {
            (StatusCode::PARTIAL_CONTENT, true) => String::new(),
            (status, true) => format!("with status {}; the range it tells is relied on", status.as_u16()),
            _ => "the whole object comes, and the range is cut out of it".to_owned(),
        };
        report.add(
            "a range is answered with the range",
            if is_alone { Answer::Yes } else { Answer::No },
            note,
        );
        Ok(is_alone)
    }

    async fn uploads(&self, report: &mut ProbeReport) -> Result<bool> {
        let key = self.key("aborted")?;
        let mut upload = Upload::begin(self.client, self.step(), &self.client.place.full_key(&key)).await?;
        upload.sender().send(self.step(), 1, scratch(6).into()).await?;
        let begun = sweep::begun(self.client, &self.folder).await?;
        upload.abort(self.step()).await?;
        if self.listed(list::PAGE_OBJECTS).await?.contains(&key) {
            let detail = "an aborted upload is listed as an object; no repository can lie there";
            return Err(self.step().error(ErrorKind::Unsupported, detail));
        }
        report.add("an upload can be aborted", Answer::Yes, "");
        let is_true = |begun| self.client.clock.now().is_some_and(|now| apart(now, begun) <= BEGUN_APART_MAX);
        let (answer, note) = match begun {
            Some(begun) if is_true(begun) => (Answer::Yes, ""),
            Some(_) => {
                (Answer::No, "the time told of them is wrong; what a killed one leaves is the server's")
            }
            None => (Answer::No, "what a killed one leaves is the server's to remove"),
        };
        report.add("unfinished uploads can be found", answer, note);
        Ok(answer == Answer::Yes)
    }

    async fn clock(&self, report: &mut ProbeReport) -> Result<i64> {
        let key = self.key("clock")?;
        self.put_plain(&key, scratch(7)).await?;
        let full_key = self.client.place.full_key(&key);
        let answer = self.client.send(self.step(), Request::new(Method::HEAD, Some(&full_key))).await?;
        let time = |name| answer.header(name).and_then(parse_http_date);
        let (Some(date), Some(modified), Some(offset)) =
            (time("date"), time("last-modified"), self.client.clock.offset_seconds())
        else {
            let detail = "the server tells no time, and the age of locks cannot be known";
            return Err(self.step().error(ErrorKind::Unsupported, detail));
        };
        let apart = apart(date, modified);
        if apart > STAMPS_APART_MAX {
            let detail = format!("an object is stamped {} s apart from the server's date", apart.as_secs());
            return Err(self.step().error(ErrorKind::Unsupported, detail));
        }
        report.add("seconds the server's clock is ahead of ours", Answer::Told, offset.to_string());
        Ok(offset)
    }

    async fn put_plain(&self, key: &Key, bytes: Bytes) -> Result<()> {
        match self.outcome(key, put(bytes)).await? {
            Outcome::Done => Ok(()),
            Outcome::Refused(refusal) => Err(refusal.error(self.step(), &self.client.place)),
        }
    }

    async fn put_if(&self, key: &Key, bytes: Bytes, name: HeaderName, value: HeaderValue) -> Result<Outcome> {
        self.outcome(key, put(bytes).header(name, value)).await
    }

    /// Sends a write; a refusal that says nothing about the question is an error.
    async fn outcome(&self, key: &Key, request: Request<'_>) -> Result<Outcome> {
        let full_key = self.client.place.full_key(key);
        let request = Request { key: Some(&full_key), ..request };
        let answer = self.client.send(self.step(), request).await?;
        if answer.status().is_success() {
            return Ok(Outcome::Done);
        }
        let refusal = answer.refusal().await;
        match refusal.status.as_u16() {
            400 | 405 | 409 | 412 | 501 => Ok(Outcome::Refused(refusal)),
            _ => Err(refusal.error(self.step(), &self.client.place)),
        }
    }

    /// Removes the scratch keys and uploads, as far as the server lets us.
    async fn clean(&self) -> Result<()> {
        for key in self.listed(list::PAGE_OBJECTS).await?.into_iter().take(REMOVED_MAX) {
            write::delete(self.client, self.step(), &key).await?;
        }
        sweep::abort_below(self.client, &self.folder, REMOVED_MAX).await
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|reversed| reversed.duration())
}

/// Makes a write whose key is yet to be named.
fn put(bytes: Bytes) -> Request<'static> {
    Request::new(Method::PUT, None).payload(bytes)
}

/// Returns bytes that differ between numbers.
fn scratch(number: u64) -> Bytes {
    let mut bytes = number.to_le_bytes().repeat(SCRATCH_BYTES / 8);
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte ^= (place % 253) as u8;
    }
    bytes.into()
}
