//! Streamed objects under retries without a spool: the stream cannot be played again, but its seal can be
//! settled.
//!
//! While the pieces pass by, their length and digest are kept. After an uncertain seal the store is asked
//! what lies under the key, several times if need be, for the answer may have been lost before the step
//! was through. A seal that certainly did not happen, a throttled one for instance, fails as it is: the
//! caller still has the source and may stream it again.

use async_trait::async_trait;
use bytes::Bytes;

use super::look::Fingerprinter;
use super::watch::Effect;
use super::{RetryStorage, is_uncertain};
use crate::{Error, Key, Operation, Result, Staged};

/// An upload whose seal is settled after an uncertain answer.
#[derive(Debug)]
pub(super) struct RetryStaged {
    inner: Box<dyn Staged>,
    storage: RetryStorage,
    key: Key,
    written: Fingerprinter,
}

impl RetryStaged {
    pub(super) fn new(inner: Box<dyn Staged>, storage: RetryStorage, key: Key) -> Self {
        Self { inner, storage, key, written: Fingerprinter::default() }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Staged for RetryStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.written.update(&bytes);
        let what = (Operation::Write, self.key.as_str());
        self.storage.once(Effect::Writes, what, self.inner.write(bytes)).await
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        let Self { inner, storage, key, written } = *self;
        let what = (Operation::Seal, key.as_str());
        let mut error = match storage.once(Effect::Writes, what, inner.seal()).await {
            Err(error) if is_uncertain(&error) => error,
            result => return result,
        };
        let ours = written.finish();
        let mut attempts = storage.attempts();
        loop {
            if let Some(settled) = storage.settle(Operation::Seal, &key, &ours).await {
                return settled;
            }
            let kind = error.kind();
            attempts.pause(error, what).await?;
            error = Error::new(kind, Operation::Seal, &key, "whether it was published is not known");
        }
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        let Self { inner, storage, key, .. } = *self;
        storage.once(Effect::Writes, (Operation::Discard, key.as_str()), inner.discard()).await
    }
}
