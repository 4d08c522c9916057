"Curation: every input is accounted for once, each step does what its setting says, targets are what they say."

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from distill_study.config import ARMS, DEFAULT_ARMS, ConfigError, Curate
from distill_study.data.load import Example
from distill_study.models.engine import Failure
from distill_study.store.log import Store
from distill_study.study.plan import parse_recipe, plan
from distill_study.study.run import Run, diverse_order, hardness, llkd_order, matched, random_order
from distill_study.study.workers import run_stage
from distill_study.tasks.families import EXPLAIN, SYSTEM, TASKS, Parsed
from distill_study.teach.curate import REASONS, Curated, Overlaps, choose, curate, enough, overlaps
from distill_study.teach.sampling import Answer, Answers, elect
from distill_study.tools.archive import ledger_rows

TRAINED = [a for a, arm in ARMS.items() if arm.model == "trained" and (arm.labels or "") in ("vanilla", "cot", "gold")]
CHOICES = ("red barn", "blue attic", "green hall")


def example(i, text, gold="A", task="nlu_qa", **meta):
    return Example(f"e{i}", task, (dict(role="user", content=text),), gold, CHOICES if task == "nlu_qa" else None, meta)


def answer(e, text, strategy="cot", finish="stop"):
    if text is None:
        return Answer(
            e.id, "", Parsed(None, None), False, None, None, None, None, failure=Failure("timeout", "60 s", 3)
        )
    p = TASKS[e.task].parse(text, strategy, choices=e.choices)
    return Answer(e.id, text, p, TASKS[e.task].correct(p.answer, e.gold) if e.gold else None, finish, 5, 20, 0.1)


def voted(e, texts, strategy="cot"):
    votes = tuple(answer(e, t, strategy) for t in texts)
    return elect(votes) if len(votes) > 1 else votes[0]


TEXTS = st.sampled_from(
    [
        "Because it is.\nAnswer: A",
        "It stands there.\nAnswer: B",
        "Answer: C",
        "Answer: F",
        "no idea",
        "",
        "It is the red barn",
        None,
    ]
)
QUESTIONS = st.sampled_from(
    [
        "Where is the old cat sleeping now?",
        "where is  the old cat sleeping NOW?",
        "Where is the old dog sleeping now?",
        "Which one?",
        "Who?",
        "Where on this farm does the black horse of the miller stand?",
        "Where on this farm does the white horse of the miller stand?",
    ]
)
INPUTS = st.lists(
    st.tuples(QUESTIONS, st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from(["A", "B", None])),
    min_size=1,
    max_size=8,
)
SETTINGS = st.builds(
    Curate,
    verify=st.booleans(),
    agreement=st.sampled_from([0, 0.5, 1]),
    near=st.sampled_from([None, 0.4, 0.7]),
    ngram=st.sampled_from([None, 4, 13]),
    contained=st.sampled_from([0, 0.5]),
    given_away=st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(INPUTS, SETTINGS, st.sampled_from(TRAINED), st.lists(QUESTIONS, max_size=2), st.sets(st.integers(0, 7)))
def test_every_input_becomes_rows_or_one_drop(inputs, how, name, held, long):
    arm, examples = ARMS[name], [example(i, q, gold) for i, (q, _, gold) in enumerate(inputs)]
    answers = (
        None if arm.labels == "gold" else Answers("cot", [voted(e, t) for e, (_, t, _) in zip(examples, inputs)], 0, 0)
    )
    test = [example(100 + j, q) for j, q in enumerate(held)]
    done = curate(
        arm,
        examples,
        answers=answers,
        test=test,
        settings=how,
        too_long=lambda rows: {f"e{i}": "90 tokens" for i in long},
    )
    a = done.attrition
    assert a["inputs"] == len(examples) == a["rows"] + sum(a["dropped"].values())
    assert sorted(done.kept + [d.id for d in done.drops]) == sorted(e.id for e in examples)
    assert all(d.reason in REASONS or d.reason == "failed: timeout" for d in done.drops)
    by_id = {e.id: e for e in examples}
    kept = [by_id[i] for i in done.kept]
    assert (
        len({e.key for e in kept}) == len(kept)
        and not {e.key for e in kept} & {e.key for e in test}
        and not {e.id for e in kept} & {f"e{i}" for i in long}
    )
    for row in done.rows:
        assert row["messages"][-1]["role"] == "assistant" and row["messages"][-1]["content"].strip()
        if how.verify and arm.labels != "gold" and arm.target == "answer":
            assert row["messages"][-1]["content"] == by_id[row["id"]].gold
    if arm.target == "mixed":
        assert all(n == 2 for n in Counter(r["id"] for r in done.rows).values())
    else:
        assert len(done.rows) == len(done.kept)
    assert sum(done.balance["after"].values()) == len(kept) and all(
        done.balance["after"][label] <= n for label, n in done.balance["before"].items()
    )


@settings(max_examples=40, deadline=None)
@given(INPUTS, st.sampled_from([a for a in TRAINED if not ARMS[a].only]))
def test_switching_every_step_off_keeps_all_but_bad_answers_and_equal_inputs(inputs, name):
    arm, examples = ARMS[name], [example(i, q, gold) for i, (q, _, gold) in enumerate(inputs)]
    answers = (
        None if arm.labels == "gold" else Answers("cot", [voted(e, t) for e, (_, t, _) in zip(examples, inputs)], 0, 0)
    )
    done = curate(arm, examples, answers=answers, test=[], settings=Curate(near=None, ngram=None, given_away=False))
    assert {d.reason for d in done.drops} <= {
        "empty",
        "outside the set",
        "unreadable",
        "not stated",
        "no reasoning",
        "no gold",
        "repeats a training input",
        "failed: timeout",
    }


@pytest.mark.parametrize(
    "task, text, reason",
    [
        ("math", "<think>It may be 15, or", "cut off in its reasoning"),
        ("math", "<think>It is 15.</think>\n", "cut off in its reasoning"),
        ("math", "<|channel|>analysis<|message|>15?", "cut off in its reasoning"),
        ("math", "Half of them. The answer is 12 or 15.", "undecided"),
        ("math", "Somewhere between 12 and 15", "undecided"),
        ("math", "Answer: \\text{12} or \\text{15}", "undecided"),
        ("nlu_qa", "The answer is A or (C).", "undecided"),
        ("nli", "It is either neutral or a contradiction.", "undecided"),
        ("nli", "I see.\n\nPremise: A cat sleeps.\nHypothesis: It", "another question"),
        ("math", "Let me see.\n\nQuestion: how many?", "another question"),
        ("math", "This or that, who knows?", "unreadable"),
        ("math", "", "empty"),
    ],
)
def test_what_can_t_be_read_has_a_reason_that_is_understood(task, text, reason):
    e = example(0, "Which one?", gold=None, task=task)
    got = Answers("cot", [answer(e, text)], 0, 0)
    (drop,) = curate(ARMS["distilled/cot-answer"], [e], answers=got, test=[]).drops
    assert (drop.reason, drop.evidence) == (reason, text.strip())
    assert REASONS[reason]


def test_the_first_reason_in_the_order_of_the_steps_counts():
    "One input with every fault: mend them one by one, and the next one is named."
    held = "Where on this farm does the black horse of the miller stand at night when it rains so hard?"
    how = Curate(verify=True, agreement=1)

    def reason(question, said, seen=()):
        examples = [*(example(50 + i, q) for i, q in enumerate(seen)), example(0, question)]
        answers = Answers(
            "cot", [*(voted(e, ["So.\nAnswer: A"] * 2) for e in examples[:-1]), voted(examples[-1], said)], 0, 0
        )
        done = curate(
            ARMS["distilled/cot-answer"],
            examples,
            answers=answers,
            test=[example(9, held)],
            settings=how,
            too_long=lambda rows: {"e0": "90 tokens"},
        )
        return next((d.reason for d in done.drops if d.id == "e0"), None)

    good, other = ["So.\nAnswer: A"] * 2, held.replace("black", "white")
    assert reason(held, ["no idea"] * 2) == "unreadable"
    assert reason(held, ["Answer: B"] * 2) == "disagrees with gold"
    assert reason(held, ["Answer: A", "Answer: B"]) == "too little agreement"
    assert reason(held, good) == "repeats a test input"
    assert reason(other, good) == "nearly repeats a test input"
    assert reason("Who?", good, ["who?"]) == "repeats a training input"
    assert (
        reason(
            "Tell me this: "
            + " ".join(held.split()[:14])
            + " and then explain to all of us here what it is that you know about it",
            good,
        )
        == "shares words with a test input"
    )
    assert reason("Who?", good) == "too long"


@pytest.mark.parametrize(
    "votes, share, kept",
    [
        (["A", "A", "B"], 0.6, True),
        (["A", "A", "B"], 0.7, False),
        (["A", "B"], 0.5, True),
        (["A", "B", "C"], 0.34, False),
        (["A"], 1, True),
        (["A"] * 7 + ["B"] * 18, 0.73, False),
        (["A"] * 14 + ["B"] * 11, 0.56, True),
        (["A"] * 6 + ["B"] * 4, 0.6, True),
    ],
)
def test_agreement_is_the_share_of_samples_that_say_the_same(votes, share, kept):
    e = example(0, "Who?")
    done = curate(
        ARMS["distilled/cot-answer"],
        [e],
        answers=Answers("cot", [voted(e, [f"Answer: {v}" for v in votes])], 0, 0),
        test=[],
        settings=Curate(agreement=share),
    )
    assert bool(done.rows) == kept and (kept or done.drops[0].reason == "too little agreement")


def test_verification_takes_a_right_sample_and_agreement_counts_its_friends():
    e = example(0, "Who?", "B")
    said = Answers("cot", [voted(e, ["Answer: A", "Answer: A", "x\nAnswer: B"])], 0, 0)
    assert (
        curate(ARMS["distilled/cot-answer"], [e], answers=said, test=[], settings=Curate(verify=True)).rows[0][
            "messages"
        ][-1]["content"]
        == "B"
    )
    assert (
        curate(ARMS["distilled/cot-answer"], [e], answers=said, test=[], settings=Curate(verify=True, agreement=0.5))
        .drops[0]
        .evidence
        == "1 of 3 samples say B"
    )


@pytest.mark.parametrize("task, gold", [("math", "4"), ("nlu_qa", "B")])
def test_the_targets_of_an_item(task, gold):
    e = example(0, "What is it?", gold, task)
    said = Answers("cot", [answer(e, f"First this.\nThen that.\nAnswer: {gold}")], 0, 0)
    rows = {
        a: [
            [m["content"] for m in r["messages"]]
            for r in curate(ARMS[a], [e], answers=None if a == "control/gold" else said, test=[]).rows
        ]
        for a in TRAINED
    }
    plain, thinking, why = SYSTEM[task, "vanilla"], SYSTEM[task, "cot"], "First this.\nThen that."
    asked = e.messages[1]["content"]
    assert rows["distilled/cot-answer"] == rows["control/gold"] == [[plain, asked, gold]]
    assert rows["distilled/cot-rationale"] == [[thinking, asked, f"{why}\nAnswer: {gold}"]]
    assert rows["distilled/cot-after"] == [[plain, asked, f"{gold}\n{why}"]]
    assert rows["distilled/cot-mixed"] == [[plain, asked, gold], [EXPLAIN[task], asked, why]]
    after = rows["distilled/cot-after"][0][2]  # what the student is stopped after is the answer in its strict form
    assert (
        TASKS[task]
        .parse(after[: after.index(ARMS["distilled/cot-after"].stop[0])], "vanilla", choices=e.choices)
        .strict
        == gold
    )


def test_a_group_keeps_its_first_good_row():
    qs = [
        "Where on this farm does the black horse of the old miller stand?",
        "Where on this farm does the black horse of the old miller stand now?",
        "Where on this farm does the black horse of the old miller stand today?",
    ]
    examples = [example(i, q) for i, q in enumerate(qs)]
    for said, kept in (
        (["Answer: A"] * 3, ["e0"]),
        (["no idea", "Answer: A", "Answer: A"], ["e1"]),
        (["", "", "Answer: A"], ["e2"]),
    ):
        done = curate(
            ARMS["distilled/cot-answer"],
            examples,
            answers=Answers("cot", [answer(e, t) for e, t in zip(examples, said)], 0, 0),
            test=[],
        )
        assert done.kept == kept


def test_what_is_looked_up_once_serves_every_arm():
    examples = [example(i, q) for i, q in enumerate(["Who?", "Which one?", "who?"])]
    said = Answers("cot", [answer(e, "So.\nAnswer: A") for e in examples], 0, 0)
    found = overlaps(examples, dict(test=[example(9, "which ONE?")], validation=[]), settings=Curate())
    for name in (a for a in TRAINED if not ARMS[a].only):
        given_found = curate(
            ARMS[name], examples, answers=None if name == "control/gold" else said, test=[], found=found
        )
        assert given_found.attrition["dropped"] == {"repeats a test input": 1, "repeats a training input": 1}
    assert curate(ARMS["control/gold"], examples, answers=None, test=[example(9, "Who?")], found=Overlaps()).kept == [
        "e0",
        "e1",
    ]  # it is believed


def test_validation_inputs_are_held_out_too():
    found = overlaps(
        [example(0, "Who?"), example(1, "Which one?")],
        dict(test=[], validation=[example(9, "who?")]),
        settings=Curate(),
    )
    assert found.leaks == {0: ("repeats a validation input", "e9")}


def test_a_summary_that_is_too_long_is_no_label():
    e = Example(
        "e0",
        "summarization",
        (dict(role="system", content="Sum it up."), dict(role="user", content="A long text about a bridge.")),
        meta=dict(words=4),
    )

    def said(text):
        return Answers("vanilla", [Answer("e0", text, Parsed(text, text, stated=True), None, "stop", 5, 20, 0.1)], 0, 0)

    assert curate(ARMS["distilled/vanilla"], [e], answers=said("The bridge is old."), test=[]).kept == ["e0"]
    assert (
        curate(ARMS["distilled/vanilla"], [e], answers=said("The bridge is very old."), test=[]).drops[0].reason
        == "too many words"
    )


@settings(deadline=None)  # the first interval imports statsmodels
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), max_size=20))
def test_hardness_counts_each_input_with_gold_once(items):
    examples = [example(i, f"Question {chr(97 + i)}?") for i in range(len(items))]
    said = Answers("cot", [answer(e, "Answer: A" if keep else "") for e, (keep, _) in zip(examples, items)], 0, 0)
    h = hardness(
        curate(ARMS["distilled/cot-answer"], examples, answers=said, test=[], settings=Curate(near=None, ngram=None)),
        {e.id: right for e, (_, right) in zip(examples, items)},
        sources={e.id: e.id for e in examples},
    )
    for group, flag in (("kept", True), ("dropped", False)):
        known = [right for keep, right in items if keep == flag and right is not None]
        assert h[group].n == len(known) and h[group].value == (sum(known) / len(known) if known else None)


@pytest.mark.parametrize(
    ("which", "taught"),
    [
        ("visible, else hidden", ["As said.", "so it is B"]),
        ("hidden", ["so it is A", "so it is B"]),
        ("visible", ["As said."]),
    ],
)
@pytest.mark.parametrize("name", ["distilled/cot-rationale", "distilled/cot-answer"])
def test_which_reasoning_is_taught(which, taught, name):
    examples = [example(0, "Who bakes?"), example(1, "Where do the cows sleep at night?", "B")]
    texts = ["<think>so it is A</think>As said.\nAnswer: A", "<think>so it is B</think>Answer: B"]
    answers = Answers("cot", [answer(e, t) for e, t in zip(examples, texts)], 0, 2)
    done = curate(ARMS[name], examples, answers=answers, test=[], settings=Curate(reasoning=which))
    rows = [r["messages"][-1]["content"] for r in done.rows]
    if name == "distilled/cot-answer":
        assert rows == ["A", "B"]
        assert done.hidden == 0
    else:
        assert [r.rpartition("\nAnswer: ")[0] for r in rows] == taught
        assert done.hidden == sum(t.startswith("so") for t in taught)
        assert done.attrition["dropped"] == ({"no reasoning": 1} if which == "visible" else {})


def test_settings_that_can_t_work_are_refused_by_name():
    raw = dict(name="x", teachers=["transformers:zoo/teacher"], students=["zoo/student-s"], data=["tiny-qa"])
    assert parse_recipe(raw).combinations()[0].arms == DEFAULT_ARMS and not any(ARMS[a].extra for a in DEFAULT_ARMS)
    with pytest.raises(ConfigError, match="asked once"):
        parse_recipe(raw | dict(curate=dict(agreement=0.5)))
    assert (
        parse_recipe(raw | dict(curate=dict(agreement=0.5), sampling=dict(n=3, temperature=0.7))).curate.agreement
        == 0.5
    )
    for bad in (
        dict(near=1.5),
        dict(near=0),
        dict(ngram=0),
        dict(contained=1),
        dict(agreement=2),
        dict(permutations=1),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"curate.{next(iter(bad))} = ")):
            parse_recipe(raw | dict(curate=bad))
    with pytest.raises(ConfigError, match="curate.nearr.*Did you mean 'near'"):
        parse_recipe(raw | dict(curate=dict(nearr=0.5)))
    assert parse_recipe(raw, {"curate.near": "null", "curate.ngram": "8"}).curate.ngram == 8


SAMPLES = ["It is a barn, and red.\nAnswer: A", "A red barn.\nAnswer: A", "a red barn!\nAnswer: A", "Blue.\nAnswer: B"]


def rationales(samples=SAMPLES, **settings):
    "What one input, sampled several times, teaches an arm that learns reasoning."
    e = example(0, "Where is the cat?")
    got = curate(
        ARMS["distilled/cot-rationale"],
        [e],
        answers=Answers("cot", [voted(e, samples)], 0, 1),
        test=[],
        settings=Curate(**settings),
    )
    return [r["messages"][-1]["content"].splitlines()[0] for r in got.rows]


def test_several_samples_of_an_input_become_rows_where_they_differ_and_give_its_answer():
    assert rationales() == rationales(keep=1) == ["It is a barn, and red."]
    assert rationales(keep=4) == ["It is a barn, and red.", "A red barn."], "the third one says the same"
    assert rationales(keep=4, verify=True) == ["It is a barn, and red.", "A red barn."]
    wrong_first = ["Blue.\nAnswer: B", "Attic.\nAnswer: B", *SAMPLES[:1]]
    assert rationales(wrong_first, keep=4) == ["Blue.", "Attic."]
    assert rationales(wrong_first, keep=4, verify=True) == ["It is a barn, and red."]


def test_the_shortest_reasoning_comes_first_where_it_is_preferred():
    assert rationales(prefer="shortest") == ["A red barn."]
    assert rationales(prefer="shortest", keep=2) == ["A red barn.", "It is a barn, and red."]
    longer = ["It is where I say.\nAnswer: A", "Blue.\nAnswer: B", "It is where I say, really.\nAnswer: A"]
    assert rationales(longer, prefer="shortest") == ["It is where I say."], "a shorter one of another answer is none"


def many(n=40):
    "Rows of `n` inputs, all of them kept."
    examples = [example(i, f"Which number is {i}?") for i in range(n)]
    answers = Answers("cot", [answer(e, "It is so.\nAnswer: A") for e in examples], 0, n)
    settings = Curate(near=None, ngram=None)
    return curate(ARMS["distilled/cot-rationale"], examples, answers=answers, test=[], settings=settings)


@pytest.mark.parametrize("budget", [1, 7, 39])
def test_a_budget_is_filled_exactly_in_the_order_of_the_choice_and_every_input_is_accounted_for(budget):
    done = many()
    order = random_order(done.kept, seed=3)
    few = choose(done, order, budget=budget)
    assert few.kept == sorted([*order][:budget], key=done.kept.index)
    assert few.attrition == dict(inputs=40, rows=budget, dropped={"over budget": 40 - budget})
    assert few.chosen.keys() == {*few.kept} and not few.chosen.keys() & {d.id for d in few.drops}
    assert [*random_order(done.kept, seed=3)] == [*order] != [*random_order(done.kept, seed=4)]


def test_too_few_rows_for_a_budget_are_said_to_be_missing():
    short = enough(many(), 5, budget=100).short
    assert "60 fewer than curate.budget = 100" in short and not enough(many(), 5, budget=40).short
    assert "min_rows = 50" in enough(many(), 50, budget=100).short


def test_what_the_teacher_is_sure_and_the_student_unsure_of_comes_first():
    sure, unsure = dict(a=1.0, b=1.0, c=0.25, d=1.0), dict(a=0.0, b=0.5, c=1.0, d=1.0)
    order = llkd_order([*"abcd"], sure=sure, unsure=unsure, seed=0)
    assert [*order] == ["d", "b", "c", "a"] and order["c"].startswith("0.250")


def test_every_cluster_has_its_turn_before_any_has_its_second():
    ids, rng = [f"e{i}" for i in range(90)], np.random.default_rng(0)
    centre = np.repeat(10 * np.eye(3), [70, 15, 5], axis=0)
    wrong, unsure = {i: k % 5 == 0 for k, i in enumerate(ids)}, {i: k % 2 / 2 for k, i in enumerate(ids)}
    vectors = centre + rng.normal(size=(90, 3))
    found = [*diverse_order(ids, vectors, wrong=wrong, unsure=unsure, clusters=3, seed=1)]
    kind = {i: int(np.argmax(c)) for i, c in zip(ids, centre)}
    assert [sorted(kind[i] for i in found[k : k + 3]) for k in (0, 3, 12)] == [[0, 1, 2]] * 3
    assert all(wrong[i] and unsure[i] for i in found[:2]), "of every cluster first what the student gets wrong, unsure"


RAW = dict(
    name="budget",
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s"],
    data=[dict(name="tiny-math", train=40, test=6)],
)


@pytest.mark.parametrize(
    "curate, why",
    [
        (dict(select="llkd", budget=20), "sampling.logprobs"),
        (dict(select="diverse"), "budget"),
        (dict(budget=100), "60 too few"),
        (dict(budget=5), "min_rows"),
        (dict(budget=20, embedding="zoo/student-m"), "select: diverse"),
        (dict(budget=0), "budget"),
        (dict(keep=0), "keep"),
        (dict(select="best"), "select"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_before_any_work(curate, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        parse_recipe(RAW | dict(curate=curate))


@pytest.mark.parametrize("select", ["llkd", "diverse"])
def test_a_run_chooses_its_rows_notes_why_and_a_replay_chooses_the_same(tmp_path, select):
    arms = ["teacher/cot", "student/vanilla", "distilled/cot-rationale", "control/gold"]
    teacher = dict(engine="transformers:zoo/teacher", strategies=["cot"], sampling=dict(logprobs=1))
    how = dict(data=dict(name="tiny-math", train=40, test=6), arms=arms, min_rows=5, store=tmp_path)
    how |= dict(options={"curate.select": select, "curate.budget": 10})
    run = Run(teacher, "zoo/student-s", **how)
    for arm, done in run.rows.items():
        assert len(done.rows) == 10 == len(done.chosen) and done.attrition["inputs"] == 40, arm
        noted = [e for e in ledger_rows(tmp_path) if e.get("arm") == arm and e["reason"] in ("chosen", "over budget")]
        places = {e["id"]: int(e["evidence"].split()[1]) for e in noted}
        assert sorted(places.values()) == [*range(1, len(noted) + 1)]
        assert {id for id, place in places.items() if place <= 10} == {*done.kept}
        assert all("student unsure" in e["evidence"] for e in noted)
    again = Run(teacher, "zoo/student-s", **how, replay=True)
    assert {a: d.rows for a, d in again.rows.items()} == {a: d.rows for a, d in run.rows.items()}
    drawn = Run(teacher, "zoo/student-s", **how | dict(options={"curate.budget": 10}), replay=True)
    assert drawn.rows["control/gold"].kept != run.rows["control/gold"].kept


def test_matched_arms_learn_from_the_inputs_that_every_distilled_arm_can_use():
    ids = {"distilled/vanilla": "abcd", "distilled/cot-answer": "bcde", "control/gold": "abcdef", "control/wrong": "ae"}
    made = matched({arm: Curated(arm, [dict(id=i) for i in own], []) for arm, own in ids.items()})
    assert {arm: "".join(done.kept) for arm, done in made.items()} == dict.fromkeys(ids, "bcd") | {
        "control/wrong": "ae"
    }
    assert made["control/gold"].attrition == dict(inputs=6, rows=3, dropped={"not in every arm": 3})
    alone = matched({"control/gold": Curated("control/gold", [dict(id="a")], [])})
    assert alone["control/gold"].kept == ["a"], "nothing to match with"


def test_stages_of_matched_arms_make_the_rows_that_the_report_expects(tmp_path):
    raw = dict(
        name="matched",
        teachers=[dict(engine="transformers:zoo/teacher", reasks=0, sampling=dict(max_tokens=48))],
        students=[dict(model="zoo/student-s", train=dict(method="full", learning_rate=1e-3, steps=1, batch_size=8))],
        data=[dict(name="tiny-math", train=24, test=4)],
        arms=["distilled/vanilla", "distilled/cot-answer", "control/gold"],
        curate=dict(match="rows"),
        min_rows=2,
        bootstrap=100,
    )
    recipe = parse_recipe(raw)
    stages = plan(recipe)
    label = next(s for s in stages if s.kind == "label")
    assert all(label.key in s.needs for s in stages if s.kind == "train"), "gold waits for the teacher, too"
    for stage in (label, *(s for s in stages if s.kind == "train")):
        assert not run_stage(stage, Store(tmp_path))
    run = Run.of(recipe.combinations()[0], Store(tmp_path, replay=True))
    kept = {arm: done.kept for arm, done in run.rows.items()}
    assert len({*map(tuple, kept.values())}) == 1 and 2 <= len(kept["control/gold"]) < 24
    assert {arm: fit.rows for arm, fit in run.students.items()} == {arm: len(ids) for arm, ids in kept.items()}
    assert run.attrition["control/gold"]["dropped"]["not in every arm"]
    other = parse_recipe(raw | dict(curate={}))
    assert {s.key for s in plan(other) if s.kind == "train"}.isdisjoint(s.key for s in stages)
