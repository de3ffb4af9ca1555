//! The engine's account of itself: counters of the driver and of the workers, put together.

use ravelin_xdp_common::{DropReason, Pass};

use crate::connection::Connection;
use crate::engine::Engine;
use crate::filter::FilterError;
use crate::status::{ConnectionStatus, RuleStatus, SaStatus, Status, WorkerStatus};

impl Engine {
    /// Everything the engine tells about itself, at this moment.
    pub(crate) fn status(&self) -> Result<Status, String> {
        let filter = self.filter.borrow();
        let described = |error: FilterError| error.to_string();
        let driver_drops = filter.drops().map_err(described)?;
        let passes = filter.passes().map_err(described)?;
        let rules = filter.rules(self.rule_names.len()).map_err(described)?;
        let workers = &self.workers;
        let connections = self.shared.iter().flat_map(|shared| &shared.connections);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.generation,
            provider: self
                .keys
                .borrow()
                .first()
                .map(|keys| keys.outbound().provider().name().to_owned()),
            interfaces: self.interfaces.clone(),
            outcomes: Pass::ALL
                .iter()
                .zip(passes)
                .map(|(pass, count)| (pass.name().to_owned(), count))
                .collect(),
            drops: DropReason::ALL
                .iter()
                .zip(driver_drops)
                .map(|(reason, at_driver)| {
                    let in_workers: u64 = workers
                        .iter()
                        .map(|worker| worker.counters().drops(*reason))
                        .sum();
                    (reason.name().to_owned(), at_driver + in_workers)
                })
                .collect(),
            rules: self
                .rule_names
                .iter()
                .zip(rules)
                .enumerate()
                .map(|(index, (name, at_driver))| {
                    workers.iter().map(|worker| worker.counters().rule(index)).fold(
                        RuleStatus {
                            name: name.clone(),
                            packets: at_driver.packets,
                            bytes: at_driver.bytes,
                        },
                        |sum, one| RuleStatus {
                            packets: sum.packets + one.packets,
                            bytes: sum.bytes + one.bytes,
                            ..sum
                        },
                    )
                })
                .collect(),
            connections: connections.map(connection_status).collect(),
            workers: workers
                .iter()
                .map(|worker| {
                    let counters = worker.counters();
                    WorkerStatus {
                        queue: worker.queue(),
                        zero_copy: worker.zero_copy(),
                        sealed: counters.sealed.value(),
                        opened: counters.opened.value(),
                        icmp_errors: counters.icmp_errors.value(),
                        waited: counters.waited.value(),
                        sleeps: counters.sleeps.value(),
                    }
                })
                .collect(),
        })
    }
}

fn connection_status(connection: &Connection) -> ConnectionStatus {
    let (sent, received) = (connection.outbound.counters(), connection.inbound.counters());
    ConnectionStatus {
        name: connection.name.clone(),
        remote: connection.remote.to_string(),
        outbound: SaStatus {
            spi: connection.outbound.spi(),
            packets: sent.packets,
            bytes: sent.bytes,
            sequence: connection.outbound.sequence().last_used(),
        },
        inbound: SaStatus {
            spi: connection.inbound.spi(),
            packets: received.packets,
            bytes: received.bytes,
            sequence: connection.inbound.highest_sequence().unwrap_or(0),
        },
    }
}
