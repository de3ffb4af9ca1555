//! Batches in steps, whose middle ones are other threads' and in whatever order: packets end as if their SA had done all at once.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;
use ravelin_esp::{
    AesKey, Algorithm, DropReason, InboundSa, MAX_BATCH, OpeningBatch, OutboundSa, Packet, Protocol,
    Provider, SaParameters, SealingBatch, Secret,
};
use support::{Case, Frames, SPI, case, ipv4, open, seal};

/// What becomes of a packet: its bytes and its sequence number.
type Outcome = Result<(Vec<u8>, u64), DropReason>;

fn parameters(case: Case, ah: bool, outbound: bool) -> SaParameters {
    let parameters = case.parameters(outbound);
    if !ah {
        return parameters;
    }
    let algorithm = Algorithm::AesGmac(AesKey::Aes256);
    let key = Secret::copy_from(&vec![0x39; algorithm.keymat_len()]);
    SaParameters {
        protocol: Protocol::Ah,
        extended_sequence_numbers: case.extended,
        ..SaParameters::new(SPI, parameters.mode, algorithm, key)
    }
}

fn outbound(case: Case, ah: bool, numbers: u64) -> OutboundSa {
    let parameters = parameters(case, ah, true);
    let sa = OutboundSa::new(parameters, Provider::preferred(), 0, Instant::now()).unwrap();
    sa.sequence().raise_ceiling(numbers);
    sa
}

fn inbound(case: Case, ah: bool) -> InboundSa {
    InboundSa::new(
        parameters(case, ah, false),
        Provider::preferred(),
        0,
        Instant::now(),
    )
    .unwrap()
}

/// Begins all batches in their order, does the middle step of each in a thread of its own, the last batch's first, and finishes all in
/// their order.
fn in_steps<B: Send + Default>(
    packets: &[Vec<u8>],
    sizes: &[usize],
    begin: impl Fn(&mut B, &mut [Packet<'_>]),
    middle: impl Fn(&mut B, &mut [Packet<'_>]) + Sync,
    finish: impl Fn(&mut B, &mut [Packet<'_>]) -> Vec<Result<u64, DropReason>>,
) -> Vec<Outcome> {
    let mut frames = Frames::new(packets);
    let mut packets = frames.packets();
    let mut left = &mut packets[..];
    let mut batches = Vec::new();
    for size in sizes.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let (these, behind) = left.split_at_mut((*size).min(left.len()));
        let mut batch = B::default();
        begin(&mut batch, these);
        batches.push((batch, these));
        left = behind;
    }
    for (batch, packets) in batches.iter_mut().rev() {
        thread::scope(|scope| scope.spawn(|| middle(batch, packets)).join().unwrap());
    }
    let mut outcomes = Vec::new();
    for (batch, packets) in &mut batches {
        let numbers = finish(batch, packets);
        let bytes = packets.iter().map(|packet| packet.bytes().to_vec());
        outcomes.extend(
            bytes
                .zip(numbers)
                .map(|(bytes, number)| number.map(|number| (bytes, number))),
        );
    }
    outcomes
}

fn seal_in_steps(sa: &Arc<OutboundSa>, packets: &[Vec<u8>], sizes: &[usize]) -> Vec<Outcome> {
    let now = Instant::now();
    in_steps(
        packets,
        sizes,
        |batch: &mut SealingBatch, packets| batch.begin(sa, packets, now),
        SealingBatch::encrypt,
        |batch, _| {
            let outcomes = batch.finish(now).iter();
            outcomes.map(|outcome| outcome.map(|one| one.sequence)).collect()
        },
    )
}

fn open_in_steps(sa: &Arc<InboundSa>, packets: &[Vec<u8>], sizes: &[usize]) -> Vec<Outcome> {
    let now = Instant::now();
    in_steps(
        packets,
        sizes,
        |batch: &mut OpeningBatch, packets| batch.begin(sa, packets, now),
        OpeningBatch::decrypt,
        |batch, packets| {
            let outcomes = batch.finish(packets, now).iter();
            outcomes.map(|outcome| outcome.map(|one| one.sequence)).collect()
        },
    )
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    (0..300_usize, 0..20_u8).prop_map(|(len, fault)| {
        let mut packet = ipv4(0, &[], &vec![0x5a; len]);
        match fault {
            0 => packet[0] = 0x45 ^ 0x70,
            1 => packet.truncate(19),
            2 => packet[6] |= 0x20,
            _ => {}
        }
        packet
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn steps_make_of_packets_what_the_whole_does(
        case in case(),
        ah in 0..8_u8,
        numbers in 0..200_u64,
        packets in prop::collection::vec(packet(), 0..150),
        sizes in prop::collection::vec(1..=MAX_BATCH, 1..6),
        damaged in any::<prop::sample::Index>(),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let ah = ah == 0 && !case.udp;
        let (whole, steps) = (outbound(case, ah, numbers), Arc::new(outbound(case, ah, numbers)));
        let expected = seal(&whole, &packets);
        let sealed = seal_in_steps(&steps, &packets, &sizes);
        // IVs of CBC are not to be foreseen.
        if ah || !matches!(case.algorithm, Algorithm::AesCbcHmac(..)) {
            prop_assert_eq!(&sealed, &expected);
        }
        let shape = |outcomes: &[Outcome]| -> Vec<_> {
            outcomes.iter().map(|one| one.as_ref().map(|(bytes, number)| (bytes.len(), *number)).map_err(|reason| *reason)).collect()
        };
        prop_assert_eq!(shape(&sealed), shape(&expected));
        let (counts, counts_whole) = (steps.counters(), whole.counters());
        prop_assert_eq!((counts.packets, counts.bytes), (counts_whole.packets, counts_whole.bytes));
        prop_assert_eq!(counts.drops().collect::<Vec<_>>(), counts_whole.drops().collect::<Vec<_>>());

        // One comes damaged, some come again a little later: all within the window.
        let mut wire: Vec<Vec<u8>> = sealed.into_iter().flatten().map(|(bytes, _)| bytes).collect();
        if !wire.is_empty() {
            let victim = damaged.get_mut(&mut wire);
            let last = victim.len() - 1;
            victim[last] ^= 1;
            for index in &again {
                let place = index.index(wire.len());
                let copy = wire[place].clone();
                wire.insert((place + 1 + place % 3).min(wire.len()), copy);
            }
        }
        let (whole, steps) = (inbound(case, ah), Arc::new(inbound(case, ah)));
        prop_assert_eq!(open_in_steps(&steps, &wire, &sizes), open(&whole, &wire));
        let (counts, counts_whole) = (steps.counters(), whole.counters());
        prop_assert_eq!((counts.packets, counts.bytes), (counts_whole.packets, counts_whole.bytes));
        prop_assert_eq!(counts.drops().collect::<Vec<_>>(), counts_whole.drops().collect::<Vec<_>>());
        prop_assert_eq!(steps.highest_sequence(), whole.highest_sequence());
    }
}

/// A number that encrypts twice gives the key away.
#[test]
fn a_batch_is_encrypted_once_and_not_at_all_it_is_dropped() {
    let case = Case::all()[0];
    let sa = Arc::new(outbound(case, false, 100));
    let packets = vec![ipv4(0, &[], &[7; 100]); 3];
    let now = Instant::now();
    let mut batch = SealingBatch::default();
    let mut frames = Frames::new(&packets);
    let mut clear = frames.packets();
    batch.begin(&sa, &mut clear, now);
    batch.encrypt(&mut clear);
    let sealed: Vec<_> = clear.iter().map(|packet| packet.bytes().to_vec()).collect();
    batch.encrypt(&mut clear);
    let again: Vec<_> = clear.iter().map(|packet| packet.bytes().to_vec()).collect();
    assert_eq!(sealed, again);
    let numbers: Vec<_> = batch
        .finish(now)
        .iter()
        .map(|one| one.unwrap().sequence)
        .collect();
    assert_eq!(numbers, [1, 2, 3]);

    let mut frames = Frames::new(&packets);
    let mut clear = frames.packets();
    batch.begin(&sa, &mut clear, now);
    assert_eq!(batch.finish(now), [Err(DropReason::SaMissing); 3]);
    batch.encrypt(&mut clear);
    assert_eq!(clear[0].bytes(), packets[0], "its numbers are gone");
    assert_eq!(Arc::strong_count(&sa), 1, "an idle batch holds no key");

    let received = Arc::new(inbound(case, false));
    let mut batch = OpeningBatch::default();
    let mut frames = Frames::new(&sealed);
    let mut wire = frames.packets();
    batch.begin(&received, &mut wire, now);
    assert_eq!(batch.finish(&mut wire, now), [Err(DropReason::SaMissing); 3]);
    assert_eq!(received.highest_sequence(), Some(0));
    assert_eq!(Arc::strong_count(&received), 1);
    batch.begin(&received, &mut wire, now);
    batch.decrypt(&mut wire);
    batch.decrypt(&mut wire);
    assert!(batch.finish(&mut wire, now).iter().all(Result::is_ok));
    assert_eq!(wire[2].bytes(), packets[2]);
}
