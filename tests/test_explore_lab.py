"""The study notebook on results in a real JupyterLab and a real browser.

Run from top to bottom, an item chosen, a filter applied, hostile text shown and not run.
"""

import json

import pytest
from browser import HOOK, WAIT, chromium, jupyterlab, run_notebook, wait_until
from conftest import ROOT
from smallrun import small_run

from distill_study.tools.explore import load_results, matching, matching_inputs, outcomes

EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</pre></td><svg onload=alert(3)>",
    "$\\href{javascript:alert(4)}{x}$ <iframe srcdoc='<script>alert(5)</script>'>",
]
BASE, BEST = "student/vanilla", "distilled/cot-rationale"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A notebook, a report and its store, on questions that hold HTML."
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("lab")
    rows = [
        dict(
            id=f"q{i}",
            messages=[
                dict(
                    role="user",
                    content=(
                        f"{EVIL[i % 4]} A farmer has {i} apples and buys {i + 3} more. How many apples does the farmer"
                        " have?"
                    ),
                )
            ],
            gold=str(2 * i + 3),
        )
        for i in range(20)
    ]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small_run(
        folder / "report",
        folder / "store",
        data=dict(name=str(folder / "mine.jsonl"), task="math", train=12, test=8),
        curate=dict(near=1.0, ngram=200, given_away=False),
        arms=("teacher/cot", BASE, BEST),
    )
    nb = json.loads((ROOT / "nbs/study/explore.ipynb").read_text())
    next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", []))["source"] = [
        'reports, store = "report", "store"'
    ]
    (folder / "explore.ipynb").write_text(json.dumps(nb))
    return folder


def test_explored_in_jupyterlab(folder):
    found = load_results(folder / "report", store=folder / "store")
    metric, items = found.reports[0].metric, found.items
    ids = matching(items, metric, a=BASE, b=BEST)
    with chromium() as browser, jupyterlab(folder) as url:
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(WAIT)
        page.add_init_script(HOOK)
        run_notebook(page, url, "explore.ipynb", ".widget-dropdown select")
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert page.locator(".jp-OutputArea img[alt*='accuracy with 95 % interval']").count() == 1, (
            "figures have their text"
        )
        shown = lambda: page.locator(".jp-OutputArea h3").last.inner_text()

        def count(text):
            wait_until(page, "text => document.querySelector('[role=status]')?.textContent === text", arg=text)

        count(f"1 of {len(ids)}")
        assert shown() == ids[0]
        page.get_by_label("Item", exact=True).select_option(ids[3])
        count(f"4 of {len(ids)}")
        assert shown() == ids[3]
        page.get_by_role("button", name="Next").click()
        count(f"5 of {len(ids)}")

        page.get_by_label("First arm", exact=True).select_option("teacher/cot")
        for name in list(outcomes(metric, "teacher/cot", b=BEST))[1:]:
            want = matching(items, metric, a="teacher/cot", b=BEST, outcome=name)
            page.get_by_label("Outcome", exact=True).select_option(name)
            count(f"{min(len(want), 1)} of {len(want)}")
            assert not want or shown() == want[0]
        page.get_by_label("Outcome", exact=True).select_option("all")
        page.get_by_label("Search", exact=True).fill("ONLOAD")
        want = matching(items, metric, a=BASE, b=BEST, text="onload")
        assert 0 < len(want) < len(ids)
        count(f"1 of {len(want)}")
        assert EVIL[2] in page.locator(".jp-OutputArea pre").first.inner_text()

        page.get_by_label("Show", exact=True).select_option("Training inputs")
        count(f"1 of {len(matching_inputs(found.inputs, BEST, text='onload'))}")
        page.get_by_label("Search", exact=True).fill("")
        count(f"1 of {found.inputs.id.nunique()}")
        assert page.get_by_text("From the teacher to training rows").is_visible()
        assert (
            page.evaluate("window.ran") == []
            and page.evaluate(
                "document.querySelectorAll('.widget-html script, .widget-html img, .widget-html svg, .widget-html"
                " iframe').length"
            )
            == 0
        )
        page.close()
