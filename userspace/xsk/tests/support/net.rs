//! A network namespace for one test.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `body` on a thread in a fresh network namespace without a name. Namespace and devices go with the thread,
/// however it ends. Fails loudly without root.
pub(crate) fn in_namespace(body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root (CAP_SYS_ADMIN) for a namespace");
            // The kernel's own IPv6 chatter must not mix with the packets that are counted.
            for which in ["all", "default"] {
                // Answers for the namespace of the thread that opens it.
                let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                std::fs::write(path, "1").expect("IPv6 can be switched off in the namespace");
            }
            body();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Makes the veth pair `a`, `b` in the thread's namespace, both up.
pub(crate) fn veth(a: &str, b: &str, mtu: u32) {
    let mtu = mtu.to_string();
    ip(&[
        "link", "add", a, "mtu", &mtu, "type", "veth", "peer", "name", b, "mtu", &mtu,
    ]);
    for device in [a, b] {
        ip(&["link", "set", device, "arp", "off", "up"]);
    }
}

/// Runs `ip` in the thread's namespace: a child is born into the namespace of the thread that makes it.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {message}", arguments.join(" "));
}

/// Number of a device in the thread's namespace.
pub(crate) fn index(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).expect("the device exists")
}
