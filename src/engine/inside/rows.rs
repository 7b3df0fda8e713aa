//! diff of the rows of one table: which were added, removed or changed between two snapshots, by its primary key.
//!
//! Each row that may differ (`scope.rs`) is looked up by its key in the other database: nothing is kept of one row when the
//! next is looked at, and nobody has to know how keys are ordered. Both databases may be hostile, and are asked within the
//! bounds of every question (`sql.rs`).

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, Statement, params_from_iter};

use super::pages::PageReader;
use super::row::{key_columns, quoted};
use super::scope::{Scope, scope};
use super::sql::{More, READINGS, Value, ask, ask_both, sql_error};
use super::{Inside, Reach, Snapshot, look};
use crate::archive::bounds::Bounds;
use crate::engine::{Context, ReadLocking, Selection};
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// The names by which SQLite knows the number of a row, if no column has them.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// What `diff` of rows is asked for.
#[derive(Debug, Clone, Default)]
pub struct RowsOptions {
    /// The table.
    pub table: String,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    /// Only the later snapshot has it.
    Added,
    /// Only the earlier one has it.
    Removed,
    /// Some of its columns have other values.
    Changed,
}

/// Columns of a row, by their names.
pub type Columns<'a> = Vec<(&'a str, Value<'a>)>;

/// A row that differs.
#[derive(Debug)]
pub struct DifferentRow<'a> {
    /// How.
    pub change: RowChange,
    /// Its key.
    pub key: Columns<'a>,
    /// What it was: all columns of a row that was removed, those that differ of one that was changed.
    pub before: Columns<'a>,
    /// The same of what it is.
    pub after: Columns<'a>,
}

/// Takes rows that differ, on a thread of its own.
pub trait DifferentRows: Send {
    /// Takes what is compared, before any row.
    fn begin(&mut self, before: &str, after: &str) -> Result<()>;
    /// Takes a row.
    fn row(&mut self, row: &DifferentRow<'_>) -> Result<More>;
    /// Is told that there are no more, and how many there were.
    fn end(&mut self, report: &RowsReport) -> Result<()>;
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsReport {
    /// Rows that only the later snapshot has.
    pub added: u64,
    /// Rows that only the earlier one has.
    pub removed: u64,
    /// Rows with other values.
    pub changed: u64,
    /// Whether only rows were looked at that lie on pages which differ.
    pub by_pages: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Compares the rows of a table in two snapshots: first those of the earlier one, then those that were added.
pub async fn rows(
    repository: &Repository,
    (before, after): (Selection, Selection),
    options: &RowsOptions,
    mut rows: Box<dyn DifferentRows>,
    context: &Context,
) -> Result<RowsReport> {
    let work = async |inside: &Inside| {
        let (before, after) = (inside.snapshot(&before).await?, inside.snapshot(&after).await?);
        let sides =
            (Side::open(&before, options, context).await?, Side::open(&after, options, context).await?);
        let (earlier, later) = sides;
        let pair = Pair::of(earlier.table.clone(), later.table.clone(), options, (before.id(), after.id()))?;
        let found = match &pair.definition {
            Definition::Same(roots) => scope((&earlier.pages, &later.pages), *roots, context).await?,
            Definition::Other => Scope::All,
        };
        let by_pages = found != Scope::All;
        let bytes = earlier.pages.bytes().saturating_add(later.pages.bytes());
        let bounds = Bounds::of_questions(&context.cancel, bytes, READINGS);
        let ids = (before.id().to_owned(), after.id().to_owned());
        let compared = ask_both((earlier.pages, later.pages), &bounds, move |before, after| {
            rows.begin(&ids.0, &ids.1)?;
            let mut report =
                RowsReport { by_pages, warnings: pair.warnings.clone(), ..RowsReport::default() };
            if compare((before, after), &pair, &found, rows.as_mut(), &mut report)? == More::Wanted {
                rows.end(&report)?;
            }
            Ok(report)
        });
        compared.await
    };
    let (mut report, warnings) =
        look(repository, "diff", (Reach::Many, options.locking), context, work).await?;
    report.warnings.extend(warnings);
    Ok(report)
}

/// A table in one of the databases.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    name: String,
    root: u64,
    sql: String,
    columns: Vec<String>,
    key: Vec<String>,
    has_rowid: bool,
}

struct Side {
    pages: PageReader,
    table: Option<Table>,
}

impl Side {
    async fn open(snapshot: &Snapshot, options: &RowsOptions, context: &Context) -> Result<Self> {
        let (pages, name) = (snapshot.pages().await?, options.table.clone());
        let bounds = Bounds::of_questions(&context.cancel, pages.bytes(), READINGS);
        let table = ask(pages.clone(), &bounds, move |connection| Table::find(connection, &name)).await?;
        Ok(Self { pages, table })
    }
}

impl Table {
    fn find(connection: &Connection, name: &str) -> Result<Option<Self>> {
        let failed = |error| sql_error("compare", error);
        let sql =
            "SELECT name, rootpage, sql FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?1)";
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let mut found = statement.query([name]).map_err(failed)?;
        let Some(row) = found.next().map_err(failed)? else { return Ok(None) };
        let name: String = row.get(0).map_err(failed)?;
        let root: i64 = row.get(1).map_err(failed)?;
        let sql: Option<String> = row.get(2).map_err(failed)?;
        if root <= 0 {
            let message =
                format!("{name:?} is a virtual table: its rows lie in other tables, which can be compared");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let everything = connection.prepare(&format!("SELECT * FROM {}", quoted(&name))).map_err(failed)?;
        let columns: Vec<String> = everything.column_names().map(str::to_owned).collect();
        let key = key_columns(connection, &name).map_err(failed)?.unwrap_or_default();
        let without = "SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'";
        let is_without: bool = connection.query_row(without, [&name], |row| row.get(0)).map_err(failed)?;
        let root = u64::try_from(root).unwrap_or(0);
        Ok(Some(Self { name, root, sql: sql.unwrap_or_default(), columns, key, has_rowid: !is_without }))
    }

    /// Returns a name of the number of a row that no column has.
    fn rowid(&self) -> Option<&'static str> {
        let is_taken = |name: &str| self.columns.iter().any(|column| column.eq_ignore_ascii_case(name));
        ROWID_NAMES.into_iter().filter(|_| self.has_rowid).find(|name| !is_taken(name))
    }
}

/// Whether the tables are defined in the same way, and where they begin then.
enum Definition {
    Same((u64, u64)),
    Other,
}

/// What is compared: a table that one of the two may lack.
struct Pair {
    before: Option<Table>,
    after: Option<Table>,
    definition: Definition,
    warnings: Vec<String>,
}

impl Pair {
    fn of(
        before: Option<Table>,
        after: Option<Table>,
        options: &RowsOptions,
        ids: (&str, &str),
    ) -> Result<Self> {
        let mut warnings = Vec::new();
        let mut definition = Definition::Other;
        match (&before, &after) {
            (None, None) => {
                let message = format!("neither snapshot has a table {:?}", options.table);
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            (Some(one), Some(other)) => {
                let lower =
                    |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
                if lower(&one.key) != lower(&other.key) {
                    let message = format!(
                        "the rows of {:?} cannot be compared: its primary key is ({}) in one snapshot and ({}) in \
                         the other",
                        other.name,
                        one.key.join(", "),
                        other.key.join(", ")
                    );
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                for (table, than, id) in [(one, other, ids.0), (other, one, ids.1)] {
                    let alone = table.columns.iter().filter(|column| !than.columns.contains(column));
                    warnings.extend(alone.map(|column| {
                        format!("only snapshot {id} has the column {column:?}; it is not compared")
                    }));
                }
                if one.sql == other.sql && one.rowid().is_some() {
                    definition = Definition::Same((one.root, other.root));
                }
            }
            (found, _) => {
                let lacking = if found.is_none() { ids.0 } else { ids.1 };
                warnings.push(format!("snapshot {lacking} has no table {:?}", options.table));
            }
        }
        Ok(Self { before, after, definition, warnings })
    }
}

/// Compares the rows within the scope.
fn compare(
    (before, after): (&Connection, &Connection),
    pair: &Pair,
    scope: &Scope,
    rows: &mut dyn DifferentRows,
    report: &mut RowsReport,
) -> Result<More> {
    let mut goes_on = true;
    if let Some(table) = &pair.before {
        let mut others = pair.after.as_ref().map(|other| Lookup::prepare(after, other)).transpose()?;
        each_row(before, table, scope, |row| {
            goes_on = took_of_before(row, table, others.as_mut(), rows, report)? == More::Wanted;
            Ok(goes_on)
        })?;
        if !goes_on {
            return Ok(More::Unwanted);
        }
    }
    if let Some(table) = &pair.after {
        let mut others = pair.before.as_ref().map(|other| Lookup::prepare(before, other)).transpose()?;
        each_row(after, table, scope, |row| {
            let key = Key::of(row, table)?;
            if let Some(others) = &mut others
                && others.with(&key, |_, _| Ok(()))?.is_some()
            {
                return Ok(true);
            }
            report.added += 1;
            let row = DifferentRow {
                change: RowChange::Added,
                key: key.columns,
                before: Vec::new(),
                after: values(row, table)?,
            };
            goes_on = rows.row(&row)? == More::Wanted;
            Ok(goes_on)
        })?;
    }
    Ok(if goes_on { More::Wanted } else { More::Unwanted })
}

/// Looks a row of the earlier snapshot up in the later one, and tells what became of it.
fn took_of_before(
    row: &Row<'_>,
    table: &Table,
    others: Option<&mut Lookup<'_>>,
    rows: &mut dyn DifferentRows,
    report: &mut RowsReport,
) -> Result<More> {
    let key = Key::of(row, table)?;
    let before = values(row, table)?;
    let kept = match others {
        None => None,
        Some(others) => others.with(&key, |other, columns| {
            let after = values(other, columns)?;
            let differs = |(name, value): &&(&str, Value<'_>)| {
                before.iter().any(|(known, old)| known == name && !is_same(old, value))
            };
            let after: Vec<_> = after.iter().filter(differs).copied().collect();
            if after.is_empty() {
                return Ok(More::Wanted);
            }
            report.changed += 1;
            let is_told = |(name, _): &&(&str, Value<'_>)| after.iter().any(|(known, _)| known == name);
            let before: Vec<_> = before.iter().filter(is_told).copied().collect();
            rows.row(&DifferentRow { change: RowChange::Changed, key: key.columns.clone(), before, after })
        })?,
    };
    if let Some(more) = kept {
        return Ok(more);
    }
    report.removed += 1;
    let (key, after) = (key.columns, Vec::new());
    rows.row(&DifferentRow { change: RowChange::Removed, key, before, after })
}

/// Calls for each row within the scope, in the order in which they lie.
fn each_row(
    connection: &Connection,
    table: &Table,
    scope: &Scope,
    mut take: impl FnMut(&Row<'_>) -> Result<bool>,
) -> Result<()> {
    let failed = |error| sql_error("compare", error);
    let own = table.rowid().map(|rowid| format!("{rowid}, ")).unwrap_or_default();
    let all = format!("SELECT {own}* FROM {} NOT INDEXED", quoted(&table.name));
    let (sql, spans) = match (scope, table.rowid()) {
        (Scope::Spans(spans), Some(rowid)) => {
            (format!("{all} WHERE {rowid} BETWEEN ?1 AND ?2"), spans.iter().map(Some).collect())
        }
        _ => (all, vec![None]),
    };
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    for span in spans {
        let bound: Vec<i64> = span.into_iter().flat_map(|(from, to)| [*from, *to]).collect();
        let mut rows = statement.query(params_from_iter(bound)).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if !take(row)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns how many columns stand before those of the table.
fn own_columns(table: &Table) -> usize {
    usize::from(table.rowid().is_some())
}

fn value<'a>(row: &'a Row<'_>, column: usize) -> Result<Value<'a>> {
    Ok(match row.get_ref(column).map_err(|error| sql_error("compare", error))? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(text),
        ValueRef::Blob(bytes) => Value::Blob(bytes),
    })
}

fn values<'a>(row: &'a Row<'_>, table: &'a Table) -> Result<Columns<'a>> {
    let columns = table.columns.iter().zip(own_columns(table)..);
    columns.map(|(name, column)| Ok((name.as_str(), value(row, column)?))).collect()
}

fn is_same(one: &Value<'_>, other: &Value<'_>) -> bool {
    match (one, other) {
        (Value::Real(one), Value::Real(other)) => one.to_bits() == other.to_bits(),
        _ => one == other,
    }
}

/// What a row is known by.
struct Key<'a> {
    columns: Columns<'a>,
    /// By its number: it has no other key, or one that is not there.
    is_rowid: bool,
}

impl<'a> Key<'a> {
    fn of(row: &'a Row<'_>, table: &'a Table) -> Result<Self> {
        let mut columns: Columns<'a> = Vec::with_capacity(table.key.len());
        for name in &table.key {
            match table.columns.iter().position(|column| column.eq_ignore_ascii_case(name)) {
                Some(place) => columns.push((name, value(row, place + own_columns(table))?)),
                // The number of a row is none of its columns.
                None => return Self::by_rowid(row, table),
            }
        }
        // SQLite lets keys be NULL, and then any number of rows has them.
        match columns.iter().any(|(_, value)| *value == Value::Null) {
            true => Self::by_rowid(row, table),
            false => Ok(Self { columns, is_rowid: false }),
        }
    }

    fn by_rowid(row: &'a Row<'_>, table: &'a Table) -> Result<Self> {
        let Some(rowid) = table.rowid() else {
            let message =
                format!("the rows of {:?} cannot be compared: nothing tells one from another", table.name);
            return Err(Error::new(ErrorKind::Refused, message));
        };
        Ok(Self { columns: vec![(rowid, value(row, 0)?)], is_rowid: true })
    }
}

/// Finds rows by their keys.
struct Lookup<'a> {
    table: &'a Table,
    by_key: Option<Statement<'a>>,
    by_rowid: Option<Statement<'a>>,
}

impl<'a> Lookup<'a> {
    fn prepare(connection: &'a Connection, table: &'a Table) -> Result<Self> {
        let own = table.rowid().map(|rowid| format!("{rowid}, ")).unwrap_or_default();
        let prepared = |condition: String| {
            let sql = format!("SELECT {own}* FROM {} WHERE {condition} LIMIT 1", quoted(&table.name));
            connection.prepare(&sql).map_err(|error| sql_error("compare", error))
        };
        let is_column = |name: &String| table.columns.iter().any(|column| column.eq_ignore_ascii_case(name));
        let by_key = table.key.iter().all(is_column).then(|| {
            let conditions =
                (1..).zip(&table.key).map(|(number, name)| format!("{} = ?{number}", quoted(name)));
            prepared(conditions.collect::<Vec<_>>().join(" AND "))
        });
        let by_rowid = table.rowid().map(|rowid| prepared(format!("{rowid} = ?1")));
        Ok(Self { table, by_key: by_key.transpose()?, by_rowid: by_rowid.transpose()? })
    }

    /// Does something with the row of a key; nothing where there is none.
    fn with<T>(
        &mut self,
        key: &Key<'_>,
        work: impl FnOnce(&Row<'_>, &Table) -> Result<T>,
    ) -> Result<Option<T>> {
        let failed = |error| sql_error("compare", error);
        let statement = if key.is_rowid { &mut self.by_rowid } else { &mut self.by_key };
        let Some(statement) = statement else { return Ok(None) };
        let bound = key.columns.iter().map(|(_, value)| Bound(*value));
        let mut found = statement.query(params_from_iter(bound)).map_err(failed)?;
        let Some(row) = found.next().map_err(failed)? else { return Ok(None) };
        // A row that is known by its number alone is another than one of that number with a key.
        if key.is_rowid != Key::of(row, self.table)?.is_rowid {
            return Ok(None);
        }
        work(row, self.table).map(Some)
    }
}

/// A value as it is asked for.
struct Bound<'a>(Value<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(number),
            Value::Real(number) => ValueRef::Real(number),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
