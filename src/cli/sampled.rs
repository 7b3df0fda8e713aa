//! `packvault verify --sample`: reads a part of the packs, those that were looked at longest ago.

use std::collections::HashMap;

use packvault::Result;
use packvault::engine::report::{SampleCoverage, VerifyReport};
use packvault::engine::verify::sample::{Budget, Rank, Sample};
use packvault::engine::verify::verify_sample;
use packvault::ledger::{Access, Ledger};
use packvault::profiles;

use super::history::time;
use super::record::now_ms;
use super::sample::SampleSize;
use super::session::Session;
use super::verify::{Arguments, Opened};

/// Reads the sample, and says what was read in all, as far as it is recorded.
pub async fn check(arguments: &Arguments, size: SampleSize, session: &Session) -> Result<VerifyReport> {
    let Opened { repository, selection, .. } = arguments.open(session).await?;
    let ranks = ranks(session);
    let is_remembered = ranks.is_some();
    let budget = match size {
        SampleSize::Share(share) => Budget::share(share),
        SampleSize::Bytes(bytes) => Budget::Bytes(bytes),
    };
    let sample = Sample { budget, ranks: ranks.ok_or(now_ms() as u64) };
    let context = session.context(arguments.jobs);
    let options = arguments.options();
    let mut report =
        verify_sample(&repository, profiles::unnamed(), selection, options, Some(sample), &context).await?;
    session.record().problems(report.problems.len() as u64);
    let coverage = session.record().reading_is_over(session).then(|| coverage(session)).flatten();
    if !is_remembered || coverage.is_none() {
        report.warnings.push(
            "it cannot be recorded which packs were read: they are chosen by chance, and it is not known when all of \
             them will have been read"
                .to_owned(),
        );
    }
    if let Some(sample) = &mut report.sample {
        if sample.damaged_packs_left > 0 {
            report.warnings.push(format!(
                "damage was found before in {} more packs, which were not read again this time: `verify --all` reads \
                 all",
                sample.damaged_packs_left
            ));
        }
        sample.coverage = coverage;
    }
    Ok(report)
}

/// Returns what is known of packs; none where nothing can be remembered.
fn ranks(session: &Session) -> Option<HashMap<String, Rank>> {
    session.record().id()?;
    let ledger = Ledger::open(&session.settings().state()?, Access::Read).ledger?;
    let place = ledger.place(&session.record().place()?).ok()?;
    let Some(place) = place else { return Some(HashMap::new()) };
    let ranks = ledger.pack_ranks(place.id).ok()?;
    let rank = |(pack, rank): (String, packvault::ledger::PackRank)| {
        (pack, Rank { order: rank.order, is_damaged: rank.is_damaged })
    };
    Some(ranks.into_iter().map(rank).collect())
}

fn coverage(session: &Session) -> Option<SampleCoverage> {
    let ledger = Ledger::open(&session.settings().state()?, Access::Read).ledger?;
    let place = ledger.place(&session.record().place()?).ok()??;
    let found = ledger.coverage(place.id, 0, now_ms()).ok()?;
    Some(SampleCoverage {
        since: time(found.known_since_ms?),
        packs: found.read_packs,
        bytes: found.read_bytes,
        oldest_at: found.oldest_read_ms.map(time),
        packs_unread: found.never_read_packs,
    })
}
