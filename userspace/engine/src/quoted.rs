//! ICMP errors, as workers judge them: by the packets that they quote, where their own headers are not enough (RFC 4301 section 6.2).
//!
//! A rule that protects holds for both directions. So the quoted packet is judged as it went, and no selectors are turned round.

use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Decision, Direction, Flow, IpPacket, SliceReader, Verdict};

use crate::regime::Regime;

impl Regime {
    /// What holds for an ICMP error that this machine makes about a packet that it has opened.
    ///
    /// "an IPsec implementation MUST map the message to the SA that would carry the return traffic associated with the packet that
    /// triggered the ICMP error message." What a rule protects or blocks by its own header stays so.
    pub(crate) fn judge_own_error(&self, bytes: &[u8], packet: &IpPacket) -> Verdict {
        let own = self.rules().classify(&packet.flow, Direction::Outbound);
        if own.decision == Decision::Protect || is_blocked_by_rule(&own) {
            return own;
        }
        self.quoted(bytes, packet, Direction::Inbound)
            .filter(|(_, said)| said.decision == Decision::Protect)
            .map_or(own, |(_, said)| said)
    }

    /// What holds for a packet that an SA of `connection` has brought, and of whose own header `own` is said.
    ///
    /// "the receiver must extract the header of the triggering packet from the ICMP payload, and reverse fields as described above to
    /// determine if the packet is consistent with the selectors for the SA via which the ICMP error message was received." The error has
    /// to be for the sender of that packet, too: else a peer could reach any host behind this machine.
    #[cold]
    pub(crate) fn judge_opened_error(
        &self,
        own: Verdict,
        connection: Option<u32>,
        bytes: &[u8],
        packet: &IpPacket,
    ) -> Verdict {
        if !packet.is_icmp_error() || Some(own.connection) == connection || is_blocked_by_rule(&own) {
            return own;
        }
        self.quoted(bytes, packet, Direction::Outbound)
            .filter(|(quoted, said)| {
                quoted.source == packet.flow.destination
                    && said.decision == Decision::Protect
                    && Some(said.connection) == connection
            })
            .map_or(own, |(_, said)| said)
    }

    /// The packet that an ICMP error quotes, which went in this direction, and what the rules say about it.
    fn quoted(&self, bytes: &[u8], packet: &IpPacket, direction: Direction) -> Option<(Flow, Verdict)> {
        let quoted = packet.quoted(&SliceReader(bytes))?;
        Some((quoted, self.rules().classify(&quoted, direction)))
    }
}

fn is_blocked_by_rule(verdict: &Verdict) -> bool {
    verdict.decision == Decision::Block && verdict.rule_id != NO_RULE
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ravelin_classifier::compile;
    use ravelin_policy::Policy;
    use ravelin_xdp_common::parse_ip;

    use super::*;

    const HERE: [u8; 4] = [10, 1, 0, 5];
    const THERE: [u8; 4] = [10, 2, 0, 5];
    const ROUTER: [u8; 4] = [10, 2, 0, 1];
    const TCP: u8 = 6;
    const UDP: u8 = 17;

    /// Protects UDP and one port of TCP, and blocks ICMP with one host.
    fn regime(default: &str) -> Regime {
        let policy = format!(
            r#"
            default = "{default}"
            [filter-lists.l]
            filters = [
                {{ source = "10.1.0.0/16", destination = "10.2.0.0/16", protocol = "udp" }},
                {{ source = "10.1.0.0/16", destination = "10.2.0.0/16", protocol = "tcp", destination-port = 443 }},
            ]
            [filter-lists.silent]
            filters = [{{ source = "10.1.9.9", destination = "10.2.0.0/16", protocol = "icmp" }}]
            [[rules]]
            name = "r"
            filter-list = "l"
            action = "protect"
            connection = "c"
            [[rules]]
            name = "silent"
            filter-list = "silent"
            action = "block"
            [connections.c]
            mode = "tunnel"
            local = "192.0.2.1"
            remote = "192.0.2.2"
            [connections.c.static]
            algorithm = "aes-256-gcm"
            outbound = {{ spi = 0x1001, key-file = "a" }}
            inbound = {{ spi = 0x1002, key-file = "b" }}
            "#
        );
        let (policy, _) = Policy::parse(&policy, "test").unwrap();
        Regime::new(1, Arc::new(compile(&policy).unwrap()), [], [])
    }

    fn ip(ends: [[u8; 4]; 2], protocol: u8, upper: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 20 + upper.len() as u8, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend(ends.concat());
        packet.extend(upper);
        packet
    }

    /// "Port unreachable" about the start of a packet between these ends, to and from these ports, as far as `quoted` bytes go.
    fn error(ends: [[u8; 4]; 2], about: ([[u8; 4]; 2], u8, u16), quoted: usize) -> (Vec<u8>, IpPacket) {
        let (quoted_ends, protocol, port) = about;
        let ports = [[0x9c, 0x40], port.to_be_bytes()].concat();
        let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
        icmp.extend(&ip(quoted_ends, protocol, &[ports, vec![0; 16]].concat())[..quoted]);
        let bytes = ip(ends, 1, &icmp);
        let mut packet = IpPacket::EMPTY;
        parse_ip(&SliceReader(&bytes), &mut packet).unwrap();
        (bytes, packet)
    }

    #[test]
    fn an_error_about_an_opened_packet_is_protected_like_that() {
        for default in ["permit", "block"] {
            let regime = regime(default);
            let judge = |from, about, quoted| {
                let (bytes, packet) = error([from, THERE], about, quoted);
                regime.judge_own_error(&bytes, &packet).decision
            };
            let open = regime.rules().header().default_action;
            let unprotected = if open == ravelin_xdp_common::Action::Permit {
                Decision::Permit
            } else {
                Decision::Block
            };
            let came = [THERE, HERE];
            assert_eq!(judge(HERE, (came, UDP, 53), 28), Decision::Protect);
            // A rule without ports needs none.
            assert_eq!(judge(HERE, (came, UDP, 53), 20), Decision::Protect);
            assert_eq!(judge(HERE, (came, TCP, 80), 28), unprotected);
            assert_eq!(judge(HERE, (came, TCP, 443), 20), unprotected);
            assert_eq!(judge(HERE, (came, UDP, 53), 19), unprotected);
            assert_eq!(judge([10, 1, 9, 9], (came, UDP, 53), 28), Decision::Block);
        }
    }

    #[test]
    fn an_error_is_accepted_from_the_connection_that_the_quoted_packet_went_by() {
        for default in ["permit", "block"] {
            let regime = regime(default);
            let accepted = |ends, about, quoted, connection| {
                let (bytes, packet) = error(ends, about, quoted);
                let own = regime.rules().classify(&packet.flow, Direction::Inbound);
                let verdict = regime.judge_opened_error(own, Some(connection), &bytes, &packet);
                assert!(verdict == own || verdict.connection == connection);
                verdict != own
            };
            let went = [HERE, THERE];
            for (ends, about, quoted, connection, expected) in [
                ([THERE, HERE], (went, UDP, 53), 28, 0, true),
                // From a router behind the peer.
                ([ROUTER, HERE], (went, UDP, 53), 28, 0, true),
                ([ROUTER, HERE], (went, TCP, 443), 28, 0, true),
                ([ROUTER, HERE], (went, UDP, 53), 20, 0, true),
                // By another connection, for another host, about what goes in the clear, or cannot be told.
                ([ROUTER, HERE], (went, UDP, 53), 28, 1, false),
                ([ROUTER, [10, 1, 0, 6]], (went, UDP, 53), 28, 0, false),
                ([ROUTER, HERE], (went, TCP, 80), 28, 0, false),
                ([ROUTER, HERE], (went, TCP, 443), 20, 0, false),
                ([ROUTER, HERE], (went, UDP, 53), 19, 0, false),
                // About a packet that came.
                ([ROUTER, THERE], ([THERE, HERE], UDP, 53), 28, 0, false),
                // ICMP with that host is blocked.
                (
                    [THERE, [10, 1, 9, 9]],
                    ([[10, 1, 9, 9], THERE], UDP, 53),
                    28,
                    0,
                    false,
                ),
            ] {
                let found = accepted(ends, about, quoted, connection);
                assert_eq!(found, expected, "{default} {ends:?} {about:?} {quoted}");
            }
            // What is no error quotes nothing, whatever follows.
            let (mut bytes, _) = error([ROUTER, HERE], (went, UDP, 53), 28);
            bytes[20] = 8;
            let mut packet = IpPacket::EMPTY;
            parse_ip(&SliceReader(&bytes), &mut packet).unwrap();
            let own = regime.rules().classify(&packet.flow, Direction::Inbound);
            assert_eq!(regime.judge_opened_error(own, Some(0), &bytes, &packet), own);
        }
    }
}
