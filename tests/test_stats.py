"Statistics against published figures, against each other, and where there is too little to say anything."

from math import comb

import numpy as np
import pandas as pd
import pytest

from distill_study.analyse.stats import (
    Interval,
    _bootstrap,
    compare,
    corrected,
    find_test,
    gap_recovered,
    gaps,
    holm,
    matched,
    mcnemar,
    mean_interval,
    paired_difference,
    paired_p,
    paired_test,
    reference_teacher,
    sign_flip_test,
    smallest_difference,
    wilson,
)


def grades(**arms):
    "A small `graded` table: arm names with __ for / and - for nothing."
    names = {
        "tc": "teacher/cot",
        "tv": "teacher/vanilla",
        "sv": "student/vanilla",
        "dv": "distilled/vanilla",
        "da": "distilled/cot-answer",
        "dr": "distilled/cot-rationale",
    }
    return pd.concat(
        [
            pd.DataFrame(
                dict(
                    arm=names[k],
                    id=[f"q{i}" for i in range(len(v))],
                    correct=np.array(v, bool),
                    correct_strict=np.array(v, bool),
                )
            )
            for k, v in arms.items()
        ],
        ignore_index=True,
    )


@pytest.mark.parametrize(
    "k, n, low, high",
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),  # never beyond 0 and 1, never of zero width
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)  # Newcombe (1998), table I, method 3
def test_wilson_is_as_published(k, n, low, high):
    i = wilson(k, n)
    assert i.low == pytest.approx(low, abs=6e-5) and i.high == pytest.approx(high, abs=6e-5)


def test_wilson_of_nothing_is_not_available():
    assert wilson(0, 0).value is None and str(wilson(0, 0)) == "not available"


@pytest.mark.parametrize("b10, b01", [(1, 8), (59, 121), (86, 150), (0, 5), (7, 7), (0, 0)])
def test_mcnemar_is_the_exact_binomial_test(b10, b01):
    a, b = np.repeat([1, 0, 1], [b10, b01, 30]), np.repeat([0, 1, 1], [b10, b01, 30])
    d = b10 + b01
    assert mcnemar(a, b) == pytest.approx(min(1, 2 * sum(comb(d, i) for i in range(min(b10, b01) + 1)) / 2**d))
    assert mcnemar(b, a) == pytest.approx(mcnemar(a, b))


def test_mcnemar_of_a_textbook_survey():
    "Approval of a prime minister, asked twice (Agresti): 150 turned away, 86 came round."
    first, second = np.repeat([1, 1, 0, 0], [794, 150, 86, 570]), np.repeat([1, 0, 1, 0], [794, 150, 86, 570])
    assert 2e-5 < mcnemar(first, second) < 5e-5
    d = paired_difference(first, second)
    assert (
        d.value == pytest.approx(-0.04)
        and d.low == pytest.approx(-0.0587, abs=0.004)
        and d.high == pytest.approx(-0.0213, abs=0.004)
    )


@pytest.mark.parametrize("ps", [[0.01, 0.04, 0.03], [0.01, 0.01, 0.5, 0.01, 0.2], [0, 1, 0.5, 0.5, 0.049], [0.3]])
def test_holm_is_that_of_statsmodels(ps):
    from statsmodels.stats.multitest import multipletests

    assert holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]))


def test_holm_is_monotone_capped_and_keeps_gaps():
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.9, None, 0.8]) == [1.0, None, 1.0]
    assert holm([None]) == [None]


def test_bootstrap_of_patterns_is_the_bootstrap_of_items():
    rng = np.random.default_rng(3)
    a, b = rng.random(80) < 0.4, rng.random(80) < 0.6
    d = paired_difference(a, b, resamples=4000, seed=1)
    drawn = [(b[i].mean() - a[i].mean()) for i in (rng.integers(0, 80, 80) for _ in range(4000))]
    assert [d.low, d.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_gap_is_undefined_where_teacher_and_base_agree():
    right = np.arange(200) % 2 == 0
    g = gap_recovered(right, right, distilled=~right)
    assert g.value is None and g.low is None and "not significantly better" in g.reason and g.n == 200


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_handful_of_items_defines_no_gap(n):
    g = gap_recovered(np.ones(n), np.zeros(n), distilled=np.ones(n))
    assert g.value is None and "not significantly better" in g.reason


def test_gap_of_a_teacher_worse_than_the_student():
    assert "worse than the untouched student" in gap_recovered(np.zeros(50), np.ones(50), distilled=np.ones(50)).reason


def test_gap_can_be_negative_and_beyond_the_teacher():
    t, b = np.repeat([1, 0], [70, 30]), np.repeat([1, 0], [40, 60])
    assert gap_recovered(t, b, distilled=np.repeat([1, 0], [20, 80])).high < 0
    assert gap_recovered(t, b, distilled=np.repeat([1, 0], [95, 5])).low > 1


def test_a_barely_defined_gap_keeps_finite_bounds():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        t, b, d = rng.random(60) < 0.62, rng.random(60) < 0.4, rng.random(60) < 0.5
        g = gap_recovered(t, b, distilled=d, seed=seed)
        assert (g.value is None) == bool(g.reason) and (g.value is None or np.isfinite([g.low, g.high]).all())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("d", [[1] * 40, [0] * 40, [1, 0] * 20])
def test_draws_in_which_teacher_and_student_are_equally_good_divide_by_nothing(d):
    t, b = np.repeat([1, 0], [6, 34]), np.zeros(40)  # 6 items make the gap: some resamples have none of them
    assert (_bootstrap([t.astype(bool), b.astype(bool)], 2000, seed=0)[:, 0] == 0).any()
    g = gap_recovered(t, b, distilled=d)
    assert g.value is not None and np.isfinite([g.low, g.high]).all()


def test_an_interval_without_width_says_why():
    t, b = np.repeat([1, 0], [70, 30]), np.repeat([1, 0], [40, 60])
    assert "exactly the same items" in gap_recovered(t, b, distilled=b).reason
    assert "exactly the same items" in paired_difference(b, b).reason


def test_gap_interval_covers_the_truth():
    hits = 0
    for s in range(120):
        u = np.random.default_rng(s).random(200)
        g = gap_recovered(u < 0.9, u < 0.3, distilled=u < 0.6, resamples=400, seed=s)
        hits += g.low <= 0.5 <= g.high
    assert 106 <= hits <= 120


def test_arms_are_matched_by_id_not_by_order():
    g = grades(sv=[1, 0, 1, 0], dv=[1, 0, 1, 0])
    shuffled = pd.concat([g[g.arm == "student/vanilla"], g[g.arm == "distilled/vanilla"].iloc[::-1]])
    assert find_test(compare(shuffled), "student/vanilla", b="distilled/vanilla").a_only == 0


def test_only_shared_items_are_compared():
    (a, b), *_ = matched(grades(sv=[1, 0, 1, 1], dv=[0, 1]), ("student/vanilla", "distilled/vanilla"))
    assert list(a) == [True, False] and list(b) == [False, True]


def test_missing_arms_give_reasons_and_do_not_count_for_holm():
    tests = compare(grades(sv=[0] * 12, dv=[1] * 12))
    assert len(tests) == 10
    made = [t for t in tests if t.p is not None]
    assert len(made) == 1 and made[0].p_holm == made[0].p and made[0].verdict == "higher"
    assert all(t.verdict == "not available" and "did not run" in t.reason for t in tests if t.p is None)


def test_gaps_of_missing_arms_name_them():
    gs = gaps(grades(sv=[0] * 40, tc=[1] * 40, dv=[1] * 20 + [0] * 20))
    assert gs[0].recovered.value == 0.5
    assert {g.recovered.reason for g in gs if g.arm == "control/gold" and g.teacher == "teacher/cot"} == {
        "control/gold did not run"
    }
    assert len(gs) == 2 * 4


def test_reference_teacher_is_the_one_that_ran():
    assert (
        reference_teacher(grades(tv=[1])) == "teacher/vanilla"
        and reference_teacher(grades(tv=[1], tc=[1])) == "teacher/cot"
    )


@pytest.mark.parametrize("tests", [1, 11])
def test_the_smallest_difference_of_accuracies_is_noticed_four_times_in_five(tests):
    n, share = 300, 0.3
    d, rng, seen = smallest_difference((share / n) ** 0.5, tests=tests), np.random.default_rng(0), 0
    for _ in range(300):
        up, down, _ = rng.multinomial(n, [(share + d) / 2, (share - d) / 2, 1 - share])
        seen += mcnemar(np.repeat([0, 1], [up, down]), np.repeat([1, 0], [up, down])) <= 0.05 / tests
    assert 0.7 < seen / 300 < 0.9


def test_what_a_test_would_have_noticed_is_more_among_many_tests_and_nothing_where_arms_hardly_differ():
    a, b = np.repeat([0, 1, 0, 1], [30, 25, 20, 25]), np.repeat([1, 0, 0, 1], [30, 25, 20, 25])
    alone = corrected(compare(grades(sv=a, dv=b), (("student/vanilla", "distilled/vanilla"),)))[0]
    among = corrected([alone], [alone] * 9)[0]
    assert among.family == 10 and 0.15 < alone.least < among.least < 0.3
    few = compare(grades(sv=[0] * 30, dv=[1] * 2 + [0] * 28), (("student/vanilla", "distilled/vanilla"),))[0]
    assert few.least is None and few.p == 0.5


def test_interval_text():
    assert Interval(0.5, 0.25, 0.75, 4).text(digits=0) == "50 (25 to 75)"
    assert Interval(-0.0001, None, None, 4).text() == "0.0"
    assert not Interval(None).excludes_zero


# --- scores


def scores(levels, n=100, seed=0, noise=0.05):
    "Made-up scores of arms that share how hard each item is."
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.1, n)
    return [m + hard + rng.normal(0, noise, n) for m in levels]


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_the_flip_test_is_scipys_exact_one(n):
    from scipy.stats import permutation_test

    a, b = scores([0.3, 0.34], n, n)
    assert sign_flip_test(a, b) == pytest.approx(
        permutation_test((b - a,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    )
    assert sign_flip_test(b, a) == sign_flip_test(a, b)


def test_the_drawn_flip_test_is_near_the_exact_one():
    a, b = scores([0.3, 0.33], 13)
    assert sign_flip_test(a, b, flips=2000) == pytest.approx(sign_flip_test(a, b), abs=0.03)


def test_the_flip_test_of_right_and_wrong_is_mcnemars():
    for up, down in ((5, 1), (0, 6), (3, 3), (9, 2)):
        a, b = np.repeat([0, 1, 1, 0], [up, down, 9, 4]), np.repeat([1, 0, 1, 0], [up, down, 9, 4])
        assert sign_flip_test(a, b) == pytest.approx(mcnemar(a, b)) and paired_p(a.astype(float), b) == pytest.approx(
            paired_p(a, b)
        )


def test_the_flip_test_keeps_its_error_rate():
    false = [sign_flip_test(*scores([0.3, 0.3], 40, s, 0.1), flips=400) <= 0.05 for s in range(300)]
    assert 0.02 < np.mean(false) < 0.09


@pytest.mark.parametrize(
    "a, b, p",
    [
        ([], [], None),
        ([0.2], [0.2], 1.0),
        ([0.2], [0.3], 1.0),
        ([0.0, 0, 0], [0, 0, 0], 1.0),
        ([0.1] * 6, [0.2] * 6, 2 / 64),
    ],
)
def test_hardly_any_scores(a, b, p):
    assert sign_flip_test(np.array(a, float), np.array(b, float)) == p


@pytest.mark.parametrize(
    "values, mean, low, n, why",
    [
        ([], None, None, 0, "no items"),
        ([0.5], 0.5, None, 1, "one item"),
        ([0.5, 0.5, 0.5], 0.5, 0.5, 3, "the same"),
        ([float("nan")] * 3, None, None, 0, "no items"),
        ([0.1, float("nan"), 0.3], 0.2, 0.1, 2, ""),
    ],
)
def test_mean_intervals_of_hardly_anything(values, mean, low, n, why):
    i = mean_interval(values)
    assert (
        (i.value if mean is None else pytest.approx(i.value)) == mean
        and (i.low is None if low is None else i.low == pytest.approx(low))
        and i.n == n
        and why in i.reason
    )


def test_mean_intervals_cover_the_truth():
    hits = [
        (i := mean_interval(np.random.default_rng(s).gamma(2, 0.1, 80), 400, seed=s)).low <= 0.2 <= i.high
        for s in range(200)
    ]
    assert 0.89 <= np.mean(hits) <= 0.99


def test_the_gap_of_scores_covers_the_truth_and_knows_when_there_is_none():
    hits = []
    for s in range(150):
        t, b, d = scores([0.5, 0.3, 0.4], 100, s)
        g = gap_recovered(t, b, distilled=d, resamples=400, seed=s)
        hits.append(g.low <= 0.5 <= g.high)
    assert 0.89 <= np.mean(hits) <= 0.99
    t, b, d = scores([0.31, 0.3, 0.4], 60, noise=0.2)
    none = gap_recovered(t, b, distilled=d, resamples=400, scale=1, digits=3)
    assert none.value is None and "not significantly better" in none.reason and "points" not in none.reason
    assert (
        "points" in gap_recovered(t, b, distilled=d, resamples=400).reason
        and "worse than" in gap_recovered(b, b + 0.1, distilled=d, resamples=400).reason
    )
    same = gap_recovered(t + 0.2, b, distilled=b, resamples=400)
    assert same.value == 0 and "score the same on every item" in same.reason


def test_many_items_are_drawn_in_parts_with_the_same_result_as_at_once():
    a, b = scores([0.3, 0.4], 3000)
    at_once = np.random.default_rng(5).multinomial(3000, [1 / 3000] * 3000, size=2500) @ np.stack([a, b], 1)
    assert np.allclose(_bootstrap([a, b], 2500, seed=5), at_once)


def test_items_without_a_score_leave_both_arms():
    g = pd.DataFrame(
        dict(
            arm=["student/vanilla"] * 4 + ["distilled/vanilla"] * 4,
            id=list("abcd") * 2,
            s=[0.1, np.nan, 0.3, 0.4, 0.2, 0.3, np.nan, 0.5],
        )
    )
    (a, b), *_ = matched(g, ("student/vanilla", "distilled/vanilla"), column="s")
    assert list(a) == [0.1, 0.4] and list(b) == [0.2, 0.5]
    assert matched(g.assign(s=np.nan), ("student/vanilla", "distilled/vanilla"), column="s")[0] is None
    t = compare(g.assign(s=np.nan), (("student/vanilla", "distilled/vanilla"),), column="s")[0]
    assert t.verdict == "not available" and t.reason == "no items in common"


def test_smallest_difference_has_the_power_it_promises():
    d, seen = smallest_difference(0.1 * (2 / 60) ** 0.5), 0
    for s in range(300):
        a, b = scores([0.3, 0.3 + d], 60, s, 0.1)
        seen += sign_flip_test(a, b, flips=400) <= 0.05
    assert 0.7 < seen / 300 < 0.88


# --- BCa, shared sources, seeds, families

LAW = np.array(
    [576, 635, 558, 578, 666, 580, 555, 661, 651, 605, 653, 575, 545, 572, 594.0]
)  # LSAT scores of fifteen law schools (Efron and Tibshirani)


@pytest.mark.parametrize(
    "values", [LAW, np.random.default_rng(4).lognormal(0, 1, 40), np.random.default_rng(5).random(200) ** 4]
)
def test_bca_is_scipys(values):
    from scipy.stats import bootstrap

    theirs, ours = (
        bootstrap((values,), np.mean, n_resamples=30_000, method="BCa", rng=1).confidence_interval,
        mean_interval(values, 30_000),
    )
    assert [ours.low, ours.high] == pytest.approx(theirs, abs=0.02 * (theirs[1] - theirs[0]))


def test_bca_follows_the_tail_and_covers_better():
    drawn = np.random.default_rng(9).integers(0, 40, (600, 40))
    hits, mean, quantile = np.zeros(2), np.exp(0.5), lambda v: np.quantile(v[drawn].mean(1), [0.025, 0.975])
    for s in range(500):
        v = np.random.default_rng(s).lognormal(0, 1, 40)
        i, (low, high) = mean_interval(v, 600), quantile(v)
        hits += [i.low <= mean <= i.high, low <= mean <= high]
    assert hits[0] > hits[1] and hits[0] / 500 > 0.88  # of a lognormal no bootstrap of 40 reaches 95 %


@pytest.mark.parametrize("values", [[0.4] * 9, [0.0, 0], [1.0] * 5])
def test_where_nothing_varies_the_interval_has_no_width_and_says_so(values):
    i = mean_interval(values)
    assert i.low == i.high == i.value and "the same on every item" in i.reason


def clustered(rng, sources=40, each=5, between=0.2, within=0.1):
    of = np.repeat(np.arange(sources), each)
    return rng.normal(0, between, sources)[of] + rng.normal(0, within, len(of)), of


def test_intervals_that_draw_items_of_one_source_apart_cover_too_little():
    rng, hits = np.random.default_rng(8), np.zeros(2)
    for _ in range(500):
        v, of = clustered(rng)
        hits += [(i := mean_interval(v, 400, seed=0, sources=x)).low <= 0 <= i.high for x in (None, of)]
    assert hits[0] / 500 < 0.75 and 0.915 < hits[1] / 500 < 0.975


def test_tests_of_one_source_apart_see_what_is_not_there():
    rng, false = np.random.default_rng(9), np.zeros(2)
    for s in range(200):
        v, of = clustered(rng)
        false += [sign_flip_test(np.zeros(len(v)), v, flips=300, seed=s, sources=x) <= 0.05 for x in (None, of)]
    assert false[0] / 200 > 0.2 and 0.01 < false[1] / 200 < 0.1


def test_right_and_wrong_of_shared_sources_are_turned_together():
    rng, false = np.random.default_rng(10), 0
    for s in range(200):
        u, of = rng.random(40).repeat(5), np.repeat(np.arange(40), 5)
        a, b = ((u + rng.normal(0, 0.1, 200) + rng.normal(0, 0.3, 40).repeat(5)) < 0.5 for _ in "ab")
        false += paired_p(a, b, sources=of) <= 0.05
        if s == 0:
            assert paired_p(a, b, sources=np.arange(200)) == mcnemar(a, b)
    assert 0.01 < false / 200 < 0.1


def test_paired_tests_keep_their_size():
    rng, false = np.random.default_rng(11), np.zeros(2)
    for s in range(600):
        u = rng.random(80)
        a, b = ((u + rng.normal(0, 0.3, 80)) < 0.5 for _ in "ab")
        false += [mcnemar(a, b) <= 0.05, (d := paired_difference(a, b, resamples=300, seed=s)).low > 0 or d.high < 0]
    assert false[0] / 600 <= 0.06 and 0.025 < false[1] / 600 < 0.08  # the exact test errs on the safe side


def test_one_source_alone_has_no_interval():
    assert (
        mean_interval([0.1, 0.2, 0.3], sources=["a"] * 3).low is None
        and "one source" in mean_interval([0.1, 0.2], sources=["a"] * 2).reason
    )


def test_nothing_shared_changes_nothing():
    v = np.random.default_rng(0).random(60)
    assert mean_interval(v, sources=np.arange(60)) == mean_interval(v) and paired_difference(
        v, v**2, sources=list(range(60))
    ) == paired_difference(v, v**2)


def test_unknown_scores_leave_with_their_source():
    i = mean_interval([0.1, np.nan, 0.3, 0.5], sources=["a", "a", "b", "b"])
    assert i.n == 3 and i.value == pytest.approx(0.3) and i.low == pytest.approx(0.1) and i.high == pytest.approx(0.4)


def test_comparisons_and_gaps_take_the_sources_of_a_table():
    rng = np.random.default_rng(1)
    u = rng.random(40).repeat(5)
    g = grades(sv=u + rng.normal(0, 0.05, 200) < 0.3, dv=u + rng.normal(0, 0.05, 200) < 0.5, tc=u < 0.9)
    alone, together = (
        find_test(compare(x), "student/vanilla", b="distilled/vanilla")
        for x in (g, g.assign(source=[f"s{int(i[1:]) // 5}" for i in g["id"]]))
    )
    assert together.difference.value == alone.difference.value and together.p > alone.p
    assert together.difference.high - together.difference.low > 1.4 * (alone.difference.high - alone.difference.low)
    wide, narrow = (gaps(x)[0].recovered for x in (g.assign(source=[f"s{int(i[1:]) // 5}" for i in g["id"]]), g))
    assert wide.value == narrow.value and wide.high - wide.low > narrow.high - narrow.low


def test_a_family_is_corrected_as_one():
    first, more = (
        compare(grades(sv=[0] * 20, dv=[1] * 8 + [0] * 12)),
        compare(grades(sv=[0] * 20, dv=[1] * 6 + [0] * 14, tc=[1] * 20)),
    )
    a, b = (find_test(x, "student/vanilla", b="distilled/vanilla") for x in (first, corrected(first, more)))
    assert (a.family, b.family) == (1, 2) and b.p == a.p and b.p_holm == pytest.approx(2 * a.p) and a.p_holm == a.p


def test_a_difference_that_is_rounding_is_none():
    x, y = np.array([0.1 + 0.2, 0.5, 0.7, 0.2]), np.array([0.3, 0.4, 0.9, 0.2])
    found = paired_test("a", "b", values=(x, y), resamples=50, seed=0)
    assert x[0] > y[0] and (found.a_only, found.b_only) == (1, 1)
