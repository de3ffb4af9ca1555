//! What happens to a side, and how it is put right again.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::flows::{End, Flows, burst};
use crate::random::Random;
use crate::room::Epoch;
use crate::side::Side;
use crate::support::daemon::{RAVELIN, refusal};
use crate::support::{PATIENCE, panic, wait_until};

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Killed,
    KilledWhileStarting,
    Crashed,
    WorkerPanicked,
    Stopped,
    Frozen,
    Reload,
    BadPolicy,
    RolledBack,
    Rekey,
    DeviceDown,
    AddressRemoved,
    RouteChanged,
    MacChanged,
    PinsDeleted,
    BpffsUnmounted,
    QueueFull,
    DiskFull,
    ClockJump,
    OutOfMemory,
    NoDescriptors,
}

impl Event {
    pub(crate) const ALL: [Self; 21] = [
        Self::Killed,
        Self::KilledWhileStarting,
        Self::Crashed,
        Self::WorkerPanicked,
        Self::Stopped,
        Self::Frozen,
        Self::Reload,
        Self::BadPolicy,
        Self::RolledBack,
        Self::Rekey,
        Self::DeviceDown,
        Self::AddressRemoved,
        Self::RouteChanged,
        Self::MacChanged,
        Self::PinsDeleted,
        Self::BpffsUnmounted,
        Self::QueueFull,
        Self::DiskFull,
        Self::ClockJump,
        Self::OutOfMemory,
        Self::NoDescriptors,
    ];

    /// In words, and what the recovery is counted from.
    pub(crate) fn words(self) -> [&'static str; 2] {
        match self {
            Self::Killed => ["engine killed (`kill -9`)", "its start"],
            Self::KilledWhileStarting => ["engine killed while it started", "its next start"],
            Self::Crashed => ["engine crashed (SIGABRT)", "its start"],
            Self::WorkerPanicked => ["a worker panicked", "its start"],
            Self::Stopped => ["engine stopped and started (SIGTERM)", "its start"],
            Self::Frozen => ["engine frozen (SIGSTOP)", "SIGCONT"],
            Self::Reload => ["another policy applied", "the apply"],
            Self::BadPolicy => ["a wrong policy refused", "the apply"],
            Self::RolledBack => ["a policy applied on trial and rolled back", "the rollback"],
            Self::Rekey => ["new keys, one end after the other", "the second apply"],
            Self::DeviceDown => ["outer device down", "it was up again"],
            Self::AddressRemoved => ["address removed", "it was back"],
            Self::RouteChanged => ["route to the peer changed or unreachable", "it was back"],
            Self::MacChanged => ["another link-layer address", "the change"],
            Self::PinsDeleted => ["pins deleted, then engine killed", "its start"],
            Self::BpffsUnmounted => ["bpffs unmounted and mounted, then engine killed", "its start"],
            Self::QueueFull => ["queues full (burst to a frozen engine)", "SIGCONT"],
            Self::DiskFull => ["engine killed, disk full at its start", "room on the disk"],
            Self::ClockJump => ["engine killed, clocks jumped", "its start"],
            Self::OutOfMemory => ["out of memory", "its start, or memory"],
            Self::NoDescriptors => [
                "engine killed, no descriptors at its start",
                "its start without that limit",
            ],
        }
    }
}

/// Where it happens.
pub(crate) struct Scene<'s, 'n> {
    pub(crate) side: &'s mut Side<'n>,
    pub(crate) other: &'s mut Side<'n>,
    pub(crate) ends: [End<'n>; 2],
    pub(crate) flows: &'s Flows,
    pub(crate) epochs: &'s [Epoch],
    pub(crate) random: &'s mut Random,
    /// When the wire was cut, by no fault of an engine.
    pub(crate) cuts: &'s mut Vec<(Duration, Duration)>,
}

impl Scene<'_, '_> {
    /// Has it happen; returns when all was put right that is not the engine's to put right.
    pub(crate) fn happen(&mut self, event: Event) -> Duration {
        match event {
            Event::Killed => self.restart(Signal::SIGKILL),
            Event::Crashed => self.restart(Signal::SIGABRT),
            Event::Stopped => self.restart(Signal::SIGTERM),
            Event::WorkerPanicked => self.panic(),
            Event::KilledWhileStarting => {
                self.side.end(Signal::SIGKILL);
                self.side.start(self.epochs, &[]);
                self.pause(0, 400);
                self.restart(Signal::SIGKILL)
            }
            Event::Frozen => {
                self.side.signal(Signal::SIGSTOP);
                self.pause(50, 600);
                self.resume()
            }
            Event::QueueFull => {
                self.side.signal(Signal::SIGSTOP);
                burst(&self.ends[0], &self.ends[1], 4000);
                burst(&self.ends[1], &self.ends[0], 4000);
                self.resume()
            }
            Event::Reload => {
                self.side.write(&other_rules(self.side, self.random));
                self.side.apply();
                self.flows.now()
            }
            Event::BadPolicy => self.refuse(),
            Event::RolledBack => self.try_and_return(),
            Event::Rekey => self.rekey(),
            Event::DeviceDown => {
                let device = self.side.device().to_owned();
                self.cut(|side, random| {
                    side.ip(&format!("link set {device} down"));
                    std::thread::sleep(random.milliseconds(20, 300));
                    side.ip(&format!("link set {device} up\n{}", side.network));
                })
            }
            Event::AddressRemoved => {
                let family = self.random.below(2) as usize;
                self.cut(|side, random| {
                    side.ip(&format!(
                        "address del {} dev {}",
                        side.addresses[family],
                        side.device()
                    ));
                    std::thread::sleep(random.milliseconds(20, 300));
                    side.ip(&side.network);
                })
            }
            Event::RouteChanged => self.change_route(),
            Event::MacChanged => {
                let number = self.random.below(1 << 16);
                let mac = format!("02:00:00:00:{:02x}:{:02x}", number >> 8, number & 255);
                self.side
                    .ip(&format!("link set {} address {mac}", self.side.device()));
                self.flows.now()
            }
            Event::PinsDeleted => {
                // Folders that the engine makes anew meanwhile are not empty, of which rm complains.
                self.side.room.shell("rm -r /sys/fs/bpf/ravelin* || true");
                self.pinned_again()
            }
            Event::BpffsUnmounted => {
                self.side.room.shell("umount --lazy /sys/fs/bpf");
                self.pause(0, 200);
                self.side.room.shell("mount -t bpf bpf /sys/fs/bpf");
                self.pinned_again()
            }
            Event::DiskFull => {
                self.side.room.fill_disk();
                self.restart(Signal::SIGKILL);
                self.side.ends_within(Duration::from_millis(400));
                self.side.room.empty_disk();
                self.flows.now()
            }
            Event::ClockJump => {
                self.side.epoch = match self.random.below(self.epochs.len() as u64 + 1) as usize {
                    0 => None,
                    epoch => Some(epoch - 1),
                };
                self.restart(Signal::SIGKILL)
            }
            Event::OutOfMemory => self.starve(),
            Event::NoDescriptors => {
                self.side.end(Signal::SIGKILL);
                let limit = format!("--nofile={}", 4 + self.random.below(40));
                self.side.start(self.epochs, &[limit]);
                self.side.ends_within(Duration::from_millis(500));
                self.restart(Signal::SIGKILL)
            }
        }
    }

    fn pause(&mut self, least: u64, most: u64) {
        std::thread::sleep(self.random.milliseconds(least, most));
    }

    fn restart(&mut self, signal: Signal) -> Duration {
        self.side.end(signal);
        self.pause(0, 50);
        let moment = self.flows.now();
        self.side.start(self.epochs, &[]);
        moment
    }

    fn resume(&mut self) -> Duration {
        let moment = self.flows.now();
        self.side.signal(Signal::SIGCONT);
        moment
    }

    /// Cuts the wire.
    fn cut(&mut self, cut: impl FnOnce(&Side<'_>, &mut Random)) -> Duration {
        let started = self.flows.now();
        cut(self.side, self.random);
        let ended = self.flows.now();
        self.cuts.push((started, ended));
        ended
    }

    fn change_route(&mut self) -> Duration {
        let device = self.side.device().to_owned();
        let [v4, v6] = self.side.peer;
        match self.random.below(3) {
            // By a router on the wire, and back.
            0 => {
                self.side
                    .ip(&format!("route replace {v4}/32 via {ROUTER} dev {device}"));
                self.pause(20, 200);
                self.side.ip(&format!("route del {v4}/32"));
                self.flows.now()
            }
            // Directly, with another MTU.
            1 => {
                self.side.ip(&format!(
                    "route replace {v4}/32 dev {device} mtu 1400\nroute replace {v6}/128 dev {device} mtu 1400"
                ));
                self.pause(20, 200);
                self.side.ip(&format!("route del {v4}/32\nroute del {v6}/128"));
                self.flows.now()
            }
            // Not at all.
            _ => self.cut(|side, random| {
                side.ip(&format!(
                    "route replace unreachable {v4}/32\nroute replace unreachable {v6}/128 metric 1"
                ));
                std::thread::sleep(random.milliseconds(20, 200));
                side.ip(&format!(
                    "route del unreachable {v4}/32\nroute del unreachable {v6}/128 metric 1"
                ));
            }),
        }
    }

    /// What is not a policy, or cannot be in force, changes nothing.
    fn refuse(&mut self) -> Duration {
        let good = self.side.policy("");
        let wrong = self.random.pick(&[
            "default = ",
            "[[rules]]\nname = \"no such list\"\nfilter-list = \"nowhere\"\naction = \"block\"\n",
            "[filter-lists.elsewhere]\nfilters = [{ source = \"any\", destination = \"everywhere.invalid\" }]\n\
             [[rules]]\nname = \"elsewhere\"\nfilter-list = \"elsewhere\"\naction = \"block\"\n",
            "[connections.second]\nmode = \"tunnel\"\nlocal = \"192.0.2.7\"\nremote = \"192.0.2.8\"\n\
             [connections.second.static]\nalgorithm = \"aes-256-gcm\"\n\
             outbound = { spi = 0x7001, key-file = \"missing.key\" }\ninbound = { spi = 0x7002, key-file = \"missing too.key\" }\n",
        ]);
        let policy = if self.random.below(4) == 0 {
            String::new()
        } else {
            good + wrong
        };
        wait_until("the engine", || self.side.is_ready());
        refusal(&self.side.gateway.apply(&policy, &[]));
        self.flows.now()
    }

    /// A policy on trial that is taken back.
    fn try_and_return(&mut self) -> Duration {
        wait_until("the engine", || self.side.is_ready());
        let policy = other_rules(self.side, self.random);
        self.side.gateway.applied(&policy, &["--confirm", "60"]);
        self.pause(0, 100);
        let back = self.side.gateway.client("rollback").output().unwrap();
        assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
        self.flows.now()
    }

    fn rekey(&mut self) -> Duration {
        for side in [&mut *self.side, &mut *self.other] {
            side.change_keys();
            side.write(&side.policy(""));
        }
        self.side.apply();
        self.pause(0, 200);
        self.other.apply();
        self.flows.now()
    }

    /// Waits until the engine has noticed that its pins are gone and has pinned its programs again; then it is killed.
    fn pinned_again(&mut self) -> Duration {
        let side = &mut *self.side;
        wait_until("the programs to be pinned again", || {
            side.look_after(self.epochs);
            side.room.pins() == side.programs
        });
        self.restart(Signal::SIGKILL)
    }

    /// The engine ends by itself then.
    fn panic(&mut self) -> Duration {
        wait_until("the engine", || {
            self.side.look_after(self.epochs);
            self.side.is_ready()
        });
        panic::in_worker(self.side.pid().unwrap().as_raw() as u32);
        assert!(self.side.ends_within(PATIENCE), "the engine outlived its worker");
        self.restart(Signal::SIGKILL)
    }

    /// No more memory than the engine has, while it is asked for things that need some.
    fn starve(&mut self) -> Duration {
        wait_until("the engine", || {
            self.side.look_after(self.epochs);
            self.side.is_ready()
        });
        let pid = self.side.pid().unwrap().to_string();
        let limit = |limit: &str| {
            let status = std::process::Command::new("prlimit")
                .args(["--pid", &pid, &format!("--as={limit}")])
                .stderr(std::process::Stdio::null())
                .status();
            status.unwrap().success()
        };
        limit("1:unlimited");
        let file = self.side.gateway.other_policy();
        std::fs::write(&file, many_rules(self.side)).unwrap();
        for _ in 0..3 {
            let mut command = std::process::Command::new("timeout");
            command
                .args(["1", RAVELIN, "apply", "--control"])
                .arg(self.side.gateway.control());
            command.args(["--dry-run"]).arg(&file);
            let _ = command.output().unwrap();
        }
        let moment = self.flows.now();
        if !self.side.ends_within(Duration::from_millis(50)) {
            limit("unlimited:unlimited");
        }
        moment
    }
}

/// The router on the wire.
pub(crate) const ROUTER: &str = "192.0.2.254";

/// A policy that does the same to the traffic of the test.
fn other_rules(side: &Side<'_>, random: &mut Random) -> String {
    match random.below(4) {
        0 => side.policy(""),
        // Other slots, other counters.
        1 => side.policy("").replace("name = \"", "name = \"other "),
        2 => {
            let address = format!("198.51.100.{}", random.below(256));
            side.policy(&format!(
                "[filter-lists.elsewhere]\nfilters = [{{ source = \"any\", destination = \"{address}\" }}]\n\
                 [[rules]]\nname = \"elsewhere\"\nfilter-list = \"elsewhere\"\naction = \"block\"\n"
            ))
        }
        _ => many_rules(side),
    }
}

/// A policy that needs another shape of trees.
fn many_rules(side: &Side<'_>) -> String {
    let mut filters = String::new();
    for number in 0..2000 {
        let (high, low) = (number / 256, number % 256);
        filters += &format!(
            "{{ source = \"any\", destination = \"198.18.{high}.{low}\", protocol = \"tcp\", destination-port = {} }},\n",
            number + 1
        );
    }
    side.policy(&format!(
        "[filter-lists.many]\nfilters = [\n{filters}]\n[[rules]]\nname = \"many\"\nfilter-list = \"many\"\naction = \"block\"\n"
    ))
}
