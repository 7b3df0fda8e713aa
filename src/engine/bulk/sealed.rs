//! A sealed blob too large for memory, in two passes: the first takes its stored bytes into a file without a name and
//! checks them there, the second opens and decodes what lies in that file.
//!
//! The tag that tells whether the bytes are what was sealed comes last, so nothing of them may be used before all of
//! them came. They are not fetched twice: what a store sends the second time may be something else.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::BlobVisitor;
use super::pieces::{Decoding, PIECE_BYTES, PieceFailure, Pieces, damaged, take_piece};
use crate::archive::unnamed::unnamed_file;
use crate::engine::pipeline::Pipeline;
use crate::format::StreamDecoder;
use crate::format::pack::Entry;
use crate::format::pack::encrypted::FrameCheck;
use crate::format::sealed::StreamOpener;
use crate::{Error, ErrorKind};

/// A frame whose stored bytes are being checked, and where they lie then.
struct Checking {
    check: FrameCheck,
    file: File,
}

/// A frame that was found to be what was sealed, being opened.
struct Opening {
    opener: StreamOpener,
    file: File,
    left_bytes: u64,
    decoding: Decoding,
}

/// Returns the blob's decoder at its end, and its sink, which has had all of it.
pub(super) async fn decode<V: BlobVisitor>(
    pipeline: &Pipeline,
    mut pieces: Pieces<'_>,
    check: FrameCheck,
    entry: &Entry,
    visitor: &Arc<V>,
) -> std::result::Result<Decoding, PieceFailure> {
    let (opener, decoder, file) = authenticate(pipeline, &mut pieces, check).await?;
    let decoding = Decoding { decoder, sink: visitor.pieces(entry).map_err(PieceFailure::Sink)? };
    let mut opening = Opening { opener, file, left_bytes: entry.stored_bytes, decoding };
    while opening.left_bytes > 0 {
        let mut moved = opening;
        let opened = pipeline.run(move |worker| Ok(moved.take(&worker.spool).map(|()| moved)));
        opening = opened.await.map_err(PieceFailure::Blob)??;
    }
    Ok(opening.decoding)
}

/// The first pass: returns what opens and decodes the frame, and the file in which it lies, once all of it was checked.
pub(super) async fn authenticate(
    pipeline: &Pipeline,
    pieces: &mut Pieces<'_>,
    check: FrameCheck,
) -> std::result::Result<(StreamOpener, StreamDecoder, File), PieceFailure> {
    let begun = pipeline.run(move |worker| {
        Ok(unnamed_file(&worker.spool).map(|file| Checking { check, file }).map_err(PieceFailure::Sink))
    });
    let mut checking = begun.await.map_err(PieceFailure::Blob)??;
    while let Some(piece) = pieces.next().await {
        let (piece, mut moved) = (piece.map_err(PieceFailure::Blob)?, checking);
        let taken = pipeline.run(move |worker| Ok(moved.take(&piece, &worker.spool).map(|()| moved)));
        checking = taken.await.map_err(PieceFailure::Blob)??;
    }
    let checked = pipeline.run(move |worker| Ok(checking.finish(&worker.spool)));
    checked.await.map_err(PieceFailure::Blob)?
}

impl Checking {
    fn take(&mut self, piece: &Bytes, spool: &Path) -> std::result::Result<(), PieceFailure> {
        self.check.feed(piece).map_err(damaged)?;
        self.file.write_all(piece).map_err(|error| spool_failure("write a large blob to", spool, error))
    }

    fn finish(
        mut self,
        spool: &Path,
    ) -> std::result::Result<(StreamOpener, StreamDecoder, File), PieceFailure> {
        let (opener, decoder) = self.check.finish().map_err(damaged)?;
        let rewound = self.file.seek(SeekFrom::Start(0));
        rewound.map_err(|error| spool_failure("read a large blob in", spool, error))?;
        Ok((opener, decoder, self.file))
    }
}

impl Opening {
    fn take(&mut self, spool: &Path) -> std::result::Result<(), PieceFailure> {
        let mut piece = vec![0; self.left_bytes.min(PIECE_BYTES) as usize];
        let read = self.file.read_exact(&mut piece);
        read.map_err(|error| spool_failure("read a large blob in", spool, error))?;
        self.left_bytes -= piece.len() as u64;
        take_piece(&mut self.decoding, self.opener.open(&mut piece))
    }
}

/// This machine has no place for the blob, which says nothing of the blob.
pub(super) fn spool_failure(what: &str, spool: &Path, error: std::io::Error) -> PieceFailure {
    let message = format!("cannot {what} the spool in {}; --spool names another folder", spool.display());
    PieceFailure::Sink(Error::caused(ErrorKind::Io, message, error))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use futures::FutureExt;
    use packvault_storage::MemoryStorage;

    use super::*;
    use crate::engine::bulk::{PieceSink, read};
    use crate::format::{BlobFlags, BlobId, IndexId, RepositoryKey, crc32c};
    use crate::repo::Repository;
    use crate::repo::blobs::{BlobFailure, BlobStore};
    use crate::repo::config::{NewKey, init_with};
    use crate::repo::packs::PackWriter;
    use crate::{Cancel, Result, engine::Context, progress::Silent};

    /// More than is decoded whole.
    const RAW_BYTES: usize = 9 * 1024 * 1024;

    /// Keeps what it is shown.
    #[derive(Default)]
    struct Witness {
        begun: Mutex<usize>,
        shown: Arc<Mutex<(Vec<u8>, bool)>>,
        failures: Mutex<Vec<Error>>,
    }

    struct Shown(Arc<Mutex<(Vec<u8>, bool)>>);

    impl PieceSink for Shown {
        fn accept(&mut self, piece: &[u8]) -> Result<()> {
            self.0.lock().unwrap().0.extend_from_slice(piece);
            Ok(())
        }

        fn finish(self: Box<Self>) -> Result<()> {
            self.0.lock().unwrap().1 = true;
            Ok(())
        }
    }

    impl BlobVisitor for Witness {
        fn takes_pieces(&self, _: &BlobId) -> bool {
            true
        }

        fn whole(&self, _: &Entry, _: &[u8]) -> Result<()> {
            panic!("it is too large for that")
        }

        fn pieces(&self, _: &Entry) -> Result<Box<dyn PieceSink>> {
            *self.begun.lock().unwrap() += 1;
            Ok(Box::new(Shown(self.shown.clone())))
        }

        fn failed(&self, failure: BlobFailure) -> Result<()> {
            self.failures.lock().unwrap().push(failure.error);
            Ok(())
        }

        fn done(&self, _: &Entry) {}
    }

    async fn repository() -> Repository {
        let (storage, key) = (MemoryStorage::new(), RepositoryKey::from_bytes([7; RepositoryKey::BYTES]));
        let new = NewKey { key: &key, keep: Box::new(|_| async { Ok(()) }.boxed()) };
        init_with(&storage, jiff::Timestamp::UNIX_EPOCH, "here", false, Some(new)).await.unwrap();
        Repository::open_with(Arc::new(storage), async |_| Ok(Some(key))).await.unwrap()
    }

    /// Stores a blob whose stored bytes have one bit flipped, with a CRC that does not show it, and reads it back.
    async fn read_back(raw: &[u8], flipped: Option<usize>) -> Arc<Witness> {
        let (repository, id) = (repository().await, BlobId::of(raw));
        let mut sealer = repository.sealing().frame_sealer(&id).unwrap();
        let mut stored = sealer.head().to_vec();
        stored.extend_from_slice(sealer.seal(raw));
        stored.extend(sealer.end());
        flipped.into_iter().for_each(|at| stored[at] ^= 1);
        let (bytes, crc) = (stored.len() as u64, crc32c(&stored));
        let mut writer = PackWriter::new(repository.clone());
        writer.append_piece(Bytes::from(stored)).await.unwrap();
        writer.end_blob(id, bytes, raw.len() as u64, BlobFlags::ENCRYPTED, crc).await.unwrap();
        let written = writer.finish().await.unwrap();
        let index = IndexId::from_ulid(repository.ulids().next());
        repository.publish_index(&index, written.entries).await.unwrap();
        let lengths: HashMap<_, _> = repository.pack_lengths().await.unwrap();
        let union = Arc::new(repository.load_indexes().await.unwrap().settled(&lengths));
        assert!(union.is_sound(&id), "the pack is as long as the index implies");
        let store = Arc::new(BlobStore::new(repository, union, lengths));
        let context = Context {
            cancel: Cancel::new(),
            progress: Arc::new(Silent),
            jobs: 2,
            hostname: String::new(),
            spool: std::env::temp_dir(),
        };
        let (pipeline, witness) = (Pipeline::new(&context, 0), Arc::new(Witness::default()));
        read(&pipeline, &store, [id], &witness).await.unwrap();
        witness
    }

    #[tokio::test]
    async fn nothing_of_a_large_frame_is_shown_before_all_of_it_was_checked() {
        let raw: Vec<u8> = (0..RAW_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        let whole = read_back(&raw, None).await;
        assert!(whole.failures.lock().unwrap().is_empty());
        assert!(*whole.shown.lock().unwrap() == (raw.clone(), true), "it is shown, and its end is told");
        for at in [0, 23, 24, RAW_BYTES / 2, RAW_BYTES + 23, RAW_BYTES + 24, RAW_BYTES + 39] {
            let altered = read_back(&raw, Some(at)).await;
            let failures = altered.failures.lock().unwrap();
            let [failure] = &failures[..] else { panic!("byte {at}: {failures:?}") };
            assert_eq!(failure.kind(), ErrorKind::Damaged, "byte {at}");
            assert!(
                failure.chain().contains("does not open with the repository's key"),
                "{}",
                failure.chain()
            );
            assert_eq!(*altered.begun.lock().unwrap(), 0, "byte {at}: nobody is to see any of it");
        }
    }
}
