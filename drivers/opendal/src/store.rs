//! One container by opendal's own steps on full names; each is one request, or one page of a listing.
//!
//! The steps of its services are taken directly: its operator cuts white space off the ends of names.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use opendal::options::{ListOptions, WriteOptions};
use opendal::raw::{OpDelete, OpRead, OpStat, OpWrite, Servicer, oio};
use opendal::{Buffer, BytesRange, Capability, HttpTransporter, Metadata, OperationContext};
use packvault_storage::{
    Error, ErrorKind, Key, ObjectMeta, Operation, Prefix, Result, Step, StoreClock, Wire, range_bytes,
};

use crate::config::OpendalConfig;
use crate::error::TheirErrors;
use crate::transport::Transport;

/// Why there may be no HTTP client.
const UNBUILT: &str =
    "no HTTPS client can be made; the system may lack the certificates of authorities (ca-certificates)";

/// How a write depends on what lies there.
#[derive(Debug, Clone)]
pub(crate) enum When {
    Always,
    /// The key is absent.
    Absent,
    /// The object is still the one described.
    Unchanged(Metadata),
}

/// The line to one folder of a container.
#[derive(Debug)]
pub(crate) struct Store {
    service: Servicer,
    context: OperationContext,
    prefix: String,
    pub location: String,
    pub clock: Arc<StoreClock>,
}

impl Store {
    pub(crate) fn new(config: &OpendalConfig, wire: Arc<Wire>) -> Result<Self> {
        let service = config.servicer()?;
        let clock = Arc::new(StoreClock::default());
        let transport = Transport::new(config, wire, Arc::clone(&clock));
        let transport =
            transport.map_err(|error| config.refused(UNBUILT).with_source(error.without_url()))?;
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport));
        let store =
            Self { service, context, prefix: config.prefix.clone(), location: config.location(), clock };
        let capability = store.capability();
        if !capability.write_with_if_not_exists {
            let step = Step::new(Operation::Open, &store.location);
            return Err(step.error(ErrorKind::Unsupported, "its service writes no object only if absent"));
        }
        Ok(store)
    }

    pub(crate) fn capability(&self) -> Capability {
        self.service.capability_dyn()
    }

    fn full_key(&self, key: &Key) -> String {
        if self.prefix.is_empty() { key.to_string() } else { format!("{}/{key}", self.prefix) }
    }

    /// Returns the key of a full name, unless it lies elsewhere or is no key.
    fn key_of(&self, name: &str) -> Option<Key> {
        let rest = match self.prefix.as_str() {
            "" => name,
            prefix => name.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Key::parse(rest).ok()
    }

    /// Returns what the store tells of the object.
    pub(crate) async fn stat(&self, step: Step<'_>, key: &Key) -> Result<Metadata> {
        let answer = self.service.stat_dyn(&self.context, &self.full_key(key), OpStat::new()).await;
        Ok(answer.map_err(|error| step.lift(&error))?.into_metadata())
    }

    async fn read_of(&self, key: &Key, range: BytesRange) -> opendal::Result<Bytes> {
        let reader = self.service.read_dyn(&self.context, &self.full_key(key), OpRead::new())?;
        let (_, mut body) = reader.open_dyn(range).await?;
        Ok(body.read_all_dyn().await?.to_bytes())
    }

    /// Returns all bytes of the object.
    pub(crate) async fn read(&self, step: Step<'_>, key: &Key) -> Result<Bytes> {
        let whole = BytesRange::new(0, None);
        self.read_of(key, whole).await.map_err(|error| step.lift(&error))
    }

    /// Returns exactly the bytes of the range. Servers refuse a range beyond the end in many ways, some with
    /// headers that opendal cannot read, so what fails is told from what is short by a second look.
    pub(crate) async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let step = Step::new(Operation::Read, key.as_str());
        let length = range.end.saturating_sub(range.start);
        let mut failed = None;
        if length > 0 {
            match self.read_of(key, BytesRange::new(range.start, Some(length))).await {
                Ok(bytes) if bytes.len() as u64 == length => return Ok(bytes),
                Ok(_) => {
                    let detail = "the answer ended before the range did";
                    failed = Some(step.error(ErrorKind::Connection, detail));
                }
                Err(error) => failed = Some(step.lift(&error)),
            }
        }
        if let Some(error) = failed.take_if(|error| !may_be_short(error.kind())) {
            return Err(error);
        }
        let size_bytes = self.stat(step, key).await?.content_length();
        range_bytes(key, &range, size_bytes)?;
        failed.map_or_else(|| Ok(Bytes::new()), Err)
    }

    /// Begins a write, in as many requests as the pieces ask for.
    pub(crate) fn writer(&self, key: &Key, when: When, concurrent: usize) -> opendal::Result<oio::Writer> {
        let mut options = WriteOptions { concurrent, ..WriteOptions::default() };
        match when {
            When::Always => {}
            When::Absent => options.if_not_exists = true,
            When::Unchanged(metadata) => options.if_not_changed = Some(metadata),
        }
        let (args, _) = OpWrite::from_options(&self.capability(), options)?;
        self.service.write_dyn(&self.context, &self.full_key(key), args)
    }

    /// Writes an object in one request.
    pub(crate) async fn write(&self, key: &Key, bytes: Buffer, when: When) -> opendal::Result<()> {
        let mut writer = self.writer(key, when, 1)?;
        if !bytes.is_empty() {
            writer.write_dyn(bytes).await?;
        }
        writer.close_dyn().await.map(drop)
    }

    /// Returns an error if an object lies under the key.
    pub(crate) async fn refuse_taken(&self, step: Step<'_>, key: &Key) -> Result<()> {
        match self.stat(step, key).await {
            Ok(_) => Err(step.already_exists()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes whatever lies under the key.
    pub(crate) async fn delete(&self, step: Step<'_>, key: &Key) -> Result<()> {
        let delete = async {
            let mut deleter = self.service.delete_dyn(&self.context)?;
            deleter.delete_dyn(&self.full_key(key), OpDelete::new()).await?;
            deleter.close_dyn().await
        };
        delete.await.map_err(|error| step.lift(&error))
    }

    /// Begins a listing of everything below the prefix.
    pub(crate) fn lister(&self, step: Step<'_>, prefix: &Prefix) -> Result<oio::Lister> {
        let folder = match (prefix.as_key(), self.prefix.as_str()) {
            (Some(folder), _) => format!("{}/", self.full_key(folder)),
            (None, "") => "/".to_owned(),
            (None, whole) => format!("{whole}/"),
        };
        let options = ListOptions { recursive: true, ..ListOptions::default() };
        let lister = self.service.list_dyn(&self.context, &folder, options.into());
        lister.map_err(|error| step.lift(&error))
    }

    /// Returns the next object of a listing that is one of ours.
    pub(crate) async fn next(
        &self,
        step: Step<'_>,
        lister: &mut oio::Lister,
    ) -> Result<Option<(Key, ObjectMeta)>> {
        loop {
            let entry = lister.next_dyn().await.map_err(|error| step.lift(&error))?;
            let Some(entry) = entry else { return Ok(None) };
            if let Some(key) = self.key_of(entry.path()) {
                let meta = meta(step, entry.metadata())?;
                return Ok(Some((key, meta)));
            }
        }
    }
}

/// Tells whether a read of a range may have failed because the object ends before it.
fn may_be_short(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Short | ErrorKind::Io | ErrorKind::Unsupported | ErrorKind::Connection)
}

/// Returns the size and the time of an object.
pub(crate) fn meta(step: Step<'_>, metadata: &Metadata) -> Result<ObjectMeta> {
    let lacks = || -> Error { step.error(ErrorKind::Io, "the store tells no time of it") };
    let modified = metadata.last_modified().ok_or_else(lacks)?;
    Ok(ObjectMeta { size_bytes: metadata.content_length(), modified: modified.into() })
}
