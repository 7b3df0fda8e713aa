//! Where fuzzing starts: the objects of the fixture repositories, and texts that touch each rule.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use packvault::format::Decompressor;
use packvault::format::pack::{Footer, Trailer};

use super::input::push_piece;
use super::objects::HASH_BYTES;
use super::{frame, manifest, pack};

/// Larger seeds are left out: they slow the fuzzer and show nothing new.
const SEED_BYTES_MAX: usize = 16 << 10;
/// Seeds of one target; the fixtures hold many of a kind.
const SEEDS_MAX: usize = 40;

/// The seeds of each target.
#[derive(Debug, Default)]
pub struct Seeds(BTreeMap<&'static str, Vec<Vec<u8>>>);

impl Seeds {
    /// Collects the seeds; `fixtures` is `tests/fixtures`.
    pub fn collect(fixtures: &Path) -> Self {
        let mut seeds = Self::default();
        for repository in entries(fixtures).iter().map(|fixture| fixture.join("repo")) {
            if repository.is_dir() {
                seeds.add_repository(&repository);
            }
        }
        seeds.add_keys(&fixtures.join("encrypted"));
        seeds.add_texts();
        seeds.add_choices();
        seeds
    }

    /// Returns the seeds of a target.
    pub fn of(&self, target: &str) -> &[Vec<u8>] {
        self.0.get(target).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, target: &'static str, seed: Vec<u8>) {
        let seeds = self.0.entry(target).or_default();
        if seed.len() <= SEED_BYTES_MAX && seeds.len() < SEEDS_MAX && !seeds.contains(&seed) {
            seeds.push(seed);
        }
    }

    fn add_keys(&mut self, fixture: &Path) {
        for folder in ["identities", "repository/keys"] {
            for file in entries(&fixture.join(folder)) {
                self.add("key_file", read(&file));
            }
        }
        let page = "packvault recovery key 1\nrepository 5d61e8af-fa85-4c85-a408-d2e53ac0ed20\n1  0001 0203 0405 0607  \
                    0000\n";
        self.add("key_file", page.as_bytes().to_vec());
        let payload = format!(
            "packvault repository key 1\n5d61e8af-fa85-4c85-a408-d2e53ac0ed20\n{}\n",
            "a7".repeat(32)
        );
        self.add("key_file", payload.into_bytes());
    }

    fn add_repository(&mut self, repository: &Path) {
        self.add("repo_config", read(&repository.join("config.toml")));
        for file in entries(&repository.join("indexes")) {
            self.add("index", without_hash(&read(&file)).to_vec());
        }
        for file in entries(&repository.join("snapshots")) {
            let id = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let text = String::from_utf8(read(&file)).expect("a manifest is text");
            self.add("manifest", manifest::seed(&text, id));
            self.add("go_json", [&1.5f64.to_bits().to_le_bytes()[..], text.as_bytes()].concat());
        }
        let mut chains: BTreeMap<&'static str, Vec<u8>> = BTreeMap::from([("page_map", vec![0])]);
        for shard in entries(&repository.join("packs")) {
            for file in entries(&shard) {
                self.add_pack(&read(&file), &mut chains);
            }
        }
        for (target, chain) in chains {
            self.add(target, chain);
        }
    }

    fn add_pack(&mut self, file: &[u8], chains: &mut BTreeMap<&'static str, Vec<u8>>) {
        if let Some(seed) = pack::seed(file) {
            self.add("pack", seed);
        }
        let trailer = Trailer::parse(file, file.len() as u64).expect("fixtures are whole");
        let region = &file[trailer.footer_offset() as usize..][..trailer.region_bytes() as usize];
        let footer = Footer::parse(region, &trailer, file.len() as u64).expect("fixtures are whole");
        let mut sealed = vec![0, 1];
        push_piece(&mut sealed, region);
        self.add("sealed_pack", sealed);
        for entry in footer.entries() {
            let stored = &file[entry.offset as usize..][..entry.stored_bytes as usize];
            self.add("frame", frame::seed(stored));
            let raw = Decompressor::new().decode(entry, stored).map(<[u8]>::to_vec);
            self.add_blob(&raw.expect("fixtures are whole"), chains);
        }
    }

    fn add_blob(&mut self, raw: &[u8], chains: &mut BTreeMap<&'static str, Vec<u8>>) {
        let target = match raw.first_chunk::<4>() {
            Some(b"MVMK" | b"MVMD") => "page_map",
            Some(b"MVHK" | b"MVHD") => "page_hashes",
            Some(b"MVAL") => return self.add("attachment_list", without_hash(raw).to_vec()),
            _ if raw.starts_with(b"{\n  \"entries\"") => return self.add("extras_tree", raw.to_vec()),
            _ => return,
        };
        push_piece(chains.entry(target).or_default(), without_hash(raw));
    }

    fn add_texts(&mut self) {
        let texts: [(&'static str, &[&str]); 9] = [
            (
                "location",
                &["/mnt/nas/backup", "file:///my%20nas/%C3%A4", "sftp://ann@nas:22/x", "s3://b/p?x=1#y"],
            ),
            (
                "paths",
                &[
                    "a/./b//c\n../a\nA\na/b\nMsgVault.DB-wal\nattachment\u{17f}\ncafe\u{301}\ncaf\u{e9}\n\u{130}\nx. /y",
                ],
            ),
            (
                "names",
                &[
                    "01kwvve8k3wz72j3vhy0dphk55",
                    "20261123T204532Z-8f613acd15f1792d0349061a52bee9d7",
                    "5d61e8af-fa85-4c85-a408-d2e53ac0ed20",
                    "2026-07-06T15:56:16.999+02:00",
                    "packs/01/a.mvpack",
                ],
            ),
            (
                "lock_record",
                &[
                    r#"{"hostname":"vm","pid":29846,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}"#,
                ],
            ),
            (
                "go_json",
                &[
                    "12345678{ \"n\" : 1.50e+2,\r\n\t\"s\": \"a\\u003c<\\\" \u{2028}\" , \"b\": [], \"a\": {} }",
                ],
            ),
            (
                "msgvault_config",
                &[
                    "[data]\ndata_dir = '~/mail'\ndatabase_url = 'db/o.db'\n[server]\napi_key = 'x'\n[backup]\nrepo = '/mnt'\nzstd_level = 0\n",
                ],
            ),
            (
                "settings",
                &[
                    "encryption = 'required'\n[repository.nas]\nlocation = '/x'\npassphrase = { env = 'A' }\nidentity = ['/a']\nencryption = 'required'\n",
                    "default_repository = 'nas'\n[repository.nas]\nlocation = '/mnt/nas'\n[archive.mail]\nhome = '~/m'\nrepository = 'nas'\nzstd_level = 3\nmax_wal_growth = '1.5GB'\nbefore = ['a']\n",
                    "[archive.mail]\nprofile = 'sqlite'\nhome = '/m'\ndatabase = 'a.db'\nfiles = ['**/*.x']\nexclude = ['y']\nsecrets = ['z']\nstats = { n = 'SELECT 1' }\n",
                ],
            ),
            (
                "daemon_record",
                &[
                    r#"{"pid":7,"network":"tcp","address":"127.0.0.1:1","service":"msgvault","started_at":"2026-01-02T03:04:05Z","metadata":{"host":"::","port":"8080","api_version":"1","shutdown_token":"t","create_time":"5","startup_phase":"x"}}"#,
                ],
            ),
            (
                "extras_tree",
                &[
                    r#"{"entries":[{"blob":"2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824","size":5,"x":{},"mode":33261,"path":"a"}]}"#,
                ],
            ),
        ];
        for (target, seeds) in texts {
            seeds.iter().for_each(|seed| self.add(target, seed.as_bytes().to_vec()));
        }
    }

    fn add_choices(&mut self) {
        let mut names = Vec::new();
        for (choice, name) in
            [(1, "packs/01/a.mvpack"), (0, "b~"), (3, "packs/01/a.mvpack"), (1, "b"), (2, "b")]
        {
            names.push(choice);
            push_piece(&mut names, name.as_bytes());
        }
        self.add("local_names", names);
        for what in 0..6 {
            let mut item = vec![what, 16, 0, 30, 0, 1];
            push_piece(&mut item, b"01kwvve8k3wz72j3vhy0dphk55");
            item.extend_from_slice(&[b'x'; 100]);
            self.add("sealed_item", item);
        }
        self.add("page_map", vec![1, 0, 1, 9, 3, 0, 4, 0, 0, 0, 0, 9, 1, 2, 12, 2, 1, 3, 0, 5, 0]);
        self.add("repository", vec![0, 1, 1, 1, 0, 1, 0, 0, 0, 3, 0, 4, 1]);
        self.add("repository", vec![0, 2, 1, 7, 9, 5, 0, 20, 0, 0, 5, 1, 30, 0, 0]);
        self.add("repository", vec![0, 1, 1, 1, 1, 1, 0, 1, 0, 7, 3, 0, 0, 99, 0, 0, 0, 3, 1, 4, 0]);
        self.add("repository", vec![0, 6, 5, 9, 2, 6, 6, 12, 3, 0, 6, 1, 20, 0, 0]);
    }
}

fn without_hash(object: &[u8]) -> &[u8] {
    &object[..object.len() - HASH_BYTES]
}

/// Returns what lies in a folder, in the order of the names, but for what keeps it in version control.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("fixtures can be read").path()).collect();
    paths.retain(|path| !path.ends_with(".gitkeep"));
    paths.sort();
    paths
}

fn read(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
}
