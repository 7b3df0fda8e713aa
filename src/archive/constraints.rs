//! `CHECK` constraints of a database that is opened for reading only.
//!
//! SQLite does not even parse them on such a connection, because only writers need them. So its check does not include
//! them. Here each table with constraints gets a temporary table of the same definition, in memory. Each row is
//! inserted there, which fails if a constraint does not hold, and removed again: it holds one row at a time.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, ffi};

use super::health::{identifier, is_damage, is_foreign, reason};

/// How a definition begins in a schema.
const BEGIN: &str = "CREATE TABLE ";
/// A longer definition is not looked at.
const DEFINITION_BYTES_MAX: i64 = 1_000_000;

/// Adds a problem for every table of which a row breaks a constraint, and names the tables that cannot be
/// looked at.
pub fn check(
    connection: &Connection,
    problems: &mut Vec<String>,
    unchecked: &mut Vec<(String, String)>,
) -> rusqlite::Result<()> {
    let definitions = definitions(connection)?;
    if definitions.is_empty() {
        return Ok(());
    }
    // What a row refers to is not in the temporary table's schema.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    for (table, definition) in definitions {
        let looked = definition.map_or_else(
            || Ok(Some("its definition is too long".to_owned())),
            |definition| look(connection, &table, &definition, problems),
        );
        connection.execute_batch(&format!("DROP TABLE IF EXISTS temp.{}", identifier(&table)))?;
        let named = unchecked.iter().any(|(unchecked, _)| *unchecked == table);
        match looked {
            Ok(None) => {}
            Ok(Some(why)) if !named => unchecked.push((table, why)),
            Err(error) if is_foreign(&error) && !named => unchecked.push((table, reason(&error))),
            Err(error) if is_foreign(&error) => {}
            Err(error) => return Err(error),
            Ok(Some(_)) => {}
        }
    }
    Ok(())
}

/// Returns the tables that have constraints, as far as their words say, and what they were made with.
fn definitions(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let sql = "SELECT name, CASE WHEN length(sql) <= ?1 THEN sql END FROM main.sqlite_schema \
               WHERE type = 'table' AND rootpage > 0 AND instr(lower(sql), 'check') > 0 ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([DEFINITION_BYTES_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Looks at the rows of one table; returns why not where that cannot be.
fn look(
    connection: &Connection,
    table: &str,
    definition: &str,
    problems: &mut Vec<String>,
) -> rusqlite::Result<Option<String>> {
    let Some(rest) = definition.strip_prefix(BEGIN) else {
        return Ok(Some("its definition has an unusual form".to_owned()));
    };
    let name = identifier(table);
    if let Err(error) = connection.execute_batch(&format!("CREATE TEMP TABLE {rest}")) {
        return if is_damage(&error) { Err(error) } else { Ok(Some(reason(&error))) };
    }
    let columns = columns(connection, table)?.join(", ");
    let made = connection.execute_batch(&format!(
        "CREATE TEMP TRIGGER \"forgets what it takes\" AFTER INSERT ON temp.{name} BEGIN DELETE FROM {name}; END"
    ));
    if let Err(error) = made {
        return Ok(Some(reason(&error)));
    }
    let shown = connection.execute_batch(&format!(
        "INSERT OR FAIL INTO temp.{name} ({columns}) SELECT {columns} FROM main.{name}"
    ));
    match shown {
        Ok(()) => Ok(None),
        Err(error) if code_of(&error) == Some(ffi::SQLITE_CONSTRAINT_CHECK) => {
            problems.push(format!("CHECK constraint failed in {table}"));
            Ok(None)
        }
        // What else is wrong with a row is found by the check itself, or matters to a writer alone.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the columns that a row is made of: those that are stored by their own.
fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection
        .prepare("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0 ORDER BY cid")?;
    let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
    names.map(|name| name.map(|name| identifier(&name))).collect()
}

fn code_of(error: &rusqlite::Error) -> Option<i32> {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => Some(failure.extended_code),
        _ => None,
    }
}
