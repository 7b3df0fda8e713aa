-- The indexes of a msgvault archive; made after the rows, which is quicker.
CREATE INDEX idx_sources_type ON sources(source_type);
CREATE UNIQUE INDEX idx_participants_email ON participants(email_address)
    WHERE email_address IS NOT NULL;
CREATE INDEX idx_participants_canonical ON participants(canonical_id);
CREATE INDEX idx_participants_email_lower ON participants(LOWER(email_address));
CREATE INDEX idx_conversations_source ON conversations(source_id);
CREATE INDEX idx_conversations_last_message ON conversations(last_message_at DESC);
CREATE INDEX idx_messages_conversation ON messages(conversation_id, sent_at DESC);
CREATE INDEX idx_messages_source ON messages(source_id);
CREATE INDEX idx_messages_sender ON messages(sender_id);
CREATE INDEX idx_messages_sent_at ON messages(sent_at DESC);
CREATE INDEX idx_messages_type ON messages(message_type);
CREATE INDEX idx_messages_deleted ON messages(source_id, deleted_from_source_at);
CREATE INDEX idx_messages_source_message_id ON messages(source_message_id);
CREATE INDEX idx_message_recipients_message ON message_recipients(message_id);
CREATE INDEX idx_message_recipients_participant
    ON message_recipients(participant_id, recipient_type);
CREATE INDEX idx_attachments_message ON attachments(message_id);
CREATE INDEX idx_attachments_hash ON attachments(content_hash);
CREATE INDEX idx_attachments_content_hash_lower ON attachments(LOWER(content_hash));
CREATE INDEX idx_attachments_thumbnail_hash ON attachments(thumbnail_hash);
CREATE INDEX idx_attachments_thumbnail_hash_lower ON attachments(LOWER(thumbnail_hash));
CREATE INDEX idx_attachments_thumbnail_path ON attachments(thumbnail_path);
CREATE INDEX idx_attachments_storage_path ON attachments(storage_path);
CREATE INDEX idx_labels_source ON labels(source_id);
CREATE INDEX idx_message_labels_label ON message_labels(label_id);
CREATE INDEX idx_attachment_pack_index_pack ON attachment_pack_index(pack_id);
