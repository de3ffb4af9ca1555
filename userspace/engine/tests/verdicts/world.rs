//! What both sides are told: rule set, inbound SAs and own addresses; and the host's decision over them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ravelin_classifier::arbitrary::{Rng, policy_text, policy_text_of};
use ravelin_classifier::reference::{self, Packet, Transport};
use ravelin_classifier::{RuleSet, compile};
use ravelin_policy::Policy;
use ravelin_xdp_common::{
    Address, Direction, Encapsulation, Family, Flow, FragmentKey, FragmentRecord, Frame, Header,
    InboundEndpoint, IpPacket, Judgement, OutboundKey, Place, Ports, SliceReader, Tables, TunnelEnds,
    Verdict, address_bytes, address_v6, decide_edge, decide_egress, decide_host_egress, decide_inner,
    decide_outer, mapped_v4, parse,
};

use crate::frame::{Piece, Truth};
use crate::kernel::Hook;

/// Rule set, inbound SAs and own addresses.
pub(crate) struct World {
    /// What the expectation knows of first fragments.
    pub(crate) memory: RefCell<HashMap<MemoryKey, Memory>>,
    /// What the host's decision knows of them.
    records: RefCell<HashMap<FragmentKey, FragmentRecord>>,
    /// When each of them was made.
    times: RefCell<HashMap<FragmentKey, Instant>>,
    rules: Option<(Policy, RuleSet, u32)>,
    endpoints: Vec<(u32, InboundEndpoint)>,
    own: Vec<IpAddr>,
}

/// Which datagram, at which hook. In IPv6 whatever protocol a later fragment names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MemoryKey {
    hook: Hook,
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: Option<u8>,
}

impl MemoryKey {
    pub(crate) fn of(hook: Hook, truth: &Truth, piece: Piece) -> Self {
        let packet = &truth.packet;
        Self {
            hook,
            source: packet.source,
            destination: packet.destination,
            id: piece.id,
            protocol: packet.source.is_ipv4().then_some(packet.protocol),
        }
    }
}

/// What is known of a datagram's first fragment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    First {
        length: usize,
        judgement: Judgement,
    },
    /// A mangled frame may have been it.
    Unsure,
}

impl World {
    /// After a frame of which only the parser knows what it is.
    pub(crate) fn unsure(&self, hook: Hook, frame: &[u8]) {
        let mut packet = IpPacket::EMPTY;
        if let Ok(Frame::Ip) = parse(&SliceReader(frame), &mut packet)
            && packet.fragment
        {
            let selectors = to_packet(&packet.flow);
            let key = MemoryKey {
                hook,
                source: selectors.source,
                destination: selectors.destination,
                id: packet.fragment_id,
                protocol: selectors.source.is_ipv4().then_some(selectors.protocol),
            };
            self.memory.borrow_mut().insert(key, Memory::Unsure);
        }
    }

    /// Whether a frame is the first fragment of a datagram of which another was remembered so long ago that the kernel may
    /// take it for a new datagram, which it does after two seconds. No time passes for the host.
    pub(crate) fn is_late(&self, hook: Hook, frame: &[u8]) -> bool {
        let mut packet = IpPacket::EMPTY;
        if parse(&SliceReader(frame), &mut packet) != Ok(Frame::Ip)
            || !packet.fragment
            || packet.fragment_offset != 0
        {
            return false;
        }
        let place = match hook {
            Hook::Outer => Place::Outer,
            Hook::Inner => Place::Inner,
            Hook::Egress | Hook::HostEgress => Place::Egress,
            Hook::Edge => Place::Edge,
        };
        let times = self.times.borrow();
        let first = times.get(&FragmentKey::of(&packet, place));
        first.is_some_and(|time| time.elapsed() >= Duration::from_secs(1))
    }

    /// Addresses of this machine: the tunnels' ends, and some that generated filters name.
    pub(crate) fn own() -> Vec<IpAddr> {
        [
            "192.0.2.1",
            "10.0.0.1",
            "10.255.1.254",
            "2001:db8::1",
            "fd00:0:1:1:8000::1",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec()
    }

    /// Inbound SAs of every kind, the lowest SPI that is not reserved among them.
    pub(crate) fn endpoints() -> Vec<(u32, InboundEndpoint)> {
        const ESP: (Encapsulation, u16, u16) = (Encapsulation::None, 0, 0);
        const AH: (Encapsulation, u16, u16) = (Encapsulation::Ah, 0, 0);
        [
            (0x2001, "192.0.2.1", "192.0.2.2", ESP),
            (256, "192.0.2.1", "198.51.100.7", ESP),
            (0x2002, "2001:db8::1", "2001:db8::2", ESP),
            (0x2003, "192.0.2.1", "192.0.2.3", (Encapsulation::Udp, 4500, 4500)),
            (
                0xffff_ffff,
                "2001:db8::1",
                "2001:db8::3",
                (Encapsulation::Udp, 4500, 61_000),
            ),
            (0x2004, "192.0.2.1", "192.0.2.4", AH),
            (0x2005, "2001:db8::1", "2001:db8::4", AH),
        ]
        .into_iter()
        .zip(0..)
        .map(
            |((spi, local, remote, (encapsulation, local_port, remote_port)), slot)| {
                let local: IpAddr = local.parse().unwrap();
                let endpoint = InboundEndpoint {
                    local: to_address(local),
                    remote: to_address(remote.parse().unwrap()),
                    slot,
                    local_port,
                    remote_port,
                    family: if local.is_ipv4() { 4 } else { 6 },
                    encapsulation: encapsulation as u8,
                    shortest: if encapsulation == Encapsulation::Ah {
                        28
                    } else {
                        36
                    },
                    // Of the two SAs in UDP the one over IPv6.
                    verify_moved: u8::from(encapsulation == Encapsulation::Udp && local.is_ipv6()),
                    reserved: [0; 3],
                };
                (spi, endpoint)
            },
        )
        .collect()
    }

    /// By what the outbound SA beside an inbound one is known. Of the connections of generated policies they are as far apart.
    pub(crate) fn outbound_key(spi: u32, endpoint: &InboundEndpoint) -> OutboundKey {
        OutboundKey {
            remote: endpoint.remote,
            spi: spi.wrapping_sub(0x1000),
            family: endpoint.family.into(),
        }
    }

    pub(crate) fn without_rules() -> Self {
        Self {
            memory: RefCell::default(),
            records: RefCell::default(),
            times: RefCell::default(),
            rules: None,
            endpoints: Self::endpoints(),
            own: Self::own(),
        }
    }

    /// A rule set with generation 0, as in an array that was never written.
    pub(crate) fn never_filled() -> Self {
        let (policy, _) = Policy::parse("default = \"permit\"\n", "empty.toml").unwrap();
        let rules = compile(&policy).unwrap();
        Self {
            rules: Some((policy, rules, 0)),
            ..Self::without_rules()
        }
    }

    /// A generated policy in force.
    pub(crate) fn arbitrary(rng: &mut Rng) -> Self {
        Self::generated(rng, policy_text)
    }

    /// A generated policy with so many rules in force: its trees are deep, and several stand behind each other.
    pub(crate) fn large(rng: &mut Rng, rules: usize) -> Self {
        Self::generated(rng, |rng| policy_text_of(rng, rules, rules))
    }

    fn generated(rng: &mut Rng, text: impl Fn(&mut Rng) -> String) -> Self {
        loop {
            let non_ip = rng.pick(&["permit", "block"]);
            let text = format!("non-ip = \"{non_ip}\"\n{}", text(rng));
            let (policy, _) = Policy::parse(&text, "generated.toml").unwrap();
            if let Ok(rules) = compile(&policy) {
                let generation = 1 + (rng.bits() as u32 >> 1);
                return Self {
                    rules: Some((policy, rules, generation)),
                    ..Self::without_rules()
                };
            }
        }
    }

    pub(crate) fn policy(&self) -> Option<&Policy> {
        self.rules.as_ref().map(|(policy, ..)| policy)
    }

    pub(crate) fn rules(&self) -> Option<(&RuleSet, u32)> {
        self.rules
            .as_ref()
            .map(|(_, rules, generation)| (rules, *generation))
    }

    pub(crate) fn generation(&self) -> u32 {
        self.rules.as_ref().map_or(0, |(.., generation)| *generation)
    }

    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    pub(crate) fn endpoint(&self, spi: u32) -> Option<&InboundEndpoint> {
        self.endpoints
            .iter()
            .find(|(known, _)| *known == spi)
            .map(|(_, endpoint)| endpoint)
    }

    /// Whether an SA without UDP encapsulation is for packets from `remote` to `local`.
    pub(crate) fn has_tunnel(&self, remote: IpAddr, local: IpAddr) -> bool {
        let (remote, local) = (to_address(remote), to_address(local));
        self.endpoints
            .iter()
            .any(|(_, one)| one.encapsulation != 1 && (one.remote, one.local) == (remote, local))
    }

    /// What the host decides.
    pub(crate) fn decide(&self, hook: Hook, frame: &[u8]) -> Judgement {
        let reader = SliceReader(frame);
        match hook {
            Hook::Outer => decide_outer(&reader, self),
            Hook::Inner => decide_inner(&reader, self),
            Hook::Egress => decide_egress(&reader, self),
            Hook::HostEgress => decide_host_egress(&reader, self),
            Hook::Edge => decide_edge(&reader, self),
        }
    }

    /// What the reference says about a frame that parses, by the parser's reading of it.
    pub(crate) fn reference(&self, hook: Hook, frame: &[u8]) -> Option<Verdict> {
        let policy = self.policy()?;
        let mut packet = IpPacket::EMPTY;
        let Ok(Frame::Ip) = parse(&SliceReader(frame), &mut packet) else {
            return None;
        };
        // The reference has no memory of first fragments; the expectation has.
        if packet.fragment {
            return None;
        }
        Some(reference::classify(
            policy,
            &to_packet(&packet.flow),
            direction(hook),
        ))
    }
}

/// The direction that the rules see at a hook.
pub(crate) fn direction(hook: Hook) -> Direction {
    match hook {
        Hook::Outer => Direction::Inbound,
        Hook::Inner | Hook::Egress | Hook::HostEgress | Hook::Edge => Direction::Outbound,
    }
}

pub(crate) fn to_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped_v4(v4.octets()),
        IpAddr::V6(v6) => address_v6(v6.octets()),
    }
}

fn to_packet(flow: &Flow) -> Packet {
    let ip = |address: Address| -> IpAddr {
        let octets = address_bytes(address);
        match flow.family {
            Family::V4 => Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]).into(),
            Family::V6 => Ipv6Addr::from(octets).into(),
        }
    };
    Packet {
        source: ip(flow.source),
        destination: ip(flow.destination),
        protocol: flow.protocol,
        transport: match flow.ports {
            Ports::Known => Transport::Ports(flow.source_port, flow.destination_port),
            Ports::Absent => Transport::Absent,
            Ports::Unknown => Transport::LaterFragment,
        },
    }
}

impl Tables for World {
    type RuleSet = ();

    fn rule_set(&self) -> Option<()> {
        self.rules.as_ref().map(|_| ())
    }

    fn header(&self, (): ()) -> Option<Header> {
        self.rules().map(|(rules, generation)| Header {
            generation,
            ..rules.header()
        })
    }

    fn classify(&self, (): (), _: &Header, flow: &Flow, direction: Direction) -> Verdict {
        self.rules()
            .map_or(Verdict::NONE, |(rules, _)| rules.classify(flow, direction))
    }

    fn inbound(&self, spi: u32) -> Option<InboundEndpoint> {
        self.endpoint(spi).copied()
    }

    fn is_tunnel(&self, ends: &TunnelEnds) -> bool {
        self.endpoints.iter().any(|(_, endpoint)| {
            endpoint.encapsulation != 1
                && (endpoint.local, endpoint.remote) == (ends.local, ends.remote)
                && u32::from(endpoint.family) == ends.family
        })
    }

    fn outbound(&self, key: &OutboundKey) -> Option<u32> {
        let known = |(spi, endpoint): &&(u32, InboundEndpoint)| Self::outbound_key(*spi, endpoint) == *key;
        self.endpoints
            .iter()
            .find(known)
            .map(|(_, endpoint)| endpoint.slot)
    }

    fn is_local(&self, address: &Address) -> bool {
        self.own.iter().any(|own| to_address(*own) == *address)
    }

    fn is_spoken_of(&self, address: &Address) -> bool {
        self.is_local(address)
    }

    fn recall(&self, key: &FragmentKey) -> FragmentRecord {
        let records = self.records.borrow();
        records.get(key).copied().unwrap_or(FragmentRecord::EMPTY)
    }

    fn remember(&self, key: &FragmentKey, record: &FragmentRecord) {
        self.records.borrow_mut().insert(*key, *record);
        self.times.borrow_mut().insert(*key, Instant::now());
    }

    /// No time passes; see [`World::is_late`].
    fn now(&self) -> u64 {
        1
    }
}
