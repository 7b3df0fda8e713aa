//! The contract on real servers, with two clients that share nothing but the server.
//!
//! What a server cannot promise is refused by name, and that is asserted too: a rule that begins to hold
//! where it did not, or the other way round, is news.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and shows what it found")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use packvault_sftp::{SftpConfig, SftpFeatures, SftpPath, SftpStorage};
use packvault_storage::conformance::{self, Factory, Report, Subject};
use packvault_storage::{Result, Wire};
use packvault_test_servers::{
    Missing, SftpServer, missing, openssh, openssh_container, proftpd, rclone_sftp,
};

/// The rules a server without a replacing rename cannot keep.
const REPLACING: [&str; 3] = [
    "racing_replaces_leave_one_of_them",
    "replace_makes_and_overwrites",
    "replace_shows_old_or_new_at_any_instant",
];

const EVERYTHING: SftpFeatures = SftpFeatures {
    hard_link: true,
    posix_rename: true,
    rename_refuses: true,
    exclusive_open: true,
    exclusive_folder: true,
    sync_file: true,
    sync_folder: true,
};

struct Remote {
    server: SftpServer,
    features: SftpFeatures,
}

fn config(server: &SftpServer, folder: &str) -> SftpConfig {
    let root = server.root.trim_end_matches('/');
    let mut config = SftpConfig::new(&server.host, SftpPath::Absolute(format!("{root}/{folder}")));
    config.user = server.user.clone();
    config.port = server.port;
    config.ssh_options = server.ssh_options.clone();
    config.connections_max = 2;
    config.timeouts.answer = Duration::from_secs(30);
    config
}

#[async_trait]
impl Factory for Remote {
    async fn fresh(&self) -> Result<Subject> {
        let config = config(&self.server, &format!("rule-{}", fastrand::u64(..)));
        let features = Some(self.features);
        let storage = SftpStorage::create_root(config.clone(), features, Arc::new(Wire::default())).await?;
        let other = SftpStorage::open(config, features, Arc::new(Wire::default())).await?;
        Ok(Subject::new(Arc::new(storage)).with_other_client(Arc::new(other)))
    }
}

/// Probes the server and runs the whole list; `None` where the server is missing.
async fn run(server: std::result::Result<SftpServer, Missing>) -> Option<(SftpFeatures, Report)> {
    let server = server.map_err(|absent| missing(&absent)).ok()?;
    let storage =
        SftpStorage::create_root(config(&server, "probe"), None, Arc::new(Wire::default())).await.unwrap();
    let (features, told) = storage.probe().await.unwrap();
    println!("{told:#?}");
    let factory = Remote { server, features };
    let report = conformance::run(&factory).await;
    println!("{report}");
    Some((features, report))
}

fn assert_only_broken(report: &Report, expected: &[&str]) {
    let mut broken: Vec<_> = report.broken.iter().map(|(name, _)| *name).collect();
    broken.sort_unstable();
    assert_eq!(broken, expected, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_keeps_every_rule() {
    let Some((features, report)) = run(openssh::start(openssh::OpensshOptions::default())).await else {
        return;
    };
    report.assert_all_kept();
    assert_eq!(features, EVERYTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_in_a_container_keeps_every_rule() {
    let Some((features, report)) = run(openssh_container::start()).await else { return };
    report.assert_all_kept();
    assert_eq!(features, EVERYTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn proftpd_keeps_every_rule_and_syncs_no_folders() {
    let Some((features, report)) = run(proftpd::start(true)).await else { return };
    report.assert_all_kept();
    assert!(features.hard_link && features.posix_rename && features.sync_file, "{features:?}");
    assert!(!features.sync_folder, "{features:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_nas_replaces_nothing_and_keeps_every_other_rule() {
    let Some((features, report)) = run(proftpd::start(false)).await else { return };
    assert_only_broken(&report, &REPLACING);
    assert!(report.broken.iter().all(|(_, broken)| broken.to_string().contains("posix-rename@openssh.com")));
    assert!(!features.hard_link && !features.posix_rename && !features.sync_file, "{features:?}");
    assert!(features.exclusive_open && features.exclusive_folder, "{features:?}");
}

/// Races for one name, which rclone loses now and then: of several renames that meet, none may stay.
const RACES: [&str; 2] = ["create_has_one_winner", "seal_has_one_winner"];

#[tokio::test(flavor = "multi_thread")]
async fn rclone_promises_no_single_winner_and_keeps_every_rule_without_a_race_for_one_name() {
    let Some((features, mut report)) = run(rclone_sftp::start()).await else { return };
    report.broken.retain(|(name, _)| !RACES.contains(name));
    assert_only_broken(&report, &REPLACING);
    assert!(!features.posix_rename && !features.hard_link && !features.rename_refuses, "{features:?}");
    assert!(!features.guarantees().create_only, "a race is lost, and a winner was promised");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_ones_own_keeps_every_rule() {
    let Some(server) = SftpServer::own() else { return };
    if let Some((_, report)) = run(Ok(server)).await {
        report.assert_all_kept();
    }
}
