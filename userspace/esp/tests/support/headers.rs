//! Headers as scapy builds and reads them, and SAs with options to hold against them.

use std::time::Instant;

use ravelin_esp::{InboundSa, OutboundSa, Provider, SaParameters};
use serde_json::{Value, json};

use super::python::{Python, bytes, hex};
use super::{Case, SPI};

/// headers_peer.py.
pub(crate) struct HeadersPeer(Python);

impl HeadersPeer {
    pub(crate) fn start() -> Self {
        Self(Python::start("headers_peer.py"))
    }

    /// The packet of one of scapy's expressions.
    pub(crate) fn build(&mut self, expression: &str) -> Vec<u8> {
        let request = json!({ "operation": "build", "expression": expression });
        bytes(&self.0.ask(&request)["packet"])
    }

    /// The fields of the IP header in front.
    pub(crate) fn fields(&mut self, packet: &[u8]) -> Value {
        self.0
            .ask(&json!({ "operation": "fields", "packet": hex(packet) }))
    }

    /// The names of the headers in front of ESP and UDP, the first one's included.
    pub(crate) fn layers(&mut self, packet: &[u8]) -> Vec<String> {
        let answer = self
            .0
            .ask(&json!({ "operation": "layers", "packet": hex(packet) }));
        serde_json::from_value(answer["layers"].clone()).unwrap()
    }

    /// The packet as a NAT sends it on: with other addresses in its IP header, and whatever of it depends on them that a
    /// NAT can reach.
    pub(crate) fn translate(&mut self, packet: &[u8], [source, destination]: [&str; 2]) -> Vec<u8> {
        let request = json!({
            "operation": "translate",
            "packet": hex(packet),
            "source": source,
            "destination": destination,
        });
        bytes(&self.0.ask(&request)["packet"])
    }

    /// Has scapy seal a packet with a case's keys; `headers` are those of scapy's SA, in its language.
    pub(crate) fn seal(&mut self, case: Case, headers: &Value, packet: &[u8]) -> Vec<u8> {
        self.transform("seal", case, headers, packet)
    }

    /// Has scapy open one.
    pub(crate) fn open(&mut self, case: Case, headers: &Value, packet: &[u8]) -> Vec<u8> {
        self.transform("open", case, headers, packet)
    }

    /// What the trailer names of a packet that was sealed with a case's keys.
    pub(crate) fn next_header(&mut self, case: Case, packet: &[u8]) -> u8 {
        let answer = self.ask("next_header", case, &json!({}), packet);
        answer["next_header"].as_u64().unwrap() as u8
    }

    fn transform(&mut self, operation: &str, case: Case, headers: &Value, packet: &[u8]) -> Vec<u8> {
        bytes(&self.ask(operation, case, headers, packet)["packet"])
    }

    fn ask(&mut self, operation: &str, case: Case, headers: &Value, packet: &[u8]) -> Value {
        let mut request = headers.clone();
        request["operation"] = json!(operation);
        request["spi"] = json!(SPI);
        request["key"] = json!(hex(&case.key_material()));
        request["packet"] = json!(hex(packet));
        self.0.ask(&request)
    }
}

/// AES-GCM with short sequence numbers and without UDP.
pub(crate) fn plain_case(tunnel: bool, outer_v6: bool) -> Case {
    Case {
        tunnel,
        outer_v6,
        udp: false,
        extended: false,
        ..Case::all()[0]
    }
}

pub(crate) fn outbound(case: Case, change: impl FnOnce(&mut SaParameters)) -> OutboundSa {
    let mut parameters = case.parameters(true);
    change(&mut parameters);
    let sa = OutboundSa::new(parameters, Provider::preferred(), 0, Instant::now()).unwrap();
    sa.sequence().raise_ceiling(u64::MAX);
    sa
}

pub(crate) fn inbound(case: Case, change: impl FnOnce(&mut SaParameters)) -> InboundSa {
    let mut parameters = case.parameters(false);
    change(&mut parameters);
    InboundSa::new(parameters, Provider::preferred(), 0, Instant::now()).unwrap()
}
