//! What the drivers' decision makes of ESP between others, and of fragments that lie or belong to this machine's IKE.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ravelin_classifier::{Host, compile, frame_of};
use ravelin_policy::{Packet, Policy};
use ravelin_xdp_common::{Direction, DropReason, Kind, Outcome, Pass};

/// Bytes in front of the IPv4 payload, and of an IPv6 fragment's.
const V4_PAYLOAD: usize = 14 + 20;
const V6_FRAGMENT: usize = 14 + 40;

const TUNNEL: &str = r#"
[filter-lists.branch]
filters = [{ source = "10.1.0.0/16", destination = "10.2.0.0/16" }]
[[rules]]
name = "branch"
filter-list = "branch"
action = "protect"
connection = "branch"
[connections.branch]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.branch.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "a" }
inbound = { spi = 0x2001, key-file = "b" }
"#;

fn host(rules: &str) -> Host {
    let (policy, _) = Policy::parse(rules, "third-parties.toml").unwrap();
    let own = ["192.0.2.1", "192.0.2.254", "2001:db8::1"].map(|text| text.parse().unwrap());
    Host::new(&policy, compile(&policy).unwrap(), &own)
}

fn frame(packet: &str) -> Vec<u8> {
    frame_of(&packet.parse::<Packet>().unwrap()).unwrap()
}

fn with_spi(packet: &str, spi: u32) -> Vec<u8> {
    let mut frame = frame(packet);
    frame.resize(V4_PAYLOAD + 64, 0);
    frame[16..18].copy_from_slice(&84_u16.to_be_bytes());
    frame[V4_PAYLOAD..V4_PAYLOAD + 4].copy_from_slice(&spi.to_be_bytes());
    frame
}

#[test]
fn esp_between_others_is_judged_by_the_filters_whatever_its_spi() {
    let host = host(TUNNEL);
    let judge = |packet: &str, spi| host.judge(&with_spi(packet, spi), Direction::Inbound).outcome();
    // The tunnel's own.
    assert!(matches!(
        judge("esp 192.0.2.2 -> 192.0.2.1", 0x2001),
        Outcome::Redirect(metadata) if metadata.kind == Kind::OpenEsp
    ));
    // For another address of this machine, or from another peer: nobody else here can have that SPI.
    for packet in ["esp 192.0.2.2 -> 192.0.2.254", "esp 192.0.2.254 -> 192.0.2.1"] {
        assert_eq!(
            judge(packet, 0x2001),
            Outcome::Drop(DropReason::SpiWrongEndpoint),
            "{packet}"
        );
    }
    assert_eq!(
        judge("esp 192.0.2.2 -> 192.0.2.1", 255),
        Outcome::Drop(DropReason::SpiReserved)
    );
    // What is forwarded has the SPI that its receiver chose.
    for spi in [0x2001, 255, 0x7777] {
        assert_eq!(
            judge("esp 198.51.100.1 -> 203.0.113.9", spi),
            Outcome::Pass(Pass::Default),
            "{spi}"
        );
    }
}

#[test]
fn the_fragments_of_this_machines_ike_follow_the_first() {
    let rules = r#"
default = "block"
[filter-lists.dns]
filters = [{ source = "any", destination = "any", protocol = "udp", destination-port = 53 }]
[[rules]]
name = "no dns"
filter-list = "dns"
action = "block"
"#;
    let protect_all = TUNNEL.replace("10.1.0.0/16", "any").replace("10.2.0.0/16", "any");
    for rules in [rules, &protect_all] {
        let host = host(rules);
        let mut first = frame("udp 192.0.2.1:500 -> 192.0.2.2:500");
        // More fragments; and the length of the whole datagram, which is more than this.
        first[20] |= 0x20;
        let mut later = frame("udp 192.0.2.1 -> 192.0.2.2 fragment");
        for frame in [&mut first, &mut later] {
            frame[18..20].copy_from_slice(&[7, 7]);
        }
        assert!(
            matches!(host.judge_egress(&later).outcome(), Outcome::Drop(_)),
            "before the first nothing is known"
        );
        assert_eq!(host.judge_egress(&first).outcome(), Outcome::Pass(Pass::Lifeline));
        assert!(
            matches!(host.judge_egress(&later).outcome(), Outcome::Pass(_)),
            "{rules}"
        );
    }
}

/// RFC 8200 section 4.5: only the next header of the first fragment counts.
#[test]
fn a_later_fragment_gains_nothing_by_the_protocol_that_it_names() {
    let blocks_ssh = r#"
[filter-lists.ssh]
filters = [{ source = "any", destination = "any", protocol = "tcp", destination-port = 22 }]
[[rules]]
name = "no ssh"
filter-list = "ssh"
action = "block"
"#;
    let blocks_tcp = blocks_ssh.replace(", destination-port = 22", "");
    // Anybody may say that a fragment is of RSVP, which level 0 exempts.
    let exempts = format!("exemptions = 0\n{blocks_ssh}");
    for rules in [blocks_ssh, &blocks_tcp, &exempts] {
        let host = host(rules);
        let mut fragment = frame("tcp 2001:db8:2::1 -> 2001:db8:3::1 fragment");
        for protocol in 0..=255 {
            fragment[V6_FRAGMENT] = protocol;
            for direction in [Direction::Inbound, Direction::Outbound] {
                assert_eq!(
                    host.judge(&fragment, direction).outcome(),
                    Outcome::Drop(DropReason::FragmentUnknown),
                    "protocol {protocol}, {direction:?}, {rules}"
                );
            }
        }
        // An honest one of IPv4 is known by the protocol that it names.
        let other = frame("udp 198.51.100.1 -> 203.0.113.9 fragment");
        assert_eq!(
            host.judge(&other, Direction::Inbound).outcome(),
            Outcome::Pass(Pass::Default)
        );
        // With the first one seen, the others share its verdict, whatever they name.
        let mut first = frame("udp [2001:db8:2::1]:5000 -> [2001:db8:3::1]:5000");
        let payload = first.split_off(V6_FRAGMENT);
        first[20] = 44;
        first[18..20].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
        first.extend([17, 0, 0, 1, 0, 0, 0, 1]);
        first.extend(payload);
        assert_eq!(
            host.judge(&first, Direction::Inbound).outcome(),
            Outcome::Pass(Pass::Default)
        );
        for protocol in [6, 17, 44, 60] {
            fragment[V6_FRAGMENT] = protocol;
            assert_eq!(
                host.judge(&fragment, Direction::Inbound).outcome(),
                Outcome::Pass(Pass::Default)
            );
        }
    }
}
