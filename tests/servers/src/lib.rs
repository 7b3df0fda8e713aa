//! Real S3 and SFTP servers for tests, started on loopback and ended with the value that stands for them.
//!
//! One file per server. Each says which programs it needs; where they are missing a test says aloud that
//! it did not run and how to install them ([`missing`]), unless `PACKVAULT_REQUIRE` names the server: then
//! the test fails. CI names them all; those in containers where an engine is there to run them.

mod azurite;
mod container;
#[cfg(feature = "containers")]
mod engine;
mod fake_gcs;
mod faketime;
mod minio;
mod moto;
pub mod openssh;
pub mod openssh_container;
mod process;
pub mod proftpd;
mod proxy;
mod rclone_s3;
pub mod rclone_sftp;
mod require;
mod rgw;
mod s3;
mod sftp;

pub use azurite::Azurite;
pub use fake_gcs::FakeGcs;
pub use faketime::set_clock;
pub use minio::Minio;
pub use moto::Moto;
pub use process::{Process, free_port, wait_until_answers};
pub use proxy::{Direction, Proxy};
pub use rclone_s3::RcloneS3;
pub use require::{Missing, find_program, is_required, missing};
pub use rgw::Rgw;
pub use s3::{S3Place, own_s3};
pub use sftp::SftpServer;
