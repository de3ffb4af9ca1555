//! What a security association is, before it is checked.

use std::net::{IpAddr, Ipv4Addr};

use ravelin_gcm::{Aead, Algorithm, KeyError, KeyMaterial, Provider, Secret};

use crate::ah::Ah;
use crate::ip::{PROTOCOL_AH, PROTOCOL_ESP, PROTOCOL_UDP};
use crate::lifetime::{Lifetime, LifetimeError};
use crate::nat::NatOriginal;
use crate::nonce::Salt;
use crate::outer_options::{Dscp, OuterOptions};
use crate::tfc::TfcPadding;

/// The smallest path MTU an SA takes over IPv4, in bytes. RFC 791 permits 68, but below this only attacks have been
/// seen; Linux has the same floor.
const MIN_PATH_MTU_IPV4: u32 = 552;
/// RFC 8200 section 5.
const MIN_PATH_MTU_IPV6: u32 = 1280;

/// What is protected (RFC 4301 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The whole IP packet, inside a new one between two gateways or hosts.
    Tunnel {
        /// Our outer address: source of what we send, destination of what we receive.
        local: IpAddr,
        /// The peer's outer address.
        remote: IpAddr,
    },
    /// The payload of a packet between the two hosts.
    Transport,
}

/// ESP, or only proof of origin for the packet with its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Encapsulating Security Payload (RFC 4303).
    Esp,
    /// Authentication Header (RFC 4302), with an algorithm that only authenticates. Routers and NATs that rewrite addresses
    /// break it, and it cannot travel in UDP.
    Ah,
}

/// What stands between IP and ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing: IP protocol 50.
    None,
    /// A UDP header (RFC 3948), ports as they stand in packets of this SA's direction.
    ///
    /// The checksum is 0 over IPv4 (RFC 3948 section 2.1), and computed over IPv6 unless
    /// [`SaParameters::udp_zero_checksum`] is set. On receipt only the destination port is checked: a NAT may
    /// change the source port at any time, and the checksum says less than the ICV.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
}

/// The parameters of one unidirectional SA (RFC 4301 section 4.4.2.1). Not `Clone`: an SA consumes its parameters, so
/// that one key does not end in two senders by accident.
#[derive(Debug)]
pub struct SaParameters {
    /// Security parameters index, 256 and up.
    pub spi: u32,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Tunnel or transport.
    pub mode: Mode,
    /// UDP encapsulation or none.
    pub encapsulation: Encapsulation,
    /// What encrypts and authenticates.
    pub algorithm: Algorithm,
    /// KEYMAT: the encryption key, the salt, the integrity key, as far as the algorithm has them (RFC 7296 section 2.17,
    /// RFC 4106 section 8.1).
    pub key_material: Secret,
    /// The IV is the sequence number and is not sent (RFC 8750). For AES-GCM with an ICV of 16 bytes, AES-CCM with one of
    /// 8, and ChaCha20-Poly1305.
    pub implicit_iv: bool,
    /// 64-bit sequence numbers (RFC 4303 section 2.2.1).
    pub extended_sequence_numbers: bool,
    /// Inbound: numbers the anti-replay window spans, a multiple of 64 from 64 to 65536; 0 turns anti-replay off.
    pub replay_window: u32,
    /// Outbound: the longest outer packet in bytes, from its IP header on; `None` for no limit but IP's own.
    pub path_mtu: Option<u32>,
    /// Outbound, UDP over IPv6: send checksum 0 as RFC 6935 lets tunnels do, if the peer is known to take it. Linux
    /// does not without a socket option, hence the default `false`.
    pub udp_zero_checksum: bool,
    /// Outbound: padding that hides lengths.
    pub tfc_padding: TfcPadding,
    /// Tunnel mode: what outer headers take from inner ones, and the other way round. Not used in transport mode.
    pub outer: OuterOptions,
    /// Inbound, transport mode: the addresses that packets had before a NAT changed them; checksums over them are then made
    /// right again (RFC 3948 section 3.1.2).
    pub nat_original: Option<NatOriginal>,
    /// How long it may be used.
    pub lifetime: Lifetime,
}

impl SaParameters {
    /// Parameters with the defaults: ESP, no UDP, 32-bit sequence numbers, a window of 1024, no path MTU, the lifetime that
    /// the algorithm permits.
    #[must_use]
    pub fn new(spi: u32, mode: Mode, algorithm: Algorithm, key_material: Secret) -> Self {
        Self {
            spi,
            protocol: Protocol::Esp,
            mode,
            encapsulation: Encapsulation::None,
            algorithm,
            key_material,
            implicit_iv: false,
            extended_sequence_numbers: false,
            replay_window: 1024,
            path_mtu: None,
            udp_zero_checksum: false,
            tfc_padding: TfcPadding::None,
            outer: OuterOptions::default(),
            nat_original: None,
            lifetime: Lifetime::default(),
        }
    }

    /// IP protocol of sealed packets.
    pub(crate) fn carrier(&self) -> u8 {
        match (self.protocol, self.encapsulation) {
            (Protocol::Ah, _) => PROTOCOL_AH,
            (Protocol::Esp, Encapsulation::None) => PROTOCOL_ESP,
            (Protocol::Esp, Encapsulation::Udp { .. }) => PROTOCOL_UDP,
        }
    }

    /// Checks every field.
    pub(crate) fn validate(&self) -> Result<(), SaError> {
        // RFC 4303 section 2.1: "The set of SPI values in the range 1 through 255 are reserved"; 0 "is reserved for
        // local, implementation-specific use and MUST NOT be sent on the wire".
        if self.spi <= 255 {
            return Err(SaError::Spi { spi: self.spi });
        }
        let expected = self.algorithm.keymat_len();
        if self.key_material.len() != expected {
            let (algorithm, actual) = (self.algorithm, self.key_material.len());
            return Err(SaError::KeyLength {
                algorithm,
                expected,
                actual,
            });
        }
        if self.implicit_iv && !self.algorithm.takes_implicit_iv() {
            return Err(SaError::ImplicitIv {
                algorithm: self.algorithm,
            });
        }
        if self.protocol == Protocol::Ah {
            if self.algorithm.encrypts() {
                return Err(SaError::AhEncrypts {
                    algorithm: self.algorithm,
                });
            }
            if self.encapsulation != Encapsulation::None {
                return Err(SaError::AhInUdp);
            }
            if self.nat_original.is_some() {
                return Err(SaError::AhBehindNat);
            }
            if self.tfc_padding != TfcPadding::None {
                return Err(SaError::AhPadding);
            }
        }
        let window = self.replay_window;
        if window > 65536 || !window.is_multiple_of(64) {
            return Err(SaError::ReplayWindow { window });
        }
        // The window is also what tells the high half of the number (RFC 4303 appendix A2).
        if window == 0 && self.extended_sequence_numbers {
            return Err(SaError::ExtendedWithoutReplay);
        }
        self.lifetime
            .validate(self.algorithm, self.extended_sequence_numbers)?;
        if let Mode::Tunnel { local, remote } = self.mode {
            if local.is_ipv4() != remote.is_ipv4() {
                return Err(SaError::TunnelFamilies { local, remote });
            }
            for (field, address) in [("local", local), ("remote", remote)] {
                if let Some(why) = no_end(address) {
                    return Err(SaError::TunnelAddress { field, address, why });
                }
            }
            if local == remote {
                return Err(SaError::TunnelToSelf { address: local });
            }
        }
        if let Encapsulation::Udp {
            source_port,
            destination_port,
        } = self.encapsulation
        {
            for (field, port) in [("source", source_port), ("destination", destination_port)] {
                if port == 0 {
                    return Err(SaError::UdpPort { field });
                }
            }
        }
        if let Some(NatOriginal { source, destination }) = self.nat_original {
            if self.mode != Mode::Transport {
                return Err(SaError::NatOriginalInTunnel);
            }
            if source.is_ipv4() != destination.is_ipv4() {
                return Err(SaError::NatOriginalFamilies {
                    original_source: source,
                    original_destination: destination,
                });
            }
        }
        if let Dscp::Set(dscp) = self.outer.dscp
            && dscp > 63
        {
            return Err(SaError::Dscp { dscp });
        }
        if self.outer.hop_limit == 0 {
            return Err(SaError::HopLimit);
        }
        check_path_mtu(self.mode, self.path_mtu)
    }

    /// Expands the keys and sets the salt apart; the keying material itself is erased. A provider without the algorithm is
    /// replaced by one that has it.
    pub(crate) fn into_key(self, provider: Provider) -> Result<(Box<dyn Aead>, Salt), SaError> {
        let (algorithm, actual) = (self.algorithm, self.key_material.len());
        let computed_by = match self.protocol {
            Protocol::Esp => algorithm,
            Protocol::Ah => Ah::computed_by(algorithm),
        };
        let wrong_length = SaError::KeyLength {
            algorithm,
            expected: algorithm.keymat_len(),
            actual,
        };
        let keymat = self.key_material.expose();
        let (encryption, rest) = keymat
            .split_at_checked(algorithm.encryption_key_len())
            .ok_or(wrong_length)?;
        let (salt, integrity) = rest.split_at_checked(algorithm.salt_len()).ok_or(wrong_length)?;
        let mut keys = Vec::with_capacity(algorithm.key_len());
        keys.extend_from_slice(encryption);
        keys.extend_from_slice(integrity);
        let key = KeyMaterial::new(computed_by, Secret::from(keys))?;
        let salt = Salt::new(salt).ok_or(wrong_length)?;
        Ok((provider.or_any_with(computed_by).key(&key)?, salt))
    }
}

/// Why an address cannot be the end of a tunnel.
fn no_end(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        // RFC 1122 section 3.2.1.3: "Addresses of this form MUST NOT appear outside a host."
        _ if address.is_loopback() => Some("a loopback address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        // RFC 4291 section 2.5.5.2: for programs that mean IPv4, not for the wire.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ => None,
    }
}

/// Checks a path MTU in bytes against the outer family's minimum; transport mode may carry either family.
pub(crate) fn check_path_mtu(mode: Mode, path_mtu: Option<u32>) -> Result<(), SaError> {
    let min = match mode {
        Mode::Tunnel {
            local: IpAddr::V6(_), ..
        } => MIN_PATH_MTU_IPV6,
        Mode::Tunnel { .. } | Mode::Transport => MIN_PATH_MTU_IPV4,
    };
    match path_mtu {
        Some(mtu) if mtu < min || mtu > u32::from(u16::MAX) => Err(SaError::PathMtu { mtu, min }),
        _ => Ok(()),
    }
}

/// Which field of an SA is wrong, and what it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaError {
    /// A reserved SPI.
    #[error("spi {spi}: 0 to 255 are reserved (RFC 4303 section 2.1); use 256 to 4294967295")]
    Spi {
        /// The SPI given.
        spi: u32,
    },
    /// Keying material of a wrong length.
    #[error(
        "key material of {actual} bytes; {algorithm} takes {expected}: {} of encryption key, {} of salt, {} of \
         integrity key",
        algorithm.encryption_key_len(),
        algorithm.salt_len(),
        algorithm.integrity_key_len()
    )]
    KeyLength {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// Bytes it takes, with salt.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// An algorithm whose IV must be sent.
    #[error(
        "{algorithm} cannot do without the IV in each packet; implicit IVs are for aes-*-gcm, aes-*-ccm-8 and \
         chacha20-poly1305 (RFC 8750)"
    )]
    ImplicitIv {
        /// The algorithm given.
        algorithm: Algorithm,
    },
    /// AH with an algorithm that encrypts.
    #[error(
        "{algorithm} encrypts, which AH does not do (RFC 4302); use null-hmac-* or aes-*-gmac, or ESP. For both, ESP \
         alone is enough: ESP in AH is not supported"
    )]
    AhEncrypts {
        /// The algorithm given.
        algorithm: Algorithm,
    },
    /// AH in UDP.
    #[error("AH cannot travel in UDP (RFC 3948 is for ESP), nor pass a NAT at all; use ESP")]
    AhInUdp,
    /// A replay window that is neither 0 nor a multiple of 64 up to 65536.
    #[error("replay window {window}; use a multiple of 64 from 64 to 65536, or 0 for no anti-replay")]
    ReplayWindow {
        /// The window given.
        window: u32,
    },
    /// Extended sequence numbers cannot be received without a window.
    #[error("extended sequence numbers need anti-replay; use a replay window of 64 to 65536")]
    ExtendedWithoutReplay,
    /// Tunnel endpoints of two families.
    #[error(
        "tunnel endpoints {local} and {remote} are of different families; use two IPv4 or two IPv6 addresses"
    )]
    TunnelFamilies {
        /// Our address.
        local: IpAddr,
        /// The peer's address.
        remote: IpAddr,
    },
    /// A tunnel endpoint that is no host's address.
    #[error("{field} tunnel endpoint {address} is {why}; use a unicast address of a host, IPv4 as IPv4")]
    TunnelAddress {
        /// `local` or `remote`.
        field: &'static str,
        /// The address given.
        address: IpAddr,
        /// What kind of address it is.
        why: &'static str,
    },
    /// Both tunnel endpoints are one address.
    #[error("both tunnel endpoints are {address}; use two addresses")]
    TunnelToSelf {
        /// The address given.
        address: IpAddr,
    },
    /// UDP port 0.
    #[error("UDP {field} port 0; use 1 to 65535, as a rule 4500")]
    UdpPort {
        /// `source` or `destination`.
        field: &'static str,
    },
    /// Original addresses for AH.
    #[error("original addresses are for ESP; AH authenticates addresses, so no NAT may change them")]
    AhBehindNat,
    /// TFC padding for AH.
    #[error("TFC padding is for ESP; AH hides nothing")]
    AhPadding,
    /// Original addresses for a tunnel.
    #[error("original addresses are for transport mode; what a tunnel carries no NAT has changed")]
    NatOriginalInTunnel,
    /// Original addresses of both families.
    #[error(
        "original addresses {original_source} and {original_destination} are of different families; use two of one"
    )]
    NatOriginalFamilies {
        /// The source given.
        original_source: IpAddr,
        /// The destination given.
        original_destination: IpAddr,
    },
    /// A DSCP of more than six bits.
    #[error("DSCP {dscp}; use 0 to 63, without the two bits of ECN (RFC 2474 section 3)")]
    Dscp {
        /// The code point given.
        dscp: u8,
    },
    /// A hop limit with which no packet leaves.
    #[error("outer hop limit 0; use 1 to 255, as a rule 64")]
    HopLimit,
    /// A path MTU that no path has.
    #[error("path MTU {mtu}; use {min} to 65535 bytes")]
    PathMtu {
        /// The MTU given.
        mtu: u32,
        /// The least for the SA's outer family.
        min: u32,
    },
    /// A recorded sequence number that the SA cannot have used.
    #[error("sequence number {mark} recorded as used, but this SA's numbers end at {limit}; rekey it")]
    SequenceMark {
        /// The number given.
        mark: u64,
        /// The last number of the SA.
        limit: u64,
    },
    /// A lifetime that cannot be.
    #[error("lifetime: {0}")]
    Lifetime(#[from] LifetimeError),
    /// The provider refused the key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[cfg(test)]
mod tests {
    use ravelin_gcm::{AesKey, IcvLen};

    use super::{
        Algorithm, Dscp, Encapsulation, Mode, NatOriginal, Protocol, SaError, SaParameters, Secret,
        TfcPadding,
    };

    fn parameters() -> SaParameters {
        let mode = Mode::Tunnel {
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, 2].into(),
        };
        SaParameters::new(256, mode, Algorithm::AES_128_GCM, Secret::copy_from(&[0; 20]))
    }

    fn refused(change: impl FnOnce(&mut SaParameters)) -> String {
        let mut parameters = parameters();
        change(&mut parameters);
        parameters.validate().expect_err("must be refused").to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(parameters().validate(), Ok(()));
    }

    #[test]
    fn each_wrong_field_is_named() {
        for spi in [0, 1, 255] {
            assert!(refused(|p| p.spi = spi).starts_with(&format!("spi {spi}: 0 to 255")));
        }
        for len in [0, 16, 19, 21, 36] {
            let error = refused(|p| p.key_material = Secret::copy_from(&vec![0; len]));
            assert!(
                error.contains(&format!("{len} bytes; aes-128-gcm takes 20")),
                "{error}"
            );
        }
        assert!(
            refused(
                |p| (p.algorithm, p.implicit_iv) = (Algorithm::AesGcm(AesKey::Aes128, IcvLen::Icv8), true)
            )
            .contains("implicit IVs are for")
        );
        assert!(
            refused(|p| p.protocol = Protocol::Ah).contains("aes-128-gcm encrypts, which AH does not do")
        );
        let in_udp = |p: &mut SaParameters| {
            (p.protocol, p.algorithm) = (Protocol::Ah, Algorithm::AesGmac(AesKey::Aes128));
            p.encapsulation = Encapsulation::Udp {
                source_port: 4500,
                destination_port: 4500,
            };
        };
        assert!(refused(in_udp).contains("cannot travel in UDP"));
        let original = |source: &str, destination: &str| {
            Some(NatOriginal {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
            })
        };
        let padded = |p: &mut SaParameters| {
            (p.protocol, p.algorithm) = (Protocol::Ah, Algorithm::AesGmac(AesKey::Aes128));
            p.tfc_padding = TfcPadding::PathMtu;
        };
        assert!(refused(padded).contains("TFC padding is for ESP"));
        let translated = |p: &mut SaParameters| {
            (p.protocol, p.algorithm) = (Protocol::Ah, Algorithm::AesGmac(AesKey::Aes128));
            (p.mode, p.nat_original) = (Mode::Transport, original("10.0.0.1", "10.0.0.2"));
        };
        assert!(refused(translated).contains("original addresses are for ESP"));
        for window in [1, 63, 65, 100, 65537, 65600, u32::MAX] {
            assert!(refused(|p| p.replay_window = window).contains("multiple of 64 from 64 to 65536"));
        }
        assert!(
            refused(|p| (p.replay_window, p.extended_sequence_numbers) = (0, true)).contains("anti-replay")
        );
        let tunnel = |local: &str, remote: &str| Mode::Tunnel {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        };
        assert!(refused(|p| p.mode = tunnel("192.0.2.1", "2001:db8::1")).contains("different families"));
        for (local, remote, expected) in [
            (
                "0.0.0.0",
                "192.0.2.1",
                "local tunnel endpoint 0.0.0.0 is the unspecified address",
            ),
            (
                "192.0.2.1",
                "224.0.0.1",
                "remote tunnel endpoint 224.0.0.1 is a multicast address",
            ),
            (
                "127.255.0.1",
                "192.0.2.1",
                "local tunnel endpoint 127.255.0.1 is a loopback address",
            ),
            (
                "192.0.2.1",
                "255.255.255.255",
                "remote tunnel endpoint 255.255.255.255 is the broadcast address",
            ),
            (
                "::",
                "2001:db8::1",
                "local tunnel endpoint :: is the unspecified address",
            ),
            (
                "2001:db8::1",
                "ff02::1",
                "remote tunnel endpoint ff02::1 is a multicast address",
            ),
            (
                "2001:db8::1",
                "::1",
                "remote tunnel endpoint ::1 is a loopback address",
            ),
            (
                "::ffff:192.0.2.1",
                "2001:db8::1",
                "local tunnel endpoint ::ffff:192.0.2.1 is an IPv4-mapped address",
            ),
        ] {
            let error = refused(|p| p.mode = tunnel(local, remote));
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(refused(|p| p.mode = tunnel("192.0.2.1", "192.0.2.1")).contains("both tunnel endpoints"));
        let udp = |source_port, destination_port| Encapsulation::Udp {
            source_port,
            destination_port,
        };
        assert!(refused(|p| p.encapsulation = udp(0, 4500)).contains("source port 0"));
        assert!(refused(|p| p.encapsulation = udp(4500, 0)).contains("destination port 0"));
        assert!(refused(|p| p.path_mtu = Some(551)).contains("552 to 65535"));
        assert!(refused(|p| p.path_mtu = Some(65536)).contains("552 to 65535"));
        let over_ipv6 = |p: &mut SaParameters| {
            (p.mode, p.path_mtu) = (tunnel("2001:db8::1", "2001:db8::2"), Some(1279));
        };
        assert!(refused(over_ipv6).contains("1280 to 65535"));
        assert!(refused(|p| p.outer.dscp = Dscp::Set(64)).contains("DSCP 64; use 0 to 63"));
        assert!(
            refused(|p| p.nat_original = original("10.0.0.1", "10.0.0.2")).contains("are for transport mode")
        );
        let mixed = |p: &mut SaParameters| {
            (p.mode, p.nat_original) = (Mode::Transport, original("10.0.0.1", "fd00::2"));
        };
        assert!(refused(mixed).contains("of different families"));
        assert!(refused(|p| p.outer.hop_limit = 0).contains("outer hop limit 0; use 1 to 255"));
    }

    #[test]
    fn the_edges_are_taken() {
        for window in [0, 64, 1024, 65536] {
            let mut parameters = parameters();
            parameters.replay_window = window;
            assert_eq!(parameters.validate(), Ok::<(), SaError>(()));
        }
    }

    #[test]
    fn printing_shows_no_key() {
        let mut parameters = parameters();
        parameters.key_material = Secret::copy_from(&[0xc5; 20]);
        let printed = format!("{parameters:?}");
        assert!(printed.contains("Secret(20 bytes)") && !printed.contains("197") && !printed.contains("c5"));
    }
}
