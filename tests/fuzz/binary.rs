//! The binary protocol: the parser on any bytes, and a connection on packets that are mostly right.

use super::conn;
use twincached::protocol::binary::{self, Framed};

/// Bytes that are tried one by one as the end of the input.
const CUTS: usize = 64;

/// Runs the parser over `data`, and two connections over packets made of it.
pub fn run(data: &[u8]) {
    let whole = binary::parse(data);
    for cut in 0..data.len().min(CUTS) {
        let part = binary::parse(&data[..cut]);
        assert!(part == Framed::Incomplete || part == whole, "cut at {cut}");
    }
    if let Framed::Frame(frame) = whole {
        assert!(frame.used <= data.len());
        let _ = frame.check().and_then(|()| frame.request().map(drop));
    }
    if let Some((seed, rest)) = super::seed(data) {
        conn::compare(seed, &packets(rest));
    }
}

/// `data` as packets: a fuzzer finds the commands sooner when the lengths are right.
fn packets(mut data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [opcode, shape, key, value, cas, rest @ ..] = data {
        // Bit 7 of the opcode leaves it as it is; else it is one that exists.
        let opcode = if opcode & 0x80 == 0 { opcode % 0x26 } else { *opcode };
        let extras = match shape % 8 {
            0 => 0,
            1 | 2 => 8,
            3 => 20,
            4 => 4,
            _ => usize::from(*shape % 25),
        };
        let key = if *key < 250 { usize::from(*key % 4) } else { usize::from(*key) };
        let value = usize::from(*value) << (shape >> 6);
        let len = (extras + key + value).min(rest.len());
        let (body, behind) = rest.split_at(len);
        data = behind;
        out.extend([binary::REQUEST, opcode, 0, key as u8, extras as u8, 0, 0, 0]);
        out.extend((len as u32).to_be_bytes());
        out.extend([1, 2, 3, 4]);
        out.extend(u64::from(*cas % 4).to_be_bytes());
        out.extend_from_slice(body);
    }
    out
}
