//! Attachments of a live archive, whose hashes are their names: what a repository has lost of them may lie there.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use crate::archive::content::Content;
use crate::engine::create::sink::Payload;
use crate::engine::create::spool;
use crate::engine::pipeline::Pipeline;
use crate::format::BlobId;
use crate::repo::Repository;
use crate::repo::packs::PackWriter;
use crate::{Error, ErrorKind, Result};

/// Bytes that are moved from the spool at a time.
const PIECE_BYTES: usize = 1024 * 1024;

/// Stores the blob if the folder holds a file of that name with that content; tells whether it does.
pub(super) async fn store(
    pipeline: &Pipeline,
    folder: &Path,
    id: BlobId,
    repository: &Repository,
    writer: &mut PackWriter,
) -> Result<bool> {
    let name = id.to_string();
    let path = folder.join(&name[..2]).join(&name);
    let sealing = repository.sealing().clone();
    let encoded = pipeline.run(move |worker| {
        let open = || content_of(&path);
        let Ok(mut content) = open() else { return Ok(None) };
        // A file that is not what it is called, or cannot be read, is of no use.
        if spool::hash(&mut content).ok() != Some(id) {
            return Ok(None);
        }
        match spool::encode(worker, (&sealing, id), open()?, open, |_, _| Ok(())) {
            // It changed after it was hashed.
            Err(error) if error.kind() == ErrorKind::Source => Ok(None),
            encoded => encoded.map(Some),
        }
    });
    let Some(encoded) = encoded.await? else { return Ok(false) };
    let Payload::Spooled { file, stored_bytes, flags, crc32c } = encoded.payload else { return Ok(false) };
    let mut left = stored_bytes;
    let mut file = file;
    while left > 0 {
        let wanted = left.min(PIECE_BYTES as u64) as usize;
        let (back, piece) = pipeline.run(move |_| read(file, wanted)).await?;
        file = back;
        left -= piece.len() as u64;
        writer.append_piece(piece).await?;
    }
    writer.end_blob(id, stored_bytes, encoded.raw_bytes, flags, crc32c).await?;
    Ok(true)
}

fn read(mut file: File, bytes: usize) -> Result<(File, Bytes)> {
    use std::io::Read as _;
    let mut piece = vec![0; bytes];
    file.read_exact(&mut piece)
        .map_err(|error| Error::caused(ErrorKind::Io, "cannot read an attachment in the spool", error))?;
    Ok((file, Bytes::from(piece)))
}

fn content_of(path: &Path) -> Result<Content> {
    let failed = |error: std::io::Error| {
        Error::caused(ErrorKind::Source, format!("cannot read {}", path.display()), error)
    };
    let flags = rustix::fs::OFlags::RDONLY
        | rustix::fs::OFlags::NOFOLLOW
        | rustix::fs::OFlags::NONBLOCK
        | rustix::fs::OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let opened = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
    if !rustix::fs::FileType::from_raw_mode(opened.st_mode).is_file() {
        return Err(Error::new(ErrorKind::Source, format!("{} is no file", path.display())));
    }
    Ok(Content::from_file(File::from(file), opened, path.to_owned()))
}
