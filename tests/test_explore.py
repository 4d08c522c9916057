"""Reports as tables: what was written is what is read, damaged files are named, items are those of the store,
hostile text does nothing.
"""

import json
import shutil
from copy import copy as copy_of

import pandas as pd
import pytest
from browser import HOOK, WAIT, chromium, jupyterlab, run_notebook
from bs4 import BeautifulSoup
from conftest import ROOT
from smallrun import small_run

from distill_study.analyse.stats import BASE
from distill_study.config import StudyError
from distill_study.report.items import item_table
from distill_study.tools.explore import browse, find_reports, load_results, read_report

TINY = ROOT / "reports/examples/tiny"
QA = TINY / "tiny-qa--teacher--student-s"
BEST = "distilled/cot-rationale"
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>"
EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</pre></td><svg onload=alert(3)>",
    "\"></iframe><script>alert(4)</script><iframe srcdoc='<script>alert(5)</script>'>",
]
IDENTITY = ["report", "data", "teacher", "student", "seed"]


@pytest.fixture(scope="module")
def tiny():
    return load_results(TINY)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A report and its store, on questions that hold HTML."
    folder = tmp_path_factory.mktemp("run")
    asked = "{} Anna has {} keys. On Monday she buys {} more. How many keys does Anna have now?"
    rows = [
        dict(id=f"q{i}", messages=[dict(role="user", content=asked.format(EVIL[i % 4], i, i + 3))], gold=str(2 * i + 3))
        for i in range(24)
    ]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small_run(
        folder / "report",
        folder / "store",
        data=dict(name=str(folder / "mine.jsonl"), task="math", train=16, test=8),
        curate=dict(near=1.0, ngram=200, given_away=False),
        judge=dict(engine="rules:world", items=4),
    )
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
    assert arms.index[arms.primary].tolist() == [m["primary"]]
    for arm, t in m["training"].items():
        curve = own(tiny.curves).query("arm == @arm and curve == 'training loss'")
        assert list(zip(curve.step, curve.value)) == [(e["step"], e["loss"]) for e in t["losses"]]
    for arm, a in m["attrition"].items():
        rows = own(tiny.attrition).query("arm == @arm")
        assert rows.n.sum() == a["inputs"]
        assert rows.set_index("outcome").at["training rows", "n"] == a["rows"]
    assert len(own(tiny.tests)) == len(m["tests"]) + len(m["tests_strict"])


def test_every_table_tells_its_reports_apart(tiny):
    for table in (tiny.arms, tiny.tests, tiny.curves, tiny.attrition):
        assert list(table)[:5] == IDENTITY
        assert table.report.nunique() == 10


def test_a_line_answers_a_question(tiny):
    wide = tiny.arms.query("data == 'tiny-qa'").pivot(index="student", columns="arm", values="value")
    assert (wide[BEST] > wide[BASE]).all()
    assert (
        tiny.attrition.groupby(["report", "arm"]).n.sum() == tiny.attrition.groupby(["report", "arm"]).inputs.first()
    ).all()


def test_one_report_several_and_all(tmp_path):
    assert len(find_reports(QA)) == len(find_reports(QA / "metrics.json")) == len(find_reports(QA, QA, str(QA))) == 1
    assert len(find_reports(ROOT / "reports")) >= 10
    assert len(find_reports(QA, TINY / "tiny-nli--teacher--student-m")) == 2
    copy(tmp_path / "a"), copy(tmp_path / "b"), copy(tmp_path / ".hidden")
    assert [r.name for r in find_reports(tmp_path)] == ["a/report", "b/report"]


def test_a_run_without_any_trained_arm(tmp_path):
    def change(m):
        m.update(training={}, attrition={}, primary=None, gaps=[], tests=[], tests_strict=[])

    found = load_results(copy(tmp_path, change))
    assert len(found.arms) == 8
    assert len(found.curves) == len(found.attrition) == 0
    assert "Leading distilled arm" in found.html()


# --- bad input


@pytest.mark.parametrize(
    "text, says",
    [
        (b"{", "damaged"),
        (b"{" * 100_000, "damaged"),
        (b"\xff\xfe{}", "damaged"),
        (b"[]", "no numbers of a report in format 1"),
        (b'{"format": 2}', "no numbers of a report in format 1"),
        (b'{"format": 1, "arms": [], "gaps": 3}', "incomplete"),
    ],
)
def test_damaged_numbers_name_file_and_remedy(tmp_path, text, says):
    (tmp_path / "metrics.json").write_bytes(text)
    with pytest.raises(StudyError) as e:
        load_results(tmp_path)
    assert says in str(e.value)
    assert str(tmp_path / "metrics.json") in str(e.value)
    assert "distill-study replay" in str(e.value)


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
        without("provenance", "settings", "student"),
        without("arms", BASE, "n"),
        lambda m: m["arms"].update({BASE: 5}),
        lambda m: m["metric"].update(key="none"),
        lambda m: m["arms"][BASE]["accuracy"].update(extra=1),
        lambda m: m["arms"].update({ATTACK: m["arms"][BASE]}),
    ],
)
def test_an_older_or_changed_schema_is_refused(tmp_path, change):
    with pytest.raises(StudyError) as e:
        load_results(copy(tmp_path, change))
    assert "metrics.json" in str(e.value)
    assert "distill-study replay" in str(e.value)


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
    with pytest.raises(StudyError, match="incomplete"):
        getattr(found, table)
    assert found.html()


def test_folders_that_are_not_there_or_empty(tmp_path):
    (tmp_path / "reports").mkdir()
    with pytest.raises(StudyError, match="Did you mean 'reports'"):
        load_results(tmp_path / "report")
    with pytest.raises(StudyError, match="no metrics.json in this folder or below it. `distill-study run RECIPE`"):
        load_results(tmp_path / "reports")
    (tmp_path / "reports" / "x" / "metrics.json").mkdir(parents=True)
    with pytest.raises(StudyError, match="can't be read"):
        load_results(tmp_path / "reports" / "x")


def test_hostile_text_in_numbers_is_shown_and_not_run(tmp_path):
    def change(m):
        m["provenance"]["settings"]["data"]["name"] = ATTACK
        m["provenance"]["settings"]["student"]["model"] = "$\\frac{$" + ATTACK
        m["attrition"][BEST]["dropped"] = {ATTACK: 1}

    found = load_results(copy(tmp_path, change, "$x$ <b>"))
    for html in (found.html(), found.arms.to_html()):
        assert "<script" not in html
        assert "<img src=x" not in html
        assert "<b>" not in html.replace("<b></b>", "")


# --- from the store


def test_without_a_store_it_says_so(tiny):
    for table in ("items", "inputs", "verdicts"):
        with pytest.raises(StudyError, match="need the store"):
            getattr(tiny, table)
    with pytest.raises(StudyError, match="need the store"):
        browse(tiny)


def test_items_are_those_the_report_was_made_from(seen, run):
    m = read_report(run / "report").metrics
    assert len(seen.items) == 3 * 8
    assert list(seen.items)[:5] == IDENTITY
    for arm, rows in seen.items.groupby("arm"):
        assert rows.correct.mean() == m["arms"][arm]["accuracy"]["value"]
        assert rows.correct_strict.mean() == m["arms"][arm]["strict"]["value"]
        assert rows.tokens.mean() == m["arms"][arm]["tokens"]
        assert rows.prompt.str.contains("[user]", regex=False).all()
        assert rows.id.is_unique
        assert rows["samples"].map(len).eq(1).all()


def test_a_judges_grades_and_verdicts_stand_beside_the_items(seen, run):
    grades = {
        (g["arm"], g["criterion"]): g["grade"]["value"] for g in read_report(run / "report").metrics["judge"]["grades"]
    }
    said = seen.items.groupby("arm").judge_correct.agg(["mean", "count"])
    assert {a: (said.at[a, "mean"], said.at[a, "count"]) for a, _ in grades} == {
        a: (v, 4) for (a, _), v in grades.items()
    }
    assert len(seen.verdicts) == 2 * 4
    assert set(seen.verdicts.winner) <= {"a", "b", "tie"}


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
    assert rows.people_correct.dropna().tolist() == [0.5]
    assert rows[rows.people_correct.notna()].arm.tolist() == [BEST]
    assert "people_correct" not in seen.items


def test_inputs_add_up_to_the_attrition(seen):
    rows, lost = seen.inputs, seen.attrition
    assert rows.kept.sum() == lost[lost.outcome == "training rows"].n.sum()
    assert len(rows) == 16
    kept = rows[rows.kept].iloc[0]
    assert kept["row"].endswith(kept["samples"][0].strip()) or kept.label in kept["row"]
    assert (rows[~rows.kept]["row"] == "").all()
    assert (rows[rows.kept].reason == "").all()


def test_rebuilding_writes_nothing_and_is_done_once(run):
    before = {
        p: (p.stat().st_mtime_ns, p.stat().st_size)
        for p in (run / "store").rglob("*")
        if p.is_file() and p.suffix != ".lock"
    }
    found = load_results(run / "report", store=run / "store")
    assert found.built("report") is found.built("report")
    assert found.items is found.items
    assert {
        p: (p.stat().st_mtime_ns, p.stat().st_size)
        for p in (run / "store").rglob("*")
        if p.is_file() and p.suffix != ".lock"
    } == before


def test_the_wrong_store_or_data_is_named(run, tmp_path, seen):
    with pytest.raises(Exception, match="there is no store in this folder"):
        load_results(run / "report", store=tmp_path)
    (tmp_path / "other" / "completions").mkdir(parents=True)
    with pytest.raises(StudyError, match="Name the store that the run wrote to"):
        load_results(run / "report", store=tmp_path / "other").items
    shutil.copytree(run / "report", tmp_path / "changed")
    m = json.loads((tmp_path / "changed" / "metrics.json").read_text())
    m["provenance"]["data_hashes"]["test"] = "0" * 16
    (tmp_path / "changed" / "metrics.json").write_text(json.dumps(m))
    with pytest.raises(StudyError, match="are not those of the report"):
        load_results(tmp_path / "changed", store=run / "store").items
    (tmp_path / "changed" / "params.yaml").write_text("a: [")
    with pytest.raises(StudyError, match="params.yaml: not readable as YAML"):
        load_results(tmp_path / "changed", store=run / "store").items


def test_a_report_without_its_settings_file_takes_those_of_its_numbers(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run)  # numbers name the data without its folder
    shutil.copytree(run / "report", tmp_path / "alone")
    (tmp_path / "alone" / "params.yaml").unlink()
    assert len(load_results(tmp_path / "alone", store=run / "store").items) == 24


# --- one item


def test_the_items_page_is_shown_apart_from_the_notebook(seen, run):
    shown = browse(seen)
    html = shown._repr_html_()
    page = BeautifulSoup(html, "html.parser").iframe["srcdoc"]
    assert page.count("<script") == page.count('<script type="text/plain"') + 1
    assert html.count("<iframe") == 1
    assert html.count("<") == 4
    assert 'sandbox="allow-scripts"' in html
    assert html.count('"') == html.count('="') * 2
    with pytest.raises(StudyError, match="Did you mean 'report'"):
        browse(seen, "repor")


def test_items_in_jupyterlab(seen, run, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")
    expect = playwright.expect
    expect.set_options(timeout=WAIT)
    nb = json.loads((ROOT / "nbs/study/explore.ipynb").read_text())
    parameters = next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", []))
    parameters["source"] = [f"reports, store = {str(run / 'report')!r}, {str(run / 'store')!r}"]
    (tmp_path / "explore.ipynb").write_text(json.dumps(nb))
    items, inputs = seen.items, seen.inputs
    graded = items[items.arm.isin(["teacher/cot", BEST])].assign(
        right=lambda x: x.correct.map({True: "right", False: "wrong"})
    )
    came_out = graded.pivot(index="id", columns="arm", values="right").value_counts()
    with chromium() as browser, jupyterlab(tmp_path) as url:
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(WAIT)
        page.add_init_script(HOOK)
        run_notebook(page, url, "explore.ipynb", ".jp-OutputArea iframe")
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        frame = page.frame_locator(".jp-OutputArea iframe")

        def count(of, among, at=1):
            expect(frame.get_by_role("status")).to_have_text(f"{min(of, at)} of {of} that fit, {among} in all")

        count(8, 8)
        frame.get_by_role("button", name="Next").click()
        count(8, 8, at=2)
        expect(frame.locator("#chosen")).to_contain_text(items.id.unique()[1])
        frame.locator(".rows a").nth(3).click()
        count(8, 8, at=4)
        expect(frame.locator("#chosen")).to_contain_text(items.id.unique()[3])

        frame.get_by_label("Arm A", exact=True).select_option("teacher/cot")
        frame.get_by_label("Arm B", exact=True).select_option(BEST)
        count(8, 8, at=4)
        for (best, teacher), n in came_out.items():
            apart = f"A {teacher}, B {best}"
            frame.get_by_label("Outcome", exact=True).select_option(f"both {best}" if best == teacher else apart)
            count(n, 8)
        frame.get_by_label("Outcome", exact=True).select_option("any outcome")
        frame.get_by_label("Text", exact=True).fill("ONLOAD")
        count(items[items.question.str.contains("onload")].id.nunique(), 8)
        expect(frame.locator("pre").first).to_contain_text(EVIL[2])

        frame.get_by_label("Text", exact=True).fill("")
        frame.get_by_label("Show", exact=True).select_option("Training inputs")
        count(inputs.id.nunique(), inputs.id.nunique())
        expect(frame.locator(".rows .row").first).to_be_visible()
        assert [f.evaluate("window.ran") for f in page.frames] == [[], []]
        assert page.locator(".jp-OutputArea iframe").count() == 1
        assert frame.locator("#items img, #items svg, #items iframe, #items script").count() == 0
        page.close()
