//! `packvault history --table`: shows what a row was in each snapshot.

use packvault::Result;
use packvault::engine::inside::history::{
    HistoryOptions, OwnedValue, RowHistory, Version, Versions, history,
};

use super::report::Exit;
use super::session::Session;
use super::stream::Stream;
use super::subject::Subject;
use super::text::{self, counted, escape, width};
use super::values::{json, json_of, plain};
use super::{look, select};

/// A value is cut there for people; as JSON it is whole.
const VALUE_COLUMNS_MAX: usize = 200;
/// The widest name of a column for which the others are moved to the right.
const NAME_COLUMNS_MAX: usize = 24;

/// Which row is meant.
#[derive(Debug, clap::Args)]
pub struct RowFlags {
    /// Show what a row of this table was in each snapshot
    #[arg(long, value_name = "TABLE", requires = "row", conflicts_with_all = ["since", "kind", "failed", "limit"])]
    pub(super) table: Option<String>,
    /// The row, by its primary key or its rowid; once for each column of the key
    #[arg(long, value_name = "KEY", requires = "table", allow_hyphen_values = true)]
    row: Vec<String>,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256), requires = "table")]
    pub(super) jobs: Option<u16>,
}

/// Shows the versions of the row.
pub async fn run(archive: Option<&str>, flags: &RowFlags, session: &Session) -> Result<Exit> {
    let archive = archive.map(|name| session.settings().archive_to_read(name)).transpose()?;
    let opened = look::open(session, &Subject { archive, snapshot: None }, flags.locks).await?;
    let table = flags.table.clone().unwrap_or_default();
    let options = HistoryOptions { table, key: flags.row.clone(), locking: flags.locks.locking() };
    let context = session.context(flags.jobs);
    let mut printed =
        Printed { is_json: session.is_json(), options: &options, stream: Stream::default(), count: 0 };
    let found = history(&opened.repository, &options, &mut printed, &context).await?;
    printed.end(&found)?;
    found.warnings.iter().for_each(|sentence| session.warn(sentence));
    Ok(if found.problems.is_empty() { Exit::Done } else { Exit::Problems })
}

/// Versions on their way to standard output.
struct Printed<'a> {
    is_json: bool,
    options: &'a HistoryOptions,
    stream: Stream,
    count: u64,
}

impl Versions for Printed<'_> {
    fn version(&mut self, version: &Version<'_>) -> Result<()> {
        self.count += 1;
        if self.is_json { self.json_version(version) } else { self.text_version(version) }
    }
}

impl Printed<'_> {
    fn json_version(&mut self, version: &Version<'_>) -> Result<()> {
        self.begin_json()?;
        let (snapshot, created_at) = (json(version.snapshot)?, json(version.created_at)?);
        let comma = if self.count > 1 { "," } else { "" };
        self.stream.put(&format!("{comma}{{\"snapshot\":{snapshot},\"created_at\":{created_at},\"row\":"))?;
        self.stream.put(if version.row.is_some() { "{" } else { "null" })?;
        for (column, (name, value)) in version.row.into_iter().flatten().enumerate() {
            let comma = if column > 0 { "," } else { "" };
            self.stream.put(&format!("{comma}{}:", json(name)?))?;
            json_of(&value.as_value()).try_for_each(|piece| self.stream.put(&piece?))?;
        }
        self.stream.put(if version.row.is_some() { "}" } else { "" })?;
        self.stream.put(&format!(",\"changed\":{}}}", json(version.changed)?))
    }

    /// Begins the object with the first version, so that a command that fails prints nothing.
    fn begin_json(&mut self) -> Result<()> {
        if self.count > 1 {
            return Ok(());
        }
        let (table, key) = (json(&self.options.table)?, json(&self.options.key)?);
        self.stream.put(&format!("{{\"table\":{table},\"key\":{key},\"versions\":["))
    }

    fn text_version(&mut self, version: &Version<'_>) -> Result<()> {
        let what = match (version.row, version.changed) {
            (None, _) => "gone".to_owned(),
            (Some(_), []) => "there".to_owned(),
            (Some(_), changed) => {
                let names: Vec<String> = changed.iter().map(|name| escape(name)).collect();
                format!("changed: {}", names.join(", "))
            }
        };
        let id = select::short(&[version.snapshot]).remove(0);
        let minute = text::minute(version.created_at);
        self.stream.put(&format!("{minute}  {}  {what}\n", escape(&id)))?;
        let is_shown = |name: &String| version.changed.is_empty() || version.changed.contains(name);
        let row = version.row.into_iter().flatten();
        let shown: Vec<(String, &OwnedValue)> =
            row.filter(|(name, _)| is_shown(name)).map(|(name, value)| (escape(name), value)).collect();
        let widest =
            shown.iter().map(|(name, _)| width(name)).filter(|width| *width <= NAME_COLUMNS_MAX).max();
        for (name, value) in shown {
            let fill = " ".repeat(widest.unwrap_or(0).saturating_sub(width(&name)));
            self.stream.put(format!("  {name}{fill}  {}", shown_value(value)).trim_end())?;
            self.stream.put("\n")?;
        }
        Ok(())
    }

    fn end(&mut self, found: &RowHistory) -> Result<()> {
        if self.is_json {
            if self.count == 0 {
                self.count = 1;
                self.begin_json()?;
            }
            let (problems, warnings) = (json(&found.problems)?, json(&found.warnings)?);
            let snapshots = found.snapshots;
            let end =
                format!("],\"snapshots\":{snapshots},\"problems\":{problems},\"warnings\":{warnings}}}\n");
            self.stream.put(&end)?;
            return self.stream.flush();
        }
        for problem in &found.problems {
            let (snapshot, why) = (escape(&problem.snapshot), escape(&problem.problem));
            self.stream.put(&format!("problem: snapshot {snapshot}: {why}\n"))?;
        }
        let (versions, snapshots) =
            (counted(found.versions, "version"), counted(found.snapshots, "snapshot"));
        self.stream.put(&format!("{versions} in {snapshots}\n"))?;
        self.stream.flush()
    }
}

/// Returns a value as people read it: one line, and not without end.
fn shown_value(value: &OwnedValue) -> String {
    match plain(&value.as_value()).next() {
        None if *value == OwnedValue::Null => "NULL".to_owned(),
        None => String::new(),
        Some(first) => text::cut(&escape(&first), VALUE_COLUMNS_MAX),
    }
}
