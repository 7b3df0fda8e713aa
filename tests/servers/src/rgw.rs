//! Ceph's RADOS gateway: a production S3 server on one monitor and one store in memory.
//!
//! Three daemons in the foreground, children of the test, in a folder of their own. Those who use it at the
//! same time share one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

use crate::s3::{S3Place, make_bucket};
use crate::{Missing, Process, find_program, free_port, wait_until_answers};

const INSTALL: &str = "apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common";

const PROGRAMS: [&str; 7] =
    ["radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool"];

/// How often a cluster is begun: a port that was free may be taken by the time a daemon listens there.
const STARTS_MAX: usize = 3;

/// How long the first command waits for a monitor, which may not have come up.
const MONITOR_SECONDS_MAX: &str = "20";

static SHARED: Mutex<Weak<Rgw>> = Mutex::new(Weak::new());

/// A running gateway.
#[derive(Debug)]
pub struct Rgw {
    place: S3Place,
    // Ended in this order.
    _gateway: Process,
    _store: Process,
    _monitor: Process,
    _folder: TempDir,
}

impl Rgw {
    /// Returns the gateway that is running, or starts one, with a bucket.
    pub fn shared() -> Result<Arc<Self>, Missing> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    fn start() -> Result<Self, Missing> {
        let lacks = |what: String| Missing { server: "rgw", what, install: INSTALL };
        if let Some(program) = PROGRAMS.into_iter().find(|program| find_program(program).is_none()) {
            return Err(lacks(format!("no {program}")));
        }
        let mut starts = 1;
        loop {
            match Self::start_once() {
                Err(_) if starts < STARTS_MAX => starts += 1,
                started => return started.map_err(lacks),
            }
        }
    }

    fn start_once() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let cluster = Cluster::new(folder.path()).map_err(|error| error.to_string())?;
        let (monitor, store, gateway) = cluster.start()?;
        let place = cluster.place();
        make_bucket(&place);
        Ok(Self { place, _gateway: gateway, _store: store, _monitor: monitor, _folder: folder })
    }

    /// Returns where it listens.
    pub fn place(&self) -> &S3Place {
        &self.place
    }
}

/// Files and ports of one cluster.
struct Cluster {
    folder: PathBuf,
    id: String,
    port: u16,
    monitor: String,
}

impl Cluster {
    fn new(folder: &Path) -> std::io::Result<Self> {
        for name in ["mon", "osd", "log", "run"] {
            std::fs::create_dir(folder.join(name))?;
        }
        let monitor = format!("[v2:127.0.0.1:{},v1:127.0.0.1:{}]", free_port(), free_port());
        let cluster = Self { folder: folder.to_owned(), id: uuid()?, port: free_port(), monitor };
        std::fs::write(folder.join("ceph.conf"), cluster.configuration())?;
        Ok(cluster)
    }

    fn place(&self) -> S3Place {
        S3Place {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            region: "us-east-1".to_owned(),
            bucket: "packvault".to_owned(),
            access_key_id: "rgw-key".to_owned(),
            secret_access_key: "rgw-secret".to_owned(),
        }
    }

    fn configuration(&self) -> String {
        let (folder, id, monitor, port) = (self.folder.display(), &self.id, &self.monitor, self.port);
        format!(
            "[global]
fsid = {id}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
osd crush chooseleaf type = 0
paxos propose interval = 0.02
paxos min wait = 0.01
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 939524096
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {folder}/run
"
        )
    }

    fn start(&self) -> Result<(Process, Process, Process), String> {
        let uuid = uuid().map_err(|error| error.to_string())?;
        self.make_keys()?;
        let keyring = self.path("keyring");
        let map = self.path("monmap");
        self.run("monmaptool", &["--create", "--fsid", &self.id, "--addv", "x", &self.monitor, &map])?;
        self.run("ceph-mon", &["-i", "x", "--mkfs", "--monmap", &map, "--keyring", &keyring])?;
        let monitor = self.daemon("ceph-mon", &["-i", "x", "-f"])?;
        self.run("ceph", &["--connect-timeout", MONITOR_SECONDS_MAX, "osd", "new", &uuid])?;
        self.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &uuid])?;
        let store = self.daemon("ceph-osd", &["-i", "0", "-f"])?;
        let S3Place { access_key_id, secret_access_key, .. } = self.place();
        let user = ["user", "create", "--uid=test", "--display-name=test"];
        let keys = [format!("--access-key={access_key_id}"), format!("--secret-key={secret_access_key}")];
        let arguments: Vec<&str> =
            ["-n", "client.rgw"].into_iter().chain(user).chain(keys.iter().map(String::as_str)).collect();
        self.run("radosgw-admin", &arguments)?;
        let gateway = self.daemon("radosgw", &["-n", "client.rgw", "-f"])?;
        if !wait_until_answers(self.port) {
            return Err("does not answer".to_owned());
        }
        Ok((monitor, store, gateway))
    }

    fn make_keys(&self) -> Result<(), String> {
        let keyring = self.path("keyring");
        self.run("ceph-authtool", &["-C", &keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"])?;
        for (name, capabilities) in [
            ("client.admin", &[["mon", "allow *"], ["osd", "allow *"], ["mgr", "allow *"]][..]),
            ("osd.0", &[["mon", "allow profile osd"], ["osd", "allow *"]]),
            ("client.rgw", &[["mon", "allow rw"], ["osd", "allow rwx"]]),
        ] {
            let mut arguments = vec![keyring.as_str(), "--gen-key", "-n", name];
            for [part, rights] in capabilities {
                arguments.extend(["--cap", part, rights]);
            }
            self.run("ceph-authtool", &arguments)?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(find_program(program).unwrap_or_else(|| program.into()));
        command.args(arguments).env("CEPH_CONF", self.folder.join("ceph.conf")).current_dir(&self.folder);
        command
    }

    /// Runs a program to its end.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{program}: {error}");
        let log = File::create(self.folder.join("log").join(format!("{program}.out"))).map_err(failed)?;
        let mut command = self.command(program, arguments);
        let output = command.stdin(Stdio::null()).stderr(log).output().map_err(failed)?;
        if output.status.success() { Ok(()) } else { Err(format!("{program} failed: {}", output.status)) }
    }

    fn daemon(&self, program: &str, arguments: &[&str]) -> Result<Process, String> {
        Process::start(&self.command(program, arguments)).map_err(|error| format!("{program}: {error}"))
    }
}

fn uuid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}
