//! Packets of several SAs in one batch: each ends as it would have with its SA alone, whatever becomes of its neighbours.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::Instant;

use proptest::prelude::*;
use ravelin_esp::{
    AesKey, Algorithm, DropReason, InboundSa, MAX_BATCH, Opened, OutboundSa, Packet, Protocol, Provider,
    SaParameters, Sealed, Secret, open_runs, seal_runs,
};
use support::{Case, Frames, SPI, case, ipv4, open, seal};

/// One SA's share of a batch.
#[derive(Clone, Debug)]
struct Share {
    case: Case,
    ah: bool,
    /// Sequence numbers that are left.
    numbers: u64,
    provider: Provider,
    packets: Vec<Vec<u8>>,
}

impl Share {
    fn parameters(&self, outbound: bool) -> SaParameters {
        let mut parameters = self.case.parameters(outbound);
        if self.ah {
            let algorithm = Algorithm::AesGmac(AesKey::Aes256);
            let key = Secret::copy_from(&vec![0x39; algorithm.keymat_len()]);
            parameters = SaParameters {
                protocol: Protocol::Ah,
                extended_sequence_numbers: self.case.extended,
                ..SaParameters::new(SPI, parameters.mode, algorithm, key)
            };
        }
        parameters
    }

    fn outbound(&self) -> OutboundSa {
        let sa = OutboundSa::new(self.parameters(true), self.provider, 0, Instant::now()).unwrap();
        sa.sequence().raise_ceiling(self.numbers);
        sa
    }

    fn inbound(&self) -> InboundSa {
        InboundSa::new(self.parameters(false), self.provider, 0, Instant::now()).unwrap()
    }
}

fn share() -> impl Strategy<Value = Share> {
    let packet = (0..300_usize, 0..20_u8).prop_map(|(len, fault)| {
        let mut packet = ipv4(0, &[], &vec![0x5a; len]);
        match fault {
            0 => packet[0] = 0x45 ^ 0x70,
            1 => packet.truncate(19),
            2 => packet[6] |= 0x20,
            _ => {}
        }
        packet
    });
    let packets = prop::collection::vec(packet, 0..24);
    let providers: Vec<_> = [
        Provider::VaesAvx512,
        Provider::VaesAvx2,
        Provider::AesNi,
        Provider::AwsLc,
        Provider::RustCrypto,
    ]
    .into();
    (
        case(),
        0..8_u8,
        0..40_u64,
        prop::sample::select(providers),
        packets,
    )
        .prop_map(|(case, ah, numbers, provider, packets)| {
            let ah = ah == 0 && !case.udp;
            let algorithm = if ah {
                Algorithm::AesGmac(AesKey::Aes256)
            } else {
                case.algorithm
            };
            let provider = if provider.has(algorithm) {
                provider
            } else {
                Provider::preferred()
            };
            Share {
                case,
                ah,
                numbers,
                provider,
                packets,
            }
        })
}

/// What became of packets.
fn results<T: Copy>(
    packets: &[Packet<'_>],
    outcomes: &[Result<T, DropReason>],
    sequence: impl Fn(T) -> u64,
) -> Vec<Result<(Vec<u8>, u64), DropReason>> {
    let bytes = packets.iter().map(|packet| packet.bytes().to_vec());
    bytes
        .zip(outcomes)
        .map(|(bytes, outcome)| outcome.map(|one| (bytes, sequence(one))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn each_packet_ends_as_with_its_sa_alone(shares in prop::collection::vec(share(), 1..12), damaged in any::<u64>()) {
        let now = Instant::now();
        let sas: Vec<OutboundSa> = shares.iter().map(Share::outbound).collect();
        let runs: Vec<_> = sas.iter().zip(&shares).map(|(sa, share)| (sa, share.packets.len())).collect();
        let mut frames = Frames::new(shares.iter().flat_map(|share| &share.packets));
        let mut packets = frames.packets();
        let mut outcomes: Vec<Result<Sealed, _>> = vec![Err(DropReason::SaMissing); packets.len()];
        seal_runs(&runs, &mut packets, &mut outcomes, now);
        let sealed = results(&packets, &outcomes, |sealed| sealed.sequence);

        // More than fit are left alone.
        let mut place = 0;
        let mut wire = Vec::new();
        for (share, sa) in shares.iter().zip(&sas) {
            let taken = share.packets.len().min(MAX_BATCH.saturating_sub(place));
            let alone = share.outbound();
            let expected = seal(&alone, &share.packets[..taken]);
            let got = &sealed[place..place + taken];
            let of = |results: &[Result<(Vec<u8>, u64), DropReason>]| -> Vec<_> {
                results.iter().map(|one| one.clone().map(|(bytes, sequence)| (bytes.len(), sequence))).collect()
            };
            prop_assert_eq!(of(got), of(&expected));
            // IVs of CBC are not to be foreseen.
            if share.ah || !matches!(share.case.algorithm, Algorithm::AesCbcHmac(..)) {
                prop_assert_eq!(got, &expected[..]);
            }
            let (counts, counts_alone) = (sa.counters(), alone.counters());
            prop_assert_eq!((counts.packets, counts.bytes), (counts_alone.packets, counts_alone.bytes));
            prop_assert_eq!(counts.drops().collect::<Vec<_>>(), counts_alone.drops().collect::<Vec<_>>());
            wire.push(got.iter().flatten().map(|(bytes, _)| bytes.clone()).collect::<Vec<_>>());
            place += share.packets.len();
        }
        for outcome in sealed.iter().skip(MAX_BATCH) {
            prop_assert_eq!(outcome, &Err(DropReason::SaMissing));
        }

        // One comes damaged, and each SA's last comes twice.
        let count = wire.iter().map(Vec::len).sum::<usize>();
        if count > 0 {
            let victim = wire.iter_mut().flatten().nth(damaged as usize % count).unwrap();
            let last = victim.len() - 1;
            victim[last] ^= 1;
        }
        for sent in &mut wire {
            sent.extend(sent.last().cloned());
        }
        let sas: Vec<InboundSa> = shares.iter().map(Share::inbound).collect();
        let runs: Vec<_> = sas.iter().zip(&wire).map(|(sa, sent)| (sa, sent.len())).collect();
        let mut frames = Frames::new(wire.iter().flatten());
        let mut packets = frames.packets();
        let mut outcomes: Vec<Result<Opened, _>> = vec![Err(DropReason::SaMissing); packets.len()];
        open_runs(&runs, &mut packets, &mut outcomes, now);
        let opened = results(&packets, &outcomes, |opened| opened.sequence);
        let mut place = 0;
        for ((share, sa), sent) in shares.iter().zip(&sas).zip(&wire) {
            let taken = sent.len().min(MAX_BATCH.saturating_sub(place));
            let alone = share.inbound();
            prop_assert_eq!(&opened[place..place + taken], &open(&alone, &sent[..taken])[..]);
            let (counts, counts_alone) = (sa.counters(), alone.counters());
            prop_assert_eq!((counts.packets, counts.bytes), (counts_alone.packets, counts_alone.bytes));
            prop_assert_eq!(counts.drops().collect::<Vec<_>>(), counts_alone.drops().collect::<Vec<_>>());
            prop_assert_eq!(sa.highest_sequence(), alone.highest_sequence());
            place += sent.len();
        }
    }
}
