//! `packvault probe`: asks a server what it promises.

use packvault::Result;
use packvault::location::{Probed, Purpose};
use serde::Serialize;

use super::report::Exit;
use super::session::Session;
use super::summary::part;
use super::text::escape;

/// Ask the repository's server what it promises
///
/// Servers differ in what they guarantee, and some answer "done" to what they ignore. So packvault tries each
/// guarantee on scratch objects, removes them, and remembers the answers on this machine. `init` does this by itself,
/// and so does the first command that writes to an unknown server. Run `probe` after a change of the server.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault probe --repo sftp://ann@nas/x
  packvault probe --repo offsite               a name from the configuration

{}", super::exit_codes("")))]
pub struct Arguments {}

/// The answers, for `--json`.
#[derive(Debug, Serialize)]
struct ProbeSummary {
    location: String,
    server: String,
    findings: Vec<FindingSummary>,
    create_only: bool,
    create_only_streamed: bool,
    rename: bool,
    sync: bool,
    exclusion: &'static str,
}

#[derive(Debug, Serialize)]
struct FindingSummary {
    question: &'static str,
    answer: &'static str,
    note: String,
}

/// Asks and prints the answers.
pub async fn run(_: &Arguments, session: &Session) -> Result<Exit> {
    let (location, opening) = session.location(None, Purpose::Look)?;
    let probed = location.probe(&opening).await?;
    session.show_always(&summarise(probed), text)?;
    Ok(Exit::Done)
}

fn summarise(probed: Probed) -> ProbeSummary {
    let guarantees = probed.guarantees;
    let findings = probed.report.findings.into_iter().map(|finding| FindingSummary {
        question: finding.question,
        answer: finding.answer.word(),
        note: finding.note,
    });
    ProbeSummary {
        location: probed.location,
        server: probed.report.server,
        findings: findings.collect(),
        create_only: guarantees.create_only,
        create_only_streamed: guarantees.create_only_streamed,
        rename: guarantees.rename,
        sync: guarantees.sync,
        exclusion: packvault::repo::locks::exclusion(guarantees),
    }
}

fn text(summary: &ProbeSummary) -> String {
    let mut text = format!("{}\n", escape(&summary.location));
    if !summary.server.is_empty() {
        part(&mut text, "server", &escape(&summary.server));
    }
    let width = summary.findings.iter().map(|finding| finding.question.len()).max().unwrap_or(0);
    for FindingSummary { question, answer, note } in &summary.findings {
        let line = format!("{question:width$}  {answer:4}  {}", escape(note));
        text.push_str(&format!("  {}\n", line.trim_end()));
    }
    part(&mut text, "locks", summary.exclusion);
    if !summary.sync {
        part(&mut text, "durability", "left to the server: it does not confirm that bytes are on its disk");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_described_on_the_page_on_json() {
        let finding = FindingSummary { question: "q", answer: "yes", note: String::new() };
        let summary = ProbeSummary {
            location: "sftp://nas/a".into(),
            server: "x".into(),
            findings: vec![finding],
            create_only: true,
            create_only_streamed: true,
            rename: true,
            sync: true,
            exclusion: "x",
        };
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
        let section = page.split("\n## probe\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let example: serde_json::Value =
            section.split("```json\n").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        let value = serde_json::to_value(&summary).unwrap();
        for (name, field) in value.as_object().unwrap() {
            assert!(section.contains(&format!("`{name}`")) && example.get(name).is_some(), "{name}");
            for name in
                field.get(0).and_then(|item| item.as_object()).into_iter().flat_map(|item| item.keys())
            {
                assert!(section.contains(&format!("`findings[].{name}`")), "{name}");
            }
        }
    }
}
