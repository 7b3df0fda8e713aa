//! What the configuration says of the schedule of an archive, and of who is told how a run ended.

use std::fmt;
use std::path::Path;

use packvault::engine::schedule::Schedule;
use packvault::{Cancel, Result};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::keep::Span;
use super::super::ping;
use super::super::sample::SampleSize;
use super::archive::Archive;
use super::repository::{IS_RELATIVE, is_relative_program};
use super::secret::SecretSource;
use super::{Settings, usage};

/// `verify = { every = "1d", sample = "4%" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// How often a share of the stored bytes is read.
    pub every: Span,
    /// How much is read each time.
    pub sample: SampleSize,
}

/// `[notify]` and `[archive.NAME.notify]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// The program that is run when something failed.
    pub on_failure: Vec<String>,
    /// The program that is run when all was done.
    pub on_success: Vec<String>,
    /// The program that is run in any case.
    pub after: Vec<String>,
    ping: Option<PingSource>,
}

/// The URL that is asked at the beginning and at the end. It is a secret: whoever knows it can say that all is well.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum PingSource {
    Plain(String),
    Source(SecretSource),
}

impl fmt::Debug for PingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PingSource")
    }
}

impl Notify {
    /// Returns the key that cannot be meant, and why.
    pub(super) fn refusal(&self) -> Option<(&'static str, &'static str)> {
        let programs =
            [("on_failure", &self.on_failure), ("on_success", &self.on_success), ("after", &self.after)];
        let is_relative =
            |words: &[String]| words.first().is_some_and(|program| is_relative_program(program));
        if let Some((key, _)) = programs.iter().find(|(_, words)| is_relative(words)) {
            return Some((key, IS_RELATIVE));
        }
        let why = match self.ping.as_ref()? {
            PingSource::Plain(url) => ping::refusal(url),
            PingSource::Source(source) => source.refusal(),
        };
        why.map(|why| ("ping", why))
    }

    /// Returns the URL to ask, if there is one; fetches it where it is named by reference.
    pub fn ping(&self, home: Option<&Path>, cancel: &Cancel) -> Result<Option<Zeroizing<String>>> {
        let url = match &self.ping {
            None => return Ok(None),
            Some(PingSource::Plain(url)) => Zeroizing::new(url.clone()),
            Some(PingSource::Source(source)) => source.fetch("ping", home, cancel)?,
        };
        match ping::refusal(&url) {
            Some(why) => Err(usage(format!("ping {why}"))),
            None => Ok(Some(url)),
        }
    }
}

impl Archive {
    /// Returns its schedule, as the configuration says it; `is_removable` tells whether snapshots may be removed.
    pub fn schedule(&self, is_removable: bool) -> Schedule {
        let Some(section) = &self.section else { return Schedule::default() };
        let common = &section.common;
        let span = |span: Option<Span>| span.map(Span::duration);
        Schedule {
            max_age: span(common.max_age),
            verify: common.verify.as_ref().map(|sampling| sampling.every.duration()),
            restore_check: span(common.restore_check),
            prune: span(common.prune).filter(|_| is_removable),
            forgets: is_removable && !common.keep.is_empty(),
            copies: self.copies().to_vec(),
        }
    }

    /// Returns how much of the stored bytes is read each time.
    pub fn sampling(&self) -> Option<&Sampling> {
        self.section.as_ref()?.common.verify.as_ref()
    }

    /// Returns who is told how a run of this archive ended.
    pub fn notify(&self) -> Notify {
        self.section.as_ref().map(|section| section.common.notify.clone()).unwrap_or_default()
    }
}

impl Settings {
    /// Returns who is told how a whole run ended.
    pub fn notify(&self) -> Notify {
        self.file.notify.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<(&'static str, &'static str)> {
        toml::from_str::<Notify>(text).unwrap().refusal()
    }

    #[test]
    fn who_is_told_is_said_by_lists_of_words_and_a_url() {
        for sound in [
            "",
            "on_failure = ['mail-me', '--now']",
            "after = ['/usr/local/bin/log']",
            "ping = 'https://hc-ping.com/00000000-0000-0000-0000-000000000000'",
            "ping = { file = '/etc/packvault/ping' }",
            "ping = 'http://127.0.0.1:8000/ping/x'",
        ] {
            assert_eq!(refused(sound), None, "{sound}");
        }
        for (text, key) in [
            ("on_failure = ['bin/mail-me']", "on_failure"),
            ("after = ['./log']", "after"),
            ("ping = 'http://hc-ping.com/x'", "ping"),
            ("ping = 'hc-ping.com/x'", "ping"),
            ("ping = 'https://ann:hush@hc-ping.com/x'", "ping"),
            ("ping = { file = 'ping' }", "ping"),
        ] {
            assert_eq!(refused(text).map(|(key, _)| key), Some(key), "{text}");
        }
    }

    #[test]
    fn the_url_is_shown_nowhere() {
        let notify: Notify = toml::from_str("ping = 'https://hc-ping.com/hush'").unwrap();
        assert!(!format!("{notify:?}").contains("hush"));
        let wrong: Notify = toml::from_str("ping = 'ftp://hush'").unwrap();
        assert!(!wrong.refusal().unwrap().1.contains("hush"));
    }
}
