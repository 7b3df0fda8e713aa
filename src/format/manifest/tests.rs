//! Each step of loading, broken once; the damage is done to the text and the id recomputed where the id is
//! not what is tested.

use proptest::prelude::*;

use super::*;
use crate::format::FormatErrorKind;

const PAGE_MAP: &str = "a75b95ed25d93c4d289504fcf96f7c3f5468531077218dd53ac12885974bcbab";

fn manifest() -> Manifest {
    Manifest {
        format_version: 1,
        min_reader_version: 1,
        app_version: "test".into(),
        created_at: "2026-07-06T13:56:16Z".into(),
        options: Options { zstd_level: 3, tag: "<&>\u{2028}😀".into(), ..Options::default() },
        db: Database {
            engine: "sqlite".into(),
            page_size: 4096,
            page_count: 7,
            page_map: PAGE_MAP.into(),
            page_hash_map: PAGE_MAP.to_uppercase(),
            map_chain_depth: 0,
        },
        attachments: Attachments {
            layout: Some(vec!["loose".into()]),
            recipes: Some(vec![]),
            ..Attachments::default()
        },
        excluded: Some(vec!["tmp/".into()]),
        stats: r#"{"n":1.50,"range":["<",""]}"#.into(),
        duration_seconds: 12.0,
        ..Manifest::default()
    }
}

fn artifact(name: &str, bytes: i64) -> Auxiliary {
    Auxiliary {
        name: name.into(),
        format: "text/plain".into(),
        blob: PAGE_MAP.to_uppercase(),
        bytes,
        sha256: PAGE_MAP.into(),
    }
}

fn with_artifacts(auxiliary: Vec<Auxiliary>) -> Manifest {
    Manifest { format_version: 4, min_reader_version: 4, auxiliary, ..manifest() }
}

fn portable() -> Manifest {
    let metadata = Metadata { format: "dump".into(), blob: PAGE_MAP.into(), bytes: 9 };
    let (db, metadata) = (Database::default(), Some(metadata));
    Manifest { format_version: 3, min_reader_version: 3, db, metadata, ..manifest() }
}

fn load_sealed(mut manifest: Manifest) -> Result<Manifest> {
    let id = manifest.seal_id()?;
    let loaded = Manifest::load(&id, &manifest.encode(), SUPPORTED_READER_LEVEL)?;
    assert_eq!(loaded.encode(), manifest.encode());
    Ok(loaded)
}

/// Loads a good manifest in whose text something was replaced.
fn load_altered(from: &str, to: &str) -> Result<Manifest> {
    let mut manifest = manifest();
    let id = manifest.seal_id()?;
    let text = String::from_utf8(manifest.encode()).unwrap();
    assert!(text.contains(from), "{from}");
    Manifest::load(&id, text.replacen(from, to, 1).as_bytes(), SUPPORTED_READER_LEVEL)
}

fn refusal(result: Result<Manifest>) -> FormatErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_manifest_comes_back_as_it_was_written() {
    let loaded = load_sealed(manifest()).unwrap();
    assert_eq!(loaded.options, manifest().options);
    assert_eq!(loaded.page_map().unwrap(), loaded.page_hash_map().unwrap());
    assert_eq!(loaded.extras_tree().unwrap(), None);
    assert_eq!(loaded.parent().unwrap(), None);
    assert_eq!(loaded.new_index().unwrap(), None);
    assert!(loaded.lists().unwrap().is_empty());
    load_sealed(portable()).unwrap();
    load_sealed(with_artifacts(vec![artifact("a", 0), artifact("b", 64 << 20)])).unwrap();
}

#[test]
fn what_a_manifest_refers_to_is_told_by_its_ids_and_nothing_where_it_refers_to_nothing() {
    const ULID: &str = "01m8gmkxwmapkw0chd8bcp1y7k";
    let bare = manifest();
    assert_eq!((bare.parent().unwrap(), bare.extras_tree().unwrap()), (None, None));
    assert_eq!((bare.lists().unwrap(), bare.new_packs().unwrap()), (vec![], vec![]));
    assert_eq!(bare.new_index().unwrap(), None);

    let parent = "20260706T135616Z-58f31413ca9d5d805a9a2865cdc53c8b";
    let (one, other) = (BlobId::of(b"one"), BlobId::of(b"other"));
    let full = Manifest {
        parent_id: parent.into(),
        attachments: Attachments {
            lists: Some(vec![one.to_string(), other.to_string()]),
            ..Attachments::default()
        },
        extras_tree: other.to_string(),
        new_packs: Some(vec![ULID.into()]),
        new_index: ULID.into(),
        ..manifest()
    };
    assert_eq!(full.parent().unwrap().unwrap().as_str(), parent);
    assert_eq!((full.lists().unwrap(), full.extras_tree().unwrap()), (vec![one, other], Some(other)));
    assert_eq!(full.new_packs().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), [ULID]);
    assert_eq!(full.new_index().unwrap().unwrap().to_string(), ULID);
    let damaged = Manifest { extras_tree: "no id".into(), new_index: "no id".into(), ..manifest() };
    assert!(damaged.extras_tree().is_err() && damaged.new_index().is_err());
}

#[test]
fn null_and_empty_arrays_are_kept_apart() {
    let (mut null, mut empty) = (manifest(), manifest());
    empty.attachments.lists = Some(vec![]);
    empty.new_packs = Some(vec![]);
    assert_ne!(null.seal_id().unwrap(), empty.seal_id().unwrap());
    assert_eq!(load_sealed(null).unwrap().attachments.lists, None);
    assert_eq!(load_sealed(empty).unwrap().new_packs, Some(vec![]));
    assert_eq!(refusal(load_altered(r#""lists": null"#, r#""lists": []"#)), FormatErrorKind::Mismatch);
}

#[test]
fn what_is_not_one_json_value_of_the_right_types_is_refused() {
    for (from, to) in [
        ("{\n", "\u{feff}{\n"),
        ("{\n", "{{\n"),
        ("{\n", "[{}]{\n"),
        (r#""format_version": 1"#, r#""format_version": 1.0"#),
        (r#""format_version": 1"#, r#""format_version": "1""#),
        (r#""include_config": false"#, r#""include_config": 0"#),
        (r#""page_size": 4096"#, r#""page_size": -1"#),
        (r#""page_size": 4096"#, r#""page_size": 4294967296"#),
        (r#""duration_seconds": 12"#, r#""duration_seconds": 1e999"#),
        (r#""duration_seconds": 12"#, r#""duration_seconds": "12""#),
        (r#""new_packs": null"#, r#""new_packs": {}"#),
        (r#""new_packs": null"#, r#""new_packs": [1]"#),
        (r#""tree": """#, r#""tree": "\ud800""#),
        (r#""engine": "sqlite","#, r#""engine": "sqlite", "engine": "sqlite","#),
        (r#""bytes_added": 0"#, r#""bytes_added": 0, "\u0062ytes_added": 0"#),
        (r#""bytes_added": 0"#, r#""bytes_added": 0,"#),
    ] {
        assert_eq!(refusal(load_altered(from, to)), FormatErrorKind::Corrupt, "{to}");
    }
    let mut file = manifest().encode();
    let id = manifest().compute_id().unwrap();
    file.extend_from_slice(b"{}");
    assert_eq!(refusal(Manifest::load(&id, &file, 4)), FormatErrorKind::Corrupt);
    assert_eq!(refusal(Manifest::load(&id, b"\xff{}", 4)), FormatErrorKind::Corrupt);
    assert_eq!(refusal(Manifest::load(&id, &b"[".repeat(100_000), 4)), FormatErrorKind::Corrupt);
}

#[test]
fn whitespace_order_and_spelling_of_floats_do_not_matter() {
    load_altered("{\n", " \n{").unwrap();
    load_altered("12,", "1.20e1,\n").unwrap();
    load_altered(
        "\"format_version\": 1,\n  \"min_reader_version\": 1",
        "\"min_reader_version\":1,\"format_version\":1",
    )
    .unwrap();
    load_altered("😀", "\\ud83d\\ude00").unwrap();
    let mut sealed = manifest();
    let id = sealed.seal_id().unwrap();
    Manifest::load(&id, &[&sealed.encode()[..], b" \r\n\t"].concat(), 4).unwrap();
}

#[test]
fn missing_keys_read_as_zero() {
    let mut empty =
        Manifest { created_at: "2026-07-06T13:56:16Z".into(), stats: "null".into(), ..Manifest::default() };
    let id = empty.seal_id().unwrap();
    let text = format!(r#"{{"created_at":"2026-07-06T13:56:16Z","snapshot_id":"{id}"}}"#);
    assert_eq!(Manifest::load(&id, text.as_bytes(), 4).unwrap(), empty);
}

#[test]
fn a_newer_manifest_asks_for_an_upgrade_before_anything_is_called_forged() {
    let newer = |key: &str| {
        load_altered(r#""min_reader_version": 1"#, &format!(r#""min_reader_version": 5, "{key}": 1"#))
    };
    assert_eq!(refusal(newer("more")), FormatErrorKind::NeedsUpgrade { level: 5 });
    let same = load_altered(r#""min_reader_version": 1"#, r#""min_reader_version": 4, "more": 1"#);
    assert_eq!(refusal(same), FormatErrorKind::UnknownField);
}

#[test]
fn an_unknown_or_misspelt_key_is_refused_wherever_it_stands_but_in_the_statistics() {
    for (from, to) in [
        (r#""format_version""#, r#""x": 1, "format_version""#),
        (r#""tag""#, r#""x": 1, "tag""#),
        (r#""engine""#, r#""x": 1, "engine""#),
        (r#""rows""#, r#""x": 1, "rows""#),
        (r#""tree""#, r#""x": 1, "tree""#),
        (r#""msgvault_version""#, r#""Msgvault_version""#),
        (r#""tag""#, r#""TAG""#),
    ] {
        assert_eq!(refusal(load_altered(from, to)), FormatErrorKind::UnknownField, "{to}");
    }
    let mut free = manifest();
    free.stats = r#"{"X":1,"x":{},"x":[]}"#.into();
    load_sealed(free).unwrap();
}

#[test]
fn name_content_and_embedded_id_must_agree() {
    let mut sealed = manifest();
    let id = sealed.seal_id().unwrap();
    let other = SnapshotId::parse(&id.as_str().replace("20260706", "20260707")).unwrap();
    assert_eq!(refusal(Manifest::load(&other, &sealed.encode(), 4)), FormatErrorKind::Mismatch);
    assert_eq!(refusal(load_altered(id.as_str(), other.as_str())), FormatErrorKind::Mismatch);
    assert_eq!(refusal(load_altered(r#""rows": 0"#, r#""rows": 1"#)), FormatErrorKind::Mismatch);
    assert_eq!(refusal(load_altered("1.50", "1.5")), FormatErrorKind::Mismatch);
    assert_eq!(refusal(load_altered(r#""created_at": ""#, r#""created_at": "x"#)), FormatErrorKind::Corrupt);
}

#[test]
fn the_time_of_the_id_is_utc_whatever_the_text_says() {
    let created_at = "2026-07-06T15:56:16.75+02:00".to_owned();
    let loaded = load_sealed(Manifest { created_at, ..manifest() }).unwrap();
    assert!(loaded.snapshot_id.starts_with("20260706T135616Z-"));
    let late = Manifest { created_at: "9999-12-31T23:59:59-01:00".to_owned(), ..manifest() };
    assert!(late.compute_id().is_err());
}

#[test]
fn portable_metadata_follows_its_rules() {
    let broken: [fn(&mut Manifest); 8] = [
        |manifest| manifest.format_version = 2,
        |manifest| manifest.min_reader_version = 2,
        |manifest| manifest.db.map_chain_depth = 1,
        |manifest| manifest.metadata.as_mut().unwrap().format = String::new(),
        |manifest| manifest.metadata.as_mut().unwrap().format = "x".repeat(129),
        |manifest| manifest.metadata.as_mut().unwrap().format = "a\u{85}".into(),
        |manifest| manifest.metadata.as_mut().unwrap().blob = String::new(),
        |manifest| manifest.metadata.as_mut().unwrap().bytes = -1,
    ];
    for (number, damage) in broken.iter().enumerate() {
        let mut manifest = portable();
        damage(&mut manifest);
        assert!(load_sealed(manifest).is_err(), "{number}");
    }
    let mut longest = portable();
    *longest.metadata.as_mut().unwrap() =
        Metadata { format: "x".repeat(128), blob: PAGE_MAP.into(), bytes: 0 };
    load_sealed(longest).unwrap();
}

#[test]
fn auxiliary_artifacts_follow_their_rules() {
    let refused = |auxiliary: Vec<Auxiliary>| load_sealed(with_artifacts(auxiliary)).is_err();
    assert!(refused(vec![artifact("b", 1), artifact("a", 1)]));
    assert!(refused(vec![artifact("a", 1), artifact("a", 1)]));
    assert!(refused(vec![artifact("a", 64 << 20), artifact("b", 1)]));
    assert!(refused(vec![artifact("a", i64::MAX), artifact("b", i64::MAX)]));
    assert!(refused(vec![artifact("a", -1)]));
    assert!(refused((0..65).map(|number| artifact(&format!("{number:02}"), 1)).collect()));
    assert!(!refused((0..64).map(|number| artifact(&format!("{number:02}"), 1)).collect()));
    for name in ["", "A", ".a", "a/b", "é", &"a".repeat(129)] {
        assert!(refused(vec![artifact(name, 1)]), "{name}");
    }
    assert!(!refused(vec![artifact(&"a".repeat(128), 1)]));
    assert!(refused(vec![Auxiliary { sha256: PAGE_MAP.to_uppercase(), ..artifact("a", 1) }]));
    assert!(refused(vec![Auxiliary { format: "a\n".into(), ..artifact("a", 1) }]));
    assert!(refused(vec![Auxiliary { blob: "x".into(), sha256: "x".into(), ..artifact("a", 1) }]));
    let low = Manifest { min_reader_version: 3, ..with_artifacts(vec![artifact("a", 1)]) };
    assert!(load_sealed(low).is_err());
}

proptest! {
    #[test]
    fn every_manifest_comes_back(
        tag in any::<String>(),
        lists in proptest::option::of(proptest::collection::vec("[0-9a-f]{64}", 0..3)),
        packs in proptest::option::of(proptest::collection::vec(any::<String>(), 0..3)),
        (rows, page_count, seconds) in (any::<i64>(), any::<u64>(), any::<f64>()),
        second in 0i64..4_102_444_800,
    ) {
        let mut written = manifest();
        written.options.tag = tag;
        written.attachments.lists = lists;
        written.attachments.rows = rows;
        written.new_packs = packs;
        written.db.page_count = page_count;
        written.duration_seconds = if seconds.is_finite() { seconds } else { 0.0 };
        written.created_at = timestamp::format(Timestamp::from_second(second).unwrap());
        let id = written.seal_id().unwrap();
        // The file holds the statistics indented, and both spellings are one value to the id.
        let loaded = Manifest::load(&id, &written.encode(), SUPPORTED_READER_LEVEL).unwrap();
        prop_assert_eq!(loaded.encode(), written.encode());
        prop_assert_eq!(Manifest { stats: written.stats.clone(), ..loaded }, written);
    }

    #[test]
    fn no_damage_makes_the_loader_panic_or_believe_it(
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut good = manifest();
        let id = good.seal_id().unwrap();
        let mut file = good.encode();
        let position = position.index(file.len());
        file[position] = byte;
        if let Ok(loaded) = Manifest::load(&id, &file, SUPPORTED_READER_LEVEL) {
            prop_assert_eq!(loaded.encode(), good.encode());
        }
    }
}
