//! What arrives for the SSH connection that has a lifeline: it tells how the connection comes, and its lifeline follows.

use ravelin_policy::{Management, SessionPath};

use crate::engine::Engine;
use crate::filter::FilterError;
use crate::held::{Arrived, Comes, Held, sealed_by};
use crate::role::Role;
use crate::worker::Worker;

/// What had arrived when it was looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// Generation of the rules that counted.
    generation: u32,
    /// Packets in the clear.
    clear: u64,
    /// Packets that were opened.
    inside: u64,
}

impl Engine {
    /// How a session comes that has just said something: through the policy in force.
    pub(crate) fn comes(&mut self, session: Management) -> Comes {
        if self.enforcement.role() != Role::Host {
            return Comes::Clear;
        }
        // What it has said came before this.
        if let Err(error) = self.attend_session() {
            eprintln!("ravelin: the SSH session's lifeline: {error}");
        }
        let current = self.enforcement.current();
        let name = |slot| {
            let connection = current.connections.iter().find(|one| one.slot == slot);
            connection.map(|connection| connection.name.clone())
        };
        let is_held = |held: &&Held| held.management() == session;
        if current.policy.ssh_session()
            && current.session.as_ref().is_some_and(|held| is_held(&held))
            && let Some(held) = self.watch.session.as_ref().filter(is_held)
        {
            return held.typed(&current.rules, name);
        }
        let inside = sealed_by(session, &current.rules).and_then(name);
        inside.map_or(Comes::Clear, Comes::Inside)
    }

    /// Has the lifeline follow when the session is seen to come in another way than it was thought to.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub(crate) fn attend_session(&mut self) -> Result<(), FilterError> {
        let current = self.enforcement.current();
        let Some((held, index)) = current.session.as_ref().zip(current.policy.session_rule()) else {
            self.arrivals = None;
            return Ok(());
        };
        let slot = current.rule_slots[index];
        let at_driver = self.enforcement.filter.rules([slot])?;
        let workers = self.workers.iter().map(Worker::counters);
        let now = Arrivals {
            generation: current.generation,
            clear: at_driver.first().map_or(0, |counter| counter.packets),
            inside: workers.map(|counters| counters.rule(slot).packets).sum(),
        };
        let before = self.arrivals.replace(now);
        // What another generation has counted may be about another rule. And one change after the other.
        let before = before.filter(|before| before.generation == now.generation);
        let Some(before) = before.filter(|_| self.watch.session.as_ref() == Some(held)) else {
            return Ok(());
        };
        let Some(SessionPath::Either { inside, .. }) = current.session_path else {
            return Ok(());
        };
        let arrived = Arrived {
            clear: now.clear > before.clear,
            inside: now.inside > before.inside,
        };
        let comes = held.after(arrived, &current.policy.connections()[inside].name);
        if comes != held.comes {
            self.watch.session = Some(Held {
                comes,
                ..held.clone()
            });
            self.moved = true;
        }
        Ok(())
    }

    /// Has the next engine know of the session.
    pub(crate) fn record_session(&mut self) {
        let current = self.enforcement.current();
        let held = current.session.clone().filter(|_| current.policy.ssh_session());
        if let Err(error) = self.session_record.keep(held.as_ref()) {
            eprintln!(
                "ravelin: the lifeline of the SSH session will not outlive this process: state folder: {error}"
            );
        }
    }
}
