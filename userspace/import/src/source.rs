//! The foreign text: decoded, bounded, in lines.

use std::io::Read;

use crate::findings::{Findings, ImportErrors};

/// Largest source in bytes.
pub const MAX_SOURCE_BYTES: u64 = 64 << 20;

/// Longest line in bytes, for languages in which a line is a statement.
const MAX_LINE: usize = 64 << 10;

/// A text in a foreign rule language.
#[derive(Debug)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Reads and decodes a source: UTF-8, or UTF-16 with a byte order mark, as Windows saves scripts.
    ///
    /// # Errors
    /// When it cannot be read, is larger than [`MAX_SOURCE_BYTES`], or is no text.
    pub fn read(name: &str, reader: impl Read) -> Result<Self, ImportErrors> {
        let mut bytes = Vec::new();
        reader
            .take(MAX_SOURCE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| ImportErrors::one(name, 0, format!("cannot read: {error}")))?;
        Self::decode(name, &bytes)
    }

    /// Decodes a source: UTF-8, or UTF-16 with a byte order mark.
    ///
    /// # Errors
    /// When it is larger than [`MAX_SOURCE_BYTES`] or no text.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, ImportErrors> {
        if bytes.len() as u64 > MAX_SOURCE_BYTES {
            let message = format!("larger than {} MiB; split it", MAX_SOURCE_BYTES >> 20);
            return Err(ImportErrors::one(name, 0, message));
        }
        let text = match bytes {
            [0xff, 0xfe, rest @ ..] => decode_utf16(name, rest, u16::from_le_bytes)?,
            [0xfe, 0xff, rest @ ..] => decode_utf16(name, rest, u16::from_be_bytes)?,
            [0xef, 0xbb, 0xbf, rest @ ..] => decode_utf8(name, rest)?,
            rest => decode_utf8(name, rest)?,
        };
        if let Some(at) = text.find('\0') {
            let message = "a NUL byte; this is no text (UTF-16 needs its byte order mark)".to_owned();
            return Err(ImportErrors::one(name, line_of(&text.as_bytes()[..at]), message));
        }
        Ok(Self {
            name: name.to_owned(),
            text,
        })
    }

    /// What stands in messages for it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The lines, numbered from 1, without their ends; an overlong one is an error and not among them.
    pub(crate) fn lines(&self, findings: &mut Findings) -> impl Iterator<Item = (u32, &str)> + use<'_> {
        for (number, line) in (1..).zip(self.text().lines()) {
            if line.len() > MAX_LINE {
                findings.error(number, format!("the line is longer than {MAX_LINE} bytes"));
            }
        }
        (1..)
            .zip(self.text().lines())
            .filter(|(_, line)| line.len() <= MAX_LINE)
    }
}

fn decode_utf8(name: &str, bytes: &[u8]) -> Result<String, ImportErrors> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or(&[]);
        let message = "not UTF-8 (nor UTF-16 with a byte order mark); save it as UTF-8".to_owned();
        ImportErrors::one(name, line_of(valid), message)
    })
}

fn decode_utf16(name: &str, bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, ImportErrors> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(pairs.len());
    for decoded in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        let Ok(decoded) = decoded else {
            let message = "not UTF-16, though it starts with its byte order mark".to_owned();
            return Err(ImportErrors::one(name, line_of(text.as_bytes()), message));
        };
        text.push(decoded);
    }
    if !odd.is_empty() {
        let message = "the UTF-16 text ends in the middle of a character".to_owned();
        return Err(ImportErrors::one(name, line_of(text.as_bytes()), message));
    }
    Ok(text)
}

/// The number of the line that comes after these bytes.
fn line_of(before: &[u8]) -> u32 {
    let ends = before.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(ends).map_or(u32::MAX, |ends| ends.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn text(bytes: &[u8]) -> Result<String, String> {
        Source::decode("f", bytes)
            .map(|source| source.text().to_owned())
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn windows_encodings_are_decoded() {
        assert_eq!(text(b"a\n"), Ok("a\n".to_owned()));
        assert_eq!(text(b"\xef\xbb\xbfa"), Ok("a".to_owned()));
        assert_eq!(text(b"\xff\xfea\0\n\0"), Ok("a\n".to_owned()));
        assert_eq!(text(b"\xfe\xff\0a"), Ok("a".to_owned()));
        assert_eq!(text(b""), Ok(String::new()));
    }

    #[test]
    fn what_is_no_text_is_told_with_its_line() {
        assert!(text(b"a\n\0").expect_err("NUL").starts_with("f:2: a NUL"));
        assert!(
            text(b"a\nb\n\xff")
                .expect_err("not UTF-8")
                .starts_with("f:3: not UTF-8")
        );
        assert!(
            text(b"\xff\xfea")
                .expect_err("odd")
                .contains("middle of a character")
        );
        assert!(
            text(b"\xff\xfe\n\0\0\xd8")
                .expect_err("lone surrogate")
                .starts_with("f:2: ")
        );
        assert!(text(b"a\0b\0").expect_err("no mark").contains("byte order mark"));
    }
}
