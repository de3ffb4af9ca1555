//! Between which addresses ESP comes to us, whichever of its SAs it is for.

use std::collections::HashMap;

use ravelin_xdp_common::TunnelEnds;

/// The tunnels of all inbound SAs. Several SAs may share one.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    by_spi: HashMap<u32, TunnelEnds>,
    users: HashMap<TunnelEnds, usize>,
}

impl Tunnels {
    /// Notes the tunnel of an SA; the tunnel is returned if it is the first there.
    pub(crate) fn add(&mut self, spi: u32, ends: TunnelEnds) -> Option<TunnelEnds> {
        if self.by_spi.insert(spi, ends) == Some(ends) {
            return None;
        }
        let users = self.users.entry(ends).or_default();
        *users += 1;
        (*users == 1).then_some(ends)
    }

    /// Forgets the tunnel of an SA; the tunnel is returned if no other SA uses it.
    pub(crate) fn remove(&mut self, spi: u32) -> Option<TunnelEnds> {
        let ends = self.by_spi.remove(&spi)?;
        let users = self.users.get_mut(&ends)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.users.remove(&ends);
        Some(ends)
    }
}

#[cfg(test)]
mod tests {
    use ravelin_xdp_common::mapped_v4;

    use super::*;

    #[test]
    fn a_tunnel_lasts_as_long_as_an_sa_uses_it() {
        let tunnel = |last| TunnelEnds {
            local: mapped_v4([192, 0, 2, 1]),
            remote: mapped_v4([192, 0, 2, last]),
            family: 4,
            reserved: 0,
        };
        let mut tunnels = Tunnels::default();
        assert_eq!(tunnels.add(256, tunnel(2)), Some(tunnel(2)));
        assert_eq!(tunnels.add(257, tunnel(2)), None);
        assert_eq!(tunnels.add(257, tunnel(2)), None);
        assert_eq!(tunnels.add(258, tunnel(3)), Some(tunnel(3)));
        assert_eq!(tunnels.remove(256), None);
        assert_eq!(tunnels.remove(256), None);
        assert_eq!(tunnels.remove(257), Some(tunnel(2)));
        assert_eq!(tunnels.add(256, tunnel(2)), Some(tunnel(2)));
    }
}
