//! The danger: of a restore of part of a snapshot something else comes back, or in another place, it is taken for a
//! restore of all, or it needs what nobody asked for.

use std::fs;

use packvault::engine::inside::pattern::Patterns;
use packvault::engine::report::{Check, NotRestored, RestoreReport};
use packvault::engine::restore::RestoreOptions;
use packvault::format::BlobId;
use packvault::{ErrorKind, Result};
use packvault_sample::{AttachmentStorage, SampleOptions};
use packvault_storage::MemoryStorage;
use serde_json::Value;

use crate::support::anatomy::{Role, dissect, pack_key};
use crate::support::memory_repo::*;
use crate::support::{Scratch, archives, stderr};

fn only(patterns: &[&str]) -> RestoreOptions {
    let texts: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
    RestoreOptions { only: Some(Patterns::parse(&texts, false).unwrap()), ..RestoreOptions::default() }
}

/// Restores what matches into a new folder; returns what lies there then.
async fn part_of(storage: &MemoryStorage, id: &str, patterns: &[&str]) -> Result<(RestoreReport, Files)> {
    let folder = scratch();
    let target = folder.path().join("target");
    let options = RestoreOptions { target: target.clone(), ..only(patterns) };
    let restored = bring_back_with(shared(storage), id, options).await;
    assert!(restored.is_ok() || !target.exists(), "{patterns:?}: the target was touched");
    restored.map(|report| (report, files_below(&target)))
}

/// Flips a bit in every blob that is this to the first snapshot.
fn damage(storage: &MemoryStorage, role: Role) {
    let repo = dissect(storage);
    for (id, roles) in &repo.snapshots[0].needs {
        if roles.contains(&role) {
            let place = &repo.blobs[id];
            let name = pack_key(&place.pack);
            let objects = storage.objects().into_iter();
            let mut bytes =
                objects.filter(|(key, _)| *key == name).map(|(_, bytes)| bytes).next().unwrap().to_vec();
            bytes[place.entry.offset as usize + place.entry.stored_bytes as usize / 2] ^= 1;
            storage.put_raw(&name, bytes, std::time::SystemTime::now());
        }
    }
}

#[test]
fn what_matches_comes_back_as_a_whole_restore_brings_it_and_nothing_else() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, _archive, made) = repository_of_kind(kind, 2).await;
            let made = &made[1];
            let attachment = made.files.keys().find(|path| path.starts_with("attachments/")).unwrap();
            let hash = BlobId::of(&made.files[attachment]).to_string();
            let is_attachment = |path: &str| path.starts_with("attachments/");
            type Matches<'a> = &'a dyn Fn(&str) -> bool;
            let rows: [(&[&str], Matches<'_>); 5] = [
                (&["deletions"], &|path| path.starts_with("deletions/")),
                (&["/msgvault.db"], &|path| path == "msgvault.db"),
                (&[&hash], &|path| path == attachment),
                (&["attachments/**", "later.json"], &|path| {
                    is_attachment(path) || path.ends_with("/later.json")
                }),
                (&["**"], &|_| true),
            ];
            for (patterns, matches) in rows {
                let (report, found) = part_of(&storage, &made.id, patterns).await.unwrap();
                let mut expected = made.files.clone();
                expected.retain(|path, _| matches(path));
                assert_same_files(&found, &expected, &format!("{kind:?}, {patterns:?}"));
                assert_told(&report, made, &expected);
            }
        }
    });
}

/// Compares what a restore says of itself with what it brought.
fn assert_told(report: &RestoreReport, made: &Made, brought: &Files) {
    let counts = |files: &Files| {
        let attachments = files.keys().filter(|path| path.starts_with("attachments/")).count() as u64;
        let database = u64::from(files.contains_key("msgvault.db"));
        (database, attachments, files.len() as u64 - attachments - database)
    };
    let (all, found) = (counts(&made.files), counts(brought));
    let part = report.part.as_ref().unwrap();
    let NotRestored { database, attachments, extras, .. } = part.left_out;
    assert_eq!(
        (u64::from(database), attachments, extras),
        (all.0 - found.0, all.1 - found.1, all.2 - found.2)
    );
    assert_eq!((report.attachments.files, report.extras), (found.1, found.2));
    assert_eq!(report.database.is_some(), found.0 == 1);
    let checked = if found.0 == 1 { Check::Ok } else { Check::Skipped };
    assert_eq!((report.proof.integrity_check, report.proof.stats), (checked, checked));
    assert_eq!(report.bytes, brought.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    assert_eq!(report.warnings, Vec::<String>::new());
}

#[test]
fn a_pattern_that_matches_nothing_is_refused_and_the_target_is_not_made() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(1).await;
        let hash = BlobId::of(&made[0].files[made[0].files.keys().next().unwrap()]).to_string();
        for patterns in [
            &["nothing"][..],
            &["msgvault.db", "nothing"],
            &["MSGVAULT.DB"],
            &["../deletions"],
            // The beginning of a name is no name.
            &[&hash[..60], "attachments"],
        ] {
            let error = part_of(&storage, &made[0].id, patterns).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{patterns:?}: {error:?}");
        }
    });
}

#[test]
fn what_nobody_asked_for_may_be_damaged_and_what_was_asked_for_may_not() {
    runtime().block_on(async {
        for (role, damaged, sound) in [
            (Role::PageBlob, "msgvault.db", &["deletions"][..]),
            (Role::PageMap, "msgvault.db", &["deletions"]),
            (Role::PageHashes, "msgvault.db", &["deletions"]),
            (Role::Attachment, "attachments", &["msgvault.db", "deletions"]),
            (Role::Extra, "deletions", &["msgvault.db", "attachments"]),
        ] {
            let (storage, _archive, made) = repository_of(1).await;
            damage(&storage, role);
            let error = part_of(&storage, &made[0].id, &[damaged]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{role:?}: {error:?}");
            let (report, _) = part_of(&storage, &made[0].id, sound).await.unwrap();
            assert_eq!(report.warnings, Vec::<String>::new(), "{role:?}");
        }
    });
}

#[test]
fn attachments_lie_where_the_database_expects_them_or_else_where_their_hashes_say() {
    runtime().block_on(async {
        let archive = Archive::make(&SampleOptions {
            messages: 40,
            attachments: 12,
            attachment_mean_bytes: 4000,
            namespaced_fraction: 0.5,
            full_text: false,
            raw: false,
            ..SampleOptions::default()
        });
        let storage = MemoryStorage::new();
        let made = fill(&storage, &archive, 1).await;
        let mut expected = made[0].files.clone();
        expected.retain(|path, _| path.starts_with("attachments/"));
        assert!(expected.keys().any(|path| path.starts_with("attachments/synctech-sms/")));
        let (report, found) = part_of(&storage, &made[0].id, &["attachments"]).await.unwrap();
        assert_same_files(&found, &expected, "the database says where");
        assert_eq!(report.warnings, Vec::<String>::new());
        damage(&storage, Role::PageBlob);
        let (report, found) = part_of(&storage, &made[0].id, &["attachments"]).await.unwrap();
        assert!(
            report.warnings.len() == 1 && report.warnings[0].contains("lie where ls shows them"),
            "{report:?}"
        );
        for (path, bytes) in &found {
            let hash = BlobId::of(bytes).to_string();
            assert_eq!(*path, format!("attachments/{}/{hash}", &hash[..2]));
        }
        let contents = |files: &Files| files.values().cloned().collect::<std::collections::BTreeSet<_>>();
        assert!(contents(&found) == contents(&expected));
    });
}

#[test]
fn a_database_alone_keeps_what_it_says_of_the_packs_of_its_application() {
    runtime().block_on(async {
        let archive = Archive::make(&SampleOptions {
            messages: 40,
            attachments: 12,
            attachment_mean_bytes: 4000,
            storage: AttachmentStorage::Packs,
            full_text: false,
            raw: false,
            ..SampleOptions::default()
        });
        let storage = MemoryStorage::new();
        let made = fill(&storage, &archive, 1).await;
        let (report, found) = part_of(&storage, &made[0].id, &["msgvault.db"]).await.unwrap();
        assert!(report.database.unwrap().identical);
        assert!(found["msgvault.db"] == made[0].files["msgvault.db"]);
        let (report, _) = part_of(&storage, &made[0].id, &["msgvault.db", "attachments"]).await.unwrap();
        assert!(!report.database.unwrap().identical, "its attachments are loose now");
    });
}

/// A repository in a folder, made by the program.
fn in_a_folder() -> Scratch {
    let scratch = Scratch::new();
    archives::make(&scratch.path("home"), &archives::tiny());
    for arguments in [&["init", "--repo", "./repo"][..], &["create", "home", "--repo", "./repo"]] {
        let output = scratch.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    scratch
}

#[test]
fn the_program_says_that_it_was_a_part_and_proves_nothing_by_it() {
    let scratch = in_a_folder();
    let restore = |words: &[&str]| scratch.run(&[&["restore", "--repo", "./repo"], words].concat());
    let output = restore(&["--target", "new", "--only", "deletions/*"]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(text.starts_with("restored a part of "), "{text}");
    assert!(text.contains("  left out     the database\n") && !text.contains("integrity_check"), "{text}");
    let brought = files_below(&scratch.path("new"));
    assert!(!brought.is_empty() && brought.keys().all(|path| path.starts_with("deletions/")), "{brought:?}");
    // Over an archive that is there: nothing but what matches is touched.
    fs::write(scratch.path("home/deletions/mine"), "mine").unwrap();
    let before = files_below(&scratch.path("home"));
    let victim = before.keys().find(|path| path.starts_with("attachments/")).unwrap();
    fs::write(scratch.path("home").join(victim), "damaged").unwrap();
    let refused = restore(&["--target", "home", "--only", "attachments"]);
    assert_eq!(refused.status.code(), Some(1), "it is not empty: {}", stderr(&refused));
    let words = ["--target", "home", "--overwrite", "--only", "attachments", "--json"];
    let output = restore(&words);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["database"].is_null() && report["part"]["left_out"]["database"] == true, "{report}");
    assert_eq!(report["part"]["only"], serde_json::json!(["attachments"]));
    assert_same_files(&files_below(&scratch.path("home")), &before, "merged");
    let nothing = restore(&["--target", "none", "--only", "nothing", "--only", "msgvault.db"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(stderr(&nothing).contains("nothing that matches \"nothing\""), "{}", stderr(&nothing));
    assert_eq!(restore(&["--target", "none", "--only", "a["]).status.code(), Some(2));
    assert!(!scratch.path("none").exists());
    let runs = scratch.json(&["history"])["runs"].as_array().unwrap().clone();
    let kinds: Vec<&str> = runs.iter().filter_map(|run| run["kind"].as_str()).collect();
    assert!(
        kinds.iter().filter(|kind| **kind == "restore_part").count() == 5 && !kinds.contains(&"restore"),
        "{kinds:?}"
    );
    let proof = &scratch.json(&["report"])["places"][0]["proof"];
    assert_eq!((&proof["proved"], &proof["failed"]), (&0.into(), &0.into()), "{proof}");
}
