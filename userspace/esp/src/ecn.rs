//! Explicit congestion notification across a tunnel (RFC 6040).

use ravelin_xdp_common::DropReason;

const ECN_MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The traffic class of a decapsulated packet: DSCP of the inner header, ECN by RFC 6040 section 4.2, figure 4.
///
/// # Errors
/// `EcnNotCapable`: congestion was met, and the inner transport would not understand the mark; "drop" is the signal.
pub(crate) fn decapsulate(outer: u8, inner: u8) -> Result<u8, DropReason> {
    let ecn = match (outer & ECN_MASK, inner & ECN_MASK) {
        (CE, NOT_ECT) => return Err(DropReason::EcnNotCapable),
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        (_, ecn) => ecn,
    };
    Ok(inner & !ECN_MASK | ecn)
}

#[cfg(test)]
mod tests {
    use super::{DropReason, decapsulate};

    /// Figure 4 of RFC 6040, rows by inner field; `None` is drop.
    #[test]
    fn figure_4() {
        const OUTER: [u8; 4] = [0b00, 0b10, 0b01, 0b11];
        const ROWS: [(u8, [Option<u8>; 4]); 4] = [
            (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
            (0b10, [Some(0b10), Some(0b10), Some(0b01), Some(0b11)]),
            (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(0b11)]),
            (0b11, [Some(0b11), Some(0b11), Some(0b11), Some(0b11)]),
        ];
        for (inner, row) in ROWS {
            for (outer, expected) in OUTER.into_iter().zip(row) {
                let expected = expected
                    .map(|ecn| 0b1011_1000 | ecn)
                    .ok_or(DropReason::EcnNotCapable);
                assert_eq!(decapsulate(0b0100_0000 | outer, 0b1011_1000 | inner), expected);
            }
        }
    }
}
