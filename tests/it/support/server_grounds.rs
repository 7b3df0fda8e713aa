//! Real servers as grounds: each plot a fresh folder on a server that is started once for a test process.
//!
//! The server is asked once what it promises. A plot is the driver alone, without retries and spool: what
//! breaks between those and the driver is for the tests to decide. Connections over SFTP share one login, so
//! that a case costs no handshake.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use packvault_s3::{S3Config, S3Credentials, S3Features, S3Storage};
use packvault_sftp::{SftpConfig, SftpFeatures, SftpPath, SftpStorage};
use packvault_test_servers::openssh::{self, OpensshOptions};
use packvault_test_servers::{Missing, Rgw, S3Place, SftpServer, missing};
use tokio::sync::OnceCell;

use crate::support::memory_repo::scratch;
use crate::support::scenes::{Ground, Plot, age_files};

/// Twice as fast as moto, and a server that people use.
static RGW: LazyLock<Result<Arc<Rgw>, Missing>> = LazyLock::new(Rgw::shared);
static RGW_FEATURES: OnceCell<S3Features> = OnceCell::const_new();
static OPENSSH: LazyLock<Result<SftpServer, Missing>> =
    LazyLock::new(|| openssh::start(OpensshOptions::default()));
static OPENSSH_FEATURES: OnceCell<SftpFeatures> = OnceCell::const_new();

/// Tells folders of the bucket apart, which ends with the process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Folders in a bucket of Ceph's gateway; `None` where it is missing, which was then said aloud.
pub fn on_s3() -> Option<Ground> {
    let place = RGW.as_ref().map_err(missing).ok()?.place();
    Some(Arc::new(move || Box::pin(s3_plot(place))))
}

async fn s3_plot(place: &'static S3Place) -> Plot {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let config = s3_config(place, &format!("plot-{number}"));
    let features = RGW_FEATURES.get_or_init(|| async {
        let asked = S3Storage::open(s3_config(place, "asked"), None, Arc::default()).unwrap();
        asked.probe().await.unwrap().0
    });
    let storage = S3Storage::open(config, Some(features.await.clone()), Arc::default()).unwrap();
    Plot { storage: Arc::new(storage), age_locks: None, memory: None, kept: Box::new(()) }
}

fn s3_config(place: &S3Place, folder: &str) -> S3Config {
    let credentials = S3Credentials::Static {
        access_key_id: place.access_key_id.clone(),
        secret_access_key: place.secret_access_key.clone(),
        session_token: None,
    };
    S3Config {
        endpoint: Some(place.endpoint.clone()),
        region: Some(place.region.clone()),
        allow_http: true,
        ..S3Config::new(&place.bucket, folder, credentials)
    }
}

/// Folders on OpenSSH; `None` where it is missing, which was then said aloud.
pub fn on_sftp() -> Option<Ground> {
    let server = OPENSSH.as_ref().map_err(missing).ok()?;
    Some(Arc::new(move || Box::pin(sftp_plot(server))))
}

async fn sftp_plot(server: &'static SftpServer) -> Plot {
    // The server runs as whoever runs the tests, so its folders may lie in memory: it syncs all it writes.
    let folder = scratch();
    let path = |name: &str| folder.path().join(name);
    let features = OPENSSH_FEATURES.get_or_init(|| async {
        let config = sftp_config(server, &path("asked"));
        let asked = SftpStorage::create_root(config, None, Arc::default()).await.unwrap();
        asked.probe().await.unwrap().0
    });
    let features = Some(*features.await);
    let config = sftp_config(server, &path("repository"));
    let storage = SftpStorage::create_root(config, features, Arc::default()).await.unwrap();
    let locks = path("repository/locks");
    let age_locks: Box<dyn Fn() + Send + Sync> = Box::new(move || age_files(&locks));
    Plot { storage: Arc::new(storage), age_locks: Some(age_locks), memory: None, kept: Box::new(folder) }
}

fn sftp_config(server: &SftpServer, folder: &Path) -> SftpConfig {
    let mut config = SftpConfig::new(&server.host, SftpPath::Absolute(folder.display().to_string()));
    (config.user, config.port) = (server.user.clone(), server.port);
    config.ssh_options.clone_from(&server.ssh_options);
    // Beside the server's keys. A login outlives its server, so it ends by itself once nobody uses it.
    let socket = server.folder.as_ref().unwrap().with_file_name("login");
    for option in ["ControlMaster=auto", "ControlPersist=20", &format!("ControlPath={}", socket.display())] {
        config.ssh_options.extend(["-o".to_owned(), option.to_owned()]);
    }
    config
}
