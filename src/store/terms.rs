//! What commands ask for, and what comes of them.
//!
//! Owns the types of the store's door: modes, terms beyond the classic commands, outcomes. Does
//! nothing. Terms default to "nothing asked", with which a command is its classic twin.

use super::{Exptime, Version};

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
    /// Only if what is there has this CAS unique. 0 is none that an item could match, as in
    /// memcached.
    Cas(u64),
}

/// What a storage command asks for beyond its mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Append and prepend: only where the CAS unique is this one, else `Exists`. 0: whatever it is.
    pub compare: Option<u64>,
    /// With `Mode::Cas` of a unique that is lower than the item's: it is stored all the same, but
    /// stays marked stale, with the old exptime and the old mark of a win.
    pub stale_if_older: bool,
    /// The CAS unique that the item gets, instead of one that was never there before.
    pub cas: Option<u64>,
    /// The key came in base64.
    pub binary_key: bool,
    /// Append and prepend: where nothing is there, the value is stored as a new item with this
    /// exptime.
    pub vivify: Option<Exptime>,
}

impl Terms {
    /// Nothing but what a classic command asks for.
    pub const PLAIN: Terms =
        Terms { compare: None, stale_if_older: false, cas: None, binary_key: false, vivify: None };
}

/// What a write made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// What orders the write between nodes.
    pub version: Version,
    /// The CAS unique that clients see.
    pub cas: u64,
    /// Length of the whole value as it is now, in bytes.
    pub len: usize,
}

/// Outcome of a storage command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Done.
    Stored(Written),
    /// The mode's condition does not hold.
    NotStored,
    /// Cas, or a compare: somebody changed it.
    Exists,
    /// Cas: it is not there.
    NotFound,
    /// Over `item_max`.
    TooLarge,
    /// No room, and nothing may be (or can be) evicted.
    OutOfMemory,
}

/// What a meta get asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetTerms {
    /// The exptime that an item that is there gets; counts as a touch then.
    pub touch: Option<Exptime>,
    /// Where nothing is there: an empty item with this exptime is made, and won.
    pub vivify: Option<Exptime>,
    /// Unix seconds: an item that expires before that is won by the first who asks.
    pub recache: Option<u32>,
    /// `recache` is compared with the exptime from before `touch`.
    pub recache_first: bool,
    /// The item is not marked as used.
    pub no_update: bool,
    /// The CAS unique of an item that is made.
    pub cas: Option<u64>,
    /// The key came in base64: noted at an item that is made. (memcached 1.6.45 does not.)
    pub binary_key: bool,
}

/// What a meta get did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The item was made.
    pub created: bool,
    /// This caller is the one to make it anew.
    pub won: bool,
    /// The exptime before a touch; that of an item that was made is "never".
    pub exptime_before: Exptime,
}

/// What a delete asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteTerms {
    /// Only where the CAS unique is this one (0 is one, too).
    pub compare: Option<u64>,
    /// Another unique counts as nothing (binary), instead of as a miss (meta).
    pub uncounted_mismatch: bool,
    /// It is not deleted but marked stale, to be won anew, with a new CAS unique.
    pub stale: bool,
    /// With `stale`, the exptime it gets, else it keeps its own. With `remove_value` the exptime of
    /// what is left, else never.
    pub exptime: Option<Exptime>,
    /// An empty item is left, which keeps the CAS unique.
    pub remove_value: bool,
    /// Flags of the empty item.
    pub flags: u32,
    /// The CAS unique of what is left.
    pub cas: Option<u64>,
    /// The key came in base64: noted at an empty item. (memcached 1.6.45 does not.)
    pub binary_key: bool,
}

/// Outcome of a delete with terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It was there, and what was asked has been done.
    Deleted,
    /// It was not there.
    NotFound,
    /// It has another CAS unique.
    Exists,
    /// No room for what was to be left of it; nothing was changed.
    OutOfMemory,
}

/// What an `incr` or `decr` asks for beyond the classic one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArithTerms {
    /// Only where the CAS unique is this one. 0: whatever it is.
    pub compare: Option<u64>,
    /// The CAS unique that the item gets.
    pub cas: Option<u64>,
    /// The exptime that an item that is there gets.
    pub touch: Option<Exptime>,
    /// Where nothing is there: an item with this exptime and number is made.
    pub vivify: Option<(Exptime, u64)>,
    /// The key came in base64: noted at an item that is made, also of a number that has grown.
    /// (memcached 1.6.45 does not.)
    pub binary_key: bool,
}

/// Outcome of `incr` and `decr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arith {
    /// Done.
    Value {
        /// The new number.
        value: u64,
        /// What it was written as; `len` counts the blanks behind a number that has shrunk.
        written: Written,
        /// The item's exptime now.
        exptime: Exptime,
        /// Its exptime before a touch; that of an item that was made is "never".
        exptime_before: Exptime,
        /// The item was made.
        created: bool,
    },
    /// It is not there.
    NotFound,
    /// What is there is not a 64-bit decimal.
    NonNumeric,
    /// It has another CAS unique.
    Exists,
    /// No room for the number.
    OutOfMemory,
}
