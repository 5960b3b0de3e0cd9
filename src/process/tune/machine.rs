//! What is asked of a machine: files under /proc and /sys, links among them, and the output of a few programs.
//!
//! The root may be a folder with the same tree, recorded elsewhere; what programs would say stands there under `commands`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::base::limit::TUNE_ENTRIES_MAX;
use crate::base::limit::TUNE_FILE_BYTES_MAX;
use crate::process::clock;

/// A program that says nothing for so long is taken for missing.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(5);

/// What was looked at, by its path below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Text(String),
    /// To a path below the root.
    Link(String),
    Folder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    Run,
    /// Their output stands in files.
    Recorded,
    /// For a start that must not wait: what they would say is unknown.
    None,
}

#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    programs: Programs,
    seen: RefCell<BTreeMap<String, Seen>>,
}

impl Machine {
    pub fn here() -> Self {
        Self::new(Path::new("/"), Programs::Run)
    }

    /// A tree in a folder. Its links stay inside.
    pub fn recorded(root: &Path) -> Self {
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        Self::new(&root, Programs::Recorded)
    }

    #[must_use]
    pub fn without_programs(self) -> Self {
        Self { programs: Programs::None, ..self }
    }

    fn new(root: &Path, programs: Programs) -> Self {
        Self { root: root.to_owned(), programs, seen: RefCell::default() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Everything that was looked at so far.
    pub fn seen(&self) -> BTreeMap<String, Seen> {
        self.seen.borrow().clone()
    }

    fn note(&self, path: &str, seen: Seen) {
        let mut all = self.seen.borrow_mut();
        if all.len() < TUNE_ENTRIES_MAX {
            all.insert(path.to_owned(), seen);
        }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The beginning of a file without the space around it; `None` if it is not there or cannot be read.
    pub fn read(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.path(path)).ok()?;
        file.take(TUNE_FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        self.note(path, Seen::Text(text.clone()));
        Some(text)
    }

    /// The names in a folder, in order.
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        let mut names: Vec<String> = entries.take(TUNE_ENTRIES_MAX).filter_map(name).collect();
        names.sort();
        self.note(path, Seen::Folder);
        names
    }

    /// Names like `cpu17` in a folder, by number.
    pub fn numbered(&self, path: &str, prefix: &str) -> Vec<(u32, String)> {
        let number = |name: String| Some((name.strip_prefix(prefix)?.parse().ok()?, name));
        let mut found: Vec<(u32, String)> = self.list(path).into_iter().filter_map(number).collect();
        for (_, name) in &found {
            self.note(&format!("{path}/{name}"), Seen::Folder);
        }
        found.sort();
        found
    }

    /// Where a link leads, below the root.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let real = fs::canonicalize(self.path(path)).ok()?;
        let real = real.strip_prefix(&self.root).ok()?.to_str()?.to_owned();
        self.note(path, Seen::Link(real.clone()));
        Some(real)
    }

    /// What a program says on standard output, if it succeeds.
    pub fn output(&self, words: &[&str]) -> Option<String> {
        let place = format!("commands/{}", words.join(" ").replace('/', "%"));
        match self.programs {
            Programs::None => None,
            Programs::Recorded => self.read(&place),
            Programs::Run => {
                let text = run(words)?;
                self.note(&place, Seen::Text(text.clone()));
                Some(text)
            }
        }
    }
}

fn run(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("PATH", super::apply::PATH);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut output = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.by_ref().take(TUNE_FILE_BYTES_MAX).read_to_end(&mut bytes);
        bytes
    });
    let until = clock::instant() + PROGRAM_TIME_MAX;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if clock::instant() < until => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let text = String::from_utf8_lossy(&reader.join().ok()?).trim().to_owned();
    status.success().then_some(text)
}
