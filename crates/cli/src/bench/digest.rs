//! A number that differs if any emitted token does.

use std::fmt;

/// Offset and factor of the FNV-1a hash of 64 bits (Fowler, Noll, Vo).
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

/// A hash of bytes, which may come in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(FNV.0)
    }
}

impl Digest {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV.1));
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_all_bytes() {
        let (mut pieces, mut whole) = (Digest::default(), Digest::default());
        pieces.add(b"foo");
        pieces.add(b"bar");
        whole.add(b"foobar");
        assert_eq!(pieces, whole);
        // Published test vector of FNV-1a.
        assert_eq!(whole.to_string(), "85944171f73967e8");
    }
}
