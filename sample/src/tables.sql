-- The tables of a msgvault archive, with msgvault's own names.
CREATE TABLE archive_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources (
    id INTEGER PRIMARY KEY, source_type TEXT NOT NULL, identifier TEXT NOT NULL,
    display_name TEXT, google_user_id TEXT UNIQUE, last_sync_at DATETIME,
    sync_cursor TEXT, sync_config JSON, oauth_app TEXT,
    created_at DATETIME, updated_at DATETIME, UNIQUE(source_type, identifier));
CREATE TABLE account_identities (
    source_id INTEGER NOT NULL, address TEXT NOT NULL,
    source_signal TEXT NOT NULL DEFAULT '', confirmed_at DATETIME NOT NULL,
    PRIMARY KEY (source_id, address));
CREATE TABLE participants (
    id INTEGER PRIMARY KEY, email_address TEXT, phone_number TEXT, display_name TEXT,
    domain TEXT, canonical_id TEXT, created_at DATETIME, updated_at DATETIME);
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY, source_id INTEGER NOT NULL, source_conversation_id TEXT,
    conversation_type TEXT NOT NULL, title TEXT, participant_count INTEGER DEFAULT 0,
    message_count INTEGER DEFAULT 0, unread_count INTEGER DEFAULT 0,
    last_message_at DATETIME, last_message_preview TEXT, metadata JSON,
    created_at DATETIME, updated_at DATETIME, UNIQUE(source_id, source_conversation_id));
CREATE TABLE conversation_participants (
    conversation_id INTEGER NOT NULL, participant_id INTEGER NOT NULL,
    role TEXT DEFAULT 'member', joined_at DATETIME, left_at DATETIME,
    PRIMARY KEY (conversation_id, participant_id));
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, conversation_id INTEGER NOT NULL, source_id INTEGER NOT NULL,
    source_message_id TEXT, rfc822_message_id TEXT, message_type TEXT NOT NULL,
    sent_at DATETIME, received_at DATETIME, read_at DATETIME, delivered_at DATETIME,
    internal_date DATETIME, sender_id INTEGER, is_from_me BOOLEAN DEFAULT FALSE,
    source_is_from_me BOOLEAN, identity_is_from_me BOOLEAN NOT NULL DEFAULT FALSE,
    subject TEXT, snippet TEXT, reply_to_message_id INTEGER, thread_position INTEGER,
    is_read BOOLEAN DEFAULT TRUE, is_delivered BOOLEAN, is_sent BOOLEAN DEFAULT TRUE,
    is_edited BOOLEAN DEFAULT FALSE, is_forwarded BOOLEAN DEFAULT FALSE,
    size_estimate INTEGER, has_attachments BOOLEAN DEFAULT FALSE,
    attachment_count INTEGER DEFAULT 0, deleted_at DATETIME,
    deleted_from_source_at DATETIME, delete_batch_id TEXT, archived_at DATETIME,
    indexing_version INTEGER DEFAULT 1, last_modified DATETIME, metadata JSON,
    embed_gen INTEGER, content_changed_at DATETIME,
    UNIQUE(source_id, source_message_id));
CREATE TABLE message_recipients (
    id INTEGER PRIMARY KEY, message_id INTEGER NOT NULL, participant_id INTEGER NOT NULL,
    recipient_type TEXT NOT NULL, display_name TEXT, email_address TEXT);
CREATE TABLE message_bodies (message_id INTEGER PRIMARY KEY, body_text TEXT, body_html TEXT);
CREATE TABLE message_raw (
    message_id INTEGER PRIMARY KEY, raw_data BLOB NOT NULL, raw_format TEXT NOT NULL,
    compression TEXT DEFAULT 'zlib', encryption_version INTEGER DEFAULT 0);
CREATE TABLE attachments (
    id INTEGER PRIMARY KEY, message_id INTEGER NOT NULL, filename TEXT, mime_type TEXT,
    size INTEGER, content_hash TEXT, storage_path TEXT NOT NULL, media_type TEXT,
    width INTEGER, height INTEGER, duration_ms INTEGER, thumbnail_hash TEXT,
    thumbnail_path TEXT, source_attachment_id TEXT, attachment_metadata JSON,
    attachment_state TEXT, attachment_skip_reason TEXT,
    attachment_role TEXT NOT NULL DEFAULT 'unknown',
    role_source TEXT NOT NULL DEFAULT 'unknown', source_part_key TEXT, content_id TEXT,
    encryption_version INTEGER DEFAULT 0, created_at DATETIME);
CREATE TABLE labels (
    id INTEGER PRIMARY KEY, source_id INTEGER, source_label_id TEXT, name TEXT NOT NULL,
    label_type TEXT, system_role TEXT, color TEXT, UNIQUE(source_id, name));
CREATE TABLE message_labels (
    message_id INTEGER NOT NULL, label_id INTEGER NOT NULL,
    PRIMARY KEY (message_id, label_id));
CREATE TABLE attachment_pack_index (
    blob_hash TEXT PRIMARY KEY, pack_id TEXT NOT NULL, pack_offset BIGINT NOT NULL,
    stored_len BIGINT NOT NULL, raw_len BIGINT NOT NULL, flags INTEGER NOT NULL,
    crc32c BIGINT NOT NULL);
CREATE TABLE attachment_packs (
    pack_id TEXT PRIMARY KEY, entry_count BIGINT NOT NULL, stored_bytes BIGINT NOT NULL,
    created_at TEXT NOT NULL);
