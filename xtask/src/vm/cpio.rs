//! Archives in the `newc` format of cpio, which the kernel unpacks as its first file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;
const END: &str = "TRAILER!!!";

/// An archive in memory.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder. Those above it must have been added.
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, 0, &[]);
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE, 0, content);
    }

    /// Adds a character device; needs no privilege here.
    pub(super) fn device(&mut self, path: &str, major: u8, minor: u8) {
        self.entry(path, DEVICE, u16::from_be_bytes([major, minor]), &[]);
    }

    /// Adds all folders and files below `folder` of this machine.
    pub(super) fn tree(&mut self, folder: &Path) -> Result<()> {
        self.tree_at(folder, "")
    }

    fn tree_at(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        let mut entries = fs::read_dir(folder)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| folder.display().to_string())?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.folder(&name);
                self.tree_at(&entry.path(), &format!("{name}/"))?;
            } else {
                let content = fs::read(entry.path()).with_context(|| entry.path().display().to_string())?;
                self.file(&name, &content);
            }
        }
        Ok(())
    }

    /// The bytes of the whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: u16, content: &[u8]) {
        self.entries += 1;
        let [major, minor] = device.to_be_bytes().map(u32::from);
        let len = |bytes: usize| u32::try_from(bytes).expect("no file of an initramfs has 4 GiB");
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time of modification
            len(content.len()),
            0, // device of the file system, major and minor
            0,
            major,
            minor,
            len(path.len() + 1),
            0, // checksum, unused
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    /// Header with name, and content, end on multiples of 4 bytes.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut archive = Archive::default();
        archive.folder("a");
        archive.file("a/b", b"12345");
        archive.device("console", 5, 1);
        let bytes = archive.finish();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let headers: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|at| at % 4 == 0) && bytes.len().is_multiple_of(4));
        let file = &text[headers[1]..headers[2]];
        assert_eq!(file[14..22], *"000081ed");
        assert_eq!(file[54..62], *"00000005");
        assert_eq!(file[94..102], *"00000004");
        assert_eq!(file[110..], *"a/b\0\0\x0012345\0\0\0");
        assert_eq!(text[headers[2]..][78..94], *"0000000500000001");
        assert!(text[headers[3]..].contains("TRAILER!!!\0"));
    }
}
