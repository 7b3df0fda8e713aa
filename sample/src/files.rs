//! The files beside database and attachments: those a snapshot may carry, and those it must leave out.
//!
//! Configuration, tokens and client secret hold invented secrets and are readable by their owner alone.
//! `vectors.db`, `analytics/`, `logs/`, `imports/`, `tmp/` and locks are derived or passing, and not backed up.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde_json::json;

use crate::fail::OrFail;
use crate::fail::Result;
use crate::random::Random;
use crate::words::Words;

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes all of them.
pub(crate) fn write(dir: &Path, seed: u64, words: &Words, messages: u32) -> Result<()> {
    let mut random = Random::new(seed, "files");
    write_settings(dir, &mut random)?;
    write_tokens(dir, &mut random)?;
    let states = ["pending", "completed", "completed", "cancelled"];
    for (place, state) in states.iter().enumerate() {
        let description = words.title(&mut random, 6);
        let count = random.within(3..400);
        write_deletion(dir, &mut random, state, &format!("2025-0{}-01", place + 1), &description, count)?;
    }
    write_derived(dir, &mut random, messages)
}

/// Writes one record of messages to delete at their source.
pub(crate) fn write_deletion(
    dir: &Path,
    random: &mut Random,
    state: &str,
    date: &str,
    description: &str,
    message_count: u64,
) -> Result<()> {
    let id = format!("{}-120000-cleanup-{}", date.replace('-', ""), random.hex(8));
    let message_ids: Vec<String> = (0..message_count).map(|_| random.hex(8)).collect();
    let record = json!({
        "version": 1,
        "id": id,
        "created_at": format!("{date}T12:00:00Z"),
        "created_by": "cli",
        "description": description,
        "filters": {"senders": ["news@news.example"]},
        "gmail_ids": message_ids,
        "status": state,
    });
    put(dir, &format!("deletions/{state}/{id}.json"), format!("{record:#}\n").as_bytes(), PRIVATE)
}

fn write_settings(dir: &Path, random: &mut Random) -> Result<()> {
    let config = format!(
        "# synthetic msgvault configuration\n[oauth]\nclient_secrets = \"client_secret.json\"\n\n\
         [server]\napi_key = \"{}\"\nport = 8080\n\n[backup]\nzstd_level = 3\n",
        random.hex(16)
    );
    put(dir, "config.toml", config.as_bytes(), PRIVATE)?;
    let secret = json!({"installed": {
        "client_id": format!("{}.apps.example", random.hex(8)),
        "client_secret": random.hex(12),
        "redirect_uris": ["http://localhost"],
    }});
    put(dir, "client_secret.json", format!("{secret:#}").as_bytes(), PRIVATE)
}

fn write_tokens(dir: &Path, random: &mut Random) -> Result<()> {
    for (day, name) in ["ada.abara", "bela.brandt"].iter().enumerate() {
        let token = json!({
            "access_token": random.hex(40),
            "token_type": "Bearer",
            "refresh_token": random.hex(32),
            "expiry": format!("2025-01-0{}T00:00:00Z", day + 1),
            "scopes": ["https://mail.example/read"],
        });
        put(dir, &format!("tokens/{name}@example.com.json"), format!("{token:#}").as_bytes(), PRIVATE)?;
    }
    Ok(())
}

fn write_derived(dir: &Path, random: &mut Random, messages: u32) -> Result<()> {
    let size = (messages as usize).saturating_mul(20).clamp(4096, 1 << 20);
    let vectors = [b"SQLite format 3\0".to_vec(), random.bytes(size)].concat();
    let table = [b"PAR1".to_vec(), random.bytes(size / 2), b"PAR1".to_vec()].concat();
    let log: String =
        (0..200).map(|line| format!("2025-01-01T00:00:{:02}Z INFO sync done\n", line % 60)).collect();
    put(dir, "vectors.db", &vectors, PUBLIC)?;
    put(dir, "analytics/messages/year=2024/data_0.parquet", &table, PUBLIC)?;
    put(dir, "logs/msgvault.log", log.as_bytes(), PUBLIC)?;
    put(dir, "imports/inbox.mbox", "From nobody\n\nsynthetic\n".repeat(50).as_bytes(), PUBLIC)?;
    put(dir, "tmp/partial.download", &random.bytes(2048), PUBLIC)?;
    put(dir, "daemon.lock", b"", PUBLIC)?;
    put(dir, "db.write.lock", b"", PUBLIC)
}

fn put(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).or_fail_at("create", parent)?;
    }
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(mode).open(&path).or_fail_at("create", &path)?;
    file.write_all(bytes).or_fail_at("write", &path)?;
    // The mode given on opening is narrowed by the process's umask; a sample is the same everywhere.
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).or_fail_at("set the mode of", &path)
}
