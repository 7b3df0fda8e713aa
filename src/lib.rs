//! packvault backs up an application's archive - a SQLite database, a content-addressed attachment folder
//! and a few extra files - into a repository of sealed, content-addressed packs, and proves what it restores.
//!

pub mod error;
pub mod format;
pub mod progress;
pub mod sample;

pub use error::{Error, ErrorKind, Result};
