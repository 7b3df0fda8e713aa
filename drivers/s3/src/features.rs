//! What the probe found out about a server; remembered by whoever opens the storage again.

use serde::{Deserialize, Serialize};

/// What a server was seen to do. Without it the most careful way is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Features {
    /// How the server names itself; empty where it does not.
    pub server: String,
    /// `If-None-Match: *` on PUT.
    pub create_only: Condition,
    /// `If-None-Match: *` on the completion of an upload in parts.
    pub create_only_streamed: Condition,
    /// `If-Match` on PUT.
    pub overwrite_if_match: IfMatch,
    /// How bytes that arrive damaged are noticed by the server.
    pub checksum: Checksum,
    /// A range is answered with that range alone.
    pub ranges: bool,
    /// Unfinished uploads can be listed, with the time at which they began, and so be swept.
    pub uploads_listed: bool,
    /// How far the server's clock was ahead of ours, in seconds.
    pub clock_offset_seconds: i64,
}

/// How a server treats a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The condition and the write are one step.
    Kept,
    /// It is ignored, or looked at before the write and not with it.
    Ignored,
    /// A request that has it is refused.
    Refused,
}

/// How a server wants the tag of an object it is to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfMatch {
    /// As it told it, in quotes.
    Quoted,
    /// Without the quotes.
    Unquoted,
    /// Not at all.
    Ignored,
}

/// What a server checks the bytes of a PUT against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// The SHA-256 that is part of every signed request.
    Signed,
    /// A header with the SHA-256.
    Header,
    /// Nothing.
    Unchecked,
}

/// What is sent with writes, given what is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ways {
    pub create_only: Condition,
    pub create_only_streamed: Condition,
    pub overwrite_if_match: IfMatch,
    pub checksum_header: bool,
    pub sweeps: bool,
}

impl Ways {
    pub(crate) fn of(features: Option<&S3Features>) -> Self {
        match features {
            Some(features) => Self {
                create_only: features.create_only,
                create_only_streamed: features.create_only_streamed,
                overwrite_if_match: features.overwrite_if_match,
                checksum_header: features.checksum == Checksum::Header,
                sweeps: features.uploads_listed,
            },
            None => Self {
                create_only: Condition::Ignored,
                create_only_streamed: Condition::Ignored,
                overwrite_if_match: IfMatch::Ignored,
                checksum_header: false,
                sweeps: false,
            },
        }
    }
}
