//! `ravelin fmt` and `ravelin schema` as programs.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const UGLY: &str = "# mine\ndefault='block' # why\n[addresses]\nlab=[ \"10.0.0.0/8\",\n\"me\"]\n";
const NEAT: &str =
    "# mine\ndefault = 'block' # why\n[addresses]\nlab = [\n    \"10.0.0.0/8\",\n    \"me\",\n]\n";

fn ravelin(arguments: &[&str], folder: &Path, input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ravelin starts");
    // It may end without having read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("ravelin ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_file_is_replaced_whole_and_keeps_its_mode() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("p.toml");
    std::fs::write(&path, UGLY).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    std::os::unix::fs::symlink("p.toml", folder.path().join("link.toml")).expect("a link");

    let output = ravelin(&["fmt", "--check", "p.toml"], folder.path(), b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "p.toml\n");
    assert_eq!(
        std::fs::read_to_string(&path).expect("text"),
        UGLY,
        "--check changes nothing"
    );

    let output = ravelin(&["fmt", "link.toml"], folder.path(), b"");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("text"), NEAT);
    let metadata = std::fs::metadata(&path).expect("a file");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    let link = std::fs::symlink_metadata(folder.path().join("link.toml")).expect("a link");
    assert!(link.is_symlink());
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("a folder").count(),
        2,
        "nothing is left over"
    );

    // What is neat is not written again.
    assert!(ravelin(&["fmt", "p.toml"], folder.path(), b"").status.success());
    assert_eq!(std::fs::metadata(&path).expect("a file").ino(), metadata.ino());
    assert!(
        ravelin(&["fmt", "--check", "p.toml"], folder.path(), b"")
            .status
            .success()
    );
}

#[test]
fn what_is_not_toml_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in [("bad.toml", &b"a = [\n"[..]), ("bytes.toml", b"a = \"\xff\"")] {
        std::fs::write(folder.path().join(name), bytes).expect("written");
    }
    std::fs::write(folder.path().join("good.toml"), UGLY).expect("written");
    let output = ravelin(
        &["fmt", "bad.toml", "bytes.toml", "none.toml", "good.toml"],
        folder.path(),
        b"",
    );
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for expected in [
        "bad.toml:1:6: not TOML",
        "bytes.toml: not UTF-8",
        "none.toml: cannot open it",
        "3 of 4 files left",
    ] {
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
    assert_eq!(
        std::fs::read(folder.path().join("bad.toml")).expect("bytes"),
        b"a = [\n"
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("good.toml")).expect("text"),
        NEAT,
        "the others are written"
    );
}

#[test]
fn standard_input_goes_to_standard_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = ravelin(&["fmt", "-"], folder.path(), UGLY.as_bytes());
    assert_eq!(text(&output.stdout), NEAT);
    let output = ravelin(&["fmt", "--check", "-"], folder.path(), NEAT.as_bytes());
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let output = ravelin(&["fmt", "-"], folder.path(), b"a = ");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn the_schema_is_printed() {
    let output = ravelin(&["schema"], Path::new("/"), b"");
    assert!(output.status.success());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.schema.json");
    assert_eq!(
        text(&output.stdout),
        std::fs::read_to_string(file).expect("docs/policy.schema.json")
    );
}
