//! The compiler for the BPF programs: a nightly Rust with rust-src, or the project-local one made of Debian packages.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{program, workspace::Workspace};

/// The version that both the packages' script and the advice to users name.
const LINKER_VERSION: &str = "0.13.0";

/// Which compiler to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// Nightly if it is complete, else the local one.
    Auto,
    /// rustup's nightly with rust-src, and bpf-linker in PATH.
    Nightly,
    /// The one below the target folder, installed on demand.
    Local,
}

/// What to do with the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Compile them.
    Build,
    /// Let clippy read them, with warnings as errors.
    Lint,
}

/// A compiler that is ready for use.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// rustup's nightly, which compiles `core` itself.
    Nightly {
        /// The program bpf-linker.
        linker: PathBuf,
    },
    /// The folder made by `scripts/bpf-toolchain.sh`.
    Local(PathBuf),
}

impl Toolchain {
    /// Finds the compiler, or installs the local one.
    pub(crate) fn ensure(workspace: &Workspace, choice: Choice) -> Result<Self> {
        if choice != Choice::Local
            && let Some(nightly) = Self::nightly()
        {
            return Ok(nightly);
        }
        if choice == Choice::Nightly {
            bail!(
                "no complete nightly compiler; it takes:\n  rustup toolchain install nightly --component rust-src\n  \
                 cargo install bpf-linker --version {LINKER_VERSION}"
            );
        }
        Self::local(workspace)
    }

    fn nightly() -> Option<Self> {
        let linker = program::on_path("bpf-linker")?;
        program::on_path("rustup")?;
        let mut command = Command::new("rustup");
        command
            .args(["run", "nightly", "rustc", "--print", "sysroot"])
            .env_remove("RUSTUP_TOOLCHAIN");
        let sysroot = program::output(&mut command).ok()?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        core.is_file().then_some(Self::Nightly { linker })
    }

    fn local(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.bpf_toolchain();
        if !is_complete(&folder) {
            eprintln!(
                "setup: no BPF compiler; making one in {} (once, 1–2 minutes, 460 MB)",
                workspace.shown(&folder).display()
            );
            program::run(Command::new(workspace.root.join("scripts/bpf-toolchain.sh")).arg(&folder))
                .context("the BPF compiler could not be installed")?;
        }
        Ok(Self::Local(folder))
    }

    /// A cargo that builds for BPF in `folder`, with the linker and `flags` set and nothing of the caller's own
    /// build settings left.
    pub(crate) fn cargo(&self, task: Task, folder: &Path, flags: &[String]) -> Command {
        let (mut command, linker) = match self {
            Self::Nightly { linker } => {
                // rustup's own cargo: the variable CARGO names the one of the stable toolchain.
                let mut command = Command::new("rustup");
                let task = if task == Task::Lint { "clippy" } else { "build" };
                command.args(["run", "nightly", "cargo", task, "-Zbuild-std=core"]);
                (command, linker.clone())
            }
            Self::Local(toolchain) => {
                let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command
                    .arg(if task == Task::Lint { "check" } else { "build" })
                    .env("RUSTC", toolchain.join("bin/rustc"))
                    // The BPF crate uses unstable features; Debian's compiler is a stable release.
                    .env("RUSTC_BOOTSTRAP", "aya_ebpf");
                (command, toolchain.join("bin/bpf-linker"))
            }
        };
        for name in [
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "RUSTDOC",
        ] {
            command.env_remove(name);
        }
        if matches!(self, Self::Nightly { .. }) {
            command
                .env_remove("RUSTC")
                .env_remove("RUSTC_BOOTSTRAP")
                .env_remove("CARGO");
        }
        // Settings of the xtask's own package, which cargo hands to the programs it runs.
        for (name, _) in env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_BIN_"))
            {
                command.env_remove(name);
            }
        }
        command
            .current_dir(folder)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
            // Unlike RUSTFLAGS this form allows for blanks in paths.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly { linker } => write!(f, "rustup's nightly with {}", linker.display()),
            Self::Local(_) => write!(f, "the project-local one"),
        }
    }
}

/// The script renames the folder into place when all is done, and writes `.ok` last.
fn is_complete(folder: &Path) -> bool {
    fs::read_to_string(folder.join(".ok"))
        .is_ok_and(|stamp| stamp.split_whitespace().nth(1) == Some(LINKER_VERSION))
        && ["rustc", "clippy-driver", "bpf-linker"]
            .iter()
            .all(|name| folder.join("bin").join(name).is_file())
}
