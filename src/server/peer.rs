//! The replication thread.
use crate::base::clock::RealClock;
use crate::server::shared::Replication;
use crate::store::Store;
use std::sync::Arc;
/// p
pub struct PeerConfig;
impl PeerConfig {
    /// f
    pub fn from_settings(
        _r: &crate::server::config::Replication,
        _l: &[String],
        _f: fn() -> u64,
    ) -> PeerConfig {
        PeerConfig
    }
}
/// p
pub struct Peer;
impl Peer {
    /// s
    pub fn stop(&self) {}
}
impl Replication for Arc<Peer> {
    fn wake(&self) {}
    fn stats(&self) -> Vec<(String, String)> {
        vec![]
    }
    fn stats_replication(&self) -> Vec<(String, String)> {
        vec![]
    }
}
/// s
pub fn spawn(
    _c: PeerConfig,
    _s: Arc<Store>,
    _k: RealClock,
    f: Box<dyn Fn() + Send>,
) -> std::io::Result<Peer> {
    f();
    Ok(Peer)
}
