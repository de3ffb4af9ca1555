//! The systemd unit that `ravelin install-service` writes: what systemd says to it, and whether the engine can live in it.

use std::path::Path;
use std::process::Command;

use crate::support::daemon::{RAVELIN, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{H2, Lab, PORT, Policy};
use crate::support::wait_until;

/// Has the unit of these options of `ravelin run` written to a folder; its text and file.
fn written(folder: &Path, options: &[&str]) -> (String, std::path::PathBuf) {
    let mut command = Command::new(RAVELIN);
    command.args(["install-service", "--folder"]).arg(folder);
    let said = succeeded(&command.arg("--").args(options).output().unwrap());
    let file = folder.join("ravelin-default.service");
    assert!(
        said.contains("systemctl enable --now ravelin-default.service"),
        "{said}"
    );
    (std::fs::read_to_string(&file).unwrap(), file)
}

/// What `systemd-analyze` says, without any service manager running.
fn analyze(arguments: &[&str], file: &Path) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(arguments).arg(file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn systemd_takes_the_unit_and_finds_it_confined() {
    let folder = tempfile::tempdir().unwrap();
    // What a shell would mind, and systemd would expand.
    let policy = folder.path().join("100% \"$site\".toml");
    let text = "default = \"block\"\n";
    std::fs::write(&policy, text).unwrap();
    let policy = policy.to_str().unwrap();
    for (options, tunables) in [
        (&["--outer", "br-lan.7"][..], "yes"),
        (
            &["--outer=eth0", "--mode", "host", "--control=/srv/c.sock"][..],
            "no",
        ),
    ] {
        let (text, file) = written(folder.path(), &[&["--policy", policy], options].concat());
        let (ok, said) = analyze(&["verify", "--man=no"], &file);
        assert!(ok && said.is_empty(), "{said}\n{text}");
        assert!(
            text.contains(&format!("ProtectKernelTunables={tunables}\n")),
            "{text}"
        );
        // The scale goes from 0 to 10; an unconfined service has 9.6.
        let (ok, said) = analyze(&["security", "--offline=yes", "--threshold=40"], &file);
        assert!(ok, "{said}");
    }
    for (option, place) in [
        ("--control", "/c.sock"),
        ("--state-dir", "/state"),
        ("--state-dir", "/"),
        ("--control", "/run/../c.sock"),
        ("--state-dir", "/var/lib/ravelin/../../../state"),
    ] {
        let options = ["--policy", policy, "--outer", "eth0", option, place];
        let mut command = Command::new(RAVELIN);
        let refused = command.args(["install-service", "--print", "--"]).args(options);
        let said = refusal(&refused.output().unwrap());
        assert!(
            said.contains(option) && said.contains("its folder is /"),
            "{said}"
        );
    }
    // What is below /run is gone after a boot, and systemd starts no service that may write to a folder that is not there.
    for (place, below) in [
        ("/run/elsewhere/a.sock", "elsewhere"),
        ("/var/run/elsewhere/for/a.sock", "elsewhere/for"),
    ] {
        let control = format!("--control={place}");
        let (text, file) = written(folder.path(), &["--policy", policy, "--outer", "eth0", &control]);
        assert!(
            text.contains(&format!("\nRuntimeDirectory=ravelin {below}\n"))
                && text.contains("\nReadWritePaths=/sys/fs/bpf\n"),
            "{text}"
        );
        let (ok, said) = analyze(&["verify", "--man=no"], &file);
        assert!(ok && said.is_empty(), "{said}\n{text}");
    }
    for (place, word) in [
        ("/tmp/nosuch/a.sock", "gone after a boot"),
        ("/srv/nosuch/a.sock", "is not there"),
    ] {
        let mut command = Command::new(RAVELIN);
        command.args([
            "install-service",
            "--print",
            "--",
            "--policy",
            policy,
            "--outer",
            "eth0",
        ]);
        let output = command.args(["--control", place]).output().unwrap();
        succeeded(&output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(word) && said.contains("226/NAMESPACE"), "{said}");
    }
    let odd = [
        "--policy",
        policy,
        "--outer",
        "eth0",
        "--control",
        "/run/a b/c.sock",
    ];
    let mut command = Command::new(RAVELIN);
    let refused = command.args(["install-service", "--print", "--"]).args(odd);
    let said = refusal(&refused.output().unwrap());
    assert!(said.contains("/run/a b") && said.contains("letters"), "{said}");
    let relative = ["--policy", policy, "--outer", "eth0", "--state-dir", "state"];
    let mut command = Command::new(RAVELIN);
    let refused = command.args(["install-service", "--print", "--"]).args(relative);
    let said = refusal(&refused.output().unwrap());
    assert!(said.contains("absolute path"), "{said}");
}

/// A policy that wants to be shut at boot has a second unit, which systemd starts first, and for devices that come later.
#[test]
fn systemd_takes_the_units_of_a_policy_that_is_shut_at_boot() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("a site.toml");
    let text = "boot = \"block\"\n[interfaces]\nouter = \"br-lan.7\"\ninner = \"eth1\"\n";
    std::fs::write(&policy, text).unwrap();
    let policy = policy.to_str().unwrap();
    let (text, file) = written(folder.path(), &["--policy", policy, "--inner=eth2"]);
    let boot_file = folder.path().join("ravelin-default.boot.service");
    let boot = std::fs::read_to_string(&boot_file).unwrap();
    // The one names the other: systemd sees both.
    let said = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([&file, &boot_file])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.success() && errors.is_empty(),
        "{errors}\n{boot}\n{text}"
    );
    let (ok, said) = analyze(&["security", "--offline=yes", "--threshold=40"], &boot_file);
    assert!(ok, "{said}");
    // The policy may be unreadable when it counts, so its devices are named; the option comes before the policy.
    let command = format!("{RAVELIN} boot --policy \"{policy}\" --inner=eth2 --outer br-lan.7\n");
    assert!(boot.contains(&format!("\nExecStart={command}")), "{boot}");
    assert!(text.contains(&format!("\nExecStartPre=-{command}")), "{text}");
    for expected in [
        "\nBefore=network-pre.target shutdown.target ravelin-default.service\n",
        "\nWantedBy=sysinit.target sys-subsystem-net-devices-br\\x2dlan.7.device sys-subsystem-net-devices-eth2.device\n",
    ] {
        assert!(boot.contains(expected), "{boot}");
    }
    assert!(text.contains("\nAlso=ravelin-default.boot.service\n"), "{text}");
    // No other instance's engine has that name.
    let options = ["--policy", policy, "--instance", "default-boot"];
    let mut command = Command::new(RAVELIN);
    command.args(["install-service", "--folder"]).arg(folder.path());
    succeeded(&command.arg("--").args(options).output().unwrap());
    assert_eq!(std::fs::read_to_string(&boot_file).unwrap(), boot);
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".service"))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "ravelin-default-boot.boot.service",
            "ravelin-default-boot.service",
            "ravelin-default.boot.service",
            "ravelin-default.service"
        ]
    );
}

#[test]
fn the_engine_lives_with_the_capabilities_that_the_unit_leaves_it() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    let policy = gateway.policy.to_str().unwrap();
    let options = ["--policy", policy, "--outer", "out0", "--inner", "in0"];
    let (text, _) = written(&gateway.folder, &options);
    let bounding = text
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let bounding: String = bounding
        .unwrap()
        .split(' ')
        .map(|name| format!(",+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()))
        .collect();
    let start = || {
        let mut command = lab.g1.command("setpriv");
        let bounding = format!("--bounding-set=-all{bounding}");
        command.args([&bounding, "--no-new-privs", "--", RAVELIN]);
        gateway.start_as(gateway.command_of(command))
    };
    let daemon = start();
    let _d2 = lab.gateway(2, &Policy::default()).start();
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("UDP", || echo.udp(&lab.h1, H2[0], b"before"));
    // Rules and SAs that come later need maps and neighbours of their own.
    let other = Policy {
        top: "default = \"block\"",
        ..Policy::default()
    };
    gateway.applied(&other.text(1), &[]);
    lab.g1.ip("neighbour flush dev out0");
    wait_until("UDP after another policy", || echo.udp(&lab.h1, H2[0], b"after"));
    daemon.kill();
    let daemon = start();
    wait_until("UDP after a restart", || echo.udp(&lab.h1, H2[0], b"again"));
    let (status, log) = daemon.stop();
    assert!(status.success() && !log.contains("cannot"), "{log}");
}
