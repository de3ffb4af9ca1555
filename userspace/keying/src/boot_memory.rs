//! What is remembered from one process to the next, but not from one boot to the next: which sequence numbers may have been
//! used, to within [`RESERVATION`](ravelin_esp::RESERVATION).
//!
//! The file of marks alone keeps numbers from being used twice. It costs a write to disk for every
//! [`RESERVE`](crate::RESERVE) numbers, and as many numbers for every crash: a key without extended sequence numbers would be used up
//! by four thousand of them. So whoever seals also notes in shared memory how far it may go, which costs a store, and the next
//! process goes on from there.
//!
//! A record names the mark that it was written beside. If the file says another one, a process without this memory has used the
//! key since, or the crash came in between: then the record says nothing that may be relied on, and the higher of both
//! counts. So it does when the file has gone back, restored from a copy for instance: the memory then knows better.
//!
//! What others of this machine have noted can be looked at as well: a key that two of them sealed with would repeat numbers, since
//! neither knows what the other has used. Whoever begins with a key notes that first and looks then, so that of two who begin at once
//! at least one sees the other. Where somebody takes the names of pages away meanwhile, neither may: so they look again whenever that was so, or
//! somebody has pages that are new, and whoever then sees the other seals no more. That may be both.
//!
//! Whoever ends without any number ever having been used withdraws its note: others read it as that of a key that nobody has. It stays there
//! for the next process of its own, which knows by it that the numbers up to the mark on disk are still to be had.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ravelin_esp::Reservation;

use crate::fingerprint::Fingerprint;

/// 64-bit words of a record: the key's fingerprint in two, the mark beside which it was written, the highest number that may have
/// been used.
const RECORD_WORDS: usize = 4;

/// Records on a page.
const PAGE_RECORDS: usize = 4096;

/// Pages at most: 262,144 keys in 8 MiB.
const MOST_PAGES: u32 = 64;

/// A page of shared memory, zero at first. Its words outlive the process.
pub trait BootPage: Debug + Send + Sync {
    /// [`BootPage::WORDS`] words or more.
    fn words(&self) -> &[AtomicU64];
}

impl dyn BootPage {
    /// How many words a page has.
    pub const WORDS: usize = PAGE_RECORDS * RECORD_WORDS;
}

/// Where pages come from. One process at a time may have them.
pub trait BootPages: Debug + Send {
    /// The page with this number, if it is there. With `make` it is made if it is not.
    ///
    /// # Errors
    /// The system's.
    fn page(&mut self, number: u32, make: bool) -> io::Result<Option<Arc<dyn BootPage>>>;

    /// Names of others on this machine that have pages, or had.
    ///
    /// # Errors
    /// The system's.
    fn others(&mut self) -> io::Result<Vec<String>>;

    /// A page of one of them; `None` if it has no page with this number.
    ///
    /// # Errors
    /// The system's.
    fn page_of(&mut self, other: &str, number: u32) -> io::Result<Option<Arc<dyn BootPage>>>;

    /// What tells the pages that others have from those that they had: a page that is new, or has its name anew, has a number that none had.
    ///
    /// # Errors
    /// The system's.
    fn others_pages(&mut self) -> io::Result<HashSet<u64>>;

    /// Has the pages that were given out be found again, by the next process and by others, if somebody has taken their names away; whether
    /// somebody had.
    ///
    /// # Errors
    /// The system's.
    fn name_again(&mut self) -> io::Result<bool>;
}

/// The memory of this boot: a record for every key that seals, as long as there is room.
#[derive(Debug)]
pub(crate) struct BootMemory {
    pages: Box<dyn BootPages>,
    open: Vec<Arc<dyn BootPage>>,
    index: HashMap<Fingerprint, Place>,
    free: Vec<Place>,
    /// Places in the order in which they were taken, for when there are no free ones.
    taken: VecDeque<Place>,
    /// The pages that others had when this looked last; `None` if it is to look again whatever they have.
    seen: Option<HashSet<u64>>,
}

/// Who else has a key.
#[derive(Debug)]
struct Claim {
    key: Fingerprint,
    other: String,
    /// A mark was recorded since it was noted, so it may have been sealed with. Else whoever has noted it has yet to look at others.
    usable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    page: u32,
    record: u32,
}

/// What is remembered of one key.
#[derive(Debug)]
pub(crate) struct BootRecord {
    page: Arc<dyn BootPage>,
    first: usize,
    /// It was made just now, so nothing was used under its key beyond the mark on disk.
    fresh: bool,
}

impl BootMemory {
    /// Reads what earlier processes left.
    pub(crate) fn open(mut pages: Box<dyn BootPages>) -> io::Result<Self> {
        let mut open = Vec::new();
        for number in 0..MOST_PAGES {
            match pages.page(number, false)? {
                Some(page) => open.push(page),
                None => break,
            }
        }
        let mut memory = Self {
            pages,
            open: Vec::new(),
            index: HashMap::new(),
            free: Vec::new(),
            taken: VecDeque::new(),
            seen: None,
        };
        for page in open {
            memory.take_in(page)?;
        }
        Ok(memory)
    }

    fn take_in(&mut self, page: Arc<dyn BootPage>) -> io::Result<()> {
        if page.words().len() < <dyn BootPage>::WORDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the page is too short",
            ));
        }
        let number = self.open.len() as u32;
        self.open.push(page);
        for record in 0..PAGE_RECORDS as u32 {
            let place = Place { page: number, record };
            match self.record(place).key() {
                Some(key) if !self.index.contains_key(&key) => {
                    self.index.insert(key, place);
                    self.taken.push_back(place);
                }
                _ => self.free.push(place),
            }
        }
        self.free.reverse();
        Ok(())
    }

    /// The record of a key, to be used instead of `durable`, the mark on disk; `claimed` are keys whose records stay. `None` when
    /// there is no room: then the file alone has to do.
    ///
    /// # Errors
    /// Those of [`BootPages::page`]. Others would not learn of the key.
    pub(crate) fn record_of(
        &mut self,
        key: Fingerprint,
        durable: u64,
        claimed: &HashSet<Fingerprint>,
    ) -> io::Result<Option<BootRecord>> {
        if let Some(place) = self.index.get(&key) {
            return Ok(Some(self.record(*place)));
        }
        if let Some(place) = self.index.remove(&key.withdrawn()) {
            let record = self.record(place);
            record.rename(key);
            self.index.insert(key, place);
            return Ok(Some(record));
        }
        // Half a fingerprint of zeros is what a free record begins with.
        if key.words()[0] == 0 {
            return Ok(None);
        }
        let Some(place) = self.free_place(claimed)? else {
            return Ok(None);
        };
        let record = BootRecord {
            fresh: true,
            ..self.record(place)
        };
        record.write(key, durable);
        self.index.insert(key, place);
        self.taken.push_back(place);
        Ok(Some(record))
    }

    /// See [`BootPages::name_again`]. While they had no names, others have not seen what is noted there.
    pub(crate) fn name_again(&mut self) -> io::Result<()> {
        let gone = self.pages.name_again();
        if !matches!(gone, Ok(false)) {
            self.seen = None;
        }
        gone.map(drop)
    }

    /// Takes the record of a key back under which no number was to be had.
    pub(crate) fn forget(&mut self, key: Fingerprint) {
        if let Some(place) = self.index.remove(&key) {
            self.record(place).word(0).store(0, Ordering::SeqCst);
            self.taken.retain(|taken| *taken != place);
            self.free.push(place);
        }
    }

    /// Has others no longer see the record of a key of which no number was used. This one finds it again.
    pub(crate) fn withdraw(&mut self, key: Fingerprint) {
        if let Some(place) = self.index.remove(&key) {
            self.record(place).rename(key.withdrawn());
            self.index.insert(key.withdrawn(), place);
        }
    }

    /// Who else on this machine has begun with one of these keys, and with which.
    pub(crate) fn holders(
        &mut self,
        keys: &HashSet<Fingerprint>,
    ) -> io::Result<HashMap<Fingerprint, String>> {
        let claims = self.claims(keys)?.into_iter();
        Ok(claims.map(|claim| (claim.key, claim.other)).collect())
    }

    /// Who else may by now have sealed with one of these keys, which this one has begun with when nobody else was to be seen: whoever
    /// began while the pages here had no names. Looks only if others have other pages than when this was asked last, or somebody has taken
    /// names away here. Whoever is about to be refused is none: it has noted its key and not used it.
    pub(crate) fn newcomers(
        &mut self,
        keys: impl FnOnce() -> HashSet<Fingerprint>,
    ) -> io::Result<HashMap<Fingerprint, String>> {
        let pages = self.pages.others_pages()?;
        if self.seen.as_ref() == Some(&pages) {
            return Ok(HashMap::new());
        }
        self.seen = None;
        let claims = self.claims(&keys())?;
        if claims.iter().all(|claim| claim.usable) {
            // Listed before they were looked at, so that what comes meanwhile is new the next time.
            self.seen = Some(pages);
        }
        let used = claims.into_iter().filter(|claim| claim.usable);
        Ok(used.map(|claim| (claim.key, claim.other)).collect())
    }

    /// What others have noted of these keys.
    fn claims(&mut self, keys: &HashSet<Fingerprint>) -> io::Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for other in self.pages.others()? {
            for number in 0..MOST_PAGES {
                let Some(page) = self.pages.page_of(&other, number)? else {
                    break;
                };
                let (records, _) = page.words().as_chunks::<RECORD_WORDS>();
                let taken = records
                    .iter()
                    .filter_map(|record| Some((key_of(record)?, record)));
                let held = taken.filter(|(key, _)| keys.contains(key));
                claims.extend(held.map(|(key, record)| Claim {
                    key,
                    other: other.clone(),
                    usable: record[2].load(Ordering::SeqCst) != record[3].load(Ordering::SeqCst),
                }));
            }
        }
        Ok(claims)
    }

    fn free_place(&mut self, claimed: &HashSet<Fingerprint>) -> io::Result<Option<Place>> {
        let number = self.open.len() as u32;
        if self.free.is_empty()
            && number < MOST_PAGES
            && let Some(page) = self.pages.page(number, true)?
        {
            self.take_in(page)?;
        }
        if let Some(place) = self.free.pop() {
            return Ok(Some(place));
        }
        // Of a key that nobody seals with now, the mark on disk is enough.
        let key = |place: &Place| self.record(*place).key();
        let mut keys = self.taken.iter().map(key);
        let oldest = keys.position(|key| key.is_none_or(|key| !claimed.contains(&key)));
        let place = oldest.and_then(|oldest| self.taken.remove(oldest));
        if let Some(key) = place.and_then(|place| self.record(place).key()) {
            self.index.remove(&key);
        }
        Ok(place)
    }

    fn record(&self, place: Place) -> BootRecord {
        BootRecord {
            page: Arc::clone(&self.open[place.page as usize]),
            first: place.record as usize * RECORD_WORDS,
            fresh: false,
        }
    }
}

/// The key of a record that begins with these words, if it is not a free one.
fn key_of(record: &[AtomicU64]) -> Option<Fingerprint> {
    let words = [0, 1].map(|number| record[number].load(Ordering::SeqCst));
    (words[0] != 0).then(|| Fingerprint::from_words(words))
}

impl BootRecord {
    fn word(&self, number: usize) -> &AtomicU64 {
        &self.page.words()[self.first + number]
    }

    fn key(&self) -> Option<Fingerprint> {
        key_of(&self.page.words()[self.first..])
    }

    /// Whether it was made just now.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Gives it the other name of its key, by which others see it or do not. A crash leaves it either.
    fn rename(&self, key: Fingerprint) {
        self.word(1).store(key.words()[1], Ordering::SeqCst);
    }

    /// A crash at any moment leaves the old record, a free one, or the new one.
    fn write(&self, key: Fingerprint, durable: u64) {
        let [first, second] = key.words();
        let words = [(0, 0), (1, second), (2, durable), (3, durable), (0, first)];
        for (number, value) in words {
            self.word(number).store(value, Ordering::SeqCst);
        }
    }

    /// The highest number that may have been used, when the file says `durable`. From now on the record says so of that mark.
    pub(crate) fn settle(&self, durable: u64) -> u64 {
        let (beside, reserved) = (self.durable(), self.reserved());
        if beside == durable {
            return reserved.min(durable);
        }
        let highest = beside.max(durable);
        self.reserve(highest);
        if beside < durable {
            self.word(2).store(durable, Ordering::SeqCst);
        }
        highest
    }

    /// The mark that the record was written beside.
    fn durable(&self) -> u64 {
        self.word(2).load(Ordering::SeqCst)
    }

    /// The highest number that may have been used; 0 if none was since there are marks.
    pub(crate) fn reserved(&self) -> u64 {
        self.word(3).load(Ordering::SeqCst)
    }

    /// A higher mark is on disk.
    pub(crate) fn set_durable(&self, durable: u64) {
        self.word(2).store(durable, Ordering::SeqCst);
    }
}

impl Reservation for BootRecord {
    fn reserve(&self, highest: u64) {
        self.word(3).fetch_max(highest, Ordering::SeqCst);
    }
}
