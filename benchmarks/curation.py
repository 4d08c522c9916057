"""Curation of 100,000 rows: rows per second and time of each step, on the built-in word problems (many of one mould)
and on random text; then how many planted near repeats MinHash finds, by their true similarity, which is counted anew
with plain sets of words.

    python benchmarks/curation.py [ROWS, 100000 if left out]
"""

import itertools
import random
import resource
import sys
import tempfile
import time

from _shared import report

from distill_study.config import ARMS, Combination, Curate, Data, Student, Teacher, Train
from distill_study.data.load import Example, Splits
from distill_study.data.world import items
from distill_study.tasks.families import TASKS
from distill_study.teach.curate import Overlaps, curate, near_repeats, overlaps, text_of, words
from distill_study.teach.sampling import Answer, Answers
from distill_study.tools.share import write_rows
from distill_study.train.sft import long_rows

ROWS, TESTS, PLANTED = int((sys.argv[1:] or ["100000"])[0]), 1000, 3000
ARM = ARMS["distilled/cot-rationale"]


def example(i, text, gold):
    return Example(i, "math", (dict(role="user", content=text),), gold)


def problems(split, n):
    return [(it.question, it.answer) for it in items("tiny-math", split, n=n, seed=0)]


def zipf(rng, vocabulary, n):
    "Words as often as in a language: the k-th most frequent one with weight 1 / k."
    weights = list(itertools.accumulate(1 / k for k in range(1, len(vocabulary) + 1)))
    return lambda: " ".join(rng.choices(vocabulary, cum_weights=weights, k=rng.randint(*n)))


def changed(rng, text, edits, vocabulary):
    "The text with so many words changed, left out or put in."
    said = text.split()
    for _ in range(edits):
        at, how = rng.randrange(len(said)), rng.randrange(3)
        said[at : at + (how != 1)] = [] if how == 0 and len(said) > 5 else [rng.choice(vocabulary)]
    return " ".join(said)


def timed(name, took, go):
    "Processor time, so that what else runs on the machine does not count."
    start = time.process_time()
    out = go()
    took[name] = time.process_time() - start
    return out


def steps(train, test):
    "Seconds of each step of curation, and rows that are left."
    said = [
        (
            f"First one thing and then another, which is what was asked for.\nAnswer: {e.gold}"
            if i % 50
            else "I don't know."
        )
        for i, e in enumerate(train)
    ]
    took, task = {}, TASKS["math"]
    parsed = timed("reading the answers", took, lambda: [task.parse(t, "cot") for t in said])
    answers = Answers(
        "cot",
        [Answer(e.id, t, p, p.answer == e.gold, "stop", 20, 60, 0.1) for e, t, p in zip(train, said, parsed)],
        0,
        len(train),
    )
    off = dict(near=None, ngram=None, given_away=False)
    parts = {
        "equal inputs": {},
        "near repeats (MinHash)": dict(near=0.7),
        "contamination (13-grams)": dict(ngram=13),
        "answers in the prompt": dict(given_away=True),
    }
    found = [
        timed(name, took, lambda: overlaps(train, dict(test=test), settings=Curate(**off | on)))
        for name, on in parts.items()
    ]
    found = Overlaps({i: leak for f in reversed(found) for i, leak in f.leaks.items()}, found[1].first)
    done = timed(
        "answers, verification, agreement, rows",
        took,
        lambda: curate(ARM, train, answers=answers, test=test, settings=Curate(verify=True), found=found),
    )
    timed(
        "token length (zoo/student-s)",
        took,
        lambda: long_rows(done.rows, "zoo/student-s", settings=Train(max_length=512, max_truncated=1)),
    )
    c = Combination(
        teacher=Teacher(engine="openai:generated"),
        student=Student(model="zoo/student-s"),
        data=Data(name="generated", task="math"),
    )
    with tempfile.TemporaryDirectory() as d:
        timed(
            "writing them as a data set",
            took,
            lambda: write_rows(
                f"{d}/rows", c, splits=Splits("generated", "math", "built-in", train[:1], [], []), done=done
            ),
        )
    return took, done.attrition


def plain_jaccard(a, b, k=3):
    a, b = ({tuple(w[i : i + k]) for i in range(len(w) - k + 1)} for w in (words(a), words(b)))
    return len(a & b) / len(a | b) if a | b else 0.0


def planted(rng, text, vocabulary):
    "(similarity from, to, planted pairs, found) and the precision of everything that is reported."
    texts = [text() for _ in range(20_000)]
    copies = [changed(rng, texts[i], 1 + i % 5, vocabulary) for i in range(PLANTED)]
    found = near_repeats(texts + copies)
    pairs = [(plain_jaccard(texts[i], copies[i]), found.get(len(texts) + i, (None,))[0] == i) for i in range(PLANTED)]
    all_ = texts + copies
    right = sum(plain_jaccard(all_[i], all_[j]) >= 0.7 for i, (j, _) in found.items())
    buckets = [
        (low, high, sum(low <= s < high for s, _ in pairs), sum(hit for s, hit in pairs if low <= s < high))
        for low, high in ((0.7, 0.75), (0.75, 0.8), (0.8, 0.9), (0.9, 1.01))
    ]
    return buckets, right, len(found)


if __name__ == "__main__":
    rng = random.Random(0)
    vocabulary = [
        "".join(
            rng.choices("bcdfghklmnprstvz", k=1)
            + rng.choices("aeiou", k=1)
            + rng.choices("bcdfghklmnprstvz", k=1)
            + rng.choices(["a", "e", "o", "er", "in", ""], k=1)
        )
        + str(i % 7 or "")
        for i in range(20_000)
    ]
    text = zipf(rng, vocabulary, (25, 80))
    kinds = {
        "word problems": (
            [example(f"a{i}", q, a) for i, (q, a) in enumerate(problems("train", ROWS))],
            [example(f"t{i}", q, a) for i, (q, a) in enumerate(problems("test", TESTS))],
        ),
        "random text": (
            [example(f"a{i}", text(), str(i)) for i in range(ROWS)],
            [example(f"t{i}", text(), str(i)) for i in range(TESTS)],
        ),
    }
    took, left = {}, {}
    for kind, (train, test) in kinds.items():
        took[kind], left[kind] = steps(train, test)
    mean = {kind: sum(len(words(text_of(e))) for e in train[:1000]) / 1000 for kind, (train, _) in kinds.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    buckets, right, reported = planted(rng, text, vocabulary)
    names = list(took["word problems"])
    rows = [[n, *(f"{took[k][n]:.1f}" for k in kinds), *(f"{ROWS / took[k][n]:,.0f}" for k in kinds)] for n in names]
    rows.append(
        [
            "**all**",
            *(f"**{sum(took[k].values()):.1f}**" for k in kinds),
            *(f"**{ROWS / sum(took[k].values()):,.0f}**" for k in kinds),
        ]
    )
    notes = [
        (
            f"{ROWS:,} training inputs against {TESTS:,} test inputs;"
            f" {', '.join(f'{k}: {mean[k]:.0f} words each' for k in kinds)}. One arm with reasoning; what repeats and"
            " what leaks is looked up once for all arms. Seconds of processor time, on one core. Peak memory"
            f" {memory:.1f} GiB, both sets in it."
        ),
        "Left of them: "
        + "; ".join(
            f"{k} {a['rows']:,} ({', '.join(f'{n:,} {r}' for r, n in a['dropped'].items())})" for k, a in left.items()
        )
        + ".",
        "",
        (
            f"Near repeats planted: {PLANTED:,} copies of 20,000 random texts with 1 to 5 words changed, left out or"
            " put in. Threshold 0.7, 128 permutations, 3 words in a row."
        ),
        "",
        "| true similarity | planted | found | recall |",
        "|---|---|---|---|",
        *(
            (
                f"| {low} to {min(high, 1)} | {n} | {hit} | {hit / n:.3f} |"
                if n
                else f"| {low} to {min(high, 1)} | 0 | | |"
            )
            for low, high, n, hit in buckets
        ),
        (
            f"| all from 0.7 | {sum(b[2] for b in buckets)} | {sum(b[3] for b in buckets)} |"
            f" {sum(b[3] for b in buckets) / sum(b[2] for b in buckets):.3f} |"
        ),
        "",
        (
            f"Reported pairs that are at least 0.7 similar, counted anew with plain sets: {right} of {reported},"
            f" precision {right / reported:.3f}. The similarity that decides leaves out what stands in more than 1 % of"
            " the texts."
        ),
    ]
    report(
        "curation",
        f"Curation of {ROWS:,} rows",
        ["step", *(f"{k}, s" for k in kinds), *(f"{k}, rows/s" for k in kinds)],
        rows,
        notes,
    )
