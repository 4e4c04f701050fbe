//! The cache: every item of this node, in bounded memory, shared by all threads.
//!
//! Owns items, their index, their expiry, eviction and versions. Knows no socket, no protocol, no
//! thread and no clock: time comes in as an argument. This file is the one public door.

mod ahead;
mod arena;
mod arith;
mod banks;
mod classes;
mod concat;
mod core;
mod dump;
mod epitaphs;
mod evict;
mod expire;
mod feed;
mod flush;
mod ghosts;
mod handle;
mod held;
mod horizon;
mod incoming;
mod index;
mod item;
mod large;
mod meta;
mod number;
mod pins;
mod quick;
mod replica;
mod resize;
mod segment;
mod terms;
mod told;
mod version;
mod view;
mod witness;
mod write;

pub use self::core::Store;
pub use classes::Classes;
pub use feed::{ChangeSignal, Drained};
pub use flush::{FlushState, PendingFlush};
pub use handle::Handle;
pub use held::Held;
pub use incoming::{Given, Incoming};
pub use resize::CannotResize;
pub use terms::{
    Arith, ArithTerms, DeleteTerms, Deleted, Found, GetTerms, Mode, Stored, Terms, Written,
};
pub use told::{read_told, Batch, Told};
pub use version::Version;
pub use view::{Change, Item, Marks, Value, What};
pub use witness::{Evicted, Witness};

use crate::base::counters::Sums;

/// Longest key, in bytes (protocol.txt).
pub const KEY_MAX: usize = 250;

/// What memcached 1.6 adds to a key and a value before it compares with `-I`: item header, CAS, the
/// byte behind the key and the line end behind the value. Ours is smaller; the limit is the same,
/// so that a value that fits there fits here and the other way round.
const MEMCACHED_ITEM_OVERHEAD: usize = 48 + MEMCACHED_CAS as usize + 1 + 2;

/// What of it is the CAS unique, which memcached's items lack under `-C`.
pub const MEMCACHED_CAS: u32 = 8;

/// What a store is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-m`, in bytes, at least 1 MiB: items, index and overhead live inside it. At first:
    /// [`Store::memory_limit`] says what it is.
    pub memory_limit: u64,
    /// `-I`, in bytes: the largest value (with key and header) that is accepted.
    pub item_max: u32,
    /// Without `-M`: drop the least valuable items when memory is full. With it: refuse.
    pub evict: bool,
    /// `-L`: items lie in large pages, where the kernel has some.
    pub large_pages: bool,
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
    /// Forgotten deletes of which 16 bytes are kept, by which what they deleted is known again. At
    /// most: a small store has fewer.
    pub epitaphs_max: u32,
    /// memcached's size classes, by which `stats items` and `stats slabs` sort what is here.
    pub classes: Classes,
}

impl Default for Config {
    /// memcached's defaults: 64 MB, 1 MB items, evicting; not replicated; repcached's queue of
    /// 8192; an hour of deletes.
    fn default() -> Config {
        Config {
            memory_limit: 64 << 20,
            item_max: 1 << 20,
            evict: true,
            large_pages: false,
            replicated: false,
            node_tag: 1,
            hash_seed: 0,
            feed_max: 8192,
            tombstone_secs: 3600,
            epitaphs_max: 64 * 1024,
            classes: Classes::default(),
        }
    }
}

impl Config {
    /// Whether an item of these sizes is within `-I` (memcached's arithmetic). The server asks it
    /// before it takes in a data block.
    pub fn fits(&self, key_len: usize, flags: u32, value_len: usize) -> bool {
        memcached_size(key_len, flags != 0, value_len) <= self.item_max as usize
    }
}

/// The bytes that memcached 1.6 takes for an item of these sizes.
pub fn memcached_size(key_len: usize, has_flags: bool, value_len: usize) -> usize {
    key_len + if has_flags { 4 } else { 0 } + MEMCACHED_ITEM_OVERHEAD + value_len
}

/// When an item expires, already absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exptime {
    /// Never.
    Never,
    /// At this unix second (the item is gone from then on). A past one is gone at once.
    At(u32),
}

impl Exptime {
    /// The unix second, with 0 for never.
    pub fn secs(self) -> u32 {
        match self {
            Exptime::Never => 0,
            Exptime::At(secs) => secs,
        }
    }

    /// Whether an item with it is gone at this unix second.
    pub fn is_past(self, unix_secs: u32) -> bool {
        matches!(self, Exptime::At(secs) if secs <= unix_secs)
    }
}

/// Outcome of applying a peer's change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is newer than what was here, and is here now.
    Won,
    /// It was here already.
    Same,
    /// Something newer is here (or it was flushed here).
    Stale,
    /// Over this node's `item_max`; what was here, being older, is gone.
    TooLarge,
    /// No room; what was here, being older, is gone.
    OutOfMemory,
    /// It was deleted here, which had been forgotten. A delete of this version is remembered again,
    /// for whoever still has the item.
    Buried(Version),
    /// See [`Handle::apply_known`]: it was deleted or evicted here, and stays away.
    Left,
}

/// Where a scan stands. Starts at the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ScanCursor {
    stripe: u64,
    /// The first tag of the stripe that was not looked at yet.
    tag: u64,
    progress: u32,
}

impl ScanCursor {
    /// How far the scan is, in millionths.
    pub fn progress(&self) -> u32 {
        self.progress
    }
}

/// Whether a step of maintenance left work behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintained {
    /// Nothing left to do for now: come back within a second, or when a handle needs it.
    Idle,
    /// The budget ran out: come back at once.
    More,
}

/// Gauges and sums of the whole store, for `stats`.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    /// Items that are here (expired and flushed ones until their memory is taken back).
    pub curr_items: u64,
    /// Bytes of these items: header, key, value and rounding.
    pub bytes: u64,
    /// [`Store::memory_limit`].
    pub limit_maxbytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Slots of the index, in use or not.
    pub index_slots: u64,
    /// Size of a segment, in bytes.
    pub segment_bytes: u64,
    /// Segments that may be used.
    pub segments: u64,
    /// Segments that take memory at present.
    pub segments_committed: u64,
    /// Of those that may be used, segments that hold nothing.
    pub segments_free: u64,
    /// Deletes that are remembered.
    pub tombstones: u64,
    /// Changes that wait in feeds.
    pub feed_queued: u64,
    /// All handles' counters together, since the last `stats reset`.
    pub sums: Sums,
}
