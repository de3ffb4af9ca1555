//! `struct virtio_net_hdr`: what a packet still needs done (virtio 1.3 section 5.1.6, `linux/virtio_net.h`).

/// VIRTIO_NET_HDR_F_NEEDS_CSUM.
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_GSO_ECN: the first segment carries CWR, the others do not.
const GSO_ECN: u8 = 0x80;

/// A packet that stands for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// One packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams, each with a header of its own; not IP fragments.
    Udp,
}

/// A checksum that covers the bytes from `start` to the end of the packet. Its field holds the sum of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Bytes from the start of the packet to the transport header.
    pub start: u16,
    /// Bytes from there to the checksum's field.
    pub offset: u16,
}

/// What is left to do for a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// A checksum to complete.
    pub checksum: Option<PartialChecksum>,
    /// How to cut it.
    pub gso: Gso,
    /// Bytes of all headers; a hint.
    pub header_length: u16,
    /// Bytes of payload of each packet but the last.
    pub gso_size: u16,
}

impl VnetHeader {
    /// Bytes of the header, without the later fields that only a ring has.
    pub const LENGTH: usize = 10;

    /// Reads a header in the host's byte order; `None` for kinds of segmentation that nobody was asked for.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            0 => Gso::None,
            1 => Gso::TcpV4,
            4 => Gso::TcpV6,
            5 => Gso::Udp,
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CSUM != 0).then(|| PartialChecksum {
            start: word(6),
            offset: word(8),
        });
        Some(Self {
            checksum,
            gso,
            header_length: word(2),
            gso_size: word(4),
        })
    }

    /// The header's bytes, in the host's byte order.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => 1,
            Gso::TcpV6 => 4,
            Gso::Udp => 5,
        };
        let mut put = |at: usize, value: u16| bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        put(2, self.header_length);
        put(4, self.gso_size);
        if let Some(checksum) = self.checksum {
            put(6, checksum.start);
            put(8, checksum.offset);
            bytes[0] = NEEDS_CSUM;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_bytes() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
            let header = VnetHeader {
                checksum: Some(PartialChecksum {
                    start: 0x1234,
                    offset: 16,
                }),
                gso,
                header_length: 0x0102,
                gso_size: 1448,
            };
            assert_eq!(VnetHeader::from_bytes(&header.to_bytes()), Some(header));
        }
        assert_eq!(
            VnetHeader::from_bytes(&VnetHeader::default().to_bytes()),
            Some(VnetHeader::default())
        );
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        // UFO, which makes fragments, and a number that has no meaning.
        for kind in [3, 6] {
            let mut bytes = [0; 10];
            bytes[1] = kind;
            assert_eq!(VnetHeader::from_bytes(&bytes), None);
        }
        let mut bytes = [0; 10];
        bytes[1] = 0x81;
        assert_eq!(
            VnetHeader::from_bytes(&bytes).map(|header| header.gso),
            Some(Gso::TcpV4)
        );
    }
}
