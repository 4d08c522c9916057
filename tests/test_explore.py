"""Reports as tables: what was written is what is read, damaged files are named, items are those of the store,
hostile text does nothing.
"""

import json
import shutil
from copy import copy as copy_of

import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from smallrun import small_run

from distill_study.analyse.stats import BASE
from distill_study.grading.truth import METRICS
from distill_study.tools.explore import (
    Browser,
    ExploreError,
    browse,
    find_reports,
    input_page,
    item_page,
    item_table,
    load_results,
    matching,
    matching_inputs,
    opinion_table,
    outcomes,
    read_report,
)

TINY = ROOT / "reports/examples/tiny"
QA = TINY / "tiny-qa--teacher--student-s"
BEST = "distilled/cot-rationale"
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>"
IDENTITY = ["report", "data", "teacher", "student", "seed"]


@pytest.fixture(scope="module")
def tiny():
    return load_results(TINY)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A report and its store."
    folder = tmp_path_factory.mktemp("run")
    small_run(folder / "report", folder / "store", judge=dict(engine="rules:world", items=4))
    return folder


@pytest.fixture(scope="module")
def seen(run):
    return load_results(run / "report", store=run / "store")


def copy(tmp_path, change=lambda m: None, name="report"):
    "A changed copy of a report."
    numbers = json.loads((QA / "metrics.json").read_text())
    change(numbers)
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "metrics.json").write_text(json.dumps(numbers))
    shutil.copy(QA / "params.yaml", tmp_path / name)
    return tmp_path / name


# --- from metrics.json


@pytest.mark.parametrize("name", sorted(p.name for p in TINY.iterdir() if p.is_dir()))
def test_tables_hold_what_the_file_holds(tiny, name):
    m, own = json.loads((TINY / name / "metrics.json").read_text()), lambda t: t[t.report == name]
    arms = own(tiny.arms).set_index("arm")
    for arm, a in m["arms"].items():
        level = a.get("accuracy") or a["score"]
        assert (arms.at[arm, "n"], arms.at[arm, "value"], arms.at[arm, "value_low"], arms.at[arm, "strict_high"]) == (
            a["n"],
            level["value"],
            level["low"],
            a["strict"]["high"],
        )
    assert arms.index[arms.best].tolist() == [m["best"]]
    for arm, t in m["training"].items():
        curve = own(tiny.curves).query("arm == @arm and curve == 'training loss'")
        assert list(zip(curve.step, curve.value)) == [(e["step"], e["loss"]) for e in t["losses"]]
    for arm, a in m["attrition"].items():
        rows = own(tiny.attrition).query("arm == @arm")
        assert rows.n.sum() == a["inputs"] and rows.set_index("outcome").at["training rows", "n"] == a["rows"]
    assert len(own(tiny.tests)) == len(m["tests"]) + len(m["tests_strict"])


def test_every_table_tells_its_reports_apart(tiny):
    for table in (tiny.arms, tiny.scores, tiny.tests, tiny.curves, tiny.attrition):
        assert list(table)[:5] == IDENTITY and table.report.nunique() == 10


def test_a_line_answers_a_question(tiny):
    wide = tiny.arms.query("data == 'tiny-qa'").pivot(index="student", columns="arm", values="value")
    assert (wide[BEST] > wide[BASE]).all()
    assert (
        tiny.attrition.groupby(["report", "arm"]).n.sum() == tiny.attrition.groupby(["report", "arm"]).inputs.first()
    ).all()


def test_one_report_several_and_all(tmp_path):
    assert len(find_reports(QA)) == len(find_reports(QA / "metrics.json")) == len(find_reports(QA, QA, str(QA))) == 1
    assert (
        len(find_reports(ROOT / "reports")) >= 10 and len(find_reports(QA, TINY / "tiny-nli--teacher--student-m")) == 2
    )
    copy(tmp_path / "a"), copy(tmp_path / "b"), copy(tmp_path / ".hidden")
    assert [r.name for r in find_reports(tmp_path)] == ["a/report", "b/report"]


def test_a_run_without_any_trained_arm(tmp_path):
    def change(m):
        m.update(training={}, attrition={}, best=None, gaps=[], tests=[], tests_strict=[])

    found = load_results(copy(tmp_path, change))
    assert len(found.arms) == 8 and len(found.curves) == len(found.attrition) == 0
    for figure in (found.curves_figure, found.attrition_figure):
        with pytest.raises(ExploreError):
            figure()
    assert "Best distilled arm" in found.html() and len(found.arms_figure().alt) > 100


# --- bad input


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("nul", "damaged"),
        ("[]", "names no format"),
        ("3", "names no format"),
        ("{}", "names no format"),
        ('{"format": 2}', "reads format 1"),
        ('{"format": "<b>"}', "reads format 1"),
        ('{"format": 1, "arms": [], "gaps": 3}', "has no arms and no gaps"),
        ('{"format": NaN}', "NaN"),
        ("{" * 100_000, "damaged"),
        ('{"a": ' * 100_000, "damaged"),
    ],
)
def test_damaged_numbers_name_file_and_remedy(tmp_path, text, says):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ExploreError) as e:
        load_results(tmp_path)
    assert says in str(e.value) and str(tmp_path / "metrics.json") in str(e.value) and ("distill-study" in str(e.value))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "metrics.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ExploreError, match="damaged"):
        load_results(tmp_path)


def without(*path):
    def change(m):
        for k in path[:-1]:
            m = m[k]
        del m[path[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("arms"),
        without("provenance"),
        without("provenance", "settings"),
        without("arms", BASE, "accuracy"),
        without("arms", BASE, "n"),
        without("provenance", "settings", "student"),
        lambda m: m["arms"].update({BASE: 5}),
        lambda m: m["metric"].update(key="none"),
        lambda m: m["arms"][BASE]["accuracy"].update(extra=1),
        lambda m: m["arms"].update({ATTACK: m["arms"][BASE]}),
    ],
)
def test_an_older_or_changed_schema_is_refused(tmp_path, change):
    with pytest.raises(ExploreError) as e:
        load_results(copy(tmp_path, change))
    assert "metrics.json" in str(e.value) and "distill-study replay" in str(e.value)


@pytest.mark.parametrize(
    "change, table",
    [
        (without("training", BEST, "losses", 0, "step"), "curves"),
        (lambda m: m["attrition"].update({BEST: {}}), "attrition"),
        (lambda m: m["tests"].append({}), "tests"),
        (lambda m: m["gaps"].append({}), "arms"),
    ],
)
def test_what_only_one_table_lacks_is_refused_there(tmp_path, change, table):
    found = load_results(copy(tmp_path, change))
    with pytest.raises(ExploreError, match="incomplete"):
        getattr(found, table)
    assert len(found.scores)


def test_folders_that_are_not_there_or_empty(tmp_path):
    (tmp_path / "reports").mkdir()
    with pytest.raises(ExploreError, match="Did you mean 'reports'"):
        load_results(tmp_path / "report")
    with pytest.raises(ExploreError, match="no metrics.json in this folder or below it. `distill-study run RECIPE`"):
        load_results(tmp_path / "reports")
    (tmp_path / "reports" / "x" / "metrics.json").mkdir(parents=True)
    with pytest.raises(ExploreError, match="can't be read"):
        load_results(tmp_path / "reports" / "x")


def test_hostile_text_in_numbers_is_shown_and_not_run(tmp_path):
    def change(m):
        m["provenance"]["settings"]["data"]["name"] = ATTACK
        m["provenance"]["settings"]["student"]["model"] = "$\\frac{$" + ATTACK
        m["attrition"][BEST]["dropped"] = {ATTACK: 1}

    found = load_results(copy(tmp_path, change, "$x$ <b>"))
    for html in (found.html(), found.arms_figure().html(), found.attrition_figure().html(), found.arms.to_html()):
        assert "<script" not in html and "<img src=x" not in html and "<b>" not in html.replace("<b></b>", "")


def test_figures_have_their_numbers_in_words(tiny):
    alt = load_results(QA).arms_figure().alt
    a = json.loads((QA / "metrics.json").read_text())["arms"][BASE]["accuracy"]
    assert f"{BASE} {100 * a['value']:.1f} ({100 * a['low']:.1f} to {100 * a['high']:.1f})" in alt
    assert 'alt="' in tiny.curves_figure().html() and tiny.attrition_figure()._repr_html_().startswith("<img alt=")


# --- from the store


def test_without_a_store_it_says_so(tiny):
    for table in ("items", "inputs", "verdicts", "opinions"):
        with pytest.raises(ExploreError, match="need the store"):
            getattr(tiny, table)
    assert repr(browse(tiny)) == tiny.without_items


def test_items_are_those_the_report_was_made_from(seen, run):
    m = read_report(run / "report").metrics
    assert len(seen.items) == 3 * 8 and list(seen.items)[:5] == IDENTITY
    for arm, rows in seen.items.groupby("arm"):
        assert (
            rows.correct.mean() == m["arms"][arm]["accuracy"]["value"]
            and rows.correct_strict.mean() == m["arms"][arm]["strict"]["value"]
            and rows.tokens.mean() == m["arms"][arm]["tokens"]
        )
        assert (
            rows.prompt.str.contains("[user]", regex=False).all()
            and rows.id.is_unique
            and rows["samples"].map(len).eq(1).all()
        )


def test_a_judges_grades_and_verdicts_stand_beside_the_items(seen, run):
    grades = {
        (g["arm"], g["criterion"]): g["grade"]["value"] for g in read_report(run / "report").metrics["judge"]["grades"]
    }
    said = seen.items.groupby("arm").judge_correct.agg(["mean", "count"])
    assert {a: (said.at[a, "mean"], said.at[a, "count"]) for a, _ in grades} == {
        a: (v, 4) for (a, _), v in grades.items()
    }
    assert (
        len(seen.verdicts) == 2 * 4
        and set(seen.verdicts.winner) <= {"a", "b", "tie"}
        and len(seen.grades) == len(grades)
    )


def test_peoples_grades_stand_beside_the_items(seen):
    b = seen.built("report")
    said = pd.DataFrame(
        [
            dict(arm=BEST, id=i, criterion="correct", rater=r, grade=g, note="", check=c, text="t")
            for i, r, g, c in (
                ("x", "r1", 0.0, True),
                (seen.items.id.iloc[0], "r1", 1.0, False),
                (seen.items.id.iloc[0], "r2", 0.0, False),
            )
        ]
    )
    with_grades = copy_of(b)
    with_grades.people = said
    rows = item_table(with_grades)
    assert (
        rows.people_correct.dropna().tolist() == [0.5]
        and rows[rows.people_correct.notna()].arm.tolist() == [BEST]
        and "people, correct: 0.5" in item_page(rows[rows.id == seen.items.id.iloc[0]], METRICS["correct"])
    )
    assert len(opinion_table(with_grades, {})) == 2 and len(seen.opinions) == 0 and "people_correct" not in seen.items


def test_inputs_add_up_to_the_attrition(seen):
    rows, lost = seen.inputs, seen.attrition
    assert rows.kept.sum() == lost[lost.outcome == "training rows"].n.sum() and len(rows) == 16
    kept = rows[rows.kept].iloc[0]
    assert kept["row"].endswith(kept["samples"][0].strip()) or kept.label in kept["row"]
    assert (rows[~rows.kept]["row"] == "").all() and (rows[rows.kept].reason == "").all()


def test_rebuilding_writes_nothing_and_is_done_once(run):
    before = {
        p: (p.stat().st_mtime_ns, p.stat().st_size)
        for p in (run / "store").rglob("*")
        if p.is_file() and p.suffix != ".lock"
    }
    found = load_results(run / "report", store=run / "store")
    assert found.built("report") is found.built("report") and found.items is found.items
    assert {
        p: (p.stat().st_mtime_ns, p.stat().st_size)
        for p in (run / "store").rglob("*")
        if p.is_file() and p.suffix != ".lock"
    } == before


def test_the_wrong_store_or_data_is_named(run, tmp_path, seen):
    with pytest.raises(Exception, match="there is no store in this folder"):
        load_results(run / "report", store=tmp_path)
    (tmp_path / "other" / "completions").mkdir(parents=True)
    with pytest.raises(ExploreError, match="Name the store that the run wrote to"):
        load_results(run / "report", store=tmp_path / "other").items
    shutil.copytree(run / "report", tmp_path / "changed")
    m = json.loads((tmp_path / "changed" / "metrics.json").read_text())
    m["provenance"]["data_hashes"]["test"] = "0" * 16
    (tmp_path / "changed" / "metrics.json").write_text(json.dumps(m))
    with pytest.raises(ExploreError, match="are not those of the report"):
        load_results(tmp_path / "changed", store=run / "store").items
    (tmp_path / "changed" / "params.yaml").write_text("a: [")
    with pytest.raises(ExploreError, match="params.yaml: not readable as YAML"):
        load_results(tmp_path / "changed", store=run / "store").items


def test_a_report_without_its_settings_file_takes_those_of_its_numbers(run, tmp_path):
    shutil.copytree(run / "report", tmp_path / "alone")
    (tmp_path / "alone" / "params.yaml").unlink()
    assert len(load_results(tmp_path / "alone", store=run / "store").items) == 24


# --- the browser


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_every_item_has_one_outcome(pairs):
    items = pd.DataFrame(
        [
            dict(arm=arm, id=f"q{i}", question="x", gold="y", completion="z", correct=ok)
            for i, both in enumerate(pairs)
            for arm, ok in zip((BASE, BEST), both)
        ]
    )
    each = {
        o: matching(items, METRICS["correct"], a=BASE, b=BEST, outcome=o)
        for o in outcomes(METRICS["correct"], BASE, b=BEST)
    }
    assert sorted(i for o, ids in each.items() if o != "all" for i in ids) == sorted(each["all"]) and len(
        each["all"]
    ) == len(pairs)
    assert each[f"{BASE} wrong, {BEST} right"] == [f"q{i}" for i, (x, y) in enumerate(pairs) if not x and y]


def test_the_browser_turns_filters_and_searches(seen):
    pytest.importorskip("ipywidgets")
    b = browse(seen)
    assert isinstance(b, Browser) and (b.a.value, b.b.value, len(b.ids)) == (BASE, BEST, 8) and b.back.disabled
    b.go(1)
    b.go(1)
    b.go(-1)
    assert b.item.value == b.ids[1] and "2 of 8" in b.count.value and f"<h3>{b.ids[1]}</h3>" in b.page.value
    b.go(99)
    assert b.next.disabled and "8 of 8" in b.count.value
    for name in list(b.outcome.options)[1:]:
        b.outcome.value = name
        assert b.ids == matching(seen.items, METRICS["correct"], a=BASE, b=BEST, outcome=name)
    b.a.value = "teacher/cot"
    assert b.outcome.value.startswith("both") and list(b.outcome.options)[1] == f"teacher/cot wrong, {BEST} right"
    b.outcome.value, b.text.value = "all", "no item says this"
    assert b.ids == [] and "No item fits" in b.page.value and "0 of 0" in b.count.value
    b.go(1)
    b.text.value = seen.items.question.iloc[0][:30].upper()
    assert b.ids and seen.items.id.iloc[0] in b.ids
    b.text.value, b.kind.value = "", "Training inputs"
    assert len(b.ids) == 16 and "Training row" in b.page.value
    b.outcome.value = "kept"
    assert b.ids == matching_inputs(seen.inputs, BEST, outcome="kept")
    mime = b._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in (mime[0] if isinstance(mime, tuple) else mime)


def test_hostile_items_do_nothing(seen):
    rows = seen.items[seen.items.id == seen.items.id.iloc[0]].assign(
        id=ATTACK,
        question=ATTACK,
        gold=ATTACK,
        completion=ATTACK,
        answer=ATTACK,
        prompt=ATTACK,
        samples=[[ATTACK, ATTACK]] * 3,
    )
    taught = seen.inputs[:1].assign(
        id=ATTACK, question=ATTACK, gold=ATTACK, label=ATTACK, evidence=ATTACK, reason=ATTACK, row=ATTACK, kept=False
    )
    for page in (
        item_page(rows, METRICS["correct"], verdicts=seen.verdicts[:1].assign(winner=None, why=ATTACK)),
        input_page(taught),
    ):
        assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page


def test_the_study_notebook_runs_on_the_committed_reports_and_on_a_store(run, tmp_path):
    pytest.importorskip("ipywidgets")
    import papermill

    how = dict(kernel_name="python3", progress_bar=False, cwd=ROOT / "nbs/study")
    done = papermill.execute_notebook(ROOT / "nbs/study/explore.ipynb", tmp_path / "done.ipynb", **how)
    said = json.dumps([c.get("outputs", []) for c in done.cells])
    assert "Tables of items need the store" in said and "10 reports" in said
    done = papermill.execute_notebook(
        ROOT / "nbs/study/explore.ipynb",
        tmp_path / "done.ipynb",
        dict(reports=[str(run / "report")], store=str(run / "store")),
        **how,
    )
    said = json.dumps([c.get("outputs", []) for c in done.cells])
    assert "need the store" not in said and "application/vnd.jupyter.widget-view+json" in said
