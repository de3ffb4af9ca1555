//! Our side's ESP endpoint: what is clear goes out sealed, what is ESP goes in opened.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
};

use anyhow::Result;
use ravelin_esp::InboundSa;

use super::{
    association::{Association, open, seal},
    fragments::fragments,
    port::Port,
    reassembly::Reassembly,
};
use crate::{
    boot,
    case::Direction,
    topology::{CLEAR, OUTER, OUTER_MTU, Topology},
};

/// The longest packet between our host and the gateway, in bytes: so long that what the host need not fragment reaches
/// ESP whole.
pub(crate) const CLEAR_MTU: usize = 4000;

const ESP: u8 = 50;
const AH: u8 = 51;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// Between the clear port and the outer one.
#[derive(Debug)]
pub(crate) struct Gateway {
    clear: Port,
    outer: Port,
    /// By addresses of clear packets: ours, theirs.
    flows: RwLock<HashMap<[IpAddr; 2], Arc<Association>>>,
    /// By SPI.
    inbound: RwLock<HashMap<u32, Inbound>>,
}

/// An SA to receive with, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    pub(crate) sa: Arc<InboundSa>,
    pub(crate) association: Arc<Association>,
}

impl Gateway {
    /// Starts both directions in the middle of `topology`, which run until the machine goes off.
    pub(crate) fn start(topology: &Topology) -> Result<Arc<Self>> {
        // Nothing but this must answer there.
        topology.wire.sysctl(&[("ipv6/conf/all/disable_ipv6", "1")])?;
        let [ours, theirs] = Topology::peers();
        let clear = topology.wire.enter(|| Port::open(CLEAR, ours))?;
        let outer = topology.wire.enter(|| Port::open(OUTER, theirs))?;
        let gateway = Arc::new(Self {
            clear,
            outer,
            flows: RwLock::default(),
            inbound: RwLock::default(),
        });
        for run in [Self::run_outbound, Self::run_inbound] {
            let gateway = Arc::clone(&gateway);
            thread::spawn(move || {
                // Without the gateway every case would wait in vain.
                if let Err(error) = run(&gateway) {
                    eprintln!("vm: gateway: {error:#}");
                    boot::power_off();
                }
            });
        }
        Ok(gateway)
    }

    /// Protects packets between `addresses`.
    pub(crate) fn add_flow(&self, addresses: [IpAddr; 2], association: Arc<Association>) {
        write(&self.flows).insert(addresses, association);
    }

    /// Takes what arrives with the SPI of `inbound`.
    pub(crate) fn arm(&self, inbound: Inbound) {
        write(&self.inbound).insert(inbound.sa.spi(), inbound);
    }

    /// Takes it no longer.
    pub(crate) fn disarm(&self, spi: u32) {
        write(&self.inbound).remove(&spi);
    }

    /// Puts an ESP packet on the wire.
    pub(crate) fn send_sealed(&self, packet: &[u8]) -> Result<()> {
        fragments(packet, OUTER_MTU)?
            .iter()
            .try_for_each(|fragment| self.outer.send(fragment))
    }

    /// Hands an opened packet to our host.
    pub(crate) fn send_clear(&self, packet: &[u8]) -> Result<()> {
        fragments(packet, CLEAR_MTU)?
            .iter()
            .try_for_each(|fragment| self.clear.send(fragment))
    }

    fn run_outbound(&self) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let clear = self.clear.receive(&mut buffer)?;
            let association =
                addresses(clear).and_then(|addresses| read(&self.flows).get(&addresses).cloned());
            // Other packets are the hosts' own affair, such as multicast listener reports.
            let Some(association) = association else { continue };
            match seal(&association.outbound(), clear) {
                Ok(sealed) => {
                    if let Some(sealed) = association.unless_held_outbound(clear, sealed) {
                        self.send_sealed(&sealed)?;
                    }
                }
                Err(reason) => association.drop_packet(Direction::ToTheirs, reason),
            }
        }
    }

    fn run_inbound(&self) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let mut reassembly = Reassembly::default();
        loop {
            let packet = self.outer.receive(&mut buffer)?;
            let Some(sealed) = reassembly.add(packet) else {
                continue;
            };
            let inbound = spi(&sealed).and_then(|spi| read(&self.inbound).get(&spi).cloned());
            let Some(Inbound { sa, association }) = inbound else {
                continue;
            };
            if let Some(sealed) = association.unless_held_inbound(sealed) {
                match open(&sa, &sealed) {
                    Ok(clear) => self.send_clear(&clear)?,
                    Err(reason) => association.drop_packet(Direction::ToOurs, reason),
                }
            }
        }
    }
}

/// Source and destination of an IP packet.
fn addresses(packet: &[u8]) -> Option<[IpAddr; 2]> {
    match packet.first()? >> 4 {
        4 => {
            let (addresses, _) = packet.get(12..20)?.as_chunks::<4>();
            Some([addresses[0].into(), addresses[1].into()])
        }
        6 => {
            let (addresses, _) = packet.get(8..40)?.as_chunks::<16>();
            Some([addresses[0].into(), addresses[1].into()])
        }
        _ => None,
    }
}

/// Where the sequence number of an ESP or AH packet starts, the SPI in front of it. Headers have no options here.
pub(crate) fn sequence_at(packet: &[u8]) -> Option<usize> {
    let (protocol, len) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, 20),
        _ => (*packet.get(6)?, 40),
    };
    match protocol {
        ESP => Some(len + 4),
        UDP => Some(len + UDP_HEADER + 4),
        AH => Some(len + 8),
        _ => None,
    }
}

fn spi(packet: &[u8]) -> Option<u32> {
    let (spi, _) = packet.split_at_checked(sequence_at(packet)?)?;
    Some(u32::from_be_bytes(*spi.last_chunk()?))
}

// The maps are only ever changed by single calls, so a panic elsewhere leaves them whole.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
