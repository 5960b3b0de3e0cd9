#!/usr/bin/env python3
"""The crates of this program, from `cargo metadata`: what tuning/package says of other people's work.

  crates.py list           name, version and licence of each crate of Cargo.lock (tuning/package/crates.txt)
  crates.py texts          the licences of those that are in the binary, with their texts
  crates.py sbom VERSION   the same as a CycloneDX 1.5 document
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid

TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]
LICENCE_FILES = ("licen", "copying", "notice", "unlicense", "copyright")


def metadata(*arguments):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def licence(package):
    # "MIT/Apache-2.0" is how it was written before SPDX.
    return (package["license"] or "see " + (package["license_file"] or "its repository")).replace("/", " OR ")


def in_binary():
    """The packages that a build of the program links or runs, ourselves left out, and what each depends on."""
    packages, edges = {}, {}
    for target in TARGETS:
        data = metadata("--filter-platform", target)
        root = data["resolve"]["root"]
        nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
        todo, seen = [root], set()
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            kinds = [(dep["pkg"], {kind["kind"] for kind in dep["dep_kinds"]}) for dep in nodes[node]["deps"]]
            below = [package for package, kind in kinds if kind != {"dev"}]
            edges.setdefault(node, set()).update(below)
            todo.extend(below)
        packages.update({package["id"]: package for package in data["packages"] if package["id"] in seen})
    ourselves = packages.pop(root)
    return ourselves, sorted(packages.values(), key=lambda package: (package["name"], package["version"])), edges


def write_list():
    packages = [package for package in metadata()["packages"] if package["source"]]
    print("# name version licence; written by tuning/package/crates.py list")
    for package in sorted(packages, key=lambda package: (package["name"], package["version"])):
        print(package["name"], package["version"], licence(package))


def texts_of(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    names = sorted(path for path in folder.iterdir() if path.name.lower().startswith(LICENCE_FILES) and path.is_file())
    for path in names:
        yield path.read_text(errors="replace").strip().replace("\r\n", "\n")


def write_texts():
    _, packages, _ = in_binary()
    users, texts = {}, {}
    print("What other people wrote and this program contains, each under the licence named.\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {licence(package)}")
        for text in texts_of(package):
            key = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            texts.setdefault(key, text)
            users.setdefault(key, []).append(name)
    for key, text in texts.items():
        print("\n" + "-" * 78)
        print(", ".join(dict.fromkeys(users[key])) + "\n")
        print(text)


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def write_sbom(version):
    ourselves, packages, edges = in_binary()
    lines = pathlib.Path("Cargo.lock").read_text().split("[[package]]")
    sums = {}
    for block in lines:
        fields = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        sums[fields.get("name", "").strip('"'), fields.get("version", "").strip('"')] = fields.get("checksum", "").strip('"')
    names = {package["id"]: purl(package) for package in [ourselves, *packages]}
    components = []
    for package in packages:
        component = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"]}
        if digest := sums.get((package["name"], package["version"])):
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
        named = {"expression": licence(package)} if package["license"] else {"license": {"name": licence(package)}}
        component["licenses"] = [named]
        component["purl"] = purl(package)
        components.append(component)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    depends = [
        {"ref": names[id], "dependsOn": sorted(names[below] for below in edges.get(id, ()))}
        for id in sorted(names, key=names.get)
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": moment,
            "component": {
                "type": "application",
                "bom-ref": purl(ourselves),
                "name": ourselves["name"],
                "version": version,
                "licenses": [{"expression": licence(ourselves)}],
            },
        },
        "components": components,
        "dependencies": depends,
    }
    # The same contents have the same number.
    digest = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    print(json.dumps({"serialNumber": f"urn:uuid:{digest}", **document}, indent=1))


def main():
    match sys.argv[1:]:
        case ["list"]:
            write_list()
        case ["texts"]:
            write_texts()
        case ["sbom", version]:
            write_sbom(version)
        case _:
            sys.exit(__doc__)


main()
