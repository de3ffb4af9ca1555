//! One key at two users of one memory: at most one of them may seal, and what was refused leaves nothing.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use ravelin_esp::{Provider, SequenceNumber};
use ravelin_keying::{BootPage, BootPages, KeyingError, StateFolder, StaticConnection, StaticKeys, key_file};
use ravelin_policy::{Algorithm, Policy};

/// How often two begin at once.
const ROUNDS: usize = 50;

/// The memory of a machine, by user and number, as far as it has names.
#[derive(Clone, Debug, Default)]
struct Machine(Arc<Mutex<Pages>>);

type Pages = HashMap<(String, u32), Arc<Page>>;

#[derive(Debug)]
struct Page(Vec<AtomicU64>);

impl BootPage for Page {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

#[derive(Debug)]
struct User {
    machine: Machine,
    name: String,
    /// Those that it has been given.
    own: HashMap<u32, Arc<Page>>,
}

impl BootPages for User {
    fn page(&mut self, number: u32, make: bool) -> io::Result<Option<Arc<dyn BootPage>>> {
        if make {
            let zeros = std::iter::repeat_with(AtomicU64::default);
            let mut pages = self.machine.0.lock().unwrap();
            pages
                .entry((self.name.clone(), number))
                .or_insert_with(|| Arc::new(Page(zeros.take(<dyn BootPage>::WORDS).collect())));
        }
        let page = self
            .machine
            .0
            .lock()
            .unwrap()
            .get(&(self.name.clone(), number))
            .cloned();
        self.own
            .extend(page.iter().map(|page| (number, Arc::clone(page))));
        Ok(page.map(|page| page as _))
    }

    fn others(&mut self) -> io::Result<Vec<String>> {
        let pages = self.machine.0.lock().unwrap();
        let names = pages.keys().map(|(name, _)| name);
        Ok(names.filter(|name| **name != self.name).cloned().collect())
    }

    fn page_of(&mut self, other: &str, number: u32) -> io::Result<Option<Arc<dyn BootPage>>> {
        let pages = self.machine.0.lock().unwrap();
        let page = pages.get(&(other.to_owned(), number)).cloned();
        Ok(page.map(|page| page as _))
    }

    fn others_pages(&mut self) -> io::Result<HashSet<u64>> {
        let pages = self.machine.0.lock().unwrap();
        let others = pages.iter().filter(|((name, _), _)| *name != self.name);
        Ok(others.map(|(_, page)| Arc::as_ptr(page) as u64).collect())
    }

    fn name_again(&mut self) -> io::Result<bool> {
        let mut pages = self.machine.0.lock().unwrap();
        let named = self.own.iter().map(|(number, page)| {
            let name = (self.name.clone(), *number);
            pages.insert(name, Arc::clone(page)).is_none()
        });
        Ok(named.fold(false, |gone, one| gone | one))
    }
}

impl Machine {
    /// Words that are not zero: those of records that begin with a key.
    fn records(&self) -> usize {
        let pages = self.0.lock().unwrap();
        let words = pages.values().flat_map(|page| page.0.chunks(4));
        words
            .filter(|record| record[0].load(Ordering::Relaxed) != 0)
            .count()
    }

    /// Takes all names away.
    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    fn start(&self, folder: &Path, name: &str) -> Result<Vec<StaticConnection>, String> {
        self.start_in(folder, name).map(|(_, started)| started)
    }

    fn start_in(
        &self,
        folder: &Path,
        name: &str,
    ) -> Result<(Arc<StateFolder>, Vec<StaticConnection>), String> {
        let policy = policy(folder);
        let mut state = StateFolder::open(&folder.join(name)).unwrap();
        let user = User {
            machine: self.clone(),
            name: name.to_owned(),
            own: HashMap::new(),
        };
        state.remember_in(Box::new(user)).unwrap();
        let keys = StaticKeys::read(&policy).unwrap();
        let state = Arc::new(state);
        let started = keys.start(&policy, &state, Provider::preferred());
        started
            .map(|started| (state, started))
            .map_err(|errors| match errors.errors() {
                [KeyingError::KeyElsewhere { instance, .. }] => instance.clone(),
                _ => panic!("{errors}"),
            })
    }
}

fn policy(folder: &Path) -> Policy {
    let text = "[filter-lists.f]\nfilters = [{ source = \"any\", destination = \"10.2.0.0/16\" }]\n\
                [[rules]]\nname = \"r\"\nfilter-list = \"f\"\naction = \"protect\"\nconnection = \"c\"\n\
                [connections.c]\nmode = \"tunnel\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.2\"\n\
                [connections.c.static]\nalgorithm = \"aes-256-gcm\"\n\
                outbound = { spi = 0x1001, key-file = \"a.key\" }\ninbound = { spi = 0x1002, key-file = \"b.key\" }\n";
    Policy::parse(text, &folder.join("policy.toml").display().to_string())
        .unwrap()
        .0
}

fn keys() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.key", "b.key"] {
        key_file::create(&folder.path().join(name), Algorithm::AES_256_GCM).unwrap();
    }
    folder
}

#[test]
fn the_second_one_is_refused_and_leaves_nothing() {
    let (folder, machine) = (keys(), Machine::default());
    let first = machine.start(folder.path(), "first").unwrap();
    for _ in 0..2 {
        let refused = machine.start(folder.path(), "second");
        assert_eq!(refused.err().as_deref(), Some("first"));
        assert_eq!(machine.records(), 1);
    }
    // Once it has used a number its end makes no difference, and neither does that the second was refused.
    assert_eq!(use_numbers(&first, 1), [1]);
    drop(first);
    let refused = machine.start(folder.path(), "second");
    assert_eq!(refused.err().as_deref(), Some("first"));
    drop(machine.start(folder.path(), "first").unwrap());
    assert_eq!(machine.records(), 1);
}

/// Uses the next so many numbers of the only connection.
fn use_numbers(connections: &[StaticConnection], count: u32) -> Vec<u64> {
    let numbers = connections[0].outbound().unwrap().sequence().reserve(count);
    numbers.unwrap().map(SequenceNumber::into_value).collect()
}

/// A start that fails later, for want of a device for instance.
#[test]
fn whoever_has_used_no_number_leaves_the_key_to_others() {
    let (folder, machine) = (keys(), Machine::default());
    for _ in 0..3 {
        drop(machine.start(folder.path(), "first").unwrap());
        // It loses no numbers by that: the next one begins with the first.
        let started = machine.start(folder.path(), "first").unwrap();
        // As long as it is there it has the key.
        let refused = machine.start(folder.path(), "second");
        assert_eq!(refused.err().as_deref(), Some("first"));
        drop(started);
    }
    assert_eq!(machine.records(), 1);
    let second = machine.start(folder.path(), "second").unwrap();
    let refused = machine.start(folder.path(), "first");
    assert_eq!(refused.err().as_deref(), Some("second"));
    drop(second);
    let first = machine.start(folder.path(), "first").unwrap();
    assert_eq!(use_numbers(&first, 2), [1, 2]);
    drop(first);
    // From here on it is its own, whatever it does.
    drop(machine.start(folder.path(), "first").unwrap());
    let refused = machine.start(folder.path(), "second");
    assert_eq!(refused.err().as_deref(), Some("first"));
}

/// Somebody still has the SA: whoever that is may use its numbers at any time.
#[test]
fn a_key_is_not_left_to_others_while_its_sa_is_there() {
    let (folder, machine) = (keys(), Machine::default());
    let started = machine.start(folder.path(), "first").unwrap();
    let sa = Arc::clone(started[0].outbound().unwrap());
    drop(started);
    let refused = machine.start(folder.path(), "second");
    assert_eq!(refused.err().as_deref(), Some("first"));
    drop(sa);
}

/// After the machine was booted only the mark on disk says that there was something.
#[test]
fn a_key_of_an_earlier_boot_is_not_left_to_others() {
    let folder = keys();
    let first = Machine::default().start(folder.path(), "first").unwrap();
    assert_eq!(use_numbers(&first, 1), [1]);
    drop(first);
    let machine = Machine::default();
    drop(machine.start(folder.path(), "first").unwrap());
    let refused = machine.start(folder.path(), "second");
    assert_eq!(refused.err().as_deref(), Some("first"));
}

#[test]
fn of_two_that_begin_at_once_at_most_one_seals() {
    let mut began = 0;
    for _ in 0..ROUNDS {
        let (folder, machine) = (keys(), Machine::default());
        let together = Barrier::new(2);
        let started = ["first", "second"].map(|name| (name, machine.clone()));
        let started: usize = thread::scope(|scope| {
            let threads = started.map(|(name, machine)| {
                let (together, folder) = (&together, folder.path());
                scope.spawn(move || {
                    together.wait();
                    machine.start(folder, name)
                })
            });
            let results = threads.map(|thread| thread.join().unwrap());
            results.iter().filter(|result| result.is_ok()).count()
        });
        assert!(started <= 1);
        began += started;
        // Those that were refused may try again.
        assert_eq!(machine.records(), started);
    }
    println!("{began} of {ROUNDS} times one of two began");
}

/// Who holds the key of these as well.
fn elsewhere(folder: &StateFolder, connections: &[StaticConnection]) -> Vec<(usize, String)> {
    StaticConnection::held_elsewhere(folder, connections.iter().enumerate()).unwrap()
}

#[test]
fn two_that_began_unseen_both_see_each_other_once_they_have_names() {
    let (folder, machine) = (keys(), Machine::default());
    let (first, ours) = machine.start_in(folder.path(), "first").unwrap();
    assert_eq!(elsewhere(&first, &ours), []);
    machine.forget();
    let (second, theirs) = machine.start_in(folder.path(), "second").unwrap();
    // As long as the first one has no names it is not to be seen.
    assert_eq!(elsewhere(&second, &theirs), []);
    first.name_memory_again().unwrap();
    assert_eq!(elsewhere(&first, &ours), [(0, "second".to_owned())]);
    assert_eq!(elsewhere(&second, &theirs), [(0, "first".to_owned())]);
    // Once is enough.
    first.name_memory_again().unwrap();
    assert_eq!(elsewhere(&first, &ours), []);
    assert_eq!(elsewhere(&second, &theirs), []);
}

/// While one begins and is going to be refused, its note is there for a moment: the one that runs must not mind.
#[test]
fn whoever_is_refused_stops_nobody() {
    let (folder, machine) = (keys(), Machine::default());
    let (first, ours) = machine.start_in(folder.path(), "first").unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) || looks == 0 {
                assert_eq!(elsewhere(&first, &ours), []);
                looks += 1;
            }
        });
        for _ in 0..ROUNDS {
            let refused = machine.start(folder.path(), "second");
            assert_eq!(refused.err().as_deref(), Some("first"));
            machine.0.lock().unwrap().retain(|(name, _), _| name == "first");
        }
        over.store(true, Ordering::Relaxed);
        looking.join().unwrap();
    });
}
