//! What `stats` and `stats replication` say of the peers.
//!
//! Owns the names of the lines. Made by the replication thread once in a while (a twentieth of a
//! second after something happened, at the latest) and read by any; what grows while nothing
//! happens (a lag, the age of a link) is worked out when it is read.
//!
//! ```text
//!   STAT 0:state live            peers that are linked, in the order in which they came,
//!   STAT 0:role MASTER           then those of -x that are not
//!   ...
//!   STAT 1:state waiting
//!   STAT 1:name b.example.net:11212
//! ```

use crate::base::clock::Now;
use crate::replication::Node;

/// The version of repcached whose behaviour `stats` promises.
const REPCACHED_VERSION: &str = "2.3.1";
/// The one figure of `stats` that is exact at any time.
const LAG: &str = "repl_lag_us";
/// Millionths in a percent.
const PERCENT: u32 = 10_000;

/// A value, as far as it can be told beforehand.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Number(u64),
    /// Microseconds since this monotonic time; 0 for none. At least 1 for one.
    LagSince(Option<u64>),
    /// Seconds since this monotonic time in microseconds.
    Seconds(u64),
}

impl Value {
    fn text(&self, now: Now) -> String {
        let since = |us: u64| now.mono_us.saturating_sub(us);
        match *self {
            Value::Text(ref text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::LagSince(oldest) => oldest.map_or(0, |us| since(us).max(1)).to_string(),
            Value::Seconds(us) => (since(us) / 1_000_000).to_string(),
        }
    }
}

/// What `stats` shows, as of the last turn or so.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    general: Vec<(&'static str, String)>,
    peers: Vec<(String, Value)>,
}

fn unknown() -> Value {
    Value::Text("unknown".to_owned())
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        "none".to_owned()
    } else {
        text.to_owned()
    }
}

impl Stats {
    /// What there is to say of a node now. `strangers`: connections that were turned away at once.
    pub fn of(node: &Node, strangers: u64, now: Now) -> Stats {
        let peers = node.peer_stats(now);
        let linked = peers.iter().filter(|peer| peer.link.is_some()).count();
        let general = vec![
            ("replication", node.role().name().to_owned()),
            ("repcached_version", REPCACHED_VERSION.to_owned()),
            // repcached keeps one item of its queue in hand: an idle node with -q 8192 says 8191.
            ("repcached_qi_free", node.queue_free().saturating_sub(1).to_string()),
            ("repl_peers_linked", linked.to_string()),
            (LAG, String::new()),
            ("repl_links_made", node.links_made().to_string()),
            ("repl_strangers", strangers.to_string()),
            ("repl_handshakes_failed", node.strays().to_string()),
            ("repl_secret_mismatches", node.distrusted().to_string()),
            ("repl_last_error", or_none(node.last_error())),
        ];
        let mut stats = Stats { general, peers: Vec::new() };
        for (at, peer) in peers.iter().enumerate() {
            let mut text = |name: &str, value: &str| {
                stats.peers.push((format!("{at}:{name}"), Value::Text(or_none(value))));
            };
            text("state", peer.state);
            if let Some(link) = &peer.link {
                text("role", link.role.name());
            }
            text("name", &peer.names.join(","));
            text("address", peer.link.as_ref().map_or("", |link| &link.address));
            text("node", &peer.id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()));
            text("last_error", &peer.last_error);
            let Some(link) = &peer.link else { continue };
            text("wire", if link.text { "repcached" } else { "native" });
            let figures = &link.figures;
            let oldest_us = (link.lag_us > 0).then(|| now.mono_us.saturating_sub(link.lag_us));
            for (name, value) in [
                ("linked_secs", Value::Seconds(link.since_us.unwrap_or(now.mono_us))),
                // A repcached never says how far it is.
                ("lag_us", if link.text { unknown() } else { Value::LagSince(oldest_us) }),
                ("queue", Value::Number(link.queue as u64)),
                ("copy_percent", Value::Number(u64::from(link.progress / PERCENT))),
                ("copy_in_percent", Value::Number(u64::from(link.received / PERCENT))),
                ("bytes_in", Value::Number(figures.bytes_in)),
                ("bytes_out", Value::Number(figures.bytes_out)),
                ("items_in", Value::Number(figures.tally.items)),
                ("items_out", Value::Number(figures.items_out)),
                ("deletes_in", Value::Number(figures.tally.deletes)),
                ("deletes_out", Value::Number(figures.deletes_out)),
                ("applied", Value::Number(figures.tally.won)),
                ("duplicates", Value::Number(figures.tally.same)),
                ("conflicts", Value::Number(figures.tally.stale)),
                ("refused", Value::Number(figures.tally.refused)),
                ("unsaid", Value::Number(figures.unsaid)),
                ("full_copies_in", Value::Number(figures.copies_in)),
                ("full_copies_out", Value::Number(figures.copies_out)),
                ("resumes", Value::Number(figures.resumes)),
                ("overflows", Value::Number(figures.overflows)),
            ] {
                stats.peers.push((format!("{at}:{name}"), value));
            }
        }
        stats
    }

    /// The lines of `stats`.
    pub fn general(&self, lag_us: u64) -> Vec<(String, String)> {
        let value = |name: &str, value: &String| match name {
            LAG => lag_us.to_string(),
            _ => value.clone(),
        };
        self.general.iter().map(|(name, text)| ((*name).to_owned(), value(name, text))).collect()
    }

    /// The lines of `stats replication`.
    pub fn peers(&self, now: Now) -> Vec<(String, String)> {
        self.peers.iter().map(|(name, value)| (name.clone(), value.text(now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::{NodeConfig, NodeId};

    const NOW: Now = Now { unix_us: 0, mono_us: 9_000_000 };

    #[test]
    fn a_node_alone_is_a_master_and_says_whom_it_misses() {
        let config = NodeConfig::new(NodeId(7), vec!["a:1".into()], 10);
        let stats = Stats::of(&Node::new(config), 3, NOW);
        let general = stats.general(42);
        let of = |name: &str| general.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(of("replication"), Some("MASTER"));
        assert_eq!(of("repcached_qi_free"), Some("9"));
        assert_eq!((of("repl_lag_us"), of("repl_strangers")), (Some("42"), Some("3")));
        let lines: Vec<String> =
            stats.peers(NOW).into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        assert_eq!(
            lines,
            [
                "0:state waiting",
                "0:name a:1",
                "0:address none",
                "0:node unknown",
                "0:last_error none"
            ]
        );
    }

    #[test]
    fn ages_grow_while_nothing_happens() {
        assert_eq!(Value::LagSince(Some(8_999_000)).text(NOW), "1000");
        assert_eq!(Value::LagSince(Some(10_000_000)).text(NOW), "1", "there is one");
        assert_eq!(Value::LagSince(None).text(NOW), "0");
        assert_eq!(Value::Seconds(1_500_000).text(NOW), "7");
    }
}
