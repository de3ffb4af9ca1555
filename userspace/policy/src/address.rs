//! Addresses of a filter: any, a prefix, or a range.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::diagnostic::quote;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The source or destination of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Every address of either family.
    Any,
    /// A prefix without host bits; a single address is a prefix of full length.
    Prefix(IpNet),
    /// First and last address, of one family, first < last, not expressible as one prefix.
    Range(IpAddr, IpAddr),
}

impl Address {
    /// Parses `any`, an address, `address/length` or `first-last`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "any" {
            return Ok(Self::Any);
        }
        if let Some((first, last)) = text.split_once('-')
            && let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse())
        {
            return Self::range(first, last);
        }
        if let Ok(prefix) = text.parse::<IpNet>() {
            return Self::prefix(prefix);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::prefix(IpNet::from(address));
        }
        Err(format!(
            "{} is not an address; write \"any\", an address, address/length or first-last",
            quote(text)
        ))
    }

    fn prefix(prefix: IpNet) -> Result<Self, String> {
        if prefix.addr() != prefix.network() {
            return Err(format!(
                "{} has bits set beyond its length; write \"{}\" for the network or \"{}\" for the one address",
                quote(&prefix.to_string()),
                prefix.trunc(),
                prefix.addr()
            ));
        }
        no_mapped(prefix.addr())?;
        Ok(Self::Prefix(prefix))
    }

    fn range(first: IpAddr, last: IpAddr) -> Result<Self, String> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err("a range must be of one family: both ends IPv4 or both IPv6".to_owned());
        }
        if first > last {
            return Err(format!(
                "the range is empty; write the lower address first: \"{last}-{first}\""
            ));
        }
        no_mapped(first)?;
        no_mapped(last)?;
        let covering = covering_prefix(first, last);
        if covering.network() == first && covering.broadcast() == last {
            return Ok(Self::Prefix(covering));
        }
        Ok(Self::Range(first, last))
    }

    /// The family, unless it is any.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Any => None,
            Self::Prefix(prefix) => Some(Family::of(prefix.addr())),
            Self::Range(first, _) => Some(Family::of(*first)),
        }
    }

    /// Whether `address` is among these; families never match each other.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(prefix) => prefix.contains(&address),
            Self::Range(first, last) => {
                first.is_ipv4() == address.is_ipv4() && (*first..=*last).contains(&address)
            }
        }
    }

    /// Whether it is a single address.
    pub(crate) fn is_one(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Prefix(prefix) => prefix.prefix_len() == prefix.max_prefix_len(),
            Self::Range(first, last) => first == last,
        }
    }

    /// Length in bits (0..=32 or 0..=128) of the shortest prefix that covers all of it; 0 for any.
    #[must_use]
    pub fn covering_length(&self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Prefix(prefix) => prefix.prefix_len(),
            Self::Range(first, last) => covering_prefix(*first, *last).prefix_len(),
        }
    }

    /// The prefixes it consists of, disjoint and ascending; none for any, because any has no family.
    ///
    /// A range gives at most 62 (IPv4) or 254 (IPv6).
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        match self {
            Self::Any => Vec::new(),
            Self::Prefix(prefix) => vec![*prefix],
            Self::Range(IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(*first, *last, 0).map(IpNet::V4).collect()
            }
            Self::Range(IpAddr::V6(first), IpAddr::V6(last)) => {
                Ipv6Subnets::new(*first, *last, 0).map(IpNet::V6).collect()
            }
            // A range of two families is never built.
            Self::Range(..) => Vec::new(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => prefix.addr().fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// The longest prefix that holds both addresses, which are of one family.
fn covering_prefix(first: IpAddr, last: IpAddr) -> IpNet {
    let (common, width) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ((a.to_bits() ^ b.to_bits()).leading_zeros(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => ((a.to_bits() ^ b.to_bits()).leading_zeros(), 128),
        _ => (0, 0),
    };
    let length = u8::try_from(common.min(width)).unwrap_or(0);
    IpNet::new(first, length).map_or(IpNet::from(first), |net| net.trunc())
}

/// IPv4-mapped IPv6 addresses never appear on the wire (RFC 4291 section 2.5.5.2); IPv4 was meant.
fn no_mapped(address: IpAddr) -> Result<(), String> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!("`{v6}` is an IPv4-mapped address; write \"{v4}\""));
    }
    Ok(())
}

/// Why an address cannot be the end of a connection.
pub(crate) fn unusable_endpoint(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V6(v6) if is_link_local(v6) => {
            Some("a link-local address, which names no host without an interface")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address; write it as IPv4"),
        _ => None,
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::{Address, Family};
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn parse(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(parse("any"), Address::Any);
        assert_eq!(
            parse("10.0.0.0/8"),
            Address::Prefix("10.0.0.0/8".parse().unwrap())
        );
        assert_eq!(parse("fd00::1"), Address::Prefix("fd00::1/128".parse().unwrap()));
        assert_eq!(parse("10.0.0.0-10.255.255.255"), parse("10.0.0.0/8"));
        assert_eq!(
            parse("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").covering_length(),
            0
        );
        assert_eq!(parse("0.0.0.0-255.255.255.255"), parse("0.0.0.0/0"));
        assert_eq!(parse("10.0.0.7 - 10.0.0.9").covering_length(), 28);
        assert_eq!(parse("10.0.0.7-10.0.0.7"), parse("10.0.0.7"));
        assert_eq!(parse("fd00::-fd00::2").family(), Some(Family::V6));
    }

    #[test]
    fn mistakes_say_what_to_write() {
        for (text, expected) in [
            ("10.1.2.3/16", "write \"10.1.0.0/16\""),
            ("10.0.0.9-10.0.0.1", "10.0.0.1-10.0.0.9"),
            ("10.0.0.1-fd00::1", "one family"),
            ("::ffff:10.0.0.1", "write \"10.0.0.1\""),
            ("me", "is not an address"),
            ("10.0.0.0/33", "is not an address"),
            ("", "is not an address"),
            ("-", "is not an address"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_widest_ranges_have_the_known_number_of_prefixes() {
        assert_eq!(parse("0.0.0.1-255.255.255.254").prefixes().len(), 62);
        assert_eq!(
            parse("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe")
                .prefixes()
                .len(),
            254
        );
    }

    proptest! {
        /// Sizes add up, prefixes ascend without a gap, and the ends are exact.
        #[test]
        fn a_range_is_exactly_its_prefixes(a: u128, b: u128, v4: bool) {
            let address = |bits: u128| -> IpAddr {
                if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() }
            };
            let (a, b) = (address(a), address(b));
            let Ok(range) = Address::range(a.min(b), a.max(b)) else { return Ok(()) };
            let bits = |address: IpAddr| match address {
                IpAddr::V4(v4) => u128::from(v4.to_bits()),
                IpAddr::V6(v6) => v6.to_bits(),
            };
            let prefixes: Vec<IpNet> = range.prefixes();
            prop_assert_eq!(prefixes[0].network(), a.min(b));
            prop_assert_eq!(prefixes[prefixes.len() - 1].broadcast(), a.max(b));
            for pair in prefixes.windows(2) {
                prop_assert_eq!(bits(pair[0].broadcast()) + 1, bits(pair[1].network()));
            }
            prop_assert!(prefixes.iter().all(|prefix| prefix.prefix_len() >= range.covering_length()));
        }

        #[test]
        fn garbage_never_panics(text in "\\PC*") {
            let _ = Address::parse(&text);
        }
    }
}
