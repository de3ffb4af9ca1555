//! Keys, and all the ways in which one could be shown.

use std::path::Path;

/// Bytes, and digits, that are no accident when they are met.
const WINDOW: usize = 8;

/// A key as its file has it.
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        Self((0..digits.len()).step_by(2).map(byte).collect())
    }

    pub(crate) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether eight bytes of the key stand in `bytes` as they are.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        let windows: Vec<&[u8]> = self.0.windows(WINDOW).collect();
        contains_any(bytes, &windows)
    }

    /// Whether eight bytes of the key stand in `bytes` as text: hexadecimal with or without anything between the bytes,
    /// a list of numbers, or base64 of either alphabet.
    pub(crate) fn is_written_in(&self, bytes: &[u8]) -> bool {
        let dense = |dropped: &[u8]| -> Vec<u8> {
            let kept = bytes.iter().filter(|byte| !dropped.contains(byte));
            kept.map(u8::to_ascii_lowercase).collect()
        };
        let hex = self.written(|byte| format!("{byte:02x}"));
        let prefixed = self.written(|byte| format!("0x{byte:02x}"));
        // Without the last comma.
        let mut decimal = self.written(|byte| format!("{byte},"));
        for list in &mut decimal {
            list.pop();
        }
        contains_any(&dense(b" :,-_[]\n"), &[hex, prefixed].concat())
            || contains_any(&dense(b" \n"), &decimal)
            || contains_any(bytes, &self.base64())
    }

    /// Each eight bytes of the key as text.
    fn written(&self, byte: impl Fn(&u8) -> String) -> Vec<String> {
        let windows = self.0.windows(WINDOW);
        windows.map(|window| window.iter().map(&byte).collect()).collect()
    }

    /// Ten digits of base64 from each byte of the key on.
    fn base64(&self) -> Vec<String> {
        let digits = |window: &[u8], alphabet: &[u8; 64]| -> String {
            let bits = window
                .iter()
                .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            (0..10)
                .map(|digit| char::from(alphabet[(bits >> (58 - 6 * digit)) as usize & 63]))
                .collect()
        };
        let mut standard = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut all: Vec<String> = self
            .0
            .windows(WINDOW)
            .map(|window| digits(window, &standard))
            .collect();
        standard[62..].copy_from_slice(b"-_");
        all.extend(self.0.windows(WINDOW).map(|window| digits(window, &standard)));
        all
    }
}

/// Whether any of some patterns of at least eight bytes is in `bytes`.
fn contains_any(bytes: &[u8], patterns: &[impl AsRef<[u8]>]) -> bool {
    let mut by_start: Vec<Vec<&[u8]>> = vec![Vec::new(); 1 << 16];
    let start = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    for pattern in patterns.iter().map(AsRef::as_ref) {
        by_start[start(pattern)].push(pattern);
    }
    (0..bytes.len().saturating_sub(1)).any(|at| {
        let candidates = &by_start[start(&bytes[at..])];
        candidates.iter().any(|pattern| bytes[at..].starts_with(pattern))
    })
}

#[test]
fn every_way_to_write_a_key_is_found() {
    let key = Key((0..36).map(|byte| byte * 7 + 3).collect());
    let part = &key.0[5..20];
    let texts = [
        format!("key {}", key.hex()),
        key.hex().to_uppercase(),
        format!("{part:?}"),
        format!("{part:#?}"),
        format!("{part:02x?}"),
        format!("{part:#04x?}"),
        part.iter().map(|byte| format!("{byte:02X}:")).collect(),
        // By Python: base64.b64encode, and urlsafe_b64encode behind one and b64encode behind two other bytes.
        "AwoRGB8mLTQ7QklQV15lbHN6gYiPlp2kq7K5wMfO1dzj6vH4".to_owned(),
        "eAMKERgfJi00O0JJUFdeZWxzeoGIj5adpKuyucDHztXc4-rx-A==".to_owned(),
        "eHkDChEYHyYtNDtCSVBXXmVsc3qBiI+WnaSrsrnAx87V3OPq8fg=".to_owned(),
    ];
    let other = Key((0..36).map(|byte| byte * 5 + 1).collect());
    for text in &texts {
        assert!(key.is_written_in(text.as_bytes()), "{text}");
        assert!(!other.is_written_in(text.as_bytes()), "{text}");
    }
    assert!(key.is_in(part) && !other.is_in(part));
    assert!(!key.is_in(&part[..7]));
}
