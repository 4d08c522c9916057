"""Prints what reports say in every outcome that the tests know, so that it can be read as a whole.

Usage: python .ci/sentences.py > sentences.md
"""

import re
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
TEMPLATES = ("headline", "findings")  # of `distill_study/templates/text/`


def outcomes() -> dict:
    "Name → (results, further arguments of `headline`, of `findings`) of every outcome."
    import numpy as np
    import pandas as pd
    import test_gates as t
    from made_up import made_up_scores

    from distill_study.analyse.findings import Lines, Pitfall
    from distill_study.analyse.results import Table, analyse, confusions
    from distill_study.analyse.stats import BASE, Interval
    from distill_study.grading.truth import METRICS

    def of(*arms, **answers):
        return analyse(t.graded(**{a: t.right(answers[a]) for a in arms}), resamples=200)

    def nothing(scores, **how):
        return analyse(scores, resamples=50, **how)

    found = {name: (t.study(**answers), {}, {}) for name, (answers, _) in t.ANSWERS.items()}
    found |= {name: (t.scored(*of), {}, {}) for name, (of, _) in t.SCORES.items()}

    names = ("teacher", "base", "plain", "short", "long", "gold")

    # what did not run
    parts = dict(teacher=0.9, base=0.3, long=0.7, plain=0.5)
    found["no student"] = of("teacher", "base", **parts), {}, {}
    found["not untouched"] = of("teacher", "long", **parts), {}, {}
    found["no teacher"] = of("base", "plain", **parts), {}, {}
    found["nothing graded"] = nothing(t.graded(base=t.right(0.3)).iloc[:0]), {}, {}
    empty = made_up_scores().assign(rougeLsum=np.nan, rougeLsum_strict=np.nan)
    found["nothing scored"] = nothing(empty, metric=METRICS["rougeLsum"]), {}, {}

    # asking alone, a student above its teacher, a gain that is only in part one of reasoned labels
    cot = t.graded(base=t.right(0.6)).assign(arm="student/cot")
    asked = pd.concat([t.graded(teacher=t.right(0.9), base=t.right(0.2), long=t.right(0.8), short=t.right(0.5)), cot])
    found["asking alone"] = analyse(asked, resamples=200), {}, {}
    found["above the teacher"] = t.study(teacher=t.right(0.6), base=t.right(0.3), long=t.right(0.9)), {}, {}
    found["the whole gap"] = t.study(base=t.right(0.3), long=t.right(0.9)), {}, {}
    found["in part"] = t.study(plain=t.right(0.48), short=t.right(0.5), long=t.right(0.49), gold=t.right(0.6)), {}, {}

    found["the teacher's answers alone"] = (
        of(*names, teacher=0.9, base=0.3, plain=0.3, short=0.3, long=0.7, gold=0.7),
        {},
        {},
    )
    found["open"] = of(*names, teacher=0.9, base=0.3, plain=0.4, short=0.6, long=0.65, gold=0.7), {}, {}

    # a student that never writes its answer in the format asked for
    strict = t.graded(teacher=t.right(0.9), base=t.right(0.3), plain=t.right(0.8))
    strict.loc[strict["arm"] == "distilled/vanilla", "correct_strict"] = False
    found["read strictly"] = analyse(strict, resamples=200), {}, {}

    # graders, levels, labels, money
    base = t.study(base=t.right(0.2), plain=[x if x != "entailment" else "neutral" for x in t.right(0.9)])
    ends = dict(easy=Interval(0.8, 0.7, 0.9), hard=Interval(0.1, 0.0, 0.2))
    win = dict(a=BASE, b="distilled/vanilla", n=98, a_wins=94, b_wins=4, rate=Interval(4 / 98), p_holm=0.001)
    more = dict(levels=Table("", (), (dict(arm="distilled/vanilla") | ends,)))
    more["labels"] = confusions(base.graded, t.LABELS, resamples=50)
    found["a judge that says the opposite"] = base, dict(wins=[win]) | more, dict(wins=[win])
    missed = t.study(
        base=t.right(0.2), plain=["entailment" if x == "neutral" and i % 4 else x for i, x in enumerate(t.right(0.9))]
    )
    found["labels it misses"] = missed, dict(labels=confusions(missed.graded, t.LABELS, resamples=50)), {}
    costs = {"teacher/cot": 0.6, "distilled/vanilla": 0.1, BASE: 0.1}
    for name, own in (("it pays back", 0.1), ("it never pays back", 0.9)):
        serving = {
            a: dict(n=5, prompt_tokens=9, output_tokens=9, cost=own if a.startswith("distilled") else c)
            for a, c in costs.items()
        }
        money = dict(labelling={"vanilla": dict(output_tokens=900, cost=3.0, n=300)}, serving=serving)
        found[name] = (
            t.study(plain=t.right(0.8)),
            {},
            money
            | dict(training={"distilled/vanilla": dict(seconds=3.0, cost=1.0)}, sizes=dict(teacher=70e9, student=8e9)),
        )
    found["nothing pays back"] = t.study(plain=t.right(0.1)), {}, found["it pays back"][2]
    found["no price of labels"] = t.study(plain=t.right(0.8)), {}, dict(serving=serving)
    teacher, summaries = "teacher/cod", t.scored("summarization", t.LEVEL)
    serving = {a: dict(n=5, prompt_tokens=9, cost=c) for a, c in ((teacher, 0.6), ("distilled/cod", 0.1))}
    labels = dict(labelling={"cod": dict(output_tokens=900, cost=3.0, n=300)}, serving=serving)
    found["summaries that pay back"] = (
        summaries,
        {},
        labels | dict(training={"distilled/cod": dict(seconds=3.0, cost=1.0)}),
    )
    varied = Lines((Pitfall("wording", "Other wordings", "", Interval(0.1, 0.0, 0.2), "10 points"),), graders=True)
    agreed = dict(win, a_wins=4, b_wins=94, rate=Interval(94 / 98))
    found["a judge that agrees"] = base, dict(wins=[agreed]), dict(wins=[agreed])
    open_ = found["no gain"][0]
    for name, own in (
        ("the student", agreed),
        ("untouched", win),
        ("neither", dict(win, a_wins=50, b_wins=48, p_holm=0.9)),
    ):
        found[f"no gain, the judge prefers {name}"] = open_, dict(wins=[dict(own, b=open_.primary)]), {}
    found["another grader"] = base, {}, dict(wins=[agreed], pitfalls=varied)
    found["two preferences"] = base, {}, dict(wins=[agreed, dict(agreed, a="teacher/cot")], pitfalls=varied)
    return found


def spoken() -> dict[str, list[str]]:
    "Outcome → its sentences, in the order of a report."
    from distill_study.analyse.findings import findings, headline

    found = {}
    for name, (results, first, rest) in outcomes().items():
        top = headline(results, **first)
        lines = [top.sentence, top.more, top.caveats]
        for entry in findings(results, **rest).entries:
            lines += [f"{entry.question} {entry.verdict}", *entry.sentences]
        found[name] = lines
    return found


def fragments(template: str) -> list[str]:
    "What a template of sentences writes itself: its runs of three words and more."
    text = (ROOT / f"distill_study/templates/text/{template}.txt.j2").read_text(encoding="utf-8")
    text = re.sub(r"\{#.*?#\}", "", text, flags=re.S)
    runs = re.split(r"\{%.*?%\}|\{\{.*?\}\}", text, flags=re.S)
    return [run for r in runs if len((run := " ".join(r.split())).split()) > 2]


def unspoken() -> dict[str, list[str]]:
    "Template → fragments that no outcome brings out."
    every = " ".join(" ".join(line.split()) for lines in spoken().values() for line in lines)
    return {t: [f for f in fragments(t) if f not in every] for t in TEMPLATES}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name, lines in spoken().items():
        print(f"## {name}\n", *(f"- {line}" for line in lines), "", sep="\n")
