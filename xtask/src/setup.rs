//! `cargo xtask setup`: everything the other tasks need, installed once.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::{
    program,
    toolchain::{Choice, Toolchain},
    workspace::Workspace,
};

/// Install what build, demo and test need: Debian/Ubuntu packages, and a BPF compiler below the target folder.
///
/// May be repeated at any time and does only what is missing. Packages need root; the BPF compiler does not, and
/// nothing of it is installed system-wide. Everything else comes from cargo.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// A Debian package and the file by which its presence shows on other distributions.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// A program looked for in PATH, or an absolute path.
    pub(crate) shows_as: &'static str,
    pub(crate) purpose: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "iproute2",
        shows_as: "ip",
        purpose: "namespaces and links of demo and test",
    },
    Package {
        name: "iputils-ping",
        shows_as: "ping",
        purpose: "demo traffic",
    },
    Package {
        name: "iperf3",
        shows_as: "iperf3",
        purpose: "demo traffic",
    },
    Package {
        name: "curl",
        shows_as: "curl",
        purpose: "demo traffic",
    },
    Package {
        name: "ethtool",
        shows_as: "ethtool",
        purpose: "offloads of the demo's links",
    },
    Package {
        name: "nftables",
        shows_as: "nft",
        purpose: "what bench filter compares with, and tests of import",
    },
    Package {
        name: "iptables",
        shows_as: "iptables-save",
        purpose: "tests of import",
    },
    Package {
        name: "tshark",
        shows_as: "tshark",
        purpose: "capture, and ESP decryption by other people's code",
    },
    Package {
        name: "python3",
        shows_as: "/usr/bin/python3",
        purpose: "demo web server, scapy",
    },
    Package {
        name: "python3-scapy",
        shows_as: "/usr/lib/python3/dist-packages/scapy/__init__.py",
        purpose: "tests against another ESP implementation",
    },
    Package {
        name: "python3-cryptography",
        shows_as: "/usr/lib/python3/dist-packages/cryptography/__init__.py",
        purpose: "scapy's ESP",
    },
    Package {
        name: "python3-cryptography-vectors",
        shows_as: "/usr/lib/python3/dist-packages/cryptography_vectors/__init__.py",
        purpose: "NIST's test vectors",
    },
    Package {
        name: "systemd",
        shows_as: "systemd-analyze",
        purpose: "what it says to the unit that install-service writes; it need not run",
    },
    Package {
        name: "qemu-system-x86",
        shows_as: "qemu-system-x86_64",
        purpose: "the virtual machine of vm",
    },
    Package {
        name: "bochs",
        shows_as: "bochs",
        purpose: "the emulated CPU of avx512",
    },
    Package {
        name: "bochs-term",
        shows_as: "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so",
        purpose: "the only one of Bochs' displays that needs no screen",
    },
    Package {
        name: "bochsbios",
        shows_as: "/usr/share/bochs/BIOS-bochs-latest",
        purpose: "Bochs' BIOS",
    },
    Package {
        name: "vgabios",
        shows_as: "/usr/share/bochs/VGABIOS-lgpl-latest",
        purpose: "Bochs' BIOS",
    },
    Package {
        name: "isolinux",
        shows_as: "/usr/lib/ISOLINUX/isolinux.bin",
        purpose: "the boot loader in Bochs",
    },
    Package {
        name: "syslinux-common",
        shows_as: "/usr/lib/syslinux/modules/bios/ldlinux.c32",
        purpose: "the boot loader in Bochs",
    },
    Package {
        name: "xorriso",
        shows_as: "xorriso",
        purpose: "the disk that Bochs boots",
    },
    Package {
        name: "kmod",
        shows_as: "modprobe",
        purpose: "the virtual machine's kernel modules",
    },
    Package {
        name: "gcc",
        shows_as: "cc",
        purpose: "linking, and the C part of aws-lc",
    },
    Package {
        name: "libc6-dev",
        shows_as: "/usr/include/stdio.h",
        purpose: "linking",
    },
];

/// What the C parts of xsk-rs are compiled with, libxdp and libbpf. Nothing but tests and `bench veth --xsk-rs` wants that feature.
const XSK_RS_PACKAGES: &[Package] = &[
    Package {
        name: "clang",
        shows_as: "clang",
        purpose: "xsk-rs: the BPF programs in libxdp",
    },
    Package {
        name: "libclang1",
        shows_as: "/usr/lib64/libclang.so",
        purpose: "xsk-rs: the declarations of libxdp in Rust",
    },
    Package {
        name: "libelf-dev",
        shows_as: "/usr/include/libelf.h",
        purpose: "xsk-rs: libbpf",
    },
    Package {
        name: "m4",
        shows_as: "m4",
        purpose: "xsk-rs: libxdp",
    },
    Package {
        name: "make",
        shows_as: "make",
        purpose: "xsk-rs: libbpf",
    },
    Package {
        name: "pkg-config",
        shows_as: "pkg-config",
        purpose: "xsk-rs: libbpf",
    },
    Package {
        name: "zlib1g-dev",
        shows_as: "/usr/include/zlib.h",
        purpose: "xsk-rs: libbpf",
    },
];

/// Runs the task, and says so when there was nothing to do.
pub(crate) fn run(workspace: &Workspace, _: &Args) -> Result<()> {
    let start = Instant::now();
    let toolchain = ensure(workspace)?;
    ensure_xsk_rs()?;
    println!(
        "setup: all {} packages are there; BPF compiler: {toolchain} ({:.1} s)",
        PACKAGES.len() + XSK_RS_PACKAGES.len(),
        start.elapsed().as_secs_f32()
    );
    println!("setup: next: cargo xtask demo");
    Ok(())
}

/// Installs what is missing; silent and quick when nothing is.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Toolchain> {
    let packages = install(PACKAGES);
    // Both parts are tried before either is complained about: one run tells everything that is wrong.
    let toolchain = Toolchain::ensure(workspace, Choice::Auto);
    match (packages, toolchain) {
        (Ok(()), toolchain) => toolchain,
        (Err(error), Ok(_)) => Err(error),
        (Err(packages), Err(toolchain)) => bail!("{packages:#}\nand: {toolchain:#}"),
    }
}

/// Installs what is missing for the feature `xsk-rs`.
pub(crate) fn ensure_xsk_rs() -> Result<()> {
    install(XSK_RS_PACKAGES)
}

/// Installs what is missing of these packages.
pub(crate) fn install(packages: &'static [Package]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        eprintln!("setup: missing: {} ({})", package.name, package.purpose);
    }
    let names = missing.iter().map(|package| package.name).collect::<Vec<_>>();
    if program::on_path("apt-get").is_none() {
        bail!(
            "no apt-get on this system; install what provides these with your package manager: {}",
            missing
                .iter()
                .map(|package| package.shows_as)
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    let by_hand = format!(
        "apt-get update && apt-get install --no-install-recommends {}",
        names.join(" ")
    );
    if !Uid::effective().is_root() {
        bail!("packages are missing and only root can install them; run:\n  sudo sh -c '{by_hand}'");
    }
    apt(&names).map_err(|error| error.context(format!("packages could not be installed; try: {by_hand}")))?;
    let missing = self::missing(packages);
    if !missing.is_empty() {
        let names = missing.iter().map(|package| package.name).collect::<Vec<_>>();
        bail!(
            "apt-get succeeded, but these are still missing: {}",
            names.join(" ")
        );
    }
    Ok(())
}

fn apt(names: &[&str]) -> Result<()> {
    eprintln!("setup: apt-get update");
    // One unreachable third-party source must not stop the setup: the install below fails if it mattered.
    if let Err(error) = program::run(apt_get().args(["update", "-qq"])) {
        eprintln!("setup: {error:#}; going on with the package lists at hand");
    }
    eprintln!("setup: apt-get install {}", names.join(" "));
    program::run(
        apt_get()
            .args(["install", "-qq", "--yes", "--no-install-recommends"])
            .args(names),
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Wireshark's package asks whether everybody may capture; without a dialogue the answer is its default, no.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "Dpkg::Use-Pty=0"]);
    command
}

fn missing(packages: &'static [Package]) -> Vec<&'static Package> {
    let installed = installed_by_dpkg(packages).unwrap_or_default();
    packages
        .iter()
        .filter(|package| !installed.iter().any(|name| name == package.name))
        // What was installed by other means is as good.
        .filter(|package| !is_there(package))
        .collect()
}

fn is_there(package: &Package) -> bool {
    match package.shows_as {
        path if path.starts_with('/') => Path::new(path).is_file(),
        name => program::on_path(name).is_some(),
    }
}

/// Those that dpkg has installed; `None` without dpkg.
fn installed_by_dpkg(packages: &[Package]) -> Option<Vec<String>> {
    program::on_path("dpkg-query")?;
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages.iter().map(|package| package.name))
        .output()
        .ok()?;
    // Its exit status is 1 as soon as one package is unknown; the others are listed all the same.
    let names = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(str::to_owned)
        .collect();
    Some(names)
}
