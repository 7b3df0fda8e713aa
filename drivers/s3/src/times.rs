//! Times as the store writes them, in headers and in XML.

use std::time::SystemTime;

use jiff::fmt::rfc2822::DateTimeParser;

static PARSER: DateTimeParser = DateTimeParser::new();

/// Reads the time of a `Date` or `Last-Modified` header.
pub(crate) fn parse_http_date(text: &str) -> Option<SystemTime> {
    PARSER.parse_timestamp(text).ok().and_then(system_time)
}

/// Reads the time of an answer's XML.
pub(crate) fn parse_xml_time(text: &str) -> Option<SystemTime> {
    text.trim().parse().ok().and_then(system_time)
}

fn system_time(time: jiff::Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(time).ok()
}

/// Returns a time as people read it.
pub(crate) fn shown(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "a time outside every calendar".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_of_answers_are_read_in_both_forms() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(parse_xml_time("1994-11-06T08:49:37.000Z"), Some(time));
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(time));
        assert_eq!(parse_xml_time("yesterday"), None);
        assert_eq!(parse_http_date("no date"), None);
        assert_eq!(super::shown(time), "1994-11-06 08:49:37 UTC");
    }
}
