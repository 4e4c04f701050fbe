//! What goes out to a repcached: changes as lines, scans, and what it cannot take.
//!
//! Owns the order of the queue, of scans and of large values, as `outgoing` does natively. Never
//! holds more output than it is asked for, and never sends what the other end would take for
//! commands: such a key is not told, such a value ends the life of what is older there.
//!
//! ```text
//!   flush_all? --> [ large value, in pieces ] --> queue --> scan --> marugoto_end
//!                                                  |         |
//!                                 present state of a key   since: 0, or where the queue ran over
//! ```

use super::super::stream::Stream;
use super::super::wire::native::{PART, WHOLE_MAX};
use super::super::wire::repcached::{self, Rep, END};
use super::super::{count_line, Role};
use super::echo::Echo;
use crate::base::clock::Now;
use crate::store::{Change, FlushState, Handle, ScanCursor, Version, What};
use std::collections::VecDeque;

/// Changes sent from the queue before a scan under way gets a turn, so that neither starves.
const TURN: usize = 32;
/// Most items looked at in one step of a scan: with [`WHOLE_MAX`] it bounds what a step adds to the
/// output, to 2 MiB.
const STEP_MAX: usize = 64;
/// Bytes that one step should add: a step that adds more is followed by a smaller one.
const STEP_BYTES: usize = 32 * 1024;
/// Steps that find nothing to send before the link's other work gets a turn.
const IDLE_STEPS: usize = 64;

/// A value that is on its way in pieces, behind its line.
#[derive(Debug)]
struct Large {
    value: Vec<u8>,
    sent: usize,
}

/// Changes to lines.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Line and value of large items. At most those of one key's hash.
    large: VecDeque<(Vec<u8>, Large)>,
    pub items: u64,
    pub deletes: u64,
    /// Keys that the wire cannot carry, values that the other end cannot hold.
    pub unsaid: u64,
}

impl Writer {
    fn is_busy(&self) -> bool {
        !self.large.is_empty()
    }

    /// Says the state of a key. `item_max`: `-I`.
    fn change(&mut self, change: &Change<'_>, item_max: usize, now: Now, out: &mut Vec<u8>) {
        let key = change.key;
        if !repcached::can_carry(key) {
            self.unsaid += 1;
            return;
        }
        let What::Item { flags, exptime, cas, value, .. } = change.what else {
            self.deletes += 1;
            return repcached::encode_delete(out, key);
        };
        let len = value.len();
        let fits = repcached::can_hold(key, len, item_max);
        if !fits || exptime.is_past(now.unix_secs()) {
            self.unsaid += u64::from(!fits);
            self.deletes += 1;
            return repcached::encode_delete(out, key);
        }
        self.items += 1;
        let cas = cas.unwrap_or(change.version.0);
        let rep = Rep { key, flags, exptime, len, cas };
        if len <= WHOLE_MAX {
            repcached::encode_rep(out, &rep);
            value.copy_to(out);
            out.extend_from_slice(END);
            return;
        }
        let mut line = Vec::new();
        repcached::encode_rep(&mut line, &rep);
        self.large.push_back((line, Large { value: value.to_vec(), sent: 0 }));
    }

    /// Sends pieces until `out` holds `limit` bytes or nothing is left.
    fn pieces(&mut self, out: &mut Vec<u8>, limit: usize) {
        while out.len() < limit {
            let Some((line, large)) = self.large.front_mut() else { return };
            out.append(line);
            let end = (large.sent + PART).min(large.value.len());
            out.extend_from_slice(&large.value[large.sent..end]);
            large.sent = end;
            if end == large.value.len() {
                out.extend_from_slice(END);
                self.large.pop_front();
            }
        }
    }
}

/// A walk over the store.
#[derive(Debug)]
struct Scan {
    cursor: ScanCursor,
    since: Version,
    /// The other end is cold: it needs no deletes, and is told the end.
    copy: bool,
    /// Counted and logged as a full copy.
    full: bool,
    step: usize,
    scanned: bool,
    later: VecDeque<u64>,
    items: u64,
}

/// The sending side of one link.
#[derive(Debug)]
pub(super) struct Outgoing {
    role: Role,
    pub stream: Stream,
    pub writer: Writer,
    scan: Option<Scan>,
    /// A scan that has to come behind the one under way.
    again: Option<Version>,
    /// What the other end has told over this link: foreign versions above it.
    started: Version,
    said: FlushState,
    pub echo: Echo,
    pub lines: VecDeque<String>,
    pub copies: u64,
}

impl Outgoing {
    /// Everything is to be told: all there is as a listener, what the other end did not show as a
    /// connector. `started`: the newest version when the link began; `said`: the `flush_all` state
    /// that it knows.
    pub fn new(role: Role, stream: Stream, started: Version, said: FlushState) -> Outgoing {
        let mut outgoing = Outgoing {
            role,
            stream,
            writer: Writer::default(),
            scan: None,
            again: None,
            started,
            said,
            echo: Echo::new(),
            lines: VecDeque::new(),
            copies: 1,
        };
        outgoing.begin(Version(0), true);
        outgoing
    }

    fn begin(&mut self, since: Version, full: bool) {
        self.scan = Some(Scan {
            cursor: ScanCursor::default(),
            since,
            copy: full && self.role == Role::Listener,
            full,
            step: 4,
            scanned: false,
            later: VecDeque::new(),
            items: 0,
        });
    }

    /// The newest version when the link began.
    pub fn started(&self) -> Version {
        self.started
    }

    /// The `flush_all` state that it has been told.
    pub fn said(&self) -> FlushState {
        self.said
    }

    /// It has ordered the flush that ours shows now.
    pub fn heard_flush(&mut self, state: FlushState) {
        self.said = state;
    }

    /// Whether a flush was ordered here that it must hear of: for now, or for a time to come.
    pub fn flush_due(said: FlushState, state: FlushState) -> (bool, Option<u32>) {
        let deferred = state.deferred().filter(|_| said.pending != state.pending);
        let by_itself = state
            .pending
            .is_some_and(|pending| pending.at == state.watermark && said.pending == state.pending);
        let now = state.watermark > said.watermark && !by_itself;
        (now, deferred.map(|pending| pending.at.unix_secs()))
    }

    /// How far the copy is, in millionths; a million when there is none.
    pub fn progress(&self) -> u32 {
        self.scan.as_ref().filter(|scan| scan.full).map_or(1_000_000, |s| s.cursor.progress())
    }

    /// Whether it is in the middle of a scan or a value: no mark may be taken.
    pub fn is_between(&self) -> bool {
        self.scan.is_none() && self.again.is_none() && !self.writer.is_busy()
    }

    /// Whether much that is not in the queue is being told.
    pub fn is_scanning(&self) -> bool {
        self.scan.is_some()
    }

    /// Whether there is more to send now.
    pub fn has_more(&self) -> bool {
        !self.stream.is_empty() || self.stream.is_lost_due() || !self.is_between()
    }

    /// Tells a flush, and once more what was changed since: it may have overtaken the flush.
    fn flush(&mut self, out: &mut Vec<u8>, handle: &Handle) {
        let state = handle.store_ref().flush_state();
        if state == self.said {
            return;
        }
        let (now, deferred) = Outgoing::flush_due(self.said, state);
        if now {
            repcached::encode_flush(out, None);
            let since = self.again.map_or(state.watermark, |since| since.min(state.watermark));
            self.again = Some(since);
        }
        if deferred.is_some() {
            repcached::encode_flush(out, deferred);
        }
        self.said = state;
    }

    /// Sends until `out` holds `limit` bytes or this turn is over.
    pub fn transmit(&mut self, out: &mut Vec<u8>, limit: usize, handle: &mut Handle, now: Now) {
        let item_max = handle.store_ref().config().item_max as usize;
        let mut worked = true;
        while out.len() < limit && worked {
            worked = false;
            self.writer.pieces(out, limit);
            if self.writer.is_busy() {
                return;
            }
            self.flush(out, handle);
            for _ in 0..TURN {
                self.writer.pieces(out, limit);
                if out.len() >= limit || self.writer.is_busy() {
                    return;
                }
                let Some(hash) = self.stream.pop() else { break };
                self.echo.told(hash, now);
                let writer = &mut self.writer;
                handle.changes_of(hash, now, &mut |c| writer.change(c, item_max, now, out));
                worked = true;
            }
            if self.writer.is_busy() {
                worked = true;
                continue;
            }
            worked |= self.scan_turn(out, limit, item_max, handle, now);
        }
    }

    /// One turn of the scan under way, or of the one that has to begin. False when there is none or
    /// it had nothing to send this time.
    fn scan_turn(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        item_max: usize,
        handle: &mut Handle,
        now: Now,
    ) -> bool {
        let Some(mut scan) = self.scan.take() else {
            let lost = self.stream.take_lost();
            let since = self.again.take().into_iter().chain(lost).min();
            if let Some(since) = since {
                self.begin(since, false);
            }
            return since.is_some();
        };
        let before = (out.len(), scan.items);
        let done = self.scan_some(&mut scan, out, limit, item_max, handle, now);
        if scan.full && before.1 == 0 && scan.items > 0 {
            self.lines.push_back("replication: marugoto start".to_owned());
        }
        if !done {
            self.scan = Some(scan);
            return out.len() > before.0;
        }
        if scan.copy {
            repcached::encode_marugoto_end(out);
        }
        if scan.full && (scan.items > 0 || self.role == Role::Listener) {
            self.lines.push_back(count_line("replication: marugoto ", scan.items));
            self.lines.push_back("replication: marugoto owari".to_owned());
        }
        true
    }

    /// Some steps of a scan. True when all of it is said.
    fn scan_some(
        &mut self,
        scan: &mut Scan,
        out: &mut Vec<u8>,
        limit: usize,
        item_max: usize,
        handle: &mut Handle,
        now: Now,
    ) -> bool {
        let started = self.started;
        let (copy, since) = (scan.copy, scan.since);
        let wanted = move |change: &Change<'_>| {
            let told_by_it = change.version > started && change.version.is_foreign();
            let gone = match change.what {
                What::Deleted => true,
                What::Item { exptime, .. } => exptime.is_past(now.unix_secs()),
            };
            change.version > since && !told_by_it && !(copy && gone)
        };
        for _ in 0..IDLE_STEPS {
            self.writer.pieces(out, limit);
            if out.len() >= limit || self.writer.is_busy() {
                return false;
            }
            let writer = &mut self.writer;
            let items = writer.items;
            if let Some(hash) = scan.later.pop_front() {
                handle.changes_of(hash, now, &mut |change| {
                    if wanted(change) {
                        writer.change(change, item_max, now, out);
                    }
                });
                scan.items += writer.items - items;
                continue;
            }
            if scan.scanned {
                return true;
            }
            let before = out.len();
            let mut large: Vec<Vec<u8>> = Vec::new();
            let mut sink = |change: &Change<'_>| match &change.what {
                _ if !wanted(change) => {}
                What::Item { value, .. } if value.len() > WHOLE_MAX => {
                    large.push(change.key.to_vec());
                }
                _ => writer.change(change, item_max, now, out),
            };
            scan.scanned = handle.scan(&mut scan.cursor, since, scan.step, now, &mut sink);
            scan.items += self.writer.items - items;
            scan.later.extend(large.iter().map(|key| handle.hash(key)));
            let added = out.len() - before;
            let larger = (scan.step * 2).min(STEP_MAX);
            scan.step = if added > STEP_BYTES { (scan.step / 2).max(1) } else { larger };
        }
        scan.scanned && scan.later.is_empty() && !self.writer.is_busy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Exptime, Mode, PendingFlush, Store};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle() -> Handle {
        let config = Config { memory_limit: 16 << 20, replicated: true, ..Config::default() };
        Store::new(config, NOW).handle()
    }

    fn outgoing(role: Role, handle: &Handle) -> Outgoing {
        let stream = Stream::new(16, Version(0));
        Outgoing::new(role, stream, handle.store_ref().newest(), FlushState::default())
    }

    fn all(outgoing: &mut Outgoing, handle: &mut Handle, limit: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for _ in 0..10_000 {
            let mut out = Vec::new();
            outgoing.transmit(&mut out, limit, handle, NOW);
            assert!(out.len() <= limit + (2 << 20));
            all.extend(out);
            if !outgoing.has_more() {
                return all;
            }
        }
        panic!("never done");
    }

    #[test]
    fn a_copy_says_items_and_its_end() {
        let mut handle = handle();
        handle.store(Mode::Set, b"k", 1 << 31, Exptime::Never, b"value", NOW);
        handle.store(Mode::Set, b"a b", 0, Exptime::Never, b"\r\nflush_all\r\n", NOW);
        handle.store(Mode::Set, b"x\r\nflush_all", 0, Exptime::Never, b"", NOW);
        handle.store(Mode::Set, b"gone", 0, Exptime::Never, b"v", NOW);
        handle.delete(b"gone", NOW);
        let cas = handle.peek(b"k", NOW, |item| item.cas).unwrap() as u32;
        let mut outgoing = outgoing(Role::Listener, &handle);
        let said = all(&mut outgoing, &mut handle, 1 << 16);
        let wanted = format!("rep k 2147483648 0 5 {cas}\r\nvalue\r\nmarugoto_end\r\n");
        assert_eq!(String::from_utf8_lossy(&said), wanted);
        assert_eq!(outgoing.writer.unsaid, 2);
        assert_eq!(
            outgoing.lines,
            [
                "replication: marugoto start",
                "replication: marugoto 1",
                "replication: marugoto owari"
            ]
        );
    }

    #[test]
    fn large_values_come_in_pieces_and_whole() {
        let mut handle = handle();
        let value: Vec<u8> = (0..700_000u32).map(|n| n as u8).collect();
        handle.store(Mode::Set, b"large", 0, Exptime::Never, &value, NOW);
        handle.store(Mode::Set, b"edge", 0, Exptime::Never, &vec![b'x'; (1 << 20) - 70], NOW);
        let mut outgoing = outgoing(Role::Connector, &handle);
        let said = all(&mut outgoing, &mut handle, 10_000);
        let head = said.windows(10).position(|w| w == b"rep large ").unwrap();
        let from = head + said[head..].iter().position(|&b| b == b'\n').unwrap() + 1;
        assert_eq!(&said[from..from + value.len()], &value[..]);
        assert_eq!(&said[from + value.len()..from + value.len() + 2], END);
        // One that a repcached has no room for would be run as commands there.
        assert!(said.windows(13).any(|w| w == b"delete edge\r\n"));
        assert!(!said.windows(9).any(|w| w == b"rep edge "));
    }

    #[test]
    fn what_the_other_end_told_is_not_told_to_it() {
        let mut handle = handle();
        handle.store(Mode::Set, b"ours", 0, Exptime::Never, b"o", NOW);
        let mut outgoing = outgoing(Role::Connector, &handle);
        let version = handle.stamp_foreign(NOW);
        let (flags, exptime, cas, marks) = (0, Exptime::Never, Some(5), Default::default());
        let value = crate::store::Value::from(&b"t"[..]);
        let what = What::Item { flags, exptime, cas, marks, value };
        handle.apply(&Change { key: b"theirs", version, what }, NOW);
        let said = all(&mut outgoing, &mut handle, 1 << 16);
        assert!(said.starts_with(b"rep ours 0 0 1 ") && said.ends_with(b"\r\no\r\n"));
        // Unless it has to hear it again: both sides had changed it.
        let hash = handle.hash(b"theirs");
        let drained = crate::store::Drained { upto: Version(0), overflowed: false };
        outgoing.stream.push(&[hash], drained, NOW);
        assert_eq!(all(&mut outgoing, &mut handle, 1 << 16), b"rep theirs 0 0 1 5\r\nt\r\n");
    }

    #[test]
    fn a_flush_is_followed_by_what_came_behind_it() {
        let mut handle = handle();
        let mut outgoing = outgoing(Role::Connector, &handle);
        assert_eq!(all(&mut outgoing, &mut handle, 1 << 16), b"");
        handle.store(Mode::Set, b"before", 0, Exptime::Never, b"b", NOW);
        handle.flush_all(None, NOW);
        handle.store(Mode::Set, b"behind", 0, Exptime::Never, b"x", NOW);
        let said = String::from_utf8(all(&mut outgoing, &mut handle, 1 << 16)).unwrap();
        assert!(said.starts_with("flush_all \r\nrep behind 0 0 1 "), "{said}");
        assert!(!said.contains("before"));
        handle.flush_all(Some(1_700_000_100), NOW);
        assert_eq!(all(&mut outgoing, &mut handle, 1 << 16), b"flush_all 1700000100\r\n");
        // It comes to pass by itself, there as here.
        let state = handle.store_ref().flush_state();
        let passed = FlushState { watermark: state.pending.unwrap().at, ..state };
        assert_eq!(Outgoing::flush_due(outgoing.said, passed), (false, None));
        let elsewhere = PendingFlush { issued: Version(1 << 61), at: Version(1 << 61) };
        let flushed = FlushState { watermark: elsewhere.at, pending: Some(elsewhere) };
        assert_eq!(Outgoing::flush_due(outgoing.said, flushed), (true, None));
    }
}
