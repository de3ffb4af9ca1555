//! What an XDP program tells the worker about a redirected packet, directly in front of it.

/// What the worker has to do with a redirected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Clear packet: seal it under connection `slot`.
    Seal = 1,
    /// ESP directly over IP: open it with inbound SA `slot`.
    OpenEsp = 2,
    /// UDP-encapsulated ESP (RFC 3948): open it with inbound SA `slot`.
    OpenUdpEsp = 3,
    /// AH (RFC 4302): open it with inbound SA `slot`.
    OpenAh = 4,
    /// A fragment of a packet with ESP or AH: put it together, then open it with the `slot` that came with its first fragment;
    /// others have [`FrameMetadata::NO_SLOT`].
    Reassemble = 5,
    /// UDP-encapsulated ESP for inbound SA `slot`, from another address or port than its peer's: find out whether it is authentic.
    Moved = 6,
    /// An ICMP error that says that a packet of outbound SA `slot` was too big.
    PathMtu = 7,
}

/// Metadata in front of a redirected packet, written with `bpf_xdp_adjust_meta`.
///
/// 20 bytes, native byte order: `magic` u32, `slot` u32, `rule_id` u32, `l3_offset` u16, `l3_length` u16,
/// `generation` u16, `kind` u8, `family` u8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMetadata {
    /// Index of the connection (seal) or of the inbound SA (open).
    pub slot: u32,
    /// The rule that decided, or [`crate::line::NO_RULE`].
    pub rule_id: u32,
    /// Bytes from the start of the frame to the IP header.
    pub l3_offset: u16,
    /// Length of the IP packet in bytes, without Ethernet padding.
    pub l3_length: u16,
    /// Low 16 bits of the rule set's generation.
    pub generation: u16,
    /// What to do.
    pub kind: Kind,
    /// 4 or 6.
    pub family: u8,
}

impl FrameMetadata {
    /// A slot that nothing has.
    pub const NO_SLOT: u32 = u32::MAX;

    /// Length in bytes, a multiple of four as the kernel demands.
    pub const LENGTH: usize = 20;

    const MAGIC: u32 = 0x5241_5631;

    /// The bytes to write in front of the packet.
    #[must_use]
    #[inline(always)]
    pub const fn to_words(self) -> [u32; 5] {
        [
            Self::MAGIC,
            self.slot,
            self.rule_id,
            self.l3_offset as u32 | (self.l3_length as u32) << 16,
            self.generation as u32 | (self.kind as u32) << 16 | (self.family as u32) << 24,
        ]
    }

    /// Reads the bytes in front of a packet; `None` if no program of ours wrote them.
    #[must_use]
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().ok()?;
        let word = |index: usize| {
            u32::from_ne_bytes([
                bytes[4 * index],
                bytes[4 * index + 1],
                bytes[4 * index + 2],
                bytes[4 * index + 3],
            ])
        };
        let kind = match (word(4) >> 16) as u8 {
            1 => Kind::Seal,
            2 => Kind::OpenEsp,
            3 => Kind::OpenUdpEsp,
            4 => Kind::OpenAh,
            5 => Kind::Reassemble,
            6 => Kind::Moved,
            7 => Kind::PathMtu,
            _ => return None,
        };
        if word(0) != Self::MAGIC {
            return None;
        }
        Some(Self {
            slot: word(1),
            rule_id: word(2),
            l3_offset: word(3) as u16,
            l3_length: (word(3) >> 16) as u16,
            generation: word(4) as u16,
            kind,
            family: (word(4) >> 24) as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_bytes() {
        let metadata = FrameMetadata {
            slot: 3,
            rule_id: 0xdead_beef,
            l3_offset: 22,
            l3_length: 1500,
            generation: 0xfedc,
            kind: Kind::OpenUdpEsp,
            family: 6,
        };
        let mut bytes = [0; FrameMetadata::LENGTH];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(metadata.to_words()) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        assert_eq!(FrameMetadata::from_bytes(&bytes), Some(metadata));
        bytes[0] ^= 1;
        assert_eq!(FrameMetadata::from_bytes(&bytes), None);
        assert_eq!(FrameMetadata::from_bytes(&bytes[1..]), None);
    }
}
