//! Policies of several files.

use std::fmt::Write as _;
use std::path::Path;

use ravelin_policy::{MAX_FILE_BYTES, Policy};
use tempfile::TempDir;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    folder
}

/// The errors of `main.toml`, with paths relative to the folder.
fn errors(folder: &TempDir) -> String {
    let errors = Policy::load(&folder.path().join("main.toml")).expect_err("a mistake");
    errors
        .to_string()
        .replace(&format!("{}/", folder.path().display()), "")
}

fn errors_of(files: &[(&str, &str)]) -> String {
    errors(&folder(files))
}

const RULE: &str = "[[rules]]\nname = \"NAME\"\nfilter-list = \"all\"\naction = \"block\"\n";

#[test]
fn sections_of_all_files_make_one_policy() {
    let all = "[filter-lists.all]\nfilters = [{ source = \"$lab\", destination = \"any\" }]\n";
    let included = format!(
        "include = [\"../common.toml\"]\n{all}{}",
        RULE.replace("NAME", "inner")
    );
    let tunnel = "default = \"block\"\n[connections.c]\nmode = \"tunnel\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.2\"\n\
                  static = { algorithm = \"aes-128-gcm\", outbound = { spi = 300, key-file = \"out\" }, \
                  inbound = { spi = 301, key-file = \"in\" } }\n[addresses]\nlab = \"10.0.0.0/24\"\n";
    let main = format!(
        "include = [\"sub/a.toml\", \"common.toml\"]\n{}",
        RULE.replace("NAME", "outer")
    );
    let folder = folder(&[
        ("main.toml", &main),
        ("sub/a.toml", &included),
        ("common.toml", tunnel),
    ]);
    let (policy, warnings) = Policy::load(&folder.path().join("main.toml")).unwrap();

    // An included file counts where the include stands, at the top: its rules come first.
    let rules: Vec<_> = policy.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(rules, ["inner", "outer"]);
    assert_eq!(policy.default_action(), ravelin_policy::DefaultAction::Block);
    assert_eq!(
        policy.filters(&policy.rules()[1])[0].to_string(),
        "10.0.0.0/24 -> any"
    );

    // Each position knows its file.
    let name = |position| {
        let path = Path::new(policy.file(position).as_ref());
        path.file_name().expect("a name").to_string_lossy().into_owned()
    };
    assert_eq!(policy.files().len(), 3);
    assert_eq!(name(policy.rules()[0].position), "a.toml");
    assert_eq!(name(policy.rules()[1].position), "main.toml");
    assert_eq!(name(policy.filters(&policy.rules()[1])[0].position), "a.toml");
    assert_eq!(name(policy.connections()[0].position), "common.toml");

    // Paths are relative to the file they stand in.
    let key = &policy.connections()[0].keys.outbound.key_file;
    assert_eq!(key.file_name().expect("a name"), "out");
    assert!(
        key.parent()
            .is_some_and(|parent| parent.canonicalize().unwrap() == folder.path().canonicalize().unwrap())
    );

    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].ends_with("common.toml:2:1: no rule uses connection `c`"),
        "{warnings:?}"
    );
}

#[test]
fn what_is_there_twice_is_said_with_both_places() {
    let list = "[filter-lists.all]\nfilters = []\n";
    let text = errors_of(&[
        ("main.toml", &format!("include = [\"a.toml\"]\n{list}")),
        ("a.toml", list),
    ]);
    assert_eq!(
        text,
        "main.toml:2:15: filter list `all` is already defined at a.toml:1:15; rename one"
    );
    let rule = format!("{list}{}", RULE.replace("NAME", "r"));
    let text = errors_of(&[
        (
            "main.toml",
            &format!("include = [\"a.toml\"]\n{}", RULE.replace("NAME", "r")),
        ),
        ("a.toml", &rule),
    ]);
    assert_eq!(
        text,
        "main.toml:2:1: there are two rules named `r`, the other at a.toml:3:1; rename one"
    );
    let text = errors_of(&[
        (
            "main.toml",
            "audit = true\ninclude = [\"a.toml\"]\n[addresses]\nx = []\n[interfaces]\nouter = \"eth0\"",
        ),
        (
            "a.toml",
            "audit = false\n[addresses]\nx = []\n[interfaces]\ninner = \"eth1\"",
        ),
    ]);
    assert_eq!(
        text,
        "main.toml:1:9: audit is already given at a.toml:1:9; a policy has it once\n\
         main.toml:4:1: address group `x` is already defined at a.toml:3:1; rename one\n\
         main.toml:5:1: interfaces is already given at a.toml:4:1; a policy has it once"
    );
}

#[test]
fn mistakes_are_told_in_their_file() {
    let text = errors_of(&[
        (
            "main.toml",
            "include = [\"a.toml\", \"b.toml\", \"c.toml\"]\ndefault = ",
        ),
        ("a.toml", "default = 1"),
    ]);
    assert!(text.starts_with("main.toml:2:11: not TOML"), "{text}");
    let text = errors_of(&[
        (
            "main.toml",
            "include = [\"a.toml\", 7, \"none.toml\", \"\", \"sub\", \"/dev/zero\"]",
        ),
        ("a.toml", "\ndefault = \"x\"\n\0"),
        ("sub/b.toml", ""),
    ]);
    let expected = [
        "main.toml:1:22: expected a string in quotes, found `7`",
        "main.toml:1:25: cannot include `none.toml`: No such file or directory",
        "main.toml:1:38: `` is not the path of a file",
        "main.toml:1:42: cannot include `sub`: this is a directory",
        "main.toml:1:49: cannot include `/dev/zero`: this is a device, not a regular file",
        "a.toml:3:1: a NUL byte; a policy is text",
    ];
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    for (line, expected) in text.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    let text = errors_of(&[("main.toml", "include = \"a.toml\"")]);
    assert_eq!(
        text,
        "main.toml:1:11: expected an array of files, found `\"a.toml\"`"
    );
    let text = errors_of(&[
        ("main.toml", "include = [\"a.toml\"]"),
        ("a.toml", "defualt = \"block\""),
    ]);
    assert!(text.starts_with("a.toml:1:1: unknown key `defualt`"), "{text}");
    let text = Policy::parse("include = [\"a.toml\"]", "main.toml")
        .expect_err("no file")
        .to_string();
    assert_eq!(text, "main.toml:1:11: only a policy in a file can include files");
}

#[test]
fn cycles_are_named_in_order() {
    let text = errors_of(&[("main.toml", "include = [\"main.toml\"]")]);
    assert_eq!(
        text,
        "main.toml:1:12: cannot include `main.toml`: these files include each other: main.toml -> main.toml; take one include out"
    );
    let text = errors_of(&[
        ("main.toml", "include = [\"sub/a.toml\"]"),
        ("sub/a.toml", "\ninclude = [\"b.toml\"]"),
        ("sub/b.toml", "include = [\"./a.toml\"]"),
    ]);
    assert_eq!(
        text,
        "sub/b.toml:1:12: cannot include `./a.toml`: these files include each other: sub/a.toml -> sub/b.toml -> sub/a.toml; take one include out"
    );
    let linked = folder(&[("main.toml", "include = [\"link.toml\"]")]);
    std::os::unix::fs::symlink("main.toml", linked.path().join("link.toml")).unwrap();
    assert!(
        errors(&linked).contains("include each other: main.toml -> main.toml"),
        "{}",
        errors(&linked)
    );
}

#[test]
fn depth_number_and_size_are_bounded() {
    let chain = |files: usize| {
        let folder = folder(&[("main.toml", "include = [\"0.toml\"]")]);
        for n in 0..files {
            let text = if n + 1 < files {
                format!("include = [\"{}.toml\"]", n + 1)
            } else {
                String::new()
            };
            std::fs::write(folder.path().join(format!("{n}.toml")), text).expect("written");
        }
        folder
    };
    assert!(Policy::load(&chain(16).path().join("main.toml")).is_ok());
    let text = errors(&chain(17));
    assert_eq!(
        text,
        "15.toml:1:11: files are included more than 16 deep; include this one further up"
    );

    let many = |files: usize| {
        let mut list = String::new();
        let folder = folder(&[]);
        for n in 0..files {
            write!(list, "\"{n}.toml\", ").expect("a string");
            std::fs::write(folder.path().join(format!("{n}.toml")), "").expect("written");
        }
        std::fs::write(folder.path().join("main.toml"), format!("include = [{list}]")).expect("written");
        folder
    };
    let text = errors(&many(1_024));
    assert!(
        text.contains("cannot include `1023.toml`: more than 1024 files"),
        "{text}"
    );
    let text = errors(&many(10_000));
    assert_eq!(text, "main.toml:1:11: more than 4096 includes in the policy");

    let half = format!("# {}\n", "x".repeat(usize::try_from(MAX_FILE_BYTES / 2).unwrap()));
    let text = errors_of(&[
        ("main.toml", "include = [\"a.toml\", \"b.toml\"]"),
        ("a.toml", &half),
        ("b.toml", &half),
    ]);
    assert_eq!(
        text,
        "main.toml:1:22: cannot include `b.toml`: with it the policy is larger than 64 MiB"
    );
    // The same file twice is read once.
    let twice = folder(&[
        ("main.toml", "include = [\"a.toml\", \"./a.toml\"]"),
        ("a.toml", &half),
    ]);
    assert!(Policy::load(&twice.path().join("main.toml")).is_ok());
}

#[test]
fn a_huge_file_is_refused_by_its_size() {
    let folder = folder(&[("main.toml", "include = [\"huge.toml\"]")]);
    let huge = std::fs::File::create(folder.path().join("huge.toml")).unwrap();
    huge.set_len(1 << 30).unwrap();
    assert_eq!(
        errors(&folder),
        "main.toml:1:12: cannot include `huge.toml`: with it the policy is larger than 64 MiB"
    );
    let text = Policy::load(&folder.path().join("huge.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        text.ends_with("huge.toml: larger than 64 MiB; this is no policy"),
        "{text}"
    );
    // One petabyte cannot be read at all.
    if huge.set_len(1 << 43).is_ok() {
        let text = Policy::load(&folder.path().join("huge.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            text.ends_with("huge.toml: larger than 64 MiB; this is no policy"),
            "{text}"
        );
    }
}

#[test]
fn what_would_fill_the_memory_is_refused_before_it_is_parsed() {
    let parse = |text: &str| Policy::parse(text, "p").unwrap_err().to_string();
    assert_eq!(
        parse(&format!("a = [{}]", "0,".repeat(9 << 20))),
        "p: more than 8388608 values; this is no policy"
    );
    assert_eq!(
        parse(&format!("a{} = 1", ".a".repeat(25 << 20))),
        "p: more than 25165824 words and signs; this is no policy"
    );
}

/// `/proc/kmsg` calls itself a regular file and gives nothing until the kernel has something new to say.
#[test]
fn a_file_that_waits_for_more_is_not_waited_for() {
    let text = errors_of(&[("main.toml", "include = [\"/proc/kmsg\"]")]);
    assert!(
        text.starts_with("main.toml:1:12: cannot include `/proc/kmsg`"),
        "{text}"
    );
}
