"""One tiny combination twice: by `distill-study run`, and by hand with TRL's SFT script, a plain generation loop and
exact-match scoring (`_by_hand.py`). Wall time, accuracy of every arm, and lines that somebody has to write.

    python benchmarks/by_hand.py [--rounds 1] [--train 400] [--test 200]
"""

import argparse
import ast
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _shared import report

ROOT, SCRIPT = Path(__file__).parents[1], Path(__file__).with_name("_by_hand.py")
ARMS = (
    "teacher/vanilla",
    "teacher/cot",
    "student/vanilla",
    "distilled/vanilla",
    "distilled/cot-answer",
    "distilled/cot-rationale",
)
RECIPE = """\
teachers: ["transformers:zoo/teacher"]
students: ["zoo/student-s"]
data: [{name: tiny-qa, train: TRAIN, test: TEST}]
arms: [teacher/vanilla, teacher/cot, student/vanilla, distilled/vanilla, distilled/cot-answer, distilled/cot-rationale]
train: {method: full, learning_rate: 2.0e-3, epochs: 3, batch_size: 32}
"""


def code_lines(text, python=True):
    "Lines that hold something beside comments and docstrings."
    skip = set()
    for node in ast.walk(ast.parse(text)) if python else ():
        if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node):
            skip |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and i not in skip
        for i, line in enumerate(text.splitlines(), 1)
    )


def timed(command):
    "(seconds, processor seconds) of a command; its own threads, as everywhere by default."
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | dict(
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    )
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, command)], env=env, capture_output=True, text=True)
    wall, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def by_hand(folder, data, models):
    out = folder / "hand"
    out.mkdir()
    return *timed([SCRIPT, data, *models, out]), json.loads((out / "scores.json").read_text())


def by_us(folder, recipe):
    took = timed(
        [
            "-c",
            "from distill_study.cli import main; main()",
            "run",
            recipe,
            "--store",
            folder / "store",
            "--reports",
            folder / "reports",
        ]
    )
    found = json.loads(next(folder.glob("reports/*/*/metrics.json")).read_text())
    return (
        *took,
        {a: found["arms"][a]["accuracy"]["value"] for a in ARMS},
        {a: found["training"][a]["rows"] for a in ARMS if a in found["training"]},
    )


def measure(rounds, train, test):
    "Runs of both, in turn."
    from distill_study.config import Data
    from distill_study.data.load import load_data
    from distill_study.models.weights import resolve_model

    splits, ours, theirs = load_data(Data(name="tiny-qa", train=train, test=test)), [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as d:
            folder = Path(d)
            for s in ("train", "test"):
                (folder / f"{s}.jsonl").write_text(
                    "".join(json.dumps(dict(question=e.question, gold=e.gold)) + "\n" for e in getattr(splits, s))
                )
            (folder / "byhand.yaml").write_text(RECIPE.replace("TRAIN", str(train)).replace("TEST", str(test)))
            theirs.append(by_hand(folder, folder, [resolve_model("zoo/teacher"), resolve_model("zoo/student-s")]))
            print(f"by hand: {theirs[-1][0]:.0f} s", file=sys.stderr, flush=True)
            ours.append(by_us(folder, folder / "byhand.yaml"))
            print(f"distill-study run: {ours[-1][0]:.0f} s", file=sys.stderr, flush=True)
            again = timed(
                [
                    "-c",
                    "from distill_study.cli import main; main()",
                    "run",
                    folder / "byhand.yaml",
                    "--store",
                    folder / "store",
                    "--reports",
                    folder / "reports",
                ]
            )[0]
    return ours, theirs, again


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--train", type=int, default=400)
    p.add_argument("--test", type=int, default=200)
    a = p.parse_args()
    load, (ours, theirs, again) = os.getloadavg()[0], measure(a.rounds, a.train, a.test)
    mid = lambda runs, k: statistics.median(r[k] for r in runs)
    written, base = code_lines(SCRIPT.read_text()), mid(theirs, 0)
    rows = [
        ["by hand", f"{base:.1f}", f"{mid(theirs, 1):.0f}", "1.00", f"{base:.1f}", f"{written} of Python"],
        [
            "`distill-study run`",
            f"{mid(ours, 0):.1f}",
            f"{mid(ours, 1):.0f}",
            f"{mid(ours, 0) / base:.2f}",
            f"{again:.1f}",
            f"{code_lines(RECIPE, python=False)} of a recipe",
        ],
    ]
    hand, own = theirs[-1][2], ours[-1][2]
    notes = [
        (
            f"Teacher, untouched student and three trained ones on {a.train} training and {a.test} test items of"
            f" tiny-qa; both cold, in turn, medians of {a.rounds} {'rounds' if a.rounds > 1 else 'round'}. The load was"
            f" {load:.1f} before the start. Lines: without blank ones, comments and docstrings; the data is a file of"
            " questions and answers in one case, a name in the other. Once more: the same command again."
        ),
        (
            "By hand there is no store, so it starts anew each time and after each kill; no curation, and no note of"
            " what was left out; no strict reading, no intervals, tests, gap recovered, pitfalls or judge; no report,"
            " no versions and seeds beside the numbers."
        ),
        "",
        "Accuracy, the last round of each:",
        "",
        "| arm | by hand | distill-study | rows learned by hand | by distill-study |",
        "|---|---|---|---|---|",
        *(
            f"| {arm} | {hand[arm]:.3f} | {own[arm]:.3f} | {a.train if arm.startswith('distilled') else ''} |"
            f" {ours[-1][3].get(arm, '')} |"
            for arm in ARMS
        ),
    ]
    report(
        "by_hand",
        "One tiny combination by hand and by `distill-study run`",
        ["way", "wall clock, s", "processor, s", "of by hand", "once more, s", "lines to write"],
        rows,
        notes,
    )
