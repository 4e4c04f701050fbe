//! What kinds of write there are, how each is sent, and what its answers mean.
//!
//! Owns the classic commands; those of the meta protocol are [`super::meta`]'s. Never decides who
//! is asked.

use super::super::super::backend::{Expect, Kind};
use super::super::super::figures::Worker;
use super::super::BACKUP_UNIQUE;
use super::meta::{How, MetaVerb, Mirror};
use super::Write;
use crate::protocol::classic::{encode, Reply};
use crate::protocol::{ArithVerb, Request, StoreHead, StoreVerb};

/// What kind of command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Store(StoreVerb),
    Delete,
    Incr,
    Decr,
    Touch,
    Meta(MetaVerb),
}

/// What an answer of the server means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done: the backup must do it too.
    Done,
    /// There was nothing to delete: the backup must still not have it.
    Gone,
    /// There is nothing to work on: the backup may have it.
    Absent,
    /// It changed nothing, or was only read.
    Final,
    /// The old value was dropped and the new one refused.
    Dropped,
}

impl Verb {
    /// Counts it. A meta command counts as such and as what it does; an mg as a get when it is
    /// known what it found.
    pub(super) fn count(self, count: &Worker) {
        let figure = match self {
            Verb::Store(_) | Verb::Meta(MetaVerb::Set) => &count.cmd_set,
            Verb::Delete | Verb::Meta(MetaVerb::Delete) => &count.cmd_delete,
            Verb::Incr | Verb::Decr | Verb::Meta(MetaVerb::Arith) => &count.cmd_arith,
            Verb::Touch => &count.cmd_touch,
            Verb::Meta(MetaVerb::Get | MetaVerb::Debug) => return count.cmd_meta.add(1),
        };
        figure.add(1);
        count.cmd_meta.add(u64::from(matches!(self, Verb::Meta(_))));
    }
}

impl Write {
    /// The kind of answer it has, and whether it may be done twice.
    pub(super) fn kind(&self) -> Kind {
        match self.verb {
            Verb::Store(StoreVerb::Set | StoreVerb::Replace) => Expect::Stored.again(),
            Verb::Store(_) => Expect::Stored.once(),
            Verb::Delete => Expect::Deleted.again(),
            Verb::Incr | Verb::Decr => Expect::Number.once(),
            Verb::Touch => Expect::Touched.again(),
            Verb::Meta(verb) if self.line.is_idempotent(verb) => Expect::Meta.again(),
            Verb::Meta(_) => Expect::Meta.once(),
        }
    }

    /// Whether it can make a key that was not there, or remove one.
    pub(super) fn makes_or_removes(&self) -> bool {
        match self.verb {
            Verb::Store(StoreVerb::Set | StoreVerb::Add) | Verb::Delete => true,
            Verb::Meta(verb) => self.line.makes_or_removes(verb),
            _ => false,
        }
    }

    /// Whether it leaves everything as it is.
    pub(super) fn only_reads(&self) -> bool {
        matches!(self.verb, Verb::Meta(verb) if self.line.only_reads(verb))
    }

    /// Whether it makes an item where there is none, and so would hide what the backup has.
    pub(super) fn vivifies(&self) -> bool {
        matches!(self.verb, Verb::Meta(verb) if self.line.vivifies(verb))
    }

    /// Whether it does nothing where there is an item.
    pub(super) fn only_adds(&self) -> bool {
        match self.verb {
            Verb::Store(verb) => verb == StoreVerb::Add,
            Verb::Meta(verb) => self.line.only_adds(verb),
            _ => false,
        }
    }

    /// What an answer of the server means.
    pub(super) fn outcome(&self, reply: &Reply<'_>) -> Outcome {
        use StoreVerb::{Append, Prepend, Replace, Set};
        match (self.verb, reply) {
            (Verb::Meta(verb), reply) => self.line.outcome(verb, &self.key, reply),
            (Verb::Store(Set), Reply::Error(line)) if line.starts_with(b"SERVER_ERROR") => {
                Outcome::Dropped
            }
            (_, Reply::Error(_)) => Outcome::Final,
            (Verb::Store(_), Reply::Stored) => Outcome::Done,
            (Verb::Store(Append | Prepend | Replace), Reply::NotStored) => Outcome::Absent,
            (Verb::Store(StoreVerb::Cas(_)), Reply::NotFound) => Outcome::Absent,
            (Verb::Delete, Reply::Deleted) => Outcome::Done,
            (Verb::Delete, Reply::NotFound) => Outcome::Gone,
            (Verb::Incr | Verb::Decr, Reply::Number(_)) => Outcome::Done,
            (Verb::Touch, Reply::Touched) => Outcome::Done,
            (Verb::Incr | Verb::Decr | Verb::Touch, Reply::NotFound) => Outcome::Absent,
            _ => Outcome::Final,
        }
    }

    /// The unique that the item must have.
    pub(super) fn compare(&self) -> Option<u64> {
        match self.verb {
            Verb::Store(StoreVerb::Cas(unique)) => Some(unique),
            Verb::Meta(verb) => self.line.compare(verb),
            _ => None,
        }
    }

    /// The answer where that unique cannot be the item's.
    pub(super) fn exists(&self) -> Vec<u8> {
        match self.verb {
            Verb::Meta(verb) => self.line.exists(verb, &self.key, self.data.len()),
            _ => encode::EXISTS.to_vec(),
        }
    }

    /// The command as the client sent it.
    pub(super) fn encode(&self, out: &mut Vec<u8>, how: How) {
        let verb = match self.verb {
            Verb::Meta(verb) => return self.line.encode(out, verb, &self.key, &self.data, how),
            Verb::Store(StoreVerb::Cas(unique)) if how.backup => {
                Verb::Store(StoreVerb::Cas(unique & !BACKUP_UNIQUE))
            }
            verb => verb,
        };
        self.put(out, verb);
    }

    fn put(&self, out: &mut Vec<u8>, verb: Verb) {
        let (key, noreply) = (&self.key[..], false);
        let request = match verb {
            Verb::Store(verb) => {
                let (flags, exptime, len) = (self.flags, self.exptime, self.data.len() as u32);
                let head = StoreHead { verb, key, flags, exptime, len, noreply };
                return encode::store(out, &head, &self.data);
            }
            Verb::Delete => Request::Delete { key, noreply },
            Verb::Incr => Request::Arith { verb: ArithVerb::Incr, key, delta: self.delta, noreply },
            Verb::Decr => Request::Arith { verb: ArithVerb::Decr, key, delta: self.delta, noreply },
            Verb::Touch => Request::Touch { key, exptime: self.exptime, noreply },
            Verb::Meta(_) => return,
        };
        encode::request(out, &request);
    }

    /// What the backup does once the server has done its part.
    pub(super) fn mirror(&self, speaks_meta: bool) -> Mirror<'_> {
        let (key, noreply) = (&self.key[..], false);
        Mirror::Classic(match self.verb {
            Verb::Meta(verb) => return self.line.mirror(verb, key, &self.data, speaks_meta),
            Verb::Store(verb) => {
                let verb = match verb {
                    StoreVerb::Append | StoreVerb::Prepend => verb,
                    _ => StoreVerb::Set,
                };
                let (flags, exptime, len) = (self.flags, self.exptime, self.data.len() as u32);
                Request::Store(StoreHead { verb, key, flags, exptime, len, noreply })
            }
            Verb::Delete => Request::Delete { key, noreply },
            Verb::Incr => Request::Arith { verb: ArithVerb::Incr, key, delta: self.delta, noreply },
            Verb::Decr => Request::Arith { verb: ArithVerb::Decr, key, delta: self.delta, noreply },
            Verb::Touch => Request::Touch { key, exptime: self.exptime, noreply },
        })
    }
}
