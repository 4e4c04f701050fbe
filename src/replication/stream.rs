//! Live changes to one peer: a cursor and a bounded queue.
//!
//! Owns the queue of key hashes, what it covers, what it had to drop, and the marks by which the
//! peer acknowledges. Never holds a value: what a key holds is read when it is sent, so a key that
//! is written again while it waits is sent once, in its last state. Never breaks a link and never
//! grows: what finds no room is found again by a scan.
//!
//! ```text
//!   feeds --push--> [ h h h h ] --pop--> changes_of(h) --> wire
//!                      | full                 ^
//!                      v                      |
//!                  lost since v  ---------> scan(since v)
//!
//!   versions:   acked <= marked <= covered        "covered": all our changes up to here were
//!                                                 pushed; "marked": and are on the wire
//! ```
//!
//! While a scan is under way no such mark can be placed: what the scan has still to find is not
//! sent. What was pushed since it began is, and clients may wait for that ([`Stream::hurry`]): then
//! a live mark asks for it. On the wire it says "up to 0", which is always true and so gives the
//! peer nothing to resume from; its ack covers what was changed since the scan began.

use crate::base::clock::Now;
use crate::store::{Drained, Version};
use std::collections::VecDeque;

/// Shortest time between two marks while changes are made: a mark costs both sides a turn.
const MARK_US: u64 = 20_000;
/// The same while only changes of peers come in: these marks merely spare a later resume the work
/// of telling the peer what it has told us.
const IDLE_MARK_US: u64 = 200_000;

/// The lowest version among changes of other peers that a peer may lack although it is below what
/// it acknowledged: these do not come in version order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debt(Option<Version>);

impl Debt {
    /// Adds one change.
    pub fn add(&mut self, version: Version) {
        self.0 = Some(self.0.map_or(version, |lowest| lowest.min(version)));
    }

    /// Adds what another debt has.
    pub fn merge(&mut self, other: Debt) {
        if let Some(version) = other.0 {
            self.add(version);
        }
    }

    /// `since`, lowered so that a scan above it finds what is owed.
    pub fn lower(self, since: Version) -> Version {
        match self.0 {
            Some(version) => since.min(Version(version.0.saturating_sub(1))),
            None => since,
        }
    }
}

/// A drain that brings no more changes than this is a calm one: the burst that ran the queue over
/// is over.
const CALM: usize = 64;
/// How long the scan that finds what was dropped may wait for a calm moment. While changes come
/// faster than the peer takes them, one scan after the other would find what is dropped again;
/// one at such times catches up with all of them.
const LOST_WAIT_US: u64 = 100_000;

/// An emptied queue with room for more hashes than this is given back: more than a busy moment's,
/// so that steady writing does not allocate.
const QUEUE_KEEP: usize = 16 * 1024;
/// Most places of [`Queued`]: 128 KiB per link.
const PLACES_MAX: usize = 16 * 1024;

/// Which hashes wait in the queue, as far as it remembers: one place per hash, and the last one
/// that wanted a place has it. What it forgets is sent twice, which is harmless; what it knows to
/// wait does wait. One look at one place, where a set of hashes would cost three probes per change.
#[derive(Debug)]
struct Queued {
    /// A power of two of them. An empty place holds a hash that belongs elsewhere.
    places: Vec<u64>,
}

impl Queued {
    fn new(max: usize) -> Queued {
        let places = (2 * max.min(PLACES_MAX / 2)).next_power_of_two();
        Queued { places: (0..places as u64).map(|at| !at).collect() }
    }

    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    /// False when it waits already.
    fn insert(&mut self, hash: u64) -> bool {
        let at = self.place(hash);
        std::mem::replace(&mut self.places[at], hash) != hash
    }

    /// One that waited is taken out, perhaps not the only one of its hash.
    fn remove(&mut self, hash: u64) {
        let at = self.place(hash);
        if self.places[at] == hash {
            self.places[at] = !hash;
        }
    }
}

/// A mark that is waiting: for the queue to be sent up to a position, or for its ack.
#[derive(Clone, Copy, Debug)]
struct Mark {
    upto: Version,
    /// Of a live mark: what the scan under way began with. What is older is not covered.
    base: Option<Version>,
    position: u64,
    on_wire: bool,
}

impl Mark {
    /// What the peer is told, and repeats.
    fn told(&self) -> Version {
        if self.base.is_some() {
            Version(0)
        } else {
            self.upto
        }
    }
}

/// The outgoing live changes of one link.
#[derive(Debug)]
pub struct Stream {
    queue: VecDeque<u64>,
    queued: Queued,
    max: usize,
    pushed: u64,
    popped: u64,
    covered: Version,
    lost: Option<Version>,
    /// When the scan for what was lost is due at the latest, and whether it is.
    lost_due_us: u64,
    lost_due: bool,
    /// Changes that the drain under way has brought already.
    brought: usize,
    mark: Option<Mark>,
    marked_us: Option<u64>,
    acked: Version,
    /// A mark was acknowledged.
    carried: bool,
    /// Relayed changes: not in a mark yet, and in the one that is waiting.
    debt_new: Debt,
    debt_marked: Debt,
    /// When the oldest change was pushed that is in no mark yet, and that is in the waiting one.
    made_new: Option<u64>,
    made_marked: Option<u64>,
    /// A scan is under way; all that was changed above this is pushed, not only found by it.
    base: Option<Version>,
    /// The highest version that a client waits for. None: clients never wait.
    wanted: Option<Version>,
    /// What the last mark and the last live mark cover.
    marked: Version,
    live_marked: Version,
    /// What the peer acknowledged by live marks: above the first, up to the second.
    live_acked: (Version, Version),
    /// When the oldest change was pushed that no mark of either kind covers yet, and that the
    /// waiting one covers.
    late_new: Option<u64>,
    late_marked: Option<u64>,
    /// Times that the queue ran over.
    pub overflows: u64,
}

impl Stream {
    /// A stream whose peer has everything up to `covered` or gets it by a scan. At most `max`
    /// hashes wait.
    pub fn new(max: usize, covered: Version) -> Stream {
        Stream {
            queue: VecDeque::new(),
            queued: Queued::new(max.max(1)),
            max: max.max(1),
            pushed: 0,
            popped: 0,
            covered,
            lost: None,
            lost_due_us: 0,
            lost_due: false,
            brought: 0,
            mark: None,
            marked_us: None,
            acked: Version(0),
            carried: false,
            debt_new: Debt::default(),
            debt_marked: Debt::default(),
            made_new: None,
            made_marked: None,
            base: None,
            wanted: None,
            marked: Version(0),
            live_marked: Version(0),
            live_acked: (Version(0), Version(0)),
            late_new: None,
            late_marked: None,
            overflows: 0,
        }
    }

    /// Takes in what was drained from the feeds.
    pub fn push(&mut self, hashes: &[u64], drained: Drained, now: Now) {
        if drained.overflowed {
            self.lose(self.covered, now);
        }
        for &hash in hashes {
            self.enqueue(hash, self.covered, now);
        }
        if !hashes.is_empty() || drained.overflowed {
            self.made_new.get_or_insert(now.mono_us);
            self.late_new.get_or_insert(now.mono_us);
        }
        self.covered = self.covered.max(drained.upto);
        let brought = std::mem::take(&mut self.brought) + hashes.len();
        if brought <= CALM && !drained.overflowed {
            self.lost_due = self.lost.is_some();
        }
    }

    /// Takes in one change, ahead of the push that covers it.
    pub fn push_one(&mut self, hash: u64, now: Now) {
        self.enqueue(hash, self.covered, now);
        self.passed(1, now);
    }

    /// Changes were made that are on their way already: a mark has to follow them.
    pub fn passed(&mut self, count: usize, now: Now) {
        self.brought += count;
        self.made_new.get_or_insert(now.mono_us);
        self.late_new.get_or_insert(now.mono_us);
    }

    /// Has what is newer than `since` looked up and sent: others do not answer for it any more.
    pub fn catch_up(&mut self, since: Version, now: Now) {
        self.debt_new.add(Version(since.0.saturating_add(1)));
        self.made_new.get_or_insert(now.mono_us);
        self.lost = Some(self.lost.map_or(since, |lost| lost.min(since)));
        self.lost_due = true;
    }

    /// How much has been pushed so far, for [`Stream::is_past`].
    pub fn position(&self) -> u64 {
        self.pushed
    }

    /// Whether all that was pushed up to a position has been handed out, and nothing was dropped
    /// that is not.
    pub fn is_past(&self, position: u64) -> bool {
        self.lost.is_none() && self.popped >= position
    }

    /// Takes in a change that came from another peer.
    pub fn relay(&mut self, hash: u64, version: Version, now: Now) {
        self.debt_new.add(version);
        self.made_new.get_or_insert(now.mono_us);
        let below = Version(version.0.saturating_sub(1));
        self.enqueue(hash, self.covered.min(below), now);
    }

    fn enqueue(&mut self, hash: u64, else_lost_since: Version, now: Now) {
        if self.lost.is_some() {
            // The scan that is to come finds this one, too.
            return self.lose(else_lost_since, now);
        }
        let full = self.queue.len() >= self.max;
        if !self.queued.insert(hash) {
            return;
        }
        if full {
            self.queued.remove(hash);
            self.lose(else_lost_since, now);
            return;
        }
        self.queue.push_back(hash);
        self.pushed += 1;
    }

    fn lose(&mut self, since: Version, now: Now) {
        if self.lost.is_none() {
            self.overflows += 1;
            self.lost_due_us = now.mono_us + LOST_WAIT_US;
        }
        self.lost = Some(self.lost.map_or(since, |lost| lost.min(since)));
    }

    /// The next hash to send.
    pub fn pop(&mut self) -> Option<u64> {
        let hash = self.queue.pop_front()?;
        self.queued.remove(hash);
        self.popped += 1;
        if self.queue.is_empty() && self.queue.capacity() > QUEUE_KEEP {
            // A burst is over; the next one may take the memory again.
            self.queue = VecDeque::new();
        }
        Some(hash)
    }

    /// Hashes that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Room that is left, in hashes (`repcached_qi_free`).
    pub fn free(&self) -> usize {
        self.max - self.queue.len()
    }

    /// Where something was dropped, and the time for it has come: from where to scan, once. The
    /// scan has to begin now: what is changed from here on is pushed again.
    pub fn take_lost(&mut self) -> Option<Version> {
        if !std::mem::take(&mut self.lost_due) {
            return None;
        }
        self.lost.take()
    }

    /// A scan for what is newer than `since` begins: what was dropped above is found by it. True
    /// when there was anything.
    pub fn lose_nothing_above(&mut self, since: Version) -> bool {
        let found = self.lost.is_some_and(|lost| lost >= since);
        if found {
            (self.lost, self.lost_due) = (None, false);
        }
        found
    }

    /// Whether something was dropped that a scan is to be begun for now.
    pub fn is_lost_due(&self) -> bool {
        self.lost_due
    }

    /// Whether nothing waits and nothing is missing: what is made now can be sent at once.
    pub fn is_level(&self) -> bool {
        self.lost.is_none() && self.is_empty()
    }

    /// When [`Stream::look`] has something to do that waits for nothing but time.
    pub fn lost_due_us(&self) -> Option<u64> {
        (self.lost.is_some() && !self.lost_due).then_some(self.lost_due_us)
    }

    /// Looks at the time.
    pub fn look(&mut self, now: Now) {
        // Where clients may wait for the peer, nothing is put off.
        let due = |due| now.mono_us >= due || self.wanted.is_some();
        self.lost_due |= self.lost_due_us().is_some_and(due);
        self.place_mark(now);
    }

    /// All our changes up to here were pushed (or dropped, see [`Stream::take_lost`]).
    pub fn covered(&self) -> Version {
        self.covered
    }

    /// A scan begins that finds all that was changed up to `base`; what is newer was pushed.
    pub fn scan_begins(&mut self, base: Version) {
        self.base = Some(base);
    }

    /// The scan has sent all it found.
    pub fn scan_ends(&mut self) {
        self.base = None;
    }

    /// Clients wait for the acknowledgement of changes up to `wanted`: marks for them are not put
    /// off.
    pub fn hurry(&mut self, wanted: Version) {
        self.wanted = self.wanted.max(Some(wanted));
    }

    /// When [`Stream::place_mark`] will place the next mark, monotonic microseconds. One mark is
    /// under way at a time, so that acks set the pace as well.
    pub fn mark_due(&self) -> Option<u64> {
        if self.mark.is_some() || self.lost.is_some() {
            return None;
        }
        let reached = self.base.map_or(self.marked, |base| self.live_marked.max(base));
        if self.wanted.is_some_and(|wanted| wanted > reached) {
            return Some(0);
        }
        let pause = match (self.made_new.is_some(), self.covered > self.acked) {
            // Whether the peer keeps up is to be known, where clients may wait for it.
            _ if self.base.is_some() => {
                self.late_new.filter(|_| self.wanted.is_some())?;
                MARK_US
            }
            (true, _) => MARK_US,
            (false, true) => IDLE_MARK_US,
            // The first one says that the link has carried, even nothing.
            (false, false) if !self.carried => 0,
            (false, false) => return None,
        };
        Some(self.marked_us.map_or(0, |marked| marked + pause))
    }

    /// Places a mark behind what waits, if one is due.
    fn place_mark(&mut self, now: Now) {
        if self.mark_due().is_none_or(|due| now.mono_us < due) {
            return;
        }
        self.marked_us = Some(now.mono_us);
        self.late_marked = self.late_new.take();
        let (upto, base, position) = (self.covered, self.base, self.pushed);
        if base.is_some() {
            self.live_marked = upto;
        } else {
            self.marked = upto;
            self.debt_marked = std::mem::take(&mut self.debt_new);
            self.made_marked = self.made_new.take();
        }
        self.mark = Some(Mark { upto, base, position, on_wire: false });
    }

    /// The mark to send now, if all before it was sent. Not to be called while a large value is
    /// under way.
    pub fn take_mark(&mut self) -> Option<Version> {
        let popped = self.popped;
        let mark = self.mark.as_mut().filter(|mark| !mark.on_wire && popped >= mark.position)?;
        mark.on_wire = true;
        Some(mark.told())
    }

    /// The peer has applied everything up to a mark. False when no such mark was sent.
    pub fn ack(&mut self, upto: Version) -> bool {
        let Some(mark) = self.mark.filter(|mark| mark.on_wire && mark.told() == upto) else {
            return false;
        };
        self.mark = None;
        self.late_marked = None;
        if let Some(base) = mark.base {
            self.live_acked = (base, mark.upto);
        } else {
            self.acked = upto;
            self.carried = true;
            self.debt_marked = Debt::default();
            self.made_marked = None;
        }
        true
    }

    /// What the peer has for certain of our own changes: up to the first version, and above the
    /// second up to the third.
    pub fn applied(&self) -> (Version, Version, Version) {
        let (from, upto) = self.live_acked;
        (self.acked, from, upto)
    }

    /// When the oldest of our own changes was pushed that the peer has not acknowledged, monotonic
    /// microseconds; without what a scan finds.
    pub fn late_since(&self) -> Option<u64> {
        self.late_marked.or(self.late_new)
    }

    /// What the peer acknowledged last.
    pub fn acked(&self) -> Version {
        self.acked
    }

    /// Whether the peer has acknowledged anything, were it that there was nothing.
    pub fn has_carried(&self) -> bool {
        self.carried
    }

    /// Whether the peer has acknowledged everything that was pushed.
    pub fn is_settled(&self) -> bool {
        self.mark.is_none() && self.made_new.is_none() && self.lost.is_none() && self.is_empty()
    }

    /// Microseconds since the oldest change was made (drained) that is not acknowledged; 0 when all
    /// are.
    pub fn lag_us(&self, now: Now) -> u64 {
        let oldest = self.made_marked.or(self.made_new);
        oldest.map_or(0, |made| now.mono_us.saturating_sub(made).max(1))
    }

    /// What the peer may lack below its ack, when the link ends.
    pub fn debt(&self) -> Debt {
        let mut debt = self.debt_marked;
        debt.merge(self.debt_new);
        debt
    }

    /// Takes over what an earlier link still owed; paid when the first mark is acknowledged.
    pub fn owe(&mut self, debt: Debt) {
        self.debt_new.merge(debt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { unix_us: 0, mono_us: 50 };

    fn upto(version: u64) -> Drained {
        Drained { upto: Version(version), overflowed: false }
    }

    #[test]
    fn repeated_writes_wait_once() {
        let mut stream = Stream::new(10, Version(0));
        stream.push(&[7, 8, 7, 7], upto(4), NOW);
        assert_eq!(stream.len(), 2);
        assert_eq!((stream.pop(), stream.pop(), stream.pop()), (Some(7), Some(8), None));
        stream.push(&[7], upto(5), NOW);
        assert_eq!(stream.pop(), Some(7));
    }

    #[test]
    fn what_is_known_to_wait_does_wait() {
        // Hashes that share places, pushed and popped at random: each push is followed by a pop of
        // its hash, sooner or later.
        for seed in 1..50u64 {
            let mut stream = Stream::new(8, Version(0));
            let (mut random, mut owed) = (seed, std::collections::BTreeSet::new());
            for n in 0..2000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
                let hash = random >> 58;
                if random >> 40 & 1 == 0 {
                    stream.push(&[hash], upto(n), NOW);
                    if stream.take_lost().is_none() {
                        owed.insert(hash);
                    }
                } else if let Some(hash) = stream.pop() {
                    owed.remove(&hash);
                    owed.extend(stream.queue.contains(&hash).then_some(hash));
                }
                assert!(owed.iter().all(|hash| stream.queue.contains(hash)), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_mark_leaves_behind_what_it_covers_and_is_acked_once() {
        let mut stream = Stream::new(10, Version(0));
        stream.push(&[1, 2], upto(9), NOW);
        stream.place_mark(NOW);
        stream.pop();
        assert_eq!(stream.take_mark(), None);
        stream.push(&[3], upto(12), NOW);
        stream.pop();
        // The mark was placed behind the first two.
        assert_eq!(stream.take_mark(), Some(Version(9)));
        assert_eq!(stream.take_mark(), None);
        assert!(!stream.ack(Version(8)));
        assert_eq!(stream.lag_us(NOW.plus_us(5)), 5);
        assert!(stream.ack(Version(9)));
        assert!(!stream.ack(Version(9)));
        stream.pop();
        let due = stream.mark_due().unwrap();
        assert_eq!(due, NOW.mono_us + MARK_US);
        stream.place_mark(NOW);
        assert_eq!(stream.take_mark(), None, "too soon after the last one");
        stream.place_mark(NOW.plus_us(MARK_US));
        assert_eq!(stream.take_mark(), Some(Version(12)));
        assert!(!stream.is_settled());
        assert!(stream.ack(Version(12)));
        assert!(stream.is_settled());
        assert_eq!(stream.mark_due(), None);
        assert_eq!(stream.lag_us(NOW), 0);
        // Versions seen from elsewhere are no hurry.
        stream.push(&[], upto(20), NOW);
        assert_eq!(stream.mark_due(), Some(NOW.mono_us + MARK_US + IDLE_MARK_US));
    }

    #[test]
    fn who_is_waited_for_is_asked_at_once_and_once_at_a_time() {
        let mut stream = Stream::new(10, Version(0));
        stream.push(&[1], upto(9), NOW);
        stream.hurry(Version(9));
        stream.place_mark(NOW);
        stream.pop();
        assert_eq!(stream.take_mark(), Some(Version(9)));
        stream.push(&[2], upto(12), NOW.plus_us(3));
        stream.hurry(Version(11));
        assert_eq!(stream.mark_due(), None, "one is under way");
        assert_eq!(stream.late_since(), Some(NOW.mono_us));
        assert!(stream.ack(Version(9)));
        assert_eq!(stream.late_since(), Some(NOW.mono_us + 3));
        assert_eq!(stream.mark_due(), Some(0));
        stream.place_mark(NOW.plus_us(5));
        assert_eq!(stream.take_mark(), None, "the second change is not sent yet");
        stream.pop();
        assert_eq!(stream.take_mark(), Some(Version(12)));
        assert!(stream.ack(Version(12)));
        assert_eq!((stream.late_since(), stream.mark_due()), (None, None));
    }

    #[test]
    fn during_a_scan_only_what_was_pushed_since_is_acknowledged() {
        let mut stream = Stream::new(10, Version(50));
        stream.scan_begins(Version(50));
        stream.push(&[1], upto(60), NOW);
        assert_eq!(stream.mark_due(), None, "nobody waits");
        stream.hurry(Version(50));
        assert_eq!(stream.mark_due(), Some(0), "late changes are asked for");
        stream.hurry(Version(58));
        stream.place_mark(NOW);
        stream.pop();
        assert_eq!(stream.take_mark(), Some(Version(0)), "nothing to resume from");
        stream.push(&[2], upto(70), NOW);
        assert!(!stream.ack(Version(60)));
        assert!(stream.ack(Version(0)));
        assert_eq!(stream.applied(), (Version(0), Version(50), Version(60)));
        assert!(stream.lag_us(NOW.plus_us(5)) > 0 && !stream.is_settled());
        stream.pop();
        stream.scan_ends();
        stream.place_mark(NOW);
        assert_eq!(stream.take_mark(), Some(Version(70)), "it is waited for: at once");
        assert!(stream.ack(Version(70)));
        assert_eq!(stream.applied().0, Version(70));
        assert!(stream.is_settled());
    }

    #[test]
    fn an_overflow_asks_for_a_scan_from_where_the_queue_was_whole() {
        let mut stream = Stream::new(2, Version(0));
        stream.push(&[1], upto(5), NOW);
        stream.push(&[2, 3], upto(8), NOW);
        stream.push(&[4], upto(11), NOW);
        assert_eq!((stream.len(), stream.free()), (2, 0));
        stream.pop();
        stream.pop();
        assert_eq!(stream.mark_due(), None, "something is missing");
        assert_eq!(stream.take_lost(), Some(Version(5)));
        assert_eq!(stream.covered(), Version(11));
        stream.place_mark(NOW);
        assert_eq!(stream.take_mark(), Some(Version(11)));
        assert_eq!(stream.overflows, 1);
        let overflowed = Drained { upto: Version(20), overflowed: true };
        stream.push(&[], overflowed, NOW);
        assert!(stream.take_lost().is_none() && !stream.is_level(), "the burst may go on");
        assert_eq!(stream.lost_due_us(), Some(NOW.mono_us + LOST_WAIT_US));
        stream.push(&[5], upto(21), NOW);
        assert_eq!(stream.take_lost(), Some(Version(11)));
        assert!(stream.is_level(), "what was made meanwhile is in the scan");
        let many: Vec<u64> = (0..1000).collect();
        stream.push(&many, upto(30), NOW);
        stream.look(NOW.plus_us(LOST_WAIT_US - 1));
        assert!(!stream.is_lost_due());
        stream.look(NOW.plus_us(LOST_WAIT_US));
        assert_eq!(stream.take_lost(), Some(Version(21)));
    }

    #[test]
    fn relayed_changes_are_owed_until_a_mark_behind_them_is_acked() {
        let mut stream = Stream::new(1, Version(100));
        stream.relay(1, Version(40), NOW);
        assert_eq!(stream.debt().lower(Version(100)), Version(39));
        stream.relay(2, Version(30), NOW);
        stream.push(&[], upto(100), NOW);
        assert_eq!(stream.take_lost(), Some(Version(29)));
        stream.pop();
        stream.place_mark(NOW);
        assert_eq!(stream.take_mark(), Some(Version(100)));
        assert_eq!(stream.debt().lower(Version(100)), Version(29));
        stream.relay(3, Version(20), NOW);
        assert!(stream.ack(Version(100)));
        assert_eq!(stream.debt().lower(Version(100)), Version(19));
    }
}
