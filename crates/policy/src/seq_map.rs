//! A map from sequences to what is remembered of them, looked up several times per sequence and step.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::SeqId;

/// Remembered by sequence.
pub(crate) type SeqMap<T> = HashMap<SeqId, T, BuildHasherDefault<SeqHasher>>;

/// Odd, with bits that look random: the golden ratio as a fraction of 2^64.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Multiplies the id. Ids are counted by the engine, so nobody chooses them to collide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn finish(&self) -> u64 {
        // The map takes its bits from both ends.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(SPREAD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_has_its_own_entry() {
        let mut map: SeqMap<u64> = SeqMap::default();
        map.extend((0..1000).map(|id| (SeqId(id), 2 * id)));
        assert_eq!(map.len(), 1000);
        assert!((0..1000).all(|id| map.remove(&SeqId(id)) == Some(2 * id)));
    }
}
