//! Walks a parsed TOML document and notes every fault with its line, instead of stopping at the first.

use std::fmt;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

/// One thing wrong with a file. Never holds a value that may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1; 0 where it concerns no line.
    pub line: usize,
    pub key: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.key, self.message)
    }
}

/// Notes faults against the text they are in.
pub(super) struct Faults {
    line_starts: Vec<usize>,
    pub(super) found: Vec<Fault>,
}

/// Beyond this many the rest would not be read anyway.
const FAULTS_MAX: usize = 1_000;

impl Faults {
    pub(super) fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { line_starts: std::iter::once(0).chain(ends).collect(), found: Vec::new() }
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    pub(super) fn note(&mut self, line: usize, key: &str, message: impl Into<String>) {
        if self.found.len() < FAULTS_MAX {
            self.found.push(Fault { line, key: key.to_owned(), message: message.into() });
        }
    }
}

/// A text and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

/// The keys of one table; what nobody asked for is unknown in the end.
pub(super) struct Fields<'t, 'i> {
    kind: &'static str,
    pub(super) line: usize,
    table: &'t DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'t, 'i> Fields<'t, 'i> {
    pub(super) fn new(kind: &'static str, line: usize, table: &'t DeTable<'i>) -> Self {
        Self { kind, line, table, known: Vec::new() }
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.kind)
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(name);
        self.table.get(name)
    }

    pub(super) fn text(&mut self, name: &'static str, faults: &mut Faults) -> Option<Placed<String>> {
        let value = self.take(name)?;
        let line = faults.line(value.span().start);
        match value.get_ref() {
            DeValue::String(text) => Some(Placed { line, value: text.to_string() }),
            other => {
                faults.note(line, &self.key(name), format!("expected a string, found {}", other.type_str()));
                None
            }
        }
    }

    /// A text that must be there and not be empty.
    pub(super) fn required(&mut self, name: &'static str, faults: &mut Faults) -> Option<Placed<String>> {
        let noted = faults.found.len();
        let found = self.text(name, faults).filter(|text| !text.value.is_empty());
        if found.is_none() && faults.found.len() == noted {
            faults.note(self.line, &self.key(name), "is missing or empty");
        }
        found
    }

    pub(super) fn flag(&mut self, name: &'static str, faults: &mut Faults) -> bool {
        self.flag_or(name, false, faults)
    }

    pub(super) fn flag_or(&mut self, name: &'static str, default: bool, faults: &mut Faults) -> bool {
        let Some(value) = self.take(name) else { return default };
        match value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            other => {
                let line = faults.line(value.span().start);
                faults.note(line, &self.key(name), format!("expected true or false, found {}", other.type_str()));
                false
            }
        }
    }

    /// A whole number from 0 to `max`; 0 where there is none.
    pub(super) fn count(&mut self, name: &'static str, max: u32, faults: &mut Faults) -> u32 {
        let Some(value) = self.take(name) else { return 0 };
        let found = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        found.filter(|found| *found <= max).unwrap_or_else(|| {
            faults.note(faults.line(value.span().start), &self.key(name), format!("expected a number from 0 to {max}"));
            0
        })
    }

    pub(super) fn texts(&mut self, name: &'static str, faults: &mut Faults) -> Vec<Placed<String>> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let line = faults.line(value.span().start);
        let Some(array) = value.get_ref().as_array() else {
            faults.note(line, &self.key(name), "expected a list of strings");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in array.iter() {
            let line = faults.line(item.span().start);
            match item.get_ref() {
                DeValue::String(text) => texts.push(Placed { line, value: text.to_string() }),
                _ => faults.note(line, &self.key(name), "expected a list of strings"),
            }
        }
        texts
    }

    pub(super) fn finish(self, faults: &mut Faults) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) {
                faults.note(faults.line(key.span().start), &self.key(name), "unknown key");
            }
        }
    }
}
