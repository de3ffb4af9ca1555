//! Next hops towards peers, as one worker has found them.

use ravelin_gcm::prefetch;

use crate::device::Mac;

/// The link-layer address for each connection's packets, by slot: one look instead of a search through all adjacencies.
#[derive(Debug, Default)]
pub(crate) struct PeerHops {
    hops: Vec<PeerHop>,
    /// The edition of what they were found in, from 1; older ones do not count.
    edition: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct PeerHop {
    edition: u64,
    mac: Mac,
}

impl PeerHops {
    /// Forgets all, since routes, neighbours or connections have changed, and makes room for as many slots. That is the only time
    /// when memory may be allocated.
    pub(crate) fn renew(&mut self, slots: usize) {
        self.edition += 1;
        if self.hops.len() < slots {
            self.hops.resize(slots, PeerHop::default());
        }
    }

    /// Where the packets of the connection in a slot go, if that was found since the last change.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<Mac> {
        let hop = self.hops.get(slot as usize)?;
        (hop.edition == self.edition).then_some(hop.mac)
    }

    /// Takes down what was found.
    pub(crate) fn set(&mut self, slot: u32, mac: Mac) {
        if let Some(hop) = self.hops.get_mut(slot as usize) {
            *hop = PeerHop {
                edition: self.edition,
                mac,
            };
        }
    }

    /// Has the cache fetch the place of a slot.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        if let Some(hop) = self.hops.get(slot as usize) {
            prefetch(hop, size_of::<PeerHop>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PeerHops;

    #[test]
    fn what_was_found_counts_until_something_changes() {
        let mut hops = PeerHops::default();
        hops.renew(2);
        assert_eq!(hops.get(1), None);
        hops.set(1, [2; 6]);
        // No such slot: nothing to keep for it.
        hops.set(2, [3; 6]);
        assert_eq!([0, 1, 2].map(|slot| hops.get(slot)), [None, Some([2; 6]), None]);
        hops.renew(3);
        assert_eq!([0, 1, 2].map(|slot| hops.get(slot)), [None; 3]);
        hops.set(2, [3; 6]);
        assert_eq!(hops.get(2), Some([3; 6]));
    }
}
