//! `stats conns`: who is connected, and where we listen.
//!
//! Owns its shape. Shows what the workers noted; asks no socket. The answer has four lines for
//! every connection there is, and any of them may ask for it and not read it: so it is made in
//! steps, as the client takes it, and no step holds up those who come and go.

use std::ops::Bound;

use super::stat;
use crate::base::clock::Now;
use crate::protocol::classic::encode;
use crate::server::conn::{Produced, Producer};
use crate::server::execute::Executor;
use crate::server::shared::{ConnInfo, Shared};

/// Connections of one step: about a tenth of a millisecond, and 20 KB.
const CONNS_PER_STEP: usize = 128;

/// The answer: every connection and listener, by descriptor.
pub(super) fn stats() -> Box<dyn Producer> {
    Box::new(Conns { from: Bound::Unbounded })
}

#[derive(Debug)]
struct Conns {
    from: Bound<u64>,
}

impl Producer for Conns {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        match rows(&exec.shared, self.from, now, out) {
            Some(last) => self.from = Bound::Excluded(last),
            None => {
                out.extend_from_slice(encode::END);
                return Produced::Done;
            }
        }
        Produced::More
    }

    /// There are only so many connections.
    fn may_go_by_datagram(&self) -> bool {
        true
    }
}

/// Appends the next rows; gives the last one's descriptor, or none at the end.
fn rows(shared: &Shared, from: Bound<u64>, now: Now, out: &mut Vec<u8>) -> Option<u64> {
    let conns = shared.conns();
    let mut rows = conns.range((from, Bound::Unbounded));
    let mut last = None;
    for (&id, info) in rows.by_ref().take(CONNS_PER_STEP) {
        row(id, info, now, out);
        last = Some(id);
    }
    last.filter(|_| rows.next().is_some())
}

fn row(id: u64, info: &ConnInfo, now: Now, out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::Config;
    use crate::server::shared::ConnState;
    use crate::store::{self, Store};

    #[test]
    fn many_connections_are_shown_in_steps_each_of_them_once() {
        let now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };
        let store = Store::new(store::Config::default(), now);
        let shared = Shared::new(Config::default(), store, now, 1);
        const CONNS: u64 = 10 * CONNS_PER_STEP as u64;
        for id in 0..CONNS {
            let addr = format!("tcp:somewhere:{id}");
            let info = ConnInfo::new(addr, "tcp:here".into(), ConnState::Read, now);
            shared.conns().insert(id, info);
        }
        let mut exec = Executor::new(shared);
        let (mut producer, mut all) = (stats(), Vec::new());
        loop {
            let mut step = Vec::new();
            let produced = producer.produce(&mut exec, now, &mut step);
            assert!(step.len() <= CONNS_PER_STEP * 300, "{} bytes in a step", step.len());
            all.extend(step);
            if produced == Produced::Done {
                break;
            }
        }
        let all = String::from_utf8(all).expect("ASCII");
        for id in 0..CONNS {
            let line = format!("STAT {id}:addr tcp:somewhere:{id}\r\n");
            assert_eq!(all.matches(&line).count(), 1, "{line}");
        }
        assert_eq!(all.lines().count() as u64, 4 * CONNS + 1);
        assert!(all.ends_with("\r\nEND\r\n"));
    }
}
