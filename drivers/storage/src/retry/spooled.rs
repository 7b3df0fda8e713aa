//! Streamed objects under retries with a spool: kept on local disk until the store has them, and sent from
//! the beginning again when an upload breaks.
//!
//! Nothing is asked of the store before the seal. A seal waits for its place among the uploads, so that any
//! number of them may be waiting. After an uncertain answer the store is asked what lies under the key
//! before anything is sent again.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::look::Fingerprinter;
use super::watch::Effect;
use super::{RetryStorage, is_uncertain};
use crate::spool::SpoolFile;
use crate::{ErrorKind, Key, Operation, Result, Spool, Staged, Storage};

/// Bytes that are read back from the spool at a time.
const PIECE_BYTES: u64 = 1024 * 1024;

/// An object that waits in the spool for its upload.
#[derive(Debug)]
pub(super) struct SpooledStaged {
    file: SpoolFile,
    spool: Arc<Spool>,
    storage: RetryStorage,
    key: Key,
    written: Fingerprinter,
}

impl SpooledStaged {
    pub(super) fn new(spool: Arc<Spool>, storage: RetryStorage, key: Key) -> Self {
        let file = SpoolFile::new(Arc::clone(&spool));
        Self { file, spool, storage, key, written: Fingerprinter::default() }
    }

    /// Sends the whole object once.
    async fn upload(&self) -> Result<()> {
        let mut staged = self.storage.inner.stage(&self.key).await?;
        let sent = self.send(staged.as_mut()).await;
        match sent {
            Ok(()) => staged.seal().await,
            Err(error) => {
                // What cannot be removed now is found by the next sweep.
                let _ = staged.discard().await;
                Err(error)
            }
        }
    }

    async fn send(&self, staged: &mut dyn Staged) -> Result<()> {
        let mut start = 0;
        while start < self.file.bytes() {
            let len = PIECE_BYTES.min(self.file.bytes() - start);
            staged.write(self.file.read(start, len as usize).await?).await?;
            start += len;
        }
        Ok(())
    }

    async fn upload_until_done(&self) -> Result<()> {
        let what = (Operation::Seal, self.key.as_str());
        let ours = self.written.clone().finish();
        let mut attempts = self.storage.attempts();
        let mut was_uncertain = false;
        loop {
            // Cut off, it leaves nothing visible or the whole object, so a stop need not wait for it.
            let upload = attempts.numbered(self.upload());
            let Err(error) = self.storage.once(Effect::Reads, what, upload).await else {
                return Ok(());
            };
            was_uncertain |= is_uncertain(&error);
            // A key found taken is only in doubt if an earlier attempt may have taken it.
            let is_in_doubt = is_uncertain(&error) || error.kind() == ErrorKind::AlreadyExists;
            if was_uncertain
                && is_in_doubt
                && let Some(settled) = self.storage.settle(Operation::Seal, &self.key, &ours).await
            {
                return settled;
            }
            attempts.pause(error, what).await?;
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Staged for SpooledStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.written.update(&bytes);
        self.file.append(&bytes).await
    }

    async fn seal(mut self: Box<Self>) -> Result<()> {
        self.file.leave();
        let _place = self.spool.upload().await;
        match self.file.in_memory() {
            Some(bytes) => self.storage.create(&self.key, bytes).await,
            None => self.upload_until_done().await,
        }
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
