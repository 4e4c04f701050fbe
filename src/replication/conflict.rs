//! What a peer's change does here.
//!
//! Owns large values that are still arriving, and the tally of outcomes. The rule itself (the
//! highest version wins, `What::tie_order` decides between equal versions) is the store's, in one
//! place: this file only puts changes to it. Never holds more than one arriving value, and of that
//! no more than the node would store.

use super::wire::native::{ItemHead, WireError};
use crate::base::clock::Now;
use crate::store::{Applied, Change, Exptime, Handle, Marks, Value, Version, What};

/// How a peer's changes fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Items that came in.
    pub items: u64,
    /// Deletes that came in.
    pub deletes: u64,
    /// Were newer than what was here.
    pub won: u64,
    /// Were here already.
    pub same: u64,
    /// Lost against something newer: both sides had changed the key, or it was flushed.
    pub stale: u64,
    /// Found no room, or were over this node's `-I`.
    pub refused: u64,
}

#[derive(Debug)]
struct Arriving {
    key: Vec<u8>,
    version: Version,
    flags: u32,
    exptime: Exptime,
    cas: Option<u64>,
    marks: Marks,
    len: usize,
    got: usize,
    /// Empty and left so where the value is over `-I`.
    value: Vec<u8>,
    wanted: bool,
}

/// The applying side of one link.
#[derive(Debug, Default)]
pub struct Incoming {
    arriving: Option<Arriving>,
    /// All that the peer has up to here this node has had, too: what of it is not here any more was
    /// dropped here.
    pub agreed: Version,
    /// Items that were dropped here by a delete: hash of the key, version of the delete.
    pub buried: Vec<(u64, Version)>,
    /// Deletes that are remembered here and that the peer must have forgotten, as it has sent what
    /// they deleted: the same of them.
    pub unheard: Vec<(u64, Version)>,
    /// Outcomes so far.
    pub tally: Tally,
}

impl Incoming {
    /// Applies an item. Returns whether it won, as all three do.
    pub fn item(&mut self, head: &ItemHead<'_>, value: &[u8], to: &mut Handle, now: Now) -> bool {
        let value = Value::from(value);
        let ItemHead { flags, exptime, cas, marks, .. } = *head;
        let what = What::Item { flags, exptime, cas, marks, value };
        self.told(&Change { key: head.key, version: head.version, what }, to, now)
    }

    /// Applies an item as the peer's writer has left it.
    pub fn told(&mut self, change: &Change<'_>, to: &mut Handle, now: Now) -> bool {
        self.tally.items += 1;
        let fits = match change.what {
            What::Item { flags, value, .. } => {
                to.store_ref().config().fits(change.key.len(), flags, value.len())
            }
            What::Deleted => true,
        };
        if !fits {
            self.refuse(change.key, change.version, to, now);
            return false;
        }
        self.apply(change, to, now)
    }

    /// Applies a delete.
    pub fn deleted(&mut self, key: &[u8], version: Version, to: &mut Handle, now: Now) -> bool {
        self.tally.deletes += 1;
        self.apply(&Change { key, version, what: What::Deleted }, to, now)
    }

    /// Takes in the head of a large item.
    ///
    /// # Errors
    /// The one before it is not complete.
    pub fn large(
        &mut self,
        head: &ItemHead<'_>,
        len: u32,
        to: &mut Handle,
        now: Now,
    ) -> Result<(), WireError> {
        if self.arriving.is_some() {
            return Err(WireError::OutOfPlace { what: "a large item inside another one" });
        }
        if len == 0 {
            return Err(WireError::OutOfPlace { what: "a large item without a value" });
        }
        self.tally.items += 1;
        let len = len as usize;
        let wanted = to.store_ref().config().fits(head.key.len(), head.flags, len);
        if !wanted {
            self.refuse(head.key, head.version, to, now);
        }
        self.arriving = Some(Arriving {
            key: head.key.to_vec(),
            version: head.version,
            flags: head.flags,
            exptime: head.exptime,
            cas: head.cas,
            marks: head.marks,
            len,
            got: 0,
            // Grows as bytes come: an announced length alone costs nothing.
            value: Vec::new(),
            wanted,
        });
        Ok(())
    }

    /// Takes in a part; applies the item where it was the last one. Returns the key and version
    /// then, and whether it won.
    ///
    /// # Errors
    /// No large item is arriving, or it is longer than announced.
    pub fn part(
        &mut self,
        bytes: &[u8],
        to: &mut Handle,
        now: Now,
    ) -> Result<Option<(Vec<u8>, Version)>, WireError> {
        let Some(arriving) = &mut self.arriving else {
            return Err(WireError::OutOfPlace { what: "a part of no item" });
        };
        arriving.got += bytes.len();
        if bytes.is_empty() || arriving.got > arriving.len {
            return Err(WireError::OutOfPlace { what: "a part that does not fit its item" });
        }
        if arriving.wanted {
            arriving.value.extend_from_slice(bytes);
        }
        if arriving.got < arriving.len {
            return Ok(None);
        }
        let Some(item) = self.arriving.take().filter(|item| item.wanted) else { return Ok(None) };
        let value = Value::from(&item.value[..]);
        let Arriving { key, version, flags, exptime, cas, marks, .. } = &item;
        let what = What::Item { flags: *flags, exptime: *exptime, cas: *cas, marks: *marks, value };
        let won = self.apply(&Change { key, version: *version, what }, to, now);
        Ok(won.then_some((item.key, item.version)))
    }

    fn apply(&mut self, change: &Change<'_>, to: &mut Handle, now: Now) -> bool {
        match to.apply_known(change, self.agreed, now) {
            Applied::Won => {
                self.tally.won += 1;
                return true;
            }
            Applied::Same => self.tally.same += 1,
            Applied::Stale => {
                self.tally.stale += 1;
                if matches!(change.what, What::Item { .. }) {
                    let version = to.old_delete(change.key, now);
                    self.unheard.extend(version.map(|version| (to.hash(change.key), version)));
                }
            }
            Applied::TooLarge | Applied::OutOfMemory => self.tally.refused += 1,
            Applied::Buried(version) => {
                self.buried.push((to.hash(change.key), version));
                self.tally.stale += 1;
            }
            Applied::Left => self.tally.stale += 1,
        }
        false
    }

    /// An item that this node cannot hold still ends the life of what is older here. The delete is
    /// one version lower than the item, so that it never beats the item itself on a node that can
    /// hold it.
    fn refuse(&mut self, key: &[u8], version: Version, to: &mut Handle, now: Now) {
        self.tally.refused += 1;
        let version = Version(version.0.saturating_sub(1));
        to.apply(&Change { key, version, what: What::Deleted }, now);
    }
}
