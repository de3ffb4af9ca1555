//! The SSH connection from which a policy is put in force: it gets a lifeline, if it is what it says.

use std::net::IpAddr;

use ravelin_policy::Management;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A connection to a TCP service of this machine, as whoever started a command says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Who connected.
    pub client: IpAddr,
    /// The machine's address that they connected to.
    pub own: IpAddr,
    /// The service's port there.
    pub port: u16,
}

/// Why a connection gets no lifeline.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "no lifeline for the SSH connection from {client} to {own}, port {port}: {why}; if you manage this machine from there, \
     write a `[lifeline]` into the policy"
)]
pub(crate) struct Strange {
    client: IpAddr,
    own: IpAddr,
    port: u16,
    why: &'static str,
}

impl Session {
    /// The service to hold for one client, on a machine with these addresses. `None` for a connection within the machine,
    /// which needs nothing. Wider than one client, or to elsewhere, nothing is opened, whoever asks.
    ///
    /// # Errors
    ///
    /// [`Strange`].
    pub(crate) fn admit(self, own: &[IpAddr]) -> Result<Option<Management>, Strange> {
        let (client, to) = (self.client.to_canonical(), self.own.to_canonical());
        let is_own = |address: &IpAddr| own.iter().any(|own| own.to_canonical() == *address);
        let nobody = match client {
            IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
        };
        let why = if client.is_loopback() || is_own(&client) {
            return Ok(None);
        } else if client.is_ipv4() != to.is_ipv4() {
            "they are of two families"
        } else if nobody {
            "nobody connects from there"
        } else if !is_own(&to) {
            "that is no address of this machine"
        } else if self.port == 0 {
            "there is no such port"
        } else {
            return Ok(Some(Management {
                client,
                own: to,
                port: self.port,
            }));
        };
        Err(Strange {
            client,
            own: to,
            port: self.port,
            why,
        })
    }
}

impl From<Management> for Session {
    fn from(Management { client, own, port }: Management) -> Self {
        Self { client, own, port }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::Session;

    #[test]
    fn only_one_client_and_only_this_machine_is_opened() {
        let own: Vec<IpAddr> = ["192.0.2.1", "fe80::1", "2001:db8::1"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let admit = |client: &str, to: &str, port| {
            let session = Session {
                client: client.parse().unwrap(),
                own: to.parse().unwrap(),
                port,
            };
            session.admit(&own)
        };
        for (client, to) in [
            ("198.51.100.7", "192.0.2.1"),
            ("::ffff:198.51.100.7", "::ffff:192.0.2.1"),
            ("fe80::7", "fe80::1"),
        ] {
            let held = admit(client, to, 22).unwrap().unwrap();
            assert_eq!(held.client, client.parse::<IpAddr>().unwrap().to_canonical());
        }
        for within in ["127.0.0.1", "192.0.2.1", "::1"] {
            assert_eq!(admit(within, "192.0.2.1", 22), Ok(None));
        }
        for (client, to, port, why) in [
            ("198.51.100.7", "192.0.2.2", 22, "no address of this machine"),
            ("198.51.100.7", "0.0.0.0", 22, "no address of this machine"),
            ("0.0.0.0", "192.0.2.1", 22, "nobody"),
            ("255.255.255.255", "192.0.2.1", 22, "nobody"),
            ("ff02::1", "2001:db8::1", 22, "nobody"),
            ("::", "2001:db8::1", 22, "nobody"),
            ("2001:db8::7", "192.0.2.1", 22, "two families"),
            ("198.51.100.7", "192.0.2.1", 0, "no such port"),
        ] {
            let said = admit(client, to, port).unwrap_err().to_string();
            assert!(said.contains(why), "{client} {to}: {said}");
        }
    }
}
