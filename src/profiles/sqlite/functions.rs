//! Which functions a question may use: those whose answer is in the data.
//!
//! SQLite itself says which of its functions always answer the same (`PRAGMA function_list`); the others are
//! denied when a statement is compiled, wherever they stand in it: also in the views that it looks at. The
//! functions of date and time are of both kinds, which only their arguments tell, and these are known when
//! they are called. So while questions are asked they are replaced by functions of the same names that look at
//! the arguments first, and have SQLite answer then.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{Value, ValueRef};

/// The flag of functions that always answer the same, in `PRAGMA function_list`.
const DETERMINISTIC: i64 = 0x800;
/// The flag of functions that no schema may use.
const DIRECT_ONLY: i64 = 0x8_0000;
/// Functions of full-text tables, which answer from their index; their flags say nothing.
const OF_INDEXES: [&str; 6] = ["match", "bm25", "snippet", "highlight", "matchinfo", "offsets"];
/// Functions of date and time, and which of their arguments are points in time.
const OF_TIME: [(&str, usize, usize); 7] = [
    ("date", 0, 1),
    ("time", 0, 1),
    ("datetime", 0, 1),
    ("julianday", 0, 1),
    ("unixepoch", 0, 1),
    ("strftime", 1, 2),
    ("timediff", 0, 2),
];
/// Points in time that are that of asking, and what an offset from the machine's own time makes of one.
const NOW: [&str; 3] = ["now", "subsec", "subsecond"];
const OF_PLACE: [&str; 2] = ["localtime", "utc"];

/// Holds a connection to questions whose answers are in the data. The flag is set while one runs.
pub fn restrict(connection: &mut Connection) -> rusqlite::Result<Arc<AtomicBool>> {
    let allowed = allowed(connection)?;
    let runs = Arc::new(AtomicBool::new(false));
    let asked = runs.clone();
    replace_time(connection)?;
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        authorize(&context, &allowed, asked.load(Ordering::Relaxed))
    }))?;
    Ok(runs)
}

/// Lets the connection go.
pub fn release(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    OF_TIME.iter().try_for_each(|(name, ..)| connection.remove_function(*name, -1))
}

fn authorize(context: &AuthContext<'_>, allowed: &HashSet<String>, runs: bool) -> Authorization {
    match context.action {
        AuthAction::Read { table_name, .. } if table_name.to_ascii_lowercase().starts_with("pragma_") => {
            Authorization::Deny
        }
        // Full-text tables ask this themselves, when the question has long been compiled.
        AuthAction::Pragma { pragma_name: "data_version", .. } if runs => Authorization::Allow,
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if allowed.contains(&function_name.to_ascii_lowercase()) => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

/// Returns the functions of which every form always answers the same. Aggregates do, whatever their flags.
fn allowed(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    let sql = "SELECT lower(name) FROM pragma_function_list GROUP BY lower(name) \
               HAVING min(type IN ('a', 'w') OR flags & ?1 <> 0) AND max(flags & ?2) = 0";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([DETERMINISTIC, DIRECT_ONLY], |row| row.get::<_, String>(0))?;
    names.chain(OF_INDEXES.iter().map(|name| Ok((*name).to_owned()))).collect()
}

fn replace_time(connection: &Connection) -> rusqlite::Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let clockwork = Arc::new(Mutex::new(Connection::open_in_memory()?));
    for (name, from, to) in OF_TIME {
        let clockwork = clockwork.clone();
        connection.create_scalar_function(name, -1, flags, move |context| {
            if asks_the_clock(context, from, to) {
                let said = format!("{name}() is asked for the time of asking or of this place");
                return Err(rusqlite::Error::UserFunctionError(said.into()));
            }
            let clockwork = clockwork.lock().expect("no holder of the clockwork panics");
            answer(&clockwork, name, context)
        })?;
    }
    Ok(())
}

/// Tells whether the answer is not in the arguments. Points in time are the arguments from `from` to `to`;
/// one that is not given is now.
fn asks_the_clock(context: &Context<'_>, from: usize, to: usize) -> bool {
    let given = context.len();
    let is_one_of = |index: usize, words: &[&str]| {
        let (ValueRef::Text(bytes) | ValueRef::Blob(bytes)) = context.get_raw(index) else { return false };
        // SQLite reads a text up to its first zero byte.
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        words.iter().any(|word| bytes.eq_ignore_ascii_case(word.as_bytes()))
    };
    let moments = from..to.min(given);
    (given == from && to == from + 1)
        || moments.into_iter().any(|index| is_one_of(index, &NOW))
        || (0..given).any(|index| is_one_of(index, &NOW[..1]) || is_one_of(index, &OF_PLACE))
}

/// Has SQLite's own function answer.
fn answer(clockwork: &Connection, name: &str, context: &Context<'_>) -> rusqlite::Result<Value> {
    let places = vec!["?"; context.len()].join(", ");
    let mut statement = clockwork.prepare(&format!("SELECT {name}({places})"))?;
    let arguments = (0..context.len()).map(|index| Value::try_from(context.get_raw(index)));
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    statement.query_row(rusqlite::params_from_iter(arguments), |row| row.get(0))
}
