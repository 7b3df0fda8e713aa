//! The table of `list`: one snapshot per line, newest last, damaged ones marked.
//!
//! Columns are as wide as what is in them; a column that would be empty is left out. Whatever comes from the
//! repository is escaped.

use serde::Deserialize;

use super::select;
use super::text::{self, escape};
use packvault::engine::report::{ListRow, ListedArchive, ProblemKind};

/// Widest tag shown whole.
const TAG_COLUMNS_MAX: usize = 16;

/// Widest archive shown whole.
const ARCHIVE_COLUMNS_MAX: usize = 24;

/// Between two columns.
const GAP: &str = "  ";

/// The one statistic the table shows.
#[derive(Deserialize)]
struct Stats {
    messages: Option<u64>,
}

/// A column: its heading, whether numbers stand in it, and a cell per row.
struct Column {
    heading: &'static str,
    is_number: bool,
    cells: Vec<String>,
    /// The widest of them.
    columns: usize,
}

/// Returns the table, and below it a line for every damaged snapshot.
pub fn snapshots(rows: &[ListRow]) -> String {
    if rows.is_empty() {
        return "no snapshots yet\n".to_owned();
    }
    let mut table = String::new();
    let columns: Vec<Column> = columns(rows).into_iter().filter(|column| !column.is_empty()).collect();
    for line in std::iter::once(None).chain((0..rows.len()).map(Some)) {
        let cells: Vec<String> = columns.iter().map(|column| column.cell(line)).collect();
        table.push_str(cells.join(GAP).trim_end());
        table.push('\n');
    }
    if let Some(archive) = only_archive(rows) {
        table.push_str(&format!("archive: {}\n", whole(archive)));
    }
    for row in rows {
        if let Some(problem) = &row.problem {
            table.push_str(&format!("problem: snapshot {}: {}\n", escape(&row.id), escape(problem)));
        }
        if let Some(first) = row.source_problems.first() {
            let id = escape(&row.id);
            table.push_str(&format!("warning: snapshot {id}: the source was damaged: {}\n", escape(first)));
        }
    }
    table
}

fn columns(rows: &[ListRow]) -> Vec<Column> {
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let number = |heading, cell: fn(&ListRow) -> Option<String>| Column::new(heading, true, rows, cell);
    vec![
        Column::of("id", false, select::short(&ids).iter().map(|id| escape(id)).collect()),
        Column::new("date (UTC)", false, rows, date),
        Column::new("archive", false, rows, if only_archive(rows).is_some() { |_| None } else { archive }),
        Column::new("tag", false, rows, tag),
        number("messages", |row| messages(row).map(text::count)),
        number("database", |row| row.database_bytes.map(text::size)),
        number("attachments", |row| row.attachments.map(text::count)),
        number("added", |row| row.bytes_added.map(text::size)),
    ]
}

fn date(row: &ListRow) -> Option<String> {
    if row.problem.is_some() {
        let word = match row.problem_kind {
            Some(ProblemKind::Newer) => "newer",
            Some(ProblemKind::NotPermitted) => "not permitted",
            _ => "damaged",
        };
        return Some(word.to_owned());
    }
    row.created_at.as_deref().map(text::minute)
}

fn tag(row: &ListRow) -> Option<String> {
    row.tag.as_deref().map(|tag| text::cut(&escape(tag), TAG_COLUMNS_MAX))
}

/// Returns the archive that all snapshots are of, as far as it is recorded.
fn only_archive(rows: &[ListRow]) -> Option<&ListedArchive> {
    let mut archives = rows.iter().filter_map(|row| row.archive.as_ref());
    let newest = archives.next_back()?;
    archives.all(|archive| cell_of(archive) == cell_of(newest)).then_some(newest)
}

fn whole(archive: &ListedArchive) -> String {
    let ListedArchive { profile, name, database, .. } = archive;
    let name = name.as_deref().map(|name| format!("{name}, ")).unwrap_or_default();
    escape(&format!("{name}{database} ({profile})"))
}

fn archive(row: &ListRow) -> Option<String> {
    row.archive.as_ref().map(|archive| text::cut(&escape(&cell_of(archive)), ARCHIVE_COLUMNS_MAX))
}

/// A name, or else the end of the path, which says more than its beginning.
fn cell_of(archive: &ListedArchive) -> String {
    let ListedArchive { name, database, .. } = archive;
    let parts: Vec<&str> = database.rsplit('/').take(2).collect();
    name.clone().unwrap_or_else(|| parts.into_iter().rev().collect::<Vec<_>>().join("/"))
}

fn messages(row: &ListRow) -> Option<u64> {
    serde_json::from_str::<Stats>(row.stats.as_ref()?.get()).ok()?.messages
}

impl Column {
    fn new(
        heading: &'static str,
        is_number: bool,
        rows: &[ListRow],
        cell: fn(&ListRow) -> Option<String>,
    ) -> Self {
        Self::of(heading, is_number, rows.iter().map(|row| cell(row).unwrap_or_default()).collect())
    }

    fn of(heading: &'static str, is_number: bool, cells: Vec<String>) -> Self {
        let texts = cells.iter().map(String::as_str).chain([heading]);
        let columns = texts.map(text::width).max().unwrap_or(0);
        Self { heading, is_number, cells, columns }
    }

    fn is_empty(&self) -> bool {
        self.cells.iter().all(String::is_empty)
    }

    /// Returns the heading, or the cell of a row, filled up to the width of the column.
    fn cell(&self, row: Option<usize>) -> String {
        let text = row.map_or(self.heading, |row| self.cells.get(row).map_or("", String::as_str));
        let fill = " ".repeat(self.columns.saturating_sub(text::width(text)));
        if self.is_number { fill + text } else { text.to_owned() + &fill }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn row(id: &str, tag: &str, messages: u64) -> ListRow {
        ListRow {
            id: id.into(),
            created_at: Some("2026-11-23T20:45:17Z".into()),
            tag: Some(tag.into()),
            version: Some(1),
            database_bytes: Some(messages * 5000),
            attachments: Some(messages / 7),
            bytes_added: Some(messages * 1000),
            stats: Some(RawValue::from_string(format!(r#"{{"messages":{messages},"other":"x"}}"#)).unwrap()),
            ..ListRow::default()
        }
    }

    #[test]
    fn the_table_lines_up() {
        let rows = [
            row("20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b", "first", 5_000),
            row("20261124T204517Z-0b9e11d28178590a92e4fc25f5cbd274", "größe", 152_345),
        ];
        let expected = "\
id        date (UTC)        tag    messages  database  attachments    added
a3d383f8  2026-11-23 20:45  first     5,000  23.8 MiB          714  4.8 MiB
0b9e11d2  2026-11-23 20:45  größe   152,345   726 MiB       21,763  145 MiB
";
        assert_eq!(snapshots(&rows), expected);
    }

    #[test]
    fn without_tags_the_table_is_seventy_columns_wide() {
        let table = snapshots(&[row("20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b", "", 152_345)]);
        assert!(!table.contains("tag"));
        assert!(table.lines().all(|line| text::width(line) <= 70), "{table}");
    }

    #[test]
    fn a_damaged_snapshot_is_marked_and_explained() {
        let damaged = ListRow {
            id: "20261124T204517Z-0b9e".into(),
            problem: Some("ends after 3 bytes".into()),
            ..ListRow::default()
        };
        let table = snapshots(&[row("20261123T204517Z-a3d383f8", "", 7), damaged]);
        assert!(table.contains("0b9e      damaged\n"), "{table}");
        assert!(table.ends_with("problem: snapshot 20261124T204517Z-0b9e: ends after 3 bytes\n"), "{table}");
    }

    #[test]
    fn nothing_from_the_repository_reaches_the_terminal_raw() {
        let mut hostile = row("\x1b]0;id\x07", "\x1b[2J\u{202e}", 1);
        hostile.created_at = Some("\x1b[31m".into());
        hostile.problem = Some("\x1b[0m\nproblem: none".into());
        let table = snapshots(&[hostile]);
        assert!(!table.contains(['\x1b', '\x07', '\u{202e}']));
        assert_eq!(table.lines().count(), 3, "{table}");
    }

    #[test]
    fn whose_the_snapshots_are_is_one_line_or_a_column_where_they_differ() {
        let of = |name: Option<&str>, database: &str| ListRow {
            archive: Some(ListedArchive {
                profile: "sqlite".into(),
                name: name.map(str::to_owned),
                home: "/srv".into(),
                database: database.into(),
            }),
            ..row("20261123T204517Z-a3d383f8", "", 7)
        };
        let vault = of(Some("vault"), "/srv/vault/db.sqlite3");
        let table = snapshots(&[row("20261122T204517Z-b3d383f8", "", 7), vault.clone()]);
        assert!(table.ends_with("\narchive: vault, /srv/vault/db.sqlite3 (sqlite)\n"), "{table}");
        let table = snapshots(&[vault, of(None, "/srv/paper\x1b/db.sqlite3")]);
        assert!(
            table.contains("  archive ") && table.contains("  vault ") && !table.contains("archive:"),
            "{table}"
        );
        assert!(table.contains("  paper\\u{1b}/db.sqlite3  "), "{table}");
    }

    #[test]
    fn an_empty_repository_says_so() {
        assert_eq!(snapshots(&[]), "no snapshots yet\n");
    }
}
