#!/usr/bin/python3
"""One bare Debian 13 becomes a node by `site.yml`, takes calls from outside, is scraped, and is uninstalled.

    tests/appliance/short.py CACHE PACKAGE.deb     root; within 4 minutes once the tree is in the cache
"""

import sys
import tempfile
import time
from pathlib import Path

import machines
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


def main():
    cache, package = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    tarball = machines.image(cache, "trixie")
    machines.enter()
    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="tipring-appliance-") as folder:
        folder = Path(folder)
        machine = Machine(folder, 1, tarball)
        try:
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


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"tests/appliance: {failure}")
