//! Filters of a policy as netsh has them.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use ravelin_policy::{Address, Family, Filter, PortSet, Protocol, Selector};

/// Most filters that a filter with lists of ports is written out to.
const MAX_PORT_PAIRS: usize = 32;

/// A filter as netsh has it.
pub(super) struct Line {
    source: String,
    destination: String,
    protocol: Option<Protocol>,
    source_port: u16,
    destination_port: u16,
}

/// The filters of netsh that stand for one of a policy, or why there are none.
pub(super) fn lines(source: &str, destination: &str, filter: &Filter) -> Result<Vec<Line>, String> {
    let (source, destination) = (side(source)?, side(destination)?);
    let family = filter.protocol.and_then(Protocol::family);
    if family == Some(Family::V6) {
        return Err("netsh filters IPv4 only".to_owned());
    }
    if filter.protocol == Some(Protocol(0)) {
        return Err("protocol 0 means any protocol there".to_owned());
    }
    let line = |source_port, destination_port| Line {
        source: source.clone(),
        destination: destination.clone(),
        protocol: filter.protocol,
        source_port,
        destination_port,
    };
    let (sources, destinations) = match &filter.selector {
        Selector::Any => return Ok(vec![line(0, 0)]),
        Selector::Icmp { .. } => return Err("netsh has no ICMP types".to_owned()),
        Selector::Ports { source, destination } => (ports(source)?, ports(destination)?),
    };
    if !matches!(filter.protocol, Some(Protocol::TCP | Protocol::UDP)) {
        return Err("netsh has ports for TCP and UDP only".to_owned());
    }
    if sources.len() * destinations.len() > MAX_PORT_PAIRS {
        return Err(format!(
            "netsh has no ranges of ports, and these are more than {MAX_PORT_PAIRS}"
        ));
    }
    let pairs = sources
        .iter()
        .flat_map(|from| destinations.iter().map(|to| (*from, *to)));
    Ok(pairs.map(|(from, to)| line(from, to)).collect())
}

/// The ports one by one, 0 for any.
fn ports(set: &PortSet) -> Result<Vec<u16>, String> {
    if set.is_any() {
        return Ok(vec![0]);
    }
    if set.contains(0) {
        return Err("port 0 means any port there".to_owned());
    }
    if set.width() as usize > MAX_PORT_PAIRS {
        return Err(format!(
            "netsh has no ranges of ports, and {set} are more than {MAX_PORT_PAIRS}"
        ));
    }
    Ok(set
        .ranges()
        .iter()
        .cloned()
        .flat_map(RangeInclusive::into_iter)
        .collect())
}

/// An address with its mask, as arguments without `src` or `dst` in front; `\0` stands between the two.
fn side(text: &str) -> Result<String, String> {
    let word = match text {
        "any" | "me" => Some(text),
        "dns-servers" => Some("DNS"),
        "dhcp-servers" => Some("DHCP"),
        "gateway" => Some("GATEWAY"),
        _ => None,
    };
    if let Some(word) = word {
        return Ok(word.to_owned());
    }
    match Address::parse(text) {
        Ok(address) if address.family() == Some(Family::V6) => Err("netsh filters IPv4 only".to_owned()),
        Ok(Address::Prefix(IpNet::V4(prefix))) if prefix.prefix_len() < 32 => {
            Ok(format!("{}\0{}", prefix.network(), prefix.netmask()))
        }
        Ok(address) => Ok(address.to_string()),
        // A DNS name; without its dot at the end, which Windows does not write, it would be a word there.
        Err(_) => Ok(text.trim_end_matches('.').to_owned()),
    }
}

impl Line {
    pub(super) fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    pub(super) fn command(&self, list: &str, mirrored: bool) -> String {
        let mut text = format!("add filter filterlist=\"{list}\"");
        for (key, side) in [("src", &self.source), ("dst", &self.destination)] {
            let _ = match side.split_once('\0') {
                Some((address, mask)) => write!(text, " {key}addr={address} {key}mask={mask}"),
                None => write!(text, " {key}addr={side}"),
            };
        }
        if let Some(protocol) = self.protocol {
            let name = match protocol {
                Protocol::TCP => "TCP".to_owned(),
                Protocol::UDP => "UDP".to_owned(),
                Protocol::ICMP => "ICMP".to_owned(),
                Protocol(number) => number.to_string(),
            };
            let _ = write!(text, " protocol={name}");
        }
        for (key, port) in [("srcport", self.source_port), ("dstport", self.destination_port)] {
            if port != 0 {
                let _ = write!(text, " {key}={port}");
            }
        }
        let _ = write!(text, " mirrored={}", if mirrored { "yes" } else { "no" });
        text
    }
}
