//! The page: plain HTML with its style in it, for a screen of any width and for paper.
//!
//! Everything that comes from the ledger is escaped, and the page forbids scripts and requests by its own policy: what a
//! hostile repository or server got into an error sentence is text here and nothing else.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::text::{self, count, counted, size};
use super::chart::{Mark, bars};
use super::gather::{Evidence, Failure, PlaceEvidence};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2024;--soft:#5b636b;--line:#d5dade;--bar:#2b6cb0;--bad:#b3261e;--gap:#f3d9a4}\
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a3abb3;--line:#3a4046;--bar:#7ab3ef;--bad:#ff8a80;\
--gap:#5c4a1f}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);max-width:56rem;margin:0 auto;padding:1rem}\
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .2rem;padding-top:1rem;border-top:2px solid \
var(--line);overflow-wrap:anywhere}h3{font-size:1rem;margin:1rem 0 .2rem}\
p{margin:.3rem 0}.soft{color:var(--soft);overflow-wrap:anywhere}\
dl{display:grid;grid-template-columns:9rem 1fr;gap:.25rem 1rem;margin:.6rem 0}dt{color:var(--soft)}\
dd{margin:0;overflow-wrap:anywhere}.warn{color:var(--bad);font-weight:600}\
.chart{display:block;width:100%;height:7rem}.bar{fill:var(--bar)}.bad{fill:var(--bad)}.gap{fill:var(--gap)}\
.cross{stroke:var(--bad);stroke-width:1.5;fill:none}.axis{stroke:var(--line);stroke-width:2}\
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:.85rem}\
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;vertical-align:top;padding:.2rem .6rem \
.2rem 0;border-bottom:1px solid var(--line);white-space:nowrap}td:last-child{overflow-wrap:anywhere;\
white-space:normal}\
@media(max-width:36rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}thead{display:none}td{display:block;\
border:0;padding:0}td:last-child{border-bottom:1px solid var(--line);padding-bottom:.4rem}}\
@media print{:root{--ink:#000;--soft:#444;--line:#999;--bar:#333;--bad:#000;--gap:#ddd}body{max-width:none;padding:0;\
font-size:11pt}h2{break-after:avoid}figure,table,dl{break-inside:avoid}}\
figure{margin:.8rem 0}figcaption{font-weight:600;font-size:.95rem}";

/// How every page begins.
const BEGINNING: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
     <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
     <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
     <title>Backups of ";

/// Tells by its beginning whether a file is such a page.
pub fn is_page(beginning: &str) -> bool {
    beginning.starts_with(BEGINNING)
}

/// Returns the page.
pub fn page(evidence: &Evidence) -> String {
    let (since, until) = (text::minute(&evidence.since), text::minute(&evidence.until));
    let mut page = format!(
        "{BEGINNING}{machine}</title><style>{STYLE}</style></head><body>\n\
         <h1>Backups of {machine}</h1>\n<p class=\"soft\">What was backed up, read and proved from {} to {} (UTC), as the \
         ledger of this machine recorded it. Made by packvault {}.</p>\n",
        escape(&since),
        escape(&until),
        env!("CARGO_PKG_VERSION"),
        machine = escape(&evidence.machine),
    );
    if evidence.places.is_empty() {
        page.push_str("<p>Nothing was recorded in this time.</p>\n");
    }
    let span = (evidence.since_ms, evidence.until_ms);
    evidence.places.iter().for_each(|place| section(&mut page, place, span));
    if !evidence.elsewhere.is_empty() {
        page.push_str("<h2>Runs that failed before it was known where</h2>\n");
        failures(&mut page, &evidence.elsewhere);
    }
    page.push_str(
        "<p class=\"soft\">A gap is a time without a backup of more than twice the usual length. “Read” counts stored bytes \
         that were read and found sound; it is a lower bound. “Proved” means that a snapshot was restored whole, and checked \
         against every hash, by SQLite, and by its statistics.</p>\n</body></html>\n",
    );
    page
}

fn section(page: &mut String, place: &PlaceEvidence, span: (i64, i64)) {
    let _ = writeln!(page, "<h2>{}</h2>", escape(&place.location));
    if let Some(id) = &place.repository {
        let _ = writeln!(page, "<p class=\"soft\">repository {}</p>", escape(id));
    }
    page.push_str("<dl>");
    let mut entry = |name: &str, words: &str, is_bad: bool| {
        let class = if is_bad { " class=\"warn\"" } else { "" };
        let _ = write!(page, "<dt>{name}</dt><dd{class}>{}</dd>", escape(words));
    };
    if !place.archives.is_empty() {
        entry("archives", &place.archives.join(", "), false);
    }
    let found = &place.backups;
    let newest = match (&found.newest_at, &found.newest_snapshot) {
        (Some(at), Some(id)) => format!("{}, snapshot {id}", text::minute(at)),
        _ => "none is known".to_owned(),
    };
    entry("newest backup", &newest, found.newest_at.is_none());
    let failed = if found.failed > 0 { format!(", {} failed", count(found.failed)) } else { String::new() };
    entry("backups", &format!("{} made{failed}", count(found.done)), false);
    for gap in &found.gaps {
        entry(
            "gap",
            &format!("no backup from {} to {}", text::minute(&gap.from), text::minute(&gap.to)),
            true,
        );
    }
    entry("proved", &proved(place), place.proof.newest_at.is_none() || place.proof.last_problem.is_some());
    entry("read", &read(place), place.reading.damaged_packs > 0);
    page.push_str("</dl>\n");
    charts(page, place, span);
    if !place.failures.is_empty() {
        page.push_str("<h3>Runs that failed</h3>\n");
        failures(page, &place.failures);
    }
}

fn charts(page: &mut String, place: &PlaceEvidence, span: (i64, i64)) {
    let gaps: Vec<(i64, i64)> = place.backups.gaps.iter().map(|gap| (gap.from_ms, gap.to_ms)).collect();
    let mark = |at_ms: i64, value: f64| Mark { at_ms, value, is_bad: false };
    let sizes: Vec<Mark> =
        place.made.iter().filter_map(|made| Some(mark(made.at_ms, made.bytes? as f64))).collect();
    let added: Vec<Mark> =
        place.made.iter().filter_map(|made| Some(mark(made.at_ms, made.added? as f64))).collect();
    let took: Vec<Mark> = place.made.iter().map(|made| mark(made.at_ms, made.seconds)).collect();
    let read: Vec<Mark> = place.read.iter().map(|read| mark(read.at_ms, read.bytes as f64)).collect();
    let restored: Vec<Mark> = place
        .restored
        .iter()
        .map(|restored| Mark { at_ms: restored.at_ms, value: restored.seconds, is_bad: !restored.proved })
        .collect();
    for (title, marks, shown) in [
        ("Size of what was backed up", &sizes, bytes as fn(f64) -> String),
        ("Stored for it", &added, bytes),
        ("How long backups took", &took, seconds),
        ("Read of what is stored", &read, bytes),
        ("How long restores took (crossed: not proved)", &restored, seconds),
    ] {
        if marks.is_empty() {
            continue;
        }
        let highest = shown(marks.iter().map(|mark| mark.value).fold(0.0, f64::max));
        let _ = writeln!(
            page,
            "<figure><figcaption>{title}</figcaption>{}<div class=\"ends\"><span>{}</span><span>at most {}</span>\
             <span>{}</span></div></figure>",
            bars(title, marks, &gaps, span),
            day(span.0),
            escape(&highest),
            day(span.1)
        );
    }
}

fn failures(page: &mut String, failures: &[Failure]) {
    page.push_str("<table><thead><tr><th>when (UTC)</th><th>what</th><th>why</th></tr></thead><tbody>\n");
    for failure in failures {
        let why = match (&failure.error, failure.exit_code) {
            (Some(error), _) => error.clone(),
            (None, Some(3)) => "problems were found".to_owned(),
            (None, Some(130)) => "interrupted".to_owned(),
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "did not end".to_owned(),
        };
        let (at, kind) = (escape(&text::minute(&failure.at)), escape(&failure.kind));
        let _ = writeln!(page, "<tr><td>{at}</td><td>{kind}</td><td>{}</td></tr>", escape(&why));
    }
    page.push_str("</tbody></table>\n");
}

/// Returns what was proved of a place, in a sentence.
pub fn proved(place: &PlaceEvidence) -> String {
    let found = &place.proof;
    let newest = match (&found.newest_snapshot, &found.newest_at, found.seconds) {
        (Some(id), Some(at), Some(took)) => {
            format!("snapshot {} on {}, in {}", text::escape(id), text::minute(at), seconds(took))
        }
        _ => "no restore was ever proved".to_owned(),
    };
    match &found.last_problem {
        Some(problem) => format!("{newest}; the last one was not: {}", text::escape(problem)),
        None => newest,
    }
}

/// Returns what was read of a place, in a sentence.
pub fn read(place: &PlaceEvidence) -> String {
    let found = &place.reading;
    if found.bytes_total == 0 {
        return "it is not known what is stored".to_owned();
    }
    // Rounded down: what is not all is not 100 %.
    let percent = (u128::from(found.bytes_read) * 100 / u128::from(found.bytes_total)) as u64;
    let (read, total) = (size(found.bytes_read), size(found.bytes_total));
    let damage = match found.damaged_packs {
        0 => String::new(),
        packs => format!("; damage was found in {}", counted(packs, "pack")),
    };
    format!("{read} of {total} ({percent} %){damage}")
}

fn bytes(value: f64) -> String {
    size(value.max(0.0) as u64)
}

fn seconds(value: f64) -> String {
    text::duration(Duration::try_from_secs_f64(value).unwrap_or_default())
}

fn day(at_ms: i64) -> String {
    let time = super::super::history::time(at_ms);
    escape(time.get(..10).unwrap_or(&time))
}

/// Makes a text harmless in HTML: no mark-up, no control or direction characters.
fn escape(words: &str) -> String {
    let mut escaped = String::with_capacity(words.len());
    for character in text::escape(words).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::gather::{Backups, Reading, Restores};
    use super::*;

    const HOSTILE: &str = "<script>alert(1)</script>\"' onload=x \u{202e}\x1b[2J&amp;";

    fn place() -> PlaceEvidence {
        PlaceEvidence {
            location: HOSTILE.into(),
            repository: Some(HOSTILE.into()),
            archives: vec![HOSTILE.into()],
            backups: Backups {
                newest_snapshot: Some(HOSTILE.into()),
                newest_at: Some(HOSTILE.into()),
                ..Default::default()
            },
            proof: Restores { last_problem: Some(HOSTILE.into()), ..Default::default() },
            reading: Reading { bytes_total: 1000, bytes_read: 999, damaged_packs: 1, ..Default::default() },
            made: Vec::new(),
            restored: Vec::new(),
            read: Vec::new(),
            failures: vec![Failure {
                at: HOSTILE.into(),
                kind: HOSTILE.into(),
                exit_code: None,
                error: Some(HOSTILE.into()),
            }],
        }
    }

    #[test]
    fn nothing_of_the_ledger_becomes_markup_and_the_page_has_no_script() {
        let mut evidence = Evidence::empty(0, 1000);
        evidence.machine = HOSTILE.into();
        evidence.places.push(place());
        evidence.elsewhere.push(place().failures.remove(0));
        let page = page(&evidence);
        assert!(!page.contains("<script") && !page.contains("\u{202e}") && !page.contains('\x1b'), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("default-src 'none'"));
        // Every attribute is ours: no quote of a text can end one.
        assert_eq!(page.matches(" onload=x").count(), page.matches("&#39; onload=x").count());
    }

    #[test]
    fn what_is_not_all_is_never_called_all() {
        assert!(read(&place()).contains("(99 %)"), "{}", read(&place()));
    }
}
