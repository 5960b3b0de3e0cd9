//! Hosts of their own on one machine: network namespaces joined to the test's by a veth pair each. Needs no root where user
//! namespaces are allowed.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::server::eventually;

const INSIDE: &str = "TIPRING_E2E_NAMESPACE";

/// Runs the test of this name again in a namespace of its own. True there; false outside, when it has passed.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    let user = if rustix::process::geteuid().is_root() { "-n" } else { "-Urn" };
    let output = Command::new("unshare")
        .arg(user)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare is installed (Debian: util-linux)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "in its namespace, {test}:\n{text}");
    false
}

/// A host with one interface, behind a veth whose other end is ours.
pub struct Host {
    holder: Child,
    pub ip: IpAddr,
    pub gateway: Ipv4Addr,
}

impl Host {
    pub fn new(number: u8) -> Self {
        let holder = Command::new("unshare").args(["-n", "sleep", "300"]).stdin(Stdio::null()).spawn().unwrap();
        let pid = holder.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let apart = eventually(Duration::from_secs(5), || {
            let other = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            (other != own).then_some(())
        });
        assert!(apart.is_some(), "no namespace for a host");
        let (gateway, ip) = (Ipv4Addr::new(10, 77, number, 1), Ipv4Addr::new(10, 77, number, 2));
        let link = format!("host{number}");
        let host = Self { holder, ip: ip.into(), gateway };
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run("ip", &["addr", "add", &format!("{gateway}/24"), "dev", &link]);
        run("ip", &["link", "set", &link, "up"]);
        host.run(&["ip", "link", "set", "lo", "up"]);
        host.run(&["ip", "addr", "add", &format!("{ip}/24"), "dev", "eth0"]);
        host.run(&["ip", "link", "set", "eth0", "up"]);
        host.run(&["ip", "route", "add", "default", "via", &gateway.to_string()]);
        host
    }

    /// A command that will run on this host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n", program]);
        command
    }

    fn run(&self, words: &[&str]) {
        let status = self.command(words[0]).args(&words[1..]).status().unwrap();
        assert!(status.success(), "{words:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} {arguments:?} (Debian: iproute2)");
}
