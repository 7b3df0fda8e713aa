//! The msgvault profile (section 7): an archive of e-mail and messages.

mod archive;
pub mod auxiliary;
pub mod config;
pub mod content;
pub mod daemon;
pub mod packed;
pub mod queries;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

pub use self::archive::{MsgvaultArchive, MsgvaultKeys, repository_of};
use crate::Result;
use crate::archive::bounds::Bounds;
use crate::archive::content::ContentStore;
use crate::archive::extras::ExtrasSource;
use crate::archive::gate::Gatekeeper;
use crate::archive::pinned::PinnedDatabase;
use crate::archive::profile::{
    Access, ArchivePaths, Artifact, CapturedFacts, ContentPath, ExtrasChoice, Figure, Profile,
};
use crate::format::BlobId;
use crate::profiles::contradiction;

/// The profile's name.
pub const NAME: &str = "msgvault";
/// The name of the database in a restored archive.
pub const DATABASE_NAME: &str = "msgvault.db";

/// The profile of msgvault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Msgvault;

impl Profile for Msgvault {
    fn name(&self) -> &'static str {
        NAME
    }

    fn access(&self) -> Access {
        Access::Owner
    }

    /// msgvault checks its database itself; a capture reads it once and holds it no longer than that.
    fn checks_source(&self, _: u64) -> bool {
        false
    }

    fn database_name(&self) -> String {
        DATABASE_NAME.to_owned()
    }

    fn excluded(&self) -> &'static [&'static str] {
        &["vectors.db", "analytics/", "logs/", "imports/", "tmp/", "locks"]
    }

    fn ownership_names(&self) -> Vec<String> {
        vec!["daemon.lock".to_owned(), "db.write.lock".to_owned()]
    }

    fn gatekeeper(&self, paths: &ArchivePaths) -> Box<dyn Gatekeeper> {
        Box::new(daemon::MsgvaultGatekeeper {
            data_dir: paths.home.clone(),
            config_file: paths.config.clone(),
            lock_names: self.ownership_names(),
            patience: daemon::Patience::default(),
        })
    }

    fn check_not_running(&self, home: &Path) -> Result<()> {
        daemon::check_none_responds(home)
    }

    fn questions(&self) -> u64 {
        queries::QUESTIONS
    }

    fn capture(&self, pinned: &PinnedDatabase, bounds: &Bounds) -> Result<CapturedFacts> {
        bounds.within(&mut pinned.connection(), |connection| queries::capture(connection, pinned.path()))
    }

    fn stats(&self, connection: &mut Connection, database: &Path) -> Result<String> {
        queries::stats(connection, database)
    }

    fn contradiction(&self, stats: &str, attachments: i64) -> Option<String> {
        contradiction(stats, attachments)
    }

    fn figures(&self, stats: &str) -> Vec<Figure> {
        queries::messages(stats).map(|count| Figure { heading: "messages", count }).into_iter().collect()
    }

    fn content_paths(
        &self,
        connection: &Connection,
        database: &Path,
        paths_max: u64,
    ) -> Result<Vec<ContentPath>> {
        queries::content_paths(connection, database, paths_max)
    }

    fn names_attachments(&self) -> bool {
        true
    }

    fn attachments_named(
        &self,
        connection: &Connection,
        database: &Path,
        name: &str,
        most: usize,
    ) -> Result<Vec<BlobId>> {
        queries::attachments_named(connection, database, name, most)
    }

    fn content_store(&self, paths: &ArchivePaths, pinned: &PinnedDatabase) -> Result<Arc<dyn ContentStore>> {
        Ok(Arc::new(content::MsgvaultContent::open(paths, pinned)?))
    }

    fn extras(&self, paths: &ArchivePaths, choice: ExtrasChoice) -> Vec<ExtrasSource> {
        let home = &paths.home;
        let mut sources = vec![ExtrasSource::Folder { parent: home.clone(), name: "deletions" }];
        if choice.include_config {
            sources.push(ExtrasSource::File { path: paths.config.clone(), recorded: "config.toml" });
        }
        if choice.include_tokens {
            sources.push(ExtrasSource::Folder { parent: home.clone(), name: "tokens" });
            let (prefix, suffix) = ("client_secret", ".json");
            sources.push(ExtrasSource::Matching { folder: home.clone(), prefix, suffix });
        }
        sources
    }

    fn settle_restored(&self, staged_database: &Path, bounds: &Bounds) -> Result<Option<&'static str>> {
        let is_changed = packed::empty_pack_tables(staged_database, bounds)?;
        Ok(is_changed.then_some("its pack tables were emptied: attachments are loose now"))
    }

    fn document_text(&self, pinned: &PinnedDatabase, bounds: &Bounds) -> Result<Option<Artifact>> {
        bounds.within(&mut pinned.connection(), |connection| auxiliary::disclose(connection, pinned.path()))
    }

    fn check_auxiliary(&self, name: &str, format: &str, body: &[u8]) -> Result<()> {
        auxiliary::check(name, format, body)
    }

    fn is_secret(&self, recorded: &str) -> bool {
        let is_client_secret = recorded.starts_with("client_secret") && !recorded.contains('/');
        recorded == "config.toml" || recorded.starts_with("tokens/") || is_client_secret
    }

    fn cache_folder(&self, paths: &ArchivePaths) -> PathBuf {
        paths.config.parent().unwrap_or(&paths.home).join("backup-cache")
    }
}
