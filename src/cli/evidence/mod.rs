//! `packvault report`: what was backed up, read and proved, and when, as evidence for somebody else.
//!
//! `gather` asks the ledger, `html` makes a page of it, `chart` its drawings. Nothing is asked of a repository.

mod chart;
mod gather;
mod html;

use std::path::PathBuf;

use packvault::Result;
use packvault::engine::retention::duration::Duration as Span;

use super::history;
use super::named_file::NamedFile;
use super::record::now_ms;
use super::report::Exit;
use super::session::Session;
use super::text::{self, escape};
use gather::{Evidence, PlaceEvidence};

/// Show what was backed up, read and proved, and when
///
/// It asks the ledger of this machine, and no repository. With --html, a page for people is written: it has no script,
/// needs no network, and can be printed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  packvault report                             the last 90 days, in short
  packvault report mail --since 1y --html mail.html
  packvault report --json | jq '.places[].reading'

Exit codes:
  0  done
  1  failed
  2  wrong usage")]
pub struct Arguments {
    /// Only places that this archive was backed up to, by its name in the configuration or its home folder
    archive: Option<String>,
    /// How far back: 36h, 90d, 1y6m
    #[arg(long, value_name = "DURATION", default_value = "90d")]
    since: Span,
    /// Write a page to this file, instead of a summary to standard output
    ///
    /// The file is replaced in one step, and only if it is such a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

const PAGE: NamedFile = NamedFile { flag: "--html", noun: "report", is_own: html::is_page };

/// Gathers the evidence, and writes or prints it.
pub fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    arguments.html.iter().try_for_each(|file| PAGE.check(file, session.settings()))?;
    let (since_ms, now_ms) = (history::before(arguments.since)?, now_ms());
    let evidence = match history::open(session)? {
        Some(ledger) => gather::gather(&ledger, arguments.archive.as_deref(), since_ms, now_ms)?,
        None => Evidence::empty(since_ms, now_ms),
    };
    if let Some(file) = &arguments.html {
        PAGE.write(file, html::page(&evidence).as_bytes(), 0o600)?;
    }
    if session.is_json() || arguments.html.is_none() {
        session.show_always(&evidence, summary)?;
    }
    Ok(Exit::Done)
}

fn summary(evidence: &Evidence) -> String {
    if evidence.places.is_empty() {
        return format!("nothing was recorded since {}\n", text::minute(&evidence.since));
    }
    evidence.places.iter().map(place).collect::<Vec<_>>().join("\n")
}

fn place(place: &PlaceEvidence) -> String {
    let mut text = format!("{}\n", escape(&place.location));
    let mut part = |name: &str, words: String| text.push_str(&format!("  {name:<12} {words}\n"));
    if !place.archives.is_empty() {
        part("archives", escape(&place.archives.join(", ")));
    }
    let found = &place.backups;
    part("backups", format!("{} done, {} failed", text::count(found.done), text::count(found.failed)));
    let newest = match (&found.newest_snapshot, &found.newest_at) {
        (Some(id), Some(at)) => format!("{} of {}", escape(id), text::minute(at)),
        _ => "none".to_owned(),
    };
    part("newest", newest);
    for gap in &found.gaps {
        part("gap", format!("no backup from {} to {}", text::minute(&gap.from), text::minute(&gap.to)));
    }
    part("proved", html::proved(place));
    part("read", html::read(place));
    text
}
