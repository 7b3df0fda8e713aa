//! Synthetic msgvault archives: [`make()`] makes one, [`mutate()`] lets a day go by.
//!
//! For the demonstration, the tests and the benchmark: everything is invented, and equal options give equal
//! archives (on one platform; floating-point functions may differ between two). What is made: `msgvault.db`
//! with msgvault's tables and prose that compresses like mail, `attachments/` with contents of which half the
//! bytes do not compress, settings and tokens a snapshot may carry, and derived files it must leave out.
//!
//! Nothing of packvault is used to make them, so that no error of its own codecs hides in its tests.
//!
//! Speed is part of the purpose: a gigabyte takes some seconds, because nothing is made durable. A crash
//! while making or changing leaves rubbish; remove it and start again.

mod attachments;
mod content;
mod documents;
mod fail;
mod files;
mod hash;
mod loose;
mod make;
mod message;
mod messages;
mod mutate;
mod options;
mod pack_file;
mod packs;
mod people;
mod random;
mod schema;
mod store;
mod summary;
mod words;

pub use content::ContentKind;
pub use fail::{Error, Result};
pub use make::make;
pub use mutate::mutate;
pub use options::{AttachmentStorage, Change, Journal, SampleOptions, Summary};

#[cfg(test)]
mod tests;
