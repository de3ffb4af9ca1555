//! Sets of ports.

use std::fmt;
use std::ops::RangeInclusive;

use crate::diagnostic::{Report, quote};
use crate::reader::Node;

/// Most ranges in one list of ports.
const MAX_RANGES: usize = 64;

/// A set of ports: every port, or some ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    /// Ascending, disjoint, not touching; empty means every port.
    ranges: Vec<RangeInclusive<u16>>,
}

impl PortSet {
    /// Every port.
    pub const ANY: Self = Self { ranges: Vec::new() };

    /// The union of `ranges`; every port when that is all of 0 to 65535, or when there are none.
    #[must_use]
    pub fn from_ranges(mut ranges: Vec<RangeInclusive<u16>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        if merged.first() == Some(&(0..=u16::MAX)) {
            merged.clear();
        }
        Self { ranges: merged }
    }

    /// Reads `"any"`, a number, `"80"`, `"1000-2000"`, `"80, 443"`, or an array of these.
    pub(crate) fn read(report: &mut Report<'_>, node: Node<'_>) -> Option<Self> {
        let mut ranges = Vec::new();
        if let Some(elements) = node.as_array() {
            for element in elements {
                read_ranges(report, element, &mut ranges)?;
            }
            if ranges.is_empty() {
                report.error(
                    &node.span(),
                    "the list of ports is empty; write \"any\" or leave the key out",
                );
                return None;
            }
        } else if node.as_string() != Some("any") {
            read_ranges(report, node, &mut ranges)?;
        }
        let set = Self::from_ranges(ranges);
        if set.ranges.len() > MAX_RANGES {
            report.error(
                &node.span(),
                format!("more than {MAX_RANGES} ranges of ports in one filter; split it"),
            );
            return None;
        }
        Some(set)
    }

    /// Whether it holds every port.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, ascending and disjoint; empty for every port.
    #[must_use]
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.ranges
    }

    /// Whether `port` (host order) is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.is_any() || self.ranges.iter().any(|range| range.contains(&port))
    }

    /// How many ports it holds: 1 to 65536.
    #[must_use]
    pub fn width(&self) -> u32 {
        if self.is_any() {
            return 1 << 16;
        }
        self.ranges
            .iter()
            .map(|range| u32::from(*range.end()) - u32::from(*range.start()) + 1)
            .sum()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any");
        }
        for (index, range) in self.ranges.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

fn read_ranges(report: &mut Report<'_>, node: Node<'_>, ranges: &mut Vec<RangeInclusive<u16>>) -> Option<()> {
    let Some(text) = node.as_string() else {
        let port = u16::try_from(node.integer(report, 0, 65_535)?).ok()?;
        ranges.push(port..=port);
        return Some(());
    };
    for part in text.split(',') {
        match parse_range(part.trim()) {
            Ok(range) => ranges.push(range),
            Err(message) => {
                report.error(&node.span(), message);
                return None;
            }
        }
    }
    Some(())
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| {
        let text = text.trim();
        // `parse` alone would take "+80".
        let digits = text.chars().all(|c| c.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits).ok_or_else(|| {
            format!(
                "{} is not a port; write a number from 0 to 65535, first-last, or \"any\"",
                quote(text)
            )
        })
    };
    let Some((first, last)) = text.split_once('-') else {
        let port = port(text)?;
        return Ok(port..=port);
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!(
            "the range of ports is empty; write the lower one first: \"{last}-{first}\""
        ));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::{PortSet, parse_range};

    #[test]
    fn sets_are_merged() {
        let set = PortSet::from_ranges(vec![90..=100, 80..=80, 81..=85, 84..=86]);
        assert_eq!(set.to_string(), "80-86,90-100");
        assert_eq!(set.width(), 18);
        assert!(set.contains(86) && !set.contains(87));
        assert!(PortSet::from_ranges(vec![0..=9, 10..=65_535]).is_any());
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("80"), Ok(80..=80));
        assert_eq!(parse_range("80 - 90"), Ok(80..=90));
        for bad in ["", "-", "90-80", "65536", "+80", "http", "1-2-3", "-5"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
