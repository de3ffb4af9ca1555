//! A device that is given other receive queues while an engine filters it.

use crate::support::echo::Echo;
use crate::support::hosts::{B, CLEAR_PORT, Hosts};
use crate::support::lab::PORT;
use crate::support::wait_until;

/// Datagrams to each service, each from another port: enough for every queue to get some.
const SENT: usize = 80;

/// veth begins to receive on new queues without the program that it has: what comes in by them must be filtered all the same.
#[test]
fn new_receive_queues_are_filtered_like_the_old_ones() {
    for edge in ["tun", "veth"] {
        let hosts = Hosts::with_queues(4).with_edge(edge);
        // Fewer on the way there first: XDP wants a queue for each of the peer's.
        hosts.wire.run("ethtool", &["-L", "to-b", "rx", "4", "tx", "2"]);
        hosts.b.run("ethtool", &["-L", "eth0", "rx", "2", "tx", "2"]);
        let b = hosts.host(1, str::to_owned);
        let daemon = b.start();
        // A protects nothing: whatever it sends there is in the clear.
        let (protected, permitted) = (Echo::start(&hosts.b, PORT), Echo::start(&hosts.b, CLEAR_PORT));
        let mut arrived = 0;
        let mut send = |what: &str| {
            let dropped = daemon.drops("clear_not_allowed");
            for number in 0..SENT {
                protected.udp_one_way(&hosts.a, B[0], &[number as u8; 100]);
                permitted.udp_one_way(&hosts.a, B[0], &[number as u8; 100]);
            }
            arrived += SENT;
            wait_until(what, || {
                permitted.received().len() == arrived
                    && daemon.drops("clear_not_allowed") >= dropped + SENT as u64
            });
            assert_eq!(protected.received(), Vec::<Vec<u8>>::new(), "{what}");
        };
        send("with the queues of the start");
        // Whatever it is called by then.
        hosts.b.ip("link set eth0 name wan0");
        hosts.b.run("ethtool", &["-L", "wan0", "rx", "4", "tx", "4"]);
        wait_until("the engine to notice", || {
            daemon.log().contains("wan0 has 4 receive queues, 2 before")
        });
        hosts.wire.run("ethtool", &["-L", "to-b", "rx", "4", "tx", "4"]);
        send("with all queues");
    }
}
