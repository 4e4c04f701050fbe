//! What a session is fed with, and what it gives to others: changes made here and elsewhere.
//!
//! Owns no state: it hands on, to frames or to the text of a repcached. Decides nothing.

use super::native::{self, WireError};
use super::{Drained, Handle, Now, Relays, Session, Told, Version};
use crate::store::read_told;

impl Session {
    /// Whether [`Session::take_relays`] is to name each change, or just the lowest version.
    pub fn set_relay(&mut self, relay: bool) {
        self.relay = relay;
    }

    /// Changes of the peer that won here and that other links must hear of. At most as many as
    /// there were changes in the bytes last handed in.
    pub fn take_relays(&mut self) -> Relays {
        if let Some(text) = &mut self.text {
            return text.take_relays(self.relay);
        }
        std::mem::take(&mut self.relays)
    }

    /// What is newer than `since` is to be looked up and sent: whoever answered for this peer does
    /// not any more.
    pub fn catch_up(&mut self, since: Version, now: Now) {
        if let Some(text) = &mut self.text {
            return text.catch_up(since, now);
        }
        if self.is_live() {
            self.caught_up = true;
            self.outgoing.stream.catch_up(since, now);
        }
    }

    /// What was drained from the feeds.
    pub fn push(&mut self, hashes: &[u64], drained: Drained, now: Now) {
        if let Some(text) = &mut self.text {
            return text.push(hashes, drained, now);
        }
        if self.is_live() {
            self.outgoing.stream.push(hashes, drained, now);
        }
    }

    /// Changes that were drained from the feeds as they were made; before [`Session::push`].
    pub fn tell(&mut self, told: &Told, now: Now) {
        if let Some(text) = &mut self.text {
            return text.tell(told, now);
        }
        if self.is_live() {
            self.outgoing.tell(told, now);
        }
    }

    /// Takes in what the peer was told by its writers.
    ///
    /// # Errors
    /// There is something in it that no node says.
    pub(super) fn on_told(
        &mut self,
        mut bytes: &[u8],
        handle: &mut Handle,
        now: Now,
    ) -> Result<(), WireError> {
        while !bytes.is_empty() {
            let wrong = WireError::BadField { kind: native::TOLD };
            let (change, size) = read_told(bytes).ok_or(wrong)?;
            bytes = &bytes[size..];
            if self.incoming.told(&change, handle, now) {
                self.relay(change.key, change.version, true, handle);
            }
        }
        Ok(())
    }

    /// Whether changes are worth telling as they are made.
    pub fn takes_told(&self) -> bool {
        self.is_live() && self.outgoing.takes_told()
    }

    /// An item of this version came over another link, and will be told to the peer.
    pub fn disagree(&mut self, version: Version) {
        if self.is_live() {
            self.outgoing.disagree(version);
        }
    }

    /// A change that came over another link.
    pub fn push_relay(&mut self, hash: u64, version: Version, now: Now) {
        if let Some(text) = &mut self.text {
            return text.push_relay(hash, version, now);
        }
        if self.is_live() {
            self.outgoing.stream.relay(hash, version, now);
        }
    }
}
