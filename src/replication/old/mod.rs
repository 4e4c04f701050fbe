//! The link to a real repcached, in its own words.
//!
//! Owns what a repcached lacks: it has no versions, acknowledges nothing, is silent when it has
//! nothing to say and forgets that it has deleted. Never decides whom to link (`Node` does), and is
//! seen by it through `Session` only.
//!
//! ```text
//!   connector    our line ->            it ignores that
//!                <- rep ..., marugoto_end        its full copy, at once: State::Filling
//!                what it lacks ->                State::Live; changes both ways from here
//!   listener     our line ->            after a while of silence; it ignores that
//!                rep ..., marugoto_end ->        our full copy: it is cold and waits for it
//!                changes both ways
//!
//!   session      the conversation, and which side's word holds
//!   receive      its lines -> changes, with versions of this node's making
//!   send         changes -> lines: the queue, scans, large values in pieces
//!   echo         a key that both sides changed at once
//!   ledger       how far it had been told when the link broke
//! ```
//!
//! # Which side's word holds
//! - Live, the last word that reaches this node; see `echo`. A word of a repcached gets a version
//!   of this node's making, above all that is known here, and is passed on to other nodes.
//! - In the copy that a repcached sends to this node: what was changed here since it was told
//!   last (since ever, if it never was) stays. Everything else takes its value. So a node that
//!   starts takes all, and one that was cut off keeps what its clients did meanwhile.
//! - Behind that copy it is sent all that it did not show: what stayed, and what it lacks. A
//!   repcached that comes back empty is filled and empties nobody.
//! - A `flush_all` that was ordered here while it was away holds for all that it had.
//! - What was deleted there while the link was down comes back: it cannot tell a key that it has
//!   deleted from one that it has evicted.

mod echo;
mod ledger;
mod receive;
mod send;
mod session;

pub use ledger::Told;
pub(super) use session::TextSession;
