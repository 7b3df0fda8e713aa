//! A streamed object: pieces are gathered and handed to the system about a mebibyte at a time.
//!
//! Memory is bounded by one batch. The pieces go to the blocking threads as they are, without being
//! copied together. A call that failed or was abandoned half-way may have written part of its batch, so
//! the object can only be discarded after it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use packvault_storage::{ErrorKind, Key, Operation, Result, Staged, Step};

use crate::blocking;
use crate::client::Client;
use crate::publish::{Published, publish_new, swept};
use crate::staging::StagingFile;

/// What is gathered before the system is asked to write.
const BATCH_BYTES: usize = 1 << 20;

/// The pieces of one batch: as many as one vectored write takes.
const BATCH_PIECES: usize = 1024;

/// An unfinished object in `staging/`; dropped, it takes its file along.
#[derive(Debug)]
pub(crate) struct LocalStaged {
    client: Arc<Client>,
    key: Key,
    /// Absent while a batch is being written, and for good after a failed or abandoned one.
    staging: Option<StagingFile>,
    pieces: Vec<Bytes>,
    gathered_bytes: usize,
}

impl LocalStaged {
    pub(crate) fn new(client: Arc<Client>, key: Key, staging: StagingFile) -> Self {
        Self { client, key, staging: Some(staging), pieces: Vec::new(), gathered_bytes: 0 }
    }

    async fn write_batch(&mut self) -> Result<()> {
        let mut staging = self.take_staging(Operation::Write)?;
        let pieces = std::mem::take(&mut self.pieces);
        self.gathered_bytes = 0;
        let key = self.key.clone();
        let staging = blocking(Operation::Write, self.key.as_str(), move || {
            staging.write(Step::new(Operation::Write, key.as_str()), &pieces)?;
            Ok(staging)
        });
        let staging = staging.await.map_err(|error| error.full_in(self.client.location()))?;
        self.staging = Some(staging);
        Ok(())
    }

    fn take_staging(&mut self, operation: Operation) -> Result<StagingFile> {
        self.staging.take().ok_or_else(|| {
            let step = Step::new(operation, self.key.as_str());
            step.error(ErrorKind::Io, "an earlier write of it failed or was abandoned")
        })
    }
}

#[async_trait]
impl Staged for LocalStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.staging.is_none() {
            self.take_staging(Operation::Write)?;
        }
        self.gathered_bytes += bytes.len();
        self.pieces.push(bytes);
        if self.gathered_bytes >= BATCH_BYTES || self.pieces.len() >= BATCH_PIECES {
            self.write_batch().await?;
        }
        Ok(())
    }

    async fn seal(mut self: Box<Self>) -> Result<()> {
        let mut staging = self.take_staging(Operation::Seal)?;
        let Self { client, key, pieces, .. } = *self;
        let (object, location) = (key.as_str().to_owned(), client.location().to_owned());
        let sealed = blocking(Operation::Seal, &object, move || {
            let step = Step::new(Operation::Seal, key.as_str());
            staging.write(step, &pieces)?;
            match publish_new(&client, step, &key, staging)? {
                Published::Done => Ok(()),
                Published::Swept => Err(swept(step)),
            }
        });
        sealed.await.map_err(|error| error.full_in(location))
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        let Some(staging) = self.staging.take() else { return Ok(()) };
        let object = self.key.as_str().to_owned();
        blocking(Operation::Discard, &self.key.to_string(), move || {
            staging.remove(Step::new(Operation::Discard, &object))
        })
        .await
    }
}
