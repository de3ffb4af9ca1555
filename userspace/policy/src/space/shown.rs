//! Regions for people.

use std::fmt;

use super::region::{Interval, Region, address};
use crate::address::Family;
use crate::protocol::Protocol;

/// A region for people: `10.0.0.0/8 -> 10.1.0.9 tcp ports any -> 1433`.
pub(crate) struct Shown(pub(crate) Region, pub(crate) Family);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(region, family) = self;
        write!(
            f,
            "{} -> {}",
            addresses(region.source, *family),
            addresses(region.destination, *family)
        )?;
        let protocol = region.protocol;
        if protocol == Interval::new(0, 255) {
            return Ok(());
        }
        let name = |number: u128| Protocol(u8::try_from(number).unwrap_or(u8::MAX));
        if protocol.first != protocol.last {
            return write!(f, " protocols {}-{}", protocol.first, protocol.last);
        }
        let protocol = name(protocol.first);
        write!(f, " {protocol}")?;
        let icmp = protocol.family() == Some(*family);
        let whole = |interval: Interval| interval == Interval::PORTS || (icmp && interval == Interval::ICMP);
        let values = |interval: Interval| {
            if whole(interval) {
                "any".to_owned()
            } else if interval.first == interval.last {
                interval.first.to_string()
            } else {
                format!("{}-{}", interval.first, interval.last)
            }
        };
        if whole(region.first) && whole(region.second) {
            return Ok(());
        }
        if icmp {
            write!(f, " type {} code {}", values(region.first), values(region.second))
        } else {
            write!(f, " ports {} -> {}", values(region.first), values(region.second))
        }
    }
}

fn addresses(interval: Interval, family: Family) -> String {
    let (first, last) = (address(interval.first, family), address(interval.last, family));
    if interval == Interval::addresses(family) {
        return format!("any {family}");
    }
    if first == last {
        return first.to_string();
    }
    let differing = interval.first ^ interval.last;
    let host_bits = 128 - differing.leading_zeros();
    let aligned = differing.count_ones() == host_bits && interval.first & differing == 0;
    if aligned {
        let width = match family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        format!("{first}/{}", width - host_bits)
    } else {
        format!("{first}-{last}")
    }
}
