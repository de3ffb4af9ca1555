//! Whoever manages the machine gets in, whatever the policy says: by `[lifeline]`, or by the SSH connection that a command was
//! started from. The witness is a real TCP service at one end and its client at the other.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::{RAVELIN, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::hosts::{A, B, Hosts};
use crate::support::lab::{G1, H1, Half, PORT};
use crate::support::namespace::Namespace;
use crate::support::{PATIENCE, wait_longer, wait_until};

/// The port of the management.
pub(crate) const MANAGEMENT: u16 = 2222;

/// How long what must not pass is waited for.
pub(crate) const MOMENT: Duration = Duration::from_millis(700);

const BLOCK: &str = "default = \"block\"\n";

const LIFELINE: &str = r#"
[lifeline]
filters = [{ source = ["192.0.2.2", "2001:db8::2"], destination = "me", protocol = "tcp", destination-port = 2222 }]
"#;

/// Everything between the two hosts is to be ESP, and the other one has no IPsec at all.
fn protect(hosts: &Hosts) -> String {
    let folder = hosts.folder.path().display();
    let mut text = String::from("default = \"block\"\n");
    for (family, name) in [(0, "v4"), (1, "v6")] {
        text += &format!(
            r#"
[filter-lists.{name}]
filters = [{{ source = "{a}", destination = "{b}" }}]
[[rules]]
name = "{name}"
filter-list = "{name}"
action = "protect"
connection = "{name}"
priority = 0
[connections.{name}]
mode = "transport"
local = "{a}"
remote = "{b}"
[connections.{name}.static]
algorithm = "aes-256-gcm"
outbound = {{ spi = 0x100{family}, key-file = "{folder}/a-to-b-{name}.key" }}
inbound = {{ spi = 0x200{family}, key-file = "{folder}/b-to-a-{name}.key" }}
"#,
            a = A[family],
            b = B[family],
        );
    }
    text
}

/// A connection to a service, if it comes about within `patience`.
pub(crate) fn login(from: &Namespace, address: &str, port: u16, patience: Duration) -> Option<TcpStream> {
    let destination = SocketAddr::new(address.parse().unwrap(), port);
    let stream = from
        .enter(|| TcpStream::connect_timeout(&destination, patience))
        .ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Some(stream)
}

/// What is typed comes back.
pub(crate) fn answers(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).is_ok() && back == *b"hello"
}

/// What OpenSSH would say of a session from b to a.
fn session(family: usize) -> String {
    format!("{} 50000 {} {MANAGEMENT}", B[family], A[family])
}

pub(crate) fn with_session(mut command: Command, family: usize) -> Command {
    command.env("SSH_CONNECTION", session(family));
    command
}

/// The management answers, old connections and new ones; another port does not.
fn only_the_management(hosts: &Hosts, family: usize, old: &mut TcpStream) {
    assert!(answers(old), "the connection that was there");
    let mut new = login(&hosts.b, A[family], MANAGEMENT, PATIENCE).expect("a new connection");
    assert!(answers(&mut new), "the new connection");
    assert!(
        login(&hosts.b, A[family], PORT, MOMENT).is_none(),
        "another port is open"
    );
    assert!(!hosts.b.ping(A[family]), "a ping was answered");
}

#[test]
fn the_management_gets_in_when_all_is_blocked_or_protected_to_nowhere() {
    let hosts = Hosts::new(true);
    let _management = Echo::start(&hosts.a, MANAGEMENT);
    let _other = Echo::start(&hosts.a, PORT);
    for policy in [BLOCK.to_owned(), protect(&hosts)] {
        for family in [0, 1] {
            let mut old = login(&hosts.b, A[family], MANAGEMENT, PATIENCE).expect("nothing filters yet");
            assert!(answers(&mut old));
            let host = hosts.host(0, |_| policy.clone() + LIFELINE);
            let daemon = host.start();
            only_the_management(&hosts, family, &mut old);
            wait_until("the lifeline to count", || daemon.rule("[lifeline]") > 0);
            succeeded(&host.client("stop").arg("--yes").output().unwrap());

            // The same instance, for it has the same keys.
            let mut again = hosts.host(0, |_| policy.clone());
            again.instance.clone_from(&host.instance);
            let daemon = again.start_as(with_session(again.command(), family));
            only_the_management(&hosts, family, &mut old);
            wait_until("the lifeline to count", || {
                daemon.rule("[lifeline] ssh-session") > 0
            });
            succeeded(&again.client("stop").arg("--yes").output().unwrap());
        }
    }
}

/// From either side of a gateway, and to the gateway alone.
#[test]
fn a_gateway_has_a_lifeline_of_its_own_and_none_for_those_behind_it() {
    let half = Half::new();
    half.peer.ip("route add 10.1.0.0/16 via 192.0.2.1");
    let policy = r#"
default = "block"
[lifeline]
filters = [{ source = "any", destination = "me", protocol = "tcp", destination-port = 2222 }]
[filter-lists.all]
filters = [{ source = "any", destination = "any" }]
[[rules]]
name = "all"
filter-list = "all"
action = "protect"
connection = "c"
priority = 0
[connections.c]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.c.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "a.key" }
inbound = { spi = 0x2001, key-file = "b.key" }
"#;
    let gateway = crate::support::daemon::Gateway::new(&half.g1, half.folder.path(), policy);
    let daemon = gateway.start();
    let _services = [&half.g1, &half.h1, &half.peer].map(|here| Echo::start(here, MANAGEMENT));
    let _other = Echo::start(&half.g1, PORT);
    for (from, to) in [(&half.peer, G1[0]), (&half.peer, G1[1]), (&half.h1, "10.1.0.1")] {
        let mut stream = login(from, to, MANAGEMENT, PATIENCE).expect(to);
        assert!(answers(&mut stream), "{to}");
        assert!(
            login(from, to, PORT, MOMENT).is_none(),
            "another port of {to} is open"
        );
    }
    for (from, to) in [(&half.peer, H1[0]), (&half.h1, "192.0.2.2")] {
        assert!(login(from, to, MANAGEMENT, MOMENT).is_none(), "{to} is reached");
    }
    assert!(daemon.rule("[lifeline]") > 0 && daemon.drops("clear_not_allowed") > 0);

    // What explains packets knows why, and says the same.
    let mut explain = Command::new(RAVELIN);
    explain
        .args(["explain", "--me", "192.0.2.1", "--in", "--policy"])
        .arg(&gateway.policy);
    let said = succeeded(
        &explain
            .arg("tcp 192.0.2.2:40000 -> 192.0.2.1:2222")
            .output()
            .unwrap(),
    );
    assert!(
        said.contains("permit. Rule `[lifeline]` decides")
            && said.contains("the winner is the lifeline, which comes before every rule"),
        "{said}"
    );
}

#[test]
fn an_apply_holds_the_session_that_it_came_from() {
    let hosts = Hosts::new(true);
    let _management = Echo::start(&hosts.a, MANAGEMENT);
    let _other = Echo::start(&hosts.a, PORT);
    let host = hosts.host(0, |_| "default = \"permit\"\n".to_owned());
    let daemon = host.start();
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("all is permitted");
    assert!(answers(&mut old));

    let file = host.other_policy();
    let apply = |policy: &str, session: Option<&str>, options: &[&str]| {
        std::fs::write(&file, policy).unwrap();
        let mut command = host.client("apply");
        command.arg(&file).args(options);
        if let Some(session) = session {
            command.env("SSH_CONNECTION", session);
        }
        let output = command.output().unwrap();
        succeeded(&output);
        let said = String::from_utf8(output.stderr).unwrap();
        // A busy engine lets it wait.
        let lines = said
            .lines()
            .filter(|line| !line.contains("waiting for an answer"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let here = session(0);
    assert_eq!(apply(BLOCK, Some(&here), &[]), "");
    only_the_management(&hosts, 0, &mut old);
    // Without a session, as from a service manager, the one that is held stays so; SIGHUP as well.
    apply("default = \"block\"\nnon-ip = \"block\"\n", None, &[]);
    only_the_management(&hosts, 0, &mut old);
    let read_again = || {
        let generation = daemon.status().policy.generation;
        daemon.hang_up();
        wait_until("the policy to be read again", || {
            daemon.status().policy.generation > generation
        });
    };
    read_again();
    only_the_management(&hosts, 0, &mut old);
    // What is not of this machine opens nothing, and is told.
    let said = apply(BLOCK, Some(&format!("192.0.2.2 50000 192.0.2.9 {PORT}")), &[]);
    assert!(
        said.contains("no lifeline") && said.contains("no address of this machine"),
        "{said}"
    );
    only_the_management(&hosts, 0, &mut old);

    // A policy that cuts it. Nobody can confirm, so the one before comes back, and the connection goes on.
    let cut = "default = \"block\"\n[lifeline]\nssh-session = false\n";
    let mut check = with_session(Command::new(RAVELIN), 0);
    std::fs::write(&file, cut).unwrap();
    let said = refusal(&check.arg("check").arg(&file).output().unwrap());
    assert!(
        said.contains("this locks out the management of 192.0.2.1 from 192.0.2.2"),
        "{said}"
    );
    apply(cut, Some(&session(1)), &["--confirm", "10"]);
    assert!(
        login(&hosts.b, A[0], MANAGEMENT, MOMENT).is_none(),
        "the policy does not cut"
    );
    old.write_all(b"again").unwrap();
    assert!(daemon.status().pending.is_some(), "it came back too soon to tell");
    wait_longer(2 * PATIENCE, "the policy before", || {
        daemon.status().pending.is_none().then_some(())
    });
    let mut back = [0; 5];
    old.read_exact(&mut back)
        .expect("what was typed meanwhile comes back");
    assert_eq!(back, *b"again");
    only_the_management(&hosts, 0, &mut old);
    // With the session that it was applied from, not with that of the trial.
    std::fs::write(&file, BLOCK).unwrap();
    read_again();
    only_the_management(&hosts, 0, &mut old);

    // For good.
    apply(cut, Some(&here), &[]);
    assert!(
        login(&hosts.b, A[0], MANAGEMENT, MOMENT).is_none(),
        "it is not cut"
    );
}
