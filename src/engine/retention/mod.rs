//! How long snapshots are kept: what a policy decides, and which manifests the rest depends on.

pub mod duration;
pub mod links;
pub mod policy;
#[cfg(test)]
mod tests;
