//! Standard output for results that are written as they come.

use std::io::{self, Write as _};

use packvault::{Error, ErrorKind, Result};

/// What is written at once.
const WRITE_BYTES: usize = 64 * 1024;

/// Text on its way to standard output.
#[derive(Debug, Default)]
pub struct Stream {
    text: String,
    is_over: bool,
}

impl Stream {
    /// Writes a text, sooner or later.
    pub fn put(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        if self.text.len() < WRITE_BYTES { Ok(()) } else { self.flush() }
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        if self.is_over || text.is_empty() {
            return Ok(());
        }
        let mut output = io::stdout().lock();
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_over = true;
                Ok(())
            }
            Err(error) => Err(Error::caused(ErrorKind::Io, "cannot write to standard output", error)),
        }
    }

    /// Tells whether whoever reads it has seen enough, and ended.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns what waits.
    #[cfg(test)]
    pub fn waiting(&self) -> &str {
        &self.text
    }
}
