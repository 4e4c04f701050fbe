//! append and prepend.
//!
//! Owns how a new value is made of an old one and what comes in. It is a new item, with the old
//! one's flags and exptime, and nothing else of it: marks and an explicit CAS unique go. Never
//! changes the old value's bytes.

use super::core::{Local, Store};
use super::handle::Look;
use super::item::{Extras, Shape};
use super::write::{New, Put, CHANGED_TRIES};
use super::{Marks, Mode, Stored, Terms, Written};
use crate::base::clock::Now;

impl Store {
    /// append, prepend, and where nothing is there what `vivify` says.
    pub(super) fn concat(
        &self,
        me: &mut Local,
        mode: Mode,
        new: New<'_>,
        terms: &Terms,
        now: Now,
    ) -> Stored {
        // As in memcached, not even the mark of a key in base64 comes to an item that has grown.
        let grown = New { extras: Extras { marks: Marks::default(), ..new.extras }, ..new };
        for _ in 0..CHANGED_TRIES {
            let stored = self.concat_small(me, mode, grown, terms, now);
            if matches!(stored, Stored::Stored(_)) {
                self.count_stored(me, mode);
            }
            let (Some(exptime), Stored::NotStored) = (terms.vivify, stored) else { return stored };
            let stored = self.store_new(me, Mode::Add, New { exptime, ..new }, now);
            if stored != Stored::NotStored {
                return stored;
            }
        }
        Stored::OutOfMemory
    }

    /// Whether the terms refuse an item with this CAS unique.
    fn refuses(terms: &Terms, cas: u64) -> bool {
        terms.compare.is_some_and(|compare| compare != 0 && compare != cas)
    }

    /// append, prepend where both values are small; hands others on.
    fn concat_small(
        &self,
        me: &mut Local,
        mode: Mode,
        new: New<'_>,
        terms: &Terms,
        now: Now,
    ) -> Stored {
        let New { key, extras, parts, .. } = new;
        let hash = self.hash(key);
        let arena = &self.segments.arena;
        let done = self.look(me, hash, now, |me, stripe, place, open| {
            let Some((slot, old)) = self.fetch(stripe, place, key, now, &me.counters) else {
                return Look::Done(Some(Stored::NotStored));
            };
            if Self::refuses(terms, old.cas(arena)) {
                return Look::Done(Some(Stored::Exists));
            }
            let vlen = old.value_len() + new.len();
            let (flags, exptime) = (old.flags(arena), old.exptime(arena));
            let shape = Shape { key, flags, exptime, extras, vlen, large: false };
            if old.is_large() || !self.is_small(shape.size(), vlen) {
                return Look::Done(None);
            }
            if !self.config.fits(key.len(), flags, vlen) {
                return Look::Done(Some(Stored::TooLarge));
            }
            let Some(open) = self.with_room(open, shape.size()) else {
                return Look::NeedsRoom(shape.size());
            };
            let record = self.begin(open, &shape, now);
            let old_value = [old.value(arena)];
            let (first, second) = if mode == Mode::Append {
                (&old_value[..], parts)
            } else {
                (parts, &old_value[..])
            };
            let mut to = record.value_at();
            for part in first.iter().chain(second) {
                arena.put(to, part);
                to += part.len();
            }
            let version = self.issue(me, hash, now);
            record.set_version(arena, version, false);
            self.seal_record(open, &record);
            let popularity = stripe.popularity(slot);
            self.replace(stripe, slot, popularity, &old, &record, &me.counters);
            Look::Done(Some(Stored::Stored(Written { len: vlen, ..new.written(version) })))
        });
        match done {
            None => Stored::OutOfMemory,
            Some(Some(stored)) => stored,
            Some(None) => self.concat_large(me, mode, new, terms, now),
        }
    }

    /// append, prepend where the result is a large value: the old one is read from its pinned
    /// chunks, without a lock, and must still be there when the new one is complete.
    fn concat_large(
        &self,
        me: &mut Local,
        mode: Mode,
        new: New<'_>,
        terms: &Terms,
        now: Now,
    ) -> Stored {
        let hash = self.hash(new.key);
        let arena = &self.segments.arena;
        for _ in 0..CHANGED_TRIES {
            let (mut stripe, place) = self.lock(hash);
            let Some((_, old)) = self.fetch(&mut stripe, place, new.key, now, &me.counters) else {
                return Stored::NotStored;
            };
            if Self::refuses(terms, old.cas(arena)) {
                return Stored::Exists;
            }
            let (flags, exptime) = (old.flags(arena), old.exptime(arena));
            let seen = self.state(&old);
            let (copy, snapshot) = if old.is_large() {
                (Vec::new(), Some(self.snapshot(&old, now)))
            } else {
                (old.value(arena).to_vec(), None)
            };
            drop(stripe);
            let mut parts: Vec<&[u8]> = match &snapshot {
                Some(snapshot) => snapshot.parts().to_vec(),
                None => vec![&copy],
            };
            let at = if mode == Mode::Append { parts.len() } else { 0 };
            parts.splice(at..at, new.parts.iter().copied());
            let longer = New { flags, exptime, parts: &parts, ..new };
            if !self.config.fits(new.key.len(), flags, longer.len()) {
                return Stored::TooLarge;
            }
            match self.put_over(me, longer, seen, now) {
                Put::Done(version) => return Stored::Stored(longer.written(version)),
                Put::NoRoom => return Stored::OutOfMemory,
                Put::Refused(()) => {}
            }
        }
        Stored::OutOfMemory
    }
}
