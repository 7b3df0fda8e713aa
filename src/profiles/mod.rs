//! Profiles: what packvault knows of each kind of application, one module per kind.

pub mod msgvault;
pub mod sqlite;

use std::sync::Arc;

use serde::Deserialize;

use crate::archive::profile::Profile;
use crate::{Error, ErrorKind, Result};

#[derive(Deserialize)]
struct Owner {
    profile: Option<String>,
}

/// Returns what is known of the application whose statistics a snapshot records; `unnamed` where they do
/// not say whose they are, as those of msgvault do not.
pub fn of_stats(stats: &str, unnamed: &Arc<dyn Profile>) -> Result<Arc<dyn Profile>> {
    let owner = serde_json::from_str::<Owner>(stats).ok().and_then(|owner| owner.profile);
    match owner.as_deref() {
        None => Ok(unnamed.clone()),
        Some(sqlite::NAME) => Ok(Arc::new(sqlite::Sqlite::of_stats(stats)?)),
        Some(other) => {
            let message = format!("the snapshot is of an application of the unknown kind {other:?}");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}
