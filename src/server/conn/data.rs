//! Data blocks that come in behind a command, counted before they are read.
//!
//! Owns the rule how much of a long block may be read at once and what of it is counted. Never
//! holds a byte: the block stays in the connection's input until it is complete.

use crate::base::clock::Now;
use crate::protocol::reject::Reject;
use crate::server::execute::Executor;

/// Read size for a connection that already has a part of a command, as memcached's read buffers.
/// Commands up to this length are not counted: `-c` bounds them.
pub(super) const READ_MORE: usize = 16 * 1024;

/// Read size for a long data block of which much is here. Up to it each read may double what is
/// here, so that a client has to send what it makes us hold.
const READ_MOST: usize = 16 * READ_MORE;

/// What became of a storage command's data block.
pub(super) enum Data<'a> {
    /// It is here, and took `used` bytes behind the head.
    Here { value: &'a [u8], used: usize },
    /// It has still to come.
    Missing { reserved: u64 },
    /// It is not wanted, or it is not what its length says; `used` bytes of it are dropped now.
    Refused { reject: Reject, used: usize },
}

/// The largest read for a command of which `here` bytes have come in.
pub(super) fn next_read(here: usize) -> usize {
    here.clamp(READ_MORE, READ_MOST)
}

/// How much of a command of `need` bytes is to be counted before more than `here` bytes are read.
pub(super) fn to_reserve(here: usize, need: usize) -> u64 {
    if need <= READ_MORE {
        return 0;
    }
    need.min(here + next_read(here)) as u64
}

/// Counts the next part of a command of `need` bytes of which `here` are here, and makes room for
/// it. None when there is no room: the command is to be refused.
pub(super) fn reserve(here: usize, need: usize, exec: &mut Executor, now: Now) -> Option<u64> {
    let reserved = to_reserve(here, need);
    exec.make_room(reserved, now).then_some(reserved)
}
