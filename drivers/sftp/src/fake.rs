//! A fake SFTP server for tests: files in memory, spoken to over a pipe, and as unkind as a test wants.
//!
//! It is no model of any server. It exists to give the answers no real server here gives: short reads,
//! foreign ids, packets without an end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future;
use packvault_storage::{ErrorKind, Key, Prefix, Storage, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Barrier;

use crate::codec::code;
use crate::config::{SftpConfig, SftpPath};
use crate::error::Breakage;
use crate::line::{Line, Patience, Peer};
use crate::pool::Pool;
use crate::ssh::Dial;
use crate::{SftpFeatures, SftpStorage};

/// How the server misbehaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Kind,
    /// Answers no read with more than this.
    ShortReads(usize),
    /// Answers reads with more than was asked for.
    LongReads,
    /// Answers the first read with an id nobody used.
    ForeignIds,
    /// Answers the first read with a packet of a gigabyte.
    EndlessPacket,
    /// Answers reads with handles.
    WrongKind,
    /// Says nothing to a read.
    Silent,
    /// Prints text before anything else.
    Chatty,
    /// Lists one more folder in each folder, and never comes to the end of any.
    EndlessListing,
    /// Ends the line at the write number so and so.
    CutAtWrite(usize),
}

#[derive(Clone)]
struct Fake {
    mood: Arc<Mutex<Mood>>,
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

struct Nobody;

#[async_trait]
impl Peer for Nobody {
    fn greeted(&mut self, _: bool) {}

    async fn explain(&mut self, _: bool) -> Arc<Breakage> {
        Breakage::new(ErrorKind::Connection, "the fake server hung up")
    }
}

#[async_trait]
impl Dial for Fake {
    async fn dial(&self) -> Result<Line, Arc<Breakage>> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(self.clone().serve(theirs));
        let (reader, writer) = tokio::io::split(ours);
        Ok(Line { reader: Box::new(reader), writer: Box::new(writer), peer: Box::new(Nobody) })
    }
}

/// Reads the fields of a request; a test may panic on a bad one.
struct Asked(Bytes);

impl Asked {
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(*self.0.split_to(4).first_chunk().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(*self.0.split_to(8).first_chunk().unwrap())
    }

    fn text(&mut self) -> String {
        let len = self.u32() as usize;
        String::from_utf8(self.0.split_to(len).to_vec()).unwrap()
    }
}

fn packet(kind: u8, id: u32, fields: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut packet = BytesMut::new();
    packet.put_u32(0);
    packet.put_u8(kind);
    packet.put_u32(id);
    fields(&mut packet);
    let len = packet.len() as u32 - 4;
    packet[..4].copy_from_slice(&len.to_be_bytes());
    packet
}

fn status(id: u32, code: u32) -> BytesMut {
    packet(101, id, |packet| {
        packet.put_u32(code);
        packet.put_u32(0);
        packet.put_u32(0);
    })
}

fn text(packet: &mut BytesMut, text: &[u8]) {
    packet.put_u32(text.len() as u32);
    packet.put_slice(text);
}

fn attrs(packet: &mut BytesMut, size: usize, mode: u32) {
    packet.put_u32(0x01 | 0x04 | 0x08);
    packet.put_u64(size as u64);
    packet.put_u32(mode);
    packet.put_u32(1_700_000_000);
    packet.put_u32(1_700_000_000);
}

impl Fake {
    fn new(mood: Mood) -> Self {
        Self { mood: Arc::new(Mutex::new(mood)), files: Arc::default() }
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    fn storage(&self) -> SftpStorage {
        let mut config = SftpConfig::new("fake", SftpPath::Absolute("/".into()));
        config.connections_max = 1;
        config.timeouts.answer = Duration::from_secs(5);
        let features = SftpFeatures { posix_rename: true, ..SftpFeatures::default() };
        SftpStorage::over(Box::new(self.clone()), &config, Some(features), Arc::new(Wire::default()))
    }

    async fn serve(self, mut line: DuplexStream) {
        if self.mood() == Mood::Chatty {
            let _ = line.write_all(b"Welcome to the fake server!\n").await;
        }
        let mut writes = 0;
        loop {
            let Ok(len) = line.read_u32().await else { return };
            let mut request = vec![0; len as usize];
            if line.read_exact(&mut request).await.is_err() {
                return;
            }
            if request[0] == 6 {
                writes += 1;
                if self.mood() == Mood::CutAtWrite(writes) {
                    return;
                }
            }
            if let Some(answer) = self.answer(Bytes::from(request))
                && line.write_all(&answer).await.is_err()
            {
                return;
            }
        }
    }

    fn answer(&self, mut request: Bytes) -> Option<BytesMut> {
        let kind = request.split_to(1)[0];
        let mut asked = Asked(request);
        let id = asked.u32();
        if kind == 1 {
            return Some(packet(2, 3, |packet| {
                text(packet, b"posix-rename@openssh.com");
                text(packet, b"1");
            }));
        }
        let mut files = self.files.lock().unwrap();
        Some(match kind {
            3 => {
                let path = asked.text();
                if asked.u32() & 0x08 != 0 {
                    files.entry(path.clone()).or_default();
                }
                match files.contains_key(&path) {
                    true => packet(102, id, |packet| text(packet, path.as_bytes())),
                    false => status(id, code::NO_SUCH_FILE),
                }
            }
            5 => return self.answer_read(id, asked, &files),
            6 => {
                let (path, offset, len) = (asked.text(), asked.u64() as usize, asked.u32() as usize);
                let file = files.get_mut(&path).unwrap();
                file.resize(file.len().max(offset + len), 0);
                file[offset..offset + len].copy_from_slice(&asked.0);
                status(id, code::OK)
            }
            7 | 8 | 17 => self.answer_look(id, &asked.text(), &files),
            11 => packet(102, id, |packet| text(packet, asked.text().as_bytes())),
            12 => self.answer_folder(id),
            13 => {
                let gone = files.remove(&asked.text()).is_some();
                status(id, if gone { code::OK } else { code::NO_SUCH_FILE })
            }
            18 => {
                let (from, to) = (asked.text(), asked.text());
                let file = files.remove(&from).unwrap();
                files.insert(to, file);
                status(id, code::OK)
            }
            4 | 14 => status(id, code::OK),
            _ => status(id, code::UNSUPPORTED),
        })
    }

    fn answer_read(&self, id: u32, mut asked: Asked, files: &HashMap<String, Vec<u8>>) -> Option<BytesMut> {
        let (path, offset, len) = (asked.text(), asked.u64() as usize, asked.u32() as usize);
        let file = &files[&path];
        if offset >= file.len() {
            return Some(status(id, code::EOF));
        }
        let end = file.len().min(offset + len);
        let data = |id, bytes: &[u8]| packet(103, id, |packet| text(packet, bytes));
        Some(match self.mood() {
            Mood::ShortReads(most) => data(id, &file[offset..end.min(offset + most)]),
            Mood::LongReads => data(id, &vec![7; len + 1]),
            Mood::ForeignIds => data(id ^ 0x4000_0000, &file[offset..end]),
            Mood::EndlessPacket => BytesMut::from(&[0x40, 0, 0, 0, 103][..]),
            Mood::WrongKind => packet(102, id, |packet| text(packet, b"handle")),
            Mood::Silent => return None,
            _ => data(id, &file[offset..end]),
        })
    }

    fn answer_look(&self, id: u32, path: &str, files: &HashMap<String, Vec<u8>>) -> BytesMut {
        match files.get(path) {
            Some(file) => packet(105, id, |packet| attrs(packet, file.len(), 0o100_600)),
            // Whatever has no dot is a folder.
            None if path.contains('.') => status(id, code::NO_SUCH_FILE),
            None => packet(105, id, |packet| attrs(packet, 0, 0o040_700)),
        }
    }

    fn answer_folder(&self, id: u32) -> BytesMut {
        if self.mood() != Mood::EndlessListing {
            return status(id, code::EOF);
        }
        packet(104, id, |packet| {
            packet.put_u32(1_000);
            for number in 0..1_000 {
                text(packet, format!("{number}").as_bytes());
                text(packet, b"");
                attrs(packet, 1, 0o100_600);
            }
        })
    }
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

#[tokio::test]
async fn short_answers_are_asked_again_from_where_they_ended() {
    for most in [1_000, 32_767, 40_000] {
        let fake = Fake::new(Mood::ShortReads(most));
        let bytes = pattern(300_001);
        let storage = fake.storage();
        storage.create(&key("packs/01/a.mvpack"), bytes.clone()).await.unwrap();
        assert!(storage.read(&key("packs/01/a.mvpack")).await.unwrap() == bytes);
        let ranges = [5..70_000, 100_000..300_001, 0..1];
        let found = storage.read_ranges(&key("packs/01/a.mvpack"), &ranges).await.unwrap();
        for (range, found) in ranges.into_iter().zip(found) {
            assert!(found == bytes[range.start as usize..range.end as usize], "{range:?} at most {most}");
        }
    }
}

#[tokio::test]
async fn a_file_that_ends_before_its_size_is_short() {
    let fake = Fake::new(Mood::Kind);
    let storage = fake.storage();
    storage.create(&key("packs/01/a.mvpack"), pattern(200_000)).await.unwrap();
    storage.read_range(&key("packs/01/a.mvpack"), 0..10).await.unwrap();
    // The size was asked for when the pack was opened.
    fake.files.lock().unwrap().get_mut("/packs/01/a.mvpack").unwrap().truncate(150_000);
    let error = storage.read_range(&key("packs/01/a.mvpack"), 100_000..200_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Short, "{error}");
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_refused_and_the_next_step_connects_anew() {
    for (mood, kind, words) in [
        (Mood::LongReads, ErrorKind::Io, "wrong kind"),
        (Mood::ForeignIds, ErrorKind::Io, "nobody asked for"),
        (Mood::EndlessPacket, ErrorKind::Io, "a packet of 1073741824 bytes"),
        (Mood::WrongKind, ErrorKind::Io, "wrong kind"),
    ] {
        let fake = Fake::new(Mood::Kind);
        let storage = fake.storage();
        storage.create(&key("a.b"), pattern(10_000)).await.unwrap();
        *fake.mood.lock().unwrap() = mood;
        let error = storage.read(&key("a.b")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        *fake.mood.lock().unwrap() = Mood::Kind;
        assert!(storage.read(&key("a.b")).await.unwrap() == pattern(10_000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_is_given_up_in_time() {
    let fake = Fake::new(Mood::Kind);
    let storage = fake.storage();
    storage.create(&key("a.b"), pattern(10_000)).await.unwrap();
    *fake.mood.lock().unwrap() = Mood::Silent;
    let error = storage.read(&key("a.b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.to_string(), "cannot read a.b: the server answered nothing for 5 s");
}

#[tokio::test]
async fn text_before_the_first_packet_is_explained() {
    let error = Fake::new(Mood::Chatty).storage().read(&key("a.b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("login script"), "{error}");
}

#[tokio::test]
async fn a_listing_without_an_end_is_refused() {
    let storage = Fake::new(Mood::EndlessListing).storage();
    let listed: Result<Vec<_>, _> = futures::TryStreamExt::try_collect(storage.list(&Prefix::root())).await;
    let error = listed.unwrap_err();
    assert!(error.to_string().contains("no end"), "{error}");
}

#[tokio::test]
async fn a_line_cut_in_mid_upload_leaves_nothing_visible_and_the_next_step_works() {
    let fake = Fake::new(Mood::CutAtWrite(40));
    let storage = fake.storage();
    let mut staged = storage.stage(&key("packs/01/a.mvpack")).await.unwrap();
    let mut failed = None;
    for _ in 0..100 {
        if let Err(error) = staged.write(pattern(100_000)).await {
            failed = Some(error);
            break;
        }
    }
    let error = match failed {
        Some(error) => error,
        None => staged.seal().await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert_eq!(storage.stat(&key("packs/01/a.mvpack")).await.unwrap_err().kind(), ErrorKind::NotFound);
    storage.create(&key("packs/01/a.mvpack"), pattern(10)).await.unwrap();
    assert!(storage.read(&key("packs/01/a.mvpack")).await.unwrap() == pattern(10));
}

#[tokio::test]
async fn the_wire_is_told_of_every_byte_once() {
    let fake = Fake::new(Mood::ShortReads(10_000));
    let storage = fake.storage();
    storage.create(&key("a.b"), pattern(123_456)).await.unwrap();
    storage.read(&key("a.b")).await.unwrap();
    let passed = storage.client.wire.passed();
    assert_eq!((passed.sent, passed.received), (123_456, 123_456));
}

#[tokio::test]
async fn a_cancelled_read_leaves_no_handle_open_and_the_channel_whole() {
    let fake = Fake::new(Mood::Kind);
    let storage = fake.storage();
    storage.create(&key("a.b"), pattern(1 << 20)).await.unwrap();
    let object = key("a.b");
    for _ in 0..200 {
        let reading = storage.read(&object);
        let _ = tokio::time::timeout(Duration::from_micros(200), reading).await;
    }
    assert!(storage.read(&object).await.unwrap() == pattern(1 << 20));
    assert_eq!(storage.client.pool.open_channels(), 1);
}

/// Connects the first channel at once, and further ones when the barrier opens.
struct Reluctant {
    fake: Fake,
    is_connected: AtomicBool,
    barrier: Arc<Barrier>,
}

#[async_trait]
impl Dial for Reluctant {
    async fn dial(&self) -> Result<Line, Arc<Breakage>> {
        if self.is_connected.swap(true, Ordering::Relaxed) {
            self.barrier.wait().await;
        }
        self.fake.dial().await
    }
}

#[tokio::test]
async fn further_channels_are_opened_side_by_side_and_nobody_else_waits_for_them() {
    let barrier = Arc::new(Barrier::new(3));
    let (fake, is_connected) = (Fake::new(Mood::Kind), AtomicBool::new(false));
    let dialer = Reluctant { fake, is_connected, barrier: Arc::clone(&barrier) };
    let seconds = Duration::from_secs;
    let pool = Pool::new(Box::new(dialer), Patience { greeting: seconds(60), answer: seconds(60) }, 3);
    let leases = async {
        let first = pool.heavy().await.unwrap();
        let further = future::join(pool.heavy(), pool.heavy());
        let beside = async {
            let lease = pool.heavy().await.unwrap();
            barrier.wait().await;
            lease
        };
        let ((second, third), fourth) = future::join(further, beside).await;
        assert!(std::ptr::eq(&raw const *first, &raw const *fourth));
        (first, second.unwrap(), third.unwrap(), fourth)
    };
    let _leases = tokio::time::timeout(seconds(60), leases).await.expect("somebody waits for a channel");
    assert_eq!(pool.open_channels(), 3);
}
