//! Responses of the binary protocol.
//!
//! Owns their layout. Every function appends one packet; none of them can fail.

use super::{opcode, Head, Status, HEADER, RESPONSE};

/// Lengths of what follows a response's header.
#[derive(Clone, Copy, Debug, Default)]
struct Lens {
    extras: u8,
    key: usize,
    value: usize,
}

/// Appends a header. Keys are at most 250 bytes and values at most 1 GB, so that the lengths fit.
fn header(out: &mut Vec<u8>, head: &Head, status: Status, lens: Lens, cas: u64) {
    let key = u16::try_from(lens.key).unwrap_or(u16::MAX);
    let body = usize::from(lens.extras) + usize::from(key) + lens.value;
    let body = u32::try_from(body).unwrap_or(u32::MAX);
    let mut bytes = [0; HEADER];
    bytes[0] = RESPONSE;
    bytes[1] = head.opcode;
    bytes[2..4].copy_from_slice(&key.to_be_bytes());
    bytes[4] = lens.extras;
    bytes[6..8].copy_from_slice(&(status as u16).to_be_bytes());
    bytes[8..12].copy_from_slice(&body.to_be_bytes());
    bytes[12..16].copy_from_slice(&head.opaque);
    bytes[16..24].copy_from_slice(&cas.to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// Success and nothing else; `cas` is the item's new unique, 0 where there is none.
pub fn done(out: &mut Vec<u8>, head: &Head, cas: u64) {
    header(out, head, Status::Success, Lens::default(), cas);
}

/// Success with a text.
pub fn text(out: &mut Vec<u8>, head: &Head, text: &[u8]) {
    header(out, head, Status::Success, Lens { value: text.len(), ..Lens::default() }, 0);
    out.extend_from_slice(text);
}

/// Failure with its own words.
pub fn error(out: &mut Vec<u8>, head: &Head, status: Status, text: &[u8]) {
    header(out, head, status, Lens { value: text.len(), ..Lens::default() }, 0);
    out.extend_from_slice(text);
}

/// The miss of a get that wants the key back: the key takes the place of the words.
pub fn missed_key(out: &mut Vec<u8>, head: &Head, key: &[u8]) {
    header(out, head, Status::NotFound, Lens { key: key.len(), ..Lens::default() }, 0);
    out.extend_from_slice(key);
}

/// The hit of a get (`key` is empty unless it is wanted back), up to the value, which the caller
/// appends; of a touch with a `len` of 0.
pub fn hit(out: &mut Vec<u8>, head: &Head, flags: u32, key: &[u8], len: usize, cas: u64) {
    header(out, head, Status::Success, Lens { extras: 4, key: key.len(), value: len }, cas);
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(key);
}

/// The number of an increment or decrement.
pub fn number(out: &mut Vec<u8>, head: &Head, value: u64, cas: u64) {
    header(out, head, Status::Success, Lens { value: 8, ..Lens::default() }, cas);
    out.extend_from_slice(&value.to_be_bytes());
}

/// One statistic. An empty name with an empty value ends the list.
pub fn stat(out: &mut Vec<u8>, head: &Head, name: &[u8], value: &[u8]) {
    let head = Head { opcode: opcode::STAT, ..*head };
    let lens = Lens { key: name.len(), value: value.len(), ..Lens::default() };
    header(out, &head, Status::Success, lens, 0);
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}
