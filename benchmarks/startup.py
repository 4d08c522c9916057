"""How long the package and its commands take before they do anything, against an empty Python, and the demo, cold and
again, in the same run.

python benchmarks/startup.py
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _shared import report

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
STUDY = [sys.executable, "-m", "distill_study"]
COMMANDS = {
    "`python -c pass`": [sys.executable, "-c", "pass"],
    "`import distill_study`": [sys.executable, "-c", "import distill_study"],
    "`distill-study --help`": [*STUDY, "--help"],
    "`distill-study show llama31_405b_to_8b`": [*STUDY, "show", str(RECIPES / "llama31_405b_to_8b.yaml")],
}


def seconds(command, folder=None):
    "(by the clock, of all processors) of a command, in a folder without data of this machine."
    env = {k: v for k, v in os.environ.items() if k not in ("DISTILL_DATA_DIR", "OMP_NUM_THREADS")}
    env["PYTHONPATH"] = os.pathsep.join([str(RECIPES.parent), env.get("PYTHONPATH", "")])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=env | dict(HF_HUB_OFFLINE="1"))
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds=11):
    "Median seconds of every command, taken in turn so that a slow moment hits all of them."
    taken = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    return {name: [statistics.median(t) for t in zip(*several[1:])] for name, several in taken.items()}


def demo():
    "Seconds of the demo in an empty folder, and of the same command again: the median of three."
    command = [*STUDY, "run", str(RECIPES / "demo.yaml")]
    with tempfile.TemporaryDirectory() as d:
        cold, again = seconds(command, d), [seconds(command, d) for _ in range(3)]
    return {"`distill-study run demo`": cold, "the same again": [statistics.median(t) for t in zip(*again)]}


if __name__ == "__main__":
    found = measure() | demo()
    report(
        "startup",
        "Start-up, medians of 11, and the demo",
        ["command", "seconds", "processor, s", "busy"],
        [
            [name, f"{clock:.2f}", f"{busy:.2f}", f"{busy / clock / len(os.sched_getaffinity(0)):.0%}"]
            for name, (clock, busy) in found.items()
        ],
        ["Busy: share of the time of all cores. `show` finds no data set of its recipe on this machine."],
    )
