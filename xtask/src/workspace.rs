//! Where the sources and the build results lie.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::program;

/// The folders of this clone.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever the user's settings put it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo, because the target folder may come from the environment or any of cargo's config files.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .context("CARGO_MANIFEST_DIR is not set; start this program with `cargo xtask`")?;
        let metadata = program::output(
            cargo()
                .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
                .current_dir(manifest),
        )?;
        let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
        let folder = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("cargo metadata has no {key}"))
        };
        Ok(Self {
            root: folder("workspace_root")?,
            target: folder("target_directory")?,
        })
    }

    /// The project-local BPF compiler made by `scripts/bpf-toolchain.sh`.
    pub(crate) fn bpf_toolchain(&self) -> PathBuf {
        self.target.join("bpf-toolchain")
    }

    /// The BPF object that the engine embeds.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/ravelin.bpf.o")
    }

    /// The daemon and CLI as built by `cargo build --release`.
    pub(crate) fn ravelin(&self) -> PathBuf {
        self.target.join("release/ravelin")
    }

    /// `path` as people would type it, standing in the root of the clone.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// A cargo that works on this workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }

    /// Builds the daemon with optimisation. The BPF object must be there.
    pub(crate) fn build_ravelin(&self) -> Result<PathBuf> {
        program::run(self.cargo().args(["build", "--release", "--package", "ravelin"]))?;
        Ok(self.ravelin())
    }

    /// The same with the feature `xsk-rs`, in a place of its own.
    pub(crate) fn build_ravelin_with_xsk_rs(&self) -> Result<PathBuf> {
        let features = ["--features", "xsk-rs"];
        let mut command = self.cargo();
        program::run(
            command
                .args(["build", "--release", "--package", "ravelin"])
                .args(features),
        )?;
        let place = self.target.join("xsk-rs/ravelin");
        let folder = place.parent().unwrap_or(&self.target);
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        // The next build without the feature puts its own program there.
        fs::copy(self.ravelin(), &place).with_context(|| place.display().to_string())?;
        Ok(place)
    }
}

/// The cargo that started this program.
fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
