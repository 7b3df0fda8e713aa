//! `packvault sql`: asks the database of a snapshot a question.

use std::iter::repeat_n;
use std::time::Duration;

use packvault::engine::inside::sql::{More, Rows, SqlOptions, Value, sql};
use packvault::{Error, ErrorKind, Result};

use super::look;
use super::report::Exit;
use super::session::Session;
use super::stream::Stream;
use super::text::{escape, width};
use super::values::{bytes_of, json, json_of, plain, quoted};

/// Rows that are looked at to see how wide the columns of a table are.
const MEASURED_ROWS: usize = 200;
/// Their bytes at the most.
const MEASURED_BYTES: usize = 1024 * 1024;
/// A column is never wider because of what is in it, and what is wider pushes the rest to the right.
const COLUMNS_MAX: usize = 60;
/// Columns between two columns.
const GAP_COLUMNS: usize = 2;
/// A value with more bytes than this for each column is wider than any column.
const BYTES_PER_COLUMN_MAX: usize = 64;

/// Ask the database of a snapshot, without restoring it
///
/// One statement, which can only read. Only the pages that the answer needs are read, each checked against its hash;
/// on a server, with few requests. Full-text search works.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault sql 'SELECT count(*) FROM messages' --repo /mnt/backup
  packvault sql latest~7 'SELECT * FROM labels' --csv > labels.csv
  packvault sql mail latest 'SELECT subject FROM messages WHERE id = 42' --json
  packvault sql 'SELECT name, sql FROM sqlite_schema'

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archive, by its name in the configuration; the snapshot, `latest` without one; and the question
    #[arg(value_name = "ARCHIVE] [SNAPSHOT] [STATEMENT", num_args = 1..=3, required = true)]
    words: Vec<String>,
    /// Print comma-separated values, with the names of the columns first
    #[arg(long, conflicts_with = "table")]
    csv: bool,
    /// Print a table, as without --csv and --json
    #[arg(long)]
    table: bool,
    /// How long the answer may take; without it, by the size of the database
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: Option<u64>,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
}

/// Prints the answer.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    if session.is_json() && (arguments.csv || arguments.table) {
        return Err(Error::new(
            ErrorKind::Usage,
            "--json cannot be asked for together with --csv or --table",
        ));
    }
    let (subject, statement) = look::with_last(session, &arguments.words)?;
    let opened = look::open(session, &subject, arguments.locks).await?;
    let time = arguments.timeout.map(Duration::from_secs);
    let options = SqlOptions { statement, time, locking: arguments.locks.locking() };
    let style = match (session.is_json(), arguments.csv) {
        (true, _) => Style::Json,
        (_, true) => Style::Csv,
        _ => Style::Table(Measured::default()),
    };
    let rows = Box::new(Printed { style, stream: Stream::default(), count: 0 });
    let context = session.context(arguments.jobs);
    let answered = sql(&opened.repository, opened.selection, &options, rows, &context).await?;
    answered.warnings.iter().for_each(|sentence| session.warn(sentence));
    Ok(Exit::Done)
}

enum Style {
    Json,
    Csv,
    Table(Measured),
}

/// The first rows of a table, until it is known how wide its columns are.
#[derive(Default)]
struct Measured {
    waiting: Vec<Vec<Cell>>,
    bytes: usize,
    widths: Option<Vec<usize>>,
}

/// A cell of a row that waits.
struct Cell {
    text: String,
    is_number: bool,
}

impl Cell {
    fn of(value: &Value<'_>) -> Self {
        let text = plain(value).map(|piece| escape(&piece)).collect();
        Self { text, is_number: is_number(value) }
    }
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Integer(_) | Value::Real(_))
}

impl Measured {
    /// Keeps a row until the widths are known; false where it is not to wait.
    fn keeps(&mut self, values: &[Value<'_>]) -> bool {
        let bytes = self.bytes.saturating_add(values.iter().map(bytes_of).fold(0, usize::saturating_add));
        if self.widths.is_some() || self.waiting.len() > MEASURED_ROWS || bytes > MEASURED_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.waiting.push(values.iter().map(Cell::of).collect());
        true
    }

    /// Returns the rows that wait, with the widths that they decide.
    fn decided(&mut self) -> (Vec<Vec<Cell>>, Vec<usize>) {
        let waiting = std::mem::take(&mut self.waiting);
        let widths = self.widths.get_or_insert_with(|| {
            let columns = waiting.first().map_or(0, Vec::len);
            let widest = |column: usize| {
                let cells = waiting.iter().filter_map(|row| row.get(column));
                cells.map(|cell| width(&cell.text)).max().unwrap_or(0).min(COLUMNS_MAX)
            };
            (0..columns).map(widest).collect()
        });
        (waiting, widths.clone())
    }
}

/// Rows on their way to standard output.
struct Printed {
    style: Style,
    stream: Stream,
    count: u64,
}

impl Rows for Printed {
    fn columns(&mut self, snapshot: &str, names: &[String]) -> Result<()> {
        let text = |name: &str| Cell { text: escape(name), is_number: false };
        match &mut self.style {
            Style::Json => {
                let (snapshot, names) = (json(snapshot)?, json(names)?);
                self.put(&format!("{{\"snapshot\":{snapshot},\"columns\":{names},\"rows\":["))
            }
            Style::Csv => {
                let names: Vec<Value<'_>> = names.iter().map(|name| Value::Text(name.as_bytes())).collect();
                self.csv_row(&names)
            }
            Style::Table(measured) => {
                measured.waiting.push(names.iter().map(|name| text(name)).collect());
                Ok(())
            }
        }
    }

    fn row(&mut self, values: &[Value<'_>]) -> Result<More> {
        self.count += 1;
        match &mut self.style {
            Style::Json => self.json_row(values)?,
            Style::Csv => self.csv_row(values)?,
            Style::Table(measured) => {
                if !measured.keeps(values) {
                    self.lay_out()?;
                    self.table_row(values)?;
                }
            }
        }
        Ok(if self.stream.is_over() { More::Unwanted } else { More::Wanted })
    }

    fn end(&mut self) -> Result<()> {
        match &self.style {
            Style::Json => self.put("]}\n")?,
            Style::Csv => {}
            Style::Table(_) => self.lay_out()?,
        }
        self.stream.flush()
    }
}

impl Printed {
    fn json_row(&mut self, values: &[Value<'_>]) -> Result<()> {
        self.put(if self.count > 1 { ",[" } else { "[" })?;
        for (column, value) in values.iter().enumerate() {
            self.put(if column > 0 { "," } else { "" })?;
            json_of(value).try_for_each(|piece| self.put(&piece?))?;
        }
        self.put("]")
    }

    fn csv_row(&mut self, values: &[Value<'_>]) -> Result<()> {
        for (column, value) in values.iter().enumerate() {
            self.put(if column > 0 { "," } else { "" })?;
            quoted(value).try_for_each(|piece| self.put(&piece))?;
        }
        self.put("\r\n")
    }

    /// Writes the rows that wait; they decide how wide the columns are.
    fn lay_out(&mut self) -> Result<()> {
        let Style::Table(measured) = &mut self.style else { return Ok(()) };
        let (waiting, widths) = measured.decided();
        for row in waiting {
            let mut spaces = 0;
            for (Cell { text, is_number }, width_min) in row.iter().zip(&widths) {
                let fill = width_min.saturating_sub(width(text));
                let before = if *is_number { fill } else { 0 };
                spaces = self.cell(spaces + before, text)? + (fill - before) + GAP_COLUMNS;
            }
            self.put("\n")?;
        }
        Ok(())
    }

    /// Writes a row when the widths are known, in pieces, for it may be a long one.
    fn table_row(&mut self, values: &[Value<'_>]) -> Result<()> {
        let Style::Table(measured) = &mut self.style else { return Ok(()) };
        let (_, widths) = measured.decided();
        let mut spaces = 0;
        for (value, width_min) in values.iter().zip(&widths) {
            if bytes_of(value) > COLUMNS_MAX * BYTES_PER_COLUMN_MAX {
                for piece in plain(value) {
                    spaces = self.cell(spaces, &escape(&piece))?;
                }
                spaces += GAP_COLUMNS;
                continue;
            }
            let Cell { text, is_number } = Cell::of(value);
            let fill = width_min.saturating_sub(width(&text));
            let before = if is_number { fill } else { 0 };
            spaces = self.cell(spaces + before, &text)? + (fill - before) + GAP_COLUMNS;
        }
        self.put("\n")
    }

    /// Writes a cell after so many spaces; returns the spaces that still wait, for none ends a line.
    fn cell(&mut self, spaces: usize, text: &str) -> Result<usize> {
        if text.is_empty() {
            return Ok(spaces);
        }
        self.put(&repeat_n(' ', spaces).collect::<String>())?;
        self.put(text)?;
        Ok(0)
    }

    fn put(&mut self, text: &str) -> Result<()> {
        self.stream.put(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_nothing_in_it_moves_the_terminal() {
        let style = Style::Table(Measured::default());
        let mut printed = Printed { style, stream: Stream::default(), count: 0 };
        printed.columns("s", &["id".to_owned(), "word".to_owned(), "x".to_owned()]).unwrap();
        printed.row(&[Value::Integer(1), Value::Text(b"\x1b[2J"), Value::Null]).unwrap();
        printed.row(&[Value::Integer(12345), Value::Null, Value::Text(b"b")]).unwrap();
        printed.lay_out().unwrap();
        let long = "y".repeat(1000);
        printed.row(&[Value::Integer(7), Value::Text(long.as_bytes()), Value::Text(b"c")]).unwrap();
        let first = "id     word       x\n    1  \\u{1b}[2J\n12345             b\n";
        assert_eq!(printed.stream.waiting(), format!("{first}    7  {long}  c\n"));
    }
}
