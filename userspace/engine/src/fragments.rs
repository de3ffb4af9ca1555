//! The memory of first fragments after decryption: whether a later fragment may come in is what was decided about the
//! first one of its datagram.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use ravelin_xdp_common::{FragmentKey, FragmentRecord, Header, IpPacket, Place, Verdict};

/// Datagrams that a worker remembers at a time; a newer one takes the place of an older.
const SLOTS: usize = 1 << 10;

/// First fragments by datagram: a direct-mapped table. Without a record the strict rule for fragments applies, so that
/// losing one only drops more.
#[derive(Debug)]
pub(crate) struct Fragments {
    slots: Box<[Option<(FragmentKey, FragmentRecord)>]>,
    started: Instant,
}

impl Fragments {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            slots: vec![None; SLOTS].into_boxed_slice(),
            started: now,
        }
    }

    /// What holds for a fragment under the rule set with this header; `classify` says what the filters say.
    pub(crate) fn judge(
        &mut self,
        packet: &IpPacket,
        header: &Header,
        now: Instant,
        classify: impl FnOnce() -> Verdict,
    ) -> Verdict {
        let key = FragmentKey::of(packet, Place::Opened);
        let now = u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX);
        let slot = &mut self.slots[index(&key)];
        let known = slot
            .filter(|(known, record)| *known == key && record.is_live(header.generation, now))
            .map(|(_, record)| record);
        if packet.fragment_offset != 0 {
            return known.map_or_else(classify, |record| record.verdict(packet, header));
        }
        if known.is_some_and(|record| record.contradicts(packet, now)) {
            return Verdict::overlap(header);
        }
        let verdict = classify();
        *slot = Some((key, FragmentRecord::new(packet, &verdict, header.generation, now)));
        verdict
    }
}

fn index(key: &FragmentKey) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ravelin_xdp_common::{Action, Decision, Roots};

    use super::*;

    const HEADER: Header = Header {
        generation: 7,
        verdicts: 0,
        roots: Roots {
            v4: 0,
            v4_fragment: 0,
            v6: 0,
            v6_fragment: 0,
        },
        default_action: Action::Block,
        non_ip: Action::Block,
        exemptions: 3,
        flags: 0,
    };

    fn piece(id: u32, offset: u16, length: u16) -> IpPacket {
        IpPacket {
            fragment: true,
            fragment_id: id,
            fragment_offset: offset,
            fragment_length: length,
            ..IpPacket::EMPTY
        }
    }

    fn verdict(decision: Decision) -> Verdict {
        Verdict {
            rule_id: 1,
            connection: 0,
            decision,
            accept_unsecured: false,
            audit: false,
        }
    }

    #[test]
    fn the_first_fragment_decides_for_its_datagram_only() {
        let start = Instant::now();
        let mut fragments = Fragments::new(start);
        let unknown = || verdict(Decision::FragmentUnknown);
        // Before the first, nothing is known.
        let early = fragments.judge(&piece(1, 1480, 100), &HEADER, start, unknown);
        assert_eq!(early.decision, Decision::FragmentUnknown);
        let first = fragments.judge(&piece(1, 0, 1480), &HEADER, start, || verdict(Decision::Protect));
        assert_eq!(first.decision, Decision::Protect);
        let judge = |fragments: &mut Fragments, packet, header: &Header, now| {
            fragments.judge(&packet, header, now, unknown).decision
        };
        assert_eq!(
            judge(&mut fragments, piece(1, 1480, 100), &HEADER, start),
            Decision::Protect
        );
        assert_eq!(
            judge(&mut fragments, piece(1, 1472, 100), &HEADER, start),
            Decision::FragmentOverlap
        );
        assert_eq!(
            judge(&mut fragments, piece(2, 1480, 100), &HEADER, start),
            Decision::FragmentUnknown
        );
        // Another first fragment of another length, a moment later and after a while.
        assert_eq!(
            judge(&mut fragments, piece(1, 0, 1400), &HEADER, start),
            Decision::FragmentOverlap
        );
        let later = start + Duration::from_secs(3);
        assert_eq!(
            judge(&mut fragments, piece(1, 0, 1400), &HEADER, later),
            Decision::FragmentUnknown
        );
        // Another rule set, and too late.
        let swapped = Header {
            generation: 8,
            ..HEADER
        };
        fragments.judge(&piece(3, 0, 1480), &HEADER, start, || verdict(Decision::Protect));
        assert_eq!(
            judge(&mut fragments, piece(3, 1480, 100), &swapped, start),
            Decision::FragmentUnknown
        );
        let late = start + Duration::from_secs(31);
        assert_eq!(
            judge(&mut fragments, piece(3, 1480, 100), &HEADER, late),
            Decision::FragmentUnknown
        );
    }
}
