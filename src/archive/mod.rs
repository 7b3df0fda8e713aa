//! The live data of an application, and the target of a restore.
//!
//! Everything here works on the local file system through held handles, never follows a link it was not
//! given by the user, and blocks: the engine calls it on blocking threads. It knows nothing of
//! repositories.

pub mod attributes;
pub mod beneath;
pub mod bounds;
pub mod cloned;
pub mod collisions;
mod constraints;
pub mod content;
pub mod database_file;
pub mod deadline;
pub mod drill;
pub mod extras;
pub mod file_memory;
pub mod findings;
pub mod foreign;
pub mod freeze;
pub mod gate;
pub mod health;
pub mod other_databases;
pub mod ownership;
pub mod page_cache;
pub mod pages;
pub mod pinned;
pub mod profile;
pub mod repositories;
pub mod scratch;
pub mod selected;
pub mod sighting;
pub mod sparse;
pub mod sqlite;
pub mod steady;
pub mod target;
pub mod unnamed;
