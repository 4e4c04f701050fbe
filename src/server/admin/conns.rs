//! `stats conns`: who is connected, and where we listen.
//!
//! Owns its shape. Shows what the workers noted; asks no socket.

use super::stat;
use crate::base::clock::Now;
use crate::server::shared::Shared;

/// Every connection and listener, by descriptor.
pub(super) fn stats(shared: &Shared, now: Now, out: &mut Vec<u8>) {
    for (id, info) in shared.conns().iter() {
        if info.is_udp() {
            stat(out, format_args!("{id}:UDP"), "UDP");
        }
        stat(out, format_args!("{id}:addr"), &info.addr);
        if !info.listen_addr.is_empty() {
            stat(out, format_args!("{id}:listen_addr"), &info.listen_addr);
        }
        stat(out, format_args!("{id}:state"), info.state().name());
        stat(out, format_args!("{id}:secs_since_last_cmd"), info.idle_secs(now));
    }
}
