//! A worker's door to the store, with a window.
//!
//! Owns which operation makes which lines: the methods have the names of [`Handle`]'s and do what
//! they do; where somebody watches they say so as well. Never changes an outcome.
//!
//! As in memcached a storage command looks at the key first, so it makes two lines; so do others
//! that find an item before they change it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::lines::{self, CloseReason, Fetched, Status};
use super::{Hub, Recorder, CONNEVENTS, DELETIONS, FETCHERS, MUTATIONS};
use crate::base::clock::Now;
use crate::base::counters::Counter;
use crate::store::{
    memcached_size, Arith, ArithTerms, DeleteTerms, Deleted, Exptime, Found, GetTerms, Given,
    Handle, Item, Mode, Stored, Terms,
};

/// An item that was there.
#[derive(Clone, Copy, Debug)]
struct Seen {
    exptime: Exptime,
    has_flags: bool,
    len: usize,
}

impl Seen {
    fn of(item: &Item<'_>) -> Seen {
        Seen { exptime: item.exptime, has_flags: item.flags != 0, len: item.value.len() }
    }
}

/// What a look at a key is known by.
#[derive(Clone, Copy, Debug)]
struct Look {
    seen: Option<Seen>,
    /// How many looks had found something expired, and flushed, before.
    gone: [u64; 2],
}

/// A [`Handle`] that watchers can look through.
#[derive(Debug)]
pub struct Door {
    handle: Handle,
    log: Recorder,
}

impl Deref for Door {
    type Target = Handle;
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl DerefMut for Door {
    fn deref_mut(&mut self) -> &mut Handle {
        &mut self.handle
    }
}

impl Door {
    /// A door for one worker.
    pub fn new(handle: Handle, hub: Arc<Hub>) -> Door {
        Door { handle, log: Recorder::new(hub) }
    }

    /// The connection that is served from now on, by its number in `stats conns`.
    #[inline]
    pub fn serve(&mut self, cfd: u64) {
        self.log.cfd = cfd;
    }

    /// The end of a turn: watchers get their lines.
    #[inline]
    pub fn hand_over(&mut self) {
        self.log.hand_over();
    }

    /// A connection came.
    pub fn opened(&mut self, addr: &str, cfd: u64, now: Now) {
        self.log.line(CONNEVENTS, now, |out| lines::connection(out, addr, cfd, None));
    }

    /// A connection went.
    pub fn closed(&mut self, addr: &str, cfd: u64, reason: CloseReason, now: Now) {
        self.log.line(CONNEVENTS, now, |out| lines::connection(out, addr, cfd, Some(reason)));
    }

    fn class(&self, key: &[u8], has_flags: bool, len: usize) -> u8 {
        let size = memcached_size(key.len(), has_flags, len);
        self.handle.store_ref().config().classes.of(size)
    }

    fn gone(&self) -> [u64; 2] {
        [Counter::GetExpired, Counter::GetFlushed]
            .map(|counter| self.handle.counters().get(counter))
    }

    /// Looks before a command does.
    #[cold]
    fn look(&mut self, key: &[u8], now: Now) -> Look {
        let gone = self.gone();
        Look { seen: self.handle.peek(key, now, Seen::of), gone }
    }

    /// Notes a look, once the command is through.
    #[cold]
    fn note_look(&mut self, key: &[u8], look: Look, now: Now) {
        let gone = self.gone();
        let fetched = match look.seen {
            Some(Seen { len, has_flags, .. }) => {
                Fetched::Found { len, class: self.class(key, has_flags, len) }
            }
            None if gone[0] > look.gone[0] => Fetched::Expired,
            None if gone[1] > look.gone[1] => Fetched::Flushed,
            None => Fetched::NotFound,
        };
        let cfd = self.log.cfd;
        self.log.line(FETCHERS, now, |out| lines::item_get(out, key, fetched, cfd));
    }

    /// Runs a look at a key, which says what it finds, and notes what it came to.
    #[cold]
    fn looked<R>(
        &mut self,
        key: &[u8],
        now: Now,
        run: impl FnOnce(&mut Handle, &mut Option<Seen>) -> R,
    ) -> R {
        let mut look = Look { seen: None, gone: self.gone() };
        let result = run(&mut self.handle, &mut look.seen);
        self.note_look(key, look, now);
        result
    }

    /// As [`Handle::get`].
    #[inline]
    pub fn get<R>(&mut self, key: &[u8], now: Now, read: impl FnOnce(&Item<'_>) -> R) -> Option<R> {
        if !self.log.wants(FETCHERS) {
            return self.handle.get(key, now, read);
        }
        self.looked(key, now, |handle, seen| {
            handle.get(key, now, |item| {
                *seen = Some(Seen::of(item));
                read(item)
            })
        })
    }

    /// As [`Handle::peek`].
    #[inline]
    pub fn peek<R>(
        &mut self,
        key: &[u8],
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        if !self.log.wants(FETCHERS) {
            return self.handle.peek(key, now, read);
        }
        self.looked(key, now, |handle, seen| {
            handle.peek(key, now, |item| {
                *seen = Some(Seen::of(item));
                read(item)
            })
        })
    }

    /// As [`Handle::get_and_touch`].
    #[inline]
    pub fn get_and_touch<R>(
        &mut self,
        key: &[u8],
        exptime: Exptime,
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        if !self.log.wants(FETCHERS) {
            return self.handle.get_and_touch(key, exptime, now, read);
        }
        self.looked(key, now, |handle, seen| {
            handle.get_and_touch(key, exptime, now, |item| {
                *seen = Some(Seen::of(item));
                read(item)
            })
        })
    }

    /// As [`Handle::meta_get`].
    #[inline]
    pub fn meta_get<R>(
        &mut self,
        key: &[u8],
        terms: &GetTerms,
        now: Now,
        read: impl FnOnce(&Item<'_>, Found) -> R,
    ) -> Option<R> {
        if !self.log.wants(FETCHERS) {
            return self.handle.meta_get(key, terms, now, read);
        }
        self.looked(key, now, |handle, seen| {
            handle.meta_get(key, terms, now, |item, found| {
                *seen = Some(Seen::of(item)).filter(|_| !found.created);
                read(item, found)
            })
        })
    }

    /// As [`Handle::touch`].
    #[inline]
    pub fn touch(&mut self, key: &[u8], exptime: Exptime, now: Now) -> Option<u64> {
        if !self.log.wants(FETCHERS) {
            return self.handle.touch(key, exptime, now);
        }
        let look = self.look(key, now);
        let touched = self.handle.touch(key, exptime, now);
        self.note_look(key, look, now);
        touched
    }

    /// As [`Handle::delete`].
    #[inline]
    pub fn delete(&mut self, key: &[u8], now: Now) -> bool {
        if !self.log.wants(FETCHERS | DELETIONS) {
            return self.handle.delete(key, now);
        }
        let look = self.look(key, now);
        let deleted = self.handle.delete(key, now);
        self.note_look(key, look, now);
        if let Some(seen) = look.seen.filter(|_| deleted) {
            self.note_deleted(key, "delete", seen, now);
        }
        deleted
    }

    /// As [`Handle::delete_with`].
    #[inline]
    pub fn delete_with(&mut self, key: &[u8], terms: &DeleteTerms, now: Now) -> Deleted {
        if !self.log.wants(FETCHERS | MUTATIONS | DELETIONS) {
            return self.handle.delete_with(key, terms, now);
        }
        let look = self.look(key, now);
        let deleted = self.handle.delete_with(key, terms, now);
        self.note_look(key, look, now);
        let (Deleted::Deleted, Some(mut seen)) = (deleted, look.seen) else { return deleted };
        if terms.remove_value {
            // memcached sets an empty item in its place.
            self.note_look(key, look, now);
            let exptime = terms.exptime.unwrap_or(Exptime::Never);
            seen = Seen { exptime, has_flags: terms.flags != 0, len: 0 };
            self.note_store(Mode::Set, key, Status::Stored, seen, now);
        }
        if !terms.stale {
            self.note_deleted(key, "md", seen, now);
        }
        deleted
    }

    #[cold]
    fn note_deleted(&mut self, key: &[u8], command: &str, was: Seen, now: Now) {
        let class = self.class(key, was.has_flags, was.len);
        self.log.line(DELETIONS, now, |out| lines::deleted(out, key, command, class, was.len));
    }

    /// As [`Handle::delete_with`], for a binary client: memcached shows that it looked, and not
    /// that it deleted.
    #[inline]
    pub fn delete_silently(&mut self, key: &[u8], terms: &DeleteTerms, now: Now) -> Deleted {
        if !self.log.wants(FETCHERS) {
            return self.handle.delete_with(key, terms, now);
        }
        let look = self.look(key, now);
        let deleted = self.handle.delete_with(key, terms, now);
        self.note_look(key, look, now);
        deleted
    }

    /// As [`Handle::refuse`].
    pub fn refuse(&mut self, key: &[u8], now: Now) {
        if !self.log.wants(FETCHERS) {
            return self.handle.refuse(key, now);
        }
        let look = self.look(key, now);
        self.handle.refuse(key, now);
        self.note_look(key, look, now);
    }

    /// A storage command whose value was not taken in.
    #[cold]
    pub fn note_refused(&mut self, mode: Mode, key: &[u8], why: Status, now: Now) {
        let none = Seen { exptime: Exptime::Never, has_flags: false, len: 0 };
        self.note_store(mode, key, why, none, now);
    }

    /// Notes a storage command of what is there now, or would be.
    #[cold]
    fn note_store(&mut self, mode: Mode, key: &[u8], status: Status, what: Seen, now: Now) {
        let class = match status {
            Status::TooLarge | Status::NoMemory => 0,
            _ => self.class(key, what.has_flags, what.len),
        };
        let (exptime, size, cfd) = (what.exptime, what.len, self.log.cfd);
        let store = lines::Store { key, mode, status, exptime, size, class };
        self.log.line(MUTATIONS, now, |out| lines::item_store(out, &store, now, cfd));
    }

    /// As [`Handle::store`].
    #[inline]
    pub fn store(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
        now: Now,
    ) -> Stored {
        self.store_with(mode, key, flags, exptime, value, &Terms::PLAIN, now)
    }

    /// As [`Handle::store_with`].
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn store_with(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
        terms: &Terms,
        now: Now,
    ) -> Stored {
        self.store_given(mode, key, flags, exptime, value.into(), terms, now)
    }

    /// As [`Handle::store_given`].
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn store_given(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: Given<'_>,
        terms: &Terms,
        now: Now,
    ) -> Stored {
        if !self.log.wants(FETCHERS | MUTATIONS) {
            return self.handle.store_given(mode, key, flags, exptime, value, terms, now);
        }
        let len = value.len();
        let look = self.look(key, now);
        let stored = self.handle.store_given(mode, key, flags, exptime, value, terms, now);
        self.note_look(key, look, now);
        // What is appended to keeps its flags and exptime.
        let joined = matches!(mode, Mode::Append | Mode::Prepend);
        let new = Seen { exptime, has_flags: flags != 0, len };
        let what = match (stored, look.seen) {
            (Stored::Stored(written), Some(old)) if joined => Seen { len: written.len, ..old },
            (Stored::Stored(_), None) if joined => {
                Seen { exptime: terms.vivify.unwrap_or(exptime), ..new }
            }
            _ => new,
        };
        self.note_store(mode, key, Status::of(stored), what, now);
        stored
    }

    /// As [`Handle::arith`].
    #[inline]
    pub fn arith(&mut self, key: &[u8], incr: bool, delta: u64, now: Now) -> Arith {
        self.arith_with(key, incr, delta, &ArithTerms::default(), now)
    }

    /// As [`Handle::arith_with`].
    #[inline]
    pub fn arith_with(
        &mut self,
        key: &[u8],
        incr: bool,
        delta: u64,
        terms: &ArithTerms,
        now: Now,
    ) -> Arith {
        if !self.log.wants(FETCHERS | MUTATIONS) {
            return self.handle.arith_with(key, incr, delta, terms, now);
        }
        let look = self.look(key, now);
        let done = self.handle.arith_with(key, incr, delta, terms, now);
        self.note_look(key, look, now);
        if let Arith::Value { created: true, exptime, written, .. } = done {
            // memcached adds it, and so looks once more.
            let again = Look { seen: None, gone: self.gone() };
            self.note_look(key, again, now);
            let new = Seen { exptime, has_flags: false, len: written.len };
            self.note_store(Mode::Add, key, Status::Stored, new, now);
        }
        done
    }
}
