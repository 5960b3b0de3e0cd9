#!/usr/bin/python3
"""One bare Debian 13 becomes a node by `site.yml`, takes calls from outside, is scraped, and is uninstalled.

    tests/appliance/short.py CACHE PACKAGE.deb     root; within 4 minutes once the tree is in the cache
"""

import http.server
import sys
import tempfile
import threading
import time
from pathlib import Path

import machines
import outside
from fleet import Fleet
from fleet import Packages
from machines import Failure
from machines import Machine


class Steps:
    def __init__(self):
        self.began = self.last = time.monotonic()

    def done(self, text):
        now = time.monotonic()
        print(f"   {now - self.last:6.1f} s  {text}", flush=True)
        self.last = now


class Textfile:
    """Serves what node_exporter would read of the node: Debian's package of it is not in the tree."""

    def __init__(self, machine):
        link = machine.tree / "var/lib/prometheus/node-exporter/tipring.prom"
        if str(link.readlink()) != "/run/tipring-metrics/tipring.prom":
            raise Failure("the role did not lend the textfile to node_exporter")

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = machine.ssh("cat /var/lib/prometheus/node-exporter/tipring.prom").stdout.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                try:
                    self.wfile.write(text)
                except BrokenPipeError:
                    pass

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 9100), Answer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()


def main():
    cache, package = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    tarball = machines.image(cache, "trixie")
    machines.enter()
    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="tipring-appliance-") as folder:
        folder = Path(folder)
        machine = Machine(folder, 1, tarball)
        try:
            (machine.tree / "var/lib/prometheus/node-exporter").mkdir(parents=True)
            machine.boot()
            steps.done("a bare Debian 13 is up")
            fleet = Fleet(folder, [machine], Packages(folder, [package]))
            through(fleet, machine, steps)
        finally:
            machine.stop()


def through(fleet, machine, steps):
    fleet.play("site")
    steps.done("site.yml: from bare to serving")
    again = fleet.play("site")
    if fleet.changed(again) != {machine.name: 0}:
        raise Failure(f"a second run changed something:\n{again.stdout[-6000:]}")
    steps.done("site.yml again: nothing is changed")
    tipring = machine.tree / "usr/bin/tipring"
    targets = fleet.folder / "etc-prometheus/targets"
    if len(list(targets.glob("*.json"))) != 1:
        raise Failure("the role wrote no target for Prometheus")
    textfile = Textfile(machine)
    prometheus = outside.Prometheus(fleet.folder, targets)
    try:
        prometheus.wait('up{job="tipring"} == 1')
        outside.phlem(tipring, fleet.folder, machine, seconds=6, users="1001-1010")
        steps.done("phones of PHLEM call each other through it, from outside")
        heard = outside.baresip(fleet.folder, machine)
        steps.done(f"two real phones hear each other for {min(heard.values())} s")
        outside.phlem(tipring, fleet.folder, machine, seconds=12, rate=2.0)
        prometheus.wait("tipring_calls_ended_total > 0")
        prometheus.wait('tipring_keeper_process_up{process="engine"} == 1')
        steps.done(f"Prometheus has data for {prometheus.dashboards()} expressions of dashboards")
        machine.ssh("pkill -STOP -f '^tipring side'")
        prometheus.wait('up{job="tipring"} == 0 and on (node) tipring_keeper_process_up{process="engine"} == 1')
        machine.ssh("pkill -CONT -f '^tipring side'")
        steps.done("a side that hangs is told from a node that is down")
    finally:
        prometheus.stop()
        textfile.stop()
    fleet.play("uninstall")
    machine.ssh("test ! -e /usr/bin/tipring && ! systemctl is-active tipring && test -e /var/lib/tipring/tipring.db")
    if list(targets.glob("*.json")):
        raise Failure("uninstall.yml left the target of Prometheus")
    steps.done("uninstall.yml: the node is gone, its data is there")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"tests/appliance: {failure}")
