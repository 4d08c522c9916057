"Agreement against published figures, prediction-powered means by simulation, graders with hardly anything to say."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from distill_study.analyse.agreement import (
    aggregate_grades,
    cohen_kappa,
    grader_tables,
    krippendorff_alpha,
    ppi_estimate,
    ppi_mean,
    valid_grades,
)
from distill_study.tasks.families import rubric

_ = float("nan")
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
).T


def truth(right, arm="student/vanilla"):
    return pd.DataFrame(dict(arm=arm, id=[f"q{i}" for i in range(len(right))], correct=np.array(right, bool)))


def by_judge(grades, arm="student/vanilla", criterion="correct"):
    return pd.DataFrame(
        dict(
            arm=arm,
            id=[f"q{i}" for i in range(len(grades))],
            criterion=criterion,
            sample=0,
            grade=np.array(grades, float),
            why="",
            tokens=1,
        )
    )


def by_people(raters, arm="student/vanilla", criterion="correct"):
    return pd.concat(
        [
            by_judge(g, arm, criterion).drop(columns=["sample", "why", "tokens"]).assign(rater=r, note="", check=False)
            for r, g in raters.items()
        ]
    )


RIGHT = rubric("math")


def named(tables, caption):
    return next(t for t in tables if t.caption == caption)


# --- alpha and kappa


@pytest.mark.parametrize(
    "level, value", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)  # Krippendorff (2011), example C
def test_alpha_is_as_published(level, value):
    assert krippendorff_alpha(KRIPPENDORFF, level, items=range(12)).value == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(
    "grades, reason",
    [
        ([[1], [2]], "fewer than two raters"),
        ([[1, _], [2, _]], "fewer than two raters"),
        ([[1, _], [_, 2]], "no answer was graded by two"),
        ([[3, 3]] * 9, "all grades are 3"),
        (np.zeros((0, 3)), "fewer than two raters"),
        ([[_, _]], "fewer than two raters"),
    ],
)
def test_alpha_is_not_available_rather_than_zero(grades, reason):
    a = krippendorff_alpha(grades, "ordinal", items=range(len(grades)))
    assert a.value is None and a.low is None and reason in a.reason and a.text() == "not available"


def test_alpha_of_chance_is_near_zero_and_its_interval_holds_it():
    grades = np.random.default_rng(1).integers(1, 6, (200, 3))
    a = krippendorff_alpha(grades, "ordinal", items=range(200))
    assert a.low < 0 < a.high and abs(a.value) < 0.1


def test_answers_of_several_arms_to_one_item_are_drawn_together():
    rng, items = np.random.default_rng(2), np.repeat(np.arange(25), 4)
    easy = rng.random(25)[items] < 0.5  # raters agree on whole items
    first = rng.integers(1, 6, 100)
    second = np.where(easy, first, rng.integers(1, 6, 100))
    both = np.stack([first, second], 1)
    alone, together = (krippendorff_alpha(both, "ordinal", items=x) for x in (range(100), items))
    assert alone.value == together.value and together.high - together.low > 1.2 * (alone.high - alone.low)


CARCINOMA = np.array(
    [[22, 2, 2, 0], [5, 7, 14, 0], [0, 2, 36, 0], [0, 1, 17, 10]]
)  # Agresti, Categorical Data Analysis: two pathologists, 118 slides


def test_kappa_is_as_published():
    x, y = (np.repeat(np.indices((4, 4))[i].ravel(), CARCINOMA.ravel()) for i in (0, 1))
    how = dict(values=range(4), items=range(118))
    k = cohen_kappa(x, y, **how)
    assert k.value == pytest.approx(0.493, abs=6e-4)
    assert (k.high - k.low) / 3.92 == pytest.approx(0.057, abs=0.008)  # his standard error
    from statsmodels.stats.inter_rater import cohens_kappa

    assert cohen_kappa(x, y, weighted=True, **how).value == pytest.approx(cohens_kappa(CARCINOMA, wt="quadratic").kappa)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_kappa_is_symmetric_and_at_most_one(pairs, weighted):
    a, b = zip(*pairs)
    how = dict(values=range(1, 5), items=range(len(a)), weighted=weighted, resamples=150)
    k, other = cohen_kappa(a, b, **how), cohen_kappa(b, a, **how)
    assert (k.value is None) == (len({*a, *b}) == 1) and (
        k.value is None or k.value == pytest.approx(other.value) and k.value <= 1
    )
    assert k.low is None or k.low <= k.value <= k.high


def test_a_judge_that_always_says_the_same_agrees_by_chance():
    k = cohen_kappa([1] * 50, [1] * 45 + [0] * 5, values=(0, 1), items=range(50))
    assert k.value == 0 and "one of the two gave 1" in k.reason


@pytest.mark.parametrize(
    "a, b, reason", [([], [], "fewer than two"), ([1], [0], "fewer than two"), ([1] * 5, [1] * 5, "both gave 1")]
)
def test_kappa_is_not_available_rather_than_zero(a, b, reason):
    k = cohen_kappa(a, b, values=(0, 1), items=range(len(a)))
    assert reason in k.reason and k.value is None


# --- prediction-powered means

Y, F = np.array([3, 4, 2, 5, 4, 3, 3, 4, 5, 2.0]), np.array([3.5, 4, 3, 4.5, 4, 3.5, 3, 4, 4.5, 3])
REST = np.array([3, 4, 3.5, 4.5, 4, 2.5, 3, 3.5, 4, 4.5, 5, 3, 3.5, 4, 4, 2.5, 3, 3.5, 4.5, 4])
Y2, F2 = np.array([1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1.0]), np.array([1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1.0])
REST2 = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1.0])


@pytest.mark.parametrize(
    "y, f, rest, lam, value, low, high",
    [  # as ppi-python 0.2.3 gives them: ppi_mean_pointestimate, ppi_mean_ci(alpha=.05)
        (Y, F, REST, 1.0, 3.475, 3.04183577, 3.90816423),
        (Y, F, REST, None, 3.47828455, 3.03968604, 3.91688305),
        (Y2, F2, REST2, 1.0, 0.65, 0.32930085, 0.97069915),
        (Y2, F2, REST2, None, 0.66165689, 0.41108469, 0.91222909),
    ],
)
def test_the_estimate_is_the_papers(y, f, rest, lam, value, low, high):
    got, error, lam = ppi_mean(y, f, rest=rest, lam=lam)
    assert got == pytest.approx(value, abs=1e-7)
    closed = (lam**2 * rest.var() / len(rest) + (y - lam * f).var() / len(y)) ** 0.5
    assert [value - 1.959964 * closed, value + 1.959964 * closed] == pytest.approx([low, high], abs=1e-6)
    assert error**2 == pytest.approx(lam**2 * rest.var(ddof=1) / len(rest) + (y - lam * f).var(ddof=1) / len(y))


def test_lambda_zero_is_people_alone():
    assert ppi_mean(Y, F, rest=REST, lam=0.0)[:2] == (
        pytest.approx(Y.mean()),
        pytest.approx((Y.var(ddof=1) / 10) ** 0.5),
    )


@given(st.integers(0, 2**32 - 1), st.integers(10, 40), st.integers(2, 80))
@settings(max_examples=50, deadline=None)
def test_the_tuned_estimate_is_never_much_worse_than_people_alone(seed, n, rest):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 1, n + rest)
    f = rng.normal(0, 1) * y + rng.normal(0, 1, n + rest)
    _, error, lam = ppi_mean(y[:n], f[:n], rest=f[n:])
    assert 0 <= lam <= 1 and error <= 1.2 * (y[:n].var(ddof=1) / n) ** 0.5


def test_plain_weights_change_nothing_and_others_count():
    assert ppi_mean(Y, F, rest=REST, w=np.full(10, 3.0))[:2] == pytest.approx(ppi_mean(Y, F, rest=REST)[:2])
    w = np.where(Y > 3, 2.0, 1.0)
    assert ppi_mean(Y, F, rest=REST, lam=0.0, w=w)[0] == pytest.approx((w * Y).sum() / w.sum())


def test_where_people_graded_every_answer_their_mean_is_the_estimate():
    e = ppi_estimate(Y, F, rest=[])
    assert e.tuned.reason == "people graded every answer" and e.tuned.low == e.human.low and e.lam == 0


def judged(kind, rng, m):
    "People's and a judge's grades of `m` answers, and the mean that people would give."
    if kind == "biased":
        y = rng.random(m) < 0.6
        return y, np.where(rng.random(m) < 0.25, 1, y)
    if kind == "knows nothing":
        return rng.random(m) < 0.6, rng.random(m) < 0.5
    if kind == "lenient":
        t = rng.normal(0, 1, m)
        return np.clip(np.round(3.2 + t), 1, 5), np.clip(np.round(3.9 + 0.7 * t + rng.normal(0, 0.6, m)), 1, 5)
    u = rng.random(m)  # the difference of two arms that find the same items hard
    a, b = ((u + rng.normal(0, 0.15, m)) < p for p in (0.4, 0.6))
    return b.astype(float) - a, np.where(rng.random(m) < 0.2, 1, b).astype(float) - np.where(rng.random(m) < 0.2, 1, a)


@pytest.mark.parametrize(
    "kind, how", [("biased", "share"), ("knows nothing", "share"), ("lenient", "grade"), ("difference", "difference")]
)
def test_95_percent_intervals_cover_95_percent(kind, how):
    rng, n, m, sets = np.random.default_rng(7), 50, 350, 800
    mean, hits = np.mean(judged(kind, np.random.default_rng(0), 2_000_000)[0]), np.zeros(3)
    for _ in range(sets):
        y, f = judged(kind, rng, m)
        e = ppi_estimate(y[:n], f[:n], rest=f[n:], kind=how)
        hits += [i.low <= mean <= i.high for i in (e.human, e.tuned, e.judge)]
    people, tuned, judge = hits / sets
    assert all(0.925 <= share <= 0.975 for share in (people, tuned)), hits / sets
    if kind in ("biased", "lenient", "knows nothing"):
        assert judge < 0.1  # however narrow, it is about something else


@pytest.mark.parametrize(
    "y, f, rest, why",
    [
        ([], [], [1, 0], "0 answers"),
        ([1] * 5, [1] * 5, [1] * 20, "5 answers"),
        ([1] * 30, [1] * 29 + [0], [1] * 20, "people gave 1 to every answer"),
    ],
)
def test_too_little_to_be_powered_by(y, f, rest, why):
    e = ppi_estimate(y, f, rest=rest, kind="share")
    assert e.tuned.value is None and why in e.tuned.reason and e.judge.value is not None


def test_a_judge_without_variation_leaves_people_alone():
    e = ppi_estimate(Y2, np.ones(12), rest=np.ones(30), kind="share")
    assert e.lam == 0 and e.tuned.value == pytest.approx(Y2.mean())


# --- what a report shows


def test_checks_and_missing_grades_do_not_count():
    people = pd.concat([by_people(dict(a=[1, 0, _], b=[1, 1, _])), by_people(dict(a=[0])).assign(id="q9", check=True)])
    assert (
        len(valid_grades(people)) == 4
        and aggregate_grades(people).tolist() == [1, 0.5]
        and list(aggregate_grades(people, "median").index) == [("student/vanilla", "q0", "correct")]
    )


def test_without_judge_and_people_there_is_nothing_to_show():
    g = truth([1, 0])
    checks = by_people(dict(a=[1])).assign(check=True)
    assert grader_tables(g, criteria=RIGHT) == []
    assert grader_tables(g, by_judge([_, _]), people=checks, criteria=RIGHT) == []


def test_one_rater_alone_has_no_alpha_and_can_still_be_powered():
    rng = np.random.default_rng(0)
    right = rng.random(80) < 0.5
    tables = grader_tables(
        truth(right),
        by_judge(np.where(rng.random(80) < 0.2, ~right, right)),
        people=by_people(dict(r1=right[:30])),
        criteria=RIGHT,
    )
    assert named(tables, "How far people agree with each other").rows[0]["missing"] == "fewer than two raters"
    row = named(tables, "What people would say of every arm").rows[0]
    assert row["n"] == 30 and row["more"] == 50 and row["tuned"].low < right.mean() < row["tuned"].high


def test_a_test_set_of_five():
    tables = grader_tables(
        truth([1, 0, 1, 1, 0]),
        by_judge([1, 1, 1, 1, 0]),
        people=by_people(dict(a=[1, 0, 1, 1, 0], b=[1, 0, 1, 0, 0])),
        criteria=RIGHT,
    )
    assert (
        "5 answers" not in str(named(tables, "How far graders agree").rows)
        and "are the fewest" in named(tables, "What people would say of every arm").rows[0]["missing"]
    )
    for t in tables:
        assert t.html() and t.to_dict() is not None


def test_all_grades_equal():
    tables = grader_tables(
        truth([1] * 20), by_judge([1] * 20), people=by_people(dict(a=[1] * 20, b=[1] * 20)), criteria=RIGHT
    )
    assert "nothing to agree about" in named(tables, "How far people agree with each other").rows[0]["missing"]
    assert all("nothing to agree about" in r["missing"] for r in named(tables, "How far graders agree").rows)
    assert "people gave 1 to every answer" in named(tables, "What people would say of every arm").rows[0]["missing"]
    trust = named(tables, "How often the judge is right").rows[0]
    assert trust["right"].value == 1 and trust["fooled"].value is None  # there was no wrong answer to be fooled by


def test_grades_on_a_scale_get_both_kappas_and_no_truth():
    rng = np.random.default_rng(1)
    good = rng.integers(1, 6, 60)
    g = truth(good > 2).drop(columns="correct").assign(rougeLsum=0.2)
    tables = grader_tables(
        g,
        by_judge(np.clip(good + rng.integers(0, 2, 60), 1, 5), criterion="fluency"),
        people=by_people(dict(a=good, b=np.clip(good - rng.integers(0, 2, 60), 1, 5)), criterion="fluency"),
        criteria=rubric("summarization"),
    )
    assert [t.caption for t in tables] == [
        "How far people agree with each other",
        "How far graders agree",
        "What people would say of every arm",
    ]
    row = named(tables, "How far graders agree").rows[0]
    assert (
        row["weighted"].value > row["kappa"].value and row["n"] < 60
    )  # raters split between two grades have no middle
