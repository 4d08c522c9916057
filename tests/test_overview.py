"The page of a recipe says what its reports say together, at any size of grid; `metrics.csv` runs nowhere."

import copy
import csv
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from browser import chromium
from bs4 import BeautifulSoup
from conftest import ROOT
from hypothesis import given, settings, strategies as st

from distill_study.analyse.results import sentence, write_numbers
from distill_study.analyse.stats import FORM, Interval
from distill_study.grading.truth import METRICS
from distill_study.report.grid import (
    Axis,
    Cell,
    Mean,
    axis_over,
    by_item,
    cells,
    cost_chart,
    in_short,
    mean_of,
    mean_over_seeds,
    means,
    names_of,
    outcome_of,
    panels,
    pareto,
    reversed_by_judge,
    score_table,
    sections,
)
from distill_study.report.render import HEADS, check_page, inert_cell, metric_rows, write_csv
from distill_study.study.plan import load_recipe
from distill_study.study.schedule import Outcome, render_index, write_index
from distill_study.utils import ReportError

TINY = ROOT / "reports/examples/tiny"
READ = {p.parent.name: json.loads(p.read_text()) for p in sorted(TINY.glob("*/metrics.json"))}
EVIL = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\ufeff=1",
    "\uff1d1",
    "<script>alert(1)</script>",
    'a"b,c\nd',
    "\ud800",
]


def varied(name, shift=0.0, **changes):
    "An example's numbers under other names, with its distilled arms shifted."
    m = copy.deepcopy(READ[name])
    s = m["provenance"]["settings"]
    for key, field in (("data", "name"), ("teacher", "engine"), ("student", "model")):
        if key in changes:
            s[key][field] = changes[key]
    s["seed"] = changes.get("seed", 0)
    m["provenance"]["combination"] = "--".join(names_of(m)) + f"--{s['seed']}"
    for a in m["arms"].values():
        if a["arm"].startswith("distilled/") and a["n"]:
            level = a.get("accuracy") or a["score"]
            for k in ("value", "low", "high"):
                level[k] = min(1, max(0, level[k] + shift))
    return m


def page_of(folder, pages, waiting=(), failed=(), description="", whole=True):
    "The page of made-up combinations, as `render_index` makes it from a folder."
    rows = []
    for i, m in enumerate(pages):
        write_numbers(m, folder / f"c{i}" / "metrics.json")
        write_csv(m, folder / f"c{i}" / "metrics.csv")
        rows.append(dict(name=f"c{i}", state="ok", **dict(zip(("data", "teacher", "student"), names_of(m)))))
    for kind, more in (("waiting", waiting), ("failed", failed)):
        for d, t, s, error in more:
            rows.append(dict(name=f"c{len(rows)}", state=kind, error=error, data=d, teacher=t, student=s))
            if kind == "failed":
                (folder / rows[-1]["name"]).mkdir()
                (folder / rows[-1]["name"] / "combination.ipynb").write_text("{}")
    write_numbers(dict(format=1, name=folder.name, description=description, combinations=rows), folder / "grid.json")
    return render_index(folder, whole).read_text(encoding="utf-8")


def sound(page):
    "What holds of every page: self-contained, tables with captions and scopes, regions and ids named once."
    assert check_page(page) == []
    soup = BeautifulSoup(page, "html.parser")
    assert (
        not soup.find_all("script")
        and all(t.find("caption") for t in soup.find_all("table"))
        and all(th.get("scope") for th in soup.find_all("th"))
    )
    for names in (
        [x["id"] for x in soup.find_all(id=True)],
        [x["aria-label"] for x in soup.find_all(attrs=dict(role="region"))],
    ):
        assert max(Counter(names).values(), default=1) == 1, Counter(names).most_common(3)
    assert all(len(x["aria-label"]) > 12 for x in soup.find_all(attrs=dict(role="img")))
    return soup


# --- metrics.csv


@pytest.mark.parametrize("name", READ)
def test_the_examples_have_their_numbers_as_a_table(name, tmp_path):
    m = READ[name]
    assert (TINY / name / "metrics.csv").read_text() == write_csv(m, tmp_path / "m.csv").read_text()
    t = pd.read_csv(TINY / name / "metrics.csv")
    assert (
        tuple(t.columns) == HEADS
        and set(t.arm) == set(m["arms"])
        and all(t[c].dtype.kind in "fi" for c in ("value", "low", "high", "n", "p", "p_holm", "seed"))
    )
    level, measure = (
        ("accuracy", METRICS["correct"]) if m["metric"]["key"] == "correct" else ("score", METRICS[m["metric"]["key"]])
    )
    own = t[t.metric == measure.name].set_index("arm")
    for arm, a in m["arms"].items():
        assert (
            own.n[arm] == a["n"]
            and own.unit[arm] == measure.unit
            and own[["value", "low", "high"]].loc[arm].tolist()
            == pytest.approx([measure.scale * a[level][k] for k in ("value", "low", "high")])
        )
    assert (
        len(t[t.metric == "gap recovered"]) == len(m["gaps"]) and not t.duplicated(["arm", "metric", "against"]).any()
    )


@pytest.mark.parametrize("text", EVIL)
def test_no_name_becomes_a_formula(text, tmp_path):
    m = varied("tiny-math--teacher--student-s", data=text, student=text)
    m["arms"]["control/gold"] = dict(
        arm="control/gold", n=0, accuracy=dict(value=None), strict=dict(value=None), missing=text
    )
    with write_csv(m, tmp_path / "m.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == len(metric_rows(m)) and all(None not in r and None not in r.values() for r in rows)
    for r in rows:
        for k in set(HEADS) - {"value", "low", "high", "n", "p", "p_holm", "seed"}:
            assert not re.match(r"[\s\ufeff]*[=+\-@\uff1d]", r[k]), (k, r[k])
        assert all(r[k] == "" or math.isfinite(float(r[k])) for k in ("value", "low", "high"))
    assert len(pd.read_csv(tmp_path / "m.csv")) == len(rows)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_inert_in_a_cell(text):
    cell = inert_cell(text)
    assert not re.match(r"[\s\ufeff'\"]*[=+\-@]", cell) or cell.startswith("'")
    assert "\n" not in cell and "\r" not in cell and "\t" not in cell and isinstance(cell.encode(), bytes)


def test_a_table_that_cannot_be_written_leaves_nothing_half(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="Choose a folder"):
        write_csv(READ["tiny-math--teacher--student-s"], tmp_path / "file" / "metrics.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- numbers

part = st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.2)).map(
    lambda t: Interval(t[0], t[0] - t[1], t[0] + t[2], 50)
)


@settings(max_examples=80, deadline=None)
@given(st.lists(part, min_size=1, max_size=6))
def test_a_mean_lies_in_its_interval_which_is_no_wider_than_its_parts(parts):
    m = mean_of(parts)
    assert (
        m.low <= m.value <= m.high
        and m.n == 50 * len(parts)
        and m.value == pytest.approx(sum(p.value for p in parts) / len(parts))
    )
    assert (
        m.value - m.low <= max(p.value - p.low for p in parts) + 1e-12
        and m.high - m.value <= max(p.high - p.value for p in parts) + 1e-12
    )
    if len(parts) == 1:
        assert vars(m) == pytest.approx(vars(parts[0]))


def test_the_mean_of_independent_samples_covers():
    "Square-and-add intervals of two data sets' accuracies hold the true mean about as often as they say."
    import numpy as np

    from distill_study.analyse.stats import wilson

    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        m = mean_of([wilson(int(rng.binomial(100, p)), 100) for p in (0.3, 0.8)])
        hits += m.low <= 0.55 <= m.high
    assert 0.92 <= hits / 300 <= 0.98


def test_seeds_widen_an_interval_and_one_seed_leaves_it():
    i = Interval(0.5, 0.4, 0.6, 100)
    assert mean_over_seeds([i]) == i and mean_over_seeds([i, Interval(None, n=100, reason="no gap")]) == i
    same = mean_over_seeds([i, i, i])
    assert (same.value, round(same.low, 9), round(same.high, 9)) == (0.5, 0.4, 0.6)
    apart = mean_over_seeds([i, Interval(0.6, 0.5, 0.7, 100)])
    assert (
        apart.low < 0.4 and apart.high > 0.7 and mean_over_seeds([i, Interval(0.9, 0.8, 1.0, 100)], 0, high=1).high == 1
    )
    assert mean_over_seeds([]).value is None
    sleep = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0, 2)  # "Student" (1908), as R's t.test gives it
    alone = mean_over_seeds([Interval(x, n=1) for x in sleep])
    assert [alone.value, alone.low, alone.high] == pytest.approx([0.75, -0.5297804, 2.0297804])


def row(value, tokens, half=0.01):
    return Mean(
        (
            Cell(
                "d",
                "t",
                "s",
                "distilled/vanilla",
                METRICS["correct"],
                Interval(value, value - half, value + half, 9),
                Interval(None),
                tokens=tokens,
            ),
        ),
        Interval(value, value - half, value + half, 9),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=2, max_size=8))
def test_the_front_is_whoever_is_not_beaten(points):
    rows = sorted((row(v / 10, c) for v, c in points), key=lambda r: -r.mean.value)
    front = pareto(rows, "tokens")
    for k in range(1, 1 + len(rows)):
        mine = rows[k - 1].mean.value, -rows[k - 1].cost("tokens")
        beaten = any(
            r.mean.value >= mine[0] and -r.cost("tokens") >= mine[1] and (r.mean.value, -r.cost("tokens")) != mine
            for r in rows
        )
        assert (k in front) == (not beaten)


def test_no_front_without_all_costs():
    assert pareto([row(0.5, 1), row(0.4, None)], "tokens") == [] == pareto([row(0.5, 1)], "tokens")


@given(st.lists(st.floats(1e-4, 1e9), min_size=1, max_size=6), st.booleans())
def test_an_axis_holds_its_values_and_a_few_ticks(values, log):
    axis = axis_over(values, log)
    places = [axis.at(x) for x in sorted(values)]
    assert 0 <= places[0] <= places[-1] <= 100 and places == sorted(places)
    assert 1 <= len(axis.ticks) <= (20 if log else 9) and list(axis.ticks) == sorted(set(axis.ticks))
    assert all(0 <= axis.at(t) <= 100 for t in axis.ticks) and Axis((0, 10)).at(-5) == 0


def test_charts_and_tables_repeat_what_the_reports_say():
    pages = list(READ.values())
    grid = cells(pages)
    shown = {(p["data"], r["name"]): r for p in panels(pages, grid) for r in p["rows"]}
    table = score_table(grid)
    by_arm = {c.who: next(r for r in table.rows if r["arm"] == c.name) for c in grid.values()}
    for m in pages:
        data, teacher, student = names_of(m)
        row = shown[data, student]
        gaps = {g["cell"].arm: g["cell"].gap for g in row["gaps"]}
        for g in (g for g in m["gaps"] if g["teacher"] == m["teacher"] and g["arm"].startswith("distilled/")):
            assert (gaps[g["arm"]].value, gaps[g["arm"]].low) == (g["value"], g["low"])
        marks = {x["kind"]: x["i"].value for x in row["marks"]}
        level = "accuracy" if m["metric"]["key"] == "correct" else "score"
        for arm in ("student/vanilla", "student/cot", "distilled/vanilla", "distilled/cot-rationale", "distilled/cod"):
            if m["arms"].get(arm, {}).get("n"):
                assert marks[arm.replace("/", "-")] == m["arms"][arm][level]["value"]
        assert marks["teacher"] == m["arms"][m["teacher"]][level]["value"]
        assert marks.get("constant") == ((m["constant"] or {}).get("level") or {}).get("value")
        assert by_arm["", student, "control/gold"][f"on {data}"].value == m["arms"]["control/gold"][level]["value"]
    rows, sets = means(grid)
    assert sets == ["tiny-math", "tiny-nli", "tiny-qa"]
    for r in rows:
        assert r.mean.value == pytest.approx(
            sum(
                READ[f"{d}--teacher--{r.cells[0].student or 'student-s'}"]["arms"][r.cells[0].arm]["accuracy"]["value"]
                for d in sets
            )
            / 3
        )


# --- the finding


def outcomes(m, **verdicts):
    "The numbers with other verdicts of tests: distilled_vanilla=dict(base=…, constant=…, asked=…) and so on."
    m = copy.deepcopy(m)
    names = {"base": "student/vanilla", "asked": "student/cot", "constant": "constant"}
    for t in m["tests"] + ((m["constant"] or {}).get("tests") or []):
        own = verdicts.get(t["b"].replace("/", "_").replace("-", "_"), {})
        t["verdict"] = next((v for k, v in own.items() if names[k] == t["a"]), t["verdict"])
    return m


WON = dict(base="higher", constant="higher", asked="higher")
MATH = READ["tiny-math--teacher--student-m"]  # answers alone teach nothing there


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "better"),
        (dict(base="can't tell"), "same"),
        (dict(base="lower"), "worse"),
        (dict(constant="can't tell"), "constant"),
        (dict(asked="can't tell"), "asking"),
        (dict(asked="lower"), "asking"),
    ],
)
def test_better_is_better_than_all_that_needs_no_distillation(changes, expected):
    assert outcome_of([outcomes(MATH, distilled_cot_rationale=WON | changes)], "distilled/cot-rationale") == expected


def test_answers_alone_are_not_testable_where_gold_answers_teach_nothing():
    same, won = dict(base="can't tell"), dict(base="higher", constant="higher")
    for gold, own, expected in ((same, same, "untestable"), (won, same, "same"), (same, won, "better")):
        assert outcome_of([outcomes(MATH, control_gold=gold, distilled_vanilla=own)], "distilled/vanilla") == expected
    without = outcomes(MATH, distilled_vanilla=same)
    without["tests"] = [t for t in without["tests"] if t["b"] != "control/gold"]
    without["constant"]["tests"] = [t for t in without["constant"]["tests"] if t["b"] != "control/gold"]
    assert outcome_of([without], "distilled/vanilla") == "same" and outcome_of([MATH], "control/right") == ""


def test_what_shuffled_answers_teach_as_well_is_the_form():
    won = dict(base="higher", constant="higher")
    for verdict, expected in (("can't tell", "form"), ("lower", "form"), ("higher", "better")):
        m = outcomes(MATH, control_gold=won, distilled_vanilla=won)
        m["tests"].append(dict(a=FORM, b="distilled/vanilla", verdict=verdict, p_holm=0.01))
        assert outcome_of([m], "distilled/vanilla") == expected
        assert any("Shuffled answers teach as much on tiny-math" in x for x in in_short([m])) == (expected == "form")


LOST = dict(base="lower")
NONE = dict(base="can't tell")
GOLD = dict(control_gold=dict(base="higher", constant="higher"))


@pytest.mark.parametrize(
    "verdicts, says, not_says",
    [
        (
            dict(distilled_cot_rationale=WON),
            "student trained on the teacher's reasoning is significantly better",
            "none",
        ),
        (
            GOLD | dict(distilled_cot_rationale=WON, distilled_vanilla=LOST),
            "trained on plain answers, it is significantly worse than before",
            "not testable",
        ),
        (
            GOLD | dict(distilled_cot_rationale=NONE, distilled_vanilla=LOST, distilled_cot_answer=NONE),
            "Trained on the teacher's plain answers, the student is significantly worse than before; trained on",
            "recover",
        ),
        (
            dict(distilled_cot_rationale=WON | dict(asked="can't tell")),
            "reasoning, the student is not significantly better than the untouched student asked to reason",
            "recover",
        ),
        (
            GOLD | dict(distilled_cot_rationale=WON, distilled_vanilla=dict(base="higher", constant="can't tell")),
            "trained on plain answers, it is not significantly better than the best constant answer",
            "none",
        ),
        (
            dict(distilled_cot_rationale=WON),
            "plain answers and reasoned answers teach anything is not testable",
            "none",
        ),
    ],
)
def test_the_finding_is_what_the_tests_say(verdicts, says, not_says):
    first, *limits = in_short([outcomes(MATH, **verdicts)])
    assert says in first and not_says not in first and first.endswith(".") and "  " not in " ".join([first, *limits])
    if verdicts.get("distilled_vanilla") == LOST:
        assert any("worse than untouched" in line and "tiny-math" in line for line in limits)
    if verdicts["distilled_cot_rationale"].get("asked") == "can't tell":
        assert any(line.startswith("Asking alone explains a gain on tiny-math (student-m)") for line in limits)


def part(arm, n, better, **more):
    "What `grid.tally` counts of one kind of labels."
    return dict(arm=f"distilled/{arm}", n=n, better=better, low=0.3, high=0.7, judged=0, worse=0, untestable=0) | more


@pytest.mark.parametrize(
    "tally, says",
    [
        (
            [
                part("cot-rationale", 2, 2, judged=1),
                part("vanilla", 3, 1, low=0.5, high=0.5),
                part("cod", 4, 0, worse=2),
            ],
            "Students trained on the teacher's reasoning are significantly better than before in both combinations and "
            "recover 30 to 70 % of the gap to the teacher, though a judge prefers the untouched student in 1 of them; "
            "trained on plain answers, in 1 of 3 (50 %); trained on dense summaries, in none of 4 and significantly "
            "worse in 2.",
        ),
        (
            [part("vanilla", 5, 0, worse=1), part("cod", 2, 0), part("cot-answer", 0, 0)],
            "No student is significantly better after training on plain answers (0 of 5 combinations, 1 worse) or "
            "dense summaries (0 of 2); whether reasoned answers teach anything is not testable here.",
        ),
        (
            [part("cod", 1, 1, low=None, high=None, judged=1)],
            "The student trained on the teacher's dense summaries is significantly better than before, though a judge "
            "prefers the untouched student there.",
        ),
    ],
    ids=["some", "none", "one"],
)
def test_the_finding_in_other_words(tally, says):
    assert sentence("grid", "finding", tally=tally) == says


def test_the_finding_of_the_examples():
    first, *limits = in_short(list(READ.values()))
    assert "in 5 of 6 combinations" in first and "55 to 99.1 %" in first
    assert "trained on reasoned answers, in both testable ones (6 to 16 %)" in first
    assert first.endswith("in 1 of 2 (24 %), though a judge prefers the untouched student there.")
    judged = "on tiny-summ: it prefers the untouched student in 66.5 % of comparisons."
    assert f"The judge reverses the finding {judged}" in limits
    assert in_short([]) == [] and in_short(list(READ.values()), 2)[-1] == "2 combinations failed."


def test_nothing_testable_and_nothing_trained_are_said():
    one = copy.deepcopy(MATH)
    one["arms"] = {a: x for a, x in one["arms"].items() if a != "distilled/cot-rationale"}
    assert "not testable here" in in_short([one])[0] and "significantly better" not in in_short([one])[0]
    one["arms"] = {a: x for a, x in one["arms"].items() if not a.startswith("distilled/")}
    assert in_short([one]) == ["No distilled student was compared with the same student untouched."]


def at_seeds(*differences):
    "The numbers of one combination at several seeds: how far distilled/cot-rationale is above all that it must beat."
    pages = [copy.deepcopy(MATH) for _ in differences]
    for seed, (m, d) in enumerate(zip(pages, differences)):
        m["provenance"]["settings"]["seed"] = seed
        for t in m["tests"] + m["constant"]["tests"]:
            if t["b"] == "distilled/cot-rationale":
                t |= dict(
                    difference=dict(value=d, low=d - 0.05, high=d + 0.05, n=500), verdict="can't tell", p_holm=0.1
                )
    return pages


def test_the_items_of_several_seeds_are_pooled_before_an_interval_is_made():
    rng, pages = np.random.default_rng(0), at_seeds(0.2, 0.21, 0.22)
    base, n = rng.random(400) < 0.3, 400
    for m in pages:
        taught = base | (rng.random(n) < 0.3)  # each training gets other items right
        values = {a: " ".join(map(str, x.astype(int))) for a, x in (("student/vanilla", base), ("d", taught))}
        m["items"] = dict(arms=values, sources=" ".join(map(str, range(n))))
    one, three = by_item(pages[:1], "student/vanilla", "d"), by_item(pages, "student/vanilla", "d")
    assert three.high - three.low < one.high - one.low and abs(three.value - 0.21) < 0.05
    apart = [np.array(m["items"]["arms"]["d"].split(), float).mean() for m in pages]
    assert by_item(pages, "d").value == pytest.approx(np.mean(apart))
    del pages[0]["items"]
    assert by_item(pages, "d") is None


def test_seeds_are_pooled_in_one_test():
    for differences, expected in (
        ((0.2, 0.21, 0.22), "better"),
        ((0.3, -0.2, 0.1), "same"),
        ((0.05, 0.4), "same"),
        ((0.2, 0.22), "better"),
    ):
        assert outcome_of(at_seeds(*differences), "distilled/cot-rationale") == expected, differences
    assert outcome_of(at_seeds(-0.2, -0.21, -0.22), "distilled/cot-rationale") == "worse"
    first, *limits = in_short(at_seeds(0.3, -0.2, 0.1))
    assert "is significantly better" not in first and "3 training seeds" in limits[0]


@pytest.mark.parametrize("rate, p, expected", [(0.2, 0.01, 0.2), (0.2, 0.2, None), (0.8, 0.01, None)])
def test_a_judge_reverses_what_it_significantly_contradicts(rate, p, expected):
    m = outcomes(MATH, distilled_cot_rationale=WON)
    win = next(w for w in m["judge"]["wins"] if w["a"] == "student/vanilla")
    win["rate"]["value"], win["p_holm"] = rate, p
    assert reversed_by_judge(m, "distilled/cot-rationale") == expected
    turned = copy.deepcopy(m)
    win = next(w for w in turned["judge"]["wins"] if w["a"] == "student/vanilla")
    win["a"], win["b"], win["rate"]["value"] = win["b"], win["a"], 1 - rate
    assert reversed_by_judge(turned, "distilled/cot-rationale") == pytest.approx(expected)
    shown = "judge disagrees" in dict(sections([m]))["Scores"]
    assert shown == (expected is not None) and not reversed_by_judge(m | dict(judge=None), "distilled/cot-rationale")


def test_a_mean_needs_every_data_set():
    pages = [
        varied("tiny-math--teacher--student-s", data=d, student=s)
        for d, s in (("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("b", "y"))
    ]
    rows, sets = means(cells(pages))
    assert sets == ["a", "b"] and {r.cells[0].student for r in rows} == {"", "x", "y"}
    assert "arms that lack one are left out" in cost_chart(rows, sets, key="tokens")


# --- the page


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    "60 combinations: several teachers, students, seeds and measures, with failed and missing ones and hostile names."
    pages = [
        varied(
            f"{base}--teacher--student-{'sm'[k % 2]}",
            0.01 * ((7 * k + i) % 9 - 4),
            data=d,
            teacher=f"openai:{t}",
            student=s,
            seed=seed,
        )
        for i, (d, base) in enumerate(
            (
                ("math", "tiny-math"),
                ("qa", "tiny-qa"),
                ("<b>nli</b>", "tiny-nli"),
                ("summ", "tiny-summ"),
                ("chat", "tiny-chat"),
            )
        )
        for j, t in enumerate(("big-teacher", "a$b_{c}"))
        for k, s in enumerate(("small", 'x"y', "a-model-with-a-name-that-is-rather-long-70B-Instruct"))
        for seed in (0, 1)
    ]
    folder = tmp_path_factory.mktemp("grid")
    page = page_of(
        folder,
        pages[:-3],
        waiting=[("chat", "a$b_{c}", "never", "")],
        failed=[("math", "big-teacher", "broken", EVIL[9])],
        description="A <i>grid</i>",
    )
    return folder, pages, page


def test_a_large_grid_gives_a_sound_page(big):
    folder, pages, page = big
    soup = sound(page)
    assert [h.text for h in soup.main.find_all("h2")] == [
        "Scores",
        "Gap recovered",
        "Score against cost",
        "All scores",
        "Reports",
    ]
    assert len(page) < 1_500_000 and len(soup.find_all(class_="strip")) > 60 and not soup.find_all("img")
    linked = [a["href"] for a in soup.find(class_="panels").find_all("a")]
    assert len(linked) == 57 and {"c0/index.html", "c56/index.html"} <= set(linked)
    anchors = [a["href"] for a in soup.main.nav.find_all("a")]
    assert all(soup.find(id=a[1:]) for a in anchors if a.startswith("#"))
    assert (
        "&lt;script&gt;" in page
        and "<b>nli" not in page
        and 'href="c57/combination.ipynb"' not in page
        and "c58/combination.ipynb" in page
    )
    text = soup.text
    for said in (
        "1 combination failed.",
        "59 combinations",
        "up to 2 training seeds",
        "not run",
        "failed",
        "taught by big-teacher",
    ):
        assert said in text, said


def test_costs_of_a_large_grid():
    pages = [
        varied(f"{d}--teacher--student-{s}", student=f"{s}{k}")
        for d in ("tiny-qa", "tiny-nli")
        for s in "sm"
        for k in range(3)
    ]
    rows, sets = means(cells(pages))
    chart = BeautifulSoup(cost_chart(rows, sets, key="tokens"), "html.parser")
    front = [rows[k - 1].name for k in pareto(rows, "tokens")]
    assert len(rows) > 25 and sorted(x.text for x in chart.find_all(class_="named")) == sorted(front)
    assert all(name in chart.find(role="img")["aria-label"] for name in front)
    assert len(chart.select(".field .dot")) == len(rows)


def test_a_single_combination_has_a_page(tmp_path):
    soup = sound(page_of(tmp_path, [READ["tiny-nli--teacher--student-s"]]))
    assert "tiny-nli alone" in soup.text and "1 combination" in soup.text and len(soup.find_all("table")) == 1


@pytest.mark.parametrize(
    "failed", [[], [("a", "t", "s", "KeyError: 'x'"), ("b", "t", "s", "")]], ids=["nothing", "all-failed"]
)
def test_a_grid_without_numbers_has_a_page(failed, tmp_path):
    soup = sound(page_of(tmp_path, [], failed=failed))
    assert (
        f"{len(failed)} combinations" in soup.text
        and not soup.find_all(class_="strip")
        and not soup.find(class_="lead")
        and ("KeyError" in soup.text) == bool(failed)
    )


def test_prices_and_sizes_give_costs_their_charts(tmp_path):
    m = varied("tiny-math--teacher--student-m")
    m["sizes"] = {}
    page = sound(page_of(tmp_path / "without", [m]))
    assert "Money" not in page.text
    assert "Output tokens, per answer" in page.text and "Tokens × parameters, millions" not in page.text
    for a, u in m["serving"].items():
        u["cost"] = u["n"] * (0.02 if a.startswith("teacher") else 0.001)
    m["sizes"] = dict(teacher=2e6, student=6e5)
    soup = sound(page_of(tmp_path / "with", [m]))
    u, made = m["serving"]["teacher/cot"], cells([m])["tiny-math", "teacher", "", "teacher/cot"]
    assert made.work == pytest.approx(2 * (u["prompt_tokens"] + u["output_tokens"]) / u["n"])
    assert "Money, per 1,000 answers" in soup.text and "not measured" not in soup.text
    assert "Tokens × parameters, millions per answer" in soup.text and "Output tokens, per answer" not in soup.text


def test_other_pages_of_the_folder_are_linked_at_the_top(tmp_path):
    page_of(tmp_path, [MATH])
    assert "claims.html" not in (tmp_path / "index.html").read_text()
    (tmp_path / "claims.html").write_text("x")
    nav = sound(render_index(tmp_path).read_text()).main.nav
    assert nav.find("a", href="claims.html").text == "Claims of the paper"


@pytest.mark.parametrize("recipe", [TINY, TINY.with_name("curve")], ids=lambda folder: folder.name)
def test_the_committed_page_is_made_from_its_folder(recipe, tmp_path):
    for p in recipe.iterdir():
        (shutil.copytree if p.is_dir() else shutil.copy)(p, tmp_path / p.name)

    def plain(page):
        "Without its time, its pictures and white space."
        return re.sub(r'<p>Written .*?</p>|src="data:[^"]*"|\s+', "", page.replace("&#39;", "&#x27;"))

    committed = (recipe / "index.html").read_text()
    assert plain(render_index(tmp_path).read_text()) == plain(committed) and len(committed) < 600_000
    assert ("Learning curves" in committed) == (recipe != TINY)
    for name in (p.parent.name for p in recipe.glob("*/metrics.json")):
        assert all(f'href="{name}/{f}"' in committed for f in ("index.html", "metrics.json", "metrics.csv"))


def test_a_page_comes_while_the_grid_runs_and_whole_at_its_end(tmp_path):
    recipe = load_recipe(ROOT / "recipes/tiny.yaml")
    grid = recipe.combinations()
    for c in grid:
        shutil.copytree(TINY / c.name, tmp_path / c.name)
    done = [Outcome(c, tmp_path / c.name, 5.0) for c in grid]
    done[1] = Outcome(grid[1], tmp_path / grid[1].name, 5.0, "MemoryError: <no room>")
    write_index(recipe, done[:2], folder=tmp_path)
    page = sound((tmp_path / "index.html").read_text())
    assert page.text.count("not run") == 8 and "Score against cost" not in page.text and "<no room>" in page.text
    write_index(recipe, done, folder=tmp_path)
    page = sound((tmp_path / "index.html").read_text())
    assert "Score against cost" in page.text and "not run" not in page.text and "1 combination failed." in page.text
    assert [r["state"] for r in json.loads((tmp_path / "grid.json").read_text())["combinations"]] == [
        "ok",
        "failed",
        *["ok"] * 8,
    ]


def test_a_narrow_screen_does_not_scroll_sideways_and_marks_stand_out(tmp_path):
    "Contrast of every mark is at least 3 to 1, light and dark, and marks lie in their strips."
    page_of(tmp_path, list(READ.values()))
    shades = []
    with chromium() as b:
        for scheme in ("light", "dark"):
            page = b.new_page(viewport=dict(width=400, height=800), color_scheme=scheme)
            page.goto((tmp_path / "index.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
            shades += page.evaluate(
                """() => {
                  const shade = (e, what) => getComputedStyle(e)[what];
                  const body = shade(document.body, "backgroundColor");
                  return [...document.querySelectorAll(".strip .dot:not(.constant)")].map((e) =>
                    [shade(e, e.matches(".student-vanilla, .student-cot") ? "borderTopColor" : "backgroundColor"), body,
                     e.getBoundingClientRect().left, e.getBoundingClientRect().right]);
                }"""
            )

    def light(colour):
        c = [float(x) / 255 for x in re.findall(r"[\d.]+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in c]
        return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear))

    assert len(shades) > 100 and len({s[0] for s in shades}) > 10
    for mark, body, left, right in shades:
        a, z = sorted((light(mark), light(body)))
        assert (z + 0.05) / (a + 0.05) >= 3 and left >= 0 and right <= 400, (mark, body)


def test_the_readmes_picture_is_taken_by_a_script(tmp_path):
    with chromium():
        pass
    done = subprocess.run(
        [
            sys.executable,
            ROOT / ".ci/screenshot.py",
            TINY / "tiny-math--teacher--student-m" / "index.html",
            tmp_path / "x.png",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    from PIL import Image

    picture = Image.open(tmp_path / "x.png")
    assert (
        picture.size[0] == 1280
        and 900 < picture.size[1] < 1600
        and (tmp_path / "x.png").stat().st_size < 300_000 > (ROOT / "reports/examples/report.png").stat().st_size
    )
