//! What a reviewer would say about the shape of the tree: which layer may name which, where foreign crates, `unsafe`,
//! clocks and threads may stand, how a file begins and how long it may be.
//!
//! Works on the text of the files, comments and strings taken out; it knows no types. Each rule reports every place.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// From the bottom up: a file may name its own layer and those before it.
const LAYERS: [&str; 5] = ["base", "wire", "machine", "shard", "process"];
/// `unsafe` blocks, functions and impls in the tree. It may only fall, or rise in a commit that says why.
const UNSAFE_MAX: usize = 60;
const LINES_MAX: usize = 1_000;
const HEADER_LINES_MAX: usize = 12;

struct Source {
    /// Relative to the package, `/`-separated.
    path: String,
    text: String,
    /// `text` with comments and the insides of string and character literals blanked, line for line.
    code: String,
}

impl Source {
    fn layer(&self) -> Option<usize> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        LAYERS.iter().position(|layer| *layer == first)
    }

    fn is_below_shard(&self) -> bool {
        self.layer().is_some_and(|layer| layer < 3)
    }

    fn is_test(&self) -> bool {
        !self.path.starts_with("src/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The code of each line with its number, up to the unit tests of the file.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.code.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(usize::MAX);
        self.code.lines().enumerate().take(end).map(|(index, line)| (index + 1, line))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_under(folder: &Path, keep: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if ["target", ".git", "tipring-data"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            files_under(&path, keep, found);
        } else if keep(&path) {
            found.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("inside the package").to_string_lossy().into_owned()
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        files_under(&root().join(folder), &|path| path.extension().is_some_and(|end| end == "rs"), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 10, "the walk found nothing to check");
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("a UTF-8 file");
            Source { path: relative(path), code: blank(&text), text }
        })
        .collect()
}

/// Takes comments and literals out and keeps the lines.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let len = literal_len(rest, at.checked_sub(1).map(|before| bytes[before]));
        if len == 0 {
            out.push(if rest[0].is_ascii() { char::from(rest[0]) } else { ' ' });
            at += 1;
        } else {
            out.extend(rest[..len].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
            at += len;
        }
    }
    out
}

/// How long the comment or literal is that starts here, or 0.
fn literal_len(rest: &[u8], before: Option<u8>) -> usize {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if rest.starts_with(b"//") {
        return rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return find(rest, b"*/").map_or(rest.len(), |end| end + 2);
    }
    if !in_word && let Some(hashes) = raw_string(rest) {
        let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
        let open = find(rest, b"\"").unwrap_or(0) + 1;
        return find(&rest[open..], &close).map_or(rest.len(), |end| open + end + close.len());
    }
    match rest {
        [b'"', ..] => {
            let mut at = 1;
            while at < rest.len() && rest[at] != b'"' {
                at += if rest[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(rest.len())
        }
        [b'\'', b'\\', _, ..] => rest.iter().skip(3).position(|byte| *byte == b'\'').map_or(0, |end| end + 4),
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

/// The number of `#` if a raw string starts here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let rest = rest.strip_prefix(b"b").unwrap_or(rest).strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Whether `word` stands in `line` with no letter, digit or underscore on either side.
fn names(line: &str, word: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = line.as_bytes();
    line.match_indices(word).any(|(at, _)| {
        !is_word(at.checked_sub(1).and_then(|before| bytes.get(before))) && !is_word(bytes.get(at + word.len()))
    })
}

/// Fails with every fault that `rule` finds, one a line.
fn check(rule: &str, find_faults: impl Fn(&Source, &mut dyn FnMut(usize, &str))) {
    let mut faults = String::new();
    for source in &sources() {
        find_faults(source, &mut |line, what| {
            let _ = writeln!(faults, "{}:{line}: {what}", source.path);
        });
    }
    assert!(faults.is_empty(), "{rule}:\n{faults}");
}

#[test]
fn imports_run_downwards() {
    check("a layer may name only itself and those below it", |source, fault| {
        let Some(own) = source.layer() else { return };
        for (number, line) in source.lines() {
            for above in &LAYERS[own + 1..] {
                if names(line, &format!("crate::{above}")) {
                    fault(number, &format!("{} names {above}", LAYERS[own]));
                }
            }
        }
    });
}

#[test]
fn one_use_path_a_line() {
    check("no group that starts at the root of the crate", |source, fault| {
        for (number, line) in source.lines() {
            if line.contains("crate::{") {
                fault(number, "a group of imports");
            }
        }
    });
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    let homes: [(&[&str], &[&str]); 4] = [
        (&["glommio", "io_uring"], &["src/shard/"]),
        (&["axum", "sqlx", "utoipa"], &["src/process/side/"]),
        (&["async_nats"], &["src/process/phlem/fleet/"]),
        (&["tokio"], &["src/process/side/", "src/process/phlem/fleet/"]),
    ];
    check("a crate is named outside its home", |source, fault| {
        if source.is_test() {
            return;
        }
        for (crates, folders) in homes {
            let at_home = folders.iter().any(|folder| source.path.starts_with(folder));
            for (number, line) in source.lines().filter(|_| !at_home) {
                for name in crates {
                    if names(line, &format!("use {name}")) || line.contains(&format!("{name}::")) {
                        fault(number, name);
                    }
                }
            }
        }
    });
}

#[test]
fn the_emulator_is_a_second_implementation() {
    // What PHLEM may share with the engine. Everything else of telephony it has of its own, because a shared fault would hide.
    const SHARED: [&str; 8] = [
        "crate::base",
        "crate::shard",
        "crate::wire::rtp",
        "crate::wire::g711",
        "crate::wire::wav",
        "crate::process::phlem",
        "crate::process::clock",
        "crate::process::exit",
    ];
    check(
        "the emulator shares base, the shard runtime, RTP and codecs with the engine, and nothing else",
        |source, fault| {
            if !source.path.starts_with("src/process/phlem/") && source.path != "src/phlem.rs" {
                return;
            }
            // Tests of it, too: what they take for right must not be the engine's word.
            for (index, line) in source.code.lines().enumerate() {
                for at in line.match_indices("crate::").chain(line.match_indices("tipring::")).map(|(at, _)| at) {
                    let path = line[at..].replacen("tipring::", "crate::", 1);
                    let is_shared = SHARED.iter().any(|shared| path.starts_with(shared));
                    if !is_shared && source.path.starts_with("src/process/phlem/") {
                        fault(index + 1, path.trim());
                    }
                }
                for banned in ["wire::sip", "wire::sdp", "machine::"] {
                    if line.contains(banned) {
                        fault(index + 1, banned);
                    }
                }
            }
        },
    );
}

#[test]
fn unsafe_is_counted_and_confined() {
    let count = std::cell::Cell::new(0);
    check("unsafe belongs to the shard and the keeper", |source, fault| {
        for (number, line) in source.lines().filter(|(_, line)| names(line, "unsafe")) {
            if line.contains("unsafe_code") {
                continue;
            }
            count.set(count.get() + 1);
            if !source.path.starts_with("src/shard/")
                && !source.path.starts_with("src/process/keeper/")
                && !source.is_test()
            {
                fault(number, "unsafe");
            }
        }
    });
    assert!(count.get() <= UNSAFE_MAX, "{} uses of unsafe, at most {UNSAFE_MAX}", count.get());
}

#[test]
fn nothing_below_shard_has_a_clock_a_thread_or_a_socket() {
    const BANNED: [&str; 9] = [
        "Instant::now",
        "SystemTime::now",
        "thread::spawn",
        "thread::Builder",
        "std::fs",
        "std::env",
        "UdpSocket",
        "TcpStream",
        "getrandom",
    ];
    check("machines get time, bytes and randomness handed in", |source, fault| {
        for (number, line) in source.lines().filter(|_| source.is_below_shard() && !source.is_test()) {
            for banned in BANNED.iter().filter(|banned| names(line, banned)) {
                fault(number, banned);
            }
        }
    });
}

#[test]
fn every_file_says_what_it_is_for() {
    check("a file begins with what it is for, in at most 12 lines of //!", |source, fault| {
        let header = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        match header {
            0 => fault(1, "no header"),
            1..=HEADER_LINES_MAX => {}
            _ => fault(header, "the header is too long"),
        }
    });
}

#[test]
fn files_are_short_and_well_named() {
    const NAMES: [&str; 6] = ["utils", "util", "common", "manager", "helper", "data"];
    check("at most 1,000 lines, and a name that says something", |source, fault| {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            fault(lines, "too long");
        }
        for part in source.path.trim_end_matches(".rs").split('/') {
            if NAMES.contains(&part) && source.path.starts_with("src/") {
                fault(1, part);
            }
        }
    });
}

#[test]
fn no_file_speaks_of_one_machine() {
    // Put together here so that this file does not hold them.
    let words = [
        ["/", "work", "/"].concat(),
        ["/tmp", "/wt"].concat(),
        ["../", "shared"].concat(),
        ["/", "root", "/"].concat(),
    ];
    let mut paths = Vec::new();
    let text = ["rs", "toml", "md", "sh", "xml", "cfg", "sql", "yml", ""];
    files_under(
        root(),
        &|path| text.contains(&path.extension().unwrap_or_default().to_str().unwrap_or("-")),
        &mut paths,
    );
    let mut faults = String::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                let _ = writeln!(faults, "{}:{}: {word}", relative(&path), index + 1);
            }
        }
    }
    assert!(faults.is_empty(), "paths of one machine:\n{faults}");
}

/// What is published has a line in the document that readers of events go by.
#[test]
fn every_event_is_described() {
    let code = fs::read_to_string(root().join("src/wire/event.rs")).unwrap();
    let described = fs::read_to_string(root().join("docs/events.md")).unwrap();
    let names: Vec<_> = code.lines().filter_map(|line| line.split_once(" => \"")?.1.split('"').next()).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(described.contains(&format!("| `{name}` |")), "docs/events.md does not say what `{name}` is");
    }
}

/// Whose work the program contains is a list that people can read, and no crate comes in unread.
#[test]
fn every_crate_has_its_licence_listed() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
        line.map(|rest| rest.trim_end_matches('"').to_owned())
    };
    let locked = lock.split("[[package]]").filter(|block| block.contains("\nsource = "));
    let locked: Vec<_> = locked.filter_map(|block| Some((field(block, "name")?, field(block, "version")?))).collect();
    assert!(locked.len() > 100, "{locked:?}");
    let list = fs::read_to_string(root().join("tuning/package/crates.txt")).unwrap();
    let mut listed: Vec<_> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let update = "tuning/package/crates.py list >tuning/package/crates.txt";
    for (name, version) in locked {
        let start = format!("{name} {version} ");
        let before = listed.len();
        listed.retain(|line| !(line.starts_with(&start) && line.len() > start.len()));
        assert!(listed.len() < before, "{name} {version} is not listed with its licence: {update}");
    }
    assert!(listed.is_empty(), "{listed:?} are not in Cargo.lock: {update}");
}

#[test]
fn literals_and_comments_are_taken_out() {
    let code = blank("a // tokio::\nb \"glommio::\\\" x\" c r#\"un\"safe\"# 'x' '\\'' 'a: d /* e\nf */ g");
    for gone in ["tokio", "glommio", "safe", "e", "f"] {
        assert!(!code.contains(gone), "{gone} is left in {code:?}");
    }
    assert_eq!(code.lines().count(), 3);
    let words: Vec<_> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "b", "c", "'a:", "d", "g"]);
    assert!(names("use crate::shard::x;", "crate::shard"));
    assert!(!names("use crate::shards::x;", "crate::shard"));
}
