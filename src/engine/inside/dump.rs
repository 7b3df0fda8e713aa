//! dump: the content of one file of a snapshot, or its database from the first page to the last.
//!
//! A file is named by its path; an attachment also by its hash, and by the name that its application knows. Only for the
//! last the database is asked, and only where nothing else is of that name.

use std::path::Path;
use std::sync::Arc;

use super::ls::plain;
use super::output::Output;
use super::report::Entry;
use super::tree::{Content, path_of_attachment};
use super::{Inside, Reach, Snapshot, Wanted, content, look};
use crate::archive::profile::CONTENT_NAME;
use crate::engine::{Context, ReadLocking, Selection};
use crate::format::BlobId;
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// Attachments of one name that are told apart.
const NAMESAKES_MAX: usize = 20;

/// What `dump` is asked for.
#[derive(Debug, Clone, Default)]
pub struct DumpOptions {
    /// The path of the file; or the hash of an attachment, or its name.
    pub path: String,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// What was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dumped {
    /// The snapshot.
    pub snapshot: String,
    /// The file.
    pub entry: Entry,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Hands the content of a file out. Nothing of it is handed out before it was checked: a file whole, the database
/// page by page.
pub async fn dump(
    repository: &Repository,
    selection: Selection,
    options: &DumpOptions,
    output: &Arc<dyn Output>,
    context: &Context,
) -> Result<Dumped> {
    let work = async |inside: &Inside| {
        let snapshot = inside.snapshot(&selection).await?;
        let (entry, content) = find(&snapshot, &options.path, context).await?;
        match content {
            Content::Blob(id) => {
                let store = inside.reader.store();
                content::copy(&inside.pipeline, store, (id, entry.bytes), output).await?;
            }
            Content::Database => snapshot.pages().await?.copy(output).await?,
        }
        Ok(Dumped { snapshot: snapshot.id().to_owned(), entry, warnings: Vec::new() })
    };
    let reach = (Reach::Few, options.locking);
    let (mut dumped, warnings) = look(repository, "dump", reach, context, work).await?;
    dumped.warnings.extend(warnings);
    Ok(dumped)
}

/// Finds the file that is meant. Of attachments and other files only that list is read which may have it.
async fn find(snapshot: &Snapshot, asked: &str, context: &Context) -> Result<(Entry, Content)> {
    let path = plain(asked);
    let within = format!("{CONTENT_NAME}/");
    let of_hash = BlobId::parse(&path.to_ascii_lowercase()).ok().map(|id| path_of_attachment(&id));
    if let Some(found) = attachment(snapshot, of_hash.as_deref().unwrap_or(&path)).await? {
        return Ok(found);
    }
    let is_attachment = path == CONTENT_NAME || path.starts_with(&within);
    let wanted = Wanted { attachments: is_attachment, extras: !is_attachment, attributes: false };
    let tree = snapshot.tree(wanted, &mut Vec::new()).await?;
    if let Some(found) = tree.file(&path) {
        return Ok(found);
    }
    if tree.folder(&path).is_some() {
        let message = format!("snapshot {} has a folder, and no file, at {path:?}", snapshot.id());
        return Err(Error::new(ErrorKind::Usage, message));
    }
    if !is_attachment && snapshot.profile.names_attachments() {
        return of_name(snapshot, asked, context).await;
    }
    Err(Error::new(ErrorKind::NotFound, format!("snapshot {} has nothing at {path:?}", snapshot.id())))
}

/// Finds the attachment that the application knows by a name.
async fn of_name(snapshot: &Snapshot, name: &str, context: &Context) -> Result<(Entry, Content)> {
    let id = snapshot.id();
    let application = snapshot.profile.name();
    let known = known_as(snapshot, name, context).await.map_err(|error| {
        let message = format!(
            "snapshot {id} has nothing at {name:?}, and its database cannot be asked for an attachment of that name"
        );
        Error::caused(error.kind(), message, error)
    })?;
    if known.is_empty() {
        let message = format!(
            "snapshot {id} has nothing at {name:?}, and {application} knows no attachment of that name"
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let wanted = Wanted { attachments: true, extras: false, attributes: false };
    let tree = snapshot.tree(wanted, &mut Vec::new()).await?;
    let mut found: Vec<_> = known.iter().filter_map(|known| tree.file(&path_of_attachment(known))).collect();
    match found.len() {
        0 => {
            let message = format!(
                "{application} knows an attachment as {name:?}, and snapshot {id} does not hold its content"
            );
            Err(Error::new(ErrorKind::NotFound, message))
        }
        1 => Ok(found.remove(0)),
        _ => Err(several(snapshot, name, &found, known.len() > NAMESAKES_MAX)),
    }
}

/// Asks the database for the attachments of a name; for one more than are told apart.
async fn known_as(snapshot: &Snapshot, name: &str, context: &Context) -> Result<Vec<BlobId>> {
    let (profile, name) = (snapshot.profile.clone(), name.to_owned());
    let work = move |connection: &rusqlite::Connection| {
        let database = profile.database_name();
        profile.attachments_named(connection, Path::new(&database), &name, NAMESAKES_MAX + 1)
    };
    snapshot.ask(context, None, work).await
}

/// Names the attachments of one name by their hashes.
fn several(snapshot: &Snapshot, name: &str, found: &[(Entry, Content)], are_more: bool) -> Error {
    let shown = found.iter().take(NAMESAKES_MAX).map(|(entry, _)| {
        let hash = entry.hash.as_deref().unwrap_or_default();
        format!("{hash} ({} bytes)", entry.bytes)
    });
    let more = if are_more { " and more" } else { "" };
    let message = format!(
        "{name:?} is the name of several attachments of snapshot {}; name one of them by its hash: {}{more}",
        snapshot.id(),
        shown.collect::<Vec<_>>().join(", ")
    );
    Error::new(ErrorKind::Usage, message)
}

/// Returns the attachment at a path, if it is one of an attachment.
async fn attachment(snapshot: &Snapshot, path: &str) -> Result<Option<(Entry, Content)>> {
    if !path.starts_with(&format!("{CONTENT_NAME}/")) {
        return Ok(None);
    }
    let wanted = Wanted { attachments: true, extras: false, attributes: false };
    Ok(snapshot.tree(wanted, &mut Vec::new()).await?.file(path))
}
