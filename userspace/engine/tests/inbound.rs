//! 100,000 inbound SAs at the driver: each is found, with its own slot, and what is not there is not. Needs root.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::net::IpAddr;
use std::time::Instant;

use aya::{TestRun as _, TestRunOptions};
use ravelin_classifier::compile;
use ravelin_engine::{Filter, Side};
use ravelin_policy::Policy;
use ravelin_xdp_common::{
    Address, DropReason, FrameMetadata, INBOUND_SAS, InboundEndpoint, Kind, Pass, RULE_COUNTERS, mapped_v4,
};

const SAS: u32 = 100_000;

const LOCAL: [u8; 4] = [192, 0, 2, 1];

/// The peer of an SA: each has its own.
fn peer(number: u32) -> [u8; 4] {
    let [_, a, b, c] = number.to_be_bytes();
    [10, a, b, c]
}

/// Neither in order nor close together, as peers choose them.
fn spi(number: u32) -> u32 {
    // Odd, so that no two are the same.
    (number + 1).wrapping_mul(0x9e37_79b1)
}

fn address(bytes: [u8; 4]) -> Address {
    mapped_v4(bytes)
}

fn endpoint(number: u32) -> InboundEndpoint {
    InboundEndpoint {
        local: address(LOCAL),
        remote: address(peer(number)),
        slot: number,
        local_port: 0,
        remote_port: 0,
        family: 4,
        encapsulation: 0,
        shortest: 36,
        verify_moved: 0,
        reserved: [0; 3],
    }
}

/// ESP from the peer of one SA with an SPI.
fn frame(number: u32, spi: u32) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 84, 0, 1, 0, 0, 64, 50, 0, 0];
    ip.extend(peer(number));
    ip.extend(LOCAL);
    let sum = ravelin_esp::checksum::ipv4_header(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend(ip);
    frame.extend(spi.to_be_bytes());
    frame.extend([0, 0, 0, 1]);
    frame.extend([0xa5; 56]);
    frame
}

/// What the driver wrote in front of the frame for a worker, if it meant one.
fn metadata(filter: &mut Filter, frame: &[u8]) -> Option<FrameMetadata> {
    let mut out = vec![0; frame.len() + 64];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::new()
    };
    let result = filter.xdp(Side::Outer).unwrap().test_run(options).unwrap();
    let length = result.data_size_out as usize - frame.len();
    FrameMetadata::from_bytes(&out[..length])
}

#[test]
fn a_hundred_thousand_inbound_sas_are_told_apart() {
    assert!((0..SAS).all(|number| spi(number) > 255));
    let mut filter = Filter::load(RULE_COUNTERS, u32::MAX).expect("run this test as root");
    let (policy, _) = Policy::parse("default = \"permit\"\n", "test").unwrap();
    filter.apply(&compile(&policy).unwrap(), 1).unwrap();
    filter.set_local(&[IpAddr::from(LOCAL)]).unwrap();
    let started = Instant::now();
    for number in 0..SAS {
        filter.add_inbound(spi(number), &endpoint(number)).unwrap();
    }
    let filled = started.elapsed();
    let some = || (0..SAS).step_by(97);
    for number in some() {
        let found = metadata(&mut filter, &frame(number, spi(number)));
        let found = found.unwrap_or_else(|| panic!("SA {number} is not found"));
        assert_eq!((found.slot, found.kind), (number, Kind::OpenEsp));
    }
    // An SPI comes from one peer only.
    let wrong = filter.drops().unwrap()[DropReason::SpiWrongEndpoint.index()];
    assert_eq!(metadata(&mut filter, &frame(1, spi(0))), None);
    assert_eq!(
        filter.drops().unwrap()[DropReason::SpiWrongEndpoint.index()],
        wrong + 1
    );

    // Those that are taken back are gone, and the others are not.
    for number in some() {
        filter.remove_inbound(spi(number)).unwrap();
    }
    for number in some() {
        assert_eq!(metadata(&mut filter, &frame(number, spi(number))), None);
        let next = (number + 1) % SAS;
        if !next.is_multiple_of(97) {
            assert!(metadata(&mut filter, &frame(next, spi(next))).is_some());
        }
    }
    assert!(filter.passes().unwrap()[Pass::Default as usize] > 0);

    // Twice as many have room, and no more.
    let mut filter = Filter::load(RULE_COUNTERS, u32::MAX).unwrap();
    for spi in 0x100..0x100 + INBOUND_SAS {
        filter.add_inbound(spi, &endpoint(spi)).unwrap();
    }
    let full = filter.add_inbound(0x100 + INBOUND_SAS, &endpoint(0)).unwrap_err();
    assert!(full.to_string().contains("INBOUND"), "{full}");
    eprintln!("{SAS} inbound SAs in the driver's map in {filled:?}");
}
