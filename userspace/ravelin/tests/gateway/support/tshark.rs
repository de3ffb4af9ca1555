//! tshark: an ESP implementation that was not written here, with the keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::capture::Seen;

/// An SA as tshark's table wants it.
pub(crate) struct Key {
    pub(crate) source: &'static str,
    pub(crate) destination: &'static str,
    pub(crate) spi: u32,
    /// AES-GCM key and salt, in hex.
    pub(crate) key: String,
}

/// What tshark found in a capture.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// ESP packets, and how many of them had a correct ICV.
    pub(crate) esp: u64,
    pub(crate) authentic: u64,
    /// ESP packets by the protocols inside.
    pub(crate) inside: BTreeMap<String, u64>,
}

/// A policy whose packets tshark can open: it does not know of extended sequence numbers, and without them finds no ICV correct.
pub(crate) fn readable(policy: &str) -> String {
    let algorithm = "algorithm = \"aes-256-gcm\"\n";
    policy.replace(algorithm, &format!("{algorithm}esn = false\n"))
}

/// Opens captured frames in `folder`.
pub(crate) fn open(frames: &[Seen], keys: &[Key], folder: &Path) -> Opened {
    let capture = folder.join("wire.pcap");
    std::fs::write(&capture, pcap(frames)).unwrap();
    let configuration = folder.join("wireshark");
    std::fs::create_dir_all(&configuration).unwrap();
    let mut table = String::new();
    for key in keys {
        let family = if key.source.contains(':') { "IPv6" } else { "IPv4" };
        table.push_str(&format!(
            "\"{family}\",\"{}\",\"{}\",\"{:#010x}\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}\",\"NULL\",\"\"\n",
            key.source, key.destination, key.spi, key.key
        ));
    }
    std::fs::write(configuration.join("esp_sa"), table).unwrap();
    let preferences = "esp.enable_encryption_decode: TRUE\nesp.enable_authentication_check: TRUE\n";
    std::fs::write(configuration.join("preferences"), preferences).unwrap();
    let output = Command::new("tshark")
        .env("WIRESHARK_CONFIG_DIR", &configuration)
        .args(["-n", "-Y", "esp", "-r"])
        .arg(&capture)
        // What is inside is no protocol that tshark knows.
        .args(["-d", "tcp.port==0-65535,data", "-d", "udp.port==0-65535,data"])
        .args(["-d", "udp.port==4500,udpencap"])
        .args(["-o", "tcp.desegment_tcp_streams:FALSE"])
        .args(["-o", "tcp.analyze_sequence_numbers:FALSE"])
        .args(["-T", "fields", "-E", "separator=/t", "-E", "occurrence=f"])
        .args(["-e", "frame.protocols", "-e", "esp.icv_good"])
        .output()
        .expect("tshark is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut opened = Opened::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (protocols, good) = line.split_once('\t').unwrap();
        let inside = protocols.split_once(":esp:").map_or("", |(_, inside)| inside);
        let inside = inside.trim_end_matches(":data");
        opened.esp += 1;
        opened.authentic += u64::from(matches!(good, "1" | "True"));
        *opened.inside.entry(inside.to_owned()).or_default() += 1;
    }
    opened
}

/// A capture file of Ethernet frames; nobody asks when they passed.
fn pcap(frames: &[Seen]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65536, 1u32] {
        bytes.extend(word.to_le_bytes());
    }
    for (number, seen) in frames.iter().enumerate() {
        let length = seen.frame.len() as u32;
        for word in [number as u32, 0, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&seen.frame);
    }
    bytes
}
