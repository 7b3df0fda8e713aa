//! What the application does next: transactions at random, and the content as they leave it.
//!
//! A transaction is planned from the content alone, so that it can be rolled back without a trace. The content
//! is bounded: beyond a number of rows more is deleted than added.

use std::collections::{BTreeSet, HashMap, VecDeque};

use fastrand::Rng;

use crate::ledger::Digest;
use crate::schema;

/// Items there are at most; their texts are 1,000 bytes on average.
const ITEMS_MAX: usize = 5_000;

/// Entries the journal keeps.
const JOURNAL_MAX: usize = 20_000;

/// Attachments there are at most.
const ATTACHMENTS_MAX: usize = 150;

/// One in so many transactions adds an attachment.
const ATTACH_ONE_IN: u32 = 150;

/// One in so many attachments is larger than what packvault keeps in memory.
const LARGE_ONE_IN: u32 = 80;

/// The size of such a one.
const LARGE_BYTES: usize = 5_000_000;

/// One in so many transactions is rolled back.
const ROLL_BACK_ONE_IN: u32 = 40;

/// One step of a transaction.
#[derive(Debug)]
pub enum Step {
    /// A new item.
    Insert { id: i64, body: String },
    /// Another text and version.
    Update { id: i64, version: i64, body: String },
    /// An item goes.
    Delete { id: i64 },
    /// A new attachment, whose file lies there before.
    Attach { id: i64, name: String },
    /// An attachment goes; its file may go after it.
    Detach { id: i64, name: String },
}

/// A transaction to be made.
#[derive(Debug)]
pub struct Plan {
    /// Its number.
    pub transaction: u64,
    /// What the journal says of it.
    pub note: String,
    /// What it does.
    pub steps: Vec<Step>,
    /// Whether it is taken back instead of being committed.
    pub is_rolled_back: bool,
    /// The last entry of the journal that goes.
    pub forgotten: Option<i64>,
}

/// The rows of the database, as bookkeeping has them.
#[derive(Debug, Default)]
pub struct Content {
    digest: Digest,
    transactions: u64,
    journal: VecDeque<(i64, Digest)>,
    items: Vec<i64>,
    item_rows: HashMap<i64, (i64, Digest)>,
    attachments: VecDeque<(i64, String)>,
    last_id: i64,
}

impl Content {
    /// Returns the empty content: no transaction was made yet.
    pub fn new() -> Self {
        Self { digest: schema::counter(0), ..Self::default() }
    }

    /// Returns the digest of all rows.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Plans the next transaction; `store` makes a file of random content of so many bytes, and names it.
    pub fn plan(
        &self,
        random: &mut Rng,
        store: impl FnOnce(&mut Rng, usize) -> anyhow::Result<String>,
    ) -> anyhow::Result<Plan> {
        let transaction = self.transactions + 1;
        let mut steps = Vec::new();
        let mut next_id = self.last_id + 1;
        let is_full = self.items.len() >= ITEMS_MAX;
        for _ in 0..random.u32(if is_full { 0..2 } else { 1..6 }) {
            steps.push(Step::Insert { id: next_id, body: text(random) });
            next_id += 1;
        }
        let touched: BTreeSet<i64> = (0..random.u32(0..5)).filter_map(|_| self.some_item(random)).collect();
        for id in touched {
            if random.u32(0..4) == 0 || is_full && random.bool() {
                steps.push(Step::Delete { id });
            } else {
                let version = self.item_rows[&id].0 + 1;
                steps.push(Step::Update { id, version, body: text(random) });
            }
        }
        if random.u32(0..ATTACH_ONE_IN) == 0 {
            let is_large = random.u32(0..LARGE_ONE_IN) == 0;
            let bytes = if is_large { LARGE_BYTES } else { 1 << random.u32(8..18) };
            let bytes = bytes + random.usize(0..bytes);
            let name = store(random, bytes)?;
            steps.push(Step::Attach { id: next_id, name });
        }
        if self.attachments.len() > ATTACHMENTS_MAX
            && let Some((id, name)) = self.attachments.front()
        {
            steps.push(Step::Detach { id: *id, name: name.clone() });
        }
        let forgotten = (self.journal.len() >= JOURNAL_MAX).then(|| self.journal[JOURNAL_MAX / 10].0);
        let is_rolled_back = random.u32(0..ROLL_BACK_ONE_IN) == 0;
        let note = format!("{} steps, {:016x}", steps.len(), random.u64(..));
        Ok(Plan { transaction, note, steps, is_rolled_back, forgotten })
    }

    /// Notes what a transaction that is about to be committed changes.
    pub fn apply(&mut self, plan: &Plan) {
        self.digest.remove(schema::counter(self.transactions));
        self.transactions = plan.transaction;
        self.digest.add(schema::counter(self.transactions));
        let id = plan.transaction as i64;
        let entry = schema::entry(id, &plan.note);
        self.digest.add(entry);
        self.journal.push_back((id, entry));
        while let Some((_, entry)) = self.journal.pop_front_if(|(id, _)| Some(*id) <= plan.forgotten) {
            self.digest.remove(entry);
        }
        for step in &plan.steps {
            self.apply_step(step);
        }
    }

    fn apply_step(&mut self, step: &Step) {
        match step {
            Step::Insert { id, body } => {
                self.items.push(*id);
                self.put_item(*id, 1, body);
            }
            Step::Update { id, version, body } => self.put_item(*id, *version, body),
            Step::Delete { id } => {
                self.items.retain(|item| item != id);
                if let Some((_, row)) = self.item_rows.remove(id) {
                    self.digest.remove(row);
                }
            }
            Step::Attach { id, name } => {
                self.last_id = self.last_id.max(*id);
                self.digest.add(schema::attachment(*id, name));
                self.attachments.push_back((*id, name.clone()));
            }
            Step::Detach { id, name } => {
                self.digest.remove(schema::attachment(*id, name));
                self.attachments.retain(|(attachment, _)| attachment != id);
            }
        }
    }

    fn put_item(&mut self, id: i64, version: i64, body: &str) {
        self.last_id = self.last_id.max(id);
        let row = schema::item(id, version, body);
        if let Some((_, before)) = self.item_rows.insert(id, (version, row)) {
            self.digest.remove(before);
        }
        self.digest.add(row);
    }

    /// Returns an item; the newer it is the likelier, as with people's data.
    fn some_item(&self, random: &mut Rng) -> Option<i64> {
        let age = (random.f64().powi(3) * self.items.len() as f64) as usize;
        self.items.iter().rev().nth(age).copied()
    }
}

/// Returns a text of words, which compresses as texts do.
fn text(random: &mut Rng) -> String {
    const SYLLABLES: [&str; 32] = [
        "an", "ber", "con", "de", "er", "fol", "ge", "hen", "in", "ka", "la", "mer", "ne", "or", "pa", "qui",
        "re", "sen", "ter", "un", "ver", "wa", "xe", "yo", "zu", "al", "ed", "il", "os", "um", "tra", "sto",
    ];
    let bytes = random.usize(50..2000);
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        for _ in 0..random.u32(1..4) {
            text.push_str(SYLLABLES[random.usize(..SYLLABLES.len())]);
        }
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_stays_bounded_and_its_digest_is_that_of_its_rows() {
        let (mut content, mut random) = (Content::new(), Rng::with_seed(7));
        for number in 0..4_000_u32 {
            let store = |random: &mut Rng, _: usize| Ok(format!("{:016x}", random.u64(..)));
            let plan = content.plan(&mut random, store).unwrap();
            assert_eq!(plan.transaction, content.transactions + 1);
            if !plan.is_rolled_back {
                content.apply(&plan);
            }
            assert!(content.items.len() <= ITEMS_MAX + 6, "{number}");
        }
        let mut digest = schema::counter(content.transactions);
        content.item_rows.values().for_each(|(_, row)| digest.add(*row));
        content.journal.iter().for_each(|(_, row)| digest.add(*row));
        content.attachments.iter().for_each(|(id, name)| digest.add(schema::attachment(*id, name)));
        assert_eq!(content.digest(), digest);
        assert_eq!(content.items.len(), content.item_rows.len());
    }
}
