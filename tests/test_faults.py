"A part of benchmarks/faults.py: drawn sequences of faults, kills, damages and bad inputs."

import os
import subprocess
import sys

from conftest import ROOT


def test_a_part_of_the_benchmark_of_faults():
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--data", "tiny-qa"]
    numbers = ["--sequences", "30", "--kills", "2", "--damages", "5", "--inputs", "120", "--seed", "7"]
    done = subprocess.run([*command, *numbers], capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")][2:]
    assert [int(r[1]) for r in rows] == [120, 12, 9, 9, 2, 5] and {r[2].strip() for r in rows} == {"0"}
