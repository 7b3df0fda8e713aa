//! The names of the local driver: keys become files, and files that others put there become keys or nothing.
//!
//! Input: pieces, each a choice and a name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use futures::TryStreamExt;
use packvault_local::{LocalConfig, LocalStorage};
use packvault_storage::{ErrorKind, Key, Prefix, Storage};
use tokio::runtime::Runtime;

use super::input::{Input, valid_text};

/// Names of one input.
const NAMES_MAX: usize = 16;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(super::scratch::runtime);

/// Creates, plants and lists names.
pub fn run(data: &[u8]) {
    RUNTIME.block_on(names(data));
}

async fn names(data: &[u8]) {
    let mut input = Input::new(data);
    let root = super::scratch::folder();
    let storage =
        LocalStorage::create_root(LocalConfig::new(root.path())).await.expect("a folder can be made");
    let mut model: BTreeMap<Key, Bytes> = BTreeMap::new();
    for _ in 0..NAMES_MAX {
        if input.is_empty() {
            break;
        }
        let (choice, name) = (input.byte(), input.piece());
        match (choice % 4, Key::parse(valid_text(name))) {
            (0, _) => plant(root.path(), name),
            (1, Ok(key)) => {
                let bytes = Bytes::copy_from_slice(name);
                if storage.create(&key, bytes.clone()).await.is_ok() {
                    assert!(model.insert(key, bytes).is_none(), "create never replaces");
                }
            }
            (2, Ok(key)) => {
                let is_known = model.remove(&key).is_some();
                let removed = storage.remove(&key).await;
                assert!(removed.is_ok() || !is_known, "{removed:?}");
            }
            (_, Ok(key)) => {
                let found = storage.read(&key).await;
                match model.get(&key) {
                    Some(bytes) => assert_eq!(found.ok().as_ref(), Some(bytes)),
                    None => drop(found),
                }
            }
            (_, Err(_)) => {}
        }
        for (key, bytes) in &model {
            assert_eq!(storage.read(key).await.ok().as_ref(), Some(bytes), "{key}");
        }
    }
    check_listing(&storage, &model).await;
}

/// Puts a file there as another program would; where it cannot be put, it is not.
fn plant(root: &Path, name: &[u8]) {
    let is_plain =
        !name.is_empty() && !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..";
    if is_plain {
        let path = root.join(OsStr::from_bytes(name));
        if !path.exists() {
            let _ = std::fs::write(path, b"planted");
        }
    }
}

async fn check_listing(storage: &LocalStorage, model: &BTreeMap<Key, Bytes>) {
    let listed: Vec<_> =
        storage.list(&Prefix::root()).try_collect().await.expect("plain files can be listed");
    let listed: BTreeMap<Key, u64> =
        listed.into_iter().map(|object| (object.key, object.meta.size_bytes)).collect();
    for (key, bytes) in model {
        assert_eq!(listed.get(key), Some(&(bytes.len() as u64)), "{key}");
    }
    for key in listed.keys() {
        assert_eq!(Key::parse(key.as_str()).as_ref(), Ok(key));
        let read = storage.read(key).await;
        assert!(read.is_ok(), "{read:?}");
    }
    let absent = Key::parse("absent/absent").expect("it is a key");
    if !listed.keys().any(|key| key.as_str().starts_with("absent")) {
        let error = storage.read(&absent).await.expect_err("it is not there");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
