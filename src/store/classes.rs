//! memcached's slab classes, as a way to sort items by size.
//!
//! Owns the sizes of the classes, which class an item belongs to, and the counts by class. Memory
//! is not cut that way here: a class is a row of `stats items` and `stats slabs`, which tools of
//! memcached read, and its sizes are those that memcached would need for the same items.

use super::core::{lock, Store};
use super::item::Record;
use super::memcached_size;
use crate::base::counters::{ClassCounter, ClassSums, Counters, CLASSES};

/// Bytes of memcached's item header, which stands before the `-n` bytes of the smallest class.
const HEADER: u32 = 48;
/// memcached's chunks start at multiples of this.
const ALIGN: u32 = 8;
/// The last class; class 0 is nobody's.
const LAST: u8 = CLASSES as u8 - 1;

/// Sizes up to this have their class in a table of two cache lines.
const SMALL: usize = 1024;
/// Numbers of binary digits that a size may have, none included.
const DIGITS: usize = usize::BITS as usize + 1;

/// The classes of one server: which sizes belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    /// The largest size of each class; of the last one whatever is larger, too.
    sizes: [u32; CLASSES],
    last: u8,
    /// Of sizes with so many binary digits, the class of the smallest.
    start: [u8; DIGITS],
    /// The class of every size up to [`SMALL`], by eights: most items are as small.
    small: [u8; SMALL / ALIGN as usize + 1],
}

impl Default for Classes {
    /// memcached's: `-n 48 -f 1.25 -o slab_chunk_max=512k`.
    fn default() -> Classes {
        Classes::new(48, 1.25, 512 << 10)
    }
}

impl Classes {
    /// The classes of a memcached with these settings: the bytes beside the header in the smallest
    /// one (`-n`), the factor between two (`-f`, more than 1), the size of the largest one.
    pub fn new(smallest: u32, factor: f64, largest: u32) -> Classes {
        let small = [1; SMALL / ALIGN as usize + 1];
        let mut classes = Classes { sizes: [0; CLASSES], last: 0, start: [1; DIGITS], small };
        let mut size = smallest.saturating_add(HEADER);
        let mut class = 1;
        while class < LAST && f64::from(size) < f64::from(largest) / factor {
            size = size.next_multiple_of(ALIGN);
            classes.sizes[usize::from(class)] = size;
            // As in C: the product is cut to a whole number. It has to grow all the same.
            size = ((f64::from(size) * factor) as u32).max(size.saturating_add(1));
            class += 1;
        }
        classes.sizes[usize::from(class)] = largest;
        classes.last = class;
        for (digits, start) in classes.start.iter_mut().enumerate().skip(1) {
            let least = 1u64 << (digits - 1);
            let fits = |&class: &u8| u64::from(classes.sizes[usize::from(class)]) >= least;
            *start = (1..=class).find(fits).unwrap_or(class);
        }
        classes.small = std::array::from_fn(|eights| classes.search(eights * ALIGN as usize));
        classes
    }

    /// The class of an item of so many bytes, as memcached counts them: 1 to [`Classes::last`].
    #[inline]
    pub fn of(&self, size: usize) -> u8 {
        // The sizes of classes are multiples of it, so nothing is lost between.
        match self.small.get(size.div_ceil(ALIGN as usize)) {
            Some(&class) => class,
            None => self.search(size),
        }
    }

    fn search(&self, size: usize) -> u8 {
        let mut class = self.start[(usize::BITS - size.leading_zeros()) as usize];
        while class < self.last && size > self.size(class) as usize {
            class += 1;
        }
        class
    }

    /// The largest item of a class, in bytes; 0 for a number that is no class.
    pub fn size(&self, class: u8) -> u32 {
        self.sizes.get(usize::from(class)).copied().unwrap_or(0)
    }

    /// The number of the class with the largest items.
    pub fn last(&self) -> u8 {
        self.last
    }
}

impl Store {
    /// The size of an item as memcached counts it, and its class. Only of what does not change
    /// while the record is there, so that what is added is what is taken off later.
    #[inline]
    pub(super) fn class_of(&self, record: &Record) -> (u8, u64) {
        let vlen = if record.is_large() { self.large_len(record) } else { record.value_len() };
        let size = memcached_size(record.key_len(), record.has_flags(), vlen);
        (self.config.classes.of(size), size as u64)
    }

    /// Off the way of small items.
    #[cold]
    fn large_len(&self, record: &Record) -> usize {
        self.total_len(record)
    }

    /// Counts an item that becomes reachable.
    #[inline]
    pub(super) fn class_gains(&self, record: &Record, counters: &Counters) {
        let (class, size) = self.class_of(record);
        counters.add_class(class, ClassCounter::Linked, 1);
        counters.add_class(class, ClassCounter::MemRequested, size);
    }

    /// Counts an item that stops being one.
    #[inline]
    pub(super) fn class_loses(&self, record: &Record, counters: &Counters) {
        let (class, size) = self.class_of(record);
        counters.add_class(class, ClassCounter::Unlinked, 1);
        counters.sub_class(class, ClassCounter::MemRequested, size);
    }

    /// Counts one thing that happened to an item.
    #[inline]
    pub(super) fn class_counts(&self, record: &Record, counter: ClassCounter, counters: &Counters) {
        counters.add_class(self.class_of(record).0, counter, 1);
    }

    fn raw_classes(&self) -> ClassSums {
        let mut sums = ClassSums::default();
        self.each_counters(|counters| counters.sum_classes_into(&mut sums));
        sums
    }

    /// Gauges, and the sums of all handles' counters since the last reset, by class.
    pub fn class_stats(&self) -> ClassSums {
        self.raw_classes().since(&lock(&self.class_base))
    }

    /// `stats reset`, for the counts by class.
    pub(super) fn reset_classes(&self) {
        let raw = self.raw_classes();
        *lock(&self.class_base) = raw;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;
    use crate::store::{Config, Exptime, Mode};

    #[test]
    fn the_sizes_are_memcacheds() {
        // From `memcached -vv`.
        let classes = Classes::default();
        let sizes: Vec<u32> = [1, 2, 3, 4, 10, 31, 38, 39].map(|c| classes.size(c)).to_vec();
        assert_eq!(sizes, [96, 120, 152, 192, 752, 82792, 394840, 524288]);
        assert_eq!(classes.last(), 39);
        for (size, class) in
            [(0, 1), (57, 1), (96, 1), (97, 2), (120, 2), (121, 3), (524_288, 39), (1 << 40, 39)]
        {
            assert_eq!(classes.of(size), class, "{size}");
        }
        for size in (0..600_000).step_by(7) {
            let class = classes.of(size);
            assert!(size <= classes.size(class) as usize || class == 39, "{size}");
            assert!(class == 1 || size > classes.size(class - 1) as usize, "{size}");
        }
    }

    #[test]
    fn odd_settings_make_classes_too() {
        // -I 1024 -o slab_chunk_max=1: one class. A factor that hardly grows: not over 63.
        assert_eq!(Classes::new(48, 1.25, 96).last(), 1);
        let many = Classes::new(8, 1.000_1, 1 << 20);
        assert_eq!((many.last(), many.of(1 << 19)), (63, 63));
        assert_eq!(Classes::new(u32::MAX, 1.25, 1 << 20).of(100), 1);
    }

    #[test]
    fn what_comes_in_goes_out_again() {
        let now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };
        let store = Store::new(Config { memory_limit: 4 << 20, ..Config::default() }, now);
        let (mut a, mut b) = (store.handle(), store.handle());
        let get = |class, counter| store.class_stats().get(class, counter);
        a.store(Mode::Set, b"k", 7, Exptime::Never, b"value", now);
        assert_eq!(store.class_stats().number(1), 1);
        assert_eq!(get(1, ClassCounter::MemRequested), 48 + 8 + 2 + 4 + 7);
        let large = vec![0; 70_000];
        b.store(Mode::Set, b"k", 0, Exptime::Never, &large, now);
        assert_eq!((store.class_stats().number(1), store.class_stats().number(31)), (0, 1));
        store.reset_stats();
        assert_eq!(store.class_stats().number(31), 1);
        assert!(a.delete(b"k", now));
        assert_eq!(store.class_stats().number(31), 0);
        assert_eq!(get(31, ClassCounter::MemRequested), 0);
    }
}
