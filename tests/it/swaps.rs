//! The danger: while a restore runs, somebody who may write to the target folder exchanges part of it for a
//! link, and the restore writes, as its own user, where that link points.
//!
//! First at fixed moments: as each stage begins, each part is exchanged once. Then at random: a thread
//! exchanges folders back and forth while restore after restore runs. Nothing outside may ever change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use packvault::engine::restore::{RestoreOptions, restore};
use packvault::engine::{Context, Selection};
use packvault::format::SnapshotId;
use packvault::profiles::msgvault::Msgvault;
use packvault::progress::{Progress, Stage, Unit};
use packvault::repo::Repository;
use packvault::{Cancel, Result};
use packvault_sample::{AttachmentStorage, SampleOptions};
use packvault_storage::MemoryStorage;
use tempfile::TempDir;

use crate::support::memory_repo::*;
use crate::support::small_disk::SmallDisk;

/// How many restores run beside the thread that exchanges folders.
const RESTORES: u32 = 25;

/// What is exchanged for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Target,
    Staging,
    StagedDatabase,
    StagedAttachments,
    Attachments,
    Deletions,
}

const PARTS: [Part; 6] = [
    Part::Target,
    Part::Staging,
    Part::StagedDatabase,
    Part::StagedAttachments,
    Part::Attachments,
    Part::Deletions,
];

/// The stages of a restore, and the step between the proof and the moving.
const STAGES: [Stage; 5] = [Stage::Database, Stage::Attachments, Stage::Extras, Stage::Proof, Stage::Publish];

/// A target that holds an older archive, and a folder that nothing may reach.
struct Place {
    folder: TempDir,
}

impl Place {
    /// The decoy is an archive of its own, with rows that a restore would remove from a database of its own.
    fn new(decoy: &[u8]) -> Self {
        let place = Self { folder: scratch() };
        for folder in ["outside/attachments", "target/attachments", "target/deletions"] {
            fs::create_dir_all(place.path(folder)).unwrap();
        }
        for file in ["outside/msgvault.db", "target/msgvault.db", "outside/attachments/precious"] {
            fs::write(place.path(file), decoy).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns where the part lies, if it does now.
    fn find(&self, part: Part) -> Option<PathBuf> {
        let staging = || {
            let entries = fs::read_dir(self.path("target")).ok()?;
            let mut names = entries.flatten().map(|entry| entry.file_name());
            names.find(|name| name.to_string_lossy().starts_with(".packvault-restore-"))
        };
        let staged = |name: &str| Some(self.path("target").join(staging()?).join("new").join(name));
        let found = match part {
            Part::Target => self.path("target"),
            Part::Staging => self.path("target").join(staging()?),
            Part::StagedDatabase => staged("msgvault.db")?,
            Part::StagedAttachments => staged("attachments")?,
            Part::Attachments => self.path("target/attachments"),
            Part::Deletions => self.path("target/deletions"),
        };
        fs::symlink_metadata(&found).is_ok().then_some(found)
    }

    /// Puts a link to the like of it outside in the place of the part.
    fn exchange(&self, part: Part) {
        let Some(victim) = self.find(part) else { return };
        let to = match part {
            Part::StagedDatabase => self.path("outside/msgvault.db"),
            Part::StagedAttachments | Part::Attachments => self.path("outside/attachments"),
            _ => self.path("outside"),
        };
        fs::rename(&victim, self.path("moved")).unwrap();
        symlink(to, victim).unwrap();
    }
}

/// Exchanges a part once, as a stage begins.
struct AtStage {
    place: Arc<Place>,
    stage: Stage,
    part: Mutex<Option<Part>>,
}

impl Progress for AtStage {
    fn begin(&self, stage: Stage, _: Unit, _: Option<u64>) {
        if stage == self.stage
            && let Some(part) = self.part.lock().unwrap().take()
        {
            self.place.exchange(part);
        }
    }

    fn advance(&self, _: Stage, _: u64) {}
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, _: &str) {}
}

/// Does something once, at a moment of the proof.
struct AtProof {
    step: &'static str,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Progress for AtProof {
    fn begin(&self, stage: Stage, _: Unit, _: Option<u64>) {
        if stage == Stage::Proof {
            self.step(stage, "begin");
        }
    }

    fn step(&self, stage: Stage, step: &str) {
        if (stage, step) == (Stage::Proof, self.step)
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }

    fn advance(&self, _: Stage, _: u64) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, _: &str) {}
}

struct Bench {
    storage: MemoryStorage,
    id: String,
    decoy: Vec<u8>,
}

impl Bench {
    async fn new(kept: AttachmentStorage) -> Self {
        let archive = Archive::make(&SampleOptions {
            messages: 40,
            attachments: 8,
            attachment_mean_bytes: 4000,
            full_text: false,
            raw: false,
            storage: kept,
            ..SampleOptions::default()
        });
        let storage = MemoryStorage::new();
        packvault::engine::init::init(&storage).await.unwrap();
        let id = capture(shared(&storage), &archive).await.unwrap().id.unwrap();
        let decoy = fs::read(archive.home().join("msgvault.db")).unwrap();
        Self { storage, id, decoy }
    }

    async fn restore(&self, target: PathBuf, progress: Arc<dyn Progress>) -> Result<()> {
        let context = Context { progress, cancel: Cancel::new(), ..context() };
        let options = RestoreOptions { target, overwrite: true, ..RestoreOptions::default() };
        let selection = Selection::One(SnapshotId::parse(&self.id).unwrap());
        let repository = Repository::open(shared(&self.storage)).await?;
        let restored = restore(&repository, Arc::new(Msgvault), selection, options, &context);
        tokio::time::timeout(Duration::from_secs(120), restored).await.expect("it ends").map(drop)
    }
}

fn assert_untouched(place: &Place, before: &Files, case: &str) {
    assert_same_files(&files_below(&place.path("outside")), before, case);
}

#[test]
fn a_part_that_is_exchanged_for_a_link_as_a_stage_begins_leads_nowhere() {
    runtime().block_on(async {
        // Its database has rows that describe the live store: they are emptied in what is restored, and
        // must be emptied nowhere else.
        let bench = Bench::new(AttachmentStorage::Packs).await;
        for stage in STAGES {
            for part in PARTS {
                let place = Arc::new(Place::new(&bench.decoy));
                let before = files_below(&place.path("outside"));
                let part_once = Mutex::new(Some(part));
                let at_stage = AtStage { place: place.clone(), stage, part: part_once };
                let restored = bench.restore(place.path("target"), Arc::new(at_stage)).await;
                let case = format!("{part:?} as {stage:?} begins: {restored:?}");
                assert_untouched(&place, &before, &case);
                if let Err(error) = restored {
                    assert!(!error.chain().contains('\n'), "{case}");
                }
            }
        }
    });
}

#[test]
fn a_target_that_goes_away_during_the_proof_is_said_to_be_gone_and_nothing_is_left_half_way() {
    const GONE: &str = "it was removed, renamed or unmounted while it was restored into";
    runtime().block_on(async {
        let bench = Bench::new(AttachmentStorage::Packs).await;
        for step in ["begin", "integrity check", "statistics", "making it durable"] {
            for is_removed in [false, true] {
                let place = Place::new(&bench.decoy);
                let (target, moved) = (place.path("target"), place.path("moved"));
                let before = files_below(&target);
                let act: Box<dyn FnOnce() + Send> = Box::new(move || match is_removed {
                    true => fs::remove_dir_all(target).unwrap(),
                    false => fs::rename(target, moved).unwrap(),
                });
                let at_proof = AtProof { step, act: Mutex::new(Some(act)) };
                let error =
                    bench.restore(place.path("target"), Arc::new(at_proof)).await.unwrap_err().chain();
                assert!(error.contains(GONE) && !place.path("target").exists(), "{step}: {error}");
                if !is_removed {
                    assert_same_files(&files_below(&place.path("moved")), &before, step);
                }
            }
            let Some(disk) = SmallDisk::mount("size=64m") else { continue };
            let root = disk.root().to_owned();
            let act: Box<dyn FnOnce() + Send> = Box::new(move || {
                assert!(Command::new("umount").arg("--lazy").arg(root).status().unwrap().success());
            });
            let at_proof = AtProof { step, act: Mutex::new(Some(act)) };
            let error = bench.restore(disk.path("target"), Arc::new(at_proof)).await.unwrap_err().chain();
            assert!(error.contains(GONE), "{step}: {error}");
            assert_eq!(fs::read_dir(disk.root()).unwrap().count(), 0, "nothing lies where the disk was");
        }
    });
}

#[test]
fn a_thread_that_exchanges_folders_all_the_time_gets_nothing_written_outside() {
    runtime().block_on(async {
        // Nothing in its database is to be emptied: that SQLite goes by a path is told in SECURITY.md.
        let bench = Bench::new(AttachmentStorage::Loose).await;
        let place = Arc::new(Place::new(&bench.decoy));
        let before = files_below(&place.path("outside"));
        let (stop, exchanges) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let swapper = std::thread::spawn({
            let (place, stop, exchanges) = (place.clone(), stop.clone(), exchanges.clone());
            move || {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    for part in PARTS {
                        turn += 1;
                        let exchanged = exchange_and_back(&place, part, turn);
                        exchanges.fetch_add(u32::from(exchanged), Ordering::Relaxed);
                    }
                }
            }
        });
        let mut done = 0;
        for _ in 0..RESTORES {
            let restored = bench.restore(place.path("target"), Arc::new(packvault::progress::Silent)).await;
            done += u32::from(restored.is_ok());
            assert_untouched(&place, &before, &format!("{restored:?}"));
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        assert_untouched(&place, &before, "at the end");
        let exchanges = exchanges.load(Ordering::Relaxed);
        assert!(exchanges > RESTORES, "only {exchanges} exchanges, {done} of {RESTORES} restores went well");
    });
}

/// Exchanges the part for a link and back in single steps; tells whether it was there to be exchanged.
fn exchange_and_back(place: &Place, part: Part, turn: u64) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let Some(victim) = place.find(part) else { return false };
    // A name of its own each time: what could not be put back stays there.
    let link = place.path(&format!("link-{turn}"));
    let to = match part {
        Part::StagedDatabase => "outside/msgvault.db",
        Part::StagedAttachments | Part::Attachments => "outside/attachments",
        _ => "outside",
    };
    symlink(place.path(to), &link).unwrap();
    let exchange = || renameat_with(CWD, &victim, CWD, &link, RenameFlags::EXCHANGE).is_ok();
    let exchanged = exchange();
    std::thread::yield_now();
    let back = exchanged && exchange();
    let _ = fs::remove_file(&link);
    back
}
