//! The fuzz targets, each a function that takes bytes, and panics where a promise is broken.
//!
//! They lie apart from libFuzzer so that the tests of the project run them too (`tests/it/fuzz_targets.rs`), on
//! the seeds and on what fuzzing has found.

pub mod attachment_list;
pub mod daemon_record;
pub mod extras_tree;
pub mod frame;
pub mod go_json;
pub mod index;
pub mod input;
pub mod key_file;
pub mod local_names;
pub mod location;
pub mod lock_record;
pub mod manifest;
pub mod msgvault_config;
pub mod names;
pub mod objects;
pub mod pack;
pub mod page_hashes;
pub mod page_map;
pub mod paths;
pub mod repo_config;
pub mod repository;
pub mod scratch;
pub mod sealed_item;
pub mod sealed_pack;
pub mod seeds;
#[cfg(not(test))]
pub mod settings;

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// The targets that know only the library; `settings` also takes in files of the program.
pub const TARGETS: [Target; 21] = [
    ("attachment_list", attachment_list::run),
    ("daemon_record", daemon_record::run),
    ("extras_tree", extras_tree::run),
    ("frame", frame::run),
    ("go_json", go_json::run),
    ("index", index::run),
    ("key_file", key_file::run),
    ("local_names", local_names::run),
    ("location", location::run),
    ("lock_record", lock_record::run),
    ("manifest", manifest::run),
    ("msgvault_config", msgvault_config::run),
    ("names", names::run),
    ("pack", pack::run),
    ("page_hashes", page_hashes::run),
    ("page_map", page_map::run),
    ("paths", paths::run),
    ("repo_config", repo_config::run),
    ("repository", repository::run),
    ("sealed_item", sealed_item::run),
    ("sealed_pack", sealed_pack::run),
];
