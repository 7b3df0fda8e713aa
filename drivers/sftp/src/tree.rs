//! The walk of a listing: several folders side by side, each read to its end.
//!
//! `staging/` is left out, a missing folder is an empty list, and names that are no keys are skipped. A
//! link or a device among the objects is an error that names it: leaving it out could make a repository
//! that was tampered with look like a smaller, healthy one. The walk is a task that stops with its stream.

use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use packvault_storage::{ErrorKind, Key, ListedObject, Operation, Prefix, Result, Step};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::answers::OpenHandle;
use crate::channel::Channel;
use crate::client::{Client, Found, STAGING, classify, is_scratch, meta_of};
use crate::codec::{Entry, Request};
use crate::error::{Failure, ServerErrors};

/// How many folders are read at once.
const FOLDERS_AT_ONCE: usize = 8;

/// How many entries one folder may have. More is taken for a server that never comes to an end.
const FOLDER_ENTRIES_MAX: usize = 100_000;

/// How many folders may wait for their turn, and how many may be read in all.
const FOLDERS_WAITING_MAX: usize = 100_000;
const FOLDERS_MAX: usize = 1_000_000;

/// How many questions for more entries are under way where the server works in order.
const QUESTIONS_AT_ONCE: usize = 4;

/// How many folders' objects wait for whoever reads the stream.
const PAGES_MAX: usize = 4;

type Page = Result<Vec<ListedObject>>;

/// Lists what lies below the prefix.
pub(crate) fn list(client: Client, prefix: &Prefix) -> BoxStream<'static, Result<ListedObject>> {
    let shown = prefix.to_string();
    let folder = prefix.as_key().map_or(String::new(), |key| key.as_str().to_owned());
    let (pages, received) = mpsc::channel(PAGES_MAX);
    // Aborted when it is dropped.
    let mut task = JoinSet::new();
    task.spawn(async move {
        let step = Step::new(Operation::List, &shown);
        if let Err(error) = walk(&client, step, folder, &pages).await {
            let _ = pages.send(Err(error)).await;
        }
    });
    stream::unfold((received, task), |(mut received, task)| async move {
        let page: Page = received.recv().await?;
        let objects = match page {
            Ok(objects) => objects.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        Some((stream::iter(objects), (received, task)))
    })
    .flatten()
    .boxed()
}

async fn walk(client: &Client, step: Step<'_>, folder: String, pages: &mpsc::Sender<Page>) -> Result<()> {
    let channel = client.light(step).await?;
    let mut waiting = vec![folder];
    let mut reading = FuturesUnordered::new();
    let mut begun = 0;
    loop {
        while reading.len() < FOLDERS_AT_ONCE
            && let Some(folder) = waiting.pop()
        {
            begun += 1;
            reading.push(read_keys(client, &channel, step, folder));
        }
        let Some(read) = reading.next().await else { return Ok(()) };
        let (objects, folders) = read?;
        waiting.extend(folders);
        if waiting.len() > FOLDERS_WAITING_MAX || begun > FOLDERS_MAX {
            return Err(step.error(ErrorKind::Io, "the server's folders do not come to an end"));
        }
        // Fails when nobody reads the list any longer.
        if pages.send(Ok(objects)).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads one folder into its objects and its folders.
async fn read_keys(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    folder: String,
) -> Result<(Vec<ListedObject>, Vec<String>)> {
    let (mut objects, mut folders) = (Vec::new(), Vec::new());
    let is_hidden = folder == STAGING || folder.starts_with("staging/");
    if is_hidden || !client.find_folder(channel, step, &folder).await? {
        return Ok((objects, folders));
    }
    for entry in read_folder(client, channel, step, &folder).await? {
        let Some(key) = key_of(&folder, &entry.name) else { continue };
        let found = match entry.attrs.permissions {
            Some(_) => classify(entry.attrs),
            None => client.look(channel, step, key.as_str()).await?,
        };
        match found {
            Found::Object(attrs) => {
                client.remember_plain(&key);
                objects.push(ListedObject { meta: meta_of(step, attrs)?, key });
            }
            Found::Folder => folders.push(key.as_str().to_owned()),
            // Removed since the folder was read.
            Found::Nothing => {}
            Found::Other(what) => return Err(step.refused(key.as_str(), what)),
        }
    }
    Ok((objects, folders))
}

/// Returns every entry of the folder but itself and its parent; none of a folder that is gone.
pub(crate) async fn read_folder(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    folder: &str,
) -> Result<Vec<Entry>> {
    let path = client.path(folder);
    let opening = async { channel.begin(Request::OpenFolder { path: &path }).await?.handle().await };
    let read = match opening.await {
        Ok(handle) => read_entries(channel, &handle).await,
        Err(failure) => Err(failure),
    };
    // Some servers notice only when it is read that a folder is gone.
    if matches!(&read, Err(failure) if failure.is_no_such_file()) {
        return Ok(Vec::new());
    }
    let entries = read.map_err(|failure| step.failed(format!("read the folder {path}"), failure))?;
    match entries {
        Some(entries) => Ok(entries),
        None => Err(step.error(
            ErrorKind::Io,
            format!("the folder {path} has more than {FOLDER_ENTRIES_MAX} entries, or no end"),
        )),
    }
}

async fn read_entries(
    channel: &Channel,
    handle: &OpenHandle,
) -> std::result::Result<Option<Vec<Entry>>, Failure> {
    let at_once = if channel.greeting().is_in_order() { QUESTIONS_AT_ONCE } else { 1 };
    let mut asked = std::collections::VecDeque::with_capacity(at_once);
    let mut entries = Vec::new();
    let mut answers = 0;
    loop {
        while asked.len() < at_once {
            asked.push_back(channel.begin(Request::ReadFolder { handle: handle.raw() }).await?);
        }
        let Some(waiting) = asked.pop_front() else { return Ok(Some(entries)) };
        let Some(names) = waiting.entries().await? else { return Ok(Some(entries)) };
        answers += 1;
        entries.extend(names.into_iter().filter(|entry| !matches!(&*entry.name, b"." | b"..")));
        if entries.len() > FOLDER_ENTRIES_MAX || answers > FOLDER_ENTRIES_MAX {
            return Ok(None);
        }
    }
}

fn key_of(folder: &str, name: &[u8]) -> Option<Key> {
    let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('/'))?;
    let text = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let key = Key::parse(text).ok()?;
    (!is_scratch(&key)).then_some(key)
}
