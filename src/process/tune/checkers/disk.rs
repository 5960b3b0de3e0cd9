//! The disk that tape and recordings go to.

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;
use crate::process::tune::checkers::memory::chosen;

pub const ALL: &[Checker] = &[
    Checker::new(
        "disk.scheduler",
        Severity::Warning,
        "A fast disk orders requests itself; a scheduler of the kernel before it takes CPU and makes fdatasync wait behind others.",
        "Longer stalls of the tape, so that its memory fills and media is lost to recordings sooner.",
        scheduler,
    ),
    Checker::new(
        "disk.space",
        Severity::Warning,
        "Tape and recordings are written without pause; a full disk costs recordings first, then events.",
        "Gaps in recordings and in call records.",
        space,
    ),
];

/// Device, and KiB that are free, of the file system that the node's data is on.
fn file_system(context: &Context<'_>) -> Option<(String, u64)> {
    // The folder need not be there yet.
    let mut folder = Some(context.needs.data.as_path());
    while let Some(path) = folder {
        let path_text = path.to_str()?;
        let word = if path_text.is_empty() { "." } else { path_text };
        if let Some(text) = context.machine.output(&["df", "-Pk", word]) {
            let fields: Vec<&str> = text.lines().nth(1)?.split_ascii_whitespace().collect();
            return Some((fields.first()?.rsplit('/').next()?.to_owned(), fields.get(3)?.parse().ok()?));
        }
        folder = path.parent();
    }
    None
}

fn scheduler(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let allowed = &context.profile.disk.scheduler;
    let Some(wanted) = allowed.first() else { return Vec::new() };
    let text = allowed.join(" or ");
    let Some((device, _)) = file_system(context) else {
        return vec![Finding::unknown(text, "df does not answer")];
    };
    let disk = context.machine.resolve(&format!("sys/class/block/{device}"));
    // A partition has its queue at the disk around it.
    let around = disk.as_deref().and_then(|disk| disk.rsplit_once('/')).map(|(around, _)| around);
    let files = [disk.as_deref(), around].into_iter().flatten().map(|folder| format!("{folder}/queue/scheduler"));
    for file in files {
        if let Some(found) = context.machine.read(&file) {
            let found = chosen(&found).unwrap_or(&found).to_owned();
            let is_right = allowed.contains(&found);
            return vec![Finding::new(is_right, text, found).of(device).act([Action::write(file, wanted)])];
        }
    }
    vec![Finding::unknown(text, format!("{device} is no disk of this machine's own"))]
}

fn space(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let Some(min) = context.profile.disk.free_gib_min else { return Vec::new() };
    let wanted = format!("at least {min} GiB free");
    vec![match file_system(context) {
        Some((device, free)) => {
            let gib = free >> 20;
            Finding::new(gib >= min, wanted, format!("{gib} GiB"))
                .act([Action::ByHand("make room, or put [node] data on a larger disk".to_owned())])
                .of(device)
        }
        None => Finding::unknown(wanted, "df does not answer"),
    }]
}
