//! Ghosts: which keys were evicted lately.
//!
//! Owns a set of fingerprints per stripe of the index: the ghost queue of S3-FIFO (SOSP'23), with
//! sets in the place of one queue. A key that comes back while it is remembered was evicted too
//! soon, and is not dropped again the first time round. Never holds a key or a value, and may
//! forget or mistake one: then an item is as popular as any other new one, or a little more.
//!
//! ```text
//! tag  23          high                low 0
//!      | set = tag * sets >> 24 | fingerprint (16) |     they overlap where sets are many
//!
//! set  | newest | . | . | oldest |     2 bytes each, 0: empty
//! ```

use super::arena;

/// Fingerprints of one set: a set is 8 bytes, so a look at it is one cache line.
const WAYS: usize = 4;
/// Index slots per remembered key: an eviction is remembered for about half as many evictions as
/// there are items, at one byte an item. More of them found no more on recorded traces.
const SLOTS_PER_GHOST: usize = 2;

/// The keys of one stripe that were evicted lately. Takes no memory before the first eviction.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    sets: Box<[[u16; WAYS]]>,
}

impl Ghosts {
    fn wanted(slots: usize) -> usize {
        (slots / SLOTS_PER_GHOST / WAYS).max(1)
    }

    fn set(&mut self, tag: u32, tag_bits: u32) -> Option<&mut [u16; WAYS]> {
        let at = (u64::from(tag) * self.sets.len() as u64) >> tag_bits;
        self.sets.get_mut(at as usize)
    }

    fn fingerprint(tag: u32) -> u16 {
        (tag as u16).max(1)
    }

    /// Remembers an eviction; the oldest of its set is forgotten. The memory follows the number of
    /// `slots` that the stripe has, and is forgotten whole where that has changed a lot.
    pub fn add(&mut self, tag: u32, tag_bits: u32, slots: usize) {
        let wanted = Self::wanted(slots);
        if self.sets.len() < wanted / 2 || self.sets.len() > wanted * 2 || self.sets.is_empty() {
            self.sets = vec![[0; WAYS]; wanted].into_boxed_slice();
        }
        if let Some(set) = self.set(tag, tag_bits) {
            set.copy_within(..WAYS - 1, 1);
            set[0] = Self::fingerprint(tag);
        }
    }

    /// Whether the key was evicted lately; it is not a ghost any more after that.
    pub fn take(&mut self, tag: u32, tag_bits: u32) -> bool {
        let Some(set) = self.set(tag, tag_bits) else { return false };
        let Some(at) = set.iter().position(|&found| found == Self::fingerprint(tag)) else {
            return false;
        };
        set.copy_within(at + 1.., at);
        set[WAYS - 1] = 0;
        true
    }

    /// Asks for the cache line of a tag's set ahead of its use.
    pub fn ask_for(&self, tag: u32, tag_bits: u32) {
        let at = (u64::from(tag) * self.sets.len() as u64) >> tag_bits;
        arena::ask_for(&self.sets, at as usize);
    }

    /// Gives the memory back where a stripe of so many slots has no use for it.
    pub fn shrink(&mut self, slots: usize) {
        if self.sets.len() > 2 * Self::wanted(slots) {
            self.sets = Box::default();
        }
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_ghost_once_and_the_oldest_goes_first() {
        let mut ghosts = Ghosts::default();
        assert!(!ghosts.take(5, 24) && ghosts.bytes() == 0);
        for tag in 1..=5 {
            ghosts.add(tag, 24, 8);
        }
        assert_eq!(ghosts.bytes(), 8);
        assert!(!ghosts.take(1, 24), "four places");
        assert!(ghosts.take(3, 24) && !ghosts.take(3, 24));
        assert!([5, 4, 2].into_iter().all(|tag| ghosts.take(tag, 24)));
    }

    #[test]
    fn its_memory_follows_the_stripe() {
        let mut ghosts = Ghosts::default();
        ghosts.add(9, 24, 2400);
        assert_eq!(ghosts.bytes(), 2400);
        ghosts.add(8, 24, 2500);
        assert!(ghosts.take(9, 24), "a stripe that grows a little forgets nothing");
        ghosts.shrink(1200);
        assert_eq!(ghosts.bytes(), 2400);
        ghosts.shrink(600);
        assert_eq!(ghosts.bytes(), 0);
    }
}
