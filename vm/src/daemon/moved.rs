//! A NAT gives the kernel another port: it sends from there, and hears nothing elsewhere any more.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::engine::{Engine, Peer};
use crate::{
    case::{Case, Direction, Generation},
    hosts::{Hosts, PATIENCE},
    topology::Topology,
    xfrm,
};

/// Their port from now on.
const PORT: u16 = 4522;

/// A UDP-encapsulated case over each family.
pub(super) fn cases(cases: &[Case]) -> Vec<Case> {
    let mut chosen: Vec<Case> = Vec::new();
    for case in cases.iter().filter(|case| case.udp) {
        if chosen.iter().all(|other| other.outer() != case.outer()) {
            chosen.push(*case);
        }
    }
    chosen
}

/// Gives them another port in the SAs of the cases.
pub(super) fn move_port(topology: &mut Topology, cases: &[Case]) -> Result<()> {
    topology.hear_at(PORT)?;
    let lines = |case| xfrm::change_port(case, Generation::Second, PORT);
    topology.theirs.ip(&cases.iter().map(lines).collect::<String>())
}

/// RFC 7296 section 2.23: as long as nobody has asked to follow, it is told and nothing is taken.
pub(super) fn is_told(topology: &Topology, engine: &Engine, case: &Case) -> Result<()> {
    let hosts = Hosts::new(topology, case.addresses())?;
    hosts.send(Direction::ToOurs, b"from elsewhere")?;
    let peer = await_peer(engine, case, |_| true)?;
    ensure!(
        peer == (Peer {
            port: PORT,
            followed: false
        }),
        "{peer:?}"
    );
    let delivered = hosts.expect_until(Direction::ToOurs, b"from elsewhere", Instant::now());
    ensure!(delivered.is_err(), "it was delivered");
    Ok(())
}

/// With `address-update = "port"` both directions work.
pub(super) fn is_followed(topology: &Topology, engine: &Engine, case: &Case) -> Result<()> {
    let hosts = Hosts::new(topology, case.addresses())?;
    hosts.deliver(Direction::ToOurs, b"from there")?;
    let peer = await_peer(engine, case, |peer| peer.followed)?;
    ensure!(peer.port == PORT, "{peer:?}");
    for word in [&b"to there"[..], b"and again"] {
        hosts.deliver(Direction::ToTheirs, word)?;
        hosts.deliver(Direction::ToOurs, word)?;
    }
    Ok(())
}

fn await_peer(engine: &Engine, case: &Case, is_there: impl Fn(Peer) -> bool) -> Result<Peer> {
    let start = Instant::now();
    loop {
        let peers = engine.status()?.peers;
        let peer = peers.get(&super::policy::name(case)).copied();
        if let Some(peer) = peer.filter(|peer| is_there(*peer)) {
            return Ok(peer);
        }
        ensure!(start.elapsed() < PATIENCE, "the peer is seen at {peer:?}");
        thread::sleep(Duration::from_millis(50));
    }
}
