//! The table of `list`: one snapshot per line, newest last, damaged ones marked.
//!
//! Columns are as wide as what is in them; a column that would be empty is left out. Whatever comes from the
//! repository is escaped.

use super::select;
use super::text::{self, escape};
use packvault::archive::profile::Figure;
use packvault::engine::report::{ListRow, ListedArchive, ProblemKind};
use packvault::profiles;

/// Widest tag shown whole.
pub const TAG_COLUMNS_MAX: usize = 16;

/// Widest archive shown whole.
const ARCHIVE_COLUMNS_MAX: usize = 24;

/// Between two columns.
const GAP: &str = "  ";

/// How the table names snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// By as much as tells them apart.
    Short,
    /// As they are called in the repository.
    Whole,
}

/// A column: its heading, whether numbers stand in it, and a cell per row.
pub struct Column {
    heading: &'static str,
    is_number: bool,
    cells: Vec<String>,
    /// The widest of them.
    columns: usize,
}

/// Returns the table, and below it a line for every damaged snapshot.
pub fn snapshots(rows: &[ListRow], ids: Ids) -> String {
    if rows.is_empty() {
        return "no snapshots yet\n".to_owned();
    }
    let mut table = lined_up(columns(rows, ids), rows.len());
    if let Some(archive) = only_archive(rows) {
        table.push_str(&format!("archive: {}\n", whole(archive)));
    }
    for row in rows {
        if let Some(problem) = &row.problem {
            table.push_str(&format!("problem: snapshot {}: {}\n", escape(&row.id), escape(problem)));
        }
        if row.forgotten && row.problem.is_none() {
            let id = escape(&row.id);
            table.push_str(&format!("forgotten: snapshot {id}: later ones are built on it\n"));
        }
        if let Some(first) = row.source_problems.first() {
            let id = escape(&row.id);
            table.push_str(&format!("warning: snapshot {id}: the source was damaged: {}\n", escape(first)));
        }
    }
    table
}

/// Returns so many lines of columns, below their headings.
pub fn lined_up(columns: Vec<Column>, lines: usize) -> String {
    let mut table = String::new();
    let columns: Vec<Column> = columns.into_iter().filter(|column| !column.is_empty()).collect();
    for line in std::iter::once(None).chain((0..lines).map(Some)) {
        let cells: Vec<String> = columns.iter().map(|column| column.cell(line)).collect();
        table.push_str(cells.join(GAP).trim_end());
        table.push('\n');
    }
    table
}

fn columns(rows: &[ListRow], ids: Ids) -> Vec<Column> {
    let whole: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let ids = match ids {
        Ids::Short => select::short(&whole),
        Ids::Whole => whole.into_iter().map(str::to_owned).collect(),
    };
    let number = |heading, cell: fn(&ListRow) -> Option<String>| Column::new(heading, true, rows, cell);
    let mut columns = vec![
        Column::of("id", false, ids.iter().map(|id| escape(id)).collect()),
        Column::new("date (UTC)", false, rows, date),
        Column::new("archive", false, rows, if only_archive(rows).is_some() { |_| None } else { archive }),
        Column::new("tag", false, rows, tag),
    ];
    columns.extend(figures(rows));
    columns.extend([
        Column::new("documents", false, rows, documents),
        number("database", |row| row.database_bytes.map(text::size)),
        number("attachments", |row| row.attachments.map(text::count)),
        number("added", |row| row.bytes_added.map(text::size)),
    ]);
    columns
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

fn documents(row: &ListRow) -> Option<String> {
    profiles::has_document_text(&row.artifacts).then(|| "text".to_owned())
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

/// Returns what the profiles show of their snapshots: a column for each heading, in the order of the rows.
fn figures(rows: &[ListRow]) -> Vec<Column> {
    let of_row =
        |row: &ListRow| row.stats.as_ref().map(|stats| profiles::figures(stats.get())).unwrap_or_default();
    let figures: Vec<Vec<Figure>> = rows.iter().map(of_row).collect();
    let mut headings: Vec<&'static str> = Vec::new();
    for figure in figures.iter().flatten() {
        if !headings.contains(&figure.heading) {
            headings.push(figure.heading);
        }
    }
    let column = |heading: &'static str| {
        let cell = |figures: &Vec<Figure>| {
            let figure = figures.iter().find(|figure| figure.heading == heading);
            figure.map(|figure| text::count(figure.count)).unwrap_or_default()
        };
        Column::of(heading, true, figures.iter().map(cell).collect())
    };
    headings.into_iter().map(column).collect()
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

    /// Makes a column of these cells, which are harmless.
    pub fn of(heading: &'static str, is_number: bool, cells: Vec<String>) -> Self {
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
        assert_eq!(snapshots(&rows, Ids::Short), expected);
    }

    #[test]
    fn whole_ids_are_shown_where_they_are_asked_for() {
        let id = "20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b";
        let table = snapshots(&[row(id, "", 7)], Ids::Whole);
        assert!(table.contains(&format!("\n{id}  2026-11-23 20:45  ")), "{table}");
    }

    #[test]
    fn without_tags_the_table_is_seventy_columns_wide() {
        let table =
            snapshots(&[row("20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b", "", 152_345)], Ids::Short);
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
        let table = snapshots(&[row("20261123T204517Z-a3d383f8", "", 7), damaged], Ids::Short);
        assert!(table.contains("0b9e      damaged\n"), "{table}");
        assert!(table.ends_with("problem: snapshot 20261124T204517Z-0b9e: ends after 3 bytes\n"), "{table}");
    }

    #[test]
    fn nothing_from_the_repository_reaches_the_terminal_raw() {
        let mut hostile = row("\x1b]0;id\x07", "\x1b[2J\u{202e}", 1);
        hostile.created_at = Some("\x1b[31m".into());
        hostile.problem = Some("\x1b[0m\nproblem: none".into());
        let table = snapshots(&[hostile], Ids::Short);
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
        let table = snapshots(&[row("20261122T204517Z-b3d383f8", "", 7), vault.clone()], Ids::Short);
        assert!(table.ends_with("\narchive: vault, /srv/vault/db.sqlite3 (sqlite)\n"), "{table}");
        let table = snapshots(&[vault, of(None, "/srv/paper\x1b/db.sqlite3")], Ids::Short);
        assert!(
            table.contains("  archive ") && table.contains("  vault ") && !table.contains("archive:"),
            "{table}"
        );
        assert!(table.contains("  paper\\u{1b}/db.sqlite3  "), "{table}");
    }

    #[test]
    fn what_says_that_there_is_text_of_documents_has_a_column_where_one_says_it() {
        let plain = row("20261122T204517Z-b3d383f8", "", 7);
        let with_text = ListRow { artifacts: vec!["document-derivatives".into()], ..plain.clone() };
        let table = snapshots(&[plain.clone(), with_text], Ids::Short);
        assert!(
            table.starts_with("id") && table.contains("  documents") && table.contains("  text"),
            "{table}"
        );
        assert!(!snapshots(&[plain], Ids::Short).contains("documents"));
    }

    #[test]
    fn an_empty_repository_says_so() {
        assert_eq!(snapshots(&[], Ids::Short), "no snapshots yet\n");
    }
}
