//! Link types, and how their frames become Ethernet frames (the numbers are those of tcpdump.org/linktypes.html).

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// A link type that carries IP in a known way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Ethernet,
    /// An IP packet and nothing else.
    Raw,
    /// Linux "any" device: type of packet in the first two bytes, EtherType in the last two of 16.
    Cooked,
    /// The same, second version: EtherType in the first two bytes, type of packet in the eleventh of 20.
    Cooked2,
}

impl Link {
    pub(crate) fn of(link_type: u16) -> Option<Self> {
        match link_type {
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::Cooked),
            276 => Some(Self::Cooked2),
            _ => None,
        }
    }

    /// Writes the frame with an Ethernet header; its length on the wire with that header, and whether it was sent rather
    /// than received, where the link type tells.
    pub(crate) fn convert(
        self,
        data: &[u8],
        wire_length: usize,
        frame: &mut Vec<u8>,
    ) -> (usize, Option<bool>) {
        frame.clear();
        let byte = |at: usize| data.get(at).copied();
        let (header, ether_type, outgoing) = match self {
            Self::Ethernet => {
                frame.extend_from_slice(data);
                return (wire_length.max(data.len()), None);
            }
            Self::Raw => {
                // What is neither is IP all the same, and malformed.
                let ether_type = match byte(0).map(|first| first >> 4) {
                    Some(6) => [0x86, 0xdd],
                    _ => [0x08, 0x00],
                };
                (0, Some(ether_type), None)
            }
            Self::Cooked => (16, pair(data, 14), pair(data, 0).map(|kind| kind == [0, 4])),
            Self::Cooked2 => (20, pair(data, 0), byte(10).map(|kind| kind == 4)),
        };
        frame.resize(ETHERNET, 0);
        match ether_type {
            Some(ether_type) => frame[ETHERNET - 2..].copy_from_slice(&ether_type),
            // Cut inside its header: so is the frame made of it.
            None => frame.truncate(ETHERNET - 2),
        }
        let payload = data.get(header..).unwrap_or_default();
        frame.extend_from_slice(payload);
        let wire_length = wire_length.max(data.len());
        (ETHERNET + wire_length.saturating_sub(header), outgoing)
    }
}

fn pair(data: &[u8], at: usize) -> Option<[u8; 2]> {
    data.get(at..)?.first_chunk().copied()
}
