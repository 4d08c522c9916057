"""A grid of 12 tiny combinations (3 data sets × 2 students × 2 seeds): cold with one and with two workers, on Ray, run
again, and with one setting of the last stage changed; what papermill and rendering take of it; and the plan of 1,000
combinations.

    python benchmarks/grid.py [--rounds 1] [--only cold again ray report plan]

With --only the table is printed, and not kept.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from _shared import report

PARTS = ("cold", "again", "ray", "report", "plan")
GRID = dict(
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s", "zoo/student-m"],
    data=[dict(name=n, train=64, test=24) for n in ("tiny-qa", "tiny-nli", "tiny-math")],
    seeds=[0, 1],
    min_rows=4,
    bootstrap=500,
    train=dict(method="full", learning_rate=2e-3, epochs=1, batch_size=16),
    arms=["teacher/cot", "student/vanilla", "distilled/cot-answer", "distilled/cot-rationale"],
)
COMMAND = "from distill_study.cli import main; main()"
KINDS = ("label", "base", "train", "report")


def run(folder, *options, code=COMMAND):
    """Run the grid with a store and reports in `folder`.

    Seconds, processor seconds, answers and students that are new, stages that were started.
    """
    recipe = folder / "grid12.yaml"
    recipe.write_text(yaml.safe_dump(GRID))
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | dict(
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    )

    def made():
        return sum(len(p.read_bytes().splitlines()) for p in folder.glob("store/completions/*.jsonl")), len(
            [*folder.glob("store/stages/student-*")]
        )

    before, used, began = made(), resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "run",
            str(recipe),
            "--store",
            str(folder / "store"),
            "--reports",
            str(folder / "reports"),
            *options,
        ],
        env=env,
        capture_output=True,
        text=True,
    )
    wall, now, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN), made()
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    started = [sum(bool(re.search(rf"\] {k} .*: started$", line)) for line in done.stderr.splitlines()) for k in KINDS]
    return dict(
        wall=wall,
        cpu=now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        answers=after[0] - before[0],
        students=after[1] - before[1],
        stages=started,
        kept=done.stderr.count("the report stays")
        or int((re.findall(r"(\d+) of \d+ reports stay", done.stderr) or [0])[0]),
    )


def on_ray(folder):
    "The grid on a Ray cluster of one node with two cores, which is up before the clock starts."
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, include_dashboard=False))
    try:
        return run(folder, "--executor", "ray", "--address", cluster.address) | dict(
            cpu=None
        )  # its workers are no children of ours
    finally:
        cluster.shutdown()


def one_report(folder):
    """Seconds of the report of one combination, everything being in the store.

    Printed as JSON. The first of three isn't counted: it imports.
    """
    import nbformat

    from distill_study.report.render import render
    from distill_study.study.plan import parse_recipe
    from distill_study.study.schedule import run_combination

    c, out = parse_recipe(dict(name="grid12") | GRID).combinations()[0], []
    page = folder / "reports" / "grid12" / c.name
    for _ in range(4):
        (page / "index.html").unlink(missing_ok=True)
        done = run_combination(c, page, store=folder / "store")
        if done.error:
            sys.exit(done.error)
        nb = nbformat.read(page / "combination.ipynb", 4)
        cells = [x.metadata.papermill.duration or 0 for x in nb.cells if x.cell_type == "code"]
        began = time.perf_counter()
        render(page / "combination.ipynb", page / "index.html")
        took = time.perf_counter() - began
        out.append(
            {
                "whole": done.seconds,
                "papermill": nb.metadata.papermill.duration - sum(cells),
                "cells: imports, statistics, figures": sum(cells),
                "rendering": took,
                "the rest": done.seconds - nb.metadata.papermill.duration - took,
            }
        )
    print(json.dumps({k: statistics.median(x[k] for x in out[1:]) for k in out[0]}))


def plans():
    "Rows of (what, stages, seconds) of planning 1,000 combinations: median of 5."
    from distill_study.study.plan import parse_recipe, plan

    tiny = GRID | dict(
        data=[dict(name=n, train=64, test=24) for n in ("tiny-qa", "tiny-nli", "tiny-math", "tiny-summ", "tiny-chat")],
        seeds=list(range(100)),
    )
    many = GRID | dict(
        teachers=[f"openai:teacher-{i}" for i in range(10)],
        students=[f"hub/student-{i}" for i in range(10)],
        data=["tiny-qa"],
        seeds=list(range(10)),
    )
    for what, raw in (("5 data sets × 2 students × 100 seeds", tiny), ("10 teachers × 10 students × 10 seeds", many)):
        took = []
        for _ in range(5):
            began = time.perf_counter()
            stages = plan(parse_recipe(dict(name="many") | raw))
            took.append(time.perf_counter() - began)
        yield [what, f"{len(stages):,}", f"{statistics.median(took):.2f}"]


def median(runs):
    return {k: statistics.median(r[k] for r in runs) if isinstance(runs[0][k], float) else runs[0][k] for k in runs[0]}


def measure(parts, rounds):
    "Name → median of its runs; all of them in turn, so that a slow moment hits all."
    found = {}

    def keep(name, got):
        found.setdefault(name, []).append(got)
        print(f"{name}: {got['wall']:.0f} s", file=sys.stderr, flush=True)

    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as d:
            one, two, ray = (Path(d) / n for n in ("one", "two", "ray"))
            for p in (one, two, ray):
                p.mkdir()
            if {"cold", "again", "report"} & set(parts):
                keep("cold, 2 workers", run(two, "--workers", "2"))
            if {"cold", "again"} & set(parts):
                keep("cold, 1 worker", run(one))
            if "ray" in parts:
                keep("cold, Ray with 2 cores", on_ray(ray))
            if "again" in parts:
                for folder, how in ((one, ()), (two, ("--workers", "2"))):
                    n = f"{len(how) or 1} worker{'s' * bool(how)}"
                    keep(f"run again, {n}", run(folder, *how))
                    keep(f"more resamples (last stage), {n}", run(folder, *how, "-p", "bootstrap=600"))
            if "report" in parts:
                done = subprocess.run(
                    [sys.executable, __file__, "--one-report", str(two)],
                    capture_output=True,
                    text=True,
                    env=os.environ | dict(HF_HUB_OFFLINE="1"),
                )
                if done.returncode:
                    sys.exit(done.stderr[-3000:])
                found.setdefault("report", []).append(json.loads(done.stdout.splitlines()[-1]))
    return {name: median(runs) for name, runs in found.items()}


def row(name, m, found):
    "A line of the table; the ratio is that of the named run to this one."
    base = found.get("cold, 1 worker")
    of = found["cold, 2 workers" if "2 workers" in name else "cold, 1 worker"] if not name.startswith("cold") else None
    return [
        name,
        f"{m['wall']:.1f}",
        "" if m["cpu"] is None else f"{m['cpu']:.0f}",
        m["answers"],
        m["students"],
        " + ".join(map(str, m["stages"])) if any(m["stages"]) else "",
        m["kept"] or "",
        f"{base['wall'] / m['wall']:.2f}" if base and of is None else "",
        f"{m['wall'] / of['wall']:.1%}" if of else "",
    ]


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    p.add_argument("--one-report", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one_report:
        one_report(a.one_report)
        sys.exit()
    load, found = os.getloadavg()[0], measure(a.only, a.rounds)
    took, planned = found.pop("report", None), list(plans()) if "plan" in a.only else []
    notes = [
        (
            "64 training and 24 test items of tiny-qa, tiny-nli and tiny-math, two students trained on two arms each;"
            f" one round each in turn, medians of {a.rounds} {'rounds' if a.rounds > 1 else 'round'}. The load was"
            f" {load:.1f} before the start. Processor seconds of all processes; Ray's are not ours to count."
        ),
        (
            "All runs go through the same stages, in processes that import once: one worker has all cores, each of two"
            " has one thread."
        ),
        (
            "Run again: nothing has changed, so every report stays and nobody is asked. The last stage: `-p"
            " bootstrap=600`, which changes the statistics alone."
        ),
    ]
    if took:
        notes += [
            "",
            "One report, everything being in the store, median of 3:",
            "",
            "| part | s |",
            "|---|---|",
            *(f"| {k} | {v:.1f} |" for k, v in took.items()),
        ]
    if planned:
        notes += [
            "",
            "The plan of 1,000 combinations, from the recipe to its graph of stages, median of 5:",
            "",
            "| grid | stages | s |",
            "|---|---|---|",
            *("| " + " | ".join(r) + " |" for r in planned),
        ]
    with tempfile.TemporaryDirectory() as d:
        report(
            "grid",
            "A grid of 12 tiny combinations",
            [
                "run",
                "wall clock, s",
                "processor, s",
                "answers made",
                "students trained",
                "stages started (label + base + train + report)",
                "reports that stay",
                "times as fast as 1 worker",
                "of its cold run",
            ],
            [row(n, m, found) for n, m in found.items()],
            notes,
            Path(d) if set(a.only) != set(PARTS) else None,
        )
