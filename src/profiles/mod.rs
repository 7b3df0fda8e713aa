//! Profiles: what packvault knows of each kind of application, one module per kind.

pub mod msgvault;
