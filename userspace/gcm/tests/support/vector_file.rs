//! Files of NIST's Cryptographic Algorithm Validation Program, and others in their format.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// The fields of one vector, by their names in lower case.
pub(crate) struct Fields(HashMap<String, String>);

impl Fields {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        super::hex(self.text(name))
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no field {name}"))
    }
}

/// Every vector of a file of the Python package `cryptography_vectors`.
///
/// A vector is a paragraph with a result. Fields of other paragraphs, in brackets or not, hold for all that follow.
pub(crate) fn vectors(file: &str) -> Vec<Fields> {
    let path = FOLDER.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut vectors, mut common, mut paragraph) = (Vec::new(), HashMap::new(), HashMap::new());
    for line in text.lines().map(str::trim).chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.is_empty() {
            let fields = std::mem::take(&mut paragraph);
            if ["ct", "ciphertext", "md"]
                .iter()
                .any(|result| fields.contains_key(*result))
            {
                let mut all = common.clone();
                all.extend(fields);
                vectors.push(Fields(all));
            } else {
                common.extend(fields);
            }
            continue;
        }
        for part in line.trim_matches(['[', ']']).split(", ") {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            paragraph.insert(name.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    vectors
}

/// Where the package is installed, or in a machine without Python what the host gave it.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(folder) = std::env::var_os("RAVELIN_VECTORS") {
        return folder.into();
    }
    let missing =
        "NIST's vectors are needed: `cargo xtask setup` installs them (Debian: python3-cryptography-vectors)";
    let script = "import cryptography_vectors; print(cryptography_vectors.__path__[0])";
    let output = Command::new("/usr/bin/python3").args(["-c", script]).output();
    let output = output.unwrap_or_else(|error| panic!("{missing}; /usr/bin/python3: {error}"));
    assert!(output.status.success(), "{missing}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
});
