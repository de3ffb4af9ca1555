//! Another policy for a running daemon: put in force while traffic flows, refused without a trace, taken back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ravelin_engine::{ApplyRequest, Status, apply};

use crate::support::daemon::{Daemon, Gateway, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{CLEAR_PORT, H1, H2, Half, Lab, PORT, Policy};
use crate::support::{PATIENCE, Raise, wait_until};

/// The default policy with another action for the flow in the clear.
fn blocking() -> String {
    Policy::default()
        .text(1)
        .replace("action = \"permit\"", "action = \"block\"")
}

/// A gateway with a policy of the tests' own.
fn gateway<'h>(half: &'h Half, policy: &str) -> Gateway<'h> {
    Gateway::new(&half.g1, half.folder.path(), policy)
}

#[test]
fn another_policy_takes_effect_and_counters_go_on() {
    let lab = Lab::new();
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let (d1, _d2) = (g1.start(), g2.start());
    let (clear, protected) = (Echo::start(&lab.h2, CLEAR_PORT), Echo::start(&lab.h2, PORT));
    wait_until("clear UDP", || clear.udp(&lab.h1, H2[0], b"1"));
    wait_until("protected UDP", || protected.udp(&lab.h1, H2[0], b"1"));
    let (before, sites) = (d1.status(), d1.rule("sites"));
    assert_eq!(before.policy.file, g1.policy);
    assert_eq!(before.policy.sha256.len(), 64);

    let tried = g1.applied(&blocking(), &["--dry-run"]);
    assert!(tried.contains("would be in force"), "{tried}");
    assert_eq!(d1.status().policy, before.policy);

    // A rule in front, so that every other has another index.
    let other = blocking().replacen(
        "[[rules]]",
        "[[rules]]\nname = \"first\"\nfilter-list = \"clear\"\naction = \"permit\"\nactive = false\n[[rules]]",
        1,
    );
    let said = g1.applied(&other, &[]);
    assert!(said.contains("3 rules (1 added, 0 removed)"), "{said}");
    let after = d1.status();
    assert_eq!(after.policy.file, g1.other_policy());
    assert_eq!(after.policy.generation, before.policy.generation + 1);
    assert_ne!(after.policy.sha256, before.policy.sha256);
    assert_eq!(after.last_error, None);
    d1.expect_drops("rule_block", 1, || clear.udp_one_way(&lab.h1, H2[0], b"2"));
    assert_eq!(d1.rule("first"), 0);
    assert_eq!(d1.rule("clear"), before.rules[1].packets + 1);
    assert!(protected.udp_surely(&lab.h1, H2[0], b"2"));
    assert!(d1.rule("sites") >= sites + 2);

    // A rule that goes leaves its counts in the sum.
    let count = d1.rule("clear");
    g1.applied(
        &other.replace("\"clear\"\nfilter-list", "\"renamed\"\nfilter-list"),
        &[],
    );
    wait_until("the counts of the removed rule", || {
        d1.status().removed_rules.packets == count
    });
    assert_eq!(d1.rule("renamed"), 0);
    d1.expect_drops("rule_block", 1, || clear.udp_one_way(&lab.h1, H2[0], b"3"));
    assert_eq!(d1.rule("renamed"), 1);

    g1.applied(&Policy::default().text(1), &[]);
    assert!(clear.udp_surely(&lab.h1, H2[0], b"4") && protected.udp_surely(&lab.h1, H2[0], b"4"));
}

/// What must not change when a policy is refused.
fn essence(status: &Status) -> (Vec<String>, Vec<u32>, ravelin_engine::PolicyStatus) {
    (
        status.rules.iter().map(|rule| rule.name.clone()).collect(),
        status.connections.iter().map(|one| one.inbound.spi).collect(),
        status.policy.clone(),
    )
}

#[test]
fn a_bad_policy_changes_nothing() {
    let lab = Lab::new();
    let g1 = lab.gateway(1, &Policy::default()).with("--max-rules", "4");
    let g2 = lab.gateway(2, &Policy::default());
    let (d1, _d2) = (g1.start(), g2.start());
    let protected = Echo::start(&lab.h2, PORT);
    wait_until("protected UDP", || protected.udp(&lab.h1, H2[0], b"before"));
    let before = essence(&d1.status());
    let good = Policy::default().text(1);
    let rules: String = (0..4)
        .map(|number| {
            format!("[[rules]]\nname = \"r{number}\"\nfilter-list = \"clear\"\naction = \"permit\"\n")
        })
        .collect();
    let folder = lab.folder.path();
    std::fs::write(folder.join("short.key"), "00\n").unwrap();
    for (bad, words) in [
        ("\n".to_owned(), vec!["-other.toml", "the policy is empty"]),
        (good.replace("mode =", "mood ="), vec!["-other.toml:", "mood"]),
        (good.replace("\"c\"", "\"d\""), vec!["-other.toml:", "`d`"]),
        ("\0".to_owned(), vec!["-other.toml:1:1", "NUL"]),
        (String::new() + &good + &rules, vec!["--max-rules 8"]),
        (
            good.replace("a.key", "nosuch.key"),
            vec!["nosuch.key", "cannot open"],
        ),
        (good.replace("a.key", "short.key"), vec!["short.key", "chmod 600"]),
        (good.replace("a.key", "b.key"), vec!["b.key"]),
        // The same keys under other parameters.
        (
            good.replace("0x1001", "0x3001"),
            vec!["connection `c`", "a.key", "new SPIs and new key files"],
        ),
        (
            good.replace("connections.c]", "connections.d]")
                .replace("connections.c.static]", "connections.d.static]")
                .replace("\"c\"", "\"d\""),
            vec!["connection `d`", "running connection `c`"],
        ),
        (
            good.replace("mode = \"tunnel\"", "mode = \"tunnel\"\npath-mtu = 1200"),
            vec!["connection `c`", "1280"],
        ),
        (
            good.replace(
                "mode = \"tunnel\"",
                "mode = \"tunnel\"\nencapsulation = \"udp\"\nlocal-port = 4501",
            ),
            vec!["connection `c`", "4500"],
        ),
    ] {
        let said = refusal(&g1.apply(&bad, &[]));
        let last_error = d1
            .status()
            .last_error
            .expect("a failed apply shows in the status");
        for word in words {
            assert!(
                said.contains(word) && last_error.contains(word),
                "`{word}` is missing in:\n{said}\n{last_error}"
            );
        }
        assert_eq!(essence(&d1.status()), before, "{said}");
    }
    let missing = g1
        .client("apply")
        .arg(folder.join("nosuch.toml"))
        .output()
        .unwrap();
    assert!(refusal(&missing).contains("nosuch.toml"));
    let request = ApplyRequest {
        file: "relative.toml".into(),
        confirm_seconds: None,
        dry_run: false,
        session: None,
    };
    let refused = apply(&g1.control(), &request).unwrap_err().to_string();
    assert!(refused.contains("absolute path"), "{refused}");
    assert_eq!(essence(&d1.status()), before);
    assert!(protected.udp_surely(&lab.h1, H2[0], b"after"));
    // What failed has left nothing behind that would stand in the way.
    g1.applied(&good.replace("mode =", "path-mtu = 1400\nmode ="), &[]);
    assert_eq!(d1.status().last_error, None);
    assert!(protected.udp_surely(&lab.h1, H2[0], b"after"));
}

#[test]
fn a_policy_that_nobody_confirms_is_taken_back() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let daemon = gateway.start();
    let blocks = || {
        let status = daemon.status();
        assert_eq!(status.policy.file == gateway.policy, status.pending.is_none());
        status.policy.file != gateway.policy
    };

    let said = gateway.applied(&blocking(), &["--confirm", "2"]);
    assert!(said.contains("ravelin confirm"), "{said}");
    assert!(blocks());
    let echo = Echo::start(&half.peer, CLEAR_PORT);
    daemon.expect_drops("rule_block", 1, || echo.udp_one_way(&half.h1, H2[0], b"x"));
    wait_until("the policy before", || !blocks());
    let error = daemon.status().last_error.unwrap();
    assert!(error.contains("not confirmed in time"), "{error}");

    // Neither another apply nor SIGHUP takes the way back away.
    gateway.applied(&blocking(), &["--confirm", "3600"]);
    let refused = refusal(&gateway.apply(&Policy::default().text(1), &[]));
    assert!(refused.contains("ravelin rollback"), "{refused}");
    daemon.hang_up();
    wait_until("SIGHUP is refused", || {
        daemon.log().contains("was not read again")
    });
    assert!(blocks());
    succeeded(&gateway.client("rollback").output().unwrap());
    assert!(!blocks());
    let nothing = refusal(&gateway.client("rollback").output().unwrap());
    assert!(nothing.contains("no apply awaits confirmation"), "{nothing}");
    let nothing = refusal(&gateway.client("confirm").output().unwrap());
    assert!(nothing.contains("no apply awaits confirmation"), "{nothing}");

    gateway.applied(&blocking(), &["--confirm", "3600"]);
    succeeded(&gateway.client("confirm").output().unwrap());
    let status = daemon.status();
    assert_eq!(
        (status.policy.file, status.pending),
        (gateway.other_policy(), None)
    );

    // A stop takes the unconfirmed policy back: what stays attached is the one before.
    gateway.applied(&Policy::default().text(1), &["--confirm", "3600"]);
    let (ended, log) = daemon.stop();
    assert!(ended.success(), "{log}");
    assert!(log.contains("was rolled back: the engine stops"), "{log}");
}

#[test]
fn a_hang_up_reads_the_policy_in_force_again() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let daemon = gateway.start();
    std::fs::write(&gateway.policy, blocking()).unwrap();
    daemon.hang_up();
    wait_until("the changed policy", || daemon.status().policy.generation == 2);
    let echo = Echo::start(&half.peer, CLEAR_PORT);
    daemon.expect_drops("rule_block", 1, || echo.udp_one_way(&half.h1, H2[0], b"x"));

    std::fs::write(&gateway.policy, "default = 1").unwrap();
    daemon.hang_up();
    wait_until("the mistake in the status", || {
        daemon.status().last_error.is_some()
    });
    wait_until("its place in the log", || daemon.log().contains(".toml:1:11"));
    assert_eq!(daemon.status().policy.generation, 2);
    daemon.expect_drops("rule_block", 1, || echo.udp_one_way(&half.h1, H2[0], b"x"));

    std::fs::write(&gateway.policy, Policy::default().text(1)).unwrap();
    daemon.hang_up();
    wait_until("the mended policy", || daemon.status().last_error.is_none());
    assert_eq!(daemon.status().policy.generation, 3);
}

#[test]
fn an_engine_without_a_clear_side_swaps_as_well() {
    let half = Half::new();
    let mut gateway = half.gateway(&Policy::default());
    gateway.inner = None;
    let daemon = gateway.start();
    let echo = Echo::start(&half.peer, PORT);
    daemon.expect_drops("clear_egress", 1, || echo.udp_one_way(&half.h1, H2[0], b"x"));
    // No key is read: nothing is sealed here.
    let said = gateway.applied(&blocking().replace("a.key", "nosuch.key"), &[]);
    assert!(!said.contains("started"), "{said}");
    let status = daemon.status();
    assert_eq!((status.policy.generation, status.connections.len()), (2, 0));
    daemon.expect_drops("clear_egress", 1, || echo.udp_one_way(&half.h1, H2[0], b"x"));
}

/// Clients may say what they like: they are refused, and others are served meanwhile.
#[test]
fn nonsense_at_the_control_socket_does_no_harm() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let daemon = gateway.start();
    let before = essence(&daemon.status());
    let connect = || {
        let stream = UnixStream::connect(gateway.control()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // Clients that say nothing, up to one place.
    let silent: Vec<UnixStream> = (0..15).map(|_| connect()).collect();
    let long = format!("{{\"file\": \"{}\"}}", "x".repeat(1 << 17));
    for (request, body, code) in [
        ("POST /v1/policy", "{}", 400),
        ("POST /v1/policy", "{\"file\": 1}", 400),
        ("POST /v1/policy", "{\"file\": \"/x\", \"mood\": true}", 400),
        (
            "POST /v1/policy",
            "{\"file\": \"/x\", \"confirm_seconds\": -1}",
            400,
        ),
        ("POST /v1/policy", "\u{0}", 400),
        ("POST /v1/policy", long.as_str(), 400),
        ("POST /v1/policy", "{\"file\": \"/\"}", 409),
        (
            "POST /v1/policy",
            "{\"file\": \"/dev/null\", \"dry_run\": true}",
            409,
        ),
        ("POST /v1/confirm", "", 409),
        ("DELETE /v1/policy", "", 404),
        ("GET /v2/status", "", 404),
    ] {
        let mut stream = connect();
        let length = body.len();
        let head = format!("{request} HTTP/1.1\r\nhost: ravelin\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // It may have answered before it has read everything.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let expected = format!("HTTP/1.1 {code} ");
        assert!(answer.starts_with(&expected), "{request} {length}: {answer}");
    }
    assert_eq!(essence(&daemon.status()), before);
    drop(silent);
}

/// A rule set of `size` rules of which the first decides the test's packets, and says `action`.
fn rule_set(name: &str, action: &str, size: usize) -> String {
    let mut text = format!(
        "default = \"block\"\n[filter-lists.all]\nfilters = [{{ source = \"{}\", destination = \"{}\" }}]\n\
         [[rules]]\nname = \"{name}\"\nfilter-list = \"all\"\naction = \"{action}\"\n",
        H1[0], H2[0]
    );
    for number in 1..size {
        let (high, low) = (number >> 8, number & 255);
        text.push_str(&format!(
            "[filter-lists.f{number}]\nfilters = [{{ source = \"172.16.{low}.{}/32\", destination = \"10.{}.0.0/16\" }}]\n\
             [[rules]]\nname = \"{name}-{number}\"\nfilter-list = \"f{number}\"\naction = \"permit\"\n",
            high & 255,
            100 + (high >> 8)
        ));
    }
    text
}

/// Sends datagrams to h2 as fast as it goes until told to stop; how many.
fn load(stop: &AtomicBool, sent: &AtomicU64) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let destination = SocketAddr::new(H2[0].parse().unwrap(), PORT);
    socket.connect(destination).unwrap();
    while !stop.load(Ordering::Relaxed) {
        if socket.send(b"which rule set?").is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn swap(control: &Path, file: &Path) {
    let request = ApplyRequest {
        file: file.to_owned(),
        confirm_seconds: None,
        dry_run: false,
        session: None,
    };
    apply(control, &request).unwrap();
}

/// Packets that rules have counted, whatever rules they were.
fn counted(daemon: &Daemon) -> u64 {
    let status = daemon.status();
    status.rules.iter().map(|rule| rule.packets).sum::<u64>() + status.removed_rules.packets
}

/// Two opposite rule sets without a rule in common, in turn, under load: no packet gets a verdict that neither gives,
/// none is lost, none counts twice or for nobody. `RAVELIN_SWAP_SECONDS` and `RAVELIN_SWAP_RULES` make it longer and
/// larger.
#[test]
fn swaps_under_load_lose_no_packet_and_no_count() {
    let setting = |name: &str, default: usize| {
        let value = std::env::var(name).ok();
        value.map_or(default, |value| value.parse().expect("a number"))
    };
    let (seconds, size) = (
        setting("RAVELIN_SWAP_SECONDS", 5),
        setting("RAVELIN_SWAP_RULES", 20),
    );
    let half = Half::new();
    half.h1.queue("eth0");
    half.h1
        .ip("neighbour replace 10.1.0.1 lladdr 02:00:00:00:00:aa dev eth0 nud permanent");
    half.g1.ip("link set in0 address 02:00:00:00:00:aa");
    half.g1
        .ip("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:bb dev out0 nud permanent");
    let (a, b) = (rule_set("a", "permit", size), rule_set("b", "block", size));
    let gateway = gateway(&half, &a);
    let other = gateway.other_policy();
    std::fs::write(&other, b).unwrap();
    let daemon = gateway.start();
    let before = daemon.status();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let swaps = half.h1.enter(|| {
        std::thread::scope(|scope| {
            let _stop = Raise(&stop);
            scope.spawn(|| load(&stop, &sent));
            let started = Instant::now();
            let mut swaps = 0_u32;
            while started.elapsed() < Duration::from_secs(seconds as u64) {
                swap(&gateway.control(), [&other, &gateway.policy][swaps as usize % 2]);
                swaps += 1;
                std::thread::sleep(
                    (started + Duration::from_millis(100) * swaps).saturating_duration_since(Instant::now()),
                );
            }
            swaps
        })
    });
    let sent = sent.load(Ordering::Relaxed);
    wait_until("every packet to be counted", || counted(&daemon) >= sent);
    let status = daemon.status();
    let grown = |of: fn(&Status) -> u64| of(&status) - of(&before);
    let permitted = grown(|status| status.outcomes["permit_rule"]);
    let blocked = grown(|status| status.drops["rule_block"]);
    eprintln!("{swaps} swaps, {sent} packets: {permitted} permitted, {blocked} blocked");
    assert_eq!(counted(&daemon), sent);
    assert_eq!(permitted + blocked, sent);
    assert!(permitted > 0 && blocked > 0);
    assert_eq!(grown(|status| status.drops["no_rule_set"]), 0);
    assert_eq!(u64::from(swaps), u64::from(status.policy.generation) - 1);
}
