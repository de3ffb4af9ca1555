//! Peers that the kernel reaches by another device than the outer one.

use std::collections::BTreeMap;
use std::io;

use ravelin_policy::Policy;

use crate::device::Device;
use crate::host::name_of;
use crate::netlink::Questions;
use crate::role::Role;
use crate::route::Route;

/// Connections whose way is looked up: a start is not to wait for a hundred thousand answers.
const MOST: usize = 1024;

/// Connections that are named for each device.
const NAMED: usize = 3;

/// Warnings about connections whose packets would leave by other devices than the outer one, as where that is a port of the bridge that
/// has the addresses. What has no way yet may still get one.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub(crate) fn detours(policy: &Policy, outer: &Device, role: Role) -> io::Result<Vec<String>> {
    let mut questions = Questions::open()?;
    let mut others: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for connection in policy.connections().iter().take(MOST) {
        let route = Route::look_up(&mut questions, Some(connection.local), connection.remote)?;
        if let Route::Via(device, _) = route
            && device != outer.index
        {
            let named = others.entry(device).or_default();
            named.push(format!("`{}` ({})", connection.name, connection.remote));
        }
    }
    let outer = &outer.name;
    let warnings = others.into_iter().map(|(index, connections)| {
        let device = name_of(index).unwrap_or_else(|| format!("number {index}"));
        let more = connections.len().saturating_sub(NAMED);
        let mut named = connections[..connections.len() - more].join(", ");
        if more > 0 {
            named += &format!(" and {more} more");
        }
        let fate = match role {
            // Of a bridge that has the addresses, the outer device is one port; the filter sees what leaves by that one.
            Role::Host => format!(
                "the rules hold on {outer} alone, so what they protect leaves by any other device in the clear, and what leaves by {outer} \
                 is dropped (no_route)"
            ),
            // Workers take it from the inner device, wherever its route leads.
            Role::Filter | Role::Gateway => "what they protect is dropped (no_route)".to_owned(),
        };
        format!(
            "the way to the peers of connections {named} is by device {device}, not by the outer device {outer}: {fate}. Name the device that has the addresses and the routes as the outer one (`--outer {device}`, or `outer` in \
             `[interfaces]`), or move addresses and routes to {outer}; a bridge or a VLAN device cannot be the outer device of a host \
             (`--mode host`)"
        )
    });
    Ok(warnings.collect())
}
