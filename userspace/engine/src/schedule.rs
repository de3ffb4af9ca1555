//! When keepalives and dummies are due.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use crate::errand::{Errand, Errands};
use crate::regime::Regime;

/// How often connections are looked at for silence.
const LOOK: Duration = Duration::from_secs(1);

/// How often dummies are handed out at most: the thread has other things to do.
const STEP: Duration = Duration::from_millis(1);

/// How much of what was missed while the thread was busy is made up for.
const MISSED: Duration = Duration::from_millis(100);

/// When the connections in force are to send something by themselves.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// The generation of the connections that it was made for.
    generation: u32,
    looked: Instant,
    quiet: HashMap<u32, Quiet>,
    dummies: Vec<Dummies>,
    /// When dummies were handed out last.
    handed: Instant,
    /// Makes the gaps between dummies hard to foresee.
    random: RandomState,
    drawn: u64,
}

/// How long the connection in a slot has sent nothing.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    /// When it was seen to send something, or its last keepalive.
    since: Instant,
    /// After how long a keepalive is due.
    limit: Duration,
}

/// The dummies of one connection.
#[derive(Debug)]
struct Dummies {
    slot: u32,
    /// Mean time from one to the next.
    gap: Duration,
    due: Instant,
}

impl Schedule {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            generation: 0,
            looked: now,
            quiet: HashMap::new(),
            dummies: Vec::new(),
            handed: now,
            random: RandomState::new(),
            drawn: 0,
        }
    }

    /// When dummies are to be handed out next.
    pub(crate) fn next_dummy(&self) -> Option<Instant> {
        let due = self.dummies.iter().map(|one| one.due).min()?;
        Some(due.max(self.handed + STEP))
    }

    /// Hands out what is due; returns whether that was anything. To be called about every 100 ms, and when a dummy is due.
    pub(crate) fn hand_out(&mut self, regime: &Regime, errands: &Errands, now: Instant) -> bool {
        if self.generation != regime.generation() {
            self.generation = regime.generation();
            self.follow(regime, now);
        }
        let dummies = self.hand_out_dummies(errands, now);
        if now.duration_since(self.looked) < LOOK {
            return dummies;
        }
        self.looked = now;
        self.hand_out_keepalives(regime, errands, now) || dummies
    }

    /// Takes up other connections.
    fn follow(&mut self, regime: &Regime, now: Instant) {
        let quiet = std::mem::take(&mut self.quiet);
        let since = |slot| quiet.get(&slot).map_or(now, |quiet| quiet.since);
        self.quiet = regime
            .connections()
            .filter_map(|one| {
                let limit = one.settings.nat.keepalive?;
                let since = since(one.slot);
                Some((one.slot, Quiet { since, limit }))
            })
            .collect();
        let before: HashMap<u32, Instant> = self.dummies.iter().map(|one| (one.slot, one.due)).collect();
        let rates = regime.connections().filter(|one| one.settings.dummy_packets != 0);
        self.dummies = rates
            .map(|one| Dummies {
                slot: one.slot,
                gap: Duration::from_secs(1) / u32::from(one.settings.dummy_packets),
                due: before.get(&one.slot).copied().unwrap_or(now),
            })
            .collect();
    }

    /// RFC 3948 section 4: a keepalive is sent "if no other packet to the peer has been sent in M seconds".
    fn hand_out_keepalives(&mut self, regime: &Regime, errands: &Errands, now: Instant) -> bool {
        let mut any = false;
        for (slot, quiet) in &mut self.quiet {
            let connection = regime.connection(*slot);
            let Some(outbound) = connection.and_then(|one| one.outbound.as_ref()) else {
                continue;
            };
            if let Some(used) = outbound.sa.last_used() {
                quiet.since = quiet.since.max(used);
            }
            // Without room for it the keepalive stays due.
            if now.saturating_duration_since(quiet.since) >= quiet.limit
                && errands.send(Errand::Keepalive { slot: *slot })
            {
                quiet.since = now;
                any = true;
            }
        }
        any
    }

    fn hand_out_dummies(&mut self, errands: &Errands, now: Instant) -> bool {
        self.handed = now;
        let mut any = false;
        for one in &mut self.dummies {
            if let Some(earliest) = now.checked_sub(MISSED) {
                one.due = one.due.max(earliest);
            }
            while one.due <= now {
                any = true;
                errands.send(Errand::Dummy { slot: one.slot });
                self.drawn = self.drawn.wrapping_add(1);
                // Up to twice the mean, and more than nothing, so that this ends.
                let share = self.random.hash_one(self.drawn) % 2000 + 1;
                one.due += one.gap * share as u32 / 1000;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use ravelin_classifier::compile;
    use ravelin_esp::{DropReason, Packet};
    use ravelin_policy::Policy;

    use super::{Errand, Errands, Regime, Schedule};
    use crate::connection::{Connection, sample};

    fn regime(generation: u32, connections: impl IntoIterator<Item = Connection>) -> Regime {
        let (policy, _) = Policy::parse("default = \"block\"", "test").unwrap();
        let rules = Arc::new(compile(&policy).unwrap());
        Regime::new(generation, rules, connections.into_iter().map(Arc::new), [])
    }

    /// Walks through time in steps of 100 ms, as the engine does, and when a dummy is due; returns what was handed out, when.
    fn walk(
        schedule: &mut Schedule,
        regime: &Regime,
        start: Instant,
        seconds: u64,
    ) -> Vec<(Duration, Errand)> {
        let errands = Errands::new();
        let mut handed = Vec::new();
        let (mut now, mut tick) = (start, start);
        while now < start + Duration::from_secs(seconds) {
            schedule.hand_out(regime, &errands, now);
            handed.extend(errands.waiting().map(|errand| (now - start, errand)));
            if now >= tick {
                tick += Duration::from_millis(100);
            }
            now = schedule.next_dummy().map_or(tick, |due| due.min(tick));
        }
        handed
    }

    fn seal(regime: &Regime, now: Instant) {
        let mut buffer = [0; 200];
        buffer[100] = 0x45;
        buffer[103] = 20;
        let mut packet = [Packet::new(&mut buffer, 100..120).unwrap()];
        let mut outcome = [Err(DropReason::SaMissing)];
        let outbound = regime.connection(0).unwrap().outbound.as_ref().unwrap();
        outbound.sa.seal_batch(&mut packet, &mut outcome, now);
        outcome[0].unwrap();
    }

    fn seconds(handed: &[(Duration, Errand)]) -> Vec<u64> {
        handed
            .iter()
            .map(|(when, _)| when.as_millis() as u64 / 1000)
            .collect()
    }

    /// RFC 3948 section 4.
    #[test]
    fn a_keepalive_is_due_when_nothing_was_sent_for_so_long() {
        let start = Instant::now();
        let udp = "encapsulation = \"udp\"";
        let connections = [
            sample(0, udp),
            sample(1, &format!("{udp}\nnat-keepalive = 0")),
            sample(2, ""),
        ];
        let regime = regime(1, connections);
        let mut schedule = Schedule::new(start);
        let handed = walk(&mut schedule, &regime, start, 61);
        assert!(
            handed
                .iter()
                .all(|(_, errand)| *errand == Errand::Keepalive { slot: 0 }),
            "{handed:?}"
        );
        assert_eq!(seconds(&handed), [20, 40, 60]);
    }

    /// Many connections fall silent together when the engine starts.
    #[test]
    fn keepalives_without_room_stay_due() {
        let start = Instant::now();
        let lines = "encapsulation = \"udp\"\nnat-keepalive = 5";
        let regime = regime(1, [sample(0, lines)]);
        let mut schedule = Schedule::new(start);
        let errands = Errands::new();
        while errands.send(Errand::Keepalive { slot: 9 }) {}
        schedule.hand_out(&regime, &errands, start);
        assert!(!schedule.hand_out(&regime, &errands, start + Duration::from_secs(5)));
        assert!(
            errands
                .waiting()
                .all(|errand| errand == Errand::Keepalive { slot: 9 })
        );
        schedule.hand_out(&regime, &errands, start + Duration::from_secs(6));
        assert!(errands.waiting().eq([Errand::Keepalive { slot: 0 }]));
    }

    #[test]
    fn what_was_sent_puts_the_keepalive_off() {
        let start = Instant::now();
        let regime = regime(1, [sample(0, "encapsulation = \"udp\"\nnat-keepalive = 5")]);
        let mut schedule = Schedule::new(start);
        assert!(walk(&mut schedule, &regime, start, 4).is_empty());
        let sent = start + Duration::from_secs(4);
        seal(&regime, sent);
        assert_eq!(seconds(&walk(&mut schedule, &regime, sent, 7)), [5]);
    }

    #[test]
    fn dummies_come_at_their_rate_and_at_odd_moments() {
        let start = Instant::now();
        let padded = "tfc-padding = 100";
        let connections = [
            sample(0, &format!("{padded}\ndummy-packets = 50")),
            sample(1, &format!("{padded}\ndummy-packets = 1000")),
            sample(2, padded),
        ];
        let regime_1 = regime(1, connections);
        let mut schedule = Schedule::new(start);
        let handed = walk(&mut schedule, &regime_1, start, 20);
        for (slot, expected) in [(0, 1000), (1, 20_000), (2, 0)] {
            let times: Vec<Duration> = handed
                .iter()
                .filter(|(_, errand)| *errand == Errand::Dummy { slot })
                .map(|(when, _)| *when)
                .collect();
            let count = times.len();
            assert!(
                count * 10 <= expected * 11 && count * 10 >= expected * 9,
                "{slot}: {count}"
            );
            let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
            let distinct: std::collections::HashSet<Duration> = gaps.collect();
            assert!(
                distinct.len() >= expected / 200,
                "{slot}: {} gaps",
                distinct.len()
            );
        }
        // The thread was away for a minute: a tenth of a second is made up for.
        let later = start + Duration::from_secs(80);
        let errands = Errands::new();
        schedule.hand_out(&regime_1, &errands, later);
        let made_up = errands
            .waiting()
            .filter(|errand| *errand == Errand::Dummy { slot: 1 });
        assert!((60..150).contains(&made_up.count()));
        schedule.hand_out(&regime(2, []), &errands, later);
        assert_eq!(schedule.next_dummy(), None);
        assert_eq!(errands.waiting().next(), None);
    }
}
