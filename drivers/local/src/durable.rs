//! The two steps that outlive a power cut: the bytes of a file, and the entries of a folder.

use std::fs::File;

use packvault_storage::{ErrorKind, Result, Step};
use rustix::io::Errno;

use crate::error::{SystemErrors, is_unsupported};

#[cfg(test)]
mod tests;

/// Makes the file's bytes durable.
pub(crate) fn sync_file(step: Step<'_>, file: &File) -> Result<()> {
    file.sync_all().map_err(|error| step.failed_io("sync its staging file", error))?;
    #[cfg(test)]
    tests::note(file);
    Ok(())
}

/// Makes the folder's entries durable. A file system that has no such step is refused, not trusted.
pub(crate) fn sync_folder(step: Step<'_>, folder: &File) -> Result<()> {
    folder.sync_all().map_err(|error| match Errno::from_io_error(&error) {
        Some(errno) if is_unsupported(errno) => step
            .error(ErrorKind::Unsupported, "its file system cannot make folders durable")
            .with_source(error),
        _ => step.failed_io("sync its folder", error),
    })?;
    #[cfg(test)]
    tests::note(folder);
    Ok(())
}
