//! A file that the user names to be written: the log, a report, numbers for a monitor.
//!
//! A slip names another file. So nothing is written over but what packvault itself wrote there before, nothing into a
//! repository, and nothing under a name that a database has for its log. What is no log appears whole, or not at all.

use std::fs::{self, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use packvault::archive::repositories;
use packvault::{Error, ErrorKind, Result};
use rustix::fs::OFlags;
use rustix::process::geteuid;

use super::settings::{Settings, given};

/// As much of a file as tells whose it is.
const BEGINNING_BYTES: u64 = 64 * 1024;
/// What a database keeps beside it.
const BESIDE_A_DATABASE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What is written to a file that the user names.
#[derive(Debug, Clone, Copy)]
pub struct NamedFile {
    /// The flag that names it.
    pub flag: &'static str,
    /// What it is: `report`.
    pub noun: &'static str,
    /// Tells by its beginning whether a file is one that packvault wrote.
    pub is_own: fn(&str) -> bool,
}

impl NamedFile {
    /// Refuses a file that must not be written to.
    pub fn check(&self, path: &Path, settings: &Settings) -> Result<()> {
        given::refuse_tilde(path, self.flag, settings.user_home())?;
        let refused =
            |why: String| Error::new(ErrorKind::Usage, format!("{}: {} {why}", self.flag, path.display()));
        let Some(place) = settled(path).map_err(|why| refused(why.to_owned()))? else { return Ok(()) };
        let found = fs::symlink_metadata(&place).ok();
        if let Some(why) = found.as_ref().and_then(no_file) {
            return Err(refused(why.to_owned()));
        }
        if let Some(repository) = repositories::around(&place) {
            let repository = repository.display();
            return Err(refused(format!("lies in the repository {repository}; name another file")));
        }
        if settings.is_configuration(&place) {
            return Err(refused("is packvault's configuration; name another file".to_owned()));
        }
        if let Some(database) = database_of(&place) {
            let database = database.display();
            return Err(refused(format!(
                "would be taken for a part of the database {database}; name another file"
            )));
        }
        match found.filter(Metadata::is_file) {
            Some(found) => self.expect_own(&place, &found, settings).map_err(refused),
            None => Ok(()),
        }
    }

    fn expect_own(
        &self,
        place: &Path,
        found: &Metadata,
        settings: &Settings,
    ) -> std::result::Result<(), String> {
        let is_ours = match found.len() {
            // A file that is rotated begins empty, and so does a database.
            0 => !settings.is_a_database(place),
            _ => {
                let beginning =
                    beginning(place).map_err(|error| format!("cannot be looked into: {error}"))?;
                (self.is_own)(&beginning)
            }
        };
        match is_ours {
            true => Ok(()),
            false => Err(format!(
                "is no {} of packvault's, and stays as it is; name another file, or remove that one first",
                self.noun
            )),
        }
    }

    /// Puts the text in its place in one step: whoever reads the file meanwhile sees the old one or the new one. It stays
    /// readable to those who could read the user's own file that was there.
    pub fn write(&self, path: &Path, text: &[u8], mode: u32) -> Result<()> {
        let noun = self.noun;
        let failed = |error: io::Error| {
            Error::caused(ErrorKind::Io, format!("cannot write the {noun} to {}", path.display()), error)
        };
        let before = fs::symlink_metadata(path).ok().filter(|found| found.uid() == geteuid().as_raw());
        let mode = before.map_or(mode, |found| (found.mode() | 0o600) & 0o644);
        let mut written =
            tempfile::Builder::new().prefix(".packvault-").tempfile_in(folder_of(path)).map_err(failed)?;
        written.write_all(text).map_err(failed)?;
        written.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        written.as_file().sync_all().map_err(failed)?;
        written.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path with its folder as it is without links; nothing where that folder is not there.
fn settled(path: &Path) -> std::result::Result<Option<PathBuf>, &'static str> {
    let name = path.file_name().ok_or("names no file")?;
    Ok(fs::canonicalize(folder_of(path)).ok().map(|folder| folder.join(name)))
}

/// Returns why what lies there is no file to write to.
fn no_file(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    match () {
        () if kind.is_symlink() => Some("is a link; name the file itself"),
        () if kind.is_dir() => Some("is a folder; name a file"),
        () if kind.is_file() => None,
        () => Some("is no file"),
    }
}

/// Tells whether it is one of the two devices that keep nothing: what is written there is gone, or refused.
pub fn is_sink(path: &Path) -> bool {
    let device = |path: &Path| {
        let found = fs::symlink_metadata(path).ok()?;
        found.file_type().is_char_device().then(|| found.rdev())
    };
    device(path)
        .is_some_and(|own| ["/dev/null", "/dev/full"].iter().any(|sink| device(Path::new(sink)) == Some(own)))
}

/// Returns the database beside which a file of that name would be taken for a part of it.
fn database_of(place: &Path) -> Option<PathBuf> {
    let name = place.file_name()?.to_str()?;
    let database = BESIDE_A_DATABASE.iter().find_map(|ending| name.strip_suffix(ending))?;
    Some(place.with_file_name(database)).filter(|database| database.is_file())
}

fn beginning(place: &Path) -> io::Result<String> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32;
    let mut bytes = Vec::new();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(place)?;
    file.take(BEGINNING_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NUMBERS: NamedFile =
        NamedFile { flag: "--numbers", noun: "list of numbers", is_own: |text| text.starts_with("numbers") };

    fn refused(path: &Path) -> String {
        let error = NUMBERS.check(path, &Settings::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    }

    #[test]
    fn only_what_is_absent_empty_or_our_own_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        for path in [folder.path().join("new"), place("empty", ""), place("own", "numbers: 7")] {
            NUMBERS.check(&path, &Settings::default()).unwrap();
        }
        let note = place("note", "dear Ann");
        assert!(refused(&note).contains("is no list of numbers of packvault's"), "{}", refused(&note));
        symlink("own", folder.path().join("link")).unwrap();
        assert!(refused(&folder.path().join("link")).contains("is a link"));
        assert!(refused(folder.path()).contains("is a folder"));
        assert!(refused(Path::new("/dev/null")).contains("is no file"));
        assert!(
            refused(Path::new("")).contains("names no file")
                && refused(Path::new("..")).contains("names no file")
        );
    }

    #[test]
    fn nothing_takes_a_name_that_a_database_has_for_its_log() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("app.db"), "").unwrap();
        for ending in BESIDE_A_DATABASE {
            let name = format!("app.db{ending}");
            assert!(refused(&folder.path().join(&name)).contains("app.db"), "{name}");
            NUMBERS.check(&folder.path().join(format!("other{ending}")), &Settings::default()).unwrap();
        }
    }

    #[test]
    fn a_file_appears_whole_and_keeps_the_mode_that_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let mode = |mode| {
            NUMBERS.write(&path, b"numbers: 8", mode).unwrap();
            fs::metadata(&path).unwrap().mode() & 0o7777
        };
        assert_eq!(mode(0o640), 0o640);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(mode(0o640), 0o604);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o466)).unwrap();
        assert_eq!(mode(0o640), 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(NUMBERS.write(&folder.path().join("no/such"), b"", 0o600).is_err());
    }
}
