//! `tipring tune` and `[engine] profile`, from outside: exit codes, what is applied for real in namespaces, what a node makes of its
//! profile.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

#[path = "../machines/expand.rs"]
mod expand;

use crate::server::Server;
use expand::expand;

fn tipring(words: &[&str]) -> (i32, String, String) {
    told(Command::new(env!("CARGO_BIN_EXE_tipring")).args(words).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn exit_codes_are_as_documented() {
    let tree = expand("epyc-7443p");
    let root = tree.path().to_str().unwrap();
    let tune = |words: &[&str]| tipring(&[&["tune", "--root", root], words].concat());
    let (code, text, _) = tune(&["--check"]);
    assert!(code == 1 && text.contains("cpu.governor"), "{code} {text}");
    let (code, text, _) = tune(&["--check", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(
        code == 1 && list.as_array().unwrap().iter().any(|item| item["ok"] == false && item["severity"] == "warning")
    );
    fs::write(tree.path().join("proc/sys/kernel/io_uring_disabled"), "2\n").unwrap();
    assert_eq!(tune(&["--check"]).0, 2);
    let (code, _, error) = tune(&["--check", "--profile", "xeon-dual-socket"]);
    assert!(code == 3 && error.contains("not this machine's"), "{code} {error}");
    let (code, _, error) = tune(&["--profile", "xenon"]);
    assert!(code == 64 && error.contains("generic-8") && error.lines().count() == 1, "{code} {error}");
    for words in
        [&["--check", "--apply"][..], &["--frobnicate"], &["--output", "x"], &["disk"], &["disk", "/", "--mib", "0"]]
    {
        assert_eq!(tune_alone(words), 64, "{words:?}");
    }
    assert_eq!(tipring(&["tune", "--help"]).0, 0);
    assert_eq!(tipring(&["status", "--frobnicate"]).0, 2, "others are as they were");
    let file = tree.path().join("bad.toml");
    fs::write(&file, "schema = 1\nname = \"a\"\n[cpu]\nengine = 1\n").unwrap();
    let (code, _, error) = tune(&["--profile", file.to_str().unwrap()]);
    assert!(code == 64 && error.contains("bad.toml:4: engine:"), "{code} {error}");
}

fn tune_alone(words: &[&str]) -> i32 {
    tipring(&[&["tune"], words].concat()).0
}

#[test]
fn a_profile_is_written_once() {
    let tree = expand("graviton3");
    let root = tree.path().to_str().unwrap();
    let file = tree.path().join("own.toml");
    let detect = || tipring(&["tune", "--root", root, "--detect", "--output", file.to_str().unwrap()]);
    assert_eq!(detect().0, 0);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}# mine\n")).unwrap();
    assert_eq!(detect().0, 0);
    assert!(fs::read_to_string(&file).unwrap().ends_with("# mine\n"));
    assert_eq!(tipring(&["tune", "--root", root, "--profile", file.to_str().unwrap()]).0, 1);
}

#[test]
fn this_machine_is_recorded_without_much() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let (code, text, error) = tipring(&["tune", "--record", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}{error}");
    assert!(copy.join("sys/devices/system/cpu/online").exists() && copy.join("proc/sys/vm/swappiness").exists());
    let kib = told(Command::new("du").arg("-sk").arg("--apparent-size").arg(&copy).output().unwrap()).1;
    let kib: u64 = kib.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 16_384, "{kib} KiB");
    let (code, text, error) = tipring(&["tune", "--root", copy.to_str().unwrap(), "--detect"]);
    assert!(code == 0 && text.contains("[cpu]"), "{code} {text}{error}");
}

#[test]
fn a_disk_is_tried() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().to_str().unwrap();
    let (code, text, error) = tipring(&["tune", "disk", path, "--for", "400ms", "--mib", "8", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{error}"));
    assert_eq!(code != 0, !told["lacks"].as_array().unwrap().is_empty());
    assert!(told["trial"]["beside_load"]["p99_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(tipring(&["tune", "disk", "/nowhere"]).0, 1);
}

/// Every check off but these: nothing else of the machine that runs the test is touched.
fn only(checks: &[&str], more: &str, folder: &Path) -> PathBuf {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tuning.md")).unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).collect::<Vec<_>>();
    let names = names.iter().filter(|(_, rest)| ["warning", "fatal"].iter().any(|word| rest.starts_with(word)));
    let off: String = names
        .map(|(name, _)| name)
        .filter(|name| !checks.contains(name))
        .fold(String::new(), |all, name| all + &format!("{name:?} = \"off\"\n"));
    assert!(off.lines().count() > 15, "{off}");
    let text = format!(
        "schema = 1\nname = \"trial\"\n[cpu]\nengine = \"0\"\nirq = \"1-\"\nhousekeeping = \"1-\"\nsmt = \"all\"\n{more}\n[severity]\n{off}"
    );
    let file = folder.join("trial.toml");
    fs::write(&file, text).unwrap();
    file
}

/// Runs a shell script in namespaces of its own, with /sys as it is there.
fn inside(script: &str) -> (i32, String, String) {
    let flags = if rustix::process::geteuid().is_root() { "-nm" } else { "-Urnm" };
    let script = format!("set -e\nmount -t sysfs sysfs /sys\nPATH=$PATH:/usr/sbin\n{script}");
    told(Command::new("unshare").args([flags, "sh", "-c", &script]).output().unwrap())
}

#[test]
fn queues_sysctls_and_rules_of_a_namespace_are_set_for_real() {
    let folder = tempfile::tempdir().unwrap();
    let checks =
        ["net.rps", "net.xps", "sysctl.net.core.somaxconn", "sysctl.net.ipv4.ip_local_reserved_ports", "net.notrack"];
    let net =
        "[net]\ninterfaces = [\"card0\"]\nrps = \"engine\"\nxps = \"engine\"\n[sysctl]\n\"net.core.somaxconn\" = 8000";
    let profile = only(&checks, net, folder.path());
    let tune = format!("{} tune --profile {}", env!("CARGO_BIN_EXE_tipring"), profile.display());
    let (code, text, error) = inside(&format!(
        "ip link add card0 numtxqueues 2 numrxqueues 2 type veth peer name card1 numtxqueues 2 numrxqueues 2
         mount -t tmpfs tmpfs /run
         {tune} --check && exit 9
         {tune} --apply
         echo after
         {tune} --check
         cat /sys/class/net/card0/queues/rx-0/rps_cpus /proc/sys/net/core/somaxconn
         cat /proc/sys/net/ipv4/ip_local_reserved_ports
         nft list table inet tipring_notrack
         {tune} --apply"
    ));
    assert_eq!(code, 0, "{text}{error}");
    let after = text.split_once("after\n").unwrap().1;
    assert!(after.contains("0 warnings, 0 fatal"), "{text}");
    assert!(after.contains("8000\n") && after.contains("16384-32767\n"), "{text}");
    assert!(
        after.contains("udp dport 16384-32767 notrack") && after.contains("udp sport 16384-32767 notrack"),
        "{text}"
    );
    assert!(text.trim_end().ends_with("0 done, 0 failed, 0 left to you"), "{text}");
}

#[test]
fn what_is_read_only_is_said_and_nothing_else_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let net = "[net]\ninterfaces = [\"card0\"]\nrps = \"engine\"\n[sysctl]\n\"net.core.somaxconn\" = 8000";
    let profile = only(&["net.rps", "sysctl.net.core.somaxconn"], net, folder.path());
    let (code, text, error) = inside(&format!(
        "ip link add card0 type veth peer name card1
         mount -o remount,bind,ro /sys
         {} tune --profile {} --apply",
        env!("CARGO_BIN_EXE_tipring"),
        profile.display()
    ));
    assert!(code == 1 && text.contains("read-only here"), "{code} {text}{error}");
    assert!(text.contains("done     sysctl.net.core.somaxconn"), "{text}");
}

#[test]
fn the_scheduler_of_a_loop_disk_is_set_for_real() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let profile = only(&["disk.scheduler"], "[disk]\nscheduler = [\"mq-deadline\"]", folder.path());
    let config = folder.path().join("tipring.toml");
    let data = folder.path().join("disk/data");
    fs::write(&config, format!("[node]\ndata = {:?}\n", data.to_str().unwrap())).unwrap();
    let place = folder.path().display();
    let tune =
        format!("{} tune --profile {} --config {}", env!("CARGO_BIN_EXE_tipring"), profile.display(), config.display());
    let (code, text, error) = inside(&format!(
        "truncate -s 32M {place}/image; mkfs.ext4 -q {place}/image; mkdir {place}/disk
         loop=$(losetup --find --show {place}/image); trap 'umount {place}/disk; losetup -d '$loop EXIT
         mount $loop {place}/disk
         file=/sys/class/block/${{loop#/dev/}}/queue/scheduler
         echo none >$file
         {tune} --check && exit 9
         {tune} --apply
         cat $file
         echo none >$file"
    ));
    assert!(code == 0 && text.contains("[mq-deadline]"), "{code} {text}{error}");
}

#[cfg(debug_assertions)]
fn with_tree(tree: &Path, config: &str) -> (tempfile::TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tipring.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipring"));
    command.env("TIPRING_MACHINE", tree).current_dir(folder.path());
    (folder, command)
}

#[cfg(debug_assertions)]
#[test]
fn what_is_fatal_ends_the_start_and_another_machine_is_a_fault() {
    let tree = expand("vm");
    let (_folder, mut serve) = with_tree(tree.path(), "[engine]\nprofile = \"vm-2core\"\n");
    fs::write(tree.path().join("proc/sys/kernel/io_uring_disabled"), "2\n").unwrap();
    let (code, _, error) = told(serve.args(["serve", "--config", "tipring.toml"]).output().unwrap());
    assert!(
        code == 71 && error.contains("sysctl.kernel.io_uring_disabled") && error.lines().count() == 1,
        "{code} {error}"
    );
    let (_folder, mut serve) =
        with_tree(tree.path(), "[node]\nname = \"a\"\n[engine]\nprofile = \"xeon-dual-socket\"\n");
    let (code, _, error) = told(serve.args(["serve", "--config", "tipring.toml"]).output().unwrap());
    assert!(
        code == 78 && error.contains("tipring.toml:4: engine.profile: ") && error.contains("Xeon"),
        "{code} {error}"
    );
    let (_folder, mut check) = with_tree(tree.path(), "[engine]\nprofile = \"xenon\"\n");
    let (code, _, error) = told(check.args(["check", "--config", "tipring.toml"]).output().unwrap());
    assert!(code == 78 && error.contains("vm-2core"), "{code} {error}");
}

#[cfg(debug_assertions)]
#[test]
fn each_value_says_where_it_comes_from() {
    let tree = expand("vm");
    let config = "[engine]\nprofile = \"vm-2core\"\nshards = 2\n[recordings]\nsecret_key = \"hunter2\"\n";
    let (_folder, mut check) = with_tree(tree.path(), config);
    let (code, text, error) = told(check.args(["check", "--config", "tipring.toml", "--effective"]).output().unwrap());
    assert_eq!(code, 0, "{error}");
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {text}"));
    let is = |key: &str, value: &str, origin: &str| {
        let line = line(key);
        assert!(line.starts_with(&format!("{key} = {value} ")) && line.ends_with(&format!("# {origin}")), "{line}");
    };
    is("engine.cpus", "\"0\"", "profile vm-2core");
    is("engine.shards", "2", "file, line 3");
    is("media.ports", "\"16384-32767\"", "default");
    is("recordings.secret_key", "(secret)", "file, line 5");
    assert!(!text.contains("hunter2"));
}

/// On the machine that runs the test, with a profile of its own.
#[test]
fn a_node_shows_what_its_machine_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let more = "[sysctl]\n\"net.core.somaxconn\" = 2147483647\n\"vm.swappiness\" = 200";
    let profile = only(&["sysctl.net.core.somaxconn", "sysctl.vm.swappiness"], more, folder.path());
    let server = Server::start(|setup| setup.profile = profile.to_str().unwrap().to_owned());
    assert_eq!(server.metric("tipring_hw_profile_info", "name=\"trial\""), Some(1.0));
    let failed =
        |check: &str| server.metric("tipring_hw_check_failed", &format!("check=\"{check}\",severity=\"warning\""));
    assert_eq!(failed("sysctl.net.core.somaxconn"), Some(1.0));
    assert_eq!(failed("sysctl.vm.swappiness"), Some(0.0));
    assert!(server.log().contains("sysctl.net.core.somaxconn: wanted at least 2147483647"), "{}", server.log());
}
