//! Meta commands: their flags and keys on any bytes, and a connection on lines that are mostly
//! right.

use super::conn;
use twincached::protocol::meta::{encode_base64, BinaryKey, Key, Meta, Verb};

const VERBS: [Verb; 4] = [Verb::Get, Verb::Set, Verb::Delete, Verb::Arith];
/// Keys of the lines, some of them in base64, one of them not.
const KEYS: [&str; 8] = ["a", "b", "key", "YQ==", "Zm9v", "AAECA/8=", "YQ=", "Zm9v"];
/// Flags with what may stand behind them; numbers are added.
const FLAGS: &[u8] = b"bcfhklOqstvENRTICFSMJDxPLz";
const MODES: &[u8] = b"SAREPIDse+-x";

/// Reads `data` as flags and as a key; runs two connections over commands made of it.
pub fn run(data: &[u8]) {
    if let Some((key, flags)) = data.split_first_chunk::<8>() {
        for verb in VERBS {
            if let Ok(meta) = Meta::parse(verb, key, flags) {
                meta.words().for_each(drop);
            }
        }
    }
    if let Some(key) = BinaryKey::decode(data).map(Key::Binary) {
        let mut text = Vec::new();
        encode_base64(&mut text, key.as_bytes());
        let again = BinaryKey::decode(&text).map(Key::Binary);
        assert_eq!(again.as_ref().map(Key::as_bytes), Some(key.as_bytes()));
    }
    if let Some((seed, rest)) = super::seed(data) {
        conn::compare(seed, &lines(rest));
    }
}

/// `data` as command lines: a verb, a key, so many flags, and for `ms` a value.
fn lines(mut data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [verb, key, count, rest @ ..] = data {
        let (flags, behind) = rest.split_at(rest.len().min(2 * usize::from(count % 12)));
        data = behind;
        let verb = ["mg", "ms", "md", "ma", "me", "mn"][usize::from(verb % 6)];
        out.extend_from_slice(verb.as_bytes());
        if verb != "mn" {
            out.push(b' ');
            out.extend_from_slice(KEYS[usize::from(key % 8)].as_bytes());
        }
        let value = &behind[..behind.len().min(usize::from(key >> 3))];
        if verb == "ms" {
            out.extend_from_slice(format!(" {}", value.len()).as_bytes());
        }
        for flag in flags.chunks_exact(2) {
            flag_word(&mut out, flag[0], flag[1]);
        }
        out.extend_from_slice(b"\r\n");
        if verb == "ms" {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

/// One flag, with a token where it takes one, and sometimes where it does not.
fn flag_word(out: &mut Vec<u8>, flag: u8, token: u8) {
    let flag = FLAGS[usize::from(flag) % FLAGS.len()];
    out.extend([b' ', flag]);
    match flag {
        b'M' => out.push(MODES[usize::from(token) % MODES.len()]),
        b'E' | b'C' | b'N' | b'R' | b'T' | b'J' | b'D' | b'F' | b'S' => {
            let number = [0, 1, -1, 30, 100_000, 1 << 31, i64::MAX, i64::from(token)];
            out.extend_from_slice(number[usize::from(token % 8)].to_string().as_bytes());
        }
        b'O' | b'L' | b'P' => out.extend(std::iter::repeat_n(b'o', usize::from(token % 40))),
        _ if token > 250 => out.push(token),
        _ => {}
    }
}
