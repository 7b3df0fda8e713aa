//! SQLite over pages that somebody else reads: the one crate in which a file of SQLite's is made of Rust code.
//!
//! A [`PageSource`] has a length and fills buffers. [`open`] gives a connection to the database that it holds. The file
//! is immutable for SQLite: no lock, no journal, no log, no second file, and nothing can be written. SQLite's temporary
//! files have no place here; whoever opens a database says `PRAGMA temp_store = MEMORY`.
//!
//! All unsafe code of it is here: a table of functions that SQLite calls with pointers it got from us. What each of
//! them may rely on is said at each. No panic passes into SQLite.

#![allow(unsafe_code, reason = "SQLite calls a file system through pointers")]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::{Connection, OpenFlags, ffi};

/// The name under which SQLite knows this file system.
const NAME: &CStr = c"packvault-pages";
/// Names that are longer come from nobody here.
const NAME_BYTES_MAX: c_int = 64;

/// Bytes of a database that does not change.
pub trait PageSource: Send + Sync + 'static {
    /// Returns the length of the database.
    fn bytes(&self) -> u64;

    /// Fills the buffer from this offset on; all of it lies within the database. `false` where that is not possible:
    /// SQLite then says that reading failed, and the source knows why.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> bool;
}

/// Opens the database of a source for reading.
pub fn open(source: Arc<dyn PageSource>) -> rusqlite::Result<Connection> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let registered = registered();
    if registered != ffi::SQLITE_OK {
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(registered), None));
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    waiting().insert(number, source);
    // Without SQLITE_OPEN_URI, so that the name is a name.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags_and_vfs(number.to_string(), flags, NAME);
    // SQLite has taken it, unless it failed before.
    waiting().remove(&number);
    opened
}

/// Sources that SQLite is about to open, by the names of their files.
fn waiting() -> MutexGuard<'static, HashMap<u64, Arc<dyn PageSource>>> {
    static WAITING: OnceLock<Mutex<HashMap<u64, Arc<dyn PageSource>>>> = OnceLock::new();
    WAITING.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers the file system once in this process, and returns what SQLite said.
fn registered() -> c_int {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    *REGISTERED.get_or_init(|| {
        // SAFETY: a null name asks for the default; what is found is never unregistered.
        let system = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        if system.is_null() {
            return ffi::SQLITE_ERROR;
        }
        let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
            iVersion: 1,
            szOsFile: size_of::<OpenFile>() as c_int,
            mxPathname: NAME_BYTES_MAX,
            pNext: ptr::null_mut(),
            zName: NAME.as_ptr(),
            pAppData: system.cast::<c_void>(),
            xOpen: Some(x_open),
            xDelete: Some(x_delete),
            xAccess: Some(x_access),
            xFullPathname: Some(x_full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(x_randomness),
            xSleep: Some(x_sleep),
            xCurrentTime: Some(x_current_time),
            xGetLastError: None,
            xCurrentTimeInt64: None,
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: the table is never freed, and every function in it keeps SQLite's contract.
        unsafe { ffi::sqlite3_vfs_register(vfs, 0) }
    })
}

/// What SQLite keeps of an open file, in memory of its own.
#[repr(C)]
struct OpenFile {
    /// SQLite looks at this part only.
    base: ffi::sqlite3_file,
    /// A box that is ours until the file is closed.
    source: *mut Arc<dyn PageSource>,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_lock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Returns the source of an open file.
///
/// # Safety
///
/// `file` is one that `x_open` opened and `x_close` did not close.
unsafe fn source<'a>(file: *mut ffi::sqlite3_file) -> &'a Arc<dyn PageSource> {
    // SAFETY: SQLite gave `szOsFile` bytes for it, so it is an `OpenFile`; its box lives until `x_close`.
    unsafe { &*(*file.cast::<OpenFile>()).source }
}

unsafe extern "C" fn x_open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: `file` points to `szOsFile` bytes. Without methods SQLite does not close it.
    unsafe { (*file).pMethods = ptr::null() };
    if name.is_null() || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: SQLite's names end in a zero byte.
    let name = unsafe { CStr::from_ptr(name) };
    let number = name.to_str().ok().and_then(|name| name.parse::<u64>().ok());
    let Some(source) = number.and_then(|number| waiting().remove(&number)) else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: as above, and `out_flags` is null or points to a number of SQLite's.
    unsafe {
        let file = file.cast::<OpenFile>();
        ptr::addr_of_mut!((*file).source).write(Box::into_raw(Box::new(source)));
        (*file).base.pMethods = &raw const METHODS;
        if !out_flags.is_null() {
            *out_flags = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_MAIN_DB;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes each file it opened once; the box is ours and used nowhere else any more.
    let source = unsafe {
        (*file).pMethods = ptr::null();
        Box::from_raw((*file.cast::<OpenFile>()).source)
    };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(source)));
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    bytes: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(bytes), Ok(offset)) = (usize::try_from(bytes), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    if buffer.is_null() {
        return ffi::SQLITE_IOERR_READ;
    }
    // SAFETY: the buffer has so many bytes, and is SQLite's own until this returns. They are set before they are seen
    // as a slice, for nobody says that they were.
    let buffer = unsafe {
        ptr::write_bytes(buffer.cast::<u8>(), 0, bytes);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), bytes)
    };
    // SAFETY: SQLite reads from files that are open.
    let source = unsafe { source(file) };
    let read = catch_unwind(AssertUnwindSafe(|| {
        let there = usize::try_from(source.bytes().saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes);
        let is_read = there == 0 || source.read(offset, &mut buffer[..there]);
        (is_read, there)
    }));
    match read {
        Ok((true, there)) if there == bytes => ffi::SQLITE_OK,
        // The rest of the buffer is zero, as SQLite wants it.
        Ok((true, _)) => ffi::SQLITE_IOERR_SHORT_READ,
        Ok((false, _)) | Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn x_file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite asks for files that are open.
    let source = unsafe { source(file) };
    let bytes =
        catch_unwind(AssertUnwindSafe(|| source.bytes())).ok().and_then(|bytes| i64::try_from(bytes).ok());
    let Some(bytes) = bytes else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: `size` points to a number of SQLite's.
    unsafe { *size = bytes };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_write(
    _: *mut ffi::sqlite3_file,
    _: *const c_void,
    _: c_int,
    _: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn x_truncate(_: *mut ffi::sqlite3_file, _: ffi::sqlite3_int64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn x_sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

/// Nobody writes, so every lock is there to be had.
unsafe extern "C" fn x_lock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_check_reserved_lock(_: *mut ffi::sqlite3_file, held: *mut c_int) -> c_int {
    // SAFETY: `held` points to a number of SQLite's.
    unsafe { *held = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn x_sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

/// With this SQLite looks for no journal and no log, and reads a database in WAL mode as it lies there.
unsafe extern "C" fn x_device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_IMMUTABLE
}

unsafe extern "C" fn x_delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_IOERR_DELETE
}

/// No other file is there.
unsafe extern "C" fn x_access(
    _: *mut ffi::sqlite3_vfs,
    _: *const c_char,
    _: c_int,
    found: *mut c_int,
) -> c_int {
    // SAFETY: `found` points to a number of SQLite's.
    unsafe { *found = 0 };
    ffi::SQLITE_OK
}

/// A name is whole as it is.
unsafe extern "C" fn x_full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    bytes: c_int,
    full: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's names end in a zero byte, and `full` has so many bytes.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if usize::try_from(bytes).is_ok_and(|bytes| name.len() <= bytes) {
            ptr::copy_nonoverlapping(name.as_ptr().cast::<c_char>(), full, name.len());
            return ffi::SQLITE_OK;
        }
    }
    ffi::SQLITE_CANTOPEN
}

/// Returns the file system of the machine, which knows time and chance.
///
/// # Safety
///
/// `vfs` is the table that was registered.
unsafe fn system(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: it was put there when the table was made.
    unsafe { (*vfs).pAppData.cast::<ffi::sqlite3_vfs>() }
}

unsafe extern "C" fn x_randomness(vfs: *mut ffi::sqlite3_vfs, bytes: c_int, out: *mut c_char) -> c_int {
    // SAFETY: what SQLite handed us is handed on.
    unsafe {
        let system = system(vfs);
        (*system).xRandomness.map_or(0, |randomness| randomness(system, bytes, out))
    }
}

unsafe extern "C" fn x_sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let system = system(vfs);
        (*system).xSleep.map_or(0, |sleep| sleep(system, microseconds))
    }
}

unsafe extern "C" fn x_current_time(vfs: *mut ffi::sqlite3_vfs, time: *mut f64) -> c_int {
    // SAFETY: as above.
    unsafe {
        let system = system(vfs);
        (*system).xCurrentTime.map_or(ffi::SQLITE_ERROR, |current| current(system, time))
    }
}

#[cfg(test)]
mod tests;
