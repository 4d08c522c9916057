"""Where the time goes from training rows to a trained tiny student: `fit_student` as the recipe `tiny` calls it, taken
apart. The overhead is all that is neither forward and backward passes nor the optimizer; imports, which a study pays
once for all of its arms, are told apart.

    python benchmarks/steps.py [--rounds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from _shared import report

CASES = [(f"zoo/student-{size}", arm) for size in "sm" for arm in ("distilled/cot-answer", "distilled/cot-rationale")]
PARTS = ("tokenizing", "model and trainer", "forward and backward", "optimizer", "checkpoints", "saving", "the rest")
WORK = ("forward and backward", "optimizer")


def timing(took, part, owner, name):
    "Add what every call of `owner.name` takes to `took[part]`."
    was = getattr(owner, name)

    def timed(*a, **k):
        began = time.perf_counter()
        try:
            return was(*a, **k)
        finally:
            took[part] += time.perf_counter() - began

    setattr(owner, name, timed)


def one(model, arm):
    "Seconds by part of one training, in a process of its own."
    began = time.perf_counter()
    import torch
    from trl import SFTTrainer

    from distill_study.config import ARMS
    from distill_study.data.load import load_data
    from distill_study.models.local import TransformersEngine
    from distill_study.store.log import Store
    from distill_study.study.plan import load_recipe
    from distill_study.teach.curate import curate
    from distill_study.teach.sampling import sample_answers
    from distill_study.train import rows as batching, save, sft as student

    took, spent = Counter(imports=time.perf_counter() - began), Counter()
    c = next(
        c
        for c in load_recipe(Path(__file__).parents[1] / "recipes" / "tiny.yaml").combinations()
        if (c.data.name, c.student.model) == ("tiny-qa", model)
    )
    for part, owner, name in (
        ("tokenizing", batching, "tokenize_rows"),
        ("model and trainer", student, "_build"),
        ("forward and backward", SFTTrainer, "training_step"),
        ("optimizer", torch.optim.AdamW, "step"),
        ("checkpoints", save, "save_checkpoint"),
        ("saving", student, "_save_result"),
    ):
        timing(spent, part, owner, name)
    with tempfile.TemporaryDirectory() as d:
        train = load_data(c.data).train
        rows = curate(
            ARMS[arm],
            train,
            answers=sample_answers(
                train, "cot", engine=TransformersEngine("zoo/teacher"), store=Store(d), split="train"
            ),
            test=[],
        ).rows
        for k in range(2):  # the first one is over before libraries have settled
            spent.clear()
            began = time.perf_counter()
            done = student.fit_student(rows, model, settings=c.student.train, out=Path(d) / str(k), seed=0)
            whole = time.perf_counter() - began
    print(
        json.dumps(
            dict(took)
            | dict(spent)
            | {
                "the rest": whole - sum(spent.values()),
                "whole": whole,
                "steps": done.steps,
                "rows": len(rows),
                "rate": done.tokens_per_second,
            }
        )
    )


def table(rounds):
    "Rows of the table: medians of the rounds."
    for model, arm in CASES:
        runs = [
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--one", model, arm], capture_output=True, text=True, check=True
                ).stdout.splitlines()[-1]
            )
            for _ in range(rounds)
        ]
        mid = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
        over = statistics.median(1 - sum(r[p] for p in WORK) / r["whole"] for r in runs)
        yield [
            model,
            arm,
            int(mid["rows"]),
            int(mid["steps"]),
            f"{mid['whole']:.1f}",
            *(f"{mid[p]:.2f}" for p in PARTS),
            f"{over:.1%}",
            f"{mid['imports']:.1f}",
            f"{mid['rate']:,.0f}",
        ]


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        one(*a.one)
    else:
        report(
            "steps",
            f"From rows to a trained tiny student: median of {a.rounds} runs",
            [
                "student",
                "arm",
                "rows",
                "steps",
                "seconds",
                *(f"{p}, s" for p in PARTS),
                "overhead",
                "imports, s",
                "tokens/s",
            ],
            list(table(a.rounds)),
            [
                "`fit_student` on the rows of tiny-qa, in 3 epochs and batches of 32, a"
                " checkpoint after each. Overhead: all of it that is neither forward and backward passes nor the"
                " optimizer."
            ],
        )
