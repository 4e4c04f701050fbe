//! The frame header of datagrams: requests come with one, every datagram of a reply gets one.
//!
//! ```text
//!   0-1 request id, the client's | 2-3 sequence number | 4-5 datagrams in the message | 6-7 zero
//!   8.. the same bytes as over TCP                            (all numbers big-endian)
//! ```
//!
//! Owns that layout and its limits. A request is one datagram, since nobody could wait for the
//! others; a reply may be many. Never looks into what is behind the header, and never allocates.

/// Bytes before the commands or replies in a datagram.
pub const HEADER: usize = 8;

/// Longest datagram that is sent: memcached's, which passes an Ethernet whole.
pub const DATAGRAM_MAX: usize = 1400;

/// Bytes of a reply in one datagram.
pub const PAYLOAD_MAX: usize = DATAGRAM_MAX - HEADER;

/// Longest reply whose datagrams the header can count.
pub const MESSAGE_MAX: usize = PAYLOAD_MAX * u16::MAX as usize;

/// Longest request that is read: no UDP datagram is longer.
pub const REQUEST_MAX: usize = 64 * 1024;

/// How error lines of a server begin.
const ERRORS: [&[u8]; 3] = [b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR"];

/// A request's id and commands. `None` for what is to be dropped without an answer: no header or
/// nothing behind it, a part of a longer message, or another server's error.
///
/// As in memcached, the sequence number and the last two bytes may be anything. The errors are
/// ours: two servers made to talk to each other by a forged sender would go on for ever, each
/// answering the other's error with its own.
pub fn request(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (header, commands) = datagram.split_first_chunk::<HEADER>()?;
    let [id_high, id_low, _, _, total_high, total_low, _, _] = *header;
    let whole = u16::from_be_bytes([total_high, total_low]) == 1;
    if !whole || commands.is_empty() || ERRORS.iter().any(|error| commands.starts_with(error)) {
        return None;
    }
    Some((u16::from_be_bytes([id_high, id_low]), commands))
}

/// How many datagrams a reply of `len` bytes takes, if the header can count them.
pub fn datagrams(len: usize) -> Option<u16> {
    u16::try_from(len.div_ceil(PAYLOAD_MAX)).ok()
}

/// Writes datagram number `sequence` of `message` to `out` and says how long it is. `None` behind
/// the last one, at once for an empty message.
pub fn datagram(
    id: u16,
    sequence: u16,
    message: &[u8],
    out: &mut [u8; DATAGRAM_MAX],
) -> Option<usize> {
    let rest = message.get(usize::from(sequence) * PAYLOAD_MAX..)?;
    let part = &rest[..rest.len().min(PAYLOAD_MAX)];
    if part.is_empty() {
        return None;
    }
    // Nobody hands in a longer message; the count of one would be the highest there is.
    let total = datagrams(message.len()).unwrap_or(u16::MAX);
    let (header, payload) = out.split_at_mut(HEADER);
    for (field, number) in header.chunks_exact_mut(2).zip([id, sequence, total, 0]) {
        field.copy_from_slice(&number.to_be_bytes());
    }
    payload[..part.len()].copy_from_slice(part);
    Some(HEADER + part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(total: u16, commands: &[u8]) -> Vec<u8> {
        let [high, low] = total.to_be_bytes();
        [&[0x12, 0x34, 9, 9, high, low, 7, 7][..], commands].concat()
    }

    #[test]
    fn a_request_is_one_datagram_with_something_in_it() {
        assert_eq!(request(&framed(1, b"get a\r\n")), Some((0x1234, &b"get a\r\n"[..])));
        assert_eq!(request(&framed(1, b"\n")), Some((0x1234, &b"\n"[..])));
        for total in [0, 2, 256, 257, u16::MAX] {
            assert_eq!(request(&framed(total, b"get a\r\n")), None, "of {total}");
        }
        let whole = framed(1, b"");
        for cut in 0..=whole.len() {
            assert_eq!(request(&whole[..cut]), None, "{cut} bytes");
        }
    }

    #[test]
    fn servers_do_not_answer_each_others_errors() {
        for error in ["ERROR\r\n", "CLIENT_ERROR bad data chunk\r\n", "SERVER_ERROR x\r\n"] {
            assert_eq!(request(&framed(1, error.as_bytes())), None);
        }
        assert!(request(&framed(1, b"ERR\r\n")).is_some());
    }

    #[test]
    fn replies_are_cut_where_a_datagram_is_full() {
        let mut out = [0; DATAGRAM_MAX];
        for (len, lengths) in [
            (0, &[][..]),
            (1, &[9]),
            (PAYLOAD_MAX, &[1400]),
            (PAYLOAD_MAX + 1, &[1400, 9]),
            (3 * PAYLOAD_MAX - 1, &[1400, 1400, 1399]),
        ] {
            let message: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let (mut joined, mut sequence) = (Vec::new(), 0);
            while let Some(n) = datagram(0xABCD, sequence, &message, &mut out) {
                let total = lengths.len() as u8;
                assert_eq!(out[..HEADER], [0xAB, 0xCD, 0, sequence as u8, 0, total, 0, 0]);
                assert_eq!(n, lengths[usize::from(sequence)]);
                joined.extend_from_slice(&out[HEADER..n]);
                sequence += 1;
            }
            assert_eq!((joined, usize::from(sequence)), (message, lengths.len()));
        }
    }

    #[test]
    fn the_header_counts_to_its_end_and_not_further() {
        assert_eq!(datagrams(0), Some(0));
        assert_eq!(datagrams(MESSAGE_MAX), Some(u16::MAX));
        assert_eq!(datagrams(MESSAGE_MAX + 1), None);
        let message = vec![1; MESSAGE_MAX];
        let mut out = [0; DATAGRAM_MAX];
        assert_eq!(datagram(1, u16::MAX - 1, &message, &mut out), Some(DATAGRAM_MAX));
        assert_eq!(out[2..6], [0xff, 0xfe, 0xff, 0xff]);
        assert_eq!(datagram(1, u16::MAX, &message, &mut out), None);
    }
}
