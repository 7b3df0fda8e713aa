//! The servers, each started anew for one round, so that none fills up.

use std::sync::Arc;

use clap::ValueEnum;
use packvault_test_servers::openssh::{self, OpensshOptions};
use packvault_test_servers::{Missing, Moto, RcloneS3, Rgw, S3Place, SftpServer, missing};

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// OpenSSH's SFTP server
    Openssh,
    /// Ceph's S3 gateway, over a store in memory
    Rgw,
    /// `rclone serve s3`, over a folder
    Rclone,
    /// moto, an S3 server in Python: slow, whoever asks
    Moto,
}

/// A running server; it ends with this value.
pub enum Server {
    /// Speaks SFTP.
    Sftp(SftpServer),
    /// Ceph's gateway.
    Rgw(Arc<Rgw>),
    /// rclone.
    Rclone(RcloneS3),
    /// moto.
    Moto(Moto),
}

impl Kind {
    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Openssh => "openssh",
            Self::Rgw => "rgw",
            Self::Rclone => "rclone s3",
            Self::Moto => "moto",
        }
    }

    /// Starts one; `None` where it is missing, which was then said aloud.
    pub fn start(self) -> Option<Server> {
        let started: Result<Server, Missing> = match self {
            Self::Openssh => openssh::start(OpensshOptions::default()).map(Server::Sftp),
            Self::Rgw => Rgw::shared().map(Server::Rgw),
            Self::Rclone => RcloneS3::start().map(Server::Rclone),
            Self::Moto => Moto::start().map(Server::Moto),
        };
        started.map_err(|lack| missing(&lack)).ok()
    }
}

impl Server {
    /// Returns where the server is, if it speaks S3.
    pub fn s3(&self) -> Option<&S3Place> {
        match self {
            Self::Sftp(_) => None,
            Self::Rgw(server) => Some(server.place()),
            Self::Rclone(server) => Some(server.place()),
            Self::Moto(server) => Some(server.place()),
        }
    }

    /// Returns the port on which it listens.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Sftp(server) => server.port,
            _ => self.s3()?.endpoint.rsplit(':').next()?.parse().ok(),
        }
    }
}
