"How sure a model is of its choices: read off its tokens, held against right and wrong, shown, and kept in old stores."

import math
from dataclasses import replace

import numpy as np
import pytest

from distill_study.analyse.results import calibrations, likely_choices
from distill_study.analyse.stats import calibration_bins, calibration_error
from distill_study.config import ARMS
from distill_study.data.load import Example
from distill_study.report.render import metric_rows
from distill_study.store.log import Store
from distill_study.study.run import Run, _calibration_parts as calibration_parts, answer_arms
from distill_study.tasks.families import NLI, TASKS
from distill_study.teach.sampling import Answer, Answers

# --- what a set of confidences is worth


def drawn(n, over, seed=0):
    "Confidences, and right and wrong where they are by so much too high."
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.4, 1, n)
    return sure, rng.uniform(0, 1, n) < sure - over


def test_a_calibrated_model_has_no_error_beyond_luck():
    found = [calibration_error(*drawn(400, 0.0, seed), resamples=300) for seed in range(40)]
    assert sum(i.low == 0 for i in found) >= 36
    plain = np.mean([plain_error(*drawn(400, 0.0, seed)) for seed in range(40)])
    assert plain > 0.05 and np.mean([i.value for i in found]) < 0.7 * plain


def plain_error(sure, right):
    "Expected calibration error as it is usually computed."
    bins = calibration_bins(sure)
    return sum(abs((sure - right)[bins == b].sum()) for b in set(bins)) / len(sure)


def test_an_over_confident_model_is_found_out():
    found = [calibration_error(*drawn(400, 0.2, seed), resamples=300) for seed in range(20)]
    assert all(i.low > 0 for i in found) and np.mean([i.value for i in found]) == pytest.approx(0.2, abs=0.01)
    assert sum(i.low <= 0.2 <= i.high for i in found) >= 18


@pytest.mark.parametrize("others", [[0.9], [0.1], [0.1, 0.9], [0.2, 0.21, 0.9, 0.91]])
def test_a_few_answers_of_another_confidence_are_no_bin_of_their_own(others):
    bins = calibration_bins(np.r_[np.full(296, 0.5), others])
    assert set(bins) == {0}


def test_confidence_that_is_always_the_same_is_one_bin():
    sure, right = np.full(200, 0.9), np.arange(200) % 10 < 6
    assert set(calibration_bins(sure)) == {0}
    i = calibration_error(sure, right)
    assert i.value == pytest.approx(0.3, abs=1e-3) and 0.22 < i.low < 0.3 < i.high < 0.38 and i.n == 200
    certain = calibration_error(np.ones(30), np.ones(30))
    assert (certain.value, certain.low, certain.high) == (0, 0, 0)


def test_one_item_or_one_source_has_no_interval():
    one = calibration_error([0.7], [False])
    assert (one.value, one.low, one.n) == (pytest.approx(0.7), None, 1) and "no interval" in one.reason
    assert calibration_error([0.7, 0.6], [False, True], sources=["a", "a"]).low is None
    assert calibration_error([], []).text() == "not available"


def test_items_of_a_source_are_drawn_together():
    sure, right = drawn(100, 0.2)
    alone = calibration_error(sure, right)
    four = calibration_error(np.repeat(sure, 4), np.repeat(right, 4), sources=np.repeat(np.arange(100), 4))
    blind = calibration_error(np.repeat(sure, 4), np.repeat(right, 4))
    assert four.high - four.low > 1.5 * (blind.high - blind.low)
    assert four.high - four.low == pytest.approx(alone.high - alone.low, rel=0.25)


# --- how sure an answer is


def answer(text, steps, *, task="nli", choices=None):
    parsed = TASKS[task].parse(text, "vanilla", choices=choices)
    return Answer("1", text, parsed, True, steps=tuple(steps))


def step(token, p, **top):
    return token, math.log(p), {token: math.log(p)} | {k.replace("_", " "): math.log(q) for k, q in top.items()}


HYPOTHESIS = Example("1", "nli", (dict(role="user", content="Premise: a\nHypothesis: b"),), "neutral")
CHOICE = Example("1", "nlu_qa", (dict(role="user", content="Which?"),), "B", choices=("a dog", "a cat", "a cow"))
LETTERS = dict(B=0.2, C=0.1, _B=0.1, the=0.1)


@pytest.mark.parametrize(
    ("example", "text", "steps", "wanted"),
    [
        (HYPOTHESIS, "neutral", [step("neutral", 0.5, ent=0.3, contradiction=0.1, The=0.1)], 5 / 9),
        (HYPOTHESIS, "Entailment", [step("Ent", 0.6, neutral=0.2, Con=0.2), step("ailment", 1.0)], 0.6),
        (CHOICE, "A", [step("A", 0.5, **LETTERS)], 5 / 9),
        (CHOICE, "The answer is A.", [step("The answer is", 0.3), step(" A", 0.5, **LETTERS), step(".", 1.0)], 5 / 9),
        (CHOICE, "**A**", [step("**", 0.3), step("A", 0.5, **LETTERS), step("**", 1.0)], 5 / 9),
    ],
)
def test_the_deciding_token_is_compared_with_the_other_choices(example, text, steps, wanted):
    own = answer(text, steps, task=example.task, choices=example.choices)
    likely = likely_choices(example, own)
    assert likely[own.parsed.answer] == pytest.approx(wanted) and sum(likely.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("example", "text", "steps"),
    [
        (CHOICE, "A", []),  # an engine that keeps nothing
        (CHOICE, "A", [step("A", 1.0)]),  # one likeliest token says nothing of three choices
        (CHOICE, "no idea", [step("no idea", 0.5, **LETTERS)]),
        (CHOICE, "It purrs. The answer is A", [step("It purrs. The answer is ", 1.0), step("A", 0.5, **LETTERS)]),
        (CHOICE, "<think>It purrs</think>A", [step("<think>It purrs</think>", 1.0), step("A", 0.5, **LETTERS)]),
    ],
)
def test_what_is_not_known_is_not_guessed(example, text, steps):
    assert likely_choices(example, answer(text, steps, task=example.task, choices=example.choices)) is None


def arm(sure, n=40):
    "An arm that is so sure of `neutral`, which is right for every second of `n` items."
    rest = (1 - sure) / 2
    steps = [step("neutral", sure, entailment=rest, contradiction=rest)]
    return Answers("vanilla", [answer("neutral", steps) for _ in range(n)], 0, n)


def items(n=40):
    return [Example(str(i), "nli", HYPOTHESIS.turns, NLI[1 + i % 2], meta=dict(source=str(i))) for i in range(n)]


def test_arms_are_held_against_the_untouched_student():
    examples = items()
    taught, base = arm(0.9), arm(0.5)
    own = {
        name: [replace(a, correct=e.gold == "neutral") for a, e in zip(answers, examples)]
        for name, answers in {"student/vanilla": base, "distilled/cot-answer": taught, "student/cot": taught}.items()
    }
    found = calibrations(examples, own, resamples=500)
    assert list(found) == ["student/vanilla", "distilled/cot-answer"], "reasoned answers have no such confidence"
    start, end = found.values()
    assert start["error"].value == pytest.approx(0, abs=1e-3) and end["error"].value == pytest.approx(0.4, abs=1e-2)
    assert end["more_error"].excludes_zero and end["more_error"].value == pytest.approx(0.4, abs=1e-2)
    right, wrong = (1 - 0.9) ** 2 + 2 * 0.05**2, 0.9**2 + 0.95**2 + 0.05**2
    assert end["brier"].value == pytest.approx((right + wrong) / 2) and end["more_brier"].low > 0
    assert end["bins"] == ((40, pytest.approx(0.9), 0.5),)
    alone = calibrations(examples, {"distilled/vanilla": own["distilled/cot-answer"]}, resamples=100)
    assert [alone["distilled/vanilla"][k].value for k in ("more_error", "more_brier")] == [None, None]
    assert calibrations(examples[:1], {"student/vanilla": own["student/vanilla"][:1]})["student/vanilla"]["n"] == 1


# --- in a run

SMALL = dict(arms=["student/vanilla", "student/cot", "control/gold"], bootstrap=200, min_rows=20)


def small(tmp_path, data, **more):
    how = dict(data=dict(name=data, train=40, test=24), store=tmp_path, **SMALL, **more)
    student = dict(model="zoo/student-s", train=dict(method="full", epochs=1, learning_rate=5e-4))
    return Run("transformers:zoo/teacher", student, **how)


def test_a_run_keeps_how_sure_its_students_are(tmp_path):
    run = small(tmp_path, "tiny-qa")
    assert set(run.calibration) == {"student/vanilla", "control/gold"}
    assert all(c["n"] == 24 and 0.25 <= c["sure"] <= 1 for c in run.calibration.values())
    assert not any(a.steps for a in run.answers["student/cot"])
    [picture] = calibration_parts(run)
    assert 'alt="Confidence against' in picture.data and "% sure" in picture.data and "Brier score" in picture.data
    rows = [r for r in metric_rows(run.numbers) if r["metric"] in ("calibration error", "Brier score")]
    assert {r["arm"] for r in rows} == {"student/vanilla", "control/gold"} and len(rows) == 4
    assert run.numbers["calibration"]["control/gold"]["bins"]


def test_a_store_from_before_is_replayed_without(tmp_path, monkeypatch):
    from distill_study.study import run as module

    asked = small(tmp_path, "tiny-nli")
    with monkeypatch.context() as m:
        m.setattr(module.results, "CHOSEN", ())
        texts = {a: [x.text for x in own] for a, own in asked.answers.items()}
    old = small(tmp_path, "tiny-nli", replay=True)
    assert {a: [x.text for x in own] for a, own in old.answers.items()} == texts
    assert old.calibration == {}
    assert [p.data for p in calibration_parts(old)] == ['<p class="note">Calibration: not available.</p>']
    new = small(tmp_path, "tiny-nli")
    fits = new.students
    answers, _ = answer_arms(new.combination, new.data, fits=fits, store=Store(tmp_path))
    assert answers["student/vanilla"].new == 24 and answers["student/cot"].new == 0
    assert [x.text for x in answers["control/gold"]] == texts["control/gold"], "watching changes no answer"
    assert set(small(tmp_path, "tiny-nli", replay=True).calibration) == {"student/vanilla", "control/gold"}


def test_families_without_choices_are_asked_as_before(tmp_path):
    run = small(tmp_path, "tiny-math")
    assert run.calibration == {} and calibration_parts(run) == []
    assert not any(a.steps for arm in run.answers for a in run.answers[arm]) and set(run.answers) <= set(ARMS)
