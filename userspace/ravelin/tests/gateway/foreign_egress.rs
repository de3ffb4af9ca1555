//! Somebody else's program at the outer device's egress: it is asked after the filter, and one that gets in front of it is told of.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::support::capture::clear;
use crate::support::hosts::{A, B, Hosts};
use crate::support::namespace::Namespace;
use crate::support::wait_until;

/// Attaches a program that passes everything for good (`TCX_PASS`) to the egress of a device, with flags, for as long as it runs.
const ATTACH: &str = r#"
import ctypes, os, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
call = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
def bpf(command, attr):
    buffer = ctypes.create_string_buffer(attr, 144)
    answer = libc.syscall(call, command, buffer, 144)
    if answer < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return answer
code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0))
license = ctypes.create_string_buffer(b"GPL")
program = bpf(5, struct.pack("<IIQQIIQ", 3, 2, ctypes.addressof(code), ctypes.addressof(license), 0, 0, 0))
device = socket.if_nametoindex(sys.argv[1])
link = bpf(28, struct.pack("<IIIIII", program, device, 47, int(sys.argv[2]), 0, 0))
print("attached", flush=True)
time.sleep(600)
"#;

const BPF_F_BEFORE: &str = "8";

struct Foreign(Child);

impl Foreign {
    fn attach(namespace: &Namespace, flags: &str) -> Self {
        let mut command = namespace.command("python3");
        command.args(["-c", ATTACH, "eth0", flags]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let foreign = Self(child);
        assert_eq!(line, "attached\n");
        foreign
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_filter_is_asked_first_and_one_in_front_of_it_is_told_of() {
    let hosts = Hosts::new(true);
    let before = Foreign::attach(&hosts.a, "0");
    let running = hosts.start(str::to_owned);
    let capture = hosts.capture();
    wait_until("ping", || hosts.a.ping(B[0]));
    let packets = capture.packets();
    assert!(clear(&packets).is_empty(), "{packets:?}");
    assert!(packets.iter().any(|packet| packet.esp().is_some()));
    let trouble = || running.da.status().interfaces["outer"].trouble.clone();
    assert_eq!(trouble(), None, "it is behind");
    drop(before);

    let in_front = Foreign::attach(&hosts.a, BPF_F_BEFORE);
    wait_until("it to be told of", || {
        trouble().is_some_and(|said| said.contains("device eth0") && said.contains("before Ravelin's"))
    });
    drop(in_front);
    wait_until("it to be gone", || trouble().is_none());
    wait_until("ping the other way", || hosts.b.ping(A[0]));
}
