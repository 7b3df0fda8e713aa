//! The copies that an archive's section names: what is new goes to each of them after a backup.

use packvault::engine::copy::{CopyOptions, copy};
use packvault::engine::report::CopyReport;
use packvault::location::Purpose;
use packvault::profiles;
use packvault::repo::Repository;
use packvault::{ErrorKind, Result};

use super::session::Session;
use super::settings::Archive;
use super::two_places::{Place, expect_apart};

/// What came of one copy.
pub struct Copied {
    /// The place, as the configuration names it.
    pub name: String,
    /// What was copied, or why nothing was.
    pub outcome: Result<CopyReport>,
}

impl Copied {
    /// Tells whether everything that the source has is in the copy.
    pub fn is_whole(&self) -> bool {
        self.outcome.as_ref().is_ok_and(CopyReport::is_whole)
    }
}

/// Copies what is new to every place of the archive, one after the other; a failure does not stop the next. Prints
/// nothing: the caller says what failed.
pub async fn copy_to_all(
    archive: &Archive,
    source: &Repository,
    session: &Session,
    jobs: Option<u16>,
) -> Vec<Copied> {
    let mut all = Vec::new();
    for name in archive.copies() {
        let outcome = copy_from(source, archive, name, session, jobs).await;
        let is_stopped = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted);
        all.push(Copied { name: name.clone(), outcome });
        if is_stopped {
            break;
        }
    }
    all
}

/// Copies what is new to one place of the archive, out of its own repository, which is opened for it.
pub async fn copy_to(
    archive: &Archive,
    name: &str,
    session: &Session,
    jobs: Option<u16>,
) -> Result<CopyReport> {
    let source = session.repository(Some(archive), Purpose::Read).await?;
    copy_from(&source, archive, name, session, jobs).await
}

async fn copy_from(
    source: &Repository,
    archive: &Archive,
    name: &str,
    session: &Session,
    jobs: Option<u16>,
) -> Result<CopyReport> {
    let to = Place::named(session, "copies", name, Purpose::Work, Default::default())?;
    let (from, _) = session.chosen(Some(archive), Purpose::Read)?;
    expect_apart(&from.location, &to.choice.location)?;
    let (target, mut known) = to.enter(session).await?;
    let context = session.context(jobs);
    let report = copy(source, &target, profiles::unnamed(), &CopyOptions::default(), &context).await?;
    report.copied.iter().for_each(|copied| known.saw(&copied.id));
    Ok(report)
}

/// Says a sentence for each copy that is not whole; tells whether there is one.
pub fn warn(all: &[Copied], session: &Session) -> bool {
    for Copied { name, outcome } in all {
        match outcome {
            Err(error) => session.warn(&format!("the copy to {name} failed: {}", error.chain())),
            Ok(report) => {
                report.warnings.iter().for_each(|text| session.warn(&format!("the copy to {name}: {text}")));
                if !report.is_whole() {
                    let why = report.problems.first().map(|found| found.problem.detail.as_str());
                    session.warn(&format!(
                        "the copy to {name} is not whole: {}; see `packvault copy --from … --to {name}`",
                        why.unwrap_or("some snapshots were not copied")
                    ));
                }
            }
        }
    }
    all.iter().any(|copied| !copied.is_whole())
}
