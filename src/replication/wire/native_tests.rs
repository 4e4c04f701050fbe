//! The wire, byte by byte.

use super::*;

const ID: NodeId = NodeId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

fn all_frames(value: &[u8]) -> Vec<Frame<'_>> {
    let head = ItemHead {
        key: b"key1",
        version: Version(7),
        flags: 9,
        exptime: Exptime::At(77),
        cas: None,
        marks: Marks::default(),
    };
    let marks = Marks { stale: true, won: false, binary_key: true };
    let pending = PendingFlush { issued: Version(3), at: Version(4) };
    vec![
        Frame::Hello(Hello {
            id: ID,
            newest: Version(5),
            cold: true,
            unix_us: 6,
            flush: FlushState { watermark: Version(2), pending: Some(pending) },
            mesh: Some(Mesh { made: Version(3), filler: Some(NodeId(9)), hope: 2 }),
        }),
        Frame::Want { since: Version(1), via: None },
        Frame::Want { since: Version(1), via: Some(NodeId(4)) },
        Frame::Linked { node: NodeId(5), have: Version(6), told: Version(7) },
        Frame::Unlinked { node: NodeId(5), since: Version(6) },
        Frame::Hope(HOPE_NONE),
        Frame::CopyBegin { full: true, items: 12, agreed: Version(7) },
        Frame::Item { head, value },
        Frame::Item { head: ItemHead { exptime: Exptime::Never, ..head }, value: b"" },
        Frame::Item { head: ItemHead { cas: Some(0), ..head }, value },
        Frame::Item { head: ItemHead { marks, ..head }, value: b"" },
        Frame::Large { head, len: 1 << 20 },
        Frame::Large { head: ItemHead { cas: Some(u64::MAX), marks, ..head }, len: 1 << 20 },
        Frame::Part(value),
        Frame::Told(value),
        Frame::Deleted { key: b"k", version: Version(8) },
        Frame::Flush(FlushState { watermark: Version(9), pending: None }),
        Frame::CopyEnd { items: 2 },
        Frame::Mark { upto: Version(10) },
        Frame::Ack { upto: Version(10) },
        Frame::Ping { newest: Version(11) },
        Frame::Proof([7; 32]),
        Frame::Pass([8; 16]),
        Frame::Unknown(200),
        Frame::Bye { reason: Bye::Stopping, text: b"so long" },
    ]
}

#[test]
fn frames_are_these_bytes() {
    let mut out = Vec::new();
    encode(&mut out, &Frame::Deleted { key: b"ab", version: Version(0x0102) });
    let payload = [2, 1, 0, 0, 0, 0, 0, 0, 2, b'a', b'b'];
    let crc = crc32fast::hash(&[&[8u8, 11, 0, 0, 0][..], &payload].concat());
    let expected = [&[11, 0, 0, 0, 8][..], &crc.to_le_bytes(), &payload].concat();
    assert_eq!(out, expected);
    out.clear();
    let head = ItemHead {
        key: b"k",
        version: Version(1),
        flags: 2,
        exptime: Exptime::Never,
        cas: None,
        marks: Marks::default(),
    };
    encode(&mut out, &Frame::Item { head, value: b"v" });
    let fields = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, b'k', b'v'];
    assert_eq!(out[HEAD..], fields);
    let whole = out.clone();
    out.clear();
    encode_item(&mut out, &head, 1, [&b"v"[..]].into_iter());
    assert_eq!(out, whole);
}

/// What a decoder of version 1.0 makes of an item's payload: the fields it knows, and no look at
/// what is behind them.
fn decoded_by_1_0(payload: &[u8]) -> (&[u8], &[u8], usize) {
    let len = u32::from_le_bytes([payload[16], payload[17], payload[18], payload[19]]) as usize;
    let key_end = ITEM_FIXED + usize::from(payload[20]);
    (&payload[ITEM_FIXED..key_end], &payload[key_end..key_end + len], key_end + len)
}

#[test]
fn attributes_are_behind_what_version_1_0_reads() {
    let marks = Marks { stale: true, won: true, binary_key: false };
    let plain = ItemHead {
        key: b"k",
        version: Version(1),
        flags: 2,
        exptime: Exptime::Never,
        cas: None,
        marks: Marks::default(),
    };
    for (head, behind) in [
        (plain, &[][..]),
        (ItemHead { marks, ..plain }, &[3]),
        (ItemHead { cas: Some(5), ..plain }, &[0x80, 5, 0, 0, 0, 0, 0, 0, 0]),
        (ItemHead { cas: Some(5), marks, ..plain }, &[0x83, 5, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let mut out = Vec::new();
        encode(&mut out, &Frame::Item { head, value: b"value" });
        let (key, value, end) = decoded_by_1_0(&out[HEAD..]);
        assert_eq!((key, value), (&b"k"[..], &b"value"[..]));
        assert_eq!(out[HEAD + end..], *behind);
        let whole = out.clone();
        out.clear();
        encode_item(&mut out, &head, 5, [&b"val"[..], b"ue"].into_iter());
        assert_eq!(out, whole);
        out.clear();
        encode(&mut out, &Frame::Large { head, len: 9 });
        assert_eq!(out[HEAD + ITEM_FIXED + 1..], *behind);
    }
}

#[test]
fn attributes_of_a_newer_version_are_skipped_and_half_of_one_is_refused() {
    let item = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, b'k', b'v'];
    let frame = |behind: &[u8]| {
        let mut wire = Vec::new();
        let start = begin(&mut wire);
        wire.extend_from_slice(&item);
        wire.extend_from_slice(behind);
        end(&mut wire, start, ITEM);
        wire
    };
    let wire = frame(&[0x71, 99, 99]);
    let Ok(Some((Frame::Item { head, value }, _))) = decode(&wire) else { panic!("{wire:?}") };
    assert_eq!((head.cas, head.marks, value), (None, Marks::from_bits(1), &b"v"[..]));
    assert_eq!(decode(&frame(&[0x80, 1, 2])), Err(WireError::BadField { kind: ITEM }));
}

#[test]
fn every_frame_survives_every_cut() {
    let value = vec![b'x'; 300];
    let frames = all_frames(&value);
    let mut wire = Vec::new();
    frames.iter().for_each(|frame| encode(&mut wire, frame));
    for step in [1, 2, 3, 7, 64, wire.len()] {
        let (mut seen, mut buffer) = (0, Vec::new());
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            let mut at = 0;
            while let Ok(Some((frame, used))) = decode(&buffer[at..]) {
                assert_eq!(frame, frames[seen], "in pieces of {step}");
                (seen, at) = (seen + 1, at + used);
            }
            assert!(decode(&buffer[at..]).is_ok());
            buffer.drain(..at);
        }
        assert_eq!((seen, buffer.len()), (frames.len(), 0), "in pieces of {step}");
    }
}

#[test]
fn a_damaged_frame_is_never_believed() {
    let value = vec![b'x'; 40];
    for frame in all_frames(&value) {
        let mut wire = Vec::new();
        encode(&mut wire, &frame);
        for at in 0..wire.len() {
            for bit in [1, 0x80] {
                let mut bad = wire.clone();
                bad[at] ^= bit;
                // A damaged length may also leave the frame incomplete.
                assert!(!matches!(decode(&bad), Ok(Some(_))), "{frame:?}, byte {at}");
            }
        }
    }
}

#[test]
fn impossible_fields_are_refused() {
    let mut long = vec![0; HEAD];
    long[..4].copy_from_slice(&(FRAME_MAX as u32 + 1).to_le_bytes());
    assert!(matches!(decode(&long), Err(WireError::TooLong { .. })));
    for (kind, payload) in [
        (WANT, &[0u8; 7][..]),                   // short
        (WANT, &[255; 8]),                       // the spare bit
        (DELETED, &[0, 0, 0, 0, 0, 0, 0, 0, 0]), // no key
        (DELETED, &[0, 0, 0, 0, 0, 0, 0, 0, 2]), // key cut off
        (HELLO, &[0; 20]),
        (BYE, &[]),
    ] {
        let mut wire = Vec::new();
        let start = begin(&mut wire);
        wire.extend_from_slice(payload);
        end(&mut wire, start, kind);
        assert_eq!(decode(&wire), Err(WireError::BadField { kind }));
    }
    // A field that a newer minor version appended is ignored.
    let mut wire = Vec::new();
    let start = begin(&mut wire);
    wire.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 99, 99]);
    end(&mut wire, start, ACK);
    assert_eq!(decode(&wire), Ok(Some((Frame::Ack { upto: Version(5) }, wire.len()))));
}
