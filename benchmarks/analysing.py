"""Time of the statistics of a report with 20 arms on 1,000 items, of a family that is right or wrong and of one that is
scored; then how many items per second each deterministic grader grades, on 10,000 built-in items.

    python benchmarks/analysing.py [ITEMS, 10000 if left out]
"""

import sys

(
    sys.path.pop(0) if sys.path and sys.path[0].endswith("benchmarks") else None
)  # this file is called as a module of Python is
import importlib.util
import time
from pathlib import Path

import numpy as np
import pandas as pd

spec = importlib.util.spec_from_file_location("_shared", Path(__file__).parent / "_shared.py")
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
sys.path.append(str(Path(__file__).parent.parent / "tests"))
from made_up import made_up_grades, made_up_scores

from distill_study.analyse.agreement import grader_tables
from distill_study.analyse.findings import findings, pitfalls
from distill_study.analyse.results import analyse, confusions
from distill_study.analyse.stats import mean_interval, wilson
from distill_study.config import Data
from distill_study.data.load import load_data
from distill_study.grading.truth import METRICS, grade, main_metric
from distill_study.tasks.families import NLI, TASKS, rubric
from distill_study.teach.sampling import Answer, Answers

ITEMS, ARMS, N = int((sys.argv[1:] or ["10000"])[0]), 20, 1000


def timed(f):
    "(what it gives, processor seconds, seconds)."
    start, wall = time.process_time(), time.perf_counter()
    out = f()
    return out, time.process_time() - start, time.perf_counter() - wall


def twenty(made, levels):
    """Twenty arms: those of a report, asked again under other names, each compared with the untouched student and
    with the next one.
    """
    names = list(levels)
    rounds = [
        made(N, dict.fromkeys(names) | {a: levels[a] for a in names}, seed=seed)
        for seed in range(-(-ARMS // len(names)))
    ]
    return rounds


def full(graded, metric):
    "Everything that a report computes from grades, a report's arms at a time."
    r = analyse(graded, resamples=2000, metric=metric)
    findings(r, pitfalls=pitfalls(r))
    if metric.graded:
        confusions(graded.assign(gold=lambda g: np.where(g["correct"], "neutral", "entailment"), answer="neutral"), NLI)


def judged(graded):
    rng = np.random.default_rng(0)
    judge = graded.assign(
        criterion="correct",
        sample=0,
        grade=np.where(rng.random(len(graded)) < 0.85, graded["correct"], ~graded["correct"]).astype(float),
    )
    some = graded[graded["id"].isin([f"q{i}" for i in range(0, N, 10)])]
    people = pd.concat(
        [
            some.assign(
                criterion="correct",
                rater=r,
                check=False,
                grade=np.where(rng.random(len(some)) < 0.95, some["correct"], ~some["correct"]).astype(float),
            )
            for r in "abc"
        ]
    )
    return (
        judge[["arm", "id", "criterion", "sample", "grade"]],
        people[["arm", "id", "criterion", "rater", "grade", "check"]],
    )


def reports():
    "Rows of the table: the statistics of 20 arms."
    right = dict(
        zip(
            (
                "teacher/vanilla",
                "teacher/cot",
                "student/vanilla",
                "student/cot",
                "distilled/vanilla",
                "distilled/cot-answer",
                "distilled/cot-rationale",
                "distilled/cot-after",
                "distilled/cot-mixed",
                "control/gold",
            ),
            np.linspace(0.3, 0.9, 10),
        )
    )
    score = dict(
        zip(
            ("teacher/vanilla", "teacher/cod", "student/vanilla", "distilled/vanilla", "control/gold"),
            np.linspace(0.2, 0.35, 5),
        )
    )
    rows = []
    for name, made, levels, metric in (
        ("right or wrong", made_up_grades, right, METRICS["correct"]),
        (
            "scored, 13 measures",
            lambda n, line, seed: made_up_scores("summarization", n, level=line, seed=seed),
            score,
            METRICS["rougeLsum"],
        ),
    ):
        frames = twenty(made, levels)
        _, cpu, wall = timed(lambda: [full(f, metric) for f in frames])
        rows.append(
            [f"{name}: intervals, tests, gaps, pitfalls", f"{len(frames)} × {len(levels)}", f"{cpu:.1f}", f"{wall:.1f}"]
        )
    frames = twenty(made_up_grades, right)
    inputs = [(f, *judged(f)) for f in frames]
    _, cpu, wall = timed(lambda: [grader_tables(*x[:2], people=x[2], criteria=rubric("math")) for x in inputs])
    rows.append(
        [
            "judge on all items, three people on 100: alpha, kappas, prediction-powered",
            f"{len(frames)} × {len(right)}",
            f"{cpu:.1f}",
            f"{wall:.1f}",
        ]
    )
    return rows


def graders():
    "Items per second that each deterministic grader grades: reading the answer and comparing it, or scoring it."
    rows = []
    for name in ("tiny-math", "tiny-qa", "tiny-nli", "tiny-summ", "tiny-chat"):
        test = load_data(Data(name=name, train=1, test=ITEMS)).test
        task, strategy = TASKS[test[0].task], "cot" if TASKS[test[0].task].graded else "vanilla"

        def one(e):
            if e.task == "conversation":
                return tuple(
                    Answer(e.id, t, task.parse(t, "vanilla", choices=None), None, "stop", 9, 9, 0.1)
                    for t in e.meta["reference"]
                )
            text = f"First this, and then that.\nAnswer: {e.gold}" if task.graded else e.gold
            return text, task.parse(text, strategy, choices=e.choices, words=e.meta.get("words"))

        def answer(e, made):
            if e.task == "conversation":
                return Answer(e.id, made[-1].text, made[-1].parsed, None, "stop", 9, 9, 0.1, parts=made)
            return Answer(
                e.id, made[0], made[1], task.correct(made[1].answer, e.gold) if task.graded else None, "stop", 9, 9, 0.1
            )

        out, cpu, _ = timed(
            lambda: grade(test, {"student/vanilla": Answers(strategy, [answer(e, one(e)) for e in test], 0, len(test))})
        )
        m = main_metric(test[0].task, test)
        rows.append(
            [name, task.name, f"{len(out):,}", f"{cpu:.1f}", f"{len(out) / cpu:,.0f}", f"{100 * out[m.key].mean():.1f}"]
        )
    return rows


if __name__ == "__main__":
    wilson(1, 2)
    mean_interval([1.0, 2.0])
    made_up_grades(5)  # what is imported at first use
    analyse(made_up_grades(20), resamples=100)
    pitfalls(analyse(made_up_scores(n=20), resamples=100, metric=METRICS["rougeLsum"]))
    rows, each = reports(), graders()
    notes = [
        (
            f"Each on {N:,} items; 2,000 resamples behind every interval, 10,000 turned signs behind every test of"
            " scores, 1,000 resamples behind alpha and kappa. A report has the first or the second row, and the third"
            " where there is a judge and people. No family has 20 arms, so 20 are reached with several reports."
            " Seconds of one core, everything imported."
        ),
        "",
        f"Deterministic graders, {ITEMS:,} items, answers as they should be, processor seconds:",
        "",
        "| data | family | items | s | items/s | mean score, × 100 |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(r) + " |" for r in each),
    ]
    shared.report(
        "analysing",
        f"Statistics of a report: {ARMS} arms on {N:,} items",
        ["what", "arms", "processor, s", "wall clock, s"],
        rows,
        notes,
    )
