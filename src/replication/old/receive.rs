//! What a repcached says, as changes of this node's making.
//!
//! Owns the bytes that have not become a line or a value yet: one value of at most `-I`, and what
//! came with it. Never takes a value for lines: a length that cannot be understood ends the link,
//! and a value that cannot be kept is skipped by its length.
//!
//! ```text
//!   rep, delete --> kept by the rule? --no--> a fresh version, foreign --> store --> other links
//!                                    `-yes--> told back behind the copy
//! ```

use super::super::conflict::Tally;
use super::super::wire::repcached::{self, Line, Rep, TextError, END};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::store::{Applied, Change, Handle, Marks, Value, Version, What};

/// An emptied input buffer larger than this is given back.
const KEEP_INPUT: usize = 16 * 1024;

/// What of ours a peer's word does not touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing: its word is the newest.
    Newest,
    /// What was changed here since.
    Since(Version),
    /// All of it: what the peer has was flushed here.
    Flushed,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A change of the key with this hash; the version where it won.
    Change(u64, Option<Version>),
    /// `flush_all`, applied.
    Flush,
    /// The end of its full copy.
    MarugotoEnd,
    /// Its line is ours.
    Twincached,
    /// Nothing of interest.
    Nothing,
}

/// The reader of one link.
#[derive(Debug)]
pub(super) struct Receiver {
    input: Buf,
    /// Bytes of a value that is not kept.
    skip: usize,
    pub tally: Tally,
}

impl Receiver {
    /// A reader that has `input` already.
    pub fn new(input: Buf) -> Receiver {
        Receiver { input, skip: 0, tally: Tally::default() }
    }

    pub fn extend(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// Takes in the next line, with its value; `None` while it is incomplete.
    ///
    /// # Errors
    /// What follows could be anything.
    pub fn next(
        &mut self,
        rule: Rule,
        to: &mut Handle,
        now: Now,
    ) -> Result<Option<Heard>, TextError> {
        let skipped = self.skip.min(self.input.len());
        self.input.consume(skipped);
        self.skip -= skipped;
        // Out of `self`, so that the line can be borrowed from it.
        let mut input = std::mem::take(&mut self.input);
        let result = if self.skip > 0 { Ok(None) } else { self.line(input.data(), rule, to, now) };
        let heard = result.map(|heard| {
            heard.map(|(heard, used)| {
                input.consume(used);
                heard
            })
        });
        input.shrink_idle(KEEP_INPUT);
        self.input = input;
        heard
    }

    fn line(
        &mut self,
        data: &[u8],
        rule: Rule,
        to: &mut Handle,
        now: Now,
    ) -> Result<Option<(Heard, usize)>, TextError> {
        let Some((line, used)) = repcached::decode(data)? else { return Ok(None) };
        let heard = match line {
            Line::Rep(rep) => return self.item(&rep, data, used, rule, to, now),
            Line::Skip(len) => {
                self.tally.items += 1;
                self.tally.refused += 1;
                self.skip = len + END.len();
                Heard::Nothing
            }
            Line::Delete(key) => {
                self.tally.deletes += 1;
                self.apply(key, What::Deleted, rule, to, now)
            }
            Line::Flush(at) => {
                to.flush_all(at, now);
                Heard::Flush
            }
            Line::MarugotoEnd => Heard::MarugotoEnd,
            Line::Twincached => Heard::Twincached,
            Line::Unknown => Heard::Nothing,
        };
        Ok(Some((heard, used)))
    }

    fn item(
        &mut self,
        rep: &Rep<'_>,
        data: &[u8],
        used: usize,
        rule: Rule,
        to: &mut Handle,
        now: Now,
    ) -> Result<Option<(Heard, usize)>, TextError> {
        if !to.store_ref().config().fits(rep.key.len(), rep.flags, rep.len) {
            self.tally.items += 1;
            self.tally.refused += 1;
            self.skip = rep.len + END.len();
            // What is here is older, and must not be served any more.
            return Ok(Some((self.apply(rep.key, What::Deleted, rule, to, now), used)));
        }
        let end = used + rep.len;
        let Some(value) = data.get(used..end + END.len()) else { return Ok(None) };
        let value = value.strip_suffix(END).ok_or(TextError::BadValue)?;
        self.tally.items += 1;
        let what = What::Item {
            flags: rep.flags,
            exptime: rep.exptime,
            cas: (rep.cas != 0).then_some(rep.cas),
            marks: Marks::default(),
            value: Value::from(value),
        };
        Ok(Some((self.apply(rep.key, what, rule, to, now), end + END.len())))
    }

    fn apply(
        &mut self,
        key: &[u8],
        what: What<'_>,
        rule: Rule,
        to: &mut Handle,
        now: Now,
    ) -> Heard {
        let hash = to.hash(key);
        if keeps(key, hash, rule, to, now) {
            self.tally.stale += 1;
            return Heard::Nothing;
        }
        let version = to.stamp_foreign(now);
        let applied = to.apply(&Change { key, version, what }, now);
        match applied {
            Applied::Won => self.tally.won += 1,
            Applied::Same => self.tally.same += 1,
            Applied::Stale | Applied::Buried(_) | Applied::Left => self.tally.stale += 1,
            Applied::TooLarge | Applied::OutOfMemory => self.tally.refused += 1,
        }
        Heard::Change(hash, (applied == Applied::Won).then_some(version))
    }
}

/// Whether what is here stays. What the repcached has told before is no word of ours.
fn keeps(key: &[u8], hash: u64, rule: Rule, to: &mut Handle, now: Now) -> bool {
    let since = match rule {
        Rule::Newest => return false,
        Rule::Flushed => return true,
        Rule::Since(since) => since,
    };
    let mut keeps = false;
    to.changes_of(hash, now, &mut |change| {
        let ours = change.version > since && !change.version.is_foreign();
        keeps |= change.key == key && ours;
    });
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Exptime, Mode, Store};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle() -> Handle {
        let config = Config { item_max: 2048, replicated: true, ..Config::default() };
        Store::new(Config { memory_limit: 4 << 20, ..config }, NOW).handle()
    }

    fn hear(handle: &mut Handle, rule: Rule, bytes: &[u8]) -> Result<Vec<Heard>, TextError> {
        let mut receiver = Receiver::new(Buf::new());
        let mut heard = Vec::new();
        for piece in bytes.chunks(7) {
            receiver.extend(piece);
            while let Some(one) = receiver.next(rule, handle, NOW)? {
                heard.push(one);
            }
        }
        Ok(heard)
    }

    fn get(handle: &mut Handle, key: &str) -> Option<(u32, u64, Vec<u8>)> {
        handle.peek(key.as_bytes(), NOW, |item| (item.flags, item.cas, item.value.to_vec()))
    }

    #[test]
    fn a_value_is_never_taken_for_lines() {
        let mut handle = handle();
        handle.store(Mode::Set, b"stays", 0, Exptime::Never, b"v", NOW);
        let trap = "delete stays\r\nflush_all \r\n";
        let large = format!("{}\r\n{trap}", "x".repeat(3000));
        let lines = format!(
            "rep a -2147483648 0 {} 7\r\n{trap}\r\nrep b 0 0 {} 8\r\n{large}\r\n\
             rep c 99999999999 0 {} 9\r\n{trap}\r\nrep d 1 0 0 10\r\n\r\nmarugoto_end\r\n",
            trap.len(),
            large.len(),
            trap.len()
        );
        let heard = hear(&mut handle, Rule::Newest, lines.as_bytes()).unwrap();
        assert_eq!(heard.last(), Some(&Heard::MarugotoEnd));
        assert_eq!(get(&mut handle, "a"), Some((1 << 31, 7, trap.into())));
        assert_eq!(get(&mut handle, "b"), None);
        assert_eq!(get(&mut handle, "c"), None);
        assert_eq!(get(&mut handle, "d"), Some((1, 10, Vec::new())));
        assert!(get(&mut handle, "stays").is_some());
        for bad in ["rep k 0 0 2 1\r\nlong\r\n", "rep k 0 0 soon 1\r\n"] {
            assert!(hear(&mut handle, Rule::Newest, bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn what_was_changed_here_since_stays() {
        let mut handle = handle();
        handle.store(Mode::Set, b"old", 0, Exptime::Never, b"ours", NOW);
        let lines = b"rep theirs 0 0 5 1\r\nfirst\r\n";
        hear(&mut handle, Rule::Newest, lines).unwrap();
        let since = handle.store_ref().newest();
        handle.store(Mode::Set, b"new", 0, Exptime::Never, b"ours", NOW);
        handle.store(Mode::Set, b"gone", 0, Exptime::Never, b"ours", NOW);
        handle.delete(b"gone", NOW);
        let copy = b"rep old 0 0 1 2\r\nx\r\nrep new 0 0 1 3\r\nx\r\nrep gone 0 0 1 4\r\nx\r\n\
            rep theirs 0 0 1 5\r\nx\r\nrep other 0 0 1 6\r\nx\r\n";
        hear(&mut handle, Rule::Since(since), copy).unwrap();
        let mut value = |key| get(&mut handle, key).map(|(_, _, value)| value);
        assert_eq!(value("old"), Some(b"x".to_vec()));
        assert_eq!(value("new"), Some(b"ours".to_vec()));
        assert_eq!(value("gone"), None);
        assert_eq!(value("theirs"), Some(b"x".to_vec()));
        assert_eq!(value("other"), Some(b"x".to_vec()));
        let again = b"rep theirs 0 0 1 5\r\ny\r\nrep absent 0 0 1 5\r\ny\r\n";
        hear(&mut handle, Rule::Flushed, again).unwrap();
        assert_eq!(get(&mut handle, "theirs").unwrap().2, b"x");
        assert_eq!(get(&mut handle, "absent"), None);
    }
}
