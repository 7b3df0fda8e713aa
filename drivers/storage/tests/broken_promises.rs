//! A list of rules that a broken driver passes guards nothing. Each store here breaks one promise, and
//! the list must name the rule.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use packvault_storage::conformance::{Factory, Subject, rules};
use packvault_storage::{
    Error, ErrorKind, Guarantees, Key, ListedObject, MemoryStorage, NotRemoved, ObjectMeta, Operation,
    Prefix, Result, Staged, Storage, SweepReport,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breach {
    CreateOverwrites,
    CreateChecksFirst,
    ReplaceRemovesFirst,
    RangesAreCut,
    StartHasNoEnd,
    ListLosesOne,
    ListIgnoresFolders,
    ListShowsUploads,
    TouchBelievesAnything,
    RenameOverwrites,
    RenameTakesTheTimeAlong,
    RemoveIsSilent,
    ABatchLosesOne,
    ABatchTakesTheFolder,
    ABatchStopsAtTheFirst,
    SweepTakesEverything,
    SealOverwrites,
    ClockIsAnother,
}

#[derive(Debug, Clone)]
struct Broken {
    memory: MemoryStorage,
    breach: Breach,
}

#[async_trait]
impl Storage for Broken {
    fn location(&self) -> String {
        self.memory.location()
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees::all()
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.memory.read(key).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        match self.breach {
            Breach::RangesAreCut => {
                let whole = self.memory.read(key).await?;
                let end = (range.end as usize).min(whole.len());
                Ok(whole.slice((range.start as usize).min(end)..end))
            }
            _ => self.memory.read_range(key, range).await,
        }
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        match self.breach {
            Breach::StartHasNoEnd => self.memory.read(key).await,
            _ => self.memory.read_start(key, bytes_max).await,
        }
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.memory.read_ranges(key, ranges).await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.memory.stat(key).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        match (self.breach, prefix.as_key()) {
            (Breach::ListLosesOne, _) => self.memory.list(prefix).take(2_499).boxed(),
            (Breach::ListIgnoresFolders, Some(folder)) => {
                let start = folder.to_string();
                let all = self.memory.list(&Prefix::root());
                all.filter(move |object| {
                    let is_listed = object.as_ref().unwrap().key.as_str().starts_with(&start);
                    async move { is_listed }
                })
                .boxed()
            }
            (Breach::ListShowsUploads, _) if self.memory.unfinished_uploads() > 0 => {
                let meta = ObjectMeta { size_bytes: 0, modified: SystemTime::now() };
                let upload = ListedObject { key: Key::parse("staging/upload").unwrap(), meta };
                self.memory.list(prefix).chain(stream::iter([Ok(upload)])).boxed()
            }
            _ => self.memory.list(prefix),
        }
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        match self.breach {
            Breach::CreateOverwrites => self.memory.replace(key, bytes).await,
            Breach::CreateChecksFirst => {
                if self.memory.stat(key).await.is_ok() {
                    return Err(Error::already_exists(Operation::Create, key));
                }
                tokio::task::yield_now().await;
                self.memory.replace(key, bytes).await
            }
            _ => self.memory.create(key, bytes).await,
        }
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let inner = self.memory.stage(key).await?;
        match self.breach {
            Breach::SealOverwrites => {
                Ok(Box::new(Overwriting { inner, memory: self.memory.clone(), key: key.clone() }))
            }
            _ => Ok(inner),
        }
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        if self.breach == Breach::ReplaceRemovesFirst {
            let _ = self.memory.remove(key).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.memory.replace(key, bytes).await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        match self.breach {
            Breach::TouchBelievesAnything => {
                let bytes = self.memory.read(key).await?;
                self.memory.touch(key, &bytes).await
            }
            _ => self.memory.touch(key, expected).await,
        }
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        match self.breach {
            Breach::RenameOverwrites => {
                let bytes = self.memory.read(from).await?;
                self.memory.put_raw(to, bytes, self.memory.stat(from).await?.modified);
                self.memory.remove(from).await
            }
            Breach::RenameTakesTheTimeAlong => {
                self.memory.rename(from, to).await?;
                let bytes = self.memory.read(to).await?;
                self.memory.touch(to, &bytes).await
            }
            _ => self.memory.rename(from, to).await,
        }
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        match (self.breach, self.memory.remove(key).await) {
            (Breach::RemoveIsSilent, Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
            (_, result) => result,
        }
    }

    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        match self.breach {
            Breach::ABatchLosesOne => self.memory.remove_all(keys.get(1..).unwrap_or_default()).await,
            Breach::ABatchTakesTheFolder => {
                for (key, _) in self.memory.objects() {
                    if keys.iter().any(|wanted| wanted.parts().next() == key.parts().next()) {
                        self.memory.remove(&key).await?;
                    }
                }
                Ok(Vec::new())
            }
            Breach::ABatchStopsAtTheFirst => {
                for key in keys {
                    self.memory.remove(key).await?;
                }
                Ok(Vec::new())
            }
            _ => self.memory.remove_all(keys).await,
        }
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        match self.breach {
            Breach::SweepTakesEverything => self.memory.sweep(Duration::ZERO).await,
            _ => self.memory.sweep(older_than).await,
        }
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        self.memory.make_folder(folder).await
    }

    async fn now(&self) -> Result<SystemTime> {
        let now = self.memory.now().await?;
        Ok(if self.breach == Breach::ClockIsAnother { now + Duration::from_secs(120) } else { now })
    }
}

#[derive(Debug)]
struct Overwriting {
    inner: Box<dyn Staged>,
    memory: MemoryStorage,
    key: Key,
}

#[async_trait]
impl Staged for Overwriting {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.inner.write(bytes).await
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        let _ = self.memory.remove(&self.key).await;
        self.inner.seal().await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.inner.discard().await
    }
}

#[async_trait]
impl Factory for Breach {
    async fn fresh(&self) -> Result<Subject> {
        Ok(Subject::new(Arc::new(Broken { memory: MemoryStorage::new(), breach: *self })))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_notices_each_broken_promise() {
    use Breach::*;
    for (breach, noticed_by) in [
        (CreateOverwrites, "create_refuses_a_taken_key"),
        (CreateChecksFirst, "create_has_one_winner"),
        (ReplaceRemovesFirst, "replace_shows_old_or_new_at_any_instant"),
        (RangesAreCut, "a_range_beyond_the_end_is_short"),
        (StartHasNoEnd, "the_start_of_an_object_is_as_much_as_there_is"),
        (ListLosesOne, "a_list_shows_everything_published_before"),
        (ListIgnoresFolders, "a_list_keeps_to_its_prefix"),
        (ListShowsUploads, "a_list_leaves_out_unfinished_uploads"),
        (TouchBelievesAnything, "touch_refuses_other_bytes"),
        (RenameOverwrites, "rename_refuses_a_taken_name"),
        (RenameTakesTheTimeAlong, "rename_keeps_bytes_and_time"),
        (RemoveIsSilent, "remove_is_reported_once"),
        (ABatchLosesOne, "many_are_removed_at_once_and_nothing_else"),
        (ABatchTakesTheFolder, "many_are_removed_at_once_and_nothing_else"),
        (ABatchStopsAtTheFirst, "what_is_gone_already_keeps_nothing_from_being_removed"),
        (SweepTakesEverything, "a_sweep_spares_young_uploads"),
        (SealOverwrites, "seal_refuses_a_taken_key"),
        (ClockIsAnother, "now_is_the_clock_of_the_objects"),
    ] {
        let rule = rules().into_iter().find(|rule| rule.name == noticed_by).unwrap();
        assert!(rule.check(&breach).await.is_err(), "{noticed_by} did not notice {breach:?}");
    }
}
