//! The engine at work: it looks after workers and sequence numbers, and changes policies when somebody wants that.
//!
//! Preparing a policy takes up to seconds, longer where its files do not answer, and happens in a thread of its own, one
//! policy after the other; meanwhile everything else goes on. Only the swap itself happens here.

use std::future::Future;
use std::time::{Duration, Instant};

use ravelin_xdp_common::DropReason;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::attach::Requeued;
use crate::change::{MOST_WAITING, Work, prepared};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::filter::Side;
use crate::follow::renewed;
use crate::host::Host;
use crate::names::Lookup;
use crate::order::Order;
use crate::prepare::ApplyError;
use crate::pulse::Change;
use crate::resolver::News;
use crate::worker::{Worker, WorkerError};

/// How often the engine looks after sequence numbers, workers and addresses.
const TICK: Duration = Duration::from_millis(100);

/// How often it looks whether workers have taken up what was swapped in.
const SWEEP: Duration = Duration::from_millis(2);

/// How often the highest sequence numbers received go to disk. After a crash packets of this long can be replayed once.
const RECORD: Duration = Duration::from_secs(1);

impl Engine {
    /// Serves until `stop` is ready, and reads the policy file in force again for each message in `reloads`. The programs
    /// stay attached: see [`Engine::detach`]. A policy that was not confirmed is taken back.
    ///
    /// # Errors
    ///
    /// [`EngineError::Worker`] when a worker ended by itself.
    pub fn run(
        &mut self,
        stop: impl Future<Output = ()>,
        reloads: UnboundedReceiver<()>,
    ) -> Result<(), EngineError> {
        let Some(runtime) = self.runtime.take() else {
            return Ok(());
        };
        self.supervisor.ready(&self.summary());
        let result = runtime.block_on(self.serve(stop, reloads));
        self.look_at_drops();
        self.supervisor.stopping();
        self.runtime = Some(runtime);
        if self.enforcement.deadline().is_some() {
            self.roll_back("the engine stops");
        }
        self.workers.iter().for_each(Worker::dismiss);
        result
    }

    async fn serve(
        &mut self,
        stop: impl Future<Output = ()>,
        mut reloads: UnboundedReceiver<()>,
    ) -> Result<(), EngineError> {
        let mut stop = std::pin::pin!(stop);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut recorded = Instant::now();
        let mut complaint = None;
        loop {
            self.begin_next();
            let deadline = self.enforcement.deadline();
            let unswept = self.enforcement.is_unswept();
            let dummy = self.schedule.next_dummy();
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some(order) = self.orders.recv() => self.obey(order),
                Some(()) = reloads.recv() => self.reload(),
                // One swap after the other: what the one before has left behind is gone first.
                result = prepared(&mut self.job), if !unswept => self.finish(result),
                result = renewed(&mut self.renewal), if !unswept => self.renew(result),
                lookup = self.watch.finished() => self.look_up(lookup),
                () = at(deadline) => self.roll_back("it was not confirmed in time"),
                () = tokio::time::sleep(SWEEP), if unswept => self.sweep(),
                () = at(dummy) => self.hand_out_errands(),
                _ = tick.tick() => {
                    self.look_after()?;
                    let record = recorded.elapsed() >= RECORD;
                    if record {
                        recorded = Instant::now();
                        self.look_at_drops();
                        self.look_after_edge();
                        self.look_after_egress();
                        for news in self.enforcement.lifetime_news(recorded) {
                            eprintln!("ravelin: {news}");
                        }
                    }
                    let failure = self.enforcement.keep_marks(record).err().map(|error| error.to_string());
                    complain(&mut complaint, failure);
                }
            }
        }
    }

    /// # Errors
    ///
    /// When a thread has ended that never should.
    fn look_after(&mut self) -> Result<(), EngineError> {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.is_finished()) {
            let queue = worker.queue();
            let error = worker.join().err();
            let gone = self.host.as_ref().and_then(Host::gone);
            if let Some((devices, WorkerError::Port { .. })) = gone.zip(error.as_ref()) {
                return Err(EngineError::EdgeGone(devices));
            }
            return Err(error.unwrap_or(WorkerError::Panicked { queue }).into());
        }
        if self.resolver.is_finished() {
            return Err(EngineError::ResolverPanicked);
        }
        #[cfg(feature = "log")]
        self.enforcement.filter.flush_log();
        if let Err(error) = self.take_news() {
            eprintln!("ravelin: own addresses: {error}");
        }
        if let Some(host) = &mut self.host {
            let mac = self.resolver.adjacencies().current().outer.mac;
            if let Err(error) = host.follow(mac, &mut self.enforcement.filter) {
                eprintln!("ravelin: host edge: {error}");
            }
        }
        self.look_after_pins();
        self.look_after_queues();
        self.take_pulse();
        self.lose_patience();
        if let Err(error) = self.attend_session() {
            eprintln!("ravelin: the SSH session's lifeline: {error}");
        }
        self.watch();
        if self.enforcement.advance() {
            self.nudge();
        }
        self.meet_peers();
        self.hand_out_errands();
        Ok(())
    }

    /// Has the programs outlive this process whatever becomes of their pins.
    fn look_after_pins(&mut self) {
        let Some(attachments) = &mut self.attachments else {
            return;
        };
        let pinned = attachments.pin_again();
        let pinned = pinned.and_then(|again| {
            self.enforcement.pin_again()?;
            Ok(again)
        });
        let pinned = pinned.map_err(|error| error.to_string()).and_then(|again| {
            let shared = self.give_up_shared_keys();
            shared.map_err(|error| error.to_string()).map(|()| again)
        });
        let trouble = match pinned {
            Ok(false) => None,
            Ok(true) => {
                eprintln!("ravelin: pins of the programs were gone; they are there again");
                None
            }
            Err(error) => Some(error),
        };
        complain(&mut self.unpinned, trouble);
    }

    /// Has receive queues that a device was given in the meantime decided by the filter like all others.
    fn look_after_queues(&mut self) {
        let Some(attachments) = &mut self.attachments else {
            return;
        };
        let trouble = match attachments.renew(&mut self.enforcement.filter) {
            Ok(changed) => {
                for Requeued { device, before, now } in changed {
                    eprintln!(
                        "ravelin: device {device} has {now} receive queues, {before} before: all are filtered, but what is to be \
                         protected or opened in those without a worker is dropped; start Ravelin again (`ravelin run --replace`)"
                    );
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        complain(&mut self.unfiltered, trouble);
    }

    /// Tells of a program of somebody else's that is asked before the filter.
    fn look_after_egress(&mut self) {
        let Some(attachments) = &self.attachments else {
            return;
        };
        let trouble = attachments.overtaken();
        if let Some(outer) = self.interfaces.get_mut(Side::Outer.name()) {
            complain(&mut outer.trouble, trouble);
        }
    }

    /// Tells of a host edge that somebody has taken down, and of one that is up again. What cannot be asked now is asked next time.
    fn look_after_edge(&mut self) {
        let Some(Ok(trouble)) = self.host.as_ref().map(Host::trouble) else {
            return;
        };
        let Some(edge) = self.interfaces.get_mut("edge") else {
            return;
        };
        if trouble.is_none() && edge.trouble.is_some() {
            eprintln!("ravelin: host edge: it is up again");
            self.workers.iter().for_each(Worker::nudge);
        }
        complain(&mut edge.trouble, trouble);
    }

    /// Notes what was dropped while this engine served. What it cannot read now it reads next time.
    fn look_at_drops(&mut self) {
        if let Some(Ok(overruns)) = self.host.as_mut().map(Host::overruns) {
            self.enforcement.ledger.lost(DropReason::ReceiveOverrun, overruns);
        }
        if let Ok(dropped) = self.enforcement.filter.drops() {
            self.enforcement.ledger.look(&dropped);
        }
    }

    /// Tells of workers that hang; only while none does, the service manager hears that all is well.
    fn take_pulse(&mut self) {
        let now = Instant::now();
        let workers = self.workers.iter().map(|worker| worker.counters().turns.value());
        let crypto_threads = self.workers.iter().flat_map(Worker::crypto_turns);
        let changes = self.pulse.take(workers.chain(crypto_threads), now);
        for (index, change) in &changes {
            let (name, queue) = self.thread_name(*index);
            match change {
                Change::Stuck => eprintln!(
                    "ravelin: {name} is stuck: protected packets of queue {queue} are dropped; if it stays so, \
                     please report it with `cat /proc/{}/task/*/stack` and start Ravelin again",
                    std::process::id()
                ),
                Change::GoesOn(after) => {
                    eprintln!("ravelin: {name} goes on, after {} ms", after.as_millis());
                }
            }
        }
        if self.pulse.is_regular() {
            self.supervisor.alive(now);
        }
        if !changes.is_empty() {
            let threads = self.workers.len() + self.workers.iter().flat_map(Worker::crypto_turns).count();
            let stuck = (0..threads).filter(|index| self.pulse.stuck(*index, now).is_some());
            let stuck: Vec<_> = stuck.map(|index| self.thread_name(index).0).collect();
            match stuck.as_slice() {
                [] => self.supervisor.status(&self.summary()),
                names => self.supervisor.status(&format!("stuck: {}", names.join(", "))),
            }
        }
    }

    /// What the thread with this index is called whose pulse is taken, and its queue: workers first, then what encrypts for each.
    fn thread_name(&self, index: usize) -> (String, u32) {
        let workers = self.workers.iter().map(Worker::queue);
        let workers = workers.map(|queue| (format!("worker {queue}"), queue));
        let crypto_threads = self.workers.iter().flat_map(|worker| {
            let queue = worker.queue();
            let numbers = (0..).zip(worker.crypto_turns());
            numbers.map(move |(number, _)| (format!("crypto thread {number} of worker {queue}"), queue))
        });
        workers.chain(crypto_threads).nth(index).unwrap_or_default()
    }

    /// Has workers send what is due by itself.
    fn hand_out_errands(&mut self) {
        let shared = self.enforcement.shared();
        if self
            .schedule
            .hand_out(&shared.regime(), &shared.errands, Instant::now())
            && let Some(worker) = self.workers.first()
        {
            worker.nudge();
        }
    }

    /// Follows the machine's own addresses and routes.
    ///
    /// # Errors
    ///
    /// [`EngineError::Filter`].
    fn take_news(&mut self) -> Result<(), EngineError> {
        for news in self.news.try_iter() {
            match news {
                News::Addresses(addresses) => {
                    self.enforcement.filter.set_local(&addresses)?;
                    self.watch.surroundings.own = addresses;
                    self.moved = true;
                }
                // Whether the policy speaks of gateways is seen when it comes to looking.
                News::DefaultRoute => self.watch.hurry(),
            }
        }
        Ok(())
    }

    /// Looks names up when it is time, and has the policy follow what has changed.
    fn watch(&mut self) {
        let written = self.enforcement.current().file.policy();
        if self.watch.is_due() {
            self.watch
                .begin(&written.names(), self.enforcement.previous().is_some());
        }
        self.follow();
    }

    fn look_up(&mut self, lookup: Lookup) {
        let (changed, said) = self.watch.take(lookup);
        for text in said {
            eprintln!("ravelin: {text}");
        }
        self.moved |= changed;
    }

    fn obey(&mut self, order: Order) {
        // Whoever has left does not want the answer.
        match order {
            Order::Status(reply) => drop(reply.send(self.status())),
            Order::Apply(request, reply) if self.queue.len() >= MOST_WAITING => {
                drop(request);
                drop(reply.send(Err(ApplyError::Busy.to_string())));
            }
            Order::Apply(request, reply) => self.queue.push_back(Work::Apply(request, reply)),
            Order::Sas(reply) => {
                let sas = self.enforcement.sas(None).into_iter();
                drop(reply.send(Ok(sas.map(|(_, entry)| entry).collect())));
            }
            Order::DeleteSa(spi, selector, reply) => self.delete_sa(spi, &selector, reply),
            Order::Confirm(reply) => {
                let result = self.enforcement.confirm().map_err(|error| error.to_string());
                if result.is_ok() {
                    eprintln!("ravelin: the policy is confirmed");
                }
                drop(reply.send(result.map(|()| self.policy_status())));
            }
            Order::Keep(reply) => {
                self.keeps_filter = true;
                drop(reply.send(Ok(())));
            }
            Order::Session(session, reply) => {
                let answer = match session.admit(&self.watch.surroundings.own) {
                    Ok(Some(session)) => Ok(self.comes(session)),
                    Ok(None) => Err("that is a connection within this machine".to_owned()),
                    Err(strange) => Err(strange.to_string()),
                };
                drop(reply.send(answer));
            }
            Order::RollBack(reply) => {
                let result = self
                    .enforcement
                    .roll_back(&self.workers)
                    .map_err(|error| error.to_string());
                if result.is_ok() {
                    self.is_back();
                    eprintln!("ravelin: the policy is rolled back");
                }
                drop(reply.send(result.map(|()| self.policy_status())));
            }
        }
    }

    pub(crate) fn nudge(&self) {
        self.workers.iter().for_each(Worker::nudge);
    }

    fn sweep(&mut self) {
        if let Err(error) = self.enforcement.sweep(&self.workers) {
            let error = error.to_string();
            // It is tried again at once, and need not be said each time.
            if self.last_error.as_ref() != Some(&error) {
                self.fail(error);
            }
        }
        self.answer_deletions();
    }
}

/// Says what is the matter, if that was not said already.
fn complain(said: &mut Option<String>, trouble: Option<String>) {
    if let Some(text) = trouble.as_ref().filter(|_| trouble != *said) {
        eprintln!("ravelin: {text}");
    }
    *said = trouble;
}

/// Ready at `deadline`; never, without one.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
