//! SAs are listed and deleted one by one.

use ravelin_engine::{SaDirection, SaEntry, SaState};

use crate::support::capture::{Ip, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::{Gateway, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{H2, Half, Lab, PORT, Policy, keygen};
use crate::support::wait_until;

/// The policy of a site with SAs of its own in place of the first ones.
fn renewed(site: usize, grace: u32) -> String {
    Policy::default()
        .text(site)
        .replace("mode = ", &format!("rekey-grace = {grace}\nmode = "))
        .replace("a.key", "e.key")
        .replace("b.key", "f.key")
        .replace("0x100", "0x200")
}

fn list(gateway: &Gateway<'_>) -> Vec<(SaDirection, u32, SaState)> {
    let json = succeeded(&gateway.sa(&["list", "--json"]));
    let entries: Vec<SaEntry> = serde_json::from_str(&json).unwrap();
    entries
        .iter()
        .map(|entry| (entry.direction, entry.sa.spi, entry.sa.state))
        .collect()
}

/// ICMP by which the kernel says that it has no SA for ESP that nobody else took.
fn protocol_unreachable(packet: &Ip) -> bool {
    packet.protocol == 1 && packet.payload[..2] == [3, 2]
}

/// Without its outbound SA a connection sends nothing, least of all in the clear; without its inbound SA it opens nothing.
/// New SAs bring it back, or a restart; the same policy does not.
#[test]
fn a_deleted_sa_leaves_its_connection_closed() {
    let lab = Lab::new();
    for name in ["e.key", "f.key"] {
        keygen(&lab.folder.path().join(name), "aes-256-gcm");
    }
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let (d1, d2) = (g1.start(), g2.start());
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    let works = |text: &[u8]| echo.udp(&lab.h1, H2[0], text);
    wait_until("the tunnel", || works(b"before"));
    assert_eq!(
        list(&g1),
        [
            (SaDirection::Outbound, 0x1001, SaState::InUse),
            (SaDirection::Inbound, 0x1002, SaState::InUse)
        ]
    );
    let said = succeeded(&g1.sa(&["delete", "0x1001"]));
    assert!(
        said.starts_with("outbound SA 0x00001001 of connection `c` deleted: the connection sends nothing"),
        "{said}"
    );
    assert_eq!(list(&g1)[0], (SaDirection::Outbound, 0x1001, SaState::Deleted));
    // ARP comes when it will.
    let crossed = || {
        let packets = capture.packets();
        let sealed = packets.iter().filter(|packet| packet.esp().is_some());
        (sealed.count(), clear(&packets).len())
    };
    let before = crossed();
    d1.expect_drops("sa_missing", 1, || assert!(!works(b"closed")));
    // What the peer sends is still opened.
    assert_eq!(d1.status().connections[0].inbound.state, SaState::InUse);

    let applied = g1.apply(&Policy::default().text(1), &[]);
    let warned = String::from_utf8_lossy(&applied.stderr).into_owned();
    succeeded(&applied);
    assert!(
        warned.contains("its outbound SA 0x00001001 was deleted and stays so"),
        "{warned}"
    );
    d1.expect_drops("sa_missing", 1, || assert!(!works(b"closed still")));
    assert_eq!(crossed(), before, "{:?}", capture.packets());
    for (arguments, words) in [
        (
            &["delete", "0x1001"][..],
            "the outbound SA 0x00001001 of connection `c` is deleted already",
        ),
        (&["delete", "4099"], "there is no such SA with SPI 0x00001003"),
        (
            &["delete", "0x1002", "--out"],
            "there is no such SA with SPI 0x00001002",
        ),
        (&["delete", "0x1002", "--connection", "d"], "there is no such SA"),
    ] {
        let said = refusal(&g1.sa(arguments));
        assert!(said.contains(words), "{said}");
    }
    for spi in ["255", "0", "0x", "4294967296", "spi"] {
        let output = g1.sa(&["delete", spi]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("256 to 4294967295"),
            "{said}"
        );
    }

    g2.applied(&renewed(2, 30), &[]);
    let said = g1.applied(&renewed(1, 30), &[]);
    assert!(said.contains("connections rekeyed: c\n"), "{said}");
    wait_until("the new SAs to work", || works(b"new SAs"));
    assert_eq!(d1.status().connections[0].outbound.spi, 0x2001);

    // With the first packet under the new SA the peer uses its own new one as well.
    wait_until("the peer to switch", || {
        d2.status().connections[0].outbound.spi == 0x2002
    });
    let said = succeeded(&g1.sa(&["delete", "0x2002", "--in"]));
    assert!(said.contains("is not opened any more"), "{said}");
    assert!(!works(b"nothing comes back"));

    std::fs::write(&g1.policy, renewed(1, 30)).unwrap();
    let (status, log) = d1.stop();
    assert!(status.success(), "{log}");
    assert!(
        log.contains("the inbound SA 0x00002002 of connection `c` was deleted"),
        "{log}"
    );
    let _d1 = g1.start();
    wait_until("the SAs after a restart", || works(b"after a restart"));
    let packets = capture.packets();
    let mut clear = clear(&packets);
    clear.retain(|packet| !protocol_unreachable(packet));
    assert!(clear.is_empty(), "clear on the wire: {clear:?}");
    assert_sequence_numbers_fresh(&packets);
}

/// During a rekey there are more of them, and any can go.
#[test]
fn sas_of_a_rekey_are_deleted_one_by_one() {
    let half = Half::new();
    for name in ["e.key", "f.key", "g.key", "h.key"] {
        keygen(&half.folder.path().join(name), "aes-256-gcm");
    }
    let gateway = half.gateway(&Policy::default());
    let daemon = gateway.start();
    // Another connection whose outbound SPI is the first one's inbound SPI: each end chooses its own.
    let second = |text: String| {
        format!(
            "{text}\n[connections.d]\nmode = \"tunnel\"\nlocal = \"2001:db8::1\"\nremote = \"2001:db8::2\"\n\
             [connections.d.static]\nalgorithm = \"aes-256-gcm\"\n\
             outbound = {{ spi = 0x1002, key-file = \"g.key\" }}\ninbound = {{ spi = 0x3002, key-file = \"h.key\" }}\n\
             [filter-lists.d]\nfilters = [{{ source = \"10.1.0.0/16\", destination = \"10.9.0.0/16\" }}]\n\
             [[rules]]\nname = \"d\"\nfilter-list = \"d\"\naction = \"protect\"\nconnection = \"d\"\n"
        )
    };
    gateway.applied(&second(renewed(1, 3600)), &[]);
    use SaDirection::{Inbound, Outbound};
    use SaState::{Deleted, InUse, Next, Old};
    assert_eq!(
        list(&gateway),
        [
            (Outbound, 0x1001, InUse),
            (Outbound, 0x2001, Next),
            (Inbound, 0x2002, InUse),
            (Inbound, 0x1002, Old),
            (Outbound, 0x1002, InUse),
            (Inbound, 0x3002, InUse),
        ]
    );
    let table = succeeded(&gateway.sa(&["list"]));
    for (spi, state) in [
        ("0x00001001", "in use"),
        ("0x00002001", "next"),
        ("0x00001002", "old"),
    ] {
        assert!(
            table
                .lines()
                .any(|line| line.starts_with(spi) && line.contains(state)),
            "{table}"
        );
    }
    let said = refusal(&gateway.sa(&["delete", "0x1002"]));
    assert!(
        said.contains("2 SAs have SPI 0x00001002") && said.contains("of connection `d`"),
        "{said}"
    );
    let said = succeeded(&gateway.sa(&["delete", "0x1002", "--connection", "c"]));
    assert!(
        said.contains("inbound SA 0x00001002") && said.contains("stays as it is"),
        "{said}"
    );
    let said = succeeded(&gateway.sa(&["delete", "0x1001"]));
    assert!(said.contains("SA 0x00002001 seals in its place"), "{said}");
    succeeded(&gateway.sa(&["delete", "0x3002"]));
    assert_eq!(
        list(&gateway),
        [
            (Outbound, 0x2001, InUse),
            (Inbound, 0x2002, InUse),
            (Outbound, 0x1002, InUse),
            (Inbound, 0x3002, Deleted),
        ]
    );
    let status = daemon.status();
    assert!(status.connections[0].next.is_empty() && status.connections[0].old.is_empty());

    // What is deleted while a policy is on trial does not come back with the policy before.
    gateway.applied(&second(Policy::default().text(1)), &["--confirm", "3600"]);
    succeeded(&gateway.sa(&["delete", "0x2001"]));
    assert!(gateway.client("rollback").status().unwrap().success());
    assert_eq!(
        list(&gateway),
        [
            (Outbound, 0x2001, Deleted),
            (Inbound, 0x2002, InUse),
            (Inbound, 0x1002, Old),
            (Outbound, 0x1002, InUse),
            (Inbound, 0x3002, Deleted),
        ]
    );
}
