//! ls: what lies in a folder of a snapshot.

use super::report::{Entry, LsReport};
use super::{Reach, Wanted, look};
use crate::archive::profile::CONTENT_NAME;
use crate::engine::{Context, ReadLocking, Selection};
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// The most entries that are shown at once; `restore` and `dump` know no such bound.
pub const ENTRIES_MAX: usize = 500_000;

/// What `ls` is asked for.
#[derive(Debug, Clone, Default)]
pub struct LsOptions {
    /// The folder or file; empty for the whole.
    pub path: String,
    /// Whether every file below is shown, at any depth.
    pub recursive: bool,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// Shows what lies at a path.
pub async fn ls(
    repository: &Repository,
    selection: Selection,
    options: &LsOptions,
    context: &Context,
) -> Result<LsReport> {
    let path = plain(&options.path);
    let reach = (Reach::Few, options.locking);
    let work = async |inside: &super::Inside| {
        let snapshot = inside.snapshot(&selection).await?;
        let within = path == CONTENT_NAME || path.starts_with(&format!("{CONTENT_NAME}/"));
        let attachments = within || (options.recursive && path.is_empty());
        let mut warnings = Vec::new();
        // No extra file lies among the attachments.
        let wanted = Wanted { attachments, extras: !within, attributes: true };
        let tree = snapshot.tree(wanted, &mut warnings).await?;
        let entries = match tree.file(&path) {
            Some((entry, _)) => Some(vec![entry]),
            None if options.recursive => below(&tree, &path)?,
            None => tree.folder(&path),
        };
        let Some(entries) = entries else {
            let message = format!("snapshot {} has nothing at {path:?}", snapshot.id());
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        expect_few(entries.len())?;
        let created_at = snapshot.manifest.created_at.clone();
        Ok(LsReport { snapshot: snapshot.id().to_owned(), created_at, path: path.clone(), entries, warnings })
    };
    let (mut report, warnings) = look(repository, "ls", reach, context, work).await?;
    report.warnings.extend(warnings);
    Ok(report)
}

fn below(tree: &super::Tree, path: &str) -> Result<Option<Vec<Entry>>> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let found = tree.files().map(|(entry, _)| entry).filter(|entry| entry.path.starts_with(&prefix));
    let found: Vec<Entry> = found.take(ENTRIES_MAX + 1).collect();
    expect_few(found.len())?;
    Ok((path.is_empty() || !found.is_empty()).then_some(found))
}

/// Fails where more was found than is shown.
pub(super) fn expect_few(count: usize) -> Result<()> {
    if count <= ENTRIES_MAX {
        return Ok(());
    }
    let message = format!("there are more than {ENTRIES_MAX} entries; name a folder or a narrower pattern");
    Err(Error::new(ErrorKind::Refused, message))
}

/// Returns a path as the tree has it, from what a user may write.
pub(super) fn plain(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_written_in_several_ways() {
        for (written, path) in
            [("", ""), ("/", ""), (".", ""), ("./a//b/", "a/b"), ("/a", "a"), ("a/../b", "a/../b")]
        {
            assert_eq!(plain(written), path);
        }
    }
}
