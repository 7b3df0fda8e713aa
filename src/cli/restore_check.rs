//! `packvault verify --restore-check`: restores and proves without a target.

use packvault::Result;
use packvault::engine::Selection;
use packvault::engine::report::{CheckedRestore, RestoreCheckReport};
use packvault::engine::restore_check::{Chosen, RestoreCheckOptions, restore_check};
use packvault::ledger::Drill;
use packvault::profiles;

use super::record::now_ms;
use super::report::Exit;
use super::session::Session;
use super::settings::given;
use super::verify::{Arguments, Opened};
use super::{summary, text};

/// Restores the chosen snapshots, and says what was shown.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let report = check(arguments, session).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    match report.ok {
        true => session.show(&report, shown)?,
        false => session.show_always(&report, shown)?,
    }
    Ok(if report.ok { Exit::Done } else { Exit::Problems })
}

/// Restores the chosen snapshots, and prints nothing on standard output.
pub async fn check(arguments: &Arguments, session: &Session) -> Result<RestoreCheckReport> {
    session.record().kind("restore_check");
    let scratch = match arguments.scratch() {
        Some(folder) => {
            given::refuse_tilde(folder, "--scratch", session.settings().user_home())?;
            given::refuse_in_repository(folder, "--scratch")?;
            folder.clone()
        }
        None => session.context(None).spool,
    };
    let Opened { repository, subject, selection } = arguments.open(session).await?;
    let chosen = match selection {
        _ if arguments.is_random() => Chosen::Random,
        Selection::All => Chosen::All,
        Selection::Latest => Chosen::Latest,
        Selection::One(id) => Chosen::One(id),
    };
    let options = RestoreCheckOptions {
        scratch,
        marks: session.marks(),
        chosen,
        repository: session.local_repository(subject.archive.as_ref())?,
        live_homes: session.settings().known_homes(),
        locking: arguments.options().locking,
    };
    let context = session.context(arguments.jobs);
    let note = |checked: &CheckedRestore| note(checked, session);
    let report = restore_check(&repository, profiles::unnamed(), &options, &context, note).await?;
    let problems = report.snapshots.iter().filter(|snapshot| snapshot.problem.is_some());
    session.record().problems(problems.count() as u64);
    Ok(report)
}

/// Has the ledger know of a snapshot that was tried.
fn note(checked: &CheckedRestore, session: &Session) {
    session.record().snapshot(&checked.id);
    session.record().drill(Drill {
        snapshot: checked.id.clone(),
        archive: None,
        kind: "restore_check",
        at_ms: now_ms(),
        milliseconds: (checked.seconds * 1000.0) as u64,
        bytes: checked.bytes,
        problem: checked.problem.clone(),
    });
}

fn shown(report: &RestoreCheckReport) -> String {
    let mut text = String::new();
    for snapshot in &report.snapshots {
        let id = text::escape(&snapshot.id);
        match &snapshot.problem {
            Some(problem) => {
                text.push_str(&format!(
                    "problem: snapshot {id}: cannot be restored: {}\n",
                    text::escape(problem)
                ));
            }
            None => {
                let files = text::counted(snapshot.attachments.saturating_add(snapshot.extras), "file");
                let (bytes, took) = (text::size(snapshot.bytes), summary::seconds(snapshot.seconds));
                text.push_str(&format!(
                    "snapshot {id} can be restored: database and {files}, {bytes}, proved in {took}\n"
                ));
            }
        }
    }
    let proved = report.snapshots.iter().filter(|snapshot| snapshot.problem.is_none()).count();
    if report.snapshots.len() > 1 {
        let all = text::counted(report.snapshots.len() as u64, "snapshot");
        text.push_str(&format!(
            "{proved} of {all} restored and proved in {}\n",
            summary::seconds(report.seconds)
        ));
    }
    text
}
