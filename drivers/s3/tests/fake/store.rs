//! An S3 store in memory behind the fake server, with faults to switch on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Asked, Reply, refuse, say};

/// How long a racing store takes between looking and writing.
const LOOK: Duration = Duration::from_millis(15);

const MODIFIED: &str = "2026-11-28T05:00:00.000Z";

type Parts = BTreeMap<u32, Vec<u8>>;

/// Objects, uploads and faults.
#[derive(Default)]
pub struct Store {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    uploads: Mutex<BTreeMap<String, (String, Parts)>>,
    made: AtomicU64,
    /// It looks whether a key is taken, and writes later.
    pub looks_then_writes: AtomicBool,
    /// Listings show nothing.
    pub lists_nothing: AtomicBool,
}

impl Store {
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap().get(&format!("/bucket/repo/{key}")).cloned()
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.objects.lock().unwrap().insert(format!("/bucket/repo/{key}"), bytes.to_vec());
    }

    pub fn objects(&self) -> usize {
        self.objects.lock().unwrap().len()
    }

    pub fn uploads(&self) -> usize {
        self.uploads.lock().unwrap().len()
    }

    pub fn answer(&self, asked: &Asked) -> Reply {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let value = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        match (asked.method.as_str(), path, query) {
            ("GET", "/bucket", query) if query.contains("uploads=") => self.list_uploads(),
            ("GET", "/bucket", _) => self.list(&value("prefix").unwrap_or_default().replace("%2F", "/")),
            ("HEAD", "/bucket", _) => say("200 OK", "", b""),
            ("POST", "/bucket", query) if query.starts_with("delete") => self.remove_many(asked),
            ("POST", _, "uploads=") => self.begin(path),
            ("POST", _, _) => self.complete(asked, path, &value("uploadId").unwrap()),
            ("PUT", _, query) if query.contains("partNumber") => {
                let (number, id) = (value("partNumber").unwrap(), value("uploadId").unwrap());
                let mut uploads = self.uploads.lock().unwrap();
                let Some((_, parts)) = uploads.get_mut(&id) else {
                    return refuse("404 Gone", "NoSuchUpload", "");
                };
                parts.insert(number.parse().unwrap(), asked.body.clone());
                say("200 OK", &format!("ETag: \"part-{number}\"\r\n"), b"")
            }
            ("DELETE", _, query) if query.contains("uploadId") => {
                self.uploads.lock().unwrap().remove(&value("uploadId").unwrap());
                say("204 No Content", "", b"")
            }
            ("PUT", _, _) => {
                self.write(asked, path, asked.body.clone()).unwrap_or_else(|| say("200 OK", "", b""))
            }
            ("DELETE", _, _) => {
                self.objects.lock().unwrap().remove(path);
                say("204 No Content", "", b"")
            }
            _ => self.read(asked, path),
        }
    }

    fn remove_many(&self, asked: &Asked) -> Reply {
        assert!(asked.header("x-amz-checksum-sha256").is_some(), "the protocol demands a checksum");
        let document = String::from_utf8(asked.body.clone()).unwrap();
        let keys = document.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        let keys: Vec<&str> = keys.collect();
        assert!(keys.len() <= 1000, "the protocol allows a thousand");
        let mut text = "<DeleteResult>".to_owned();
        for key in keys {
            self.objects.lock().unwrap().remove(&format!("/bucket/{key}"));
            text += &format!("<Deleted><Key>{key}</Key></Deleted>");
        }
        say("200 OK", "", (text + "</DeleteResult>").as_bytes())
    }

    fn write(&self, asked: &Asked, path: &str, bytes: Vec<u8>) -> Option<Reply> {
        let is_refused = asked.header("if-none-match").is_some();
        let is_taken = || self.objects.lock().unwrap().contains_key(path);
        if self.looks_then_writes.load(Ordering::Relaxed) {
            let was_taken = is_taken();
            std::thread::sleep(LOOK);
            if is_refused && was_taken {
                return Some(refuse("412 Precondition Failed", "PreconditionFailed", ""));
            }
        }
        let mut objects = self.objects.lock().unwrap();
        if is_refused && !self.looks_then_writes.load(Ordering::Relaxed) && objects.contains_key(path) {
            return Some(refuse("412 Precondition Failed", "PreconditionFailed", ""));
        }
        let tag = objects.get(path).map(|bytes| tag(bytes));
        if asked.header("if-match").is_some_and(|wanted| tag.as_deref() != Some(wanted)) {
            return Some(refuse("412 Precondition Failed", "PreconditionFailed", ""));
        }
        objects.insert(path.to_owned(), bytes);
        None
    }

    fn read(&self, asked: &Asked, path: &str) -> Reply {
        let objects = self.objects.lock().unwrap();
        let Some(bytes) = objects.get(path) else { return refuse("404 Not Found", "NoSuchKey", "") };
        let headers = format!("Last-Modified: Sat, 28 Nov 2026 05:00:00 GMT\r\nETag: {}\r\n", tag(bytes));
        if asked.method == "HEAD" {
            let headers = format!("Content-Length: {}\r\n{headers}", bytes.len());
            return Reply::Say(super::head("200 OK", &headers));
        }
        let Some(range) = asked.header("range").and_then(|range| range.strip_prefix("bytes=")) else {
            return say("200 OK", &headers, bytes);
        };
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        if first >= bytes.len() {
            return refuse("416 Range Not Satisfiable", "InvalidRange", "");
        }
        let last = last.min(bytes.len() - 1);
        let headers = format!("{headers}Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
        say("206 Partial Content", &headers, &bytes[first..=last])
    }

    fn list(&self, prefix: &str) -> Reply {
        let mut text = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (path, bytes) in self.objects.lock().unwrap().iter() {
            let key = path.strip_prefix("/bucket/").unwrap();
            if key.starts_with(prefix) && !self.lists_nothing.load(Ordering::Relaxed) {
                let size = bytes.len();
                text += &format!(
                    "<Contents><Key>{key}</Key><LastModified>{MODIFIED}</LastModified><Size>{size}</Size></Contents>"
                );
            }
        }
        say("200 OK", "", (text + "</ListBucketResult>").as_bytes())
    }

    fn list_uploads(&self) -> Reply {
        let mut text = "<ListMultipartUploadsResult>".to_owned();
        for (id, (path, _)) in self.uploads.lock().unwrap().iter() {
            let key = path.strip_prefix("/bucket/").unwrap();
            text += &format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{MODIFIED}</Initiated></Upload>"
            );
        }
        say("200 OK", "", (text + "</ListMultipartUploadsResult>").as_bytes())
    }

    fn begin(&self, path: &str) -> Reply {
        let id = format!("upload-{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.uploads.lock().unwrap().insert(id.clone(), (path.to_owned(), BTreeMap::new()));
        let body = format!("<R><UploadId>{id}</UploadId></R>");
        say("200 OK", "", body.as_bytes())
    }

    fn complete(&self, asked: &Asked, path: &str, id: &str) -> Reply {
        let upload = self.uploads.lock().unwrap().get(id).cloned();
        let Some((_, parts)) = upload else { return refuse("404 Gone", "NoSuchUpload", "") };
        if let Some(refusal) = self.write(asked, path, parts.into_values().flatten().collect()) {
            return refusal;
        }
        self.uploads.lock().unwrap().remove(id);
        say("200 OK", "", b"<CompleteMultipartUploadResult/>")
    }
}

fn tag(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("\"{sum:x}\"")
}

/// Starts a fake server over a store; `first` may answer in its place.
pub async fn serve(
    store: Arc<Store>,
    first: impl Fn(&Asked, &Store) -> Option<Reply> + Send + Sync + 'static,
) -> super::Fake {
    super::Fake::start(move |asked| first(asked, &store).unwrap_or_else(|| store.answer(asked))).await
}
