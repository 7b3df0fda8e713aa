//! The proof that a daemon is the one of its record: it knows the record's token, which it never says.
//!
//! The challenge is fresh for every proof, so an answer overheard before is worth nothing.
//!
//! Daemons before msgvault 0.19 cannot prove it. Of those the system has to tell: the process of that number started at
//! the very millisecond that the record names, and it alone listens at the record's address.

use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;

use super::client::Client;
use super::process::{self, Process};
use super::record::Record;
use super::socket;
use crate::{Error, ErrorKind, Result};

/// What the proof is about; another purpose of the token would have another name.
const CONTEXT: &[u8] = b"msgvault-daemon-identity-v1";

/// Has the daemon prove that it knows the token of its record, or sees that it can be no other.
pub fn prove(client: &Client, record: &Record) -> Result<()> {
    let refused = |why: &str| Error::new(ErrorKind::Refused, why);
    let Some(token) = &record.shutdown_token else { return see(record) };
    let challenge = challenge()?;
    let answer = client.identify(&hex::encode(challenge))?;
    match answer.status {
        204 => {}
        404 | 405 => return see(record),
        _ => return Err(refused(&format!("asked to prove itself, it {}", answer.describe()))),
    }
    let proof = answer.proof.as_deref().and_then(|text| hex::decode(text).ok()).unwrap_or_default();
    if is_proof(token.expose().as_bytes(), record.pid, &challenge, &proof) {
        return Ok(());
    }
    Err(refused("whoever listens at its address is not the archive's daemon: its proof is wrong"))
}

/// Sees that it is the process of the record that listens at its address.
fn see(record: &Record) -> Result<()> {
    let why = match socket::is_listened_at_by(record.address, record.pid) {
        _ if !is_start_of(record, process::look(record.pid)) => {
            "its record does not name the moment at which its process started"
        }
        Ok(true) => return Ok(()),
        Ok(false) => "it is not its process alone that listens at its address",
        Err(_) => "this user cannot see who listens at its address",
    };
    let message = format!(
        "it is too old to prove that it is the archive's daemon, and {why}: stop msgvault, or upgrade it"
    );
    Err(Error::new(ErrorKind::Refused, message))
}

fn is_start_of(record: &Record, process: Process) -> bool {
    let Process::Lives { started_at } = process else { return false };
    started_at.is_some() && record.create_time == started_at
}

fn challenge() -> Result<[u8; 32]> {
    let mut challenge = [0; 32];
    let filled = getrandom(&mut challenge, GetRandomFlags::empty());
    match filled {
        Ok(32) => Ok(challenge),
        Ok(_) => Err(Error::new(ErrorKind::Io, "the system gives no random bytes")),
        Err(errno) => Err(Error::caused(ErrorKind::Io, "the system gives no random bytes", errno)),
    }
}

/// Compares in constant time.
fn is_proof(token: &[u8], pid: u32, challenge: &[u8; 32], proof: &[u8]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("HMAC takes keys of any length");
    for part in [CONTEXT, &[0], pid.to_string().as_bytes(), &[0], challenge] {
        mac.update(part);
    }
    mac.verify_slice(proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed apart from this code, with Python's `hmac`.
    const PROOF: &str = "8db215a2620dee332073b968bd548ba673a5eaf5b2e8aeddddd30ed3e47da108";

    #[test]
    fn the_proof_is_over_context_process_and_challenge() {
        let proof = hex::decode(PROOF).unwrap();
        let challenge: [u8; 32] = std::array::from_fn(|index| index as u8);
        assert!(is_proof(b"token", 4711, &challenge, &proof));
        assert!(!is_proof(b"Token", 4711, &challenge, &proof));
        assert!(!is_proof(b"token", 4712, &challenge, &proof));
        assert!(!is_proof(b"token", 4711, &[0; 32], &proof));
        assert!(!is_proof(b"token", 4711, &challenge, &proof[..31]));
        assert!(!is_proof(b"token", 4711, &challenge, b""));
    }

    #[test]
    fn no_two_challenges_are_the_same() {
        assert_ne!(challenge().unwrap(), challenge().unwrap());
    }
}
