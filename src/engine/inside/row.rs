//! One row of a database, found by its key: without reading the table.

use rusqlite::types::{Value as SqlValue, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::sql::{Value, sql_error};
use crate::format::{BlobId, Hasher};
use crate::{Error, ErrorKind, Result};

/// A value that belongs to nobody else.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnedValue {
    /// None.
    Null,
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// A text, which need not be UTF-8.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl OwnedValue {
    /// Returns it as values of answers are.
    pub fn as_value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Integer(number) => Value::Integer(*number),
            Self::Real(number) => Value::Real(*number),
            Self::Text(text) => Value::Text(text),
            Self::Blob(bytes) => Value::Blob(bytes),
        }
    }

    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(text) => Self::Text(text.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }

    /// Returns what tells it from every other value.
    pub fn print(&self) -> BlobId {
        let mut hasher = Hasher::new();
        match self {
            Self::Null => hasher.update(b"n"),
            Self::Integer(number) => hasher.update(&[&b"i"[..], &number.to_le_bytes()].concat()),
            Self::Real(number) => hasher.update(&[&b"r"[..], &number.to_bits().to_le_bytes()].concat()),
            Self::Text(bytes) | Self::Blob(bytes) => {
                hasher.update(if matches!(self, Self::Text(_)) { b"t" } else { b"b" });
                hasher.update(bytes);
            }
        }
        hasher.finish()
    }
}

/// The columns of a row, by their names.
pub type Row = Vec<(String, OwnedValue)>;

/// What is there of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Not even its table.
    NoTable,
    /// The table, and no row of that key.
    NoRow,
    /// The row.
    Row(Row),
}

/// Looks a row up by the values of its table's primary key, in the order of that; by its rowid where there is none.
pub fn look_up(connection: &Connection, table: &str, key: &[String]) -> Result<Found> {
    let failed = |error| sql_error("look up", error);
    let Some(columns) = key_columns(connection, table).map_err(failed)? else { return Ok(Found::NoTable) };
    if columns.len() != key.len() {
        let message = format!(
            "the key of {table:?} is {} ({}), and {} values were given for it",
            if columns.len() == 1 { "one column" } else { "several columns" },
            columns.join(", "),
            key.len()
        );
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let conditions: Vec<String> =
        (1..).zip(&columns).map(|(number, column)| format!("{} = ?{number}", quoted(column))).collect();
    let sql = format!("SELECT * FROM {} WHERE {} LIMIT 1", quoted(table), conditions.join(" AND "));
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    // A column without a type keeps numbers and texts apart, and what was typed may mean either.
    for values in [as_texts(key), as_typed(key)] {
        let found = statement.query_row(params_from_iter(values), |row| {
            let value = |column| row.get_ref(column).map(OwnedValue::of);
            (0..names.len()).map(value).collect::<rusqlite::Result<Vec<_>>>()
        });
        if let Some(values) = found.optional().map_err(failed)? {
            return Ok(Found::Row(names.into_iter().zip(values).collect()));
        }
    }
    Ok(Found::NoRow)
}

/// Returns the columns of a table's primary key in their order, or its rowid; `None` if there is no such table.
pub(super) fn key_columns(connection: &Connection, table: &str) -> rusqlite::Result<Option<Vec<String>>> {
    let mut statement = connection.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY pk, cid")?;
    let columns =
        statement.query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let columns: Vec<(String, i64)> = columns.collect::<rusqlite::Result<_>>()?;
    if columns.is_empty() {
        return Ok(None);
    }
    let of_key: Vec<String> =
        columns.into_iter().filter(|(_, place)| *place > 0).map(|(name, _)| name).collect();
    Ok(Some(if of_key.is_empty() { vec!["rowid".to_owned()] } else { of_key }))
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn as_texts(key: &[String]) -> Vec<SqlValue> {
    key.iter().map(|text| SqlValue::Text(text.clone())).collect()
}

/// Returns numbers and bytes (`x'00ff'`) as such.
fn as_typed(key: &[String]) -> Vec<SqlValue> {
    let typed = |text: &String| {
        let digits = text.strip_prefix("x'").or_else(|| text.strip_prefix("X'"));
        let bytes =
            digits.and_then(|rest| rest.strip_suffix('\'')).and_then(|digits| hex::decode(digits).ok());
        match (bytes, text.parse::<i64>(), text.parse::<f64>()) {
            (Some(bytes), ..) => SqlValue::Blob(bytes),
            (_, Ok(number), _) => SqlValue::Integer(number),
            (_, _, Ok(number)) => SqlValue::Real(number),
            _ => SqlValue::Text(text.clone()),
        }
    };
    key.iter().map(typed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_every_kind_of_key() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE numbered (id INTEGER PRIMARY KEY, v); INSERT INTO numbered VALUES (42, 'a');
                 CREATE TABLE \"odd \"\"name\" (k TEXT PRIMARY KEY, v); INSERT INTO \"odd \"\"name\" VALUES ('42', 'b');
                 CREATE TABLE plain (v); INSERT INTO plain VALUES ('c');
                 CREATE TABLE untyped (k PRIMARY KEY, v); INSERT INTO untyped VALUES (7, 'd'), ('x', 'e'), (x'00ff', 'f');
                 CREATE TABLE two (b TEXT, a INTEGER, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
                 INSERT INTO two VALUES ('one', 1, 'g');",
            )
            .unwrap();
        for (table, key, value) in [
            ("numbered", &["42"][..], "a"),
            ("odd \"name", &["42"], "b"),
            ("plain", &["1"], "c"),
            ("untyped", &["7"], "d"),
            ("untyped", &["x"], "e"),
            ("untyped", &["x'00FF'"], "f"),
            ("two", &["1", "one"], "g"),
        ] {
            let key: Vec<String> = key.iter().map(|text| (*text).to_owned()).collect();
            let Found::Row(row) = look_up(&connection, table, &key).unwrap() else {
                panic!("{table}, {key:?}")
            };
            let (name, found) = row.last().unwrap();
            assert_eq!((name.as_str(), found), ("v", &OwnedValue::Text(value.into())), "{table}, {key:?}");
        }
        let nothing = |table: &str, key: &str| look_up(&connection, table, &[key.to_owned()]);
        assert_eq!(nothing("numbered", "43").unwrap(), Found::NoRow);
        assert_eq!(nothing("numbered", "x").unwrap(), Found::NoRow);
        assert_eq!(nothing("nowhere", "1").unwrap(), Found::NoTable);
        let error = nothing("two", "1").unwrap_err();
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("a, b"), "{error}");
    }

    #[test]
    fn values_of_different_kinds_have_different_prints() {
        let values = [
            OwnedValue::Null,
            OwnedValue::Integer(1),
            OwnedValue::Real(1.0),
            OwnedValue::Text(b"1".to_vec()),
            OwnedValue::Blob(b"1".to_vec()),
        ];
        let prints: std::collections::BTreeSet<BlobId> = values.iter().map(OwnedValue::print).collect();
        assert_eq!(prints.len(), values.len());
    }
}
