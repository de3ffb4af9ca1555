//! What Bochs boots: it takes no kernel by itself, so there is a disk with a boot loader.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    program,
    vm::{kernel::Kernel, root::Root},
};

/// ISOLINUX, and what it loads of SYSLINUX.
const LOADER: [&str; 2] = [
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
];

/// An image of a CD.
#[derive(Debug)]
pub(super) struct Disk(PathBuf);

impl Disk {
    pub(super) fn make(folder: &Path, kernel: &Kernel, root: &Root, command_line: &str) -> Result<Self> {
        let content = folder.join("disk");
        if content.exists() {
            fs::remove_dir_all(&content).with_context(|| content.display().to_string())?;
        }
        let loader = content.join("isolinux");
        fs::create_dir_all(&loader).with_context(|| loader.display().to_string())?;
        for file in LOADER.map(Path::new) {
            let name = file.file_name().context("a file has a name")?;
            fs::copy(file, loader.join(name)).with_context(|| file.display().to_string())?;
        }
        let image = kernel.image();
        fs::copy(&image, content.join("linux")).with_context(|| image.display().to_string())?;
        root.archive(&content.join("initramfs"))?;
        let settings = format!(
            "DEFAULT linux\nLABEL linux\n  KERNEL /linux\n  INITRD /initramfs\n  APPEND {command_line}\n"
        );
        fs::write(loader.join("isolinux.cfg"), settings)?;

        let disk = folder.join("disk.iso");
        program::run(
            Command::new("xorriso")
                .args(["-report_about", "WARNING", "-as", "mkisofs", "-quiet"])
                .arg("-o")
                .arg(&disk)
                .args(["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"])
                .args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
                .arg(&content),
        )?;
        Ok(Self(disk))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}
