//! Who listens at an address of this machine, by `/proc`.
//!
//! Each socket has a number that no other one has. The tables of the network say which sockets listen where, and the
//! descriptors of a process which sockets are its own.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The tables of listening sockets.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The state of a socket that listens, as the tables name it.
const LISTENS: &str = "0A";
/// Sockets that share a port.
const SOCKETS_MAX: usize = 1000;

/// Tells whether this process, and no other, listens wherever a connection to the address may end. That nobody may see
/// is an error.
pub fn is_listened_at_by(address: SocketAddr, pid: u32) -> io::Result<bool> {
    let mut sockets = HashSet::new();
    for table in TABLES {
        listening(Path::new(table), address, &mut sockets)?;
    }
    if sockets.is_empty() || sockets.len() > SOCKETS_MAX {
        return Ok(false);
    }
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let link = std::fs::read_link(entry?.path());
        // A descriptor that was closed meanwhile is no socket that listens.
        if let Some(socket) = link.ok().as_deref().and_then(Path::to_str).and_then(number_of) {
            sockets.remove(&socket);
        }
    }
    Ok(sockets.is_empty())
}

/// Adds the sockets of a table that may take a connection to the address.
fn listening(table: &Path, address: SocketAddr, sockets: &mut HashSet<u64>) -> io::Result<()> {
    let table = match File::open(table) {
        Ok(table) => table,
        // A machine without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for line in BufReader::new(table).lines().skip(1) {
        let found = parse(&line?).filter(|(local, _)| takes(*local, address));
        sockets.extend(found.map(|(_, socket)| socket));
    }
    Ok(())
}

/// Tells whether a socket that listens there may take a connection to the address.
fn takes(local: SocketAddr, address: SocketAddr) -> bool {
    let (local_ip, ip) = (local.ip().to_canonical(), address.ip().to_canonical());
    local.port() == address.port() && (local_ip == ip || local_ip.is_unspecified())
}

/// Returns where the socket of a line listens, and its number; nothing of one that does not listen.
fn parse(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, socket) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != LISTENS {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    Some((SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?), socket.parse().ok()?))
}

/// Parses words of four bytes, each written as the number that its bytes are on this machine.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(8 * at..8 * at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
        }
        _ => None,
    }
}

/// Returns the number of a socket, of what the link of its descriptor says.
fn number_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_that_listens_is_found_by_its_address_and_no_other_is() {
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        for (bound, asked) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let address = SocketAddr::new(asked.parse().unwrap(), listener.local_addr().unwrap().port());
            assert!(is_listened_at_by(address, std::process::id()).unwrap(), "{bound}");
            assert!(!is_listened_at_by(address, other.id()).unwrap(), "{bound}");
            drop(listener);
            assert!(!is_listened_at_by(address, std::process::id()).unwrap(), "{bound}: nobody listens");
        }
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn whose_descriptors_cannot_be_seen_nothing_is_known_of() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_listened_at_by(listener.local_addr().unwrap(), u32::MAX).is_err());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_line_of_the_table_says_where_a_socket_listens() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1";
        assert_eq!(parse(line), Some(("127.0.0.1:8080".parse().unwrap(), 4711)));
        let six = line.replace("0100007F", "00000000000000000000000001000000");
        assert_eq!(parse(&six), Some(("[::1]:8080".parse().unwrap(), 4711)));
        let mapped = line.replace("0100007F", "0000000000000000FFFF00000100007F");
        assert!(takes(parse(&mapped).unwrap().0, "127.0.0.1:8080".parse().unwrap()));
        assert_eq!(parse(&line.replace(" 0A ", " 01 ")), None, "a connection");
        assert_eq!(parse("  sl  local_address rem_address   st"), None);
    }
}
