//! The extra files of a capture, and the tree that names them (section 5).
//!
//! In this order: files, several at once; those that changed while they were read, again; what looks like
//! the log or journal of a database and belongs to none; databases, one after the other. The order keeps one
//! promise: while a database is pinned, no other handle of this process is opened and closed on its file,
//! for that would drop SQLite's locks (T2).
//!
//! One bad file keeps no other from being taken. What cannot be taken is named, and ends the capture only if
//! it was asked for by its full name.

mod databases;
mod read;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use rustix::fs::FileType;

use self::databases::Image;
use self::read::Outcome;
use super::beliefs::Beliefs;
use super::known::KnownBlobs;
use super::sink::{BlobSink, EncodedBlob};
use crate::archive::attributes::attributes_of_found;
use crate::archive::extras::{ExtrasSource, FoundExtra, FoundExtras, FoundRepository, LeftFile, find};
use crate::archive::findings::Findings;
use crate::archive::foreign;
use crate::archive::profile::{Profile, SIDECARS, database_files};
use crate::archive::sighting::{Print, Sighting};
use crate::engine::pipeline::{Pipeline, Reservation};
use crate::engine::report::{CapturedDatabase, LeftOut};
use crate::format::{ArchiveAttributes, BlobId, ExtrasEntry, RepoId, extras_tree};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// Files up to this size are compressed in memory; larger ones through the spool.
const MEMORY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Larger files fit no snapshot (section 5.1).
const EXTRA_BYTES_MAX: u64 = 1 << 32;
/// How often a file that changes while it is read is read.
const ATTEMPTS_MAX: usize = 3;
/// The pause before those that changed are read again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How many databases are waited for in full; an application that keeps so many for itself keeps others too.
const PATIENT_WITH: usize = 3;
/// How long writers may keep the pin of each further one from standing.
const IMPATIENT_WINDOW: Duration = Duration::from_secs(1);
/// The most characters of a sentence: what all of them take must fit a note.
const SENTENCE_CHARACTERS_MAX: usize = 1_000;
/// How many of what is missing is named in sentences; the rest is counted.
const NAMED_MAX: usize = 100;

/// The profile that tells which files hold secrets, and whether those may be stored.
pub type Secrets = (Arc<dyn Profile>, bool);

/// The extra files of a snapshot.
#[derive(Debug, Default)]
pub struct CapturedExtras {
    /// The id of the tree; `None` without a file.
    pub tree: Option<String>,
    /// The number of files.
    pub count: u64,
    /// The databases among them.
    pub databases: Vec<CapturedDatabase>,
    /// What was found and not taken.
    pub left_out: Vec<LeftOut>,
    /// What the user is told of them.
    pub findings: Findings,
    /// Owners, modes and times of the files and of their folders.
    pub attributes: ArchiveAttributes,
    /// What is wrong with the databases.
    pub problems: Vec<String>,
    /// How many files were read.
    pub read: u64,
    /// Those that can be known by their times in the next capture.
    pub prints: Vec<Print>,
    /// The tree itself, where the next capture is to know it.
    pub tree_text: Vec<u8>,
}

/// Finds the extra files, and refuses what may not or cannot be part of a snapshot.
pub fn look(sources: &[ExtrasSource], (profile, allowed): Secrets) -> Result<FoundExtras> {
    let found = find(sources, &database_files(&profile.database_name()))?;
    if allowed {
        return Ok(found);
    }
    // The database is no extra file, but it is stored as every one of them is.
    let database = profile.database_name();
    let named = profile.is_secret(&database).then(|| format!("the database {database:?}"));
    let secret = found.extras.iter().find(|extra| profile.is_secret(extra.recorded()));
    match secret.map(|secret| secret.path().display().to_string()).or(named) {
        None => Ok(found),
        Some(secret) => {
            let message = format!(
                "{secret} holds secrets, and the repository is not encrypted: storing it takes \
                 --allow-plaintext-secrets"
            );
            Err(Error::new(ErrorKind::Usage, message))
        }
    }
}

/// A file that need not be read, its permission bits, what it holds, and by what it is known.
type Unread = (FoundExtra, u32, (u64, BlobId), Print);

/// Returns the files that must be read, and those that are as they were in the parent. What holds secrets is read, and what
/// is named like a log of SQLite: whether it is one depends on other files.
fn unread(
    extras: Vec<FoundExtra>,
    beliefs: &Beliefs,
    known: &KnownBlobs,
    profile: &dyn Profile,
) -> (Vec<FoundExtra>, Vec<Unread>) {
    let (mut to_read, mut unread) = (Vec::new(), Vec::new());
    for extra in extras {
        let path = extra.recorded();
        let is_read = base_of(path).is_some() || profile.is_secret(path);
        let stat = if is_read { None } else { extra.look().ok().flatten() };
        let stat = stat.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let believed = stat.and_then(|stat| {
            let sighting = Sighting::of(&stat);
            let (blob, print) = beliefs.extra(path, &sighting)?;
            known.contains(&blob).then_some((stat.st_mode & 0o777, (sighting.bytes(), blob), print))
        });
        match believed {
            Some((mode, content, print)) => unread.push((extra, mode, content, print)),
            None => to_read.push(extra),
        }
    }
    (to_read, unread)
}

/// Reads and stores every extra file, but for those that are as they were in the parent; `checks` tells whether a
/// database of a length is checked.
pub async fn capture(
    pipeline: &Pipeline,
    sink: &mut BlobSink,
    sources: Vec<ExtrasSource>,
    secrets: Secrets,
    ours: &RepoId,
    checks: impl Fn(u64) -> bool,
    beliefs: Option<&Arc<Beliefs>>,
) -> Result<CapturedExtras> {
    let context = pipeline.context();
    let (believed, known) = (beliefs.cloned(), sink.known().clone());
    let (found, attributes, unread) = pipeline
        .run(move |_| {
            let mut found = look(&sources, secrets.clone())?;
            let attributes = attributes_of_found(&found.extras);
            let Some(beliefs) = believed else { return Ok((found, attributes, Vec::new())) };
            let (to_read, unread) = unread(found.extras, &beliefs, &known, secrets.0.as_ref());
            found.extras = to_read;
            Ok((found, attributes, unread))
        })
        .await?;
    let all = found.extras.len() + unread.len();
    context.progress.begin(Stage::Extras, Unit::Items, Some(all as u64));
    context.progress.advance(Stage::Extras, unread.len() as u64);
    let FoundExtras { extras, mut left_out, idle, repositories } = found;
    say_whose_repositories(&mut left_out, &repositories, ours);
    let (sidecars, files) = split_sidecars(extras);
    let mut taking = Taking {
        pipeline,
        sink,
        beliefs,
        entries: Vec::with_capacity(all),
        prints: Vec::new(),
        left_out,
        queue: Vec::new(),
        databases: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        busy: 0,
    };
    let unread_count = unread.len() as u64;
    for (extra, mode, (size, blob), print) in unread {
        taking.entries.push(ExtrasEntry { path: extra.recorded().to_owned(), mode, size, blob });
        taking.prints.push(print);
    }
    taking.files(files).await?;
    let others = taking.not_of_a_database(sidecars).await?;
    taking.files(others).await?;
    for database in std::mem::take(&mut taking.queue) {
        let checks = checks(database.file_bytes);
        taking.database(database, checks).await?;
    }
    let Taking { entries, prints, mut left_out, databases, problems, warnings, sink, .. } = taking;
    let mut tree_text = Vec::new();
    let tree = match entries.len() {
        0 => None,
        _ => {
            let text = extras_tree::encode(&entries);
            tree_text = beliefs.map_or_else(Vec::new, |_| text.clone());
            Some(sink.store(text).await?.to_string())
        }
    };
    context.progress.end(Stage::Extras);
    left_out.sort_by(|one, other| one.path.cmp(&other.path));
    let findings = Findings { missing: sentences(&left_out, idle), warnings };
    let left_out =
        left_out.into_iter().map(|left| LeftOut { path: left.path, reason: left.reason }).collect();
    let count = entries.len() as u64;
    let read = count - unread_count;
    Ok(CapturedExtras {
        tree,
        count,
        databases,
        left_out,
        findings,
        attributes,
        problems,
        read,
        prints,
        tree_text,
    })
}

/// Says which of the repositories is the one that is written to: that one lies there on purpose, and cannot be in
/// itself. Any other is something that was asked for and is missing, until it is excluded.
fn say_whose_repositories(left_out: &mut [LeftFile], repositories: &[FoundRepository], ours: &RepoId) {
    let found: HashMap<&str, &FoundRepository> =
        repositories.iter().map(|found| (found.path.as_str(), found)).collect();
    for left in left_out {
        let Some(FoundRepository { path, is }) = found.get(left.path.as_str()).copied() else { continue };
        left.asked = is.id.as_ref() != Some(ours);
        left.reason = match left.asked {
            true => format!(
                "{}, and a repository is no part of a snapshot; {path:?} in `exclude` says that this is meant",
                is.what
            ),
            false => "it is the repository of this backup".to_owned(),
        };
    }
}

/// Returns a sentence for everything that was asked for and is missing, up to a number.
fn sentences(left_out: &[LeftFile], idle: Vec<String>) -> Vec<String> {
    let asked = left_out.iter().filter(|left| left.asked);
    let mut missing = idle;
    missing.extend(asked.clone().take(NAMED_MAX).map(|left| {
        let LeftFile { path, reason, .. } = left;
        shortened(format!("{path:?} is not in the snapshot: {reason}"))
    }));
    if let Some(more) = asked.count().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        missing.push(format!("{more} more are not in the snapshot (`left_out` of --json names them all)"));
    }
    missing
}

fn shortened(sentence: String) -> String {
    match sentence.char_indices().nth(SENTENCE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", &sentence[..end]),
        None => sentence,
    }
}

/// Returns what is named like a log or journal of SQLite, and the rest.
fn split_sidecars(extras: Vec<FoundExtra>) -> (Vec<FoundExtra>, Vec<FoundExtra>) {
    extras.into_iter().partition(|extra| base_of(extra.recorded()).is_some())
}

fn base_of(path: &str) -> Option<&str> {
    SIDECARS
        .iter()
        .find_map(|sidecar| path.strip_suffix(sidecar))
        .filter(|base| !base.is_empty() && !base.ends_with('/'))
}

/// Files on their way into the snapshot.
struct Taking<'a> {
    pipeline: &'a Pipeline,
    sink: &'a mut BlobSink,
    beliefs: Option<&'a Arc<Beliefs>>,
    entries: Vec<ExtrasEntry>,
    /// Of those that can be known by their times.
    prints: Vec<Print>,
    left_out: Vec<LeftFile>,
    /// Databases that wait for their turn.
    queue: Vec<FoundExtra>,
    databases: Vec<CapturedDatabase>,
    problems: Vec<String>,
    warnings: Vec<String>,
    /// How many databases were kept by their application for itself.
    busy: usize,
}

impl Taking<'_> {
    /// Takes files; those that changed while they were read once more after the others.
    async fn files(&mut self, files: Vec<FoundExtra>) -> Result<()> {
        let mut files = files;
        for attempt in 1..=ATTEMPTS_MAX {
            files = self.round(files).await?;
            if files.is_empty() {
                return Ok(());
            }
            if attempt < ATTEMPTS_MAX {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        for file in files {
            let reason = format!(
                "it changed each of the {ATTEMPTS_MAX} times it was read: exclude it, or have `before` pause \
                 the application"
            );
            self.leave(&file, reason, true)?;
        }
        Ok(())
    }

    /// Takes files, and returns those that changed while they were read.
    async fn round(&mut self, files: Vec<FoundExtra>) -> Result<Vec<FoundExtra>> {
        let (pipeline, known, beliefs) = (self.pipeline, self.sink.known().clone(), self.beliefs);
        let mut changed = Vec::new();
        let mut read = stream::iter(files)
            .map(|extra| read_one(pipeline, known.clone(), beliefs.cloned(), extra))
            .buffered(pipeline.jobs() + 2);
        while let Some(one) = read.next().await {
            self.pipeline.context().cancel.check()?;
            let (extra, outcome, reservation) = one?;
            match outcome {
                Outcome::Read(mode, blob, print) => {
                    self.prints.extend(print);
                    self.store(&extra, mode, blob).await?;
                }
                Outcome::Changed => {
                    changed.push(extra);
                    continue;
                }
                Outcome::Database => {
                    self.queue.push(extra);
                    continue;
                }
                Outcome::Gone => self.leave(&extra, "it was removed meanwhile".to_owned(), false)?,
                Outcome::Unreadable(reason) => self.leave(&extra, reason, true)?,
            }
            drop(reservation);
            self.pipeline.context().progress.advance(Stage::Extras, 1);
        }
        Ok(changed)
    }

    async fn store(&mut self, extra: &FoundExtra, mode: u32, blob: EncodedBlob) -> Result<()> {
        let path = extra.recorded().to_owned();
        self.entries.push(ExtrasEntry { path, mode, size: blob.raw_bytes, blob: blob.id });
        self.sink.take(blob).await.map(drop)
    }

    /// Leaves a file out, unless it was asked for by its full name.
    fn leave(&mut self, extra: &FoundExtra, reason: String, asked: bool) -> Result<()> {
        if extra.is_required {
            let message = format!("{} cannot be part of the snapshot: {reason}", extra.path().display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        self.left_out.push(LeftFile { path: extra.recorded().to_owned(), reason, asked });
        Ok(())
    }

    /// Returns the files that only have a name like those which SQLite keeps beside a database.
    ///
    /// What belongs to a database that is taken is in its image. What belongs to one that is not taken is of
    /// no use without it, and would spoil another that is put in its place.
    async fn not_of_a_database(&mut self, sidecars: Vec<FoundExtra>) -> Result<Vec<FoundExtra>> {
        let databases: HashSet<&str> = self.queue.iter().map(FoundExtra::recorded).collect();
        let (known, unknown): (Vec<_>, Vec<_>) = sidecars
            .into_iter()
            .partition(|extra| databases.contains(base_of(extra.recorded()).unwrap_or("")));
        self.pipeline.context().progress.advance(Stage::Extras, known.len() as u64);
        let (others, orphans) = self.pipeline.run(move |_| databases::without_base(unknown)).await?;
        for orphan in orphans {
            let base = base_of(orphan.recorded()).unwrap_or_default();
            let reason = format!("it belongs to the database {base:?}, without which it is of no use");
            self.left_out.push(LeftFile { path: orphan.recorded().to_owned(), reason, asked: false });
            self.pipeline.context().progress.advance(Stage::Extras, 1);
        }
        Ok(others)
    }

    async fn database(&mut self, extra: FoundExtra, checks: bool) -> Result<()> {
        self.pipeline.context().cancel.check()?;
        let known = self.sink.known().clone();
        let cancel = self.pipeline.context().cancel.clone();
        let window = if self.busy < PATIENT_WITH { foreign::WINDOW_MAX } else { IMPATIENT_WINDOW };
        let (extra, image) = self
            .pipeline
            .run(move |worker| {
                let image = databases::capture(worker, &known, &extra, (checks, window), &cancel)?;
                Ok((extra, image))
            })
            .await?;
        self.busy += usize::from(matches!(image, Image::Busy(_)));
        match image {
            Image::Taken { mode, blob, read, problems, unchecked } => {
                let path = extra.recorded().to_owned();
                self.databases.push(CapturedDatabase { path, bytes: blob.raw_bytes, read });
                self.problems.extend(problems);
                self.warnings.extend(unchecked);
                self.store(&extra, mode, blob).await?;
            }
            Image::Gone => self.leave(&extra, "it was removed meanwhile".to_owned(), false)?,
            Image::Busy(why) | Image::Refused(why) => {
                let reason =
                    format!("as a SQLite database it is not copied while it may be written to: {why}");
                self.leave(&extra, reason, true)?;
            }
        }
        self.pipeline.context().progress.advance(Stage::Extras, 1);
        Ok(())
    }
}

/// A file, what came of it, and the memory that is kept for it.
type ReadFile = (FoundExtra, Outcome, Reservation);

async fn read_one(
    pipeline: &Pipeline,
    known: Arc<KnownBlobs>,
    beliefs: Option<Arc<Beliefs>>,
    extra: FoundExtra,
) -> Result<ReadFile> {
    // The budget is asked for in the order of the files, and those in front are stored first, so a file
    // that waits for room never waits for itself.
    let reservation = pipeline.reserve(2 * extra.file_bytes.min(MEMORY_BYTES_MAX)).await;
    let (extra, outcome) = pipeline
        .run(move |worker| {
            let outcome = read::read(worker, &known, beliefs.as_deref(), &extra)?;
            Ok((extra, outcome))
        })
        .await?;
    Ok((extra, outcome, reservation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_bounded_in_number_and_length_and_say_what_they_leave_out() {
        let left =
            |number: usize, asked| LeftFile { path: format!("{number}\n"), reason: "odd".into(), asked };
        let mut all: Vec<LeftFile> = (0..NAMED_MAX + 7).map(|number| left(number, true)).collect();
        all.push(left(999, false));
        all[0].reason = "ü".repeat(100_000);
        let said = sentences(&all, vec!["idle".into()]);
        assert_eq!(said.len(), NAMED_MAX + 2);
        assert_eq!(said[0], "idle");
        assert!(said[1].ends_with("üü...") && said[1].chars().count() == SENTENCE_CHARACTERS_MAX + 3);
        assert_eq!(said[2], "\"1\\n\" is not in the snapshot: odd");
        assert!(said[NAMED_MAX + 1].starts_with("7 more are not in the snapshot"));
    }

    #[test]
    fn what_is_named_like_a_file_of_sqlite_is_known_by_its_base() {
        for (path, base) in [
            ("a/b.db-wal", Some("a/b.db")),
            ("b-journal", Some("b")),
            ("a/-wal", None),
            ("-shm", None),
            ("x", None),
        ] {
            assert_eq!(base_of(path), base, "{path}");
        }
    }
}
