//! Replacement: old bytes or new ones at any instant, never a mix, never nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::{Broken, RACERS, Subject, Verdict, ensure, expect_bytes, key, listed, pattern};
use crate::{Prefix, Storage};

/// How often the object is replaced under its readers.
const REPLACES: u64 = 40;

/// How many readers watch.
const READERS: usize = 3;

pub(super) async fn replace_makes_and_overwrites(subject: &Subject) -> Verdict {
    let key = key("folder/config.toml");
    for (round, len) in [100, 5_000, 0, 1, 200_000].into_iter().enumerate() {
        subject.storage.replace(&key, pattern(round as u64, len)).await?;
        expect_bytes(&*subject.storage, &key, &pattern(round as u64, len)).await?;
        expect_bytes(&*subject.other, &key, &pattern(round as u64, len)).await?;
    }
    ensure!(
        listed(&*subject.storage, &Prefix::root()).await?.len() == 1,
        "the replaced ones are listed still"
    );
    Ok(())
}

pub(super) async fn replace_shows_old_or_new_at_any_instant(subject: &Subject) -> Verdict {
    let key = key("config.toml");
    subject.storage.create(&key, version(0)).await?;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let (client, key, is_over) = (subject.client(number), key.clone(), Arc::clone(&is_over));
        readers.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                watch(&*client, &key).await?;
                tokio::task::yield_now().await;
            }
            Ok::<_, Broken>(())
        });
    }
    let mut outcome = Ok(());
    for number in 1..=REPLACES {
        outcome = outcome.and(subject.storage.replace(&key, version(number)).await);
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(reader) = readers.join_next().await {
        reader.map_err(|panic| Broken(format!("a reader ended with {panic}")))??;
    }
    outcome?;
    expect_bytes(&*subject.other, &key, &version(REPLACES)).await
}

/// Each version says in its first bytes which one it is, and differs in length from the others.
fn version(number: u64) -> bytes::Bytes {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend_from_slice(&pattern(number, 60_000 + number as usize));
    bytes.into()
}

async fn watch(client: &dyn Storage, key: &crate::Key) -> Verdict {
    let found = client.read(key).await?;
    let Some(number) = found.first_chunk().map(|first| u64::from_le_bytes(*first)) else {
        return Err(Broken(format!("{} bytes were to be seen", found.len())));
    };
    ensure!(
        number <= REPLACES && found == version(number),
        "a mix of versions was to be seen, {number} first"
    );
    Ok(())
}

pub(super) async fn racing_replaces_leave_one_of_them(subject: &Subject) -> Verdict {
    let key = key("config.toml");
    let mut racers = JoinSet::new();
    for racer in 0..RACERS {
        let (client, key) = (subject.client(racer), key.clone());
        racers.spawn(async move { client.replace(&key, version(racer as u64)).await });
    }
    while let Some(racer) = racers.join_next().await {
        racer.map_err(|panic| Broken(format!("a racer ended with {panic}")))??;
    }
    watch(&*subject.storage, &key).await?;
    ensure!(listed(&*subject.storage, &Prefix::root()).await?.len() == 1, "more than the object is left");
    Ok(())
}
