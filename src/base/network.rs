//! Networks as people write them: `10.0.0.0/8`, `fd00::/8`, or one address.
//!
//! Owns their form and what lies in them. Never asks a name server.

use std::fmt;
use std::net::IpAddr;

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// 0 to 32 or 128.
    bits: u8,
}

/// An address as a number at the left of 128 bits, and how many of them it has.
fn left(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl Network {
    /// Reads `ADDRESS/BITS`, or one address, which stands for itself. Bits behind those that count
    /// may be set, as in `10.1.2.3/8`. An IPv4 address inside IPv6 is taken for the IPv4 one.
    ///
    /// # Errors
    /// A sentence fit for the user: what is wrong with it.
    pub fn parse(text: &str) -> Result<Network, String> {
        let wrong = || format!("Invalid network: \"{text}\" (such as 10.0.0.0/8 or fd00::/8)");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = left(address).1;
        let bits = match bits {
            None => all,
            Some(digits) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(wrong());
            }
            Some(digits) => digits.parse().ok().filter(|&bits| bits <= all).ok_or_else(wrong)?,
        };
        // A network of IPv4 written in IPv6 is one of IPv4: connections are compared that way.
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() && bits >= 96 => {
                Ok(Network { address: v4, bits: bits - 96 })
            }
            _ => Ok(Network { address, bits }),
        }
    }

    /// Whether an address lies in it. `::ffff:10.0.0.1` lies where `10.0.0.1` does.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, all) = left(self.address);
        let (theirs, width) = left(address.to_canonical());
        let differs = (ours ^ theirs).checked_shr(u32::from(128 - self.bits)).unwrap_or(0);
        all == width && differs == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_shares_their_leading_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("10.1.2.3/8", "10.0.0.1", "9.255.255.255"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.6"),
            ("192.168.1.128/25", "::ffff:192.168.1.200", "192.168.1.127"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("fd00::/8", "fdff::1", "fe80::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("::1", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.1"),
        ] {
            let parsed = Network::parse(network).expect(network);
            assert!(parsed.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{outside} in {network}");
            assert_eq!(Network::parse(&parsed.to_string()), Ok(parsed));
        }
    }

    #[test]
    fn malformed_networks_are_refused_in_words() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/+8", "host/8"]
        {
            assert!(Network::parse(text).unwrap_err().contains("Invalid network"), "{text}");
        }
    }
}
