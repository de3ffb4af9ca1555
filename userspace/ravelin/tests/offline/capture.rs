//! `ravelin explain --pcap`.

use std::path::PathBuf;

use ravelin_classifier::frame_of;
use ravelin_policy::Packet;
use tempfile::TempDir;

use crate::golden::{compare, ravelin, stdout};

const PACKETS: &[&str] = &[
    "tcp 10.0.0.5:40000 -> 10.1.0.9:1433",
    "tcp 10.1.0.9:1433 -> 10.0.0.5:40000",
    "tcp 10.0.0.5:40001 -> 10.1.0.9:23",
    "udp 10.0.0.5:5353 -> 10.0.0.6:53",
    "icmp 203.0.113.5 -> 10.1.0.9 type 8 code 0",
    "tcp 203.0.113.5 -> 10.1.0.9 fragment",
    "udp 192.0.2.2:500 -> 192.0.2.1:500",
    "udp 192.0.2.1:4500 -> 192.0.2.2:4500",
    "tcp [2001:db8::1]:1 -> [2001:db8::2]:2",
];

/// A classic file of Ethernet frames, each cut to `keep` bytes; with an ARP frame and one that is too short at the end.
pub(crate) fn capture(keep: usize) -> (TempDir, PathBuf) {
    let mut frames: Vec<Vec<u8>> = PACKETS
        .iter()
        .map(|text| frame_of(&text.parse::<Packet>().expect("a packet")).expect("a frame"))
        .collect();
    frames.push([&[0xff; 6][..], &[2, 0, 0, 0, 0, 2, 8, 6], &[0; 28]].concat());
    frames.push(vec![0; 10]);
    let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0]);
    for word in [0_u32, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in &frames {
        let kept = &frame[..frame.len().min(keep)];
        for word in [1, 0, kept.len(), frame.len()] {
            file.extend(u32::try_from(word).expect("a short frame").to_le_bytes());
        }
        file.extend(kept);
    }
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("servers.pcap");
    std::fs::write(&path, file).expect("the capture can be written");
    (folder, path)
}

fn explain<'a>(path: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["explain", "--policy", "servers.toml", "--pcap", path], more].concat()
}

#[test]
fn every_frame_has_a_verdict_and_all_have_totals() {
    let (_folder, path) = capture(usize::MAX);
    let path = path.to_str().expect("a path");
    for (name, more) in [
        ("out", &["--out"][..]),
        ("in", &["--in", "--me", "192.0.2.1"]),
        ("me", &["--me", "10.0.0.5", "--me", "192.0.2.1"]),
    ] {
        compare(&format!("pcap-{name}.txt"), &stdout(&explain(path, more), 0));
    }
}

#[test]
fn the_same_for_machines() {
    let (_folder, path) = capture(usize::MAX);
    let text = stdout(&explain(path.to_str().expect("a path"), &["--out", "--json"]), 0);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (totals, rows) = lines.split_last().expect("totals");
    assert_eq!(rows.len(), PACKETS.len() + 2);
    assert_eq!(rows[0]["what"], "seal");
    assert_eq!(rows[0]["rule"], "servers");
    assert_eq!(totals["frames"], PACKETS.len() + 2);
    assert_eq!(totals["rules"]["no telnet"]["packets"], 2);
}

#[test]
fn frames_that_were_cut_are_judged_where_enough_is_left() {
    // Ethernet, IPv4 and the ports, but not all of the TCP header that the parser looks at.
    let (_folder, path) = capture(14 + 20 + 8);
    let text = stdout(&explain(path.to_str().expect("a path"), &["--out"]), 0);
    compare("pcap-cut.txt", &text);
    assert!(
        text.contains("the capture holds too little of the frame"),
        "{text}"
    );
}

#[test]
fn frames_of_links_that_are_not_read_are_told_not_passed_over() {
    let (_folder, path) = capture(usize::MAX);
    let mut file = std::fs::read(&path).expect("the capture");
    // 802.11
    file[20] = 105;
    std::fs::write(&path, file).expect("the capture can be written");
    let output = ravelin(&explain(path.to_str().expect("a path"), &["--out"]));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    for part in [
        "link type 105: Ethernet, raw IP and Linux \"any\" are read",
        "none of the 11 frames was judged",
        "\n11 frames\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_damaged_capture_is_told_after_what_came_before() {
    let (_folder, path) = capture(usize::MAX);
    let whole = std::fs::read(&path).expect("the capture");
    std::fs::write(&path, &whole[..whole.len() - 3]).expect("the capture can be written");
    let output = ravelin(&explain(path.to_str().expect("a path"), &["--out"]));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(
        errors.contains("ends in the middle of a frame, after 10 whole ones"),
        "{errors}"
    );
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("\n10 frames\n"), "{text}");
}
