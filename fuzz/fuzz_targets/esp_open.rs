//! What arrives at an inbound SA: bytes from anybody, and plaintext from a peer that has the key but means ill.
//!
//! The first byte of the input chooses the SA, the second whether the rest is a whole packet or a plaintext that is
//! sealed properly before it is opened.
#![no_main]

use std::net::IpAddr;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use ravelin_esp::{
    Algorithm, DropReason, Encapsulation, InboundSa, Mode, Packet, Provider, SaParameters, Secret,
};
use ravelin_gcm::KeyMaterial;

const SPI: u32 = 0x1000;
const SALT: [u8; 4] = [7; 4];

fuzz_target!(|input: &[u8]| {
    let [choice, authentic, data @ ..] = input else {
        return;
    };
    let case = Case::new(*choice);
    let mut wire = if authentic & 1 == 1 {
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
        assert_eq!(authentic & 1, 1, "a packet without a key was accepted");
        let bytes = packets[0].bytes();
        let total = match bytes[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            6 => 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]])),
            version => panic!("IP version {version} came out"),
        };
        assert_eq!(total, bytes.len());
    }
});

/// One kind of SA.
struct Case {
    tunnel: bool,
    v6: bool,
    udp: bool,
    extended: bool,
}

impl Case {
    fn new(choice: u8) -> Self {
        let [tunnel, v6, udp, extended] = [1, 2, 4, 8].map(|bit| choice & bit != 0);
        Self {
            tunnel,
            v6,
            udp,
            extended,
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
        let key = Secret::from([[7; 16].as_slice(), &SALT].concat());
        let mut parameters = SaParameters::new(SPI, mode, Algorithm::AES_128_GCM, key);
        parameters.extended_sequence_numbers = self.extended;
        if self.udp {
            parameters.encapsulation = Encapsulation::Udp {
                source_port: 4500,
                destination_port: 4500,
            };
        }
        InboundSa::new(parameters, Provider::RustCrypto, 0, Instant::now()).expect("valid parameters")
    }

    /// A well-formed, authentic packet around `plaintext`, which holds the trailer too.
    fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut data = plaintext[..plaintext.len().min(1 << 12)].to_vec();
        data.truncate(data.len() / 4 * 4);
        let key = KeyMaterial::new(Algorithm::AES_128_GCM, Secret::from(vec![7; 16])).expect("16 bytes");
        let key = Provider::RustCrypto.key(&key).expect("a key");
        let number = 1_u64.to_be_bytes();
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&SALT);
        nonce[4..12].copy_from_slice(&number);
        let mut aad = SPI.to_be_bytes().to_vec();
        aad.extend_from_slice(if self.extended { &number } else { &number[4..] });
        let mut tag = [0; 16];
        key.seal(&nonce, &aad, &mut data, &mut tag).expect("short data");

        let esp_len = 16 + data.len() + 16;
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
        wire.extend_from_slice(&number);
        wire.extend_from_slice(&data);
        wire.extend_from_slice(&tag);
        wire
    }
}
