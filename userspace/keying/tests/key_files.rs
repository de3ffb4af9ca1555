//! Which key files are taken, and that no message ever holds a key.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use ravelin_keying::{KeyFileError, key_file};
use ravelin_policy::Algorithm;
use tempfile::TempDir;

/// 20 bytes, of which no two are the same.
const KEY: &str = "c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path("key");
        let _ = fs::remove_file(&path);
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
        path
    }
}

fn refused(path: &Path, algorithm: Algorithm) -> String {
    let error = key_file::read(path, algorithm).expect_err("must be refused");
    let text = error.to_string();
    assert!(
        text.starts_with(&path.display().to_string()),
        "names the file: {text}"
    );
    let all = format!("{text} {error:?}").replace(&path.display().to_string(), "");
    assert!(
        !all.contains("c0c1") && !all.contains("192, 193"),
        "a key in a message: {all}"
    );
    text
}

#[test]
fn every_way_to_write_the_digits_is_read() {
    let folder = Folder::new();
    let expected: Vec<u8> = (0xc0..=0xd3).collect();
    let spaced = format!(
        "# made by hand\n\n  {} # the key\n\t{}\r\n",
        &KEY[..20],
        &KEY[20..]
    );
    for content in [
        KEY.to_owned(),
        format!("{KEY}\n"),
        KEY.to_uppercase(),
        format!("0x{KEY}"),
        spaced,
    ] {
        for mode in [0o600, 0o400] {
            let path = folder.file(&content, mode);
            assert_eq!(
                key_file::read(&path, Algorithm::AES_128_GCM)
                    .expect("a good key")
                    .expose(),
                expected,
                "{content}"
            );
        }
    }
}

#[test]
fn wrong_content_is_told_apart() {
    let folder = Folder::new();
    let long = format!("{KEY}{KEY}");
    for (content, algorithm, expected) in [
        (
            &KEY[..38],
            Algorithm::AES_128_GCM,
            "expected 40 hex digits for aes-128-gcm (encryption key, salt, integrity key: 16 + 4 + 0 bytes), found 38",
        ),
        (&KEY[..39], Algorithm::AES_128_GCM, "found 39"),
        (
            KEY,
            Algorithm::AES_256_GCM,
            "expected 72 hex digits for aes-256-gcm (encryption key, salt, integrity key: 32 + 4 + 0 bytes), found 40",
        ),
        (long.as_str(), Algorithm::AES_256_GCM, "found 80"),
        ("", Algorithm::AES_128_GCM, "found 0"),
        ("# only a comment", Algorithm::AES_128_GCM, "found 0"),
        (
            "c0c1c2\nc3c4xxc5c6",
            Algorithm::AES_128_GCM,
            ":2: only hexadecimal digits",
        ),
        (
            "c0c1c2\n\u{0}",
            Algorithm::AES_128_GCM,
            ":2: only hexadecimal digits",
        ),
        (
            "0000000000000000000000000000000000000000",
            Algorithm::AES_128_GCM,
            "a key of zeros protects nothing",
        ),
    ] {
        let error = refused(&folder.file(content, 0o600), algorithm);
        assert!(error.contains(expected), "{expected:?} not in {error}");
    }
    let large = "# c0c1c2c3\n".repeat(1000);
    assert!(refused(&folder.file(large, 0o600), Algorithm::AES_128_GCM).contains("larger than 4096 bytes"));
}

#[test]
fn a_file_that_others_may_touch_is_refused() {
    let folder = Folder::new();
    for mode in [0o644, 0o640, 0o604, 0o660, 0o602, 0o601, 0o700, 0o4600] {
        let path = folder.file(KEY, mode);
        let error = refused(&path, Algorithm::AES_128_GCM);
        assert!(error.contains(&format!("its mode is {mode:04o}")), "{error}");
        assert!(
            error.contains(&format!("chmod 600 {}", path.display())),
            "{error}"
        );
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    let folder = Folder::new();
    let path = folder.file(KEY, 0o600);
    chown(&path, Some(12_345), None).expect("this test needs root");
    assert!(refused(&path, Algorithm::AES_128_GCM).contains("it belongs to user 12345"));
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = Folder::new();
    let target = folder.file(KEY, 0o600);
    let link = folder.path("link");
    symlink(&target, &link).expect("linked");
    assert!(refused(&link, Algorithm::AES_128_GCM).contains("must not be a symbolic link"));
    let pipe = folder.path("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    assert!(refused(&pipe, Algorithm::AES_128_GCM).contains("not a regular file"));
    assert!(refused(folder.0.path(), Algorithm::AES_128_GCM).contains("not a regular file"));
    assert!(
        refused(&folder.path("missing"), Algorithm::AES_128_GCM)
            .contains("cannot open the key file: No such file")
    );
}

#[test]
fn a_made_key_is_private_new_and_never_overwritten() {
    let folder = Folder::new();
    let mut keys = Vec::new();
    for (name, algorithm) in [
        ("a", Algorithm::AES_128_GCM),
        ("b", Algorithm::AES_256_GCM),
        ("c", Algorithm::AES_256_GCM),
    ] {
        let path = folder.path(name);
        key_file::create(&path, algorithm).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        keys.push(key_file::read(&path, algorithm).expect("readable"));
        assert_eq!(keys[keys.len() - 1].len(), algorithm.keymat_len());
        let before = fs::read(&path).expect("readable");
        let again = key_file::create(&path, algorithm).expect_err("exists");
        assert!(matches!(again, KeyFileError::Open { .. }), "{again}");
        assert_eq!(fs::read(&path).expect("readable"), before);
    }
    assert_ne!(keys[1], keys[2]);
    assert!(key_file::create(&folder.path("no/such/folder"), Algorithm::AES_128_GCM).is_err());
}
