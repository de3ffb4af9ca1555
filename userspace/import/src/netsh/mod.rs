//! Scripts of `netsh ipsec`, the command line of Windows' IPsec policies.
//!
//! A script becomes statements (`script`), each a command with named arguments (`command`); the commands build up
//! filter lists, filter actions, policies and rules (`store`), and what stands there in the end becomes a policy
//! (`translate`). Values of preshared keys are read over, never kept. `export` writes a policy as a script.

mod address;
mod apply;
mod builtin;
mod change;
mod command;
mod export;
mod line;
mod protect;
mod script;
mod security;
mod store;
mod translate;
mod tunnels;

use std::net::IpAddr;

pub use export::{Exported, export_netsh};

use crate::findings::{Findings, ImportErrors};
use crate::imported::Imported;
use crate::netsh::command::Command;
use crate::netsh::store::Store;
use crate::source::Source;

/// What a script does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetshOptions {
    /// Addresses of the machine the policy is for: the local ends of its connections.
    pub local: Vec<IpAddr>,
    /// The policy to take for the assigned one, instead of the one that the script assigns.
    pub assign: Option<String>,
}

/// Imports a script of `netsh ipsec` commands.
///
/// The assigned policy's rules become active rules, those of other policies inactive ones. What negotiates becomes
/// `protect` with a connection between two hosts or two tunnel ends, whose keys are still to be made; what negotiates with
/// peers that are not known by address is blocked, unless the script lets it fall back to clear text.
///
/// # Errors
/// Commands that cannot be read.
pub fn netsh(source: &Source, options: &NetshOptions) -> Result<Imported, ImportErrors> {
    let mut findings = Findings::new(source.name());
    let mut store = Store::default();
    for statement in script::statements(source, &mut findings) {
        let line = statement.line;
        let result =
            Command::parse(&statement.words).and_then(|command| store.apply(line, &command, &mut findings));
        if let Err(message) = result {
            findings.error(line, message);
        }
    }
    let draft = translate::translate(&store, options, &mut findings);
    Imported::finish(source, "netsh ipsec", findings, &draft.write())
}
