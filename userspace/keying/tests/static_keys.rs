//! Two gateways keyed from files: what one seals the other opens, also after a restart.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ravelin_esp::{DropReason, InboundSa, LifetimeEvent, Measure, OutboundSa, Packet, Provider};
use ravelin_keying::{Holder, StateFolder, StaticConnection, StaticKeys, key_file};
use ravelin_policy::{Algorithm, Policy};

/// An IPv4 header of 28 bytes of UDP, 10.1.0.1 to 10.2.0.1, with the checksum scapy computes.
const CLEAR: [u8; 28] = [
    0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0x66, 0xcc, 10, 1, 0, 1, 10, 2, 0, 1, 0x9c, 0x40, 0, 53, 0, 8, 0, 0,
];

fn policy(folder: &Path, side: usize, encapsulation: &str) -> Policy {
    let ends = ["192.0.2.1", "192.0.2.2"];
    let (spis, keys) = ([0x1001, 0x2001], ["a.key", "b.key"]);
    let other = 1 - side;
    let ports = ["4500", "14500"];
    let encapsulation = encapsulation
        .replace("NEAR", ports[side])
        .replace("FAR", ports[other]);
    let text = format!(
        "[filter-lists.f]\nfilters = [{{ source = \"any\", destination = \"10.2.0.0/16\" }}]\n\
         [[rules]]\nname = \"r\"\nfilter-list = \"f\"\naction = \"protect\"\nconnection = \"c\"\n\
         [connections.c]\nmode = \"tunnel\"\nlocal = \"{}\"\nremote = \"{}\"\n{encapsulation}\n\
         [connections.c.static]\nalgorithm = \"aes-256-gcm\"\n\
         outbound = {{ spi = {}, key-file = \"{}\" }}\ninbound = {{ spi = {}, key-file = \"{}\" }}\n",
        ends[side], ends[other], spis[side], keys[side], spis[other], keys[other]
    );
    let name = folder.join("policy.toml").display().to_string();
    Policy::parse(&text, &name)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .0
}

fn start(policy: &Policy, state: &Path) -> StaticConnection {
    start_in(
        policy,
        &Arc::new(StateFolder::open(state).expect("a state folder")),
    )
}

fn start_in(policy: &Policy, state: &Arc<StateFolder>) -> StaticConnection {
    let keys = StaticKeys::read(policy).unwrap_or_else(|errors| panic!("{errors}"));
    keys.start(policy, state, Provider::preferred())
        .unwrap_or_else(|errors| panic!("{errors}"))
        .remove(0)
}

fn seal(sa: &OutboundSa) -> (u64, Vec<u8>) {
    let mut buffer = vec![0; 256];
    buffer[100..128].copy_from_slice(&CLEAR);
    let mut packet = [Packet::new(&mut buffer, 100..128).expect("inside")];
    let mut outcome = [Err(DropReason::SaMissing)];
    sa.seal_batch(&mut packet, &mut outcome, Instant::now());
    (outcome[0].expect("sealed").sequence, packet[0].bytes().to_vec())
}

fn open(sa: &InboundSa, wire: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut buffer = wire.to_vec();
    let length = buffer.len();
    let mut packet = [Packet::new(&mut buffer, 0..length).expect("inside")];
    let mut outcome = [Err(DropReason::SaMissing)];
    sa.open_batch(&mut packet, &mut outcome, Instant::now());
    outcome[0]?;
    Ok(packet[0].bytes().to_vec())
}

fn outbound(sas: &StaticConnection) -> &OutboundSa {
    sas.outbound().expect("not removed")
}

fn inbound(sas: &StaticConnection) -> &InboundSa {
    sas.inbound().expect("not removed")
}

#[test]
fn two_ends_understand_each_other_across_restarts() {
    for encapsulation in [
        "",
        "encapsulation = \"udp\"\nlocal-port = NEAR\nremote-port = FAR",
        "path-mtu = 1400",
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        key_file::create(&folder.path().join("a.key"), Algorithm::AES_256_GCM).expect("made");
        key_file::create(&folder.path().join("b.key"), Algorithm::AES_256_GCM).expect("made");
        let policies = [0, 1].map(|side| policy(folder.path(), side, encapsulation));
        let states = ["s0", "s1"].map(|name| folder.path().join(name));

        let mut far = start(&policies[1], &states[1]);
        assert_eq!(far.name(), "c");
        let mut highest = 0;
        let mut last = Vec::new();
        for _ in 0..3 {
            let near = start(&policies[0], &states[0]);
            for _ in 0..3 {
                let (sequence, wire) = seal(outbound(&near));
                assert!(sequence > highest, "{sequence} after {highest}");
                assert_eq!(&open(inbound(&far), &wire).expect("opened")[12..], &CLEAR[12..]);
                assert_eq!(open(inbound(&far), &wire), Err(DropReason::ReplayDuplicate));
                (highest, last) = (sequence, wire);
            }
            // The other direction has keys of its own.
            let (_, back) = seal(outbound(&far));
            assert!(open(inbound(&near), &back).is_ok());
            assert!(open(inbound(&near), &last).is_err());
            // A restart of the receiver lets nothing in again.
            drop(far);
            far = start(&policies[1], &states[1]);
            assert_eq!(open(inbound(&far), &last), Err(DropReason::ReplayDuplicate));
        }
    }
}

#[test]
fn outer_headers_are_as_the_policy_wants_them() {
    let folder = tempfile::tempdir().expect("a folder");
    key_file::create(&folder.path().join("a.key"), Algorithm::AES_256_GCM).expect("made");
    key_file::create(&folder.path().join("b.key"), Algorithm::AES_256_GCM).expect("made");
    let options = "df = \"set\"\ndscp = 46\ninner-dscp = \"copy\"\necn = \"compatibility\"\nhop-limit = 9\n\
                   tfc-padding = 100";
    let [near, far] = [0, 1].map(|side| {
        let state = folder.path().join(format!("s{side}"));
        start(&policy(folder.path(), side, options), &state)
    });
    let (_, wire) = seal(outbound(&near));
    // The clear packet has DSCP 0 and no DF.
    assert_eq!((wire[1], wire[6], wire[8]), (46 << 2, 0x40, 9));
    // IP, ESP, 100 bytes, trailer and ICV.
    assert_eq!(wire.len(), 20 + 16 + 104 + 16);
    assert_eq!(open(inbound(&far), &wire).expect("opened")[1], 46 << 2);
}

/// The peer is 10.1.0.1 and sends to 10.2.0.1; NATs make 192.0.2.1 and 192.0.2.2 of them, which a UDP checksum must follow.
#[test]
fn original_addresses_reach_the_sa_that_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    key_file::create(&folder.path().join("a.key"), Algorithm::AES_256_GCM).expect("made");
    key_file::create(&folder.path().join("b.key"), Algorithm::AES_256_GCM).expect("made");
    let transport = |side: usize, keys: &str| {
        let ends = ["192.0.2.1", "192.0.2.2"];
        let (spis, files) = ([0x1001, 0x2001], ["a.key", "b.key"]);
        let text = format!(
            "[filter-lists.f]\nfilters = [{{ source = \"{0}\", destination = \"{1}\" }}]\n\
             [[rules]]\nname = \"r\"\nfilter-list = \"f\"\naction = \"protect\"\nconnection = \"c\"\n\
             [connections.c]\nmode = \"transport\"\nlocal = \"{0}\"\nremote = \"{1}\"\n{keys}\n\
             [connections.c.static]\nalgorithm = \"aes-256-gcm\"\n\
             outbound = {{ spi = {2}, key-file = \"{4}\" }}\ninbound = {{ spi = {3}, key-file = \"{5}\" }}\n",
            ends[side],
            ends[1 - side],
            spis[side],
            spis[1 - side],
            files[side],
            files[1 - side]
        );
        let name = folder.path().join("policy.toml").display().to_string();
        let (policy, _) = Policy::parse(&text, &name).unwrap_or_else(|errors| panic!("{errors}"));
        start(&policy, &folder.path().join(format!("s{side}")))
    };
    let near = transport(0, "");
    let far = transport(1, "original-remote = \"10.1.0.1\"\noriginal-local = \"10.2.0.1\"");
    // A UDP checksum of 0x1234, right or wrong.
    let mut clear = CLEAR;
    clear[26..].copy_from_slice(&[0x12, 0x34]);
    let mut buffer = vec![0; 256];
    buffer[100..128].copy_from_slice(&clear);
    let mut packet = [Packet::new(&mut buffer, 100..128).expect("inside")];
    let mut outcome = [Err(DropReason::SaMissing)];
    outbound(&near).seal_batch(&mut packet, &mut outcome, Instant::now());
    assert!(outcome[0].is_ok());
    let mut wire = packet[0].bytes().to_vec();
    wire[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    let opened = open(inbound(&far), &wire).expect("opened");
    let expected = {
        // ~(~0x1234 + ~(0x0a01 + 0x0001 + 0x0a02 + 0x0001) + 0xc000 + 0x0201 + 0xc000 + 0x0202), by hand.
        let sum = 0xedcb_u32 + u32::from(!0x1405_u16) + 0xc000 + 0x0201 + 0xc000 + 0x0202;
        !((sum & 0xffff) + (sum >> 16)) as u16
    };
    assert_eq!(opened[26..28], expected.to_be_bytes());
}

#[test]
fn one_key_in_two_files_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (folder.path().join("a.key"), folder.path().join("b.key"));
    key_file::create(&a, Algorithm::AES_256_GCM).expect("made");
    fs::copy(&a, &b).expect("copied");
    let errors = StaticKeys::read(&policy(folder.path(), 0, ""))
        .expect_err("the same key")
        .to_string();
    assert!(
        errors.contains(&format!("{} and {} hold the same key", a.display(), b.display())),
        "{errors}"
    );
}

#[test]
fn every_bad_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (folder.path().join("a.key"), folder.path().join("b.key"));
    key_file::create(&a, Algorithm::AES_256_GCM).expect("made");
    fs::set_permissions(&a, fs::Permissions::from_mode(0o644)).expect("mode set");
    let errors = StaticKeys::read(&policy(folder.path(), 0, "")).expect_err("two bad files");
    assert_eq!(errors.errors().len(), 2);
    let text = errors.to_string();
    assert!(text.contains(&format!("chmod 600 {}", a.display())), "{text}");
    assert!(text.contains(&format!("{}: cannot open", b.display())), "{text}");
}

#[test]
fn printing_shows_no_key() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.key", "b.key"] {
        key_file::create(&folder.path().join(name), Algorithm::AES_256_GCM).expect("made");
    }
    let keys = StaticKeys::read(&policy(folder.path(), 0, "")).expect("two keys");
    assert_eq!(format!("{keys:?}").matches("Secret(36 bytes)").count(), 2);
}

/// What a policy may change about a connection that runs, and what not.
#[test]
fn a_running_connection_keeps_its_sas_or_gets_other_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let fresh_keys = || {
        for name in ["a.key", "b.key"] {
            let _ = fs::remove_file(folder.path().join(name));
            key_file::create(&folder.path().join(name), Algorithm::AES_256_GCM).expect("made");
        }
    };
    fresh_keys();
    let state = Arc::new(StateFolder::open(&folder.path().join("state")).expect("a state folder"));
    let first = policy(folder.path(), 0, "");
    let keys = StaticKeys::read(&first).expect("two keys");
    let mut running = keys
        .start(&first, &state, Provider::preferred())
        .expect("started");
    let kept = |policy: &Policy, running: &[StaticConnection], old: Option<u64>| {
        let mut keys = StaticKeys::read(policy).expect("two keys");
        let holders = running.iter().map(|sas| match old {
            None => Holder::Current(sas),
            Some(seconds) => Holder::Old(sas, Duration::from_secs(seconds)),
        });
        keys.keep(policy, holders)
            .map(|()| keys)
            .map_err(|errors| errors.to_string())
    };
    for same in ["", "path-mtu = 1400"] {
        let policy = policy(folder.path(), 0, same);
        let keys = kept(&policy, &running, None).expect("nothing to start");
        assert_eq!(keys.count(), 0);
        assert!(
            keys.start(&policy, &state, Provider::preferred())
                .expect("nothing")
                .is_empty()
        );
    }

    assert!(
        kept(&policy(folder.path(), 0, "hop-limit = 63"), &running, None).is_err(),
        "headers are made once for an SA"
    );
    let longer = "[connections.c.static.lifetime]\nhard-bytes = 1000000";
    assert!(
        kept(&policy(folder.path(), 0, longer), &running, None).is_err(),
        "a life is given once"
    );
    let other = policy(folder.path(), 0, "encapsulation = \"udp\"");
    let errors = kept(&other, &running, None).expect_err("the old keys");
    for word in [
        "static.outbound.key-file",
        "a.key",
        "static.inbound.key-file",
        "b.key",
        "the running connection `c`",
        "Its other parameters have changed",
        "static.inbound.spi 0x00002001",
        "256 to 4294967295",
    ] {
        assert!(errors.contains(word), "`{word}` is missing in: {errors}");
    }
    // After a rekey the same keys and SPI are an old SA's for a while.
    let errors = kept(&first, &running, Some(7)).expect_err("an old SA's keys");
    assert_eq!(errors.lines().count(), 3, "{errors}");
    assert_eq!(
        errors.matches("an old SA of connection `c`").count(),
        3,
        "{errors}"
    );
    assert!(errors.contains("another 8 s"), "{errors}");

    // New keys, but the old SPIs.
    fresh_keys();
    let errors = kept(&first, &running, None).expect_err("the old SPIs");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("static.inbound.spi 0x00002001"), "{errors}");
    // Once the inbound SA is gone its SPI is free, and with either SA gone the keys are still not.
    running[0].remove_inbound();
    running[0].remove_outbound();
    assert_eq!(kept(&first, &running, None).expect("another key").count(), 1);
}

/// The limits of a policy are those of its SAs, and packets count for the key, whatever happens between them.
#[test]
fn a_lifetime_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.key", "b.key"] {
        key_file::create(&folder.path().join(name), Algorithm::AES_256_GCM).expect("made");
    }
    let lifetime = "[connections.c.static.lifetime]\nsoft-seconds = 500\nhard-seconds = 600\nhard-bytes = 100000\n\
                    hard-packets = 1500000\njitter-percent = 50";
    let policy = policy(folder.path(), 0, lifetime);
    let state = folder.path().join("state");
    let mut soft = Vec::new();
    for start_number in 0..3 {
        let sas = start(&policy, &state);
        let now = Instant::now();
        let status = outbound(&sas).lifetime(now);
        assert_eq!(status.seconds_limits.hard, Some(600));
        assert_eq!(status.bytes_limits.hard, Some(100_000));
        assert_eq!(status.packets_limits.hard, Some(1_500_000));
        soft.extend([status, inbound(&sas).lifetime(now)].map(|status| status.seconds_limits.soft));
        // What may have been sent was sent; nobody has reserved more than the SA may send.
        assert_eq!(status.packets, [0, 1 << 20, 1_500_000][start_number]);
        assert_eq!(
            outbound(&sas).sequence().ceiling(),
            [1 << 20, 1_500_000, 1_500_000][start_number]
        );
        if start_number < 2 {
            assert_eq!(seal(outbound(&sas)).0, status.packets + 1);
            assert_eq!(outbound(&sas).lifetime(now).bytes, 32);
        } else {
            assert_eq!(
                outbound(&sas).lifetime_event(now),
                Some(LifetimeEvent::Hard(Measure::Packets))
            );
        }
    }
    assert!(
        soft.iter()
            .all(|soft| (250..=500).contains(&soft.expect("a limit"))),
        "{soft:?}"
    );
    soft.dedup();
    assert!(soft.len() > 1, "each draws by itself: {soft:?}");
}

/// RFC 4301 section 4.4.2.1: a lifetime in bytes is that of the key, and no restart makes it longer.
#[test]
fn a_limit_of_bytes_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.key", "b.key"] {
        key_file::create(&folder.path().join(name), Algorithm::AES_256_GCM).expect("made");
    }
    let sides = [0, 1].map(|side| {
        policy(
            folder.path(),
            side,
            "[connections.c.static.lifetime]\nhard-bytes = 192",
        )
    });
    let now = Instant::now();
    for packets in 0..6_u64 {
        let states = ["near", "far"]
            .map(|name| Arc::new(StateFolder::open(&folder.path().join(name)).expect("a state folder")));
        let mut near = start_in(&sides[0], &states[0]);
        let mut far = start_in(&sides[1], &states[1]);
        let before = outbound(&near).lifetime(now).bytes;
        assert_eq!(before, inbound(&far).lifetime(now).bytes);
        assert!(before >= 32 * packets, "{before} bytes of {packets} packets");
        if outbound(&near).lifetime(now).reached == Some(LifetimeEvent::Hard(Measure::Bytes)) {
            // Each was counted twice at most.
            assert!(packets >= 3, "{packets}");
            return;
        }
        let (_, wire) = seal(outbound(&near));
        open(inbound(&far), &wire).expect("opened");
        for (sas, state) in [&mut near, &mut far].into_iter().zip(&states) {
            StaticConnection::record_bytes(state, [sas]).expect("recorded");
        }
    }
    panic!("the limit was never reached");
}

/// One write to disk makes any number of SAs ready, and each has its own mark.
#[test]
fn many_connections_start_together() {
    const COUNT: usize = 700;
    let folder = tempfile::tempdir().expect("a folder");
    let mut text = String::from(
        "[filter-lists.f]\nfilters = [{ source = \"any\", destination = \"10.2.0.0/16\" }]\n\
         [[rules]]\nname = \"r\"\nfilter-list = \"f\"\naction = \"protect\"\nconnection = \"c0\"\n",
    );
    for number in 0..COUNT {
        for (name, fill) in [("a", 0), ("b", COUNT)] {
            let file = folder.path().join(format!("{name}{number}.key"));
            fs::write(&file, format!("{:072x}", number + fill + 1)).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("mode set");
        }
        text.push_str(&format!(
            "[connections.c{number}]\nmode = \"tunnel\"\nlocal = \"192.0.2.1\"\nremote = \"198.18.{}.{}\"\n\
             [connections.c{number}.static]\nalgorithm = \"aes-256-gcm\"\n\
             outbound = {{ spi = {}, key-file = \"a{number}.key\" }}\ninbound = {{ spi = {}, key-file = \"b{number}.key\" }}\n",
            number >> 8,
            number & 255,
            number + 0x1000,
            number + 0x10000
        ));
    }
    let name = folder.path().join("policy.toml").display().to_string();
    let policy = Policy::parse(&text, &name)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .0;
    let state = folder.path().join("state");
    let mut used = vec![0; COUNT];
    for _ in 0..2 {
        let state = Arc::new(StateFolder::open(&state).expect("a state folder"));
        let keys = StaticKeys::read(&policy).expect("keys");
        let mut started = keys
            .start(&policy, &state, Provider::preferred())
            .expect("started");
        for (number, sas) in started.iter().enumerate() {
            for _ in 0..number % 3 {
                let (sequence, _) = seal(outbound(sas));
                assert!(sequence > used[number], "{number}");
                used[number] = sequence;
            }
        }
        StaticConnection::extend(&state, &mut started).expect("recorded");
    }
}

/// A mistake in a key file has its place in the policy, and a file that is wrong twice over has both.
#[test]
fn a_key_file_is_named_with_the_place_in_the_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (folder.path().join("a.key"), folder.path().join("b.key"));
    key_file::create(&a, Algorithm::AES_256_GCM).expect("made");
    let policy = policy(folder.path(), 0, "");
    let place = |line: usize, column: usize| {
        format!(
            "{}:{line}:{column}: ",
            folder.path().join("policy.toml").display()
        )
    };
    let refused = || {
        StaticKeys::read(&policy)
            .expect_err("must be refused")
            .to_string()
    };
    let mode = |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
    let (at_a, at_b) = (place(15, 12), place(16, 11));
    let start = format!("{at_b}{}: cannot open", b.display());
    assert!(refused().starts_with(&start), "{start}\n{}", refused());
    fs::write(&b, "xyz\n").expect("written");
    mode(&b, 0o600);
    let start = format!("{at_b}{}:1: only hexadecimal", b.display());
    assert!(refused().starts_with(&start), "{start}\n{}", refused());
    mode(&a, 0o644);
    let (first, second) = (format!("{at_a}{}: its mode", a.display()), format!("\n{start}"));
    assert!(
        refused().starts_with(&first) && refused().contains(&second),
        "{}",
        refused()
    );
    mode(&a, 0o600);
    fs::copy(&a, &b).expect("copied");
    let start = format!("{at_b}{} and {} hold the same key", a.display(), b.display());
    assert!(refused().starts_with(&start), "{start}\n{}", refused());
}
