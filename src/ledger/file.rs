//! Which file the ledger is, and whether it may be used.
//!
//! The folder must be this user's own and closed to the writing of others; the file is a plain one, never followed
//! through a link. A file that SQLite calls damaged, or that is no ledger, is set aside under one fixed name, and a new
//! one begun: at most one such file lies there. A ledger of a newer version is left alone. Of what has to do with this
//! machine's set-up (no permission, a disk that can only be read) the log hears, for nothing can be done about it in a
//! backup at night; of what the user can put right there is one sentence. Whoever asks the ledger hears of both: a
//! ledger that cannot be read is no empty one.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstatfs, openat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::schema::{self, Found};
use super::{Access, Ledger, Opened};

/// The file.
pub(super) const NAME: &str = "ledger.sqlite";
/// What a damaged one is set aside as.
pub(super) const ASIDE: &str = "ledger.damaged.sqlite";
/// What SQLite keeps beside a database, and the database last.
const PARTS: [&str; 4] = ["-shm", "-wal", "-journal", ""];
/// How long one statement waits for another program.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// How often, and how long apart, a program tries to be the one that sets a damaged file aside.
const SET_ASIDE_TRIES: u32 = 20;
const SET_ASIDE_PAUSE: Duration = Duration::from_millis(50);
/// Pages that the file may have: 512 MiB of 4 KiB each.
const PAGES_MAX: u32 = 128 * 1024;
/// File systems that lie on a server or behind a program: the shared memory of a write-ahead log does not reach from one
/// machine to the other. NFS, SMB 1 to 3, Ceph, FUSE, 9P, AFS, Lustre, GlusterFS' own, Coda, NCP.
const SHARED_FILE_SYSTEMS: [u32; 12] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x00c3_6400,
    0x6573_5546,
    0x0102_1997,
    0x5346_414f,
    0x0bd0_0bd0,
    0x7375_7245,
    0x564c,
    0x6b41_4653,
];

/// Why there is no ledger.
enum Unusable {
    /// There is none, and none was to be made.
    Missing,
    /// Nothing the user can do in passing; the log is told.
    Quiet(String),
    /// The user should know.
    Said(String),
    /// The file is damaged, or no ledger.
    Damaged(String),
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::Quiet(error.to_string())
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Said("another program holds it".to_owned())
            }
            _ => Self::Said(error.to_string()),
        }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match error.kind() {
            PermissionDenied | ReadOnlyFilesystem | NotFound | NotADirectory => {
                Self::Quiet(error.to_string())
            }
            _ => Self::Said(error.to_string()),
        }
    }
}

impl From<Errno> for Unusable {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::LOOP | Errno::ISDIR | Errno::NXIO => Self::Said("it is no plain file".to_owned()),
            errno => io::Error::from(errno).into(),
        }
    }
}

/// Opens the ledger, and begins a new one where the old one is damaged.
pub(super) fn open(folder: &Path, access: Access) -> Opened {
    let path = folder.join(NAME);
    let mut aside = None;
    // A second time where the file was set aside.
    let outcome = loop {
        match try_open(folder, access) {
            Err(Unusable::Damaged(why)) if aside.is_none() && access == Access::Write => {
                match set_aside(folder, &path) {
                    Ok(moved) => aside = Some((why, moved)),
                    Err(error) => {
                        break Err(Unusable::Said(format!(
                            "it is damaged, and cannot be set aside: {error}"
                        )));
                    }
                }
            }
            outcome => break outcome,
        }
    };
    let shown = path.display();
    let moved = aside.map(|(why, moved)| begun_anew(&path, &why, &moved));
    match outcome {
        Ok(connection) => Opened { ledger: Some(Ledger { connection }), warning: moved },
        Err(Unusable::Missing) => Opened { ledger: None, warning: moved },
        // Whoever asks must not take it for an empty one.
        Err(Unusable::Quiet(why)) if access == Access::Write => {
            tracing::info!(target: "packvault::ledger", path = %shown, why, "the ledger cannot be used");
            Opened { ledger: None, warning: moved }
        }
        Err(Unusable::Quiet(why) | Unusable::Said(why) | Unusable::Damaged(why)) => {
            Opened { ledger: None, warning: Some(format!("the ledger {shown} cannot be used: {why}")) }
        }
    }
}

fn try_open(folder: &Path, access: Access) -> Result<Connection, Unusable> {
    let held = match open_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && access == Access::Write => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            open_folder(folder)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unusable::Missing),
        opened => opened?,
    };
    expect_own(&held, "its folder")?;
    expect_plain_file(&held, access)?;
    let is_shared = is_shared(&held);
    let mut connection = connect(&folder.join(NAME), access)?;
    settle(&connection)?;
    if access == Access::Write {
        keep_journal(&connection, is_shared)?;
    }
    match (schema::look(&connection)?, access) {
        (Found::Known(schema::VERSION), _) => {}
        (Found::Empty, Access::Read) => return Err(Unusable::Missing),
        (Found::Empty | Found::Known(_), _) => {
            schema::migrate(&mut connection)?;
            if schema::look(&connection)? != Found::Known(schema::VERSION) {
                return Err(Unusable::Said("another program changes it".to_owned()));
            }
        }
        (Found::Newer, _) => {
            let why = "a newer packvault wrote it; it is left as it is, and this run is not recorded";
            return Err(Unusable::Said(why.to_owned()));
        }
        (Found::Foreign, _) => return Err(Unusable::Damaged("it is no ledger of packvault's".to_owned())),
    }
    Ok(connection)
}

fn open_folder(folder: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(folder, flags, Mode::empty())?))
}

/// Refuses what belongs to somebody else, or others can write to. With `sudo`, the home may be another user's: files
/// of root's there would lock that user out.
fn expect_own(file: &File, what: &str) -> Result<(), Unusable> {
    let metadata = file.metadata()?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(Unusable::Quiet(format!("{what} belongs to another user")));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(Unusable::Said(format!("others can write to {what}; `chmod go-w` closes it to them")));
    }
    Ok(())
}

/// Makes the file if it is missing, and looks at what it is before SQLite opens it by name: what hangs when it is opened,
/// or leads elsewhere, is refused.
fn expect_plain_file(folder: &File, access: Access) -> Result<(), Unusable> {
    let common = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = match access {
        Access::Write => common | OFlags::RDWR | OFlags::CREATE,
        Access::Read => common | OFlags::RDONLY,
    };
    let file = match openat(folder, NAME, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::NOENT) if access == Access::Read => return Err(Unusable::Missing),
        opened => File::from(opened?),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(Unusable::Said("it is no plain file of its own".to_owned()));
    }
    if access == Access::Write && metadata.mode() & 0o077 != 0 && metadata.uid() == geteuid().as_raw() {
        fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    }
    let metadata = file.metadata()?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(Unusable::Quiet("it belongs to another user".to_owned()));
    }
    for beside in PARTS.iter().filter(|part| !part.is_empty()) {
        let found = statat(folder, format!("{NAME}{beside}"), AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) != FileType::RegularFile) {
            return Err(Unusable::Said(format!("{NAME}{beside} beside it is no plain file")));
        }
    }
    Ok(())
}

#[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
fn is_shared(folder: &File) -> bool {
    // All of these fit in 32 bits.
    fstatfs(folder).is_ok_and(|found| SHARED_FILE_SYSTEMS.contains(&(found.f_type as u32)))
}

fn connect(path: &Path, access: Access) -> Result<Connection, Unusable> {
    let common = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let to_write = Connection::open_with_flags(path, common | OpenFlags::SQLITE_OPEN_READ_WRITE);
    match (to_write, access) {
        // On a disk that can only be read, what was recorded there can still be asked.
        (Err(_), Access::Read) => {
            Ok(Connection::open_with_flags(path, common | OpenFlags::SQLITE_OPEN_READ_ONLY)?)
        }
        (opened, _) => Ok(opened?),
    }
}

/// Settles how the file is used: nothing in its schema runs functions of ours, nothing goes to temporary files, and
/// closing it does not wait for a disk.
fn settle(connection: &Connection) -> Result<(), Unusable> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(&format!(
        "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; \
         PRAGMA synchronous = NORMAL; PRAGMA max_page_count = {PAGES_MAX}; PRAGMA journal_size_limit = 4194304"
    ))?;
    Ok(())
}

/// Has the file use a write-ahead log, so that who asks does not wait for who records; a rollback journal where the file
/// lies on a server.
fn keep_journal(connection: &Connection, is_shared: bool) -> Result<(), Unusable> {
    let wanted = if is_shared { "delete" } else { "wal" };
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != wanted {
        // A file system that cannot have the one keeps the other.
        let _: String =
            connection.query_row(&format!("PRAGMA journal_mode = {wanted}"), [], |row| row.get(0))?;
    }
    Ok(())
}

/// Sets a ledger aside that was found damaged while it was written. Returns what the user should know.
pub(super) fn renew(folder: &Path, error: &rusqlite::Error) -> Option<String> {
    let path = folder.join(NAME);
    match set_aside(folder, &path) {
        Ok(moved) => Some(begun_anew(&path, &error.to_string(), &moved)),
        Err(error) => {
            Some(format!("the ledger {} is damaged, and cannot be set aside: {error}", path.display()))
        }
    }
}

fn begun_anew(path: &Path, why: &str, moved: &Path) -> String {
    let (path, moved) = (path.display(), moved.display());
    format!("the ledger {path} was damaged ({why}): it lies in {moved} now, and a new one was begun")
}

/// Moves a damaged ledger out of the way. What lies beside it goes first: killed between two steps, the damaged file is
/// found damaged again, and no log of an old file is ever taken for that of a new one.
///
/// Two programs may find the damage at once. The second waits a little, looks again, and finds a sound file.
fn set_aside(folder: &Path, path: &Path) -> io::Result<PathBuf> {
    let held = open_folder(folder)?;
    let mut tries = 0;
    while let Err(errno) = flock(&held, FlockOperation::NonBlockingLockExclusive) {
        tries += 1;
        if errno != Errno::WOULDBLOCK || tries > SET_ASIDE_TRIES {
            return Err(errno.into());
        }
        std::thread::sleep(SET_ASIDE_PAUSE);
    }
    let moved = folder.join(ASIDE);
    if is_sound(folder) {
        return Ok(moved);
    }
    tracing::warn!(target: "packvault::ledger", path = %path.display(), "the ledger is damaged and set aside");
    for part in PARTS {
        let beside = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(part);
            PathBuf::from(name)
        };
        match std::fs::rename(beside(path), beside(&moved)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // One of an earlier file must not be taken for that of this one.
                let _ = std::fs::remove_file(beside(&moved));
            }
            renamed => renamed?,
        }
    }
    Ok(moved)
}

/// Tells whether what lies there now is a ledger that SQLite finds nothing wrong with.
fn is_sound(folder: &Path) -> bool {
    match try_open(folder, Access::Read) {
        Ok(connection) => connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
            .is_ok_and(|answer| answer == "ok"),
        Err(Unusable::Damaged(_)) => false,
        Err(_) => true,
    }
}
