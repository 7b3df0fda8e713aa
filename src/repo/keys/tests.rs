//! The danger: a repository that its owner cannot open, one that somebody else can, and a hostile `keys/` that
//! costs more than it is worth.

use std::str::FromStr;
use std::time::Instant;

use packvault_storage::MemoryStorage;
use zeroize::Zeroizing;

use super::*;
use crate::Cancel;
use crate::format::{RepoId, RepositoryKey};

const ED25519: &str = include_str!("../../../tests/fixtures/encrypted/identities/ed25519");
const RSA: &str = include_str!("../../../tests/fixtures/encrypted/identities/rsa");
const SEALED: &str = include_str!("../../../tests/fixtures/encrypted/identities/ed25519-sealed");
const SEALED_PUBLIC: &str = include_str!("../../../tests/fixtures/encrypted/identities/ed25519-sealed.pub");
const AGE: &str = include_str!("../../../tests/fixtures/encrypted/identities/age.txt");

fn repository() -> RepoId {
    RepoId::parse("5d61e8af-fa85-4c85-a408-d2e53ac0ed20").unwrap()
}

fn other_repository() -> RepoId {
    RepoId::parse("00000000-fa85-4c85-a408-d2e53ac0ed20").unwrap()
}

fn the_key() -> RepositoryKey {
    RepositoryKey::from_bytes([7; 32])
}

fn name(text: &str) -> KeyName {
    KeyName::parse(text).unwrap()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned()))
}

/// A cost that takes no time.
fn cheap(text: &str) -> NewWay {
    NewWay::Passphrase { passphrase: passphrase(text), work_factor: 4 }
}

fn recipient(text: &str) -> NewWay {
    NewWay::Recipient(Recipient::parse(text).unwrap())
}

fn age_recipient() -> NewWay {
    let identity = AGE.lines().find(|line| !line.starts_with('#')).unwrap();
    recipient(&age::x25519::Identity::from_str(identity).unwrap().to_public().to_string())
}

fn wrapped(way: &NewWay) -> Bytes {
    wrap(way, &repository(), &the_key()).unwrap()
}

async fn store(ways: &[(&str, Bytes)]) -> MemoryStorage {
    let storage = MemoryStorage::new();
    for (text, bytes) in ways {
        add(&storage, &name(text), bytes.clone()).await.unwrap();
    }
    storage
}

fn knowing(text: &str) -> Secrets {
    Secrets { passphrase: Some(passphrase(text)), identities: Vec::new() }
}

fn having(file: &str) -> Secrets {
    Secrets { passphrase: None, identities: KeyIdentity::parse_file(file, "id").unwrap() }
}

fn nobody_asks(_: &str) -> Result<Option<Passphrase>> {
    Ok(None)
}

async fn opened(storage: &dyn Storage, mut secrets: Secrets, choice: Choice<'_>) -> Result<Opened> {
    open(storage, Some(&repository()), &mut secrets, choice, &nobody_asks, &Cancel::new()).await
}

async fn opens(storage: &dyn Storage, secrets: Secrets) -> String {
    let opened = opened(storage, secrets, Choice::default()).await.unwrap();
    assert_eq!(opened.key.expose(), the_key().expose());
    opened.name.map_or("-".to_owned(), |name| name.to_string())
}

async fn refused(storage: &dyn Storage, secrets: Secrets) -> String {
    let error = opened(storage, secrets, Choice::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    error.to_string()
}

#[tokio::test]
async fn every_way_in_opens_with_its_own_secret_and_no_other() {
    let storage = store(&[
        ("age", wrapped(&age_recipient())),
        ("hut", wrapped(&cheap("correct horse"))),
        (
            "laptop",
            wrapped(&recipient(include_str!("../../../tests/fixtures/encrypted/identities/ed25519.pub"))),
        ),
        ("old", wrapped(&recipient(include_str!("../../../tests/fixtures/encrypted/identities/rsa.pub")))),
    ])
    .await;
    for (secrets, way) in [
        (knowing("correct horse"), "hut"),
        (having(AGE), "age"),
        (having(ED25519), "laptop"),
        (having(RSA), "old"),
    ] {
        assert_eq!(opens(&storage, secrets).await, way);
    }
    let said = refused(&storage, knowing("correct horse ")).await;
    for part in ["age (x25519)", "hut (passphrase)", "laptop (ssh-ed25519)", "old (ssh-rsa)"] {
        assert!(said.contains(part), "{said}");
    }
    let stranger = age::x25519::Identity::generate();
    refused(&storage, having(age::secrecy::ExposeSecret::expose_secret(&stranger.to_string()))).await;
}

#[tokio::test]
async fn without_a_secret_the_ways_in_are_named() {
    let storage = store(&[("hut", wrapped(&cheap("x"))), ("age", wrapped(&age_recipient()))]).await;
    let error = opened(&storage, Secrets::default(), Choice::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoKey);
    assert!(error.to_string().contains("it opens with age (x25519), hut (passphrase)"), "{error}");
    let error = opened(&MemoryStorage::new(), Secrets::default(), Choice::default()).await.unwrap_err();
    assert!(error.to_string().contains("only its recovery key"), "{error}");
}

#[tokio::test]
async fn a_key_file_of_another_repository_is_refused_by_name() {
    let foreign = wrap(&cheap("same"), &other_repository(), &the_key()).unwrap();
    let storage = store(&[("planted", foreign.clone())]).await;
    let said = refused(&storage, knowing("same")).await;
    assert!(said.contains("planted is the key file of another repository, 00000000-"), "{said}");
    // It stands in nobody's way.
    let storage = store(&[("planted", foreign), ("zebra", wrapped(&cheap("same")))]).await;
    assert_eq!(opens(&storage, knowing("same")).await, "zebra");
}

#[tokio::test]
async fn a_huge_cost_is_not_paid() {
    let wrapped = wrapped(&cheap("x"));
    let text = String::from_utf8_lossy(&wrapped[..120]).into_owned();
    let line = text.lines().nth(1).unwrap();
    for cost in ["21", "40", "63", "255"] {
        let dear = format!("{} {cost}", line.rsplit_once(' ').unwrap().0);
        let at = text.find(line).unwrap();
        let mut file = wrapped[..at].to_vec();
        file.extend(dear.as_bytes());
        file.extend(&wrapped[at + line.len()..]);
        let storage = store(&[("dear", Bytes::from(file)), ("own", wrapped.clone())]).await;
        let begun = Instant::now();
        assert_eq!(opens(&storage, knowing("x")).await, "own");
        let said = refused(&storage, knowing("y")).await;
        assert!(said.contains("dear asks for more work"), "{said}");
        assert!(begun.elapsed().as_secs() < 5, "it was paid");
    }
}

#[tokio::test]
async fn a_flood_of_key_files_is_bounded_and_a_name_leads_past_it() {
    let costly = NewWay::Passphrase { passphrase: passphrase("theirs"), work_factor: 15 };
    let planted = wrapped(&costly);
    let storage = store(&[(
        "zz-own",
        wrapped(&NewWay::Passphrase { passphrase: passphrase("mine"), work_factor: 16 }),
    )])
    .await;
    for number in 0..300 {
        add(&storage, &name(&format!("flood-{number}")), planted.clone()).await.unwrap();
    }
    let own = name("zz-own");
    for choice in [
        Choice { named: Some(&own), ..Choice::default() },
        Choice { preferred: Some(&own), ..Choice::default() },
    ] {
        let opened = opened(&storage, knowing("mine"), choice).await.unwrap();
        assert_eq!(opened.name, Some(own.clone()));
    }
    for number in 300..=KEY_FILES_MAX {
        add(&storage, &name(&format!("flood-{number}")), planted.clone()).await.unwrap();
    }
    let error = opened(&storage, knowing("mine"), Choice::default()).await.unwrap_err();
    assert!(error.to_string().contains("more than 1000 key files"), "{error}");
    let named = opened(&storage, knowing("mine"), Choice { named: Some(&own), ..Choice::default() }).await;
    assert_eq!(named.unwrap().name, Some(own));
}

#[test]
fn what_is_tried_on_one_passphrase_has_an_end() {
    let costs = |cost: u8| KeyFile {
        name: name(&format!("k{cost}")),
        modified: SystemTime::UNIX_EPOCH,
        header: Ok(KeyHeader { ways: vec![crate::format::WayIn::Passphrase { work_factor: cost }] }),
        bytes: Bytes::new(),
    };
    let files: Vec<KeyFile> = (0..20).map(|_| costs(20)).chain([costs(5), costs(21)]).collect();
    let (tried, refusals) = open::affordable(&files, None);
    let tried: Vec<u8> = tried.into_iter().map(|(_, work)| work).collect();
    assert_eq!(tried, [5, 20, 20, 20], "the cheapest first, and no more than 2^22");
    assert!(refusals[0].contains("--key"), "{refusals:?}");
    let (tried, _) = open::affordable(&files, Some(&name("k20")));
    assert_eq!(tried[0].1, 20, "the one that opened the last time comes first");
}

#[tokio::test]
async fn a_file_that_is_cut_or_changed_opens_nothing_and_stops_nobody() {
    let whole = wrapped(&age_recipient());
    for end in [0, 1, 22, 60, whole.len() - 1] {
        let storage = store(&[("cut", whole.slice(..end))]).await;
        refused(&storage, having(AGE)).await;
    }
    for at in 0..whole.len() {
        let mut changed = whole.to_vec();
        changed[at] ^= 1;
        let storage = store(&[("changed", Bytes::from(changed)), ("whole", whole.clone())]).await;
        assert_eq!(opens(&storage, having(AGE)).await, "whole", "byte {at}");
    }
    let long = Bytes::from(vec![b'a'; KEY_FILE_BYTES_MAX as usize + 1]);
    let storage = store(&[("long", long), ("whole", whole)]).await;
    assert_eq!(opens(&storage, having(AGE)).await, "whole");
}

#[tokio::test]
async fn an_age_file_that_wraps_something_else_is_named() {
    let recipient = AGE.lines().find(|line| !line.starts_with('#')).unwrap();
    let recipient = age::x25519::Identity::from_str(recipient).unwrap().to_public();
    let key = crate::format::key_file::payload::encode(&repository(), &the_key());
    let key_and_more = [key.as_slice(), b"x"].concat();
    for wrapped in [vec![b'x'; 5000], key_and_more] {
        let something = age::encrypt(&recipient, &wrapped).unwrap();
        let storage = store(&[("letter", Bytes::from(something))]).await;
        let said = refused(&storage, having(AGE)).await;
        assert!(said.contains("letter cannot be used: what it wraps is no key"), "{said}");
    }
}

#[tokio::test]
async fn other_things_in_the_folder_are_passed_over_up_to_a_bound() {
    let storage = store(&[("own", wrapped(&cheap("x")))]).await;
    let put = |number: usize| {
        storage.put_raw(&key(format!("keys/note-{number}.txt")), "", SystemTime::UNIX_EPOCH);
    };
    (0..OTHER_NAMES_MAX).for_each(put);
    assert_eq!(opens(&storage, knowing("x")).await, "own");
    put(OTHER_NAMES_MAX);
    let error = opened(&storage, knowing("x"), Choice::default()).await.unwrap_err();
    assert!(error.to_string().contains("or things that are none"), "{error}");
}

#[tokio::test]
async fn an_ssh_key_with_a_passphrase_asks_for_it_once_and_only_where_it_fits() {
    let storage = store(&[("a", wrapped(&cheap("x"))), ("own", wrapped(&recipient(SEALED_PUBLIC)))]).await;
    let asked = std::sync::atomic::AtomicU32::new(0);
    let ask = |file: &str| {
        assert_eq!(file, "id");
        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Some(passphrase("opens the ssh key")))
    };
    let mut secrets = having(SEALED);
    for _ in 0..2 {
        let opened =
            open(&storage, Some(&repository()), &mut secrets, Choice::default(), &ask, &Cancel::new()).await;
        assert_eq!(opened.unwrap().name, Some(name("own")));
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    let wrong = |_: &str| Ok(Some(passphrase("wrong")));
    let mut secrets = having(SEALED);
    let refused_by =
        open(&storage, Some(&repository()), &mut secrets, Choice::default(), &wrong, &Cancel::new()).await;
    assert_eq!(refused_by.unwrap_err().kind(), ErrorKind::WrongKey);
    let error = opened(&storage, having(SEALED), Choice::default()).await.unwrap_err();
    assert!(error.to_string().contains("no terminal to ask"), "{error}");
    let elsewhere = store(&[("a", wrapped(&cheap("x")))]).await;
    refused(&elsewhere, having(SEALED)).await;
}

#[tokio::test]
async fn a_recovery_key_opens_without_any_key_file_and_its_own_repository_alone() {
    use crate::format::key_file::payload;
    use crate::format::recovery_page;
    let page = recovery_page::encode(&repository(), &the_key());
    assert_eq!(opens(&MemoryStorage::new(), having(&page)).await, "-");
    // What `age -d` gives of a key file is one too.
    let payload = payload::encode(&repository(), &the_key());
    assert_eq!(opens(&MemoryStorage::new(), having(std::str::from_utf8(&payload).unwrap())).await, "-");
    let foreign = recovery_page::encode(&other_repository(), &the_key());
    let said = refused(&MemoryStorage::new(), having(&foreign)).await;
    assert!(said.contains("00000000-") && said.contains("5d61e8af-"), "{said}");
}

#[test]
fn what_is_no_identity_is_refused_without_repeating_it() {
    let age1 = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    for (text, why) in [
        (age1, "public key"),
        ("ssh-ed25519 AAAA ann", "public key"),
        ("hunter2", "line 1 is no age identity"),
        ("# note\n\nAGE-SECRET-KEY-1HUNTER2\n", "line 3"),
        ("AGE-PLUGIN-YUBIKEY-1HUNTER2", "age plugin"),
        ("age-encryption.org/v1\n-> hunter2", "itself encrypted"),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n",
            "no SSH private key",
        ),
        ("", "holds no identity"),
        ("packvault recovery key 1\nrepository hunter2", "names the repository"),
    ] {
        let error = KeyIdentity::parse_file(text, "id").unwrap_err().chain();
        assert!(error.contains(why) && error.starts_with("cannot use the identity id"), "{text}: {error}");
        assert!(!error.to_lowercase().contains("hunter2"), "{error}");
    }
}

#[test]
fn what_is_no_recipient_is_refused_without_repeating_it() {
    for (text, why) in [
        ("AGE-SECRET-KEY-1HUNTER2", "private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ("age1yubikey1hunter2", "age plugin"),
        ("ssh-ed25519 hunter2", "no SSH public key"),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAP== hunter2", ""),
        ("hunter2", "neither age1"),
        ("", "neither age1"),
    ] {
        let error = Recipient::parse(text).unwrap_err().chain();
        assert!(error.contains(why) && !error.contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn a_generated_passphrase_is_long_and_never_the_same() {
    let (one, other) = (generate().unwrap(), generate().unwrap());
    assert_ne!(one, other);
    assert_eq!(one.expose().len(), 29);
    assert!(one.expose().split('-').all(|group| group.len() == 5));
    assert_ne!(new_key().unwrap().expose(), new_key().unwrap().expose());
}

#[test]
fn nothing_secret_is_shown() {
    let secrets = Secrets { identities: having(AGE).identities, ..knowing("hunter2") };
    let shown = format!("{secrets:?} {:?} {:?}", cheap("hunter2"), having(RSA));
    assert!(!shown.contains("hunter2") && !shown.to_uppercase().contains("SECRET-KEY"), "{shown}");
}

mod changing {
    use std::sync::Arc;

    use packvault_storage::{ErrorKind as StorageErrorKind, Fault, FaultStorage, Storage};

    use super::*;
    use crate::progress::Silent;
    use crate::repo::Repository;
    use crate::repo::locks::LockRequest;

    async fn repository_with(ways: &[(&str, Bytes)]) -> (Repository, MemoryStorage) {
        let storage = store(ways).await;
        crate::repo::config::init(&storage, "2026-11-29T00:00:00Z".parse().unwrap(), "here").await.unwrap();
        (Repository::open(Arc::new(storage.clone())).await.unwrap(), storage)
    }

    fn request() -> LockRequest {
        LockRequest {
            operation: "key",
            hostname: "here".to_owned(),
            process: None,
            force: false,
            progress: Arc::new(Silent),
            cancel: Cancel::new(),
        }
    }

    async fn names(storage: &MemoryStorage) -> Vec<String> {
        list(storage).await.unwrap().iter().map(|file| file.name.to_string()).collect()
    }

    #[tokio::test]
    async fn a_name_that_is_taken_is_not_written_over() {
        let old = wrapped(&cheap("old"));
        let (repository, storage) = repository_with(&[("a", old.clone())]).await;
        let error = repository.add_key(&name("a"), wrapped(&cheap("new")), &request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(opens(&storage, knowing("old")).await, "a");
        let changed = repository.add_key(&name("b"), wrapped(&cheap("new")), &request()).await.unwrap();
        assert_eq!(changed.files.len(), 2);
        assert_eq!(opens(&storage, knowing("new")).await, "b");
    }

    #[tokio::test]
    async fn the_last_way_in_stays() {
        let foreign = Bytes::from_static(b"age-encryption.org/v1\n-> piv-p256 a b\n\n--- mac\n");
        let (repository, storage) = repository_with(&[
            ("a", wrapped(&cheap("x"))),
            ("b", wrapped(&age_recipient())),
            ("plugin", foreign),
        ])
        .await;
        repository.remove_key(&name("a"), &request()).await.unwrap();
        let error = repository.remove_key(&name("b"), &request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("b is the last way in"), "{error}");
        repository.remove_key(&name("plugin"), &request()).await.unwrap();
        assert_eq!(names(&storage).await, ["b"]);
        let missing = repository.remove_key(&name("a"), &request()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_change_touches_its_own_file_alone() {
        let (repository, storage) =
            repository_with(&[("a", wrapped(&cheap("old"))), ("b", wrapped(&cheap("other")))]).await;
        let other = storage.read(&file_key(&name("b"))).await.unwrap();
        repository.change_key(&name("a"), wrapped(&cheap("new")), &request()).await.unwrap();
        assert_eq!(storage.read(&file_key(&name("b"))).await.unwrap(), other);
        assert_eq!(opens(&storage, knowing("new")).await, "a");
        refused(&storage, knowing("old")).await;
        let missing = repository.change_key(&name("c"), other, &request()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(names(&storage).await, ["a", "b"]);
    }

    /// What is done to the key files `a` and `b`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Change {
        Add,
        Replace,
        Remove,
    }

    async fn change(storage: Arc<dyn Storage>, change: Change, new: Bytes) -> Result<ChangedKeys> {
        let repository = Repository::open(storage).await?;
        match change {
            Change::Add => repository.add_key(&name("c"), new, &request()).await,
            Change::Replace => repository.change_key(&name("a"), new, &request()).await,
            Change::Remove => repository.remove_key(&name("a"), &request()).await,
        }
    }

    #[tokio::test]
    async fn a_death_at_any_call_of_a_change_leaves_each_file_as_it_was_or_as_it_shall_be() {
        let [old, other, new] = ["old", "other", "new"].map(|text| wrapped(&cheap(text)));
        let ways = [("a", old.clone()), ("b", other.clone())];
        for deed in [Change::Add, Change::Replace, Change::Remove] {
            let (_, storage) = repository_with(&ways).await;
            let counting = FaultStorage::new(Arc::new(storage));
            change(Arc::new(counting.clone()), deed, new.clone()).await.unwrap();
            for number in 1..=counting.call_count() {
                for fault in [Fault::StopBefore, Fault::StopAfter, Fault::After(StorageErrorKind::Connection)]
                {
                    let case = format!("{deed:?}: {fault:?} at call {number}");
                    let (_, storage) = repository_with(&ways).await;
                    let faulty = FaultStorage::new(Arc::new(storage.clone()));
                    faulty.at_call(number, fault);
                    let is_done = change(Arc::new(faulty), deed, new.clone()).await.is_ok();
                    let found = |text: &'static str| {
                        let storage = storage.clone();
                        async move { storage.read(&file_key(&name(text))).await.ok() }
                    };
                    assert_eq!(found("b").await.as_ref(), Some(&other), "{case}");
                    let (a, c) = (found("a").await, found("c").await);
                    let before = a.as_ref() == Some(&old) && c.is_none();
                    let after = match deed {
                        Change::Add => a.as_ref() == Some(&old) && c.as_ref() == Some(&new),
                        Change::Replace => a.as_ref() == Some(&new) && c.is_none(),
                        Change::Remove => a.is_none() && c.is_none(),
                    };
                    assert!(after || before && !is_done, "{case}: done: {is_done}, {a:?} {c:?}");
                }
            }
        }
    }
}
