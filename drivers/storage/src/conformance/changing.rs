//! Touch, rename and remove: what locks are made of.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{
    Broken, CLOCK_GRAIN, RACERS, Subject, Verdict, ensure, expect_bytes, expect_kind, key, listed_keys,
    pattern,
};
use crate::{ErrorKind, Prefix};

/// Longer than the grain of any store's clock.
const PAUSE: Duration = Duration::from_millis(1_300);

pub(super) async fn touch_moves_the_time_and_nothing_else(subject: &Subject) -> Verdict {
    let (key, bytes) = (key("locks/exclusive.json"), pattern(1, 200));
    subject.storage.create(&key, bytes.clone()).await?;
    let before = subject.storage.stat(&key).await?;
    tokio::time::sleep(PAUSE).await;
    subject.other.touch(&key, &bytes).await?;
    let after = subject.storage.stat(&key).await?;
    let now = subject.storage.now().await?;
    ensure!(after.modified > before.modified, "the time did not move from {:?}", before.modified);
    ensure!(after.modified <= now + CLOCK_GRAIN, "the time {:?} lies after now, {now:?}", after.modified);
    ensure!(after.size_bytes == before.size_bytes, "the size changed");
    expect_bytes(&*subject.storage, &key, &bytes).await
}

pub(super) async fn touch_refuses_other_bytes(subject: &Subject) -> Verdict {
    let (key, bytes) = (key("locks/exclusive.json"), pattern(2, 200));
    subject.storage.create(&key, bytes.clone()).await?;
    let before = subject.storage.stat(&key).await?;
    tokio::time::sleep(PAUSE).await;
    for other in [pattern(3, 200), bytes.slice(..199), pattern(3, 201), pattern(3, 0)] {
        expect_kind("touch", subject.storage.touch(&key, &other).await, ErrorKind::Changed)?;
    }
    let after = subject.storage.stat(&key).await?;
    ensure!(before == after, "the object of the other party was touched: {before:?}, then {after:?}");
    expect_bytes(&*subject.storage, &key, &bytes).await
}

/// Tells whether the store renames; one that does not must leave both names as they were.
async fn can_rename(subject: &Subject) -> std::result::Result<bool, Broken> {
    let (from, to) = (key("probe/from"), key("probe/to"));
    subject.storage.create(&from, pattern(4, 10)).await?;
    let promised = subject.storage.guarantees().rename;
    let renamed = subject.storage.rename(&from, &to).await;
    ensure!(renamed.is_ok() == promised, "renames are promised: {promised}, and one gave {renamed:?}");
    match renamed {
        Ok(()) => {
            subject.storage.remove(&to).await?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            expect_bytes(&*subject.storage, &from, &pattern(4, 10)).await?;
            expect_kind("read", subject.storage.read(&to).await, ErrorKind::NotFound)?;
            expect_kind("rename again", subject.other.rename(&from, &to).await, ErrorKind::Unsupported)?;
            subject.storage.remove(&from).await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn rename_keeps_bytes_and_time(subject: &Subject) -> Verdict {
    if !can_rename(subject).await? {
        return Ok(());
    }
    let (from, to) = (key("locks/exclusive.json"), key("released/deep/releasing.json"));
    subject.storage.create(&from, pattern(5, 200)).await?;
    let before = subject.storage.stat(&from).await?;
    tokio::time::sleep(PAUSE).await;
    subject.storage.rename(&from, &to).await?;
    expect_kind("read the old name", subject.other.read(&from).await, ErrorKind::NotFound)?;
    expect_bytes(&*subject.other, &to, &pattern(5, 200)).await?;
    let after = subject.storage.stat(&to).await?;
    ensure!(before == after, "size or time changed: {before:?}, then {after:?}");
    let found = listed_keys(&*subject.storage, &Prefix::root()).await?;
    ensure!(found == [to.as_str()], "listed after the rename: {found:?}");
    Ok(())
}

pub(super) async fn rename_refuses_a_taken_name(subject: &Subject) -> Verdict {
    if !can_rename(subject).await? {
        return Ok(());
    }
    let (from, to) = (key("locks/from"), key("locks/to"));
    subject.storage.create(&from, pattern(6, 20)).await?;
    subject.storage.create(&to, pattern(7, 30)).await?;
    expect_kind("rename", subject.storage.rename(&from, &to).await, ErrorKind::AlreadyExists)?;
    expect_kind("rename to itself", subject.storage.rename(&to, &to).await, ErrorKind::AlreadyExists)?;
    expect_bytes(&*subject.storage, &from, &pattern(6, 20)).await?;
    expect_bytes(&*subject.storage, &to, &pattern(7, 30)).await
}

pub(super) async fn rename_has_one_winner(subject: &Subject) -> Verdict {
    if !can_rename(subject).await? {
        return Ok(());
    }
    let from = key("locks/from");
    for round in 0..8 {
        subject.storage.create(&from, pattern(round, 20)).await?;
        let mut racers = JoinSet::new();
        for racer in 0..RACERS {
            let (client, from) = (subject.client(racer), from.clone());
            let to = key(&format!("locks/{round}/{racer}"));
            racers.spawn(async move { (to.clone(), client.rename(&from, &to).await) });
        }
        let mut winners = Vec::new();
        while let Some(racer) = racers.join_next().await {
            match racer.map_err(|panic| Broken(format!("a racer ended with {panic}")))? {
                (to, Ok(())) => winners.push(to.to_string()),
                (_, result) => expect_kind("a loser", result, ErrorKind::NotFound)?,
            }
        }
        let found = listed_keys(&*subject.storage, &super::folder(&format!("locks/{round}"))).await?;
        ensure!(
            winners.len() == 1 && found == winners,
            "the winners are {winners:?}, and there are {found:?}"
        );
    }
    Ok(())
}

pub(super) async fn rename_to_one_name_has_one_winner(subject: &Subject) -> Verdict {
    if !can_rename(subject).await? {
        return Ok(());
    }
    let to = key("locks/to");
    for racer in 0..RACERS {
        subject.storage.create(&key(&format!("locks/from-{racer}")), pattern(racer as u64, 20)).await?;
    }
    let mut racers = JoinSet::new();
    for racer in 0..RACERS {
        let (client, to) = (subject.client(racer), to.clone());
        let from = key(&format!("locks/from-{racer}"));
        racers.spawn(async move { (racer, client.rename(&from, &to).await) });
    }
    let winner = super::publishing::one_winner(racers).await?;
    expect_bytes(&*subject.storage, &to, &pattern(winner as u64, 20)).await?;
    for racer in (0..RACERS).filter(|racer| *racer != winner) {
        expect_bytes(&*subject.storage, &key(&format!("locks/from-{racer}")), &pattern(racer as u64, 20))
            .await?;
    }
    Ok(())
}

pub(super) async fn many_are_removed_at_once_and_nothing_else(subject: &Subject) -> Verdict {
    let names = |word: &'static str| {
        (0..20).map(move |number| key(&format!("packs/0{}/{word}-{number} & <b>", number % 3)))
    };
    let (gone, stays): (Vec<_>, Vec<_>) = (names("gone").collect(), names("stays").collect());
    for key in gone.iter().chain(&stays) {
        subject.storage.create(key, pattern(10, 30)).await?;
    }
    let left = subject.other.remove_all(&gone).await?;
    ensure!(left.is_empty(), "not removed: {left:?}");
    for client in [&subject.storage, &subject.other] {
        expect_kind("read", client.read(&gone[0]).await, ErrorKind::NotFound)?;
        let mut found = listed_keys(&**client, &Prefix::root()).await?;
        let mut expected: Vec<_> = stays.iter().map(ToString::to_string).collect();
        found.sort();
        expected.sort();
        ensure!(found == expected, "listed after the removal: {found:?}");
    }
    Ok(())
}

pub(super) async fn what_is_gone_already_keeps_nothing_from_being_removed(subject: &Subject) -> Verdict {
    let (never, gone, new) = (key("packs/01/never"), key("packs/01/gone"), key("packs/01/new"));
    subject.storage.create(&gone, pattern(11, 10)).await?;
    subject.storage.remove(&gone).await?;
    subject.storage.create(&new, pattern(12, 10)).await?;
    let left = subject.storage.remove_all(&[never, gone.clone(), new.clone(), key("no/folder/here")]).await?;
    ensure!(left.is_empty(), "not removed: {left:?}");
    expect_kind("read", subject.other.read(&new).await, ErrorKind::NotFound)?;
    let left = subject.storage.remove_all(&[]).await?;
    ensure!(left.is_empty(), "of nothing is left: {left:?}");
    subject.storage.create(&gone, pattern(13, 10)).await?;
    expect_bytes(&*subject.other, &gone, &pattern(13, 10)).await
}

pub(super) async fn remove_is_reported_once(subject: &Subject) -> Verdict {
    let (gone, stays) = (key("locks/gone"), key("locks/stays"));
    subject.storage.create(&gone, pattern(8, 10)).await?;
    subject.storage.create(&stays, pattern(9, 10)).await?;
    subject.other.remove(&gone).await?;
    for client in [&subject.storage, &subject.other] {
        expect_kind("read", client.read(&gone).await, ErrorKind::NotFound)?;
        expect_kind("remove again", client.remove(&gone).await, ErrorKind::NotFound)?;
    }
    let found = listed_keys(&*subject.storage, &Prefix::root()).await?;
    ensure!(found == [stays.as_str()], "listed after the removal: {found:?}");
    Ok(())
}
