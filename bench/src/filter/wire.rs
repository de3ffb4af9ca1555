//! The filter and nftables on veth pairs of one kind, under the same traffic.
//!
//! Each has a pair of its own in a network namespace without a name, so that rounds can go from one to the next. Frames
//! start inside the kernel on one CPU (BPF_F_TEST_XDP_LIVE_FRAMES) and are received by a kernel thread on another
//! (threaded NAPI). What counts is the time of that thread: packets per second of its own time are what one CPU can
//! receive, whether or not the sender keeps it busy and whoever else is on the machine.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::programs::XdpMode;
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use ravelin_bench::program::run;
use ravelin_bench::samples::Samples;
use ravelin_bench::{Kind, Order, Profile, RuleList, Trace, machine};
use ravelin_classifier::reference::Packet;
use ravelin_classifier::{RuleSet, compile};
use ravelin_engine::Side;
use ravelin_policy::{Family, Policy};
use ravelin_xdp_common::{Decision, Direction};

use crate::Plan;
use crate::kernel::{Kernel, Segment};
use crate::nft;
use crate::report::{Report, WireFigure, WireRow};
use crate::sets::FEW_FLOWS;

/// Traces: their kind, how many flows, and whether they hold only what is dropped; what passes costs the stack as well.
const TRACES: [(Kind, usize, bool); 4] = [
    (Kind::InRule, 1 << 16, false),
    (Kind::InRule, FEW_FLOWS, false),
    (Kind::InRule, 1 << 16, true),
    (Kind::Uniform, 1 << 16, false),
];
const PACKETS: usize = 1 << 16;

/// Rules in a row behind which a packet takes milliseconds: the receiver is then in one poll for so long that its time cannot be read.
pub(crate) const MOST_LINEAR: usize = 10_000;

/// Packets of a trace about which rules are held against the host.
const JUDGED: usize = 2048;

/// What receives on a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Receiver {
    /// An XDP program that drops everything.
    XdpDrop,
    /// Nothing: the stack drops frames that are for another machine.
    Stack,
    Ravelin,
    NftSet,
    NftLinear,
}

impl Receiver {
    pub(crate) const ALL: [Self; 5] = [
        Self::XdpDrop,
        Self::Stack,
        Self::Ravelin,
        Self::NftSet,
        Self::NftLinear,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::XdpDrop => "XDP, drops all",
            Self::Stack => "no filter",
            Self::Ravelin => "ravelin",
            Self::NftSet => "nftables, set",
            Self::NftLinear => "nftables, linear",
        }
    }

    const fn sender(self) -> &'static str {
        match self {
            Self::XdpDrop => "drop-a",
            Self::Stack => "stack-a",
            Self::Ravelin => "ravelin-a",
            Self::NftSet => "set-a",
            Self::NftLinear => "linear-a",
        }
    }

    const fn device(self) -> &'static str {
        match self {
            Self::XdpDrop => "drop-b",
            Self::Stack => "stack-b",
            Self::Ravelin => "ravelin-b",
            Self::NftSet => "set-b",
            Self::NftLinear => "linear-b",
        }
    }
}

/// Everything in the plan, for its first profile.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let Some(&profile) = plan.profiles.first() else {
        return Ok(());
    };
    for &count in &plan.rules {
        for &family in &plan.families {
            let name = format!("wire: {} {family} {count} rules", profile.name());
            eprintln!("{name}");
            let list = RuleList::generate(profile, family, count, 1);
            let rules = match compiled(&list) {
                Ok(rules) => rules,
                Err(error) => {
                    eprintln!("  refused: {error}");
                    continue;
                }
            };
            // A thread of its own: the namespace ends with it, and all that is in it.
            let rows = std::thread::scope(|scope| {
                let measured = scope.spawn(|| one(plan, profile, &list, &rules));
                measured.join().map_err(|_| anyhow!("the thread panicked"))?
            });
            report.wire.extend(rows.with_context(|| name)?);
            report.save()?;
        }
    }
    Ok(())
}

fn one(plan: &Plan, profile: Profile, list: &RuleList, rules: &RuleSet) -> Result<Vec<WireRow>> {
    let (family, count) = (list.family(), list.rules().len());
    enter_namespace()?;
    let mut kernel = Kernel::load(count)?;
    for receiver in Receiver::ALL {
        make_pair(receiver)?;
    }
    kernel.apply(rules)?;
    kernel.attach_drop(Receiver::XdpDrop.device())?;
    kernel
        .filter()
        .xdp(Side::Outer)?
        .attach(Receiver::Ravelin.device(), XdpMode::Driver)?;
    // Only now: a device gets other threads when it gets a program.
    let threads: HashMap<Receiver, i32> = Receiver::ALL
        .into_iter()
        .map(|receiver| Ok((receiver, start_thread(receiver)?)))
        .collect::<Result<_>>()?;

    let patience = Duration::from_secs(plan.nft_patience);
    let set = nft::expressible(list);
    eprintln!("  nftables: {} of {} rules fit into the set", set.len(), count);
    let set_list = RuleList::from_rules(family, set);
    let set_rules = compiled(&set_list)?;
    let set_load = nft::load(&nft::set(&set_list, Receiver::NftSet.device()), patience)?;
    let linear = (count <= MOST_LINEAR).then(|| nft::linear(list, Receiver::NftLinear.device()));
    let linear_load = linear
        .map(|rules| nft::load(&rules, patience))
        .transpose()?
        .flatten();
    for (what, load) in [("set", set_load), ("linear", linear_load)] {
        match load {
            Some(time) => eprintln!("  nftables, {what}: loaded in {:.1} s", time.as_secs_f64()),
            None if what == "linear" && count > MOST_LINEAR => {
                eprintln!("  nftables, {what}: too many rules");
            }
            None => eprintln!("  nftables, {what}: gave up after {} s", plan.nft_patience),
        }
    }
    let receivers: Vec<Receiver> = Receiver::ALL
        .into_iter()
        .filter(|receiver| match receiver {
            Receiver::NftSet => set_load.is_some(),
            Receiver::NftLinear => linear_load.is_some(),
            _ => true,
        })
        .collect();

    let mut rows = Vec::new();
    for (kind, flows, only_dropped) in TRACES {
        let trace = Trace::generate(kind, list, flows, PACKETS, 7);
        let mut packets = trace.packets().to_vec();
        if only_dropped {
            let passes = permitted(rules, &packets);
            let mut passes = passes.iter();
            packets.retain(|_| passes.next() == Some(&false));
        }
        if packets.is_empty() {
            // A few rules that all permit.
            continue;
        }
        kernel.clear();
        let segment = kernel.add(&packets)?;
        let mut row = WireRow {
            profile,
            family,
            rules: list.rules().len(),
            in_set: set_list.rules().len(),
            kind,
            flows,
            only_dropped,
            set_load: set_load.map(|time| time.as_secs_f64()),
            linear_load: linear_load.map(|time| time.as_secs_f64()),
            figures: Vec::new(),
        };
        for &receiver in &receivers {
            let expected = match receiver {
                Receiver::Ravelin | Receiver::NftLinear => Some(permitted(rules, &packets)),
                Receiver::NftSet => Some(permitted(&set_rules, &packets)),
                Receiver::XdpDrop | Receiver::Stack => None,
            };
            let mut figure = WireFigure {
                receiver,
                rate: Samples::default(),
                agrees: true,
            };
            if let Some(expected) = expected {
                figure.agrees = agrees(&mut kernel, family, segment, receiver, &expected)?;
            }
            // A set that keeps its elements in another order may disagree; the others must not.
            ensure!(
                figure.agrees || receiver == Receiver::NftSet,
                "{} judges otherwise",
                receiver.name()
            );
            row.figures.push(figure);
        }
        for round in 0..plan.rounds {
            eprint!(
                "\r  {}, {flows} flows: round {} of {}",
                kind.name(),
                round + 1,
                plan.rounds
            );
            for figure in &mut row.figures {
                let rate = rate(
                    &mut kernel,
                    family,
                    segment,
                    (figure.receiver, threads[&figure.receiver]),
                    plan.seconds,
                )?;
                figure.rate.push(rate / 1e3);
            }
        }
        eprintln!();
        rows.push(row);
    }
    Ok(rows)
}

/// Enters a network namespace, and a mount namespace in which /sys shows it. Both end with this thread.
fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make a namespace; the bench needs root")?;
    let nothing: Option<&str> = None;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .context("private mounts")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing).context("/sys of the namespace")
}

/// Two devices of one queue; the second takes frames from the first whether or not it has a program.
fn make_pair(receiver: Receiver) -> Result<()> {
    let (a, b) = (receiver.sender(), receiver.device());
    let one_queue = ["numrxqueues", "1", "numtxqueues", "1"];
    let mut add = Command::new("ip");
    add.args(["link", "add", a]).args(one_queue);
    add.args(["type", "veth", "peer", "name", b]).args(one_queue);
    run(&mut add)?;
    for device in [a, b] {
        // No packets of its own.
        let setting = Path::new("/proc/sys/net/ipv6/conf")
            .join(device)
            .join("disable_ipv6");
        if setting.exists() {
            fs::write(&setting, "1").with_context(|| setting.display().to_string())?;
        }
        run(Command::new("ip").args(["link", "set", device, "up"]))?;
    }
    run(Command::new("ethtool").args(["-K", b, "gro", "on"]))
}

/// Has a kernel thread receive for this device, on a CPU of its own; returns its process id.
fn start_thread(receiver: Receiver) -> Result<i32> {
    let device = receiver.device();
    let setting = format!("/sys/class/net/{device}/threaded");
    fs::write(&setting, "1").context(setting)?;
    let name = format!("napi/{device}-");
    let name = &name[..name.len().min(15)];
    let processes = fs::read_dir("/proc").context("/proc")?;
    let newest = processes
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end().starts_with(name))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .max();
    let thread = newest.with_context(|| format!("no kernel thread receives for {device}"))?;
    machine::pin_to_receivers_cpu(thread)?;
    Ok(thread)
}

/// Nanoseconds that a process has run (Documentation/scheduler/sched-stats.rst).
fn time_of(process: i32) -> Result<u64> {
    let path = format!("/proc/{process}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let time = text.split(' ').next().and_then(|field| field.parse().ok());
    time.with_context(|| format!("{path}: {text}"))
}

fn compiled(list: &RuleList) -> Result<RuleSet> {
    let (policy, _) = Policy::parse(&list.to_policy(Order::Position), "generated.toml")?;
    Ok(compile(&policy)?)
}

/// Which of the packets pass.
fn permitted(rules: &RuleSet, packets: &[Packet]) -> Vec<bool> {
    let permits =
        |packet: &Packet| rules.classify(&packet.flow(), Direction::Inbound).decision == Decision::Permit;
    packets.iter().map(permits).collect()
}

/// Whether as many of the first packets of the trace pass as the host says.
fn agrees(
    kernel: &mut Kernel,
    family: Family,
    segment: Segment,
    receiver: Receiver,
    expected: &[bool],
) -> Result<bool> {
    kernel.rewind(segment, index(receiver)?)?;
    let expected = &expected[..expected.len().min(JUDGED)];
    let before = counted(kernel, receiver)?;
    // In parts that fit into the ring.
    for part in expected.chunks(64) {
        let sent = received(receiver)? + part.len() as u64;
        kernel.send(family, part.len() as u32)?;
        let start = Instant::now();
        while received(receiver)? < sent && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    // The last of them may still be on its way through the rules.
    std::thread::sleep(Duration::from_millis(50));
    let after = counted(kernel, receiver)?;
    let passed = expected.iter().filter(|permitted| **permitted).count() as u64;
    Ok((after.0 - before.0, after.1 - before.1) == (passed, expected.len() as u64 - passed))
}

/// Packets that passed and packets that were dropped, for those who count them.
fn counted(kernel: &mut Kernel, receiver: Receiver) -> Result<(u64, u64)> {
    match receiver {
        Receiver::Ravelin => {
            let filter = kernel.filter();
            Ok((filter.passes()?.iter().sum(), filter.drops()?.iter().sum()))
        }
        Receiver::NftSet | Receiver::NftLinear => nft::counted(receiver.device()),
        Receiver::XdpDrop | Receiver::Stack => Ok((0, 0)),
    }
}

/// Packets that a device has received, whatever became of them.
fn received(receiver: Receiver) -> Result<u64> {
    // Not /proc/net, which is the namespace of the process.
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).context(path)?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(receiver.device())?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.context("the device among those of the namespace")
}

/// Packets per second of the time of the thread that receives them; no number if there were none, or it took no time.
fn rate(
    kernel: &mut Kernel,
    family: Family,
    segment: Segment,
    (receiver, thread): (Receiver, i32),
    seconds: f64,
) -> Result<f64> {
    kernel.rewind(segment, index(receiver)?)?;
    let mut portion = 256;
    let before = (received(receiver)?, time_of(thread)?);
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds {
        let part = Instant::now();
        kernel.send(family, portion)?;
        if part.elapsed() < Duration::from_millis(50) {
            portion = (portion * 2).min(1 << 17);
        }
    }
    let after = quiet(receiver, thread)?;
    let (packets, time) = (after.0 - before.0, after.1 - before.1);
    if packets == 0 || time == 0 {
        return Ok(f64::NAN);
    }
    Ok(packets as f64 * 1e9 / time as f64)
}

/// Packets and time once nothing is under way any more: frames that did not fit into the ring never arrive.
fn quiet(receiver: Receiver, thread: i32) -> Result<(u64, u64)> {
    let mut last = (received(receiver)?, time_of(thread)?);
    loop {
        // Longer than a thread runs before the scheduler writes its time down.
        std::thread::sleep(Duration::from_millis(20));
        let now = (received(receiver)?, time_of(thread)?);
        if now == last {
            return Ok(now);
        }
        last = now;
    }
}

fn index(receiver: Receiver) -> Result<u32> {
    if_nametoindex(receiver.sender()).context("the device of the sender")
}
