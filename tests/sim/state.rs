//! What nodes hold, to be compared: bytes, flags, exptime, version, CAS unique and marks.
//!
//! Owns the dumps. Changes nothing that it looks at.

use std::collections::BTreeMap;
use twincached::base::clock::Now;
use twincached::store::{Change, FlushState, Handle, Marks, ScanCursor, Version, What};

/// A key's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub version: Version,
    /// None: deleted.
    pub item: Option<Held>,
}

/// An item.
#[derive(Clone, PartialEq, Eq)]
pub struct Held {
    pub flags: u32,
    pub exptime: u32,
    /// The unique that clients see.
    pub cas: u64,
    pub marks: Marks,
    pub value: Vec<u8>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Held { flags, exptime, cas, marks, value } = self;
        let (first, len) = (value.first().map(|&byte| char::from(byte)), value.len());
        write!(out, "{len} x {first:?}, {flags}, until {exptime}, {cas}, {marks:?}")
    }
}

pub type Dump = BTreeMap<Vec<u8>, State>;

fn state(change: &Change<'_>) -> State {
    let item = match change.what {
        What::Item { flags, exptime, cas, marks, value } => Some(Held {
            flags,
            exptime: exptime.secs(),
            cas: cas.unwrap_or(change.version.0),
            marks,
            value: value.to_vec(),
        }),
        What::Deleted => None,
    };
    State { version: change.version, item }
}

/// All that a node would tell a peer who knows nothing.
pub fn dump(handle: &mut Handle, now: Now) -> Dump {
    let mut states = Dump::new();
    let mut cursor = ScanCursor::default();
    let mut sink = |change: &Change<'_>| {
        states.insert(change.key.to_vec(), state(change));
    };
    while !handle.scan(&mut cursor, Version(0), 16, now, &mut sink) {}
    states
}

/// What a node would tell of one key.
pub fn told(handle: &mut Handle, key: &[u8], now: Now) -> Option<State> {
    let mut found = None;
    handle.changes_of(handle.hash(key), now, &mut |change| {
        if change.key == key {
            found = Some(state(change));
        }
    });
    found
}

/// What clients can see of these keys.
pub fn visible<'k>(handle: &mut Handle, keys: impl Iterator<Item = &'k Vec<u8>>, now: Now) -> Dump {
    let mut states = Dump::new();
    for key in keys {
        handle.peek(key, now, |i| {
            let (flags, exptime, value) = (i.flags, i.exptime.secs(), i.value.to_vec());
            let held = Held { flags, exptime, cas: i.cas, marks: i.marks, value };
            states.insert(key.clone(), State { version: i.version, item: Some(held) });
        });
    }
    states
}

/// Merges states: the highest version holds.
pub fn raise(best: &mut Dump, key: Vec<u8>, state: State) {
    let known = best.entry(key).or_insert_with(|| state.clone());
    if known.version < state.version {
        *known = state;
    }
}

/// What is flushed at least when all of these have told each other. More is possible: a deferred
/// flush that was called off elsewhere may come to pass before its node hears of that.
pub fn flushed(states: &[FlushState]) -> Version {
    let watermark = states.iter().map(|state| state.watermark).max().unwrap_or_default();
    let last = states.iter().filter_map(|s| s.pending).max_by_key(|p| (p.issued, p.at));
    watermark.max(last.map(|pending| pending.at).unwrap_or_default())
}
