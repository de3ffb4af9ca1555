//! How long the SAs of a connection may be used (RFC 4301 section 4.4.2.1).

use ravelin_gcm::{Algorithm, KeyUsage};

use crate::diagnostic::Report;
use crate::reader::{Node, Table};
use crate::schema::{Key, Kind, Literal, TableSpec};

/// The longest life in seconds: 136 years.
const MOST_SECONDS: i64 = u32::MAX as i64;

pub(crate) static LIFETIME: TableSpec = TableSpec {
    what: "a lifetime",
    id: "lifetime",
    keys: &[
        Key::optional(
            "soft-seconds",
            Kind::Integer(1, MOST_SECONDS),
            "Warn so many seconds after the start; nine tenths of hard-seconds",
        ),
        Key::optional(
            "hard-seconds",
            Kind::Integer(1, MOST_SECONDS),
            "Stop so many seconds after the start",
        ),
        Key::optional(
            "soft-bytes",
            Kind::Integer(1, i64::MAX),
            "Warn after so many encrypted bytes; nine tenths of hard-bytes",
        ),
        Key::optional(
            "hard-bytes",
            Kind::Integer(1, i64::MAX),
            "Stop before more encrypted bytes; what the algorithm bears",
        ),
        Key::optional(
            "soft-packets",
            Kind::Integer(1, i64::MAX),
            "Warn after so many packets; nine tenths of hard-packets",
        ),
        Key::optional(
            "hard-packets",
            Kind::Integer(1, i64::MAX),
            "Stop before more packets; what the algorithm bears",
        ),
        Key::default(
            "jitter-percent",
            Kind::Integer(0, 50),
            Literal::Integer(0),
            "Each SA warns earlier by up to so many per cent, drawn by lot",
        ),
    ],
};

/// Limits of each SA of a connection. Whichever is reached first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// Seconds from the start of the SA.
    pub seconds: Limits,
    /// Bytes encrypted, padding included.
    pub bytes: Limits,
    /// Packets.
    pub packets: Limits,
    /// By how many per cent at most soft limits come earlier, 0 to 50.
    pub jitter_percent: u8,
}

/// A soft limit, which warns, and a hard one, which stops; neither is 0, and the soft one is not beyond the hard one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// `None` is nine tenths of the hard limit.
    pub soft: Option<u64>,
    /// `None` is what the algorithm bears, for seconds no limit.
    pub hard: Option<u64>,
}

impl Lifetime {
    /// `algorithm` and `esn` are those of the SAs, if they could be read.
    pub(crate) fn read(
        report: &mut Report<'_>,
        node: Node<'_>,
        algorithm: Option<Algorithm>,
        esn: Option<bool>,
    ) -> Option<Self> {
        let table = node.table(report, &LIFETIME)?;
        let seconds = Limits::read(report, &table, ["soft-seconds", "hard-seconds"]);
        let bytes = Limits::read(report, &table, ["soft-bytes", "hard-bytes"]);
        let packets = Limits::read(report, &table, ["soft-packets", "hard-packets"]);
        let jitter_percent = table.integer(report, "jitter-percent");
        let lifetime = Self {
            seconds: seconds?,
            bytes: bytes?,
            packets: packets?,
            jitter_percent: jitter_percent??,
        };
        if let (Some(algorithm), Some(esn)) = (algorithm, esn) {
            lifetime.check(report, &table, algorithm, esn);
        }
        Some(lifetime)
    }

    /// Reports limits that an SA with this algorithm would not live to see.
    fn check(&self, report: &mut Report<'_>, table: &Table<'_>, algorithm: Algorithm, esn: bool) {
        let most = KeyUsage::most(algorithm);
        let numbers = if esn { u64::MAX } else { u32::MAX.into() };
        let packets = most.packets.min(numbers);
        let reason = if packets < most.packets {
            "has with `esn = false`".to_owned()
        } else {
            format!("may have with {algorithm}")
        };
        let by_algorithm = format!("may have with {algorithm}");
        for (key, limit, most, reason) in [
            ("soft-bytes", self.bytes.soft, most.bytes, &by_algorithm),
            ("hard-bytes", self.bytes.hard, most.bytes, &by_algorithm),
            ("soft-packets", self.packets.soft, packets, &reason),
            ("hard-packets", self.packets.hard, packets, &reason),
        ] {
            if limit.is_some_and(|limit| limit > most)
                && let Some(node) = table.optional(key)
            {
                let message =
                    format!("{key} is beyond the {most} that one key {reason}; use less, or leave it out");
                report.error(&node.span(), message);
            }
        }
    }
}

impl Limits {
    fn read(report: &mut Report<'_>, table: &Table<'_>, [soft_key, hard_key]: [&str; 2]) -> Option<Self> {
        let (soft, hard) = (table.integer(report, soft_key), table.integer(report, hard_key));
        let (soft, hard): (Option<u64>, Option<u64>) = (soft?, hard?);
        if let (Some(soft), Some(hard)) = (soft, hard)
            && soft > hard
            && let Some(node) = table.optional(soft_key)
        {
            report.error(
                &node.span(),
                format!("{soft_key} = {soft} would warn after {hard_key} = {hard} has stopped the SA; use at most {hard}"),
            );
            return None;
        }
        Some(Self { soft, hard })
    }
}
