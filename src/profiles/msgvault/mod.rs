//! msgvault, the e-mail and message archive.

pub mod config;
