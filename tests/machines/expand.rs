//! Trees of machines for tests, from one text file each. `expand` writes one into a folder of its own.
//!
//! A line is `path = text` (`\n` and `\t` as in Rust), `path -> target below the root`, or `path/`. `{0-47}` in a path makes a line for each
//! number, and `{i}`, `{i+24}` or `{i-24}` in the text is made of it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

pub(crate) fn expand(name: &str) -> tempfile::TempDir {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/machines/{name}.txt"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let folder = tempfile::tempdir().unwrap();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        for line in each(line) {
            place(folder.path(), &line);
        }
    }
    folder
}

/// One line for each number of its range.
fn each(line: &str) -> Vec<String> {
    let range = |line: &str| {
        let (before, rest) = line.split_once('{')?;
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once('-')?;
        Some((before.to_owned(), first.parse::<i32>().ok()?, last.parse::<i32>().ok()?, after.to_owned()))
    };
    let Some((before, first, last, after)) = range(line) else { return vec![line.to_owned()] };
    (first..=last).map(|number| format!("{before}{number}{}", numbered(&after, number))).collect()
}

fn numbered(text: &str, number: i32) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{i") {
        let (sum, after) = after.split_once('}').unwrap();
        let added: i32 = if sum.is_empty() { 0 } else { sum.parse().unwrap() };
        out += &format!("{before}{}", number + added);
        rest = after;
    }
    out + rest
}

fn place(root: &Path, line: &str) {
    let make = |path: &Path| fs::create_dir_all(path).unwrap();
    if let Some((path, target)) = line.split_once(" -> ") {
        make(&root.join(target));
        let link = root.join(path);
        make(link.parent().unwrap());
        let up = "../".repeat(Path::new(path).components().count() - 1);
        std::os::unix::fs::symlink(up + target, link).unwrap();
    } else if let Some(path) = line.strip_suffix('/').filter(|path| !path.contains(" =")) {
        make(&root.join(path));
    } else {
        let (path, text) = line.split_once(" =").unwrap_or_else(|| panic!("no line of a tree: {line}"));
        let path = root.join(path);
        make(path.parent().unwrap());
        fs::write(path, text.trim_start().replace("\\n", "\n").replace("\\t", "\t") + "\n").unwrap();
    }
}
