//! Another BPF filesystem is mounted over the one that has the pins.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::alone;
use crate::pair::of_hosts;
use crate::side::Side;
use crate::support::daemon::RAVELIN;
use crate::support::hosts::Hosts;
use crate::support::wait_until;

/// Whether the device has an XDP program, as iproute2 says.
fn has_xdp(side: &Side<'_>) -> bool {
    let shown = side
        .gateway
        .namespace
        .run("ip", &["link", "show", "dev", side.device()]);
    shown.contains("xdp")
}

#[test]
fn pins_out_of_reach_hold_no_program() {
    let _alone = alone();
    let hosts = Hosts::new(true);
    let mut pair = of_hosts(&hosts);
    let [side, _] = &mut pair.sides;
    side.start(&[], &[]);
    wait_until("the engine", || side.is_ready());
    wait_until("its pins", || side.room.pins() == side.programs);
    for _ in 0..2 {
        side.room.shell("mount -t bpf bpf /sys/fs/bpf");
        assert_eq!(side.room.pins(), 0);
        wait_until("pins in the other filesystem", || {
            side.room.pins() == side.programs
        });
    }
    // A start finds them there.
    side.end(Signal::SIGKILL);
    assert!(has_xdp(side), "the filter went with the engine");
    side.start(&[], &[]);
    wait_until("the engine again", || side.is_ready());
    // All that is left of the others are folders.
    // `ravelin stop` removes the pins that it sees.
    side.room.shell(&format!(
        "{RAVELIN} stop --yes --instance {} --control {}",
        side.gateway.instance,
        side.gateway.control().display()
    ));
    assert!(side.ends_within(Duration::from_secs(20)), "it goes on");
    assert!(!has_xdp(side), "the filter is still there");
    side.room.shell("umount /sys/fs/bpf");
    assert_eq!(side.room.pins(), 0, "below");
}
