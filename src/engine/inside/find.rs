//! find: where in one snapshot, or in all, a file lies whose path matches.

use super::ls::{ENTRIES_MAX, expect_few};
use super::pattern::Patterns;
use super::report::{FindReport, Found, Unsearched};
use super::{Inside, Reach, Wanted, look};
use crate::engine::{Context, ReadLocking, Selection};
use crate::repo::Repository;
use crate::{ErrorKind, Result};

/// What `find` is asked for.
#[derive(Debug, Clone)]
pub struct FindOptions {
    /// What to look for.
    pub patterns: Patterns,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// Searches one snapshot or all, oldest first. Of all, one that cannot be read keeps no other from being searched.
pub async fn find(
    repository: &Repository,
    selection: Selection,
    options: &FindOptions,
    context: &Context,
) -> Result<FindReport> {
    let work = async |inside: &Inside| match &selection {
        Selection::All => all(inside, options, context).await,
        one => {
            let mut report = FindReport { snapshots: 1, found: vec![], problems: vec![], warnings: vec![] };
            let id = inside.snapshot(one).await?.id().to_owned();
            search(inside, &id, options, &mut report).await?;
            Ok(report)
        }
    };
    let (mut report, warnings) =
        look(repository, "find", (Reach::Few, options.locking), context, work).await?;
    report.warnings.extend(warnings);
    Ok(report)
}

async fn all(inside: &Inside, options: &FindOptions, context: &Context) -> Result<FindReport> {
    let mut report = FindReport { snapshots: 0, found: vec![], problems: vec![], warnings: vec![] };
    for name in inside.snapshots() {
        context.cancel.check()?;
        match search(inside, &name, options, &mut report).await {
            Ok(()) => report.snapshots += 1,
            Err(error) if error.is_inconclusive() || error.kind() == ErrorKind::Refused => return Err(error),
            Err(error) => report.problems.push(Unsearched { snapshot: name, problem: error.chain() }),
        }
    }
    Ok(report)
}

async fn search(inside: &Inside, name: &str, options: &FindOptions, report: &mut FindReport) -> Result<()> {
    let snapshot = inside.named(name).await?;
    let wanted = Wanted { attachments: true, extras: true, attributes: true };
    let mut warnings = Vec::new();
    let tree = snapshot.tree(wanted, &mut warnings).await?;
    let room = ENTRIES_MAX + 1 - report.found.len();
    let found = tree.files().map(|(entry, _)| entry).filter(|entry| options.patterns.matches(&entry.path));
    let found = found.take(room).map(|entry| Found { snapshot: name.to_owned(), entry });
    report.found.extend(found);
    report.warnings.extend(warnings.into_iter().map(|warning| format!("snapshot {name}: {warning}")));
    expect_few(report.found.len())
}
