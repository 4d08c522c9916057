"""Judging: what asking through `judge` (prompts, store, reading) costs on top of the engine, and a weak judge exposed.
First table: judge calls per second against the same requests given to the engine directly, median of three rounds.
Second table: SmolLM2-135M-Instruct as judge of 50 SVAMP items, answered by PaLM-540B (recorded) and by itself: what is
known of that judge. Where vLLM is installed it runs the judge and enforces the form of its verdicts. Needs
DISTILL_DATA_DIR and the wheel with SmolLM2.

    DISTILL_DATA_DIR=... python benchmarks/judging.py
"""

import statistics
import tempfile
import time
from importlib.util import find_spec

from _shared import report

from distill_study.analyse.agreement import assess_judge
from distill_study.config import Data, Judge, Sampling, Vllm
from distill_study.data.load import load_data
from distill_study.grading.judge import judge
from distill_study.grading.truth import grade
from distill_study.models.engine import open_engine
from distill_study.models.weights import SMOLLM
from distill_study.store.log import Store
from distill_study.tasks.families import TASKS
from distill_study.teach.sampling import Answer, Answers, sample_answers

ROUNDS, ITEMS = 3, 50
A, B = "teacher/cot", "student/vanilla"
SPEEDS = (
    ("rules:world", "tiny-math", 1000, 64),
    ("transformers:zoo/teacher", "tiny-math", 16, 32),
    (f"transformers:{SMOLLM}", "ChilleD/SVAMP", 4, 16),
)  # engine, data, items, batch


def made(examples, texts):
    parse = TASKS[examples[0].task].parse
    return Answers(
        "vanilla",
        [
            Answer(e.id, t, parse(t, "vanilla", choices=e.choices), None, "stop", 1, 9, 0.1)
            for e, t in zip(examples, texts)
        ],
        0,
        len(texts),
    )


def speed(spec, data, n, batch):
    "(requests, judge calls per second, the same by the engine alone)."
    examples = load_data(Data(name=data, train=2, test=n)).test
    answers = {
        A: made(examples, [f"The answer is {e.gold}." for e in examples]),
        B: made(examples, [f"{i}" for i in range(len(examples))]),
    }
    engine, who, seen = open_engine(spec, batch), Judge(engine=spec, reasks=0, sampling=dict(max_tokens=32)), []
    own = engine.generate

    def watched(requests):
        seen.append(requests)
        return own(requests)

    def ours():
        seen.clear()
        engine.generate = watched
        with tempfile.TemporaryDirectory() as d:
            start = time.perf_counter()
            done = judge(examples, answers, settings=who, engine=engine, store=Store(d), pairs=[(A, B)])
            took = time.perf_counter() - start
        engine.generate = own
        return done.usage["requests"], took

    def plain():
        start = time.perf_counter()
        for requests in list(seen):
            for _ in own(requests):
                pass
        return time.perf_counter() - start

    ours()  # warms up
    rounds = [(*ours(), plain()) for _ in range(ROUNDS)]
    engine.close()
    return rounds[0][0], *(rounds[0][0] / statistics.median(r[i] for r in rounds) for i in (1, 2))


def weak():
    "What is known of SmolLM2 as a judge."
    examples, store, name = (
        load_data(Data(name="ChilleD/SVAMP", test=ITEMS)).test,
        Store(tempfile.mkdtemp()),
        "vllm" if find_spec("vllm") else "transformers",
    )
    who, options = f"{name}:{SMOLLM}", dict(settings=Vllm(max_model_len=2048)) if name == "vllm" else {}
    palm, small = open_engine("recorded:svamp_palm540b"), open_engine(who, 16, **options)
    answers = {
        A: sample_answers(examples, "cot", engine=palm, store=store, split="test"),
        B: sample_answers(
            examples, "vanilla", engine=small, store=store, sampling=Sampling(max_tokens=32), split="test"
        ),
    }
    start = time.perf_counter()
    done = judge(
        examples,
        answers,
        settings=Judge(engine=who, reasks=0, reason=False, sampling=dict(max_tokens=32)),
        engine=small,
        store=store,
        pairs=[(A, B)],
        teacher=palm.spec,
        student=SMOLLM,
    )
    truth = grade(examples, answers)
    small.close()
    return assess_judge(done, truth), truth, time.perf_counter() - start


def table(t, truth, seconds):
    "The second table, as lines."
    lost = {k: ", ".join(f"{n} {why}" for why, n in v.items()) or "none" for k, v in t.to_dict()["why_missing"].items()}
    return [
        f"## SmolLM2-135M-Instruct as judge of {ITEMS} SVAMP items",
        "",
        (
            f"{A}: PaLM-540B, recorded; {B}: SmolLM2 itself. Judged by {t.judged.engine}, without reasons:"
            f" {t.judged.usage['requests']} requests, {t.judged.usage['output_tokens']:,} tokens, {seconds:.0f} s."
        ),
        "",
        t.weak or "Not weak.",
        *t.judged.warnings,
        "",
        "| what | value, % or points (95 % interval) | n |",
        "|---|---|---|",
        *(
            f"| {m.name}{', × 100' if m.key == 'kappa' else ''} |"
            f" {m.value if m.value.value is not None else m.value.reason} | {m.value.n} |"
            for m in t.measures
        ),
        "",
        "| grades of | mean grade, 0 to 1 | accuracy | missing |",
        "|---|---|---|---|",
        *(
            f"| {g['arm']} | {g['grade'].text(1, 2)} | {truth[truth['arm'] == g['arm']]['correct'].mean():.2f} |"
            f" {100 * g['missing']:.0f} % |"
            for g in t.grades
        ),
        "",
        f"Why missing: {lost['grades']} (grades); {lost['verdicts']} (verdicts).",
    ]


def row(spec, n, ours, plain):
    return [spec, f"{n:,}", f"{ours:,.1f}", f"{plain:,.1f}", f"{ours / plain:.2f}"]


if __name__ == "__main__":
    rows = [row(s[0], *speed(*s)) for s in SPEEDS]
    report(
        "judging",
        "Judging: through `judge` against the engine alone, and a weak judge exposed",
        ["engine", "requests", "judge calls/s", "engine alone, calls/s", "ratio"],
        rows,
        table(*weak()),
    )
