"""Reads a CycloneDX document from standard input and fails if it is not one, or lacks what Cargo.lock says the program is made of."""

import json
import sys

document = json.load(sys.stdin)
assert document["bomFormat"] == "CycloneDX" and document["specVersion"] == "1.5", document
components = document["components"]
assert len(components) > 50, len(components)
for component in components:
    assert component["purl"] == f"pkg:cargo/{component['name']}@{component['version']}", component
    assert component["licenses"], f"{component['name']} has no licence"
    assert len(component["hashes"][0]["content"]) == 64, component
locked = open("Cargo.lock").read()
for component in components:
    assert f'name = "{component["name"]}"\nversion = "{component["version"]}"' in locked, component
refs = {component["bom-ref"] for component in components} | {document["metadata"]["component"]["bom-ref"]}
for dependency in document["dependencies"]:
    assert dependency["ref"] in refs and set(dependency["dependsOn"]) <= refs, dependency
assert "pkg:cargo/glommio@" in " ".join(refs) and "pkg:cargo/proptest@" not in " ".join(refs)
