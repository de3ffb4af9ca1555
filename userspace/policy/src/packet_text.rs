//! Packets as people write them: `tcp 10.0.0.5:40000 -> 10.1.0.9:1433`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::diagnostic::quote;
use crate::packet::{Packet, Transport};
use crate::protocol::Protocol;

/// The grammar, for help and errors.
pub const PACKET_GRAMMAR: &str = "\
PROTOCOL SOURCE[:PORT] -> DESTINATION[:PORT] [type N code N | fragment]
  tcp 10.0.0.5:40000 -> 10.1.0.9:1433
  udp [fd00::1]:5353 -> [fd00::2]:53
  icmp 10.0.0.5 -> 10.1.0.9 type 8 code 0
  gre 10.0.0.5 -> 10.1.0.9            (or the protocol's number: 47)
  tcp 10.0.0.5 -> 10.1.0.9 fragment   (a fragment other than the first, which shows no ports)";

/// What is wrong with a packet's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketTextError(String);

impl fmt::Display for PacketTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nA packet is written\n  {PACKET_GRAMMAR}", self.0)
    }
}

impl std::error::Error for PacketTextError {}

impl FromStr for Packet {
    type Err = PacketTextError;

    fn from_str(text: &str) -> Result<Self, PacketTextError> {
        parse(text).map_err(PacketTextError)
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = Protocol(self.protocol);
        // ICMP in packets of the other family is only a number, without type and code.
        if protocol
            .family()
            .is_some_and(|family| family != crate::Family::of(self.source))
        {
            write!(f, "{}", self.protocol)?;
        } else {
            write!(f, "{protocol}")?;
        }
        match self.transport {
            Transport::Ports(kind, code) if protocol.is_icmp() => write!(
                f,
                " {} -> {} type {kind} code {code}",
                self.source, self.destination
            ),
            Transport::Ports(from, to) => write!(
                f,
                " {} -> {}",
                SocketAddr::new(self.source, from),
                SocketAddr::new(self.destination, to)
            ),
            Transport::Absent => write!(f, " {} -> {}", self.source, self.destination),
            Transport::LaterFragment => write!(f, " {} -> {} fragment", self.source, self.destination),
        }
    }
}

fn parse(text: &str) -> Result<Packet, String> {
    let Some((left, right)) = text.split_once("->") else {
        return Err(format!("there is no `->` in {}", quote(text)));
    };
    let mut left = left.split_whitespace();
    let (protocol, source) = match (left.next(), left.next(), left.next()) {
        (Some(protocol), Some(source), None) => (protocol, source),
        (Some(_), None, _) => return Err("before `->` stand a protocol and a source".to_owned()),
        (None, ..) => return Err("the protocol and the source are missing before `->`".to_owned()),
        (.., Some(more)) => {
            return Err(format!(
                "{} is too much before `->`: only a protocol and a source stand there",
                quote(more)
            ));
        }
    };
    let mut right = right.split_whitespace();
    let Some(destination) = right.next() else {
        return Err("the destination is missing behind `->`".to_owned());
    };
    let (source, source_port) = end(source)?;
    let (destination, destination_port) = end(destination)?;
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!(
            "{source} and {destination} are not of one family; a packet is IPv4 or IPv6"
        ));
    }
    let protocol = read_protocol(protocol, source)?;
    let rest: Vec<&str> = right.collect();
    let ports = match (source_port, destination_port) {
        (Some(from), Some(to)) => Some((from, to)),
        (None, None) => None,
        _ => return Err("one port is missing: give both, or none".to_owned()),
    };
    let transport = transport(protocol, source, ports, &rest)?;
    Ok(Packet {
        source,
        destination,
        protocol: protocol.0,
        transport,
    })
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn end(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((socket.ip(), Some(socket.port())));
    }
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && let Ok(address) = address.parse::<IpAddr>()
    {
        return Ok((address, None));
    }
    Err(match text.rsplit_once(':') {
        Some((address, port)) if address.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_err() => {
            format!("{} is not a port from 0 to 65535", quote(port))
        }
        _ if text.contains("::") || text.matches(':').count() > 1 => format!(
            "{} is not an IPv6 address; with a port it stands in brackets, as in [fd00::1]:80",
            quote(text)
        ),
        _ => format!("{} is not an address, with or without a port", quote(text)),
    })
}

fn read_protocol(text: &str, source: IpAddr) -> Result<Protocol, String> {
    let named = Protocol::named(&text.to_ascii_lowercase());
    if let Some(protocol) = named
        && let Some(family) = protocol.family()
        && family != crate::Family::of(source)
    {
        let other = if protocol == Protocol::ICMP {
            "icmp6"
        } else {
            "icmp"
        };
        return Err(format!(
            "{protocol} belongs to {family}, and {source} does not; write {other}"
        ));
    }
    named.or_else(|| text.parse().ok().map(Protocol)).ok_or_else(|| {
        format!(
            "{} is not a protocol: {} or a number from 0 to 255",
            quote(text),
            Protocol::names()
        )
    })
}

fn transport(
    protocol: Protocol,
    source: IpAddr,
    ports: Option<(u16, u16)>,
    rest: &[&str],
) -> Result<Transport, String> {
    let icmp = protocol.family() == Some(crate::Family::of(source));
    if ports.is_some() && !protocol.has_ports() {
        return Err(format!("protocol {protocol} has no ports; leave them out"));
    }
    match rest {
        ["fragment"] if ports.is_some() => Err("a later fragment shows no ports; leave them out".to_owned()),
        ["fragment"] if icmp || protocol.has_ports() || source.is_ipv6() => Ok(Transport::LaterFragment),
        ["fragment"] => Err(format!(
            "protocol {protocol} has no ports, so its later fragments are like any other packet; leave `fragment` out"
        )),
        ["type", kind, "code", code] if icmp => Ok(Transport::Ports(byte(kind)?, byte(code)?)),
        ["type", kind] if icmp => Ok(Transport::Ports(byte(kind)?, 0)),
        ["type", ..] if !icmp => Err(format!("protocol {protocol} has no ICMP type")),
        [] if icmp => Err(format!(
            "{protocol} needs a type: `type 8 code 0` is an echo request of IPv4, `type 128 code 0` of IPv6"
        )),
        [] => match ports {
            Some((from, to)) => Ok(Transport::Ports(from, to)),
            None if protocol.has_ports() => Err(format!(
                "{protocol} needs both ports, or `fragment` for a later fragment, which shows none"
            )),
            None => Ok(Transport::Absent),
        },
        more => Err(format!(
            "{} is too much behind the destination",
            quote(&more.join(" "))
        )),
    }
}

fn byte(text: &str) -> Result<u16, String> {
    text.parse::<u8>()
        .map(u16::from)
        .map_err(|_| format!("{} is not a number from 0 to 255", quote(text)))
}

#[cfg(test)]
mod tests {
    use super::{Packet, Transport};

    fn packet(text: &str) -> Packet {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        for text in [
            "tcp 10.0.0.5:40000 -> 10.1.0.9:1433",
            "udp [fd00::1]:5353 -> [fd00::2]:53",
            "icmp 10.0.0.5 -> 10.1.0.9 type 8 code 0",
            "icmp6 fe80::1 -> ff02::1 type 134 code 0",
            "gre 10.0.0.5 -> 10.1.0.9",
            "200 fd00::1 -> fd00::2",
            "tcp fd00::1 -> fd00::2 fragment",
            "gre fd00::1 -> fd00::2 fragment",
            "icmp 10.0.0.5 -> 10.1.0.9 fragment",
            "58 10.0.0.5 -> 10.1.0.9",
            "1 fd00::1 -> fd00::2",
        ] {
            assert_eq!(packet(text).to_string(), text);
        }
        assert_eq!(
            packet("  TCP   10.0.0.5:1->10.1.0.9:2 "),
            packet("6 10.0.0.5:1 -> 10.1.0.9:2")
        );
        assert_eq!(
            packet("icmp 10.0.0.5 -> 10.1.0.9 type 8").transport,
            Transport::Ports(8, 0)
        );
        assert_eq!(
            packet("gre [fd00::1] -> [fd00::2]"),
            packet("47 fd00::1 -> fd00::2")
        );
    }

    #[test]
    fn mistakes_teach_the_grammar() {
        for (text, expected) in [
            ("tcp 10.0.0.5:1 10.1.0.9:2", "there is no `->`"),
            ("10.0.0.5:1 -> 10.1.0.9:2", "a protocol and a source"),
            ("tcp 10.0.0.5:1 ->", "the destination is missing"),
            ("tcp 10.0.0.5 -> 10.1.0.9", "tcp needs both ports"),
            ("tcp 10.0.0.5:1 -> 10.1.0.9", "one port is missing"),
            ("tcp 10.0.0.5:1 -> 10.1.0.9:99999", "`99999` is not a port"),
            ("tcp fd00::1:80 -> [fd00::2]:80", "one port is missing"),
            (
                "tcp fd00::g:80 -> [fd00::2]:80",
                "in brackets, as in [fd00::1]:80",
            ),
            ("tcp 10.0.0.5:1 -> [fd00::2]:80", "not of one family"),
            ("icmp fd00::1 -> fd00::2 type 8 code 0", "write icmp6"),
            ("icmp 10.0.0.5 -> 10.1.0.9", "icmp needs a type"),
            ("icmp 10.0.0.5 -> 10.1.0.9 type 256 code 0", "from 0 to 255"),
            ("gre 10.0.0.5:1 -> 10.1.0.9:2", "protocol gre has no ports"),
            ("gre 10.0.0.5 -> 10.1.0.9 fragment", "leave `fragment` out"),
            ("tcp 10.0.0.5:1 -> 10.1.0.9:2 fragment", "shows no ports"),
            ("tcp 10.0.0.5:1 -> 10.1.0.9:2 type 8", "has no ICMP type"),
            ("tcp 10.0.0.5:1 -> 10.1.0.9:2 now", "`now` is too much"),
            (
                "tcpp 10.0.0.5:1 -> 10.1.0.9:2",
                "`tcpp` is not a protocol: icmp, tcp",
            ),
            ("256 10.0.0.5 -> 10.1.0.9", "`256` is not a protocol"),
            (
                "tcp www.example.org:1 -> 10.1.0.9:2",
                "`www.example.org:1` is not an address",
            ),
            ("", "there is no `->`"),
        ] {
            let error = text.parse::<Packet>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("PROTOCOL SOURCE[:PORT] -> "), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(text in "\\PC*") {
            let _ = text.parse::<Packet>();
        }
    }
}
