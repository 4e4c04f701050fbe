//! Ghosts: which keys were evicted lately, and how popular they were.
//!
//! Owns a set of fingerprints per stripe of the index: the ghost queue of S3-FIFO (SOSP'23), with
//! sets in the place of one queue. A key that comes back while it is remembered was evicted too
//! soon, and is not dropped again the first time round. Never holds a key or a value, and may
//! forget or mistake one: then an item is as popular as any other new one, or a little more.
//!
//! ```text
//! tag  21          high                 low 0
//!      | set = tag * sets >> 22 | fingerprint 12 |     they overlap where sets are many
//!
//! set  | newest | . | . | oldest |     2 bytes each:  | level / 2, 4 | fingerprint 12 |   0: empty
//! ```

use super::arena;

/// Fingerprints of one set: a set is 8 bytes, so a look at it is one cache line.
const WAYS: usize = 4;
/// What a stripe takes for its ghosts comes off the memory for items: at most one part in so many
/// of what evictions bring meanwhile, or writers would wait for it.
const TAKEN_SHARE: usize = 6;
/// Bits of a fingerprint; the level lies above them, without its lowest bit.
const FINGERPRINT_BITS: u32 = 12;
const FINGERPRINT: u16 = (1 << FINGERPRINT_BITS) - 1;

/// The keys of one stripe that were evicted lately. Takes no memory before the first eviction.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    sets: Box<[[u16; WAYS]]>,
}

impl Ghosts {
    fn wanted(keys: usize) -> usize {
        (keys / WAYS).max(1)
    }

    fn set(&mut self, tag: u32, tag_bits: u32) -> Option<&mut [u16; WAYS]> {
        let at = (u64::from(tag) * self.sets.len() as u64) >> tag_bits;
        self.sets.get_mut(at as usize)
    }

    fn fingerprint(tag: u32) -> u16 {
        (tag as u16 & FINGERPRINT).max(1)
    }

    /// Remembers an eviction of `size` bytes; the oldest of its set is forgotten. There is memory
    /// for so many `keys`, and it is forgotten whole where that has changed a lot. It is taken
    /// after about as many evictions as pay for it, and not by all stripes at once.
    pub fn add(&mut self, tag: u32, tag_bits: u32, level: u8, keys: usize, size: usize) {
        let (wanted, len) = (Self::wanted(keys), self.sets.len());
        let unfit = len < wanted / 2 || len > wanted * 2 || len == 0;
        let evictions = wanted * WAYS * std::mem::size_of::<u16>() * TAKEN_SHARE / size.max(1);
        if unfit && (tag >> 4) as usize % evictions.max(1) == 0 {
            self.sets = vec![[0; WAYS]; wanted].into_boxed_slice();
        }
        if let Some(set) = self.set(tag, tag_bits) {
            set.copy_within(..WAYS - 1, 1);
            set[0] = u16::from(level / 2) << FINGERPRINT_BITS | Self::fingerprint(tag);
        }
    }

    /// At which level the key was evicted, if that was lately; it is not a ghost any more after
    /// that.
    pub fn take(&mut self, tag: u32, tag_bits: u32) -> Option<u8> {
        let set = self.set(tag, tag_bits)?;
        let at = set.iter().position(|&found| found & FINGERPRINT == Self::fingerprint(tag))?;
        let level = (set[at] >> FINGERPRINT_BITS) as u8 * 2;
        set.copy_within(at + 1.., at);
        set[WAYS - 1] = 0;
        Some(level)
    }

    /// Asks for the cache line of a tag's set ahead of its use.
    pub fn ask_for(&self, tag: u32, tag_bits: u32) {
        let at = (u64::from(tag) * self.sets.len() as u64) >> tag_bits;
        arena::ask_for(&self.sets, at as usize);
    }

    /// Gives the memory back where so many keys are far fewer than it is for.
    pub fn shrink(&mut self, keys: usize) {
        if self.sets.len() > 2 * Self::wanted(keys) {
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
        assert!(ghosts.take(5, 22).is_none() && ghosts.bytes() == 0);
        for tag in 1..=5 {
            ghosts.add(tag, 22, 4 * tag as u8, 4, 1000);
        }
        assert_eq!(ghosts.bytes(), 8);
        assert_eq!(ghosts.take(1, 22), None, "four places");
        assert_eq!((ghosts.take(3, 22), ghosts.take(3, 22)), (Some(12), None));
        assert_eq!([5, 4, 2].map(|tag| ghosts.take(tag, 22)), [Some(20), Some(16), Some(8)]);
    }

    #[test]
    fn its_memory_follows_the_stripe() {
        let mut ghosts = Ghosts::default();
        ghosts.add(1 << 4, 22, 0, 2400, 1000);
        assert_eq!(ghosts.bytes(), 0, "that can wait");
        ghosts.add(9, 22, 0, 2400, 1000);
        assert_eq!(ghosts.bytes(), 4800);
        ghosts.add(8, 22, 31, 2500, 1000);
        assert_eq!(ghosts.take(9, 22), Some(0), "a stripe that grows a little forgets nothing");
        assert_eq!(ghosts.take(8, 22), Some(30), "to one level");
        ghosts.shrink(1200);
        assert_eq!(ghosts.bytes(), 4800);
        ghosts.shrink(600);
        assert_eq!(ghosts.bytes(), 0);
    }
}
