//! What so many peers have acknowledged: the ground on which synchronous writes are answered.
//!
//! Owns the rule by which the acknowledgements of all links become one answer. Reads sessions and
//! changes nothing but the haste of their marks; who waits for what is the server's business
//! (`server/waits.rs`).
//!
//! ```text
//!   link 1   |=============== acked ===============|
//!   link 2   |=== acked ===|      (base |== live ==|      it is being copied to, or caught up
//!                          ^            ^
//!      of two peers:      upto          live.0 .. live.1
//! ```
//! A version counts as acknowledged by a link where the peer has applied all that was changed here
//! up to it, or, while a scan is under way, where it has applied all that was changed here since
//! the scan began, the version among it.

use super::node::Node;
use crate::base::clock::Now;
use crate::store::Version;

/// What one peer has for certain of this node's own changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Everything up to here.
    pub upto: Version,
    /// Everything above the first, up to the second.
    pub live: (Version, Version),
    /// When the oldest change was made that it has not acknowledged, monotonic microseconds.
    pub late_us: Option<u64>,
}

/// What N peers have for certain of this node's own changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// Everything up to here.
    pub upto: Version,
    /// Everything above the first, up to the second.
    pub live: (Version, Version),
    /// At least N peers are linked and in step: none has owed an acknowledgement for too long.
    pub enough: bool,
}

impl Quorum {
    /// Whether the change with this version is on N peers.
    pub fn has(&self, version: Version) -> bool {
        version <= self.upto || (version > self.live.0 && version <= self.live.1)
    }

    /// What the acknowledgements of all links come to, and when that will change by itself
    /// (monotonic microseconds): when one of the links in step has owed an acknowledgement for
    /// `timeout_us`.
    pub fn of(
        links: &mut [Applied],
        peers: usize,
        timeout_us: u64,
        now: Now,
    ) -> (Self, Option<u64>) {
        let Some(nth) = peers.checked_sub(1) else { return (Quorum::default(), None) };
        let due = |link: &Applied| link.late_us.map(|late| late.saturating_add(timeout_us));
        let in_step = |link: &&Applied| due(link).is_none_or(|due| now.mono_us < due);
        let enough = links.iter().filter(in_step).count() >= peers;
        let next = links.iter().filter(in_step).filter_map(due).min();
        if links.len() < peers {
            return (Quorum { enough, ..Quorum::default() }, next);
        }
        links.sort_unstable_by_key(|link| std::cmp::Reverse(link.upto));
        let upto = links[nth].upto;
        links.sort_unstable_by_key(|link| std::cmp::Reverse(link.live.1));
        let from = links[..peers].iter().map(|link| link.live.0).max().unwrap_or_default();
        (Quorum { upto, live: (from, links[nth].live.1), enough }, next)
    }
}

impl Node {
    /// Clients wait until peers have acknowledged what was changed here up to `wanted`: marks for
    /// it are sent at once.
    pub fn hurry(&mut self, wanted: Version) {
        for link in self.links.values_mut() {
            if let Some(session) = &mut link.session {
                session.hurry(wanted);
            }
        }
    }

    /// What `peers` of the linked ones have acknowledged, and when that is to be asked again
    /// although nothing was heard, see [`Quorum::of`].
    pub fn quorum(&self, peers: usize, timeout_us: u64, now: Now) -> (Quorum, Option<u64>) {
        let mut links: Vec<Applied> =
            self.live().filter_map(|(_, link)| link.session.as_ref()?.applied()).collect();
        Quorum::of(&mut links, peers, timeout_us, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { unix_us: 0, mono_us: 1000 };

    fn whole(upto: u64) -> Applied {
        Applied { upto: Version(upto), live: (Version(0), Version(upto)), late_us: None }
    }

    fn copying(upto: u64, from: u64, live: u64) -> Applied {
        Applied { upto: Version(upto), live: (Version(from), Version(live)), late_us: None }
    }

    fn quorum(links: &[Applied], peers: usize) -> Quorum {
        Quorum::of(&mut links.to_vec(), peers, 500, NOW).0
    }

    #[test]
    fn a_version_needs_as_many_peers_as_were_asked_for() {
        let links = [whole(10), whole(30), whole(20)];
        for (peers, upto) in [(1, 30), (2, 20), (3, 10)] {
            let quorum = quorum(&links, peers);
            assert!(quorum.enough && quorum.has(Version(upto)), "{peers}");
            assert!(!quorum.has(Version(upto + 1)), "{peers}");
        }
        assert!(!quorum(&links, 4).enough && !quorum(&links, 4).has(Version(1)));
        assert!(!quorum(&[], 1).enough);
    }

    #[test]
    fn during_a_copy_only_the_newer_changes_count() {
        let one = quorum(&[copying(5, 40, 60)], 1);
        let has = |quorum: &Quorum, n| quorum.has(Version(n));
        assert!(has(&one, 5) && !has(&one, 6) && !has(&one, 40) && has(&one, 41) && has(&one, 60));
        assert!(!has(&one, 61));
        let two = quorum(&[copying(5, 40, 60), whole(50), copying(0, 45, 70)], 2);
        assert!(!has(&two, 45) && has(&two, 46) && has(&two, 60) && !has(&two, 61));
        assert!(has(&two, 5));
    }

    #[test]
    fn who_owes_an_ack_for_too_long_is_not_in_step_and_yet_counts_when_it_comes() {
        let late = |late_us| Applied { late_us: Some(late_us), ..whole(9) };
        let of = |links: &[Applied]| Quorum::of(&mut links.to_vec(), 1, 500, NOW);
        assert_eq!(of(&[late(501)]).1, Some(1001));
        assert!(of(&[late(501)]).0.enough);
        assert_eq!(of(&[late(500)]).1, None);
        assert!(!of(&[late(500)]).0.enough && of(&[late(500)]).0.has(Version(9)));
        assert!(of(&[late(500), whole(1)]).0.enough);
    }
}
