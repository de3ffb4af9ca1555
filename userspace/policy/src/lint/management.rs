//! Whether the machine can still be managed from where it is managed now.

use ravelin_xdp_common::Direction;

use super::Notes;
use crate::address::Family;
use crate::diagnostic::Position;
use crate::lifeline::Management;
use crate::packet::Packet;
use crate::policy::Policy;
use crate::protocol::Protocol;
use crate::rule::{Action, DefaultAction};
use crate::space::{Arrangement, Budget, Exhausted, Placed, Plane, Region};

/// Steps for each connection.
const STEPS: u64 = 1_000_000;

/// Ports that clients connect from (all that Linux, BSD and RFC 6056 use).
const CLIENT_PORTS: (u16, u16) = (1024, 65_535);

pub(super) fn check(
    policy: &Policy,
    arrangement: &Arrangement<'_>,
    management: &Management,
    notes: &mut Notes<'_>,
) {
    let family = Family::of(management.own);
    if family != Family::of(management.client) {
        return;
    }
    for direction in [Direction::Inbound, Direction::Outbound] {
        let plane = Plane {
            direction,
            family,
            fragment: false,
        };
        match locked_out(policy, arrangement, management.region(plane), plane) {
            Err(Exhausted) => notes.unexamined += 1,
            Ok(None) => {}
            Ok(Some((packet, placed))) => {
                let position = placed.map_or(
                    Position {
                        file: 0,
                        line: 1,
                        column: 1,
                    },
                    |placed| placed.filter.position,
                );
                notes.lock_out(position, message(policy, management, &packet, placed));
                // The way back is of no use without the way there.
                return;
            }
        }
    }
}

/// A packet of the region that does not pass in the clear, and the filter that decides it.
fn locked_out<'a, 'p>(
    policy: &Policy,
    arrangement: &'a Arrangement<'p>,
    region: Region,
    plane: Plane,
) -> Result<Option<(Packet, Option<&'a Placed<'p>>)>, Exhausted> {
    let mut budget = Budget::new(STEPS);
    let mut open = vec![region];
    while let Some(region) = open.pop() {
        let Some(point) = region.example(plane, 0) else {
            continue;
        };
        let winner = arrangement.best(&point, plane, u32::MAX, &mut budget)?;
        let placed = winner.and_then(|entry| arrangement.at(entry.order));
        let passes = match placed.map(|placed| (placed.rule.action, placed.rule.audit)) {
            None => policy.audit() || policy.default_action() == DefaultAction::Permit,
            Some((Action::Permit, _)) => true,
            Some((Action::Block, audit)) => audit || policy.audit(),
            Some((Action::Protect { accept_unsecured, .. }, audit)) => {
                audit || policy.audit() || (accept_unsecured && plane.direction == Direction::Inbound)
            }
        };
        if !passes {
            return Ok(Some((point.packet(plane), placed)));
        }
        arrangement.settle(region, &point, plane, winner, &mut budget, &mut open)?;
    }
    Ok(None)
}

fn message(policy: &Policy, management: &Management, packet: &Packet, placed: Option<&Placed<'_>>) -> String {
    let Management { client, own, port } = management;
    let what = match placed {
        None => "the policy's default is block".to_owned(),
        Some(placed) => match placed.rule.action {
            Action::Protect { connection, .. } => format!(
                "rule `{}` wants it inside connection `{}`",
                placed.rule.name,
                policy
                    .connections()
                    .get(connection)
                    .map_or("", |it| it.name.as_str())
            ),
            _ => format!(
                "filter {} of rule `{}` blocks it",
                placed.filter, placed.rule.name
            ),
        },
    };
    format!(
        "this locks out the management of {own} from {client} (TCP port {port}): {packet} does not pass, {what}; add \
         to `filters` of `[lifeline]`: {{ source = \"{client}\", destination = \"{own}\", protocol = \"tcp\", \
         destination-port = {port} }}"
    )
}

impl Management {
    /// The packets of its connections that go this way.
    fn region(&self, plane: Plane) -> Region {
        let whole = Region::all(plane.family);
        let towards = whole.between(self.client, self.own).with_ports(
            Protocol::TCP,
            CLIENT_PORTS,
            (self.port, self.port),
        );
        match plane.direction {
            Direction::Inbound => towards,
            Direction::Outbound => towards.reversed(),
        }
    }
}
