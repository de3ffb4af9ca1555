//! Scripts as administrators wrote them, and ones as nobody should.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod golden;

use std::fmt::Write as _;
use std::net::IpAddr;

use ravelin_classifier::reference::{Packet, Transport, classify};
use ravelin_import::{Imported, NetshOptions, Source, netsh};
use ravelin_policy::{Action, Mode, Policy, Surroundings};
use ravelin_xdp_common::{Decision, Direction};

fn options(local: &[&str]) -> NetshOptions {
    NetshOptions {
        local: local.iter().map(|address| address.parse().unwrap()).collect(),
        assign: None,
    }
}

fn import_bytes(name: &str, bytes: &[u8], options: &NetshOptions) -> Imported {
    let source = Source::decode(name, bytes).unwrap();
    netsh(&source, options).unwrap_or_else(|error| panic!("{error}"))
}

fn import(text: &str) -> Imported {
    import_bytes("s", text.as_bytes(), &NetshOptions::default())
}

fn refusal(text: &str) -> String {
    let source = Source::decode("s", text.as_bytes()).unwrap();
    netsh(&source, &NetshOptions::default())
        .expect_err("an error")
        .to_string()
}

fn policy(imported: &Imported, own: &str) -> Policy {
    let (policy, _) = Policy::parse(&imported.policy, "p").unwrap();
    let surroundings = Surroundings {
        own: vec![own.parse().unwrap()],
        ..Surroundings::default()
    };
    policy.resolve(&surroundings).unwrap().0
}

const SECURE_SERVER: &[u8] = include_bytes!("netsh/secure-server.cmd");
const SITE_TO_SITE: &[u8] = include_bytes!("netsh/site-to-site.netsh");
const L2TP: &[u8] = include_bytes!("netsh/l2tp.cmd");

fn compare(name: &str, imported: &Imported) {
    let mut warnings = String::new();
    for warning in &imported.warnings {
        let _ = writeln!(
            warnings,
            "{}{warning}",
            if warning.loss { "loss: " } else { "note: " }
        );
    }
    golden::compare_text("netsh", &format!("{name}.toml"), &imported.policy);
    golden::compare_text("netsh", &format!("{name}.warnings"), &warnings);
}

#[test]
fn realistic_scripts_become_these_policies() {
    let imported = import_bytes("secure-server.cmd", SECURE_SERVER, &options(&["10.1.5.1"]));
    compare("secure-server", &imported);
    let imported = import_bytes("site-to-site.netsh", SITE_TO_SITE, &NetshOptions::default());
    compare("site-to-site", &imported);
    let imported = import_bytes("l2tp.cmd", L2TP, &options(&["203.0.113.1"]));
    compare("l2tp", &imported);
}

#[test]
fn preshared_keys_are_never_repeated() {
    for script in [SECURE_SERVER, L2TP] {
        for options in [NetshOptions::default(), options(&["10.1.5.1"])] {
            let imported = import_bytes("s", script, &options);
            let warnings: Vec<String> = imported.warnings.iter().map(ToString::to_string).collect();
            let all = imported.policy + &warnings.concat();
            assert!(!all.contains("horse") && !all.contains("Winter"), "{all}");
            assert!(all.contains("preshared key"), "{all}");
        }
    }
    for mistake in [
        "activate=maybe psk=hunter2",
        "psk hunter2",
        "psk= hunter2",
        "\"psk=hunter2",
        "kerberos=hunter2 psk=x",
        "psk=hunter2 psk=hunter2",
        "tunnel=1.2.3.999 psk=hunter2",
    ] {
        let script =
            format!("netsh ipsec static add rule name=r policy=p filterlist=f filteraction=a {mistake}");
        // A line broken in two, and an argument where a command should be.
        let script = format!(
            "{script}\npsk=hunter2\nnetsh ipsec psk=hunter2\nnetsh psk=hunter2\nnetsh ipsec static psk=hunter2"
        );
        let told = match netsh(
            &Source::decode("s", script.as_bytes()).unwrap(),
            &NetshOptions::default(),
        ) {
            Ok(imported) => format!("{imported:?}"),
            Err(error) => error.to_string(),
        };
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn what_windows_saves_is_read_the_same() {
    let plain = std::str::from_utf8(SITE_TO_SITE).unwrap();
    let crlf = plain.replace('\n', "\r\n");
    let utf16: Vec<u8> = std::iter::once(0xfeff)
        .chain(crlf.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let expected = import_bytes("s", SITE_TO_SITE, &NetshOptions::default());
    assert_eq!(
        import_bytes("s", crlf.as_bytes(), &NetshOptions::default()),
        expected
    );
    assert_eq!(import_bytes("s", &utf16, &NetshOptions::default()), expected);
}

#[test]
fn a_local_address_turns_the_tunnel_round() {
    let here = |local: &[&str]| {
        let (policy, _) =
            Policy::parse(&import_bytes("s", SITE_TO_SITE, &options(local)).policy, "p").unwrap();
        let connection = &policy.connections()[0];
        assert_eq!((policy.connections().len(), connection.mode), (1, Mode::Tunnel));
        let filter = policy.filters(&policy.rules()[0])[0].to_string();
        (
            connection.local.to_string(),
            connection.remote.to_string(),
            filter,
        )
    };
    let amsterdam = (
        "192.0.2.1".to_owned(),
        "192.0.2.2".to_owned(),
        "10.1.0.0/16 -> 10.2.0.0/16".to_owned(),
    );
    assert_eq!(here(&[]), amsterdam);
    assert_eq!(here(&["192.0.2.1"]), amsterdam);
    let berlin = (
        "192.0.2.2".to_owned(),
        "192.0.2.1".to_owned(),
        "10.2.0.0/16 -> 10.1.0.0/16".to_owned(),
    );
    assert_eq!(here(&["192.0.2.2"]), berlin);
}

#[test]
fn what_cannot_be_protected_is_closed() {
    let imported = import_bytes("s", SECURE_SERVER, &options(&["10.1.5.1"]));
    let policy = policy(&imported, "10.1.5.1");
    let judge = |source: &str, destination: &str, protocol, ports: (u16, u16), direction| {
        let packet = Packet {
            source: source.parse::<IpAddr>().unwrap(),
            destination: destination.parse::<IpAddr>().unwrap(),
            protocol,
            transport: Transport::Ports(ports.0, ports.1),
        };
        classify(&policy, &packet, direction).decision
    };
    let (me, out, inb) = ("10.1.5.1", Direction::Outbound, Direction::Inbound);
    assert_eq!(judge(me, "10.1.0.10", 6, (40_000, 389), out), Decision::Permit);
    assert_eq!(judge("10.1.0.10", me, 6, (389, 40_000), inb), Decision::Permit);
    assert_eq!(judge("10.1.2.77", me, 6, (50_000, 3389), inb), Decision::Permit);
    assert_eq!(judge("10.1.3.77", me, 6, (50_000, 3389), inb), Decision::Block);
    assert_eq!(judge(me, "10.1.5.20", 6, (1433, 50_000), out), Decision::Protect);
    assert_eq!(judge("10.1.5.20", me, 6, (50_000, 1433), inb), Decision::Protect);
    assert_eq!(judge(me, "198.51.100.1", 6, (50_000, 443), out), Decision::Block);
    assert_eq!(judge(me, "198.51.100.1", 1, (8, 0), out), Decision::Permit);
}

#[test]
fn objects_are_changed_and_deleted_as_netsh_does() {
    let script = "\
netsh ipsec static add policy name=p
netsh ipsec static add filterlist name=l
netsh ipsec static add filter filterlist=l srcaddr=any dstaddr=me protocol=tcp dstport=80
netsh ipsec static add filter filterlist=l srcaddr=any dstaddr=me protocol=tcp dstport=81
netsh ipsec static delete filter filterlist=L srcaddr=any dstaddr=me protocol=TCP dstport=80
netsh ipsec static add filteraction name=a action=block
netsh ipsec static add rule name=r policy=p filterlist=l filteraction=a
netsh ipsec static add rule name=gone policy=p filterlist=l filteraction=a
netsh ipsec static delete rule name=gone policy=p
netsh ipsec static set filterlist name=l newname=\"web servers\"
netsh ipsec static set filteraction name=a newname=b action=permit
netsh ipsec static set rule name=r policy=p newname=web activate=no
netsh ipsec static set policy name=p newname=q assign=y
";
    let imported = import(script);
    assert!(!imported.is_lossy(), "{:?}", imported.warnings);
    let (policy, _) = Policy::parse(&imported.policy, "p").unwrap();
    let [rule] = policy.rules() else {
        panic!("{}", imported.policy)
    };
    assert_eq!(
        (rule.name.as_str(), rule.action, rule.active),
        ("web", Action::Permit, false)
    );
    assert_eq!(policy.filter_lists()[0].name, "web servers");
    assert!(
        imported.policy.contains("destination-port = 81")
            && !imported.policy.contains("destination-port = 80")
    );
    let emptied = import(&format!("{script}netsh ipsec static delete all\n"));
    assert!(!emptied.policy.contains("[[rules]]"), "{}", emptied.policy);
}

#[test]
fn without_an_assigned_policy_nothing_is_active() {
    let script = "netsh ipsec static add policy p\n\
        netsh ipsec static add rule r p \"All IP Traffic\" Permit\n";
    assert!(import(script).policy.contains("active = false"));
    let assigned = NetshOptions {
        assign: Some("P".to_owned()),
        ..NetshOptions::default()
    };
    let imported = import_bytes("s", script.as_bytes(), &assigned);
    assert!(!imported.policy.contains("active = false"), "{}", imported.policy);
    let wrong = NetshOptions {
        assign: Some("x".to_owned()),
        ..NetshOptions::default()
    };
    let error = netsh(&Source::decode("s", script.as_bytes()).unwrap(), &wrong)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no policy `x`") && error.contains("`p`"),
        "{error}"
    );
}

#[test]
fn mistakes_are_told_with_their_lines() {
    for (script, told) in [
        (
            "netsh ipsec static add filter filterlist=a srcaddr=10.0.0.300 dstaddr=me",
            "s:1: `10.0.0.300` is no address",
        ),
        (
            "\nnetsh ipsec static add filter filterlist=a srcaddr=me",
            "s:2: dstaddr= is missing",
        ),
        (
            "netsh ipsec static add filter filterlist=a srcaddr=me dstaddr=any dstport=80",
            "s:1: ports need protocol",
        ),
        (
            "netsh ipsec static add filter filterlist=a srcaddr=me dstaddr=any protocol=tcp dstport=70000",
            "dstport=",
        ),
        (
            "netsh ipsec static add filter filterlist=a srcaddr=10.0.0.1 dstaddr=2001:db8::1",
            "IPv4 and dstaddr= IPv6",
        ),
        (
            "netsh ipsec static add filter filterlist=a src=me dstaddr=any",
            "`src` is ambiguous here: srcaddr or srcmask or srcport",
        ),
        ("netsh ipsec static frobnicate", "`frobnicate` is not known here"),
        (
            "netsh ipsec static add filteraction name=a action=negotiate qmsec=ESP[ROT13,SHA1]",
            "is no security method",
        ),
        (
            "netsh ipsec static add policy name=\"x",
            "a quotation mark is not closed",
        ),
        ("netsh ipsec static add policy ^", "nothing follows"),
        (
            "netsh ipsec dynamic set config property=ipsecexempt value=7",
            "ipsecexempt is 0, 1, 2 or 3",
        ),
        (
            "netsh ipsec static add filter filterlist=a srcaddr=%IP% dstaddr=me",
            "variable",
        ),
    ] {
        let error = refusal(script);
        assert!(error.contains(told), "{error}\nis not {told}");
    }
}

#[test]
fn hostile_scripts_end_soon() {
    let add = "netsh ipsec static add filter l me any\n";
    let long_list = add.repeat(200_000);
    let rules: String = (0..2_000)
        .map(|n| format!("netsh ipsec static add rule r{n} p l a\n"))
        .collect();
    let script = format!(
        "netsh ipsec static add policy p\nnetsh ipsec static add filteraction a action=negotiate soft=yes\n{long_list}{rules}"
    );
    assert!(refusal(&script).contains("too many rules negotiate"));
    let deletions = "netsh ipsec static delete filter l 1.1.1.1 2.2.2.2\n".repeat(2_000);
    assert!(refusal(&format!("{long_list}{deletions}")).contains("too much is deleted"));
    assert!(refusal(&"^\n".repeat(300_000)).contains("nothing follows"));
    assert!(refusal(&"x^\n".repeat(300_000)).contains("longer than"));
    let pushes = "pushd ipsec static\n".repeat(100_000);
    assert!(!import(&pushes).is_lossy());
}
