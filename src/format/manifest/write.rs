//! The manifest as compact text, keys in the order of the format.

use super::{Attachments, Auxiliary, Database, Manifest, Metadata, Options};
use crate::format::go_json::{JsonWriter, compact_raw};

pub(super) fn compact(manifest: &Manifest, snapshot_id: &str) -> String {
    let mut json = JsonWriter::new();
    json.begin_object();
    integer(&mut json, "format_version", manifest.format_version);
    integer(&mut json, "min_reader_version", manifest.min_reader_version);
    string(&mut json, "msgvault_version", &manifest.app_version);
    string(&mut json, "snapshot_id", snapshot_id);
    string(&mut json, "parent_id", &manifest.parent_id);
    string(&mut json, "created_at", &manifest.created_at);
    write_options(&mut json, &manifest.options);
    write_database(&mut json, &manifest.db);
    if let Some(metadata) = &manifest.metadata {
        write_metadata(&mut json, metadata);
    }
    if !manifest.auxiliary.is_empty() {
        write_auxiliary(&mut json, &manifest.auxiliary);
    }
    write_attachments(&mut json, &manifest.attachments);
    json.key("extras");
    json.begin_object();
    string(&mut json, "tree", &manifest.extras_tree);
    json.end_object();
    strings(&mut json, "excluded", &manifest.excluded);
    json.key("stats");
    json.raw(&compact_raw(&manifest.stats));
    strings(&mut json, "new_packs", &manifest.new_packs);
    string(&mut json, "new_index", &manifest.new_index);
    json.key("duration_seconds");
    json.float(manifest.duration_seconds);
    integer(&mut json, "bytes_added", manifest.bytes_added);
    json.end_object();
    json.finish()
}

fn write_options(json: &mut JsonWriter, options: &Options) {
    json.key("options");
    json.begin_object();
    boolean(json, "include_config", options.include_config);
    boolean(json, "include_tokens", options.include_tokens);
    integer(json, "zstd_level", options.zstd_level);
    string(json, "tag", &options.tag);
    json.end_object();
}

fn write_database(json: &mut JsonWriter, db: &Database) {
    json.key("db");
    json.begin_object();
    string(json, "engine", &db.engine);
    integer(json, "page_size", db.page_size);
    integer(json, "page_count", db.page_count);
    string(json, "page_map", &db.page_map);
    string(json, "page_hash_map", &db.page_hash_map);
    integer(json, "map_chain_depth", db.map_chain_depth);
    json.end_object();
}

fn write_metadata(json: &mut JsonWriter, metadata: &Metadata) {
    json.key("metadata");
    json.begin_object();
    string(json, "format", &metadata.format);
    string(json, "blob", &metadata.blob);
    integer(json, "bytes", metadata.bytes);
    json.end_object();
}

fn write_auxiliary(json: &mut JsonWriter, auxiliary: &[Auxiliary]) {
    json.key("auxiliary");
    json.begin_array();
    for artifact in auxiliary {
        json.begin_object();
        string(json, "name", &artifact.name);
        string(json, "format", &artifact.format);
        string(json, "blob", &artifact.blob);
        integer(json, "bytes", artifact.bytes);
        string(json, "sha256", &artifact.sha256);
        json.end_object();
    }
    json.end_array();
}

fn write_attachments(json: &mut JsonWriter, attachments: &Attachments) {
    json.key("attachments");
    json.begin_object();
    strings(json, "layout", &attachments.layout);
    integer(json, "rows", attachments.rows);
    integer(json, "blobs", attachments.blobs);
    integer(json, "blob_bytes", attachments.blob_bytes);
    strings(json, "recipes", &attachments.recipes);
    strings(json, "lists", &attachments.lists);
    json.end_object();
}

fn string(json: &mut JsonWriter, key: &str, value: &str) {
    json.key(key);
    json.string(value);
}

fn integer(json: &mut JsonWriter, key: &str, value: impl Into<i128>) {
    json.key(key);
    json.integer(value);
}

fn boolean(json: &mut JsonWriter, key: &str, value: bool) {
    json.key(key);
    json.boolean(value);
}

fn strings(json: &mut JsonWriter, key: &str, values: &Option<Vec<String>>) {
    json.key(key);
    json.strings(values.as_deref());
}
