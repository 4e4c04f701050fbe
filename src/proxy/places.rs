//! Servers and backups as people write them: on a command line and in a servers file.
//!
//! ```text
//!   place    member[,member...]                  several are a group that holds the same
//!   member   [name=]host[:port[:weight]]         an IPv6 address with a port in brackets
//!            [name=]/path[:weight]               a unix socket; unix:/path as well
//! ```
//!
//! Owns their syntax, and what a list of them must keep to. Never resolves a name and never opens a
//! file.

use std::collections::HashSet;
use std::path::PathBuf;

use super::config::{Config, Distribution, Endpoint, Place, ServerAddr, DEFAULT_PORT};
use crate::base::address::Address;

/// Most servers, and most backups: the points of so many on a ring still fit in some ten megabytes
/// and are made in a second.
pub const PLACES_MAX: usize = 4096;
/// Most members of a group: as many links as a twincached node has.
pub const MEMBERS_MAX: usize = 16;
/// Largest weight. That of [`PLACES_MAX`] servers together fits in 32 bits, in which twemproxy
/// counts them.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// One place. `what` begins the sentence about a wrong one.
///
/// # Errors
/// A sentence: what is wrong with it.
pub fn place(what: &str, text: &str) -> Result<Place, String> {
    let mut members = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        members.push(member(word).map_err(|why| format!("{what}: {why}"))?);
    }
    match members.len() {
        0 => Err(format!("{what} must name at least one address")),
        1..=MEMBERS_MAX => Ok(Place { members }),
        n => Err(format!("{what}: a group has at most {MEMBERS_MAX} members, not {n}")),
    }
}

fn member(text: &str) -> Result<ServerAddr, String> {
    let is_path = |text: &str| text.starts_with('/') || text.starts_with("unix:");
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) if !is_path(text) => (Some(name), rest),
        _ => (None, text),
    };
    let plausible = |name: &str| !name.is_empty() && !name.contains([' ', '\t', '=']);
    if let Some(name) = name.filter(|name| !plausible(name) || name.contains(char::is_control)) {
        return Err(format!("Invalid name of a server: \"{name}\""));
    }
    let (endpoint, weight) = if is_path(rest) { unix(rest)? } else { tcp(rest)? };
    Ok(ServerAddr { name: name.map(str::to_owned), endpoint, weight })
}

fn weight(digits: &str) -> Result<u32, String> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let weight = digits.parse().ok().filter(|n| plain && (1..=WEIGHT_MAX).contains(n));
    weight.ok_or_else(|| format!("a weight is a number from 1 to {WEIGHT_MAX}, not \"{digits}\""))
}

fn unix(text: &str) -> Result<(Endpoint, u32), String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    let (path, weight) = match path.rsplit_once(':') {
        Some((path, digits)) => (path, weight(digits)?),
        None => (path, 1),
    };
    if !path.starts_with('/') || path.len() < 2 {
        return Err(format!("the path of a unix socket begins with /: \"{text}\""));
    }
    Ok((Endpoint::Unix(PathBuf::from(path)), weight))
}

/// `host`, `host:port` or `host:port:weight`.
fn tcp(text: &str) -> Result<(Endpoint, u32), String> {
    // Behind the bracket of an IPv6 address, or from the start, two colons mean that there is a
    // weight. What is an IPv6 address without brackets has neither port nor weight.
    let bare = text.parse::<std::net::Ipv6Addr>().is_ok();
    let closed = !text.starts_with('[') || text.contains(']');
    let tail = text.rfind(']').map_or(0, |at| at + 1);
    let (address, weight) = match text.rsplit_once(':') {
        Some((address, digits)) if !bare && closed && text[tail..].matches(':').count() == 2 => {
            (address, weight(digits)?)
        }
        _ => (text, 1),
    };
    let Address { host, port } = Address::parse(address)?;
    if host == "*" {
        return Err(format!("Invalid address: \"{text}\""));
    }
    Ok((Endpoint::Tcp { host, port: port.unwrap_or(DEFAULT_PORT) }, weight))
}

/// Whether the distribution of `config` can spread keys over its servers and its backups.
///
/// # Errors
/// A sentence for the user.
pub fn check(config: &Config) -> Result<(), String> {
    if config.servers.is_empty() {
        return Err("no server: name at least one with -s host[:port]".into());
    }
    for (flag, places) in [("-s", &config.servers), ("-b", &config.backups)] {
        if places.len() > PLACES_MAX {
            return Err(format!("at most {PLACES_MAX} places may be given with {flag}"));
        }
        let word = config.distribution.word();
        match config.distribution {
            Distribution::Magent | Distribution::MagentKetama => {
                if let Some(heavy) = places.iter().map(Place::first).find(|s| s.weight != 1) {
                    return Err(format!(
                        "{flag} {heavy}: the distribution {word} knows no weights; see \
                         -o distribution"
                    ));
                }
            }
            // It refuses to start, since two servers would have the same points.
            Distribution::TwemproxyKetama | Distribution::TwemproxyModula => {
                let mut seen = HashSet::new();
                let names = places.iter().map(|place| place.first().twemproxy_name());
                if let Some(twice) = names.into_iter().find(|name| !seen.insert(name.clone())) {
                    return Err(format!(
                        "{flag}: two servers are called {twice}, which {word} cannot tell apart"
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (Option<String>, String, u32) {
        let place = place("-s", text).unwrap_or_else(|why| panic!("{text}: {why}"));
        let first = place.first().clone();
        (first.name.clone(), first.to_string(), first.weight)
    }

    #[test]
    fn members_in_all_forms() {
        for (text, name, shown, weight) in [
            ("a", None, "a:11211", 1),
            ("a:5", None, "a:5", 1),
            ("a:5:7", None, "a:5:7", 7),
            ("n=a:5:7", Some("n"), "a:5:7", 7),
            ("x:1/y=a", Some("x:1/y"), "a:11211", 1),
            ("::1", None, "[::1]:11211", 1),
            ("[::1]", None, "[::1]:11211", 1),
            ("[::1]:5", None, "[::1]:5", 1),
            ("n=[fe80::1:2]:5:1000000", Some("n"), "[fe80::1:2]:5", 1_000_000),
            ("/run/m.sock", None, "/run/m.sock", 1),
            ("/run/a=b:3", None, "/run/a=b", 3),
            ("unix:/run/m.sock", None, "/run/m.sock", 1),
            ("n=unix:/run/m.sock:2", Some("n"), "/run/m.sock", 2),
        ] {
            let shown = shown.strip_suffix(":7").unwrap_or(shown);
            assert_eq!(one(text), (name.map(str::to_owned), shown.to_owned(), weight), "{text}");
        }
        let group = place("-s", "a=b:1:2, c ,[::1]:3,").unwrap();
        assert_eq!(group.to_string(), "b:1,c:11211,[::1]:3");
    }

    #[test]
    fn malformed_members_say_what_is_wrong() {
        for (text, why) in [
            ("", "-s must name at least one address"),
            (",", "-s must name at least one address"),
            ("a:x", "-s: Invalid port number: \"x\""),
            ("a:0", "-s: Invalid port number: \"0\""),
            ("a:", "-s: Invalid port number: \"\""),
            ("a:1:0", "-s: a weight is a number from 1 to 1000000, not \"0\""),
            ("a:1:-1", "-s: a weight is a number from 1 to 1000000, not \"-1\""),
            ("a:1:1000001", "-s: a weight is a number from 1 to 1000000, not \"1000001\""),
            ("a:1:", "-s: a weight is a number from 1 to 1000000, not \"\""),
            ("a:1:2:3", "-s: Invalid port number: \"1:2:3\""),
            ("h::2", "-s: Invalid port number: \"\""),
            ("[::1", "-s: Invalid IPV6 address: \"[::1\""),
            ("[::1]5", "-s: Invalid IPV6 address: \"[::1]5\""),
            ("=a", "-s: Invalid name of a server: \"\""),
            ("a=b=c", "-s: Invalid address: \"b=c\""),
            ("n=", "-s: Invalid address: \"\""),
            ("*", "-s: Invalid address: \"*\""),
            ("unix:m.sock", "-s: the path of a unix socket begins with /: \"unix:m.sock\""),
            ("/", "-s: the path of a unix socket begins with /: \"/\""),
            ("/m:x", "-s: a weight is a number from 1 to 1000000, not \"x\""),
        ] {
            assert_eq!(place("-s", text), Err(why.to_owned()), "{text:?}");
        }
        assert!(place("-b", &["a"; 17].join(",")).is_err());
    }

    #[test]
    fn lists_that_a_distribution_cannot_spread_over() {
        let config = |distribution, servers: &[&str]| Config {
            distribution,
            servers: servers.iter().map(|text| place("-s", text).unwrap()).collect(),
            ..Config::default()
        };
        let why = |distribution, servers: &[&str]| check(&config(distribution, servers));
        assert!(why(Distribution::Magent, &[]).is_err());
        assert!(why(Distribution::Magent, &["a", "a"]).is_ok());
        assert!(why(Distribution::Magent, &["a", "b:1:2"]).unwrap_err().contains("-s b:1"));
        assert!(why(Distribution::Rendezvous, &["a", "b:1:2"]).is_ok());
        for twins in [["a", "a:11211"], ["n=a", "n=b"], ["a:5", "a:5=b"]] {
            assert!(why(Distribution::TwemproxyKetama, &twins).is_err(), "{twins:?}");
            assert!(why(Distribution::LibmemcachedKetama, &twins).is_ok(), "{twins:?}");
        }
        let many = vec!["a"; PLACES_MAX + 1];
        assert!(why(Distribution::Jump, &many).is_err());
        assert!(why(Distribution::Jump, &many[1..]).is_ok());
    }
}
