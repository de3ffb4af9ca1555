//! Counters that outlive the process, as the programs do that count.
//!
//! The pins lie at `/sys/fs/bpf/ravelin-counters/INSTANCE/LAYOUT/`: the maps in which the programs count, an array for each queue in
//! which its worker does, and the [`Book`]. The next engine loads its programs with the same maps, so that whichever programs run, old
//! ones or new ones, they count on. Where it cannot, because it has room for another number of rules or is a build with other
//! drop reasons, its layout is another one, with maps of its own; it takes over what stands in the old ones when the old programs
//! have ended.
//!
//! All of it goes with the boot, and when the filter is taken away.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray};
use ravelin_xdp_common::{DropReason, MAX_QUEUES, Pass, RuleCounter, map_names};

use crate::book::{BOOK, Book, Identity, PASSES, REASONS, Table};
use crate::bpffs::{self, BpffsError};
use crate::counters::{WorkerCounters, words};
use crate::filter::Filter;
use crate::pinned_words::PinnedWords;
use crate::slots::Slots;

/// Where the folders of instances are.
pub(crate) const COUNTERS: &str = "/sys/fs/bpf/ravelin-counters";

/// The maps in which the programs count.
const MAPS: [&str; 4] = [
    map_names::DROPS,
    map_names::AUDITED,
    map_names::PASSES,
    map_names::RULES,
];

/// The counters of one instance.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// That of the instance.
    parent: PathBuf,
    folder: PathBuf,
    book: Book,
    /// By queue: of all that there ever was a worker for.
    workers: BTreeMap<u32, Arc<PinnedWords>>,
    rules: u32,
    /// What this process has made goes with it if it does not come to count.
    fresh: bool,
    kept: bool,
}

/// What stands in the maps of another layout, under the names of this build.
#[derive(Debug)]
struct Carried {
    drops: [u64; DropReason::COUNT],
    audited: [u64; DropReason::COUNT],
    /// While no engine served, before there was the last one.
    unserved: [u64; DropReason::COUNT],
    /// Since there was.
    missed: [u64; DropReason::COUNT],
    passed: [u64; Pass::ALL.len()],
    rules: HashMap<Identity, RuleCounter>,
    removed: RuleCounter,
}

impl Default for Carried {
    fn default() -> Self {
        const NONE: [u64; DropReason::COUNT] = [0; DropReason::COUNT];
        Self {
            drops: NONE,
            audited: NONE,
            unserved: NONE,
            missed: NONE,
            passed: Default::default(),
            rules: HashMap::new(),
            removed: RuleCounter::default(),
        }
    }
}

impl Ledger {
    /// The maps that an engine before has left for a filter with room for so many rules, by their names. None if rules with these names
    /// find no room there, beside those that have counted: then the filter gets maps of its own, what stands in those before is taken
    /// over as from another layout, and what no rule has that is still there goes into the sum. So old rules never stop a start.
    pub(crate) fn left<'n>(
        instance: &str,
        rules: u32,
        names: impl Iterator<Item = &'n str>,
    ) -> Vec<(&'static str, PathBuf)> {
        let folder = folder(instance).join(layout(rules));
        // A book that cannot be read is made anew, or ends the start, when it is opened in earnest.
        let book = Book::open(&folder).ok().flatten();
        if book.is_some_and(|book| slots(&book, rules).check(names).is_err()) {
            return Vec::new();
        }
        let pins = MAPS.map(|name| (name, folder.join(name)));
        pins.into_iter().filter(|(_, pin)| pin.exists()).collect()
    }

    /// The ledger of an instance that is locked for this process. `filter` was loaded with the maps that were [left](Ledger::left);
    /// those that it has made are pinned.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn open(instance: &str, rules: u32, filter: &Filter) -> io::Result<Self> {
        let parent = folder(instance);
        let folder = parent.join(layout(rules));
        bpffs::make_folder(&folder)?;
        for name in MAPS {
            let pin = folder.join(name);
            if pin.try_exists()? && !filter.is_pinned(name, &pin)? {
                // There is no room for the rules in it, or another engine has come and gone since this one loaded its programs.
                std::fs::rename(&folder, aside(&folder)?)?;
                bpffs::make_folder(&folder)?;
            }
        }
        pin(&folder, filter)?;
        let (book, fresh) = Book::open_or_make(&folder, rules)?;
        let mut ledger = Self {
            parent,
            folder,
            book,
            workers: BTreeMap::new(),
            rules,
            fresh,
            kept: false,
        };
        for queue in 0..MAX_QUEUES {
            if let Some(words) = PinnedWords::open(&ledger.worker_pin(queue))? {
                ledger.workers.insert(queue, Arc::new(words));
            }
        }
        let others = ledger.others()?.into_iter();
        let books = others.filter_map(|other| Book::open(&other).ok().flatten());
        let newest = books.map(|book| book.generation()).max();
        let generation = ledger.book.generation().max(newest.unwrap_or(0));
        ledger.book.set_generation(generation);
        Ok(ledger)
    }

    /// From now on it stays when this process ends: programs count in it.
    pub(crate) const fn keep(&mut self) {
        self.kept = true;
    }

    /// Takes over what was counted in maps of other layouts, whose programs have ended, and finds out what was dropped while no engine
    /// served: only reasons that occurred.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn resume(&mut self, filter: &mut Filter) -> io::Result<Vec<(DropReason, u64)>> {
        let mut unserved = [0; DropReason::COUNT];
        let dropped = filter.drops().map_err(io::Error::other)?;
        if !self.fresh {
            for ((index, unserved), dropped) in unserved.iter_mut().enumerate().zip(&dropped) {
                *unserved = dropped.saturating_sub(self.book.reason(Table::Seen, index));
            }
        }
        let others = self.others()?;
        if !others.is_empty() {
            filter.settle().map_err(io::Error::other)?;
        }
        for other in others {
            let carried = read(&other)?;
            for (sum, missed) in unserved.iter_mut().zip(carried.missed) {
                *sum += missed;
            }
            // Should this process be killed between the two, the next one counts it twice: no more than that.
            self.take_in(&carried);
            std::fs::remove_dir_all(&other)?;
        }
        for (index, count) in unserved.iter().enumerate() {
            self.book.add_reason(Table::Unserved, index, *count);
        }
        self.look(&dropped);
        let unserved = DropReason::ALL.iter().copied().zip(unserved);
        Ok(unserved.filter(|(_, count)| *count > 0).collect())
    }

    /// Notes what the driver has dropped so far: what it drops beyond that, should this process end now, it drops while no engine serves.
    pub(crate) fn look(&self, dropped: &[u64]) {
        for (index, count) in dropped.iter().enumerate() {
            self.book.set_reason(Table::Seen, index, *count);
        }
    }

    /// Rules and the slots they have.
    pub(crate) fn slots(&self) -> Slots {
        slots(&self.book, self.rules)
    }

    /// Writes down which rules have which slots.
    pub(crate) fn enter<'n>(&self, rules: impl Iterator<Item = (&'n str, u32)>) {
        for (name, slot) in rules {
            let rule = Some(Identity::of(name));
            if self.book.rule(slot) != rule {
                self.book.set_rule(slot, rule);
            }
        }
    }

    /// The generation that was in force last; 0 before any was.
    pub(crate) fn generation(&self) -> u32 {
        self.book.generation()
    }

    pub(crate) fn set_generation(&self, generation: u32) {
        self.book.set_generation(generation);
    }

    /// The counters of the worker of a queue, which go on from where the one before has got to.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn worker(&mut self, queue: u32) -> io::Result<WorkerCounters> {
        let words = PinnedWords::open_or_make(&self.worker_pin(queue), words::count(self.rules))?;
        let words = Arc::new(words);
        self.workers.insert(queue, Arc::clone(&words));
        Ok(WorkerCounters::pinned(words))
    }

    /// Packets dropped for a reason, but for those that stand in the driver's maps.
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        let index = reason.index();
        let workers = self.workers.values();
        let workers: u64 = workers.map(|one| words::drops(one.words(), index)).sum();
        workers + self.book.reason(Table::Drops, index)
    }

    /// Counts packets that were dropped where neither the driver's programs nor a worker could see it.
    pub(crate) fn lost(&self, reason: DropReason, packets: u64) {
        self.book.add_reason(Table::Drops, reason.index(), packets);
    }

    /// Packets that an audit spared, but for those that stand in the driver's maps.
    pub(crate) fn audited(&self, reason: DropReason) -> u64 {
        self.book.reason(Table::Audited, reason.index())
    }

    /// Packets dropped for a reason while no engine served.
    pub(crate) fn unserved(&self, reason: DropReason) -> u64 {
        self.book.reason(Table::Unserved, reason.index())
    }

    /// Packets that passed, by place in [`Pass::ALL`], but for those that stand in the driver's maps.
    pub(crate) fn passed(&self, index: usize) -> u64 {
        self.book.passed(index)
    }

    /// What the rule in a slot has counted, but for what stands in the driver's maps.
    pub(crate) fn rule(&self, slot: u32) -> RuleCounter {
        let workers = self.workers.values();
        let workers = workers.map(|one| words::rule(one.words(), slot));
        workers.fold(self.book.carried(slot), add)
    }

    /// What rules have counted that are gone.
    pub(crate) fn removed(&self) -> RuleCounter {
        self.book.removed()
    }

    /// Adds what a rule has counted, all of it, to what rules have that are gone. Its slot is free, and counts from zero.
    pub(crate) fn remove(&self, slot: u32, count: RuleCounter) {
        self.book.add_removed(count);
        self.book.set_rule(slot, None);
        self.book.reset_carried(slot);
        for one in self.workers.values() {
            words::reset_rule(one.words(), slot);
        }
    }

    /// Makes pins anew that are gone, each for itself, once there is a BPF filesystem.
    ///
    /// # Errors
    ///
    /// [`BpffsError::Pin`].
    pub(crate) fn pin_again(&self, filter: &Filter) -> Result<(), BpffsError> {
        let pinned = bpffs::make_folder(&self.folder)
            .and_then(|()| pin(&self.folder, filter))
            .and_then(|()| {
                self.workers
                    .values()
                    .try_for_each(|one| one.pin_again().map(drop))
            })
            .and_then(|()| self.book.pin_again());
        pinned.map_err(|error| BpffsError::Pin {
            path: self.folder.clone(),
            error,
        })
    }

    /// The folders of other layouts.
    fn others(&self) -> io::Result<Vec<PathBuf>> {
        let entries = bpffs::entries(&self.parent)?.into_iter();
        Ok(entries.filter(|one| *one != self.folder).collect())
    }

    fn take_in(&self, carried: &Carried) {
        let tables = [
            (Table::Drops, &carried.drops),
            (Table::Audited, &carried.audited),
            (Table::Unserved, &carried.unserved),
        ];
        for (table, counts) in tables {
            for (index, count) in counts.iter().enumerate() {
                self.book.add_reason(table, index, *count);
            }
        }
        for (index, count) in carried.passed.iter().enumerate() {
            self.book.add_passed(index, *count);
        }
        self.book.add_removed(carried.removed);
        let own = (0..self.rules).filter_map(|slot| Some((self.book.rule(slot)?, slot)));
        let own: HashMap<Identity, u32> = own.collect();
        for (rule, count) in &carried.rules {
            match own.get(rule) {
                Some(slot) => self.book.carry(*slot, *count),
                None => self.book.add_removed(*count),
            }
        }
    }

    fn worker_pin(&self, queue: u32) -> PathBuf {
        self.folder.join(worker(queue))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.fresh && !self.kept {
            // Nothing has counted there.
            let _ = std::fs::remove_dir_all(&self.folder);
            let _ = std::fs::remove_dir(&self.parent);
        }
    }
}

/// Removes an instance's pins: its counters begin at zero.
pub(crate) fn remove(instance: &str) {
    // Nothing depends on their being gone.
    let _ = std::fs::remove_dir_all(folder(instance));
}

/// The slots of a book, as far as they are among the first `rules`.
fn slots(book: &Book, rules: u32) -> Slots {
    let numbers = 0..rules.min(book.slots());
    let taken = numbers.filter_map(|slot| Some((book.rule(slot)?, slot)));
    Slots::new(rules, taken)
}

/// A name that no folder has yet, for one that gives its own to another. Of an engine that was killed before it had taken over what
/// stands in one, that may still be there.
fn aside(folder: &Path) -> io::Result<PathBuf> {
    let layout = folder.file_name().unwrap_or_default().display();
    // No dot: a BPF filesystem keeps those for itself.
    let names = (0_u32..).map(|number| folder.with_file_name(format!("{layout}-{number}")));
    for name in names {
        if !name.try_exists()? {
            return Ok(name);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// What stands in the maps of a folder. A book that this build cannot read counts as none.
fn read(folder: &Path) -> io::Result<Carried> {
    let mut carried = Carried::default();
    let Some(book) = Book::open(folder)? else {
        return Ok(carried);
    };
    let mut workers = Vec::new();
    for queue in 0..MAX_QUEUES {
        workers.extend(PinnedWords::open(&folder.join(worker(queue)))?);
    }
    let dropped = sums(&folder.join(map_names::DROPS))?;
    let audited = sums(&folder.join(map_names::AUDITED))?;
    for (index, (dropped, audited)) in dropped.iter().zip(&audited).enumerate().take(REASONS) {
        let Some(own) = book.own_reason(index) else {
            continue;
        };
        let workers = workers.iter().map(|one| words::drops(one.words(), index));
        carried.drops[own] = dropped + workers.sum::<u64>() + book.reason(Table::Drops, index);
        carried.audited[own] = audited + book.reason(Table::Audited, index);
        carried.unserved[own] = book.reason(Table::Unserved, index);
        carried.missed[own] = dropped.saturating_sub(book.reason(Table::Seen, index));
    }
    let passed = sums(&folder.join(map_names::PASSES))?;
    for (index, passed) in passed.iter().enumerate().take(PASSES) {
        if let Some(own) = book.own_pass(index) {
            carried.passed[own] = passed + book.passed(index);
        }
    }
    let rules = per_cpu::<RuleCounter>(&folder.join(map_names::RULES))?;
    for slot in 0..book.slots().min(rules.len()) {
        let Some(rule) = book.rule(slot) else { continue };
        let driver = rules.get(&slot, 0).map_err(io::Error::other)?;
        let workers = workers.iter().map(|one| words::rule(one.words(), slot));
        let count = driver.iter().copied().chain(workers);
        carried.rules.insert(rule, count.fold(book.carried(slot), add));
    }
    carried.removed = book.removed();
    Ok(carried)
}

fn sums(pin: &Path) -> io::Result<Vec<u64>> {
    let map = per_cpu::<u64>(pin)?;
    (0..map.len())
        .map(|index| Ok(map.get(&index, 0).map_err(io::Error::other)?.iter().sum()))
        .collect()
}

fn per_cpu<T: Pod>(pin: &Path) -> io::Result<PerCpuArray<MapData, T>> {
    let map = MapData::from_pin(pin).and_then(Map::from_map_data);
    map.and_then(TryInto::try_into).map_err(io::Error::other)
}

/// What two have counted.
pub(crate) fn add(sum: RuleCounter, one: RuleCounter) -> RuleCounter {
    RuleCounter {
        packets: sum.packets + one.packets,
        bytes: sum.bytes + one.bytes,
    }
}

/// Pins the maps that are not.
fn pin(folder: &Path, filter: &Filter) -> io::Result<()> {
    MAPS.iter().try_for_each(|name| {
        let pin = folder.join(name);
        match pin.try_exists()? {
            true => Ok(()),
            false => filter.pin(name, &pin),
        }
    })
}

fn folder(instance: &str) -> PathBuf {
    Path::new(COUNTERS).join(instance)
}

fn worker(queue: u32) -> String {
    format!("worker-{queue}")
}

/// Names what maps have to agree about: the names of what they count, and how many rules they have room for.
fn layout(rules: u32) -> String {
    let reasons = DropReason::ALL.iter().map(|reason| reason.name());
    let names: Vec<&str> = reasons.chain(Pass::ALL.iter().map(|pass| pass.name())).collect();
    let text = format!("{BOOK} {rules} {}", names.join(" "));
    format!("{:016x}", Identity::of(&text).half())
}
