//! `docs/tuning.md` and the files under `tuning/`, written from the checkers so that neither says anything else.

use std::fmt::Write;

use crate::process::tune::checker::Checker;
use crate::process::tune::checkers;
use crate::process::tune::checkers::conntrack;
use crate::process::tune::checkers::sysctl;
use crate::process::tune::checkers::sysctl::Want;
use crate::process::tune::profile::Profile;
use crate::process::tune::shipped::SHIPPED;
use crate::process::tune::shipped::shipped;

const HEAD: &str = include_str!("tuning-head.md");
const MADE: &str = "Written from src/process/tune: `UPDATE_DOCS=1 cargo test --lib tune::tests::pages`.";
/// Of a node that sets none.
const PORTS: (u16, u16) = (16_384, 32_767);

/// The text of `docs/tuning.md`.
pub fn page() -> String {
    let mut page = format!("{HEAD}\n<!-- The tables below: {MADE} -->\n\n## Checks\n\n");
    page.push_str("| check | severity | why | what it costs not to have it |\n|---|---|---|---|\n");
    for checker in checkers::all(&Profile::default()) {
        let severity = checker.severity.name();
        let _ = writeln!(page, "| `{}` | {severity} | {} | {} |", checker.name, checker.reason, checker.cost);
    }
    page.push_str("\n## Profiles that are shipped\n\n| name | |\n|---|---|\n");
    for (name, _) in SHIPPED {
        let about = shipped(name).and_then(Result::ok).map(|profile| profile.about).unwrap_or_default();
        let _ = writeln!(page, "| `{name}` | {about} |");
    }
    page
}

/// Path under `tuning/`, and text.
pub fn files() -> Vec<(&'static str, String)> {
    vec![
        ("sysctl.d/60-tipring.conf", sysctls()),
        ("nftables/tipring-notrack.nft", format!("# {MADE}\n{}", conntrack::rules(&[PORTS]))),
        ("udev/60-tipring.rules", format!("# {MADE}\n{UDEV}")),
        ("tuned/tipring/tuned.conf", format!("# {MADE}\n{TUNED}{}", tuned_sysctls())),
        ("systemd/tipring.service.d/50-limits.conf", format!("# {MADE}\n{LIMITS}")),
        ("systemd/system.slice.d/50-tipring-cpus.conf", format!("# {MADE}\n{SLICE}")),
        ("systemd/tipring-tune.service", format!("# {MADE}\n{UNIT}")),
    ]
}

fn settings() -> Vec<(&'static str, String, &'static str)> {
    let checkers = sysctl::checkers(&Profile::default());
    let of = |(entry, checker): (&sysctl::Sysctl, &Checker)| {
        let value = match entry.want {
            Want::Least(least) => least.to_string(),
            // What is stricter stays: a file can only set it, so that one is left to `tipring tune`.
            Want::Most(_) if entry.name == "kernel.io_uring_disabled" => return None,
            Want::Most(most) => most.to_string(),
            Want::Ports => format!("{} {}", sysctl::EPHEMERAL.0, sysctl::EPHEMERAL.1),
            Want::Reserved => format!("{}-{}", PORTS.0, PORTS.1),
        };
        Some((entry.name, value, checker.reason))
    };
    sysctl::TABLE.iter().zip(&checkers).filter_map(of).collect()
}

fn sysctls() -> String {
    let mut text =
        format!("# {MADE}\n# For RTP on ports {}-{}: others belong into the last lines.\n", PORTS.0, PORTS.1);
    for (name, value, reason) in settings() {
        let _ = write!(text, "\n# {reason}\n{name} = {value}\n");
    }
    text
}

fn tuned_sysctls() -> String {
    settings().iter().map(|(name, value, _)| format!("{name}={value}\n")).collect()
}

/// A card or a disk that comes later is found as the profile wants it, too.
const UDEV: &str = "\
# Disks that order requests themselves get no scheduler before them.
ACTION==\"add|change\", SUBSYSTEM==\"block\", KERNEL==\"nvme[0-9]*n[0-9]*\", ENV{DEVTYPE}==\"disk\", ATTR{queue/scheduler}=\"none\"
# A network card that appears is brought to what the profile says.
ACTION==\"add\", SUBSYSTEM==\"net\", ENV{DEVPATH}!=\"*/virtual/*\", TAG+=\"systemd\", ENV{SYSTEMD_WANTS}+=\"tipring-tune.service\"
";

const TUNED: &str = "\
[main]
summary=What a tipring node asks of its machine

[cpu]
governor=performance
force_latency=cstate.id_no_zero:1|20

[vm]
transparent_hugepages=madvise

[disk]
elevator=none

[sysctl]
";

const LIMITS: &str = "\
# As /etc/systemd/system/tipring.service.d/50-limits.conf.
[Service]
# Every RTP port is an open file, and so is every connection.
LimitNOFILE=65536
# The rings register memory that must stay in RAM.
LimitMEMLOCK=infinity
";

const SLICE: &str = "\
# As /etc/systemd/system/system.slice.d/50-tipring-cpus.conf, and the same for user.slice: everything but the node's own slice
# stays off the engine's CPUs. Name those of `irq` and `housekeeping` of the profile.
[Slice]
AllowedCPUs=0-1
";

const UNIT: &str = "\
# What is set under /proc and /sys is gone after a reboot: this sets it again before the node starts. It never keeps the node from
# starting; `tipring tune --check` says what is missing.
[Unit]
Description=Bring this machine to its tipring hardware profile
After=systemd-sysctl.service systemd-udev-settle.service network-pre.target
Before=tipring.service
ConditionPathExists=/usr/bin/tipring

[Service]
Type=oneshot
ExecStart=-/usr/bin/tipring tune --apply
RemainAfterExit=no

[Install]
WantedBy=multi-user.target
";
