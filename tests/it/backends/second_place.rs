//! A second place on each backend: snapshots are copied there, come back, and what is damaged there is healed.

use std::sync::Arc;

use packvault::engine::copy::{CopyOptions, copy};
use packvault::engine::heal::{HealOptions, heal};
use packvault::profiles;
use packvault::profiles::msgvault::Msgvault;
use packvault_storage::{MemoryStorage, Storage};

use crate::support::backends::{Backend, Place};
use crate::support::memory_repo::*;
use crate::support::operations::block_on;
use crate::support::scenes::objects;

pub fn a_copy_goes_there_and_back_and_what_is_damaged_there_is_healed(place: &Place) {
    let target = place.storage();
    block_on(async {
        let (source, _archive, made) = repository_of(2).await;
        there_and_back(&shared(&source), &target, Kind::Encrypted, &made).await;
    });
}

async fn there_and_back(source: &Arc<dyn Storage>, target: &Arc<dyn Storage>, kind: Kind, made: &[Made]) {
    make_repository(target.as_ref(), kind).await.unwrap();
    copied(source, target).await;
    assert_sound(target.clone(), "the copy").await;
    let back: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    make_repository(back.as_ref(), Kind::Plain).await.unwrap();
    copied(target, &back).await;
    for made in made {
        assert_comes_back(back.clone(), made, "there and back").await;
    }
    let mut whole = objects(target).await;
    whole.retain(|key, _| {
        ["packs/", "indexes/", "snapshots/"].iter().any(|folder| key.as_str().starts_with(folder))
    });
    // The first object of each folder is cut in half.
    for folder in ["packs/", "indexes/", "snapshots/"] {
        let (key, bytes) = whole.iter().find(|(key, _)| key.as_str().starts_with(folder)).unwrap();
        target.remove(key).await.unwrap();
        target.create(key, bytes.slice(..bytes.len() / 2)).await.unwrap();
    }
    let (here, there) = (opened(target.clone()).await.unwrap(), opened(source.clone()).await.unwrap());
    let report = heal(&here, Some(&there), Arc::new(Msgvault), &HealOptions::default(), &context()).await;
    let report = report.unwrap();
    assert!(report.is_whole() && report.healed.len() >= 3, "{report:#?}");
    assert_sound(target.clone(), "healed").await;
    let kept = objects(target).await.into_keys().filter(|key| key.as_str().starts_with("damaged/")).count();
    assert!(kept >= 3, "what was damaged is kept");
}

async fn copied(from: &Arc<dyn Storage>, to: &Arc<dyn Storage>) {
    let (from, to) = (opened(from.clone()).await.unwrap(), opened(to.clone()).await.unwrap());
    let report = copy(&from, &to, profiles::unnamed(), &CopyOptions::default(), &context()).await.unwrap();
    assert!(report.is_whole(), "{report:#?}");
}

#[test]
fn every_kind_of_place_is_a_copy_of_every_other() {
    let kinds = [Backend::Local, Backend::Rgw, Backend::Openssh];
    for (number, from) in kinds.into_iter().enumerate() {
        for to in kinds.into_iter().filter(|to| *to != from) {
            let (Some(one), Some(other)) = (Place::fresh(from), Place::fresh(to)) else { continue };
            let (one, other) = (one.storage(), other.storage());
            block_on(async {
                let (source, _archive, made) = repository_of_kind(KINDS[number % 2], 1).await;
                for (key, bytes) in source.objects() {
                    one.create(&key, bytes).await.unwrap();
                }
                there_and_back(&one, &other, KINDS[1 - number % 2], &made).await;
            });
        }
    }
}
