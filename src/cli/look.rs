//! What the commands that look inside have in common: which words mean archive, snapshot and path, and where content
//! goes.

use std::io::{self, Write as _};
use std::sync::Arc;

use packvault::engine::Selection;
use packvault::engine::inside::Output;
use packvault::repo::Repository;
use packvault::{Error, ErrorKind, Result};

use super::session::Session;
use super::subject::Subject;
use super::{ReadLockFlags, select};

/// A snapshot of a repository that is open.
pub struct Opened {
    pub repository: Repository,
    pub selection: Selection,
}

/// Splits words of which the last is no snapshot: `[ARCHIVE] [SNAPSHOT] LAST`.
pub fn with_last(session: &Session, words: &[String]) -> Result<(Subject, String)> {
    match words {
        [before @ .., last] => Ok((Subject::of(session.settings(), before)?, last.clone())),
        [] => Err(Error::new(ErrorKind::Usage, "nothing was named")),
    }
}

/// Splits words of which all may be left out: `[ARCHIVE] [SNAPSHOT] [PATH]`. A path needs a snapshot, or an archive,
/// before it.
pub fn with_path(session: &Session, words: &[String]) -> Result<(Subject, String)> {
    let names = session.settings().archive_names();
    let before = match words.first() {
        Some(first) if names.contains(&first.as_str()) => words.len().min(2),
        _ => words.len().min(1),
    };
    if words.len() > before + 1 {
        let unknown = format!("{} words are one too many: a snapshot and a path are meant", words.len());
        return Err(Error::new(ErrorKind::Usage, unknown));
    }
    let path = words.get(before).cloned().unwrap_or_default();
    Ok((Subject::of(session.settings(), &words[..before])?, path))
}

/// Opens the repository, and finds which snapshot is meant.
pub async fn open(session: &Session, subject: &Subject, locks: ReadLockFlags) -> Result<Opened> {
    let explain = |error| subject.explain(session.settings(), error);
    let repository = session.repository(subject.archive.as_ref(), locks.purpose()).await.map_err(explain)?;
    let selection = match subject.snapshot.as_deref() {
        None | Some("latest") => Selection::Latest,
        Some(text) => Selection::One(select::snapshot(&repository, text).await.map_err(explain)?),
    };
    Ok(Opened { repository, selection })
}

/// Standard output, for content that is somebody else's input: whatever is not taken is an error.
#[derive(Debug)]
pub struct StandardOutput;

impl StandardOutput {
    /// Returns it as operations take it.
    pub fn shared() -> Arc<dyn Output> {
        Arc::new(Self)
    }
}

impl Output for StandardOutput {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut output = io::stdout().lock();
        let written = output.write_all(bytes).and_then(|()| output.flush());
        written.map_err(|error| Error::caused(ErrorKind::Io, "cannot write to standard output", error))
    }
}
