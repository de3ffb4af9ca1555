//! The matrix: what is tried with every algorithm.

use std::{fmt, net::IpAddr, time::Instant};

use ravelin_esp::{
    AesKey, Algorithm, Encapsulation, Hmac, InboundSa, Mode, OutboundSa, Protocol, Provider, SaParameters,
    Secret, TfcPadding,
};

use crate::{
    algorithm,
    topology::{Prefix, UDP_PORTS},
};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The mode, with what is inside and what is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Tunnel { inner: Family, outer: Family },
    Transport(Family),
}

const SHAPES: [Shape; 6] = [
    Shape::Tunnel {
        inner: Family::V4,
        outer: Family::V4,
    },
    Shape::Tunnel {
        inner: Family::V6,
        outer: Family::V4,
    },
    Shape::Tunnel {
        inner: Family::V4,
        outer: Family::V6,
    },
    Shape::Tunnel {
        inner: Family::V6,
        outer: Family::V6,
    },
    Shape::Transport(Family::V4),
    Shape::Transport(Family::V6),
];

/// Algorithms that are also tried with traffic flow confidentiality: one of each kind of block.
const PADDED: [Algorithm; 2] = [
    Algorithm::AES_256_GCM,
    Algorithm::AesCbcHmac(AesKey::Aes128, Hmac::Sha2_256_128),
];

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToTheirs,
    ToOurs,
}

/// The SAs before the rekey, and those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    First,
    Second,
}

/// Bytes of clear packets with traffic flow confidentiality, unless they are longer.
pub(crate) const TFC_LEN: u16 = 700;

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Its own in the whole matrix; in SPIs, addresses and keys.
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    pub(crate) algorithm: Algorithm,
    pub(crate) shape: Shape,
    /// Extended sequence numbers.
    pub(crate) extended: bool,
    /// UDP encapsulation.
    pub(crate) udp: bool,
    pub(crate) provider: Provider,
    /// Traffic flow confidentiality: both sides make short packets as long as [`TFC_LEN`].
    pub(crate) tfc: bool,
    /// Whether the first SAs start just below 2^32, so that the numbers cross it while traffic runs.
    pub(crate) late: bool,
}

impl Case {
    /// Every cell, those of one algorithm together.
    pub(crate) fn all() -> Vec<Vec<Self>> {
        let mut number = 0;
        let plain = algorithms().map(|(protocol, algorithm)| (protocol, algorithm, false));
        let padded = PADDED.iter().map(|algorithm| (Protocol::Esp, *algorithm, true));
        let mut all = Vec::new();
        for (protocol, algorithm, tfc) in plain.chain(padded) {
            let mut group = Vec::new();
            for shape in SHAPES {
                for (extended, udp) in [(false, false), (true, false), (false, true), (true, true)] {
                    // AH cannot travel in UDP. Linux pads in tunnel mode only.
                    if (udp && protocol == Protocol::Ah) || (tfc && matches!(shape, Shape::Transport(_))) {
                        continue;
                    }
                    number += 1;
                    group.push(Self {
                        number,
                        protocol,
                        algorithm,
                        shape,
                        extended,
                        udp,
                        provider: provider(algorithm, number),
                        tfc,
                        late: extended,
                    });
                }
            }
            all.push(group);
        }
        all
    }

    /// Tunnels with every algorithm, and all they may differ in otherwise.
    pub(crate) fn tunnels() -> Vec<Self> {
        let shapes = &SHAPES[..4];
        let of = |((protocol, algorithm), number): (_, u16)| {
            let index = usize::from(number);
            Self {
                number,
                protocol,
                algorithm,
                shape: shapes[index % shapes.len()],
                extended: index / 4 % 2 == 0,
                udp: index / 8 % 2 == 0 && protocol == Protocol::Esp,
                provider: Provider::preferred(),
                tfc: false,
                late: false,
            }
        };
        algorithms().zip(1..).map(of).collect()
    }

    /// What the inner packets are.
    pub(crate) fn inner(&self) -> Family {
        match self.shape {
            Shape::Tunnel { inner, .. } | Shape::Transport(inner) => inner,
        }
    }

    /// What carries them.
    pub(crate) fn outer(&self) -> Family {
        match self.shape {
            Shape::Tunnel { outer, .. } | Shape::Transport(outer) => outer,
        }
    }

    /// The addresses that talk: ours, theirs.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        match self.shape {
            Shape::Tunnel { inner, .. } => self.of(Prefix::Tunnel, inner),
            Shape::Transport(family) => self.of(Prefix::Transport, family),
        }
    }

    /// The addresses of ESP packets: ours, theirs.
    pub(crate) fn outer_addresses(&self) -> [IpAddr; 2] {
        match self.shape {
            Shape::Tunnel { outer, .. } => self.of(Prefix::Outer, outer),
            Shape::Transport(_) => self.addresses(),
        }
    }

    fn of(&self, prefix: Prefix, family: Family) -> [IpAddr; 2] {
        [0, 1].map(|end| match family {
            Family::V4 => prefix.v4(end, self.number),
            Family::V6 => prefix.v6(end, self.number),
        })
    }

    pub(crate) fn spi(&self, direction: Direction, generation: Generation) -> u32 {
        let low = match (direction, generation) {
            (Direction::ToTheirs, Generation::First) => 0,
            (Direction::ToOurs, Generation::First) => 1,
            (Direction::ToTheirs, Generation::Second) => 2,
            (Direction::ToOurs, Generation::Second) => 3,
        };
        0x5a00_0000 | u32::from(self.number) << 4 | low
    }

    /// The number that is taken as already used when the SAs start.
    pub(crate) fn start(&self, generation: Generation) -> u64 {
        match generation {
            Generation::First if self.late => (1 << 32) - 12,
            _ => 0,
        }
    }

    /// Keying material; another for each SA.
    pub(crate) fn key_material(&self, direction: Direction, generation: Generation) -> Vec<u8> {
        let mut state = u64::from(self.spi(direction, generation));
        (0..algorithm::keymat_len(self.algorithm))
            .map(|_| splitmix(&mut state) as u8)
            .collect()
    }

    /// What our side sends with.
    pub(crate) fn outbound(&self, generation: Generation) -> anyhow::Result<OutboundSa> {
        let parameters = self.parameters(Direction::ToTheirs, generation);
        let sa = OutboundSa::new(parameters, self.provider, self.start(generation), Instant::now())?;
        // Keys live as long as the machine: nothing need be kept for a restart.
        sa.sequence().raise_ceiling(u64::MAX);
        Ok(sa)
    }

    /// What our side receives with.
    pub(crate) fn inbound(&self, generation: Generation) -> anyhow::Result<InboundSa> {
        let parameters = self.parameters(Direction::ToOurs, generation);
        Ok(InboundSa::new(
            parameters,
            self.provider,
            self.start(generation),
            Instant::now(),
        )?)
    }

    fn parameters(&self, direction: Direction, generation: Generation) -> SaParameters {
        let [local, remote] = self.outer_addresses();
        let mode = match self.shape {
            Shape::Tunnel { .. } => Mode::Tunnel { local, remote },
            Shape::Transport(_) => Mode::Transport,
        };
        let key_material = Secret::from(self.key_material(direction, generation));
        let spi = self.spi(direction, generation);
        let mut parameters = SaParameters::new(spi, mode, self.algorithm, key_material);
        parameters.protocol = self.protocol;
        parameters.extended_sequence_numbers = self.extended;
        if self.tfc {
            parameters.tfc_padding = TfcPadding::To(TFC_LEN);
        }
        if self.udp {
            let (source_port, destination_port) = direction.udp_ports();
            parameters.encapsulation = Encapsulation::Udp {
                source_port,
                destination_port,
            };
        }
        parameters
    }
}

/// Those of ESP, then those of AH.
fn algorithms() -> impl Iterator<Item = (Protocol, Algorithm)> {
    let all = || Algorithm::ALL.iter().copied();
    let esp = all().map(|algorithm| (Protocol::Esp, algorithm));
    let ah = all().filter(|algorithm| algorithm::in_ah(*algorithm));
    esp.chain(ah.map(|algorithm| (Protocol::Ah, algorithm)))
}

/// One that has `algorithm`; every provider meets every shape, in one algorithm or another.
fn provider(algorithm: Algorithm, number: u16) -> Provider {
    let mut providers = Provider::ALL.to_vec();
    providers.retain(|provider| provider.has(algorithm));
    providers[usize::from(number / 3) % providers.len()]
}

impl Direction {
    /// Source and destination port of UDP-encapsulated packets.
    pub(crate) fn udp_ports(self) -> (u16, u16) {
        let [ours, theirs] = UDP_PORTS;
        match self {
            Self::ToTheirs => (ours, theirs),
            Self::ToOurs => (theirs, ours),
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToTheirs => "to theirs",
            Self::ToOurs => "to ours",
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Ah {
            f.write_str("ah/")?;
        }
        write!(f, "{}/", self.algorithm)?;
        match self.shape {
            Shape::Tunnel { inner, outer } => write!(f, "tunnel-{inner}-in-{outer}")?,
            Shape::Transport(family) => write!(f, "transport-{family}")?,
        }
        f.write_str(if self.extended { "/esn" } else { "/seq32" })?;
        f.write_str(if self.udp { "/udp" } else { "/plain" })?;
        f.write_str(if self.tfc { "/tfc" } else { "" })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "4",
            Self::V6 => "6",
        })
    }
}

/// SplitMix64: bytes that look random and are the same in every run.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
