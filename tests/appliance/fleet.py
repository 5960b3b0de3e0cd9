"""What installs on machines: a signed folder of packages, an inventory, and ansible-playbook."""

import json
import os
import re
from pathlib import Path

from machines import Failure
from machines import run

ROOT = Path(__file__).resolve().parents[2]
# The baresip of Debian 12 gives up at a challenge with SHA-256 in it.
MD5_ALONE = 'digest = ["MD5"]\n'
PHONES = """
[[tenant]]
name = "acme"
domain = "acme.test"
""" + "".join(f"""
[[phone]]
tenant = "acme"
user = "{user}"
password = "secret-{user}"
{MD5_ALONE if user in (1011, 1012) else ""}""" for user in range(1001, 1021))


class Packages:
    """A folder of packages with sums that a key made for it has signed."""

    def __init__(self, folder, files):
        self.folder = folder / "packages"
        self.signers = folder / "allowed_signers"
        self.key = folder / "release-key"
        self.folder.mkdir()
        for file in files:
            (self.folder / Path(file).name).write_bytes(Path(file).read_bytes())
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        self.signers.write_text(f"releases@tipring {self.key.with_suffix('.pub').read_text()}")
        self.sign()

    def sign(self):
        names = sorted(path.name for path in self.folder.glob("*.deb"))
        (self.folder / "SHA256SUMS").write_text(run("sha256sum", *names, cwd=self.folder).stdout)
        (self.folder / "SHA256SUMS.sig").unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-Y", "sign", "-f", self.key, "-n", "tipring-release", self.folder / "SHA256SUMS")

    def version(self):
        """The newest."""
        versions = [path.name.split("_")[1] for path in self.folder.glob("tipring_*.deb")]
        return sorted(versions, key=lambda text: [int(part) for part in re.findall(r"\d+", text)])[-1]


class Fleet:
    """Nodes, and how ansible reaches them."""

    def __init__(self, folder, machines, packages):
        self.folder = folder
        self.machines = machines
        self.packages = packages
        collections = folder / "collections/ansible_collections/tipring"
        collections.mkdir(parents=True)
        (collections / "tipring").symlink_to(ROOT / "ansible")
        self.variables = {
            "tipring_version": packages.version(),
            "tipring_package_folder": str(packages.folder),
            "tipring_package_signers": str(packages.signers),
            "tipring_require_time_sync": False,
            "tipring_http_insecure": True,
            "tipring_directory": PHONES,
            "tipring_config": {"sip": {"trusted": ["10.213.0.0/16"]}, "node": {"drain": "20s"}},
        }
        self.variables |= {
            "tipring_monitoring_prometheus_host": "controller",
            "tipring_monitoring_prometheus_folder": str(folder / "etc-prometheus"),
            "tipring_monitoring_prometheus_service": "",
            "tipring_monitoring_node_exporter": "127.0.0.1:9100",
            "tipring_monitoring_grafana_folder": str(folder / "grafana"),
        }
        (folder / "grafana").mkdir()
        self.write()

    def write(self):
        hosts = {}
        for machine in self.machines:
            hosts[machine.name] = {
                "ansible_host": machine.address,
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(machine.key),
                "tipring_http": [f"{machine.address}:8080", "127.0.0.1:8080"],
            }
        inventory = {"tipring": {"hosts": hosts, "vars": self.variables}}
        inventory["watching"] = {"hosts": {"controller": {"ansible_connection": "local"}}}
        (self.folder / "inventory.json").write_text(json.dumps(inventory, indent=1))

    def play(self, name, *arguments, limit=300, check=True, **extra):
        """Runs a playbook of the collection; `extra` are variables that win over all others."""
        known = self.machines[0].key.with_name("known_hosts")
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
            "ANSIBLE_SSH_ARGS": f"-o UserKnownHostsFile={known} -o ControlMaster=auto -o ControlPersist=60s",
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_NOCOLOR": "True",
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
            "ANSIBLE_RETRY_FILES_ENABLED": "False",
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible-local"),
            "LC_ALL": "C.UTF-8",
        }
        words = ["ansible-playbook", "-i", str(self.folder / "inventory.json")]
        for key, value in extra.items():
            words += ["-e", json.dumps({key: value})]
        done = run(*words, *arguments, f"tipring.tipring.{name}", limit=limit, check=False, env=environment)
        with open(self.folder / "ansible.log", "a", encoding="utf-8") as log:
            log.write(done.stdout)
        if check and done.returncode != 0:
            raise Failure(f"{name} failed:\n{done.stdout[-6000:]}")
        return done

    def changed(self, done):
        """How much each host says was changed."""
        return {host: int(count) for host, count in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.M)}
