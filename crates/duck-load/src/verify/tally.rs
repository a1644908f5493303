//! Compares what is in the table with what was sent.

use std::collections::{BTreeMap, HashMap};

use super::{Offender, Verification};
use crate::digest::Digest;
use crate::ids::BLOCK_BITS;
use crate::ledger::Ledger;

/// How many blocks of ids a query names; it has a list of them, and a server has a limit on its length.
const MAX_BLOCKS_NAMED: usize = 4096;

/// Takes what the table holds of each batch, in any order, and comes to a verdict.
pub(super) struct Tally<'a> {
    writers: Vec<Writer<'a>>,
    /// The writers whose ids lie in a block: all of them in a plain run, of producers mostly one.
    by_block: BTreeMap<i64, Vec<usize>>,
    rows_per_batch: u64,
    proof: Verification,
}

struct Writer<'a> {
    ledger: &'a Ledger,
    found: Bits,
    /// How many of the batches found are acknowledged, whatever became of them.
    acknowledged_found: u64,
}

/// What one batch came to.
enum Finding {
    Once,
    Doubled,
    Damaged(&'static str),
}

impl<'a> Tally<'a> {
    pub(super) fn new(ledgers: &'a [Ledger], rows_per_batch: u64) -> Self {
        let mut by_block: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (writer, ledger) in ledgers.iter().enumerate() {
            for block in ledger.source().ids().blocks(ledger.sent()) {
                by_block.entry(block).or_default().push(writer);
            }
        }
        let unacknowledged: u64 = ledgers.iter().map(Ledger::unacknowledged).sum();
        let sent: u64 = ledgers.iter().map(Ledger::sent).sum();
        let acknowledged = sent - unacknowledged;
        Self {
            writers: ledgers.iter().map(Writer::new).collect(),
            by_block,
            rows_per_batch,
            proof: Verification {
                batches_acknowledged: acknowledged,
                batches_unacknowledged: unacknowledged,
                rows_acknowledged: acknowledged.saturating_mul(rows_per_batch),
                ..Verification::default()
            },
        }
    }

    /// The SQL condition that only rows of this run meet, and few others; `None` when nothing was sent.
    pub(super) fn condition(&self) -> Option<String> {
        let sent = self.writers.iter().filter(|w| w.ledger.sent() > 0);
        let ranges = sent.map(|w| w.ledger.source().ids().range(w.ledger.sent()));
        let (first, last) = ranges.reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))?;
        let range = format!("batch_id BETWEEN {first} AND {last}");
        if self.by_block.len() > MAX_BLOCKS_NAMED {
            return Some(range);
        }
        let blocks: Vec<_> = self.by_block.keys().map(ToString::to_string).collect();
        // The range lets DuckDB skip what it has statistics of; the blocks leave out who loads at the same time.
        Some(format!(
            "{range} AND (batch_id >> {BLOCK_BITS}) IN ({})",
            blocks.join(", ")
        ))
    }

    /// Takes what the table holds of one batch. Batches of others are none of its business.
    pub(super) fn found(&mut self, id: i64, digest: &Digest) {
        let Some((writer, sequence)) = self.owner(id) else {
            return;
        };
        let rows = u64::try_from(digest.rows).unwrap_or(0);
        self.proof.rows_found += rows;
        let it = &mut self.writers[writer];
        let found_before = it.found.set(sequence);
        debug_assert!(!found_before, "a GROUP BY names a batch once");
        let is_acknowledged = it.ledger.is_acknowledged(sequence);
        it.acknowledged_found += u64::from(is_acknowledged && !found_before);
        let finding = it.judge(sequence, digest, self.rows_per_batch);
        self.count(writer, sequence, rows, &finding);
    }

    /// The verdict.
    pub(super) fn finish(mut self) -> Verification {
        for writer in 0..self.writers.len() {
            let it = &self.writers[writer];
            self.proof.batches_missing += it.missing();
            let room = Verification::MAX_OFFENDERS - self.proof.offenders.len();
            for sequence in it.first_missing(room) {
                self.name(writer, sequence, 0, "it is not there");
            }
        }
        let proof = &mut self.proof;
        proof.verified = proof.batches_found_once == proof.batches_acknowledged
            && proof.batches_missing + proof.batches_doubled + proof.batches_damaged == 0;
        self.proof
    }

    /// The verdict when the table could not be asked.
    pub(super) fn fail(self, error: String) -> Verification {
        let proof = self.proof;
        Verification {
            batches_acknowledged: proof.batches_acknowledged,
            batches_unacknowledged: proof.batches_unacknowledged,
            rows_acknowledged: proof.rows_acknowledged,
            error: Some(error),
            ..Verification::default()
        }
    }

    fn owner(&self, id: i64) -> Option<(usize, u64)> {
        let in_block = self.by_block.get(&(id >> BLOCK_BITS))?;
        in_block.iter().find_map(|&writer| {
            let ledger = self.writers[writer].ledger;
            let sequence = ledger.source().ids().sequence(id)?;
            (sequence <= ledger.sent()).then_some((writer, sequence))
        })
    }

    fn count(&mut self, writer: usize, sequence: u64, rows: u64, finding: &Finding) {
        let ledger = self.writers[writer].ledger;
        let acknowledged = ledger.is_acknowledged(sequence);
        let proof = &mut self.proof;
        let problem = match finding {
            Finding::Once if acknowledged => {
                proof.batches_found_once += 1;
                return;
            }
            Finding::Once => {
                proof.batches_unacknowledged_present += 1;
                return;
            }
            Finding::Doubled => {
                proof.batches_doubled += 1;
                let sent = self.rows_per_batch;
                format!("{rows} rows, {sent} were sent; or were they sent with other --rows?")
            }
            Finding::Damaged(how) => {
                proof.batches_damaged += 1;
                format!("{rows} rows of {}, {how}", self.rows_per_batch)
            }
        };
        self.name(writer, sequence, rows, &problem);
    }

    /// Names a batch that breaks the proof, if it is one of the first few.
    fn name(&mut self, writer: usize, sequence: u64, rows: u64, problem: &str) {
        let ledger = self.writers[writer].ledger;
        if self.proof.offenders.len() < Verification::MAX_OFFENDERS {
            let acknowledged = ledger.is_acknowledged(sequence);
            let ack = if acknowledged { "" } else { "not " };
            self.proof.offenders.push(Offender {
                batch_id: ledger.source().ids().id(sequence),
                writer: writer + 1,
                sequence,
                rows_found: rows,
                problem: format!("{ack}acknowledged: {problem}"),
            });
        }
    }
}

impl<'a> Writer<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        Self {
            ledger,
            found: Bits::default(),
            acknowledged_found: 0,
        }
    }

    /// How many acknowledged batches were not found.
    fn missing(&self) -> u64 {
        let acknowledged = self.ledger.sent() - self.ledger.unacknowledged();
        acknowledged - self.acknowledged_found
    }

    /// The first of them, at most so many. It passes over those that were found, and no others but the few without an ack.
    fn first_missing(&self, most: usize) -> Vec<u64> {
        let missing = usize::try_from(self.missing()).unwrap_or(usize::MAX);
        let is_missing =
            |sequence: &u64| !self.found.get(*sequence) && self.ledger.is_acknowledged(*sequence);
        let sequences = (1..=self.ledger.sent()).filter(is_missing);
        sequences.take(missing.min(most)).collect()
    }

    fn judge(&self, sequence: u64, digest: &Digest, rows: u64) -> Finding {
        let found = u64::try_from(digest.rows).unwrap_or(0);
        if found > rows {
            return Finding::Doubled;
        }
        if found < rows {
            return Finding::Damaged(
                "the others are missing; or were they sent with other --rows?",
            );
        }
        let source = self.ledger.source();
        let sent = Digest::of(&source.batch(sequence));
        if (digest.values, digest.pairs) != (sent.values, sent.pairs) {
            return Finding::Damaged("with other content; were they sent with this --seed?");
        }
        // When another batch was made is not known any more, but all its rows have the same time.
        let [first, last] = digest.times;
        let time = source.timestamp(sequence).or(first);
        if time.is_none() || [first, last] != [time; 2] {
            return Finding::Damaged("with other timestamps");
        }
        Finding::Once
    }
}

/// A bit for each batch of a writer, in words by their place: only those in which one is set, for a writer may have come far and
/// have little in the table.
#[derive(Default)]
struct Bits(HashMap<u64, u64>);

impl Bits {
    fn place(sequence: u64) -> (u64, u64) {
        (sequence / 64, 1 << (sequence % 64))
    }

    /// Sets the bit and says whether it was set.
    fn set(&mut self, sequence: u64) -> bool {
        let (place, bit) = Self::place(sequence);
        let word = self.0.entry(place).or_default();
        let was = *word & bit != 0;
        *word |= bit;
        was
    }

    fn get(&self, sequence: u64) -> bool {
        let (place, bit) = Self::place(sequence);
        self.0.get(&place).is_some_and(|word| word & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::End;
    use crate::{BatchSource, Plan};

    const ROWS: u64 = 1000;

    /// Two writers that sent five batches each; the second has no ack for its fourth and fifth.
    fn ledgers(producer: Option<&str>) -> Vec<Ledger> {
        let plan = Plan {
            producer: producer.map(str::to_owned),
            ..Plan::new("t")
        };
        let sources = BatchSource::for_writers(&plan, 2);
        let unacknowledged = [vec![], vec![5, 4]];
        let both = sources.into_iter().zip(unacknowledged);
        both.map(|(source, unacknowledged)| Ledger::new(source, 5, unacknowledged, End::Done))
            .collect()
    }

    fn verdict(
        ledgers: &[Ledger],
        change: impl Fn(usize, u64, Digest) -> Option<Digest>,
    ) -> Verification {
        let mut tally = Tally::new(ledgers, ROWS);
        for (writer, ledger) in ledgers.iter().enumerate() {
            for sequence in 1..=5 {
                let batch = ledger.source().batch(sequence);
                if let Some(digest) = change(writer, sequence, Digest::of(&batch)) {
                    tally.found(batch.id, &digest);
                }
            }
        }
        tally.finish()
    }

    #[test]
    fn what_was_acknowledged_and_is_there_once_is_verified() {
        for producer in [None, Some("p")] {
            let ledgers = ledgers(producer);
            // One of the unacknowledged is there.
            let proof = verdict(&ledgers, |writer, sequence, digest| {
                ((writer, sequence) != (1, 5)).then_some(digest)
            });
            assert!(proof.verified, "{proof}");
            assert_eq!(
                (proof.batches_acknowledged, proof.batches_found_once),
                (8, 8)
            );
            assert_eq!(proof.batches_unacknowledged, 2);
            assert_eq!(proof.batches_unacknowledged_present, 1);
            assert_eq!((proof.rows_acknowledged, proof.rows_found), (8000, 9000));
            assert_eq!(
                proof.to_string(),
                "\
verified   8 of 8 acknowledged batches found once; 0 missing, 0 doubled, 0 damaged
found      9000 rows, of 8000 acknowledged
unacked    1 of 2 batches without an ack found once, the others not at all"
            );
        }
    }

    #[test]
    fn what_is_missing_doubled_or_damaged_is_named() {
        let ledgers = ledgers(Some("p"));
        let proof = verdict(&ledgers, |writer, sequence, mut digest| {
            match (writer, sequence) {
                (0, 1) => return None,
                (0, 2) => digest.rows = 2000,
                (0, 3) => digest.rows = 999,
                (0, 4) => digest.values = digest.values.map(|sum| sum + 1),
                (0, 5) => digest.times[1] = digest.times[1].map(|micros| micros + 1),
                // Not acknowledged is no excuse for being there twice.
                (1, 4) => digest.rows = 2000,
                _ => {}
            }
            Some(digest)
        });
        assert!(!proof.verified);
        assert_eq!(proof.batches_found_once, 3);
        assert_eq!((proof.batches_missing, proof.batches_doubled), (1, 2));
        assert_eq!(proof.batches_damaged, 3);
        assert_eq!(proof.offenders.len(), Verification::MAX_OFFENDERS);
        let problems: Vec<_> = proof.offenders.iter().map(|o| o.problem.as_str()).collect();
        let doubled =
            "acknowledged: 2000 rows, 1000 were sent; or were they sent with other --rows?";
        assert_eq!(problems[0], doubled);
        assert_eq!(problems[4], format!("not {doubled}"));
        // Such as by an earlier process of the producer.
        assert!(problems[1].contains("999 rows of 1000") && problems[1].contains("--rows?"));
        let text = proof.to_string();
        assert!(text.starts_with("FAILED "), "{text}");
        // The fourth is there, doubled.
        assert!(
            text.contains("unacked    1 of 2 batches without an ack found once\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_of_very_many_is_counted_and_only_the_first_are_named() {
        let source = BatchSource::for_writers(&Plan::new("t"), 1).remove(0);
        let batches: Vec<_> = [1, 3, 1 << 33].map(|it| source.batch(it)).into();
        let ledgers = [Ledger::new(source, 1 << 34, vec![4, 5], End::Done)];
        let mut tally = Tally::new(&ledgers, ROWS);
        for batch in &batches {
            tally.found(batch.id, &Digest::of(batch));
        }
        let proof = tally.finish();
        assert!(!proof.verified);
        assert_eq!(proof.batches_found_once, 3);
        assert_eq!(proof.batches_missing, (1 << 34) - 2 - 3);
        let named: Vec<_> = proof.offenders.iter().map(|it| it.sequence).collect();
        assert_eq!(named, [2, 6, 7, 8, 9]);
    }

    #[test]
    fn batches_of_others_are_left_alone() {
        let (mine, other) = (ledgers(Some("p")), ledgers(Some("q")));
        let mut tally = Tally::new(&mine, ROWS);
        let foreign = other[0].source().batch(1);
        tally.found(foreign.id, &Digest::of(&foreign));
        // Nor is a batch that this producer sends only later.
        let later = mine[0].source().batch(6);
        tally.found(later.id, &Digest::of(&later));
        assert_eq!(tally.proof.rows_found, 0);
    }

    #[test]
    fn the_condition_names_the_blocks_of_what_was_sent() {
        let plan = Plan {
            first_batch_id: Some(100),
            ..Plan::new("t")
        };
        let source = BatchSource::for_writers(&plan, 1).remove(0);
        let ledgers = [Ledger::new(source.clone(), 5, vec![], End::Done)];
        assert_eq!(
            Tally::new(&ledgers, ROWS).condition().unwrap(),
            "batch_id BETWEEN 100 AND 104 AND (batch_id >> 24) IN (0)"
        );
        let very_many = [Ledger::new(source.clone(), 1 << 37, vec![], End::Done)];
        let condition = Tally::new(&very_many, ROWS).condition().unwrap();
        assert_eq!(condition, "batch_id BETWEEN 100 AND 137438953571");
        let nothing = [Ledger::new(source, 0, vec![], End::Done)];
        let tally = Tally::new(&nothing, ROWS);
        assert_eq!(tally.condition(), None);
        assert!(tally.finish().verified);
    }
}
