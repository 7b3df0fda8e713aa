//! Where content goes that was checked: the command line's standard output, or a test's memory.

use std::sync::{Arc, Mutex};

use crate::engine::pipeline::Pipeline;
use crate::{Error, ErrorKind, Result};

/// Takes bytes in their order. Called by one worker at a time.
pub trait Output: Send + Sync {
    /// Takes the next bytes; all of them, or it is an error.
    fn write(&self, bytes: &[u8]) -> Result<()>;
}

/// Hands bytes out on a thread that may wait: whoever reads them may be slow, or gone. Once the user has stopped the
/// operation, it is not waited for.
pub(super) async fn hand_out(
    pipeline: &Pipeline,
    output: &Arc<dyn Output>,
    bytes: impl AsRef<[u8]> + Send + 'static,
) -> Result<()> {
    let outcome: Arc<Mutex<Option<Result<()>>>> = Arc::default();
    let (output, told) = (Arc::clone(output), Arc::clone(&outcome));
    let write = move || {
        let written = output.write(bytes.as_ref());
        *told.lock().expect("no holder of an outcome panics") = Some(written);
    };
    pipeline.run_while_wanted(write).await?;
    let written = outcome.lock().expect("no holder of an outcome panics").take();
    written.unwrap_or_else(|| Err(Error::new(ErrorKind::Io, "a writer ended early")))
}
