//! 100,000 connections in use at once: each packet meets its own SAs, and none of them costs the others anything.

use std::fmt::Write as _;

use nix::time::{ClockId, clock_gettime};

use super::*;

const CONNECTIONS: u32 = 100_000;

/// The ends of ESP: the hub has one address, each spoke its own.
const HUB: [u8; 4] = [192, 0, 2, 1];

fn spoke(number: u32) -> [u8; 4] {
    let [_, a, b, c] = number.to_be_bytes();
    [100, 64 + a, b, c]
}

/// The one host behind a spoke. Behind the hub is 10.1.0.5.
fn host(number: u32) -> [u8; 4] {
    let [_, a, b, c] = number.to_be_bytes();
    [172, 16 + a, b, c]
}

/// One policy for the hub, and one for all spokes together.
fn policy_of(hub: bool) -> Policy {
    let mut text = String::from("default = \"block\"\n");
    for number in 0..CONNECTIONS {
        let (spoke, host) = (IpAddr::from(spoke(number)), IpAddr::from(host(number)));
        let (hub_end, hub_net) = (IpAddr::from(HUB), "10.1.0.0/16".to_owned());
        let (local, remote, source, destination) = if hub {
            (hub_end, spoke, hub_net, host.to_string())
        } else {
            (spoke, hub_end, host.to_string(), hub_net)
        };
        let (out, inward) = if hub {
            (0x100_0000, 0x200_0000)
        } else {
            (0x200_0000, 0x100_0000)
        };
        write!(
            text,
            "[filter-lists.c{number:06}]\nfilters = [{{ source = \"{source}\", destination = \"{destination}\" }}]\n\
             [[rules]]\nname = \"r{number:06}\"\nfilter-list = \"c{number:06}\"\naction = \"protect\"\nconnection = \"c{number:06}\"\n\
             [connections.c{number:06}]\nmode = \"tunnel\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n\
             [connections.c{number:06}.static]\nalgorithm = \"aes-256-gcm\"\n\
             outbound = {{ spi = {}, key-file = \"{number}.out\" }}\ninbound = {{ spi = {}, key-file = \"{number}.in\" }}\n",
            out + number,
            inward + number,
        )
        .unwrap();
    }
    let (policy, _) = Policy::parse(&text, "many").unwrap_or_else(|errors| panic!("{errors}"));
    policy
}

/// The SAs of a connection of the policy.
fn connection_of(definition: &policy::Connection, slot: u32) -> Arc<Connection> {
    let mode = Mode::Tunnel {
        local: definition.local,
        remote: definition.remote,
    };
    let sa = |spi: policy::Spi| {
        let mut key = [0x5a; 36];
        key[..4].copy_from_slice(&spi.value().to_be_bytes());
        SaParameters::new(spi.value(), mode, Algorithm::AES_256_GCM, Secret::copy_from(&key))
    };
    let (keys, now) = (&definition.keys, Instant::now());
    let outbound = OutboundSa::new(sa(keys.outbound.spi), Provider::AwsLc, 0, now).unwrap();
    outbound.sequence().raise_ceiling(1 << 20);
    let inbound = InboundSa::new(sa(keys.inbound.spi), Provider::AwsLc, 0, now).unwrap();
    let path = Arc::new(PathMtu::new(now));
    let (outbound, inbound) = (Some(outbound.into()), Some(inbound.into()));
    Arc::new(Connection::new(
        definition,
        (slot, 0),
        path,
        slot,
        outbound,
        inbound,
    ))
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// All connections with their SAs, rules and next hops; how long the SAs took to make, and what memory.
fn site(hub: bool) -> (Site, Duration, u64) {
    let policy = policy_of(hub);
    let rules = Arc::new(compile(&policy).unwrap());
    let started = Instant::now();
    let mut regime = None;
    let counted = allocation_counter::measure(|| {
        let numbered = policy.connections().iter().zip(0..);
        let connections = numbered.map(|(definition, slot)| connection_of(definition, slot));
        regime = Some(Regime::new(1, Arc::clone(&rules), connections, []));
    });
    let (made, memory) = (started.elapsed(), counted.bytes_current as u64);
    let regime = regime.unwrap();
    let hops: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            if hub {
                (Side::Outer, spoke(number), Hop::Ready(PEER_MAC))
            } else {
                (Side::Inner, host(number), Hop::Ready(HOST_MAC))
            }
        })
        .collect();
    let (adjacencies, questions) = Adjacencies::new(snapshot(1, &hops)).unwrap();
    let site = Site {
        definition: policy.connections()[0].clone(),
        shared: Shared::new(regime, adjacencies),
        rules,
        counters: WorkerCounters::new(CONNECTIONS),
        questions,
    };
    (site, made, memory)
}

/// A clear packet from behind the hub to the host behind a spoke.
fn frame_to(number: u32) -> Vec<u8> {
    let mut frame = clear_frame(&number.to_be_bytes(), 64);
    frame[30..34].copy_from_slice(&host(number));
    frame[24..26].fill(0);
    let sum = ipv4_header(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn take_all(end: &TwinEnd) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| end.take()).collect()
}

#[test]
fn a_hundred_thousand_connections_at_once() {
    const BATCH: usize = 64;
    let ((hub, made, memory), (spokes, ..)) = (site(true), site(false));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&hub, &umem1);
    let (mut two, inner2, outer2) = gateway(&spokes, &umem2);
    // Each once, with others of its batch from anywhere: no factor of their number.
    let order: Vec<u32> = (0..CONNECTIONS)
        .map(|at| (u64::from(at) * 7919 % u64::from(CONNECTIONS)) as u32)
        .collect();
    let mut busy = Duration::ZERO;
    for batch in order.chunks(BATCH) {
        for number in batch {
            inject(&inner1, Kind::Seal, *number, &frame_to(*number));
        }
        let before = processor_time();
        one.turn().unwrap();
        busy += processor_time() - before;
        let sealed = take_all(&outer1);
        assert_eq!(sealed.len(), batch.len());
        for frame in &sealed {
            let spi = u32::from_be_bytes(frame[34..38].try_into().unwrap());
            let number = spi - 0x100_0000;
            assert!(batch.contains(&number));
            assert_eq!(frame[30..34], spoke(number));
            inject(&outer2, Kind::OpenEsp, number, frame);
        }
        let before = processor_time();
        two.turn().unwrap();
        busy += processor_time() - before;
        let opened = take_all(&inner2);
        assert_eq!(opened.len(), batch.len());
        for frame in &opened {
            let number = u32::from_be_bytes(frame[42..46].try_into().unwrap());
            assert!(batch.contains(&number));
            assert_eq!(frame[30..34], host(number));
        }
    }
    for number in 0..CONNECTIONS {
        assert_eq!(spokes.counters.rule(number).packets, 1);
        let (hub, spokes) = (hub.shared.regime(), spokes.shared.regime());
        let outbound = hub.connection(number).unwrap().outbound.as_ref().unwrap();
        assert_eq!(outbound.sa.counters().packets, 1);
        assert_eq!(spokes.inbound(number).unwrap().sa.counters().packets, 1);
    }
    let all = CONNECTIONS as usize;
    assert_eq!(
        (
            hub.shared.sealed.take().count(),
            spokes.shared.opened.take().count()
        ),
        (all, all)
    );

    // As many packets of one connection.
    let mut alone = Duration::ZERO;
    for _ in order.chunks(BATCH) {
        for _ in 0..BATCH {
            inject(&inner1, Kind::Seal, 0, &frame_to(0));
        }
        let before = processor_time();
        one.turn().unwrap();
        alone += processor_time() - before;
        for frame in take_all(&outer1) {
            inject(&outer2, Kind::OpenEsp, 0, &frame);
        }
        let before = processor_time();
        two.turn().unwrap();
        alone += processor_time() - before;
        assert_eq!(take_all(&inner2).len(), BATCH);
    }
    // Cold caches and batches of one cost something; looking through all of them would cost a hundred times that.
    let each = |time: Duration| time.as_nanos() / u128::from(CONNECTIONS);
    eprintln!(
        "{CONNECTIONS} connections: made in {made:?}, {} bytes each; a packet sealed and opened takes {} ns, {} ns of one \
         connection alone",
        memory / u64::from(CONNECTIONS),
        each(busy),
        each(alone)
    );
    assert!(each(busy) < 20 * each(alone).max(1000), "{busy:?} {alone:?}");
    assert!(memory < u64::from(CONNECTIONS) * 16_384, "{memory}");
}
