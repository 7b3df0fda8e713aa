//! The sweep: abandoned uploads go, young ones and objects stay.
//!
//! An upload is abandoned by forgetting it, which is what a killed process does. A store that kept it in
//! its memory has nothing to remove, so the rules do not ask for a number.

use std::time::Duration;

use super::{Subject, Verdict, ensure, expect_bytes, expect_kind, key, listed, pattern};
use crate::{ErrorKind, Prefix};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) async fn a_sweep_removes_abandoned_uploads(subject: &Subject) -> Verdict {
    let removed = subject.storage.sweep(Duration::ZERO).await?.removed;
    ensure!(removed == 0, "{removed} uploads swept out of an empty storage");
    let key = key("packs/01/abandoned.mvpack");
    for bytes in [10, 9 << 20] {
        let mut staged = subject.storage.stage(&key).await?;
        staged.write(pattern(1, bytes)).await?;
        std::mem::forget(staged);
    }
    let young = subject.other.sweep(HOUR).await?.removed;
    ensure!(young == 0, "{young} young uploads were swept away");
    let removed = subject.other.sweep(Duration::ZERO).await?.removed;
    ensure!(removed <= 2, "{removed} of 2 abandoned uploads were swept away");
    let again = subject.other.sweep(Duration::ZERO).await?.removed;
    ensure!(again == 0, "{again} uploads were left by the first sweep");
    expect_kind("read", subject.storage.read(&key).await, ErrorKind::NotFound)?;
    subject.storage.create(&key, pattern(2, 10)).await?;
    expect_bytes(&*subject.storage, &key, &pattern(2, 10)).await
}

pub(super) async fn a_sweep_spares_young_uploads(subject: &Subject) -> Verdict {
    let key = key("packs/01/young.mvpack");
    let mut staged = subject.storage.stage(&key).await?;
    staged.write(pattern(3, 9 << 20)).await?;
    let removed = subject.other.sweep(HOUR).await?.removed;
    ensure!(removed == 0, "{removed} young uploads were swept away");
    staged.write(pattern(4, 100)).await?;
    staged.seal().await?;
    ensure!(subject.storage.stat(&key).await?.size_bytes == (9 << 20) + 100, "the upload lost bytes");
    Ok(())
}

pub(super) async fn a_sweep_spares_every_object(subject: &Subject) -> Verdict {
    for name in ["config.toml", "packs/01/a.mvpack", "locks/exclusive.json", "a/b/c/d"] {
        subject.storage.create(&key(name), pattern(5, 100)).await?;
    }
    let mut before = listed(&*subject.storage, &Prefix::root()).await?;
    let removed = subject.storage.sweep(Duration::ZERO).await?.removed;
    let mut after = listed(&*subject.storage, &Prefix::root()).await?;
    before.sort_by(|one, other| one.key.cmp(&other.key));
    after.sort_by(|one, other| one.key.cmp(&other.key));
    ensure!(removed == 0 && before == after, "{removed} swept away; {before:?} became {after:?}");
    Ok(())
}
