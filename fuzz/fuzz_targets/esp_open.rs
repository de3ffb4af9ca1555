//! What arrives at an inbound SA: bytes from anybody, and plaintext from a peer that has the key but means ill.
//!
//! The first byte of the input chooses the SA and whether the rest is a whole packet or a plaintext that is sealed properly
//! before it is opened, the second the algorithm.
#![no_main]

use std::net::IpAddr;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use ravelin_esp::{
    Algorithm, DropReason, Encapsulation, InboundSa, Mode, NatOriginal, Packet, Provider, SaParameters,
    Secret,
};
use ravelin_gcm::{KeyMaterial, MAX_NONCE_LEN};

const SPI: u32 = 0x1000;

/// Every byte of every key and salt.
const KEY: u8 = 7;

fuzz_target!(|input: &[u8]| {
    let [choice, algorithm, data @ ..] = input else {
        return;
    };
    let case = Case::new(*choice, *algorithm);
    let mut wire = if case.authentic {
        case.seal(data)
    } else {
        data.to_vec()
    };
    let len = wire.len();
    let sa = case.inbound();
    let Ok(packet) = Packet::new(&mut wire, 0..len) else {
        return;
    };
    let mut packets = [packet];
    let mut outcomes = [Err(DropReason::SaMissing)];
    sa.open_batch(&mut packets, &mut outcomes, Instant::now());
    if outcomes[0].is_ok() {
        assert!(case.authentic, "a packet without a key was accepted");
        let bytes = packets[0].bytes();
        let total = match bytes[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            6 => 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]])),
            version => panic!("IP version {version} came out"),
        };
        assert_eq!(total, bytes.len());
    }
});

/// One kind of SA, and who sends to it.
struct Case {
    tunnel: bool,
    v6: bool,
    udp: bool,
    extended: bool,
    authentic: bool,
    implicit_iv: bool,
    algorithm: Algorithm,
    provider: Provider,
}

impl Case {
    fn new(choice: u8, algorithm: u8) -> Self {
        let [tunnel, v6, udp, extended, authentic, implicit_iv] =
            [1, 2, 4, 8, 16, 32].map(|bit| choice & bit != 0);
        // Those that this CPU can run; the last, if there is no bit left to choose it, comes in where others lack an algorithm.
        let mut providers = Provider::ALL
            .iter()
            .filter(|one| one.has(Algorithm::AES_256_GCM))
            .cycle();
        let provider = *providers
            .nth(usize::from(choice >> 6))
            .expect("RustCrypto runs anywhere");
        let algorithm = Algorithm::ALL[usize::from(algorithm) % Algorithm::ALL.len()];
        Self {
            tunnel,
            v6,
            udp,
            extended,
            authentic,
            implicit_iv: implicit_iv && algorithm.takes_implicit_iv(),
            algorithm,
            provider: provider.or_any_with(algorithm),
        }
    }

    fn inbound(&self) -> InboundSa {
        let (local, remote): (IpAddr, IpAddr) = if self.v6 {
            (
                [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
                [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
            )
        } else {
            ([192, 0, 2, 2].into(), [192, 0, 2, 1].into())
        };
        let mode = if self.tunnel {
            Mode::Tunnel { local, remote }
        } else {
            Mode::Transport
        };
        let key = Secret::from(vec![KEY; self.algorithm.keymat_len()]);
        let mut parameters = SaParameters::new(SPI, mode, self.algorithm, key);
        parameters.implicit_iv = self.implicit_iv;
        parameters.extended_sequence_numbers = self.extended;
        if self.udp {
            parameters.encapsulation = Encapsulation::Udp {
                source_port: 4500,
                destination_port: 4500,
            };
        }
        // Behind a NAT what is inside is read as well.
        parameters.nat_original = (self.udp && !self.tunnel).then_some(NatOriginal {
            source: remote,
            destination: local,
        });
        InboundSa::new(parameters, self.provider, 0, Instant::now()).expect("valid parameters")
    }

    /// A well-formed, authentic packet around `plaintext`, which holds the trailer too.
    fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let algorithm = self.algorithm;
        let mut data = plaintext[..plaintext.len().min(1 << 12)].to_vec();
        data.truncate(data.len() / algorithm.block_len().max(4) * algorithm.block_len().max(4));
        let key = Secret::from(vec![KEY; algorithm.key_len()]);
        let key = KeyMaterial::new(algorithm, key).expect("as long as it says");
        let key = Provider::RustCrypto.key(&key).expect("a key");
        let number = 1_u64.to_be_bytes();
        let mut iv = vec![0; algorithm.iv_len()];
        key.iv(1, &mut iv);
        let mut nonce = [KEY; MAX_NONCE_LEN];
        nonce[algorithm.salt_len()..algorithm.nonce_len()].copy_from_slice(&iv);
        if self.implicit_iv {
            iv.clear();
        }
        let mut aad = SPI.to_be_bytes().to_vec();
        aad.extend_from_slice(if self.extended { &number } else { &number[4..] });
        let mut tag = vec![0; algorithm.tag_len()];
        key.seal(&nonce, &aad, &mut data, &mut tag).expect("short data");

        let esp_len = 8 + iv.len() + data.len() + tag.len();
        let udp_len = if self.udp { 8 + esp_len } else { esp_len };
        let protocol = if self.udp { 17 } else { 50 };
        let mut wire = if self.v6 {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&(udp_len as u16).to_be_bytes());
            header.extend_from_slice(&[
                protocol, 64, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            ]);
            header.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            header
        } else {
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&((20 + udp_len) as u16).to_be_bytes());
            header.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
            header
        };
        if self.udp {
            wire.extend_from_slice(&[0x11, 0x94, 0x11, 0x94]);
            wire.extend_from_slice(&(udp_len as u16).to_be_bytes());
            wire.extend_from_slice(&[0, 0]);
        }
        wire.extend_from_slice(&SPI.to_be_bytes());
        wire.extend_from_slice(&number[4..]);
        wire.extend_from_slice(&iv);
        wire.extend_from_slice(&data);
        wire.extend_from_slice(&tag);
        wire
    }
}
