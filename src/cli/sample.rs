//! How much of what is stored is read in one check: a share, or a number of bytes.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::text::{self, ByteSize};

/// `4%` or `10GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum SampleSize {
    /// A part of the stored bytes: more than 0, and at most 1.
    Share(f64),
    /// A number of bytes, at least one.
    Bytes(u64),
}

impl SampleSize {
    /// Returns after how many checks all has been read, if nothing is added meanwhile; `None` where that depends on how
    /// much is stored.
    pub fn checks(self) -> Option<u64> {
        match self {
            Self::Share(share) => Some((1.0 / share).ceil() as u64),
            Self::Bytes(_) => None,
        }
    }
}

impl FromStr for SampleSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no sample; write 4% or 10GiB");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim_end().parse().map_err(|_| refused())?;
            let is_meant = percent > 0.0 && percent <= 100.0;
            return is_meant.then_some(Self::Share(percent / 100.0)).ok_or_else(refused);
        }
        let bytes: ByteSize = text.parse().map_err(|_| refused())?;
        if bytes.0 == 0 { Err(refused()) } else { Ok(Self::Bytes(bytes.0)) }
    }
}

impl TryFrom<String> for SampleSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for SampleSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{}%", share * 100.0),
            Self::Bytes(bytes) => f.write_str(&text::size(*bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_share_or_a_size() {
        assert_eq!("4%".parse(), Ok(SampleSize::Share(0.04)));
        assert_eq!("0.5 %".parse(), Ok(SampleSize::Share(0.005)));
        assert_eq!("100%".parse(), Ok(SampleSize::Share(1.0)));
        assert_eq!("10GiB".parse(), Ok(SampleSize::Bytes(10 << 30)));
        for text in ["", "%", "0%", "101%", "-4%", "NaN%", "inf%", "0", "0GiB", "4 parts", "4%%"] {
            assert!(text.parse::<SampleSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_says_after_how_many_checks_all_was_read() {
        assert_eq!(SampleSize::Share(0.04).checks(), Some(25));
        assert_eq!(SampleSize::Share(0.3).checks(), Some(4));
        assert_eq!(SampleSize::Bytes(1).checks(), None);
    }
}
