//! The line of waiting replies, without connections.

use super::*;
use crate::base::replies::Replies;

const NOW: Now = Now { unix_us: 0, mono_us: 1_000_000 };
const TIMEOUT_US: u64 = 1_000_000;

struct World {
    acks: Arc<Acks>,
    waits: Waits,
    woken: Arc<AtomicU64>,
    /// Only for its tickets.
    replies: Replies,
}

impl World {
    fn new(degrade: bool) -> World {
        let settings = Replication { ack: 1, ack_degrade: degrade, ..Replication::default() };
        let acks = Acks::new(Some(&settings));
        let woken = Arc::new(AtomicU64::new(0));
        let mut waits = Waits::new(Arc::clone(&acks));
        let count = Arc::clone(&woken);
        let wake = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        waits.join(Arc::new(wake));
        World { acks, waits, woken, replies: Replies::new() }
    }

    fn push(&mut self, version: u64, now: Now) {
        let ticket = self.replies.defer();
        self.waits.push(ticket, Version(version), Asked::Text, now);
    }

    fn publish(&self, upto: u64, live: (u64, u64), enough: bool) {
        let live = (Version(live.0), Version(live.1));
        self.acks.publish(Quorum { upto: Version(upto), live, enough });
    }

    /// The versions that were settled.
    fn settle(&mut self, now: Now, outcome: Outcome) -> Vec<u64> {
        let mut out = Vec::new();
        self.waits.settle(now, &mut out);
        assert!(out.iter().all(|(_, have)| *have == outcome), "{out:?}");
        out.iter().map(|(wait, _)| wait.version.0).collect()
    }

    fn figure(&self, name: &str) -> u64 {
        let stats = self.acks.stats();
        stats.iter().find(|(have, _)| *have == name).expect("a figure").1
    }
}

#[test]
fn what_is_acknowledged_is_answered_and_nothing_else() {
    let mut world = World::new(false);
    (10..16).for_each(|version| world.push(version, NOW));
    assert_eq!(world.settle(NOW, Outcome::Answer), []);
    world.publish(10, (0, 10), true);
    assert_eq!(world.settle(NOW, Outcome::Answer), [10]);
    // During a copy: what was changed since it began.
    world.publish(10, (12, 14), true);
    assert_eq!(world.settle(NOW, Outcome::Answer), [13, 14]);
    world.publish(10, (12, 14), true);
    assert_eq!(world.settle(NOW, Outcome::Answer), []);
    world.publish(15, (0, 15), true);
    assert_eq!(world.settle(NOW, Outcome::Answer), [11, 12, 15]);
    assert_eq!(world.waits.deadline_us(), None);
}

#[test]
fn the_deadline_ends_a_wait_one_way_or_the_other() {
    for degrade in [false, true] {
        let mut world = World::new(degrade);
        world.publish(0, (0, 0), true);
        world.push(10, NOW);
        world.push(11, NOW.plus_us(5));
        assert_eq!(world.waits.deadline_us(), Some(NOW.mono_us + TIMEOUT_US));
        let outcome = if degrade { Outcome::Answer } else { Outcome::Refuse };
        assert_eq!(world.settle(NOW.plus_us(TIMEOUT_US - 1), outcome), []);
        assert_eq!(world.settle(NOW.plus_us(TIMEOUT_US), outcome), [10]);
        let counted = (world.figure("repl_ack_timeouts"), world.figure("repl_ack_degraded"));
        assert_eq!(counted, if degrade { (0, 1) } else { (1, 0) });
        world.acks.reset();
        assert_eq!(world.figure("repl_ack_timeouts") + world.figure("repl_ack_degraded"), 0);
    }
}

#[test]
fn too_few_peers_end_degraded_waits_at_once() {
    let mut world = World::new(true);
    assert!(!world.waits.must_wait(), "nobody is there yet");
    world.publish(0, (0, 0), true);
    assert!(world.waits.must_wait());
    world.push(10, NOW);
    assert_eq!(world.settle(NOW, Outcome::Answer), []);
    world.publish(0, (0, 0), false);
    assert_eq!(world.settle(NOW, Outcome::Answer), [10]);
    assert_eq!(world.figure("repl_ack_degraded"), 2);
    // Without it everybody waits until the end.
    let mut patient = World::new(false);
    assert!(patient.waits.must_wait());
    patient.push(10, NOW);
    patient.publish(0, (0, 0), false);
    assert_eq!(patient.settle(NOW, Outcome::Answer), []);
}

#[test]
fn threads_are_woken_once_and_only_for_something() {
    let mut world = World::new(false);
    let woken = |world: &World| world.woken.load(Ordering::SeqCst);
    assert!(!world.waits.hand_over(), "nobody waits");
    world.publish(1, (0, 1), true);
    assert_eq!(woken(&world), 0);
    world.push(10, NOW);
    assert!(world.waits.hand_over());
    assert_eq!(world.figure("repl_ack_waiting"), 1);
    assert!(!world.waits.hand_over(), "it knows");
    world.push(11, NOW);
    assert!(!world.waits.hand_over(), "it was woken and has not looked yet");
    assert_eq!(world.acks.take_wanted(), Version(11));
    world.push(12, NOW);
    assert!(world.waits.hand_over());
    world.publish(10, (0, 10), true);
    world.publish(11, (0, 11), true);
    assert_eq!(woken(&world), 1);
    assert_eq!(world.settle(NOW, Outcome::Answer), [10, 11]);
    assert!(!world.waits.hand_over());
    world.publish(12, (0, 12), true);
    assert_eq!(woken(&world), 2);
}

#[test]
fn those_that_went_leave_the_line_before_they_are_many() {
    let mut world = World::new(false);
    let client = |key: usize| Client { key, serial: key as u64 };
    let mut most = 0;
    for n in 0..10_000 {
        world.waits.client = client(n);
        world.push(n as u64, NOW);
        // One in eight stays.
        if n % 8 > 0 && world.waits.left(1) {
            world.waits.retain(|client| client.key % 8 == 0 || client.key > n);
        }
        most = most.max(world.waits.line.len() - n / 8);
    }
    assert!(most <= 2 * GONE_KEEP + 10_000 / 8, "{most}");
    world.publish(20_000, (0, 20_000), true);
    let left = world.settle(NOW, Outcome::Answer);
    assert_eq!(left.iter().filter(|&&version| version % 8 == 0).count(), 1250);
    (0..10_000).for_each(|_| world.waits.was_gone());
    assert_eq!(world.waits.gone, 0);
}

#[test]
fn a_line_that_was_long_gives_its_memory_back() {
    let mut world = World::new(false);
    (1..=100_000).for_each(|version| world.push(version, NOW));
    assert!(world.waits.is_crowded() && world.waits.line.capacity() >= 100_000);
    world.publish(99_000, (0, 99_000), true);
    assert_eq!(world.settle(NOW, Outcome::Answer).len(), 99_000);
    assert!(!world.waits.is_crowded() && world.waits.line.capacity() <= 2 * LINE_KEEP);
}
