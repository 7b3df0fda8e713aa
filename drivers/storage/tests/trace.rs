//! The danger: whoever reads the log of a failed night believes that a request was made once, or not at all, or
//! went well.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use packvault_storage::{
    ErrorKind, Fault, FaultStorage, Key, MemoryStorage, Prefix, RetryPolicy, RetryStorage, Storage,
    TraceStorage,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

type Fields = BTreeMap<&'static str, String>;

/// Keeps the fields of every event about a request.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Fields>>>);

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "packvault::request"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Reader(&mut fields));
        self.0.lock().unwrap().push(fields);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_with_its_number_its_bytes_and_how_it_ended() {
    let kept = Kept::default();
    let _listening = tracing::subscriber::set_default(kept.clone());
    let memory = MemoryStorage::new();
    memory.put_raw(&key("old"), "0123456789", SystemTime::now());
    let faults = FaultStorage::new(Arc::new(memory));
    let below = TraceStorage::if_heard(Arc::new(faults.clone()));
    let storage = RetryStorage::new(below, RetryPolicy::default());
    faults.at_call(1, Fault::Before(ErrorKind::Connection));

    storage.read(&key("old")).await.unwrap();
    storage.create(&key("new"), "abc".into()).await.unwrap();
    let mut staged = storage.stage(&key("pack")).await.unwrap();
    staged.write("pieces".into()).await.unwrap();
    staged.seal().await.unwrap();
    storage.rename(&key("new"), &key("moved")).await.unwrap();
    storage.list(&Prefix::root()).try_collect::<Vec<_>>().await.unwrap();
    storage.remove(&key("none")).await.unwrap_err();
    storage.sweep(Duration::from_secs(1)).await.unwrap();

    let told: Vec<String> = kept.0.lock().unwrap().iter().map(line).collect();
    let expected = [
        "read old 1 Connection",
        "read old 2 done 10",
        "create new 1 done 3",
        "stage pack 1 done 0",
        "write pack 1 done 6",
        "seal pack 1 done 6",
        "rename new -> moved 1 done 0",
        "list / 1 done 0",
        "remove none 1 NotFound",
        "sweep  1 done 0",
    ];
    assert_eq!(told, expected);
    assert!(kept.0.lock().unwrap().iter().all(|fields| fields.contains_key("milliseconds")));
}

fn line(fields: &Fields) -> String {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let words = ["verb", "key", "attempt", "outcome", "bytes"].map(field);
    words.join(" ").trim_end().to_owned()
}
