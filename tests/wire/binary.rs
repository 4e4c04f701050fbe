//! The same random binary requests to our connection code and to the real memcached: the same
//! answers, and the same counts at the end.
//!
//! Owns a generator of packets that likes edge cases (wrong lengths, quiet twins, keys that are
//! there and keys that are not, CAS uniques old and new), cuts what it sends anywhere, and compares
//! every byte of every answer. CAS uniques are each server's own: they are compared as a
//! one-to-one relation.

use crate::packet::opcode::{NOOP, STAT};
use crate::packet::{Packet, Side};
use crate::script::Link;
use crate::streams::Uniques;
use crate::Rng;

/// Steps of one conversation.
const STEPS: usize = 60;
/// A unique that nobody has.
const NOBODYS: u64 = u64::MAX - 7;

const UNKNOWN: [u8; 5] = [0x1f, 0x25, 0x30, 0x7f, 0xff];

/// Counters that both servers must agree on after a conversation.
const COUNTED: [&str; 20] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "cmd_meta",
    "get_hits",
    "get_misses",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "store_no_memory",
];

fn key(rng: &mut Rng) -> Vec<u8> {
    match rng.below(12) {
        0 if rng.below(8) == 0 => b"large".to_vec(),
        0 => vec![b'k'; 250],
        1 => b"with blank\r\n\0\xff".to_vec(),
        n => vec![b'a' + (n % 4) as u8],
    }
}

fn exptime(rng: &mut Rng) -> u32 {
    // The third has long passed, the last two are in the next century.
    [0, 100, 3_000_000, 0, 0, u32::MAX - 1, u32::MAX][rng.below(7)]
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let numbers: [&[u8]; 9] = [
        b"0",
        b"7",
        b"99",
        b"4611686018427387904",
        b"18446744073709551616",
        b"1-",
        b"12x",
        b"x",
        b"10 ",
    ];
    match rng.below(12) {
        n if n < numbers.len() => numbers[n].to_vec(),
        9 => b"\r\nVALUE\0\x80\x81".to_vec(),
        // Of long ones we know that they are no numbers, which memcached finds out later.
        10 => vec![b'v'; rng.below(9_000)],
        _ => vec![b'w'; rng.below(300)],
    }
}

/// A request whose lengths are right.
fn sound(rng: &mut Rng) -> Packet {
    let key = key(rng);
    let quiet = rng.below(3) == 0;
    let either = |loud: u8, other: u8| if quiet { other } else { loud };
    match rng.below(20) {
        0..=4 => {
            let which = rng.below(5);
            let which = [(1, 0x11), (1, 0x11), (1, 0x11), (2, 0x12), (3, 0x13)][which];
            let mut packet = Packet::new(either(which.0, which.1), &key);
            packet.extras = [0xdead_beef_u32, exptime(rng)].map(u32::to_be_bytes).concat();
            packet.value = value(rng);
            packet
        }
        5 | 6 => {
            let mut packet = Packet::new([0x0e, 0x0f, 0x19, 0x1a][rng.below(4)], &key);
            // Not the long ones: a number with a long tail of blanks is none to us.
            packet.value = value(rng);
            packet.value.truncate(300);
            packet
        }
        7..=9 => Packet::new([0x00, 0x09, 0x0c, 0x0d][rng.below(4)], &key),
        10 | 11 => {
            let mut packet = Packet::new([0x1c, 0x1d, 0x1e, 0x23, 0x24][rng.below(5)], &key);
            packet.extras = exptime(rng).to_be_bytes().to_vec();
            packet
        }
        12..=15 => {
            let mut packet = Packet::new([0x05, 0x06, 0x15, 0x16][rng.below(4)], &key);
            // No sum over 2^63: memcached looks for a minus sign behind the end of such a value.
            let delta = [0, 1, 10, 1 << 40][rng.below(4)];
            let initial = [0, 5, 1 << 62][rng.below(3)];
            packet.extras = [u64::to_be_bytes(delta), u64::to_be_bytes(initial)].concat();
            packet.extras.extend(exptime(rng).to_be_bytes());
            packet
        }
        16 | 17 => Packet::new(either(0x04, 0x14), &key),
        18 => {
            let mut packet = Packet::new(either(0x08, 0x18), b"");
            packet.extras = [&b""[..], &[0; 4]][rng.below(2)].to_vec();
            packet
        }
        _ => {
            let names: [&[u8]; 5] = [b"reset", b"nonsense", b"detail", b"items x", b"conns"];
            [Packet::new(STAT, names[rng.below(5)]), Packet::new(NOOP, b"")][rng.below(2)].clone()
        }
    }
}

/// A request, perhaps a damaged one.
fn packet(rng: &mut Rng) -> Packet {
    let mut packet = sound(rng);
    match rng.below(40) {
        // An unknown command swallows its body behind its key: whole packets, that both lose.
        0 => {
            packet = Packet::new(UNKNOWN[rng.below(5)], &[b'k'; 24][..24 * rng.below(2)]);
            packet.extras = vec![1; 24 * rng.below(2)];
            packet.value = vec![b'v'; rng.below(50)];
        }
        1 => packet.extras.push(0),
        2 => drop(packet.extras.pop()),
        3 if packet.opcode != STAT => packet.key = vec![b'k'; [0, 251, 300, 5000][rng.below(4)]],
        4 => packet.value = Packet::new(NOOP, b"").bytes(0),
        // A body shorter than its parts. (One of over 1 GB is refused by 1.6.45 only.)
        5 if packet.value.is_empty() => {
            let body = packet.extras.len() + packet.key.len();
            packet.longer = 0_u32.wrapping_sub(rng.below(body + 1) as u32);
        }
        // SASL is off.
        6 => packet = Packet::new([0x20, 0x21, 0x22][rng.below(3)], &[b'P'; 5][..rng.below(6)]),
        // Too large for -I, or nearly so.
        7 if rng.below(4) == 0 && !packet.value.is_empty() => {
            packet.key = b"large".to_vec();
            packet.value = vec![b'v'; (1 << 20) - rng.below(400)];
        }
        _ => {}
    }
    packet.opaque = rng.below(usize::MAX) as u32;
    packet
}

/// Numbers of one server that the conversation has moved.
fn counts(side: &mut Side<'_>) -> Result<Vec<(String, String)>, String> {
    let mark = u32::MAX;
    let end = Packet { opaque: mark, ..Packet::new(NOOP, b"") };
    side.send(&[Packet::new(STAT, b"").bytes(0), end.bytes(0)].concat(), &[])?;
    let mut rows = Vec::new();
    for answer in side.answers(mark)? {
        let (name, value) = answer.named();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if COUNTED.contains(&text(name).as_str()) {
            rows.push((text(name), text(value)));
        }
    }
    Ok(rows)
}

/// Holds one conversation with both servers, over connections that `open` opens anew when one was
/// closed. The error shows the first difference. `pair`: ours are two nodes, which count for
/// themselves.
pub fn converse(
    seed: u64,
    pair: bool,
    open: &mut dyn FnMut() -> (Box<dyn Link>, Box<dyn Link>),
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut uniques = Uniques::default();
    let (mut ours, mut real) = open();
    // What an unknown command swallows beyond its body.
    let padding = Packet::new(NOOP, b"");
    let mut batch = vec![Packet::new(0x08, b""), Packet::new(STAT, b"reset")];
    for step in 0..STEPS {
        let context = |error: String| format!("seed {seed}, step {step}: {error}");
        for packet in &mut batch {
            // memcached says of large values that they are no numbers before it compares uniques.
            if rng.below(4) == 0 && packet.key != b"large" {
                // The last one is nobody's.
                packet.cas = Some(rng.below(uniques.pairs.len() + 1));
            }
        }
        let mark = step as u32 | 0xfeed_0000;
        let end = Packet { opaque: mark, ..Packet::new(NOOP, b"") };
        let mut texts = [Vec::new(), Vec::new()];
        for packet in batch.iter().chain([&end]) {
            let nobody = (NOBODYS, NOBODYS);
            let pair = packet.cas.map(|i| *uniques.pairs.get(i).unwrap_or(&nobody));
            let (a, b) = pair.unwrap_or_default();
            texts[0].extend(packet.bytes(a));
            texts[1].extend(packet.bytes(b));
        }
        let mut cuts: Vec<usize> = (0..rng.below(6)).map(|_| rng.below(texts[0].len())).collect();
        cuts.sort_unstable();
        let ask = |link: &mut Box<dyn Link>, text: &[u8]| -> Result<_, String> {
            let mut side = Side::new(&mut **link);
            side.send(text, &cuts)?;
            let answers = side.answers(mark)?;
            Ok((answers, side.closed))
        };
        let (from_ours, closed) =
            ask(&mut ours, &texts[0]).map_err(|e| context(format!("ours: {e}; {batch:?}")))?;
        let (from_real, real_closed) =
            ask(&mut real, &texts[1]).map_err(|e| context(format!("real: {e}; {batch:?}")))?;
        let same = from_ours.len() == from_real.len()
            && from_ours
                .iter()
                .zip(&from_real)
                .all(|(a, b)| a.head == b.head && a.body == b.body && uniques.note(a.cas, b.cas));
        if !same || closed != real_closed {
            return Err(context(format!(
                "{batch:?}\n ours {from_ours:?} {closed}\n real {from_real:?} {real_closed}"
            )));
        }
        if closed {
            (ours, real) = open();
        }
        batch.clear();
        for _ in 0..1 + rng.below(4) {
            let next = packet(&mut rng);
            if matches!(next.opcode, 0x05 | 0x06 | 0x15 | 0x16) {
                // memcached does not write over a number that is still being sent.
                batch.push(padding.clone());
            }
            batch.push(next);
            if batch.last().is_some_and(|last| UNKNOWN.contains(&last.opcode)) {
                batch.extend([padding.clone(), padding.clone()]);
            }
        }
    }
    if pair {
        return Ok(());
    }
    let side = |link: &mut Box<dyn Link>| counts(&mut Side::new(&mut **link));
    let (a, b) = (side(&mut ours)?, side(&mut real)?);
    if a == b && a.len() == COUNTED.len() {
        return Ok(());
    }
    Err(format!("seed {seed}: counted\n ours {a:?}\n real {b:?}"))
}
