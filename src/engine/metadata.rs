//! Reading metadata blobs whole: page maps, page hashes, lists, trees, artifacts.

use std::sync::Arc;

use super::chain::KnownMaps;
use super::pipeline::Pipeline;
use super::read_ahead::ReadAhead;
use crate::error::lift::format_error;
use crate::format::{BlobId, ExtrasEntry, FormatError, ListedAttachment, attachment_list, extras_tree};
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::{Error, ErrorKind};

/// The largest list, tree or artifact that is read: a list of 6 million attachments.
const OBJECT_BYTES_MAX: u64 = 256 << 20;
/// The largest page map that is read: the page hashes of 64 million pages.
const MAP_BYTES_MAX: u64 = 1 << 30;
/// What a page map may have however few pages there are: its table keeps blobs that are out of use.
const MAP_BYTES_FREE: u64 = 64 << 20;
/// What a page map may have for each page: a run, a blob, and some more.
const MAP_BYTES_PER_PAGE: u64 = 64;

/// The result of reading a metadata blob.
pub type BlobResult<T> = std::result::Result<T, BlobFailure>;

/// Reads and decodes blobs that are needed whole.
#[derive(Clone)]
pub struct MetadataReader {
    store: Arc<BlobStore>,
    pipeline: Pipeline,
    ahead: Arc<ReadAhead>,
    known_maps: Arc<KnownMaps>,
}

impl MetadataReader {
    /// Makes a reader over a blob store.
    pub fn new(store: Arc<BlobStore>, pipeline: Pipeline) -> Self {
        let ahead = Arc::new(ReadAhead::new(store.clone(), pipeline.clone()));
        Self { store, pipeline, ahead, known_maps: Arc::default() }
    }

    /// Returns what is known of the objects of chains that were read.
    pub fn known_maps(&self) -> &KnownMaps {
        &self.known_maps
    }

    /// Returns the store below.
    pub fn store(&self) -> &Arc<BlobStore> {
        &self.store
    }

    /// Says what will be read from now on, and in which order, so that it is fetched ahead. A blob that is
    /// passed over costs nothing but its bytes.
    pub fn expect(&self, ids: impl IntoIterator<Item = BlobId>) {
        self.ahead.expect(ids);
    }

    /// Reads a blob and proves it against its id.
    pub async fn read(&self, id: &BlobId) -> BlobResult<Vec<u8>> {
        self.read_bounded(id, OBJECT_BYTES_MAX).await
    }

    async fn read_bounded(&self, id: &BlobId, bytes_max: u64) -> BlobResult<Vec<u8>> {
        let ahead = self.ahead.take(id);
        let located = match ahead {
            Some(fetched) => fetched.await.map_err(|error| self.lost(id, error))?,
            None => self.store.locate(id).await.map(|(pack, entry)| (pack, entry, None)),
        };
        let (pack, entry, fetched) = located?;
        let fail = |error| BlobFailure { blob: *id, pack: Some(pack), error };
        if entry.raw_bytes.max(entry.stored_bytes) > bytes_max {
            let message = format!("it has {} bytes, too many for metadata", entry.raw_bytes);
            return Err(fail(Error::new(ErrorKind::Damaged, message)));
        }
        let opened_bytes = if self.store.sealing().is_encrypted() { entry.stored_bytes } else { 0 };
        let bytes = entry.stored_bytes + opened_bytes + entry.raw_bytes;
        let _until_decoded = self.pipeline.reserve(bytes).await;
        let stored = match fetched {
            Some(stored) => stored,
            None => self.store.fetch(&pack, &entry).await.map_err(fail)?,
        };
        let sealing = self.store.sealing().clone();
        let decoded = self.pipeline.run(move |worker| {
            let mut raw = Vec::new();
            worker
                .decode_into(&sealing, &entry, &stored, &mut raw)
                .map_err(|error| format_error("cannot decode it", error))?;
            Ok(raw)
        });
        let decoded = decoded.await;
        match &decoded {
            Ok(_) => self.store.reads().sound(pack, entry.stored_range()),
            Err(error) if !error.is_no_finding() => self.store.reads().damaged(pack, entry.stored_range()),
            Err(_) => {}
        }
        decoded.map_err(fail)
    }

    /// Reads a page map or page-hash map of a snapshot with so many pages. A small frame can hold a great
    /// many zeros, so the pages decide how much is decoded.
    pub async fn map<T>(
        &self,
        id: &BlobId,
        page_count: u64,
        what: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    ) -> BlobResult<T> {
        let for_pages = page_count.saturating_mul(MAP_BYTES_PER_PAGE);
        let bytes_max = for_pages.saturating_add(MAP_BYTES_FREE).min(MAP_BYTES_MAX);
        self.decode(id, bytes_max, what, decode).await
    }

    async fn decode<T>(
        &self,
        id: &BlobId,
        bytes_max: u64,
        what: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    ) -> BlobResult<T> {
        let raw = self.read_bounded(id, bytes_max).await?;
        decode(&raw).map_err(|error| BlobFailure {
            blob: *id,
            pack: self.store.pack_of(id),
            error: format_error(format!("it is no usable {what}"), error),
        })
    }

    fn lost(&self, id: &BlobId, error: Error) -> BlobFailure {
        BlobFailure { blob: *id, pack: self.store.pack_of(id), error }
    }

    /// Reads one attachment list.
    pub async fn attachment_list(&self, id: &BlobId) -> BlobResult<Vec<ListedAttachment>> {
        self.decode(id, OBJECT_BYTES_MAX, "attachment list", attachment_list::decode).await
    }

    /// Reads the extras tree.
    pub async fn extras_tree(&self, id: &BlobId) -> BlobResult<Vec<ExtrasEntry>> {
        self.decode(id, OBJECT_BYTES_MAX, "extras tree", extras_tree::decode).await
    }
}
