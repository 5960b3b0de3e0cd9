//! The page `docs/config.md` and the sample `docs/tipring.toml`, written from the declarations.

use std::fmt::Write;

use crate::process::config::key::Change;
use crate::process::config::key::KEYS;
use crate::process::config::key::Key;

const HEAD: &str = "\
# Configuration

One TOML file, `tipring serve --config FILE`; `tipring check --config FILE` names every fault in it with file, line and
key. Every key has a default, and an unknown key is an error. Relative paths are relative to the file. Durations are a
number with `ms`, `s`, `m`, `h`, `d`, `w` or `y`. Any secret may be given as `{ file = \"…\" }`.

*HUP* says whether a changed value takes effect at HUP (`tipring reload`) or at the next start.

<!-- This page is written from src/process/config/key.rs: `UPDATE_DOCS=1 cargo test --lib config_page`. -->
";

const TAIL: &str = "
## [[interface]]

Further networks. Each has a `name` of its own and the keys of `[sip]` and `[media]`, either all in the one table or in
`[interface.sip]` and `[interface.media]`; `advertise` in the one table stands for both. `udp` and `tcp` default to no
socket, `address` must be given, `trusted` and `ports` default to those of the tables above. `trusted` of all interfaces is one list,
`path` and `digest` count in `[sip]` alone, and `low_ports`, `unheard` and `trunks` in `[media]` alone. The tables `[sip]` and `[media]` are the interface `default`.
";

/// The text of `docs/config.md`.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut table = "";
    for key in KEYS {
        let (of, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if of != table {
            table = of;
            let _ = write!(page, "\n## [{of}]\n\n| key | default | HUP | |\n|---|---|---|---|\n");
        }
        let _ = writeln!(page, "| `{name}` | {} | {} | {} |", default(key), change(key), key.text);
    }
    page.push_str(TAIL);
    page
}

const SAMPLE_HEAD: &str = "\
# Every key of tipring's configuration with its default: keep what you change. docs/config.md says which take effect at HUP.
# This file is written from src/process/config/key.rs: `UPDATE_DOCS=1 cargo test --lib config_page`.
";

/// The text of `docs/tipring.toml`.
pub fn sample() -> String {
    let mut sample = SAMPLE_HEAD.to_owned();
    let mut table = "";
    for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
        let (of, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if of != table {
            table = of;
            let _ = write!(sample, "\n[{of}]\n");
        }
        let _ = write!(sample, "# {}\n{name} = {}\n", key.text.replace('`', ""), key.default);
    }
    sample
}

fn default(key: &Key) -> String {
    if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) }
}

fn change(key: &Key) -> &'static str {
    match key.change {
        _ if key.default.is_empty() => "",
        Change::Reload => "yes",
        Change::Restart => "restart",
    }
}
