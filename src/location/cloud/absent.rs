//! Refusing what this build cannot open.

use std::sync::Arc;

use futures::future::BoxFuture;
use packvault_storage::{Storage, Wire};

use super::super::server::Server;
use super::super::{Opening, Probed};
use super::CloudLocation;
use crate::error::{Error, ErrorKind, Result};

impl Server for CloudLocation {
    fn uploads_max(&self) -> usize {
        1
    }

    fn server(&self) -> String {
        String::new()
    }

    fn open<'a>(&'a self, _: &'a Opening, _: Arc<Wire>) -> BoxFuture<'a, Result<Arc<dyn Storage>>> {
        Box::pin(async { Err(refusal(self)) })
    }

    fn probe<'a>(&'a self, _: &'a Opening) -> BoxFuture<'a, Result<Probed>> {
        Box::pin(async { Err(refusal(self)) })
    }
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
