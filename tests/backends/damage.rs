//! Damage on each backend, a small table; every class of bytes is damaged in `tests/damage.rs`.

use std::fs;

use packvault::format::SnapshotId;
use serde_json::Value;

use crate::backends::{Place, Raw};
use crate::memory_repo::*;
use crate::support::stderr;

/// One kind of damage to one object.
struct Damage {
    what: &'static str,
    object: String,
    bytes: Option<Vec<u8>>,
    /// What `verify` ends with: problems, or 1 where the repository cannot even be opened.
    verify_code: i32,
}

/// Two snapshots, of which the first needs one pack and one index.
fn damages(raw: &Raw, first: &SnapshotId) -> Vec<Damage> {
    let flipped = |name: &str, at: usize| {
        let mut bytes = raw.read(name);
        bytes[at] ^= 0x40;
        Some(bytes)
    };
    let pack = raw.names("packs").remove(0);
    let index = raw.names("indexes").remove(0);
    let manifest = format!("snapshots/{first}.mvmanifest");
    let pack_bytes = raw.read(&pack);
    let damage =
        |what, object: &str, bytes| Damage { what, object: object.to_owned(), bytes, verify_code: 3 };
    vec![
        damage("a flipped byte", &pack, flipped(&pack, pack_bytes.len() / 2)),
        damage("a flipped byte at the end", &pack, flipped(&pack, pack_bytes.len() - 1)),
        damage("a cut end", &pack, Some(pack_bytes[..pack_bytes.len() - 9].to_vec())),
        damage("no bytes at all", &pack, Some(Vec::new())),
        damage("lost", &pack, None),
        damage("a flipped byte", &index, flipped(&index, 20)),
        damage("lost", &index, None),
        damage("a flipped byte", &manifest, flipped(&manifest, 30)),
        Damage { verify_code: 1, ..damage("no TOML", "config.toml", Some(b"version = {".to_vec())) },
        Damage { verify_code: 10, ..damage("lost", "config.toml", None) },
    ]
}

pub fn damage_is_named_and_never_restored(place: &Place) {
    place.json(&["init"]);
    let archive = Archive::small();
    let home = archive.home();
    let first = place.json(&["create", home.to_str().unwrap()]);
    let first = first["id"].as_str().unwrap().to_owned();
    let expected = archive.expected();
    archive.change();
    place.json(&["create", home.to_str().unwrap()]);
    let raw = place.raw();
    for damage in damages(&raw, &SnapshotId::parse(&first).unwrap()) {
        let case = format!("{:?}: {}: {}", place.backend, damage.object, damage.what);
        let whole = raw.read(&damage.object);
        raw.put(&damage.object, damage.bytes.clone());
        assert_verify_names(place, &damage, &case);
        let target = place.scratch.path("above/target");
        let restore = ["restore", &first, "--target", target.to_str().unwrap(), "--no-cache"];
        let output = place.run(&restore);
        let code = output.status.code().unwrap();
        assert!([1, 10].contains(&code), "{case}: restore ended with {code}: {}", stderr(&output));
        assert!(!place.scratch.path("above").exists(), "{case}");
        raw.put(&damage.object, Some(whole));
        raw.assert_no_remains();
    }
    let target = place.scratch.path("restored");
    place.json(&["restore", &first, "--target", target.to_str().unwrap()]);
    assert_same_files(&files_below(&target), &expected, "undamaged again");
    fs::remove_dir_all(&target).unwrap();
}

fn assert_verify_names(place: &Place, damage: &Damage, case: &str) {
    let output = place.run(&["verify", "--all", "--json"]);
    assert_eq!(output.status.code(), Some(damage.verify_code), "{case}: {}", stderr(&output));
    if damage.verify_code != 3 {
        let said = stderr(&output);
        let expected = if damage.verify_code == 10 { "no repository" } else { "config.toml" };
        assert!(said.contains(expected), "{case}: {said}");
        return;
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = damage.object.rsplit('/').next().unwrap().split('.').next().unwrap();
    let lost_index = damage.object.starts_with("indexes/") && damage.bytes.is_none();
    let named = if lost_index { "no index names it" } else { name };
    assert!(report["problems"].to_string().contains(named), "{case}: {report:#}");
}
