//! What callers see of an item: borrowed views, valid inside the closure they are handed to.
//!
//! Owns [`Item`], [`Value`], [`Change`] and the one rule that decides between two changes with the
//! same version. Copies nothing unless asked to; knows nothing of how items lie in memory.

use super::version::Version;
use super::Exptime;
use std::cmp::Ordering;

/// A value: one slice for most items, several for large ones.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a>(Parts<'a>);

#[derive(Clone, Copy, Debug)]
enum Parts<'a> {
    One(&'a [u8]),
    Many { len: usize, parts: &'a [&'a [u8]] },
}

impl<'a> Value<'a> {
    /// A value of several slices, in order.
    pub fn from_parts(parts: &'a [&'a [u8]]) -> Value<'a> {
        match parts {
            [one] => Value(Parts::One(one)),
            _ => Value(Parts::Many { len: parts.iter().map(|part| part.len()).sum(), parts }),
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
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        for chunk in self.chunks() {
            out.extend_from_slice(chunk);
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

/// A live item, as a get finds it.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// When it expires.
    pub exptime: Exptime,
    /// CAS unique and replication version.
    pub version: Version,
    /// Whether a get had found it before this one.
    pub fetched: bool,
    /// Seconds since it was last found or stored, coarse: counted up to about 9 hours.
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
        /// The stored bytes.
        value: Value<'a>,
    },
    /// Nothing: it was deleted.
    Deleted,
}

impl What<'_> {
    /// The order that decides between two states with one version (two nodes that share a tag by
    /// accident): a delete beats an item, then the larger value, flags, exptime. Any total order
    /// would do; it has to be the same on every node.
    pub fn tie_order(&self, other: &What<'_>) -> Ordering {
        match (self, other) {
            (What::Deleted, What::Deleted) => Ordering::Equal,
            (What::Deleted, What::Item { .. }) => Ordering::Greater,
            (What::Item { .. }, What::Deleted) => Ordering::Less,
            (
                What::Item { flags, exptime, value },
                What::Item { flags: flags2, exptime: exptime2, value: value2 },
            ) => value
                .cmp_bytes(value2)
                .then(flags.cmp(flags2))
                .then(exptime.secs().cmp(&exptime2.secs())),
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
        let item = |flags, value: &'static [u8]| What::Item {
            flags,
            exptime: Exptime::Never,
            value: Value::from(value),
        };
        assert_eq!(What::Deleted.tie_order(&item(0, b"z")), Ordering::Greater);
        assert_eq!(item(0, b"b").tie_order(&item(9, b"a")), Ordering::Greater);
        assert_eq!(item(1, b"a").tie_order(&item(2, b"a")), Ordering::Less);
        assert_eq!(item(1, b"a").tie_order(&item(1, b"a")), Ordering::Equal);
    }
}
