"Grades that nobody gave: drawn by rule, to try results, tables, figures, sentences and pages on."

import json
import re

import numpy as np
import pandas as pd

from distill_study.analyse.findings import headline
from distill_study.analyse.results import Learner
from distill_study.config import Combination, Data, Student, Teacher
from distill_study.data.load import load_data
from distill_study.grading.truth import FAMILY
from distill_study.report.tables import FirstScreen
from distill_study.tasks.families import Parsed
from distill_study.teach.sampling import Answer, Answers

SKILL = {
    "teacher/cot": 0.95,
    "student/vanilla": 0.3,
    "student/cot": 0.25,
    "distilled/vanilla": 0.45,
    "distilled/cot-answer": 0.62,
    "distilled/cot-rationale": 0.8,
}
LEVEL = {
    "teacher/vanilla": 0.30,
    "teacher/cod": 0.34,
    "student/vanilla": 0.18,
    "distilled/vanilla": 0.26,
    "distilled/cod": 0.29,
}
MEASURES = dict(
    density=0.12, grounded=0.108, supported=0.9, words=25, compression=0.2, repetition=0.1, distinct1=0.7, distinct2=0.9
) | {f"copied{k}": 0.9 - 0.15 * k for k in (2, 4)}
FINE = dict(parsed=True, truncated=False, stopped=True, failed=False)


def made_up_grades(
    n: int = 120,  # items
    skill=SKILL,  # arm -> share of right answers
    *,
    seed: int = 0,
):
    "Grades, as `truth.grade` gives them, of arms that find the same items hard; a few answers are off their format."
    rng, frames = np.random.default_rng(seed), []
    hard = rng.random(n)
    for arm, p in skill.items():
        right = hard + rng.normal(0, 0.1, n) < p
        off = rng.random(n) < 0.04
        reasons = "cot" in arm and arm != "distilled/cot-answer"
        rows = dict(
            arm=arm,
            id=[f"q{i}" for i in range(n)],
            correct=right,
            correct_strict=right & ~off,
            format_ok=~off,
            answer=[str(i if r else i + 1) for i, r in enumerate(right)],
            gold=[str(i) for i in range(n)],
            tokens=rng.poisson(50 if reasons else 3, n) + 1,
            text=[f"<script>alert({i})</script> The answer is {i}" for i in range(n)],
        )
        frames.append(pd.DataFrame(rows | FINE))
    return pd.concat(frames, ignore_index=True)


def made_up_scores(
    task: str = "summarization",  # or 'conversation'
    n: int = 120,  # items
    *,
    level=LEVEL,  # arm -> mean of the main score
    seed: int = 0,
):
    "The same of a family whose answers are scored."
    rng, frames, (main, *rest) = np.random.default_rng(seed), [], FAMILY[task]
    hard = rng.normal(0, 0.06, n)

    def measure(key, arm, score):
        typical = dict(rouge1=1.4 * score, rouge2=0.5 * score).get(key, MEASURES.get(key))
        if key in ("density", "grounded") and "cod" in arm:
            typical *= 1.4
        return np.clip(typical * rng.normal(1, 0.1, n), 0, None if key == "words" else 1)

    for arm, mean in level.items():
        score = np.clip(mean + hard + rng.normal(0, 0.03, n), 0, 1)
        off = rng.random(n) < 0.04
        others = {key: measure(key, arm, score) for key in rest}
        rows = dict(
            arm=arm,
            id=[f"q{i}" for i in range(n)],
            format_ok=~off,
            answer=[f"text {i}" for i in range(n)],
            gold=None,
            tokens=rng.poisson(120 if arm == "teacher/cod" else 35, n) + 1,
            text=[f"<script>alert({i})</script> {arm} wrote this" for i in range(n)],
        )
        strict = {f"{main}_strict": np.where(off, 0, score)}
        frames.append(pd.DataFrame(rows | FINE | {main: score} | others | strict))
    return pd.concat(frames, ignore_index=True)


def made_up_transfer(
    right: dict,  # (who, data set) → which test items are right; who is (model or combination, arm)
    n: int = 20,
) -> tuple[list, dict, dict]:
    "Arguments of `results.transfer_results`."
    splits = {name: load_data(Data(name=name, train=4, test=n)) for name in dict.fromkeys(name for _, name in right)}

    def answer(example, ok):
        parsed = Parsed(example.gold, example.gold) if ok else Parsed(None, None)
        return Answer(example.id, "", parsed, bool(ok), "stop", 1, 1, None)

    def answers(name, at):
        return Answers("vanilla", [answer(e, ok) for e, ok in zip(splits[name].test, at, strict=True)], 0, 0)

    def learner(who):
        data, teacher, student = who[0].split("--")
        models = dict(
            teacher=Teacher(engine=f"transformers:zoo/{teacher}"),
            student=Student(model=f"zoo/{student}"),
            data=Data(name=data),
        )
        return Learner(Combination(**models), who[1], None)

    students = dict.fromkeys(who for who, _ in right if "--" in who[0])
    return [learner(who) for who in students], {k: answers(k[1], at) for k, at in right.items()}, splits


def first_screen(results, found) -> FirstScreen:
    "The top of a page about made-up results and the `Findings` of them, without its figure and its item."
    return FirstScreen("tiny-math", ("teacher", "student-s"), (2.2e6, 0.36e6), headline(results), "", found)


def sheet_of(page):
    "The sheet in a grading page."
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'(?s)<script type="application/json" id="sheet">(.*?)</script>', text)[1])


def saved_grades(sheet, grade, notes=None):
    "The text of the file that a page saves whose rater gives every answer this grade by every criterion."
    head = dict(format=1, kind="grades") | {k: sheet[k] for k in ("sheet", "rater", "rubric")}
    names = [c["name"] for c in sheet["criteria"]]
    grades = {x["item"]: dict.fromkeys(names, grade) for x in sheet["items"]}
    return json.dumps(head | dict(grades=grades, notes=notes or {}))
