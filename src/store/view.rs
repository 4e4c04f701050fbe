//! What callers see of an item: borrowed views, valid inside the closure they are handed to.
//!
//! Owns [`Item`], [`Value`], [`Change`] and the one rule that decides between two changes with the
//! same version. Copies nothing unless asked to; knows nothing of how items lie in memory.

use super::held::Held;
use super::large::Snapshot;
use super::version::Version;
use super::Exptime;
use std::cmp::Ordering;

/// A value: one slice for most items, several for large ones.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a>(Parts<'a>);

#[derive(Clone, Copy, Debug)]
enum Parts<'a> {
    One(&'a [u8]),
    Many { len: usize, parts: &'a [&'a [u8]], pinned: Option<&'a Snapshot<'a>> },
}

impl<'a> Value<'a> {
    /// A value of several slices, in order.
    pub fn from_parts(parts: &'a [&'a [u8]]) -> Value<'a> {
        match parts {
            [one] => Value(Parts::One(one)),
            _ => Value::many(parts, None),
        }
    }

    fn many(parts: &'a [&'a [u8]], pinned: Option<&'a Snapshot<'a>>) -> Value<'a> {
        let len = parts.iter().map(|part| part.len()).sum();
        Value(Parts::Many { len, parts, pinned })
    }

    /// The same, of a large value that is pinned.
    pub(super) fn pinned(parts: &'a [&'a [u8]], snapshot: &'a Snapshot<'a>) -> Value<'a> {
        Value::many(parts, Some(snapshot))
    }

    /// The value, for longer than the closure that it was handed to. None where it is small, which
    /// is copied soon, or where too much is held already.
    pub fn hold(&self) -> Option<Held> {
        match self.0 {
            Parts::Many { pinned, .. } => pinned?.hold(),
            Parts::One(_) => None,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self.0 {
            Parts::One(bytes) => bytes.len(),
            Parts::Many { len, .. } => len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its slices, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let (one, parts): (Option<&'a [u8]>, &'a [&'a [u8]]) = match self.0 {
            Parts::One(bytes) => (Some(bytes), &[]),
            Parts::Many { parts, .. } => (None, parts),
        };
        one.into_iter().chain(parts.iter().copied())
    }

    /// Appends all bytes to `out`.
    #[inline]
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        match self.0 {
            Parts::One(bytes) => out.extend_from_slice(bytes),
            Parts::Many { len, parts, .. } => {
                out.reserve(len);
                parts.iter().for_each(|part| out.extend_from_slice(part));
            }
        }
    }

    /// All bytes, in memory of their own.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.copy_to(&mut out);
        out
    }

    /// The bytes, where they lie in one slice.
    pub fn as_single(&self) -> Option<&'a [u8]> {
        match self.0 {
            Parts::One(bytes) => Some(bytes),
            Parts::Many { .. } => None,
        }
    }

    /// Lexicographic order of the bytes, however they are sliced.
    fn cmp_bytes(&self, other: &Value<'_>) -> Ordering {
        self.chunks().flatten().cmp(other.chunks().flatten())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Value<'a> {
        Value(Parts::One(bytes))
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Value<'_>) -> bool {
        self.len() == other.len() && self.cmp_bytes(other) == Ordering::Equal
    }
}

impl Eq for Value<'_> {}

/// What meta commands note beside an item's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// It is out of date and may be served until somebody has made it anew.
    pub stale: bool,
    /// A client was told that it is the one to make it anew.
    pub won: bool,
    /// Its key came in base64, and is shown so.
    pub binary_key: bool,
}

impl Marks {
    const STALE: u8 = 1;
    const WON: u8 = 2;
    const BINARY_KEY: u8 = 4;

    /// As bits, the same in records and between nodes: 1 stale, 2 won, 4 binary key.
    pub fn bits(self) -> u8 {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        bit(self.stale, Marks::STALE)
            | bit(self.won, Marks::WON)
            | bit(self.binary_key, Marks::BINARY_KEY)
    }

    /// From these bits; others do not matter.
    pub fn from_bits(bits: u8) -> Marks {
        let is = |bit: u8| bits & bit != 0;
        Marks { stale: is(Marks::STALE), won: is(Marks::WON), binary_key: is(Marks::BINARY_KEY) }
    }
}

/// A live item, as a get finds it.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// When it expires.
    pub exptime: Exptime,
    /// What orders writes between nodes.
    pub version: Version,
    /// The CAS unique that clients see: the version, unless a client chose another one or a touch
    /// kept the old one.
    pub cas: u64,
    /// What meta commands have noted.
    pub marks: Marks,
    /// Whether a get had found it before this one.
    pub fetched: bool,
    /// Seconds since it was last found or stored: exact for two hours, then up to 4096 too many.
    pub last_access_secs: u32,
    /// The value.
    pub value: Value<'a>,
}

/// The present state of one key, as nodes tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The version of that state.
    pub version: Version,
    /// The state.
    pub what: What<'a>,
}

/// What a key holds after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// An item.
    Item {
        /// The client's flags.
        flags: u32,
        /// When it expires.
        exptime: Exptime,
        /// The CAS unique, where that is not the version.
        cas: Option<u64>,
        /// What meta commands have noted.
        marks: Marks,
        /// The stored bytes.
        value: Value<'a>,
    },
    /// Nothing: it was deleted.
    Deleted,
}

impl What<'_> {
    /// The order that decides between two states with one version (two nodes that share a tag by
    /// accident): a delete beats an item, then the larger value, flags, exptime, CAS unique, marks.
    /// Any total order would do; it has to be the same on every node. One with a CAS unique or
    /// marks beats the same one without: that is what a node of wire version 1.0 makes of it.
    pub fn tie_order(&self, other: &What<'_>) -> Ordering {
        match (self, other) {
            (What::Deleted, What::Deleted) => Ordering::Equal,
            (What::Deleted, What::Item { .. }) => Ordering::Greater,
            (What::Item { .. }, What::Deleted) => Ordering::Less,
            (
                What::Item { flags, exptime, cas, marks, value },
                What::Item {
                    flags: flags2,
                    exptime: exptime2,
                    cas: cas2,
                    marks: marks2,
                    value: value2,
                },
            ) => value
                .cmp_bytes(value2)
                .then(flags.cmp(flags2))
                .then(exptime.secs().cmp(&exptime2.secs()))
                .then(cas.cmp(cas2))
                .then(marks.bits().cmp(&marks2.bits())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_by_bytes_not_by_slices() {
        let parts: [&[u8]; 3] = [b"ab", b"", b"c"];
        let many = Value::from_parts(&parts);
        assert_eq!(many, Value::from(&b"abc"[..]));
        assert_eq!(many.to_vec(), b"abc");
        assert_eq!(many.as_single(), None);
        assert_ne!(many, Value::from(&b"abd"[..]));
    }

    #[test]
    fn ties_have_one_winner_whoever_asks() {
        let with = |flags, cas, marks, value: &'static [u8]| What::Item {
            flags,
            exptime: Exptime::Never,
            cas,
            marks,
            value: Value::from(value),
        };
        let item = |flags, value| with(flags, None, Marks::default(), value);
        assert_eq!(What::Deleted.tie_order(&item(0, b"z")), Ordering::Greater);
        assert_eq!(item(0, b"b").tie_order(&item(9, b"a")), Ordering::Greater);
        assert_eq!(item(1, b"a").tie_order(&item(2, b"a")), Ordering::Less);
        assert_eq!(item(1, b"a").tie_order(&item(1, b"a")), Ordering::Equal);
        let stale = Marks { stale: true, ..Marks::default() };
        let marked = |cas| with(1, cas, stale, b"a");
        assert_eq!(marked(None).tie_order(&item(1, b"a")), Ordering::Greater);
        assert_eq!(marked(None).tie_order(&marked(Some(0))), Ordering::Less);
        assert_eq!(marked(Some(3)).tie_order(&marked(Some(3))), Ordering::Equal);
    }
}
