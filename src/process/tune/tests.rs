//! Checkers, actions and profiles on trees of machines.

#[path = "../../../tests/machines/expand.rs"]
mod expand;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::process::tune::apply;
use crate::process::tune::apply::Hands;
use crate::process::tune::apply::Outcome;
use crate::process::tune::apply::RealHands;
use crate::process::tune::check;
use crate::process::tune::check::Checked;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Needs;
use crate::process::tune::checker::Severity;
use crate::process::tune::cpus::CpuSet;
use crate::process::tune::detect;
use crate::process::tune::engine;
use crate::process::tune::machine::Machine;
use crate::process::tune::page;
use crate::process::tune::profile::Profile;
use crate::process::tune::record;
use crate::process::tune::script;
use crate::process::tune::sets::Sets;
use crate::process::tune::shipped;
use crate::process::tune::shipped::SHIPPED;
use crate::process::tune::shipped::shipped;
use crate::process::tune::topology::Topology;
use expand::expand;

/// The tree of a machine, and the profile that is made for it.
const TREES: [(&str, &str); 4] = [
    ("vm", "vm-2core"),
    ("epyc-7443p", "epyc-single-socket"),
    ("xeon-6338-two", "xeon-dual-socket"),
    ("graviton3", "arm64-cloud"),
];

struct Tree {
    folder: tempfile::TempDir,
    machine: Machine,
    topology: Topology,
    needs: Needs,
}

impl Tree {
    fn new(name: &str) -> Self {
        Self::of(expand(name))
    }

    fn of(folder: tempfile::TempDir) -> Self {
        let machine = Machine::recorded(folder.path());
        let needs = Needs { ports: vec![(16_384, 32_767)], data: PathBuf::from("/var/lib/tipring") };
        Self { topology: Topology::of(&machine), machine, folder, needs }
    }

    fn with<T>(&self, profile: &Profile, act: impl FnOnce(&Context<'_>) -> T) -> T {
        let sets = Sets::of(profile, &self.topology).unwrap();
        let Self { machine, topology, needs, .. } = self;
        act(&Context { machine, topology, profile, sets: &sets, needs })
    }

    fn check(&self, profile: &Profile) -> Vec<Checked> {
        self.with(profile, check::check)
    }
}

fn profile(name: &str) -> Profile {
    shipped(name).unwrap().unwrap()
}

fn wrong(results: &[Checked]) -> Vec<String> {
    let name = |result: &Checked| format!("{} {}", result.check, result.subject).trim().to_owned();
    results.iter().filter(|result| !result.ok).map(name).collect()
}

#[test]
fn each_machine_finds_its_profile_and_its_cpus_add_up() {
    for (tree, name) in TREES {
        let tree = Tree::new(tree);
        let found = shipped::find("auto", Path::new("."), &tree.topology).unwrap();
        assert_eq!(found.name, name);
        for (other, _) in SHIPPED {
            let profile = profile(other);
            if !profile.matching.misses(&tree.topology).is_empty() {
                continue;
            }
            let sets = Sets::of(&profile, &tree.topology).unwrap();
            assert_eq!(sets.engine.union(&sets.irq).union(&sets.housekeeping), tree.topology.online, "{other}");
            assert!(sets.engine.intersection(&sets.irq).is_empty(), "{other}");
            assert!(!sets.shards.is_empty() && sets.shards.is_subset(&sets.engine), "{other}");
        }
    }
}

#[test]
fn cores_stay_together() {
    let list = |set: &CpuSet| set.list();
    let sets = Sets::of(&profile("epyc-single-socket"), &Tree::new("epyc-7443p").topology).unwrap();
    assert_eq!((list(&sets.housekeeping), list(&sets.irq)), ("0,24".to_owned(), "1-2,25-26".to_owned()));
    assert_eq!((list(&sets.engine), list(&sets.shards)), ("3-23,27-47".to_owned(), "3-23".to_owned()));
    let sets = Sets::of(&profile("xeon-dual-socket"), &Tree::new("xeon-6338-two").topology).unwrap();
    assert_eq!((list(&sets.housekeeping), list(&sets.irq)), ("0,64".to_owned(), "1,32,65,96".to_owned()));
    let sets = Sets::of(&profile("generic-8"), &Tree::new("graviton3").topology).unwrap();
    assert_eq!(list(&sets.shards), "2-15");
}

#[test]
fn a_profile_of_another_machine_says_what_is_missing() {
    let epyc = Tree::new("epyc-7443p");
    let error = engine::matched("xeon-dual-socket", Path::new("."), &epyc.topology).unwrap_err().to_string();
    assert!(error.contains("Xeon") && error.contains("2 NUMA nodes, here is 1"), "{error}");
    let error = engine::matched("xenon", Path::new("."), &epyc.topology).unwrap_err().to_string();
    assert!(SHIPPED.iter().all(|(name, _)| error.contains(name)), "{error}");
}

#[test]
fn what_is_wrong_is_found_put_right_and_left_alone_then() {
    for (name, expected) in [
        (
            "epyc-7443p",
            "cpu.governor, cpu.sleep, cpu.isolation system.slice, cpu.isolation user.slice, net.queues eno1, irq.balance, irq.affinity eno1, \
             net.rss eno1, net.xps eno1, net.rings eno1, net.coalescing eno1, net.notrack, disk.scheduler nvme0n1p2, \
             sysctl.net.core.rmem_max, sysctl.net.core.wmem_max, sysctl.net.core.netdev_max_backlog, sysctl.net.core.netdev_budget, \
             sysctl.net.ipv4.ip_local_reserved_ports, sysctl.vm.swappiness",
        ),
        (
            "xeon-6338-two",
            "cpu.governor, cpu.sleep, cpu.isolation system.slice, cpu.isolation user.slice, irq.balance, irq.affinity ens1f0np0, \
             irq.affinity ens6f0np0, net.rss ens1f0np0, net.rss ens6f0np0, net.xps ens1f0np0, net.xps ens6f0np0, net.rings ens1f0np0, \
             net.rings ens6f0np0, net.coalescing ens1f0np0, net.coalescing ens6f0np0, net.notrack, sysctl.net.core.rmem_max, \
             sysctl.net.core.wmem_max, sysctl.net.core.netdev_max_backlog, sysctl.net.core.netdev_budget, \
             sysctl.net.ipv4.ip_local_reserved_ports, sysctl.vm.swappiness, sysctl.kernel.numa_balancing",
        ),
    ] {
        let tree = Tree::new(name);
        let profile = profile(TREES.iter().find(|(tree, _)| *tree == name).unwrap().1);
        let before = tree.check(&profile);
        assert_eq!(wrong(&before).join(", "), expected);
        assert_eq!(check::exit_code(&before), 1);
        let run = || {
            tree.with(&profile, |context| {
                apply::apply(&check::checkers(&profile), context, &mut RealHands { is_here: false })
            })
        };
        for (result, outcome) in run() {
            let by_program =
                result.finding.actions.iter().any(|action| matches!(action, super::checker::Action::Run(_)));
            match outcome {
                Outcome::Right | Outcome::Done => assert!(result.ok),
                Outcome::Failed(why) => assert!(by_program && why.contains("are not run"), "{}: {why}", result.line()),
                other => panic!("{}: {other:?}", result.line()),
            }
        }
        let read = |path: &str| tree.machine.read(path).unwrap();
        assert_eq!(read("proc/sys/net/ipv4/ip_local_reserved_ports"), "16384-32767");
        let done = run().into_iter().filter(|(_, outcome)| *outcome == Outcome::Done).count();
        assert_eq!(done, 0, "a second time finds nothing that files can put right");
    }
}

#[test]
fn interrupts_stay_on_the_socket_of_their_card() {
    let tree = Tree::new("xeon-6338-two");
    let xeon = profile("xeon-dual-socket");
    tree.with(&xeon, |context| apply::apply(&check::checkers(&xeon), context, &mut RealHands { is_here: false }));
    let cpu = |irq: u32| tree.machine.read(&format!("proc/irq/{irq}/smp_affinity_list")).unwrap();
    assert_eq!([cpu(200), cpu(201), cpu(202)], ["1", "65", "1"]);
    assert_eq!([cpu(300), cpu(301), cpu(302)], ["32", "96", "32"]);
    let mut far = xeon.clone();
    far.cpu.irq = "node0:1".to_owned();
    let results = tree.check(&far);
    assert!(wrong(&results).contains(&"irq.numa ens6f0np0".to_owned()), "{:?}", wrong(&results));
    assert_eq!(check::exit_code(&results), 2, "the profile calls it fatal");
}

type Wrote = fn() -> io::Result<usize>;

/// Fails as a machine can.
struct Broken {
    how: Wrote,
}

impl Hands for Broken {
    fn write(&mut self, _: &Path, _: &[u8]) -> io::Result<usize> {
        (self.how)()
    }

    fn run(&mut self, words: &[String]) -> Result<(), String> {
        Err(format!("{}: not found", words[0]))
    }
}

#[test]
fn what_cannot_be_written_is_said_and_the_rest_goes_on() {
    let tree = Tree::new("epyc-7443p");
    let epyc = profile("epyc-single-socket");
    let cases: [(Wrote, &str); 4] = [
        (|| Ok(3), "half-written, 3 of"),
        (|| Err(io::Error::from_raw_os_error(libc::EROFS)), "read-only here"),
        (|| Err(io::Error::from_raw_os_error(libc::EINVAL)), "the kernel does not take"),
        // Written, and the machine is as before.
        (|| Ok(usize::MAX), "of"),
    ];
    let before = tree.check(&epyc);
    for (how, said) in cases {
        let outcomes = tree.with(&epyc, |context| apply::apply(&check::checkers(&epyc), context, &mut Broken { how }));
        let failed: Vec<&String> = outcomes
            .iter()
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Failed(why) => Some(why),
                _ => None,
            })
            .collect();
        assert_eq!(failed.len(), wrong(&before).len(), "each is tried");
        assert!(failed.iter().any(|why| why.contains(said)), "{said}: {failed:?}");
        assert_eq!(tree.check(&epyc), before);
    }
}

#[test]
fn a_write_that_changes_nothing_is_no_success() {
    struct Idle;
    impl Hands for Idle {
        fn write(&mut self, _: &Path, value: &[u8]) -> io::Result<usize> {
            Ok(value.len())
        }
        fn run(&mut self, _: &[String]) -> Result<(), String> {
            Ok(())
        }
    }
    let tree = Tree::new("epyc-7443p");
    let epyc = profile("epyc-single-socket");
    let outcomes = tree.with(&epyc, |context| apply::apply(&check::checkers(&epyc), context, &mut Idle));
    assert!(outcomes.iter().all(|(_, outcome)| *outcome != Outcome::Done));
    let said = |(_, outcome): &(Checked, Outcome)| matches!(outcome, Outcome::Failed(why) if why.contains("and still"));
    assert!(outcomes.iter().any(said), "{outcomes:?}");
}

#[test]
fn the_script_does_what_apply_does() {
    let (one, other) = (Tree::new("epyc-7443p"), Tree::new("epyc-7443p"));
    let epyc = profile("epyc-single-socket");
    let text = script::script(&epyc.name, &one.check(&epyc));
    // The file for nft is made in a folder that a machine has.
    std::fs::create_dir_all(one.folder.path().join("run")).unwrap();
    let file = one.folder.path().join("script");
    std::fs::write(&file, &text).unwrap();
    let output = Command::new("sh").arg(&file).env("ROOT", one.folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    other.with(&epyc, |context| {
        apply::apply(&check::checkers(&epyc), context, &mut RealHands { is_here: false });
    });
    assert_eq!(one.check(&epyc), other.check(&epyc));
    let plan = script::plan(&Tree::new("epyc-7443p").check(&epyc));
    assert!(plan.contains("run ethtool -G eno1 rx 4096 tx 4096\n"), "{plan}");
    assert!(plan.contains("run ethtool -L eno1 combined 4\n"), "{plan}");
}

#[test]
fn a_recorded_machine_looks_like_itself() {
    for (name, made_for) in TREES {
        let tree = Tree::new(name);
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy");
        record::look(&tree.machine, None, &tree.needs);
        record::write(&tree.machine, &copy).unwrap();
        assert!(record::write(&tree.machine, &copy).is_err(), "a folder that is there is left alone");
        let again = Machine::recorded(&copy);
        let topology = Topology::of(&again);
        assert_eq!(topology, tree.topology);
        let profile = profile(made_for);
        let sets = Sets::of(&profile, &topology).unwrap();
        let context =
            Context { machine: &again, topology: &topology, profile: &profile, sets: &sets, needs: &tree.needs };
        assert_eq!(check::check(&context), tree.check(&profile), "{name}");
    }
}

#[test]
fn a_detected_profile_is_one_of_this_machine() {
    for (name, made_for) in TREES {
        let tree = Tree::new(name);
        let text = detect::profile(&tree.topology).unwrap();
        let own = Profile::parse(&text, "own.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(own.matching.misses(&tree.topology), [""; 0]);
        assert_eq!(Sets::of(&own, &tree.topology), Sets::of(&profile(made_for), &tree.topology));
        assert_eq!(own.capacity, None);
    }
    // Of a machine that no profile is made for: four CPUs of a kernel that is too old.
    let mut other = Tree::new("graviton3");
    other.topology.online = CpuSet::parse("0-3").unwrap();
    other.topology.cores.retain(|cpu, _| *cpu < 4);
    other.topology.nodes = BTreeMap::from([(0, other.topology.online.clone())]);
    other.topology.kernel = "6.1.0".to_owned();
    let own = Profile::parse(&detect::profile(&other.topology).unwrap(), "own.toml").unwrap();
    assert_eq!(Sets::of(&own, &other.topology).unwrap().shards.list(), "2-3");
}

#[test]
fn a_faulty_profile_is_named_by_file_line_and_key() {
    let good = "schema = 1\nname = \"a\"\n[cpu]\nengine = \"rest\"\nirq = \"1\"\nhousekeeping = \"0\"\n";
    assert!(Profile::parse(good, "p").is_ok());
    let check = |text: &str, expected: &str| {
        let error = Profile::parse(text, "p.toml").unwrap_err().to_string();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{error}");
    };
    check(&good.replace("engine = \"rest\"", "engine = 3"), "p.toml:4: engine: invalid type");
    check(&good.replace("irq = \"1\"", "irq = \"3-1\""), "p.toml:5: cpu.irq: \"3-1\" is no CPU list");
    check(&good.replace("schema = 1", "schema = 2"), "p.toml:1: schema: is 2");
    check(&format!("{good}isolation = \"jail\"\n"), "p.toml:7: isolation: unknown variant");
    check(&format!("{good}speed = 1\n"), "p.toml:7: speed: unknown field");
    check(&format!("{good}[severity]\n\"cpu.speed\" = \"fatal\"\n"), "p.toml:8: severity.cpu.speed: no such check");
    check(
        &format!("{good}[sysctl]\n\"net.core.rmem_max\" = \"many\"\n"),
        "p.toml:8: sysctl.net.core.rmem_max: expected a number",
    );
    check(&format!("{good}[capacity]\nrelayed_calls = 9\nevidence = \"\"\n"), "p.toml:9: capacity.evidence: must name");
    check(&format!("{good}[engine.settings]\n\"sip.udp\" = 1\n"), "p.toml:8: engine.settings");
    check("schema = [", "p.toml:1:");
}

#[test]
fn a_profile_decides_what_a_check_means() {
    let tree = Tree::new("epyc-7443p");
    let mut epyc = profile("epyc-single-socket");
    epyc.severity.insert("cpu.governor".to_owned(), Severity::Fatal);
    epyc.severity.insert("cpu.sleep".to_owned(), Severity::Off);
    let results = tree.check(&epyc);
    assert_eq!(check::exit_code(&results), 2);
    assert!(!wrong(&results).contains(&"cpu.sleep".to_owned()));
    let json: serde_json::Value = serde_json::from_str(&check::json(&results)).unwrap();
    let first = &json[0];
    assert_eq!(
        (&first["check"], &first["severity"], &first["ok"]),
        (&"cpu.governor".into(), &"fatal".into(), &false.into())
    );
    assert_eq!(first["wanted"], "performance");
    assert!(["found", "reason", "subject", "cost"].iter().all(|key| first[*key].is_string()), "{first}");
}

#[test]
fn ports_are_kept_apart_from_what_the_kernel_chooses() {
    let mut tree = Tree::new("graviton3");
    tree.needs.ports = vec![(30_000, 39_999)];
    let cloud = profile("arm64-cloud");
    let is_wrong = |tree: &Tree| wrong(&tree.check(&cloud)).contains(&"sysctl.net.ipv4.ip_local_port_range".to_owned());
    assert!(is_wrong(&tree));
    std::fs::write(tree.machine.path("proc/sys/net/ipv4/ip_local_reserved_ports"), "8080,29000-40100\n").unwrap();
    assert!(!is_wrong(&tree), "they are reserved");
    std::fs::write(tree.machine.path("proc/sys/net/ipv4/ip_local_reserved_ports"), "8080\n").unwrap();
    tree.with(&cloud, |context| apply::apply(&check::checkers(&cloud), context, &mut RealHands { is_here: false }));
    let read = |path: &str| tree.machine.read(path).unwrap();
    assert_eq!(read("proc/sys/net/ipv4/ip_local_reserved_ports"), "8080,30000-39999");
    assert_eq!(read("proc/sys/net/ipv4/ip_local_port_range"), "49152 65535");
}

#[test]
fn what_cannot_be_told_refuses_nothing() {
    let tree = Tree::new("epyc-7443p");
    std::fs::remove_dir_all(tree.folder.path().join("commands")).unwrap();
    let mut epyc = profile("epyc-single-socket");
    epyc.severity.insert("net.rings".to_owned(), Severity::Fatal);
    let results = tree.check(&epyc);
    let rings = results.iter().find(|result| result.check == "net.rings").unwrap();
    assert!(!rings.ok && rings.severity == Severity::Warning && rings.found.starts_with("unknown: "), "{rings:?}");
}

#[test]
fn the_engine_takes_its_cpus_from_the_profile() {
    let tree = Tree::new("xeon-6338-two");
    let mut xeon = profile("xeon-dual-socket");
    xeon.engine.ports = Some("20000-39999".to_owned());
    let layer = engine::of(&xeon, &Sets::of(&xeon, &tree.topology).unwrap());
    let keys: Vec<(&str, &str)> = layer.keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(keys, [("engine.cpus", "\"2-31,33-63\""), ("engine.shards", "61"), ("media.ports", "\"20000-39999\""),]);
    assert_eq!(layer.housekeeping, [0, 64]);
}

#[test]
fn pages_are_as_the_checkers_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![(root.join("docs/tuning.md"), page::page())];
    pages.extend(page::files().into_iter().map(|(name, text)| (root.join("tuning").join(name), text)));
    for (file, text) in pages {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(found, text, "{}: UPDATE_DOCS=1 cargo test --lib tune::tests::pages", file.display());
    }
}
