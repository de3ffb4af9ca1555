//! Foreign rule languages to policies: what other filters are written in, read into the text of a Ravelin policy.
//!
//! [`Source`] holds the foreign text, [`classbench`] and its siblings turn it into an [`Imported`]: the text of a policy,
//! which has been read back by the policy crate before anybody sees it, and [`Warning`]s. What the policy language
//! cannot say is a warning with [`Warning::loss`] set, and stands in a comment at the top of the text as well: nothing is
//! left out silently.
//!
//! [`export_netsh`] goes the other way.
//!
//! This crate never touches a file or the machine it runs on, never repeats a secret that it reads, and needs time
//! and memory in proportion to its input, whatever that is.
#![forbid(unsafe_code)]

mod classbench;
mod draft;
mod findings;
mod firewall;
mod imported;
mod iptables;
mod netsh;
mod nft;
mod source;

pub use classbench::{Actions, classbench};
pub use findings::{ImportErrors, Warning};
pub use firewall::FirewallOptions;
pub use imported::Imported;
pub use iptables::iptables_save;
pub use netsh::{Exported, NetshOptions, export_netsh, netsh};
pub use nft::nft;
pub use source::{MAX_SOURCE_BYTES, Source};
