//! Network devices as the engine needs them.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

use crate::netlink::Questions;

/// A link-layer address.
pub type Mac = [u8; 6];

/// One Ethernet device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its own link-layer address.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is one end of a veth pair: its peer may leave checksums to be completed by hardware there is not.
    pub veth: bool,
}

impl Device {
    /// Looks a device up by name; `None` if there is none.
    pub(crate) fn find(questions: &mut Questions, name: &str) -> io::Result<Option<Self>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match questions.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Self::from_link(link),
                _ => None,
            })),
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the kernel's description; `None` if the device is not Ethernet.
    pub(crate) fn from_link(link: &LinkMessage) -> Option<Self> {
        if link.header.link_layer_type != LinkLayerType::Ether {
            return None;
        }
        let mut device = Self {
            name: String::new(),
            index: link.header.index,
            mac: [0; 6],
            mtu: 0,
            up: link.header.flags.contains(LinkFlags::Up),
            veth: false,
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
                LinkAttribute::Address(bytes) => device.mac = bytes.as_slice().try_into().ok()?,
                LinkAttribute::LinkInfo(infos) => {
                    device.veth = infos
                        .iter()
                        .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        Some(device)
    }
}
