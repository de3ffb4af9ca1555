//! The traffic of real programs between the two hosts.

use super::{
    gateway::{DATAGRAMS, SITES},
    topology::{GW2_V4, HOST2_V4, HOST2_V6},
};

/// What must become of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Arrives, through this connection.
    Protected(&'static str),
    /// Arrives, in the clear, by this rule.
    Clear(&'static str),
    /// Does not arrive; the counter is the gateway's that drops it.
    Blocked(&'static str),
}

/// Which program sends what.
#[derive(Clone, Copy, Debug)]
pub(super) enum Traffic {
    Ping(&'static str),
    Tcp { to: &'static str, reverse: bool },
    Udp(&'static str),
    Download(&'static str),
    StatusPage(&'static str),
    Telnet(&'static str),
}

/// One line of the demo's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) name: &'static str,
    pub(super) traffic: Traffic,
    pub(super) fate: Fate,
}

/// All flows of the demo, each run apart, so that counters can be told apart.
pub(super) const FLOWS: &[Flow] = &[
    flow("ping IPv4", Traffic::Ping(HOST2_V4), Fate::Protected(SITES)),
    flow("ping IPv6", Traffic::Ping(HOST2_V6), Fate::Protected(SITES)),
    flow(
        "TCP IPv4 →",
        Traffic::Tcp {
            to: HOST2_V4,
            reverse: false,
        },
        Fate::Protected(SITES),
    ),
    flow(
        "TCP IPv4 ←",
        Traffic::Tcp {
            to: HOST2_V4,
            reverse: true,
        },
        Fate::Protected(SITES),
    ),
    flow(
        "TCP IPv6 →",
        Traffic::Tcp {
            to: HOST2_V6,
            reverse: false,
        },
        Fate::Protected(SITES),
    ),
    flow(
        "TCP IPv6 ←",
        Traffic::Tcp {
            to: HOST2_V6,
            reverse: true,
        },
        Fate::Protected(SITES),
    ),
    flow(
        "HTTP 64 MiB IPv4",
        Traffic::Download(HOST2_V4),
        Fate::Protected(SITES),
    ),
    flow(
        "HTTP 64 MiB IPv6",
        Traffic::Download(HOST2_V6),
        Fate::Protected(SITES),
    ),
    flow("UDP IPv4", Traffic::Udp(HOST2_V4), Fate::Protected(DATAGRAMS)),
    flow("UDP IPv6", Traffic::Udp(HOST2_V6), Fate::Protected(DATAGRAMS)),
    flow(
        "HTTP port 8080 IPv4",
        Traffic::StatusPage(HOST2_V4),
        Fate::Clear("rules.status-page.packets"),
    ),
    flow(
        "HTTP port 8080 IPv6",
        Traffic::StatusPage(HOST2_V6),
        Fate::Clear("rules.status-page.packets"),
    ),
    flow(
        "TCP port 23 IPv4",
        Traffic::Telnet(HOST2_V4),
        Fate::Blocked("drops.rule_block"),
    ),
    flow(
        "TCP port 23 IPv6",
        Traffic::Telnet(HOST2_V6),
        Fate::Blocked("drops.rule_block"),
    ),
    flow(
        "ping gw2 (no rule)",
        Traffic::Ping(GW2_V4),
        Fate::Blocked("drops.default_block"),
    ),
];

const fn flow(name: &'static str, traffic: Traffic, fate: Fate) -> Flow {
    Flow { name, traffic, fate }
}

/// What became of a flow.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) arrival: Arrival,
    pub(super) text: String,
    pub(super) gbit: Option<f64>,
}

/// How much of a flow arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// All that had to.
    Complete,
    /// Something, but not as it had to.
    Faulty,
    /// Nothing, and nothing came back.
    Silence,
}

impl Outcome {
    pub(super) fn new(arrival: Arrival, text: impl Into<String>) -> Self {
        Self {
            arrival,
            text: text.into(),
            gbit: None,
        }
    }

    pub(super) fn of(complete: bool, text: impl Into<String>) -> Self {
        Self::new(
            if complete {
                Arrival::Complete
            } else {
                Arrival::Faulty
            },
            text,
        )
    }
}
