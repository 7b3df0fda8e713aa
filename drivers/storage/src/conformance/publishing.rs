//! Create-only publication: one winner, whole, and never an overwrite.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    Broken, RACERS, Subject, Verdict, ensure, expect_bytes, expect_kind, key, listed, listed_keys, pattern,
};
use crate::{ErrorKind, Key, Prefix};

/// How often the racers meet.
const ROUNDS: usize = 8;

pub(super) async fn create_refuses_a_taken_key(subject: &Subject) -> Verdict {
    let (key, bytes) = (key("locks/exclusive.json"), pattern(1, 300));
    subject.storage.create(&key, bytes.clone()).await?;
    let before = subject.storage.stat(&key).await?;
    for other in [pattern(2, 300), pattern(2, 5), pattern(2, 0), bytes.clone()] {
        for client in [&subject.storage, &subject.other] {
            let again = client.create(&key, other.clone()).await;
            expect_kind("create again", again, ErrorKind::AlreadyExists)?;
        }
    }
    expect_bytes(&*subject.storage, &key, &bytes).await?;
    let after = subject.storage.stat(&key).await?;
    ensure!(before == after, "the refused creates left their mark: {before:?}, then {after:?}");
    Ok(())
}

pub(super) async fn create_has_one_winner(subject: &Subject) -> Verdict {
    for round in 0..ROUNDS {
        let key = key(&format!("race/{round}/object"));
        let mut racers = JoinSet::new();
        for racer in 0..RACERS {
            let (client, key) = (subject.client(racer), key.clone());
            let bytes = pattern(racer as u64, 2_000 + racer);
            racers.spawn(async move { (racer, client.create(&key, bytes).await) });
        }
        let bytes = |winner| pattern(winner as u64, 2_000 + winner);
        expect_winners(subject, &key, racers, bytes).await?;
    }
    ensure!(
        listed(&*subject.storage, &Prefix::root()).await?.len() == ROUNDS,
        "the losers left objects behind"
    );
    Ok(())
}

/// Waits for all racers to create one key, and breaks the rule unless one of them won and its bytes are
/// there; where the store promises no single winner, whole bytes of any that was told that it won.
pub(super) async fn expect_winners(
    subject: &Subject,
    key: &Key,
    racers: JoinSet<(usize, crate::Result<()>)>,
    bytes: impl Fn(usize) -> Bytes,
) -> Verdict {
    let winners = winners(racers).await?;
    if subject.storage.guarantees().create_only {
        ensure!(winners.len() == 1, "the winners are {winners:?}");
    }
    let found = subject.storage.read(key).await?;
    ensure!(winners.iter().any(|winner| bytes(*winner) == found), "{key} holds what no winner wrote");
    Ok(())
}

/// Waits for all racers and returns the only one that succeeded.
pub(super) async fn one_winner(
    racers: JoinSet<(usize, crate::Result<()>)>,
) -> std::result::Result<usize, Broken> {
    match winners(racers).await?[..] {
        [winner] => Ok(winner),
        ref winners => Err(Broken(format!("the winners are {winners:?}"))),
    }
}

/// Waits for all racers and returns those that succeeded; each other must have found the key taken.
async fn winners(mut racers: JoinSet<(usize, crate::Result<()>)>) -> std::result::Result<Vec<usize>, Broken> {
    let mut winners = Vec::new();
    while let Some(racer) = racers.join_next().await {
        match racer.map_err(|panic| Broken(format!("a racer ended with {panic}")))? {
            (racer, Ok(())) => winners.push(racer),
            (_, result) => expect_kind("a loser", result, ErrorKind::AlreadyExists)?,
        }
    }
    Ok(winners)
}

pub(super) async fn create_succeeds_side_by_side_in_a_new_folder(subject: &Subject) -> Verdict {
    let mut creates = JoinSet::new();
    for number in 0..RACERS {
        let client = subject.client(number);
        let key = key(&format!("new/{}/{number}", number % 3));
        creates.spawn(async move { client.create(&key, pattern(number as u64, 100)).await });
    }
    while let Some(created) = creates.join_next().await {
        created.map_err(|panic| Broken(format!("a create ended with {panic}")))??;
    }
    let found = listed_keys(&*subject.storage, &Prefix::root()).await?;
    ensure!(found.len() == RACERS, "{} of {RACERS} objects are there", found.len());
    Ok(())
}

pub(super) async fn a_created_object_is_whole_when_it_is_first_seen(subject: &Subject) -> Verdict {
    for round in 0..ROUNDS {
        let (key, bytes) = (key(&format!("seen/{round}")), pattern(round as u64, 3 << 20));
        let writer = {
            let (client, key, bytes) = (Arc::clone(&subject.storage), key.clone(), bytes.clone());
            tokio::spawn(async move { client.create(&key, bytes).await })
        };
        loop {
            match subject.other.read(&key).await {
                Ok(found) => {
                    ensure!(found == bytes, "{} of {} bytes were to be seen", found.len(), bytes.len());
                    break;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => tokio::task::yield_now().await,
                Err(error) => return Err(error.into()),
            }
            ensure!(
                !writer.is_finished() || subject.other.stat(&key).await.is_ok(),
                "created, and not there"
            );
        }
        writer.await.map_err(|panic| Broken(format!("the create ended with {panic}")))??;
    }
    Ok(())
}

pub(super) async fn a_removed_key_can_be_created_again(subject: &Subject) -> Verdict {
    let key = key("locks/shared.json");
    for round in 0..3 {
        subject.storage.create(&key, pattern(round, 50)).await?;
        expect_bytes(&*subject.other, &key, &pattern(round, 50)).await?;
        subject.other.remove(&key).await?;
    }
    expect_kind("read", subject.storage.read(&key).await, ErrorKind::NotFound)
}
