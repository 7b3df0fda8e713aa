//! The line to the server: the system's `ssh`, run as a child process for its `sftp` subsystem.
//!
//! Everything about hosts, keys, agents, proxies and known hosts is ssh's own and stays as people have set
//! it up; nothing here weakens it. The first connection is a control master in a private folder, and with
//! OpenSSH's server further channels ride on it; other servers, and one that allows a single session per
//! connection, get connections of their own, which ask nobody anything. If the user's own configuration
//! shares connections, that is used instead. The children ignore the signals that end programs, so that a stopped
//! command can still clean up over them, and end with their pipes.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use packvault_storage::ErrorKind;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::config::SftpConfig;
use crate::error::Breakage;
use crate::line::{Line, Peer};
use crate::reasons::explain;

/// How much of what ssh says is kept: its end, where the reason stands.
const STDERR_BYTES_MAX: usize = 4096;

/// How long ssh may take to end after its output has.
const ENDING_MAX: Duration = Duration::from_secs(2);

/// How long the question for the user's own settings may take.
const SETTINGS_MAX: Duration = Duration::from_secs(10);

/// The longest path of a control socket: systems allow little more than a hundred bytes, and ssh adds 17.
const SOCKET_BYTES_MAX: usize = 80;

/// A dead line is noticed after this many unanswered questions.
const ALIVE_QUESTIONS: u64 = 4;

/// Ignores what a terminal, `timeout`, or a manager of services sends to everybody, and becomes ssh.
const SHIELD: &str = r#"trap '' INT HUP QUIT TERM; exec "$0" "$@""#;

/// Makes channels to one server.
#[async_trait]
pub(crate) trait Dial: Send + Sync {
    /// Starts a connection, or a channel on one that is there.
    async fn dial(&self) -> Result<Line, Arc<Breakage>>;
}

/// Dials by means of `ssh`.
pub(crate) struct Ssh {
    config: SftpConfig,
    sharing: tokio::sync::OnceCell<Sharing>,
    master: Mutex<Master>,
    sessions: Arc<AtomicUsize>,
}

/// How channels share a connection.
enum Sharing {
    /// By the user's own configuration, or not at all.
    Theirs,
    /// By a control socket in this folder.
    Ours(TempDir),
}

#[derive(Default)]
struct Master {
    generation: u32,
    is_alive: Arc<AtomicBool>,
}

/// What a child does for the sharing.
enum Role {
    Alone,
    Master(PathBuf, Arc<AtomicBool>),
    Guest(PathBuf),
}

impl Ssh {
    pub(crate) fn new(config: SftpConfig) -> Self {
        Self {
            config,
            sharing: tokio::sync::OnceCell::new(),
            master: Mutex::default(),
            sessions: Arc::default(),
        }
    }

    /// Asks ssh whether the user's configuration shares connections.
    async fn find_sharing(&self) -> Result<Sharing, Arc<Breakage>> {
        let mut command = Command::new(&self.config.ssh_program);
        command.args(destination(&self.config, &["-G".to_owned()])).stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(SETTINGS_MAX, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(self.cannot_start(&error)),
            Err(_) => return Ok(Sharing::Theirs),
        };
        let settings = String::from_utf8_lossy(&output.stdout);
        let shared = !output.status.success() || shares_connections(&settings);
        if shared {
            return Ok(Sharing::Theirs);
        }
        let folder = socket_folder(self.config.temporary.as_deref());
        Ok(folder.map_or(Sharing::Theirs, Sharing::Ours))
    }

    fn cannot_start(&self, error: &std::io::Error) -> Arc<Breakage> {
        let program = self.config.ssh_program.to_string_lossy();
        let text = match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "the program {program} is not there; install OpenSSH's client, or name another program"
            ),
            _ => format!("the program {program} cannot be started: {error}"),
        };
        Breakage::new(ErrorKind::Config, text)
    }

    async fn role(&self) -> Result<Role, Arc<Breakage>> {
        let sharing = self.sharing.get_or_try_init(|| self.find_sharing()).await?;
        let Sharing::Ours(folder) = sharing else { return Ok(Role::Alone) };
        let mut master = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        if master.is_alive.load(Ordering::Acquire) {
            return Ok(Role::Guest(socket(folder.path(), master.generation)));
        }
        // A name of its own, so that the remains of a dead master are in nobody's way.
        master.generation += 1;
        master.is_alive = Arc::default();
        Ok(Role::Master(socket(folder.path(), master.generation), Arc::clone(&master.is_alive)))
    }
}

#[async_trait]
impl Dial for Ssh {
    async fn dial(&self) -> Result<Line, Arc<Breakage>> {
        let role = self.role().await?;
        let mut command = Command::new("/bin/sh");
        // A user who was asked for a passphrase once is not asked again for each further connection.
        let is_first = self.sessions.load(Ordering::Acquire) == 0;
        let arguments = arguments(&self.config, &role, is_first);
        command.arg("-c").arg(SHIELD).arg(&self.config.ssh_program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| self.cannot_start(&error))?;
        let (Some(writer), Some(reader), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Breakage::new(ErrorKind::Io, "ssh has no pipes"));
        };
        let tail = Arc::new(Tail::default());
        tokio::spawn(keep_tail(stderr, Arc::clone(&tail)));
        let master = match role {
            Role::Master(_, is_alive) => Some(is_alive),
            Role::Alone | Role::Guest(_) => None,
        };
        let peer = SshPeer { child, tail, master, sessions: Arc::clone(&self.sessions), was_greeted: false };
        Ok(Line { reader: Box::new(reader), writer: Box::new(writer), peer: Box::new(peer) })
    }
}

/// One running ssh.
struct SshPeer {
    child: Child,
    tail: Arc<Tail>,
    /// Present if it is the master: whether others may ride on it.
    master: Option<Arc<AtomicBool>>,
    /// How many sessions of this storage there are.
    sessions: Arc<AtomicUsize>,
    was_greeted: bool,
}

#[async_trait]
impl Peer for SshPeer {
    fn greeted(&mut self, can_share: bool) {
        self.was_greeted = true;
        self.sessions.fetch_add(1, Ordering::AcqRel);
        if let Some(is_alive) = &self.master {
            is_alive.store(can_share, Ordering::Release);
        }
    }

    async fn explain(&mut self, was_greeted: bool) -> Arc<Breakage> {
        let status = tokio::time::timeout(ENDING_MAX, self.child.wait()).await;
        let code = status.ok().and_then(Result::ok).and_then(|status| status.code());
        self.tail.settle().await;
        explain(&self.tail.text(), code, was_greeted)
    }
}

impl Drop for SshPeer {
    fn drop(&mut self) {
        if let Some(is_alive) = &self.master {
            is_alive.store(false, Ordering::Release);
        }
        if self.was_greeted {
            self.sessions.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The end of what a child said.
#[derive(Default)]
struct Tail {
    bytes: Mutex<VecDeque<u8>>,
    has_ended: AtomicBool,
    ended: tokio::sync::Notify,
}

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut tail = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(bytes);
        let excess = tail.len().saturating_sub(STDERR_BYTES_MAX);
        tail.drain(..excess);
    }

    fn text(&self) -> String {
        let mut tail = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    }

    /// Waits until all is read; a master in the background may keep its end open.
    async fn settle(&self) {
        let ended = self.ended.notified();
        if !self.has_ended.load(Ordering::Acquire) {
            let _ = tokio::time::timeout(Duration::from_millis(300), ended).await;
        }
    }
}

async fn keep_tail(mut stderr: impl AsyncRead + Unpin, tail: Arc<Tail>) {
    let mut buffer = [0; 1024];
    while let Ok(bytes @ 1..) = stderr.read(&mut buffer).await {
        tail.push(&buffer[..bytes]);
    }
    tail.has_ended.store(true, Ordering::Release);
    tail.ended.notify_waiters();
}

/// Returns the arguments for one channel.
fn arguments(config: &SftpConfig, role: &Role, is_first: bool) -> Vec<String> {
    let alive = (config.timeouts.line.as_secs() / ALIVE_QUESTIONS).max(1);
    let mut options = vec![
        format!("ServerAliveInterval={alive}"),
        format!("ServerAliveCountMax={ALIVE_QUESTIONS}"),
        format!("ConnectTimeout={}", config.timeouts.connect.as_secs().max(1)),
        "ClearAllForwardings=yes".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ForwardX11=no".to_owned(),
        "RequestTTY=no".to_owned(),
        "RemoteCommand=none".to_owned(),
    ];
    match role {
        Role::Alone => {}
        Role::Master(socket, _) => options.extend([
            "ControlMaster=yes".to_owned(),
            "ControlPersist=no".to_owned(),
            format!("ControlPath={}", socket.display()),
        ]),
        // Where the server refuses a second session, ssh connects anew by itself.
        Role::Guest(socket) => {
            options.extend(["ControlMaster=no".to_owned(), format!("ControlPath={}", socket.display())])
        }
    }
    if !is_first {
        options.push("BatchMode=yes".to_owned());
    }
    let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
    let options: Vec<_> = options.chain(["-s".to_owned()]).collect();
    let mut arguments = destination(config, &options);
    arguments.push("sftp".to_owned());
    arguments
}

/// Returns the user's arguments, these, and the server.
fn destination(config: &SftpConfig, options: &[String]) -> Vec<String> {
    let mut arguments = config.ssh_options.clone();
    arguments.extend_from_slice(options);
    if let Some(port) = config.port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = &config.user {
        arguments.extend(["-l".to_owned(), user.clone()]);
    }
    arguments.extend(["--".to_owned(), config.host.clone()]);
    arguments
}

/// Tells from the output of `ssh -G` whether connections are shared already.
fn shares_connections(settings: &str) -> bool {
    let value = |name: &str| {
        let of_line = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(' ')?.trim().to_owned());
        settings.lines().find_map(of_line)
    };
    let path = value("controlpath").filter(|path| path != "none");
    let is_master = value("controlmaster").is_some_and(|master| !matches!(&*master, "no" | "false"));
    path.is_some_and(|path| is_master || Path::new(&path).exists())
}

/// Makes a private folder whose path is short and plain enough for a socket.
fn socket_folder(parent: Option<&Path>) -> Option<TempDir> {
    let make = |parent: &Path| tempfile::Builder::new().prefix("pv-").rand_bytes(10).tempdir_in(parent).ok();
    let fits = |folder: &TempDir| {
        let path = socket(folder.path(), u32::MAX);
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
        path.to_str().is_some_and(|path| path.len() <= SOCKET_BYTES_MAX && path.as_bytes().iter().all(plain))
    };
    parent.into_iter().chain([Path::new("/tmp")]).find_map(|parent| make(parent).filter(fits))
}

fn socket(folder: &Path, generation: u32) -> PathBuf {
    folder.join(format!("m{generation}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SftpPath;

    fn config() -> SftpConfig {
        let mut config = SftpConfig::new("nas", SftpPath::Absolute("/vault".into()));
        config.user = Some("me".into());
        config.port = Some(2222);
        config.ssh_options = vec!["-i".into(), "key".into()];
        config
    }

    #[test]
    fn the_users_options_come_first_and_the_host_behind_a_dash() {
        let arguments = arguments(&config(), &Role::Alone, true);
        assert_eq!(arguments[..2], ["-i", "key"]);
        let end = &arguments[arguments.len() - 8..];
        assert_eq!(end, ["-s", "-p", "2222", "-l", "me", "--", "nas", "sftp"]);
    }

    #[test]
    fn nothing_weakens_the_check_of_the_host_key() {
        for role in [Role::Alone, Role::Master("s".into(), Arc::default()), Role::Guest("s".into())] {
            let arguments = arguments(&config(), &role, false).join(" ");
            for option in ["StrictHostKeyChecking", "UserKnownHostsFile", "CheckHostIP"] {
                assert!(!arguments.contains(option), "{arguments}");
            }
        }
    }

    #[test]
    fn a_users_own_sharing_is_left_alone() {
        assert!(!shares_connections("controlmaster false\nhost nas\n"));
        assert!(!shares_connections("controlmaster auto\ncontrolpath none\n"));
        assert!(!shares_connections("controlmaster false\ncontrolpath /no/such/socket\n"));
        assert!(shares_connections("controlmaster auto\ncontrolpath /no/such/socket\n"));
        assert!(shares_connections("controlmaster false\ncontrolpath /\n"));
    }

    #[test]
    fn only_the_end_of_what_ssh_says_is_kept() {
        let tail = Tail::default();
        for _ in 0..10_000 {
            tail.push(b"chatter chatter\n");
        }
        tail.push(b"the reason");
        assert_eq!(tail.text().len(), STDERR_BYTES_MAX);
        assert!(tail.text().ends_with("the reason"));
    }
}
