//! Python programs that know what we do not: one JSON request and one JSON answer per line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A Python process that answers one request after the other, and ends with this value.
pub(crate) struct Python {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// Starts a script of the tests' folder, and waits until it says that its modules are there.
    pub(crate) fn start(script: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .expect("/usr/bin/python3 is needed: apt install python3-scapy");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut python = Self {
            child,
            requests,
            answers,
        };
        assert!(python.answer()["scapy"].is_string());
        python
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests.as_mut().unwrap(), "{request}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(
            !line.is_empty(),
            "python ended; see its message above (apt install python3-scapy python3-cryptography)"
        );
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // End of input ends the script.
        self.requests = None;
        let _ = self.child.wait();
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("a hexadecimal string").as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
