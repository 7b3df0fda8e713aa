//! Reading, and what every operation says of keys that hold nothing.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{
    CLOCK_GRAIN, Subject, Verdict, apart, ensure, expect_bytes, expect_kind, key, listed_keys, pattern,
};
use futures::TryStreamExt;

use crate::{ErrorKind, ListedObject, Prefix};

/// How far the clock of a store may move between two calls that follow each other.
const CALLS_APART_MAX: Duration = Duration::from_secs(60);

pub(super) async fn read_returns_exactly_the_bytes(subject: &Subject) -> Verdict {
    for (number, len) in [0, 1, 4095, 4096, 65_537, 3 << 20].into_iter().enumerate() {
        let (key, bytes) = (key(&format!("objects/{len}")), pattern(number as u64, len));
        subject.storage.create(&key, bytes.clone()).await?;
        expect_bytes(&*subject.storage, &key, &bytes).await?;
        expect_bytes(&*subject.other, &key, &bytes).await?;
        let stat = subject.storage.stat(&key).await?;
        ensure!(stat.size_bytes == len as u64, "stat tells {} of {len} bytes", stat.size_bytes);
    }
    Ok(())
}

pub(super) async fn whatever_is_missing_is_not_found(subject: &Subject) -> Verdict {
    let storage = &subject.storage;
    storage.create(&key("here/there"), pattern(1, 10)).await?;
    for missing in ["nothing", "here/nothing", "no/such/folder"].map(key) {
        let not_found = ErrorKind::NotFound;
        expect_kind("read", storage.read(&missing).await, not_found)?;
        expect_kind("read a range", storage.read_range(&missing, 0..1).await, not_found)?;
        expect_kind("read the start", storage.read_start(&missing, 1).await, not_found)?;
        expect_kind("read ranges", storage.read_ranges(&missing, &[0..1, 2..3]).await, not_found)?;
        expect_kind("stat", storage.stat(&missing).await, not_found)?;
        expect_kind("touch", storage.touch(&missing, b"bytes").await, not_found)?;
        expect_kind("remove", storage.remove(&missing).await, not_found)?;
        match storage.rename(&missing, &key("elsewhere")).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            result => expect_kind("rename", result, not_found)?,
        }
    }
    Ok(())
}

pub(super) async fn a_range_returns_exactly_its_bytes(subject: &Subject) -> Verdict {
    let (key, bytes) = (key("object"), pattern(2, 100_000));
    subject.storage.create(&key, bytes.clone()).await?;
    for range in
        [0..1, 0..100_000, 1..2, 4_095..4_097, 50_000..99_999, 99_999..100_000, 7..7, 100_000..100_000]
    {
        let found = subject.storage.read_range(&key, range.start as u64..range.end as u64).await?;
        ensure!(found == bytes[range.clone()], "{range:?} came back as {} other bytes", found.len());
    }
    Ok(())
}

pub(super) async fn the_start_of_an_object_is_as_much_as_there_is(subject: &Subject) -> Verdict {
    for len in [0usize, 1, 5_000] {
        let (key, bytes) = (key(&format!("objects/{len}")), pattern(3, len));
        subject.storage.create(&key, bytes.clone()).await?;
        for bytes_max in [0, 1, 4_999, 5_000, 5_001, u64::MAX] {
            let found = subject.storage.read_start(&key, bytes_max).await?;
            let expected = len.min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
            ensure!(found == bytes[..expected], "{bytes_max} of {len} bytes came back as {}", found.len());
        }
    }
    Ok(())
}

pub(super) async fn a_range_beyond_the_end_is_short(subject: &Subject) -> Verdict {
    let key = key("object");
    subject.storage.create(&key, pattern(3, 1_000)).await?;
    for range in [0..1_001, 999..1_001, 1_000..1_001, 1_001..1_001, 5_000..6_000, Range { start: 9, end: 3 }]
    {
        let what = format!("range {range:?} of 1000 bytes");
        expect_kind(&what, subject.storage.read_range(&key, range).await, ErrorKind::Short)?;
    }
    Ok(())
}

pub(super) async fn a_huge_range_is_refused_at_once(subject: &Subject) -> Verdict {
    let key = key("object");
    subject.storage.create(&key, pattern(4, 1_000)).await?;
    let begun = Instant::now();
    for end in [1 << 40, 1 << 62, u64::MAX] {
        expect_kind("a huge range", subject.storage.read_range(&key, 0..end).await, ErrorKind::Short)?;
        let ranges = [0..10, 10..end];
        expect_kind("huge ranges", subject.storage.read_ranges(&key, &ranges).await, ErrorKind::Short)?;
    }
    let taken = begun.elapsed();
    ensure!(taken < Duration::from_secs(30), "the refusals took {taken:?}");
    Ok(())
}

pub(super) async fn ranges_come_in_the_order_asked_for(subject: &Subject) -> Verdict {
    let (key, bytes) = (key("object"), pattern(5, 300_000));
    subject.storage.create(&key, bytes.clone()).await?;
    let asked = [200_000..300_000, 0..10, 5..15, 0..10, 150_000..150_000, 100_000..250_000, 299_999..300_000];
    let found = subject.storage.read_ranges(&key, &asked).await?;
    ensure!(found.len() == asked.len(), "{} ranges for {}", found.len(), asked.len());
    for (range, found) in asked.iter().zip(found) {
        let expected = &bytes[range.start as usize..range.end as usize];
        ensure!(found == expected, "{range:?} came back as {} other bytes", found.len());
    }
    ensure!(subject.storage.read_ranges(&key, &[]).await?.is_empty(), "no range asked for, one returned");
    Ok(())
}

pub(super) async fn one_short_range_fails_all_ranges(subject: &Subject) -> Verdict {
    let key = key("object");
    subject.storage.create(&key, pattern(6, 1_000)).await?;
    let ranges = [0..10, 995..1_005, 20..30];
    expect_kind("ranges", subject.storage.read_ranges(&key, &ranges).await, ErrorKind::Short)
}

pub(super) async fn an_empty_object_is_an_object(subject: &Subject) -> Verdict {
    let (created, sealed) = (key("empty/created"), key("empty/sealed"));
    subject.storage.create(&created, pattern(0, 0)).await?;
    subject.storage.stage(&sealed).await?.seal().await?;
    for key in [&created, &sealed] {
        expect_bytes(&*subject.storage, key, b"").await?;
        ensure!(subject.storage.stat(key).await?.size_bytes == 0, "an empty object has a size");
        ensure!(subject.storage.read_range(key, 0..0).await?.is_empty(), "an empty range has bytes");
        expect_kind("one byte", subject.storage.read_range(key, 0..1).await, ErrorKind::Short)?;
        let again = subject.storage.create(key, pattern(0, 0)).await;
        expect_kind("create again", again, ErrorKind::AlreadyExists)?;
    }
    ensure!(listed_keys(&*subject.storage, &Prefix::root()).await?.len() == 2, "not both are listed");
    Ok(())
}

pub(super) async fn odd_names_are_kept_apart(subject: &Subject) -> Verdict {
    let long = "x".repeat(200);
    let deep = ["d"; 40].join("/");
    let mut names = vec![
        "a b",
        "a+b",
        "a%20b",
        "a%2Fb",
        "%",
        "%00",
        "a&b=c",
        "a?b",
        "a#b",
        "a;b",
        "a:b",
        "a*b",
        "a\"b",
        "a'b",
        "a<b>",
        "a|b",
        "~",
        "-",
        "--a",
        "..a",
        "a..",
        "...",
        ".hidden",
        "a.",
        " a",
        "a ",
        "$HOME",
        "`a`",
        "(a)",
        "[a]",
        "{a}",
        "a@b",
        "a,b",
        "a!b",
        "a^b",
        "ü",
        "漢字",
        "🗝",
        "folder with space/ü/a b",
    ];
    names.extend([long.as_str(), deep.as_str()]);
    for (number, name) in names.iter().enumerate() {
        subject.storage.create(&key(&format!("odd/{name}")), pattern(number as u64, 64)).await?;
    }
    let mut expected: Vec<_> = names.iter().map(|name| format!("odd/{name}")).collect();
    expected.sort();
    for prefix in [Prefix::root(), super::folder("odd")] {
        let found = listed_keys(&*subject.other, &prefix).await?;
        ensure!(found == expected, "listed below {prefix}: {found:?}");
    }
    for (number, name) in names.iter().enumerate() {
        let key = key(&format!("odd/{name}"));
        expect_bytes(&*subject.other, &key, &pattern(number as u64, 64)).await?;
        ensure!(subject.storage.stat(&key).await?.size_bytes == 64, "stat of {key} is of another object");
        subject.storage.remove(&key).await?;
        expect_kind("read what was removed", subject.storage.read(&key).await, ErrorKind::NotFound)?;
    }
    Ok(())
}

/// A flat store keeps both; one with folders refuses the second. Neither may lose or change the first.
pub(super) async fn an_object_below_an_object_harms_neither(subject: &Subject) -> Verdict {
    let (above, below) = (key("above"), key("above/below"));
    let storage = &subject.storage;
    storage.create(&above, pattern(7, 100)).await?;
    expect_kind("read", storage.read(&below).await, ErrorKind::NotFound)?;
    expect_kind("stat", storage.stat(&below).await, ErrorKind::NotFound)?;
    expect_kind("remove", storage.remove(&below).await, ErrorKind::NotFound)?;
    match storage.create(&below, pattern(8, 200)).await {
        Ok(()) => expect_bytes(&**storage, &below, &pattern(8, 200)).await?,
        Err(_) => {
            expect_kind("read", storage.read(&below).await, ErrorKind::NotFound)?;
            ensure!(
                storage.replace(&below, pattern(8, 200)).await.is_err(),
                "replace did what create refused"
            );
        }
    }
    expect_bytes(&**storage, &above, &pattern(7, 100)).await
}

pub(super) async fn a_folder_is_no_object(subject: &Subject) -> Verdict {
    let (inside, folder) = (key("outer/folder/object"), key("outer/folder"));
    let storage = &subject.storage;
    storage.create(&inside, pattern(9, 100)).await?;
    expect_kind("read", storage.read(&folder).await, ErrorKind::NotFound)?;
    expect_kind("read a range", storage.read_range(&folder, 0..1).await, ErrorKind::NotFound)?;
    expect_kind("stat", storage.stat(&folder).await, ErrorKind::NotFound)?;
    expect_kind("touch", storage.touch(&folder, b"").await, ErrorKind::NotFound)?;
    expect_kind("remove", storage.remove(&folder).await, ErrorKind::NotFound)?;
    if storage.rename(&folder, &key("moved")).await.is_ok() {
        ensure!(false, "a folder was renamed as if it were an object");
    }
    expect_bytes(&**storage, &inside, &pattern(9, 100)).await
}

pub(super) async fn now_is_the_clock_of_the_objects(subject: &Subject) -> Verdict {
    let before = subject.storage.now().await?;
    subject.storage.create(&key("object"), pattern(10, 10)).await?;
    let modified = subject.storage.stat(&key("object")).await?.modified;
    let after = subject.storage.now().await?;
    let (early, late) = (before - CLOCK_GRAIN, after + CLOCK_GRAIN);
    ensure!(early <= modified && modified <= late, "{modified:?} is not between {before:?} and {after:?}");
    ensure!(apart(before, after) < CALLS_APART_MAX, "the clock jumped from {before:?} to {after:?}");
    Ok(())
}

pub(super) async fn a_made_folder_is_no_object(subject: &Subject) -> Verdict {
    let storage = &subject.storage;
    let folder = Prefix::folder("folder/below").expect("a legal folder");
    storage.make_folder(&folder).await?;
    storage.make_folder(&folder).await?;
    let objects: Vec<ListedObject> = storage.list(&Prefix::root()).try_collect().await?;
    ensure!(objects.is_empty(), "a folder was listed as an object: {objects:?}");
    storage.create(&key("folder/below/object"), pattern(12, 10)).await?;
    storage.make_folder(&folder).await?;
    expect_bytes(&**storage, &key("folder/below/object"), &pattern(12, 10)).await
}
