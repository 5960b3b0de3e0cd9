//! What must outlive the engine and is small: bindings. A log of puts and removals by key, compacted as it grows.
//!
//! `<dir>/<name>-<number>.log`, read in the order of the numbers; the last word on a key counts. The clerk compacts by
//! reading what is on disk, so that no shard is asked and none waits. What the disk does not take stays in memory, a word a key,
//! until it does: nothing here ends the engine.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::process::engine::clerk::journal::Journal;
use crate::wire::journal;
use crate::wire::journal::Damage;

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
    /// The highest number that was used.
    number: u64,
    /// None: another file has to be begun, because none could be or because this one's sync failed.
    journal: Option<Journal>,
    /// The last word on each key that no file has; none for a removal. Keys are phones of the directory, so there are not more.
    unsaved: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Length after the last compaction.
    floor: u64,
    /// What is on the disk is not all in one durable file.
    is_scattered: bool,
}

/// What a store found on the disk.
#[derive(Debug, Default)]
pub struct Found {
    pub entries: Entries,
    /// Stretches that were damaged, and records that do not decode.
    pub damaged: u64,
}

impl Store {
    /// Opens the store and tells what it holds. What cannot be read or written is logged: the engine goes on without it.
    pub fn open(dir: &Path, name: &str) -> (Self, Found) {
        let mut store = Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            number: 0,
            journal: None,
            unsaved: BTreeMap::new(),
            floor: 0,
            is_scattered: true,
        };
        let found = match store.read() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(event = "bindings.unreadable", "{}: {error}", dir.display());
                return (store, Found::default());
            }
        };
        // What fails here is tried again with the next sync, which says so.
        let _ = store.begin(&found.entries);
        (store, found)
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.unsaved.insert(key, Some(value));
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.unsaved.insert(key, None);
    }

    /// Keys whose last word is in memory alone.
    pub fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// Hands what was put to the kernel.
    pub fn write(&mut self) -> io::Result<()> {
        if self.unsaved.is_empty() {
            return Ok(());
        }
        let journal = match &mut self.journal {
            Some(journal) => journal,
            None => self.journal.insert(next_file(&self.dir, &self.name, &mut self.number)?),
        };
        for (key, value) in &self.unsaved {
            let key = key.clone();
            push(
                journal,
                &match value {
                    Some(value) => Record::Put { key, value: value.clone() },
                    None => Record::Remove { key },
                },
            );
        }
        let written = journal.write();
        match &written {
            Ok(()) => self.unsaved.clear(),
            Err(_) if journal.is_torn() => self.scatter(),
            Err(_) => {}
        }
        written
    }

    /// The file is as it is; another one is begun.
    fn scatter(&mut self) {
        self.journal = None;
        self.is_scattered = true;
    }

    /// Makes it durable, and compacts if it is time.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.sync()
        {
            // Nobody knows what of this file is on the disk, but it can still be read.
            self.scatter();
            return Err(error);
        }
        let len = self.journal.as_ref().map_or(0, Journal::len);
        if self.is_scattered || len > COMPACT_BYTES_MIN.max(self.floor * GROWTH_MAX) {
            let entries = self.read()?.entries;
            self.begin(&entries)?;
        }
        Ok(())
    }

    /// All that the files hold. One that cannot be read is set aside: it stops no other.
    fn read(&mut self) -> io::Result<Found> {
        let mut found = Found::default();
        let files = match files(&self.dir, &self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            files => files?,
        };
        for (number, path) in files {
            self.number = self.number.max(number);
            if let Err(error) = read_into(&path, &mut found) {
                fs::rename(&path, path.with_extension("unreadable"))?;
                found.damaged += 1;
                tracing::error!(event = "bindings.unreadable", "{} is set aside: {error}", path.display());
            }
        }
        Ok(found)
    }

    /// Begins a file that holds the entries; the older ones go.
    fn begin(&mut self, entries: &Entries) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let older = files(&self.dir, &self.name)?;
        let journal = write_snapshot(&self.dir, &self.name, self.number + 1, entries)?;
        self.number += 1;
        self.floor = journal.len();
        self.journal = Some(journal);
        self.is_scattered = false;
        older.iter().try_for_each(|(_, path)| fs::remove_file(path))
    }
}

fn push(journal: &mut Journal, record: &Record) {
    if let Ok(bytes) = postcard::to_stdvec(record) {
        journal.push(&bytes);
    }
}

/// An empty file behind all others.
fn next_file(dir: &Path, name: &str, number: &mut u64) -> io::Result<Journal> {
    fs::create_dir_all(dir)?;
    let journal = Journal::create(dir.join(format!("{name}-{}.log", *number + 1)))?;
    *number += 1;
    Ok(journal)
}

fn read_into(path: &Path, found: &mut Found) -> io::Result<()> {
    let file = fs::read(path)?;
    let mut records = journal::records(&file);
    let mut undecoded = 0;
    for record in records.by_ref() {
        match postcard::from_bytes(record) {
            Ok(Record::Put { key, value }) => {
                found.entries.insert(key, value);
            }
            Ok(Record::Remove { key }) => {
                found.entries.remove(&key);
            }
            Err(_) => undecoded += 1,
        }
    }
    let Damage { places, bytes, torn } = records.damage();
    found.damaged += places + undecoded;
    if places + undecoded > 0 {
        tracing::error!(
            event = "bindings.damaged",
            "{}: {bytes} bytes in {places} places are damaged, {undecoded} records do not decode: what they said is lost",
            path.display()
        );
    }
    if torn > 0 {
        tracing::warn!(event = "bindings.torn", "{}: its last {torn} bytes are no whole record", path.display());
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
        push(&mut journal, &Record::Put { key: key.clone(), value: value.clone() });
    }
    let written = journal.write().and_then(|()| journal.sync());
    if let Err(error) = written {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
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
        let (mut store, empty) = Store::open(dir.path(), "bindings");
        assert!(empty.entries.is_empty());
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
            let entries = Store::open(dir.path(), "bindings").1.entries;
            assert_eq!(entries.len(), 999);
            assert_eq!(entries[&key(8)], b"new");
            assert_eq!(entries[&key(800)], b"old");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_log_that_grew_is_compacted_and_keeps_its_entries() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), "bindings");
        for round in 0..20u8 {
            for number in 0..1000 {
                store.put(key(number), vec![round; 1000]);
            }
            store.sync().unwrap();
        }
        assert!(store.number > 1, "never compacted");
        assert!(store.journal.as_ref().unwrap().len() < COMPACT_BYTES_MIN);
        drop(store);
        let entries = Store::open(dir.path(), "bindings").1.entries;
        assert_eq!(entries.len(), 1000);
        assert!(entries.values().all(|value| value == &vec![19; 1000]));
    }

    #[test]
    fn damage_in_the_log_costs_what_it_hit() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), "bindings");
        for number in 0..1000 {
            store.put(key(number), vec![number as u8; 100]);
        }
        store.sync().unwrap();
        let path = store.journal.as_ref().unwrap().path().to_owned();
        drop(store);
        let mut bytes = fs::read(&path).unwrap();
        bytes[50_000..50_016].fill(0xaa);
        fs::write(&path, bytes).unwrap();
        let (_, found) = Store::open(dir.path(), "bindings");
        assert_eq!(found.damaged, 1);
        assert!((998..1000).contains(&found.entries.len()), "{}", found.entries.len());
        assert_eq!(found.entries[&key(999)], vec![231; 100]);
        assert_eq!(Store::open(dir.path(), "bindings").1.damaged, 0, "written anew");
    }

    /// A file where the folder should be stands for a disk that takes nothing.
    #[test]
    fn what_the_disk_does_not_take_is_kept_and_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("engine");
        fs::write(&folder, b"").unwrap();
        let (mut store, _) = Store::open(&folder, "bindings");
        store.put(key(1), b"old".to_vec());
        assert!(store.write().is_err());
        store.put(key(1), b"new".to_vec());
        store.put(key(2), b"gone".to_vec());
        assert!(store.sync().is_err());
        store.remove(key(2));
        assert_eq!(store.unsaved(), 2);
        fs::remove_file(&folder).unwrap();
        store.sync().unwrap();
        assert_eq!(store.unsaved(), 0);
        drop(store);
        let (_, found) = Store::open(&folder, "bindings");
        assert_eq!(found.entries, Entries::from([(key(1), b"new".to_vec())]));
    }

    #[test]
    fn files_that_could_not_be_joined_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(dir.path(), "bindings");
        store.put(key(1), b"old".to_vec());
        store.put(key(2), b"old".to_vec());
        store.write().unwrap();
        // As after a sync that failed: it goes on in another file.
        store.journal = None;
        store.put(key(1), b"new".to_vec());
        store.remove(key(2));
        store.write().unwrap();
        drop(store);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let (_, found) = Store::open(dir.path(), "bindings");
        assert_eq!(found.entries, Entries::from([(key(1), b"new".to_vec())]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
