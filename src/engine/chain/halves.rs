//! Each of the two chains for itself, snapshot after snapshot: where one is damaged, the other still says something.

use super::{
    ChainLink, ChainResult, Half, PageHashObject, PageHashes, PageMap, PageMapKind, load_hashes, load_map,
    misfit, read_hashes, read_map,
};
use crate::engine::metadata::MetadataReader;
use crate::format::Manifest;

/// The page map of the snapshot at hand, built on that of its parent where it is the one before.
#[derive(Debug, Default)]
pub struct RollingMap(Option<(String, PageMap)>);

impl RollingMap {
    /// Returns the page map of a snapshot with these links.
    pub async fn advance(
        &mut self,
        reader: &MetadataReader,
        manifest: &Manifest,
        links: &[ChainLink],
    ) -> ChainResult<&PageMap> {
        let before = self.0.take().filter(|(parent, _)| *parent == manifest.parent_id);
        let mut rolled = None;
        if let (Some((_, mut map)), [link, _, ..]) = (before, links) {
            let object = read_map(reader, link).await?;
            if object.kind == PageMapKind::Delta {
                map.apply(&object).map_err(|error| misfit(reader, Half::Map, link, error))?;
                rolled = Some(map);
            }
        }
        let map = match rolled {
            Some(map) => map,
            None => load_map(reader, links).await?.map,
        };
        Ok(&self.0.insert((manifest.snapshot_id.clone(), map)).1)
    }
}

/// The same for page hashes.
#[derive(Debug, Default)]
pub struct RollingHashes(Option<(String, PageHashes)>);

impl RollingHashes {
    /// Returns the page hashes of a snapshot with these links.
    pub async fn advance(
        &mut self,
        reader: &MetadataReader,
        manifest: &Manifest,
        links: &[ChainLink],
    ) -> ChainResult<&PageHashes> {
        let before = self.0.take().filter(|(parent, _)| *parent == manifest.parent_id);
        let hashes = match (before, links) {
            (Some((_, mut hashes)), [link, _, ..]) => match read_hashes(reader, link).await? {
                PageHashObject::Delta(delta) => {
                    hashes.apply(&delta).map_err(|error| misfit(reader, Half::Hashes, link, error))?;
                    hashes
                }
                PageHashObject::Keyframe(hashes) => hashes,
            },
            _ => load_hashes(reader, links).await?,
        };
        Ok(&self.0.insert((manifest.snapshot_id.clone(), hashes)).1)
    }
}
