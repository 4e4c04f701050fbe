//! Reading one connection ahead.
//!
//! Owns the connection that was read from while another one was still to be served. Never executes
//! anything early: what is asked ahead is memory only, and the order of requests, replies and
//! events stays what it is.
//!
//! ```text
//! events     a                 b                               c
//!            read a            read b                          read c
//!                              ask for b's slot                ask for c's slot
//!                              execute a                       execute b
//!                              ask for b's record              ask for c's record
//!                              send a                          send b                 ...
//! ```
//! A look at a slot or a record that is in no cache takes as long as a twentieth of a request, and
//! so nobody waits for it. Two input buffers go round: one for who was read, one for who is served.

use std::io;

use super::{fill, Filled, Worker, READ_PER_TURN};
use crate::base::clock::Now;

/// A connection that was read from before its turn to be served, and what came of that.
pub(super) struct ReadAhead {
    key: usize,
    /// It may be another one by then.
    serial: u64,
    /// Bytes that it may still read in this turn.
    pub(super) left: usize,
    pub(super) filled: io::Result<Filled>,
}

impl Worker {
    /// Reads from a connection that has an event, and serves the one before it: what this one asks
    /// for is on its way from memory meanwhile.
    pub(super) fn visit_ahead(&mut self, key: usize, now: Now) {
        let behind = self.read_ahead.is_some();
        let next = self
            .clients
            .get_mut(key)
            .filter(|client| !client.blocked && !client.queued && client.conn.wants_reading());
        let Some(client) = next else {
            self.serve_read_ahead(now);
            return self.visit(key, None, self.moved(now));
        };
        if self.spare_in.capacity() == 0 {
            std::mem::swap(&mut self.spare_in, &mut self.scratch_in);
        }
        client.conn.lend_input(&mut self.spare_in);
        let mut left = READ_PER_TURN;
        let filled = fill(client, &self.exec, &mut left);
        let upcoming = if behind { client.conn.first_hash(&self.exec) } else { None };
        if let Some(hash) = upcoming {
            self.exec.store.ahead_slot(hash);
        }
        let next = ReadAhead { key, serial: client.serial, left, filled };
        self.exec.upcoming = upcoming;
        if let Some(before) = self.read_ahead.replace(next) {
            self.visit_read(before, now);
        }
    }

    /// Serves the connection that was read ahead, if there is one.
    pub(super) fn serve_read_ahead(&mut self, now: Now) {
        if let Some(read) = self.read_ahead.take() {
            self.visit_read(read, now);
        }
    }

    fn visit_read(&mut self, read: ReadAhead, now: Now) {
        // It gives its buffer back to where there is none.
        if self.spare_in.capacity() == 0 {
            std::mem::swap(&mut self.spare_in, &mut self.scratch_in);
        }
        let key = read.key;
        if self.clients.get(key).is_some_and(|client| client.serial == read.serial) {
            self.visit(key, Some(read), self.moved(now));
        }
    }
}
