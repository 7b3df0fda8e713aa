//! Whether conditions on writes are kept, one by one and when several writers meet.

use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use http::header::{HeaderValue, IF_MATCH, IF_NONE_MATCH};
use packvault_storage::probe::{Answer, ProbeReport};
use packvault_storage::{ErrorKind, Key, Result};

use super::{Outcome, Probe, scratch};
use crate::client::Request;
use crate::features::{Condition, IfMatch};
use crate::read;
use crate::upload::Upload;
use crate::write::condition;

/// How often writers meet.
const RACE_ROUNDS: u64 = 5;

/// How many of them.
const RACERS: u64 = 12;

/// The same for uploads in parts, each of which takes three requests.
const STREAMED_RACE_ROUNDS: u64 = 3;
const STREAMED_RACERS: u64 = 6;

/// The tag of no object.
const STALE: &str = "\"00000000000000000000000000000000\"";

impl Probe<'_> {
    pub(super) async fn create_only(&self, report: &mut ProbeReport) -> Result<Condition> {
        let key = self.key("created")?;
        let mut found = Condition::Kept;
        for round in 0..2 {
            found = match (round, self.create(&key, scratch(round)).await?) {
                (0, Outcome::Done) => Condition::Kept,
                (1, Outcome::Done) => Condition::Ignored,
                (_, Outcome::Refused(refusal)) if matches!(refusal.status.as_u16(), 409 | 412) => {
                    Condition::Kept
                }
                (_, Outcome::Refused(_)) => Condition::Refused,
                (_, Outcome::Done) => found,
            };
            if found == Condition::Refused {
                self.put_plain(&key, scratch(0)).await?;
                break;
            }
        }
        let mut note = said(found, "it looks first and writes then");
        if found == Condition::Kept && !self.create_has_one_winner().await? {
            found = Condition::Ignored;
            note = "several won a race; it looks first and writes then".to_owned();
        }
        report.add("create-only PUT", yes_or_no(found == Condition::Kept), note);
        Ok(found)
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Outcome> {
        self.put_if(key, bytes, IF_NONE_MATCH, HeaderValue::from_static("*")).await
    }

    async fn create_has_one_winner(&self) -> Result<bool> {
        for round in 0..RACE_ROUNDS {
            let key = self.key(&format!("race-{round}"))?;
            let racers = (0..RACERS).map(|racer| self.create(&key, scratch(100 + racer)));
            let outcomes = join_all(racers).await;
            if !self.is_one_winner(&key, outcomes).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells whether no more than one racer was told that it won, and its bytes are there. All may have
    /// lost where they met too closely; a racer without an answer says nothing.
    async fn is_one_winner(&self, key: &Key, outcomes: Vec<Result<Outcome>>) -> Result<bool> {
        let is_winner = |outcome: &Result<Outcome>| matches!(outcome, Ok(Outcome::Done));
        let winners: Vec<u64> =
            (0..).zip(&outcomes).filter(|(_, outcome)| is_winner(outcome)).map(|(racer, _)| racer).collect();
        match winners[..] {
            [] => Ok(true),
            [winner] if outcomes.iter().all(Result::is_ok) => {
                Ok(read::read(self.client, key).await? == scratch(100 + winner))
            }
            [_] => Ok(true),
            _ => Ok(false),
        }
    }

    pub(super) async fn create_only_streamed(&self, report: &mut ProbeReport) -> Result<Condition> {
        let taken = self.key("created")?;
        let mut found = match self.create_streamed(&taken, scratch(8)).await? {
            Outcome::Done => Condition::Ignored,
            Outcome::Refused(refusal) if matches!(refusal.status.as_u16(), 409 | 412) => Condition::Kept,
            Outcome::Refused(_) => Condition::Refused,
        };
        let mut note = said(found, "large objects look first and complete then");
        if found == Condition::Kept && !self.create_streamed_has_one_winner().await? {
            found = Condition::Ignored;
            note = "several won a race; it looks first and completes then".to_owned();
        }
        report.add("create-only completion of an upload in parts", yes_or_no(found == Condition::Kept), note);
        Ok(found)
    }

    async fn create_streamed(&self, key: &Key, bytes: Bytes) -> Result<Outcome> {
        let (upload, tag) = self.uploaded(key, bytes).await?;
        self.complete(upload, tag).await
    }

    async fn uploaded(&self, key: &Key, bytes: Bytes) -> Result<(Upload, String)> {
        let upload = Upload::begin(self.client, self.step(), &self.client.place.full_key(key)).await?;
        let tag = upload.sender().send(self.step(), 1, bytes.into()).await?;
        Ok((upload, tag))
    }

    async fn complete(&self, upload: Upload, tag: String) -> Result<Outcome> {
        match upload.complete(self.step(), &[tag], Condition::Kept).await {
            Ok(()) => Ok(Outcome::Done),
            Err(error) => refused(error),
        }
    }

    async fn create_streamed_has_one_winner(&self) -> Result<bool> {
        for round in 0..STREAMED_RACE_ROUNDS {
            let key = self.key(&format!("streamed-{round}"))?;
            let uploaded = (0..STREAMED_RACERS).map(|racer| self.uploaded(&key, scratch(100 + racer)));
            let uploaded = join_all(uploaded).await.into_iter().collect::<Result<Vec<_>>>()?;
            let racers = uploaded.into_iter().map(|(upload, tag)| self.complete(upload, tag));
            let outcomes = join_all(racers).await;
            if !self.is_one_winner(&key, outcomes).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) async fn overwrite_if_match(&self, report: &mut ProbeReport) -> Result<IfMatch> {
        let key = self.key("matched")?;
        let mut found = IfMatch::Ignored;
        for form in [IfMatch::Quoted, IfMatch::Unquoted] {
            if self.keeps_if_match(&key, form).await? {
                found = form;
                break;
            }
        }
        let note = match found {
            IfMatch::Quoted => "",
            IfMatch::Unquoted => "the tag must be without quotes",
            IfMatch::Ignored => "touch looks first and writes then",
        };
        report.add("overwrite only if unchanged", yes_or_no(found != IfMatch::Ignored), note);
        Ok(found)
    }

    async fn keeps_if_match(&self, key: &Key, form: IfMatch) -> Result<bool> {
        self.put_plain(key, scratch(1)).await?;
        let full_key = self.client.place.full_key(key);
        let answer = self.client.send(self.step(), Request::new(Method::HEAD, Some(&full_key))).await?;
        let Some(good) = read::tag(&answer).and_then(|tag| condition(form, &tag)) else { return Ok(false) };
        let Some(stale) = condition(form, &HeaderValue::from_static(STALE)) else { return Ok(false) };
        let with_stale = self.put_if(key, scratch(2), IF_MATCH, stale).await?;
        let with_good = self.put_if(key, scratch(3), IF_MATCH, good).await?;
        let is_kept = matches!(&with_stale, Outcome::Refused(refusal) if refusal.status.as_u16() == 412);
        Ok(is_kept && matches!(with_good, Outcome::Done))
    }
}

/// Tells a completion that the server refused from one that failed.
fn refused(error: packvault_storage::Error) -> Result<Outcome> {
    let status = match error.kind() {
        ErrorKind::AlreadyExists => http::StatusCode::PRECONDITION_FAILED,
        ErrorKind::Conflict => http::StatusCode::CONFLICT,
        ErrorKind::Unsupported | ErrorKind::Io => http::StatusCode::NOT_IMPLEMENTED,
        _ => return Err(error),
    };
    Ok(Outcome::Refused(crate::error::Refusal::new(status, &http::HeaderMap::new(), b"", false)))
}

fn said(found: Condition, ignored: &str) -> String {
    match found {
        Condition::Kept => String::new(),
        Condition::Ignored => format!("the condition is ignored; {ignored}"),
        Condition::Refused => "the condition is refused; exclusion rests on names of one's own".to_owned(),
    }
}

fn yes_or_no(is_yes: bool) -> Answer {
    if is_yes { Answer::Yes } else { Answer::No }
}
