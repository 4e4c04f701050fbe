//! The cache: every item of this node, in bounded memory, shared by all threads.
//!
//! Owns items, their index, their expiry, eviction and versions. Knows no socket, no protocol, no
//! thread and no clock: time comes in as an argument. This file is the one public door.

/// A version: a hybrid logical clock of 63 bits, the CAS unique and the replication version of an
/// item. 42 bits of milliseconds since 2020-01-01 UTC, 13 bits of counter, 8 bits of node tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

/// What a store is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-m`, in bytes, at least 1 MiB: items, index and overhead live inside it.
    pub memory_limit: u64,
    /// `-I`, in bytes: the largest value (with key and header) that is accepted.
    pub item_max: u32,
    /// Without `-M`: drop the least valuable items when memory is full. With it: refuse.
    pub evict: bool,
    /// Replication is on: changes are fed to links and deletes leave tombstones.
    pub replicated: bool,
    /// Distinguishes this node's versions from its peers'.
    pub node_tag: u8,
    /// Seeds the key hash.
    pub hash_seed: u64,
    /// Changes waiting in one thread's feed before it overflows into a scan (repcached's `-q`).
    pub feed_max: usize,
    /// How long a delete is remembered, in seconds.
    pub tombstone_secs: u32,
}

/// When an item expires, already absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exptime {
    /// Never.
    Never,
    /// At this unix second (the item is gone from then on). A past one is gone at once.
    At(u32),
}

/// What a storage command does with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whatever is there.
    Set,
    /// Only if nothing is there.
    Add,
    /// Only if something is there.
    Replace,
    /// Behind what is there; keeps its flags and exptime.
    Append,
    /// Before what is there; keeps its flags and exptime.
    Prepend,
    /// Only if what is there has this version.
    Cas(Version),
}

/// Outcome of a storage command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Done; the item's new version.
    Stored(Version),
    /// The mode's condition does not hold.
    NotStored,
    /// Cas: somebody changed it.
    Exists,
    /// Cas: it is not there.
    NotFound,
    /// Over `item_max`.
    TooLarge,
    /// No room, and nothing may be (or can be) evicted.
    OutOfMemory,
}

/// Outcome of `incr` and `decr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arith {
    /// The new value.
    Value(u64, Version),
    /// It is not there.
    NotFound,
    /// What is there is not a 64-bit decimal.
    NonNumeric,
    /// No room for the longer number.
    OutOfMemory,
}
