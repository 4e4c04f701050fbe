//! Addresses as people write them on a command line.
//!
//! Owns taking `host:port` apart, for every flag that names a host. Pure text: never asks a name
//! server and never touches a socket (`net::listen` does).

use std::fmt;
use std::net::Ipv6Addr;

/// An address as people write it, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or a numeric address, without brackets.
    pub host: String,
    /// The port, if one was given; 0 is any free one, see [`Address::parse_own`].
    pub port: Option<u16>,
}

impl Address {
    /// Takes `host`, `host:port`, `v4:port`, `v6` or `[v6]:port` apart. Never asks a name server.
    ///
    /// # Errors
    /// A sentence fit for the user: what is wrong with it.
    pub fn parse(text: &str) -> Result<Address, String> {
        match Address::parse_own(text)? {
            Address { port: Some(0), .. } => {
                let digits = text.rsplit(':').next().unwrap_or_default();
                Err(format!("Invalid port number: \"{digits}\""))
            }
            address => Ok(address),
        }
    }

    /// The same for an address to listen on: as in memcached, port 0 or -1 is any free one.
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn parse_own(text: &str) -> Result<Address, String> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) =
                rest.split_once(']').ok_or_else(|| format!("Invalid IPV6 address: \"{text}\""))?;
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(format!("Invalid IPV6 address: \"{text}\""));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(format!("Invalid IPV6 address: \"{text}\"")),
            }
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => None,
            Some("-1") => Some(0),
            Some(digits) => match digits.parse::<u16>() {
                Ok(n) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(n),
                _ => return Err(format!("Invalid port number: \"{digits}\"")),
            },
        };
        let plausible = |b: u8| b.is_ascii_alphanumeric() || b"-._:%*".contains(&b) || b >= 0x80;
        if host.is_empty() || !host.bytes().all(plausible) {
            return Err(format!("Invalid address: \"{text}\""));
        }
        Ok(Address { host: host.to_string(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> (String, Option<u16>) {
        let a = Address::parse(text).unwrap();
        (a.host, a.port)
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(address("127.0.0.1"), ("127.0.0.1".into(), None));
        assert_eq!(address("cache-1.example:11311"), ("cache-1.example".into(), Some(11311)));
        assert_eq!(address("::1"), ("::1".into(), None));
        assert_eq!(address("[::1]:5"), ("::1".into(), Some(5)));
        assert_eq!(address("[::1]"), ("::1".into(), None));
        for text in ["127.0.0.1", "cache-1.example:11311", "::1", "[::1]:5"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_addresses_say_what_is_wrong() {
        for (bad, why) in [
            ("127.0.0.1:abc", "Invalid port number: \"abc\""),
            ("127.0.0.1:", "Invalid port number: \"\""),
            ("127.0.0.1:0", "Invalid port number: \"0\""),
            ("127.0.0.1:+5", "Invalid port number: \"+5\""),
            ("127.0.0.1:65536", "Invalid port number: \"65536\""),
            ("[::1", "Invalid IPV6 address: \"[::1\""),
            ("[::1]x", "Invalid IPV6 address: \"[::1]x\""),
            ("[host]:1", "Invalid IPV6 address: \"[host]:1\""),
            ("", "Invalid address: \"\""),
            (":11211", "Invalid address: \":11211\""),
            ("a b", "Invalid address: \"a b\""),
        ] {
            assert_eq!(Address::parse(bad), Err(why.to_string()), "{bad:?}");
        }
    }
}
