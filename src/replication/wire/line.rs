//! The line of text that opens every link.
//!
//! ```text
//!   twincached replication 1.2 <node id>[ auth=<nonce>]\r\n
//!                          |   |               `- 32 hexadecimal digits, where there is a secret
//!                          |   `- 32 hexadecimal digits
//!                          `- protocol, major.minor
//! ```
//!
//! Owns its form. A real repcached ignores a line it does not know, and whoever does not open with
//! this line is not a twincached. Another major version is refused; words that a newer minor
//! version appends are skipped. Never decides whether the nonce is enough: [`secret`] does.
//!
//! [`secret`]: crate::replication::secret

use super::native::WireError;
use crate::base::num;
use crate::replication::secret::{Nonce, NONCE_LEN};
use crate::replication::NodeId;

/// Opens every link.
pub const MAGIC: &[u8] = b"twincached replication ";
/// Peers of another major version are refused.
pub const MAJOR: u32 = 1;
/// Peers of another minor version are understood: they skip what they do not know.
pub const MINOR: u32 = 2;
/// Longest opening line, its end included: room for what later minor versions append to it, and
/// little enough that a stranger cannot make us hold much.
pub const LINE_MAX: usize = 256;
/// In frames it stands for no node, so that others could not be told of one that has it: they would
/// take the frame for damaged, and end the link to who sends it.
const NOBODY: NodeId = NodeId(0);
/// Before the nonce.
const AUTH: &[u8] = b"auth=";

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who the sender says it is.
    pub id: NodeId,
    /// Its part of the challenge: it has a secret. Since 1.2.
    pub nonce: Option<Nonce>,
}

/// Appends the opening line.
pub fn encode(out: &mut Vec<u8>, line: &Line) {
    out.extend_from_slice(MAGIC);
    num::push_u64(out, u64::from(MAJOR));
    out.push(b'.');
    num::push_u64(out, u64::from(MINOR));
    out.extend_from_slice(format!(" {}", line.id).as_bytes());
    if let Some(nonce) = line.nonce {
        out.push(b' ');
        out.extend_from_slice(AUTH);
        out.extend_from_slice(format!("{:032x}", u128::from_be_bytes(nonce)).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Reads the opening line: it and how many bytes it took, or `None` while incomplete.
///
/// # Errors
/// As soon as the bytes cannot become such a line any more, not only at its end.
pub fn decode(bytes: &[u8]) -> Result<Option<(Line, usize)>, WireError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(WireError::NotTwincached);
    }
    let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE_MAX)]) else {
        return if bytes.len() >= LINE_MAX { Err(WireError::BadLine) } else { Ok(None) };
    };
    let line = bytes[MAGIC.len()..end].strip_suffix(b"\r").ok_or(WireError::BadLine)?;
    let mut words = line.split(|&byte| byte == b' ');
    let mut version = words.next().unwrap_or_default().split(|&byte| byte == b'.');
    let major = version.next().and_then(num::parse_u32).ok_or(WireError::BadLine)?;
    if major != MAJOR {
        return Err(WireError::OtherMajor(major));
    }
    let id = words.next().and_then(NodeId::parse).filter(|&id| id != NOBODY);
    let id = id.ok_or(WireError::BadLine)?;
    let nonce = match words.find_map(|word| word.strip_prefix(AUTH)) {
        Some(digits) => Some(parse_nonce(digits).ok_or(WireError::BadLine)?),
        None => None,
    };
    Ok(Some((Line { id, nonce }, end + 1)))
}

/// A nonce has the form of a node id.
fn parse_nonce(digits: &[u8]) -> Option<Nonce> {
    const { assert!(NONCE_LEN == 16) };
    NodeId::parse(digits).map(|NodeId(number)| number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: NodeId = NodeId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    const NONCE: Nonce = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];

    #[test]
    fn the_line_is_text_that_an_old_peer_ignores() {
        let plain: &[u8] = b"twincached replication 1.2 0123456789abcdef0011223344556677\r\n";
        let auth: &[u8] = b"twincached replication 1.2 0123456789abcdef0011223344556677 \
            auth=000102030405060708090a0b0c0d0eff\r\n";
        for (nonce, expected) in [(None, plain), (Some(NONCE), auth)] {
            let mut bytes = Vec::new();
            let line = Line { id: ID, nonce };
            encode(&mut bytes, &line);
            assert_eq!(bytes, expected);
            assert!(bytes.len() <= LINE_MAX);
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
            assert_eq!(decode(&bytes), Ok(Some((line, bytes.len()))));
        }
    }

    #[test]
    fn words_of_newer_versions_are_skipped() {
        let text = "twincached replication 1.7 0123456789abcdef0011223344556677 more words";
        let newer = format!("{text}\r\n");
        let line = Line { id: ID, nonce: None };
        assert_eq!(decode(newer.as_bytes()), Ok(Some((line, newer.len()))));
        let newer = format!("{text} auth=000102030405060708090a0b0c0d0eff more\r\n");
        let line = Line { id: ID, nonce: Some(NONCE) };
        assert_eq!(decode(newer.as_bytes()), Ok(Some((line, newer.len()))));
    }

    #[test]
    fn other_openings_are_refused_as_early_as_possible() {
        assert_eq!(decode(b"rep key"), Err(WireError::NotTwincached));
        assert_eq!(decode(b"tw1"), Err(WireError::NotTwincached));
        let other = b"twincached replication 2.0 whatever comes\r\n";
        assert_eq!(decode(other), Err(WireError::OtherMajor(2)));
        assert_eq!(decode(b"twincached replication 1.0 xyz\r\n"), Err(WireError::BadLine));
        let nobody = format!("twincached replication 1.2 {NOBODY}\r\n");
        assert_eq!(decode(nobody.as_bytes()), Err(WireError::BadLine));
        let endless = [MAGIC, &[b'1'; LINE_MAX]].concat();
        assert_eq!(decode(&endless), Err(WireError::BadLine));
        for nonce in
            ["", "12", "000102030405060708090a0b0c0d0e0g", "+00102030405060708090a0b0c0d0e0f"]
        {
            let line = format!("twincached replication 1.2 {ID} auth={nonce}\r\n");
            assert_eq!(decode(line.as_bytes()), Err(WireError::BadLine), "{line}");
        }
    }
}
