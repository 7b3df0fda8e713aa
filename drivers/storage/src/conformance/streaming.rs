//! Streamed objects: invisible until sealed, create-only like any other, and gone when given up.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::publishing::expect_winners;
use super::{Broken, RACERS, Subject, Verdict, ensure, expect_bytes, expect_kind, key, listed, pattern};
use crate::{ErrorKind, Key, Prefix};

/// A little more than a pack, and no multiple of anything.
const LARGE_BYTES: usize = (40 << 20) + 12_345;

pub(super) async fn pieces_of_any_size_make_one_object(subject: &Subject) -> Verdict {
    let (key, whole) = (key("packs/01/pieces.mvpack"), pattern(1, 6 << 20));
    let mut staged = subject.storage.stage(&key).await?;
    let sizes = [1_024, 0, 1, 1 << 20, 17, 3 << 20, 4_096, 65_535];
    let mut rest = whole.clone();
    for size in sizes.into_iter().chain(std::iter::repeat(1_024)) {
        if rest.is_empty() {
            break;
        }
        staged.write(rest.split_to(size.min(rest.len()))).await?;
    }
    staged.seal().await?;
    expect_bytes(&*subject.storage, &key, &whole).await?;
    expect_bytes(&*subject.other, &key, &whole).await
}

pub(super) async fn a_large_object_streams(subject: &Subject) -> Verdict {
    let (key, whole) = (key("packs/01/large.mvpack"), pattern(2, LARGE_BYTES));
    let mut staged = subject.storage.stage(&key).await?;
    let mut rest = whole.clone();
    while !rest.is_empty() {
        staged.write(rest.split_to(rest.len().min((1 << 20) + 7))).await?;
    }
    staged.seal().await?;
    ensure!(subject.storage.stat(&key).await?.size_bytes == LARGE_BYTES as u64, "the size is another");
    let ranges = [0..8 << 20, 8 << 20..40 << 20, 40 << 20..LARGE_BYTES as u64];
    let found = subject.other.read_ranges(&key, &ranges).await?;
    for (range, found) in ranges.into_iter().zip(found) {
        ensure!(found == whole[range.start as usize..range.end as usize], "{range:?} holds other bytes");
    }
    Ok(())
}

pub(super) async fn nothing_is_visible_before_the_seal(subject: &Subject) -> Verdict {
    let key = key("packs/01/unsealed.mvpack");
    let mut staged = subject.storage.stage(&key).await?;
    for round in 0..3 {
        staged.write(pattern(round, 3 << 20)).await?;
        for client in [&subject.storage, &subject.other] {
            expect_kind("read", client.read(&key).await, ErrorKind::NotFound)?;
            expect_kind("stat", client.stat(&key).await, ErrorKind::NotFound)?;
        }
    }
    staged.seal().await?;
    ensure!(subject.other.stat(&key).await?.size_bytes == 9 << 20, "sealed, and not whole");
    Ok(())
}

pub(super) async fn seal_refuses_a_taken_key(subject: &Subject) -> Verdict {
    let key = key("packs/01/taken.mvpack");
    let mut early = subject.storage.stage(&key).await?;
    early.write(pattern(3, 5_000)).await?;
    subject.other.create(&key, pattern(4, 100)).await?;
    expect_kind("seal", early.seal().await, ErrorKind::AlreadyExists)?;
    // A driver may notice as early as here that the key is taken.
    let late = match subject.storage.stage(&key).await {
        Ok(late) => late.seal().await,
        Err(error) => Err(error),
    };
    expect_kind("seal", late, ErrorKind::AlreadyExists)?;
    expect_bytes(&*subject.storage, &key, &pattern(4, 100)).await?;
    ensure!(listed(&*subject.storage, &Prefix::root()).await?.len() == 1, "the refused one is listed");
    expect_nothing_to_sweep(subject).await
}

pub(super) async fn seal_has_one_winner(subject: &Subject) -> Verdict {
    let key = key("packs/01/race.mvpack");
    let mut racers = JoinSet::new();
    for racer in 0..RACERS {
        let mut staged = subject.client(racer).stage(&key).await?;
        staged.write(racer_bytes(racer)).await?;
        racers.spawn(async move { (racer, staged.seal().await) });
    }
    expect_winners(subject, &key, racers, racer_bytes).await?;
    ensure!(listed(&*subject.storage, &Prefix::root()).await?.len() == 1, "the losers left objects behind");
    expect_nothing_to_sweep(subject).await
}

fn racer_bytes(racer: usize) -> Bytes {
    pattern(racer as u64, 100_000 + racer)
}

pub(super) async fn a_dropped_upload_leaves_nothing_visible(subject: &Subject) -> Verdict {
    let key = key("packs/01/dropped.mvpack");
    for bytes in [0, 10, 9 << 20] {
        let mut staged = subject.storage.stage(&key).await?;
        staged.write(pattern(5, bytes)).await?;
        drop(staged);
        expect_gone(subject, &key).await?;
    }
    subject.other.create(&key, pattern(6, 10)).await?;
    expect_bytes(&*subject.storage, &key, &pattern(6, 10)).await
}

pub(super) async fn a_discarded_upload_leaves_nothing(subject: &Subject) -> Verdict {
    let key = key("packs/01/discarded.mvpack");
    for bytes in [0, 10, 9 << 20] {
        let mut staged = subject.storage.stage(&key).await?;
        staged.write(pattern(7, bytes)).await?;
        staged.discard().await?;
        expect_gone(subject, &key).await?;
        expect_nothing_to_sweep(subject).await?;
    }
    Ok(())
}

async fn expect_gone(subject: &Subject, key: &Key) -> Verdict {
    expect_kind("read", subject.storage.read(key).await, ErrorKind::NotFound)?;
    let found = listed(&*subject.storage, &Prefix::root()).await?;
    ensure!(found.is_empty(), "listed, though given up: {found:?}");
    Ok(())
}

async fn expect_nothing_to_sweep(subject: &Subject) -> Verdict {
    let removed = subject.storage.sweep(Duration::ZERO).await?.removed;
    if removed != 0 {
        return Err(Broken(format!("{removed} uploads were left for the sweep")));
    }
    Ok(())
}
