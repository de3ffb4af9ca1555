//! The judgement of a foreign ESP implementation: tshark opens the capture with the exported keys.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{gateway::Sa, process::Process};

/// What tshark prints of each packet. Of a field that occurs at several layers `occurrence=f` takes the outermost.
const FIELDS: [&str; 8] = [
    "frame.number",
    "frame.protocols",
    "esp.spi",
    "esp.sequence",
    "esp.icv_good",
    "icmpv6.type",
    "tcp.srcport",
    "tcp.dstport",
];

/// Neighbour and router discovery (RFC 4861): types 133 to 137.
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// What the capture holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// ESP packets by SPI.
    pub(super) esp: BTreeMap<u32, u64>,
    /// ESP packets whose ICV tshark found correct.
    pub(super) icv_good: u64,
    /// What was inside ESP, by tshark's names of the protocols.
    pub(super) inside: BTreeMap<String, u64>,
    /// Sequence numbers that occurred more than once under one SPI.
    pub(super) repeated: u64,
    /// ARP, neighbour discovery.
    pub(super) lifeline: u64,
    /// Packets of the flow that the policy permits in the clear.
    pub(super) permitted: u64,
    /// Everything else, as "packet 17: eth:ethertype:ip:udp".
    pub(super) foreign: Vec<String>,
}

impl Verdict {
    /// All ESP packets.
    pub(super) fn esp_total(&self) -> u64 {
        self.esp.values().sum()
    }
}

/// Writes a Wireshark configuration folder with the keys; whoever opens the capture with it sees inside ESP.
pub(super) fn export_keys(folder: &Path, sas: &[Sa]) -> Result<PathBuf> {
    let folder = folder.join("wireshark");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| folder.display().to_string())?;
    let mut table = String::from("# Wireshark's table of ESP SAs (Edit, Preferences, Protocols, ESP)\n");
    for sa in sas {
        let family = if sa.source.contains(':') { "IPv6" } else { "IPv4" };
        table.push_str(&format!(
            "\"{family}\",\"{}\",\"{}\",\"{:#010x}\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}\",\"NULL\",\"\"\n",
            sa.source,
            sa.destination,
            sa.spi,
            sa.keymat_hex()
        ));
    }
    let preferences = "esp.enable_encryption_decode: TRUE\nesp.enable_authentication_check: TRUE\n";
    for (name, text) in [("esp_sa", table.as_str()), ("preferences", preferences)] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(folder)
}

/// Opens `capture` with the keys of `configuration`; `clear_port` is the TCP port that may be in the clear.
pub(super) fn judge(capture: &Path, configuration: &Path, clear_port: u16) -> Result<Verdict> {
    let mut command = Command::new("tshark");
    command
        .env("WIRESHARK_CONFIG_DIR", configuration)
        .args(["-n", "-r"])
        .arg(capture)
        // What is inside TCP and UDP is random data; protocols that tshark believes to see there fail to parse it, and
        // then it forgets what it found out about the ICV. Not to follow streams saves most of the time.
        .args(["-d", "tcp.port==0-65535,data", "-d", "udp.port==0-65535,data"])
        .args([
            "-o",
            "tcp.desegment_tcp_streams:FALSE",
            "-o",
            "tcp.analyze_sequence_numbers:FALSE",
        ])
        .args(["-T", "fields", "-E", "occurrence=f", "-E", "separator=/t"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let mut process = Process::spawn(&mut command, &capture.with_extension("tshark"))?;
    let lines = process.finish(Duration::from_secs(180))?;
    Ok(read(&lines, clear_port))
}

fn read(lines: &str, clear_port: u16) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen = HashSet::new();
    for line in lines.lines() {
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap_or_default();
        let [
            number,
            protocols,
            spi,
            sequence,
            icv,
            icmp6,
            source_port,
            destination_port,
        ] = [(); FIELDS.len()].map(|()| next());
        // "eth:ethertype:ip:esp:ip:tcp": the protocol that the outermost IP header carries.
        let mut layers = protocols.split(':').skip(2);
        let (first, second) = (
            layers.next().unwrap_or_default(),
            layers.next().unwrap_or_default(),
        );
        let ip = first == "ip" || first == "ipv6";
        let port_is_clear = [source_port, destination_port]
            .iter()
            .any(|port| port.parse() == Ok(clear_port));
        if ip && second == "esp" {
            let spi = u32::from_str_radix(spi.trim_start_matches("0x"), 16).unwrap_or(0);
            *verdict.esp.entry(spi).or_default() += 1;
            verdict.icv_good += u64::from(matches!(icv, "1" | "True"));
            verdict.repeated += u64::from(!seen.insert((spi, sequence.to_owned())));
            *verdict
                .inside
                .entry(layers.take(2).collect::<Vec<_>>().join(" "))
                .or_default() += 1;
        } else if first == "arp"
            || (first == "ipv6"
                && second == "icmpv6"
                && icmp6.parse().is_ok_and(|kind| DISCOVERY.contains(&kind)))
        {
            verdict.lifeline += 1;
        } else if ip && second == "tcp" && port_is_clear {
            verdict.permitted += 1;
        } else {
            verdict.foreign.push(format!("packet {number}: {protocols}"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Sa, export_keys, judge, read};
    use crate::program;

    /// Writes, with the keys in its arguments: a good packet of each SA, a changed one, one repeated, one in the clear.
    const SCAPY: &str = r#"
import struct, sys
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

frames = []
for argument in sys.argv[2:]:
    source, destination, spi, key = argument.split(",")
    ip = IPv6 if ":" in source else IP
    sa = SecurityAssociation(ESP, spi=int(spi), crypt_algo="AES-GCM", crypt_key=bytes.fromhex(key),
                             tunnel_header=ip(src=source, dst=destination))
    inner = IP(bytes(IP(src="10.1.0.2", dst="10.2.0.2") / TCP()))
    frames.append(bytes(Ether() / sa.encrypt(inner, seq_num=1, iv=struct.pack(">Q", 1))))
changed = bytearray(frames[0])
changed[-1] ^= 1
changed[14 + 20 + 7] = 2
frames += [bytes(changed), frames[1], bytes(Ether() / IP(src="10.1.0.2", dst="10.2.0.2") / TCP(dport=23))]
wrpcap(sys.argv[1], frames)
"#;

    #[test]
    fn tshark_opens_what_scapy_sealed_and_finds_what_is_wrong() {
        let sas = Sa::generate().unwrap();
        let folder = std::env::temp_dir().join(format!("ravelin-xtask-test-{}", std::process::id()));
        let configuration = export_keys(&folder, &sas).unwrap();
        let capture = folder.join("scapy.pcap");
        let arguments = sas
            .iter()
            .map(|sa| format!("{},{},{},{}", sa.source, sa.destination, sa.spi, sa.keymat_hex()));
        program::output(
            Command::new("/usr/bin/python3")
                .args(["-c", SCAPY])
                .arg(&capture)
                .args(arguments),
        )
        .unwrap();
        let verdict = judge(&capture, &configuration, 8080).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(
            verdict.esp.values().copied().collect::<Vec<_>>(),
            [2, 2, 1, 1],
            "{verdict:?}"
        );
        assert_eq!((verdict.esp_total(), verdict.icv_good), (6, 5), "{verdict:?}");
        assert_eq!(verdict.repeated, 1, "{verdict:?}");
        assert_eq!(verdict.foreign, ["packet 7: eth:ethertype:ip:tcp"]);
        assert!(verdict.inside["ip tcp"] >= 4, "{verdict:?}");
    }

    #[test]
    fn every_packet_is_put_where_it_belongs() {
        let verdict = read(
            "1\teth:ethertype:arp\t\t\t\t\t\t\n\
             2\teth:ethertype:ipv6:icmpv6\t\t\t\t135\t\t\n\
             3\teth:ethertype:ip:esp:ip:tcp:data\t0x00001001\t1\t1\t\t8080\t5\n\
             4\teth:ethertype:ip:esp:ipv6:icmpv6\t0x00001001\t2\t0\t128\t\t\n\
             5\teth:ethertype:ip:esp:ip:tcp\t0x00001001\t2\t1\t\t80\t5\n\
             6\teth:ethertype:ip:tcp\t\t\t\t\t40000\t8080\n\
             7\teth:ethertype:ip:tcp\t\t\t\t\t40000\t80\n\
             8\teth:ethertype:ipv6:icmpv6\t\t\t\t143\t\t\n",
            8080,
        );
        assert_eq!(verdict.esp_total(), 3);
        assert_eq!(verdict.icv_good, 2);
        assert_eq!(verdict.repeated, 1);
        assert_eq!(verdict.lifeline, 2);
        assert_eq!(verdict.permitted, 1);
        assert_eq!(verdict.inside["ip tcp"], 2);
        assert_eq!(
            verdict.foreign,
            [
                "packet 7: eth:ethertype:ip:tcp",
                "packet 8: eth:ethertype:ipv6:icmpv6"
            ]
        );
    }
}
