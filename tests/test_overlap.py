"""Near repeats, contamination and given-away answers, against slow and plain versions of the same."""

import random
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from distill_study.data.load import Example
from distill_study.tasks.families import TASKS
from distill_study.teach.curate import (
    Grams,
    contaminated,
    facts_of,
    gives_away,
    jaccard,
    near_repeats,
    shingles,
    text_of,
    words,
)

WORDS = st.sampled_from("a b c dog cat 3 17 naïve Straße 東 …".split())
TEXT = st.lists(WORDS, max_size=14).map(" ".join)
TEXTS = st.lists(TEXT, max_size=8)


@given(st.text(max_size=80))
def test_words_don_t_change_when_joined_again(text):
    found = words(text)
    assert words(" ".join(found)) == found and words(f"«{text.replace(' ', '  ')}»!") == found


@given(TEXT)
def test_case_and_punctuation_don_t_count(text):
    assert words(text.upper().replace(" ", ", ")) == words(text)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 6))
def test_n_grams_are_those_of_a_loop(texts, n):
    g = Grams(texts)
    h, of, at = g.windows(n)
    plain = [(i, tuple(words(t)[p : p + n])) for i, t in enumerate(texts) for p in range(len(words(t)) - n + 1)]
    assert of.tolist() == [i for i, _ in plain]
    named = {}
    for number, (_, gram) in zip(h.tolist(), plain):
        assert named.setdefault(number, gram) == gram  # one gram, one hash …
    assert len(set(named.values())) == len(named)  # … and the other way round
    assert [(p - g.starts[i]) for p, i in zip(at, of)] == [p for t in texts for p in range(len(words(t)) - n + 1)]


def plain_sets(texts, k):
    "The k-grams of each text; fewer words than k are one gram."
    found = [words(t) for t in texts]
    return [{tuple(w[p : p + k]) for p in range(len(w) - k + 1)} or ({tuple(w)} if w else set()) for w in found]


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from([0.3, 0.5, 0.7, 1.0]), st.integers(1, 4))
def test_what_is_reported_as_a_near_repeat_is_one(texts, threshold, k):
    "At most eight texts: none of their n-grams can be frame."
    sets, found = plain_sets(texts, k), near_repeats(texts, threshold=threshold, k=k)
    for i, (j, s) in found.items():
        assert j < i and j not in found and s >= threshold  # it repeats an earlier one that stays
        assert s == pytest.approx(len(sets[i] & sets[j]) / len(sets[i] | sets[j]))
    for i in range(len(texts)):  # equal sets are never missed
        first = next((j for j in range(i) if sets[j] and sets[j] == sets[i]), None)
        assert first is None or i in found


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS, st.data())
def test_other_facts_are_other_texts(texts, others, data):
    def some(xs):
        return data.draw(
            st.lists(
                st.tuples(st.sampled_from(["x", "y", None]), st.sampled_from([(1, 2), None])),
                min_size=len(xs),
                max_size=len(xs),
            )
        )

    def agree(a, b):
        return all(None in (x, y) or x == y for x, y in zip(a, b))

    facts, more = some(texts), some(others)
    for i, (j, _) in near_repeats(texts, facts=facts, threshold=0.3).items():
        assert agree(facts[i], facts[j])
    for i, (j, _) in near_repeats(texts, others, facts=facts, other_facts=more, threshold=0.3).items():
        assert agree(facts[i], more[j])


def one_by_one(sets, n, threshold, facts, permutations):
    "Near repeats of the first n sets as datasketch finds them, a sketch and an entry of its index at a time."
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=min(threshold, 0.9), num_perm=permutations, weights=(0.1, 0.9))
    hashes = [(s >> np.uint64(32)).tolist() for s in sets]
    sketches = [*MinHash.generator(hashes, num_perm=permutations, hashfunc=int, scheme="affine32")]
    own, found = n == len(sets), {}
    for j in (j for j in range(n, len(sets)) if len(sets[j])):
        lsh.insert(j, sketches[j])
    for i in (i for i in range(n) if len(sets[i])):
        like = [j for j in sorted(lsh.query(sketches[i])) if not facts or facts[i] == facts[j]]
        close = [(j if own else j - n, s) for j in like if (s := jaccard(sets[i], sets[j])) >= threshold]
        if close:
            found[i] = close[0]
        elif own:
            lsh.insert(i, sketches[i])
    return found


@pytest.mark.parametrize("seed", range(8))
def test_in_bulk_is_the_same_as_one_by_one(seed):
    draw = random.Random(seed)
    words = [f"w{i}" for i in range(draw.choice([400, 1500]))]
    texts = [" ".join(draw.choices(words, k=draw.randint(0, 30))) for _ in range(300)]
    for t in draw.choices(texts, k=300):
        said = t.split() or ["x"]
        said[draw.randrange(len(said))] = draw.choice(words)
        texts.append(" ".join(said))
    how = dict(threshold=draw.choice([0.4, 0.7, 0.95]), k=draw.choice([2, 3]), num_perm=draw.choice([64, 128]))
    facts = [(i % 3,) for i in range(len(texts))] if seed % 2 else None
    like = (how["threshold"], facts, how["num_perm"])
    assert near_repeats(texts, facts=facts, **how) == one_by_one(shingles(texts, how["k"]), len(texts), *like)
    some, others = texts[:350], texts[350:]
    found = near_repeats(Grams(some), others, facts=facts and facts[:350], other_facts=facts and facts[350:], **how)
    assert found == one_by_one(shingles(some, how["k"], others=others), 350, *like)
    assert found or how["threshold"] > 0.9


def plain_contaminated(texts, tests, n, share):
    "As documented, with loops."
    found, count = {}, Counter(tuple(w[p : p + n]) for w in map(words, tests) for p in range(len(w) - n + 1))
    for i, t in enumerate(map(words, texts)):
        grams = {tuple(t[p : p + n]) for p in range(len(t) - n + 1)}
        for j, held in enumerate(map(words, tests)):
            at = [p for p in range(len(held) - n + 1) if count[tuple(held[p : p + n])] <= 10]  # the others are frame
            can, does = (
                {q for p in at if p in some for q in range(p, p + n)}
                for some in (at, [p for p in at if tuple(held[p : p + n]) in grams])
            )
            part = len(does) / len(can) if can else float(bool(held) and t == held)
            if part > share and part > found.get(i, (0, 0))[1]:
                found[i] = (j, part)
    return found


@settings(max_examples=120, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 5), st.sampled_from([0, 0.3, 0.5, 0.8]), st.integers(1, 9))
def test_contamination_is_that_of_a_loop(texts, tests, n, share, chunk):
    found, plain = contaminated(texts, tests, n=n, share=share, chunk=chunk), plain_contaminated(texts, tests, n, share)
    assert list(found) == sorted(plain)
    for i, (_j, part) in found.items():
        assert part == pytest.approx(plain[i][1])


def test_a_frame_is_no_repetition():
    frame = "Read the story with care and then answer the question that follows it in one short sentence please"
    topics = [
        f"{frame}: {a} {b} {c} {d}" for a, b, c, d in np.random.default_rng(0).integers(0, 10**6, (300, 4)).tolist()
    ]
    assert near_repeats(topics) == {} and contaminated(topics[:200], topics[200:]) == {}
    assert list(near_repeats(topics + [topics[7] + "!"])) == [300]  # its own words, not the frame, give it away
    assert near_repeats(topics[:5], threshold=0.6)  # among five nobody can know


def test_the_same_leak_is_found_whatever_surrounds_it():
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(3000)]

    def text(n):
        return " ".join(rng.choices(vocabulary, k=n))

    tests = [text(40) for _ in range(50)]
    trains = [text(rng.randint(5, 200)) for _ in range(300)]
    planted = {}
    for j in range(0, 50, 3):
        i = rng.randrange(300)
        a, planted[i] = rng.randrange(0, 10), j
        trains[i] = f"{text(30)} {' '.join(tests[j].split()[a : a + 25]).upper()} {text(60)}"
    found = contaminated(trains, tests)
    assert {i: j for i, (j, _) in found.items()} == planted and all(part == 25 / 40 for _, part in found.values())
    assert contaminated(trains, tests, share=25 / 40) == {}


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "word " * 20_000,
        "\ud800 lone \udfff",
        "\x00\x01",
        "é" * 50 + "\u0301",
        "😀 " * 30,
        "\u202e mirrored \u2069",
        " \t\n ",
    ],
)
def test_odd_texts_are_compared_like_others(text):
    found = near_repeats([text, "something else", text])
    assert (2 in found) == bool(words(text)) and 1 not in found
    assert (0 in contaminated([text], [text])) == bool(words(text))


def test_a_hundred_thousand_characters_take_no_time():
    rng = random.Random(0)
    long = [" ".join(f"w{rng.randrange(5000)}" for _ in range(16_000)) for _ in range(4)]
    start = time.perf_counter()
    assert list(near_repeats([*long, long[2] + " end"])) == [4]
    assert list(contaminated([long[0], "short"], [long[0][2000:] + " and more", "nothing"])) == [0]
    assert time.perf_counter() - start < 5


def example(task, text, gold, choices=None):
    return Example("x", task, (dict(role="user", content=text),), gold=gold, choices=choices)


@given(
    st.integers(-999, 999),
    st.integers(-999, 999),
    st.sampled_from(["Answer: {}", "So the answer is {}.", "#### {}", "the final answer: {}"]),
)
def test_an_answer_that_stands_in_a_word_problem_is_found(gold, other, form):
    assert gives_away(example("math", f"Add 2 and 3. {form.format(gold)}", str(gold)))
    assert bool(gives_away(example("math", f"Add 2 and 3. {form.format(other)}", str(gold)))) == (other == gold)
    assert not gives_away(example("math", f"Tom has {gold} apples and finds {other}.", str(gold)))


@pytest.mark.parametrize("task", ["nli", "nlu_qa"])
def test_labels_stand_in_the_prompts_of_classification_by_design(task):
    assert gives_away(example(task, "The answer is A. A. entailment", "A", ("entailment", "no"))) is None
    assert gives_away(example(task, "entailment", None)) is None


def test_inputs_are_compared_by_what_is_asked_and_what_sets_them_apart():
    turns = (
        dict(role="user", content="Hi 3"),
        dict(role="assistant", content="Yes?"),
        dict(role="user", content="7,5 eggs"),
    )
    assert text_of(Example("x", "conversation", turns)) == "Hi 3\nYes?\n7,5 eggs" and facts_of(
        Example("x", "conversation", turns)
    ) == (None, None)
    assert facts_of(Example("x", "math", turns)) == facts_of(Example("x", "math", turns[::-1])) == (["3", "7,5"], None)
    assert facts_of(example("nli", "P", "neutral")) == (None, "neutral") and facts_of(example("nli", "P", None)) == (
        None,
        None,
    )
    assert (
        facts_of(example("nlu_qa", "Q", "B", ("x", "y")))
        == (None, "y")
        == facts_of(example("nlu_qa", "Q", "A", ("y", "x")))
    )


def test_jaccard_and_shingles_at_their_ends():
    assert (
        shingles([]) == []
        and near_repeats([]) == {}
        and near_repeats([""], [""]) == {}
        and near_repeats(["a"], []) == {}
    )
    a, b = shingles(["a b", "a b"])
    assert jaccard(a, b) == 1 and near_repeats(["a b", "A, b."]) == {1: (0, 1.0)}
    assert set(TASKS) >= {"math", "nlu_qa"}
