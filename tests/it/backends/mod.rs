//! The danger: what holds on a local disk does not hold on a server: objects appear half written, a listing
//! lags, two writers both win, a line breaks in the middle, and a backup that looked well is none.
//!
//! One suite, run on every kind of place a repository can lie in, through the storage that production has and
//! through the program. What a server cannot promise is either done another way or refused by name, and the
//! suite says which.

#![allow(clippy::print_stdout, reason = "what a server was seen to do is told to who asks with --nocapture")]

mod clocks;
mod copies;
mod damage;
mod known;
mod second_place;
mod together;
mod whole;
mod wire;

use crate::support::backends::{Backend, Place};

/// Runs a scenario in a fresh place, unless its server is missing.
fn run(backend: Backend, scenario: fn(&Place)) {
    if let Some(place) = Place::fresh(backend) {
        scenario(&place);
    }
}

/// Names the scenarios once for each backend, so that a failure says where it is.
macro_rules! suite {
    ($module:ident, $backend:ident: $($file:ident::$scenario:ident)*) => {
        mod $module {
            $(#[test]
            fn $scenario() {
                super::run(super::Backend::$backend, super::$file::$scenario);
            })*
        }
    };
    ($module:ident, $backend:ident) => {
        suite!($module, $backend:
            whole::fixtures_list_verify_and_restore_as_their_writer_said
            whole::a_chain_goes_on_from_another_engines_and_from_our_own
            whole::an_encrypted_chain_goes_on
            whole::an_unchanged_archive_adds_nothing
            whole::objects_too_large_for_one_request_come_back
            whole::a_restore_is_checked_and_a_sample_read
            damage::damage_is_named_and_never_restored
            damage::damage_of_an_encrypted_repository_is_named_and_never_restored
            second_place::a_copy_goes_there_and_back_and_what_is_damaged_there_is_healed
            together::two_creates_at_once_end_in_two_good_snapshots
            together::of_ten_that_race_for_the_lock_one_has_it
            known::a_server_is_asked_once_and_its_answers_are_remembered
            known::secrets_stay_where_they_are
            known::the_log_of_every_command_holds_no_secret
            clocks::locks_are_judged_by_the_clock_of_the_store
        );
    };
}

suite!(memory, Memory:
    whole::fixtures_list_verify_and_restore_as_their_writer_said
    whole::a_chain_goes_on_from_another_engines_and_from_our_own
    whole::an_unchanged_archive_adds_nothing
    whole::objects_too_large_for_one_request_come_back
    together::of_ten_that_race_for_the_lock_one_has_it
);
suite!(local, Local);
suite!(ceph, Rgw);
suite!(minio, Minio);
suite!(moto, Moto);
suite!(rclone_s3, RcloneS3);
suite!(own_s3, OwnS3);
suite!(openssh, Openssh);
suite!(openssh_container, OpensshContainer);
suite!(proftpd, Proftpd);
suite!(proftpd_without_extensions, PlainProftpd);
suite!(rclone_sftp, RcloneSftp);
suite!(own_sftp, OwnSftp);
