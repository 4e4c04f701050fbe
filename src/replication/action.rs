//! What a node is made with, and what it tells its driver to do.
//!
//! Plain data: decides nothing.

use super::secret::Secret;
use super::NodeId;
use std::sync::Arc;

/// One link of this process, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Where an incoming connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// An address of this peer of [`NodeConfig::peers`].
    Peer(usize),
    /// Another one that may connect.
    Other,
}

/// What a node is made with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Drawn at random by the process.
    pub id: NodeId,
    /// The peers named by `-x`, as `HOST:PORT`.
    pub peers: Vec<String>,
    /// Hashes that may wait per link (`-q`).
    pub queue_max: usize,
    /// Longest time without saying anything, in microseconds.
    pub heartbeat_us: u64,
    /// Longest time without hearing anything, in microseconds.
    pub silence_us: u64,
    /// For jitter.
    pub seed: u64,
    /// What peers have to know; without it whoever may connect may link.
    pub secret: Option<Arc<Secret>>,
    /// Makes the nonces of the challenge and the passes of links: to be drawn at random.
    pub nonce_key: [u8; 32],
}

impl NodeConfig {
    /// A heartbeat each 0.6 seconds, and five seconds until a silent peer is given up.
    pub fn new(id: NodeId, peers: Vec<String>, queue_max: usize) -> NodeConfig {
        NodeConfig {
            id,
            peers,
            queue_max,
            heartbeat_us: 600_000,
            silence_us: 5_000_000,
            seed: (id.0 >> 64) as u64 ^ id.0 as u64,
            secret: None,
            nonce_key: [0; 32],
        }
    }
}

impl NodeConfig {
    /// Silence after which a linked peer is suspect, in microseconds: three heartbeats, and in
    /// proportion where a link may be silent for longer than five seconds. It is dialled anew
    /// beside its link: after a cut the kernel tries a connection again at doubling intervals, and
    /// would find a network that has healed seconds late. Nobody answers for it any more. And it
    /// gives way to another node that wants its place.
    pub fn suspect_us(&self) -> u64 {
        (3 * self.heartbeat_us).max(self.silence_us / 25 * 9)
    }

    /// How long the first try of a peer may take: the node serves nobody meanwhile. A lost packet
    /// of a connection's beginning is sent again after a second: no setting makes it shorter.
    pub fn dial_first_us(&self) -> u64 {
        self.silence_us.clamp(1_000_000, 3_000_000)
    }

    /// How long a later try may take: short, so that a network that has healed meanwhile is not
    /// waited for with a doubled retransmission time.
    pub fn dial_again_us(&self) -> u64 {
        self.silence_us.clamp(250_000, 1_000_000)
    }
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to a peer; answer with `on_dialed` or `on_dial_failed`.
    Dial {
        /// The link it becomes.
        link: LinkId,
        /// Index into [`NodeConfig::peers`].
        peer: usize,
        /// Give up after this many microseconds.
        timeout_us: u64,
    },
    /// Open the replication port; answer with `on_listening` or `on_listen_failed`.
    Listen,
    /// Close the replication port: a repcached of this host needs it when its link ends.
    Unlisten,
    /// Close a connection, after these last bytes if they can be sent at once.
    Close {
        /// Which.
        link: LinkId,
        /// What it has still to say.
        last: Vec<u8>,
    },
    /// This link has no heartbeats: let the system notice when the other machine has vanished.
    Watch {
        /// Which.
        link: LinkId,
        /// Within about this many microseconds.
        timeout_us: u64,
    },
    /// A line for the log, at level info.
    Log(String),
    /// A line for the log, at level debug.
    Debug(String),
    /// A line for the log, at level warn.
    Warn(String),
    /// Clients may come. Once.
    Serve,
}

/// Why the replication port could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenError {
    /// Somebody holds it. On one host, that is the peer.
    InUse,
    /// Something else.
    Other(String),
}
