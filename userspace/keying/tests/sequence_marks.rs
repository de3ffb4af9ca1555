//! No sequence number is used twice under one key, whatever happens to the process or to the file.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ravelin_esp::{Secret, SequenceCounter, SequenceNumber};
use ravelin_keying::{
    Fingerprint, MarkError, MarkFileError, RESERVE, ReceivedMark, SequenceMark, StateFolder, StateFolderError,
};

const SPI: u32 = 0x1001;

fn key(fill: u8) -> Fingerprint {
    Fingerprint::of(&Secret::copy_from(&[fill; 36]))
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
    let mut mark = SequenceMark::open(&folder(path), SPI, key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, mark.start());
    mark.extend(&counter).expect("recorded");
    let mut used = take(&counter, count);
    mark.extend(&counter).expect("recorded");
    used.extend(take(&counter, 5));
    used
}

/// The marks in the folder, which hold nothing else.
fn file(path: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(path)
        .expect("a folder")
        .map(|entry| entry.expect("entry").path())
        .collect();
    assert_eq!(files, [path.join("marks")]);
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
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, mark.start());
    assert_eq!(take(&counter, 1), [0_u64; 0]);
    for _ in 0..5 {
        mark.extend(&counter).expect("recorded");
        let content = fs::read(file(temporary.path())).expect("a mark");
        let ceiling = counter.ceiling().to_le_bytes();
        assert!(content.chunks(8).any(|word| word == ceiling));
        take(&counter, RESERVE as u32 * 2 / 3);
    }
    assert!(counter.last_used() > 3 * RESERVE);
}

#[test]
fn when_nothing_can_be_recorded_sending_runs_dry() {
    let temporary = private_folder();
    let path = temporary.path().join("state");
    let mut mark = SequenceMark::open(&folder(&path), SPI, key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, mark.start());
    mark.extend(&counter).expect("recorded");
    fs::remove_dir_all(&path).expect("removed");
    take(&counter, RESERVE as u32 - 1);
    let error = mark.extend(&counter).expect_err("nowhere to write");
    assert!(
        matches!(error, MarkError::File(MarkFileError::Write { .. })),
        "{error}"
    );
    assert_eq!(take(&counter, 100).len(), 1);
    assert_eq!(take(&counter, 100).len(), 0);
}

/// Whatever is changed in the file, a key is refused or goes on above what it used.
#[test]
fn damage_never_lowers_a_mark() {
    let temporary = private_folder();
    let path = temporary.path();
    let highest = life(path, 1000).pop().expect("numbers");
    // Twice, so that the copies differ.
    let highest = life(path, RESERVE as u32 / 2 + 1000)
        .pop()
        .expect("numbers")
        .max(highest);
    let good = fs::read(file(path)).expect("a mark");
    let open = || match StateFolder::open(path) {
        Ok(folder) => SequenceMark::open(&Arc::new(folder), SPI, key(1)).map(|mark| mark.start().last_used),
        Err(StateFolderError::Marks(error)) => Err(error.into()),
        Err(error) => panic!("{error}"),
    };
    let intact = open().expect("intact");
    assert!(intact >= highest);
    for length in (0..good.len()).rev().step_by(509).chain(0..200) {
        fs::write(file(path), &good[..length]).expect("written");
        let error = open().expect_err("truncated");
        assert!(
            matches!(error, MarkError::File(MarkFileError::Damaged { .. })),
            "{length}: {error}"
        );
        assert!(error.to_string().contains("make new keys"), "{error}");
    }
    fs::write(file(path), [good.clone(), b"x".repeat(64)].concat()).expect("written");
    assert!(open().is_err(), "longer than it says");
    let (mut refused, mut higher) = (0, 0);
    // The header, the first copies, the second ones, and some of what is still zero.
    let records = (good.len() - 4096) / 2;
    let places = [0..100, 4090..4096 + 70, 4096 + records - 6..4096 + records + 70];
    for at in places.into_iter().flatten() {
        // Each bit in turn: that every bit of a record counts is tested where records are made.
        for bit in [at % 8, (at + 3) % 8] {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            fs::write(file(path), &bad).expect("written");
            match open() {
                Ok(mark) => {
                    assert!(mark >= intact, "byte {at} bit {bit}: {mark}");
                    higher += u32::from(mark > intact);
                    // It is mended: the next time it is no higher.
                    assert_eq!(open().expect("mended"), mark);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 2 * 30, "{refused}");
    // Without the older of the two copies the newer one is taken to be the older.
    assert!(higher >= 64 * 2, "{higher}");
    let later = [&good[..14], b"2", &good[15..]].concat();
    fs::write(file(path), later).expect("written");
    let error = open().expect_err("another version");
    assert!(
        matches!(error, MarkError::File(MarkFileError::Version { .. })),
        "{error}"
    );
    // What a crash leaves beside the file does not matter.
    fs::write(path.join("marks"), &good).expect("written");
    fs::write(path.join("marks.new"), b"torn").expect("written");
    assert_eq!(open().expect("intact"), intact);
}

/// Either copy of a record is enough, also of the first one and of one that rose by much. Without both nobody can tell
/// whose mark it was: then only keys whose marks are there go on.
#[test]
fn one_copy_is_enough_and_without_both_unknown_keys_are_refused() {
    let temporary = private_folder();
    let path = temporary.path();
    let state = folder(path);
    let open = |state: &Arc<StateFolder>, fill| SequenceMark::open(state, SPI, key(fill));
    let record = |fill, last_used| {
        let mut mark = open(&state, fill).expect("a mark");
        let counter = SequenceCounter::new(true, last_used);
        mark.extend(&counter).expect("recorded");
        take(&counter, 10);
        counter.last_used()
    };
    let other = record(2, 0);
    let mut used = record(1, 0);
    let mut images = vec![(used, fs::read(file(path)).expect("marks"))];
    used = record(1, 5 * RESERVE);
    images.push((used, fs::read(file(path)).expect("marks")));
    drop(state);
    // Of the second key in the file.
    let copies = [4096 + 64, 4096 + 1024 * 64 + 64];
    for (used, image) in images {
        for lost in [&copies[..1], &copies[1..], &copies[..]] {
            let mut bad = image.clone();
            for at in lost {
                bad[*at..at + 64].fill(0xff);
            }
            fs::write(file(path), &bad).expect("written");
            // Again, because it is written anew.
            for _ in 0..2 {
                let state = folder(path);
                assert!(open(&state, 2).expect("there").start().last_used >= other);
                if lost.len() == 1 {
                    assert!(open(&state, 1).expect("there").start().last_used >= used);
                    assert_eq!(open(&state, 3).expect("new").start().last_used, 0);
                } else {
                    for fill in [1, 3] {
                        let error = open(&state, fill).expect_err("lost").to_string();
                        assert!(error.contains("marks of 1 keys are damaged"), "{error}");
                    }
                }
            }
        }
    }
}

/// Power fails while marks are written: any part of the sectors under way is on disk, the last of them up to any byte.
#[test]
fn a_torn_write_never_lowers_a_mark() {
    let temporary = private_folder();
    let path = temporary.path().join("state");
    let image = || fs::read(path.join("marks")).expect("marks");
    let state = folder(&path);
    let mut marks: Vec<_> = (1..=3)
        .map(|fill| {
            let mark = SequenceMark::open(&state, SPI, key(fill)).expect("a mark");
            let counter = SequenceCounter::new(true, mark.start());
            (fill, mark, counter)
        })
        .collect();
    let mut steps = Vec::new();
    for round in 0..4 {
        for (fill, mark, counter) in &mut marks {
            let before = (round > 0 || *fill > 1).then(&image);
            mark.extend(counter).expect("recorded");
            let sound = counter.last_used();
            if let Some(before) = before {
                // Numbers up to here were used before the write began.
                steps.push((*fill, sound, before, image()));
            }
            take(counter, RESERVE as u32 / 2 + 7);
        }
    }
    drop((marks, state));
    let mut images = 0;
    for (fill, sound, before, after) in steps {
        let changed: Vec<usize> = (0..before.len())
            .step_by(512)
            .filter(|at| before[*at..*at + 512] != after[*at..*at + 512])
            .collect();
        assert!((1..=2).contains(&changed.len()), "{changed:?}");
        for subset in 0..1_u32 << changed.len() {
            for bytes in (0..=192).step_by(16).chain([512]) {
                let mut torn = before.clone();
                for (bit, at) in changed.iter().enumerate() {
                    if subset >> bit & 1 == 1 {
                        torn[*at..*at + 512].copy_from_slice(&after[*at..*at + 512]);
                    }
                }
                // One of the sectors only so far.
                if let Some(at) = changed.first() {
                    torn[*at..*at + bytes].copy_from_slice(&after[*at..*at + bytes]);
                }
                fs::write(path.join("marks"), &torn).expect("written");
                images += 1;
                let state = folder(&path);
                match SequenceMark::open(&state, SPI, key(fill)) {
                    Ok(mark) => assert!(
                        mark.start().last_used >= sound,
                        "{fill}: {} {sound}",
                        mark.start().last_used
                    ),
                    // A new key whose first record was torn was never used.
                    Err(MarkError::File(MarkFileError::Lost { .. })) => assert_eq!(sound, 0),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    assert!(images > 300, "{images}");
}

/// An administrator deletes the file while the daemon runs: it is written again, with the marks of all keys.
#[test]
fn a_file_that_was_removed_comes_back_whole() {
    let temporary = private_folder();
    let path = temporary.path();
    let state = folder(path);
    let [mut one, mut two] = [1, 2].map(|fill| {
        let mark = SequenceMark::open(&state, SPI, key(fill)).expect("a mark");
        let counter = SequenceCounter::new(true, mark.start());
        (mark, counter)
    });
    one.0.extend(&one.1).expect("recorded");
    two.0.extend(&two.1).expect("recorded");
    take(&two.1, 10);
    take(&one.1, RESERVE as u32 - 1);
    for replaced in [false, true] {
        fs::remove_file(file(path)).expect("removed");
        if replaced {
            fs::write(path.join("marks"), "something else").expect("written");
        }
        one.0.extend(&one.1).expect("recorded");
        take(&one.1, RESERVE as u32 - 1);
    }
    let used = [one.1.last_used(), two.1.last_used()];
    drop((one, two, state));
    let state = folder(path);
    for (fill, used) in [1, 2].into_iter().zip(used) {
        let mark = SequenceMark::open(&state, SPI, key(fill)).expect("a mark");
        assert!(mark.start().last_used >= used, "{fill}");
    }
}

#[test]
fn a_mark_of_another_key_is_no_mark() {
    let temporary = private_folder();
    life(temporary.path(), 1000);
    let other = SequenceMark::open(&folder(temporary.path()), SPI, key(2)).expect("a new key");
    assert_eq!(other.start().last_used, 0);
}

#[test]
fn a_new_spi_does_not_start_an_old_key_again() {
    let temporary = private_folder();
    let used = life(temporary.path(), 1000);
    let mark = SequenceMark::open(&folder(temporary.path()), SPI + 1, key(1)).expect("a mark");
    assert!(mark.start().last_used >= used[used.len() - 1]);
}

/// Were a policy's keys exchanged, both ends would seal under the same key, each from 1.
#[test]
fn a_key_keeps_its_direction() {
    let temporary = private_folder();
    let path = temporary.path();
    life(path, 1);
    let folder = folder(path);
    let mut received = ReceivedMark::open(&folder, SPI, key(2)).expect("a new key");
    // As long as nothing was received, the key is as good as new.
    drop(SequenceMark::open(&folder, SPI, key(2)).expect("a new key"));
    received.record(1).expect("recorded");
    drop(received);

    let error = ReceivedMark::open(&folder, SPI, key(1)).expect_err("it was used to send");
    assert!(error.to_string().contains("used to send before"), "{error}");
    let error = SequenceMark::open(&folder, SPI, key(2)).expect_err("it was used to receive");
    assert!(error.to_string().contains("used to receive before"), "{error}");
    // The right way round they go on.
    assert!(
        SequenceMark::open(&folder, SPI, key(1))
            .expect("its own")
            .start()
            .last_used
            > 0
    );
    let received = ReceivedMark::open(&folder, SPI, key(2)).expect("its own");
    assert_eq!(received.highest(), 1);
}

#[test]
fn one_key_has_one_sender() {
    let temporary = private_folder();
    let state = folder(temporary.path());
    let first = SequenceMark::open(&state, SPI, key(1)).expect("a mark");
    let second = SequenceMark::open(&state, SPI + 1, key(1)).expect_err("in use");
    assert!(matches!(second, MarkError::InUse { .. }), "{second}");
    let other = StateFolder::open(temporary.path()).expect_err("locked");
    assert!(matches!(other, StateFolderError::InUse { .. }), "{other}");
    drop(first);
    assert!(SequenceMark::open(&state, SPI, key(1)).is_ok());
    drop(state);
    assert!(StateFolder::open(temporary.path()).is_ok());
}

#[test]
fn a_counter_that_starts_below_the_mark_gets_nothing() {
    let temporary = private_folder();
    life(temporary.path(), 1000);
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, key(1)).expect("a mark");
    let counter = SequenceCounter::new(true, 0);
    assert!(matches!(mark.extend(&counter), Err(MarkError::Behind { .. })));
    assert_eq!(take(&counter, 1), [0_u64; 0]);
}

#[test]
fn numbers_of_32_bits_end() {
    let temporary = private_folder();
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, key(1)).expect("a mark");
    let counter = SequenceCounter::new(false, u64::from(u32::MAX) - 10);
    mark.extend(&counter).expect("ten are left");
    assert_eq!(take(&counter, 100).len(), 10);
    assert!(matches!(mark.extend(&counter), Err(MarkError::Exhausted { .. })));
    drop(mark);
    let mut mark = SequenceMark::open(&folder(temporary.path()), SPI, key(1)).expect("a mark");
    assert_eq!(mark.start().last_used, u64::from(u32::MAX));
    let counter = SequenceCounter::new(false, mark.start());
    assert!(matches!(mark.extend(&counter), Err(MarkError::Exhausted { .. })));
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
    let open = || ReceivedMark::open(&folder(temporary.path()), SPI, key(1));
    let mut mark = open().expect("a new key");
    assert_eq!(mark.highest(), 0);
    mark.record(0).expect("nothing to do");
    assert_eq!(fs::read_dir(temporary.path()).expect("a folder").count(), 0);
    mark.record(u64::from(u32::MAX) + 7).expect("recorded");
    mark.record(5).expect("nothing to do");
    drop(mark);
    assert_eq!(open().expect("a mark").highest(), u64::from(u32::MAX) + 7);
    // It is no mark of what was sent, and the key is not one to send with.
    let error =
        SequenceMark::open(&folder(temporary.path()), SPI, key(1)).expect_err("it was used to receive");
    assert!(error.to_string().contains("used to receive before"), "{error}");
}
