//! Deleting SAs by their SPI.

use crate::engine::Engine;
use crate::order::{Reply, SaDeleted, SaSelector};
use crate::status::{SaDirection, SaEntry, SaState};

/// SAs that a refusal lists.
const MOST_LISTED: usize = 8;

/// An SA that is being deleted, and who waits for it.
#[derive(Debug)]
pub(crate) struct Deletion {
    answer: SaDeleted,
    reply: Reply<SaDeleted>,
}

impl Engine {
    /// Deletes an SA. The answer comes when no worker has it any more.
    pub(crate) fn delete_sa(&mut self, spi: u32, selector: &SaSelector, reply: Reply<SaDeleted>) {
        let (pair, mut entry) = match self.find_sa(spi, selector) {
            Ok(found) => found,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        match entry.direction {
            SaDirection::Outbound => self.enforcement.delete_outbound(pair),
            SaDirection::Inbound => self.enforcement.delete_inbound(pair),
        }
        self.nudge();
        let effect = self.effect(&entry);
        entry.sa.state = SaState::Deleted;
        eprintln!("ravelin: {} was deleted: {effect}", described(&entry));
        self.deletions.push(Deletion {
            answer: SaDeleted { entry, effect },
            reply,
        });
    }

    /// Answers those whose SAs are gone.
    pub(crate) fn answer_deletions(&mut self) {
        if self.enforcement.is_taken_up(&self.workers) {
            for Deletion { answer, reply } in self.deletions.drain(..) {
                // Whoever has left does not want the answer.
                drop(reply.send(Ok(answer)));
            }
        }
    }

    fn find_sa(&self, spi: u32, selector: &SaSelector) -> Result<(u32, SaEntry), String> {
        let mut found = self.enforcement.sas(Some(spi));
        found.retain(|(_, entry)| {
            selector.direction.is_none_or(|wanted| wanted == entry.direction)
                && selector
                    .connection
                    .as_ref()
                    .is_none_or(|wanted| *wanted == entry.connection)
        });
        let (gone, there): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(_, entry)| entry.sa.state == SaState::Deleted);
        match (&gone[..], &there[..]) {
            (_, [(pair, entry)]) => Ok((*pair, entry.clone())),
            ([(_, gone), ..], []) => Err(format!("{} is deleted already", described(gone))),
            ([], []) => Err(format!(
                "there is no such SA with SPI {spi:#010x}; `ravelin sa list` shows those that there are"
            )),
            (_, several) => {
                let count = several.len();
                let mut list: Vec<String> = several
                    .iter()
                    .take(MOST_LISTED)
                    .map(|(_, entry)| described(entry))
                    .collect();
                if count > MOST_LISTED {
                    list.push("...".to_owned());
                }
                Err(format!(
                    "{count} SAs have SPI {spi:#010x}: {}; say which by direction and connection",
                    list.join(", ")
                ))
            }
        }
    }

    /// What has become of the connection of an SA that is gone.
    fn effect(&self, gone: &SaEntry) -> String {
        let others = self.enforcement.sas(None);
        let other = |state| {
            let mut others = others.iter().map(|(_, entry)| entry);
            others.find(|one| {
                (&one.connection, one.direction, one.sa.state) == (&gone.connection, gone.direction, state)
            })
        };
        match (gone.direction, gone.sa.state, other(SaState::InUse)) {
            (SaDirection::Outbound, SaState::InUse, Some(next)) => {
                format!("SA {:#010x} seals in its place", next.sa.spi)
            }
            (SaDirection::Outbound, SaState::InUse, None) => {
                "the connection sends nothing any more, and what it is to protect is dropped (sa_missing)"
                    .to_owned()
            }
            (SaDirection::Outbound, SaState::Next, Some(last)) if other(SaState::Next).is_none() => format!(
                "SA {:#010x} seals until it would have taken its place, and then none does",
                last.sa.spi
            ),
            (SaDirection::Inbound, SaState::InUse, _) => {
                "what the peer sends under it is not opened any more".to_owned()
            }
            _ => "what is in use stays as it is".to_owned(),
        }
    }
}

fn described(entry: &SaEntry) -> String {
    format!(
        "the {} SA {:#010x} of connection `{}`",
        entry.direction.name(),
        entry.sa.spi,
        entry.connection
    )
}
