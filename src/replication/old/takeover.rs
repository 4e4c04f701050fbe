//! How a session becomes one with a repcached.
//!
//! Owns the ways in: the other end opens as one, or its owner says so. Never speaks: `old::session`
//! does, from then on.

use super::super::old::{TextSession, Told};
use super::super::wire::repcached;
use super::{Event, Handle, Now, Role, Session, SessionConfig, State, Version};

impl Session {
    /// Whether nothing at all has been heard yet.
    pub fn is_mute(&self) -> bool {
        self.state == State::Opening && self.stats.bytes_in == 0 && self.text.is_none()
    }

    /// Whether anything was heard: who was taken for a repcached may have been a stranger.
    pub fn has_heard(&self) -> bool {
        self.stats.bytes_in > 0
    }

    /// Takes the other end for a repcached. It is told our line first, which one ignores.
    pub fn take_for_repcached(&mut self, now: Now) {
        let SessionConfig { queue_max, silence_us, .. } = self.config;
        let input = std::mem::take(&mut self.input);
        self.line_due |= self.role == Role::Listener;
        self.text = Some(Box::new(TextSession::new(self.role, queue_max, silence_us, input, now)));
    }

    /// Accepts a repcached. `before`: what an earlier link has told it; `covered`: as for
    /// [`Session::start`].
    pub fn start_text(&mut self, before: Told, covered: Version, handle: &mut Handle, now: Now) {
        if let Some(text) = &mut self.text {
            text.start(before, covered, handle, now);
        }
    }

    /// The system says how many bytes of what was said have not reached the peer's machine.
    pub fn unsent(&mut self, bytes: u64) {
        if let Some(text) = &mut self.text {
            text.unsent(bytes);
        }
    }

    /// Whether the other end is a repcached, and changes flow.
    pub fn is_text_live(&self) -> bool {
        self.text.as_ref().is_some_and(|text| text.is_live())
    }

    /// What a repcached at the other end has been told. None: it is none.
    pub fn told_text(&self) -> Option<Told> {
        self.text.as_ref().map(|text| text.told())
    }

    /// What was read may be, or is, the opening of a repcached.
    pub(super) fn meet_repcached(&mut self, now: Now) {
        if repcached::is_opening(self.input.data()) == Some(true) {
            self.take_for_repcached(now);
            self.events.push_back(Event::Repcached);
        }
    }

    /// A repcached that is connected to sends its copy at once; one that connects says nothing.
    /// None can prove that it knows a secret.
    pub(super) fn may_be_repcached(&self, input: &[u8]) -> bool {
        let at_its_opening = self.role == Role::Connector && self.state == State::Opening;
        self.gate.is_none() && at_its_opening && repcached::is_opening(input) != Some(false)
    }

    /// The listener has waited for our line in vain, and sends its copy as to a repcached.
    pub(super) fn was_taken_for_repcached(&self, input: &[u8]) -> bool {
        let awaits_hello = self.role == Role::Connector && self.state == State::Greeting;
        awaits_hello && repcached::is_opening(input) == Some(true)
    }
}
