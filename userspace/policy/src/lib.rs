//! The policy language: what a packet filter and its tunnels should do, read from TOML into a checked model.
//!
//! [`Policy::load`] reads a file, [`Policy::parse`] a string. Both parse rather than validate: a [`Policy`] that
//! exists is consistent. Every rule names a filter list and a connection that exist, every filter is of one
//! family, every SPI may be used, no key file serves twice. What is wrong is said as
//! `file:line:column: message`, all of it at once and not only the first mistake.
//!
//! The types, in the order a packet meets them:
//! [`Filter`] (which packets) in a [`FilterList`], a [`Rule`] (filter list and [`Action`]), a [`Connection`]
//! (how `protect` protects), [`StaticKeys`] (where its keys are).
//!
//! [`order`] says which of two filters wins where both match a [`Packet`], [`mod@explain`] why.
//!
//! `me` and names stand for the addresses of the machine at the moment: [`Policy::resolve`] puts them in, given
//! [`Surroundings`].
//!
//! This crate never reads a key, never looks at the machine it runs on, and does not know how rules are looked
//! up: the classifier crate compiles a policy.
#![forbid(unsafe_code)]

mod address;
mod check;
mod connection;
mod diagnostic;
pub mod diff;
mod document;
mod endpoints;
pub mod explain;
mod filter;
mod group;
mod layout;
mod lifeline;
mod lifetime;
pub mod lint;
mod nat_traversal;
pub mod order;
mod outer_header;
mod packet;
mod packet_text;
mod party;
mod policy;
mod ports;
mod protocol;
mod reader;
mod regular_file;
mod rule;
mod schema;
mod settings;
mod source;
mod space;
mod surroundings;
mod template;

pub use address::{Address, Family};
pub use connection::{
    Connection, Encapsulation, IpsecProtocol, Mode, Spi, StaticKeys, StaticSa, TfcPadding,
    UDP_ENCAPSULATION_PORT,
};
pub use diagnostic::{Diagnostic, PolicyErrors, Position, Warning};
pub use document::MAX_RULES;
pub use filter::{Filter, FilterList, Selector};
pub use layout::canonical_layout;
pub use lifeline::{Answers, Management, SessionPath};
pub use lifetime::{Lifetime, Limits};
pub use nat_traversal::{AddressUpdate, Ends, NatTraversal};
pub use outer_header::{DontFragment, FlowLabel, OuterHeader};
pub use packet::{Packet, Transport};
pub use packet_text::{PACKET_GRAMMAR, PacketTextError};
pub use policy::{MAX_FILE_BYTES, MAX_FILTERS, Policy};
pub use ports::PortSet;
pub use protocol::Protocol;
pub use ravelin_gcm::Algorithm;
pub use regular_file::RegularFile;
pub use rule::{Action, DefaultAction, Rule};
pub use schema::json_schema;
pub use settings::{Boot, Exemptions, HostEdge, Interfaces, is_interface_name};
pub use source::Witness;
pub use surroundings::Surroundings;
pub use template::ChangingFilter;
