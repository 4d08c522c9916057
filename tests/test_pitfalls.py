"Pitfalls where the truth about them is known, and where there is hardly anything to measure."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from made_up import made_up_grades, made_up_scores

from distill_study.analyse.findings import (
    Pitfall,
    blinded,
    chance,
    decoding,
    difficulty_table,
    easy,
    extraction,
    findings,
    length,
    multiple,
    noise,
    overlapped,
    pitfalls,
    power,
    reworded,
    rule_table,
    swapped,
    validation,
    wording,
)
from distill_study.analyse.results import analyse
from distill_study.config import ARMS, ConfigError, Curate, Data, arms_under, fingerprint
from distill_study.data.load import DataError, Example, load_data
from distill_study.grading.truth import COLUMNS, GRADER_VERSION, METRICS, grade, grader_hash
from distill_study.study.plan import how_much, parse_recipe, stages_of
from distill_study.study.run import shuffled
from distill_study.tasks.families import PARAPHRASES, RULES, TASKS, Parsed
from distill_study.tasks.reading import READER_VERSION
from distill_study.teach.curate import Curated, Drop, curate
from distill_study.teach.sampling import Answer, Answers, sample_answers

KEYS = [
    "extraction",
    "wording",
    "decoding",
    "seeds",
    "overlap",
    "noise",
    "easy",
    "length",
    "validation",
    "multiple",
    "power",
]


def of(skill, n=200, seed=0, **changes):
    return analyse(made_up_grades(n, skill, seed=seed).assign(**changes), resamples=300)


def column(results, arm, flip=0.0, seed=0):
    "Right and wrong of an arm, a share of the items turned."
    x = results.graded[results.graded["arm"] == arm].set_index("id")["correct"]
    return x ^ (np.random.default_rng(seed).random(len(x)) < flip)


TWO = {"student/vanilla": 0.4, "distilled/vanilla": 0.6}

# --- items asked in another way


@pytest.mark.parametrize("name", ["tiny-math", "tiny-qa", "tiny-nli", "tiny-summ", "tiny-chat"])
def test_another_wording_changes_the_system_prompt_alone(name):
    e = load_data(Data(name=name, train=1, test=2)).test[0]
    for k in range(1, 1 + len(PARAPHRASES[e.task])):
        r = reworded(e, k)
        assert (
            r.ask("vanilla")[0] != e.ask("vanilla")[0]
            and r.ask("vanilla")[1:] == e.ask("vanilla")[1:]
            and (r.id, r.gold, r.key, r.source) == (e.id, e.gold, e.key, e.source)
        )


def test_only_the_plain_prompt_has_other_wordings():
    with pytest.raises(Exception, match="only the plain prompt"):
        reworded(load_data(Data(name="tiny-math", train=1, test=1)).test[0], 2).ask("cot")


@pytest.mark.parametrize("name", ["tiny-math", "tiny-qa", "tiny-nli"])
def test_a_blind_item_keeps_its_gold_and_loses_its_text(name):
    for e in load_data(Data(name=name, train=1, test=20)).test:
        b = blinded(e)
        assert (
            (b.gold, b.choices, b.id) == (e.gold, e.choices, e.id)
            and b.question in e.question
            and len(b.question) < len(e.question) * 0.8
        )


def test_where_nothing_can_be_left_out_there_is_no_blind_item():
    assert blinded(Example("a", "math", (dict(role="user", content="What is 2 + 2?"),), "4")) is None
    assert all(blinded(load_data(Data(name=n, train=1, test=1)).test[0]) is None for n in ("tiny-summ", "tiny-chat"))


def test_chance_is_the_best_constant_answer_or_a_guess():
    def items(golds, choices=None):
        return [Example(str(i), "nlu_qa", (), g, choices) for i, g in enumerate(golds)]

    assert (
        chance(items("AABC", ("x", "y", "z", "w"))) == 0.5
        and chance(items("ABCD", ("x", "y"))) == 0.5
        and chance(items("ABCD")) == 0.25
    )


# --- orders


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), min_size=1),
)
@settings(max_examples=100, deadline=None)
def test_swapped_pairs_are_those_that_both_levels_put_in_order(a, b):
    pairs = swapped(a, b)
    assert (
        all(a[x] > a[y] and b[x] < b[y] for x, y in pairs)
        and swapped(a, a) == []
        and {frozenset(p) for p in pairs} == {frozenset(p) for p in swapped(b, a)}
    )


# --- lines from what a report has


def test_the_extractor_that_hides_a_change_of_order():
    g = made_up_grades(200, TWO)
    g.loc[g["arm"] == "distilled/vanilla", "correct_strict"] &= np.arange(200) % 2 == 0
    line = extraction(analyse(g, resamples=300))
    assert (
        line.value.value > 0.15
        and line.value.low is None
        and "distilled/vanilla is no longer ahead of student/vanilla" in line.sentence
        and "distilled/vanilla loses most" in line.sentence
    )


def test_an_extractor_that_changes_nothing():
    g = made_up_grades(60, TWO)
    g["correct_strict"] = g["correct"]
    line = extraction(analyse(g, resamples=300))
    assert line.value.value == 0 and "No arm loses anything" in line.sentence and "stays the same" in line.sentence


def test_right_labels_that_teach_more_than_wrong_ones():
    r = of({"student/vanilla": 0.3, "control/right": 0.7, "control/wrong": 0.4})
    assert noise(r).value.low > 0 and noise(r).sentence.startswith("Right labels teach more.")


def test_overlapping_items_are_counted():
    drops = [Drop(f"t{i}", "shares words with a test input", f"q{i}, 80 % of its words") for i in range(80)]
    curated = {"distilled/vanilla": Curated("distilled/vanilla", [], drops)}
    assert overlapped(curated) == {f"q{i}" for i in range(80)}
    line = pitfalls(of(TWO), curated)["overlap"]
    assert line.value is None and line.sentence.startswith("80 test items share their text")


def test_ids_with_commas_are_read_back():
    drops = [
        Drop("a", "nearly repeats a test input", "x, y, similarity 0.91"),
        Drop("b", "repeats a test input", "p, q"),
        Drop("c", "repeats a validation input", "v"),
    ]
    assert overlapped({"distilled/vanilla": Curated("distilled/vanilla", [], drops)}) == {"x, y", "p, q"}


def test_holm_is_counted_over_the_claims():
    r = of({"teacher/cot": 0.9, "student/vanilla": 0.4, "distilled/vanilla": 0.52, "distilled/cot-answer": 0.53}, 100)
    line, made = multiple(r), [t for t in r.tests if t.p is not None]
    assert (
        line.value.value == sum(t.p <= 0.05 for t in made) - sum(t.p_holm <= 0.05 for t in made)
        and f"Of {len(made)} tests" in line.sentence
    )


def test_power_falls_with_fewer_items():
    small, large = power(of(TWO, 40)), power(of(TWO, 400))
    assert large.value.value < small.value.value and large.value.n == 400


def test_length_that_is_rated_is_seen_and_the_order_adjusted():
    rng = np.random.default_rng(0)
    g = made_up_scores(n=200, level={"student/vanilla": 0.2, "distilled/vanilla": 0.2})
    g["words"] = np.where(g["arm"] == "distilled/vanilla", 40, 20) + rng.normal(0, 4, len(g))
    g["rougeLsum"] = (
        0.002 * g["words"] + np.where(g["arm"] == "student/vanilla", 0.02, 0) + rng.normal(0, 0.005, len(g))
    )  # longer, not better
    line = length(analyse(g, resamples=300, metric=METRICS["rougeLsum"]))
    assert (
        line.value.low < 0.02 < line.value.high
        and "longer texts are rated better" in line.sentence
        and "distilled/vanilla is no longer ahead of student/vanilla" in line.sentence
    )


@pytest.mark.parametrize("change", [dict(words=20.0), dict(words=np.nan)])
def test_length_without_variation_says_so(change):
    assert (
        "Not estimable"
        in length(analyse(made_up_scores(n=40).assign(**change), resamples=300, metric=METRICS["rougeLsum"])).sentence
    )


def test_validation_by_loss_that_keeps_a_worse_checkpoint():
    looks = [dict(step=i, loss=x, right=r) for i, x, r in ((1, 0.9, 0.4), (2, 0.5, 0.7), (3, 0.4, 0.6))]
    line = validation(
        {
            "distilled/vanilla": dict(looks=looks),
            "control/gold": dict(looks=looks[:2]),
            "distilled/cod": dict(looks=[dict(step=1, loss=0.1, right=None)]),
        }
    )
    assert line.value.value == pytest.approx(0.1) and "1 of 2 arms" in line.sentence
    assert not validation({}).measured and "train.choose" in validation({}).sentence


# --- lines from further answers


def test_a_wording_that_matters_is_found_and_one_that_does_not_is_not():
    r = of(TWO, 300)
    same = wording(r, {(a, 1): column(r, a) for a in TWO})
    assert same.value.value == 0 and "stays the same" in same.sentence
    hurt = column(r, "distilled/vanilla")
    hurt[:] = hurt & (np.arange(300) % 2 == 0)
    line = wording(r, {("student/vanilla", 1): column(r, "student/vanilla"), ("distilled/vanilla", 1): hurt})
    assert (
        line.value.value > 0.2
        and line.value.low is None  # the largest of several has none
        and "distilled/vanilla differs most" in line.sentence
        and "changes under 1 of 1" in line.sentence
    )


def test_draws_are_compared_with_the_usual_answers_item_by_item():
    r = of(TWO, 300)
    line = decoding(r, {(a, k): column(r, a, 0.05, k) for a in TWO for k in range(3)}, temperature=0.7)
    assert line.value.n == 300 and line.value.low is None and "Over 3 draws" in line.sentence
    worse = decoding(
        r, {("distilled/vanilla", 0): pd.Series(False, column(r, "distilled/vanilla").index)}, temperature=1.0
    )
    assert worse.value.value < -0.4 and "significant for 1 of 1" in worse.sentence


def test_further_answers_to_some_items_alone():
    r = of(TWO, 100)
    assert wording(r, {("student/vanilla", 1): column(r, "student/vanilla")[:5]}).value.n == 5
    assert decoding(r, {("student/vanilla", 0): column(r, "student/vanilla")[:5]}, temperature=0.7).value.n == 5


def test_items_that_give_themselves_away():
    r, items = of(TWO, 60), load_data(Data(name="tiny-nli", train=1, test=60)).test
    ids = [f"q{i}" for i in range(60)]
    away, fair = (easy(r, pd.Series(np.arange(60) < n, ids), examples=items) for n in (55, 60 * chance(items)))
    assert (
        "give themselves away" in away.sentence
        and "about as often as chance" in fair.sentence
        and "the hypothesis alone" in away.sentence
    )


# --- all of them


def read_as(*replies, task="math", strategy="cot"):
    "Replies as `sampling.Answers`."
    return Answers(
        strategy,
        [Answer(f"q{i}", t, TASKS[task].parse(t, strategy), None, "stop", 1, 1, None) for i, t in enumerate(replies)],
        0,
        len(replies),
    )


def test_answers_are_counted_by_their_rule():
    texts = ["Answer: 7\n\nQ: 2 + 2? Answer: 4", "7", "Answer: 7", "<think>7", '{"answer": 7}', "It is 7.", "7</s>"]
    (row,) = rule_table({"teacher/cot": read_as(*texts)}).rows
    rules = {k or "unread": row[k or "unread"] for k in RULES}
    assert rules == dict(exact=1, whole=2, stated=1, json=1, prose=1, unread=1)
    assert (row["n"], row["ignored"], row["differs"]) == (7, 1, 0)


def test_the_turns_of_a_conversation_are_counted_one_by_one():
    turns = read_as("Hello.", "Bye.\nUser: And you?", task="conversation", strategy="vanilla")
    whole = Answers("vanilla", [Answer("c", "", Parsed("Bye.", None), None, "stop", 1, 1, None, parts=(*turns,))], 0, 1)
    (row,) = rule_table({"teacher/vanilla": whole}).rows
    assert (row["n"], row["exact"], row["whole"], row["ignored"]) == (2, 1, 1, 1)


@pytest.mark.parametrize(
    "graded, metric",
    [
        (made_up_grades(5), "correct"),
        (made_up_scores(n=5), "rougeLsum"),
        (made_up_scores("conversation", 5, level={"student/vanilla": 0.2, "distilled/vanilla": 0.3}), "overlap"),
        (made_up_grades(40, {"student/vanilla": 0.5}), "correct"),
        (made_up_grades(20, {"student/vanilla": 2, "distilled/vanilla": 2}), "correct"),
        (made_up_scores(n=12).assign(rougeLsum=0.3, rougeLsum_strict=0.3), "rougeLsum"),
        (made_up_scores(n=12).assign(rougeLsum=np.nan), "rougeLsum"),
    ],
    ids=["five items", "five scores", "five conversations", "one arm", "all right", "all equal", "no reference"],
)
def test_hardly_anything_to_measure(graded, metric):
    r = analyse(graded, resamples=200, metric=METRICS[metric])
    lines = pitfalls(r)
    assert [p.key for p in lines.entries] == KEYS and all(p.sentence.endswith((".", "]")) for p in lines.entries)
    assert "nan" not in lines.html() and "<table" in lines.html() and findings(r, pitfalls=lines).entries


def test_what_was_not_asked_for_says_how_to_ask():
    lines = pitfalls(of(TWO))
    assert [p.key for p in lines.entries if not p.measured] == [
        "wording",
        "decoding",
        "seeds",
        "noise",
        "easy",
        "validation",
    ]
    assert all(
        word in lines[key].sentence
        for key, word in (
            ("wording", "wordings: 2"),
            ("decoding", "samples: 3"),
            ("easy", "blind: true"),
            ("noise", "control/right"),
            ("seeds", "seeds:"),
            ("validation", "train.choose"),
        )
    )
    assert lines["wording"].number == "not measured" and "wording" not in lines and "grader" not in lines


def test_what_was_measured_is_no_longer_called_unchecked():
    r = of(TWO)
    lines = pitfalls(
        r,
        extra={("wording", "student/vanilla", 1): column(r, "student/vanilla")},
        judge=pd.DataFrame(dict(arm=["student/vanilla"], id=["q0"], criterion=["correct"], grade=[1.0])),
    )
    last = findings(r, pitfalls=lines).entries[-1]
    assert (
        "seed" in last.verdict
        and "wording" not in last.verdict
        and "grader" not in last.verdict
        and "wording" in findings(r).entries[-1].verdict
    )


def test_sentences_are_inert_in_a_page():
    assert (
        "<img" not in pitfalls(of(TWO)).html()
        and Pitfall("x", "<img src=x onerror=alert(1)>", "<script>").name
        in Pitfall("x", "<img src=x onerror=alert(1)>", "<script>").to_dict().values()
    )


# --- by difficulty, and a versioned grader


def test_accuracy_by_difficulty():
    items = load_data(Data(name="tiny-math", train=1, test=200)).test
    hard = {e.id: e.difficulty for e in items}
    g = made_up_grades(200, TWO)
    g["id"] = [items[int(i[1:])].id for i in g["id"]]
    g["correct"] = [hard[i] == "level 2" for i in g["id"]]
    rows = {r["arm"]: r for r in difficulty_table(analyse(g, resamples=300), items).rows}
    assert (
        rows["student/vanilla"]["level 2"].value == 1
        and rows["student/vanilla"]["level 4"].value == 0
        and "did not" not in str(rows["student/vanilla"])
    )


def test_a_column_says_how_hard_and_from_where(tmp_path):
    import json

    rows = [
        dict(
            messages=[dict(role="user", content=f"What is {i} + {i}?")],
            gold=str(2 * i),
            level=("easy", "hard")[i % 2],
            talk=f"d{i // 3}",
        )
        for i in range(12)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Data(name=str(tmp_path / "own.jsonl"), task="math", test=4, columns=dict(difficulty="level", source="talk"))
    splits = load_data(data)
    assert {e.difficulty for e in splits.train + splits.test} == {"easy", "hard"} and {
        e.source for e in splits.train + splits.test
    } == {"d0", "d1", "d2", "d3"}
    with pytest.raises(DataError, match="no column 'nosuch'"):
        load_data(data.model_copy(update=dict(columns=dict(source="nosuch"))))


def test_pairs_with_one_premise_share_a_source():
    def pair(p, h):
        return Example("x", "nli", (dict(role="user", content=f"Premise: {p}\nHypothesis: {h}"),), "neutral")

    assert (
        pair("It rains.", "It is wet.").source
        == pair("It rains.", "It is dry.").source
        != pair("It snows.", "It is wet.").source
    )
    said = load_data(Data(name="tiny-chat", train=1, test=30)).test
    assert len({e.source for e in said}) == len({e.key for e in said})  # a whole dialogue is one item here


def test_a_grade_is_made_again_from_the_store_without_a_model(tmp_path):
    from distill_study.models.engine import StoredEngine, open_engine
    from distill_study.store.log import Store

    splits = load_data(Data(name="tiny-qa", train=1, test=6))
    engine = open_engine("transformers:zoo/student-s")
    first = sample_answers(
        splits.test, "vanilla", engine=engine, store=Store(tmp_path), max_tokens=splits.max_tokens, split="test"
    )
    known = StoredEngine("transformers:zoo/student-s", engine.weights, asked=engine.asked(None))
    again = sample_answers(
        splits.test, "vanilla", engine=known, store=Store(tmp_path, True), max_tokens=splits.max_tokens, split="test"
    )
    a, b = (grade(splits.test, {"student/vanilla": x}) for x in (first, again))
    assert again.new == 0 and a.equals(b) and list(a.columns) == COLUMNS and not hasattr(known, "loaded")
    assert grader_hash("nlu_qa") != grader_hash("math") and isinstance(GRADER_VERSION, int)
    assert grader_hash("math") == fingerprint("grader", GRADER_VERSION, READER_VERSION, "math")


# --- arms of right and of wrong labels, settings, plan


def labels(right, of=None):
    "Training items and the teacher's answers to them, right or wrong."
    items = [
        Example(
            f"t{i}", "math", (dict(role="user", content=f"Item number {i}: what is {i} plus {i + 1}?"),), str(2 * i + 1)
        )
        for i in range(len(right))
    ]
    return items, Answers(
        "vanilla",
        [
            Answer(e.id, "x", Parsed(e.gold if r else "999", e.gold if r else "999"), r, "stop", 1, 9, 0.1)
            for e, r in zip(items, right)
        ],
        0,
        len(items),
    )


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_arms_of_right_and_wrong_labels_have_as_many_rows(right):
    items, answers = labels(right)
    done = {
        k: curate(
            ARMS[f"control/{k}"],
            items,
            answers=answers,
            test=[],
            settings=Curate(near=None, ngram=None, given_away=False),
        )
        for k in ("right", "wrong")
    }
    assert len({len(d.rows) for d in done.values()}) == 1 and len(done["right"].rows) == min(
        sum(right), len(right) - sum(right)
    )
    for k, d in done.items():
        assert all((r["messages"][-1]["content"] == "999") == (k == "wrong") for r in d.rows)
        assert d.attrition["inputs"] == len(right) == d.attrition["rows"] + sum(d.attrition["dropped"].values())


def test_without_gold_no_label_is_right_or_wrong():
    items, answers = labels([True] * 4)
    done = curate(
        ARMS["control/right"],
        items,
        answers=Answers("vanilla", [a.__class__(**(vars(a) | dict(correct=None))) for a in answers], 0, 4),
        test=[],
        settings=Curate(near=None, ngram=None, given_away=False),
    )
    assert not done.rows and {d.reason for d in done.drops} == {"no gold"}


def combination(**more):
    return parse_recipe(
        dict(
            name="x",
            teachers=["transformers:zoo/teacher"],
            students=["zoo/student-s"],
            data=[dict(name="tiny-qa", train=20, test=10)],
        )
        | more
    ).combinations()[0]


def test_the_arms_of_label_noise_are_only_there_when_asked_for():
    assert not {"control/right", "control/wrong"} & set(combination().arms)
    asked = combination(arms=["student/vanilla", "control/right", "control/wrong"])
    assert [s.arm for s in stages_of(asked) if s.kind == "train"] == ["control/right", "control/wrong"]


def test_shuffled_labels_are_a_training_of_their_own():
    assert "control/format" not in combination().arms and "control/format" not in arms_under(("vanilla", "cod"))
    both = stages_of(combination(arms=["control/gold", "control/format"]))
    works = [w for s in both for w in s.work if w.kind == "train"]
    assert len({w.key for w in works}) == 2 and "shuffled gold" in works[1].what
    rows = [dict(id=i, messages=[dict(role="user", content=f"q{i}"), dict(content=f"a{i}")]) for i in range(30)]
    mixed = shuffled(rows, 0)
    assert [r["messages"][0] for r in mixed] == [r["messages"][0] for r in rows] and mixed == shuffled(rows, 0)
    answers = [r["messages"][1]["content"] for r in mixed]
    assert (
        sorted(answers) == sorted(f"a{i}" for i in range(30)) and sum(a == f"a{i}" for i, a in enumerate(answers)) < 5
    )
    assert mixed != shuffled(rows, 1)


@pytest.mark.parametrize("primary", ["control/gold", "distilled/cod", "student/vanilla"])
def test_a_report_can_lead_with_no_arm_that_does_not_run(primary):
    with pytest.raises(ConfigError, match=f"primary: '{primary}' is not one of the distilled arms"):
        combination(primary=primary, arms=["control/gold", "student/vanilla", "distilled/vanilla"])


def test_the_plan_counts_what_is_asked_again():
    c = combination(pitfalls=dict(wordings=2, samples=3, blind=True, items=5))
    again = [work for work in stages_of(c)[-1].work if work.kind == "pitfalls"]
    assert len(again) == 5  # arms under the plain prompt
    asked = {work.arm: how_much(work) for work in again}
    assert asked.pop("student/vanilla") == "6 × 5 inputs"
    assert set(asked.values()) == {"5 × 5 inputs"}
    assert stages_of(combination())[-1].work == []


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(wordings=4), "pitfalls.wordings = 4"),
        (dict(samples=-1), "pitfalls.samples = -1"),
        (dict(temperature=0), "pitfalls.temperature = 0"),
        (dict(items=0), "pitfalls.items = 0"),
        (dict(wording=1), "Did you mean 'wordings'"),
    ],
)
def test_settings_that_can_t_be(wrong, says):
    with pytest.raises(ConfigError, match=says):
        combination(pitfalls=wrong)
