"What reports say of the paper's claims: computed from their numbers, by the rules that the notebook states."

import contextlib
import io
import json
import shutil
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from hypothesis import given, settings, strategies as st

from distill_study.analyse.stats import BASE, FORM, Interval
from distill_study.config import StudyError
from distill_study.report.render import check_page
from distill_study.tools.explore import read_report

NOTEBOOK = ROOT / "nbs/study/claims.ipynb"
TINY = ROOT / "reports/examples/tiny"
QA = read_report(TINY / "tiny-qa--teacher--student-s")


def run(reports, out=""):
    "The names that the notebook leaves behind, run on these reports in this process."
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                names |= dict(reports=str(reports), out=str(out))
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = shutil.copytree(TINY, tmp_path_factory.mktemp("claims") / "tiny")
    return run(folder, folder / "claims.html")


def changed(folder, change):
    "The notebook on one report with other numbers."
    numbers = deepcopy(QA.metrics)
    change(numbers)
    folder = folder / "changed"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return run(folder)


def test_the_committed_page_is_what_the_committed_numbers_give(notebook):
    committed = (TINY / "claims.html").read_text()
    with open(notebook.out) as f:
        assert committed == f.read(), "reports/examples/tiny/claims.html is stale: `make examples` writes it"
    assert check_page(committed) == [] and len(committed) < 100_000


def test_every_verdict_follows_from_its_rows(notebook):
    by_margin = ("as good as in writing", "students match the teacher")
    for claim, rows in notebook.evidence:
        assert rows, claim.name
        for e in rows:
            if (
                e.difference.value is not None
                and e.verdict not in ("open", "not testable")
                and claim.name not in by_margin
            ):
                assert e.difference.excludes_zero


def test_a_test_that_is_turned_around_turns_the_verdict(notebook):
    numbers = deepcopy(QA.metrics)
    t = next(t for t in numbers["tests"] if (t["a"], t["b"]) == (BASE, "distilled/cot-rationale"))
    t["verdict"], d = "lower", t["difference"]
    t["difference"] |= dict(value=-d["value"], low=-d["high"], high=-d["low"])

    def verdict(report):
        return notebook.tested(report, BASE, b="distilled/cot-rationale").verdict

    turned = replace(QA, metrics=numbers)
    assert (verdict(QA), verdict(turned)) == ("supports", "contradicts")
    t["verdict"] = "can't tell"
    assert verdict(turned) == "open"
    t["verdict"], t["difference"]["high"] = "lower", 0.1  # the test and the interval must agree
    assert verdict(turned) == "open"


def test_a_control_that_learned_nothing_leaves_claims_about_labels_untested(tmp_path):
    about_labels = {"labels help", "better labels help more", "reasoning is internalised", "as good as in writing"}

    def verdicts(outcome):
        def gold(m):
            for t in m["tests"]:
                if (t["a"], t["b"]) == (BASE, "control/gold"):
                    t["verdict"] = outcome
            m["constant"] = dict(tests=[dict(a="constant", b="control/gold", verdict="higher")])

        found = changed(tmp_path / outcome, gold)
        return {c.name: found.verdict(rows, c.some) for c, rows in found.evidence}

    for name in ("higher", "can't tell"):
        (tmp_path / name).mkdir()
    learned, nothing = verdicts("higher"), verdicts("can't tell")
    assert {name for name, v in nothing.items() if v == "not testable"} == about_labels
    assert "not testable" not in learned.values()


def test_reports_without_the_arms_say_nothing(tmp_path):
    def nothing(m):
        m["tests"], m["gaps"], m["judge"] = [], [], None
        for arm in m["arms"].values():
            arm["n"] = 0

    found = changed(tmp_path, nothing)
    assert {r["verdict"] for r in found.overview(found.evidence).rows} == {"not asked"}
    assert found.in_short(found.evidence) == "Of 8 claims, 8 are not asked."
    head, *_ = found.parts(*found.evidence[0])
    assert "No report has these arms" in head.data


def test_hostile_names_are_text(tmp_path):
    def hostile(m):
        m["provenance"]["settings"]["student"]["model"] = "<script>alert(1)</script>"

    found = changed(tmp_path, hostile)
    page = found.write_page(tmp_path / "page.html").read_text()
    assert "<script>" not in page and "script&gt;" in page


def test_a_folder_without_reports_is_named(tmp_path):
    shutil.copy(TINY / "index.html", tmp_path)
    with pytest.raises(StudyError, match="no metrics.json"):
        run(tmp_path)


def test_each_claim_says_what_would_have_contradicted_it(notebook):
    page = BeautifulSoup(open(notebook.out, encoding="utf-8").read(), "html.parser")
    lines = [p.text for p in page.find_all("p") if p.text.startswith("This would have been contradicted if, in ")]
    assert lines == [notebook.contradicted(claim) for claim, _ in notebook.evidence]
    for (claim, _), line in zip(notebook.evidence, lines):
        assert ("in every report" in line) == claim.some and any(
            x in line for x in ("0.05", "\u22125 points", "above 0")
        )


def judged(folder, rate, p):
    "Claims on a report whose judge prefers the student of the better labels to the untouched one by this rate."

    def change(m):
        for t in m["tests"]:
            if t["b"] == "distilled/cot-answer" and t["a"] in (BASE, "distilled/vanilla"):
                t |= dict(
                    verdict="higher", p_holm=0.001, difference=t["difference"] | dict(value=0.2, low=0.1, high=0.3)
                )
            if t["b"] == "control/gold":
                t["verdict"] = "higher"
        m["constant"] = dict(tests=[])
        win = dict(m["judge"]["wins"][0], a=BASE, b="distilled/cot-answer", p_holm=p)
        m["judge"]["wins"] = [win | dict(rate=win["rate"] | dict(value=rate))]

    folder.mkdir()
    return changed(folder, change)


def test_a_judge_that_reverses_stands_beside_the_verdict(tmp_path):
    against, open_, same = (
        judged(tmp_path / str(i), *x) for i, x in enumerate(((0.1, 0.001), (0.1, 0.3), (0.9, 0.001)))
    )
    name = "better labels help more"
    for found, n in ((against, 1), (open_, 0), (same, 0)):
        claim, rows = next((c, r) for c, r in found.evidence if c.name == name)
        head, table, *_ = found.parts(claim, rows)
        assert found.verdict(rows) == "supported" and found.disagreeing(rows) == n
        assert ("The judge disagrees in 1" in head.data) == bool(n)
        assert ("prefers untouched in 90.0 %" in table.html()) == bool(n)
        counts = next(r["count"] for r in found.overview(found.evidence).rows if r["name"].lower() == name)
        assert ("the judge disagrees in 1" in counts) == bool(n)
        assert ("the judge contradicts a report in favour" in found.in_short(found.evidence)) == bool(n)


def test_the_page_links_back_to_the_recipe_and_to_reports_below_it(notebook, tmp_path):
    page = BeautifulSoup(open(notebook.out, encoding="utf-8").read(), "html.parser")
    links = [a["href"] for a in page.find_all("a")]
    assert "index.html" in links and sum(x.endswith("/index.html") for x in links) == len(notebook.found.reports)
    alone = notebook.write_page(tmp_path / "alone.html").read_text()
    assert 'href="index.html"' not in alone and check_page(alone) == []


rows = st.lists(st.sampled_from(["supports", "contradicts", "open"]), min_size=1, max_size=9)
MIRROR = dict(supports="contradicts", contradicts="supports", open="open")


@settings(max_examples=60, deadline=None)
@given(vs=rows, some=st.booleans())
def test_the_rule(notebook, vs, some):
    es = [notebook.Evidence(QA, None, None, Interval(None), v) for v in vs]
    got, for_, against = notebook.verdict(es, some), vs.count("supports"), vs.count("contradicts")
    assert notebook.verdict(es[::-1], some) == got
    if got == "supported":
        assert for_ and (some or for_ > len(vs) / 2 and not against)
    if got == "contradicted":
        assert not for_ and against > len(vs) / 2
    if not some:
        turned = notebook.verdict([replace(e, verdict=MIRROR[e.verdict]) for e in es])
        assert turned == dict(supported="contradicted", contradicted="supported", open="open")[got]


@given(value=st.floats(-0.5, 0.5), half=st.floats(0.01, 0.5), n=st.integers(10, 2000), family=st.integers(1, 20))
def test_the_items_needed_are_for_a_stated_difference_not_for_the_one_that_was_seen(notebook, value, half, n, family):
    def need(v, half=half, tests=family):
        return notebook.needed(dict(n=n, family=tests, difference=dict(value=v, low=v - half, high=v + half)))

    assert abs(need(value) - need(0.0)) <= 1 and need(0.0) <= need(0.0, tests=family + 1)
    assert need(0.0) <= need(0.0, half=1.1 * half) and need(0.0, half=0.0) is None


def test_what_is_claimed_of_some_data_is_corrected_over_all_reports(notebook):
    def verdicts(*ps):
        es = [notebook.Evidence(QA, None, None, Interval(0.1, 0.01, 0.2), "supports", p=p) for p in ps]
        return [e.verdict for e in notebook.over_all(es)]

    assert verdicts(0.04) == ["supports"] and verdicts(0.04, 0.6) == ["open", "open"]
    assert verdicts(0.001, 0.6, 0.04) == ["supports", "open", "open"]


def test_a_student_that_is_no_better_than_on_shuffled_answers_shows_nothing_of_labels(tmp_path):
    def verdict(outcome):
        def change(m):
            won = dict(verdict="higher", p_holm=0.001, n=300, family=11, difference=dict(value=0.2, low=0.1, high=0.3))
            m["tests"] = [dict(won, a=BASE, b=b) for b in ("distilled/vanilla", "control/gold")]
            m["tests"] += [
                dict(won, a=FORM, b="control/gold"),
                dict(won, a=FORM, b="distilled/vanilla", verdict=outcome),
            ]
            m["constant"] = dict(tests=[])

        (tmp_path / outcome[:3]).mkdir()
        evidence = {c.name: rows for c, rows in changed(tmp_path / outcome[:3], change).evidence}
        return evidence["labels help"][0].verdict

    assert (verdict("higher"), verdict("can't tell")) == ("supports", "open")
