//! What a server can promise, found out by asking it.
//!
//! An extension that is offered is tried, and a promise that matters when several meet is tried with
//! several. Everything happens in a folder of its own in `staging/`, which is removed in the end. Another program
//! that cleans up there at the same time would make the answers wrong, so what must be left is looked for before
//! they are believed.

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use packvault_storage::probe::{Answer, ProbeReport};
use packvault_storage::{ErrorKind, Result, Step, numbered};

use crate::answers::OpenHandle;
use crate::channel::{Channel, Lease};
use crate::client::{Client, FILE_MODE, STAGING};
use crate::codec::{Attrs, OPEN_CREATE, OPEN_EXCLUSIVE, OPEN_READ, OPEN_WRITE, Request, code, extension};
use crate::error::{Failure, ServerErrors};
use crate::features::SftpFeatures;
use crate::server_time;
use crate::upload::free_bytes;

/// How the scratch folder's name begins.
pub(crate) const SCRATCH: &str = "probe";

/// How many meet in a race, and how often.
const RACERS: usize = 8;
const ROUNDS: usize = 6;

/// How many channels the racers are spread over, as far as the server has them.
const CHANNELS: usize = 4;

/// A time no file made now has.
const OLD_SECONDS: u32 = 1_000_000_000;

type Asked<T> = std::result::Result<T, Failure>;

/// Asks everything.
pub(crate) async fn probe(client: &Client, step: Step<'_>) -> Result<(SftpFeatures, ProbeReport)> {
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(client.heavy(step).await?);
    }
    let first = &channels[0];
    client.make_folder(first, step, STAGING).await?;
    let folder = client.path(&format!("{STAGING}/{}", numbered(SCRATCH)));
    let bench = Bench { channels: &channels, folder };
    make_folder(first, &bench.folder)
        .await
        .map_err(|failure| step.failed("make a scratch folder", failure))?;
    let asked = match bench.ask_undisturbed().await {
        Err(failure) if failure.is_no_such_file() => Ok(None),
        asked => asked,
    };
    let cleared = bench.clear().await;
    let Some((features, mut report)) = asked.map_err(|failure| step.failed("ask the server", failure))?
    else {
        let detail = "another program removed the scratch names of the probe from staging";
        return Err(step.error(ErrorKind::Conflict, detail));
    };
    cleared.map_err(|failure| step.failed("remove the scratch names", failure))?;
    report.server = describe(first);
    let offset = server_time::offset_seconds(client, step).await?;
    report.add("the server's clock against ours", Answer::Told, format!("{offset:+} s"));
    report.add("how fine times are", Answer::Told, "1 s, by the protocol");
    if let Some(free) = free_bytes(client, first).await {
        report.add("free space", Answer::Told, format!("{free} bytes"));
    }
    Ok((features, report))
}

fn describe(channel: &Channel) -> String {
    let greeting = channel.greeting();
    match greeting.extensions.is_empty() {
        true => format!("SFTP version {}, no extensions", greeting.version),
        false => format!("SFTP version {}, with {}", greeting.version, greeting.extensions.join(", ")),
    }
}

/// The scratch folder, and the channels to it.
struct Bench<'a> {
    channels: &'a [Lease],
    folder: String,
}

impl Bench<'_> {
    /// Asks everything; `None` if what must still be there in the end is gone.
    async fn ask_undisturbed(&self) -> Asked<Option<(SftpFeatures, ProbeReport)>> {
        let witnesses = || (0..=RACERS).map(|racer| format!("link-from-{racer}"));
        let made = witnesses().enumerate().map(|(racer, name)| async move {
            make_file(self.channel(0), &self.path(&name), &vec![b'x'; racer + 1]).await.map(drop)
        });
        future::try_join_all(made).await?;
        let found = self.ask_all().await;
        let left =
            future::try_join_all(witnesses().map(|name| async move { self.size(&name).await })).await?;
        if left.contains(&None) { Ok(None) } else { found.map(Some) }
    }

    async fn ask_all(&self) -> Asked<(SftpFeatures, ProbeReport)> {
        let mut report = ProbeReport::default();
        let features = SftpFeatures {
            exclusive_open: self.opens_exclusively().await?,
            exclusive_folder: self.makes_folders_exclusively().await?,
            hard_link: self.links().await?,
            rename_refuses: self.refuses_to_rename_over().await?,
            posix_rename: self.replaces().await?,
            sync_file: self.syncs_files().await?,
            sync_folder: self.syncs_folders().await?,
        };
        tell(&mut report, &features);
        let note = if self.sets_times().await? { "" } else { "locks cannot be kept fresh" };
        report.add("times of files can be set", yes(note.is_empty()), note);
        Ok((features, report))
    }

    fn channel(&self, number: usize) -> &Channel {
        &self.channels[number % self.channels.len()]
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    fn offers(&self, name: &str) -> bool {
        self.channel(0).greeting().offers(name)
    }

    /// Tells whether one racer of each round succeeds, and a late one never.
    async fn has_one_winner<'b>(
        &'b self,
        attempt: impl Fn(usize, usize) -> BoxFuture<'b, Asked<()>>,
    ) -> Asked<bool> {
        let rounds = (0..ROUNDS).map(|round| {
            let racers = future::join_all((0..RACERS).map(|racer| attempt(round, racer)));
            let attempt = &attempt;
            async move {
                let mut winners = 0;
                for result in racers.await {
                    winners += usize::from(succeeded(result)?);
                }
                Ok(winners == 1 && !succeeded(attempt(round, RACERS).await)?)
            }
        });
        let rounds: Vec<Asked<bool>> = future::join_all(rounds).await;
        rounds.into_iter().try_fold(true, |honest, round| Ok(honest && round?))
    }

    async fn opens_exclusively(&self) -> Asked<bool> {
        self.has_one_winner(|round, racer| {
            Box::pin(async move {
                let handle =
                    make_file(self.channel(racer), &self.path(&format!("open-{round}")), b"").await?;
                drop(handle);
                Ok(())
            })
        })
        .await
    }

    async fn makes_folders_exclusively(&self) -> Asked<bool> {
        self.has_one_winner(|round, racer| {
            Box::pin(
                async move { make_folder(self.channel(racer), &self.path(&format!("folder-{round}"))).await },
            )
        })
        .await
    }

    async fn links(&self) -> Asked<bool> {
        if !self.offers(extension::HARDLINK) {
            return Ok(false);
        }
        let honest = self
            .has_one_winner(|round, racer| {
                Box::pin(async move {
                    let from = self.path(&format!("link-from-{racer}"));
                    let to = self.path(&format!("link-to-{round}"));
                    self.channel(racer).begin(Request::Hardlink { from: &from, to: &to }).await?.done().await
                })
            })
            .await?;
        Ok(honest && self.size("link-to-0").await?.is_some_and(|size| size > 0))
    }

    async fn refuses_to_rename_over(&self) -> Asked<bool> {
        make_file(self.channel(0), &self.path("rename-from"), b"1").await?;
        make_file(self.channel(0), &self.path("rename-to"), b"22").await?;
        let (from, to) = (self.path("rename-from"), self.path("rename-to"));
        let renamed = self.channel(0).begin(Request::Rename { from: &from, to: &to }).await?.done().await;
        let stayed = (self.size("rename-from").await?, self.size("rename-to").await?) == (Some(1), Some(2));
        Ok(!succeeded(renamed)? && stayed)
    }

    async fn replaces(&self) -> Asked<bool> {
        if !self.offers(extension::POSIX_RENAME) {
            return Ok(false);
        }
        make_file(self.channel(0), &self.path("replace-from"), b"1").await?;
        make_file(self.channel(0), &self.path("replace-to"), b"22").await?;
        let (from, to) = (self.path("replace-from"), self.path("replace-to"));
        let channel = self.channel(0);
        let request = Request::Open { path: &to, flags: OPEN_READ, attrs: Attrs::default() };
        let reader = channel.begin(request).await?.handle().await?;
        let renamed = channel.begin(Request::PosixRename { from: &from, to: &to }).await?.done().await;
        let moved = (self.size("replace-from").await?, self.size("replace-to").await?) == (None, Some(1));
        // A program that had it open must go on seeing the old bytes.
        let room = channel.room(2).await?;
        let seen = match channel.read(&reader, 0, 2, room)?.data(2).await {
            Ok(seen) => seen == b"22".as_slice(),
            Err(failure) => refused(failure)?,
        };
        Ok(succeeded(renamed)? && moved && seen)
    }

    async fn syncs_files(&self) -> Asked<bool> {
        if !self.offers(extension::FSYNC) {
            return Ok(false);
        }
        let handle = make_file(self.channel(0), &self.path("sync"), b"1").await?;
        succeeded(handle.begin_sync().await?.done().await)
    }

    async fn syncs_folders(&self) -> Asked<bool> {
        if !self.offers(extension::FSYNC) {
            return Ok(false);
        }
        let request = Request::Open { path: &self.folder, flags: OPEN_READ, attrs: Attrs::default() };
        match self.channel(0).begin(request).await?.handle().await {
            Ok(handle) => succeeded(handle.begin_sync().await?.done().await),
            Err(failure) => refused(failure),
        }
    }

    async fn sets_times(&self) -> Asked<bool> {
        let handle = make_file(self.channel(0), &self.path("time"), b"1").await?;
        let attrs = Attrs::time(OLD_SECONDS);
        let request = Request::Fsetstat { handle: handle.raw(), attrs };
        let set = succeeded(self.channel(0).begin(request).await?.done().await)?;
        let path = self.path("time");
        let found = self.channel(0).begin(Request::Lstat { path: &path }).await?.attrs().await?;
        Ok(set && found.times.is_some_and(|(_, modified)| modified == OLD_SECONDS))
    }

    async fn size(&self, name: &str) -> Asked<Option<u64>> {
        let path = self.path(name);
        match self.channel(0).begin(Request::Lstat { path: &path }).await?.attrs().await {
            Ok(attrs) => Ok(attrs.size),
            Err(failure) if failure.is_no_such_file() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Removes every scratch name; which of them are there depends on the answers.
    async fn clear(&self) -> Asked<()> {
        let channel = self.channel(0);
        let folders = (0..ROUNDS).map(|round| format!("folder-{round}"));
        let files = (0..ROUNDS).flat_map(|round| [format!("open-{round}"), format!("link-to-{round}")]);
        let sources = (0..=RACERS).map(|racer| format!("link-from-{racer}"));
        let others = ["rename-from", "rename-to", "replace-from", "replace-to", "sync", "time"];
        let files = files.chain(sources).chain(others.map(str::to_owned)).map(|name| (name, false));
        let removals = folders.map(|name| (name, true)).chain(files).map(|(name, is_folder)| async move {
            let path = self.path(&name);
            let request = match is_folder {
                true => Request::RemoveFolder { path: &path },
                false => Request::Remove { path: &path },
            };
            // What was never made cannot be removed.
            succeeded(channel.begin(request).await?.done().await).map(drop)
        });
        future::try_join_all(removals).await?;
        channel.begin(Request::RemoveFolder { path: &self.folder }).await?.done().await
    }
}

fn tell(report: &mut ProbeReport, features: &SftpFeatures) {
    let findings = [
        ("hard links refuse a taken name", features.hard_link, "new objects get their names by renames"),
        (
            "posix-rename replaces, and spares readers",
            features.posix_rename,
            "nothing can be replaced; no lock can be renamed",
        ),
        ("rename refuses a taken name", features.rename_refuses, "it may overwrite"),
        ("exclusive open has one winner", features.exclusive_open, "several may be told that they won"),
        ("making a folder has one winner", features.exclusive_folder, "several may be told that they won"),
        ("files can be synced", features.sync_file, "durability is left to the server"),
        ("folders can be synced", features.sync_folder, "durability of names is left to the server"),
    ];
    for (question, is_so, otherwise) in findings {
        report.add(question, yes(is_so), if is_so { "" } else { otherwise });
    }
}

fn yes(is_so: bool) -> Answer {
    if is_so { Answer::Yes } else { Answer::No }
}

/// Tells a refusal of the server's from a success; a broken connection is neither.
fn succeeded(result: Asked<()>) -> Asked<bool> {
    result.map_or_else(refused, |()| Ok(true))
}

fn refused(failure: Failure) -> Asked<bool> {
    match failure {
        Failure::Status(status) if status.code != code::CONNECTION_LOST => Ok(false),
        failure => Err(failure),
    }
}

async fn make_file(channel: &Channel, path: &str, bytes: &[u8]) -> Asked<OpenHandle> {
    let flags = OPEN_WRITE | OPEN_CREATE | OPEN_EXCLUSIVE;
    let request = Request::Open { path, flags, attrs: Attrs::mode(FILE_MODE) };
    let handle = channel.begin(request).await?.handle().await?;
    if !bytes.is_empty() {
        let room = channel.room(bytes.len()).await?;
        channel.write(&handle, 0, Bytes::copy_from_slice(bytes), room)?.done().await?;
    }
    Ok(handle)
}

async fn make_folder(channel: &Channel, path: &str) -> Asked<()> {
    channel.begin(Request::MakeFolder { path, attrs: Attrs::mode(0o700) }).await?.done().await
}
