"""How long the package and the command take to start, against an empty Python, in the same run.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

from _shared import report

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import distill_study": [sys.executable, "-c", "import distill_study"],
    "distill-study --help": [
        sys.executable,
        "-c",
        "import sys; sys.argv=['distill-study','--help']; from distill_study.cli import main; main()",
    ],
}


def seconds(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(rounds=11):
    "Median seconds of every command, taken in turn so that a slow moment hits all of them."
    taken = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    return {name: statistics.median(t[1:]) for name, t in taken.items()}


if __name__ == "__main__":
    median = measure()
    base = median["python -c pass"]
    report(
        "startup",
        "Start-up, median of 11",
        ["command", "seconds", "ratio to `python -c pass`"],
        [[f"`{name}`", f"{s:.3f}", f"{s / base:.1f}"] for name, s in median.items()],
    )
