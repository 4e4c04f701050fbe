//! The shared secret: how two nodes show each other that they know it, without saying it.
//!
//! ```text
//!   connector                                   listener
//!     line: id C, nonce c          ->
//!                                  <-           line: id L, nonce l
//!     HMAC("connector", C L c l)   ->           checks it: a stranger learns nothing to work on
//!                                  <-           HMAC("listener", C L c l)
//!     checks it
//! ```
//!
//! Owns the proofs (HMAC-SHA-256) and the order in which they are given. Both ids and both nonces
//! are in both proofs, so that none is of use on another link or at another time; and each end has
//! its own word in its proof, so that none can be sent back to who made it. What travels after the
//! proofs is neither encrypted nor signed: whoever can change packets under way can take over a
//! link that was made. Never reads a file, never draws a random number, never shows the secret.

use super::{NodeId, Role};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::sync::Arc;

/// Bytes of a nonce: no two links of a node will ever share one.
pub const NONCE_LEN: usize = 16;
/// Bytes of a proof.
pub const PROOF_LEN: usize = 32;

/// What one end adds to the challenge.
pub type Nonce = [u8; NONCE_LEN];
/// What shows that its maker knows the secret.
pub type Proof = [u8; PROOF_LEN];

/// What all nodes of a cluster know, and nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Of any length; `None` where it is empty.
    pub fn new(bytes: Vec<u8>) -> Option<Secret> {
        (!bytes.is_empty()).then_some(Secret(bytes))
    }

    /// HMAC-SHA-256 over the parts, each of which has a fixed length or is the first.
    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // A key of any length is one: longer ones are hashed first.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0)
            .unwrap_or_else(|_| <Hmac<Sha256> as Mac>::new(&Default::default()));
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

/// Never shows it: settings are printed.
impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// What the opening line of one end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Who it says it is.
    pub id: NodeId,
    /// Its part of the challenge.
    pub nonce: Nonce,
}

fn mac(secret: &Secret, prover: Role, connector: End, listener: End) -> Hmac<Sha256> {
    let name: &[u8] = match prover {
        Role::Connector => b"twincached connector",
        Role::Listener => b"twincached listener",
    };
    let ids = [connector.id.0.to_be_bytes(), listener.id.0.to_be_bytes()];
    secret.mac(&[name, &ids[0], &ids[1], &connector.nonce, &listener.nonce])
}

/// The proof that `prover` gives.
pub fn proof(secret: &Secret, prover: Role, connector: End, listener: End) -> Proof {
    mac(secret, prover, connector, listener).finalize().into_bytes().into()
}

/// Whether a proof is the one that `prover` would give. Takes the same time whichever byte is
/// wrong.
pub fn proves(secret: &Secret, prover: Role, connector: End, listener: End, proof: &Proof) -> bool {
    mac(secret, prover, connector, listener).verify_slice(proof).is_ok()
}

/// Where a process has its nonces from: a key of true randomness, and a count.
#[derive(Clone)]
pub struct Nonces {
    key: Secret,
    made: u64,
}

impl Nonces {
    /// `key`: 32 bytes that nobody can guess, drawn at the start of the process.
    pub fn new(key: [u8; 32]) -> Nonces {
        Nonces { key: Secret(key.to_vec()), made: 0 }
    }

    /// One that was never given before, and that nobody can tell beforehand.
    pub fn draw(&mut self) -> Nonce {
        self.made += 1;
        let mac = self.key.mac(&[b"twincached nonce", &self.made.to_be_bytes()]);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&mac.finalize().into_bytes()[..NONCE_LEN]);
        nonce
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Nonces({})", self.made)
    }
}

/// Why two ends do not trust each other. Shown in the log and in `stats` of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The peer's line has no nonce.
    PeerHasNone,
    /// The peer's line has one, and we have no secret.
    WeHaveNone,
    /// The peer's proof is wrong, or it says that ours is.
    Differ,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Mismatch::PeerHasNone => {
                "the peer has no secret, and this node asks for one (-o repl_secret_file)"
            }
            Mismatch::WeHaveNone => {
                "the peer asks for a secret, and this node has none (-o repl_secret_file)"
            }
            Mismatch::Differ => "the peer has another secret (-o repl_secret_file)",
        })
    }
}

/// The secret's part in one link.
#[derive(Clone, Debug)]
pub struct Gate {
    secret: Arc<Secret>,
    role: Role,
    ours: End,
    theirs: Option<End>,
}

impl Gate {
    /// `role` and `ours`: of this end.
    pub fn new(secret: Arc<Secret>, role: Role, ours: End) -> Gate {
        Gate { secret, role, ours, theirs: None }
    }

    /// The nonce of our line.
    pub fn nonce(&self) -> Nonce {
        self.ours.nonce
    }

    /// Takes in the peer's line.
    pub fn claims(&mut self, theirs: End) {
        self.theirs = Some(theirs);
    }

    /// Connector and listener, once the peer's line has come.
    fn ends(&self) -> Option<(End, End)> {
        let theirs = self.theirs?;
        Some(match self.role {
            Role::Connector => (self.ours, theirs),
            Role::Listener => (theirs, self.ours),
        })
    }

    /// Our proof; `None` before the peer's line.
    pub fn proof(&self) -> Option<Proof> {
        let (connector, listener) = self.ends()?;
        Some(proof(&self.secret, self.role, connector, listener))
    }

    /// Who the peer is, if this is its proof.
    pub fn check(&self, proof: &Proof) -> Option<NodeId> {
        let (connector, listener) = self.ends()?;
        let other = match self.role {
            Role::Connector => Role::Listener,
            Role::Listener => Role::Connector,
        };
        let right = proves(&self.secret, other, connector, listener, proof);
        self.theirs.filter(|_| right).map(|theirs| theirs.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    fn end(n: u8) -> End {
        End { id: NodeId(u128::from(n)), nonce: [n; NONCE_LEN] }
    }

    #[test]
    fn the_mac_is_hmac_sha_256() {
        // RFC 4231, test cases 1, 2 and 6 (a key longer than a block).
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let long_text: &[u8] = b"Test Using Larger Than Block-Size Key - Hash Key First";
        for (key, data, expected) in [
            (
                vec![0x0b; 20],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                long_text,
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            let mac = Secret(key).mac(&[data]).finalize().into_bytes();
            assert_eq!(hex(&mac), expected);
        }
    }

    #[test]
    fn a_proof_is_good_for_one_prover_one_link_and_one_secret() {
        let ours = secret("s");
        let right = proof(&ours, Role::Connector, end(1), end(2));
        assert!(proves(&ours, Role::Connector, end(1), end(2), &right));
        assert!(!proves(&secret("t"), Role::Connector, end(1), end(2), &right));
        assert!(!proves(&ours, Role::Listener, end(1), end(2), &right), "reflected");
        assert!(!proves(&ours, Role::Connector, end(2), end(1), &right), "roles swapped");
        for (id, nonce) in [(9, 1), (1, 9)] {
            let other = End { id: NodeId(id), nonce: [nonce; NONCE_LEN] };
            assert!(!proves(&ours, Role::Connector, other, end(2), &right), "another connector");
            assert!(!proves(&ours, Role::Connector, end(2), other, &right), "another listener");
        }
        for at in 0..PROOF_LEN {
            let mut wrong = right;
            wrong[at] ^= 1;
            assert!(!proves(&ours, Role::Connector, end(1), end(2), &wrong), "byte {at}");
        }
    }

    #[test]
    fn nonces_never_repeat_and_differ_between_processes() {
        let mut seen = std::collections::BTreeSet::new();
        for key in 0..4 {
            let mut nonces = Nonces::new([key; 32]);
            assert!((0..100).all(|_| seen.insert(nonces.draw())));
        }
    }

    #[test]
    fn nothing_prints_the_secret() {
        let gate = Gate::new(Arc::new(secret("hunter2")), Role::Listener, end(1));
        assert!(!format!("{gate:?} {:?}", Nonces::new([7; 32])).contains("hunter2"));
        assert!(!format!("{gate:?}").contains("104, 117"), "not as numbers, either");
        assert_eq!(Secret::new(Vec::new()), None);
        assert_eq!((gate.proof(), gate.check(&[0; PROOF_LEN])), (None, None), "before a line");
    }
}

#[cfg(test)]
#[path = "secret_tests.rs"]
mod two_sessions;
