//! `packvault diff --rows`: shows which rows of a table differ between two snapshots.

use packvault::Result;
use packvault::engine::Selection;
use packvault::engine::inside::rows::{
    Columns, DifferentRow, DifferentRows, RowChange, RowsOptions, RowsReport, rows,
};
use packvault::engine::inside::sql::{More, Value};

use super::look::Opened;
use super::report::Exit;
use super::session::Session;
use super::stream::Stream;
use super::text::{self, count, escape, width};
use super::values::{json, json_of, plain};

/// A value is cut there for people; as JSON it is whole.
const VALUE_COLUMNS_MAX: usize = 200;
/// The widest name of a column for which the others are moved to the right.
const NAME_COLUMNS_MAX: usize = 24;

/// Shows the rows that differ.
pub async fn run(
    Opened { repository, selection }: Opened,
    after: Selection,
    options: RowsOptions,
    jobs: Option<u16>,
    session: &Session,
) -> Result<Exit> {
    let printed = Box::new(Printed {
        is_json: session.is_json(),
        table: options.table.clone(),
        stream: Stream::default(),
        count: 0,
    });
    let context = session.context(jobs);
    let report = rows(&repository, (selection, after), &options, printed, &context).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    Ok(Exit::Done)
}

/// Rows on their way to standard output.
struct Printed {
    is_json: bool,
    table: String,
    stream: Stream,
    count: u64,
}

impl DifferentRows for Printed {
    fn begin(&mut self, before: &str, after: &str) -> Result<()> {
        if !self.is_json {
            return Ok(());
        }
        let (before, after, table) = (json(before)?, json(after)?, json(&self.table)?);
        self.stream.put(&format!("{{\"before\":{before},\"after\":{after},\"table\":{table},\"rows\":["))
    }

    fn row(&mut self, row: &DifferentRow<'_>) -> Result<More> {
        self.count += 1;
        match self.is_json {
            true => self.json_row(row)?,
            false => self.text_row(row)?,
        }
        Ok(if self.stream.is_over() { More::Unwanted } else { More::Wanted })
    }

    fn end(&mut self, report: &RowsReport) -> Result<()> {
        let RowsReport { added, removed, changed, by_pages, .. } = report;
        let line = match self.is_json {
            true => format!(
                "],\"added\":{added},\"removed\":{removed},\"changed\":{changed},\"by_pages\":{by_pages},\
                 \"warnings\":{}}}\n",
                json(&report.warnings)?
            ),
            false => format!(
                "{} added, {} removed, {} changed\n",
                text::counted(*added, "row"),
                count(*removed),
                count(*changed)
            ),
        };
        self.stream.put(&line)?;
        self.stream.flush()
    }
}

fn word(change: RowChange) -> &'static str {
    match change {
        RowChange::Added => "added",
        RowChange::Removed => "removed",
        RowChange::Changed => "changed",
    }
}

impl Printed {
    fn json_row(&mut self, row: &DifferentRow<'_>) -> Result<()> {
        let comma = if self.count > 1 { "," } else { "" };
        self.stream.put(&format!("{comma}{{\"change\":\"{}\",\"key\":", word(row.change)))?;
        self.json_columns(Some(&row.key))?;
        self.stream.put(",\"before\":")?;
        self.json_columns((row.change != RowChange::Added).then_some(&row.before))?;
        self.stream.put(",\"after\":")?;
        self.json_columns((row.change != RowChange::Removed).then_some(&row.after))?;
        self.stream.put("}")
    }

    fn json_columns(&mut self, columns: Option<&Columns<'_>>) -> Result<()> {
        let Some(columns) = columns else { return self.stream.put("null") };
        for (place, (name, value)) in columns.iter().enumerate() {
            self.stream.put(&format!("{}{}:", if place > 0 { "," } else { "{" }, json(name)?))?;
            json_of(value).try_for_each(|piece| self.stream.put(&piece?))?;
        }
        self.stream.put(if columns.is_empty() { "{}" } else { "}" })
    }

    fn text_row(&mut self, row: &DifferentRow<'_>) -> Result<()> {
        let key = row.key.iter().map(|(name, value)| format!("{}={}", escape(name), shown(value)));
        self.stream.put(&format!("{:<7}  {}\n", word(row.change), key.collect::<Vec<_>>().join(" ")))?;
        let columns = if row.change == RowChange::Added { &row.after } else { &row.before };
        let of_key = |name: &str| row.key.iter().any(|(known, _)| *known == name);
        let told: Vec<_> = columns.iter().filter(|(name, _)| !of_key(name)).collect();
        let widths = told.iter().map(|(name, _)| width(&escape(name)));
        let widest = widths.filter(|width| *width <= NAME_COLUMNS_MAX).max();
        for (name, value) in told {
            let shown_name = escape(name);
            let fill = " ".repeat(widest.unwrap_or(0).saturating_sub(width(&shown_name)));
            self.stream.put(format!("  {shown_name}{fill}  {}", shown(value)).trim_end())?;
            self.stream.put("\n")?;
            let becomes =
                row.after.iter().find(|(known, _)| row.change == RowChange::Changed && known == name);
            if let Some((_, value)) = becomes {
                let spaces = " ".repeat(width(&shown_name) + fill.len());
                self.stream.put(format!("  {spaces}  -> {}", shown(value)).trim_end())?;
                self.stream.put("\n")?;
            }
        }
        Ok(())
    }
}

/// Returns a value as people read it: one line, and not without end.
fn shown(value: &Value<'_>) -> String {
    match plain(value).next() {
        None if *value == Value::Null => "NULL".to_owned(),
        None => String::new(),
        Some(first) => text::cut(&escape(&first), VALUE_COLUMNS_MAX),
    }
}
