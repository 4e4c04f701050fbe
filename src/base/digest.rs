//! Digests of what a node holds, by which two nodes can be compared without sending their items.
//!
//! Owns the split of the key space into ranges, the digest of one item and of a range, and how a
//! set of ranges is written. Pure arithmetic over bytes: never looks at an item, a node or a line.
//!
//! ```text
//!   range of a key    the top 12 bits of CRC-32(key), not seeded: the same on every node
//!   item              CRC-32(key, what is noted beside the value) | CRC-32(value)      64 bits
//!   range             the sum of mix(item) over its items                              64 bits
//! ```
//! The sum does not depend on the order of the items. Sums of CRCs themselves would: CRC-32 is
//! linear, so that swapping the values of two keys could leave their sum as it was. `mix` is a
//! bijection without such a structure; beside the sum the number of items is compared.

/// Bits of a key's CRC-32 that say its range.
const RANGE_BITS: u32 = 12;
/// Ranges: 244 items each in a cache of a million, so that a difference is found by listing few
/// others, and a list of all of them is 160 KB.
pub const RANGES: usize = 1 << RANGE_BITS;
/// Of all of the above. Nodes of different schemes cannot be compared.
pub const SCHEME: u32 = 1;

/// The range of a key.
pub fn range_of(key: &[u8]) -> usize {
    (crc32fast::hash(key) >> (32 - RANGE_BITS)) as usize
}

/// What is noted of an item beside key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Noted {
    /// The client's flags.
    pub flags: u32,
    /// Unix seconds, 0 for never.
    pub exptime: u32,
    /// The CAS unique that clients see.
    pub cas: u64,
    /// The bits of the meta commands' marks: 1 stale, 2 won, 4 binary key.
    pub marks: u8,
}

/// The digest of one item. `value` is the CRC-32 of its value, `len` the value's length.
pub fn item(key: &[u8], noted: &Noted, value: u32, len: u64) -> u64 {
    let mut fields = [0; 26];
    fields[0] = key.len() as u8;
    fields[1..5].copy_from_slice(&noted.flags.to_le_bytes());
    fields[5..9].copy_from_slice(&noted.exptime.to_le_bytes());
    fields[9..17].copy_from_slice(&noted.cas.to_le_bytes());
    fields[17] = noted.marks;
    fields[18..26].copy_from_slice(&len.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(&fields);
    u64::from(crc.finalize()) << 32 | u64::from(value)
}

/// The finaliser of splitmix64: a bijection of 64 bits in which every bit depends on all.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What is known of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Items in it.
    pub items: u64,
    /// The sum over them.
    pub digest: u64,
}

impl Range {
    /// Takes in an item, in whatever order.
    pub fn add(&mut self, item: u64) {
        self.items += 1;
        self.digest = self.digest.wrapping_add(mix(item.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    }
}

/// A set of ranges.
#[derive(Clone, PartialEq, Eq)]
pub struct Ranges([u64; RANGES / 64]);

impl std::fmt::Debug for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Default for Ranges {
    fn default() -> Ranges {
        Ranges([0; RANGES / 64])
    }
}

/// Ranges that one hexadecimal digit tells of.
const PER_DIGIT: usize = 4;

impl Ranges {
    /// Adds a range below [`RANGES`].
    pub fn insert(&mut self, range: usize) {
        self.0[range / 64] |= 1 << (range % 64);
    }

    /// Whether it has this range.
    pub fn contains(&self, range: usize) -> bool {
        self.0[range / 64] >> (range % 64) & 1 == 1
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..RANGES).filter(|&range| self.contains(range))
    }

    /// Adds what a word says: `17`, `17-30`, or a mask as [`Ranges::masks`] makes them. False where
    /// it says nothing that makes sense.
    pub fn add_word(&mut self, word: &str) -> bool {
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<usize>().ok().filter(|&n| plain && n < RANGES)
        };
        if let Some((digits, at)) = word.strip_prefix("mask=").and_then(|m| m.split_once('@')) {
            return number(at).is_some_and(|at| self.add_mask(digits, at));
        }
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        match (number(from), number(to)) {
            (Some(from), Some(to)) if from <= to => {
                (from..=to).for_each(|range| self.insert(range));
                true
            }
            _ => false,
        }
    }

    fn add_mask(&mut self, digits: &str, at: usize) -> bool {
        if digits.len() * PER_DIGIT + at > RANGES || digits.is_empty() {
            return false;
        }
        for (nth, digit) in digits.chars().enumerate() {
            let Some(bits) = digit.to_digit(16) else { return false };
            for bit in (0..PER_DIGIT).filter(|bit| bits >> bit & 1 == 1) {
                self.insert(at + nth * PER_DIGIT + bit);
            }
        }
        true
    }

    /// The set as words of at most `room` bytes (at least 32), each `mask=HEX@FIRST`: the first
    /// digit is of the range `FIRST` (its lowest bit) and the three after it.
    pub fn masks(&self, room: usize) -> Vec<String> {
        let per_word = room.saturating_sub("mask=@4092".len()).max(1) * PER_DIGIT;
        let mut words = Vec::new();
        let mut ranges = self.iter().peekable();
        while let Some(&first) = ranges.peek() {
            let first = first / PER_DIGIT * PER_DIGIT;
            let mut digits = Vec::new();
            while let Some(range) = ranges.next_if(|&range| range < first + per_word) {
                let nth = (range - first) / PER_DIGIT;
                digits.resize(nth + 1, 0u32);
                digits[nth] |= 1 << (range % PER_DIGIT);
            }
            let digits: String =
                digits.into_iter().filter_map(|bits| char::from_digit(bits, 16)).collect();
            words.push(format!("mask={digits}@{first}"));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTED: Noted = Noted { flags: 1, exptime: 2, cas: 3, marks: 4 };

    #[test]
    fn everything_that_counts_changes_the_digest_of_an_item() {
        let digest = item(b"key", &NOTED, 5, 6);
        let others = [
            item(b"kez", &NOTED, 5, 6),
            item(b"key\0", &NOTED, 5, 6),
            item(b"key", &Noted { flags: 0, ..NOTED }, 5, 6),
            item(b"key", &Noted { exptime: 0, ..NOTED }, 5, 6),
            item(b"key", &Noted { cas: 0, ..NOTED }, 5, 6),
            item(b"key", &Noted { marks: 0, ..NOTED }, 5, 6),
            item(b"key", &NOTED, 0, 6),
            item(b"key", &NOTED, 5, 0),
        ];
        assert!(others.iter().all(|&other| other != digest), "{digest:x} {others:x?}");
    }

    #[test]
    fn order_does_not_matter_and_items_do_not_cancel() {
        let range = |items: &[u64]| {
            let mut range = Range::default();
            items.iter().for_each(|&item| range.add(item));
            range
        };
        assert_eq!(range(&[1, 2, 3]), range(&[3, 1, 2]));
        assert_ne!(range(&[0]), Range::default());
        // Halves swapped between two items, as when two keys of one shape swap their values, and
        // pairs whose sums or differences are equal.
        for (a, b) in [
            ([1 << 32 | 2, 3 << 32 | 4], [1 << 32 | 4, 3 << 32 | 2]),
            ([10, 20], [11, 19]),
            ([7, 7], [9, 9]),
            ([0, u64::MAX], [1, u64::MAX - 1]),
        ] {
            assert_ne!(range(&a).digest, range(&b).digest, "{a:x?} {b:x?}");
        }
    }

    #[test]
    fn ranges_are_spread_and_the_same_everywhere() {
        assert_eq!(range_of(b"123456789"), 0xcbf, "the check value of CRC-32 is cbf43926");
        let mut counts = vec![0u32; RANGES];
        (0..RANGES * 32).for_each(|n| counts[range_of(format!("key:{n}").as_bytes())] += 1);
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(least > Some(&2) && most < Some(&128), "{least:?} {most:?}");
    }

    #[test]
    fn sets_are_written_in_words_of_any_size() {
        let mut some = Ranges::default();
        assert!(some.add_word("0") && some.add_word("17-30") && some.add_word("4095"));
        assert_eq!((some.len(), some.iter().next(), some.is_empty()), (16, Some(0), false));
        let mut every_third = Ranges::default();
        (0..RANGES).step_by(3).for_each(|range| every_third.insert(range));
        for set in [some, every_third, Ranges::default()] {
            for room in [32, 100, 240, 2000] {
                let mut read = Ranges::default();
                for word in set.masks(room) {
                    assert!(word.len() <= room, "{word}");
                    assert!(read.add_word(&word), "{word}");
                }
                assert_eq!(read, set, "{room}");
            }
        }
        for bad in ["", "-", "4096", "3-2", "1-4096", "+1", "x", "mask=", "mask=@0", "mask=f@4093"]
        {
            assert!(!Ranges::default().add_word(bad), "{bad}");
        }
        assert!(!Ranges::default().add_word("mask=0é@0") && !Ranges::default().add_word("mask=f"));
    }
}
