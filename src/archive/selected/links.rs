//! Links in the walk: none is followed. What a link points to decides what is said of it.
//!
//! If the target of a link is taken under its own name, or if there is no target, nothing is lost. A link that leads
//! elsewhere - a media folder on a larger disk - leaves everything behind it out of the snapshot.

use std::path::Path;

use super::{Seen, SelectedWalk};
use crate::Result;

/// What lies behind a link.
enum Behind {
    /// A file or folder that is taken where it lies, or is the database.
    Taken,
    /// A folder that is not taken.
    Folder,
    /// A file that is not taken.
    File,
    /// Nothing, and nothing could be: a place of the home, or a text that is no place.
    Nothing,
    /// Nothing today, but perhaps a disk that is not mounted.
    Absent,
    /// A socket, a fifo or a device.
    Special,
    /// It cannot be known.
    Unknown,
}

impl SelectedWalk<'_> {
    pub(super) fn link(&mut self, relative: String) -> Result<()> {
        let takes = self.rule.takes(&relative, &mut self.seen.clone());
        let asks = takes || self.rule.asks_below(&relative);
        if !asks && !self.rule.enters(&relative, &mut self.seen.clone()) {
            return Ok(());
        }
        let path = self.root.path.join(&relative);
        let behind = self.behind(&path);
        if !asks && !matches!(behind, Behind::Folder) {
            // A pattern for other names: only a folder could hold some.
            return Ok(());
        }
        let target = std::fs::read_link(&path).unwrap_or_default();
        let target = target.display();
        let (reason, asked) = match behind {
            Behind::Taken => {
                (format!("it is a symbolic link to {target}, which is taken where it lies"), false)
            }
            Behind::Nothing => (format!("it is a symbolic link to {target}, where nothing is"), false),
            Behind::Special => (format!("it is a symbolic link to {target}, which is no file"), false),
            Behind::Folder => (
                format!(
                    "it is a symbolic link to the folder {target}, and links are not followed; mount that \
                     folder here instead (mount --bind), or make an archive of it"
                ),
                true,
            ),
            Behind::File => {
                (format!("it is a symbolic link to the file {target}; links are not followed"), true)
            }
            Behind::Absent => (format!("it is a symbolic link to {target}, which is not there"), true),
            Behind::Unknown => {
                (format!("it is a symbolic link to {target}, which cannot be looked at"), true)
            }
        };
        if !asked {
            self.rule.takes(&relative, &mut self.seen);
        }
        match behind {
            // A pattern that names a folder means what is in it. If it is a link, the other files are taken all the same.
            Behind::Folder => {
                self.leave(relative, &reason, asked);
                Ok(())
            }
            _ => self.refuse(relative, &reason, asked),
        }
    }

    fn behind(&self, path: &Path) -> Behind {
        let target = match std::fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.absent(path),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Behind::Nothing;
            }
            Err(_) => return Behind::Unknown,
        };
        let Ok(metadata) = std::fs::metadata(&target) else { return Behind::Unknown };
        if target == self.database {
            return Behind::Taken;
        }
        let below = target.strip_prefix(&self.home).ok().map(|below| below.to_str().map(str::to_owned));
        let is_taken = match below {
            Some(Some(below)) if metadata.is_dir() => {
                below.is_empty() || self.rule.enters(&below, &mut self.scratch())
            }
            Some(Some(below)) => self.rule.takes(&below, &mut self.scratch()),
            _ => false,
        };
        match metadata {
            _ if is_taken => Behind::Taken,
            metadata if metadata.is_dir() => Behind::Folder,
            metadata if metadata.is_file() => Behind::File,
            _ => Behind::Special,
        }
    }

    /// A link to a place that is not there: outside of the home that may be a disk.
    fn absent(&self, path: &Path) -> Behind {
        let target = std::fs::read_link(path).unwrap_or_default();
        let leads_out = target.is_absolute() && !target.starts_with(&self.home);
        if leads_out { Behind::Absent } else { Behind::Nothing }
    }

    fn scratch(&self) -> Seen {
        self.seen.clone()
    }
}
