"""Machines to install on: Debian trees that systemd-nspawn boots, each in a network namespace of its own, reached by SSH over veth.

Everything runs in namespaces that end with the script (`enter`), so that nothing of the host is changed and nothing is left behind.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = (
    "systemd systemd-sysv dbus openssh-server python3 python3-apt ca-certificates iproute2 nftables gpgv logrotate"
).split()
BOOT_SECONDS = 60
STOP_SECONDS = 20


class Failure(Exception):
    """What a test found, or cannot do here."""


def run(*command, limit=60, check=True, **options):
    """Runs a command to its end and returns it with what it printed."""
    words = [str(word) for word in command]
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.STDOUT)
    try:
        done = subprocess.run(words, text=True, timeout=limit, check=False, stdin=subprocess.DEVNULL, **options)
    except FileNotFoundError:
        raise Failure(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired as late:
        raise Failure(f"no end after {limit} s: {' '.join(words)}\n{late.stdout or ''}") from None
    if check and done.returncode != 0:
        raise Failure(f"exit code {done.returncode}: {' '.join(words)}\n{done.stdout or ''}")
    return done


def mirror():
    """The Debian mirror that this machine installs from."""
    sites = run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages").stdout.split()
    for site in sites:
        if site.rstrip("/").endswith("/debian"):
            return site
    raise Failure("apt knows no Debian mirror: a tree cannot be made here")


def image(cache, release):
    """The tarball of a bare Debian, made at first use."""
    tarball = cache / f"{release}.tar"
    mark = cache / f"{release}.packages"
    if tarball.exists() and mark.exists() and mark.read_text() == " ".join(PACKAGES):
        return tarball
    if os.geteuid() != 0:
        raise Failure("debootstrap needs root")
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / f"{release}.making"
    shutil.rmtree(tree, ignore_errors=True)
    print(f"a bare {release} is made with debootstrap", flush=True)
    try:
        run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", release, tree, mirror(), limit=900)
        shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
        run("tar", "--numeric-owner", "-C", tree, "-cf", f"{tarball}.part", ".", limit=120)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    os.rename(f"{tarball}.part", tarball)
    mark.write_text(" ".join(PACKAGES))
    return tarball


def enter():
    """Runs this script again in namespaces of its own: what it starts ends with it, and the host's network is not touched."""
    if os.environ.get("APPLIANCE_ALONE"):
        prepare()
        return
    if os.geteuid() != 0:
        raise Failure("systemd-nspawn needs root")
    os.environ["APPLIANCE_ALONE"] = "1"
    sys.stdout.flush()
    command = "unshare --mount --net --pid --cgroup --uts --fork --kill-child --mount-proc".split()
    os.execvp(command[0], [*command, sys.executable, *sys.argv])


def prepare():
    """systemd wants one cgroup tree, of version 2; what else is mounted there stays the host's."""
    run("mount", "--make-rprivate", "/")
    run("ip", "link", "set", "lo", "up")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        run("umount", "--lazy", "--recursive", "/sys/fs/cgroup")
        run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    Path("/run/netns").mkdir()


class Machine:
    """One booted tree. Its host side is 10.213.N.1, itself 10.213.N.2."""

    def __init__(self, folder, number, tarball, name=None):
        self.number = number
        self.name = name or f"node{number}"
        self.folder = folder / f"machine{number}"
        self.tree = self.folder / "tree"
        self.address = f"10.213.{number}.2"
        self.outside = f"10.213.{number}.1"
        self.key = folder / "key"
        self.process = None
        self.tree.mkdir(parents=True)
        run("tar", "--numeric-owner", "-C", self.tree, "-xf", tarball, limit=120)
        self._let_in()
        self._connect()

    def _let_in(self):
        if not self.key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        ssh = self.tree / "root/.ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(f"{self.key}.pub", ssh / "authorized_keys")
        (self.tree / "etc/hostname").write_text(f"{self.name}\n")
        (self.tree / "etc/machine-id").write_text("")
        public = (self.tree / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        with open(self.key.with_name("known_hosts"), "a", encoding="utf-8") as known:
            known.write(f"{self.address} {public}")

    def _connect(self):
        space, near, far = f"machine{self.number}", f"near{self.number}", f"far{self.number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        run("ip", "address", "add", f"{self.outside}/24", "dev", near)
        run("ip", "link", "set", near, "up")
        run("ip", "-n", space, "address", "add", f"{self.address}/24", "dev", far)
        for link in ("lo", far):
            run("ip", "-n", space, "link", "set", link, "up")
        run("ip", "-n", space, "route", "add", "default", "via", self.outside)

    def boot(self):
        """Boots, and waits until SSH answers."""
        log = open(self.folder / "console", "ab")
        group = Path(f"/sys/fs/cgroup/appliance-{os.getpid()}-{self.number}-{time.monotonic_ns()}")
        group.mkdir()
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", f"--machine={self.name}",
             f"--directory={self.tree}", f"--network-namespace-path=/run/netns/machine{self.number}",
             "--console=pipe", "--system-call-filter=@io-event io_uring_setup io_uring_enter io_uring_register",
             "--capability=CAP_NET_ADMIN,CAP_IPC_LOCK,CAP_SYS_NICE", "--rlimit=RLIMIT_MEMLOCK=infinity",
             "--resolv-conf=off", "--timezone=off", "--link-journal=no"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        )
        end = time.monotonic() + BOOT_SECONDS
        while True:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} does not boot:\n{self.console()}")
            try:
                done = self.ssh("systemctl is-system-running --wait", check=False, limit=10)
                if done.stdout.strip() in ("running", "degraded"):
                    return self
            except Failure as failure:
                done = failure
            if time.monotonic() > end:
                raise Failure(f"{self.name} is not up after {BOOT_SECONDS} s: {done}\n{self.console()}")
            time.sleep(0.3)

    def console(self):
        return (self.folder / "console").read_text(errors="replace")[-4000:]

    def ssh_options(self):
        return ["-i", str(self.key), "-o", f"UserKnownHostsFile={self.key.with_name('known_hosts')}", "-o", "BatchMode=yes",
                "-o", "ConnectTimeout=5"]

    def ssh(self, command, **options):
        return run("ssh", *self.ssh_options(), f"root@{self.address}", command, **options)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.ssh("systemctl poweroff --force", check=False, limit=10)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
