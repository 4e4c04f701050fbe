//! When to try a configured peer again.
//!
//! Owns one target's backoff and what is known about who answers there. Never opens a connection.

use super::action::LinkId;
use super::old::Told;
use super::NodeId;

/// First wait after a failed try; doubles from there.
const BACKOFF_MIN_US: u64 = 100_000;
/// Longest wait: a healed network is found within it and one connection set-up.
const BACKOFF_MAX_US: u64 = 1_000_000;
/// Wait after a target turned out to be this node: names may change, but not often.
const ITSELF_US: u64 = 30_000_000;
/// Broken connections before an initial fill is given up: a network that drops every connection is
/// no better than no peer.
const BROKEN_MAX: u32 = 3;

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nobody answers.
    Nobody,
    /// Somebody answered, but the connection broke.
    Broken,
    /// Somebody answered, and is no use: silent, or not our protocol.
    Useless,
    /// The peer is linked to somebody else.
    Refused,
    /// There is another link to that node, or there will be one later.
    Duplicate,
    /// It is this node.
    Itself,
}

/// One peer named by `-x`.
#[derive(Debug)]
pub(crate) struct Target {
    /// As the log and `stats` name it.
    pub name: String,
    /// The try under way.
    pub dialing: Option<LinkId>,
    /// Who answered there last.
    pub known: Option<NodeId>,
    /// When to try next, monotonic microseconds.
    pub next_us: u64,
    /// What went wrong last.
    pub last_error: String,
    /// Whether it is clear that this target will not fill the starting node.
    pub hopeless: bool,
    /// The last try reached this node.
    pub itself: bool,
    /// Who was there last was a repcached, and what it had been told when its link ended.
    pub text: Option<Told>,
    /// The last try was refused.
    refused: bool,
    /// It was dialled at least once.
    pub tried: bool,
    /// How long a node that is told "already connected" waits before it serves unfilled: a peer
    /// that has lost its old link without noticing finds out within that time.
    patience_us: u64,
    /// When the last try began.
    began_us: u64,
    tries: u32,
    broken: u32,
    refused_us: Option<u64>,
}

impl Target {
    /// A target that was not tried yet. `patience_us`: how long it may say "already connected".
    pub fn new(name: String, patience_us: u64) -> Target {
        Target {
            name,
            dialing: None,
            known: None,
            next_us: 0,
            last_error: String::new(),
            hopeless: false,
            itself: false,
            text: None,
            refused: false,
            tried: false,
            patience_us,
            began_us: 0,
            tries: 0,
            broken: 0,
            refused_us: None,
        }
    }

    /// A try begins.
    pub fn begins(&mut self, now_us: u64) {
        self.began_us = now_us;
        self.tried = true;
    }

    /// A try has ended. Waits count from its beginning: one that hung until its time was over has
    /// waited long enough, and the network may have healed meanwhile. `random` is for the jitter:
    /// two nodes that try each other in step would meet in step again.
    pub fn ended(&mut self, outcome: Outcome, now_us: u64, random: u64) {
        self.dialing = None;
        let wait = (BACKOFF_MIN_US << self.tries.min(4)).min(BACKOFF_MAX_US);
        self.tries += 1;
        let next_us = self.began_us + wait / 2 + random % (wait / 2);
        self.next_us = next_us.max(now_us + random % (BACKOFF_MIN_US / 2));
        self.itself = outcome == Outcome::Itself;
        self.refused = outcome == Outcome::Refused;
        match outcome {
            Outcome::Nobody | Outcome::Useless => self.hopeless = true,
            Outcome::Itself => {
                self.hopeless = true;
                self.next_us = now_us + ITSELF_US;
            }
            Outcome::Broken => {
                self.broken += 1;
                self.hopeless |= self.broken >= BROKEN_MAX;
            }
            Outcome::Refused => {
                let since = *self.refused_us.get_or_insert(now_us);
                self.hopeless |= now_us - since >= self.patience_us;
            }
            Outcome::Duplicate => {}
        }
    }

    /// Linked: the next break starts with short waits again.
    pub fn linked(&mut self, id: NodeId) {
        self.dialing = None;
        self.known = Some(id);
        self.text = None;
        self.itself = false;
        self.refused_us = None;
    }

    /// Linked with a repcached; returns what it was told when it was linked last.
    pub fn linked_text(&mut self) -> Told {
        self.dialing = None;
        self.known = None;
        self.itself = false;
        self.refused_us = None;
        *self.text.get_or_insert_default()
    }

    /// A link of this node has ended, after a life or at once.
    pub fn broke(&mut self, lived: bool, now_us: u64, random: u64) {
        if lived {
            self.tries = 0;
            self.soon(now_us, random);
        } else {
            self.next_us = self.next_us.max(now_us + random % BACKOFF_MAX_US);
        }
    }

    /// For `stats`: what is going on where it is not linked.
    pub fn state(&self) -> &'static str {
        match self {
            Target { dialing: Some(_), .. } => "dialing",
            Target { itself: true, .. } => "itself",
            Target { refused: true, .. } => "refused",
            _ => "waiting",
        }
    }

    /// Try soon: the peer is likely there.
    pub fn soon(&mut self, now_us: u64, random: u64) {
        self.next_us = now_us + random % (BACKOFF_MIN_US / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_second_and_no_more() {
        let mut target = Target::new("a:1".to_owned(), 4_000_000);
        let mut now = 0;
        let mut waits = Vec::new();
        for n in 0..20u64 {
            target.begins(now);
            target.ended(Outcome::Nobody, now, n * 7919);
            waits.push(target.next_us - now);
            now = target.next_us;
        }
        assert!(waits[0] < BACKOFF_MIN_US);
        assert!(waits.iter().all(|&wait| wait <= BACKOFF_MAX_US));
        assert!(waits[10..].iter().all(|&wait| wait >= BACKOFF_MAX_US / 2));
        target.linked(NodeId(1));
        target.begins(now);
        target.ended(Outcome::Broken, now, 0);
        assert!(target.next_us - now >= BACKOFF_MAX_US / 2, "a link that breaks at once");
        target.broke(true, now, 0);
        target.ended(Outcome::Broken, now, 0);
        assert!(target.next_us - now < BACKOFF_MIN_US);
    }

    #[test]
    fn a_try_that_hung_is_repeated_at_once() {
        let mut target = Target::new("a:1".to_owned(), 4_000_000);
        let mut now = 0;
        for n in 0..20u64 {
            target.begins(now);
            let hung = now + BACKOFF_MAX_US;
            target.ended(Outcome::Nobody, hung, n * 7919);
            assert!(target.next_us - hung < BACKOFF_MIN_US, "try {n}");
            now = target.next_us;
        }
    }

    #[test]
    fn a_refused_node_is_patient_for_a_while() {
        let mut target = Target::new("a:1".to_owned(), 4_000_000);
        target.ended(Outcome::Refused, 10, 0);
        assert!(!target.hopeless);
        target.ended(Outcome::Refused, 10 + 4_000_000, 0);
        assert!(target.hopeless);
    }
}
