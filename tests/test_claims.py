"What reports say of the paper's claims: computed from their numbers, by the stated rule, and the committed page is what they give now."

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from distill_study.analyse.stats import BASE
from distill_study.cli import app
from distill_study.report.render import check_page
from distill_study.tools.claims import (
    CONTRADICTS,
    OPEN,
    SUPPORTS,
    Evidence,
    claims_page,
    needed,
    tested as paired,
    verdict,
    weigh,
)
from distill_study.tools.explore import find_reports, read_report
from distill_study.utils import Interval

TINY = Path(__file__).parent.parent / "reports" / "examples" / "tiny"
QA = read_report(TINY / "tiny-qa--teacher--student-s")


def test_the_committed_page_is_what_the_committed_numbers_give(tmp_path):
    claims_page(TINY, tmp_path / "claims.html")
    assert (TINY / "claims.html").read_text() == (tmp_path / "claims.html").read_text(), (
        "reports/examples/tiny/claims.html is stale: run `distill-study claims reports/examples/tiny --out reports/examples/tiny/claims.html`"
    )
    page = (TINY / "claims.html").read_text()
    assert check_page(page) == [] and len(page) < 100_000


def test_every_verdict_follows_from_its_rows():
    for claim, rows in weigh(find_reports(TINY)).found:
        assert rows, claim.name
        for e in rows:
            if (
                e.difference.value is not None
                and e.verdict != OPEN
                and claim.name not in ("reasoning is internalised", "students match the teacher")
            ):
                assert e.difference.excludes_zero


def test_a_test_that_is_turned_around_turns_the_verdict():
    numbers = deepcopy(QA.metrics)
    t = next(t for t in numbers["tests"] if (t["a"], t["b"]) == (BASE, "distilled/cot-rationale"))
    t["verdict"], d = "lower", t["difference"]
    t["difference"] |= dict(value=-d["value"], low=-d["high"], high=-d["low"])
    turned = replace(QA, metrics=numbers)
    assert (
        paired(QA, BASE, b="distilled/cot-rationale").verdict,
        paired(turned, BASE, b="distilled/cot-rationale").verdict,
    ) == (SUPPORTS, CONTRADICTS)
    t["verdict"] = "can't tell"
    assert paired(turned, BASE, b="distilled/cot-rationale").verdict == OPEN
    t["verdict"], t["difference"]["high"] = "lower", 0.1  # the test and the interval must agree
    assert paired(turned, BASE, b="distilled/cot-rationale").verdict == OPEN


def test_reports_without_the_arms_say_nothing():
    numbers = deepcopy(QA.metrics)
    numbers["tests"], numbers["gaps"], numbers["judge"] = [], [], None
    for arm in numbers["arms"].values():
        arm["n"] = 0
    said = weigh([replace(QA, metrics=numbers)])
    assert set(said.verdicts().values()) == {"not asked"} and "No report has these arms" in said.html()
    assert set(weigh([]).verdicts().values()) == {"not asked"}


rows = st.lists(st.sampled_from([SUPPORTS, CONTRADICTS, OPEN]), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(vs=rows, some=st.booleans())
def test_the_rule(vs, some):
    es = [Evidence(QA, None, None, Interval(None), v) for v in vs]
    got, k = verdict(es, some), {v: vs.count(v) for v in (SUPPORTS, CONTRADICTS, OPEN)}
    assert verdict(es[::-1], some) == got
    if got == "supported":
        assert k[SUPPORTS] and (some or k[SUPPORTS] > len(vs) / 2 and not k[CONTRADICTS])
    if got == "contradicted":
        assert not k[SUPPORTS] and k[CONTRADICTS] > len(vs) / 2
    mirror = {SUPPORTS: CONTRADICTS, CONTRADICTS: SUPPORTS, OPEN: OPEN}
    if not some:
        assert (
            verdict([replace(e, verdict=mirror[e.verdict]) for e in es])
            == dict(supported="contradicted", contradicted="supported", open="open")[got]
        )


@given(value=st.floats(0.001, 0.5), spread=st.floats(0.01, 1.0), n=st.integers(10, 2000))
def test_more_items_are_needed_for_less_of_a_difference(value, spread, n):
    def need(v):
        return needed(dict(n=n, spread=spread, difference=dict(value=v)))

    assert need(value) <= need(value / 2) and need(value) == need(-value)


def test_hostile_names_are_text(tmp_path):
    numbers = deepcopy(QA.metrics)
    numbers["provenance"]["settings"]["student"]["model"] = "<script>alert(1)</script>"
    page = weigh([replace(QA, metrics=numbers)]).html()
    assert "<script>" not in page and "script&gt;" in page


def test_mistakes_exit_with_a_remedy(tmp_path):
    assert "no metrics.json" in str(CliRunner().invoke(app, ["claims", str(tmp_path)]).exception)
