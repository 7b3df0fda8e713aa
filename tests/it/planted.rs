//! The danger: somebody who may write into the repository's folder plants a link, a fifo, a socket or a folder
//! where a file or a folder of the format belongs. Following it would read or change files elsewhere; opening
//! it might wait for ever.
//!
//! Every place of the format, everything that can be planted there, every command. (`drivers/local/tests/traps.rs`
//! has the steps of the driver one by one; here the whole program meets them.)

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::hostile::{Stage, short};
use crate::support::memory_repo::*;

/// What is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trap {
    /// A link to what lay there, which has been moved away: following it would work.
    LinkToTheReal,
    LinkElsewhere,
    Dangling,
    Fifo,
    Socket,
    Folder,
}

const TRAPS: [Trap; 6] =
    [Trap::LinkToTheReal, Trap::LinkElsewhere, Trap::Dangling, Trap::Fifo, Trap::Socket, Trap::Folder];

/// Returns every place of the format in the repository.
fn places(stage: &Stage) -> Vec<String> {
    let keys = stage.storage.objects().into_iter().map(|(key, _)| key.to_string());
    let mut places: Vec<String> = keys.collect();
    let shard = places.iter().find_map(|key| Some(key.strip_prefix("packs/")?[..2].to_owned())).unwrap();
    places.push(format!("packs/{shard}"));
    places.extend(["locks", "packs", "indexes", "snapshots", "staging"].map(String::from));
    places.extend(
        ["exclusive", "shared-01arz3ndektsv4rrffq69g5fav", "releasing-01arz3ndektsv4rrffq69g5fav"]
            .map(|lock| format!("locks/{lock}.json")),
    );
    places.push(format!("snapshots/{}.packvault.json", stage.honest.id));
    places.push("staging/01arz3ndektsv4rrffq69g5fav.staging".into());
    places
}

/// Plants the trap; returns what keeps it alive, or `None` where it would be no trap.
fn plant(stage: &Stage, place: &str, trap: Trap) -> Option<Option<UnixListener>> {
    let at = stage.path("repository").join(place);
    let (was_there, was_folder) = (at.exists(), at.is_dir());
    if (trap == Trap::Folder && was_folder) || (trap == Trap::LinkToTheReal && !was_there) {
        return None;
    }
    if was_there {
        fs::rename(&at, stage.path("moved")).unwrap();
    }
    let elsewhere = if was_folder { "outside" } else { "outside/precious" };
    let mut alive = None;
    match trap {
        Trap::LinkToTheReal => symlink(stage.path("moved"), &at).unwrap(),
        Trap::LinkElsewhere => symlink(stage.path(elsewhere), &at).unwrap(),
        Trap::Dangling => symlink(stage.path("outside/not-there"), &at).unwrap(),
        Trap::Fifo => assert!(Command::new("mkfifo").arg(&at).status().unwrap().success()),
        Trap::Socket => alive = Some(bind(&at)),
        Trap::Folder => fs::create_dir(&at).unwrap(),
    }
    Some(alive)
}

/// Binds a socket; its path may be longer than the system takes, so it is made elsewhere and moved.
fn bind(at: &Path) -> UnixListener {
    let short: PathBuf = scratch().path().with_extension("socket");
    let listener = UnixListener::bind(&short).unwrap();
    fs::rename(short, at).unwrap();
    listener
}

/// Every command on the trap: it ends, follows nothing, and what it calls good is good.
fn judge(place_number: usize, trap: Trap) {
    let stage = Stage::new();
    let place = places(&stage)[place_number].clone();
    let Some(_alive) = plant(&stage, &place, trap) else { return };
    let moved = files_below(&stage.path("moved"));
    let home = stage.home();
    let id = stage.honest.id.clone();
    let restore = ["restore", id.as_str(), "--target", "target"];
    for arguments in [&["list"][..], &["verify", "--all"], &restore, &["create", &home]] {
        let ended = stage.run(arguments);
        let case = format!("{trap:?} at {place}, {}: {:?}: {}", arguments[0], ended.code, short(&ended.told));
        assert!(matches!(ended.code, Some(0 | 1 | 3 | 10 | 11)), "{case}");
        stage.assert_outside_is_untouched(&case);
        assert_eq!(files_below(&stage.path("moved")), moved, "{case}");
        // Where a folder lies, the file of its name is missing, and what it held is told.
        if ended.code != Some(0) && trap != Trap::Folder {
            let name = place.rsplit('/').next().unwrap().split('.').next().unwrap();
            assert!(ended.told.contains(name) || ended.code == Some(10), "{case}: not named");
        }
        let target = stage.path("target");
        match (arguments[0], ended.code) {
            ("restore", Some(0)) => {
                assert_same_files(&files_below(&target), &stage.honest.files, &case);
                fs::remove_dir_all(&target).unwrap();
            }
            ("restore", _) => assert!(!target.exists(), "{case}"),
            // A sweep may remove what is planted in staging; anything else of the format is needed.
            ("verify", Some(0)) => assert!(is_no_part(&place), "{case}"),
            _ => {}
        }
    }
}

/// Tells whether nothing that a snapshot cannot do without lies at the place.
fn is_no_part(place: &str) -> bool {
    place.starts_with("staging/") || place.contains(".packvault") || place.starts_with("locks/")
}

fn everywhere(traps: &[Trap]) {
    let count = places(&Stage::new()).len();
    for trap in traps {
        for number in 0..count {
            judge(number, *trap);
        }
    }
}

#[test]
fn a_link_in_the_repository_is_followed_by_no_command() {
    everywhere(&TRAPS[..3]);
}

#[test]
fn a_fifo_a_socket_or_a_folder_in_the_repository_is_named_and_waited_for_by_no_command() {
    everywhere(&TRAPS[3..]);
}
