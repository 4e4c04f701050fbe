//! What clients do: operations of all dialects, at random.
//!
//! Owns one operation on one store; knows no world. The binary dialect has no operation of its own:
//! all of them come to these.

use twincached::base::clock::Now;
use twincached::store::{ArithTerms, DeleteTerms, Exptime, GetTerms, Handle, Mode, Terms};

/// A time to live that outlasts every history.
pub const LONG_SECS: u32 = 1_000_000;

/// What an operation is made from.
#[derive(Debug, Clone, Copy)]
pub struct Dice {
    /// Which operation, below 100.
    pub what: u64,
    /// Everything else about it.
    pub random: u64,
    /// The time that no clock is wrong about.
    pub true_secs: u32,
    /// Longest value.
    pub large: usize,
}

/// One operation on `key`.
pub fn operation(handle: &mut Handle, key: &[u8], dice: Dice, now: Now) {
    let Dice { what, random, true_secs, large } = dice;
    let secs = now.unix_secs();
    let exptime = match random % 6 {
        0 => Exptime::At(secs + 1 + (random >> 8) as u32 % 20),
        1 => Exptime::At(true_secs + LONG_SECS + (random >> 8) as u32 % 1000),
        _ => Exptime::Never,
    };
    let flags = (random >> 20) as u32;
    let len = if random % 50 == 0 { large } else { (random >> 4) as usize % 40 };
    let value = vec![b'a' + (random % 26) as u8; len];
    let mut store = |mode| handle.store(mode, key, flags, exptime, &value, now);
    match what {
        0..=19 => drop(store(Mode::Set)),
        20..=39 => meta(handle, key, what, random, exptime, &value, now),
        40..=44 => drop(store(Mode::Add)),
        45..=49 => drop(store(Mode::Replace)),
        50..=54 => drop(store(Mode::Append)),
        55..=57 => drop(store(Mode::Prepend)),
        58..=62 => {
            let cas = handle.get(key, now, |item| item.cas);
            let mode = Mode::Cas(cas.unwrap_or_default());
            handle.store(mode, key, flags, exptime, &value, now);
        }
        63..=70 => {
            handle.store(Mode::Add, key, 0, Exptime::Never, b"5", now);
            handle.arith(key, random % 3 > 0, random % 100, now);
        }
        71..=78 => drop(handle.touch(key, exptime, now)),
        79..=96 => drop(handle.delete(key, now)),
        97 => handle.flush_all(None, now),
        98 => handle.flush_all(Some(secs + (random >> 8) as u32 % 20), now),
        _ => handle.flush_all(Some(secs.saturating_sub(1)), now),
    }
}

/// What only meta commands do.
fn meta(
    handle: &mut Handle,
    key: &[u8],
    what: u64,
    random: u64,
    exptime: Exptime,
    value: &[u8],
    now: Now,
) {
    let bit = |n: u64| random >> n & 1 == 1;
    let cas = bit(30).then_some(random >> 40);
    let binary_key = bit(31);
    match what {
        20..=24 => {
            let terms = Terms { cas, binary_key, ..Terms::default() };
            handle.store_with(Mode::Set, key, 0, exptime, value, &terms, now);
        }
        25 | 26 => {
            // Often with a unique that is out of date.
            let seen = handle.peek(key, now, |item| item.cas).unwrap_or(1);
            let mode = Mode::Cas(seen.saturating_sub(random >> 60));
            let terms = Terms { stale_if_older: true, cas, ..Terms::default() };
            handle.store_with(mode, key, 1, exptime, value, &terms, now);
        }
        27..=31 => {
            let terms = GetTerms {
                touch: bit(32).then_some(exptime),
                vivify: bit(33).then_some(exptime),
                recache: bit(34).then_some(now.unix_secs() + 10),
                no_update: bit(35),
                cas,
                ..GetTerms::default()
            };
            handle.meta_get(key, &terms, now, |_, _| ());
        }
        32..=36 => {
            let remove_value = bit(32);
            let exptime = bit(33).then_some(exptime);
            let terms =
                DeleteTerms { stale: true, exptime, remove_value, cas, ..DeleteTerms::default() };
            handle.delete_with(key, &terms, now);
        }
        _ => {
            let vivify = Some((exptime, random >> 58));
            let touch = bit(32).then_some(exptime);
            let terms = ArithTerms { vivify, touch, cas, binary_key, ..ArithTerms::default() };
            handle.arith_with(key, true, 1, &terms, now);
        }
    }
}
