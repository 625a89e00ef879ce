#!/usr/bin/env python3
"""Checks the crates that the program is made of against `deny.toml`: licences, sources, and crates with several
versions. Checks that whatever else is downloaded is pinned: the wheels that the program fetches by their hashes, and the
packages of scripts by their versions. Writes the crates' licence texts to `THIRD-PARTY-LICENSES.txt`, which goes with every
binary.

    python3 scripts/licences.py            # check, and write the texts
    python3 scripts/licences.py --check    # check, also that the texts are up to date

It needs no network: everything is in the crates that a build has downloaded. Python 3.11 or later.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT / "THIRD-PARTY-LICENSES.txt"
# What Cargo.lock calls the public registry of Rust crates.
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
WHEELS = ROOT / "src/onnxruntime/pins.rs"
SHA256 = re.compile(r"[0-9a-f]{64}")
LICENCE_FILE = re.compile(r"licen[cs]e|copying|copyright|notice|unlicense", re.IGNORECASE)


def metadata(target):
    """What Cargo knows of the crates that a build for `target` needs."""
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version=1", "--filter-platform", target]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("error: `cargo fetch --locked` downloads the crates that this needs")
    return json.loads(done.stdout)


def choose(expression, allowed):
    """The licences of an SPDX expression to keep: of alternatives, the first in `allowed`. None if it isn't allowed."""
    tokens = re.findall(r"[()/]|[^\s()/]+", expression)

    def one():
        name = tokens.pop(0)
        if name == "(":
            inside = either()
            tokens.pop(0)
            return inside
        if tokens[:1] == ["WITH"]:
            name = f"{name} WITH {tokens[1]}"
            del tokens[:2]
        return [name] if name in allowed else None

    def both():
        parts = [one()]
        while tokens[:1] == ["AND"]:
            tokens.pop(0)
            parts.append(one())
        return None if None in parts else sum(parts, [])

    def either():
        options = [both()]
        while tokens[:1] in (["OR"], ["/"]):
            tokens.pop(0)
            options.append(both())
        fitting = [option for option in options if option]
        return min(fitting, key=lambda names: [allowed.index(name) for name in names], default=None)

    return either()


def title(package):
    return f"{package['name']} {package['version']}"


def licence_faults(packages, rules):
    """Packages without an allowed licence, and licences that are allowed for nothing. Sets `chosen` in each package."""
    exceptions = {entry["crate"]: entry["allow"] for entry in rules.get("exceptions", [])}
    used = set()
    for package in packages:
        allowed = rules["allow"] + exceptions.get(package["name"], [])
        package["chosen"] = choose(package["license"] or "", allowed) if package["license"] else None
        if package["chosen"] is None:
            yield f"{title(package)}: its licence `{package['license']}` is not allowed"
        used.update(package["chosen"] or [])
    for name in sorted(set(rules["allow"]).union(*exceptions.values()) - used):
        yield f"deny.toml allows `{name}`, which no crate needs"


def duplicate_faults(packages, rules):
    versions = defaultdict(set)
    for package in packages:
        versions[package["name"]].add(package["version"])
    several = {f"{name}@{version}": name for name, found in versions.items() if len(found) > 1 for version in found}
    skipped = {entry["crate"] for entry in rules.get("skip", [])}
    for name in sorted(set(several.values())):
        left = [version for version, of in several.items() if of == name and version not in skipped]
        if len(left) > 1:
            yield f"several versions of one crate: {', '.join(sorted(left))}"
    for version in sorted(skipped - set(several)):
        yield f"deny.toml skips `{version}`, which is not one of several versions"


def source_faults(packages):
    """Packages that come from a repository, a folder or another registry."""
    for package in packages:
        if package["source"] != REGISTRY:
            yield f"{title(package)}: it comes from {package['source'] or package['manifest_path']}, not from the registry"


def lock_faults():
    """Packages of Cargo.lock, those of other systems too, without the public registry or a checksum."""
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    own = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["name"]
    for package in packages:
        if package["name"] == own:
            continue
        if package.get("source") != REGISTRY:
            yield f"Cargo.lock: {title(package)} comes from {package.get('source', 'a folder')}"
        if not SHA256.fullmatch(package.get("checksum", "")):
            yield f"Cargo.lock: {title(package)} has no checksum"


def wheel_faults():
    """Wheels that the program downloads without knowing their hash."""
    pins = re.findall(r"^    Pin \{(.*?)^    \}", WHEELS.read_text(), re.MULTILINE | re.DOTALL)
    if not pins:
        yield f"{WHEELS.name} has no wheels any more: this check has to follow"
    for pin in pins:
        fields = dict(re.findall(r'(\w+): "([^"]*)"', pin))
        if not SHA256.fullmatch(fields.get("sha256", "")):
            yield f"{WHEELS.name}: {fields.get('package')} for {fields.get('platform')} has no hash"


def requirement_faults():
    """Packages of scripts without a version."""
    listed = subprocess.run(["git", "ls-files", "*requirements*.txt"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for name in listed.stdout.split():
        for line in (ROOT / name).read_text().splitlines():
            line = line.split("#")[0].strip()
            if line and not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.]+", line):
                yield f"{name}: `{line}` has no version (`==`)"


def linked(found):
    """The packages whose code is in the program: neither procedural macros nor what only a build or a test needs."""
    packages = {package["id"]: package for package in found["packages"]}
    needs = {node["id"]: node["deps"] for node in found["resolve"]["nodes"]}
    seen, waiting = {}, [found["resolve"]["root"]]
    while waiting:
        package = packages[waiting.pop()]
        is_macro = any("proc-macro" in target["kind"] for target in package["targets"])
        if package["id"] in seen or is_macro:
            continue
        seen[package["id"]] = package
        normal = [need for need in needs[package["id"]] if any(kind["kind"] is None for kind in need["dep_kinds"])]
        waiting.extend(need["pkg"] for need in normal)
    del seen[found["resolve"]["root"]]
    return list(seen.values())


def mit_text(holder):
    """The MIT licence, for packages that name it and have no file of it."""
    own = (ROOT / "LICENSE-MIT").read_text()
    return re.sub(r"^Copyright.*$", f"Copyright (c) {holder}", own, count=1, flags=re.MULTILINE)


def licence_texts(package):
    folder = Path(package["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if path.is_file() and LICENCE_FILE.match(path.name))
    # `LICENSE-MIT` for MIT; all files where their names don't tell.
    words = [re.split(r"[- ]", name)[0].lower() for name in package["chosen"]]
    is_named = [path for path in files if any(word in path.name.lower() for word in words)]
    notices = [path for path in files if path.name.lower().startswith("notice") and path not in is_named]
    texts = [path.read_text().strip() for path in (is_named + notices if is_named else files)]
    if not texts and package["chosen"] == ["MIT"]:
        holder = ", ".join(package["authors"]) or f"the authors of {package['name']}"
        texts = [mit_text(holder).strip()]
    if not texts:
        sys.exit(f"error: {title(package)} has no licence text in {folder}")
    return texts


def third_party(packages):
    """The content of `THIRD-PARTY-LICENSES.txt`."""
    of_text = defaultdict(list)
    rust = "the Rust standard library"
    of_text[mit_text("The Rust Project Contributors").strip()].append(rust)
    lines = [
        "The program peft-bench contains code of the packages below. Each package's source is published under its name and",
        "version in the public registry of Rust crates. This file is made by scripts/licences.py.",
        "",
        f"{rust}: MIT",
    ]
    for package in sorted(packages, key=title):
        lines.append(f"{title(package)}: {' AND '.join(package['chosen'])}")
        for text in licence_texts(package):
            of_text[text].append(title(package))
    for text, titles in of_text.items():
        lines += ["", "=" * 100, f"of {', '.join(titles)}:", "", text]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help=f"don't write {TEXTS.name}: fail if it would change")
    check = parser.parse_args().check
    rules = tomllib.loads((ROOT / "deny.toml").read_text())

    all_packages, in_program = {}, {}
    for target in rules["graph"]["targets"]:
        found = metadata(target)
        own = found["resolve"]["root"]
        all_packages |= {package["id"]: package for package in found["packages"] if package["id"] != own}
        in_program |= {package["id"]: all_packages[package["id"]] for package in linked(found)}
    packages = list(all_packages.values())
    faults = [
        *licence_faults(packages, rules["licenses"]),
        *duplicate_faults(packages, rules["bans"]),
        *source_faults(packages),
        *lock_faults(),
        *wheel_faults(),
        *requirement_faults(),
    ]
    if faults:
        sys.exit("\n".join(f"error: {fault}" for fault in faults))

    texts = third_party(list(in_program.values()))
    if not check:
        TEXTS.write_text(texts)
    elif not TEXTS.is_file() or TEXTS.read_text() != texts:
        sys.exit(f"error: {TEXTS.name} is out of date; `python3 scripts/licences.py` writes it anew")
    print(f"{len(packages)} crates keep the rules of deny.toml; {len(in_program)} are in the program")


if __name__ == "__main__":
    main()
