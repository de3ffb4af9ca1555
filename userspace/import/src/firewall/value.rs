//! Values of fields as nftables and iptables write them.

use std::net::IpAddr;

use ipnet::IpNet;
use ravelin_policy::Family;

use crate::findings::quote;
use crate::firewall::Trouble;
use crate::firewall::matches::Field;

/// First and last value that a word stands for; none when it is no value of the field.
pub(crate) fn value(field: Field, text: &str) -> Option<(u128, u128)> {
    match field {
        Field::Source(family) | Field::Destination(family) => addresses(family, text),
        Field::Protocol | Field::ProtocolOf(_) => range(text, |word| protocol(word).map(u128::from)),
        Field::SourcePort(_) | Field::DestinationPort(_) => range(text, port),
        Field::IcmpType(family) => range(text, |word| icmp_type(family, word)),
        Field::IcmpCode(_) => range(text, |word| number(word, 255)),
        Field::Version => match text {
            "ipv4" | "ip" | "4" | "2" => Some((4, 4)),
            "ipv6" | "ip6" | "6" | "10" => Some((6, 6)),
            _ => None,
        },
    }
}

/// Why a word is no value of the field. What others may know, and a policy does not, is no mistake.
pub(crate) fn no_value(field: Field, text: &str) -> Trouble {
    let addresses = matches!(field, Field::Source(_) | Field::Destination(_));
    if addresses && has_gaps(text) {
        return Trouble::Lost(format!(
            "the mask of {} has gaps, so it is no prefix",
            quote(text)
        ));
    }
    if !addresses && text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Trouble::Lost(format!(
            "the name {} is not known here; a number would be",
            quote(text)
        ));
    }
    Trouble::Wrong(format!("{} is no value of this field", quote(text)))
}

/// Whether it is an address with a mask that is no prefix's.
fn has_gaps(text: &str) -> bool {
    let Some((address, mask)) = text.split_once('/') else {
        return false;
    };
    match (address.parse(), mask.parse()) {
        (Ok(address), Ok(mask)) => {
            let (v4, mask_v4): (bool, bool) = (IpAddr::is_ipv4(&address), IpAddr::is_ipv4(&mask));
            v4 == mask_v4 && IpNet::with_netmask(address, mask).is_err()
        }
        _ => false,
    }
}

fn range(text: &str, one: impl Fn(&str) -> Option<u128>) -> Option<(u128, u128)> {
    if let Some(value) = one(text) {
        return Some((value, value));
    }
    let (first, last) = text.split_once('-')?;
    let (first, last) = (one(first)?, one(last)?);
    (first <= last).then_some((first, last))
}

fn addresses(family: Family, text: &str) -> Option<(u128, u128)> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) if family == Family::V4 => Some(u128::from(v4.to_bits())),
        IpAddr::V6(v6) if family == Family::V6 => Some(v6.to_bits()),
        _ => None,
    };
    if let Ok(prefix) = text.parse::<IpNet>() {
        return Some((bits(prefix.network())?, bits(prefix.broadcast())?));
    }
    // iptables may write a mask in place of the length.
    if let Some((address, mask)) = text.split_once('/') {
        let prefix = IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?;
        return Some((bits(prefix.network())?, bits(prefix.broadcast())?));
    }
    range(text, |word| word.parse::<IpAddr>().ok().and_then(bits))
}

/// A number in decimal or, after `0x`, in hexadecimal.
fn number(text: &str, max: u128) -> Option<u128> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let plain = !digits.is_empty() && digits.len() <= 8 && digits.chars().all(|c| c.is_digit(radix));
    u128::from_str_radix(digits, radix)
        .ok()
        .filter(|number| plain && *number <= max)
}

/// A protocol by number or by the names of /etc/protocols that rule sets have.
pub(crate) fn protocol(text: &str) -> Option<u8> {
    const NAMES: &[(&str, u8)] = &[
        ("hopopt", 0),
        ("icmp", 1),
        ("igmp", 2),
        ("ipencap", 4),
        ("ipip", 4),
        ("tcp", 6),
        ("udp", 17),
        ("dccp", 33),
        ("ipv6", 41),
        ("rsvp", 46),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("icmpv6", 58),
        ("ipv6-icmp", 58),
        ("ospf", 89),
        ("ospfigp", 89),
        ("pim", 103),
        ("comp", 108),
        ("ipcomp", 108),
        ("vrrp", 112),
        ("l2tp", 115),
        ("sctp", 132),
        ("mh", 135),
        ("ipv6-mh", 135),
        ("udplite", 136),
    ];
    let lower = text.to_ascii_lowercase();
    let named = NAMES
        .iter()
        .find(|(name, _)| *name == lower)
        .map(|(_, number)| *number);
    named.or_else(|| number(text, 255).and_then(|number| u8::try_from(number).ok()))
}

/// A port by number, or by the commonest names of /etc/services.
fn port(text: &str) -> Option<u128> {
    const NAMES: &[(&str, u16)] = &[
        ("ftp-data", 20),
        ("ftp", 21),
        ("ssh", 22),
        ("telnet", 23),
        ("smtp", 25),
        ("domain", 53),
        ("bootps", 67),
        ("bootpc", 68),
        ("tftp", 69),
        ("http", 80),
        ("kerberos", 88),
        ("pop3", 110),
        ("sunrpc", 111),
        ("ntp", 123),
        ("netbios-ns", 137),
        ("netbios-dgm", 138),
        ("netbios-ssn", 139),
        ("imap2", 143),
        ("imap", 143),
        ("snmp", 161),
        ("snmp-trap", 162),
        ("bgp", 179),
        ("ldap", 389),
        ("https", 443),
        ("microsoft-ds", 445),
        ("submissions", 465),
        ("isakmp", 500),
        ("syslog", 514),
        ("dhcpv6-client", 546),
        ("dhcpv6-server", 547),
        ("submission", 587),
        ("ldaps", 636),
        ("imaps", 993),
        ("pop3s", 995),
        ("openvpn", 1194),
        ("ms-sql-s", 1433),
        ("nfs", 2049),
        ("mysql", 3306),
        ("ms-wbt-server", 3389),
        ("ipsec-nat-t", 4500),
        ("sip", 5060),
        ("mdns", 5353),
        ("postgresql", 5432),
        ("http-alt", 8080),
    ];
    let named = NAMES
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, port)| u128::from(*port));
    named.or_else(|| number(text, 65_535))
}

fn icmp_type(family: Family, text: &str) -> Option<u128> {
    const V4: &[(&str, u8)] = &[
        ("echo-reply", 0),
        ("pong", 0),
        ("destination-unreachable", 3),
        ("source-quench", 4),
        ("redirect", 5),
        ("echo-request", 8),
        ("ping", 8),
        ("router-advertisement", 9),
        ("router-solicitation", 10),
        ("time-exceeded", 11),
        ("ttl-exceeded", 11),
        ("parameter-problem", 12),
        ("timestamp-request", 13),
        ("timestamp-reply", 14),
        ("info-request", 15),
        ("info-reply", 16),
        ("address-mask-request", 17),
        ("address-mask-reply", 18),
    ];
    const V6: &[(&str, u8)] = &[
        ("destination-unreachable", 1),
        ("packet-too-big", 2),
        ("time-exceeded", 3),
        ("ttl-exceeded", 3),
        ("parameter-problem", 4),
        ("echo-request", 128),
        ("ping", 128),
        ("echo-reply", 129),
        ("pong", 129),
        ("mld-listener-query", 130),
        ("mld-listener-report", 131),
        ("mld-listener-done", 132),
        ("mld-listener-reduction", 132),
        ("nd-router-solicit", 133),
        ("router-solicitation", 133),
        ("nd-router-advert", 134),
        ("router-advertisement", 134),
        ("nd-neighbor-solicit", 135),
        ("neighbour-solicitation", 135),
        ("neighbor-solicitation", 135),
        ("nd-neighbor-advert", 136),
        ("neighbour-advertisement", 136),
        ("neighbor-advertisement", 136),
        ("nd-redirect", 137),
        ("redirect", 137),
        ("router-renumbering", 138),
        ("ind-neighbor-solicit", 141),
        ("ind-neighbor-advert", 142),
        ("mld2-listener-report", 143),
    ];
    let names = if family == Family::V4 { V4 } else { V6 };
    let named = names
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, kind)| u128::from(*kind));
    named.or_else(|| number(text, 255))
}
