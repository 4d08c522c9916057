"""How often the intervals that pages print hold the truth, and how often the tests that pages print err, on data that
are drawn from known truths: with items that share sources, seeds, corrections and choices made on the same items.

    python benchmarks/simulations.py [TRIALS, 2000 if left out]
"""

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

spec = importlib.util.spec_from_file_location("_shared", Path(__file__).parent / "_shared.py")
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)

from distill_study.analyse.agreement import cohen_kappa, krippendorff_alpha, length_controlled_win_rate, ppi_estimate
from distill_study.analyse.findings import _length_model
from distill_study.analyse.results import confusions, level_interval
from distill_study.analyse.stats import (
    BASE,
    CONSTANT,
    Comparison,
    calibration_error,
    compare,
    corrected,
    gap_recovered,
    interval_difference,
    mean_interval,
    paired_difference,
    paired_p,
    separation,
    smallest_difference,
    with_constant,
)
from distill_study.grading.truth import METRICS
from distill_study.report.grid import mean_of, mean_over_seeds, pooled
from distill_study.tasks.families import NLI

N, DRAWS = 300, 1000  # test items, resamples
ALONE, APART = np.arange(N), np.repeat(np.arange(100), np.tile([1, 2, 3, 4, 5], 20))  # sources: own ones, 1 to 5 items
SOURCES = {"": ALONE, ", sources": APART}
RIGHT, SCORE = METRICS["correct"], METRICS["rougeLsum"]


# --- what is drawn: a number per arm and item, normal, alike within a source and between arms


def strength(rng, arms, *, sources):
    "(arms, items): how well an item suits an arm, of variance 1; half is the item's, and half of both its source's."
    own, item = rng.normal(size=(arms, N)), rng.normal(size=N)
    if sources is ALONE:
        return (own + item) / 2**0.5
    of, of_arm = rng.normal(size=100), rng.normal(size=(arms, 100))
    return (own + item + of[sources] + of_arm[:, sources]) / 2


def rights(rng, shares, *, sources):
    "Right answers of arms with these accuracies."
    return strength(rng, len(shares), sources=sources) < ndtri(shares)[:, None]


def scores(rng, levels, *, sources):
    "Skewed scores between 0 and 1 with these means."
    return ndtr(strength(rng, len(levels), sources=sources) * 0.8 + ndtri(levels)[:, None] * 1.64**0.5)


def covers(i, truth):
    return i.low <= truth <= i.high


def table(values, sources, *, column="correct", arms=None, **more):
    "Grades as `analyse` takes them."
    arms = arms or ["teacher/cot", BASE, "distilled/cot-answer", "distilled/vanilla"]
    part = [pd.DataFrame({"arm": a, "id": range(N), "source": sources, column: v} | more) for a, v in zip(arms, values)]
    return pd.concat(part, ignore_index=True)


# --- intervals: whether one drawn study's holds the truth; None where the page would print none

INTERVALS = {}


def interval(name, kinds=("", ", sources")):
    "Register a function of (random numbers, sources) under a name, once for each kind of sources."

    def register(f):
        INTERVALS.update({name + kind: (f, SOURCES[kind]) for kind in kinds})
        return f

    return register


@interval("accuracy 30 %")
def accuracy(rng, sources):
    return covers(level_interval(rights(rng, [0.3], sources=sources)[0], sources, metric=RIGHT, resamples=DRAWS), 0.3)


@interval("accuracy 95 %")
def high_accuracy(rng, sources):
    return covers(level_interval(rights(rng, [0.95], sources=sources)[0], sources, metric=RIGHT, resamples=DRAWS), 0.95)


@interval("mean score")
def score(rng, sources):
    return covers(mean_interval(scores(rng, [0.2], sources=sources)[0], DRAWS, sources=sources), 0.2)


@interval("difference in accuracy")
def difference(rng, sources):
    a, b = rights(rng, [0.4, 0.5], sources=sources)
    return covers(paired_difference(a, b, resamples=DRAWS, sources=sources), 0.1)


@interval("difference in score")
def score_difference(rng, sources):
    a, b = scores(rng, [0.2, 0.25], sources=sources)
    return covers(paired_difference(a, b, resamples=DRAWS, sources=sources), 0.05)


@interval("gap recovered, accuracy")
def gap(rng, sources):
    t, b, d = rights(rng, [0.8, 0.4, 0.6], sources=sources)
    i = gap_recovered(t, b, distilled=d, resamples=DRAWS, sources=sources)
    return None if i.low is None else covers(i, 0.5)


@interval("gap recovered, score")
def score_gap(rng, sources):
    t, b, d = scores(rng, [0.4, 0.2, 0.25], sources=sources)
    i = gap_recovered(t, b, distilled=d, resamples=DRAWS, sources=sources)
    return None if i.low is None else covers(i, 0.25)


@interval("gap recovered, from what is better on these items")
def chosen_gap(rng, sources):
    "Untouched and best constant are equally good: which of them the gap is measured from is luck."
    gold, (t, b, d) = rng.integers(0, 3, N), rights(rng, [0.8, 1 / 3, 0.6], sources=sources)
    constant = gold == np.bincount(gold).argmax()
    base = constant if constant.mean() > b.mean() else b
    i = gap_recovered(t, base, distilled=d, resamples=DRAWS, sources=sources)
    return None if i.low is None else covers(i, (0.6 - 1 / 3) / (0.8 - 1 / 3))


def labels(rng, sources):
    "Gold labels, and answers of which 60 % are right; a wrong answer of a source is always the same."
    gold = rng.integers(0, 3, N)
    wrong = rng.integers(1, 3, 300)[sources]
    return gold, np.where(rights(rng, [0.6], sources=sources)[0], gold, (gold + wrong) % 3)


@interval("macro-F1")
def macro_f1(rng, sources):
    gold, answer = labels(rng, sources)
    rows = pd.DataFrame(dict(arm=BASE, source=sources, gold=np.array(NLI)[gold], answer=np.array(NLI)[answer]))
    return covers(confusions(rows, NLI, resamples=DRAWS)[BASE].macro_f1, 0.6)  # all labels are alike


@interval("confidence, area under the curve")
def curve(rng, sources):
    confidence, right = strength(rng, 1, sources=sources)[0], rng.random(N) < 0.4
    return covers(separation(confidence + right, right, sources=sources), ndtr(0.5**0.5))


def calibration(rng, sources, *, over):
    "The calibration error of an arm whose confidence is by so much above how often it is right."
    own, luck = (ndtr(strength(rng, 1, sources=sources)[0]) for _ in range(2))
    sure = 0.35 + 0.65 * own
    return calibration_error(sure, luck < sure - over, resamples=DRAWS, sources=sources)


@interval("calibration error 0")
def calibrated(rng, sources):
    return covers(calibration(rng, sources, over=0), 0.0)


@interval("calibration error 10 points")
def boasting(rng, sources):
    return covers(calibration(rng, sources, over=0.1), 0.1)


@interval("difference in calibration error, 5 and 20 points")
def more_boasting(rng, sources):
    a, b = (calibration(rng, sources, over=over) for over in (0.05, 0.2))
    return covers(interval_difference(a, b)[0], 0.15)


@interval("difference in calibration error, 0 and 10 points")
def any_boasting(rng, sources):
    a, b = (calibration(rng, sources, over=over) for over in (0, 0.1))
    return covers(interval_difference(a, b)[0], 0.1)


@interval("difference between two groups of items")
def groups(rng, sources):
    right, at = rights(rng, [0.6], sources=sources)[0], sources % 4 == 0
    both = (level_interval(right[x], sources[x], metric=RIGHT, resamples=DRAWS) for x in (at, ~at))
    return covers(interval_difference(*both)[0], 0.0)


@interval("what ten more words add", ("",))
def words_slope(rng, sources):
    of, item = np.tile(ALONE, 2), rng.normal(size=N)
    rows = pd.DataFrame(dict(arm=np.repeat(["a", "b"], N), id=of, words=rng.integers(10, 60, 2 * N)))
    rows["rating"] = 0.02 * rows["words"] + item[of] + rng.normal(size=2 * N)
    low, high = _length_model(rows.assign(source=sources[of]), ["a", "b"], measures=["words"]).conf_int()[2]
    return low <= 0.2 <= high


@interval("mean over three trainings")
def over_seeds(rng, sources):
    levels = ndtr(ndtri(0.4) + rng.normal(0, 0.1, 3))  # the trainings differ
    truth = ndtr(ndtri(0.4) / (1 + 0.1**2) ** 0.5)
    arms = rights(rng, levels, sources=sources)
    seeds = [level_interval(a, sources, metric=RIGHT, resamples=DRAWS) for a in arms]
    return covers(mean_over_seeds(seeds, items=mean_interval(arms.mean(0), DRAWS, sources=sources)), truth)


@interval("mean over two data sets")
def over_sets(rng, sources):
    parts = [rights(rng, [share], sources=sources)[0] for share in (0.3, 0.7)]
    return covers(mean_of([level_interval(p, sources, metric=RIGHT, resamples=DRAWS) for p in parts]), 0.5)


@interval("judge's win rate", ("",))
def wins(rng, _):
    points = rng.choice([0, 0.5, 1], N, p=(0.3, 0.2, 0.5))
    return covers(mean_interval(points, DRAWS), 0.6)


@interval("judge's win rate at equal length", ("",))
def equal_length(rng, _):
    longer = rng.normal(0, 30, N)
    i = length_controlled_win_rate(rng.random(N) < 1 / (1 + np.exp(-0.4 - longer / 60)), longer)
    return covers(i, 1 / (1 + np.exp(-0.4)))


@interval("Cohen's kappa", ("",))
def kappa(rng, sources):
    truth = rng.random(N) < 0.5
    a, b = (np.where(rng.random(N) < 0.9, truth, ~truth).astype(float) for _ in "ab")
    return covers(cohen_kappa(a, b, values=(0.0, 1.0), items=sources, resamples=DRAWS), 0.64)


@interval("Krippendorff's alpha", ("",))
def alpha(rng, _):
    truth = rng.random((60, 1)) < 0.5
    grades = pd.DataFrame(np.where(rng.random((60, 3)) < 0.9, truth, ~truth).astype(float))
    return covers(krippendorff_alpha(grades, "nominal", items=range(60), resamples=200), 0.64)


@interval("people's mean, with the judge's help", ("",))
def ppi(rng, _):
    people = rng.random(N) < 0.6
    judge = np.where(rng.random(N) < 0.85, people, ~people)
    return covers(ppi_estimate(people[:60], judge[:60], rest=judge[60:], kind="share").tuned, 0.6)


# --- tests: whether one of equal arms errs

TESTS = {}


def test(name, kinds=("", ", sources")):
    def register(f):
        TESTS.update({name + kind: (f, SOURCES[kind]) for kind in kinds})
        return f

    return register


@test("two arms, accuracy")
def equal_arms(rng, sources):
    return paired_p(*rights(rng, [0.5, 0.5], sources=sources), sources=sources) <= 0.05


@test("two arms, score")
def equal_scores(rng, sources):
    return paired_p(*scores(rng, [0.2, 0.2], sources=sources), sources=sources) <= 0.05


@test("any of a report's tests, Holm")
def family(rng, sources):
    values = rights(rng, [0.5] * 4, sources=sources)
    return any(t.p_holm is not None and t.p_holm <= 0.05 for t in compare(table(values, sources), resamples=100))


@test("above the constant that is best on these items")
def constant(rng, sources):
    gold, right = rng.integers(0, 3, N).astype(str), rights(rng, [1 / 3], sources=sources)
    graded = with_constant(table(right, sources, arms=[BASE], gold=gold, answer="0", correct_strict=False))
    return compare(graded, [(CONSTANT, BASE)], resamples=100)[0].verdict == "higher"


@test("three trainings of two arms, pooled")
def seeds(rng, sources):
    levels = ndtr(ndtri(0.5) + rng.normal(0, 0.1, (2, 3)))
    both, text = rights(rng, levels.ravel(), sources=sources).reshape(2, 3, N), " ".join(map(str, sources))
    pages, tests = [], []
    for a, b in both.swapaxes(0, 1):
        difference = vars(paired_difference(a, b, resamples=DRAWS, sources=sources))
        tests.append([dict(a="a", b="b", p_holm=1, difference=difference)])
        values = {name: " ".join(map(str, x.astype(int))) for name, x in (("a", a), ("b", b))}
        pages.append(dict(items=dict(arms=values, sources=text)))
    return pooled(pages, tests)["a", "b"] != "can't tell"


@test("the smaller of five reports' p, corrected over the reports", ("",))
def some(rng, sources):
    tests = [paired_p(*rights(rng, [0.5, 0.5], sources=sources)) for _ in range(5)]
    return min(t.p_holm for t in corrected([Comparison("a", "b", p=p) for p in tests])) <= 0.05


def power(rng, sources):
    "Whether a difference of the size that is said to be noticed four times in five, by one of ten tests, is noticed."
    d = smallest_difference((0.3 / N) ** 0.5, tests=10)
    up, down, _ = rng.multinomial(N, [(0.3 + d) / 2, (0.3 - d) / 2, 0.7])
    return paired_p(np.repeat([0, 1], [up, down]), np.repeat([1, 0], [up, down])) <= 0.05 / 10


def share(f, sources, *, trials, seed=0):
    "(share of so many trials in which `f` says yes, how many it has an answer to)."
    said = [f(np.random.default_rng([seed, i]), sources) for i in range(trials)]
    known = [x for x in said if x is not None]
    return np.mean(known), len(known)


def measure(trials):
    "(what, kind, share, trials with an answer, lowest and highest share that will do) of everything."
    for name, (f, sources) in INTERVALS.items():
        wide = "three trainings" in name or "calibration" in name  # nothing tells how much three trainings vary
        low = 0.9 if name.startswith("difference in calibration error, 0") else 0.93  # what luck adds is not all gone
        yield (name, "interval", *share(f, sources, trials=trials), low, 1.0 if wide else 0.97)
    for name, (f, sources) in TESTS.items():
        yield (name, "test", *share(f, sources, trials=trials), 0.0, 0.06)
    yield ("a difference of the size that `power` names", "power", *share(power, ALONE, trials=trials), 0.75, 0.87)


def main(trials=2000, folder=None):
    start, rows = time.time(), []
    for name, kind, found, n, low, high in measure(trials):
        bar = f"{100 * low:.0f} to {100 * high:.0f}" if low and high < 1 else f"at least {100 * low:.0f}"
        bar = bar if low else f"at most {100 * high:.0f}"
        rows.append((kind, name, f"{100 * found:.1f}", bar, "yes" if low <= found <= high else "NO", n))
        print(*rows[-1], f"{time.time() - start:.0f} s", file=sys.stderr)
    notes = [
        "An interval: share of drawn studies whose 95 % interval holds the truth. A test at 5 %: share of drawn "
        "studies in which it errs, where there is nothing to find. Power: share in which the difference is noticed.",
        f"{N} items; with sources, 100 of them with 1 to 5 items each; {DRAWS:,} resamples; the standard error of a "
        f"share of {trials:,} is {100 * (0.05 * 0.95 / trials) ** 0.5:.1f} points.",
    ]
    header = ("kind", "what", "%", "bar", "met", "studies")
    shared.report("simulations", "Intervals and tests on drawn data", header, rows, notes, folder)
    return rows


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
