//! packvault backs up an application's archive - a SQLite database, a content-addressed attachment folder
//! and a few extra files - into a repository of sealed, content-addressed packs, and proves what it restores.
//!
//! The map, from the top down; imports point one way only, and a test checks it:
//!
//! - [`engine`]: the operations, one module each. The only floor that knows both sides below.
//! - [`repo`]: a repository, one module per folder of it, on any [`packvault_storage::Storage`].
//! - [`archive`]: the live data, and the target of a restore; [`profiles`] fill in what is special about
//!   one application.
//! - [`mod@format`]: pure codecs of everything that a repository holds.
//! - [`ledger`]: what was done on this machine, and when; history, on which nothing depends.
//! - [`location`]: a path or URL to a storage; the only module that names drivers.

pub mod archive;
pub mod cancel;
pub mod clock;
pub mod engine;
pub mod error;
pub mod format;
pub mod ledger;
pub mod location;
pub mod plain_file;
pub mod process;
pub mod profiles;
pub mod progress;
pub mod repo;

pub use cancel::Cancel;
pub use error::{Error, ErrorKind, Obstacle, Result};
pub use location::Location;
