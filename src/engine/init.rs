//! init: makes a repository where none is.

use super::report::InitReport;
use crate::Result;
use crate::repo::{self, Storage};

/// Makes a repository; refuses where one exists.
pub async fn init(storage: &dyn Storage) -> Result<InitReport> {
    let config = repo::config::init(storage, crate::clock::now()?, &super::hostname()).await?;
    Ok(InitReport { id: config.repo_id.to_string(), location: storage.location() })
}
