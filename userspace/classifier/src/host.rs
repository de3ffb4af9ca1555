//! The drivers' decisions without drivers: the same `decide_*` as in the kernel, over collections instead of maps.

use std::cell::RefCell;
use std::collections::HashMap as HostileMap;
use std::net::IpAddr;

use foldhash::{HashMap, HashSet};
use ravelin_policy::{AddressUpdate, Connection, Encapsulation, IpsecProtocol, Policy};
use ravelin_xdp_common::{
    Address, Direction, Encapsulation as Carrier, FRAGMENT_SLOTS, Flow, FragmentKey, FragmentRecord, Header,
    InboundEndpoint, Judgement, OutboundKey, Outcome, Reader, SliceReader, Tables, TunnelEnds, Verdict,
    decide_egress, decide_host_egress, decide_inner, decide_outer,
};

use crate::expand::to_address;
use crate::rule_set::RuleSet;

/// A policy in force on a machine that is not there: rule set, inbound SAs and own addresses.
#[derive(Debug)]
pub struct Host {
    rules: RuleSet,
    inbound: HashMap<u32, InboundEndpoint>,
    outbound: HashMap<OutboundKey, u32>,
    own: HashSet<Address>,
    /// Others decide what is put in.
    fragments: RefCell<HostileMap<FragmentKey, FragmentRecord>>,
    now: u64,
    sends_itself: bool,
}

impl Host {
    /// A machine with the addresses `own` that has `policy` in force, of which `rules` were compiled. All of its
    /// connections are up.
    #[must_use]
    pub fn new(policy: &Policy, rules: RuleSet, own: &[IpAddr]) -> Self {
        let inbound = policy.connections().iter().zip(0..).map(|(connection, slot)| {
            let spi = connection.keys.inbound.spi.value();
            (spi, inbound_endpoint(connection, slot))
        });
        let outbound = policy.connections().iter().zip(0..).map(|(connection, slot)| {
            let key = OutboundKey {
                remote: to_address(connection.remote),
                spi: connection.keys.outbound.spi.value(),
                family: if connection.remote.is_ipv4() { 4 } else { 6 },
            };
            (key, slot)
        });
        Self {
            rules,
            inbound: inbound.collect(),
            outbound: outbound.collect(),
            own: own.iter().copied().map(to_address).collect(),
            fragments: RefCell::default(),
            now: 0,
            sends_itself: false,
        }
    }

    /// The same in host mode: outbound frames are those that it sends itself on the outer device.
    #[must_use]
    pub fn in_host_mode(self) -> Self {
        Self {
            sends_itself: true,
            ..self
        }
    }

    /// Whether outbound frames are those that it sends itself.
    #[must_use]
    pub fn sends_itself(&self) -> bool {
        self.sends_itself
    }

    /// Sets the machine's clock, in nanoseconds: the memory of fragments goes by it.
    pub fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    /// What becomes of a frame (from its Ethernet header on): inbound ones arrive on the outer device, outbound ones on
    /// the inner, or in host mode are about to leave the outer.
    #[must_use]
    pub fn judge(&self, frame: &[u8], direction: Direction) -> Judgement {
        self.judge_read(&SliceReader(frame), direction)
    }

    /// The same for a frame that is read in another way.
    #[must_use]
    pub fn judge_read(&self, frame: &impl Reader, direction: Direction) -> Judgement {
        match direction {
            Direction::Inbound => decide_outer(frame, self),
            Direction::Outbound if self.sends_itself => decide_host_egress(frame, self),
            Direction::Outbound => decide_inner(frame, self),
        }
    }

    /// What becomes of a frame that the kernel is about to send on the outer device.
    #[must_use]
    pub fn judge_egress(&self, frame: &[u8]) -> Judgement {
        decide_egress(&SliceReader(frame), self)
    }

    /// What would become of a frame if `address` were one of the machine's own.
    #[must_use]
    pub fn judge_with_own(&mut self, frame: &[u8], direction: Direction, address: IpAddr) -> Outcome {
        let address = to_address(address);
        let added = self.own.insert(address);
        let outcome = self.judge(frame, direction).outcome();
        if added {
            self.own.remove(&address);
        }
        outcome
    }

    /// Whether the address is one of the machine's own.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&to_address(address))
    }
}

impl Tables for Host {
    type RuleSet = ();

    fn rule_set(&self) -> Option<()> {
        Some(())
    }

    fn header(&self, (): ()) -> Option<Header> {
        Some(Header {
            generation: 1,
            ..self.rules.header()
        })
    }

    fn classify(&self, (): (), _: &Header, flow: &Flow, direction: Direction) -> Verdict {
        self.rules.classify(flow, direction)
    }

    fn inbound(&self, spi: u32) -> Option<InboundEndpoint> {
        self.inbound.get(&spi).copied()
    }

    fn is_tunnel(&self, ends: &TunnelEnds) -> bool {
        self.inbound
            .values()
            .any(|endpoint| endpoint.tunnel() == Some(*ends))
    }

    fn outbound(&self, key: &OutboundKey) -> Option<u32> {
        self.outbound.get(key).copied()
    }

    fn is_local(&self, address: &Address) -> bool {
        self.own.contains(address)
    }

    /// The policy was resolved with what it knows of the machine; where that is nothing, packets are looked at from afar.
    fn is_spoken_of(&self, address: &Address) -> bool {
        self.own.is_empty() || self.own.contains(address)
    }

    fn recall(&self, key: &FragmentKey) -> FragmentRecord {
        let fragments = self.fragments.borrow();
        fragments.get(key).copied().unwrap_or(FragmentRecord::EMPTY)
    }

    fn remember(&self, key: &FragmentKey, record: &FragmentRecord) {
        let mut fragments = self.fragments.borrow_mut();
        // The driver forgets the oldest one by one; for captures of more datagrams than that forgetting all will do.
        if fragments.len() >= FRAGMENT_SLOTS {
            fragments.clear();
        }
        fragments.insert(*key, *record);
    }

    fn now(&self) -> u64 {
        self.now
    }
}

/// What a driver checks about ESP of the connection's inbound SA; `slot` is the connection's index.
fn inbound_endpoint(connection: &Connection, slot: u32) -> InboundEndpoint {
    let (encapsulation, local_port, remote_port) = match connection.encapsulation {
        Encapsulation::None if connection.protocol == IpsecProtocol::Ah => (Carrier::Ah, 0, 0),
        Encapsulation::None => (Carrier::None, 0, 0),
        Encapsulation::Udp {
            local_port,
            remote_port,
        } => (Carrier::Udp, local_port, remote_port),
    };
    InboundEndpoint {
        local: to_address(connection.local),
        remote: to_address(connection.remote),
        slot,
        local_port,
        remote_port,
        family: if connection.local.is_ipv4() { 4 } else { 6 },
        encapsulation: encapsulation as u8,
        shortest: connection.shortest_esp(),
        verify_moved: (connection.nat.address_update != AddressUpdate::Off).into(),
        reserved: [0; 3],
    }
}
