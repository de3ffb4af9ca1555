//! The SSH session from which policies are changed goes on in the way in which it comes: what comes inside ESP is not let into the clear by an
//! apply, and what comes in the clear is not cut. The witnesses are its two ends, and the wire.

use std::net::TcpStream;

use crate::lifeline::{MANAGEMENT, MOMENT, answers, login, with_session};
use crate::support::capture::{Capture, clear};
use crate::support::daemon::{Gateway, succeeded};
use crate::support::echo::Echo;
use crate::support::hosts::{A, B, Hosts};
use crate::support::lab::PORT;
use crate::support::scapy::Scapy;
use crate::support::{PATIENCE, wait_until};

/// IPv4 between the hosts, as the action says; the connection is there in any case.
fn policy(hosts: &Hosts, number: usize, rule: &str) -> String {
    let folder = hosts.folder.path().display();
    let ends = [A[0], B[0]];
    let (own, peer) = (ends[number], ends[1 - number]);
    let sas = [("a-to-b-v4", 0x1001), ("b-to-a-v4", 0x2001)];
    let (outbound, inbound) = (sas[number], sas[1 - number]);
    let sa = |(name, spi): (&str, u32)| format!("{{ spi = {spi}, key-file = \"{folder}/{name}.key\" }}");
    format!(
        r#"
[filter-lists.peer]
filters = [{{ source = "{own}", destination = "{peer}" }}]
[[rules]]
name = "peer"
filter-list = "peer"
{rule}
[connections.c]
mode = "transport"
local = "{own}"
remote = "{peer}"
[connections.c.static]
algorithm = "aes-256-gcm"
outbound = {}
inbound = {}
"#,
        sa(outbound),
        sa(inbound)
    )
}

const PROTECT: &str = "action = \"protect\"\nconnection = \"c\"";
const BLOCK: &str = "action = \"block\"";
const PERMIT: &str = "action = \"permit\"";

/// `ravelin apply` from the session; what it said.
fn applied(host: &Gateway<'_>, policy: &str, options: &[&str]) -> String {
    let file = host.other_policy();
    std::fs::write(&file, policy).unwrap();
    let mut command = with_session(host.client("apply"), 0);
    succeeded(&command.arg(file).args(options).output().unwrap())
}

/// The session's packets that the wire has shown in the clear after `mark`.
fn in_the_clear(capture: &Capture, mark: usize) -> usize {
    let packets = capture.packets();
    clear(&packets[mark.min(packets.len())..])
        .into_iter()
        .filter(|packet| {
            packet
                .ports()
                .is_some_and(|(a, b)| a == MANAGEMENT || b == MANAGEMENT)
        })
        .count()
}

fn goes_on(hosts: &Hosts, old: &mut TcpStream) {
    assert!(answers(old), "the connection that was there");
    let mut new = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("a new connection");
    assert!(answers(&mut new), "the new connection");
}

#[test]
fn what_comes_inside_esp_stays_there_whatever_is_applied_from_it() {
    let hosts = Hosts::new(true);
    let capture = hosts.capture();
    let _management = Echo::start(&hosts.a, MANAGEMENT);
    let _other = Echo::start(&hosts.a, PORT);
    let (a, b) = (
        hosts.host(0, |_| policy(&hosts, 0, PROTECT)),
        hosts.host(1, |_| policy(&hosts, 1, PROTECT)),
    );
    let (da, _db) = (a.start(), b.start());
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("through ESP");
    goes_on(&hosts, &mut old);

    let said = applied(&a, &policy(&hosts, 0, PROTECT), &[]);
    assert!(said.contains("stays in connection `c`"), "{said}");
    goes_on(&hosts, &mut old);
    let said = applied(&a, &policy(&hosts, 0, BLOCK), &["--dry-run"]);
    assert!(said.contains("stays in connection `c`, whatever"), "{said}");
    // Neither what blocks it, nor what wants it in the clear, nor what comes back after a trial.
    for (rule, options) in [(BLOCK, &["--confirm", "60"][..]), (BLOCK, &[]), (PERMIT, &[])] {
        applied(&a, &policy(&hosts, 0, rule), options);
        goes_on(&hosts, &mut old);
        let open = login(&hosts.b, A[0], PORT, MOMENT).is_some();
        assert!(!open, "another port is open under {rule}");
        if !options.is_empty() {
            succeeded(&a.client("rollback").output().unwrap());
            goes_on(&hosts, &mut old);
        }
    }
    assert_eq!(in_the_clear(&capture, 0), 0);
    // Once its client comes in the clear, which the rules permit by now, so do the answers.
    b.applied(&policy(&hosts, 1, PERMIT), &[]);
    goes_on(&hosts, &mut old);
    assert!(in_the_clear(&capture, 0) > 0);
    wait_until("the other port", || login(&hosts.b, A[0], PORT, MOMENT).is_some());
    // Then it is one that comes in the clear. What the client sends in ESP is what counts again.
    let said = applied(&a, &policy(&hosts, 0, PROTECT), &[]);
    assert!(
        said.contains("in the clear, until it comes through connection `c`"),
        "{said}"
    );
    goes_on(&hosts, &mut old);
    b.applied(&policy(&hosts, 1, PROTECT), &[]);
    goes_on(&hosts, &mut old);
    wait_until("the engine to notice", || {
        da.log().matches("follows how the session comes").count() == 2
    });
    let mark = capture.packets().len();
    goes_on(&hosts, &mut old);
    assert_eq!(in_the_clear(&capture, mark), 0);
    // A policy that takes the connection away has no way for it but the clear, and that is not opened.
    let gone = "default = \"block\"\n";
    let said = applied(&a, gone, &["--confirm", "60"]);
    assert!(
        said.contains("not in this policy") && said.contains("left to the rules"),
        "{said}"
    );
    assert!(login(&hosts.b, A[0], MANAGEMENT, MOMENT).is_none());
    succeeded(&a.client("rollback").output().unwrap());
    goes_on(&hosts, &mut old);
    assert_eq!(in_the_clear(&capture, mark), 0);
}

/// An engine that is started over one that has ended, or run, does not know its sessions, unless that has left word.
#[test]
fn a_session_outlives_the_engine_in_the_way_in_which_it_comes() {
    let hosts = Hosts::new(true);
    let capture = hosts.capture();
    let _management = Echo::start(&hosts.a, MANAGEMENT);
    let _other = Echo::start(&hosts.a, PORT);
    let a = hosts.host(0, |_| policy(&hosts, 0, PROTECT));
    // In the clear: the other end knows nothing of ESP.
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("nothing filters yet");
    let daemon = a.start_as(with_session(a.command(), 0));
    goes_on(&hosts, &mut old);
    daemon.kill();
    goes_on(&hosts, &mut old);
    let daemon = a.start();
    goes_on(&hosts, &mut old);
    assert!(
        login(&hosts.b, A[0], PORT, MOMENT).is_none(),
        "another port is open"
    );
    // Nobody is there any more, and a start forgets it.
    drop(old);
    wait_until("the connections to end", || {
        let filter = format!("( sport = :{MANAGEMENT} )");
        hosts
            .a
            .run("ss", &["-Htn", "state", "established", &filter])
            .is_empty()
    });
    daemon.kill();
    let daemon = a.start();
    assert!(
        login(&hosts.b, A[0], MANAGEMENT, MOMENT).is_none(),
        "who is that?"
    );

    // Inside ESP, of which no record tells.
    let b = hosts.host(1, |_| policy(&hosts, 1, PROTECT));
    let _db = b.start();
    let mark = capture.packets().len();
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("through ESP");
    goes_on(&hosts, &mut old);
    let mut command = with_session(a.command(), 0);
    command.arg("--replace");
    let second = a.start_as(command);
    daemon.ended();
    // The one that was there knew.
    assert!(
        second
            .log()
            .contains("comes through ESP and stays in connection `c`"),
        "{}",
        second.log()
    );
    goes_on(&hosts, &mut old);
    second.kill();
    let third = a.start();
    goes_on(&hosts, &mut old);
    assert!(third.log().contains("stays in connection `c`"), "{}", third.log());
    assert_eq!(in_the_clear(&capture, mark), 0);
    drop(third);

    // In the clear, of which no record tells either: the one that was there does.
    succeeded(&a.detach());
    succeeded(&b.client("stop").arg("--yes").output().unwrap());
    std::fs::write(&a.policy, policy(&hosts, 0, PERMIT)).unwrap();
    let first = a.start();
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("all is permitted");
    std::fs::write(&a.policy, policy(&hosts, 0, PROTECT)).unwrap();
    let mut command = with_session(a.command(), 0);
    command.arg("--replace");
    let second = a.start_as(command);
    first.ended();
    assert!(
        second
            .log()
            .contains("in the clear, until it comes through connection `c`"),
        "{}",
        second.log()
    );
    goes_on(&hosts, &mut old);
}

/// Puts a clear segment from the client's address to the session's port on the wire, as anybody there can.
fn forge(hosts: &Hosts, capture: &Capture) {
    let packet = Scapy::start().build(&format!(
        "IP(src='{}', dst='{}')/TCP(sport=4444, dport={MANAGEMENT}, flags='A')",
        B[0], A[0]
    ));
    let (to, from) = (hosts.a.mac("eth0"), hosts.b.mac("eth0"));
    capture.send(&[&to[..], &from, &[0x08, 0x00], &packet].concat());
}

/// Clear packets of the session that a has sent since `mark`.
fn answered_in_the_clear(capture: &Capture, mark: usize) -> usize {
    let packets = capture.packets();
    clear(&packets[mark.min(packets.len())..])
        .into_iter()
        .filter(|packet| packet.ports().is_some_and(|(from, _)| from == MANAGEMENT))
        .count()
}

#[test]
fn a_forged_packet_tells_an_engine_that_knows_nothing_of_its_session_nothing() {
    let hosts = Hosts::new(true);
    let capture = hosts.capture();
    let _management = Echo::start(&hosts.a, MANAGEMENT);
    let (a, b) = (
        hosts.host(0, |_| policy(&hosts, 0, PROTECT)),
        hosts.host(1, |_| policy(&hosts, 1, PROTECT)),
    );
    let (first, _db) = (a.start(), b.start());
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("through ESP");
    goes_on(&hosts, &mut old);
    first.kill();
    let record = a.state().join("session.json");
    assert!(!record.exists(), "nobody has named a session");

    let second = a.start_as(with_session(a.command(), 0));
    assert!(
        second.log().contains("stays in connection `c`, as the rules say"),
        "{}",
        second.log()
    );
    second.expect_drops("clear_not_allowed", 1, || forge(&hosts, &capture));
    goes_on(&hosts, &mut old);
    second.expect_drops("clear_not_allowed", 1, || forge(&hosts, &capture));
    goes_on(&hosts, &mut old);
    assert_eq!(answered_in_the_clear(&capture, 0), 0);
    assert!(!second.log().contains("follows how the session comes"));
    second.kill();

    std::fs::remove_file(record).unwrap();
    std::fs::write(&a.policy, policy(&hosts, 0, BLOCK)).unwrap();
    let third = a.start_as(with_session(a.command(), 0));
    assert!(
        third.log().contains("is blocked, as the rules say"),
        "{}",
        third.log()
    );
    // What the service still has to say to its clients is dropped as well.
    let before = third.drops("rule_block");
    forge(&hosts, &capture);
    wait_until("a packet to be dropped", || third.drops("rule_block") > before);
    assert!(login(&hosts.b, A[0], MANAGEMENT, MOMENT).is_none());
    assert_eq!(answered_in_the_clear(&capture, 0), 0);
    assert!(!third.log().contains("follows how the session comes"));
}

#[test]
fn a_forged_packet_takes_a_session_out_of_esp_only_where_that_is_permitted_and_not_for_good() {
    let hosts = Hosts::new(true);
    let capture = hosts.capture();
    let _management = Echo::start(&hosts.a, MANAGEMENT);
    let (a, b) = (
        hosts.host(0, |_| policy(&hosts, 0, PROTECT)),
        hosts.host(1, |_| policy(&hosts, 1, PROTECT)),
    );
    let (da, _db) = (a.start(), b.start());
    let followed = |count| {
        wait_until("the engine to notice", || {
            da.log().matches("follows how the session comes").count() == count
        });
    };
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("through ESP");
    let said = applied(&a, &policy(&hosts, 0, PERMIT), &[]);
    assert!(said.contains("until it comes in the clear"), "{said}");
    goes_on(&hosts, &mut old);

    forge(&hosts, &capture);
    followed(1);
    // Its client still sends ESP, which takes it back.
    goes_on(&hosts, &mut old);
    followed(2);
    let mark = capture.packets().len();
    goes_on(&hosts, &mut old);
    assert_eq!(answered_in_the_clear(&capture, mark), 0);

    // Where the rules come to forbid the clear, it is over with that at once.
    forge(&hosts, &capture);
    followed(3);
    let said = a.applied(&policy(&hosts, 0, PROTECT), &[]);
    assert!(
        said.contains("comes through ESP and stays in connection `c`"),
        "{said}"
    );
    let mark = capture.packets().len();
    da.expect_drops("clear_not_allowed", 1, || forge(&hosts, &capture));
    goes_on(&hosts, &mut old);
    assert_eq!(answered_in_the_clear(&capture, mark), 0);
}
