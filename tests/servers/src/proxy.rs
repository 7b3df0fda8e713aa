//! A line between a client and a server on loopback that is as bad as it is told to be: slow, cut, stalled,
//! or with a server behind it that is too busy.
//!
//! Plain threads and bounded queues. A delay is a delay: as many bytes as are under way may be, so that a
//! client which keeps the line full is not held up by it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are taken from a socket at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces under way in one direction of one connection: 64 MiB.
const PIECES_MAX: usize = 1024;

/// Between two looks at whether a stall is over.
const LOOK: Duration = Duration::from_millis(5);

/// What a busy server answers.
const SLOW_DOWN: &str = "HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: 80\r\n\
                         connection: close\r\n\r\n<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A line that listens on a port of its own; its connections end with this value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    target: u16,
    one_way: Duration,
    stalled: AtomicBool,
    closed: AtomicBool,
    /// Bytes that still pass before every connection is cut, or stalls; negative is no limit.
    up_left: AtomicI64,
    down_left: AtomicI64,
    stalls_when_spent: AtomicBool,
    cuts: AtomicU64,
    busy: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Starts a line to a port of loopback that adds this much to every round trip.
    pub fn start(target: u16, round_trip: Duration) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let line = Arc::new(Line {
            target,
            one_way: round_trip / 2,
            stalled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            up_left: AtomicI64::new(-1),
            down_left: AtomicI64::new(-1),
            stalls_when_spent: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&line);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { port, line })
    }

    /// Returns the port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection once this many more bytes have gone that way, once.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.line.stalls_when_spent.store(false, Ordering::SeqCst);
        self.line.left(direction).store(bytes as i64, Ordering::SeqCst);
    }

    /// Lets nothing pass any more once this many more bytes have gone that way, until the stall is ended.
    pub fn stall_after(&self, direction: Direction, bytes: u64) {
        self.line.stalls_when_spent.store(true, Ordering::SeqCst);
        self.line.left(direction).store(bytes as i64, Ordering::SeqCst);
    }

    /// Tells whether nothing passes.
    pub fn is_stalled(&self) -> bool {
        self.line.stalled.load(Ordering::SeqCst)
    }

    /// Returns how often connections were cut.
    pub fn cuts(&self) -> u64 {
        self.line.cuts.load(Ordering::SeqCst)
    }

    /// Lets nothing pass in either direction, or everything again. Connections stay open.
    pub fn stall(&self, stalled: bool) {
        self.line.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Answers this many requests with "503 Slow Down" itself; for HTTP. Open connections are ended.
    pub fn be_busy(&self, requests: u64) {
        self.line.busy.store(requests, Ordering::SeqCst);
        self.line.cut();
    }

    /// Returns how many requests are still to be answered so.
    pub fn busy_left(&self) -> u64 {
        self.line.busy.load(Ordering::SeqCst)
    }

    /// Ends every open connection; new ones are taken.
    pub fn cut_now(&self) {
        self.line.cut();
    }

    /// Takes back all trouble that was ordered, and ends what connections are left: a line as if it were new.
    pub fn mend(&self) {
        for direction in [Direction::Up, Direction::Down] {
            self.line.left(direction).store(-1, Ordering::SeqCst);
        }
        self.line.busy.store(0, Ordering::SeqCst);
        self.stall(false);
        self.line.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.closed.store(true, Ordering::SeqCst);
        self.line.cut();
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
    }
}

impl Line {
    fn left(&self, direction: Direction) -> &AtomicI64 {
        match direction {
            Direction::Up => &self.up_left,
            Direction::Down => &self.down_left,
        }
    }

    fn cut(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            // One that has ended already needs no more.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn remember(&self, connection: &TcpStream) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.extend(connection.try_clone());
    }

    /// Tells how many of the bytes may pass before the line is cut.
    fn admit(&self, direction: Direction, bytes: usize) -> usize {
        let left = self.left(direction);
        let before = left.load(Ordering::SeqCst);
        if before < 0 {
            return bytes;
        }
        let after = before - bytes as i64;
        left.store(after.max(0), Ordering::SeqCst);
        if after > 0 { bytes } else { before as usize }
    }

    fn wait_while_stalled(&self) {
        while self.stalled.load(Ordering::SeqCst) && !self.closed.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
        }
    }

    /// Takes one of the requests that a busy server refuses.
    fn take_refusal(&self) -> bool {
        self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

fn accept(listener: &TcpListener, line: &Arc<Line>) {
    for client in listener.incoming() {
        if line.closed.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let line = Arc::clone(line);
        thread::spawn(move || carry(client, &line));
    }
}

fn carry(client: TcpStream, line: &Arc<Line>) {
    if line.take_refusal() {
        refuse(client);
        return;
    }
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, line.target));
    let Ok(server) = TcpStream::connect(target) else { return };
    for end in [&client, &server] {
        // Without it small pieces wait for each other, which is no property of the line.
        let _ = end.set_nodelay(true);
        line.remember(end);
    }
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { return };
    forward(from_client, server, Direction::Up, line);
    forward(from_server, client, Direction::Down, line);
}

fn forward(from: TcpStream, to: TcpStream, direction: Direction, line: &Arc<Line>) {
    let (pieces, due) = sync_channel(PIECES_MAX);
    let (reading, writing) = (Arc::clone(line), Arc::clone(line));
    thread::spawn(move || take(from, &pieces, reading.one_way));
    thread::spawn(move || give(to, &due, direction, &writing));
}

fn take(mut from: TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>, one_way: Duration) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if pieces.send((Instant::now() + one_way, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn give(mut to: TcpStream, due: &Receiver<(Instant, Vec<u8>)>, direction: Direction, line: &Line) {
    while let Ok((when, piece)) = due.recv() {
        thread::sleep(when.saturating_duration_since(Instant::now()));
        line.wait_while_stalled();
        let passing = line.admit(direction, piece.len());
        if to.write_all(&piece[..passing]).is_err() {
            return;
        }
        if passing < piece.len() {
            line.left(direction).store(-1, Ordering::SeqCst);
            if line.stalls_when_spent.load(Ordering::SeqCst) {
                line.stalled.store(true, Ordering::SeqCst);
                line.wait_while_stalled();
                if to.write_all(&piece[passing..]).is_err() {
                    return;
                }
                continue;
            }
            line.cuts.fetch_add(1, Ordering::SeqCst);
            line.cut();
            return;
        }
    }
    // The other end has finished; what it sent has been given.
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads one request and answers that the server is busy.
fn refuse(mut client: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < PIECE_BYTES {
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = client.try_clone().map(|client| client.take(length.unwrap_or(0)));
    if let Ok(body) = &mut body {
        // A client that gives up in the middle is answered all the same.
        let _ = std::io::copy(body, &mut std::io::sink());
    }
    let _ = client.write_all(SLOW_DOWN.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for client in listener.incoming().take(8) {
                let mut client = client.unwrap();
                thread::spawn(move || std::io::copy(&mut client.try_clone().unwrap(), &mut client));
            }
        });
        port
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap()
    }

    #[test]
    fn bytes_pass_unchanged_and_late() {
        let proxy = Proxy::start(echo(), Duration::from_millis(40)).unwrap();
        let mut client = connect(&proxy);
        let sent: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        let begun = Instant::now();
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut found = Vec::new();
        client.read_to_end(&mut found).unwrap();
        assert_eq!(found, sent);
        assert!(begun.elapsed() >= Duration::from_millis(40));
    }

    #[test]
    fn a_line_is_cut_in_the_middle_and_then_whole_again() {
        let proxy = Proxy::start(echo(), Duration::ZERO).unwrap();
        proxy.cut_after(Direction::Down, 1000);
        let mut client = connect(&proxy);
        client.write_all(&[7; 5000]).unwrap();
        let mut found = Vec::new();
        // A cut line is an end or an error, as it falls.
        let _ = client.read_to_end(&mut found);
        assert_eq!((found.len(), proxy.cuts()), (1000, 1));
        let mut client = connect(&proxy);
        client.write_all(&[7; 5000]).unwrap();
        client.read_exact(&mut [0; 5000]).unwrap();
    }

    #[test]
    fn a_line_stalls_in_the_middle_and_gives_the_rest_afterwards() {
        let proxy = Proxy::start(echo(), Duration::ZERO).unwrap();
        proxy.stall_after(Direction::Down, 1000);
        let mut client = connect(&proxy);
        client.write_all(&[7; 5000]).unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(client.read(&mut [0]).is_err() && proxy.is_stalled());
        proxy.stall(false);
        client.set_read_timeout(None).unwrap();
        client.read_exact(&mut [0; 4000]).unwrap();
    }

    #[test]
    fn a_mended_line_carries_everything_again() {
        let proxy = Proxy::start(echo(), Duration::ZERO).unwrap();
        let mut old = connect(&proxy);
        old.write_all(b"abc").unwrap();
        old.read_exact(&mut [0; 3]).unwrap();
        proxy.stall(true);
        proxy.be_busy(5);
        proxy.cut_after(Direction::Up, 2);
        proxy.mend();
        assert_eq!(old.read(&mut [0]).unwrap_or(0), 0);
        let mut client = connect(&proxy);
        client.write_all(&[7; 5000]).unwrap();
        client.read_exact(&mut [0; 5000]).unwrap();
        assert_eq!((proxy.cuts(), proxy.busy_left()), (0, 0));
    }

    #[test]
    fn a_busy_server_refuses_so_many_requests() {
        let proxy = Proxy::start(echo(), Duration::ZERO).unwrap();
        proxy.be_busy(2);
        for _ in 0..2 {
            let mut client = connect(&proxy);
            client.write_all(b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("HTTP/1.1 503") && head.contains(&format!("content-length: {}", body.len()))
            );
        }
        let mut client = connect(&proxy);
        client.write_all(b"abc").unwrap();
        client.read_exact(&mut [0; 3]).unwrap();
    }
}
