//! The native wire: frames, behind the opening line ([`line`](super::line)).
//!
//! Owns the byte layout between two twincached nodes and its limits. Never applies a frame, keeps
//! no state between frames, and never trusts a length before it has been checked.
//!
//! ```text
//! frame   +--------+------+--------+------------------+     all numbers little-endian
//!         | length | type | crc-32 | payload          |     length: of the payload, <= FRAME_MAX
//!         | u32    | u8   | u32    | `length` bytes   |     crc-32: over type, length and payload
//!         +--------+------+--------+------------------+
//! ```
//!
//! Neither side sends a frame before it has seen the other's line, so that a line is all that ever
//! reaches a peer of the old world. A frame of an unknown type is skipped, and bytes behind the
//! fields a frame is known to have are ignored: a newer minor version may add both. 1.1 has added
//! the attributes behind items, 1.2 the proofs of a secret, told items, and what meshes need: the
//! frames linked, unlinked and hope, and fields behind hello and want.

use super::line;
use crate::replication::secret::{Nonce, Proof};
use crate::replication::NodeId;
use crate::store::{Exptime, FlushState, Marks, PendingFlush, Version, KEY_MAX};
use std::fmt;

/// Bytes before a frame's payload.
pub const HEAD: usize = 9;
/// Longest payload. Small enough that a heartbeat never waits long behind a frame and that a
/// decoder needs little memory; large enough that per-frame costs do not show.
pub const FRAME_MAX: usize = 64 * 1024;
/// Values longer than this travel as a [`Frame::Large`] head and [`Frame::Part`]s.
pub const WHOLE_MAX: usize = 32 * 1024;
/// Value bytes in one [`Frame::Part`].
pub const PART: usize = 32 * 1024;
/// In a [`Frame::Hope`]: filled.
pub const HOPE_FILLED: u8 = 0;
/// In a [`Frame::Hope`]: most links between a node and the one it waits for. Cold nodes in a ring
/// count up to it and then know that none of them can be filled.
pub const HOPE_MAX: u8 = 16;
/// In a [`Frame::Hope`]: none.
pub const HOPE_NONE: u8 = 255;
/// Longest text of a [`Frame::Bye`].
pub const BYE_TEXT_MAX: usize = 200;

const _: () = assert!(WHOLE_MAX + KEY_MAX + ITEM_FIXED + ATTRIBUTES_MAX <= FRAME_MAX);
const _: () = assert!(PART <= FRAME_MAX);

/// Fields of an item frame before its key.
const ITEM_FIXED: usize = 8 + 4 + 4 + 4 + 1;

/// Attributes behind an item: a byte (the bits of [`Marks`] and [`ATTR_CAS`]), a CAS unique.
const ATTRIBUTES_MAX: usize = 1 + 8;
/// A CAS unique follows.
const ATTR_CAS: u8 = 0x80;

/// What one side says about itself, once, as its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it is: drawn at random when the process started.
    pub id: NodeId,
    /// The newest version it has made or seen.
    pub newest: Version,
    /// It has nothing yet and waits to be filled before it serves.
    pub cold: bool,
    /// Its wall clock, in microseconds since 1970: for the log, never for decisions.
    pub unix_us: u64,
    /// Its `flush_all` watermark.
    pub flush: FlushState,
    /// What a mesh needs; none from a peer of version 1.1 or older.
    pub mesh: Option<Mesh>,
}

/// What a hello says since 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// What it holds up to this version it has not made itself, and those it has that from are
    /// linked to the other side and tell it themselves. 0: it promises nothing.
    pub made: Version,
    /// Who filled it when it started.
    pub filler: Option<NodeId>,
    /// Whether it is filled or may yet be, see [`Frame::Hope`].
    pub hope: u8,
}

/// Why a side ends the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bye {
    /// The process ends.
    Stopping,
    /// It is linked to somebody else already.
    AlreadyConnected,
    /// There is another link between the same two nodes, and that one stays.
    Duplicate,
    /// Both ends of this link are the same node.
    Itself,
    /// It could not make sense of what it was sent.
    Protocol,
    /// The two ends do not know the same secret, or one of them has none. Since 1.2.
    Secret,
    /// It is being filled by another node, and takes one copy only: later. Since 1.2.
    Filling,
    /// A reason of a newer minor version.
    Other(u8),
}

impl Bye {
    fn code(self) -> u8 {
        match self {
            Bye::Stopping => 1,
            Bye::AlreadyConnected => 2,
            Bye::Duplicate => 3,
            Bye::Itself => 4,
            Bye::Protocol => 5,
            Bye::Secret => 6,
            Bye::Filling => 7,
            Bye::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Bye {
        match code {
            1 => Bye::Stopping,
            2 => Bye::AlreadyConnected,
            3 => Bye::Duplicate,
            4 => Bye::Itself,
            5 => Bye::Protocol,
            6 => Bye::Secret,
            7 => Bye::Filling,
            code => Bye::Other(code),
        }
    }
}

/// What an item frame says before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemHead<'a> {
    /// 1 to [`KEY_MAX`] bytes.
    pub key: &'a [u8],
    /// Of this state of the key.
    pub version: Version,
    /// The client's.
    pub flags: u32,
    /// Absolute.
    pub exptime: Exptime,
    /// The CAS unique, where that is not the version. Since 1.1.
    pub cas: Option<u64>,
    /// What meta commands have noted. Since 1.1.
    pub marks: Marks,
}

/// One frame. Borrows from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The first frame of each side.
    Hello(Hello),
    /// "Send me what you have above `since`" (0: everything), the answer to a hello.
    Want {
        /// What the asking side has already applied of the other's.
        since: Version,
        /// It has that not from the other side but by a copy from this node. Since 1.2.
        via: Option<NodeId>,
    },
    /// A copy begins, `full` when it is everything.
    CopyBegin {
        /// Everything, not only what is newer than what was asked for.
        full: bool,
        /// About how many items it has, for the other side's `stats`; 0: not known. Since 1.2.
        items: u64,
        /// The asking side has had everything of the sender's up to this version before: what of it
        /// is not there any more was deleted, evicted or has expired there. Since 1.2.
        agreed: Version,
    },
    /// The copy is complete; `items` were sent in it.
    CopyEnd {
        /// Items, without tombstones.
        items: u64,
    },
    /// A key has this value.
    Item {
        /// Everything but the value.
        head: ItemHead<'a>,
        /// At most [`WHOLE_MAX`] bytes when we send it.
        value: &'a [u8],
    },
    /// Small items as a writer of the sender has left them for its replication, see
    /// [`read_told`](crate::store::read_told): one head and one checksum for all. Since 1.2.
    Told(&'a [u8]),
    /// A key has a value of `len` bytes, which follows in [`Frame::Part`]s.
    Large {
        /// Everything but the value.
        head: ItemHead<'a>,
        /// Length of the whole value.
        len: u32,
    },
    /// The next bytes of the value announced last.
    Part(&'a [u8]),
    /// A key was deleted.
    Deleted {
        /// 1 to [`KEY_MAX`] bytes.
        key: &'a [u8],
        /// Of the delete.
        version: Version,
    },
    /// The sender's `flush_all` watermark has moved.
    Flush(FlushState),
    /// Everything the sender has made up to this version is before this frame.
    Mark {
        /// Acknowledged in [`Frame::Ack`].
        upto: Version,
    },
    /// Everything up to this mark is applied.
    Ack {
        /// The mark.
        upto: Version,
    },
    /// "I am here", when there is nothing else to say.
    Ping {
        /// The newest version the sender has made or seen.
        newest: Version,
    },
    /// "I am linked to that node." What comes from the sender need not be passed on to it. Since
    /// 1.2.
    Linked {
        /// The third node.
        node: NodeId,
        /// The sender has applied all that the node had to tell it up to here.
        have: Version,
        /// The node has applied all that the sender had to tell it up to here. 0: not known yet,
        /// so that the sender does not answer for it.
        told: Version,
    },
    /// "I do not answer for that node any more." Since 1.2.
    Unlinked {
        /// The third node.
        node: NodeId,
        /// It has what the sender had to tell it up to here.
        since: Version,
    },
    /// How far the sender is from being filled: 0: it is, and all it holds was sent before this
    /// frame; up to [`HOPE_MAX`]: so many links from a node that may yet be; else there is no hope
    /// there. Since 1.2.
    Hope(u8),
    /// The last frame of a side that ends the link on purpose.
    Bye {
        /// For the other side's decisions.
        reason: Bye,
        /// For its log.
        text: &'a [u8],
    },
    /// While the link lives: what to show on the next one. Before a hello: what was told. Since
    /// 1.2.
    Pass(Nonce),
    /// The sender knows the secret, see [`secret`](crate::replication::secret). Since 1.2.
    Proof(Proof),
    /// A frame of a newer minor version: skipped.
    Unknown(u8),
}

const HELLO: u8 = 1;
const WANT: u8 = 2;
const COPY_BEGIN: u8 = 3;
const COPY_END: u8 = 4;
const ITEM: u8 = 5;
const LARGE: u8 = 6;
const PARTS: u8 = 7;
const DELETED: u8 = 8;
const FLUSH: u8 = 9;
const MARK: u8 = 10;
const ACK: u8 = 11;
const PING: u8 = 12;
const BYE: u8 = 13;
const LINKED: u8 = 14;
const UNLINKED: u8 = 15;
const HOPE: u8 = 17;
const PROOF: u8 = 16;
const PASS: u8 = 18;
/// The type of [`Frame::Told`].
pub const TOLD: u8 = 19;

/// What is wrong with received bytes. It is always the peer (or the network) that is at fault: what
/// we send cannot fail to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// It did not open with our line.
    NotTwincached,
    /// Its line has another major version.
    OtherMajor(u32),
    /// Its line is ours, but damaged.
    BadLine,
    /// It announced a payload over [`FRAME_MAX`].
    TooLong {
        /// The frame's type.
        kind: u8,
        /// The length announced.
        len: u32,
    },
    /// The frame was damaged on its way.
    BadCrc {
        /// The frame's type, if that is right.
        kind: u8,
    },
    /// The frame is whole, but a field in it cannot be.
    BadField {
        /// The frame's type.
        kind: u8,
    },
    /// The frame is right, but not at this point of the conversation.
    OutOfPlace {
        /// What was wrong about it.
        what: &'static str,
    },
    /// A version that no clock can have made. To take it would move our versions beyond what other
    /// nodes believe; to pass over it, and acknowledge it, would leave the nodes different.
    Future,
}

impl fmt::Display for WireError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            WireError::NotTwincached => write!(out, "the peer does not open as a twincached"),
            WireError::OtherMajor(major) => {
                write!(out, "the peer speaks protocol version {major}, this node {}", line::MAJOR)
            }
            WireError::BadLine => write!(out, "the peer's opening line is damaged"),
            WireError::TooLong { kind, len } => {
                write!(out, "the peer announced {len} bytes in a frame of type {kind}")
            }
            WireError::BadCrc { kind } => {
                write!(out, "a frame of type {kind} from the peer arrived damaged (CRC-32)")
            }
            WireError::BadField { kind } => {
                write!(out, "the peer sent a frame of type {kind} with an impossible field")
            }
            WireError::OutOfPlace { what } => write!(out, "the peer sent {what}"),
            WireError::Future => {
                write!(
                    out,
                    "the peer sent a version from 50 years ahead: one of the clocks is wrong"
                )
            }
        }
    }
}

impl Frame<'_> {
    /// The highest version in it that would move the clock of who applies it.
    pub fn moves_clock_to(&self) -> Version {
        let flush = |flush: &FlushState| {
            flush.watermark.max(flush.pending.map_or(Version(0), |pending| pending.issued))
        };
        match self {
            Frame::Item { head, .. } | Frame::Large { head, .. } => head.version,
            Frame::Deleted { version, .. } => *version,
            Frame::Hello(hello) => flush(&hello.flush),
            Frame::Flush(state) => flush(state),
            _ => Version(0),
        }
    }
}

/// Appends one frame.
///
/// # Panics
/// Never for frames within the limits named in this file, which is what the session makes.
pub fn encode(out: &mut Vec<u8>, frame: &Frame<'_>) {
    let start = begin(out);
    let kind = match *frame {
        Frame::Hello(ref hello) => {
            out.extend_from_slice(&hello.id.0.to_le_bytes());
            put_u64(out, hello.newest.0);
            out.push(u8::from(hello.cold));
            put_u64(out, hello.unix_us);
            put_flush(out, hello.flush);
            if let Some(mesh) = &hello.mesh {
                put_u64(out, mesh.made.0);
                put_node(out, mesh.filler);
                out.push(mesh.hope);
            }
            HELLO
        }
        Frame::Want { since, via } => {
            put_u64(out, since.0);
            put_node(out, via);
            WANT
        }
        Frame::CopyBegin { full, items, agreed } => {
            out.push(u8::from(full));
            put_u64(out, items);
            put_u64(out, agreed.0);
            COPY_BEGIN
        }
        Frame::CopyEnd { items } => {
            put_u64(out, items);
            COPY_END
        }
        Frame::Item { ref head, value } => {
            put_head(out, head, value.len());
            out.extend_from_slice(value);
            put_attributes(out, head);
            ITEM
        }
        Frame::Told(bytes) => {
            out.extend_from_slice(bytes);
            TOLD
        }
        Frame::Large { ref head, len } => {
            put_head(out, head, len as usize);
            put_attributes(out, head);
            LARGE
        }
        Frame::Part(bytes) => {
            out.extend_from_slice(bytes);
            PARTS
        }
        Frame::Deleted { key, version } => {
            put_u64(out, version.0);
            out.push(key.len() as u8);
            out.extend_from_slice(key);
            DELETED
        }
        Frame::Flush(flush) => {
            put_flush(out, flush);
            FLUSH
        }
        Frame::Mark { upto } => put_version(out, upto, MARK),
        Frame::Ack { upto } => put_version(out, upto, ACK),
        Frame::Ping { newest } => put_version(out, newest, PING),
        Frame::Linked { node, have, told } => {
            put_node(out, Some(node));
            put_u64(out, have.0);
            put_version(out, told, LINKED)
        }
        Frame::Unlinked { node, since } => {
            put_node(out, Some(node));
            put_version(out, since, UNLINKED)
        }
        Frame::Hope(hope) => {
            out.push(hope);
            HOPE
        }
        Frame::Bye { reason, text } => {
            out.push(reason.code());
            out.extend_from_slice(&text[..text.len().min(BYE_TEXT_MAX)]);
            BYE
        }
        Frame::Pass(pass) => {
            out.extend_from_slice(&pass);
            PASS
        }
        Frame::Proof(proof) => {
            out.extend_from_slice(&proof);
            PROOF
        }
        Frame::Unknown(kind) => kind,
    };
    end(out, start, kind);
}

/// Appends an item frame whose value comes in pieces: saves joining them first.
pub fn encode_item<'v>(
    out: &mut Vec<u8>,
    head: &ItemHead<'_>,
    len: usize,
    value: impl Iterator<Item = &'v [u8]>,
) {
    let start = begin(out);
    put_head(out, head, len);
    for chunk in value {
        out.extend_from_slice(chunk);
    }
    put_attributes(out, head);
    end(out, start, ITEM);
}

/// Leaves room for a frame's head; returns where it is.
fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    start
}

/// Fills in the head of the frame that began at `start`.
fn end(out: &mut [u8], start: usize, kind: u8) {
    let len = (out.len() - start - HEAD) as u32;
    debug_assert!(len as usize <= FRAME_MAX, "we made a frame that no peer accepts");
    let crc = checksum(kind, len, &out[start + HEAD..]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4] = kind;
    out[start + 5..start + 9].copy_from_slice(&crc.to_le_bytes());
}

/// The payload first, so that the hasher works on one long run; then the head's fields.
fn checksum(kind: u8, len: u32, payload: &[u8]) -> u32 {
    let len = len.to_le_bytes();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind, len[0], len[1], len[2], len[3]]);
    hasher.update(payload);
    hasher.finalize()
}

fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

/// 0 is nobody: no process draws it.
fn put_node(out: &mut Vec<u8>, node: Option<NodeId>) {
    out.extend_from_slice(&node.map_or(0, |node| node.0).to_le_bytes());
}

fn put_version(out: &mut Vec<u8>, version: Version, kind: u8) -> u8 {
    put_u64(out, version.0);
    kind
}

fn put_head(out: &mut Vec<u8>, head: &ItemHead<'_>, len: usize) {
    put_u64(out, head.version.0);
    put_u32(out, head.flags);
    // 0 is never, as in memcached; a time of 0 is as past as a time of 1.
    put_u32(
        out,
        match head.exptime {
            Exptime::Never => 0,
            Exptime::At(at) => at.max(1),
        },
    );
    put_u32(out, len as u32);
    out.push(head.key.len() as u8);
    out.extend_from_slice(head.key);
}

/// Nothing for most items; a peer of version 1.0 ignores them.
fn put_attributes(out: &mut Vec<u8>, head: &ItemHead<'_>) {
    let bits = head.marks.bits() | if head.cas.is_some() { ATTR_CAS } else { 0 };
    if bits != 0 {
        out.push(bits);
        head.cas.iter().for_each(|&cas| put_u64(out, cas));
    }
}

fn put_flush(out: &mut Vec<u8>, flush: FlushState) {
    put_u64(out, flush.watermark.0);
    let (issued, at) = flush.pending.map_or((0, 0), |p| (p.issued.0, p.at.0));
    put_u64(out, issued);
    put_u64(out, at);
}

/// Reads one frame: it and how many bytes it took, or `None` while incomplete.
///
/// # Errors
/// The bytes are not a frame: nothing behind them can be trusted, the link must end.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    decode_up_to(bytes, u32::MAX)
}

/// As [`decode`], for a peer that has not shown yet that it is one: refuses a payload over `max`.
///
/// # Errors
/// As [`decode`].
pub fn decode_up_to(bytes: &[u8], max: u32) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let kind = head[4];
    if len as usize > FRAME_MAX || len > max {
        return Err(WireError::TooLong { kind, len });
    }
    let used = HEAD + len as usize;
    let Some(payload) = bytes.get(HEAD..used) else { return Ok(None) };
    let crc = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
    if checksum(kind, len, payload) != crc {
        return Err(WireError::BadCrc { kind });
    }
    match fields(kind, payload) {
        Some(frame) => Ok(Some((frame, used))),
        None => Err(WireError::BadField { kind }),
    }
}

/// Takes the payload apart; `None` when a field is missing or impossible.
fn fields(kind: u8, payload: &[u8]) -> Option<Frame<'_>> {
    let mut take = Take(payload);
    Some(match kind {
        HELLO => Frame::Hello(Hello {
            id: NodeId(u128::from_le_bytes(take.array()?)),
            newest: take.version()?,
            cold: take.u8()? & 1 == 1,
            unix_us: take.u64()?,
            flush: take.flush()?,
            mesh: take.mesh()?,
        }),
        WANT => Frame::Want { since: take.version()?, via: take.node().flatten() },
        COPY_BEGIN => {
            let full = take.u8()? & 1 == 1;
            // A node of 1.1 does not say.
            let items = take.u64().unwrap_or(0);
            Frame::CopyBegin { full, items, agreed: take.version().unwrap_or_default() }
        }
        COPY_END => Frame::CopyEnd { items: take.u64()? },
        ITEM => {
            let (mut head, len) = take.head()?;
            let value = take.bytes(len as usize)?;
            take.attributes(&mut head)?;
            Frame::Item { head, value }
        }
        LARGE => {
            let (mut head, len) = take.head()?;
            take.attributes(&mut head)?;
            Frame::Large { head, len }
        }
        PARTS => Frame::Part(payload),
        TOLD => Frame::Told(payload),
        DELETED => Frame::Deleted { version: take.version()?, key: take.key()? },
        FLUSH => Frame::Flush(take.flush()?),
        MARK => Frame::Mark { upto: take.version()? },
        ACK => Frame::Ack { upto: take.version()? },
        PING => Frame::Ping { newest: take.version()? },
        LINKED => {
            Frame::Linked { node: take.node()??, have: take.version()?, told: take.version()? }
        }
        UNLINKED => Frame::Unlinked { node: take.node()??, since: take.version()? },
        HOPE => Frame::Hope(take.u8()?),
        BYE => Frame::Bye { reason: Bye::from_code(take.u8()?), text: take.0 },
        PROOF => Frame::Proof(take.array()?),
        PASS => Frame::Pass(take.array()?),
        kind => Frame::Unknown(kind),
    })
}

/// What is left of a payload.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let bytes = self.0.get(..n)?;
        self.0 = &self.0[n..];
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// 63 bits: the top bit is spare, and a version that has it set would never be beaten.
    fn version(&mut self) -> Option<Version> {
        self.u64().filter(|bits| bits >> 63 == 0).map(Version)
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u8()?);
        if len == 0 || len > KEY_MAX {
            return None;
        }
        self.bytes(len)
    }

    fn head(&mut self) -> Option<(ItemHead<'a>, u32)> {
        let version = self.version()?;
        let flags = self.u32()?;
        let exptime = match self.u32()? {
            0 => Exptime::Never,
            at => Exptime::At(at),
        };
        let len = self.u32()?;
        let (key, cas, marks) = (self.key()?, None, Marks::default());
        Some((ItemHead { key, version, flags, exptime, cas, marks }, len))
    }

    /// What may be behind an item: a peer of version 1.0 sends none. `None` where they are cut off.
    fn attributes(&mut self, head: &mut ItemHead<'_>) -> Option<()> {
        let Some(bits) = self.u8() else { return Some(()) };
        head.marks = Marks::from_bits(bits);
        if bits & ATTR_CAS != 0 {
            head.cas = Some(self.u64()?);
        }
        Some(())
    }

    fn node(&mut self) -> Option<Option<NodeId>> {
        let id = u128::from_le_bytes(self.array()?);
        Some((id != 0).then_some(NodeId(id)))
    }

    /// A peer of version 1.1 sends none of it.
    fn mesh(&mut self) -> Option<Option<Mesh>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let (made, filler, hope) = (self.version()?, self.node()?, self.u8()?);
        Some(Some(Mesh { made, filler, hope }))
    }

    fn flush(&mut self) -> Option<FlushState> {
        let watermark = self.version()?;
        let pending = match (self.version()?, self.version()?) {
            (Version(0), _) => None,
            (issued, at) => Some(PendingFlush { issued, at }),
        };
        Some(FlushState { watermark, pending })
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
