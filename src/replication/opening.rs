//! The beginning of a link: who is at the other end, and may be believed.
//!
//! ```text
//!   line --no secret-----------------> trust --[pass]--> hello --> the owner decides
//!     `---secret--> proof --right----'
//!                     `-----wrong or anything else-----> closed
//! ```
//!
//! Owns what counts before a hello is accepted. Never lets an id count that was claimed but not
//! proven where there is a secret. Where there is none, a *pass* stands between a linked peer and
//! who only claims to be it: each end tells the other a number when the link lives, and who makes a
//! new connection to somebody it was linked to shows that number before its hello.

use super::events::{CloseReason, Event};
use super::secret::{End, Gate, Mismatch, Nonce};
use super::session::{Session, State};
use super::wire::line::Line;
use super::wire::native::{Bye, Frame, WireError};
use super::{NodeId, Role};

impl Session {
    pub(super) fn line(&self) -> Line {
        Line { id: self.config.id, nonce: self.gate.as_ref().map(Gate::nonce) }
    }

    pub(super) fn on_line(&mut self, line: &Line) {
        self.knows_frames = true;
        // The listener answers a line that it knows: a stranger hears nothing at all.
        self.line_due |= self.role == Role::Listener;
        match (&mut self.gate, line.nonce) {
            (None, None) => self.trust(line.id),
            (Some(_), None) => self.distrust(Mismatch::PeerHasNone),
            (None, Some(_)) => self.distrust(Mismatch::WeHaveNone),
            (Some(gate), Some(nonce)) => {
                gate.claims(End { id: line.id, nonce });
                // The connector proves first: the listener tells a stranger nothing it can use.
                self.proof_due = gate.proof().filter(|_| self.role == Role::Connector);
                self.state = State::Proving;
            }
        }
    }

    /// The peer is taken for who it says it is.
    fn trust(&mut self, id: NodeId) {
        self.peer = Some(id);
        self.state = State::Greeting;
        // The listener's hello follows when it has accepted the connector's: it is the consent.
        self.hello_due = self.role == Role::Connector;
        self.events.push_back(Event::Line(id));
    }

    fn distrust(&mut self, why: Mismatch) {
        let bye = (Bye::Secret, why.to_string());
        self.close(CloseReason::Secret(why), Some(bye));
    }

    pub(super) fn on_bye(&mut self, reason: Bye) {
        let why = match reason {
            Bye::Secret => CloseReason::Secret(Mismatch::Differ),
            reason => CloseReason::Bye(reason),
        };
        self.close(why, None);
    }

    pub(super) fn on_proof(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        match frame {
            Frame::Proof(proof) => {
                let Some(gate) = &self.gate else { return Ok(()) };
                match gate.check(&proof) {
                    Some(id) => {
                        self.proof_due = gate.proof().filter(|_| self.role == Role::Listener);
                        self.trust(id);
                    }
                    None => self.distrust(Mismatch::Differ),
                }
                Ok(())
            }
            Frame::Bye { reason, .. } => {
                self.on_bye(reason);
                Ok(())
            }
            _ => Err(WireError::OutOfPlace { what: "another frame before its proof" }),
        }
    }

    /// A frame between the line (and the proofs) and the end of the hellos.
    pub(super) fn on_greeting(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        match frame {
            Frame::Hello(hello) if self.peer == Some(hello.id) => {
                self.state = State::Vetting;
                self.events.push_back(Event::Hello(hello));
            }
            Frame::Pass(pass) => self.shown = Some(pass),
            Frame::Bye { reason, .. } => self.on_bye(reason),
            Frame::Unknown(_) => {}
            _ => {
                return Err(WireError::OutOfPlace { what: "another frame before its hello" });
            }
        }
        Ok(())
    }

    /// Shows the pass that the peer told on an earlier link, to be believed at once.
    pub fn show(&mut self, pass: Nonce) {
        if self.state == State::Greeting && self.role == Role::Connector {
            self.pass_due = Some(pass);
        }
    }

    /// The pass that the peer has told on this link.
    pub fn pass_told(&self) -> Option<Nonce> {
        self.pass_told
    }

    /// Whether this link, which was just made, is from who is at the other end of `old`: it has
    /// proven a secret, or knows what only that one was told, or it is one that we dialled.
    pub fn replaces(&self, old: &Session) -> bool {
        self.role == Role::Connector || self.gate.is_some() || self.shown == Some(old.config.pass)
    }
}
