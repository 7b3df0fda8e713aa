//! The contract as one list of rules, the same for every driver and every wrapper.
//!
//! A driver hands over a [`Factory`] and runs the whole list; it cannot pick. What a store may answer in
//! two ways (a rename it does not have, an object below an object) is settled inside the rule, by what the
//! driver answers. Each rule gets a fresh, empty storage, and a second client of it, which may be the same.

mod changing;
mod listing;
mod publishing;
mod reading;
mod replacing;
mod streaming;
mod sweeping;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::{Error, ErrorKind, Key, ListedObject, Prefix, Storage};

/// How long one rule may take before it counts as broken.
const RULE_SECONDS_MAX: u64 = 300;

/// How many rules run side by side.
const RULES_AT_ONCE: usize = 4;

/// How far apart two readings of one clock may be rounded: some stores keep whole seconds.
const CLOCK_GRAIN: Duration = Duration::from_secs(1);

/// How many writers meet in a race.
const RACERS: usize = 16;

/// Makes storages for the rules.
#[async_trait]
pub trait Factory: Send + Sync {
    /// Makes a new, empty storage that no other rule sees.
    async fn fresh(&self) -> crate::Result<Subject>;
}

/// The storage a rule is tried on.
pub struct Subject {
    storage: Arc<dyn Storage>,
    other: Arc<dyn Storage>,
    _keep: Option<Box<dyn Any + Send + Sync>>,
}

impl Subject {
    /// Makes a subject whose second client is the first.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { other: Arc::clone(&storage), storage, _keep: None }
    }

    /// Adds a second client of the same place, as another process would open it.
    pub fn with_other_client(mut self, other: Arc<dyn Storage>) -> Self {
        self.other = other;
        self
    }

    /// Keeps a value, such as a temporary folder, as long as the subject is in use.
    pub fn keeping(mut self, value: impl Any + Send + Sync) -> Self {
        self._keep = Some(Box::new(value));
        self
    }

    /// Returns one of the two clients, by turns.
    fn client(&self, number: usize) -> Arc<dyn Storage> {
        Arc::clone(if number.is_multiple_of(2) { &self.storage } else { &self.other })
    }
}

/// How a rule was broken.
#[derive(Debug)]
pub struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        let mut text = format!("{error} ({kind:?})");
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        Self(text)
    }
}

/// Whether a rule was kept.
pub type Verdict = std::result::Result<(), Broken>;

/// One promise of the contract.
#[derive(Clone, Copy)]
pub struct Rule {
    /// The promise as a sentence.
    pub name: &'static str,
    check: fn(Subject) -> BoxFuture<'static, Verdict>,
}

impl Rule {
    /// Tries the rule on a fresh storage.
    pub async fn check(&self, factory: &dyn Factory) -> Verdict {
        let subject = factory.fresh().await?;
        let limit = Duration::from_secs(RULE_SECONDS_MAX);
        // A task of its own, so that a panic is this rule's and not the end of the list.
        match tokio::time::timeout(limit, tokio::spawn((self.check)(subject))).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(panic)) => Err(Broken(format!("it ended with {panic}"))),
            Err(_) => Err(Broken(format!("it was not through after {RULE_SECONDS_MAX} s"))),
        }
    }
}

/// What a run of the list found.
#[derive(Debug, Default)]
pub struct Report {
    /// The names of the rules that were kept.
    pub kept: Vec<&'static str>,
    /// The names of the rules that were broken, and how.
    pub broken: Vec<(&'static str, Broken)>,
}

impl Report {
    /// Panics with the name of every broken rule, if there is one.
    pub fn assert_all_kept(&self) {
        assert!(self.broken.is_empty(), "{self}");
        assert_eq!(self.kept.len(), rules().len(), "not every rule was tried");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} rules kept", self.kept.len(), self.kept.len() + self.broken.len())?;
        for (name, broken) in &self.broken {
            write!(f, "\n  {name}: {broken}")?;
        }
        Ok(())
    }
}

/// Tries every rule on a storage of its own.
pub async fn run(factory: &dyn Factory) -> Report {
    let verdicts = stream::iter(rules()).map(|rule| async move { (rule.name, rule.check(factory).await) });
    let mut verdicts = verdicts.buffered(RULES_AT_ONCE);
    let mut report = Report::default();
    while let Some((name, verdict)) = verdicts.next().await {
        match verdict {
            Ok(()) => report.kept.push(name),
            Err(broken) => report.broken.push((name, broken)),
        }
    }
    report
}

macro_rules! rules {
    ($($module:ident: $($name:ident)*;)*) => {
        vec![$($(Rule {
            name: stringify!($name),
            check: |subject| Box::pin(async move { $module::$name(&subject).await }),
        }),*),*]
    };
}

/// Returns the whole list.
pub fn rules() -> Vec<Rule> {
    rules! {
        reading:
            read_returns_exactly_the_bytes
            whatever_is_missing_is_not_found
            a_range_returns_exactly_its_bytes
            a_range_beyond_the_end_is_short
            a_huge_range_is_refused_at_once
            the_start_of_an_object_is_as_much_as_there_is
            ranges_come_in_the_order_asked_for
            one_short_range_fails_all_ranges
            an_empty_object_is_an_object
            odd_names_are_kept_apart
            an_object_below_an_object_harms_neither
            a_folder_is_no_object
            now_is_the_clock_of_the_objects
            a_made_folder_is_no_object;
        listing:
            a_list_of_nothing_is_empty
            a_list_shows_everything_published_before
            a_list_keeps_to_its_prefix
            a_list_tells_the_sizes_that_stat_tells
            a_list_tells_the_times_that_stat_tells
            a_list_leaves_out_unfinished_uploads;
        publishing:
            create_refuses_a_taken_key
            create_has_one_winner
            create_succeeds_side_by_side_in_a_new_folder
            a_created_object_is_whole_when_it_is_first_seen
            a_removed_key_can_be_created_again;
        replacing:
            replace_makes_and_overwrites
            replace_shows_old_or_new_at_any_instant
            racing_replaces_leave_one_of_them;
        streaming:
            pieces_of_any_size_make_one_object
            a_large_object_streams
            nothing_is_visible_before_the_seal
            seal_refuses_a_taken_key
            seal_has_one_winner
            a_dropped_upload_leaves_nothing_visible
            a_discarded_upload_leaves_nothing;
        changing:
            touch_moves_the_time_and_nothing_else
            touch_refuses_other_bytes
            rename_keeps_bytes_and_time
            rename_refuses_a_taken_name
            rename_has_one_winner
            rename_to_one_name_has_one_winner
            many_are_removed_at_once_and_nothing_else
            what_is_gone_already_keeps_nothing_from_being_removed
            remove_is_reported_once;
        sweeping:
            a_sweep_removes_abandoned_uploads
            a_sweep_spares_young_uploads
            a_sweep_spares_every_object;
    }
}

/// Breaks the rule with the message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Broken(format!($($message)+)));
        }
    };
}
use ensure;

fn key(text: &str) -> Key {
    Key::parse(text).expect("the rules use valid keys")
}

fn folder(text: &str) -> Prefix {
    Prefix::folder(text).expect("the rules use valid folders")
}

/// Returns bytes that differ at every place from those of another seed, and from a shifted copy.
fn pattern(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}

/// Breaks the rule unless the result is an error of the kind.
fn expect_kind<T: fmt::Debug>(what: &str, result: crate::Result<T>, kind: ErrorKind) -> Verdict {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(Broken(format!("{what}: not {kind:?} but {:?}: {error}", error.kind()))),
        Ok(value) => {
            let mut value = format!("{value:?}");
            value.truncate(value.floor_char_boundary(200));
            Err(Broken(format!("{what}: not {kind:?} but {value}")))
        }
    }
}

/// Breaks the rule unless the object holds exactly these bytes.
async fn expect_bytes(storage: &dyn Storage, key: &Key, bytes: &[u8]) -> Verdict {
    let found = storage.read(key).await?;
    ensure!(found == bytes, "{key} holds {} bytes that are not the {} expected", found.len(), bytes.len());
    Ok(())
}

async fn listed(storage: &dyn Storage, prefix: &Prefix) -> crate::Result<Vec<ListedObject>> {
    storage.list(prefix).try_collect().await
}

/// Returns the keys below the prefix, sorted.
async fn listed_keys(storage: &dyn Storage, prefix: &Prefix) -> crate::Result<Vec<String>> {
    let mut keys: Vec<_> =
        listed(storage, prefix).await?.into_iter().map(|object| object.key.to_string()).collect();
    keys.sort();
    Ok(keys)
}

/// Returns how far apart the times are.
fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|reversed| reversed.duration())
}
