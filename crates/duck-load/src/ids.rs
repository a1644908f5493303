//! The ids of batches: whole numbers of 63 bits, which is what BIGINT holds from zero up.

/// Ids come in blocks: the upper bits say whose they are, so many lower bits count.
pub(crate) const BLOCK_BITS: u32 = 24;

const ID_MASK: u64 = i64::MAX.cast_unsigned();

/// The ids of one writer's batches, by their sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    /// The id of sequence 1.
    first: u64,
    step: u64,
}

impl Ids {
    /// The ids of a writer that counts up from the run's first id in steps of the number of writers, so that the
    /// writers of the run never meet.
    pub(crate) fn counted(first: u64, writer: u64, writers: u64) -> Self {
        Self {
            first: first.wrapping_add(writer) & ID_MASK,
            step: writers.max(1),
        }
    }

    /// The ids of a producer: a function of its name and the sequence, and of nothing else.
    pub(crate) fn of_producer(name: &str) -> Self {
        Self {
            first: (stable_hash(name) << BLOCK_BITS).wrapping_add(1) & ID_MASK,
            step: 1,
        }
    }

    /// The id of a sequence, which counts from 1.
    pub(crate) fn id(self, sequence: u64) -> i64 {
        let offset = sequence.saturating_sub(1).wrapping_mul(self.step);
        (self.first.wrapping_add(offset) & ID_MASK).cast_signed()
    }

    /// The sequence of an id: the inverse of [`Ids::id`]. `None` for ids that are never this writer's.
    pub(crate) fn sequence(self, id: i64) -> Option<u64> {
        let offset = id.cast_unsigned().wrapping_sub(self.first) & ID_MASK;
        (id >= 0 && offset.is_multiple_of(self.step)).then(|| offset / self.step + 1)
    }

    /// The blocks in which the ids of the sequences 1 to `last` lie.
    pub(crate) fn blocks(self, last: u64) -> impl Iterator<Item = i64> {
        let in_block = self.first & ((1 << BLOCK_BITS) - 1);
        let reach = in_block.saturating_add(last.saturating_sub(1).saturating_mul(self.step));
        let count = if last == 0 {
            0
        } else {
            (reach >> BLOCK_BITS) + 1
        };
        let first_block = self.first >> BLOCK_BITS;
        (0..count)
            .map(move |n| (first_block.wrapping_add(n) & (ID_MASK >> BLOCK_BITS)).cast_signed())
    }

    /// The least and the greatest id of the sequences 1 to `last`.
    pub(crate) fn range(self, last: u64) -> (i64, i64) {
        match (self.id(1), self.id(last.max(1))) {
            (first, end) if first <= end => (first, end),
            // They went round at the end of their range.
            _ => (0, i64::MAX),
        }
    }
}

/// A hash that is the same in every process and every version: FNV-1a, with its bits mixed so that the upper and
/// the lower ones are equally good.
pub(crate) fn stable_hash(name: &str) -> u64 {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    mixed(hash)
}

/// Spreads every bit over all others, one to one.
pub(crate) fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_ids_of_a_producer_are_pinned_by_its_name() {
        // Written down, because a restarted loader of another version must find its own batches.
        let ids = Ids::of_producer("events");
        assert_eq!(ids.id(1) >> BLOCK_BITS, EVENTS_BLOCK);
        assert_eq!(ids.id(1) & 0xFF_FFFF, 1);
        assert_eq!(ids.id(7) - ids.id(1), 6);
    }

    const EVENTS_BLOCK: i64 = 199_752_597_139;

    #[test]
    fn a_thousand_writers_of_a_producer_have_blocks_of_their_own() {
        let blocks: HashSet<_> = (1..=1024)
            .map(|writer| Ids::of_producer(&format!("events-{writer}")).id(1) >> BLOCK_BITS)
            .collect();
        assert_eq!(blocks.len(), 1024);
    }

    #[test]
    fn a_sequence_is_found_again_from_its_id() {
        for ids in [
            Ids::counted(10, 2, 3),
            Ids::counted(i64::MAX.cast_unsigned() - 1, 0, 1),
            Ids::of_producer("p"),
        ] {
            for sequence in [1, 2, 3, 1000, 20_000_000] {
                assert_eq!(ids.sequence(ids.id(sequence)), Some(sequence));
            }
        }
        assert_eq!(Ids::counted(10, 0, 3).sequence(11), None);
        assert_eq!(Ids::counted(10, 0, 1).sequence(-1), None);
    }

    #[test]
    fn blocks_cover_every_id() {
        let block = 1_u64 << BLOCK_BITS;
        let of = |ids: Ids, last| ids.blocks(last).collect::<Vec<_>>();
        assert_eq!(of(Ids::counted(5, 0, 1), 0), [] as [i64; 0]);
        assert_eq!(of(Ids::counted(5, 0, 1), 10), [0]);
        assert_eq!(of(Ids::counted(block - 1, 0, 2), 2), [0, 1]);
        assert_eq!(of(Ids::counted(ID_MASK, 0, 1), 2), [(1 << 39) - 1, 0]);
    }

    #[test]
    fn a_range_that_goes_round_is_the_whole_one() {
        assert_eq!(Ids::counted(5, 1, 2).range(3), (6, 10));
        assert_eq!(Ids::counted(ID_MASK, 0, 1).range(2), (0, i64::MAX));
    }
}
