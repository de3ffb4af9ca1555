//! The machine's only file system: our programs, iproute2 and kmod with their libraries, and kernel modules.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{cpio::Archive, kernel::Kernel};
use crate::{program, workspace::Workspace};

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
    pub(super) fn build(cache: &Path, kernel: &Kernel, workspace: &Workspace) -> Result<Self> {
        let root = cache.join("root");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
        }
        copy_modules(kernel, &root)?;
        copy_program(&workspace.target.join("release/ravelin-vm"), &root, "init")?;
        copy_program(&workspace.ravelin(), &root, "bin/ravelin")?;
        for (name, place) in [
            ("ip", "bin/ip"),
            ("ethtool", "sbin/ethtool"),
            ("modprobe", "sbin/modprobe"),
        ] {
            let program = program::on_path(name).with_context(|| format!("no program '{name}'"))?;
            copy_program(&program, &root, place)?;
        }
        write(&root.join("etc/modules"), MODULES.join("\n").as_bytes())?;
        for folder in ["dev", "proc", "run/netns", "sys", "tmp"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let mut archive = Archive::default();
        archive.tree(&root)?;
        // The kernel opens it for the first process, before anything is mounted.
        archive.device("dev/console", 5, 1);
        let file = cache.join("initramfs");
        write(&file, &archive.finish())?;
        Ok(Self(file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

/// Copies the modules and what they depend on, and indexes them.
fn copy_modules(kernel: &Kernel, root: &Path) -> Result<()> {
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
        copy(Path::new(file), &root.join(place))?;
    }
    let modules = Path::new("lib/modules").join(kernel.release());
    for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        copy(
            &kernel.folder().join(&modules).join(index),
            &root.join(&modules).join(index),
        )?;
    }
    program::run(Command::new("depmod").arg("-b").arg(root).arg(kernel.release()))
}

/// Copies a program to `place` and its libraries to where it looks for them.
fn copy_program(program: &Path, root: &Path, place: &str) -> Result<()> {
    copy(program, &root.join(place))?;
    let listed = program::output(Command::new("ldd").arg(program))?;
    // Lines like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
    for line in listed.lines() {
        if line.contains("not found") {
            bail!(
                "{} needs a library that is missing: {}",
                program.display(),
                line.trim()
            );
        }
        if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
            copy(Path::new(library), &root.join(library.trim_start_matches('/')))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    // Through links: the machine has the files only.
    write(to, &fs::read(from).with_context(|| from.display().to_string())?)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(path, content).with_context(|| path.display().to_string())
}
