"""What looks at a node from outside: PHLEM, baresip, Prometheus."""

import json
import math
import os
import struct
import subprocess
import time
import urllib.parse
import urllib.request
import wave
from pathlib import Path

from fleet import ROOT
from machines import Failure
from machines import run

MONITORING = ROOT / "ansible/roles/tipring_monitoring/files"
LOAD = """
name = "load"
duration = "{seconds}s"
ramp = "2s"
wind_down = "8s"
[[population]]
name = "phones"
users = "{users}"
domain = "acme.test"
answer = "100ms"
[[calls]]
from = "phones"
to = "phones"
rate = {rate}
talk = "{talk}s"
[expect]
calls_min = 1
calls_good_min = {good}
silent_legs_max = 0
wrong_audio_max = 0
"""


def scenario(folder, users="1001-1010", seconds=5, rate=1.0, talk=2, good=1.0):
    file = folder / f"load-{time.monotonic_ns()}.toml"
    file.write_text(LOAD.format(users=users, seconds=seconds, rate=rate, talk=talk, good=good))
    return file


def phlem(tipring, folder, machine, limit=60, **load):
    """Phones on this side of the veth call each other through the node."""
    file = scenario(folder, **load)
    return run(tipring, "phlem", "run", file, "--server", f"{machine.address}:5060", "--local", machine.outside, limit=limit)


def baresip(folder, machine):
    """A phone that plays 440 Hz calls one that plays 700 Hz: each has to hear the other's tone."""
    # The port above each is its for TLS.
    phones = [("1011", 5071, 440, "1012"), ("1012", 5081, 700, None)]
    started = []
    for user, port, hertz, dial in reversed(phones):
        home = folder / f"baresip-{user}"
        home.mkdir()
        tone(home / "tone.wav", hertz)
        modules = next(str(path.parent) for root in ("/usr/lib", "/usr/local/lib") for path in Path(root).glob("**/baresip/modules/g711.so"))
        (home / "config").write_text(
            f"poll_method epoll\nsip_listen {machine.outside}:{port}\naudio_player aubridge,none\naudio_source aufile,{home}/tone.wav\n"
            "audio_alert aubridge,none\nausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\nauplay_channels 1\n"
            f"module_path {modules}\nmodule g711.so\nmodule aufile.so\nmodule aubridge.so\nmodule sndfile.so\n"
            f"module_tmp account.so\nmodule_app menu.so\nsnd_path {home}\n"
        )
        (home / "accounts").write_text(
            f"<sip:{user}@acme.test;transport=udp>;auth_pass=secret-{user};"
            f"outbound=\"sip:{machine.address}:5060;transport=udp\";regint=60;answermode=auto\n"
        )
        (home / "contacts").write_text("")
        command = ["baresip", "-4", "-s", "-t", "12" if dial else "15", "-f", str(home)]
        if dial:
            command += ["-e", f"/dial {dial}"]
        log = open(home / "log", "wb")
        started.append((home, hertz, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)))
        time.sleep(2)
    for _, _, process in started:
        process.wait(30)
    heard = {hertz: seconds_of(home, {440: 700, 700: 440}[hertz]) for home, hertz, _ in started}
    if min(heard.values()) < 3:
        logs = "\n".join((home / "log").read_text(errors="replace")[-1500:] for home, _, _ in started)
        raise Failure(f"baresip's phones heard each other for {heard} s\n{logs}")
    return heard


def tone(file, hertz):
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"".join(struct.pack("<h", int(8000 * math.sin(2 * math.pi * hertz * n / 8000))) for n in range(8000 * 20)))


def seconds_of(home, hertz):
    """How long a tone is heard in what baresip wrote, in steps of a tenth of a second (Goertzel)."""
    files = list(home.glob("*-dec.wav"))
    if not files:
        return 0.0
    data = files[0].read_bytes()
    samples = struct.unpack(f"<{(len(data) - 44) // 2}h", data[44:44 + (len(data) - 44) // 2 * 2])
    found = 0
    factor = 2 * math.cos(2 * math.pi * hertz / 8000)
    for start in range(0, len(samples) - 800, 800):
        last = before = energy = 0.0
        for sample in samples[start:start + 800]:
            last, before = sample + factor * last - before, last
            energy += sample * sample
        power = last * last + before * before - factor * last * before
        if energy > 800 * 100 * 100 and power / (energy * 400) > 0.8:
            found += 1
    return found / 10


class Prometheus:
    """A real one, on what the role wrote, in a folder of its own."""

    def __init__(self, folder, targets):
        self.folder = folder / "prometheus"
        (self.folder / "data").mkdir(parents=True)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "tipring.rules.yml")],
            "scrape_configs": [{"job_name": "nodes", "file_sd_configs": [{"files": [f"{targets}/*.json"]}]}],
        }
        # What is JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
             "--web.listen-address=127.0.0.1:9090", "--log.level=warn"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def ask(self, expression):
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/query?{query}", timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            return []

    def wait(self, expression, limit=30):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            result = self.ask(expression)
            if result:
                return result
            time.sleep(0.5)
        log = (self.folder / "log").read_text(errors="replace")[-2000:]
        raise Failure(f"Prometheus has nothing for {expression}\n{os.listdir(self.folder)}\n{log}")

    def dashboards(self):
        """Every expression of every dashboard returns data. Rates are taken over 15 s, since this Prometheus is young."""
        empty = []
        count = 0
        for file in sorted((MONITORING / "dashboards").glob("*.json")):
            for panel in json.loads(file.read_text())["panels"]:
                for target in panel["targets"]:
                    expression = target["expr"].replace("$node", ".*").replace("[5m]", "[15s]")
                    count += 1
                    if not self.ask(expression):
                        empty.append(f"{file.name}: {panel['title']}: {expression}")
        if empty or not count:
            raise Failure("no data for\n" + "\n".join(empty))
        return count

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
