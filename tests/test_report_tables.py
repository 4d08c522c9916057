"Tables say what is missing, what was cut off and what failed, and no more than was measured."

from types import SimpleNamespace

import numpy as np
import pytest
from made_up import made_up_grades, made_up_scores

from distill_study.analyse.results import analyse, break_even, html_part, joined, sentences
from distill_study.analyse.stats import Interval, wilson
from distill_study.config import arms_under
from distill_study.grading.truth import METRICS
from distill_study.report.tables import (
    Cases,
    arm_table,
    attrition_table,
    cases,
    cost_table,
    form_table,
    hardness_table,
    input_text,
    reference_text,
    score_tables,
    test_table as tests_of,
    training_table,
)

MISSING = {"teacher/vanilla": "never asked for a bare answer", "control/gold": "left out of this run"}
CHAT = {"teacher/vanilla": 0.3, "student/vanilla": 0.2, "distilled/vanilla": 0.28}


@pytest.fixture(scope="module")
def results():
    return analyse(made_up_grades(), MISSING, resamples=100)


@pytest.fixture(scope="module")
def scored():
    return analyse(made_up_scores(), {"control/gold": "no references"}, resamples=100, metric=METRICS["rougeLsum"])


# --- words


def test_a_value_with_line_breaks_stays_in_its_sentence():
    words = sentences("tables.txt.j2", "changes", student="student\n  of two lines", family=2, seen={})
    assert words[0] == "student of two lines: distilled minus untouched"


def test_a_part_of_a_page_is_inert():
    assert html_part("listed", SimpleNamespace(text=["<b>", "p = 0.01"])).endswith(
        '<p class="lede">&lt;b&gt;</p><ul><li>p\u00a0=\u00a00.01</li></ul></div>'
    )
    assert [joined([]), joined("a"), joined("abc")] == ["", "a", "a, b and c"]


# --- arms, gaps, tests


def test_what_was_cut_off_or_failed_is_said_under_the_table(results):
    graded = results.graded
    cut = graded.assign(truncated=graded["arm"] == "student/vanilla")
    assert "model's context: student/vanilla (100.0 %)." in arm_table(analyse(cut, resamples=100)).note
    lost = graded.assign(failed=(graded["arm"] == "teacher/cot") & graded["id"].isin(["q3", "q5"]))
    assert "count as wrong: 2 of 120 of teacher/cot." in arm_table(analyse(lost, resamples=100)).note
    note = arm_table(results).note
    assert "cut off" not in note and "count as wrong: " not in note


def test_expressions_that_could_not_be_compared_are_counted(results, monkeypatch):
    assert "math-verify" not in arm_table(results).note
    graded = results.graded
    pair = (graded["gold"][0], graded["answer"][0])
    n = sum(pair == other for other in zip(graded["gold"], graded["answer"]))
    monkeypatch.setattr("distill_study.tasks.families._UNFINISHED", {pair, ("another", "pair")})
    assert f"math-verify could not compare {n} answers with gold in time" in arm_table(results).note


def test_items_of_one_source_are_said_to_be_drawn_together(results):
    of = analyse(results.graded.assign(source=[f"s{i // 3}" for i in range(120)] * 6), resamples=100)
    table = arm_table(of)
    assert "from 40 sources, which are drawn together; accuracy with 95 % bootstrap intervals." in table.sub
    assert "permutation" in tests_of(of).sub


def test_arms_that_did_not_run_are_named_in_gaps_and_tests(results):
    assert "against student/vanilla, control/gold did not run" in tests_of(results).html()


# --- scored families


def test_measures_without_references_are_left_out_and_named():
    scores = made_up_scores()
    none = scores.assign(density_strict=scores["density"], **dict.fromkeys(("rouge1", "rouge2", "rougeLsum"), np.nan))
    near = score_tables(analyse(none, resamples=100, metric=METRICS["density"]))[1]
    assert "Not available without references: ROUGE-1" in near.note and len(near.columns) == 3


def test_means_over_fewer_items_are_said_to_be():
    scores = made_up_scores()
    some = scores.assign(supported=scores["supported"].where(scores["id"].str[1:].astype(int) < 100))
    held = score_tables(analyse(some, resamples=100, metric=METRICS["rougeLsum"]))[0]
    assert "In the source (at least 100 of 120)" in held.note


def test_conversations_are_counted_as_such():
    graded, arms = made_up_scores("conversation", 60, level=CHAT), arms_under(("vanilla",))
    chat = analyse(graded, resamples=100, metric=METRICS["overlap"], arms=arms)
    table = arm_table(chat)
    assert "ends a conversation" in table.note and table.columns[-1].unit == "per conversation"
    assert [c.head for c in score_tables(chat, "conversation")[0].columns][-1]


def test_density_is_tested_in_its_own_unit(scored):
    table = tests_of(scored, key="density")
    assert table.caption == "Paired tests of entity density" and table.columns[2].unit == "entities per token"


# --- making and serving


def test_merges_are_told_where_they_change_a_model():
    merge = dict(tokens=40, same_choice=0.9)
    table = training_table({"control/gold": dict(rows=4, seconds=1.0, merge=merge)})
    assert "control/gold (10.0 % of 40)" in table.note
    assert not training_table({"control/gold": dict(rows=4, seconds=1.0)}).note


def test_the_step_whose_weights_were_kept():
    trained = dict(steps=30, chosen=20)
    table = training_table({"control/gold": trained})
    assert next(r["chosen"] for r in table.rows if r["arm"] == "control/gold") == 20
    assert "chosen on validation items" in table.sub
    assert "Weights kept" not in training_table({"control/gold": trained | dict(chosen=None)}).html()


def test_costs_without_prices(results):
    priced = cost_table(results, serving={"teacher/cot": dict(prompt_tokens=9, n=5, cost=0.6)})
    assert "Cost" in priced.html() and "gives no prices" not in priced.note
    assert "gives no prices" in cost_table(results, serving={"teacher/cot": dict(prompt_tokens=9, n=5, cost=None)}).note
    assert cost_table(results).rows[-1] == {"arm": "control/gold", "missing": "left out of this run"}
    assert break_even(1, 1.0, after=2.0) == float("inf")


# --- rows and drops


def test_groups_without_inputs():
    hard = hardness_table({"distilled/vanilla": dict(kept=wilson(7, 10), dropped=wilson(0, 0), truncated=wilson(0, 0))})
    assert [row["right"].value for row in hard.rows] == [0.7, None, None] and "not available" in hard.html()


def test_a_source_without_rows_has_its_reason():
    assert attrition_table({}, {"x": "too few"}).rows == (dict(source="x", missing="too few"),)


# --- cases and examples


def test_no_cases():
    assert "none of 3 items" in Cases("student/vanilla", "teacher/cot", 0, 3, ()).html()
    assert Cases("a", "b", 2, 3, ()).to_dict() == dict(wrong="a", right="b", total=2, n=3, shown=0)


def test_long_texts_are_cut_and_missing_references_named(scored):
    def article(i):
        said = dict(role="user", content="x" * 1300)
        return SimpleNamespace(id=f"q{i}", messages=(said,), gold=None if i else "Reference", turns=(said,), meta={})

    articles = [article(i) for i in range(120)]
    low = cases(scored.graded, articles, wrong="student/vanilla", right="distilled/cod", metric=scored.metric)
    assert low.rows[0]["question"].endswith("(100 more characters)") and "ROUGE-Lsum" in low.rows[0]["wrong"]["answer"]
    assert [row["gold"] for row in low.rows][:2] == ["Reference", "not available"]


def test_all_turns_of_a_conversation_are_shown():
    turns = tuple(dict(role="user", content=text) for text in ("Hello?", "And now?"))
    talk = SimpleNamespace(id="q0", messages=(), gold=None, turns=turns, meta=dict(reference=("Hi.", "Soon.")))
    assert [input_text(talk), reference_text(talk)] == ["1. Hello?\n2. And now?", "1. Hi.\n2. Soon."]


def test_tables_of_nothing_say_so():
    assert form_table([], METRICS["correct"]).note == "No other form was asked for, or none exists."
    one = dict(arm="control/gold", form="nf4", n=9, same=0.5, merged=0.4, level=0.5, difference=Interval(0.1), p=0.3)
    assert form_table([one], METRICS["correct"]).rows[0]["merged"] == 40
