//! Traffic classes on the way out of a tunnel: explicit congestion notification by RFC 6040, DSCP as configured.

use ravelin_xdp_common::DropReason;

use crate::outer_options::DSCP_MASK;

const ECN_MASK: u8 = !DSCP_MASK;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The traffic class of a decapsulated packet: ECN by RFC 6040 section 4.2, figure 4; of the rest, the bits of
/// `dscp_copied` are the outer header's.
///
/// # Errors
/// `EcnNotCapable`: congestion was met, and the inner transport would not understand the mark; "drop" is the signal.
pub(crate) fn decapsulate(outer: u8, inner: u8, dscp_copied: u8) -> Result<u8, DropReason> {
    let ecn = match (outer & ECN_MASK, inner & ECN_MASK) {
        (CE, NOT_ECT) => return Err(DropReason::EcnNotCapable),
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        (_, ecn) => ecn,
    };
    Ok(outer & dscp_copied | inner & !dscp_copied & DSCP_MASK | ecn)
}

/// Whether no ingress and no router that obeys RFC 6040 could have made this pair: those that figure 4 marks. The egress
/// should log them, at a bounded rate, and it must be possible to suppress that; a counter is both.
pub(crate) fn is_unexpected(outer: u8, inner: u8) -> bool {
    matches!(
        (outer & ECN_MASK, inner & ECN_MASK),
        (ECT_0 | ECT_1 | CE, NOT_ECT) | (ECT_0, ECT_1) | (ECT_1, CE)
    )
}

#[cfg(test)]
mod tests {
    use super::{DropReason, decapsulate, is_unexpected};

    /// A cell of figure 4: the field that leaves, `None` for drop; whether it is marked with "(!!!)" or "(!)".
    type Cell = (Option<u8>, bool);

    /// Figure 4 of RFC 6040, rows by inner field.
    const OUTER: [u8; 4] = [0b00, 0b10, 0b01, 0b11];
    const FIGURE_4: [(u8, [Cell; 4]); 4] = [
        (
            0b00,
            [
                (Some(0b00), false),
                (Some(0b00), true),
                (Some(0b00), true),
                (None, true),
            ],
        ),
        (
            0b10,
            [
                (Some(0b10), false),
                (Some(0b10), false),
                (Some(0b01), false),
                (Some(0b11), false),
            ],
        ),
        (
            0b01,
            [
                (Some(0b01), false),
                (Some(0b01), true),
                (Some(0b01), false),
                (Some(0b11), false),
            ],
        ),
        (
            0b11,
            [
                (Some(0b11), false),
                (Some(0b11), false),
                (Some(0b11), true),
                (Some(0b11), false),
            ],
        ),
    ];

    #[test]
    fn figure_4() {
        for (inner, row) in FIGURE_4 {
            for (outer, (expected, marked)) in OUTER.into_iter().zip(row) {
                assert_eq!(
                    is_unexpected(outer, inner),
                    marked,
                    "{outer:02b} around {inner:02b}"
                );
                for (outer_dscp, inner_dscp) in [(0, 0), (46, 0), (0, 46), (10, 53), (63, 63)] {
                    let (outer, inner) = (outer_dscp << 2 | outer, inner_dscp << 2 | inner);
                    let with = |dscp: u8| {
                        expected
                            .map(|ecn| dscp << 2 | ecn)
                            .ok_or(DropReason::EcnNotCapable)
                    };
                    assert_eq!(decapsulate(outer, inner, 0), with(inner_dscp), "kept");
                    assert_eq!(decapsulate(outer, inner, 0xfc), with(outer_dscp), "copied");
                    assert_eq!(is_unexpected(outer, inner), marked, "the DSCP does not matter");
                }
            }
        }
    }
}
