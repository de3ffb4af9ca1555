//! What happens to a packet after the filters were asked, or instead of asking them.

use std::net::IpAddr;

use ravelin_classifier::{Host, frame_of};
use ravelin_policy::explain::{Explanation, Verdict};
use ravelin_policy::{Connection, Encapsulation, Mode, Packet, Policy, Protocol, Transport};
use ravelin_xdp_common::{Direction, DropReason, Judgement, Kind, Outcome, Pass};
use serde::Serialize;

/// [`Next::what`] of a packet that cannot be.
pub(crate) const IMPOSSIBLE: &str = "impossible";

/// What the driver does with the packet.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Next {
    /// `pass`, `drop`, `seal` or `open`; `impossible` for what cannot be on a wire.
    pub(crate) what: &'static str,
    /// The counter that `ravelin status` shows it under.
    pub(crate) counter: Option<&'static str>,
    /// Whether it is decided before the filters are asked.
    pub(crate) before_filters: bool,
    /// A sentence.
    pub(crate) text: String,
    /// What else to know: what would happen under other circumstances.
    pub(crate) notes: Vec<String>,
}

/// What happens next, by the drivers' own decision about a frame with these selector values.
pub(crate) fn next(policy: &Policy, host: &mut Host, explanation: &Explanation<'_>) -> Next {
    let packet = &explanation.packet;
    let Some(frame) = frame_of(packet) else {
        return Next {
            what: IMPOSSIBLE,
            counter: None,
            before_filters: true,
            text: format!(
                "No such packet exists: in IPv6, {} introduces an extension header and is never the protocol of a packet.",
                packet.protocol
            ),
            notes: Vec::new(),
        };
    };
    let judgement = host.judge(&frame, explanation.direction);
    let mut next = outcome(policy, explanation, &judgement);
    next.notes = notes(policy, host, explanation, &frame, &judgement);
    next
}

fn outcome(policy: &Policy, explanation: &Explanation<'_>, judgement: &Judgement) -> Next {
    let inbound = explanation.direction == Direction::Inbound;
    let (what, counter, before_filters, text) = match judgement.outcome() {
        Outcome::Pass(Pass::Lifeline) => (
            "pass",
            Some(Pass::Lifeline.name()),
            true,
            format!(
                "{} It passes to the kernel whatever the filters say.",
                lifeline(&explanation.packet)
            ),
        ),
        Outcome::Pass(Pass::Exempt) => (
            "pass",
            Some(Pass::Exempt.name()),
            true,
            format!(
                "The policy's exemptions (level {}) keep filters from seeing it: it passes to the kernel.",
                policy.exemptions().level()
            ),
        ),
        Outcome::Pass(Pass::Audit) => (
            "pass",
            Some(Pass::Audit.name()),
            false,
            format!(
                "It would be dropped as {}, but {} in audit mode: it is counted, and passes to the kernel.",
                judgement.reason.name(),
                if policy.audit() {
                    "the policy is"
                } else {
                    "the rule is"
                }
            ),
        ),
        Outcome::Pass(kind) => ("pass", Some(kind.name()), false, passes(policy, explanation)),
        Outcome::Drop(reason) => (
            "drop",
            Some(reason.name()),
            false,
            drops(policy, explanation, reason),
        ),
        Outcome::Redirect(metadata) if metadata.kind == Kind::Moved => (
            "open",
            None,
            true,
            "It is ESP of a known SA, but not from its peer's address and port: its worker finds out whether it is authentic, and \
             the connection's address-update says what becomes of it then."
                .to_owned(),
        ),
        Outcome::Redirect(_) if inbound => (
            "open",
            None,
            true,
            "It is ESP of a known SA and goes to its worker.".to_owned(),
        ),
        Outcome::Redirect(metadata) => {
            let text = policy.connections().get(metadata.slot as usize).map_or_else(
                || "It is sealed.".to_owned(),
                |connection| {
                    format!(
                        "It is sealed with connection `{}` and leaves the outer device as ESP: {}.",
                        connection.name,
                        carried(connection, true)
                    )
                },
            );
            ("seal", None, false, text)
        }
    };
    Next {
        what,
        counter,
        before_filters,
        text,
        notes: Vec::new(),
    }
}

fn lifeline(packet: &Packet) -> &'static str {
    if Protocol(packet.protocol) == Protocol::ICMP6 {
        "It is neighbour discovery for this machine or its link (lifeline)."
    } else {
        "It is IKE of this machine (lifeline)."
    }
}

fn passes(policy: &Policy, explanation: &Explanation<'_>) -> String {
    match explanation.verdict {
        Verdict::Protect {
            connection,
            accept_unsecured: true,
        } => format!(
            "It passes to the kernel in the clear, because the rule accepts unsecured packets; the answer must be \
             protected with connection `{}`.",
            name(policy, connection)
        ),
        _ => "It passes to the kernel in the clear.".to_owned(),
    }
}

fn drops(policy: &Policy, explanation: &Explanation<'_>, reason: DropReason) -> String {
    match (reason, explanation.verdict) {
        (DropReason::ClearNotAllowed, Verdict::Protect { connection, .. }) => {
            let carried = policy
                .connections()
                .get(connection)
                .map_or_else(String::new, |connection| carried(connection, false));
            format!(
                "In the clear it is dropped: such packets are accepted only inside ESP of connection `{}`: {carried}.",
                name(policy, connection)
            )
        }
        (DropReason::FragmentUnknown, _) => {
            let told = match explanation.packet.source {
                IpAddr::V4(_) => "the ports",
                IpAddr::V6(_) => "protocol and ports",
            };
            format!(
                "It is dropped, unless its first fragment came before it and told {told}: then it shares that one's verdict."
            )
        }
        _ => "It is dropped silently.".to_owned(),
    }
}

fn name(policy: &Policy, connection: usize) -> &str {
    policy
        .connections()
        .get(connection)
        .map_or("", |connection| connection.name.as_str())
}

/// How a connection's ESP travels, as seen from here.
fn carried(connection: &Connection, outbound: bool) -> String {
    let (from, to, sa) = if outbound {
        (connection.local, connection.remote, &connection.keys.outbound)
    } else {
        (connection.remote, connection.local, &connection.keys.inbound)
    };
    let mode = match connection.mode {
        Mode::Tunnel => "tunnel",
        Mode::Transport => "transport mode",
    };
    let encapsulation = match connection.encapsulation {
        Encapsulation::None => "",
        Encapsulation::Udp { .. } => ", in UDP",
    };
    format!(
        "{mode} from {from} to {to}{encapsulation}, {}, SPI {}",
        connection.keys.algorithm, sa.spi
    )
}

/// What would happen under circumstances that the packet's text does not tell.
fn notes(
    policy: &Policy,
    host: &mut Host,
    explanation: &Explanation<'_>,
    frame: &[u8],
    judgement: &Judgement,
) -> Vec<String> {
    let mut notes = Vec::new();
    let packet = &explanation.packet;
    let own = host.sends_itself() && explanation.direction == Direction::Outbound;
    if explanation.direction == Direction::Outbound && !own {
        let egress = host.judge_egress(frame);
        notes.extend(sent_by_this_machine(judgement, &egress));
    }
    let near = if own { packet.source } else { packet.destination };
    if judgement.outcome() != Outcome::Pass(Pass::Lifeline)
        && host.judge_with_own(frame, explanation.direction, near) == Outcome::Pass(Pass::Lifeline)
    {
        notes.push(format!(
            "If {near} is an address of this machine (--me {near}), the packet passes before the filters: {}",
            lifeline(packet)
        ));
    }
    if explanation.direction == Direction::Inbound {
        notes.extend(encapsulated(policy, packet));
    }
    if packet.transport == Transport::LaterFragment
        && judgement.outcome() != Outcome::Drop(DropReason::FragmentUnknown)
    {
        notes.push(
            "That is without its first fragment. If that one came before it, this one shares its verdict."
                .to_owned(),
        );
    }
    notes
}

/// The hook on the outer device judges what the machine itself sends.
fn sent_by_this_machine(forwarded: &Judgement, own: &Judgement) -> Option<String> {
    match (forwarded.outcome(), own.outcome()) {
        (Outcome::Redirect(_), Outcome::Drop(reason)) => Some(format!(
            "That is for packets from the inner device. Sent by this machine itself it would leave the outer device in \
             the clear, and is dropped there as {}.",
            reason.name()
        )),
        (Outcome::Drop(_), Outcome::Pass(_)) => Some(
            "That is for packets from the inner device. What this machine itself sends is only stopped where it must \
             be protected."
                .to_owned(),
        ),
        _ => None,
    }
}

/// ESP is told apart by what the selector values do not hold.
fn encapsulated(policy: &Policy, packet: &Packet) -> Option<String> {
    let udp = Protocol(packet.protocol) == Protocol::UDP
        && matches!(packet.transport, Transport::Ports(from, to) if from == 4500 || to == 4500);
    if !udp && Protocol(packet.protocol) != Protocol::ESP {
        return None;
    }
    let connection = policy.connections().iter().find(|connection| {
        (connection.local, connection.remote) == (packet.destination, packet.source)
            && matches!(connection.encapsulation, Encapsulation::Udp { .. }) == udp
    })?;
    Some(format!(
        "ESP with SPI {} from {} is connection `{}` and goes to its worker before the filters are asked.",
        connection.keys.inbound.spi, connection.remote, connection.name
    ))
}
