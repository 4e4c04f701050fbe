//! Epitaphs: what is left of deletes that are forgotten.
//!
//! Owns a bounded table of hashes and versions, no keys: enough to know again an item that was
//! deleted, long after the delete itself has been forgotten. The oldest make room for newer ones;
//! of those only the [`horizon`](super::horizon) knows. Takes no memory before the first one.
//!
//! ```text
//! set  | hash, version | hash, version | ... |      WAYS of 16 bytes; version 0: empty
//! ```

use super::Version;
use crate::base::sync::lock;
use std::sync::Mutex;

/// Places of one set: few sets then run over while others are empty.
const WAYS: usize = 8;
/// Of the memory for items, the most that epitaphs may take beside it.
const SHARE: u64 = 256;
/// Bytes of one.
const SIZE: u64 = 16;

type Set = [(u64, Version); WAYS];

/// The table.
#[derive(Debug)]
pub(super) struct Epitaphs {
    sets: Mutex<Vec<Set>>,
    wanted: usize,
}

impl Epitaphs {
    /// Room for `max` of them, as far as a store of so much memory can afford it.
    pub fn new(max: u32, memory_limit: u64) -> Epitaphs {
        let max = u64::from(max).min(memory_limit / SHARE / SIZE);
        Epitaphs { sets: Mutex::default(), wanted: max as usize / WAYS }
    }

    fn place(hash: u64, sets: usize) -> usize {
        ((u128::from(hash) * sets as u128) >> 64) as usize
    }

    /// A delete of this version is forgotten.
    pub fn write(&self, hash: u64, version: Version) {
        if self.wanted == 0 {
            return;
        }
        let mut sets = lock(&self.sets);
        if sets.is_empty() {
            *sets = vec![[(0, Version(0)); WAYS]; self.wanted];
        }
        let set = &mut sets[Self::place(hash, self.wanted)];
        let known = set.iter().position(|&(of, _)| of == hash);
        let at = known.or_else(|| (0..WAYS).min_by_key(|&at| set[at].1)).unwrap_or(0);
        if set[at].1 < version {
            set[at] = (hash, version);
        }
    }

    /// The newest forgotten delete of the key with this hash, if it is not out of the table.
    pub fn read(&self, hash: u64) -> Option<Version> {
        let sets = lock(&self.sets);
        let set = sets.get(Self::place(hash, self.wanted))?;
        set.iter().find(|&&(of, version)| of == hash && version.0 > 0).map(|&(_, version)| version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_a_key_has_one() {
        let epitaphs = Epitaphs::new(WAYS as u32, 1 << 20);
        assert_eq!(epitaphs.read(7), None);
        for n in 1..=WAYS as u64 + 1 {
            epitaphs.write(n, Version(10 * n));
        }
        assert_eq!((epitaphs.read(1), epitaphs.read(2)), (None, Some(Version(20))));
        epitaphs.write(2, Version(500));
        epitaphs.write(2, Version(400));
        assert_eq!((epitaphs.read(2), epitaphs.read(3)), (Some(Version(500)), Some(Version(30))));
        epitaphs.write(99, Version(1));
        assert_eq!(epitaphs.read(99), None, "older than all that are there");
    }

    #[test]
    fn a_small_store_has_few_of_them_and_none_may_be_wanted() {
        assert_eq!(Epitaphs::new(1 << 20, 1 << 20).wanted * WAYS, 256);
        let none = Epitaphs::new(0, 1 << 30);
        none.write(1, Version(1));
        assert_eq!(none.read(1), None);
    }
}
