"A part of benchmarks/faults.py: drawn sequences of faults, kills, damages and bad inputs."

import os
import subprocess
import sys

from conftest import ROOT


def test_a_part_of_the_benchmark_of_faults():
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--data", "tiny-qa"]
    numbers = ["--sequences", "20", "--kills", "1", "--damages", "3", "--inputs", "60", "--seed", "7"]
    done = subprocess.run([*command, *numbers], capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")][2:]
    assert [int(r[1]) for r in rows] == [60, 8, 6, 6, 1, 3] and {r[2].strip() for r in rows} == {"0"}
