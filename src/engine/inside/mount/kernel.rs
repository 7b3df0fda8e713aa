//! The kernel's side of a mount (Linux): its requests become questions to [`Served`], and its answers numbers.
//!
//! One thread takes requests and answers none itself: each goes to a task, so a store that is slow keeps nobody from
//! asking of what is at hand. Reads of one open file are answered one after the other, in the order in which they came;
//! who reads on and on is seen to do so. So many requests may wait, then the kernel keeps the rest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, Request, Session,
};
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::places::Place;
use super::served::{Kind, Named, OpenFile, Served, Standing};
use crate::Result;

/// Requests that may wait for their answers; whoever asks more waits in the kernel.
const WAITING_MAX: usize = 1024;
/// Files and folders that may be open.
const OPEN_MAX: usize = 1024;
/// Names in the folders that are open, but for the one that was opened last.
const LISTED_MAX: usize = 1024 * 1024;
/// What the kernel may keep, for nothing of a snapshot ever changes.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long it is waited for the kernel to let go; it does so at once unless something is in use.
const LETTING_GO_STEPS: u32 = 100;
const LETTING_GO_STEP: Duration = Duration::from_millis(10);
/// What files are said to be read in.
const BLOCK_BYTES: u32 = 128 * 1024;
const SECTOR_BYTES: u64 = 512;

/// A mount that is there; unmounted when it is dropped, whatever happens.
pub struct Serving {
    session: Option<BackgroundSession>,
    folder: PathBuf,
    ended: oneshot::Receiver<()>,
}

impl Serving {
    /// Mounts on a folder; from now on the kernel asks.
    pub fn start(folder: &Path, served: Arc<Served>, runtime: Handle) -> std::io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let kernel = Kernel {
            served,
            runtime,
            admitted: Arc::new(Semaphore::new(WAITING_MAX)),
            open: Arc::default(),
            next: AtomicU64::new(1),
            end: Some(end),
        };
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
            MountOption::FSName("packvault".to_owned()),
            MountOption::Subtype("packvault".to_owned()),
        ];
        let session = Session::new(kernel, folder, &config)?.spawn()?;
        Ok(Self { session: Some(session), folder: folder.to_owned(), ended })
    }

    /// Returns when somebody else has unmounted it.
    pub async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Unmounts. The folder is as it was at once; what somebody still has open there is an error to him as soon as this
    /// program ends.
    pub async fn end(mut self) {
        if !self.detach() {
            return;
        }
        for _ in 0..LETTING_GO_STEPS {
            if self.has_ended() {
                return;
            }
            tokio::time::sleep(LETTING_GO_STEP).await;
        }
        // To drop it would be to unmount what may by now be somebody else's.
        std::mem::forget(self.session.take());
    }

    fn has_ended(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Takes the mount out of sight; tells whether that was done here.
    fn detach(&mut self) -> bool {
        if self.has_ended() {
            return false;
        }
        match unmount(&self.folder, UnmountFlags::DETACH) {
            Ok(()) => true,
            Err(_) => {
                // Users need fusermount3 for it, which the session runs.
                drop(self.session.take());
                false
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.detach() && !self.has_ended() {
            std::mem::forget(self.session.take());
        }
    }
}

/// What is open, by the numbers that the kernel was given.
type Open = Arc<Mutex<HashMap<u64, Opened>>>;

enum Opened {
    File(mpsc::UnboundedSender<Read>),
    Folder(Arc<Vec<Named>>),
}

/// A read that waits; there are no more of them than requests may wait.
struct Read {
    offset: u64,
    bytes: u32,
    reply: ReplyData,
    _permit: OwnedSemaphorePermit,
}

struct Kernel {
    served: Arc<Served>,
    runtime: Handle,
    admitted: Arc<Semaphore>,
    open: Open,
    next: AtomicU64,
    end: Option<oneshot::Sender<()>>,
}

impl Kernel {
    fn admit(&self) -> OwnedSemaphorePermit {
        let permit = self.runtime.block_on(Arc::clone(&self.admitted).acquire_owned());
        permit.expect("the semaphore is never closed")
    }

    /// Answers in a task.
    fn answer(&self, work: impl Future<Output = ()> + Send + 'static) {
        let permit = self.admit();
        self.runtime.spawn(async move {
            work.await;
            drop(permit);
        });
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

fn opened(open: &Open) -> std::sync::MutexGuard<'_, HashMap<u64, Opened>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes something as open, if there is room.
fn note(open: &Open, number: u64, thing: Opened) -> std::result::Result<(), Errno> {
    let mut open = opened(open);
    let names = |thing: &Opened| match thing {
        Opened::File(_) => 0,
        Opened::Folder(names) => names.len(),
    };
    let listed: usize = if names(&thing) == 0 { 0 } else { open.values().map(names).sum() };
    if open.len() >= OPEN_MAX || listed > LISTED_MAX {
        return Err(Errno::ENFILE);
    }
    open.insert(number, thing);
    Ok(())
}

/// Returns what is there, or the number that says why not.
fn found<T>(served: &Served, what: &str, found: Result<Option<T>>) -> std::result::Result<T, Errno> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Errno::ENOENT),
        Err(error) => {
            served.tell(what, &error);
            Err(Errno::EIO)
        }
    }
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Folder => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

fn attributes(standing: &Standing) -> FileAttr {
    FileAttr {
        ino: INodeNo(standing.place.number()),
        size: standing.bytes,
        blocks: standing.bytes.div_ceil(SECTOR_BYTES),
        atime: standing.modified,
        mtime: standing.modified,
        ctime: standing.modified,
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(standing.kind),
        perm: (standing.mode & 0o7777) as u16,
        // Of a folder it says that nobody counts the folders in it.
        nlink: 1,
        uid: standing.user,
        gid: standing.group,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

impl Filesystem for Kernel {
    fn init(&mut self, _: &Request, _: &mut KernelConfig) -> std::io::Result<()> {
        Ok(())
    }

    fn destroy(&mut self) {
        opened(&self.open).clear();
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Every name of a snapshot is text.
        let (Some(parent), Some(name)) = (Place::of_number(parent.0), name.to_str().map(str::to_owned))
        else {
            return reply.error(Errno::ENOENT);
        };
        let served = Arc::clone(&self.served);
        self.answer(async move {
            let standing = served.answered(served.lookup(parent, &name)).await;
            match found(&served, &format!("cannot look for {name:?}"), standing) {
                Ok(standing) => reply.entry(&GOOD_FOR, &attributes(&standing), Generation(0)),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let Some(place) = Place::of_number(number.0) else { return reply.error(Errno::ENOENT) };
        let served = Arc::clone(&self.served);
        self.answer(async move {
            match found(&served, "cannot look at a file", served.answered(served.standing(place)).await) {
                Ok(standing) => reply.attr(&GOOD_FOR, &attributes(&standing)),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.served.target_of_latest().filter(|_| Place::of_number(number.0) == Some(Place::Latest)) {
            Some(target) => reply.data(target.as_bytes()),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let Some(place) = Place::of_number(number.0) else { return reply.error(Errno::ENOENT) };
        let (served, open, handle) = (Arc::clone(&self.served), Arc::clone(&self.open), self.number());
        self.answer(async move {
            let file = match found(&served, "cannot open a file", served.answered(served.open(place)).await) {
                Ok(file) => file,
                Err(errno) => return reply.error(errno),
            };
            let (sender, reads) = mpsc::unbounded_channel();
            if let Err(errno) = note(&open, handle, Opened::File(sender)) {
                return reply.error(errno);
            }
            tokio::spawn(read_on(served, file, reads));
            reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = Read { offset, bytes, reply, _permit: self.admit() };
        let refused = match opened(&self.open).get(&handle.0) {
            Some(Opened::File(reads)) => reads.send(read).err().map(|unsent| unsent.0),
            _ => Some(read),
        };
        if let Some(read) = refused {
            read.reply.error(Errno::EBADF);
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        opened(&self.open).remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let Some(place) = Place::of_number(number.0) else { return reply.error(Errno::ENOENT) };
        let (served, open, handle) = (Arc::clone(&self.served), Arc::clone(&self.open), self.number());
        self.answer(async move {
            let names = found(&served, "cannot open a folder", served.answered(served.list(place)).await);
            match names.and_then(|names| note(&open, handle, Opened::Folder(Arc::new(names)))) {
                Ok(()) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let names = match opened(&self.open).get(&handle.0) {
            Some(Opened::Folder(names)) => Arc::clone(names),
            _ => return reply.error(Errno::EBADF),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, named) in (1..).zip(names.iter()).skip(from) {
            if reply.add(INodeNo(named.place.number()), next, kind(named.kind), &named.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        opened(&self.open).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}

/// Answers the reads of one open file until it is closed.
async fn read_on(served: Arc<Served>, file: OpenFile, mut reads: mpsc::UnboundedReceiver<Read>) {
    while let Some(Read { offset, bytes, reply, _permit }) = reads.recv().await {
        match served.answered(served.read(&file, offset, bytes)).await {
            Ok(read) => reply.data(&read),
            Err(error) => {
                served.tell(&file.reading(), &error);
                reply.error(Errno::EIO);
            }
        }
    }
}
