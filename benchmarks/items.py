"""The page of a report's items at its largest, of made-up answers: how long it takes to make, how big it is, how long
until a browser shows its first rows, and what a step on it takes then.

    python benchmarks/items.py [--items 20000] [--inputs 20000] [--rounds 3]
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from _shared import report

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from browser import WAIT, chromium

from distill_study.config import ARMS, Data
from distill_study.data.load import load_data
from distill_study.grading.truth import grade
from distill_study.report.items import write_items
from distill_study.tasks.families import TASKS
from distill_study.teach.curate import Curated, Drop
from distill_study.teach.sampling import Answer, Answers

TWELVE = [a for a in ARMS if not a.endswith("/cod") and a != "control/wrong"]
SEEN = """const look = () => document.querySelector("#items[aria-busy=false] .rows .row")
    ? (window.seen = performance.now()) : setTimeout(look, 5);
look();"""
STEPS = {  # what a reader does → (the filter that is set and to what, bar in seconds)
    "one filter changed, counts and tables drawn": (("outcome", "a-wrong"), 1),
    "search in all texts of those": (("text", "no such words"), 10),
}
# the page's script is a module: it is driven by its form, as a reader does, until it has counted anew
STEP = """async ([name, value]) => {
    const control = document.getElementById(name), count = document.querySelector(".count");
    const start = performance.now(), before = count.textContent;
    control.value = value;
    control.dispatchEvent(new Event("input", { bubbles: true }));
    while ([before, ""].includes(count.textContent) || count.textContent.startsWith("searching"))
        await new Promise((done) => setTimeout(done, 5));
    return (performance.now() - start) / 1000;
}"""


def answers(examples, arm, strategy, *, wrong):
    "Made-up answers: the worked solution where the prompt asks for reasoning, a share of `wrong` of them wrong."
    task, rng = TASKS[examples[0].task], random.Random(arm)

    def answer(e):
        said = e.gold if rng.random() > wrong else str(rng.randint(0, 99))
        counts = [(k, rng.randint(2, 99), rng.randint(2, 12)) for k in range(1, 6)] if strategy == "cot" else ()
        work = "".join(f"Day {k}: {x} + {y} = {x + y}. " for k, x, y in counts)
        text = f"{work}Answer: {said}" if work else said
        parsed = task.parse(text, strategy, choices=e.choices)
        return Answer(e.id, text, parsed, task.correct(parsed.answer, e.gold), "stop", 60, len(text) // 3, 0.1)

    return Answers(strategy, [answer(e) for e in examples], 0, len(examples))


def rows_of(arm, examples, labels):
    "Every tenth training input dropped, the others taught as they are labelled."
    messages = [[*e.ask(ARMS[arm].prompt), dict(role="assistant", content=a.text)] for e, a in zip(examples, labels)]
    rows = [dict(id=e.id, messages=m) for k, (e, m) in enumerate(zip(examples, messages)) if k % 10]
    return Curated(arm, rows, [Drop(e.id, "repeated", examples[0].id) for e in examples[::10]])


def made_up(items, inputs):
    "(numbers, run) as `write_items` takes them, without a model."
    splits = load_data(Data(name="tiny-math", train=inputs, test=items))
    labels = {s: answers(splits.train, s, s, wrong=0.1) for s in ("vanilla", "cot")}
    found = {a: answers(splits.test, a, ARMS[a].prompt, wrong=k / 12) for k, a in enumerate(TWELVE)}
    rows = {
        a: rows_of(a, splits.train, labels.get(ARMS[a].labels, labels["vanilla"]))
        for a in TWELVE
        if ARMS[a].model == "trained"
    }
    numbers = dict(metric=dict(key="correct"), primary="distilled/cot-rationale", teacher="teacher/cot")
    numbers |= dict(base="student/vanilla", provenance=dict(combination="made-up"))
    graded = grade(splits.test, found)
    run = dict(data=splits, labels=labels, rows=rows, answers=found, graded=graded, verdicts=None, people=None)
    return numbers, SimpleNamespace(**run)


def opened(browser, path):
    "(seconds until the first rows are seen, seconds of each step after that, MiB of the page's heap)."
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.set_default_timeout(10 * WAIT)
    page.add_init_script(SEEN)
    page.goto(path.as_uri())
    page.locator(".rows .row").first.wait_for()
    page.locator("#items[aria-busy=false]").wait_for()
    page.wait_for_timeout(100)
    seen = page.evaluate("window.seen") / 1000
    steps = [page.evaluate(STEP, filter_) for filter_, _ in STEPS.values()]
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    page.close()
    return seen, steps, heap


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, most in (("items", 20_000), ("inputs", 20_000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=most)
    asked = parser.parse_args()
    numbers, run = made_up(asked.items, asked.inputs)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        took = []
        for _ in range(asked.rounds):
            start = time.process_time()
            path = write_items(folder, numbers, run=run)
            took.append(time.process_time() - start)
        seen, steps, heap = zip(*(opened(browser, path) for _ in range(asked.rounds)))
        size = path.stat().st_size / 2**20
    median = statistics.median
    rows = [["making the page, one core", f"{median(took):.1f} s", "20 s"], ["opening it, until rows are seen"]]
    rows[1] += [f"{median(seen):.2f} s", "2 s"]
    rows += [[what, f"{median(s):.2f} s", f"{bar} s"] for (what, (_, bar)), s in zip(STEPS.items(), zip(*steps))]
    rows += [["size of the page", f"{size:.1f} MiB", ""], ["heap of the browser's tab", f"{median(heap):.0f} MiB", ""]]
    title = f"A page of {asked.items:,} test items × {len(TWELVE)} arms and {asked.inputs:,} training inputs"
    note = (
        "Made-up answers of tiny-math, 2 to 120 characters long. Processor seconds of making the page, wall clock of "
    )
    note += (
        f"the rest, in headless Chromium; medians of {asked.rounds}. The machine had other work as well: load average "
    )
    note += f"{os.getloadavg()[0]:.1f}."
    report("items", title, ["what", "measured", "at most"], rows, [note])


if __name__ == "__main__":
    main()
