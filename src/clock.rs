//! This machine's clock, which may be wrong by millennia.

use std::time::SystemTime;

use jiff::Timestamp;

use crate::{Error, ErrorKind, Result};

/// Returns the time, or says that the clock shows one that nothing here can write down.
pub fn now() -> Result<Timestamp> {
    timestamp(SystemTime::now())
}

fn timestamp(time: SystemTime) -> Result<Timestamp> {
    Timestamp::try_from(time).map_err(|error| {
        let message =
            "the clock of this machine shows no year from 1 to 9999: set it, and run the command again";
        Error::caused(ErrorKind::Io, message, error)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_beyond_the_year_9999_is_an_error_and_no_panic() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(400_000 * 366 * 86_400);
        assert!(timestamp(far).unwrap_err().to_string().contains("clock"));
        assert!(now().is_ok());
    }
}
