//! Banks: what a store has more of once it was grown.
//!
//! Owns a table of values that are added one after the other, never change and never go, and are
//! read without a lock. Costs next to nothing while it is empty. Never knows what it holds.
//!
//! ```text
//!  groups [ * | * |   |   | ... ]        each made when its first value comes
//!           |
//!           +--> [ bank 0 | bank 1 |        | ... ]
//! ```

use std::sync::OnceLock;

/// Groups of a table, and values of a group: together enough for [`MOST`] values, and either small
/// enough to be made in passing.
const GROUPS: usize = 128;
const GROUP: usize = 128;
/// Most values.
pub(crate) const MOST: usize = GROUPS * GROUP;

/// Values that are made once, each when it is first wanted.
type Places<T> = Box<[OnceLock<T>]>;

/// The table.
#[derive(Debug)]
pub(crate) struct Banks<T> {
    groups: Places<Places<T>>,
}

impl<T> Banks<T> {
    /// An empty table.
    pub fn new() -> Banks<T> {
        Banks { groups: (0..GROUPS).map(|_| OnceLock::new()).collect() }
    }

    /// Value number `nth`, if it was added.
    #[inline]
    pub fn get(&self, nth: usize) -> Option<&T> {
        self.groups.get(nth / GROUP)?.get()?.get(nth % GROUP)?.get()
    }

    /// Adds value number `nth`. A number that is taken, or is over [`MOST`], changes nothing.
    pub fn add(&self, nth: usize, value: T) {
        if let Some(group) = self.groups.get(nth / GROUP) {
            let group = group.get_or_init(|| (0..GROUP).map(|_| OnceLock::new()).collect());
            let _ = group[nth % GROUP].set(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_stays_where_it_is() {
        let banks = Banks::new();
        assert_eq!(banks.get(0), None);
        for nth in 0..GROUP + 2 {
            banks.add(nth, nth);
        }
        banks.add(1, 99);
        banks.add(MOST, 99);
        assert_eq!((banks.get(1), banks.get(GROUP + 1)), (Some(&1), Some(&(GROUP + 1))));
        assert_eq!((banks.get(GROUP + 2), banks.get(MOST)), (None, None));
    }
}
