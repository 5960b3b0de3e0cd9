//! A parsed file as values by path, with the line of each and all faults found so far.

use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use crate::process::config::Effective;
use crate::process::config::Fault;
use crate::process::config::Origin;
use crate::process::config::key;
use crate::process::config::key::Change;
use crate::process::config::key::KEYS;
use crate::process::config::key::TABLES;
use crate::process::config::value;
use crate::process::config::value::Kind;
use crate::process::config::value::Value;
use crate::process::tune::engine;
use crate::process::tune::engine::Layer;

pub(super) struct Document {
    file: PathBuf,
    /// Offsets of the line ends.
    lines: Vec<usize>,
    values: BTreeMap<String, Value>,
    places: BTreeMap<String, usize>,
    interfaces: usize,
    faults: Vec<Fault>,
    /// Where each value stands, until its text is kept.
    spans: Vec<(String, Range<usize>)>,
    /// Of each value of the file, as it stands there.
    texts: BTreeMap<String, String>,
    /// Values of the hardware profile, with their texts, under those of the file.
    layer: BTreeMap<String, (Value, String)>,
    profile: Layer,
}

impl Document {
    pub(super) fn read(text: &str, file: &Path) -> Self {
        let lines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset).collect();
        let mut document = Self {
            file: file.to_owned(),
            lines,
            values: BTreeMap::new(),
            places: BTreeMap::new(),
            interfaces: 0,
            faults: Vec::new(),
            spans: Vec::new(),
            texts: BTreeMap::new(),
            layer: BTreeMap::new(),
            profile: Layer::default(),
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(0, |span| document.line(&span));
            document.fault_at(line, "", error.message().to_owned());
        }
        // What follows a syntax error would be blamed for things that it does not say.
        if errors.is_empty() {
            document.read_root(root.get_ref());
            for (place, span) in std::mem::take(&mut document.spans) {
                document.texts.insert(place, text.get(span).unwrap_or_default().to_owned());
            }
        }
        document
    }

    /// As the file says it: a name, `auto`, or a file.
    pub(super) fn profile_name(&self) -> String {
        match self.value("engine.profile") {
            Value::Path(path) => path.to_string_lossy().into_owned(),
            _ => String::new(),
        }
    }

    pub(super) fn housekeeping(&self) -> &[u16] {
        &self.profile.housekeeping
    }

    /// Takes up what the hardware profile says, if the file names one.
    pub(super) fn read_profile(&mut self, folder: &Path) {
        let name = self.profile_name();
        if name.is_empty() {
            return;
        }
        match engine::layer(&name, folder) {
            Ok(layer) => self.take_up(layer),
            Err(error) => self.refuse("engine.profile", error.to_string()),
        }
    }

    fn take_up(&mut self, layer: Layer) {
        for (path, text) in &layer.keys {
            let value = key::find(path).ok_or_else(|| "no such key".to_owned()).and_then(|key| {
                let value = DeValue::parse(text).map_err(|error| error.message().to_owned())?;
                value::parse(key.kind, &value).map_err(|(_, message)| message)
            });
            match value {
                Ok(value) => {
                    self.layer.insert(path.clone(), (value, text.clone()));
                }
                Err(message) => self.refuse("engine.profile", format!("{}: {path}: {message}", layer.profile)),
            }
        }
        self.profile = layer;
    }

    /// Each value that holds, and where it comes from.
    pub(super) fn effective(&self) -> Vec<Effective> {
        let given = |place: &str, kind: Kind| {
            let text = self.texts.get(place)?;
            let is_secret = matches!(kind, Kind::Secret | Kind::Database) && text != "\"sqlite\"";
            let value = if is_secret { "(secret)".to_owned() } else { text.clone() };
            let line = self.places.get(place).copied().unwrap_or(0);
            Some(Effective { key: place.to_owned(), value, origin: Origin::File(line) })
        };
        let of = |key: &key::Key| {
            given(key.path, key.kind).unwrap_or_else(|| {
                let (value, origin) = match self.layer.get(key.path) {
                    Some((_, text)) => (text.clone(), Origin::Profile(self.profile.profile.clone())),
                    None => (key.default.to_owned(), Origin::Default),
                };
                Effective { key: key.path.to_owned(), value, origin }
            })
        };
        let mut all: Vec<Effective> = KEYS.iter().filter(|key| !key.default.is_empty()).map(of).collect();
        // Of no kind that is secret.
        let further = self.texts.keys().filter(|place| place.starts_with("interface["));
        all.extend(further.filter_map(|place| given(place, Kind::Name)));
        all
    }

    fn read_root(&mut self, root: &DeTable<'_>) {
        for (name, value) in root {
            let table = name.get_ref().as_ref();
            if !TABLES.contains(&table) {
                let what = if value.get_ref().is_table() { "unknown table" } else { "unknown key" };
                self.fault(&name.span(), table, what.to_owned());
            } else if table == "interface" {
                self.read_interfaces(value);
            } else if let Some(keys) = value.get_ref().as_table() {
                self.read_table(table, table, keys);
            } else {
                self.fault(&value.span(), table, format!("expected the table [{table}]"));
            }
        }
    }

    /// `declared` is the table whose keys these are; `place` is where their values go.
    fn read_table(&mut self, declared: &str, place: &str, keys: &DeTable<'_>) {
        for (name, value) in keys {
            self.read_key(
                &format!("{declared}.{}", name.get_ref()),
                &format!("{place}.{}", name.get_ref()),
                name.span(),
                value,
            );
        }
    }

    fn read_key(&mut self, declared: &str, place: &str, name: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let Some(key) = key::find(declared) else {
            self.fault(&name, place, "unknown key".to_owned());
            return;
        };
        let line = self.line(&name);
        if self.places.insert(place.to_owned(), line).is_some() {
            self.fault(&name, place, "is set twice".to_owned());
        }
        match value::parse(key.kind, value) {
            Ok(parsed) => {
                self.spans.push((place.to_owned(), value.span()));
                self.values.insert(place.to_owned(), parsed);
            }
            Err((span, message)) => self.fault(&span, place, message),
        }
    }

    fn read_interfaces(&mut self, value: &Spanned<DeValue<'_>>) {
        let Some(list) = value.get_ref().as_array() else {
            self.fault(&value.span(), "interface", "expected [[interface]], a list of tables".to_owned());
            return;
        };
        for entry in list.iter() {
            let place = format!("interface[{}]", self.interfaces);
            self.interfaces += 1;
            let line = self.line(&entry.span());
            self.places.insert(place.clone(), line);
            match entry.get_ref().as_table() {
                Some(table) => self.read_interface(&place, table),
                None => self.fault(&entry.span(), &place, "expected a table".to_owned()),
            }
        }
    }

    /// The keys of `[sip]` and `[media]` in one table, or in `[interface.sip]` and `[interface.media]`.
    fn read_interface(&mut self, place: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let word = name.get_ref().as_ref();
            match (word, value.get_ref().as_table()) {
                ("sip" | "media", Some(keys)) => self.read_table(word, &format!("{place}.{word}"), keys),
                ("name", _) => self.read_key("node.name", &format!("{place}.name"), name.span(), value),
                // Both tables have this key; here it stands for both.
                ("advertise", _) => {
                    self.read_key("media.advertise", &format!("{place}.media.advertise"), name.span(), value);
                    let first = value.get_ref().as_array().and_then(|list| list.first()).unwrap_or(value);
                    self.read_key("sip.advertise", &format!("{place}.sip.advertise"), name.span(), first);
                }
                _ if key::find(&format!("media.{word}")).is_some() => {
                    self.read_key(&format!("media.{word}"), &format!("{place}.media.{word}"), name.span(), value);
                }
                _ => self.read_key(&format!("sip.{word}"), &format!("{place}.sip.{word}"), name.span(), value),
            }
        }
    }

    pub(super) fn interfaces(&self) -> usize {
        self.interfaces
    }

    /// What the file says at `place`, without a default.
    pub(super) fn given(&self, place: &str) -> Option<&Value> {
        self.values.get(place)
    }

    /// What the file says at `path`, else the hardware profile, else the default.
    pub(super) fn value(&self, path: &str) -> Value {
        let said = self.values.get(path).or_else(|| self.layer.get(path).map(|(value, _)| value));
        said.cloned().unwrap_or_else(|| default(path))
    }

    /// Adds a fault of the value at `place`.
    pub(super) fn refuse(&mut self, place: &str, message: impl Into<String>) {
        let line = self.places.get(place).copied().unwrap_or(0);
        self.fault_at(line, place, message.into());
    }

    /// Digests of all values that need a restart to change.
    pub(super) fn pinned(&self) -> Vec<(String, u64)> {
        let digest = |value: &Value| {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            hasher.finish()
        };
        let needs_restart = |path: &str| key::find(path).is_some_and(|key| key.change == Change::Restart);
        let mut pinned: Vec<_> = KEYS
            .iter()
            .filter(|key| key.change == Change::Restart && !key.default.is_empty())
            .map(|key| (key.path.to_owned(), digest(&self.value(key.path))))
            .collect();
        for (place, value) in &self.values {
            let Some(declared) = place.strip_prefix("interface[").and_then(|rest| rest.split_once("].")) else {
                continue;
            };
            if declared.1 == "name" || needs_restart(declared.1) {
                pinned.push((place.clone(), digest(value)));
            }
        }
        pinned
    }

    pub(super) fn lines(&self) -> BTreeMap<String, usize> {
        self.places.clone()
    }

    pub(super) fn into_faults(mut self) -> Vec<Fault> {
        self.faults.sort_by_key(|fault| fault.line);
        self.faults
    }

    fn fault(&mut self, span: &Range<usize>, key: &str, message: String) {
        let line = self.line(span);
        self.fault_at(line, key, message);
    }

    fn fault_at(&mut self, line: usize, key: &str, message: String) {
        self.faults.push(Fault { file: self.file.clone(), line, key: key.to_owned(), message });
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.lines.partition_point(|&end| end < span.start) + 1
    }
}

/// The declared default, through the same parser as the file.
fn default(path: &str) -> Value {
    let key = key::find(path).unwrap_or_else(|| panic!("no key {path} is declared"));
    let text = DeValue::parse(key.default).unwrap_or_else(|error| panic!("the default of {path}: {error}"));
    value::parse(key.kind, &text).unwrap_or_else(|(_, message)| panic!("the default of {path}: {message}"))
}
