//! What a backup is to do before it has said what it understands.
//!
//! Owns the queue of writes that wait for that. Meta commands cannot be sent to a server that may
//! be older than them, and must not be forgotten either: they wait for the answer to `version`,
//! which goes first on every connection. Whatever else is written to that backup meanwhile waits
//! behind them.

use super::super::super::backend::{Dialect, Usable};
use super::super::places::BackendId;
use super::super::Relay;
use super::meta::Mirror;
use crate::base::clock::Now;

impl Relay {
    /// Whether what write `id` is to do on `backup` must wait until it is known what that one
    /// understands; or for others that wait for it, whose place is before it.
    pub(super) fn must_greet(&self, id: usize, backup: BackendId) -> bool {
        let unknown = self.backends[backup].dialect() == Dialect::Unknown;
        let wants = unknown && matches!(self.writes[id].mirror(true), Mirror::Meta(_));
        let queued = || self.mirrors.iter().any(|&(to, _)| to == backup);
        (wants || queued()) && self.backends[backup].usable() == Usable::Yes
    }

    /// A backup has said what it understands: who has waited for that goes on, in order.
    pub(in super::super) fn mirrors_go_on(&mut self, now: Now, backup: BackendId) {
        if self.mirrors.is_empty() || self.backends[backup].dialect() == Dialect::Unknown {
            return;
        }
        for id in self.take_mirrors(backup) {
            let stage = self.writes[id as usize].stage;
            self.mirror_write(now, id as usize, stage);
        }
    }

    /// A backup was lost, or flushes, before it has said what it understands.
    pub(in super::super) fn mirrors_missed(&mut self, backup: BackendId) {
        for id in self.take_mirrors(backup) {
            if let Some(place) = self.writes[id as usize].route.backup {
                self.write_missed(id as usize, place);
            }
            self.finish_with_answer(id as usize);
        }
    }

    fn take_mirrors(&mut self, backup: BackendId) -> Vec<u32> {
        let mut mine = Vec::new();
        self.mirrors.retain(|&(to, id)| {
            if to == backup {
                mine.push(id);
            }
            to != backup
        });
        mine
    }
}
