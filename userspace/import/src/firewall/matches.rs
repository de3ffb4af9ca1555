//! What a rule demands of a packet, and the filters that say the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ravelin_policy::{Address, Family, Protocol};

use crate::draft::Filter;
use crate::firewall::Hook;
use crate::firewall::ranges::Ranges;

/// Most ranges of ports in one filter of a policy.
const MAX_PORT_RANGES: usize = 64;

/// Protocols with ports.
pub(crate) const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// A part of a packet that rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Source(Family),
    Destination(Family),
    Protocol,
    /// The protocol, in one version of IP only.
    ProtocolOf(Family),
    /// A port; of one protocol, or of any that has ports.
    SourcePort(Option<u8>),
    DestinationPort(Option<u8>),
    IcmpType(Family),
    IcmpCode(Family),
    /// Which version of IP: 4 or 6.
    Version,
}

impl Field {
    /// The largest value.
    pub(crate) fn max(self) -> u128 {
        match self {
            Self::Source(Family::V4) | Self::Destination(Family::V4) => u128::from(u32::MAX),
            Self::Source(Family::V6) | Self::Destination(Family::V6) => u128::MAX,
            Self::SourcePort(_) | Self::DestinationPort(_) => u128::from(u16::MAX),
            Self::Protocol | Self::ProtocolOf(_) | Self::IcmpType(_) | Self::IcmpCode(_) => {
                u128::from(u8::MAX)
            }
            Self::Version => 6,
        }
    }
}

/// A set of packets: those whose every field has one of the values given for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matches {
    pub(crate) family: Option<Family>,
    source: Option<Ranges>,
    destination: Option<Ranges>,
    protocol: Option<Ranges>,
    source_port: Option<Ranges>,
    destination_port: Option<Ranges>,
    icmp_type: Option<Ranges>,
    icmp_code: Option<Ranges>,
    /// Nothing matches.
    never: bool,
}

impl Matches {
    pub(crate) fn of_family(family: Option<Family>) -> Self {
        Self {
            family,
            ..Self::default()
        }
    }

    /// Whether it names source or destination addresses.
    pub(crate) fn names_source(&self) -> bool {
        self.source.is_some()
    }

    pub(crate) fn names_destination(&self) -> bool {
        self.destination.is_some()
    }

    pub(crate) fn is_never(&self) -> bool {
        self.never
    }

    /// Only those whose field has one of `values`.
    pub(crate) fn limit(&mut self, field: Field, values: Ranges) {
        match field {
            Field::Source(family)
            | Field::Destination(family)
            | Field::ProtocolOf(family)
            | Field::IcmpType(family)
            | Field::IcmpCode(family) => {
                self.limit_family(family);
            }
            Field::Version => {
                let has = |version| !values.intersection(&Ranges::one(version)).is_empty();
                match (has(4), has(6)) {
                    (true, true) => {}
                    (true, false) => self.limit_family(Family::V4),
                    (false, true) => self.limit_family(Family::V6),
                    (false, false) => self.never = true,
                }
                return;
            }
            Field::Protocol | Field::SourcePort(_) | Field::DestinationPort(_) => {}
        }
        let (slot, protocols) = match field {
            Field::Source(_) => (&mut self.source, None),
            Field::Destination(_) => (&mut self.destination, None),
            Field::Protocol | Field::ProtocolOf(_) | Field::Version => (&mut self.protocol, None),
            Field::SourcePort(protocol) => (&mut self.source_port, Some(port_protocols(protocol))),
            Field::DestinationPort(protocol) => (&mut self.destination_port, Some(port_protocols(protocol))),
            Field::IcmpType(family) => (&mut self.icmp_type, Some(icmp_protocol(family))),
            Field::IcmpCode(family) => (&mut self.icmp_code, Some(icmp_protocol(family))),
        };
        self.never |= narrow(slot, values);
        if let Some(protocols) = protocols {
            self.never |= narrow(&mut self.protocol, protocols);
        }
    }

    fn limit_family(&mut self, family: Family) {
        self.never |= *self.family.get_or_insert(family) != family;
    }

    /// Those in both sets.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.never |= other.never;
        if let Some(family) = other.family {
            both.limit_family(family);
        }
        for (slot, values) in [
            (&mut both.source, &other.source),
            (&mut both.destination, &other.destination),
            (&mut both.protocol, &other.protocol),
            (&mut both.source_port, &other.source_port),
            (&mut both.destination_port, &other.destination_port),
            (&mut both.icmp_type, &other.icmp_type),
            (&mut both.icmp_code, &other.icmp_code),
        ] {
            if let Some(values) = values {
                both.never |= narrow(slot, values.clone());
            }
        }
        both
    }

    /// Whether it names the ICMP of one version of IP for packets of the other, which no filter of a policy is about.
    pub(crate) fn names_foreign_icmp(&self) -> bool {
        let Some(protocols) = self.protocol.as_ref().filter(|set| set.count() < 256) else {
            return false;
        };
        let foreign = |family| {
            let other = match family {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            };
            self.family.is_none_or(|only| only == family)
                && !protocols.intersection(&icmp_protocol(other)).is_empty()
        };
        // A type says which version is meant.
        !self.never && self.icmp_type.is_none() && (foreign(Family::V4) || foreign(Family::V6))
    }

    /// How many ranges it holds.
    pub(crate) fn ranges(&self) -> usize {
        let sets = [
            &self.source,
            &self.destination,
            &self.protocol,
            &self.source_port,
            &self.destination_port,
        ];
        sets.into_iter().flatten().map(|set| set.as_slice().len()).sum()
    }

    /// About how much it takes to write it down.
    pub(crate) fn size(&self) -> usize {
        let ranges = |set: &Option<Ranges>| set.as_ref().map_or(1, |set| set.as_slice().len().max(1));
        let numbers = |set: &Option<Ranges>| {
            set.as_ref()
                .map_or(1, |set| usize::try_from(set.count()).unwrap_or(256).max(1))
        };
        // The policy language takes one protocol, ICMP type and code a filter.
        [
            ranges(&self.source),
            ranges(&self.destination),
            numbers(&self.protocol),
            numbers(&self.icmp_type),
            numbers(&self.icmp_code),
        ]
        .into_iter()
        .fold(1, usize::saturating_mul)
    }

    /// The filters that match the same packets, on their way through `hook`.
    pub(crate) fn filters(&self, line: u32, hook: Hook, local: &[IpAddr]) -> Vec<Filter> {
        if !local.is_empty()
            && let Some(here) = self.here(hook, local)
        {
            return here.filters(line, hook, &[]);
        }
        if self.never {
            return Vec::new();
        }
        let protocols: Vec<Option<u8>> = match &self.protocol {
            None => vec![None],
            Some(set) if set.count() == 256 => vec![None],
            Some(set) => set
                .numbers()
                .filter_map(|number| u8::try_from(number).ok())
                .map(Some)
                .collect(),
        };
        let mut filters = Vec::new();
        for protocol in protocols {
            let of_family = protocol.and_then(|number| Protocol(number).family());
            let family = match (self.family, of_family) {
                // The policy language has each ICMP in its own version of IP only.
                (Some(family), Some(only)) if family != only => continue,
                (family, only) => family.or(only.filter(|_| self.icmp_type.is_some())),
            };
            let (source, destination) = self.addresses(family, hook);
            let ports = |set: &Option<Ranges>| set.as_ref().map_or(vec![String::new()], ports);
            for source_port in ports(&self.source_port) {
                for destination_port in ports(&self.destination_port) {
                    for icmp in self.icmp() {
                        filters.push(Filter {
                            line,
                            source: source.clone(),
                            destination: destination.clone(),
                            protocol,
                            source_port: source_port.clone(),
                            destination_port: destination_port.clone(),
                            icmp,
                            mirrored: false,
                        });
                    }
                }
            }
        }
        filters
    }

    /// Where it names addresses on this machine's side: only those that the machine has, or that belong to all.
    fn here(&self, hook: Hook, local: &[IpAddr]) -> Option<Self> {
        let mut here = self.clone();
        let side = match hook {
            Hook::Input => here.destination.as_mut(),
            Hook::Output => here.source.as_mut(),
            Hook::Forward => None,
        }?;
        let v4 = self.family != Some(Family::V6);
        let bits = |address: &IpAddr| match address {
            IpAddr::V4(address) if v4 => Some(u128::from(address.to_bits())),
            IpAddr::V6(address) if !v4 => Some(address.to_bits()),
            _ => None,
        };
        let mut own: Vec<(u128, u128)> = local.iter().filter_map(bits).map(|bits| (bits, bits)).collect();
        // Multicast, and the broadcast address.
        own.extend(if v4 {
            vec![(0xe000_0000, 0xefff_ffff), (0xffff_ffff, 0xffff_ffff)]
        } else {
            vec![(0xff << 120, u128::MAX)]
        });
        *side = side.intersection(&Ranges::new(own));
        let empty = side.is_empty();
        here.never |= empty;
        Some(here)
    }

    fn addresses(&self, family: Option<Family>, hook: Hook) -> (Vec<String>, Vec<String>) {
        let all = match family {
            None => "any",
            Some(Family::V4) => "0.0.0.0/0",
            Some(Family::V6) => "::/0",
        };
        let side = |set: &Option<Ranges>, here: bool| match set {
            Some(set) => set
                .as_slice()
                .iter()
                .map(|range| address(*range, family))
                .collect(),
            None if here => vec!["me".to_owned()],
            None => vec![all.to_owned()],
        };
        (
            side(&self.source, hook == Hook::Output),
            side(&self.destination, hook == Hook::Input),
        )
    }

    fn icmp(&self) -> Vec<Option<(u8, Option<u8>)>> {
        let byte = |number: u128| u8::try_from(number).unwrap_or(u8::MAX);
        let all = Ranges::new(vec![(0, 255)]);
        let codes: Vec<Option<u8>> = match &self.icmp_code {
            None => vec![None],
            Some(set) if set.count() == 256 => vec![None],
            Some(set) => set.numbers().map(byte).map(Some).collect(),
        };
        let types = match &self.icmp_type {
            // A code needs a type in the policy language.
            None if codes == [None] => return vec![None],
            None => &all,
            Some(set) if set.count() == 256 && codes == [None] => return vec![None],
            Some(set) => set,
        };
        types
            .numbers()
            .flat_map(|kind| codes.iter().map(move |code| Some((byte(kind), *code))))
            .collect()
    }
}

/// True when nothing is left.
fn narrow(slot: &mut Option<Ranges>, values: Ranges) -> bool {
    let values = match slot {
        Some(before) => before.intersection(&values),
        None => values,
    };
    let empty = values.is_empty();
    *slot = Some(values);
    empty
}

fn port_protocols(protocol: Option<u8>) -> Ranges {
    match protocol {
        Some(number) => Ranges::one(number.into()),
        None => Ranges::new(WITH_PORTS.map(|number| (number.into(), number.into())).to_vec()),
    }
}

fn icmp_protocol(family: Family) -> Ranges {
    Ranges::one(match family {
        Family::V4 => 1,
        Family::V6 => 58,
    })
}

/// A range of addresses as the policy language writes it.
fn address((first, last): (u128, u128), family: Option<Family>) -> String {
    let address = |bits: u128| -> IpAddr {
        match family {
            Some(Family::V6) => Ipv6Addr::from_bits(bits).into(),
            _ => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        }
    };
    let text = format!("{}-{}", address(first), address(last));
    // As one prefix where it is one.
    Address::parse(&text).map_or(text, |address| address.to_string())
}

/// Ports as the policy language writes them, in as many lists as it takes; empty for any.
fn ports(set: &Ranges) -> Vec<String> {
    if set.as_slice() == [(0, u128::from(u16::MAX))] {
        return vec![String::new()];
    }
    set.as_slice()
        .chunks(MAX_PORT_RANGES)
        .map(|ranges| {
            let ranges: Vec<String> = ranges
                .iter()
                .map(|(first, last)| {
                    if first == last {
                        first.to_string()
                    } else {
                        format!("{first}-{last}")
                    }
                })
                .collect();
            ranges.join(", ")
        })
        .collect()
}
