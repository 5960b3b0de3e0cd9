//! What must outlive the engine and is small: bindings. A log of puts and removals by key, compacted as it grows.
//!
//! `<dir>/<name>-<number>.log`, read in the order of the numbers; the last word on a key counts. The clerk compacts by
//! reading what is on disk, so that no shard is asked and none waits.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::process::engine::clerk::journal::Journal;
use crate::wire::journal;

/// Compacted when the log is this much larger than what it held after the last time.
const GROWTH_MAX: u64 = 4;
const COMPACT_BYTES_MIN: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Put { key: Vec<u8>, value: Vec<u8> },
    Remove { key: Vec<u8> },
}

/// What a store holds: values by key.
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    name: String,
    number: u64,
    journal: Journal,
    /// Length after the last compaction.
    floor: u64,
}

impl Store {
    /// Opens the store and returns what it holds.
    pub fn open(dir: &Path, name: &str) -> io::Result<(Self, Entries)> {
        fs::create_dir_all(dir)?;
        let files = files(dir, name)?;
        let mut entries = BTreeMap::new();
        for (_, path) in &files {
            read_into(path, &mut entries)?;
        }
        let number = files.last().map_or(0, |(number, _)| *number) + 1;
        let journal = write_snapshot(dir, name, number, &entries)?;
        for (_, path) in &files {
            fs::remove_file(path)?;
        }
        let floor = journal.len();
        Ok((Self { dir: dir.to_owned(), name: name.to_owned(), number, journal, floor }, entries))
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.push(&Record::Put { key, value });
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.push(&Record::Remove { key });
    }

    fn push(&mut self, record: &Record) {
        if let Ok(bytes) = postcard::to_stdvec(record) {
            self.journal.push(&bytes);
        }
    }

    /// Hands what was put to the kernel.
    pub fn write(&mut self) -> io::Result<()> {
        self.journal.write()
    }

    /// Makes it durable, and compacts if it is time.
    pub fn sync(&mut self) -> io::Result<()> {
        self.journal.write()?;
        self.journal.sync()?;
        if self.journal.len() > COMPACT_BYTES_MIN.max(self.floor * GROWTH_MAX) {
            self.compact()?;
        }
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let mut entries = BTreeMap::new();
        read_into(self.journal.path(), &mut entries)?;
        let next = write_snapshot(&self.dir, &self.name, self.number + 1, &entries)?;
        let old = std::mem::replace(&mut self.journal, next);
        fs::remove_file(old.path())?;
        self.number += 1;
        self.floor = self.journal.len();
        Ok(())
    }
}

fn read_into(path: &Path, entries: &mut Entries) -> io::Result<()> {
    for record in journal::records(&fs::read(path)?) {
        match postcard::from_bytes(record) {
            Ok(Record::Put { key, value }) => {
                entries.insert(key, value);
            }
            Ok(Record::Remove { key }) => {
                entries.remove(&key);
            }
            Err(_) => break,
        }
    }
    Ok(())
}

/// Durable under its final name before anything older may go.
fn write_snapshot(dir: &Path, name: &str, number: u64, entries: &Entries) -> io::Result<Journal> {
    let partial = dir.join(format!("{name}-{number}.partial"));
    if partial.exists() {
        fs::remove_file(&partial)?;
    }
    let mut journal = Journal::create(partial.clone())?;
    for (key, value) in entries {
        let record = Record::Put { key: key.clone(), value: value.clone() };
        if let Ok(bytes) = postcard::to_stdvec(&record) {
            journal.push(&bytes);
        }
    }
    journal.write()?;
    journal.sync()?;
    let path = dir.join(format!("{name}-{number}.log"));
    journal.rename(path)?;
    fs::File::open(dir)?.sync_all()?;
    Ok(journal)
}

/// The log files of `name`, by number.
fn files(dir: &Path, name: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(file) = path.file_name().and_then(|file| file.to_str()) else { continue };
        let number = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        let number = number.and_then(|rest| rest.strip_suffix(".log"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Vec<u8> {
        number.to_le_bytes().to_vec()
    }

    #[test]
    fn the_last_word_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, empty) = Store::open(dir.path(), "bindings").unwrap();
        assert!(empty.is_empty());
        for number in 0..1000 {
            store.put(key(number), b"old".to_vec());
        }
        for number in 0..500 {
            store.put(key(number), b"new".to_vec());
        }
        store.remove(key(7));
        store.write().unwrap();
        drop(store);
        for _ in 0..2 {
            let (_store, entries) = Store::open(dir.path(), "bindings").unwrap();
            assert_eq!(entries.len(), 999);
            assert_eq!(entries[&key(8)], b"new");
            assert_eq!(entries[&key(800)], b"old");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_log_that_grew_is_compacted_and_keeps_its_entries() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), "bindings").unwrap();
        for round in 0..20u8 {
            for number in 0..1000 {
                store.put(key(number), vec![round; 1000]);
            }
            store.sync().unwrap();
        }
        assert!(store.number > 1, "never compacted");
        assert!(store.journal.len() < COMPACT_BYTES_MIN);
        drop(store);
        let (_store, entries) = Store::open(dir.path(), "bindings").unwrap();
        assert_eq!(entries.len(), 1000);
        assert!(entries.values().all(|value| value == &vec![19; 1000]));
    }
}
