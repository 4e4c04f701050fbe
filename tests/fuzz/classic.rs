//! The classic text protocol in both directions, and the meta lines within it.
//!
//! A parser must not change its mind: what it made of a part of the input it makes of the whole.
//! What it accepts can be written again and then means the same.

use twincached::protocol::classic::{self, encode, LINE_MAX};
use twincached::protocol::{Parsed, Request};

/// Bytes that are tried one by one as the end of the input.
const CUTS: usize = 32;

/// Runs both parsers over `data`.
pub fn run(data: &[u8]) {
    requests(data);
    replies(data);
    let _ = classic::parse_more_keys(data);
}

fn requests(mut data: &[u8]) {
    loop {
        let whole = classic::parse(data);
        // A longer input may be refused for a line that a shorter one waits for.
        let line = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
        if line < LINE_MAX {
            for cut in 0..data.len().min(CUTS) {
                let part = classic::parse(&data[..cut]);
                assert!(part == Parsed::Incomplete || part == whole, "cut at {cut}");
            }
        }
        let used = match whole {
            Parsed::Incomplete => return,
            Parsed::Reject { used, .. } => used,
            Parsed::Done { value, used } => {
                written_again(&value);
                match value {
                    Request::Store(head) => {
                        let _ = classic::parse_data(&data[used..], head.len);
                    }
                    Request::Get { keys, .. } => keys.for_each(drop),
                    _ => {}
                }
                used
            }
        };
        assert!(0 < used && used <= data.len(), "{used} of {}", data.len());
        data = &data[used..];
    }
}

/// What was understood means the same when it is written as a proxy writes it.
fn written_again(request: &Request<'_>) {
    let mut line = Vec::new();
    match request {
        Request::Store(head) => encode::store_head(&mut line, head),
        // Its keys may be bad, or go on behind the line.
        Request::Get { .. } => return,
        other => encode::request(&mut line, other),
    }
    if line.is_empty() || line.len() > LINE_MAX {
        return;
    }
    match classic::parse(&line) {
        Parsed::Done { value, used } => {
            assert_eq!((&value, used), (request, line.len()), "{:?}", line.escape_ascii());
        }
        other => panic!("{:?} became {other:?}", line.escape_ascii()),
    }
}

fn replies(mut data: &[u8]) {
    loop {
        let whole = classic::parse_reply(data);
        let line = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
        if line < LINE_MAX {
            for cut in 0..data.len().min(CUTS) {
                let part = classic::parse_reply(&data[..cut]);
                assert!(part == Parsed::Incomplete || part == whole, "cut at {cut}");
            }
        }
        let (Parsed::Done { used, .. } | Parsed::Reject { used, .. }) = whole else { return };
        assert!(used <= data.len());
        if used == 0 {
            return;
        }
        data = &data[used..];
    }
}
