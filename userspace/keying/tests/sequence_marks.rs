//! No sequence number is used twice under one key, whatever happens to the process or to the file.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ravelin_esp::{Secret, SequenceCounter, SequenceNumber};
use ravelin_keying::{
    MarkError, MarkFileError, RESERVE, ReceivedMark, SequenceMark, StateFolder, StateFolderError,
};

const SPI: u32 = 0x1001;

fn key(fill: u8) -> Secret {
    Secret::copy_from(&[fill; 36])
}

fn folder(path: &Path) -> Arc<StateFolder> {
    Arc::new(StateFolder::open(path).expect("a state folder"))
}

fn take(counter: &SequenceCounter, count: u32) -> Vec<u64> {
    counter
        .reserve_up_to(count)
        .map(SequenceNumber::into_value)
        .collect()
}

fn private_folder() -> tempfile::TempDir {
    let mode = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .permissions(mode)
        .tempdir()
        .expect("a folder")
}

/// One life of a daemon: takes up to `count` numbers, extending between, and dies without a word.
fn life(path: &Path, count: u32) -> Vec<u64> {
    let mut mark = SequenceMark::open(&folder(path), SPI, &key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, mark.last_used());
    mark.extend(&counter, true).expect("recorded");
    let mut used = take(&counter, count);
    mark.extend(&counter, true).expect("recorded");
    used.extend(take(&counter, 5));
    used
}

/// The one mark in the folder.
fn file(path: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(path)
        .expect("a folder")
        .map(|entry| entry.expect("entry").path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn every_life_goes_on_above_the_last() {
    let temporary = private_folder();
    let path = temporary.path().join("deep/state");
    let mut highest = 0;
    for count in [
        1,
        0,
        1000,
        RESERVE as u32,
        RESERVE as u32 / 2 + 1,
        3 * RESERVE as u32,
    ] {
        let used = life(&path, count);
        assert!(used.is_sorted_by(|a, b| a < b));
        assert!(used[0] > highest, "{} was already used", used[0]);
        highest = used[used.len() - 1];
    }
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(file(&path)).expect("there").mode() & 0o7777, 0o600);
}

#[test]
fn the_mark_is_on_disk_before_a_number_may_be_used() {
    let temporary = private_folder();
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, &key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, mark.last_used());
    assert_eq!(take(&counter, 1), [0_u64; 0]);
    for _ in 0..5 {
        mark.extend(&counter, true).expect("recorded");
        let text = fs::read_to_string(file(temporary.path())).expect("a mark");
        assert!(
            text.contains(&format!("\nhighest {}\n", counter.ceiling())),
            "{text}"
        );
        take(&counter, RESERVE as u32 * 2 / 3);
    }
    assert!(counter.last_used() > 3 * RESERVE);
}

#[test]
fn when_nothing_can_be_recorded_sending_runs_dry() {
    let temporary = private_folder();
    let path = temporary.path().join("state");
    let mut mark = SequenceMark::open(&folder(&path), SPI, &key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, mark.last_used());
    mark.extend(&counter, true).expect("recorded");
    fs::remove_dir_all(&path).expect("removed");
    take(&counter, RESERVE as u32 - 1);
    let error = mark.extend(&counter, true).expect_err("nowhere to write");
    assert!(
        matches!(error, MarkError::File(MarkFileError::Write { .. })),
        "{error}"
    );
    assert_eq!(take(&counter, 100).len(), 1);
    assert_eq!(take(&counter, 100).len(), 0);
}

#[test]
fn a_damaged_mark_is_refused() {
    let temporary = private_folder();
    let path = temporary.path();
    life(path, 1000);
    let good = fs::read(file(path)).expect("a mark");
    let open = || SequenceMark::open(&folder(path), SPI, &key(1)).map(|mark| mark.last_used());
    assert!(open().is_ok());
    for length in 0..good.len() {
        fs::write(file(path), &good[..length]).expect("written");
        let error = open().expect_err("truncated");
        assert!(
            matches!(error, MarkError::File(MarkFileError::Damaged { .. })),
            "{length}: {error}"
        );
        assert!(
            error.to_string().contains("make a new key on both ends"),
            "{error}"
        );
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            fs::write(file(path), &bad).expect("written");
            assert!(open().is_err(), "byte {at} bit {bit}");
        }
    }
    fs::write(file(path), [good.clone(), b"x".repeat(1000)].concat()).expect("written");
    assert!(open().is_err());
    let later = String::from_utf8_lossy(&good).replace("mark 1", "mark 2");
    fs::write(file(path), later).expect("written");
    assert!(matches!(
        open(),
        Err(MarkError::File(MarkFileError::Version { .. }))
    ));
    // What a crash leaves beside the mark does not matter.
    fs::write(file(path), &good).expect("written");
    fs::write(file(path).with_extension("sent.new"), b"torn").expect("written");
    assert!(open().is_ok());
}

#[test]
fn a_mark_of_another_key_is_no_mark() {
    let temporary = private_folder();
    life(temporary.path(), 1000);
    let first = file(temporary.path());
    let other = SequenceMark::open(&folder(temporary.path()), SPI, &key(2)).expect("a new key");
    assert_eq!(other.last_used(), 0);
    // Copied to the other key's name it is refused: the checksum covers the key.
    let mut other = other;
    let counter = SequenceCounter::new(true, 0);
    other.extend(&counter, true).expect("recorded");
    drop(other);
    let second = fs::read_dir(temporary.path())
        .expect("a folder")
        .map(|entry| entry.expect("entry").path())
        .find(|path| *path != first)
        .expect("two marks");
    fs::copy(first, second).expect("copied");
    let error = SequenceMark::open(&folder(temporary.path()), SPI, &key(2)).expect_err("another key's");
    assert!(
        matches!(error, MarkError::File(MarkFileError::Damaged { .. })),
        "{error}"
    );
}

#[test]
fn a_new_spi_does_not_start_an_old_key_again() {
    let temporary = private_folder();
    let used = life(temporary.path(), 1000);
    let mark = SequenceMark::open(&folder(temporary.path()), SPI + 1, &key(1)).expect("a mark");
    assert!(mark.last_used() >= used[used.len() - 1]);
}

#[test]
fn one_key_has_one_sender() {
    let temporary = private_folder();
    let state = folder(temporary.path());
    let first = SequenceMark::open(&state, SPI, &key(1)).expect("a mark");
    let second = SequenceMark::open(&state, SPI + 1, &key(1)).expect_err("in use");
    assert!(matches!(second, MarkError::InUse { .. }), "{second}");
    let other = StateFolder::open(temporary.path()).expect_err("locked");
    assert!(matches!(other, StateFolderError::InUse { .. }), "{other}");
    drop(first);
    assert!(SequenceMark::open(&state, SPI, &key(1)).is_ok());
    drop(state);
    assert!(StateFolder::open(temporary.path()).is_ok());
}

#[test]
fn a_counter_that_starts_below_the_mark_gets_nothing() {
    let temporary = private_folder();
    life(temporary.path(), 1000);
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, &key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, 0);
    assert!(matches!(
        mark.extend(&counter, true),
        Err(MarkError::Behind { .. })
    ));
    assert_eq!(take(&counter, 1), [0_u64; 0]);
}

#[test]
fn numbers_of_32_bits_end() {
    let temporary = private_folder();
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, &key(1)).expect("a mark");
    let counter = SequenceCounter::new(false, u64::from(u32::MAX) - 10);
    mark.extend(&counter, false).expect("ten are left");
    assert_eq!(take(&counter, 100).len(), 10);
    assert!(matches!(
        mark.extend(&counter, false),
        Err(MarkError::Exhausted { .. })
    ));
    drop(mark);
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, &key(1)).expect("a mark");
    assert_eq!(mark.last_used(), u64::from(u32::MAX));
    let counter = SequenceCounter::new(false, mark.last_used());
    assert!(matches!(
        mark.extend(&counter, false),
        Err(MarkError::Exhausted { .. })
    ));
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    let temporary = private_folder();
    for mode in [0o755, 0o770, 0o707] {
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(mode)).expect("mode set");
        let error = StateFolder::open(temporary.path())
            .expect_err("open to others")
            .to_string();
        assert!(
            error.contains(&format!("its mode is {mode:04o}")) && error.contains("chmod 700"),
            "{error}"
        );
    }
    let file = temporary.path().join("file");
    fs::write(&file, "").expect("written");
    assert!(matches!(
        StateFolder::open(&file),
        Err(StateFolderError::Open { .. })
    ));
}

#[test]
fn what_was_received_is_remembered_and_never_lowered() {
    let temporary = private_folder();
    let open = || ReceivedMark::open(&folder(temporary.path()), SPI, &key(1));
    let mut mark = open().expect("a new key");
    assert_eq!(mark.highest(), 0);
    mark.record(0).expect("nothing to do");
    assert_eq!(fs::read_dir(temporary.path()).expect("a folder").count(), 0);
    mark.record(u64::from(u32::MAX) + 7).expect("recorded");
    mark.record(5).expect("nothing to do");
    drop(mark);
    assert_eq!(open().expect("a mark").highest(), u64::from(u32::MAX) + 7);
    // It is no mark of what was sent, and a damaged one is refused.
    assert_eq!(
        SequenceMark::open(&folder(temporary.path()), SPI, &key(1))
            .expect("new")
            .last_used(),
        0
    );
    let good = fs::read(file(temporary.path())).expect("a mark");
    fs::write(file(temporary.path()), &good[1..]).expect("written");
    assert!(matches!(open(), Err(MarkFileError::Damaged { .. })));
}
