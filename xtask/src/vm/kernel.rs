//! Debian's kernel for virtual machines, unpacked below the target folder.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::program;

/// Which packages will do: long-term kernels with ESP, small and without drivers for hardware.
const PATTERN: &str = r"^linux-image-6\.(12|1)\..*-cloud-amd64(-unsigned)?$";

/// The file that says that a folder is complete.
const COMPLETE: &str = ".complete";

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    folder: PathBuf,
    release: String,
}

impl Kernel {
    /// The newest kernel that was fetched before, or else the newest that apt offers.
    pub(crate) fn ensure(cache: &Path) -> Result<Self> {
        let kernels = cache.join("kernels");
        fs::create_dir_all(&kernels).with_context(|| kernels.display().to_string())?;
        let mut packages: Vec<String> = fs::read_dir(&kernels)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|package| kernels.join(package).join(COMPLETE).is_file())
            .collect();
        newest_first(&mut packages);
        let package = match packages.into_iter().next() {
            Some(package) => package,
            None => fetch(&kernels)?,
        };
        let folder = kernels.join(package);
        let release = release(&folder)?;
        Ok(Self { folder, release })
    }

    /// What `uname -r` will say.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// The image that a machine boots.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The folder that holds `lib/modules`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Downloads and unpacks the newest kernel package; its name.
fn fetch(kernels: &Path) -> Result<String> {
    let names = program::output(Command::new("apt-cache").args(["search", "--names-only", PATTERN]))?;
    let mut names: Vec<String> = names
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    newest_first(&mut names);
    let Some(package) = names.into_iter().next() else {
        bail!(
            "apt offers no package like linux-image-6.12…-cloud-amd64; if the package lists are missing or old, run \
             (as root): apt-get update. Debian 12 and later have it."
        );
    };
    eprintln!("vm: fetching {package} (35 MB)");
    // Made beside its place and renamed in the end, so that an interrupted run leaves no half of a kernel.
    let staging = kernels.join("partial");
    if staging.exists() {
        fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
    }
    fs::create_dir(&staging).with_context(|| staging.display().to_string())?;
    // apt's unprivileged download user may not enter the folder, hence the sandbox option.
    program::run(
        Command::new("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", &package])
            .current_dir(&staging),
    )
    .context("cannot fetch a kernel; check the network, or run (as root): apt-get update")?;
    let archive = fs::read_dir(&staging)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    program::run(Command::new("dpkg-deb").arg("-x").args([&archive, &staging]))?;
    fs::remove_file(&archive)?;
    program::run(
        Command::new("depmod")
            .arg("-b")
            .arg(&staging)
            .arg(release(&staging)?),
    )?;
    fs::write(staging.join(COMPLETE), "")?;
    fs::rename(&staging, kernels.join(&package))?;
    Ok(package)
}

fn release(folder: &Path) -> Result<String> {
    let modules = folder.join("lib/modules");
    fs::read_dir(&modules)
        .with_context(|| modules.display().to_string())?
        .find_map(|entry| entry.ok()?.file_name().into_string().ok())
        .with_context(|| format!("{} is empty; delete {}", modules.display(), folder.display()))
}

/// By the numbers in the names; of equal ones the shorter name, which is the signed package.
fn newest_first(names: &mut [String]) {
    names.sort_by_key(|name| {
        let numbers: Vec<u64> = name
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect();
        (Reverse(numbers), name.len())
    });
}

#[cfg(test)]
mod tests {
    use super::newest_first;

    #[test]
    fn versions_are_ordered_by_number() {
        let mut names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.12.99+deb12-cloud-amd64",
            "linux-image-6.12.107+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.107+deb12-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ]
        .map(str::to_owned);
        newest_first(&mut names);
        assert_eq!(
            names,
            [
                "linux-image-6.12.107+deb12-cloud-amd64",
                "linux-image-6.12.107+deb12-cloud-amd64-unsigned",
                "linux-image-6.12.99+deb12-cloud-amd64",
                "linux-image-6.1.0-56-cloud-amd64",
                "linux-image-6.1.0-9-cloud-amd64",
            ]
        );
    }
}
