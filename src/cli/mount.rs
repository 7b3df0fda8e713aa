//! `packvault mount`: shows all snapshots as a folder, until it is stopped or unmounted.

use std::path::PathBuf;
use std::sync::Arc;

use packvault::engine::inside::mount::{End, MountOptions, Mounted, Witness, mount};
use packvault::{Error, ErrorKind, Result};

use super::outlet::OUTPUT;
use super::report::{self, Exit};
use super::session::Session;
use super::settings::given;
use super::text::{count, escape, shell_word};

/// Show all snapshots as a folder that can only be read
///
/// `snapshots` has a folder for each by its time, with what a restore would put there; `latest` is the newest. Any
/// program may read them, and open the database as an immutable one. Every page and file is checked before it is handed
/// out. It stays until Ctrl-C, SIGTERM, or `fusermount3 -u FOLDER`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault mount /mnt/snapshots --repo /mnt/backup
  packvault mount mail ./looking       an archive of the configuration
  sqlite3 'file:looking/latest/msgvault.db?immutable=1'
  cp -a looking/latest/deletions ./again
  fusermount3 -u ./looking

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archive, by its name in the configuration; and an empty folder
    #[arg(value_name = "ARCHIVE] [FOLDER", num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
}

/// Mounts the snapshots, and waits for the end.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let (archive, folder) = match arguments.words.as_slice() {
        [archive, folder] => (Some(session.settings().archive_to_read(archive)?), folder),
        [folder] => (None, folder),
        _ => return Err(Error::new(ErrorKind::Usage, "no folder was named")),
    };
    let folder = PathBuf::from(folder);
    given::refuse_tilde(&folder, "FOLDER", session.settings().user_home())?;
    let repository = session.repository(archive.as_ref(), arguments.locks.purpose()).await?;
    let options = MountOptions {
        folder,
        repository: session.local_repository(archive.as_ref())?,
        locking: arguments.locks.locking(),
    };
    let witness: Arc<dyn Witness> =
        Arc::new(Teller { is_json: session.is_json(), is_quiet: session.is_quiet() });
    let context = session.context(arguments.jobs);
    let (end, warnings) = mount(&repository, &options, witness, &context).await?;
    warnings.iter().for_each(|sentence| session.warn(sentence));
    if end == End::Unmounted && !session.is_quiet() {
        report::say("unmounted\n");
    }
    Ok(Exit::Done)
}

/// Tells the user what becomes of the mount.
struct Teller {
    is_json: bool,
    is_quiet: bool,
}

impl Witness for Teller {
    fn mounted(&self, mounted: &Mounted) -> Result<()> {
        if self.is_json {
            let json = serde_json::to_string(mounted)
                .map_err(|error| Error::caused(ErrorKind::Io, "cannot write the result as JSON", error))?;
            return OUTPUT.print(&(json + "\n"));
        }
        if self.is_quiet {
            return Ok(());
        }
        let Mounted { folder, snapshots, .. } = mounted;
        let noun = if *snapshots == 1 { "snapshot is" } else { "snapshots are" };
        OUTPUT.print(&format!(
            "{} {noun} mounted on {}\nCtrl-C, or `fusermount3 -u {}`, unmounts\n",
            count(*snapshots),
            escape(folder),
            escape(&shell_word(folder))
        ))
    }

    fn problem(&self, text: &str) {
        report::say(&format!("error: {}\n", escape(text)));
    }
}
