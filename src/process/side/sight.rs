//! The files that side has to see: the data folder, the log's, and what the directory file names.
//!
//! It reads the segments of all tapes, so that no key of a tape can be kept from it; keys go with their segments.

use std::path::Path;
use std::path::PathBuf;

use crate::process::confine::files::Sight;
use crate::process::plan::SideSettings;

pub(super) fn of(data: &Path, settings: &SideSettings) -> Sight {
    let reads = settings.directory.import.as_deref().map(folders).unwrap_or_default();
    let sight = Sight { reads, writes: vec![data.to_owned()], fills: Vec::new() };
    sight.with_log(settings.log.file.as_deref())
}

/// The folder of the directory file, and those of the files that it names elsewhere: passwords, announcements. Folders, because files
/// are replaced.
fn folders(file: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| {
        path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder }.to_owned())
    };
    let Some(own) = parent(file) else { return Vec::new() };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut found = vec![own.clone()];
    if let Ok(table) = toml::from_str::<toml::Table>(&text) {
        collect(&toml::Value::Table(table), &mut |name| {
            let folder = parent(&own.join(name)).filter(|folder| !folder.starts_with(&own));
            found.extend(folder);
        });
    }
    found.sort();
    found.dedup();
    found
}

/// Every `file = "…"`, wherever it stands: a directory file is no deeper than three tables.
fn collect(value: &toml::Value, found: &mut impl FnMut(&str)) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                match value {
                    toml::Value::String(name) if key == "file" => found(name),
                    value => collect(value, found),
                }
            }
        }
        toml::Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_files_elsewhere_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("directory.toml");
        let text = "[[tenant]]\nname = \"a\"\nannounce = { file = \"tones/a.wav\" }\n\
                    [[phone]]\nuser = \"1\"\npassword = { file = \"/run/secrets/one\" }\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(folders(&file), [PathBuf::from("/run/secrets"), folder.path().to_owned()]);
    }
}
