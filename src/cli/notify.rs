//! Who is told how a run ended: programs of the user's, and a ping.
//!
//! `[notify]` is told of a whole run, `[archive.NAME.notify]` of that archive. Programs are started without a shell and
//! find the message as JSON on standard input. Each has a bounded time and is tried twice. None of them changes what a
//! backup is worth: that nobody could be told is said, and is exit code 6.
//!
//! Whoever stops a run ends the telling that is under way. That it was stopped is told all the same, in a short time.

use std::time::Duration;

use packvault::engine::schedule::status::{ArchiveRun, RunReport, StepRun};
use packvault::{Cancel, ErrorKind};
use serde::Serialize;

use super::hooks::Hook;
use super::ping::{self, Signal};
use super::session::Session;
use super::settings::Notify;

/// How long one attempt of a program may take.
const TIME_MAX: Duration = Duration::from_secs(120);
/// How often each is tried.
const ATTEMPTS: u32 = 2;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);
/// How long it may take to tell that a run was stopped, all in all.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// What a program reads.
#[derive(Serialize)]
struct Message<'a> {
    event: &'static str,
    host: &'a str,
    archive: Option<&'a str>,
    exit_code: u8,
    text: &'a str,
    run: &'a RunReport,
}

/// What one of the two sections is told of.
pub struct Occasion<'a> {
    /// The archive; `None` is a whole run.
    pub archive: Option<&'a str>,
    /// Who is told.
    pub notify: &'a Notify,
}

impl Occasion<'_> {
    /// Says that a run begins; returns what could not be told.
    pub async fn begins(&self, session: &Session) -> Vec<String> {
        let text = match self.archive {
            Some(archive) => format!("a run of {archive} begins"),
            None => "a run begins".to_owned(),
        };
        self.ping(session, session.cancel(), Signal::Start, &text).await
    }

    /// Says how a run ended; returns what could not be told.
    pub async fn ended(&self, session: &Session, report: &RunReport) -> Vec<String> {
        let exit_code = report.exit_code;
        let signal = if exit_code == 0 { Signal::Success } else { Signal::Failure };
        let stop = stop(session);
        let mut failed = self.ping(session, &stop, signal, &outline(report)).await;
        let context = session.context(None);
        let text = text(&context.hostname, report);
        let (event, own) = match signal {
            Signal::Success => ("success", ("on_success", &self.notify.on_success)),
            _ => ("failure", ("on_failure", &self.notify.on_failure)),
        };
        let message = Message {
            event,
            host: &context.hostname,
            archive: self.archive,
            exit_code,
            text: &text,
            run: report,
        };
        // Texts and numbers always are JSON.
        let input = serde_json::to_vec(&message).unwrap_or_default();
        for (name, words) in [own, ("after", &self.notify.after)] {
            failed.extend(self.run(name, words, (event, &input), &stop).await);
        }
        failed
    }

    async fn ping(&self, session: &Session, stop: &Cancel, signal: Signal, text: &str) -> Vec<String> {
        let sent = async {
            let Some(url) = self.notify.ping(session.settings().user_home(), stop)? else { return Ok(()) };
            ping::send(&url, signal, text).await
        };
        let told = tokio::select! {
            () = stop.cancelled() => stop.check(),
            told = sent => told,
        };
        match told {
            Ok(()) => Vec::new(),
            Err(error) if error.kind() == ErrorKind::Interrupted => vec![self.said("the ping was stopped")],
            Err(error) => vec![self.said(&error.chain())],
        }
    }

    async fn run(
        &self,
        name: &'static str,
        words: &[String],
        (event, input): (&'static str, &[u8]),
        stop: &Cancel,
    ) -> Option<String> {
        let mut variables = vec![("PACKVAULT_STATUS", event.to_owned())];
        variables.extend(self.archive.map(|archive| ("PACKVAULT_ARCHIVE", archive.to_owned())));
        let hook = Hook { name, words, variables: &variables, input: Some(input), time_max: TIME_MAX };
        let mut failed = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            match hook.run(Some(stop)) {
                Ok(()) => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    return Some(self.said(&format!("the hook `{name}` was stopped")));
                }
                Err(error) => failed = Some(self.said(&error.chain())),
            }
        }
        failed
    }

    fn said(&self, why: &str) -> String {
        match self.archive {
            Some(archive) => format!("archive.{archive}.notify: {why}"),
            None => format!("notify: {why}"),
        }
    }
}

/// Returns what ends the telling: the user, or, if the user has ended the run already, the time for a farewell.
fn stop(session: &Session) -> Cancel {
    if !session.cancel().is_cancelled() {
        return session.cancel().clone();
    }
    let stop = Cancel::new();
    let own = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(FAREWELL_MAX).await;
        own.cancel();
    });
    stop
}

/// Returns how a run ended, in words for a small screen: what failed first, with what was said of it.
pub fn text(host: &str, report: &RunReport) -> String {
    let mut lines = vec![headline(host, report)];
    for archive in report.archives.iter().filter(|archive| archive.exit_code != 0) {
        lines.extend(archive.error.as_ref().map(|error| format!("{}: {error}", archive.archive)));
        for step in failed(archive) {
            let why = step.text.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            lines.push(format!("{}: {} (exit code {}){why}", archive.archive, named(step), code(step)));
        }
    }
    lines.extend(report.warnings.iter().cloned());
    lines.join("\n") + "\n"
}

/// The same without what was said, which may name paths and servers: it leaves this machine.
fn outline(report: &RunReport) -> String {
    let mut lines = Vec::new();
    for archive in &report.archives {
        if archive.exit_code == 0 {
            lines.push(format!("{}: done", archive.archive));
        }
        if archive.error.is_some() {
            lines.push(format!("{}: exit code {}", archive.archive, archive.exit_code));
        }
        for step in failed(archive) {
            // The name of a copy may be a location.
            let what = step.step.work;
            lines.push(format!("{}: {what}: exit code {}", archive.archive, code(step)));
        }
    }
    lines.push(format!("exit code {}", report.exit_code));
    lines.join("\n") + "\n"
}

fn headline(host: &str, report: &RunReport) -> String {
    let names = |wanted: fn(&ArchiveRun) -> bool| {
        let names: Vec<&str> = report
            .archives
            .iter()
            .filter(|archive| wanted(archive))
            .map(|archive| archive.archive.as_str())
            .collect();
        names.join(", ")
    };
    match report.exit_code {
        0 => format!("packvault on {host}: {} done", names(|_| true)),
        _ => {
            let bad = names(|archive| archive.exit_code != 0);
            let bad = if bad.is_empty() { "something".to_owned() } else { bad };
            format!("packvault on {host}: {bad} needs a look (exit code {})", report.exit_code)
        }
    }
}

fn failed(archive: &ArchiveRun) -> impl Iterator<Item = &StepRun> {
    archive.steps.iter().filter(|step| step.exit_code.is_some_and(|code| code != 0))
}

fn code(step: &StepRun) -> u8 {
    step.exit_code.unwrap_or_default()
}

/// Returns what a step is called: `copy to b2`.
pub fn named(step: &StepRun) -> String {
    let work = step.step.work.replace('_', " ");
    match (&step.step.place, step.step.work) {
        (Some(place), "copy") => format!("copy to {place}"),
        (Some(place), _) => format!("{work} of {place}"),
        (None, _) => work,
    }
}

#[cfg(test)]
mod tests {
    use packvault::engine::schedule::status::PlannedStep;

    use super::*;

    fn report() -> RunReport {
        let step = |work, place: Option<&str>, exit_code, text: Option<&str>| StepRun {
            step: PlannedStep {
                work,
                place: place.map(str::to_owned),
                is_due: true,
                reason: "in every run".to_owned(),
            },
            outcome: if exit_code == 0 { "done" } else { "failed" },
            exit_code: Some(exit_code),
            seconds: Some(1.0),
            text: text.map(str::to_owned),
            snapshot: None,
        };
        let mail = ArchiveRun {
            archive: "mail".to_owned(),
            exit_code: 6,
            snapshot: Some("20261123T020000Z-0c1c7e1c".to_owned()),
            steps: vec![
                step("create", None, 0, None),
                step("copy", Some("s3://far/mail"), 1, Some("cannot open s3://far/mail: no answer")),
            ],
            error: None,
        };
        let chats =
            ArchiveRun { archive: "chats".to_owned(), exit_code: 0, steps: Vec::new(), ..mail.clone() };
        RunReport {
            dry_run: false,
            began_at: "2026-11-23T02:00:00Z".to_owned(),
            seconds: 2.0,
            exit_code: 6,
            archives: vec![mail, chats],
            warnings: Vec::new(),
        }
    }

    #[test]
    fn the_text_says_first_what_needs_a_look() {
        assert_eq!(
            text("nas", &report()),
            "packvault on nas: mail needs a look (exit code 6)\n\
             mail: copy to s3://far/mail (exit code 1): cannot open s3://far/mail: no answer\n"
        );
        let mut well = report();
        well.archives.remove(0);
        well.exit_code = 0;
        assert_eq!(text("nas", &well), "packvault on nas: chats done\n");
    }

    #[test]
    fn what_leaves_this_machine_names_no_place() {
        let outline = outline(&report());
        assert_eq!(outline, "mail: copy: exit code 1\nchats: done\nexit code 6\n");
        assert!(!outline.contains("s3"), "{outline}");
    }
}
