//! What an engine finds of the one before: counters and generation go on, and what was dropped in between is told.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ravelin_engine::{RuleCount, Status};

use crate::support::daemon::{Daemon, Gateway, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::hosts::{B, Hosts};
use crate::support::lab::{CLEAR_PORT, H2, Half, Lab, PORT, Policy};
use crate::support::namespace::Namespace;
use crate::support::wait_until;

/// Where the folders of instances with their counters are.
const COUNTERS: &str = "/sys/fs/bpf/ravelin-counters";

/// Protected packets sent while nobody serves.
const SENT: u64 = 40;

/// Packets that no queue between the filter and a worker holds.
const QUEUED: u64 = 8192;

/// What a daemon has counted, by names. Only what no traffic has.
fn counted(status: &Status) -> BTreeMap<String, RuleCount> {
    let rules = status.rules.iter().map(|rule| {
        let count = RuleCount {
            packets: rule.packets,
            bytes: rule.bytes,
        };
        (rule.name.clone(), count)
    });
    rules.collect()
}

/// Asserts that nothing is less than it was; of rules, that nothing has been counted since.
fn goes_on(what: &str, before: &Status, after: &Status) {
    assert_eq!(counted(after), counted(before), "{what}");
    for (before, after) in [(&before.drops, &after.drops), (&before.outcomes, &after.outcomes)] {
        for (name, count) in before {
            assert!(
                after[name] >= *count,
                "{what}: {name}: {} after {count}",
                after[name]
            );
        }
    }
    assert_eq!(after.policy.generation, before.policy.generation + 1, "{what}");
    assert_ne!(after.pid, before.pid, "{what}");
}

/// The status when all that was sent has been counted: workers may lag.
fn settled(daemon: &Daemon, protected: u64) -> Status {
    wait_until("both ways to be counted", || daemon.rule("sites") >= protected);
    daemon.status()
}

#[test]
fn counters_and_the_generation_go_on_with_the_next_engine() {
    let lab = Lab::new();
    let policy = Policy::default();
    let (g1, g2) = (lab.gateway(1, &policy), lab.gateway(2, &policy));
    let _d2 = g2.start();
    let mut daemon = g1.start();
    let (protected, permitted) = (Echo::start(&lab.h2, PORT), Echo::start(&lab.h2, CLEAR_PORT));
    let traffic = |daemon: &Daemon| {
        let before = daemon.rule("sites");
        wait_until("protected UDP", || protected.udp(&lab.h1, H2[0], b"protected"));
        wait_until("permitted UDP", || permitted.udp(&lab.h1, H2[0], b"permitted"));
        // Outbound the driver counts, inbound the worker.
        settled(daemon, before + 2)
    };
    // Not what an engine of a moment has: of the second swap.
    g1.applied(&policy.text(1), &[]);
    let first = traffic(&daemon);
    assert_eq!(first.policy.generation, 2);
    assert!(counted(&first)["clear"].packets > 0);

    daemon.kill();
    daemon = g1.start();
    goes_on("kill -9", &first, &daemon.status());
    let second = traffic(&daemon);
    assert!(counted(&second)["sites"].packets >= counted(&first)["sites"].packets + 2);
    assert!(counted(&second)["clear"].packets > counted(&first)["clear"].packets);

    succeeded(&g1.client("stop").arg("--keep-closed").output().unwrap());
    drop(daemon);
    daemon = g1.start();
    goes_on("stop --keep-closed", &second, &daemon.status());
    let third = traffic(&daemon);

    // Room for other rules, so other maps; of the rules one is gone and one is new.
    let other = policy
        .text(1)
        .replace("name = \"clear\"", "name = \"monitoring\"");
    std::fs::write(&g1.policy, &other).unwrap();
    let mut command = g1.command();
    command.args(["--replace", "--max-rules", "100"]);
    let next = g1.start_as(command);
    let (ended, log) = std::mem::replace(&mut daemon, next).ended();
    assert!(ended.success(), "{log}");
    let fourth = daemon.status();
    assert_eq!(counted(&fourth)["sites"], counted(&third)["sites"]);
    assert_eq!(counted(&fourth)["monitoring"], RuleCount::default());
    assert_eq!(fourth.removed_rules, counted(&third)["clear"]);
    assert!(fourth.drops["rule_block"] >= third.drops["rule_block"]);
    assert!(
        third.outcomes["permit_rule"] > 0 && fourth.outcomes["permit_rule"] >= third.outcomes["permit_rule"]
    );
    assert_eq!(fourth.policy.generation, third.policy.generation + 1);
    let fourth = traffic(&daemon);

    // The same again with the maps that this one has left.
    daemon.kill();
    let mut command = g1.command();
    command.args(["--max-rules", "100"]);
    daemon = g1.start_as(command);
    goes_on("kill -9 with other maps", &fourth, &daemon.status());
    let fifth = traffic(&daemon);

    // And back, while a rule goes that was counted in several maps.
    daemon.kill();
    std::fs::write(&g1.policy, policy.text(1)).unwrap();
    daemon = g1.start();
    let sixth = daemon.status();
    assert_eq!(counted(&sixth)["sites"], counted(&fifth)["sites"]);
    assert_eq!(
        sixth.removed_rules.packets,
        counted(&third)["clear"].packets + counted(&fifth)["monitoring"].packets
    );
    assert_eq!(sixth.policy.generation, fifth.policy.generation + 1);

    // Whoever takes the filter away begins anew.
    drop(daemon);
    succeeded(&g1.detach());
    daemon = g1.start();
    let last = daemon.status();
    assert_eq!((last.policy.generation, counted(&last)["sites"].packets), (1, 0));
}

/// Rules that are gone have counters still when an engine was killed. They leave the next one whatever room it needs.
#[test]
fn the_counters_of_old_rules_stop_no_start() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default()).with("--max-rules", "4");
    let clear = Echo::start(&half.peer, CLEAR_PORT);
    let rule = |name: &str| {
        format!(
            "[[rules]]\nname = \"{name}\"\nfilter-list = \"clear\"\naction = \"permit\"\nactive = false\n"
        )
    };
    let with = |names: &[&str]| {
        let rules: String = names.iter().map(|name| rule(name)).collect();
        Policy::default().text(1) + &rules
    };
    let daemon = gateway.start();
    gateway.applied(&with(&["first", "second"]), &[]);
    clear.udp_one_way(&half.h1, H2[0], b"permitted");
    wait_until("it to be counted", || daemon.rule("clear") > 0);
    let before = daemon.status();
    daemon.kill();

    // As many as before, and none of those that no traffic meets.
    std::fs::write(&gateway.policy, with(&["third", "fourth"])).unwrap();
    let daemon = gateway.start();
    let after = daemon.status();
    assert_eq!(counted(&after)["clear"], counted(&before)["clear"]);
    assert_eq!(counted(&after)["third"], RuleCount::default());
    assert_eq!(after.policy.generation, before.policy.generation + 1);
    daemon.kill();

    // Of those that go one has counted.
    let others = with(&["fifth", "sixth"]).replace("name = \"clear\"", "name = \"monitoring\"");
    std::fs::write(&gateway.policy, others).unwrap();
    let daemon = gateway.start();
    let last = daemon.status();
    assert_eq!(last.removed_rules, counted(&before)["clear"]);
    assert_eq!(counted(&last)["monitoring"], RuleCount::default());
    clear.udp_one_way(&half.h1, H2[0], b"permitted");
    wait_until("it to be counted", || daemon.rule("monitoring") > 0);

    // Rules of its own policy are another matter, and no reason to end the one that runs.
    std::fs::write(&gateway.policy, with(&["fifth", "sixth", "seventh"])).unwrap();
    let mut command = gateway.command();
    command.arg("--replace");
    let said = refusal(&command.output().unwrap());
    assert!(
        said.contains("5 rules") && said.contains("`--max-rules 16`"),
        "{said}"
    );
    assert_eq!(daemon.status().pid, last.pid);
}

/// Somebody deletes some of the pins of counters. What is counted in them goes on with the next engine all the same.
#[test]
fn pins_of_counters_come_again_one_by_one() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let clear = Echo::start(&half.peer, CLEAR_PORT);
    let daemon = gateway.start();
    clear.udp_one_way(&half.h1, H2[0], b"permitted");
    wait_until("it to be counted", || daemon.rule("clear") > 0);
    let before = daemon.status();
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let layouts = files(&Path::new(COUNTERS).join(&gateway.instance));
    let [layout] = &layouts[..] else {
        panic!("{layouts:?}")
    };
    let pins = files(layout);
    // The maps of programs, the book, and one of a worker.
    assert!(pins.len() >= 6, "{pins:?}");
    for pin in &pins {
        std::fs::remove_file(pin).unwrap();
        wait_until("the pin to be there again", || pin.exists());
    }
    daemon.kill();
    let daemon = gateway.start();
    goes_on("kill -9", &before, &daemon.status());
}

/// Sends protected packets that must not arrive. To a host's own sender the filter's refusal is an error.
fn send(from: &Namespace, to: &str, packets: u64) {
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for number in 0..packets {
        let _ = socket.send_to(b"protected, meanwhile", (to, PORT));
        // No faster than devices without a worker behind them can be.
        if number % 64 == 63 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Freezes an engine while packets are sent that it must protect, more than any queue holds. Afterwards it has sealed them or counted
/// them as dropped, all of them.
fn freezes(daemon: &Daemon, from: &Namespace, to: &str) {
    let accounted = || {
        let status = daemon.status();
        let sealed: u64 = status.workers.iter().map(|worker| worker.sealed).sum();
        (
            status.drops["receive_overrun"],
            sealed + status.drops.values().sum::<u64>(),
        )
    };
    let (overruns, before) = accounted();
    daemon.frozen_while(|| send(from, to, QUEUED));
    wait_until("every packet to be counted", || accounted().1 >= before + QUEUED);
    assert!(accounted().0 > overruns, "none was dropped");
}

/// The next engine tells how many packets were dropped while there was none, and that goes on as well.
fn tells(gateway: &Gateway<'_>, before: u64, lost: impl Fn()) {
    for round in 1..=2 {
        lost();
        let daemon = gateway.start();
        let said = "ravelin: warning: packets were dropped while no engine served: ";
        wait_until("the number in the log", || {
            daemon.log().contains(said) && daemon.log().contains("no_worker ")
        });
        let status = daemon.status();
        let (unserved, all) = (status.unserved["no_worker"], status.drops["no_worker"]);
        assert!(unserved >= round * SENT, "round {round}: {unserved}");
        assert!(
            all >= before + round * SENT,
            "round {round}: {all} after {before}"
        );
        let shown = succeeded(&gateway.client("status").output().unwrap());
        assert!(shown.contains("of these, without an engine"), "{shown}");
        daemon.kill();
    }
}

#[test]
fn what_a_gateway_drops_while_its_engine_is_frozen_or_dead_is_counted() {
    let lab = Lab::new();
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let _d2 = g2.start();
    let echo = Echo::start(&lab.h2, PORT);
    let daemon = g1.start();
    wait_until("protected UDP", || echo.udp(&lab.h1, H2[0], b"protected"));
    assert!(
        daemon.status().unserved.is_empty(),
        "{:?}",
        daemon.status().unserved
    );
    lab.h1.queue("eth0");
    freezes(&daemon, &lab.h1, H2[0]);
    let before = daemon.drops("no_worker");
    daemon.kill();
    tells(&g1, before, || send(&lab.h1, H2[0], SENT));
}

#[test]
fn what_a_host_drops_while_its_engine_is_frozen_or_dead_is_counted() {
    for edge in ["tun", "veth"] {
        let hosts = Hosts::new(true).with_edge(edge);
        let running = hosts.start(str::to_owned);
        wait_until("ping", || hosts.a.ping(B[0]));
        freezes(&running.da, &hosts.a, B[0]);
        let before = running.da.drops("no_worker");
        running.da.kill();
        tells(&running.a, before, || send(&hosts.a, B[0], SENT));
    }
}
