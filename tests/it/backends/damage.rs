//! Damage on each backend: some of each kind by default, every class of bytes with `PACKVAULT_FIRE=all`. Who suffers
//! from each is judged in `tests/it/damage.rs`, in memory; here, that no server stands between damage and its finder.

use std::fs;
use std::time::SystemTime;

use packvault::format::pack::encrypted;
use packvault::format::{PackId, RepoConfig, SnapshotId, recovery_page};
use packvault_storage::MemoryStorage;
use serde_json::Value;

use crate::support::anatomy::{Repo, Role, dissect, entries_of};
use crate::support::backends::{Place, Raw};
use crate::support::memory_repo::*;
use crate::support::operations::block_on;
use crate::support::stderr;

/// Bytes of a header, of a record in a footer, and of what lies behind the records.
const PACK_HEADER_BYTES: usize = 6;
const PACK_ENTRY_BYTES: usize = 61;
const PACK_TRAILER_BYTES: usize = 40;

/// One kind of damage to one object.
struct Damage {
    what: String,
    object: String,
    bytes: Option<Vec<u8>>,
    /// What `verify` ends with: problems, or 1 where the repository cannot even be opened.
    verify_code: i32,
}

fn damage(what: impl Into<String>, object: &str, bytes: Option<Vec<u8>>) -> Damage {
    Damage { what: what.into(), object: object.to_owned(), bytes, verify_code: 3 }
}

fn flipped(raw: &Raw, name: &str, at: usize) -> Option<Vec<u8>> {
    let mut bytes = raw.read(name);
    bytes[at] ^= 0x40;
    Some(bytes)
}

/// Makes the repository, with a key that the tests know; the program finds it on the page for a safe.
fn make(place: &Place, kind: Kind) {
    block_on(make_repository(place.storage().as_ref(), kind)).unwrap();
    if kind == Kind::Encrypted {
        let config = RepoConfig::parse(&place.raw().read("config.toml"), 5).unwrap();
        let page = place.scratch.path("page.txt");
        fs::write(&page, &*recovery_page::encode(&config.repo_id, &repository_key())).unwrap();
        place.settle(&format!("identity = '{}'", page.display()));
    }
}

/// Two snapshots, of which the first needs one pack and one index.
fn damages(raw: &Raw, first: &SnapshotId) -> Vec<Damage> {
    let pack = raw.names("packs").remove(0);
    let index = raw.names("indexes").remove(0);
    let manifest = format!("snapshots/{first}.mvmanifest");
    let pack_bytes = raw.read(&pack);
    let flipped = |name: &str, at: usize| flipped(raw, name, at);
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

/// Every class of bytes of every object that the first snapshot needs, flipped, cut, exchanged or longer.
fn every_class(raw: &Raw, first: &SnapshotId, kind: Kind) -> Vec<Damage> {
    let storage = MemoryStorage::new();
    for name in raw.names("") {
        storage.put_raw(&key(&name), raw.read(&name), SystemTime::now());
    }
    let repo = dissect(&storage);
    let mut damages = of_frames(raw, &repo, first);
    let (packs, indexes) = (raw.names("packs"), raw.names("indexes"));
    let places = match kind {
        Kind::Plain => places_in_a_pack(raw, &packs[0]),
        Kind::Encrypted => places_in_a_sealed_pack(raw, &packs[0]),
    };
    damages.extend(of_a_pack(raw, (&packs[0], places), &packs[1]));
    let index = raw.read(&indexes[0]);
    for at in [0, 4, 8, 40, index.len() / 2, index.len() - 33, index.len() - 32, index.len() - 1] {
        damages.push(damage(format!("byte {at} flipped"), &indexes[0], flipped(raw, &indexes[0], at)));
    }
    damages.push(damage("cut", &indexes[0], Some(index[..index.len() / 2].to_vec())));
    damages.push(damage("longer", &indexes[0], Some([&index[..], b"x"].concat())));
    let mut manifests = raw.names("snapshots");
    manifests.retain(|name| name.ends_with(".mvmanifest"));
    let [one, other] = &manifests[..] else { panic!("two snapshots") };
    let (manifest, other) = if one.contains(first.as_str()) { (one, other) } else { (other, one) };
    let text = raw.read(manifest);
    let mut start = 0;
    let pieces: Vec<&[u8]> = match kind {
        Kind::Plain => text.split_inclusive(|byte| *byte == b'\n').collect(),
        Kind::Encrypted => text.chunks(text.len().div_ceil(20)).collect(),
    };
    for piece in pieces {
        let at = start + piece.len() / 2;
        damages.push(damage(format!("byte {at} flipped"), manifest, flipped(raw, manifest, at)));
        start += piece.len();
    }
    damages.push(damage("cut", manifest, Some(text[..text.len() / 2].to_vec())));
    damages.push(damage("longer", manifest, Some([&text[..], b"\n{}"].concat())));
    damages.push(damage("exchanged", manifest, Some(raw.read(other))));
    damages
}

/// One frame of each role.
fn of_frames(raw: &Raw, repo: &Repo, first: &SnapshotId) -> Vec<Damage> {
    use Role::{Attachment, Extra, List, PageBlob, PageHashes, PageMap, Tree};
    let anatomy = repo.snapshots.iter().find(|found| found.manifest.snapshot_id == first.as_str()).unwrap();
    let frame = |role: Role| {
        let of_role = anatomy.needs.iter().filter(|(_, roles)| roles.contains(&role)).map(|(id, _)| id);
        let place = of_role.map(|id| &repo.blobs[id]).find(|place| place.entry.stored_bytes > 0).unwrap();
        let pack = repo.packs[&place.pack].0.as_str();
        let at = (place.entry.offset + place.entry.stored_bytes / 2) as usize;
        damage(format!("a frame of {role:?} flipped"), pack, flipped(raw, pack, at))
    };
    [PageBlob, PageMap, PageHashes, List, Attachment, Tree, Extra].map(frame).into()
}

/// Returns the pack of a path.
fn pack_of(path: &str) -> PackId {
    let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".mvpack")).unwrap();
    PackId::parse(name).unwrap()
}

/// A byte of each part of a pack besides its frames.
fn places_in_a_pack(raw: &Raw, pack: &str) -> Vec<(&'static str, usize)> {
    let bytes = raw.read(pack);
    let trailer = bytes.len() - PACK_TRAILER_BYTES;
    let records = trailer - PACK_ENTRY_BYTES * entries_of(&pack_of(pack), &bytes).len();
    let header = (0..PACK_HEADER_BYTES).map(|at| ("header", at));
    // In the order of the format: number of records; id, place, lengths, flags and checksum of the first; length,
    // hash and magic of the whole.
    let footer = [records - 4, records, records + 32, records + 40, records + 48, records + 56, records + 57];
    let footer = footer.map(|at| ("footer", at));
    let end = [trailer, trailer + 4, trailer + 36].map(|at| ("trailer", at));
    header.chain(footer).chain(end).collect()
}

/// The same where the footer is one sealed item: of its nonce nothing is known here, so its end is taken.
fn places_in_a_sealed_pack(raw: &Raw, pack: &str) -> Vec<(&'static str, usize)> {
    let trailer = raw.read(pack).len() - encrypted::TRAILER_BYTES;
    let header = (0..PACK_HEADER_BYTES).map(|at| ("header", at));
    let footer = [trailer - 40, trailer - 16, trailer - 1].map(|at| ("footer", at));
    let end = (trailer..trailer + encrypted::TRAILER_BYTES).map(|at| ("trailer", at));
    header.chain(footer).chain(end).collect()
}

/// Every part of a pack besides its frames.
fn of_a_pack(raw: &Raw, (pack, places): (&str, Vec<(&str, usize)>), other: &str) -> Vec<Damage> {
    let bytes = raw.read(pack);
    let mut damages: Vec<Damage> = places
        .into_iter()
        .map(|(part, at)| damage(format!("{part} byte {at} flipped"), pack, flipped(raw, pack, at)))
        .collect();
    damages.push(damage("cut in the middle", pack, Some(bytes[..bytes.len() / 2].to_vec())));
    damages.push(damage("longer", pack, Some([&bytes[..], b"x"].concat())));
    damages.push(damage("exchanged", pack, Some(raw.read(other))));
    damages
}

pub fn damage_is_named_and_never_restored(place: &Place) {
    judge_all(place, Kind::Plain);
}

pub fn damage_of_an_encrypted_repository_is_named_and_never_restored(place: &Place) {
    judge_all(place, Kind::Encrypted);
}

fn judge_all(place: &Place, kind: Kind) {
    make(place, kind);
    let archive = Archive::small();
    let home = archive.home();
    let first = place.json(&["create", home.to_str().unwrap()]);
    let first = first["id"].as_str().unwrap().to_owned();
    let expected = archive.expected();
    archive.change();
    place.json(&["create", home.to_str().unwrap()]);
    let raw = place.raw();
    let id = SnapshotId::parse(&first).unwrap();
    let mut damages = damages(&raw, &id);
    match (runs_everything(), kind) {
        (true, _) => damages.extend(every_class(&raw, &id, kind)),
        (false, Kind::Plain) => {}
        // Where the seals are checked is the same on every backend: half of it shows that they are.
        (false, Kind::Encrypted) => damages = damages.into_iter().step_by(2).collect(),
    }
    println!("{:?}: {kind:?}: {} kinds of damage", place.backend, damages.len());
    for damage in damages {
        let case = format!("{:?}: {kind:?}: {}: {}", place.backend, damage.object, damage.what);
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
