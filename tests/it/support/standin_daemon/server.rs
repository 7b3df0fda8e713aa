//! The stand-in's process: its locks, its record, and the protocol on a port of 127.0.0.1.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use sha2::Sha256;

use super::gate::Gate;
use super::{KEY, Options, writer};

const SHUTDOWN_TOKEN: &str = "t0ken-that-must-never-be-shown";

/// How long the start of one takes that starts briefly.
const STARTS_FOR: Duration = Duration::from_millis(1500);

pub fn record_path(home: &Path, pid: u32) -> PathBuf {
    home.join(format!("daemon.{pid}.json"))
}

struct Server {
    options: Options,
    gate: Gate,
}

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    is_same_host: bool,
}

/// Runs until the process ends.
pub fn run(options: Options) {
    let _locks = (!["no_lock", "unseen"].contains(&options.fail.as_str())).then(|| take_locks(&options.home));
    let gate = Gate::new(Duration::from_millis(options.watchdog_milliseconds));
    let server = Arc::new(Server { options, gate });
    let home = server.options.home.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (watched, written, read) = (server.clone(), server.clone(), home.clone());
    std::thread::spawn(move || watched.gate.watch());
    std::thread::spawn(move || writer::write(&written.options.home, &written.gate));
    std::thread::spawn(move || writer::read(&read));
    let port = listener.local_addr().unwrap().port();
    let create_time = match server.options.fail.starts_with("old") {
        true => started_at_milliseconds(),
        // Another clock, read at another moment: the system's own is never odd.
        false => jiff::Timestamp::now().as_millisecond() as u64 | 1,
    };
    write_record(&server.options, port, create_time);
    if server.options.fail == "starting_briefly" {
        let started = Options { fail: String::new(), ..server.options.clone() };
        std::thread::spawn(move || {
            std::thread::sleep(STARTS_FOR);
            write_record(&started, port, create_time);
        });
    }
    for stream in listener.incoming() {
        let (server, stream) = (server.clone(), stream.unwrap());
        // Whoever hangs up has seen enough.
        std::thread::spawn(move || drop(server.serve(stream)));
    }
}

fn take_locks(home: &Path) -> Vec<File> {
    let lock = |name: &str| {
        let file = File::create(home.join(name)).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        file
    };
    ["daemon.lock", "db.write.lock"].map(lock).into()
}

fn write_record(options: &Options, port: u16, create_time: u64) {
    let pid = std::process::id();
    let mut metadata = json!({
        "host": "127.0.0.1", "port": port.to_string(), "api_version": "1", "api_schema_version": "2.0",
        "auth_fingerprint": "x", "shutdown_token": SHUTDOWN_TOKEN,
        "create_time": create_time.to_string(),
    });
    match options.fail.as_str() {
        "starting" | "starting_briefly" => metadata["startup_phase"] = "migrating".into(),
        "other_api" => metadata["api_version"] = "2".into(),
        "no_token" | "old_without_token" => metadata["shutdown_token"] = "".into(),
        "old_elsewhere" => metadata["port"] = options.port.to_string().into(),
        "another_process" | "unseen" => metadata["create_time"] = "12345".into(),
        _ => {}
    }
    let record = json!({
        "pid": pid, "network": "tcp", "address": format!("127.0.0.1:{port}"), "service": "msgvault",
        "version": "stand-in", "started_at": jiff::Timestamp::now().to_string(), "metadata": metadata,
    });
    let (path, staged) = (record_path(&options.home, pid), options.home.join("record.tmp"));
    fs::write(&staged, record.to_string()).unwrap();
    fs::rename(staged, path).unwrap();
}

/// Returns when this process started, as the system tells it.
fn started_at_milliseconds() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 =
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().parse().unwrap();
    boot * 1000 + ticks * 1000 / rustix::param::clock_ticks_per_second()
}

impl Server {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&stream)?;
        let has_key = request.header("x-api-key").is_some() || request.header("authorization").is_some();
        match request.line.as_str() {
            "GET /standin/state HTTP/1.1" => answer(&mut stream, 200, &self.gate.state().to_string()),
            _ if self.options.fail == "silent" => wait_for_ever(),
            "GET /api/daemon/identity HTTP/1.1" => {
                self.note_key(has_key);
                self.identity(&mut stream, &request)
            }
            "GET /api/ping HTTP/1.1" => {
                self.note_key(has_key);
                self.ping(&mut stream)
            }
            "POST /api/v1/backup/freeze/begin HTTP/1.1" => match self.refuse(&request) {
                Some((status, code)) => answer_error(&mut stream, status, code),
                None => self.begin(&mut stream),
            },
            "POST /api/v1/backup/freeze/end HTTP/1.1" => match self.refuse(&request) {
                Some((status, code)) => answer_error(&mut stream, status, code),
                None => self.end(&mut stream, &request),
            },
            _ => answer_error(&mut stream, 404, "not_found"),
        }
    }

    fn note_key(&self, has_key: bool) {
        if has_key {
            self.gate.note_key_astray();
        }
    }

    fn refuse(&self, request: &Request) -> Option<(u16, &'static str)> {
        let bearer = format!("Bearer {KEY}");
        if request.header("x-api-key") != Some(KEY) && request.header("authorization") != Some(&bearer) {
            return Some((401, "unauthorized"));
        }
        (!request.is_same_host).then_some((404, "not_found"))
    }

    fn identity(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
        let challenge = request.header("x-msgvault-daemon-challenge").unwrap_or_default();
        let mut mac = Hmac::<Sha256>::new_from_slice(SHUTDOWN_TOKEN.as_bytes()).unwrap();
        mac.update(format!("msgvault-daemon-identity-v1\0{}\0", std::process::id()).as_bytes());
        mac.update(&hex::decode(challenge).unwrap_or_default());
        let mut proof = hex::encode(mac.finalize().into_bytes());
        match self.options.fail.as_str() {
            "wrong_proof" => proof = "0".repeat(64),
            "cannot_prove" | "old" => return answer_error(stream, 404, "not_found"),
            "redirect_identity" => return self.redirect(stream),
            "slow_drip" => return drip(stream),
            _ => {}
        }
        let head = format!("HTTP/1.1 204 No Content\r\nX-Msgvault-Daemon-Proof: {proof}\r\n\r\n");
        stream.write_all(head.as_bytes())
    }

    fn ping(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let pid = if self.options.fail == "wrong_pid" { 1 } else { std::process::id() };
        let pong = json!({"ok": true, "service": "msgvault", "version": "stand-in", "pid": pid});
        if self.options.fail != "huge_body" {
            return answer(stream, 200, &pong.to_string());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000000\r\n\r\n")?;
        loop {
            stream.write_all(&[b' '; 65536])?;
        }
    }

    fn begin(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let before = self.gate.note_begin_request();
        match self.options.fail.as_str() {
            "begin_unauthorized" => return answer_error(stream, 401, "unauthorized"),
            "begin_not_same_host" => return answer_error(stream, 404, "not_found"),
            "begin_active" => return answer_error(stream, 409, "backup_freeze_active"),
            "begin_shutting_down" => return answer_error(stream, 503, "server_busy"),
            "begin_broken" => return answer(stream, 500, "<html>"),
            "begin_without_token" => return answer(stream, 200, "{}"),
            "begin_hangs_up" => return Ok(()),
            "redirect_begin" => return self.redirect(stream),
            "busy_for_ever" => return answer_error(stream, 503, "operation_in_progress"),
            "busy_twice" if before < 2 => return answer_error(stream, 503, "operation_in_progress"),
            _ => {}
        }
        let token = match self.gate.begin() {
            Ok(token) => token,
            Err(code @ "backup_freeze_active") => return answer_error(stream, 409, code),
            Err(code) => return answer_error(stream, 503, code),
        };
        answer(stream, 200, &json!({ "token": token }).to_string())?;
        if self.options.fail == "die_in_window" {
            std::process::exit(9);
        }
        Ok(())
    }

    fn end(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
        match self.options.fail.as_str() {
            "end_token_refused" => return answer_error(stream, 400, "backup_freeze_not_active"),
            "end_invalid" => return answer_error(stream, 400, "invalid_request"),
            "end_broken" => return answer(stream, 500, "<html>"),
            _ => {}
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return answer_error(stream, 400, "invalid_request");
        };
        match self.gate.end(body["token"].as_str().unwrap_or_default()) {
            true => answer(stream, 200, "{}"),
            false => answer_error(stream, 400, "backup_freeze_not_active"),
        }
    }

    fn redirect(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let to = format!("http://127.0.0.1:{}/", self.options.port);
        let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes())
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let is_same_host = stream.peer_addr()?.ip().is_loopback();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { line: line.trim_end().to_owned(), headers, body: Vec::new(), is_same_host };
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut request.body)?;
    Ok(request)
}

fn answer(stream: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes())
}

/// Answers with an error whose message repeats the key: whoever shows messages must not show that.
fn answer_error(stream: &mut TcpStream, status: u16, code: &str) -> std::io::Result<()> {
    let message = match code {
        "operation_in_progress" => "a sync is running".to_owned(),
        _ => format!("no: {KEY}"),
    };
    answer(stream, status, &json!({"error": code, "message": message}).to_string())
}

/// Sends a head that never ends, a byte at a time.
fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 204 No Content\r\nX-Slow: ")?;
    loop {
        stream.write_all(b"x")?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}
