//! A security gateway: its policy and keys, and the daemon that enforces them.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{
    namespace::Namespace,
    process::Process,
    status::Status,
    topology::{GW1_V4, GW1_V6, GW2_V4, GW2_V6, INNER, OUTER},
};
use crate::program;

/// How long the daemon may take until it forwards.
const START: Duration = Duration::from_secs(20);

/// The two connections: everything between the sites over IPv4, UDP apart over IPv6.
pub(super) const SITES: &str = "sites";
pub(super) const DATAGRAMS: &str = "datagrams";

/// Length of the key material in bytes: an AES-256 key and a 4-byte salt (RFC 4106 section 8.1).
const KEYMAT: usize = 36;

/// One direction of one connection. The demo invents it, so both gateways and Wireshark get the same.
#[derive(Debug)]
pub(super) struct Sa {
    pub(super) connection: &'static str,
    pub(super) source: &'static str,
    pub(super) destination: &'static str,
    pub(super) spi: u32,
    pub(super) keymat: [u8; KEYMAT],
}

impl Sa {
    /// Fresh random keys for both directions of both connections.
    pub(super) fn generate() -> Result<[Self; 4]> {
        let sa = |connection, source, destination, spi| -> Result<Self> {
            let mut keymat = [0; KEYMAT];
            fs::File::open("/dev/urandom")
                .and_then(|mut file| file.read_exact(&mut keymat))
                .context("/dev/urandom")?;
            Ok(Self {
                connection,
                source,
                destination,
                spi,
                keymat,
            })
        };
        Ok([
            sa(SITES, GW1_V4, GW2_V4, 0x1001)?,
            sa(SITES, GW2_V4, GW1_V4, 0x1002)?,
            sa(DATAGRAMS, GW1_V6, GW2_V6, 0x2001)?,
            sa(DATAGRAMS, GW2_V6, GW1_V6, 0x2002)?,
        ])
    }

    /// The key material in hexadecimal digits.
    pub(super) fn keymat_hex(&self) -> String {
        self.keymat.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// One gateway with its daemon running.
#[derive(Debug)]
pub(super) struct Gateway {
    /// Where it is, seen from the clear side: 1 or 2.
    site: u8,
    folder: PathBuf,
    ravelin: PathBuf,
    process: Process,
}

impl Gateway {
    /// Writes policy and keys, starts the daemon in `namespace` and waits until it forwards.
    pub(super) fn start(
        ravelin: &Path,
        namespace: &Namespace,
        folder: &Path,
        site: u8,
        sas: &[Sa],
    ) -> Result<Self> {
        let folder = folder.join(format!("gw{site}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| folder.display().to_string())?;
        let policy = folder.join("policy.toml");
        fs::write(&policy, policy_text(site, sas)).with_context(|| policy.display().to_string())?;
        for sa in sas {
            write_key(&folder.join(key_file(sa)), sa)?;
        }
        program::output(Command::new(ravelin).args(["check", "--policy"]).arg(&policy))?;

        let mut command = namespace.command(ravelin);
        command
            .args([
                "run",
                "--outer",
                OUTER,
                "--inner",
                INNER,
                "--instance",
                namespace.name(),
            ])
            .arg("--policy")
            .arg(&policy)
            .arg("--control")
            .arg(folder.join("control.sock"))
            .arg("--state-dir")
            .arg(folder.join("state"));
        let mut process = Process::spawn(&mut command, &folder.join("daemon"))?;
        process.wait_for_text("ravelin: ready", START)?;
        Ok(Self {
            site,
            folder,
            ravelin: ravelin.to_owned(),
            process,
        })
    }

    /// The daemon's counters now.
    pub(super) fn status(&self) -> Result<Status> {
        Status::parse(&program::output(&mut self.status_command())?)
    }

    /// The command that shows the counters.
    pub(super) fn status_command(&self) -> Command {
        let mut command = Command::new(&self.ravelin);
        command
            .args(["status", "--json", "--control"])
            .arg(self.folder.join("control.sock"));
        command
    }

    /// The daemon's process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets the daemon run on after this program.
    pub(super) fn detach(&mut self) {
        self.process.detach();
    }

    /// Ends the daemon as an operator would.
    ///
    /// # Errors
    ///
    /// It did not end by itself, or not with success.
    pub(super) fn stop(&mut self) -> Result<()> {
        let status = self.process.stop(Signal::SIGTERM)?;
        if !status.success() {
            bail!(
                "{}: the daemon ended with {status}\n{}",
                self.name(),
                self.process.last_words()
            );
        }
        Ok(())
    }

    pub(super) fn name(&self) -> String {
        format!("gw{}", self.site)
    }
}

fn key_file(sa: &Sa) -> String {
    format!("{}-{:#06x}.key", sa.connection, sa.spi)
}

fn write_key(path: &Path, sa: &Sa) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{}", sa.keymat_hex()))
        .with_context(|| path.display().to_string())
}

/// The policy of one site: all of it protected, one port in the clear, one port blocked, nothing else.
fn policy_text(site: u8, sas: &[Sa]) -> String {
    let far = 3 - site;
    // In a protect rule the source is this side; permit and block rules mean both directions by mirroring.
    let between = |rest: &str| {
        format!(
            "filters = [\n  {{ source = \"10.{site}.0.0/16\", destination = \"10.{far}.0.0/16\"{rest} }},\n  \
             {{ source = \"fd00:{site}::/64\", destination = \"fd00:{far}::/64\"{rest} }},\n]\n"
        )
    };
    // The server of the clear and of the blocked flow stands at site 2.
    let to_server = |port: u16| {
        let side = if site == 1 {
            "destination-port"
        } else {
            "source-port"
        };
        between(&format!(", protocol = \"tcp\", {side} = {port}"))
    };
    let mut text = format!(
        "default = \"block\"\n\n\
         [filter-lists.everything]\n{}\n[filter-lists.udp]\n{}\n\
         [filter-lists.status-page]\n{}\n[filter-lists.telnet]\n{}\n",
        between(""),
        between(", protocol = \"udp\""),
        to_server(8080),
        to_server(23),
    );
    for (name, list, action) in [
        (
            "sites",
            "everything",
            "action = \"protect\"\nconnection = \"sites\"",
        ),
        (
            "datagrams",
            "udp",
            "action = \"protect\"\nconnection = \"datagrams\"",
        ),
        ("status-page", "status-page", "action = \"permit\""),
        ("telnet", "telnet", "action = \"block\""),
    ] {
        text.push_str(&format!(
            "[[rules]]\nname = \"{name}\"\nfilter-list = \"{list}\"\n{action}\n\n"
        ));
    }
    for (name, endpoints) in [(SITES, [GW1_V4, GW2_V4]), (DATAGRAMS, [GW1_V6, GW2_V6])] {
        let [local, remote] = if site == 1 {
            endpoints
        } else {
            [endpoints[1], endpoints[0]]
        };
        let sa = |source: &str| {
            sas.iter()
                .find(|sa| sa.connection == name && sa.source == source)
                .map(|sa| format!("{{ spi = {:#x}, key-file = \"{}\" }}", sa.spi, key_file(sa)))
                .unwrap_or_default()
        };
        // Without ESN: tshark 4.0 cannot check the ICV of packets whose sequence number has unsent high bits.
        text.push_str(&format!(
            "[connections.{name}]\nmode = \"tunnel\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n\n\
             [connections.{name}.static]\nalgorithm = \"aes-256-gcm\"\nesn = false\n\
             outbound = {}\ninbound = {}\n\n",
            sa(local),
            sa(remote),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{KEYMAT, Sa, policy_text};

    #[test]
    fn the_two_policies_mirror_each_other() {
        let sas = Sa::generate().unwrap();
        let (one, two) = (policy_text(1, &sas), policy_text(2, &sas));
        for (policy, outbound, inbound) in [(&one, "0x1001", "0x1002"), (&two, "0x1002", "0x1001")] {
            assert!(
                policy.contains(&format!("outbound = {{ spi = {outbound}, ")),
                "{policy}"
            );
            assert!(
                policy.contains(&format!("inbound = {{ spi = {inbound}, ")),
                "{policy}"
            );
        }
        assert!(one.contains("destination-port = 23") && two.contains("source-port = 23"));
    }

    #[test]
    fn keys_are_random_and_of_full_length() {
        let sas = Sa::generate().unwrap();
        assert_eq!(sas[0].keymat_hex().len(), KEYMAT * 2);
        assert_ne!(sas[0].keymat, sas[1].keymat);
    }
}
