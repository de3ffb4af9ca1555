//! What an operator gets wrong: a clear word, and nothing attached.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::support::daemon::{Gateway, RAVELIN};
use crate::support::lab::{self, Half, Lab, Policy, keygen};

/// Asserts what the refusal says.
fn refused(gateway: &Gateway<'_>, words: &[&str]) {
    expect(&gateway.refused(), words);
    nothing_attached(gateway);
}

fn expect(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn nothing_attached(gateway: &Gateway<'_>) {
    let links = gateway.namespace.run("ip", &["-d", "link"]);
    assert!(!links.contains("xdp"), "{links}");
    assert!(!gateway.control().exists());
}

fn gateway<'h>(half: &'h Half, change: impl FnOnce(String) -> String) -> Gateway<'h> {
    Gateway::new(&half.g1, half.folder.path(), &change(Policy::default().text(1)))
}

#[test]
fn devices() {
    let half = Half::new();
    let plain = || half.gateway(&Policy::default());
    for (outer, inner, words) in [
        ("nosuch0", "in0", ["device nosuch0", "ip link"]),
        ("out0", "nosuch0", ["device nosuch0", "ip link"]),
        ("out0", "out0", ["device out0", "two devices"]),
        ("lo", "in0", ["device lo", "Ethernet"]),
        ("out0", "lo", ["device lo", "Ethernet"]),
    ] {
        let mut gateway = plain();
        gateway.outer = outer.to_owned();
        gateway.inner = Some(inner.to_owned());
        refused(&gateway, &words);
    }

    // Nor can there be such a one, and its name is no text for a message or a unit.
    let plain_one = plain();
    for name in ["", ".", "..", "a/b", "a:b", "a b", "out0\nX", "sixteen-bytes-at"] {
        let mut command = Command::new(RAVELIN);
        command.args(["run", "--policy"]).arg(&plain_one.policy);
        let output = command.args(["--inner=in0", "--outer", name]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name:?}: {said}");
        expect(&said, &["no device has such a name"]);
    }
    nothing_attached(&plain_one);

    half.g1.ip("link set out0 mtu 600");
    refused(
        &plain(),
        &["connection `c`", "600 bytes", "device out0", "1280", "mtu"],
    );
    half.g1.ip("link set out0 mtu 30000");
    refused(
        &plain(),
        &["device out0", "30000", "ip link set dev out0 mtu 16057"],
    );
    half.g1.ip("link set out0 mtu 1500");

    half.g1.ip("link add name two numrxqueues 2 numtxqueues 2 type veth peer name twopeer numrxqueues 2 numtxqueues 2\nlink set two up\nlink set twopeer up");
    let mut queues = plain();
    queues.inner = Some("two".to_owned());
    refused(
        &queues,
        &["device two has 2 queues", "device out0 has 1", "ethtool -L"],
    );
}

#[test]
fn keys() {
    let half = Half::new();
    let (a, b) = (half.folder.path().join("a.key"), half.folder.path().join("b.key"));
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let plain = || half.gateway(&Policy::default());

    mode(&a, 0o644);
    refused(&plain(), &["a.key", "0644", "chmod 600"]);
    mode(&a, 0o600);
    std::fs::remove_file(&b).unwrap();
    refused(&plain(), &["b.key", "cannot open the key file"]);
    keygen(&b, "aes-128-gcm");
    refused(&plain(), &["b.key", "expected 72 hex digits", "found 40"]);
    std::fs::copy(&a, &b).unwrap();
    refused(&plain(), &["a.key", "b.key"]);
    std::fs::write(&b, "abc\nxyz\n").unwrap();
    refused(&plain(), &["b.key:2:", "hexadecimal"]);
}

#[test]
fn policies() {
    let half = Half::new();
    let unknown_key = gateway(&half, |text| {
        text.replace("mode = \"tunnel\"", "mode = \"tunnel\"\nmood = 1")
    });
    let file = unknown_key
        .policy
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let text = std::fs::read_to_string(&unknown_key.policy).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with("mood")).unwrap();
    refused(&unknown_key, &[&file, &format!(":{line}:1:"), "mood"]);
    let unknown_connection = gateway(&half, |text| {
        text.replace("connection = \"c\"", "connection = \"d\"")
    });
    refused(&unknown_connection, &[".toml:", "connection", "`d`"]);
    let reserved = gateway(&half, |text| text.replace("spi = 0x1001", "spi = 255"));
    refused(&reserved, &[".toml:", "255"]);
    let port = gateway(&half, |text| {
        text.replace(
            "mode = \"tunnel\"",
            "mode = \"tunnel\"\nencapsulation = \"udp\"\nlocal-port = 4501",
        )
    });
    refused(&port, &["connection `c`", "4500"]);
    let transport = gateway(&half, |text| {
        text.replace("mode = \"tunnel\"", "mode = \"transport\"")
            .replace(
                "\"10.1.0.0/16\", destination = \"10.2.0.0/16\" }",
                "\"192.0.2.1\", destination = \"192.0.2.2\" }",
            )
            .replace("{ source = \"fd01::/64\", destination = \"fd02::/64\" },", "")
    });
    refused(&transport, &["connection `c`", "transport", "mode = \"tunnel\""]);
    let mut missing = half.gateway(&Policy::default());
    missing.policy = half.folder.path().join("nosuch.toml");
    refused(&missing, &["nosuch.toml"]);
}

#[test]
fn privileges_and_folders() {
    let half = Half::new();
    let plain = half.gateway(&Policy::default());
    // Everything it may read belongs to it, so that it comes as far as the kernel.
    let nobody = half.folder.path().join("nobody");
    let program = nobody.join("ravelin");
    std::fs::create_dir(&nobody).unwrap();
    std::fs::copy(RAVELIN, &program).unwrap();
    for path in [half.folder.path(), &nobody] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let mut unprivileged = half.gateway(&Policy::default());
    unprivileged.policy = nobody.join("policy.toml");
    unprivileged.folder.clone_from(&nobody);
    std::fs::copy(&plain.policy, &unprivileged.policy).unwrap();
    for name in ["a.key", "b.key"] {
        let key = nobody.join(name);
        std::fs::copy(half.folder.path().join(name), &key).unwrap();
        nix::unistd::chown(&key, Some(65534.into()), Some(65534.into())).unwrap();
    }
    let mut command = half.g1.command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(&program);
    let said = unprivileged.refused_as(unprivileged.command_of(command));
    expect(&said, &["root"]);
    nothing_attached(&plain);

    let state = half.folder.path().join("open-to-all");
    std::fs::DirBuilder::new().mode(0o755).create(&state).unwrap();
    let open = half
        .gateway(&Policy::default())
        .with("--state-dir", state.to_str().unwrap());
    refused(&open, &["open-to-all", "0755", "chmod 700"]);
    // A folder under a file can be made by nobody, root included.
    let impossible = half.folder.path().join("a.key").join("state");
    let impossible = half
        .gateway(&Policy::default())
        .with("--state-dir", impossible.to_str().unwrap());
    refused(&impossible, &["a.key/state", "cannot use the state folder"]);
}

#[test]
fn others_at_the_same_device_socket_and_folder() {
    let half = Half::new();
    let first = half.gateway(&Policy::default());
    let running = first.start();

    let mut twin = half.gateway(&Policy::default());
    let own = std::mem::replace(&mut twin.instance, first.instance.clone());
    let said = output(&twin);
    expect(&said, &["another"]);
    twin.instance = own;
    let state = first.state();
    let same_state = half
        .gateway(&Policy::default())
        .with("--state-dir", state.to_str().unwrap());
    let said = same_state.refused();
    expect(&said, &["another Ravelin uses this state folder", ".state"]);
    let keys = lab::keys();
    let same_device = Gateway::new(&half.g1, keys.path(), &Policy::default().text(1));
    expect(
        &same_device.refused(),
        &[
            "device in0 queue 0: another AF_XDP socket is bound",
            "stop the program",
        ],
    );

    // All that left the first alone.
    assert_eq!(first.pins().len(), 3);
    assert_eq!(running.status().instance, first.instance);
}

/// What a daemon says that ends with an error, whatever is attached.
fn output(gateway: &Gateway<'_>) -> String {
    let output = gateway.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// A foreign program is recognised wherever it sits, and left alone.
#[test]
fn a_foreign_program_stays() {
    let half = Half::new();
    // Another instance's filter, whose daemon was killed, is as foreign as any.
    let other = half.gateway(&Policy::default());
    other.start().kill();
    let pins = other.pins();
    let keys = lab::keys();
    let said = Gateway::new(&half.g1, keys.path(), &Policy::default().text(1)).refused();
    expect(&said, &["another XDP program is attached", "device out0"]);
    assert_eq!(other.pins(), pins);
}

/// `ip netns exec` gives its program a mount namespace of its own, and hides the BPF filesystem there.
#[test]
fn pins_that_would_end_with_the_process_are_refused() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    let mut command = gateway.namespace.command("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        "umount --lazy /sys/fs/bpf && exec \"$@\"",
        "sh",
        RAVELIN,
    ]);
    let said = gateway.refused_as(gateway.command_of(command));
    assert!(said.contains("nsenter --net=/run/netns/NAME"), "{said}");
}
