//! One sample message: who, when, and prose with replies, signatures, HTML and the original MIME text.

use crate::people::Person;
use crate::random::Random;
use crate::words::Words;

/// Most words in a body.
const BODY_WORDS_MAX: f64 = 3000.0;

/// Most bytes of an earlier message that a reply quotes.
const QUOTE_BYTES_MAX: usize = 3500;

/// Seconds in a day.
pub(crate) const DAY_SECONDS: i64 = 86_400;

const HTML_HEAD: &str = r#"<!DOCTYPE html><html><head><meta charset="utf-8"><style type="text/css">
body{margin:0;padding:0;font-family:Helvetica,Arial,sans-serif;font-size:14px;color:#222}
.wrap{max-width:640px;margin:0 auto;padding:24px}a{color:#1155cc;text-decoration:none}
td{padding:8px 12px;border-bottom:1px solid #eee}.footer{font-size:11px;color:#888}
</style></head><body><div class="wrap"><table role="presentation" width="100%">"#;

/// What messages are composed from.
#[derive(Debug)]
pub(crate) struct Composer<'a> {
    /// The vocabulary.
    pub(crate) words: &'a Words,
    /// Everybody who writes or receives; never empty.
    pub(crate) people: &'a [Person],
    /// Median number of words in a body.
    pub(crate) body_words: f64,
    /// Number of labels a message may carry.
    pub(crate) label_count: u64,
}

/// A conversation that can still be answered.
#[derive(Debug, Clone)]
pub(crate) struct Thread {
    /// Row id.
    pub(crate) id: i64,
    /// Row id of the account.
    pub(crate) source: i64,
    /// Subject of the first message.
    pub(crate) title: String,
    /// Place of its latest message, from 0.
    pub(crate) position: i64,
    /// Sender and text of its latest message.
    pub(crate) latest: Option<(usize, String)>,
}

/// A message, not yet in any table.
#[derive(Debug)]
pub(crate) struct Message {
    /// Row id.
    pub(crate) id: i64,
    /// Seconds since 1970.
    pub(crate) sent: i64,
    /// Index of the sender.
    pub(crate) sender: usize,
    /// Indexes of the receivers, each once.
    pub(crate) receivers: Vec<usize>,
    /// Subject line.
    pub(crate) subject: String,
    /// Plain text.
    pub(crate) text: String,
    /// The same as HTML, for some.
    pub(crate) html: Option<String>,
    /// The `Message-ID`.
    pub(crate) rfc822_id: String,
    /// The id the account's server gave.
    pub(crate) source_message_id: String,
    /// Row ids of its labels.
    pub(crate) labels: Vec<i64>,
    /// Whether it was read.
    pub(crate) is_read: bool,
}

impl Composer<'_> {
    /// Composes the next message of a thread.
    pub(crate) fn compose(&self, random: &mut Random, id: i64, sent: i64, thread: &Thread) -> Message {
        let sender = if random.chance(0.8) { random.index(self.people.len()) } else { 0 };
        let text = self.text(random, sent, sender, thread);
        let token = random.hex(18);
        let sender_name = self.people[sender].email.split('@').next().unwrap_or_default();
        Message {
            id,
            sent,
            sender,
            receivers: self.receivers(random),
            subject: subject(thread),
            html: random.chance(0.4).then(|| html(random, &text, &token)),
            rfc822_id: format!("<{}@{sender_name}.example>", &token[..24]),
            source_message_id: format!("{:016x}", (1 << 60) + id * 7919 + random.below(4096) as i64),
            labels: self.labels(random),
            is_read: random.chance(0.9),
            text,
        }
    }

    /// Returns the message as it came over the wire: headers that do not compress, then text and HTML.
    pub(crate) fn mime(&self, random: &mut Random, message: &Message) -> String {
        let boundary = &message.rfc822_id[1..13];
        let sender = &self.people[message.sender];
        format!(
            "Received: by mx{}.example.com with SMTP id {}\nDKIM-Signature: v=1; a=rsa-sha256; b={}\n\
             From: {} <{}>\nTo: {}\nSubject: {}\nMessage-ID: {}\nDate: {}\n\
             Content-Type: multipart/alternative; boundary=\"b{boundary}\"\n\n--b{boundary}\n\
             Content-Type: text/plain; charset=utf-8\n\n{}\n--b{boundary}\n\
             Content-Type: text/html; charset=utf-8\n\n{}\n--b{boundary}--\n",
            message.sender % 9,
            &message.rfc822_id[1..25],
            random.hex(192),
            sender.name,
            sender.email,
            self.addresses(message).replace(' ', ", "),
            message.subject,
            message.rfc822_id,
            timestamp(message.sent),
            message.text,
            message.html.as_deref().unwrap_or_default(),
        )
    }

    /// Returns the addresses of the receivers, separated by spaces.
    pub(crate) fn addresses(&self, message: &Message) -> String {
        let addresses: Vec<&str> =
            message.receivers.iter().map(|&to| self.people[to].email.as_str()).collect();
        addresses.join(" ")
    }

    fn text(&self, random: &mut Random, sent: i64, sender: usize, thread: &Thread) -> String {
        let count = random.log_normal(self.body_words, 0.9).min(BODY_WORDS_MAX) as usize;
        let mut text = self.words.prose(random, count);
        match &thread.latest {
            Some((author, earlier)) if random.chance(0.55) => {
                let when = timestamp(sent - 4000);
                let quoted = prefix(earlier, QUOTE_BYTES_MAX).replace('\n', "\n> ");
                text.push_str(&format!("\n\nOn {when} {} wrote:\n> {quoted}", self.people[*author].name));
            }
            _ if random.chance(0.3) => {
                text.push_str(&format!(
                    "\n\n-- \n{}\n+1 555 01{:02}\n",
                    self.people[sender].name,
                    sender % 100
                ));
            }
            _ => {}
        }
        text
    }

    fn receivers(&self, random: &mut Random) -> Vec<usize> {
        let count = *random.pick(&[1, 1, 1, 2, 3, 6]);
        let mut receivers = Vec::with_capacity(count);
        for _ in 0..count {
            let receiver = random.index(self.people.len());
            if !receivers.contains(&receiver) {
                receivers.push(receiver);
            }
        }
        receivers
    }

    fn labels(&self, random: &mut Random) -> Vec<i64> {
        let count = *random.pick(&[1, 2, 2, 3]);
        let mut labels: Vec<i64> =
            (0..count).map(|_| 1 + (random.fraction().powi(2) * self.label_count as f64) as i64).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }
}

/// Returns the time as msgvault writes it.
pub(crate) fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Returns at most so many bytes of an ASCII text.
pub(crate) fn prefix(text: &str, bytes_max: usize) -> &str {
    text.get(..bytes_max).unwrap_or(text)
}

fn subject(thread: &Thread) -> String {
    if thread.latest.is_some() { format!("Re: {}", thread.title) } else { thread.title.clone() }
}

fn html(random: &mut Random, text: &str, token: &str) -> String {
    let mut html = HTML_HEAD.to_owned();
    for paragraph in text.split("\n\n") {
        let escaped = paragraph.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        html.push_str(&format!("<tr><td><p style=\"margin:0 0 12px 0\">{escaped}</p></td></tr>\n"));
    }
    html.push_str(&format!(
        "</table><p class=\"footer\">You receive this because you are on the list.\n\
         <a href=\"https://news.example/u/{token}\">Unsubscribe</a> | <a href=\"https://news.example/v/{}\">\n\
         View online</a></p></div></body></html>",
        random.hex(16)
    ));
    html
}
