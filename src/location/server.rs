//! What every kind of storage on a server has in common: it is opened, asked what it promises, and the answer is
//! remembered.
//!
//! A kind fills in [`Driver`]; [`Server`] is what follows from it, and all that the rest of the folder knows of a
//! kind. What has passed once is tried again, from the first word on.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use packvault_storage::probe::ProbeReport;
use packvault_storage::retry::persist;
use packvault_storage::{Operation, Storage, Wire};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::watch::Watch;
use super::{Opening, Probed, Purpose, remembered};
use crate::error::{Error, ErrorKind, Result};

/// A kind of storage on a server, as the driver of its kind opens it.
pub(super) trait Driver: fmt::Display + Send + Sync {
    /// What a server was found to promise.
    type Features: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// The driver's storage.
    type Storage: Storage + 'static;

    /// Packs that are sent at once.
    const UPLOADS_MAX: usize;

    /// Returns what the memory of the server goes by: the place in it, and the server itself.
    fn remembered_as(&self) -> String;

    /// Returns what tells this server from others that have a place of the same name, as far as settings say.
    fn told_apart_by(&self) -> String;

    /// Opens the storage, and believes these features of its server.
    fn connect(
        &self,
        opening: &Opening,
        features: Option<Self::Features>,
        wire: Arc<Wire>,
    ) -> impl Future<Output = packvault_storage::Result<Self::Storage>> + Send;

    /// Asks the server what it promises.
    fn ask(
        storage: &Self::Storage,
    ) -> impl Future<Output = packvault_storage::Result<(Self::Features, ProbeReport)>> + Send;

    /// Returns the same storage that believes these features of its server.
    fn believing(storage: Self::Storage, features: Self::Features) -> Self::Storage;
}

/// A place on a server, whatever its kind.
pub(super) trait Server: fmt::Display + Send + Sync {
    /// Returns how many packs are sent at once.
    fn uploads_max(&self) -> usize;

    /// Returns what tells the server from others, as far as settings say.
    fn server(&self) -> String;

    /// Opens the storage, and asks the server what it promises unless that is remembered.
    fn open<'a>(&'a self, opening: &'a Opening, wire: Arc<Wire>) -> BoxFuture<'a, Result<Arc<dyn Storage>>>;

    /// Asks the server what it promises, whatever is remembered, and remembers the answers.
    fn probe<'a>(&'a self, opening: &'a Opening) -> BoxFuture<'a, Result<Probed>>;
}

impl<D: Driver> Server for D {
    fn uploads_max(&self) -> usize {
        D::UPLOADS_MAX
    }

    fn server(&self) -> String {
        self.told_apart_by()
    }

    fn open<'a>(&'a self, opening: &'a Opening, wire: Arc<Wire>) -> BoxFuture<'a, Result<Arc<dyn Storage>>> {
        Box::pin(async move { Ok(Arc::new(open(self, opening, wire).await?) as Arc<dyn Storage>) })
    }

    fn probe<'a>(&'a self, opening: &'a Opening) -> BoxFuture<'a, Result<Probed>> {
        Box::pin(probe(self, opening))
    }
}

async fn open<D: Driver>(place: &D, opening: &Opening, wire: Arc<Wire>) -> Result<D::Storage> {
    let memory = opening.memory.as_deref();
    let known: Option<D::Features> = match opening.purpose {
        Purpose::Init => None,
        Purpose::Work | Purpose::Read | Purpose::Look => remembered::recall(memory, &place.remembered_as()),
    };
    let storage = connect(place, opening, known.clone(), wire).await?;
    if known.is_some() || opening.purpose == Purpose::Look {
        return Ok(storage);
    }
    let (features, _) = match first_words(place, opening, || Box::pin(D::ask(&storage))).await {
        Err(error) if may_go_unasked(opening, &error) => return Ok(storage),
        asked => asked?,
    };
    remembered::remember(memory, &place.remembered_as(), &features);
    Ok(D::believing(storage, features))
}

async fn probe<D: Driver>(place: &D, opening: &Opening) -> Result<Probed> {
    let storage = connect(place, opening, None, Arc::default()).await?;
    let (features, report) = first_words(place, opening, || Box::pin(D::ask(&storage))).await?;
    remembered::remember(opening.memory.as_deref(), &place.remembered_as(), &features);
    let guarantees = D::believing(storage, features).guarantees();
    Ok(Probed { location: place.to_string(), report, guarantees })
}

async fn connect<D: Driver>(
    place: &D,
    opening: &Opening,
    features: Option<D::Features>,
    wire: Arc<Wire>,
) -> Result<D::Storage> {
    let open =
        || -> BoxFuture<'_, _> { Box::pin(place.connect(opening, features.clone(), Arc::clone(&wire))) };
    first_words(place, opening, open).await
}

/// Speaks to the server for the first time: what may pass is tried again, and Ctrl-C ends it, as it is with
/// everything that comes later.
async fn first_words<'a, T>(
    place: &impl fmt::Display,
    opening: &Opening,
    step: impl Fn() -> BoxFuture<'a, packvault_storage::Result<T>> + Send + Sync,
) -> Result<T> {
    let (watch, shown) = (Watch::of(opening), place.to_string());
    let said = persist(opening.retries(), &watch, (Operation::Open, &shown), step).await;
    said.map_err(|error| cannot_open(place, error))
}

/// Tells whether a server may be used although it could not be asked what it promises: to read from it.
fn may_go_unasked(opening: &Opening, error: &Error) -> bool {
    use packvault_storage::ErrorKind::{Denied, Full, Io};
    let step = packvault_storage::Error::behind(error);
    let is_refused = step.is_some_and(|error| matches!(error.kind(), Denied | Full | Io));
    opening.purpose == Purpose::Read && is_refused
}

/// Returns what tells a server from others, out of what may be settled about it.
///
/// The folders of what is kept near at hand are named by it, so it stays as it is.
pub(super) fn named_by(
    endpoint: Option<&str>,
    profile: Option<&str>,
    options: &[String],
    variables: &HashMap<String, String>,
) -> String {
    let names_a_server = |name: &str| name.contains("ENDPOINT") || name.contains("ACCOUNT");
    let mut servers: Vec<(&String, &String)> =
        variables.iter().filter(|(name, _)| names_a_server(name)).collect();
    servers.sort();
    format!("{:?}\n{servers:?}", (endpoint, profile, options))
}

/// Lifts the error of opening a storage on a server.
fn cannot_open(location: &impl fmt::Display, error: packvault_storage::Error) -> Error {
    use packvault_storage::ErrorKind as Kind;
    let (kind, message) = match error.kind() {
        Kind::NotFound => (ErrorKind::NoRepository, "no repository at"),
        Kind::Unsafe => (ErrorKind::Refused, "no repository can lie at"),
        Kind::Config => (ErrorKind::Usage, "cannot open the repository at"),
        Kind::Unsupported => (ErrorKind::Unsupported, "cannot keep a repository at"),
        Kind::Denied => (ErrorKind::NotPermitted, "cannot open the repository at"),
        Kind::Interrupted => (ErrorKind::Interrupted, "interrupted while opening the repository at"),
        _ => (ErrorKind::Io, "cannot open the repository at"),
    };
    Error::caused(kind, format!("{message} {location}"), error)
}

#[cfg(test)]
mod tests {
    use packvault_storage::{Key, MemoryStorage, Step};

    use super::*;

    /// A server whose promise is how often it was asked.
    struct Counting {
        server: MemoryStorage,
        refuses_writers: bool,
    }

    impl fmt::Display for Counting {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("memory:")
        }
    }

    fn key(name: &str) -> Key {
        Key::parse(name).unwrap()
    }

    impl Driver for Counting {
        type Features = u32;
        type Storage = MemoryStorage;

        const UPLOADS_MAX: usize = 1;

        fn remembered_as(&self) -> String {
            "counting".to_owned()
        }

        fn told_apart_by(&self) -> String {
            String::new()
        }

        async fn connect(
            &self,
            _: &Opening,
            _: Option<u32>,
            _: Arc<Wire>,
        ) -> packvault_storage::Result<MemoryStorage> {
            if self.refuses_writers {
                self.server.create(&key("refuses"), "".into()).await.ok();
            }
            Ok(self.server.clone())
        }

        async fn ask(storage: &MemoryStorage) -> packvault_storage::Result<(u32, ProbeReport)> {
            if storage.stat(&key("refuses")).await.is_ok() {
                let step = Step::new(Operation::Create, "asked/1");
                return Err(step.error(packvault_storage::ErrorKind::Denied, "nobody may write here"));
            }
            let mut asked = 1;
            while storage.create(&key(&format!("asked/{asked}")), "".into()).await.is_err() {
                asked += 1;
            }
            Ok((asked, ProbeReport::default()))
        }

        fn believing(storage: MemoryStorage, _: u32) -> MemoryStorage {
            storage
        }
    }

    fn counting(refuses_writers: bool) -> Counting {
        Counting { server: MemoryStorage::default(), refuses_writers }
    }

    fn opening(purpose: Purpose, memory: &tempfile::TempDir) -> Opening {
        Opening { memory: Some(memory.path().to_owned()), ..Opening::new(purpose, memory.path()) }
    }

    /// Returns how often the server was asked when it was last remembered.
    async fn asked(server: &Counting, purpose: Purpose, memory: &tempfile::TempDir) -> Option<u32> {
        Server::open(server, &opening(purpose, memory), Arc::default()).await.unwrap();
        remembered::recall(Some(memory.path()), &server.remembered_as())
    }

    #[tokio::test]
    async fn a_server_is_asked_once_and_whenever_a_repository_is_made() {
        let (server, memory) = (counting(false), tempfile::tempdir().unwrap());
        assert_eq!(asked(&server, Purpose::Look, &memory).await, None, "a look asks nothing");
        for purpose in [Purpose::Work, Purpose::Read, Purpose::Look, Purpose::Work] {
            assert_eq!(asked(&server, purpose, &memory).await, Some(1), "{purpose:?}");
        }
        assert_eq!(asked(&server, Purpose::Init, &memory).await, Some(2));
        assert_eq!(asked(&server, Purpose::Work, &memory).await, Some(2));
        Server::probe(&server, &opening(Purpose::Look, &memory)).await.unwrap();
        assert_eq!(asked(&server, Purpose::Work, &memory).await, Some(3), "whoever probes asks");
    }

    #[tokio::test]
    async fn who_may_only_read_reads_from_a_server_that_cannot_be_asked() {
        let (server, memory) = (counting(true), tempfile::tempdir().unwrap());
        assert_eq!(asked(&server, Purpose::Read, &memory).await, None, "nothing is remembered");
        for purpose in [Purpose::Work, Purpose::Init] {
            let refused =
                Server::open(&server, &opening(purpose, &memory), Arc::default()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotPermitted, "{purpose:?}");
        }
    }
}
