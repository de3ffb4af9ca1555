//! `cargo xtask demo`: two sites, two gateways, real traffic, and the proof of what became of it.

mod attack;
mod capture;
mod flows;
mod gateway;
mod leftovers;
mod namespace;
mod process;
mod report;
pub(crate) mod scenarios;
mod servers;
mod stages;
mod status;
mod topology;
mod wireshark;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::{build_ebpf, interrupt, program, setup, workspace::Workspace};

use self::{
    gateway::{Gateway, Sa},
    leftovers::Run,
    report::Report,
    servers::Servers,
    stages::Stages,
    topology::Topology,
};

/// Build everything, set up two sites behind two gateways in namespaces, send real traffic and check what became of it.
///
/// Nothing outside the demo's own namespaces is touched, and everything is removed at the end, also after Ctrl-C. The
/// exit status is 0 only if every expectation was met.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo                 run it all, clean up
  cargo xtask demo --pcap proof    keep the wire's capture and the keys to open it with
  cargo xtask demo --keep          leave the network up to look around
  cargo xtask demo --clean         remove what --keep left")]
pub(crate) struct Args {
    /// Leave the network and the gateways up, and say how to look around
    #[arg(long)]
    keep: bool,

    /// Write the wire's capture and the keys, as Wireshark takes them, to a folder
    #[arg(long, value_name = "DIR")]
    pcap: Option<PathBuf>,

    /// Only remove what earlier runs left, also those with --keep
    #[arg(long, conflicts_with_all = ["keep", "pcap"])]
    clean: bool,
}

/// Runs the demo; whether every expectation was met.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<bool> {
    if !Uid::effective().is_root() {
        bail!("namespaces and XDP need root; run: sudo -E env \"PATH=$PATH\" cargo xtask demo");
    }
    if args.clean {
        let removed = leftovers::clean(true)?;
        println!(
            "demo: removed {}",
            if removed.is_empty() {
                "nothing".to_owned()
            } else {
                removed.join(" ")
            }
        );
        return Ok(true);
    }
    let start = Instant::now();
    let toolchain = setup::ensure(workspace)?;
    eprintln!("demo: building");
    build_ebpf::ensure(workspace, &toolchain)?;
    let ravelin = workspace.build_ravelin()?;
    eprintln!("demo: built ({:.1} s)", start.elapsed().as_secs_f32());

    interrupt::install()?;
    for run in leftovers::clean(false)? {
        eprintln!("demo: removed the rests of {run}, which was killed");
    }
    let run = Run::create()?;
    let name = run.name.clone();
    let good = play(&ravelin, run, args)?;
    let left = leftovers::found(&name);
    if !args.keep && !left.is_empty() {
        bail!("the demo left something behind: {}", left.join(" "));
    }
    println!("demo: took {:.1} s", start.elapsed().as_secs_f32());
    Ok(good)
}

/// All stages. Whatever ends this function, the guards take everything down in the reverse order.
fn play(ravelin: &Path, mut run: Run, args: &Args) -> Result<bool> {
    let mut report = Report::default();
    let mut topology = Topology::build(&run.name)?;
    println!("{}", topology.drawing());
    let mut servers = Servers::start(&topology, &run.folder)?;
    let sas = Sa::generate()?;
    let configuration = wireshark::export_keys(&run.folder, &sas)?;

    let plain = stages::without_ravelin(&topology, &servers, &mut report)?;
    let capture = capture::Capture::start(&topology, &run.folder.join("wire.pcapng"), None)?;
    let start = |namespace, site| Gateway::start(ravelin, namespace, &run.folder, site, &sas);
    let mut stages = Stages {
        gw1: start(&topology.gw1, 1)?,
        gw2: start(&topology.gw2, 2)?,
        topology: &topology,
        servers: &servers,
        folder: &run.folder,
        report: &mut report,
    };
    stages.flows()?;
    stages.attacks()?;
    let capture = capture.stop()?;
    stages.speed(&plain)?;
    stages.wire(&capture, &configuration)?;
    stages.counters()?;
    let Stages { mut gw1, mut gw2, .. } = stages;
    let good = report.conclude();

    if let Some(folder) = &args.pcap {
        export(folder, &capture, &configuration)?;
    }
    if args.keep {
        explain(&run, &topology, [&gw1, &gw2]);
        gw1.detach();
        gw2.detach();
        servers.detach();
        topology.keep();
        run.keep()?;
    } else {
        gw1.stop()?;
        gw2.stop()?;
    }
    Ok(good)
}

/// Copies the capture and Wireshark's configuration with the keys to the user's folder.
fn export(folder: &Path, capture: &Path, configuration: &Path) -> Result<()> {
    let target = folder.join("wireshark");
    fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to)
            .map(|_| ())
            .with_context(|| format!("cannot write {}", to.display()))
    };
    copy(capture, &folder.join("wire.pcapng"))?;
    for name in ["esp_sa", "preferences"] {
        copy(&configuration.join(name), &target.join(name))?;
    }
    let line = format!(
        "WIRESHARK_CONFIG_DIR={0}/wireshark wireshark {0}/wire.pcapng",
        folder.canonicalize().context("folder of --pcap")?.display()
    );
    let readme = format!(
        "The packets between the demo's gateways, and the keys to look inside ESP.\n\n    {line}\n\n\
         Or copy the lines of wireshark/esp_sa into Edit, Preferences, Protocols, ESP, \"ESP SAs\".\n"
    );
    fs::write(folder.join("README"), readme).context("README of --pcap")?;
    println!("demo: to look inside ESP: {line}");
    Ok(())
}

/// What to type while the network is up.
fn explain(run: &Run, topology: &Topology, gateways: [&Gateway; 2]) {
    let enter = |namespace: &namespace::Namespace| format!("nsenter --net={}", namespace.path().display());
    println!("\nThe network stays up. To look around (as root):");
    println!("  {} ping {}", enter(&topology.host1), topology::HOST2_V4);
    println!("  {} tshark -n -i {}", enter(&topology.wire), topology::TAP);
    println!(
        "  WIRESHARK_CONFIG_DIR={}/wireshark {} tshark -n -i {} -Y esp -V",
        run.folder.display(),
        enter(&topology.wire),
        topology::TAP
    );
    for gateway in gateways {
        println!("  {}", program::line(&gateway.status_command()));
    }
    println!("  logs, policies and keys: {}", run.folder.display());
    println!("To remove it all:\n  cargo xtask demo --clean");
}
