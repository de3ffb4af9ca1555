//! One key at two users of one memory: at most one of them may seal, and what was refused leaves nothing.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use ravelin_esp::Provider;
use ravelin_keying::{BootPage, BootPages, KeyingError, StateFolder, StaticConnection, StaticKeys, key_file};
use ravelin_policy::{Algorithm, Policy};

/// How often two begin at once.
const ROUNDS: usize = 50;

/// The memory of a machine, by user and number.
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
        self.page_of(&self.name.clone(), number)
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

    fn name_again(&mut self) -> io::Result<()> {
        Ok(())
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

    fn start(&self, folder: &Path, name: &str) -> Result<Vec<StaticConnection>, String> {
        let policy = policy(folder);
        let mut state = StateFolder::open(&folder.join(name)).unwrap();
        let user = User {
            machine: self.clone(),
            name: name.to_owned(),
        };
        state.remember_in(Box::new(user)).unwrap();
        let keys = StaticKeys::read(&policy).unwrap();
        let started = keys.start(&policy, &Arc::new(state), Provider::preferred());
        started.map_err(|errors| match errors.errors() {
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
    // Its end makes no difference, and neither does that the second was refused.
    drop(first);
    let refused = machine.start(folder.path(), "second");
    assert_eq!(refused.err().as_deref(), Some("first"));
    drop(machine.start(folder.path(), "first").unwrap());
    assert_eq!(machine.records(), 1);
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
