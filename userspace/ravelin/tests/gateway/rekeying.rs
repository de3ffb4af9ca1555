//! Connections that come, go and change while others carry traffic.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::make_before_break::socket;
use crate::support::capture::{Capture, Ip, assert_sequence_numbers_fresh, clear};
use crate::support::echo::Echo;
use crate::support::lab::{G1, H1, H2, Lab, PORT, Policy, keygen};
use crate::support::{Raise, wait_until};

/// The port that has a connection of its own at times.
const OTHER_PORT: u16 = 6666;

/// The policy of a site with a second connection, for [`OTHER_PORT`].
fn with_second(site: usize) -> String {
    let (out, inward) = if site == 1 { ("e", "f") } else { ("f", "e") };
    let (here, there) = (site, 3 - site);
    format!(
        r#"{}
[filter-lists.other]
filters = [{{ source = "10.{here}.0.0/16", destination = "10.{there}.0.0/16", protocol = "udp", {} = {OTHER_PORT} }}]
[[rules]]
name = "other"
filter-list = "other"
action = "protect"
connection = "b-second"
[connections.b-second]
mode = "tunnel"
local = "2001:db8::{here}"
remote = "2001:db8::{there}"
[connections.b-second.static]
algorithm = "aes-128-gcm"
outbound = {{ spi = 0x200{here}, key-file = "{out}.key" }}
inbound = {{ spi = 0x200{there}, key-file = "{inward}.key" }}
"#,
        Policy::default().text(site),
        if site == 1 {
            "destination-port"
        } else {
            "source-port"
        },
    )
}

/// SPIs of the ESP packets from site 1, each once, after `mark`.
fn spis(capture: &Capture, mark: usize) -> Vec<u32> {
    let mut spis: Vec<u32> = capture.frames()[mark..]
        .iter()
        .filter_map(|seen| Ip::parse(&seen.frame))
        .filter(|packet| G1.contains(&packet.source.to_string().as_str()))
        .filter_map(|packet| Some(packet.esp()?.0))
        .collect();
    spis.sort_unstable();
    spis.dedup();
    spis
}

/// Sends numbered datagrams to [`PORT`] from h1 to h2 while `action` runs; those that did not arrive.
fn lost_while(lab: &Lab, action: impl FnOnce()) -> Vec<u32> {
    let receiver = socket(&lab.h2, SocketAddr::new(H2[0].parse().unwrap(), PORT));
    let sender = socket(&lab.h1, SocketAddr::new(H1[0].parse().unwrap(), 0));
    sender
        .connect(SocketAddr::new(H2[0].parse().unwrap(), PORT))
        .unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                sender.send(&number.to_be_bytes()).unwrap();
                number += 1;
                std::thread::sleep(Duration::from_micros(300));
            }
            number
        });
        let receiving = scope.spawn(|| {
            let mut seen = std::collections::HashSet::new();
            let mut buffer = [0; 16];
            loop {
                match receiver.recv(&mut buffer) {
                    Ok(4) => drop(seen.insert(u32::from_be_bytes(*buffer.first_chunk().unwrap()))),
                    Ok(other) => panic!("{other} bytes"),
                    Err(_) if stop.load(Ordering::Relaxed) => return seen,
                    Err(_) => {}
                }
            }
        });
        let stopping = Raise(&stop);
        action();
        drop(stopping);
        let sent = sending.join().unwrap();
        let seen = receiving.join().unwrap();
        assert!(sent > 100);
        (0..sent).filter(|number| !seen.contains(number)).collect()
    })
}

fn lab() -> Lab {
    let lab = Lab::new();
    for name in ["e.key", "f.key"] {
        keygen(&lab.folder.path().join(name), "aes-128-gcm");
    }
    lab
}

#[test]
fn a_connection_comes_and_goes_and_the_other_loses_nothing() {
    let lab = lab();
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let (d1, d2) = (g1.start(), g2.start());
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, OTHER_PORT);
    wait_until("the tunnel", || lab.h1.ping(H2[0]));
    wait_until("UDP by the first", || echo.udp(&lab.h1, H2[0], b"first"));
    assert_eq!(spis(&capture, 0), [0x1001]);

    let lost = lost_while(&lab, || {
        for _ in 0..3 {
            g2.applied(&with_second(2), &[]);
            let said = g1.applied(&with_second(1), &[]);
            assert!(said.contains("connections started: b-second"), "{said}");
            let mark = capture.mark();
            wait_until("UDP by the second", || echo.udp(&lab.h1, H2[0], b"second"));
            assert!(spis(&capture, mark).contains(&0x2001));
            let status = d1.status();
            assert_eq!(status.connections.len(), 2);

            let said = g1.applied(&Policy::default().text(1), &[]);
            assert!(said.contains("connections stopped: b-second"), "{said}");
            g2.applied(&Policy::default().text(2), &[]);
            let mark = capture.mark();
            wait_until("UDP by the first again", || {
                echo.udp(&lab.h1, H2[0], b"first again")
            });
            assert!(!spis(&capture, mark).contains(&0x2001));
        }
    });
    assert_eq!(lost, [0_u32; 0], "{:?} {:?}", d1.all_drops(), d2.all_drops());
    let packets = capture.packets();
    assert!(
        clear(&packets).is_empty(),
        "clear on the wire: {:?}",
        clear(&packets)
    );
    assert_sequence_numbers_fresh(&packets);
    assert_eq!(d1.status().connections.len(), 1);
    drop(d2);
}

/// Without a grace time: what is replaced is gone at once.
#[test]
fn a_connection_gets_new_keys_and_spis() {
    let lab = lab();
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let (d1, _d2) = (g1.start(), g2.start());
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("UDP before", || echo.udp(&lab.h1, H2[0], b"before"));
    let renewed = |site| {
        Policy::default()
            .text(site)
            .replace("aes-256-gcm", "aes-128-gcm")
            .replace("a.key", "e.key")
            .replace("b.key", "f.key")
            .replace("0x100", "0x300")
            .replace("mode = ", "rekey-grace = 0\nmode = ")
    };
    g2.applied(&renewed(2), &[]);
    let said = g1.applied(&renewed(1), &["--confirm", "3600"]);
    assert!(said.contains("connections rekeyed: c\n"), "{said}");
    let mark = capture.mark();
    wait_until("UDP after", || echo.udp(&lab.h1, H2[0], b"after"));
    assert_eq!(spis(&capture, mark), [0x3001]);
    // Back, with the SAs that were kept for that: their sequence numbers go on.
    assert!(g1.client("rollback").status().unwrap().success());
    g2.applied(&Policy::default().text(2), &[]);
    let mark = capture.mark();
    wait_until("UDP with the old keys", || echo.udp(&lab.h1, H2[0], b"old"));
    assert_eq!(spis(&capture, mark), [0x1001]);
    let packets = capture.packets();
    // Nothing stayed for a while, so the kernel was offered ESP that nobody knew, and said so (RFC 1122 section 3.2.2.1).
    let protocol_unreachable = |packet: &Ip| packet.protocol == 1 && packet.payload[..2] == [3, 2];
    let mut clear = clear(&packets);
    clear.retain(|packet| !protocol_unreachable(packet));
    assert!(clear.is_empty(), "clear on the wire: {clear:?}");
    assert_sequence_numbers_fresh(&packets);
    assert_eq!(d1.status().connections[0].outbound.spi, 0x1001);
}
