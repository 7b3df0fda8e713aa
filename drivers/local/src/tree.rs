//! The walk of a listing: page by page, one open folder at a time.
//!
//! `staging/` is left out, a missing folder is an empty list, and names that are no keys are skipped. A
//! link or a device among the objects is an error that names it: leaving it out could make a repository
//! that was tampered with look like a smaller, healthy one.

use std::ffi::CStr;
use std::fs::File;
use std::sync::Arc;

use packvault_storage::{Key, ListedObject, Operation, Prefix, Result, Step};
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::change::meta_of;
use crate::client::Client;
use crate::denied::{self, Wish};
use crate::error::SystemErrors;
use crate::staging;
use crate::sweep::is_self_or_parent;

/// How many objects one step of the walk returns at most.
const PAGE_OBJECTS: usize = 1024;

/// A listing under way.
pub(crate) struct Walk {
    client: Arc<Client>,
    subject: String,
    reading: Option<Reading>,
    folders_left: Vec<String>,
}

struct Reading {
    path: String,
    folder: File,
    entries: Dir,
}

impl Walk {
    /// Begins a walk of everything below the prefix.
    pub(crate) fn new(client: Arc<Client>, prefix: &Prefix) -> Self {
        let folder = prefix.as_key().map_or(String::new(), |key| key.as_str().to_owned());
        Self { client, subject: prefix.to_string(), reading: None, folders_left: vec![folder] }
    }

    /// Returns the next objects; an empty page is the end.
    pub(crate) fn next_page(&mut self) -> Result<Vec<ListedObject>> {
        let mut page = Vec::new();
        while page.len() < PAGE_OBJECTS {
            if self.reading.is_none() && !self.open_next()? {
                break;
            }
            self.read_entry(&mut page)?;
        }
        Ok(page)
    }

    /// Opens the next folder that is still there; false when none is left.
    fn open_next(&mut self) -> Result<bool> {
        while let Some(path) = self.folders_left.pop() {
            if path == staging::FOLDER || path.starts_with("staging/") {
                continue;
            }
            let step = Step::new(Operation::List, &self.subject);
            let explain = || denied::explain(&self.client, &path, Wish::Read);
            let opened = self.client.open_folder(step, &path).map_err(|error| error.denied_by(explain))?;
            if let Some(folder) = opened {
                let entries = Dir::read_from(&folder)
                    .map_err(|errno| step.failed(format!("read the folder {path}"), errno))
                    .map_err(|error| error.denied_by(explain))?;
                self.reading = Some(Reading { path, folder, entries });
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_entry(&mut self, page: &mut Vec<ListedObject>) -> Result<()> {
        let step = Step::new(Operation::List, &self.subject);
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let entry = match reading.entries.next() {
            None => {
                self.reading = None;
                return Ok(());
            }
            Some(Ok(entry)) => entry,
            Some(Err(errno)) => {
                return Err(step.failed(format!("read the folder {}", reading.path), errno));
            }
        };
        let Some(key) = key_of(&reading.path, entry.file_name()) else { return Ok(()) };
        let stat = match rustix::fs::statat(&reading.folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since the folder was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => {
                let explain = || denied::explain(&self.client, key.as_str(), Wish::Read);
                return Err(step.failed(format!("look at {key}"), errno).denied_by(explain));
            }
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => page.push(ListedObject { meta: meta_of(&stat), key }),
            FileType::Directory => self.folders_left.push(key.as_str().to_owned()),
            other => return Err(step.refused(key.as_str(), crate::client::describe(other))),
        }
        Ok(())
    }
}

fn key_of(folder: &str, name: &CStr) -> Option<Key> {
    if is_self_or_parent(name) {
        return None;
    }
    let name = name.to_str().ok()?;
    let text = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let key = Key::parse(text).ok()?;
    (!staging::is_scratch(&key)).then_some(key)
}
