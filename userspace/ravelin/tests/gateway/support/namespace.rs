//! Network namespaces without names: they go with the test's process, however it ends.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this, or as a process inside.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes one with its loopback up and IPv6 quiet.
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root (CAP_SYS_ADMIN) for namespaces");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Self(file.join().expect("a fresh network namespace"));
        namespace.ip("link set lo up");
        for (name, value) in [
            ("accept_ra", "0"),
            ("router_solicitations", "0"),
            ("accept_dad", "0"),
        ] {
            namespace.sysctl(&format!("ipv6/conf/default/{name}"), value);
        }
        namespace
    }

    /// A path that opens it, for `nsenter` and `ip link set … netns`.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `action` on a thread inside. Sockets and threads made there stay inside.
    pub(crate) fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command inside, killed with the thread that starts it. `nsenter`, because `ip netns exec` remounts /sys,
    /// which hides the BPF filesystem.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path()))
            .args(["setpriv", "--pdeathsig", "KILL", "--", program]);
        command
    }

    /// Runs a program to its end.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        output.unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Runs a program that must succeed; its standard output.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        assert!(
            output.status.success(),
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Lines for `ip -batch`.
    pub(crate) fn ip(&self, lines: &str) {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("iproute2 is installed");
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip: {message}in\n{lines}");
    }

    /// Writes a setting below /proc/sys/net.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| std::fs::write(format!("/proc/sys/net/{name}"), value))
            .unwrap_or_else(|error| panic!("{name} = {value}: {error}"));
    }

    /// Whether one ping is answered within a second.
    pub(crate) fn ping(&self, destination: &str) -> bool {
        let arguments = ["-n", "-q", "-c1", "-W1", destination];
        self.output("ping", &arguments).status.success()
    }

    /// Gives a device a queue. The ring of a veth has no back-pressure of its own: what does not fit into it is lost.
    pub(crate) fn queue(&self, device: &str) {
        let queue = [
            "qdisc", "replace", "dev", device, "root", "pfifo", "limit", "10000",
        ];
        self.run("tc", &queue);
    }

    /// The link-layer address of a device.
    pub(crate) fn mac(&self, device: &str) -> [u8; 6] {
        // sysfs shows the namespace of its mount, rtnetlink that of the caller.
        let links = self.run("ip", &["-o", "link", "show", "dev", device]);
        let text = links
            .split("link/ether ")
            .nth(1)
            .unwrap_or_else(|| panic!("{device}: {links}"));
        let mut mac = [0; 6];
        for (byte, digits) in mac.iter_mut().zip(text[..17].split(':')) {
            *byte = u8::from_str_radix(digits, 16).unwrap();
        }
        mac
    }
}

/// Joins two namespaces by a veth pair, both ends up, one queue each, checksums complete.
pub(crate) fn veth((a, a_name): (&Namespace, &str), (b, b_name): (&Namespace, &str)) {
    a.ip(&format!(
        "link add name {a_name} numrxqueues 1 numtxqueues 1 type veth peer name {b_name} netns {} numrxqueues 1 numtxqueues 1\n\
         link set {a_name} up",
        b.path()
    ));
    b.ip(&format!("link set {b_name} up"));
    for (namespace, device) in [(a, a_name), (b, b_name)] {
        // What is not computed by hardware must be computed before it is sealed.
        namespace.run("ethtool", &["-K", device, "tx", "off"]);
    }
}
