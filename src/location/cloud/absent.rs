//! Refusing what this build cannot open.

use std::sync::Arc;

use packvault_storage::{MemoryStorage, Wire};

use super::super::{Opening, Probed};
use super::CloudLocation;
use crate::error::{Error, ErrorKind, Result};

pub(in super::super) const UPLOADS_MAX: usize = 1;

pub(in super::super) async fn open(
    location: &CloudLocation,
    _opening: &Opening,
    _wire: Arc<Wire>,
) -> Result<MemoryStorage> {
    Err(refusal(location))
}

pub(in super::super) async fn probe(location: &CloudLocation, _opening: &Opening) -> Result<Probed> {
    Err(refusal(location))
}

fn refusal(location: &CloudLocation) -> Error {
    let name = location.cloud.name();
    let message = format!("this build has no {name}; build it with --features opendal");
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::super::super::{Location, Purpose};
    use super::*;

    #[tokio::test]
    async fn a_store_that_was_not_built_in_is_refused_by_its_name() {
        let opening = Opening::new(Purpose::Look, std::env::temp_dir());
        for (text, name) in [("azblob://mail/a", "Azure Blob Storage"), ("gs://mail", "Google Cloud Storage")]
        {
            let location = Location::parse(text).unwrap();
            let opened = location.open(&opening).await.unwrap_err();
            let probed = location.probe(&opening).await.unwrap_err();
            for error in [opened, probed] {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                let message = format!("this build has no {name}; build it with --features opendal");
                assert_eq!(error.to_string(), message);
            }
        }
    }
}
