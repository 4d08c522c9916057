"A report knows when it can't know: students that learned the form of an answer, and nothing else."

import numpy as np
import pandas as pd
import pytest

from distill_study.analyse.findings import findings, power
from distill_study.analyse.results import analyse, confusions
from distill_study.analyse.stats import BASE, CONSTANT, Interval
from distill_study.report.figures import accuracy_figure
from distill_study.report.tables import arm_table, label_table

LABELS = ("entailment", "neutral", "contradiction")
N = 300
GOLD = [LABELS[i % 3] for i in range(N)]
RNG = np.random.default_rng(0)
SHUFFLED = list(RNG.permutation(GOLD))
UNREADABLE = [None] * N


def always(label):
    return [label] * N


def right(share):
    "Answers of which so many are right, and the others wrong."
    return [g if i < share * N else LABELS[(LABELS.index(g) + 1) % 3] for i, g in enumerate(GOLD)]


def graded(**answers):
    "Grades of arms with these answers; `teacher`, `base`, `plain`, `short`, `long`, `gold` name them."
    names = dict(
        teacher="teacher/cot",
        base=BASE,
        plain="distilled/vanilla",
        short="distilled/cot-answer",
        long="distilled/cot-rationale",
        gold="control/gold",
    )
    fine = dict(format_ok=True, truncated=False, stopped=True, failed=False, tokens=3.0, text="")
    frames = []
    for name, given in answers.items():
        correct = [a == g for a, g in zip(given, GOLD)]
        parsed = [a is not None for a in given]
        rows = dict(arm=names[name], id=range(N), answer=given, gold=GOLD, parsed=parsed)
        frames.append(pd.DataFrame(rows | dict(correct=correct, correct_strict=correct) | fine))
    return pd.concat(frames, ignore_index=True)


def study(**answers):
    return analyse(graded(**dict(teacher=right(0.9), base=UNREADABLE) | answers), resamples=200)


def test_a_student_that_only_learned_the_form_closed_no_gap():
    r = study(plain=always("neutral"), short=always("neutral"), gold=always("neutral"))
    assert (r.gap_base, r.constant.level.value) == (CONSTANT, 1 / 3)
    assert r.gap("distilled/cot-answer").value == pytest.approx(0)
    first = findings(r).entries[0]
    assert first.verdict.startswith("None shown") and "measured from the best constant answer" in first.verdict
    text = " ".join(first.sentences)
    assert "The best constant answer, “contradiction” to every item, is right on 33.3 %" in text
    assert "closes 37.0 % of the way from student/vanilla to the teacher" in text
    assert "from the best constant answer (0) to teacher/cot (100)" in arm_table(r).note


@pytest.mark.parametrize("gold", [always("neutral"), SHUFFLED, UNREADABLE])
def test_where_gold_teaches_nothing_no_claim_about_labels_is_tested(gold):
    r = study(plain=always("neutral"), short=right(0.6), long=right(0.7), gold=gold)
    assert CONSTANT in r.control_not_above
    _, labels, internalised, *_ = findings(r).entries
    assert labels.verdict == (
        "Not testable with answers alone: even gold answers bring no gain here. "
        "Written out, the reasoning takes the student from 0.0 % to 70.0 %."
    )
    assert internalised.verdict.startswith(
        "Not testable here, as in question 2: 60.0 % when it answers at once, 70.0 %"
    )
    assert sum("this run can't show what answers teach" in s for s in (*labels.sentences, *internalised.sentences)) == 1


def test_where_gold_teaches_something_the_numbers_decide():
    r = study(plain=right(0.45), short=right(0.6), long=right(0.61), gold=right(0.65))
    assert r.control_not_above == ()
    _, labels, internalised, *_ = findings(r).entries
    assert labels.verdict.startswith("Yes: trained on reasoned answers 60.0 %, on plain ones 45.0 %.")
    assert internalised.verdict.startswith("Yes") and "As good as writing the reasoning out" in internalised.verdict
    worse = study(plain=right(0.45), short=right(0.6), long=right(0.8), gold=right(0.65))
    assert "it gives up 20.0 points" in findings(worse).entries[2].verdict


def test_an_untouched_student_above_the_constant_stays_what_gaps_are_measured_from():
    r = study(base=right(0.5), plain=right(0.6))
    assert r.gap_base == BASE
    assert r.gap("distilled/vanilla").value == pytest.approx(0.25)


def test_constants_are_named_and_no_number_of_items_is_promised():
    r = study(base=always("contradiction"), short=always("neutral"), plain=right(0.5), gold=always("neutral"))
    assert r.fixed_arms == [BASE, "distilled/cot-answer", "control/gold"]
    text = " ".join(findings(r).entries[0].sentences)
    assert "student/vanilla answers “contradiction” to 100.0 % of the items" in text
    assert power(r).value is None
    assert power(study(base=right(0.4), plain=right(0.5))).value is not None
    table = arm_table(r)
    assert table.rows[-1] == dict(table.rows[-1], arm="the best constant answer", accuracy=r.constant.level)
    assert {row["arm"]: row["common"] for row in table.rows if row["n"]}[BASE] == "contradiction (100.0 %)"
    assert len(accuracy_figure(r).axes[0].lines) > 0


@pytest.mark.parametrize("a_wins, b_wins, p", [(94, 4, 0.001), (4, 94, 0.001), (50, 48, 0.9)])
def test_a_judge_that_says_the_opposite_stands_in_the_finding(a_wins, b_wins, p):
    r = study(plain=right(0.5), gold=right(0.6))
    rate = Interval(b_wins / (a_wins + b_wins))
    win = dict(a=BASE, b="distilled/vanilla", n=a_wins + b_wins, a_wins=a_wins, b_wins=b_wins, rate=rate, p_holm=p)
    opposite = "The judge says the opposite: it prefers student/vanilla, 94 to 4 of 98 comparisons."
    assert (opposite in findings(r, wins=[win]).entries[0].verdict) == (a_wins == 94)


def test_labels_that_are_never_given_are_named():
    r = study(plain=always("neutral"), short=right(0.5))
    found = confusions(r.graded, LABELS, resamples=100)
    table = label_table(r, found)
    assert "distilled/vanilla never answers entailment and contradiction." in table.note
    recall = {row["arm"]: row.get("recall") for row in table.rows}
    assert recall["distilled/vanilla"] == 0 and recall["teacher/cot"] == pytest.approx(0.9)
