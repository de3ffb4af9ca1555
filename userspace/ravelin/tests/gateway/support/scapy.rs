//! Scapy: another implementation of ESP and of every header.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A Python process that answers one JSON line for each.
pub(crate) struct Scapy {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// An SA as scapy needs it.
#[derive(Clone, Debug)]
pub(crate) struct Sa {
    pub(crate) key: String,
    pub(crate) spi: u32,
    pub(crate) source: &'static str,
    pub(crate) destination: &'static str,
    pub(crate) extended: bool,
    pub(crate) udp: bool,
}

impl Scapy {
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/scapy_peer.py");
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.input, "{request}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("scapy failed at {request}"))
    }

    /// A packet by an expression of scapy's, from its IP header on.
    pub(crate) fn build(&mut self, expression: &str) -> Vec<u8> {
        packet(&self.ask(&json!({ "operation": "build", "expression": expression })))
    }

    pub(crate) fn seal(&mut self, sa: &Sa, sequence: u64, clear: &[u8]) -> Vec<u8> {
        packet(&self.ask(&request("seal", sa, sequence, clear)))
    }

    /// Panics in scapy if the packet is not authentic.
    pub(crate) fn open(&mut self, sa: &Sa, sequence: u64, sealed: &[u8]) -> Vec<u8> {
        packet(&self.ask(&request("open", sa, sequence, sealed)))
    }

    /// A packet in fragments whose payloads have about `size` bytes.
    pub(crate) fn fragments(&mut self, bytes: &[u8], id: u32, size: usize) -> Vec<Vec<u8>> {
        let request = json!({ "operation": "fragments", "packet": to_hex(bytes), "id": id, "size": size });
        let answer = self.ask(&request);
        let packets = answer["packets"].as_array().unwrap_or_else(|| panic!("{answer}"));
        packets
            .iter()
            .map(|packet| from_hex(packet.as_str().unwrap()))
            .collect()
    }

    /// What an ICMP error says, with all checksums verified.
    pub(crate) fn icmp_error(&mut self, bytes: &[u8]) -> Value {
        self.ask(&json!({ "operation": "icmp_error", "packet": to_hex(bytes) }))
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(operation: &str, sa: &Sa, sequence: u64, bytes: &[u8]) -> Value {
    json!({
        "operation": operation, "key": sa.key, "spi": sa.spi, "source": sa.source, "destination": sa.destination,
        "extended": sa.extended, "udp": sa.udp, "sequence": sequence, "packet": to_hex(bytes),
    })
}

fn packet(answer: &Value) -> Vec<u8> {
    from_hex(answer["packet"].as_str().unwrap_or_else(|| panic!("{answer}")))
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
