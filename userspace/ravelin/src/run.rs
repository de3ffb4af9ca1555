//! `ravelin run`: the daemon.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use ravelin_engine::{AfXdp, Confinement, Edge, Engine, Mode, Options, PolicyFile, Role};
use ravelin_esp::{Algorithm, Provider};
use ravelin_policy::{Policy, Warning, is_interface_name};
use signal_hook::consts::SIGHUP;
use signal_hook::flag;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::instance::Instance;
use crate::memory;
use crate::session;
use crate::stop::end_running;

/// Put a policy in force and serve it in the foreground
///
/// With an inner device this is a gateway: packets from the clear side that a rule protects leave the outer device as
/// ESP, and ESP from the peers comes out of the inner device. In host mode what this host itself sends and receives on the
/// outer device is protected; routes, addresses and applications stay as they are. Otherwise it only filters what arrives on
/// the outer device, and keeps clear packets that must be protected from leaving.
///
/// `ravelin apply` puts another policy in force without an interruption; SIGHUP reads the file in force again.
///
/// When it stops, or dies, the filter stays: what must be protected is dropped until the engine runs again. `ravelin
/// detach`, or `--on-exit open`, takes the filter away.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Policy file (TOML; see docs/policy.md)
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,

    /// Device on the side of the wire; overrides the policy's `interfaces.outer`
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    outer: Option<String>,

    /// Device on the clear side; overrides the policy's `interfaces.inner`
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    inner: Option<String>,

    /// What to protect [default: gateway with an inner device, else filter]
    #[arg(long, value_name = "MODE")]
    mode: Option<RunMode>,

    /// How this host's own packets get to the workers in host mode; overrides the policy's `interfaces.host-edge` [default: tun]
    #[arg(long, value_name = "KIND")]
    host_edge: Option<HostEdge>,

    #[command(flatten)]
    instance: Instance,

    /// Folder for the sequence numbers that have been used [default: /var/lib/ravelin/NAME]
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,

    /// Where XDP programs run: in the driver, or in the kernel's receive path (any device, slower)
    #[arg(long, value_name = "MODE", default_value = "auto")]
    xdp_mode: XdpMode,

    /// End an engine of this instance that runs, as soon as this one is ready to go on in its place
    #[arg(long)]
    replace: bool,

    /// What becomes of the filter on SIGINT or SIGTERM; it stays with `ravelin stop --keep-closed`, and when another engine takes over
    #[arg(long, value_name = "STATE", default_value = "closed")]
    pub(crate) on_exit: OnExit,

    /// Who speaks AF_XDP to the kernel; an option of programs that were built with `--features xsk-rs`
    #[cfg(feature = "xsk-rs")]
    #[arg(long, value_name = "BACKEND", default_value = "rings")]
    af_xdp: AfXdpBackend,

    /// Workers never sleep: the lowest latency, at the price of a core for each queue
    #[arg(long)]
    busy_poll: bool,

    /// Threads for each worker that encrypt and decrypt with it while it is busy: more than one core for one SA
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = clap::value_parser!(u8).range(0..=16))]
    crypto_threads: u8,

    /// Implementation of AES-GCM, one of those that this CPU can run [default: the fastest of them, as a trial at the start finds]
    #[arg(long = "aead", value_name = "NAME", value_parser = provider)]
    provider: Option<Provider>,

    /// How often DNS names, DNS servers and DHCP servers of the policy are looked up again
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    resolve_interval: u32,

    /// Keep capabilities and system calls that are not needed, for debugging
    #[arg(long)]
    no_confinement: bool,

    /// Room for the counters of so many rules, 16 bytes per CPU each [default: twice those of the policy, at least 65536]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1 << 22))]
    max_rules: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RunMode {
    /// Nothing: only filter
    Filter,
    /// What the hosts behind the inner device send and receive
    Gateway,
    /// What this host itself sends and receives
    Host,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HostEdge {
    /// Through a TUN device, in packets of up to 64 KiB
    Tun,
    /// Through a pair of veth devices, in packets of the wire
    Veth,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum XdpMode {
    /// In the driver if it can, else in the receive path
    Auto,
    /// In the driver, or fail
    Native,
    /// In the receive path
    Generic,
}

#[cfg(feature = "xsk-rs")]
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AfXdpBackend {
    /// Ravelin itself
    Rings,
    /// The crate xsk-rs, over libxdp
    XskRs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnExit {
    /// It stays: protected traffic is dropped, the rest goes on as before
    Closed,
    /// It goes: protected traffic passes in the clear
    Open,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    #[cfg(feature = "log")]
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    memory::forbid_dumps()?;
    if let Some(warning) = memory::lock() {
        eprintln!("ravelin: warning: {warning}");
    }
    // Until the engine listens: SIGHUP would end the process.
    let hung_up = Arc::new(AtomicBool::new(false));
    flag::register(SIGHUP, Arc::clone(&hung_up)).context("cannot handle SIGHUP")?;
    let (file, warnings) = PolicyFile::load(&arguments.policy)?;
    print_warnings(&warnings);
    let options = Options {
        session: session::ssh_session().map(Into::into),
        ..options(arguments, file.policy())?
    };
    let confinement = match arguments.no_confinement {
        true => None,
        false => Some(Confinement::begin(&options.state, &options.control)?),
    };
    let take_over = || match arguments.replace {
        true => end_running(&options.instance, &options.control)
            .map_err(|error| io::Error::other(format!("{error:#}"))),
        false => Ok(()),
    };
    let mut engine = Engine::start(file, &options, take_over)?;
    let given_up = confinement.map(Confinement::finish).transpose()?;
    for warning in engine.warnings() {
        eprintln!("ravelin: warning: {warning}");
    }
    if let Some(given_up) = given_up {
        eprintln!("ravelin: given up: {given_up}");
    }
    eprintln!("ravelin: ready: {}", engine.summary());
    let (reload, reloads) = unbounded_channel();
    engine.run(signals(reload, hung_up), reloads)?;
    match arguments.on_exit {
        OnExit::Open if !engine.keeps_filter() => {
            engine.detach()?;
            eprintln!("ravelin: stopped, the filter is gone");
        }
        OnExit::Open | OnExit::Closed => {
            drop(engine);
            eprintln!(
                "ravelin: stopped, the filter stays: protected traffic is dropped until `ravelin run` or `ravelin detach \
                 --instance {}`",
                arguments.instance.instance
            );
        }
    }
    Ok(())
}

/// Prints what a policy's author should look at.
pub(crate) fn print_warnings(warnings: &[Warning]) {
    for warning in warnings {
        eprintln!("{warning}");
    }
}

pub(crate) fn options(arguments: &Arguments, policy: &Policy) -> Result<Options> {
    let interfaces = policy.interfaces();
    let Some(outer) = arguments.outer.clone().or_else(|| interfaces.outer.clone()) else {
        bail!("no outer device: give `--outer DEVICE`, or set `outer` in `[interfaces]` of the policy");
    };
    let instance = &arguments.instance.instance;
    let inner = arguments.inner.clone().or_else(|| interfaces.inner.clone());
    let role = match arguments.mode {
        Some(RunMode::Filter) => Role::Filter,
        Some(RunMode::Gateway) => Role::Gateway,
        Some(RunMode::Host) => Role::Host,
        None if inner.is_some() => Role::Gateway,
        None => Role::Filter,
    };
    let control = arguments.instance.control();
    let state = arguments
        .state_dir
        .clone()
        .unwrap_or_else(|| Path::new("/var/lib/ravelin").join(instance));
    in_a_folder("--control", &control)?;
    in_a_folder("--state-dir", &state)?;
    Ok(Options {
        outer,
        inner,
        role,
        edge: match (arguments.host_edge, interfaces.host_edge) {
            (Some(HostEdge::Tun), _) | (None, ravelin_policy::HostEdge::Tun) => Edge::Tun,
            (Some(HostEdge::Veth), _) | (None, ravelin_policy::HostEdge::Veth) => Edge::Veth,
        },
        instance: instance.clone(),
        control,
        state,
        mode: match arguments.xdp_mode {
            XdpMode::Auto => Mode::Auto,
            XdpMode::Native => Mode::Native,
            XdpMode::Generic => Mode::Generic,
        },
        af_xdp: af_xdp(arguments),
        busy_poll: arguments.busy_poll,
        crypto_threads: arguments.crypto_threads.into(),
        provider: arguments.provider,
        resolve_interval: Duration::from_secs(arguments.resolve_interval.into()),
        max_rules: arguments.max_rules,
        session: None,
    })
}

/// The backend that was asked for.
#[cfg(feature = "xsk-rs")]
fn af_xdp(arguments: &Arguments) -> AfXdp {
    match arguments.af_xdp {
        AfXdpBackend::Rings => AfXdp::Rings,
        AfXdpBackend::XskRs => AfXdp::XskRs,
    }
}

#[cfg(not(feature = "xsk-rs"))]
fn af_xdp(_: &Arguments) -> AfXdp {
    AfXdp::Rings
}

/// Refuses a place whose folder is the whole machine: the engine, and its unit, may write to that folder.
fn in_a_folder(option: &str, place: &Path) -> Result<()> {
    let is_in_root = |place: &Path| place.parent().is_none_or(|folder| folder.parent().is_none());
    let written = std::path::absolute(place)?;
    if is_in_root(&written) || is_in_root(&resolved(&written)) {
        bail!(
            "{option} {}: its folder is /, and the engine could write to the whole machine; choose a place in a folder of its own, such as {}",
            written.display(),
            match option {
                "--control" => "/run/ravelin/NAME.sock",
                _ => "/var/lib/ravelin/NAME",
            }
        );
    }
    Ok(())
}

/// An absolute path as the system follows it: links and `..` lead where they lead, and what does not exist yet is no link.
pub(crate) fn resolved(place: &Path) -> PathBuf {
    place.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
        path.canonicalize().unwrap_or(path)
    })
}

/// A name that a device can have.
fn device(text: &str) -> Result<String> {
    if !is_interface_name(text) {
        bail!(
            "no device has such a name: 1 to 15 bytes without white space, `/` and `:`, and neither `.` nor `..`"
        );
    }
    Ok(text.to_owned())
}

fn provider(text: &str) -> Result<Provider> {
    // Where the CPU lacks the instructions of one, another would do its work under its name.
    let mut here = Provider::ALL
        .iter()
        .copied()
        .filter(|provider| provider.has(Algorithm::AES_256_GCM));
    let names: Vec<_> = here.clone().map(Provider::name).collect();
    here.find(|provider| provider.name() == text)
        .with_context(|| format!("this CPU has: {}", names.join(", ")))
}

/// Ready at SIGINT or SIGTERM; hands SIGHUP on.
async fn signals(reload: UnboundedSender<()>, hung_up: Arc<AtomicBool>) {
    let interrupt = wait_for(SignalKind::interrupt());
    let terminate = wait_for(SignalKind::terminate());
    let hang_up = async {
        let Ok(mut stream) = signal(SignalKind::hangup()) else {
            return std::future::pending().await;
        };
        // The engine is there to receive: it waits for this future.
        if hung_up.load(Ordering::Relaxed) {
            let _ = reload.send(());
        }
        while stream.recv().await.is_some() {
            let _ = reload.send(());
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
        () = hang_up => {}
    }
}

async fn wait_for(kind: SignalKind) {
    match signal(kind) {
        Ok(mut stream) => drop(stream.recv().await),
        // Without a handler the signal ends the process, and the filter stays, as after a crash.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Provider, provider};

    #[test]
    fn an_aead_that_this_cpu_cannot_run_is_refused() {
        for one in Provider::ALL {
            let found = provider(one.name()).ok();
            assert_eq!(found, one.has(Algorithm::AES_256_GCM).then_some(*one));
        }
        let said = provider("vaes").unwrap_err().to_string();
        assert!(said.contains("aws-lc"), "{said}");
    }
}
