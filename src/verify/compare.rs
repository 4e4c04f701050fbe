//! When two nodes that are written to meanwhile are the same.
//!
//! Owns the keys that differed at the last look and the rule that decides about them. Pure: looks
//! and time are arguments.
//!
//! A key is **equal** as soon as one look finds it in the same state everywhere (or nowhere). It is
//! **different** when no look did so for the time given, unless it is **moving**: a key that is
//! written many times a second is found at different moments of one history. That counts as
//! proven where in the last half of the time each node was found in a state that another node was
//! found in, too, and so on until all are connected, and the key has changed all along: a state has
//! the CAS unique in it, so that nodes that do not hear of each other never come to the same one.

use std::collections::{BTreeMap, VecDeque};

use crate::base::num::{parse_u32, parse_u64};

/// A key as nodes show it, percent-encoded.
pub type Key = Box<[u8]>;

/// States of one key and node that are remembered: a thousand looks.
const HISTORY_MAX: usize = 1024;

/// What a key holds on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Length of the value.
    pub bytes: u64,
    /// CRC-32 of the value.
    pub crc: u32,
    /// The client's flags.
    pub flags: u32,
    /// Unix seconds; 0 for never.
    pub exptime: u32,
    /// The CAS unique.
    pub cas: u64,
    /// 1 stale, 2 won, 4 key in base64.
    pub marks: u32,
}

impl State {
    /// Reads what stands behind the key in a node's line.
    pub fn parse(rest: &[u8]) -> Option<State> {
        let mut words = rest.split(|&byte| byte == b' ');
        let mut word = || words.next();
        let state = State {
            bytes: parse_u64(word()?)?,
            crc: u32::from_str_radix(std::str::from_utf8(word()?).ok()?, 16).ok()?,
            flags: parse_u32(word()?)?,
            exptime: parse_u32(word()?)?,
            cas: parse_u64(word()?)?,
            marks: parse_u32(word()?)?,
        };
        // A newer node may say more.
        Some(state)
    }
}

/// A key that differed.
#[derive(Debug)]
struct Watch {
    /// When it was first seen to differ, and last seen to change.
    first_us: u64,
    changed_us: u64,
    /// At the last look, by node.
    states: Vec<Option<State>>,
    /// Distinct successive states, by node.
    seen: Vec<VecDeque<State>>,
    /// When two nodes were last found to have been in one state: `met[a][b]` for b < a.
    met: Vec<Vec<Option<u64>>>,
}

impl Watch {
    fn new(nodes: usize, now_us: u64) -> Watch {
        Watch {
            first_us: now_us,
            changed_us: now_us,
            states: vec![None; nodes],
            seen: vec![VecDeque::new(); nodes],
            met: (0..nodes).map(|node| vec![None; node]).collect(),
        }
    }

    fn look(&mut self, states: Vec<Option<State>>, now_us: u64) {
        for (node, &state) in states.iter().enumerate() {
            if self.states[node] == state {
                continue;
            }
            self.changed_us = now_us;
            let Some(state) = state else { continue };
            let seen = &mut self.seen[node];
            if seen.len() == HISTORY_MAX {
                seen.pop_front();
            }
            seen.push_back(state);
        }
        // After all are taken in: what is new on one node may be new on another as well.
        for (node, &state) in states.iter().enumerate() {
            let Some(state) = state.filter(|_| self.states[node] != states[node]) else { continue };
            for other in (0..states.len()).filter(|&other| other != node) {
                if self.seen[other].contains(&state) {
                    self.met[node.max(other)][node.min(other)] = Some(now_us);
                }
            }
        }
        self.states = states;
    }

    /// Whether it is one history that is found at different moments, by what was seen since then.
    fn is_moving(&self, since_us: u64) -> bool {
        let recent = |at: Option<u64>| at.is_some_and(|at| at >= since_us);
        if !recent(Some(self.changed_us)) {
            return false;
        }
        let nodes = self.states.len();
        let mut joined = vec![false; nodes];
        joined[0] = true;
        for _ in 1..nodes {
            for (a, row) in self.met.iter().enumerate() {
                for (b, &at) in row.iter().enumerate() {
                    if recent(at) && joined[a] != joined[b] {
                        (joined[a], joined[b]) = (true, true);
                    }
                }
            }
        }
        joined.into_iter().all(|is| is)
    }
}

/// A key that is not the same everywhere.
#[derive(Debug, PartialEq, Eq)]
pub struct Different {
    /// The key.
    pub key: Key,
    /// What it holds, by node.
    pub states: Vec<Option<State>>,
}

/// What has become of pending keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Their time was over.
    pub different: Vec<Different>,
    /// They changed all the time, the same on all nodes as far as can be seen.
    pub moving: usize,
}

/// The keys about which nothing is decided yet.
#[derive(Debug, Default)]
pub struct Pending(BTreeMap<Key, Watch>);

impl Pending {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.keys()
    }

    /// Takes in what a key holds on each node. It leaves when that is the same.
    pub fn look(&mut self, key: Key, states: Vec<Option<State>>, now_us: u64) {
        if states.windows(2).all(|pair| pair[0] == pair[1]) {
            self.0.remove(&key);
            return;
        }
        let nodes = states.len();
        self.0.entry(key).or_insert_with(|| Watch::new(nodes, now_us)).look(states, now_us);
    }

    /// When the first key's time is over.
    pub fn next_due(&self, wait_us: u64) -> u64 {
        self.0.values().map(|watch| watch.first_us + wait_us).min().unwrap_or(u64::MAX)
    }

    /// Decides about the keys whose time is over; they leave.
    pub fn verdict(&mut self, now_us: u64, wait_us: u64) -> Verdict {
        let mut verdict = Verdict::default();
        let over = |watch: &Watch| now_us >= watch.first_us + wait_us;
        if !self.0.values().any(over) {
            return verdict;
        }
        for (key, watch) in std::mem::take(&mut self.0) {
            if !over(&watch) {
                self.0.insert(key, watch);
            } else if wait_us > 0 && watch.is_moving(now_us.saturating_sub(wait_us / 2)) {
                verdict.moving += 1;
            } else {
                verdict.different.push(Different { key, states: watch.states });
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: u64 = 1000;

    fn state(cas: u64) -> Option<State> {
        Some(State { bytes: 1, crc: 2, flags: 3, exptime: 4, cas, marks: 0 })
    }

    fn key() -> Key {
        Key::from(&b"key"[..])
    }

    /// Looks at one key at each of these times, and the verdict at the end of the wait.
    fn verdict(looks: &[(u64, &[Option<State>])]) -> (usize, usize) {
        let mut pending = Pending::default();
        for &(at, states) in looks {
            pending.look(key(), states.to_vec(), at);
        }
        assert_eq!(pending.verdict(looks[0].0 + WAIT - 1, WAIT), Verdict::default());
        let verdict = pending.verdict(looks[0].0 + WAIT, WAIT);
        assert!(pending.is_empty());
        (verdict.different.len(), verdict.moving)
    }

    #[test]
    fn states_are_read() {
        let state = State { bytes: 5, crc: 0xcbf4_3926, flags: 1, exptime: 0, cas: 7, marks: 2 };
        assert_eq!(State::parse(b"5 cbf43926 1 0 7 2"), Some(state));
        assert_eq!(State::parse(b"5 cbf43926 1 0 7 2 more"), Some(state));
        for bad in ["", "5", "5 g 1 0 7 2", "5 0 1 0 7", "-5 0 1 0 7 2", "5 0 1 0 7 "] {
            assert_eq!(State::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn what_arrives_in_time_is_equal() {
        assert_eq!(verdict(&[(5, &[state(1), None]), (9, &[state(1), state(1)])]), (0, 0));
        assert_eq!(verdict(&[(5, &[state(1), None]), (9, &[None, None])]), (0, 0));
        let mut never = Pending::default();
        never.look(key(), vec![state(1); 3], 0);
        assert!(never.is_empty());
    }

    #[test]
    fn what_stays_different_is_different() {
        assert_eq!(verdict(&[(5, &[state(1), None])]), (1, 0));
        assert_eq!(verdict(&[(5, &[state(1), state(2)]), (900, &[state(1), state(2)])]), (1, 0));
        // It changes on one node, and the other does not hear of it.
        let looks: Vec<[Option<State>; 2]> = (0..10).map(|n| [state(100 + n), state(1)]).collect();
        let looks: Vec<(u64, &[Option<State>])> =
            looks.iter().enumerate().map(|(n, look)| (100 * n as u64, &look[..])).collect();
        assert_eq!(verdict(&looks), (1, 0));
        // Both change, each for itself.
        let apart: Vec<[Option<State>; 2]> =
            (0..10).map(|n| [state(2 * n), state(2 * n + 1)]).collect();
        let apart: Vec<(u64, &[Option<State>])> =
            apart.iter().enumerate().map(|(n, look)| (100 * n as u64, &look[..])).collect();
        assert_eq!(verdict(&apart), (1, 0));
    }

    #[test]
    fn a_key_that_is_always_written_is_moving_not_different() {
        let behind: Vec<[Option<State>; 3]> =
            (0..10).map(|n| [state(n + 2), state(n + 1), state(n)]).collect();
        let looks = |count: usize| -> Vec<(u64, &[Option<State>])> {
            behind.iter().take(count).enumerate().map(|(n, l)| (100 * n as u64, &l[..])).collect()
        };
        assert_eq!(verdict(&looks(10)), (0, 1));
        // It has stopped, and what it was left with is no history any more.
        assert_eq!(verdict(&looks(4)), (1, 0));
        // The third does not hear of it.
        let apart: Vec<[Option<State>; 3]> =
            (0..10).map(|n| [state(n + 2), state(n + 1), state(1000 + n)]).collect();
        let apart: Vec<(u64, &[Option<State>])> =
            apart.iter().enumerate().map(|(n, l)| (100 * n as u64, &l[..])).collect();
        assert_eq!(verdict(&apart), (1, 0));
    }

    #[test]
    fn without_a_wait_the_first_look_decides() {
        let mut pending = Pending::default();
        pending.look(key(), vec![state(1), None], 7);
        assert_eq!(pending.next_due(0), 7);
        let different = vec![Different { key: key(), states: vec![state(1), None] }];
        assert_eq!(pending.verdict(7, 0), Verdict { different, moving: 0 });
    }
}
