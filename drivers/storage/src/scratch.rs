//! The scratch objects of probes on stores without folders: their names, their removal, and what becomes of those
//! that a killed probe left.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use crate::{Error, ErrorKind, Key, ObjectMeta, Prefix, Result, Storage, SweepReport};

/// The folder below which every probe has one of its own; no name of the repository format.
const FOLDER: &str = "packvault-probe";

/// The hexadecimal digits of a probe's own folder.
const DIGITS: usize = 16;

/// How many objects a sweep looks at: what dozens of probes leave. The rest is for the next one.
const LISTED_MAX: usize = 1000;

/// How often a look for what is to be removed is begun.
const ATTEMPTS_MAX: u32 = 3;

/// The pause before the next look.
const PAUSE: Duration = Duration::from_secs(1);

/// Returns the name of a folder for one probe, as a key without a slash at its end.
pub fn scratch_folder() -> String {
    format!("{FOLDER}/{:0DIGITS$x}", fastrand::u64(..))
}

/// Removes what a probe wrote, which ended with that error or with none; `remove` looks for it once and removes it.
///
/// A write whose answer was lost may arrive after the first look, so after an error that may be of this kind there
/// is a second one. A look that a broken line or a busy server ends is taken again. One that nobody answers in time
/// is not: it has taken long enough, and what it leaves is for [`sweep_scratch`].
pub async fn clean_scratch<F: Future<Output = Result<()>>>(
    ended: Option<&Error>,
    remove: impl Fn() -> F,
) -> Result<()> {
    let mut looks = if ended.is_some_and(|error| error.kind().is_passing()) { 2 } else { 1 };
    let mut attempts = 1;
    loop {
        match remove().await {
            Ok(()) if looks == 1 => return Ok(()),
            Ok(()) => looks -= 1,
            Err(error) if is_quick(&error) && attempts < ATTEMPTS_MAX => attempts += 1,
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells whether the error may pass and did not take all the time that a server has for an answer.
fn is_quick(error: &Error) -> bool {
    error.kind().is_passing() && error.kind() != ErrorKind::Timeout
}

/// Removes the scratch objects of at least that age, of the first thousand objects of their folder. Those of
/// other names in it are left alone, for they are somebody else's.
pub async fn sweep_scratch(storage: &dyn Storage, older_than: Duration) -> Result<SweepReport> {
    let mut report = SweepReport::default();
    let Ok(folder) = Prefix::folder(FOLDER) else { return Ok(report) };
    let objects: Vec<_> = storage.list(&folder).take(LISTED_MAX).try_collect().await?;
    // The list has just told the time, where answers do.
    let now = storage.now().await?;
    let is_old = |meta: ObjectMeta| now.duration_since(meta.modified).unwrap_or_default() >= older_than;
    for object in objects.into_iter().filter(|object| is_scratch(&object.key) && is_old(object.meta)) {
        match storage.remove(&object.key).await {
            Ok(()) => report.removed += 1,
            // The probe is alive after all, or another sweep was there first.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

fn is_scratch(key: &Key) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match key.parts().collect::<Vec<_>>()[..] {
        [FOLDER, probe, _] => probe.len() == DIGITS && probe.bytes().all(is_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::SystemTime;

    use super::*;
    use crate::{MemoryStorage, Operation};

    const HOUR: Duration = Duration::from_secs(3600);

    async fn names(storage: &MemoryStorage) -> Vec<String> {
        let listed: Vec<_> = storage.list(&Prefix::root()).try_collect().await.unwrap();
        let mut names: Vec<_> = listed.into_iter().map(|object| object.key.to_string()).collect();
        names.sort();
        names
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_is_begun_anew_and_looks_twice_where_a_write_may_be_late() {
        use ErrorKind::{Connection, Denied, Throttled, Timeout};
        /// How the probe ended, the looks that fail, how many looks there are, and how they end.
        type Case<'a> = (Option<ErrorKind>, &'a [ErrorKind], usize, Option<ErrorKind>);
        let cases: [Case<'_>; 9] = [
            (None, &[], 1, None),
            (Some(Denied), &[], 1, None),
            (Some(Connection), &[], 2, None),
            (Some(Timeout), &[], 2, None),
            (Some(Connection), &[Connection, Throttled], 4, None),
            (None, &[Connection], 2, None),
            (None, &[Connection, Connection, Throttled], 3, Some(Throttled)),
            (Some(Connection), &[Timeout], 1, Some(Timeout)),
            (None, &[Denied], 1, Some(Denied)),
        ];
        let error = |kind| Error::new(kind, Operation::Open, "here", "as the test wants it");
        for (ended, failures, looks, result) in cases {
            let asked = Cell::new(0);
            let remove = async || {
                asked.set(asked.get() + 1);
                failures.get(asked.get() - 1).map_or(Ok(()), |kind| Err(error(*kind)))
            };
            let cleaned = clean_scratch(ended.map(error).as_ref(), remove).await;
            let cleaned = cleaned.err().map(|error| error.kind());
            assert_eq!((asked.get(), cleaned), (looks, result), "{ended:?}, {failures:?}");
        }
    }

    #[tokio::test]
    async fn what_a_killed_probe_left_goes_when_it_is_old_and_nothing_else_does() {
        let storage = MemoryStorage::new();
        storage.set_clock(SystemTime::now());
        let kept = [
            "packs/01/a".to_owned(),
            format!("{FOLDER}/notes"),
            format!("{FOLDER}/holiday/photo"),
            format!("{FOLDER}/0123456789ABCDEF/object"),
            format!("{FOLDER}/0123456789abcdef/sub/object"),
            format!("{FOLDER}/0123456789abcdef0/object"),
        ];
        let old = ["object", "listed-0"].map(|name| format!("{}/{name}", scratch_folder()));
        for name in kept.iter().chain(&old) {
            storage.create(&Key::parse(name).unwrap(), "x".into()).await.unwrap();
        }
        assert_eq!(sweep_scratch(&storage, HOUR).await.unwrap().removed, 0);
        storage.advance_clock(HOUR);
        let young = format!("{}/object", scratch_folder());
        storage.create(&Key::parse(&young).unwrap(), "x".into()).await.unwrap();
        assert_eq!(sweep_scratch(&storage, HOUR).await.unwrap().removed, 2);
        let mut left: Vec<_> = kept.into_iter().chain([young]).collect();
        left.sort();
        assert_eq!(names(&storage).await, left);
    }

    #[tokio::test]
    async fn a_sweep_ends_however_much_lies_there_and_the_next_goes_on() {
        let storage = MemoryStorage::new();
        let folder = scratch_folder();
        for number in 0..LISTED_MAX + 5 {
            storage.create(&Key::parse(format!("{folder}/{number}")).unwrap(), "x".into()).await.unwrap();
        }
        for removed in [LISTED_MAX as u64, 5, 0] {
            assert_eq!(sweep_scratch(&storage, Duration::ZERO).await.unwrap().removed, removed);
        }
    }
}
