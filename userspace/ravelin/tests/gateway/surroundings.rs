//! The machine's addresses and what names stand for change, and the policy in force follows without a reload.

use std::net::UdpSocket;

use crate::support::daemon::{Daemon, Gateway, RAVELIN, refusal};
use crate::support::lab::Half;
use crate::support::wait_until;

/// Blocks what is for `destination`, a word or a name, at port 9999, and counts what is for port 9998.
pub(crate) fn blocking(destination: &str) -> String {
    let rule = |name: &str, destination: &str, port: u16, action: &str| {
        format!(
            "[filter-lists.{name}]\nfilters = [{{ source = \"any\", destination = \"{destination}\", protocol = \"udp\", \
             destination-port = {port} }}]\n[[rules]]\nname = \"{name}\"\nfilter-list = \"{name}\"\naction = \"{action}\"\n"
        )
    };
    rule("r", destination, 9999, "block") + &rule("marker", "any", 9998, "permit")
}

/// A network in which h1 sends everything to the gateway without asking for anybody's link-layer address.
pub(crate) fn half() -> Half {
    let half = Half::new();
    let mac = half.g1.mac("in0").map(|byte| format!("{byte:02x}")).join(":");
    half.h1.ip(&format!(
        "neighbour replace 10.1.0.1 lladdr {mac} dev eth0 nud permanent\n\
         neighbour replace 10.1.0.77 lladdr {mac} dev eth0 nud permanent"
    ));
    half
}

/// Whether the rule counts a datagram for an address.
pub(crate) fn is_blocked(half: &Half, daemon: &Daemon, address: &str) -> bool {
    let (rule, marker) = (daemon.rule("r"), daemon.rule("marker"));
    let socket = half.h1.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for port in [9999, 9998] {
        socket.send_to(b"x", (address, port)).unwrap();
    }
    // The second comes after the first.
    wait_until("the datagrams to be judged", || daemon.rule("marker") > marker);
    daemon.rule("r") > rule
}

#[test]
fn rules_for_me_follow_the_machines_addresses() {
    let half = half();
    let gateway = Gateway::new(&half.g1, half.folder.path(), &blocking("me"));
    let daemon = gateway.start();
    let generation = |wanted| wait_until("the swap", || daemon.status().policy.generation == wanted);
    assert!(is_blocked(&half, &daemon, "10.1.0.1"));
    assert!(!is_blocked(&half, &daemon, "10.1.0.77"));

    half.g1.ip("address add 10.1.0.77/24 dev in0");
    generation(2);
    assert!(is_blocked(&half, &daemon, "10.1.0.77") && is_blocked(&half, &daemon, "10.1.0.1"));
    half.g1.ip("address del 10.1.0.77/24 dev in0");
    generation(3);
    assert!(!is_blocked(&half, &daemon, "10.1.0.77"));

    // Another policy on trial follows as well, and so does the one that comes back.
    gateway.applied(
        &blocking("me").replace("name = \"r\"", "name = \"other\""),
        &["--confirm", "3600"],
    );
    half.g1.ip("address add 10.1.0.77/24 dev in0");
    generation(5);
    assert!(gateway.client("rollback").status().unwrap().success());
    generation(7);
    assert!(is_blocked(&half, &daemon, "10.1.0.77"));
    assert_eq!(daemon.status().policy.file, gateway.policy);
}

/// The outer device is out0, whatever the policy says.
#[test]
fn rules_are_in_force_behind_the_devices_that_they_name() {
    let half = half();
    let limited = |devices: &str| {
        let rule = format!("action = \"block\"\ninterfaces = [{devices}]\n");
        format!("[interfaces]\nouter = \"eth7\"\n{}", blocking("10.1.0.1")).replacen(
            "action = \"block\"\n",
            &rule,
            1,
        )
    };
    let gateway = Gateway::new(&half.g1, half.folder.path(), &limited("\"wwan0\", \"out0\""));
    let daemon = gateway.start();
    assert!(is_blocked(&half, &daemon, "10.1.0.1"));
    gateway.applied(&limited("\"eth7\", \"in0\""), &[]);
    assert!(!is_blocked(&half, &daemon, "10.1.0.1"));
    let said = gateway.apply(&limited("\"wwan0\""), &[]);
    let warned = String::from_utf8_lossy(&said.stderr).into_owned();
    let expected = "rule `r` is not in force here: it is for wwan0, and the outer device is out0";
    assert!(said.status.success() && warned.contains(expected), "{warned}");
}

#[test]
fn rules_for_names_follow_what_they_stand_for() {
    let half = half();
    let hosts = half.folder.path().join("hosts");
    let write = |text: &str| std::fs::write(&hosts, text).unwrap();
    write("10.1.0.1 server.example.org\n");
    let policy = blocking("server.example.org");
    let gateway = Gateway::new(&half.g1, half.folder.path(), &policy).with("--resolve-interval", "1");
    // In a mount namespace of its own the daemon has name files of its own.
    let command = || {
        let mut command = half.g1.command("unshare");
        command
            .args([
                "--mount",
                "sh",
                "-c",
                "mount --bind \"$0\" /etc/hosts && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"",
            ])
            .arg(&hosts)
            .arg(RAVELIN);
        gateway.command_of(command)
    };
    let daemon = gateway.start_as(command());
    assert!(is_blocked(&half, &daemon, "10.1.0.1"));
    assert!(!is_blocked(&half, &daemon, "10.1.0.77"));

    write("10.1.0.77 server.example.org\n");
    wait_until("the swap", || daemon.status().policy.generation == 2);
    assert!(is_blocked(&half, &daemon, "10.1.0.77") && !is_blocked(&half, &daemon, "10.1.0.1"));

    // A name that is gone keeps its last addresses.
    write("");
    wait_until("a word about it", || {
        daemon.log().contains("its last addresses stay")
    });
    assert_eq!(daemon.status().policy.generation, 2);
    assert!(is_blocked(&half, &daemon, "10.1.0.77"));

    let said = refusal(&gateway.apply(&blocking("nosuch.example.org"), &[]));
    assert!(
        said.contains("-other.toml:2:12: `nosuch.example.org` has no address"),
        "{said}"
    );
    assert_eq!(daemon.status().policy.generation, 2);
    // Not so for words: a machine may have no DNS server.
    let said = gateway.apply(&blocking("dns-servers"), &[]);
    assert!(said.status.success());
    let warned = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(warned.contains("dns-servers"), "{warned}");
    write("nameserver 10.1.0.1\n");
    wait_until("the name server", || daemon.status().policy.generation == 4);
    assert!(is_blocked(&half, &daemon, "10.1.0.1"));

    // The gateway, from the routes, at once.
    gateway.applied(&blocking("gateway"), &[]);
    half.g1.ip("route add default via 192.0.2.77");
    wait_until("the gateway", || daemon.status().policy.generation == 6);
    assert!(is_blocked(&half, &daemon, "192.0.2.77"));
    // What is left attached is another policy's; a start must not count on it.
    drop(daemon);
    assert!(gateway.detach().status.success());

    // At the start there are no last addresses.
    write("");
    let said = gateway.refused_as(command());
    assert!(
        said.contains(":2:12: `server.example.org` has no address"),
        "{said}"
    );
}
