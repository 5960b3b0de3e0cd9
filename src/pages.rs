//! The manual pages and shell completions that packages hold, written from the command line's own description:
//! `UPDATE_DOCS=1 cargo test --bin tipring pages`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;

type Files = BTreeMap<String, Vec<u8>>;

fn files_of(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect()
}

fn made(folder: &str, make: impl Fn(&Path)) {
    let fresh = tempfile::tempdir().unwrap();
    make(fresh.path());
    let wanted = files_of(fresh.path());
    assert!(!wanted.is_empty());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/package").join(folder);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in &wanted {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let there = files_of(&folder);
    let differ: Vec<_> =
        wanted.keys().chain(there.keys()).filter(|name| wanted.get(*name) != there.get(*name)).collect();
    let folder = folder.display();
    assert!(differ.is_empty(), "{folder}: {differ:?} are old; UPDATE_DOCS=1 cargo test --bin tipring pages");
}

#[test]
fn pages_are_those_of_this_command_line() {
    made("man", |folder| {
        clap_mangen::generate_to(Cli::command(), folder).unwrap();
    });
}

#[test]
fn completions_are_those_of_this_command_line() {
    made("completions", |folder| {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut Cli::command(), "tipring", folder).unwrap();
        }
    });
}
