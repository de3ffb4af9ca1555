//! Which way captured frames go.

use std::collections::HashSet;
use std::net::IpAddr;

use ravelin_capture::Frame;
use ravelin_policy::Packet;
use ravelin_xdp_common::Direction;

/// What is known of the machine that the frames were captured at.
#[derive(Debug)]
pub(crate) struct Viewpoint {
    /// Every frame goes this way.
    pub(crate) all: Option<Direction>,
    /// Its own addresses.
    pub(crate) own: HashSet<IpAddr>,
    /// The link address of its outer device.
    pub(crate) link: Option<[u8; 6]>,
}

impl Viewpoint {
    /// The direction of a frame and of the packet in it, if it can be told.
    pub(crate) fn direction(&self, frame: &Frame<'_>, packet: Option<&Packet>) -> Option<Direction> {
        self.all
            .or_else(|| self.by_link(frame))
            .or_else(|| self.by_address(packet?))
            .or_else(|| {
                frame.outgoing.map(|outgoing| {
                    if outgoing {
                        Direction::Outbound
                    } else {
                        Direction::Inbound
                    }
                })
            })
    }

    fn by_link(&self, frame: &Frame<'_>) -> Option<Direction> {
        let own = self.link?;
        let (source, destination) = frame.link_addresses()?;
        if source == own {
            return Some(Direction::Outbound);
        }
        // Broadcast and multicast are for it as well (IEEE 802: the lowest bit of the first byte).
        (destination == own || destination[0] & 1 == 1).then_some(Direction::Inbound)
    }

    fn by_address(&self, packet: &Packet) -> Option<Direction> {
        if self.own.contains(&packet.source) {
            return Some(Direction::Outbound);
        }
        self.own
            .contains(&packet.destination)
            .then_some(Direction::Inbound)
    }
}

/// Six bytes in hexadecimal, with colons.
pub(crate) fn link_address(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| {
            let hexadecimal =
                (1..=2).contains(&byte.len()) && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
            hexadecimal.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
        })
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "write six bytes, as in 02:00:5e:10:00:01".to_owned())
}

#[cfg(test)]
mod tests {
    use super::link_address;

    #[test]
    fn link_addresses_are_six_bytes() {
        assert_eq!(link_address("02:00:5e:10:0:ff"), Ok([2, 0, 0x5e, 0x10, 0, 255]));
        for text in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "02:00:5e:10:00:+1",
            "02:00:5e:10:00:001",
        ] {
            assert!(link_address(text).is_err(), "{text}");
        }
    }
}
