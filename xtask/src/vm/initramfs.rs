//! The machine's only file system: our programs, iproute2 and kmod with their libraries, and kernel modules.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{kernel::Kernel, root::Root};
use crate::program;

/// Modules that the cases need; some are loaded by the kernel on demand, when an SA names an algorithm.
const MODULES: &[&str] = &[
    "aesni-intel",
    "ah4",
    "ah6",
    "authenc",
    "authencesn",
    "ccm",
    "chacha-x86_64",
    "chacha20poly1305",
    "cmac",
    "crypto_null",
    "echainiv",
    "esp4",
    "esp6",
    "gcm",
    "poly1305-x86_64",
    "seqiv",
    "sha1-ssse3",
    "sha256-ssse3",
    "sha512-ssse3",
    "veth",
    "xfrm_user",
];

/// The archive's file.
#[derive(Debug)]
pub(super) struct Initramfs(PathBuf);

impl Initramfs {
    /// Builds it anew each time, which takes less than a second.
    pub(super) fn build(cache: &Path, kernel: &Kernel, init: &Path, ravelin: &Path) -> Result<Self> {
        let root = Root::new(cache.join("root"))?;
        copy_modules(kernel, &root)?;
        root.program(init, "init")?;
        root.program(ravelin, "bin/ravelin")?;
        for (name, place) in [
            ("ip", "bin/ip"),
            ("ethtool", "sbin/ethtool"),
            ("modprobe", "sbin/modprobe"),
        ] {
            let program = program::on_path(name).with_context(|| format!("no program '{name}'"))?;
            root.program(&program, place)?;
        }
        root.write("etc/modules", MODULES.join("\n").as_bytes())?;
        root.folder("run/netns")?;
        let file = cache.join("initramfs");
        root.archive(&file)?;
        Ok(Self(file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

/// Copies the modules and what they depend on, and indexes them.
fn copy_modules(kernel: &Kernel, root: &Root) -> Result<()> {
    let listed = program::output(
        Command::new("modprobe")
            .arg("-d")
            .arg(kernel.folder())
            .args(["-S", kernel.release(), "--show-depends", "--all"])
            .args(MODULES),
    )?;
    // Lines like `insmod /path/x.ko.xz` and `builtin x`.
    let files: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("insmod "))
        .map(str::trim)
        .collect();
    for file in files {
        let place = Path::new(file)
            .strip_prefix(kernel.folder())
            .with_context(|| format!("module {file}"))?;
        root.copy(Path::new(file), place)?;
    }
    let modules = Path::new("lib/modules").join(kernel.release());
    for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        root.copy(&kernel.folder().join(&modules).join(index), &modules.join(index))?;
    }
    program::run(
        Command::new("depmod")
            .arg("-b")
            .arg(root.path())
            .arg(kernel.release()),
    )
}
