//! What packvault knows of each kind of application: one folder per kind.

pub mod msgvault;
