//! What an SA says of itself is what its packets came to.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ravelin_esp::{Counts, DropReason, Opened, Sealed};
use support::{Case, Frames, ipv4, open, seal, seal_one};

fn tunnel() -> Case {
    Case {
        tunnel: true,
        outer_v6: false,
        udp: false,
        ..Case::all()[0]
    }
}

/// Every reason with its number, zeros left out.
fn drops(counts: &Counts) -> BTreeMap<&'static str, u64> {
    counts
        .drops()
        .map(|(reason, packets)| (reason.name(), packets))
        .collect()
}

fn with<const N: usize>(expected: [(DropReason, u64); N]) -> BTreeMap<&'static str, u64> {
    expected.map(|(reason, packets)| (reason.name(), packets)).into()
}

#[test]
fn each_failure_of_receiving_has_its_own_counter() {
    let case = tunnel();
    let outbound = case.outbound();
    let clear = ipv4(0, &[], b"some payload");
    let sent: Vec<Vec<u8>> = seal(&outbound, &vec![clear.clone(); 2000])
        .into_iter()
        .map(|sealed| sealed.unwrap().0)
        .collect();
    let damaged = |at: usize, byte: u8| {
        let mut wire = sent[1999].clone();
        wire[at] ^= byte;
        wire
    };
    let mut zero = sent[1999].clone();
    zero[24..28].fill(0);
    // Congestion marked on the way, and the inner packet does not understand it.
    let mut congested = sent[1998].clone();
    congested[1] |= 3;
    // From a peer that has the key and thinks the SA is of transport mode: next header 253.
    let transport = Case {
        tunnel: false,
        ..case
    };
    let other = transport.outbound_after(ravelin_esp::Provider::preferred(), 1996);
    let (mut wrong_mode, _) = seal_one(&other, &clear).unwrap();
    wrong_mode[12..20].copy_from_slice(&sent[0][12..20]);
    let mut truncated = sent[1999][..50].to_vec();
    truncated[3] = 50;

    let inbound = case.inbound();
    let batch = [
        vec![
            sent[1990].clone(),
            sent[1990].clone(),
            sent[1990].clone(),
            sent[900].clone(),
        ],
        vec![damaged(40, 1), damaged(60, 0x80), damaged(20, 1), damaged(23, 1)],
        vec![zero, congested, wrong_mode, truncated],
    ]
    .concat();
    let outcomes = open(&inbound, &batch);
    let mut expected = BTreeMap::<&str, u64>::new();
    for reason in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        *expected.entry(reason.name()).or_default() += 1;
    }
    let counts = inbound.counters();
    assert_eq!(drops(&counts), expected);
    assert_eq!(
        drops(&counts),
        with([
            (DropReason::ReplayDuplicate, 2),
            // Number 901, behind 1991 in the same batch.
            (DropReason::ReplayOld, 1),
            (DropReason::IcvMismatch, 2),
            (DropReason::SpiUnknown, 2),
            (DropReason::SequenceZero, 1),
            (DropReason::EcnNotCapable, 1),
            (DropReason::NextHeader, 1),
            (DropReason::EspTruncated, 1),
        ])
    );
    assert_eq!((counts.packets, counts.bytes), (1, clear.len() as u64));

    assert_eq!(open(&inbound, &[sent[900].clone()]), [Err(DropReason::ReplayOld)]);
    inbound.dropped(DropReason::InnerPolicy);
    let counts = inbound.counters();
    assert_eq!(counts.dropped(DropReason::ReplayOld), 2);
    assert_eq!(counts.dropped(DropReason::ReplayDuplicate), 2);
    assert_eq!(counts.dropped(DropReason::InnerPolicy), 1);
}

#[test]
fn each_failure_of_sending_has_its_own_counter() {
    let case = tunnel();
    let sa = case.outbound();
    sa.set_path_mtu(Some(600)).unwrap();
    let small = ipv4(0, &[], b"1234");
    let outcomes = seal(
        &sa,
        &[
            small.clone(),
            ipv4(0, &[], &[0; 600]),
            vec![0x45; 10],
            small.clone(),
        ],
    );
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    let counts = sa.counters();
    assert_eq!((counts.packets, counts.bytes), (2, 2 * small.len() as u64));
    assert_eq!(
        drops(&counts),
        with([(DropReason::PacketTooBig, 1), (DropReason::IpTruncated, 1)])
    );
}

#[test]
fn the_last_use_is_that_of_the_last_success() {
    let case = tunnel();
    let (outbound, inbound) = (case.outbound(), case.inbound());
    assert_eq!(
        (outbound.counters().last_used, inbound.counters().last_used),
        (None, None)
    );
    let start = Instant::now();
    let clear = ipv4(0, &[], b"1234");
    let mut wire = Vec::new();
    for (after, expected) in [(5000, 5000), (7000, 7000), (6000, 7000)] {
        let mut frames = Frames::new([&clear]);
        let mut packets = frames.packets();
        let mut outcomes: [Result<Sealed, DropReason>; 1] = [Err(DropReason::SaMissing)];
        outbound.seal_batch(&mut packets, &mut outcomes, start + Duration::from_millis(after));
        wire = packets[0].bytes().to_vec();
        let used = outbound.counters().last_used.unwrap();
        assert!(
            near(used, start + Duration::from_millis(expected)),
            "a worker whose clock was read earlier does not turn it back"
        );
    }
    for (after, expected) in [(3000, 3000), (4000, 3000)] {
        let mut frames = Frames::new([&wire]);
        let mut packets = frames.packets();
        let mut outcomes: [Result<Opened, DropReason>; 1] = [Err(DropReason::SaMissing)];
        inbound.open_batch(&mut packets, &mut outcomes, start + Duration::from_millis(after));
        let used = inbound.counters().last_used.unwrap();
        assert!(
            near(used, start + Duration::from_millis(expected)),
            "a replay is no use"
        );
    }
}

/// Within the milliseconds that the counter has.
fn near(a: Instant, b: Instant) -> bool {
    a.saturating_duration_since(b).max(b.saturating_duration_since(a)) <= Duration::from_millis(2)
}

#[test]
fn workers_count_together() {
    const WORKERS: u64 = 4;
    const ROUNDS: u64 = 300;
    let case = tunnel();
    let sa = case.outbound();
    let clear = ipv4(0, &[], b"1234");
    let batch = [clear.clone(), vec![0x45; 10], clear.clone(), vec![]];
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| (0..ROUNDS).for_each(|_| drop(seal(&sa, &batch))));
        }
    });
    let counts = sa.counters();
    let rounds = WORKERS * ROUNDS;
    assert_eq!(
        (
            counts.packets,
            counts.bytes,
            counts.dropped(DropReason::IpTruncated)
        ),
        (2 * rounds, 2 * rounds * clear.len() as u64, 2 * rounds)
    );
}
