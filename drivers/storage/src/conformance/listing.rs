//! Listing: complete, confined to its prefix, and blind to what is unfinished.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::{
    Broken, CLOCK_GRAIN, Subject, Verdict, apart, ensure, folder, key, listed, listed_keys, pattern,
};
use crate::{Key, ObjectMeta, Prefix};

/// More than two pages of the stores that page by a thousand.
const OBJECTS: usize = 2_500;

/// How many of them are created side by side.
const CREATES_AT_ONCE: usize = 32;

pub(super) async fn a_list_of_nothing_is_empty(subject: &Subject) -> Verdict {
    for prefix in [Prefix::root(), folder("nothing"), folder("no/such/folder")] {
        ensure!(listed(&*subject.storage, &prefix).await?.is_empty(), "{prefix} of an empty storage is not");
    }
    subject.storage.create(&key("object"), pattern(1, 10)).await?;
    let below = listed(&*subject.storage, &folder("object")).await?;
    ensure!(below.is_empty(), "an object is listed below itself: {below:?}");
    Ok(())
}

pub(super) async fn a_list_shows_everything_published_before(subject: &Subject) -> Verdict {
    let names: Vec<_> = (0..OBJECTS).map(|number| format!("many/{:02x}/{number:05}", number % 7)).collect();
    stream::iter(names.iter().enumerate())
        .map(Ok)
        .try_for_each_concurrent(CREATES_AT_ONCE, |(number, name)| async move {
            subject.client(number).create(&key(name), pattern(number as u64, 16)).await
        })
        .await?;
    let mut expected = names.clone();
    expected.sort();
    for prefix in [Prefix::root(), folder("many")] {
        let found = listed_keys(&*subject.storage, &prefix).await?;
        ensure!(found == expected, "{} of {OBJECTS} objects listed below {prefix}", found.len());
    }
    let one = listed_keys(&*subject.other, &folder("many/03")).await?;
    expected.retain(|name| name.starts_with("many/03/"));
    ensure!(one == expected, "{} of {} objects listed below many/03", one.len(), expected.len());
    Ok(())
}

pub(super) async fn a_list_keeps_to_its_prefix(subject: &Subject) -> Verdict {
    for name in ["packs/01/a", "packs/01/b", "packs/02/c", "packs2/d", "pack", "packs-e", "z/packs/01/f"] {
        subject.storage.create(&key(name), pattern(2, 8)).await?;
    }
    let found = listed_keys(&*subject.storage, &folder("packs")).await?;
    ensure!(found == ["packs/01/a", "packs/01/b", "packs/02/c"], "listed below packs: {found:?}");
    let found = listed_keys(&*subject.storage, &folder("packs/01")).await?;
    ensure!(found == ["packs/01/a", "packs/01/b"], "listed below packs/01: {found:?}");
    let found = listed_keys(&*subject.storage, &folder("packs/0")).await?;
    ensure!(found.is_empty(), "listed below packs/0: {found:?}");
    ensure!(
        listed(&*subject.storage, &Prefix::root()).await?.len() == 7,
        "not all are listed below the root"
    );
    Ok(())
}

pub(super) async fn a_list_tells_the_sizes_that_stat_tells(subject: &Subject) -> Verdict {
    for (key, listed, stat) in listed_and_stat(subject).await? {
        ensure!(listed.size_bytes == stat.size_bytes, "{key}: listed {listed:?}, stat {stat:?}");
    }
    Ok(())
}

pub(super) async fn a_list_tells_the_times_that_stat_tells(subject: &Subject) -> Verdict {
    for (key, listed, stat) in listed_and_stat(subject).await? {
        let is_same = apart(listed.modified, stat.modified) < CLOCK_GRAIN;
        ensure!(is_same, "{key}: listed {listed:?}, stat {stat:?}");
    }
    Ok(())
}

/// Returns what a list tells of some objects that were just made, and what a look at each tells.
async fn listed_and_stat(
    subject: &Subject,
) -> std::result::Result<Vec<(Key, ObjectMeta, ObjectMeta)>, Broken> {
    for len in [0, 1, 1_000, 70_000] {
        subject.storage.create(&key(&format!("sizes/{len}")), pattern(3, len)).await?;
    }
    let objects = listed(&*subject.storage, &folder("sizes")).await?;
    ensure!(objects.len() == 4, "{} of 4 objects listed", objects.len());
    let mut found = Vec::new();
    for object in objects {
        let stat = subject.storage.stat(&object.key).await?;
        found.push((object.key, object.meta, stat));
    }
    Ok(found)
}

pub(super) async fn a_list_leaves_out_unfinished_uploads(subject: &Subject) -> Verdict {
    subject.storage.create(&key("packs/01/done.mvpack"), pattern(4, 100)).await?;
    let mut large = subject.storage.stage(&key("packs/01/large.mvpack")).await?;
    large.write(pattern(5, 9 << 20)).await?;
    let mut small = subject.storage.stage(&key("snapshots/small")).await?;
    small.write(pattern(6, 10)).await?;
    for prefix in
        [Prefix::root(), folder("packs"), folder("packs/01"), folder("snapshots"), folder("staging")]
    {
        for client in [&subject.storage, &subject.other] {
            let mut found = listed_keys(&**client, &prefix).await?;
            found.retain(|name| name != "packs/01/done.mvpack");
            ensure!(found.is_empty(), "unfinished, yet listed below {prefix}: {found:?}");
        }
    }
    large.discard().await?;
    small.discard().await?;
    Ok(())
}
