//! The text of a systemd unit (systemd.unit(5), systemd.exec(5)).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ravelin_engine::{Options, Role};

use crate::run::resolved;

/// How the service is confined, beside what `ravelin run` gives up by itself.
const CONFINED: &str = "\
CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
LimitCORE=0
LimitMEMLOCK=infinity
UMask=0077
ProtectSystem=strict
ProtectHome=read-only
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6 AF_XDP
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service bpf seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
";

/// What a unit is about: the program, its policy, the other options of `ravelin run`, and what they come to.
pub(crate) struct Service<'a> {
    pub(crate) program: &'a Path,
    pub(crate) policy: &'a Path,
    pub(crate) others: &'a [String],
    pub(crate) options: &'a Options,
    /// Whether the devices are shut until the policy is in force.
    pub(crate) shut_at_boot: bool,
}

impl Service<'_> {
    /// A command of the program with all options.
    fn command(&self, verb: &str) -> Result<Vec<String>> {
        let mut words = vec![path(self.program)?, verb.to_owned()];
        words.extend(["--policy".to_owned(), path(self.policy)?]);
        words.extend_from_slice(self.others);
        Ok(words)
    }

    /// `ravelin boot` with the devices by name: it must find them where the policy cannot be read.
    fn boot_command(&self) -> Result<Vec<String>> {
        let mut words = self.command("boot")?;
        let given = |option: &str| {
            let with_value = format!("{option}=");
            self.others
                .iter()
                .any(|word| word == option || word.starts_with(&with_value))
        };
        if !given("--outer") {
            words.extend(["--outer".to_owned(), self.options.outer.clone()]);
        }
        if let Some(inner) = self.options.inner.as_ref().filter(|_| !given("--inner")) {
            words.extend(["--inner".to_owned(), inner.clone()]);
        }
        Ok(words)
    }

    /// The units of its devices.
    fn devices(&self) -> String {
        let devices: Vec<String> = [Some(&self.options.outer), self.options.inner.as_ref()]
            .into_iter()
            .flatten()
            .map(|device| format!("sys-subsystem-net-devices-{}.device", escaped(device)))
            .collect();
        devices.join(" ")
    }
}

/// A unit that shuts the devices until the policy is in force: at boot, and whenever one of them appears.
pub(crate) fn boot_unit(service: &Service<'_>) -> Result<String> {
    let devices = service.devices();
    Ok(format!(
        "\
# Written by `ravelin install-service`. Changes are kept in a drop-in: `systemctl edit ravelin-{instance}.boot`.
[Unit]
Description=Ravelin, shut until its policy is in force ({instance})
DefaultDependencies=no
Wants=network-pre.target
After=local-fs.target systemd-sysctl.service {devices}
Before=network-pre.target shutdown.target ravelin-{instance}.service
Conflicts=shutdown.target

[Service]
# Not RemainAfterExit: it is started again for a device that appears later.
Type=oneshot
ExecStart={}
TimeoutStartSec=60s
ReadWritePaths=/sys/fs/bpf
ProtectKernelTunables=yes
{CONFINED}
[Install]
WantedBy=sysinit.target {devices}
",
        line(&service.boot_command()?),
        instance = service.options.instance,
    ))
}

/// The name of the unit that runs the engine of an instance.
pub(crate) fn name(instance: &str) -> String {
    format!("ravelin-{instance}.service")
}

/// The name of the unit that shuts its devices: with a dot, which no instance has in its name, so that it is no other's engine.
pub(crate) fn boot_name(instance: &str) -> String {
    format!("ravelin-{instance}.boot.service")
}

/// A unit that runs the engine.
pub(crate) fn unit(service: &Service<'_>) -> Result<String> {
    let &Service {
        program,
        policy,
        options,
        ..
    } = service;
    let start = service.command("run")?;
    let mut reload = vec![path(program)?, "apply".to_owned(), path(policy)?];
    reload.extend(["--instance".to_owned(), options.instance.clone()]);
    reload.extend(["--control".to_owned(), path(&options.control)?]);
    let devices = service.devices();
    let instance = &options.instance;
    let (boot, wants, also) = match service.shut_at_boot {
        true => (
            format!(
                "# With each try the lifeline follows the machine's addresses. Where a filter stands already this changes nothing.\n\
                 ExecStartPre=-{}\n",
                line(&service.boot_command()?)
            ),
            format!(" {}", boot_name(instance)),
            format!("Also={}\n", boot_name(instance)),
        ),
        false => (String::new(), String::new(), String::new()),
    };
    let mut written = vec![PathBuf::from("/sys/fs/bpf")];
    let mut runtime = vec!["ravelin".to_owned()];
    for (place, own) in [
        (&options.state, "/var/lib/ravelin"),
        (&options.control, "/run/ravelin"),
    ] {
        if !place.is_absolute() {
            bail!(
                "{}: a service has no folder of its own to start from; give an absolute path",
                place.display()
            );
        }
        let folder = place.parent().unwrap_or(place);
        // `/var/run` leads to `/run`.
        let there = resolved(folder);
        if place.starts_with(own) || there.starts_with(own) {
            continue;
        }
        match there.strip_prefix("/run") {
            // It is gone after a boot, and systemd gives no service a folder that is not there.
            Ok(below) if below != Path::new("") => runtime.push(runtime_folder(below)?),
            _ => {
                if let Some(warning) = absent(folder, &there) {
                    eprintln!("ravelin: warning: {warning}");
                }
                written.push(folder.to_owned());
            }
        }
    }
    let written: Vec<String> = written
        .iter()
        .map(|place| path(place).map(|text| quoted(&text)))
        .collect::<Result<_>>()?;
    // Only the edge's own settings are written, and those are tunables.
    let tunables = if options.role == Role::Host { "no" } else { "yes" };
    Ok(format!(
        "\
# Written by `ravelin install-service`. Changes are kept in a drop-in: `systemctl edit ravelin-{instance}`.
[Unit]
Description=Ravelin packet filter and IPsec engine ({instance})
# In force before addresses are there, like other filters.
DefaultDependencies=no
Wants=network-pre.target {devices}{wants}
After=local-fs.target systemd-sysctl.service {devices}{wants}
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
StartLimitIntervalSec=0

[Service]
Type=notify
{boot}ExecStart={}
ExecReload={}
# Meanwhile the filter stays, and is closed for what must be protected.
Restart=on-failure
RestartSec=500ms
WatchdogSec=10s
TimeoutStartSec=180s
RuntimeDirectory={}
RuntimeDirectoryPreserve=yes
StateDirectory=ravelin
StateDirectoryMode=0700
ReadWritePaths={}
ProtectKernelTunables={tunables}
{CONFINED}
[Install]
WantedBy=multi-user.target
{also}",
        line(&start),
        line(&reload),
        runtime.join(" "),
        written.join(" "),
    ))
}

/// A folder below `/run` as `RuntimeDirectory=` has it, where colons, spaces and quotes mean something.
fn runtime_folder(below: &Path) -> Result<String> {
    let text = path(below)?;
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./@+".contains(character);
    if !text.chars().all(plain) {
        bail!(
            "/run/{text}: a unit cannot have systemd make this folder at each boot; choose one of letters, digits, `-`, `_` and `.`"
        );
    }
    Ok(text)
}

/// What is the matter with a folder that the service may write to: without it systemd does not start the service (226/NAMESPACE).
fn absent(folder: &Path, there: &Path) -> Option<String> {
    let folder = folder.display();
    for volatile in ["/tmp", "/dev/shm"] {
        if there.starts_with(volatile) && there != Path::new(volatile) {
            return Some(format!(
                "{folder} is gone after a boot, and without it systemd does not start the service (226/NAMESPACE); choose a folder below /run, \
                 which systemd makes, or /var/lib"
            ));
        }
    }
    (!there.exists()).then(|| {
        format!(
            "{folder} is not there, and without it systemd does not start the service (226/NAMESPACE): make it first"
        )
    })
}

/// A command line.
fn line(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// A path as text; units are UTF-8.
fn path(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    if text.contains(|character: char| character.is_control()) {
        bail!("{text:?} has control characters, which a unit cannot have");
    }
    Ok(text.to_owned())
}

/// A word of a command line or list: quoted, with nothing for systemd to expand (systemd.syntax(7), systemd.service(5)).
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=,@+".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from('"');
    for character in word.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '%' | '$' => text.extend([character, character]),
            _ => text.push(character),
        }
    }
    text + "\""
}

/// A device's name as part of a unit's (systemd.unit(5), "String escaping").
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':' || byte == b'.';
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("\\x{byte:02x}"),
    };
    name.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::{escaped, quoted};

    #[test]
    fn words_and_names_as_systemd_reads_them() {
        assert_eq!(quoted("/etc/ravelin/site.toml"), "/etc/ravelin/site.toml");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("100%\"$x\\"), "\"100%%\\\"$$x\\\\\"");
        assert_eq!(escaped("eth0"), "eth0");
        assert_eq!(escaped("br-lan.7"), "br\\x2dlan.7");
    }
}
