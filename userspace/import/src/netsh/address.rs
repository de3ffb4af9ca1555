//! Addresses and masks of filters.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use ravelin_policy::Address;

use crate::findings::quote;

/// One side of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Whatever addresses this machine has.
    Me,
    /// Known addresses.
    Known(Address),
    /// What the policy language resolves, as it writes it: a DNS name, `gateway`, `dns-servers`, `dhcp-servers`.
    Resolved(String),
    /// The WINS servers, which the policy language does not know.
    Wins,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Me => f.write_str("me"),
            Self::Known(address) => address.fmt(f),
            Self::Resolved(name) => f.write_str(name),
            Self::Wins => f.write_str("wins"),
        }
    }
}

impl Side {
    /// Parses `srcaddr=` or `dstaddr=` with its mask, which is a dotted mask or the length of a prefix.
    pub(super) fn parse(address: &str, mask: Option<&str>) -> Result<Self, String> {
        let mask = mask.filter(|mask| !mask.is_empty());
        let side = match address.to_ascii_lowercase().as_str() {
            "me" => Self::Me,
            "any" => Self::Known(Address::Any),
            "dns" => Self::Resolved("dns-servers".to_owned()),
            "dhcp" => Self::Resolved("dhcp-servers".to_owned()),
            "gateway" => Self::Resolved("gateway".to_owned()),
            "wins" => Self::Wins,
            text => return Self::parse_address(text, mask),
        };
        // Windows ignores a mask here, and scripts that name one are in use.
        Ok(side)
    }

    fn parse_address(text: &str, mask: Option<&str>) -> Result<Self, String> {
        if text.contains('-') && text.starts_with(|c: char| c.is_ascii_digit() || c == ':') && is_range(text)
        {
            if mask.is_some() {
                return Err(format!("{} is a range, which takes no mask", quote(text)));
            }
            return Address::parse(text).map(Self::Known);
        }
        let (plain, length) = match text.split_once('/') {
            Some((plain, length)) => (plain, Some(length)),
            None => (text, None),
        };
        if let Ok(address) = plain.parse::<IpAddr>() {
            let length = match mask.or(length) {
                Some(mask) => prefix_length(address, mask)?,
                None => {
                    if address.is_ipv4() {
                        32
                    } else {
                        128
                    }
                }
            };
            let prefix = IpNet::new(address, length)
                .map_err(|_| format!("{} is too long for {address}", quote(&length.to_string())))?;
            // 0.0.0.0 with mask 0.0.0.0 is how `any` is stored; the policy language tells families apart.
            let known = Address::parse(&prefix.trunc().to_string())?;
            return Ok(Self::Known(known));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if is_name(name) {
            return Ok(Self::Resolved(name.to_owned()));
        }
        Err(format!(
            "{} is no address; known are me, any, an address, first-last, a DNS name, WINS, DNS, DHCP and GATEWAY",
            quote(text)
        ))
    }

    /// The address, when it is exactly one.
    pub(super) fn host(&self) -> Option<IpAddr> {
        match self {
            Self::Known(Address::Prefix(prefix)) if prefix.prefix_len() == prefix.max_prefix_len() => {
                Some(prefix.addr())
            }
            _ => None,
        }
    }
}

fn is_range(text: &str) -> bool {
    text.split_once('-').is_some_and(|(first, last)| {
        first.trim().parse::<IpAddr>().is_ok() && last.trim().parse::<IpAddr>().is_ok()
    })
}

/// A length, or a dotted mask whose bits stand together.
fn prefix_length(address: IpAddr, mask: &str) -> Result<u8, String> {
    if let Ok(dotted) = mask.parse::<Ipv4Addr>() {
        return Ipv4Net::with_netmask(Ipv4Addr::UNSPECIFIED, dotted)
            .ok()
            .filter(|_| address.is_ipv4())
            .map(|net| net.prefix_len())
            .ok_or_else(|| format!("{} is no mask of one prefix", quote(mask)));
    }
    let max = if address.is_ipv4() { 32 } else { 128 };
    mask.parse::<u8>()
        .ok()
        .filter(|length| *length <= max)
        .ok_or_else(|| format!("{} is neither a mask nor the length of a prefix", quote(mask)))
}

/// Whether the policy language takes `text` for a host name: no top-level domain is one character long or starts with
/// a digit, which tells names from mistyped addresses.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let top = text.rsplit('.').next().unwrap_or("");
    text.len() <= 253
        && top.len() > 1
        && top.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::Side;

    #[test]
    fn addresses_and_masks_are_read() {
        let read = |address, mask| Side::parse(address, mask).map(|side| side.to_string());
        for (address, mask, expected) in [
            ("Me", None, "me"),
            ("ANY", Some("255.255.255.255"), "any"),
            ("10.1.2.3", None, "10.1.2.3"),
            ("10.1.2.3", Some("255.0.0.0"), "10.0.0.0/8"),
            ("10.1.2.3", Some("16"), "10.1.0.0/16"),
            ("0.0.0.0", Some("0.0.0.0"), "0.0.0.0/0"),
            ("10.0.0.5-10.0.0.9", None, "10.0.0.5-10.0.0.9"),
            ("2001:db8::1", Some("32"), "2001:db8::/32"),
            ("DNS", None, "dns-servers"),
            ("db-1.example.org", None, "db-1.example.org"),
            ("Printer.", None, "printer"),
            ("WINS", None, "wins"),
        ] {
            assert_eq!(read(address, mask), Ok(expected.to_owned()));
        }
        for (address, mask) in [
            ("10.0.0.256", None),
            ("10.0.0.1", Some("255.0.255.0")),
            ("10.0.0.1", Some("33")),
            ("10.0.0.1-10.0.0.2", Some("8")),
            ("10.0.0.9-10.0.0.5", None),
            ("2001:db8::1", Some("255.0.0.0")),
            ("10.t.5.20", None),
            ("x", None),
            ("a..example", None),
            ("a b", None),
            ("", None),
        ] {
            assert!(read(address, mask).is_err(), "{address}");
        }
    }
}
