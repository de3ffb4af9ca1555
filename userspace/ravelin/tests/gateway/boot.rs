//! `boot = "block"`: from `ravelin boot` on only the lifeline passes, until `ravelin run` puts the policy in force.

use std::net::{TcpStream, UdpSocket};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::lifeline::{MANAGEMENT, MOMENT, answers, login};
use crate::support::daemon::{Gateway, RAVELIN, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::hosts::{A, B, CLEAR_PORT, Hosts};
use crate::support::lab::PORT;
use crate::support::{PATIENCE, Raise, wait_until};

/// Between two packets: no gap in the filter is to be shorter.
const PACE: Duration = Duration::from_micros(100);

/// At boot nothing but the management of b; then UDP to [`CLEAR_PORT`] as well. The rest is to be ESP.
fn policy(hosts: &Hosts) -> String {
    let folder = hosts.folder.path().display();
    format!(
        r#"
boot = "block"
[lifeline]
filters = [{{ source = "192.0.2.2", destination = "me", protocol = "tcp", destination-port = {MANAGEMENT} }}]
[filter-lists.peer]
filters = [{{ source = "192.0.2.1", destination = "192.0.2.2" }}]
[filter-lists.monitoring]
filters = [{{ source = "192.0.2.2", destination = "192.0.2.1", protocol = "udp", destination-port = {CLEAR_PORT} }}]
[[rules]]
name = "peer"
filter-list = "peer"
action = "protect"
connection = "peer"
[[rules]]
name = "monitoring"
filter-list = "monitoring"
action = "permit"
[connections.peer]
mode = "transport"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.peer.static]
algorithm = "aes-256-gcm"
outbound = {{ spi = 0x1001, key-file = "{folder}/a-to-b-v4.key" }}
inbound = {{ spi = 0x2001, key-file = "{folder}/b-to-a-v4.key" }}
"#
    )
}

/// `ravelin boot` with the options of `ravelin run`.
fn boot(host: &Gateway<'_>) -> Output {
    let mut command = host.namespace.command(RAVELIN);
    command.arg("boot").args(host.options());
    command.output().unwrap()
}

struct Services {
    _management: Echo,
    other: Echo,
    monitoring: Echo,
    away: Echo,
}

impl Services {
    fn start(hosts: &Hosts) -> Self {
        Self {
            _management: Echo::start(&hosts.a, MANAGEMENT),
            other: Echo::start(&hosts.a, PORT),
            monitoring: Echo::start(&hosts.a, CLEAR_PORT),
            away: Echo::start(&hosts.b, PORT),
        }
    }

    fn monitoring(&self, hosts: &Hosts) -> bool {
        self.monitoring.udp(&hosts.b, A[0], b"how are you")
    }

    /// The management works, old connections and new ones, and nothing else passes that the policy blocks or protects.
    fn shut(&self, hosts: &Hosts, old: &mut TcpStream) {
        assert!(answers(old), "the connection that was there");
        let mut new = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("a new connection");
        assert!(answers(&mut new), "the new connection");
        assert!(login(&hosts.b, A[0], PORT, MOMENT).is_none(), "a is reached");
        assert!(login(&hosts.a, B[0], PORT, MOMENT).is_none(), "b is reached");
        self.away.udp_one_way(&hosts.a, B[0], b"out");
        assert!(!hosts.b.ping(A[0]), "a answers");
        assert_eq!(self.away.received(), Vec::<Vec<u8>>::new());
        assert_eq!(self.other.received(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn only_the_lifeline_passes_until_the_policy_is_in_force_and_nothing_in_between() {
    let hosts = Hosts::new(true);
    let services = Services::start(&hosts);
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("nothing filters yet");
    let host = hosts.host(0, |_| policy(&hosts));
    let said = succeeded(&boot(&host));
    assert!(said.contains("eth0: only the lifeline passes"), "{said}");
    services.shut(&hosts, &mut old);
    assert!(
        !services.monitoring(&hosts),
        "what only the policy permits passes"
    );

    // All the while b sends what must never arrive.
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _raise = Raise(&stop);
        scope.spawn(|| {
            hosts.b.enter(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                while !stop.load(Ordering::Relaxed) {
                    // Errors are what an earlier packet met.
                    let _ = socket.send_to(b"in", (A[0], PORT));
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PACE);
                }
            });
        });
        let goes_on = || {
            let before = sent.load(Ordering::Relaxed);
            wait_until("more packets", || sent.load(Ordering::Relaxed) > before + 100);
        };
        goes_on();
        let daemon = host.start();
        goes_on();
        assert!(
            host.pins().iter().all(|pin| !pin.starts_with("boot")),
            "{:?}",
            host.pins()
        );
        wait_until("what the policy permits", || services.monitoring(&hosts));
        services.shut(&hosts, &mut old);

        // After a crash the policy's filter stays, and the command that the next start begins with leaves it alone.
        daemon.kill();
        let said = succeeded(&boot(&host));
        assert!(said.contains("eth0: a filter stands there already"), "{said}");
        wait_until("what the policy permits", || services.monitoring(&hosts));
        services.shut(&hosts, &mut old);
        let daemon = host.start();
        let said = succeeded(&boot(&host));
        assert!(said.contains("runs: nothing to do"), "{said}");
        wait_until("what the policy permits", || services.monitoring(&hosts));
        services.shut(&hosts, &mut old);
        goes_on();
        drop(daemon);
    });
    assert_eq!(services.other.received(), Vec::<Vec<u8>>::new());
    succeeded(&host.detach());
    wait_until("a ping once the filter is gone", || hosts.b.ping(A[0]));
}

/// The pin of a device that has gone is no filter, though the next device has its name and its number.
#[test]
fn a_device_that_comes_again_is_shut_again() {
    let hosts = Hosts::new(true);
    let host = hosts.host(0, |_| policy(&hosts));
    host.start().kill();
    let shown = hosts.a.run("ip", &["-o", "link", "show", "dev", "eth0"]);
    let index = shown.split(':').next().unwrap();
    hosts.a.ip("link del eth0");
    hosts.a.ip(&format!(
        "link add name eth0 index {index} type veth peer name to-a netns {}\nlink set eth0 up\n\
         address add 192.0.2.1/24 dev eth0",
        hosts.wire.path()
    ));
    hosts.wire.ip("link set to-a master br0\nlink set to-a up");
    wait_until("a ping without a filter", || hosts.b.ping(A[0]));
    let said = succeeded(&boot(&host));
    assert!(said.contains("eth0: only the lifeline passes"), "{said}");
    assert!(!hosts.b.ping(A[0]), "a answers");
    // And the pin of one that is there is.
    let daemon = host.start();
    daemon.kill();
    let said = succeeded(&boot(&host));
    assert!(said.contains("eth0: a filter stands there already"), "{said}");
}

/// What goes wrong at boot must not open the machine, and as little as possible lock anybody out.
#[test]
fn a_boot_that_goes_wrong_stays_shut() {
    let hosts = Hosts::new(true);
    let services = Services::start(&hosts);
    let mut old = login(&hosts.b, A[0], MANAGEMENT, PATIENCE).expect("nothing filters yet");
    let good = policy(&hosts);
    let host = hosts.host(0, |_| good.clone());

    // The engine would not start with it either; the lifeline can be read.
    std::fs::write(
        &host.policy,
        good.replace("connection = \"peer\"", "connection = \"pear\""),
    )
    .unwrap();
    let said = refusal(&boot(&host));
    assert!(
        said.contains("`pear`") && said.contains("only the lifeline counts; it can be read"),
        "{said}"
    );
    services.shut(&hosts, &mut old);
    assert!(!services.monitoring(&hosts), "a policy with mistakes is in force");

    // The daemon that fails at its first start leaves it so.
    let mut child = host.command().spawn().unwrap();
    wait_until("the daemon to refuse", || child.try_wait().unwrap().is_some());
    services.shut(&hosts, &mut old);

    // No TOML at all.
    std::fs::write(&host.policy, good.replace("[[rules]]", "[[rules")).unwrap();
    let said = refusal(&boot(&host));
    assert!(said.contains("there is none that can be read"), "{said}");
    assert!(
        login(&hosts.b, A[0], MANAGEMENT, MOMENT).is_none(),
        "whose lifeline is that?"
    );

    // The next call mends it, and follows the machine's address.
    std::fs::write(&host.policy, &good).unwrap();
    succeeded(&boot(&host));
    services.shut(&hosts, &mut old);
    hosts.a.ip("address add 192.0.2.11/24 dev eth0");
    assert!(
        login(&hosts.b, "192.0.2.11", MANAGEMENT, MOMENT).is_none(),
        "nobody has said so yet"
    );
    succeeded(&boot(&host));
    let mut new = login(&hosts.b, "192.0.2.11", MANAGEMENT, PATIENCE).expect("the new address");
    assert!(answers(&mut new));

    // Others that are not shut.
    std::fs::write(&host.policy, good.replace("\"block\"", "\"stateful\"")).unwrap();
    let said = refusal(&boot(&host));
    assert!(said.contains("\"stateful\" is not there yet"), "{said}");
    services.shut(&hosts, &mut old);
    succeeded(&host.detach());
    assert_eq!(host.pins(), Vec::<String>::new());
    std::fs::write(&host.policy, good.replace("\"block\"", "\"permit\"")).unwrap();
    let said = succeeded(&boot(&host));
    assert!(
        said.contains("nothing to do before") && host.pins().is_empty(),
        "{said}"
    );

    // A device that is not there yet keeps no other open.
    std::fs::write(&host.policy, &good).unwrap();
    let mut gateway = hosts.host(0, |_| good.clone());
    gateway.extra = vec!["--inner".to_owned(), "later0".to_owned()];
    let said = refusal(&boot(&gateway));
    assert!(said.contains("no such Ethernet device: later0"), "{said}");
    assert!(!hosts.b.ping(A[0]), "a answers");
    hosts
        .a
        .ip("link add name later0 type veth peer name behind0\nlink set later0 up\nlink set behind0 up");
    let said = succeeded(&boot(&gateway));
    assert!(said.contains("eth0, later0: only the lifeline passes"), "{said}");
    let count = |what: &str| gateway.pins().iter().filter(|pin| pin.starts_with(what)).count();
    assert_eq!((count("outer-"), count("inner-"), count("egress-")), (1, 1, 2));
    let said = succeeded(&gateway.detach());
    assert!(said.contains("4 programs detached"), "{said}");
}
