//! The path MTU that a connection has learned from the ICMP errors of routers (RFC 1191, RFC 8201, RFC 4301 section 8.2).
//!
//! Such errors are not authenticated, and whoever can make a gateway believe one slows its tunnels down. RFC 4301
//! section 8.2: "an IPsec implementation SHOULD … determine" which SA they are about. Here an error counts only if it quotes
//! a packet that the connection's outbound SA has sent lately: its addresses, ports, SPI and sequence number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ravelin_esp::Encapsulation;
use ravelin_esp::checksum::Sum;
use ravelin_xdp_common::{DropReason, IcmpQuote, InboundEndpoint, IpPacket, SliceReader, parse_ip};
use ravelin_xsk::Port;

use crate::adjacency::Snapshot;
use crate::forwarder::Forwarder;
use crate::regime::Regime;

/// How long a path MTU counts. RFC 1191 section 6.3 and RFC 8201 section 5.3 want to know after ten minutes whether it has grown.
const LIFETIME: Duration = Duration::from_mins(10);

/// A quoted packet is one of this many that were sent last: of those that could be under way.
const RECENT: u64 = 1 << 20;

/// The least that IPv4 and IPv6 paths are believed to be: what every host takes (RFC 791), what every link has (RFC 8200
/// section 5). Less would serve an attacker more than a path.
const LEAST: [u32; 2] = [576, 1280];

/// What an old router, which names no MTU, may have meant: RFC 1191 section 7.1.
const PLATEAUS: [u32; 8] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006];

/// What is known of the path to a peer, for all workers and all SAs that a connection has one after the other.
#[derive(Debug)]
pub struct PathMtu {
    since: Instant,
    /// Above the MTU's 16 bits the second, from `since`, at which it ends; 0 for nothing known.
    state: AtomicU64,
}

impl PathMtu {
    /// Nothing known.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            state: AtomicU64::new(0),
        }
    }

    /// The longest packet in bytes that the path is known to take; `None` if the device's MTU holds.
    #[inline]
    pub(crate) fn learned(&self, now: Instant) -> Option<u32> {
        let state = self.state.load(Ordering::Relaxed);
        (state != 0 && self.second(now) < state >> 16).then_some(state as u32 & 0xffff)
    }

    fn learn(&self, mtu: u16, now: Instant) {
        let until = self.second(now + LIFETIME);
        self.state.store(until << 16 | u64::from(mtu), Ordering::Relaxed);
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs()
    }
}

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Takes an ICMP error about a packet of the outbound SA of a pair, from its IP header on.
    pub(crate) fn learn_path_mtu(
        &mut self,
        bytes: &[u8],
        pair: u32,
        (regime, snapshot): (&Regime, &Snapshot),
        now: Instant,
    ) {
        match self.believe(bytes, pair, (regime, snapshot), now) {
            Ok(()) => self.counters.path_mtus.add(1),
            Err(reason) => self.counters.dropped(reason),
        }
    }

    fn believe(
        &mut self,
        bytes: &[u8],
        pair: u32,
        (regime, snapshot): (&Regime, &Snapshot),
        now: Instant,
    ) -> Result<(), DropReason> {
        let unproven = DropReason::IcmpUnproven;
        let quote = read(bytes).ok_or(unproven)?;
        let inbound = regime.inbound(pair).ok_or(unproven)?;
        let connection = regime.connection(inbound.connection).ok_or(unproven)?;
        let outbound = connection.outbound.as_ref().ok_or(unproven)?;
        let sent = outbound.sa.sequence().last_used();
        if outbound.sa.spi() != quote.spi
            || !is_between(&inbound.endpoint, &quote)
            || !has_ports(outbound.sa.encapsulation(), &quote)
            || !is_recent(quote.sequence, sent)
        {
            return Err(unproven);
        }
        let mtu = meant(&quote).ok_or(unproven)?;
        // RFC 8201 section 4: "A node MUST NOT increase its estimate of the Path MTU in response to the contents of a Packet Too
        // Big message."
        let present = connection.outer_mtu(snapshot.outer.mtu, now);
        if mtu >= present {
            return Err(DropReason::IcmpNoNews);
        }
        if !self.quote_budget.take(now) {
            return Err(DropReason::IcmpTooOften);
        }
        // Not reached: the quoted packet was longer, and IP packets have at most 65,535 bytes.
        let mtu = u16::try_from(mtu).map_err(|_| unproven)?;
        connection.path.learn(mtu, now);
        Ok(())
    }
}

/// The quote in an ICMP error whose checksum is right.
fn read(bytes: &[u8]) -> Option<IcmpQuote> {
    let mut packet = IpPacket::EMPTY;
    parse_ip(&SliceReader(bytes), &mut packet).ok()?;
    let mut quote = IcmpQuote::EMPTY;
    if !IcmpQuote::is_in(&packet) || !quote.read(&SliceReader(bytes), &packet) {
        return None;
    }
    let icmp = bytes.get(packet.upper_offset.into()..)?;
    let sum = Sum::default().add(icmp);
    let sum = match quote.family {
        4 => sum,
        // RFC 4443 section 2.3: with the pseudo-header.
        _ => sum
            .add(bytes.get(8..40)?)
            .add(&(icmp.len() as u32).to_be_bytes())
            .add_word(58),
    };
    (sum.checksum() == 0).then_some(quote)
}

/// Whether a quoted packet went the way back of those that an inbound SA takes.
fn is_between(endpoint: &InboundEndpoint, quote: &IcmpQuote) -> bool {
    (endpoint.local, endpoint.remote) == (quote.local, quote.remote)
        && endpoint.encapsulation == quote.encapsulation
        && endpoint.family == quote.family
}

/// Whether it has the ports that the outbound SA uses at the moment: peers behind a NAT move.
fn has_ports(encapsulation: Encapsulation, quote: &IcmpQuote) -> bool {
    let quoted = (quote.local_port, quote.remote_port);
    match encapsulation {
        Encapsulation::None => quoted == (0, 0),
        Encapsulation::Udp {
            source_port,
            destination_port,
        } => quoted == (source_port, destination_port),
    }
}

/// Whether the low half of a sequence number is of one of the last that were sent.
fn is_recent(low: u32, sent: u64) -> bool {
    let back = (sent as u32).wrapping_sub(low);
    u64::from(back) < RECENT.min(sent)
}

/// The MTU that a router means; `None` if the quoted packet would have fitted it, or no path can be meant.
fn meant(quote: &IcmpQuote) -> Option<u32> {
    let least = LEAST[usize::from(quote.family == 6)];
    // RFC 8201 section 4: "If a node receives a Packet Too Big message reporting a next-hop MTU that is less than the IPv6 minimum
    // link MTU, it must discard it."
    if quote.family == 6 && quote.mtu < least {
        return None;
    }
    let mtu = if quote.mtu == 0 && quote.family == 4 {
        let plateau = PLATEAUS.iter().find(|plateau| **plateau < quote.length);
        plateau.copied().unwrap_or(least)
    } else {
        quote.mtu
    };
    let mtu = mtu.max(least);
    (mtu < quote.length).then_some(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_ends_after_ten_minutes() {
        let start = Instant::now();
        let path = PathMtu::new(start);
        assert_eq!(path.learned(start), None);
        path.learn(1300, start + Duration::from_secs(5));
        assert_eq!(path.learned(start + Duration::from_secs(604)), Some(1300));
        assert_eq!(path.learned(start + Duration::from_secs(605)), None);
        path.learn(1280, start + Duration::from_secs(700));
        path.learn(u16::MAX, start + Duration::from_secs(800));
        assert_eq!(path.learned(start + Duration::from_secs(1399)), Some(65_535));
        assert_eq!(path.learned(start + Duration::from_secs(1400)), None);
    }

    #[test]
    fn only_numbers_that_were_sent_lately_prove_something() {
        assert!(!is_recent(0, 0) && !is_recent(1, 0) && !is_recent(u32::MAX, 0));
        assert!(is_recent(1, 1) && !is_recent(0, 1) && !is_recent(2, 1));
        assert!(is_recent(1, RECENT) && !is_recent(1, RECENT + 1) && is_recent(2, RECENT + 1));
        // Across the low half's end.
        let sent = (1 << 32) + 5;
        assert!(is_recent(u32::MAX, sent) && is_recent(5, sent) && !is_recent(6, sent));
    }

    #[test]
    fn old_routers_and_small_numbers() {
        let quote = |family, mtu, length| {
            meant(&IcmpQuote {
                family,
                mtu,
                length,
                ..IcmpQuote::EMPTY
            })
        };
        assert_eq!(quote(4, 1400, 1500), Some(1400));
        assert_eq!(quote(4, 1500, 1500), None);
        // RFC 1191 section 7: the greatest plateau below the packet's length.
        assert_eq!(quote(4, 0, 1500), Some(1492));
        assert_eq!(quote(4, 0, 1492), Some(1006));
        assert_eq!(quote(4, 0, 1006), Some(576));
        assert_eq!(quote(4, 0, 576), None);
        assert_eq!(quote(4, 68, 1500), Some(576));
        assert_eq!(quote(6, 1300, 1500), Some(1300));
        assert_eq!(quote(6, 1280, 1500), Some(1280));
        for mtu in [0, 68, 1000, 1279] {
            assert_eq!(quote(6, mtu, 1500), None);
        }
        assert_eq!(quote(6, u32::MAX, 1500), None);
    }
}
