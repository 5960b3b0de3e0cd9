#!/usr/bin/python3
"""A pair of nodes through what goes right and what goes wrong; Debian 12 as well. About 15 minutes, as root.

    tests/appliance/long.py CACHE OLD.deb NEW.deb [STEP...]     without steps, all of them
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machines
import outside
from fleet import Fleet
from fleet import Packages
from machines import Failure
from machines import Machine


def refused(done, words):
    """The play failed with these words, and nothing was changed."""
    if done.returncode == 0:
        raise Failure(f"this passed, and should have failed with {words!r}:\n{done.stdout[-3000:]}")
    text = " ".join(done.stdout.split())
    if words not in text:
        raise Failure(f"{words!r} is not in what it said:\n{done.stdout[-4000:]}")


def unchanged(fleet, done):
    if any(fleet.changed(done).values()):
        raise Failure(f"something was changed:\n{done.stdout[-4000:]}")


def wrong_variables(fleet, node):
    """Each is refused before anything is changed."""
    for words, extra in [
        ("tipring needs a kernel of 6.12 or later; this is 6.1.0-30-amd64.", {"__tipring_kernel": "6.1.0-30-amd64"}),
        ("With tipring_reboot=true the kernel of backports is installed", {"__tipring_kernel": "6.1.0-30-amd64", "__tipring_release": 12}),
        ("this is Debian 13 with openrc", {"__tipring_service_manager": "openrc"}),
        ("have the same tipring_node_name twin", {"tipring_node_name": "twin"}),
        ("has to consist of letters", {"tipring_node_name": "a b"}),
        ("argument 'tipring_min_free_mb' is of type", {"tipring_min_free_mb": "much"}),
        ("MiB free; tipring_min_free_mb asks for 900000000", {"tipring_min_free_mb": 900000000}),
        ("The clock is not synchronised", {"tipring_require_time_sync": True}),
    ]:
        done = fleet.play("site", check=False, **extra)
        refused(done, words)
        unchanged(fleet, done)
    node.ssh("systemd-run --unit=squatter python3 -c "
             "\"import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('0.0.0.0',5060)); time.sleep(600)\"")
    time.sleep(1)
    done = fleet.play("site", check=False)
    node.ssh("systemctl stop squatter")
    refused(done, "Others have ports that tipring needs")
    unchanged(fleet, done)
    sums = fleet.packages.folder / "SHA256SUMS"
    kept = sums.read_text()
    sums.write_text(kept.replace(kept[0], "0" if kept[0] != "0" else "1", 1))
    done = fleet.play("site", check=False)
    sums.write_text(kept)
    if done.returncode == 0 or "Verify the signature" not in done.stdout:
        raise Failure(f"sums that nobody signed were taken:\n{done.stdout[-3000:]}")
    unchanged(fleet, done)


def check_mode(fleet, node):
    """On a bare machine it says what it would do, and does nothing."""
    fleet.play("site", "--check")
    node.ssh("test ! -e /etc/tipring && test ! -e /usr/bin/tipring && test ! -e /var/cache/tipring")


def installs(fleet, node):
    fleet.play("site")
    done = fleet.play("site")
    unchanged(fleet, done)
    unchanged(fleet, fleet.play("site", "--check"))
    modes = node.ssh("stat -c '%a %U %G %n' /etc/tipring /etc/tipring/credentials /etc/tipring/directory.toml /etc/tipring/tipring.toml").stdout
    for line in ("750 root tipring /etc/tipring", "700 root root /etc/tipring/credentials", "640 root tipring /etc/tipring/directory.toml"):
        if line not in modes.splitlines():
            raise Failure(f"{line} is not among\n{modes}")
    node.ssh("apt-mark showhold | grep -x tipring")


def secrets(fleet, node):
    """Wrong modes are set right; a secret is shown nowhere."""
    node.ssh("chmod 644 /etc/tipring/directory.toml && chmod 755 /etc/tipring/credentials")
    done = fleet.play("site", "-vvv", tipring_credentials={"spare": "hush-hush"},
                      tipring_tokens=[{"name": "wallboard", "role": "read"}])
    for secret in ("secret-1001", "hush-hush"):
        if secret in done.stdout:
            raise Failure(f"{secret} is shown")
    node.ssh("test $(stat -c %a /etc/tipring/directory.toml) = 640 && test $(stat -c %a /etc/tipring/credentials) = 700")
    node.ssh("test $(stat -c %a /etc/tipring/credentials/spare) = 600 && test $(stat -c %a /etc/tipring/tokens/wallboard) = 600")
    node.ssh("grep -q LoadCredential=spare:/etc/tipring/credentials/spare /etc/systemd/system/tipring.service.d/50-ansible.conf")
    answer = "import urllib.request as u;print(u.urlopen(u.Request('http://127.0.0.1:8080/v1/calls',headers={'Authorization':" \
             "'Bearer '+open('/etc/tipring/tokens/wallboard').read().strip()})).status)"
    if node.ssh(f'python3 -c "{answer}"').stdout.strip() != "200":
        raise Failure("the token is not taken")


def pid(node):
    return node.ssh("systemctl show --property=MainPID --value tipring").stdout.strip()


def broken_configuration(fleet, node):
    """What the new version refuses is not installed, and the node goes on."""
    before = pid(node)
    done = fleet.play("site", check=False, tipring_config={"sip": {"udb": ["127.0.0.1:5060"]}})
    refused(done, "sip.udb")
    if pid(node) != before or "udb" in node.ssh("cat /etc/tipring/tipring.toml").stdout:
        raise Failure("a broken configuration reached the node")


def killed(fleet, node):
    """The service comes back by itself, whatever of it is killed."""
    for victim in ("tipring engine", "tipring side", "tipring serve"):
        node.ssh(f"pkill -KILL -f '{victim}'")
        time.sleep(4)
        outside.phlem(node.tree / "usr/bin/tipring", fleet.folder, node, seconds=4)


def rolling(fleet, node):
    """The pair is upgraded under load. At no time are both out, and no call is cut."""
    versions = sorted(path.name.split("_")[1] for path in fleet.packages.folder.glob("tipring_*.deb"))
    tipring = node.tree / "usr/bin/tipring"
    loads = []
    for machine in fleet.machines:
        # Calls that a draining node refuses are not good ones; those that it took have to end well.
        file = outside.scenario(fleet.folder, seconds=100, rate=0.5, talk=3, good=0.0)
        command = [str(tipring), "phlem", "run", str(file), "--server", f"{machine.address}:5060", "--local", machine.outside,
                   "--json", str(file.with_suffix(".json"))]
        loads.append((subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
                      file.with_suffix(".json")))
    watch = fleet.folder / "watch"
    watcher = subprocess.Popen(
        [sys.executable, __file__, "--watch", str(watch), *(machine.address for machine in fleet.machines)], stdin=subprocess.DEVNULL)
    try:
        fleet.play("rolling_upgrade", limit=600, tipring_version=versions[-1], tipring_drain_deadline=60,
                   phlem_domain="acme.test", phlem_password="secret-{user}", phlem_users="1019-1020")
    finally:
        watcher.terminate()
        watcher.wait()
        for process, _ in loads:
            process.wait(150)
    for machine in fleet.machines:
        machine.ssh(f"dpkg-query -W -f '${{Version}}' tipring | grep -qx {versions[-1]}")
        machine.ssh("tipring status --json --config /etc/tipring/tipring.toml | grep -q '\"draining\":false'")
    seen = [json.loads(line) for line in watch.read_text().splitlines()]
    if not any(out == 1 for out in seen) or any(out > 1 for out in seen):
        raise Failure(f"nodes that were out at once: {sorted(set(seen))}")
    machine = fleet.machines[1]
    machine.ssh("tipring drain --config /etc/tipring/tipring.toml")
    done = fleet.play("rolling_upgrade", check=False, tipring_version=versions[-1])
    machine.ssh("tipring undrain --config /etc/tipring/tipring.toml")
    refused(done, "and tipring_drain_budget is 1. Nobody was drained.")


def downgrade(fleet, node):
    versions = sorted(path.name.split("_")[1] for path in fleet.packages.folder.glob("tipring_*.deb"))
    done = fleet.play("site", check=False, tipring_version=versions[0])
    refused(done, "tipring_allow_downgrade=true allows it")
    unchanged(fleet, done)


def firewall(fleet, node):
    """Who is not among the sources reaches SIP, and the API no more."""
    fleet.play("site", tipring_firewall=True, tipring_firewall_http_sources=["192.0.2.0/24"])
    port = machines.run("timeout", "3", "bash", "-c", f"echo >/dev/tcp/{node.address}/8080", check=False)
    if port.returncode == 0:
        raise Failure("the firewall lets everybody to the API")
    outside.phlem(node.tree / "usr/bin/tipring", fleet.folder, node, seconds=4)


def uninstalls(fleet, node):
    fleet.play("uninstall", tipring_remove_data=True)
    node.ssh("test ! -e /usr/bin/tipring && test ! -e /etc/tipring && test ! -e /var/lib/tipring && test ! -e /var/cache/tipring")
    unchanged(fleet, fleet.play("uninstall", tipring_remove_data=True))


STEPS = [check_mode, wrong_variables, installs, secrets, broken_configuration, killed, rolling, downgrade, firewall, uninstalls]


def watch(file, addresses):
    """Twice a second, how many nodes do not take new calls."""
    import urllib.request
    with open(file, "w", encoding="utf-8") as out:
        while True:
            count = 0
            for address in addresses:
                try:
                    urllib.request.urlopen(f"http://{address}:8080/readyz", timeout=2).close()
                except OSError:
                    count += 1
            out.write(f"{count}\n")
            out.flush()
            time.sleep(0.5)


def main():
    if sys.argv[1] == "--watch":
        watch(sys.argv[2], sys.argv[3:])
    cache, old, new = (Path(argument).resolve() for argument in sys.argv[1:4])
    wanted = sys.argv[4:]
    tarballs = [machines.image(cache, "trixie"), machines.image(cache, "bookworm")]
    machines.enter()
    with tempfile.TemporaryDirectory(prefix="tipring-appliance-") as folder:
        folder = Path(folder)
        pair = [Machine(folder, number, tarball) for number, tarball in zip((1, 2), tarballs)]
        try:
            for machine in pair:
                machine.boot()
            fleet = Fleet(folder, pair, Packages(folder, [old, new]))
            fleet.variables["tipring_version"] = old.name.split("_")[1]
            fleet.write()
            for step in STEPS:
                if wanted and step.__name__ not in wanted:
                    continue
                began = time.monotonic()
                step(fleet, pair[0])
                print(f"   {time.monotonic() - began:6.1f} s  {step.__name__.replace('_', ' ')}", flush=True)
        finally:
            for machine in pair:
                machine.stop()


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"tests/appliance: {failure}")
