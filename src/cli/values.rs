//! Values of flags: numbers with their ranges, sizes, lists, addresses.
//!
//! Owns the sentences about malformed ones. Knows no flag.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use crate::base::address::Address;

/// An unsigned decimal in `range`. `what` begins the sentence about a wrong one: "-t: number of
/// threads".
///
/// # Errors
/// Not digits only, or out of range.
pub fn number<T>(what: &str, text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<T>() {
        Ok(n) if digits && range.contains(&n) => Ok(n),
        _ => Err(format!(
            "{what} must be a number from {} to {}, not \"{text}\"",
            range.start(),
            range.end()
        )),
    }
}

/// A decimal with an optional `k`, `m` or `g` behind it (1024 each), times `unit` if there is none.
pub fn size(text: &str, unit: u64) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, unit),
    };
    crate::base::num::parse_u64(digits.as_bytes())?.checked_mul(unit)
}

/// A time in milliseconds from one that is written `2`, `0.5`, `2s` or `500ms`. A number without a
/// unit is seconds up to the end of `range`, and milliseconds where it is larger than any number of
/// seconds that makes sense.
///
/// # Errors
/// Not of this form, or out of `range`, which is in milliseconds.
pub fn time_ms(what: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, Some(1.0)),
        (None, Some(number)) => (number, Some(1000.0)),
        (None, None) => (text, None),
    };
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = number.parse::<f64>().ok().filter(|_| plain);
    let ms = number.map(|number| {
        let seconds = number * 1000.0 <= *range.end() as f64;
        (number * unit.unwrap_or(if seconds { 1000.0 } else { 1.0 })).round() as u64
    });
    ms.filter(|ms| range.contains(ms)).ok_or_else(|| {
        let (from, to) = (range.start(), range.end() / 1000);
        format!(
            "{what} must be from {from}ms to {to}s, such as 2, 0.5, 2s or 500ms, not \"{text}\""
        )
    })
}

/// A path that is not empty.
///
/// # Errors
/// It is empty.
pub fn path(what: &str, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err(format!("{what} must not be empty"));
    }
    Ok(PathBuf::from(text))
}

/// The addresses of a comma list, each checked for its form; empty places are skipped.
///
/// # Errors
/// One is malformed, or there is none.
pub fn addresses(what: &str, text: &str) -> Result<Vec<Address>, String> {
    parse_each(what, text, Address::parse)
}

fn parse_each(
    what: &str,
    text: &str,
    parse: fn(&str) -> Result<Address, String>,
) -> Result<Vec<Address>, String> {
    let mut all = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        all.push(parse(word).map_err(|why| format!("{what}: {why}"))?);
    }
    if all.is_empty() {
        return Err(format!("{what} must name at least one address"));
    }
    Ok(all)
}

/// The addresses of a list of `-l`, which memcached parts by commas or semicolons. What it takes
/// before an address and has no meaning here (a tag for its proxy) is taken off; what would be
/// missed is refused.
///
/// # Errors
/// As [`addresses`], or one asks for a protocol or TLS of its own.
pub fn listeners(text: &str) -> Result<Vec<Address>, String> {
    let mut plain = Vec::new();
    for word in text.split([',', ';']).map(str::trim) {
        for tls in ["notls", "btls", "mtls"] {
            if word.strip_prefix(tls).is_some_and(|rest| rest.starts_with(':')) {
                return Err(format!("-l: '{tls}' option is valid only when SSL is enabled"));
            }
        }
        if word.starts_with("proto[") {
            return Err(
                "-l: all addresses speak one protocol (-B): proto[...] is not supported".into()
            );
        }
        let tag = [("tag[", "]:"), ("tag_", "_:")].into_iter().find_map(|(start, end)| {
            word.strip_prefix(start).and_then(|rest| rest.split_once(end))
        });
        plain.push(tag.map_or(word, |(_, address)| address));
    }
    parse_each("-l", &plain.join(","), Address::parse_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_strict() {
        assert_eq!(number("-t", "8", 1..=64), Ok(8));
        for bad in ["", "0", "65", "-1", "+1", "4x", " 4", "0x4", "99999999999999999999"] {
            let why = number("-t: threads", bad, 1..=64).unwrap_err();
            assert_eq!(why, format!("-t: threads must be a number from 1 to 64, not \"{bad}\""));
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64", 1 << 20), Some(64 << 20));
        assert_eq!(size("512k", 1), Some(512 << 10));
        assert_eq!(size("2M", 1), Some(2 << 20));
        assert_eq!(size("1g", 1 << 20), Some(1 << 30));
        for bad in ["", "k", "1kk", "-1", "1.5m", "99999999999g", "m1", "1é"] {
            assert_eq!(size(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn lists_of_addresses() {
        let hosts =
            |text| addresses("-l", text).map(|a| a.into_iter().map(|a| a.host).collect::<Vec<_>>());
        assert_eq!(
            hosts("127.0.0.1,::1, host:5,"),
            Ok(vec!["127.0.0.1".into(), "::1".into(), "host".into()])
        );
        let listen =
            |text| listeners(text).map(|a| a.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            listen("127.0.0.1:1;[::1]:2, tag_b_:127.0.0.1:3,tag[x]:host"),
            Ok(["127.0.0.1:1", "[::1]:2", "127.0.0.1:3", "host"].map(String::from).to_vec())
        );
        // Any free port.
        assert_eq!(
            listen("127.0.0.1:0,[::1]:-1"),
            Ok(["127.0.0.1:0", "[::1]:0"].map(String::from).to_vec())
        );
        assert_eq!(hosts("a:0"), Err("-l: Invalid port number: \"0\"".into()));
        for refused in ["proto[ascii]:127.0.0.1:1", "127.0.0.1,notls:127.0.0.2", "mtls:a", "/s"] {
            assert!(listen(refused).is_err(), "{refused}");
        }
        assert_eq!(hosts(","), Err("-l must name at least one address".into()));
        assert_eq!(hosts("a,b:x"), Err("-l: Invalid port number: \"x\"".into()));
    }
}
