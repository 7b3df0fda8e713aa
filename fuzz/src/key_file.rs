//! What lies in `keys/`, and what people keep of it. Input: a key file, what it wraps, a recovery page, a file of
//! identities or a public key: each is read as each.

use std::sync::LazyLock;

use packvault::Cancel;
use packvault::format::key_file::payload;
use packvault::format::{KeyHeader, KeyName, RepoId, recovery_page};
use packvault::repo::keys::{Choice, KeyIdentity, Recipient, Secrets, open};
use packvault_storage::{Key, MemoryStorage, Storage as _};
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(super::scratch::runtime);

/// An identity for which no seed holds a key of this repository.
const IDENTITY: &str = include_str!("../../tests/fixtures/encrypted/identities/age.txt");
const REPOSITORY: &str = "5d61e8af-fa85-4c85-a408-d2e53ac0ed20";

/// Reads what may be a key.
pub fn run(data: &[u8]) {
    if let Ok(header) = KeyHeader::parse(data) {
        assert!(!header.ways.is_empty() && header.kinds().chars().all(|c| c.is_ascii_graphic() || c == ' '));
    }
    if let Ok((repository, key)) = payload::parse(data) {
        assert!(payload::encode(&repository, &key).as_slice() == data);
    }
    opens_nothing(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((repository, key)) = recovery_page::parse(text) {
        let (again, same) =
            recovery_page::parse(&recovery_page::encode(&repository, &key)).expect("it was just written");
        assert!(again == repository && same.expose() == key.expose());
    }
    let _ = KeyIdentity::parse_file(text, "fuzzed");
    let _ = Recipient::parse(text);
    let _ = KeyName::of_file(text);
}

/// Nobody can make a key file of a repository without knowing its key, so none of these opens as one.
fn opens_nothing(data: &[u8]) {
    let repository = RepoId::parse(REPOSITORY).expect("it is one");
    let identities = KeyIdentity::parse_file(IDENTITY, "fixture").expect("it is one");
    let mut secrets = Secrets { passphrase: None, identities };
    RUNTIME.block_on(async {
        let storage = MemoryStorage::new();
        let key = Key::parse("keys/fuzzed.age").expect("it is a key");
        storage.create(&key, bytes::Bytes::copy_from_slice(data)).await.expect("memory takes it");
        let nobody = |_: &str| Ok(None);
        let opened =
            open(&storage, Some(&repository), &mut secrets, Choice::default(), &nobody, &Cancel::new()).await;
        assert!(opened.is_err(), "it was opened");
    });
}
