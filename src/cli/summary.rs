//! The results of `init`, `create`, `verify` and `restore` as a person reads them: one heading line, then a
//! line per part, narrow enough for small screens.
//!
//! Whatever comes from the repository is escaped.

use std::fmt::Write as _;
use std::time::Duration;

use super::text::{self, count, counted, escape, size};
use packvault::engine::report::{
    Check, CreateReport, CreatedFiles, InitReport, NotRestored, PagesRead, RestoreReport, SampleReport,
    VerifyProblem, VerifyReport,
};

/// How many files are named that were left out, and how many databases that were taken.
const LEFT_OUT_MAX: usize = 10;

/// Returns what `init` made, and the command to run next.
pub fn init(report: &InitReport, location: &str, exclusion: Option<&str>) -> String {
    let location = escape(location);
    let mut text = format!("repository {} is ready\n", escape(&report.id));
    part(&mut text, "location", &location);
    if let Some(exclusion) = exclusion {
        part(&mut text, "locks", exclusion);
    }
    match report.encrypted {
        true => part(&mut text, "encrypted", &format!("opens with {}", report.keys.join(", "))),
        false => part(&mut text, "encrypted", "no: only you should be able to read it; see --encrypt"),
    }
    if let Some(passphrase) = &report.passphrase {
        part(&mut text, "passphrase", passphrase);
        part(&mut text, "", "write it down now: it is nowhere else");
    }
    part(&mut text, "next", &format!("packvault create --repo {}", text::shell_word(&location)));
    text
}

/// Returns what `create` stored; for a dry run, what it would have stored.
pub fn create(report: &CreateReport) -> String {
    let mut text = match &report.id {
        Some(id) => format!("snapshot {}\n", escape(id)),
        None if report.unchanged => "nothing changed, no snapshot was made\n".to_owned(),
        None => "dry run, nothing was written; a backup now would be\n".to_owned(),
    };
    let parent = report.parent.as_deref().map_or_else(|| "none, this is the first".to_owned(), escape);
    part(&mut text, "parent", &parent);
    if !report.tag.is_empty() {
        part(&mut text, "tag", &escape(&report.tag));
    }
    create_parts(&mut text, report);
    text
}

fn create_parts(text: &mut String, report: &CreateReport) {
    let (database, attachments) = (&report.database, &report.attachments);
    let pages = counted(database.pages, "page");
    let line = format!("{}, {pages}, {} changed", size(database.bytes), count(database.pages_changed));
    part(text, "database", &line);
    let read = match database.read {
        PagesRead::File => None,
        PagesRead::Transaction => Some("read through a transaction of SQLite".to_owned()),
    };
    let grew = (database.wal_grew_bytes > 0)
        .then(|| format!("its write-ahead log grew by {} meanwhile", size(database.wal_grew_bytes)));
    let held = database.held_seconds.map(|seconds| {
        let held = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        format!("its writers were held off for {}", text::duration(held))
    });
    for line in read.iter().chain(&grew).chain(&held) {
        part(text, "", line);
    }
    let new = count(attachments.blobs_added);
    part(
        text,
        "attachments",
        &format!("{}, {}, {new} new", count(attachments.blobs), size(attachments.bytes)),
    );
    part(text, "extras", &counted(report.extras, "file"));
    let CreatedFiles { attachments_read, attachments_unread, extras_read, extras_unread } = report.files;
    let (read, unread) = (attachments_read + extras_read, attachments_unread + extras_unread);
    if unread > 0 {
        let all = counted(read + unread, "file");
        part(text, "read", &format!("{} of {all}, {} did not change", count(read), count(unread)));
    }
    for database in report.databases.iter().take(LEFT_OUT_MAX) {
        let (path, bytes) = (escape(&database.path), size(database.bytes));
        part(text, "", &format!("{path}: a database of {bytes}, of one moment"));
    }
    more(text, report.databases.len(), "more database");
    for left in report.left_out.iter().take(LEFT_OUT_MAX) {
        part(text, "left out", &format!("{}: {}", escape(&left.path), escape(&left.reason)));
    }
    more(text, report.left_out.len(), "more file");
    if !report.source_problems.is_empty() {
        part(text, "damaged", "the source is damaged: it was captured as it is");
    }
    let added = format!("{} in {}", size(report.bytes_added), counted(report.blobs_added, "blob"));
    // Which packs a dry run would fill is not known: it fills none.
    let packs = report.id.as_ref().map(|_| format!(", {}", counted(report.packs_added, "pack")));
    part(text, "added", &(added + &packs.unwrap_or_default()));
    part(text, "time", &text::duration(Duration::try_from_secs_f64(report.seconds).unwrap_or_default()));
}

/// Says how many were not named.
fn more(text: &mut String, all: usize, noun: &str) {
    if let Some(more) = all.checked_sub(LEFT_OUT_MAX).filter(|more| *more > 0) {
        part(text, "", &format!("and {} (--json names them all)", counted(more as u64, noun)));
    }
}

/// Returns a line for each problem, and the sum.
pub fn verify(report: &VerifyReport) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let _ = writeln!(text, "problem: {}", problem_line(problem));
    }
    let snapshots = counted(report.snapshots, "snapshot");
    let (blobs, bytes) = (counted(report.blobs, "blob"), size(report.bytes));
    let problems = match report.problems.len() as u64 {
        0 => "no problems".to_owned(),
        number => counted(number, "problem"),
    };
    let _ = match &report.sample {
        None => writeln!(text, "verified {snapshots}: {blobs}, {bytes} read, {problems}"),
        Some(found) => writeln!(text, "{}verified a sample of {snapshots}: {problems}", sample(found)),
    };
    text
}

/// Returns a time in seconds as a person reads it.
pub fn seconds(seconds: f64) -> String {
    text::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Returns what a sample read, and what was read in all.
fn sample(sample: &SampleReport) -> String {
    let again = match sample.packs_again {
        0 => String::new(),
        again => format!(", {} of them again because damage was found there", count(again)),
    };
    let (packs, total) = (counted(sample.packs, "pack"), count(sample.packs_total));
    let bytes = format!("{} of {}", size(sample.bytes), size(sample.bytes_total));
    let mut text = format!("sample: {packs} of {total}, {bytes}{again}\n");
    if let Some(found) = &sample.coverage {
        let read = format!("{} of {}", size(found.bytes), size(sample.bytes_total));
        let oldest = match (&found.oldest_at, found.packs_unread) {
            (_, unread) if unread > 0 => format!("{} not yet read", counted(unread, "pack")),
            (Some(oldest), _) => format!("the one longest ago on {}", text::minute(oldest)),
            (None, _) => "none read as a whole".to_owned(),
        };
        let since = text::minute(&found.since);
        let _ = writeln!(text, "coverage: {read} read since {since}; {oldest}");
    }
    text
}

fn problem_line(problem: &VerifyProblem) -> String {
    let named = [
        ("snapshot ", &problem.snapshot),
        ("", &problem.object),
        ("blob ", &problem.blob),
        ("pack ", &problem.pack),
    ];
    let mut line = String::new();
    for (noun, name) in named {
        if let Some(name) = name {
            let _ = write!(line, "{noun}{}: ", escape(name));
        }
    }
    line + &escape(&problem.detail)
}

/// Returns what `restore` brought back, and what it proved.
pub fn restore(report: &RestoreReport) -> String {
    let attachments = &report.attachments;
    let what = if report.part.is_some() { "restored a part of" } else { "restored" };
    let mut text = format!("{what} {}\n", escape(&report.id));
    part(&mut text, "into", &escape(&report.target));
    if let Some(database) = &report.database {
        let identical = if database.identical { ", byte-identical" } else { "" };
        let line = format!("{}, {}{identical}", size(database.bytes), counted(database.pages, "page"));
        part(&mut text, "database", &line);
        if let Some(changed) = database.changed {
            part(&mut text, "", changed);
        }
    }
    let line = format!("{}, {}", counted(attachments.files, "file"), size(attachments.bytes));
    part(&mut text, "attachments", &line);
    part(&mut text, "extras", &counted(report.extras, "file"));
    for name in &report.left_out {
        part(&mut text, "left out", &escape(name));
    }
    if let Some(restored) = &report.part {
        not_restored(&mut text, &restored.left_out);
    }
    if let Some(owner) = &report.owner {
        part(&mut text, "owner", &format!("{owner} (the database; each file as recorded, or as asked for)"));
    }
    restore_proof(&mut text, report);
    text
}

/// Says what of the snapshot was not asked for.
fn not_restored(text: &mut String, left_out: &NotRestored) {
    let NotRestored { database, attachments, attachment_bytes, extras } = *left_out;
    if database {
        part(text, "left out", "the database");
    }
    if attachments > 0 {
        let line = format!("{}, {}", counted(attachments, "attachment"), size(attachment_bytes));
        part(text, "left out", &line);
    }
    if extras > 0 {
        part(text, "left out", &counted(extras, "extra file"));
    }
}

fn restore_proof(text: &mut String, report: &RestoreReport) {
    let proof = &report.proof;
    let blobs = format!("{} against their ids", counted(proof.blobs, "blob"));
    if report.database.is_none() {
        return part(text, "proved", &blobs);
    }
    part(text, "proved", &format!("{} against the page-hash map,", counted(proof.pages, "page")));
    part(text, "", &format!("{blobs},"));
    let integrity = match proof.integrity_check {
        Check::Ok => "integrity_check ok",
        Check::Skipped => "integrity_check skipped",
        Check::Partial => "integrity_check not possible in full",
    };
    let stats = match proof.stats {
        Check::Ok => "statistics reproduced",
        Check::Skipped | Check::Partial => "statistics not compared",
    };
    part(text, "", &format!("{integrity}, {stats}"));
}

pub fn part(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<11}  {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use packvault::engine::report::{
        CreatedAttachments, CreatedDatabase, LeftOut, Proof, RestoredAttachments, RestoredDatabase,
        RestoredPart,
    };

    const ID: &str = "20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b";

    fn created() -> CreateReport {
        CreateReport {
            id: Some(ID.into()),
            parent: None,
            created_at: "2026-11-23T20:45:17Z".into(),
            tag: "first".into(),
            bytes_added: 300_000_000,
            blobs_added: 4_313,
            packs_added: 1,
            database: CreatedDatabase {
                bytes: 624_005_120,
                pages: 152_345,
                pages_changed: 152_345,
                read: PagesRead::File,
                wal_grew_bytes: 0,
                held_seconds: Some(1.25),
            },
            attachments: CreatedAttachments { blobs: 4_000, bytes: 370_000_000, blobs_added: 4_000 },
            extras: 1,
            seconds: 12.4,
            left_out: vec![],
            source_problems: vec![],
            warnings: vec![],
            complete: true,
            databases: vec![],
            files: CreatedFiles::default(),
            unchanged: false,
        }
    }

    fn restored() -> RestoreReport {
        RestoreReport {
            id: ID.into(),
            target: "/srv/restored".into(),
            database: Some(RestoredDatabase {
                bytes: 624_005_120,
                pages: 152_345,
                identical: true,
                changed: None,
            }),
            attachments: RestoredAttachments { files: 4_000, bytes: 370_000_000 },
            extras: 1,
            proof: Proof { pages: 152_345, blobs: 4_313, integrity_check: Check::Ok, stats: Check::Ok },
            left_out: vec![],
            warnings: vec![],
            owner: None,
            part: None,
            bytes: 994_005_120,
        }
    }

    #[test]
    fn init_says_what_to_run_next() {
        let report = InitReport {
            id: "0d6f".into(),
            location: "/mnt/my nas".into(),
            encrypted: true,
            keys: vec!["a".into(), "b".into()],
            passphrase: Some("secret".into()),
        };
        let text = init(&report, "/mnt/my nas", None);
        assert!(text.contains("  encrypted    opens with a, b\n  passphrase   secret\n"), "{text}");
        assert!(text.ends_with("  next         packvault create --repo '/mnt/my nas'\n"), "{text}");
    }

    #[test]
    fn create_names_every_part() {
        let expected = "\
snapshot 20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b
  parent       none, this is the first
  tag          first
  database     595 MiB, 152,345 pages, 152,345 changed
               its writers were held off for 1 s
  attachments  4,000, 353 MiB, 4,000 new
  extras       1 file
  added        286 MiB in 4,313 blobs, 1 pack
  time         12 s
";
        assert_eq!(create(&created()), expected);
    }

    #[test]
    fn create_says_how_it_read_and_what_it_left_out() {
        let mut report = created();
        report.database.read = PagesRead::Transaction;
        report.database.wal_grew_bytes = 3 * 1024 * 1024;
        report.left_out =
            (0..12).map(|n| LeftOut { path: format!("s{n}"), reason: "it is a socket".into() }).collect();
        report.source_problems = vec!["torn".into()];
        let text = create(&report);
        for line in [
            "               read through a transaction of SQLite\n",
            "               its write-ahead log grew by 3.0 MiB meanwhile\n",
            "  left out     s9: it is a socket\n               and 2 more files",
            "  damaged      the source is damaged: it was captured as it is\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn create_says_how_many_files_were_read_where_some_were_not() {
        let mut report = created();
        report.files = CreatedFiles {
            attachments_read: 130,
            attachments_unread: 3_870,
            extras_read: 1,
            extras_unread: 0,
        };
        let text = create(&report);
        assert!(text.contains("  read         131 of 4,001 files, 3,870 did not change\n"), "{text}");
    }

    #[test]
    fn create_says_that_nothing_changed() {
        let text = create(&CreateReport { id: None, unchanged: true, ..created() });
        assert!(text.starts_with("nothing changed, no snapshot was made\n"), "{text}");
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_written() {
        let text = create(&CreateReport { id: None, ..created() });
        assert!(text.starts_with("dry run, nothing was written"), "{text}");
    }

    #[test]
    fn verify_gives_each_problem_a_line_and_sums_up() {
        let clean = VerifyReport {
            ok: true,
            snapshots: 2,
            blobs: 4_313,
            bytes: 300_000_000,
            ..VerifyReport::default()
        };
        assert_eq!(verify(&clean), "verified 2 snapshots: 4,313 blobs, 286 MiB read, no problems\n");
        let problem = VerifyProblem {
            snapshot: Some("s".into()),
            object: None,
            blob: Some("b".into()),
            pack: Some("p\n".into()),
            detail: "hash differs\x1b".into(),
            ..VerifyProblem::default()
        };
        let damaged = VerifyReport { ok: false, problems: vec![problem], ..clean };
        let expected = "\
problem: snapshot s: blob b: pack p\\n: hash differs\\u{1b}
verified 2 snapshots: 4,313 blobs, 286 MiB read, 1 problem
";
        assert_eq!(verify(&damaged), expected);
    }

    #[test]
    fn restore_ends_with_its_proof() {
        let expected = "\
restored 20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b
  into         /srv/restored
  database     595 MiB, 152,345 pages, byte-identical
  attachments  4,000 files, 353 MiB
  extras       1 file
  proved       152,345 pages against the page-hash map,
               4,313 blobs against their ids,
               integrity_check ok, statistics reproduced
";
        assert_eq!(restore(&restored()), expected);
    }

    #[test]
    fn restore_says_what_differs_and_what_is_missing() {
        let mut report = restored();
        let changed = Some("its tables were emptied");
        report.database =
            report.database.map(|database| RestoredDatabase { identical: false, changed, ..database });
        report.proof.integrity_check = Check::Skipped;
        report.left_out = vec!["search\x1bindex".into()];
        let text = restore(&report);
        assert!(!text.contains("byte-identical"), "{text}");
        assert!(text.contains("its tables were emptied"), "{text}");
        assert!(text.contains("  left out     search\\u{1b}index\n"), "{text}");
        assert!(text.contains("integrity_check skipped"), "{text}");
    }

    #[test]
    fn a_restore_of_a_part_says_so_and_what_was_left_out() {
        let left_out =
            NotRestored { database: true, attachments: 3_998, attachment_bytes: 369_000_000, extras: 1 };
        let mut report = restored();
        report.database = None;
        report.attachments = RestoredAttachments { files: 2, bytes: 1_000_000 };
        report.proof = Proof { pages: 0, blobs: 3, integrity_check: Check::Skipped, stats: Check::Skipped };
        report.part = Some(RestoredPart { only: vec!["x".into()], left_out });
        let expected = "\
restored a part of 20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b
  into         /srv/restored
  attachments  2 files, 977 KiB
  extras       1 file
  left out     the database
  left out     3,998 attachments, 352 MiB
  left out     1 extra file
  proved       3 blobs against their ids
";
        assert_eq!(restore(&report), expected);
    }

    #[test]
    fn every_line_fits_a_narrow_screen() {
        for text in [create(&created()), restore(&restored())] {
            assert!(text.lines().all(|line| text::width(line) <= 72), "{text}");
        }
    }
}
