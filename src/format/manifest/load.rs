//! Loading a manifest: the checks, in the order that decides which error a reader sees.
//!
//! Text and types, reader level, unknown keys, id, then what portable metadata and artifacts must satisfy.
//! The level comes before unknown keys, so a newer manifest asks for an upgrade and is not called forged.
//! Keys that come twice or in another case are refused: no program writes them.

use super::{Attachments, Auxiliary, Database, Manifest, Metadata, Options};
use crate::format::error::{FormatError, FormatErrorKind, Result};
use crate::format::ids::{BlobId, SnapshotId};
use crate::format::json_fields::Fields;

const METADATA_VERSION: i64 = 3;
const AUXILIARY_VERSION: i64 = 4;
const AUXILIARY_COUNT_MAX: usize = 64;
const AUXILIARY_BYTES_MAX: i64 = 64 << 20;
/// More than this version allows: a newer manifest may have more, and asks for an upgrade.
const AUXILIARY_READ_MAX: usize = 1 << 16;
const FORMAT_BYTES_MAX: usize = 128;
const NAME_BYTES_MAX: usize = 128;
const UNKNOWN_SHOWN_MAX: usize = 8;

impl Manifest {
    /// Reads the manifest file of the given name, for a reader of the given level.
    pub fn load(file_id: &SnapshotId, file: &[u8], supported_level: i64) -> Result<Self> {
        let (manifest, unknown) = parse(file)?;
        if manifest.min_reader_version > supported_level {
            let level = manifest.min_reader_version;
            let message = format!(
                "snapshot needs reader level {level}, this program has {supported_level}: upgrade packvault"
            );
            return Err(FormatError::new(FormatErrorKind::NeedsUpgrade { level }, message));
        }
        if !unknown.is_empty() {
            return Err(unknown_keys(&manifest, &unknown));
        }
        check_id(&manifest, file_id)?;
        if let Some(metadata) = &manifest.metadata {
            check_metadata(&manifest, metadata)?;
        }
        if !manifest.auxiliary.is_empty() {
            check_auxiliary(&manifest)?;
        }
        Ok(manifest)
    }
}

fn unknown_keys(manifest: &Manifest, unknown: &[String]) -> FormatError {
    let shown = &unknown[..unknown.len().min(UNKNOWN_SHOWN_MAX)];
    let message = format!(
        "{} keys unknown to version {}: {}",
        unknown.len(),
        manifest.format_version,
        shown.join(", ")
    );
    FormatError::new(FormatErrorKind::UnknownField, message)
}

fn check_id(manifest: &Manifest, file_id: &SnapshotId) -> Result<()> {
    let computed = manifest.compute_id()?;
    if computed != *file_id || manifest.snapshot_id != file_id.as_str() {
        let message = format!(
            "file is named {file_id}, says {:?} and hashes to {computed}: damaged, renamed or forged",
            manifest.snapshot_id
        );
        return Err(FormatError::new(FormatErrorKind::Mismatch, message));
    }
    Ok(())
}

fn check_metadata(manifest: &Manifest, metadata: &Metadata) -> Result<()> {
    check_versions(manifest, METADATA_VERSION, "portable metadata")?;
    if manifest.db != Database::default() {
        return Err(FormatError::corrupt("manifest has both portable metadata and a database"));
    }
    check_format("metadata", &metadata.format)?;
    metadata.blob()?;
    if metadata.bytes < 0 {
        return Err(FormatError::corrupt("portable metadata has a negative size"));
    }
    Ok(())
}

fn check_auxiliary(manifest: &Manifest) -> Result<()> {
    check_versions(manifest, AUXILIARY_VERSION, "auxiliary artifacts")?;
    if manifest.auxiliary.len() > AUXILIARY_COUNT_MAX {
        return Err(FormatError::corrupt(format!("{} auxiliary artifacts", manifest.auxiliary.len())));
    }
    if !manifest.auxiliary.is_sorted_by(|left, right| left.name < right.name) {
        return Err(FormatError::corrupt("auxiliary artifacts are not in order of their names"));
    }
    let mut left_bytes = AUXILIARY_BYTES_MAX;
    for artifact in &manifest.auxiliary {
        check_artifact(artifact)?;
        if artifact.bytes > left_bytes {
            return Err(FormatError::corrupt("auxiliary artifacts exceed 64 MiB together"));
        }
        left_bytes -= artifact.bytes;
    }
    Ok(())
}

fn check_artifact(artifact: &Auxiliary) -> Result<()> {
    if !is_artifact_name(artifact.name.as_bytes()) {
        return Err(FormatError::corrupt(format!("auxiliary artifact is called {:?}", artifact.name)));
    }
    check_format(&artifact.name, &artifact.format)?;
    if artifact.bytes < 0 {
        return Err(FormatError::corrupt(format!("auxiliary {} has a negative size", artifact.name)));
    }
    let blob: BlobId = artifact.blob()?;
    if artifact.sha256 != blob.to_string() {
        return Err(FormatError::corrupt(format!("auxiliary {} has two hashes", artifact.name)));
    }
    Ok(())
}

fn is_artifact_name(name: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.first().is_some_and(is_word)
        && name.len() <= NAME_BYTES_MAX
        && name.iter().all(|byte| is_word(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

fn check_versions(manifest: &Manifest, version: i64, what: &str) -> Result<()> {
    if manifest.format_version < version || manifest.min_reader_version < version {
        let message = format!(
            "manifest has {what} at versions {} and {}",
            manifest.format_version, manifest.min_reader_version
        );
        return Err(FormatError::corrupt(message));
    }
    Ok(())
}

fn check_format(what: &str, format: &str) -> Result<()> {
    if format.is_empty() || format.len() > FORMAT_BYTES_MAX || format.chars().any(char::is_control) {
        return Err(FormatError::corrupt(format!("{what} has the format {format:?}")));
    }
    Ok(())
}

/// Returns what the text says and the keys that are not of this version.
fn parse(file: &[u8]) -> Result<(Manifest, Vec<String>)> {
    let mut fields = Fields::parse_bytes(file)?;
    let mut unknown = Vec::new();
    let manifest = Manifest {
        format_version: fields.value("format_version")?,
        min_reader_version: fields.value("min_reader_version")?,
        app_version: fields.value("msgvault_version")?,
        snapshot_id: fields.value("snapshot_id")?,
        parent_id: fields.value("parent_id")?,
        created_at: fields.value("created_at")?,
        options: parse_options(fields.object("options")?, &mut unknown)?,
        db: parse_database(fields.object("db")?, &mut unknown)?,
        metadata: parse_metadata(fields.object("metadata")?, &mut unknown)?,
        auxiliary: parse_auxiliary(fields.objects::<AUXILIARY_READ_MAX>("auxiliary")?, &mut unknown)?,
        attachments: parse_attachments(fields.object("attachments")?, &mut unknown)?,
        extras_tree: parse_extras(fields.object("extras")?, &mut unknown)?,
        excluded: fields.strings("excluded")?,
        stats: fields.raw("stats").unwrap_or("null").to_owned(),
        new_packs: fields.strings("new_packs")?,
        new_index: fields.value("new_index")?,
        duration_seconds: fields.float("duration_seconds")?,
        bytes_added: fields.value("bytes_added")?,
    };
    fields.leave("", &mut unknown);
    Ok((manifest, unknown))
}

fn parse_options(fields: Option<Fields<'_>>, unknown: &mut Vec<String>) -> Result<Options> {
    let Some(mut fields) = fields else { return Ok(Options::default()) };
    let options = Options {
        include_config: fields.value("include_config")?,
        include_tokens: fields.value("include_tokens")?,
        zstd_level: fields.value("zstd_level")?,
        tag: fields.value("tag")?,
    };
    fields.leave("options.", unknown);
    Ok(options)
}

fn parse_database(fields: Option<Fields<'_>>, unknown: &mut Vec<String>) -> Result<Database> {
    let Some(mut fields) = fields else { return Ok(Database::default()) };
    let db = Database {
        engine: fields.value("engine")?,
        page_size: fields.value("page_size")?,
        page_count: fields.value("page_count")?,
        page_map: fields.value("page_map")?,
        page_hash_map: fields.value("page_hash_map")?,
        map_chain_depth: fields.value("map_chain_depth")?,
    };
    fields.leave("db.", unknown);
    Ok(db)
}

fn parse_metadata(fields: Option<Fields<'_>>, unknown: &mut Vec<String>) -> Result<Option<Metadata>> {
    let Some(mut fields) = fields else { return Ok(None) };
    let metadata = Metadata {
        format: fields.value("format")?,
        blob: fields.value("blob")?,
        bytes: fields.value("bytes")?,
    };
    fields.leave("metadata.", unknown);
    Ok(Some(metadata))
}

fn parse_auxiliary<'a>(
    items: impl Iterator<Item = Result<Fields<'a>>>,
    unknown: &mut Vec<String>,
) -> Result<Vec<Auxiliary>> {
    let mut auxiliary = Vec::new();
    for fields in items {
        let mut fields = fields?;
        auxiliary.push(Auxiliary {
            name: fields.value("name")?,
            format: fields.value("format")?,
            blob: fields.value("blob")?,
            bytes: fields.value("bytes")?,
            sha256: fields.value("sha256")?,
        });
        fields.leave("auxiliary.", unknown);
    }
    Ok(auxiliary)
}

fn parse_attachments(fields: Option<Fields<'_>>, unknown: &mut Vec<String>) -> Result<Attachments> {
    let Some(mut fields) = fields else { return Ok(Attachments::default()) };
    let attachments = Attachments {
        layout: fields.strings("layout")?,
        rows: fields.value("rows")?,
        blobs: fields.value("blobs")?,
        blob_bytes: fields.value("blob_bytes")?,
        recipes: fields.strings("recipes")?,
        lists: fields.strings("lists")?,
    };
    fields.leave("attachments.", unknown);
    Ok(attachments)
}

fn parse_extras(fields: Option<Fields<'_>>, unknown: &mut Vec<String>) -> Result<String> {
    let Some(mut fields) = fields else { return Ok(String::new()) };
    let tree = fields.value("tree")?;
    fields.leave("extras.", unknown);
    Ok(tree)
}
