"The page shows what was measured, does nothing on its own, and says so where there is nothing to show."

import base64
import json
import re
from dataclasses import make_dataclass, replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from made_up import first_screen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from distill_study.analyse.findings import QUESTIONS, findings
from distill_study.analyse.results import Column, Table, analyse, to_plain, write_numbers
from distill_study.analyse.stats import PLAIN
from distill_study.config import ARMS, DEFAULT_ARMS
from distill_study.report.figures import accuracy_alt, accuracy_figure, picture, png
from distill_study.report.render import check_page, entry, index_page, metrics, provenance, render, scrub, templates
from distill_study.report.tables import (
    arm_table,
    attrition_table,
    cases,
    cost_table,
    story,
    sums_hold,
    test_table as tests_of,
    training_table,
)
from distill_study.study.plan import combination_from
from distill_study.utils import ReportError, esc

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    '"><svg onload=alert(1)>',
    "</pre></td></table><iframe src=//evil.example>",
    "<a href='javascript:alert(1)'>x</a>",
    "{{ 7*7 }}{% raw %}",
    "<!--",
    "<style>*{background:url(//evil.example)}</style>",
    "\x1b[31mred\u202e",
    "$\\href{javascript:alert(1)}{x}$",
    "]]>&lt;b&gt;",
]
SKILL = {
    "teacher/vanilla": 0.6,
    "teacher/cot": 0.95,
    "student/vanilla": 0.3,
    "student/cot": 0.25,
    "distilled/vanilla": 0.42,
    "distilled/cot-answer": 0.6,
    "distilled/cot-rationale": 0.8,
    "control/gold": 0.6,
}
Ex = make_dataclass("Ex", ["id", "messages", "gold"])
PLAIN_ARMS = [a for a in DEFAULT_ARMS if a in PLAIN]


def made_up(n=60, arms=SKILL, strict=1.0, seed=0):
    rng, hard, frames = np.random.default_rng(seed), np.random.default_rng(seed).random(n), []
    for arm in arms:
        right = hard < arms[arm]
        fine = rng.random(n) < (strict.get(arm, 1.0) if isinstance(strict, dict) else strict)
        frames.append(
            pd.DataFrame(
                dict(
                    arm=arm,
                    id=[f"q{i}" for i in range(n)],
                    correct=right,
                    correct_strict=right & fine,
                    format_ok=fine,
                    parsed=True,
                    answer=[ATTACKS[i % len(ATTACKS)] for i in range(n)],
                    gold=[str(i) for i in range(n)],
                    truncated=False,
                    stopped=True,
                    tokens=40.0 if "cot" in arm else 3.0,
                    text=[ATTACKS[i % len(ATTACKS)] for i in range(n)],
                )
            )
        )
    return pd.concat(frames, ignore_index=True)


def examples(n=60):
    return [Ex(f"q{i}", ({"role": "user", "content": ATTACKS[i % len(ATTACKS)]},), ATTACKS[1]) for i in range(n)]


def out(x):
    return new_output("display_data", {"text/html": x.html(), "text/plain": repr(x)})


def shown(fig, alt, caption=""):
    return new_output(
        "display_data",
        {"image/png": base64.b64encode(png(fig)).decode(), "text/plain": alt},
        metadata={"image/png": dict(alt=alt, caption=caption, width=572, height=300)},
    )


ATTRITION = {"cot": dict(inputs=30, rows=20, dropped={"cut off": 4, ATTACKS[0]: 6})}
TRAINING = {
    "distilled/vanilla": dict(
        rows=20, steps=5, seconds=3.0, losses=[dict(step=1, loss=2.0), dict(step=5, loss=1.0), dict(step=5)]
    )
}


@pytest.fixture
def results():
    return analyse(made_up(), resamples=200)


@pytest.fixture
def made():
    return provenance(
        combination_from("recorded:/srv/secret/palm.jsonl", "zoo/student-s", data="tiny-math"),
        durations=dict(training=3.0),
        extra=dict(note=ATTACKS[0]),
    )


def page_of(tmp_path, cells, **kw):
    nbformat.write(new_notebook(cells=cells), tmp_path / "x.ipynb")
    return render(tmp_path / "x.ipynb", tmp_path / "out" / "index.html", **kw).read_text(encoding="utf-8")


def whole(results, made):
    found = findings(results, {"cot": dict(output_tokens=900)}, training=TRAINING)
    return [
        new_markdown_cell("# Title\n\n> Sub."),
        new_code_cell("p = 1", metadata=dict(tags=["injected-parameters"])),
        new_code_cell("s", metadata=dict(tags=["summary"]), outputs=[out(first_screen(results, found))]),
        new_markdown_cell("## Results"),
        new_code_cell(
            "a",
            outputs=[
                out(arm_table(results)),
                out(tests_of(results)),
                out(cost_table(results, {}, training=TRAINING)),
                out(training_table(TRAINING)),
                out(attrition_table(ATTRITION)),
            ],
        ),
        new_code_cell(
            "f",
            outputs=[
                shown(accuracy_figure(results), accuracy_alt(results), "A <b>caption</b>"),
                shown(accuracy_figure(results), 'alt "quoted" <x>'),
            ],
        ),
        new_markdown_cell("## Cases"),
        new_code_cell(
            "c",
            outputs=[
                out(cases(results.graded, examples(), wrong="student/vanilla", right="distilled/cot-rationale", k=20))
            ],
        ),
        new_markdown_cell("## Findings", metadata=dict(tags=["folded"])),
        new_code_cell("found", outputs=[out(found)]),
        new_code_cell("made", metadata=dict(tags=["provenance"]), outputs=[out(made)]),
    ]


# --- the page


def test_whole_page_is_inert_and_self_contained(tmp_path, results, made):
    page = page_of(tmp_path, whole(results, made))
    assert check_page(page) == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not re.search(r"<(script|iframe|svg|a href=.javascript)", page)
    assert not re.search(r"<[^<>]*\b(?:src|href)\s*=\s*['\"]?(?:https?:)?//", page)
    assert len(page) < 400_000


def test_every_figure_has_its_alt_text(tmp_path, results, made):
    page = page_of(tmp_path, whole(results, made))
    alts = [i.get("alt") for i in BeautifulSoup(page, "html.parser").find_all("img")]
    assert len(alts) == 2 and alts[0].startswith("Accuracy by arm") and alts[1] == 'alt "quoted" <x>'
    assert "A &lt;b&gt;caption&lt;/b&gt;" in page


def test_page_has_landmarks_language_title_and_order(tmp_path, results, made):
    page = page_of(tmp_path, whole(results, made), title="A & B")
    assert "<h1>tiny-math: 2.2 M teacher → 0.36 M student</h1>" in page and page.index("<h1") < page.index("<nav")
    assert (
        '<html lang="en">' in page
        and "<title>A &amp; B</title>" in page
        and page.count("<h1") == page.count("<main") == page.count("<footer") == 1
    )
    assert all(x in page for x in ("prefers-color-scheme", "@media print", 'name="viewport"', "<nav"))
    ids = re.findall(r'<h2 id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and all(f'href="#{i}"' in page for i in ids)
    assert page.index("The questions</h2>") < page.index(">Results</h2>") < page.index(">Findings</h2></summary>")


def test_every_table_has_caption_and_scope(tmp_path, results, made):
    page = page_of(tmp_path, whole(results, made))
    assert page.count("<table") == page.count("<caption>") and "<th>" not in page and 'tabindex="0"' in page


def test_noise_does_not_reach_the_page(tmp_path):
    noise = [
        new_output("stream", name="stderr", text="UserWarning: noisy"),
        new_output("stream", name="stdout", text="progress noisy"),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "noisy"}),
        new_output("display_data", {"text/html": "<progress value=1></progress> noisy"}),
        new_output("display_data", {"application/javascript": "noisy()"}),
        new_output("execute_result", {"text/plain": "<noisy.Thing object at 0x7f>"}),
    ]
    page = page_of(
        tmp_path,
        [
            new_markdown_cell("# T"),
            new_code_cell("x", outputs=noise),
            new_code_cell(
                "y", metadata=dict(tags=["keep-output"]), outputs=[new_output("stream", name="stdout", text="kept <b>")]
            ),
        ],
    )
    assert "noisy" not in page and "kept &lt;b&gt;" in page


def test_prompts_and_parameters(tmp_path):
    page = page_of(
        tmp_path,
        [
            new_markdown_cell("# T"),
            new_code_cell("a = 1", metadata=dict(tags=["parameters"])),
            new_code_cell("a = 2", metadata=dict(tags=["injected-parameters"])),
            new_code_cell("b = '<script>'", execution_count=7),
        ],
    )
    assert (
        "In&nbsp;[" not in page
        and page.count("<summary>Parameters</summary>") == 1
        and page.count("<details") == 2
        and "<script>" not in page
    )


def test_markdown_and_plain_outputs_are_text(tmp_path):
    page = page_of(
        tmp_path,
        [
            new_markdown_cell("# T"),
            new_code_cell(
                "x",
                outputs=[
                    new_output("display_data", {"text/markdown": " ".join(ATTACKS[:2] + ATTACKS[5:6])}),
                    new_output("execute_result", {"text/plain": ATTACKS[0]}),
                ],
            ),
        ],
    )
    assert check_page(page) == [] and page.count("&lt;script&gt;alert(1)") == 2


@pytest.mark.parametrize(
    "bad",
    ATTACKS[:2]
    + ATTACKS[3:6]
    + ATTACKS[8:9]
    + [
        "<link rel=stylesheet href=x.css>",
        "<img alt=a src=http://evil.example/x.png>",
        "<a href='https://evil.example'>x</a>",
        "<p style='background:url(x)'>",
        "<object data=x>",
        "<meta http-equiv=refresh content=0>",
        "<img src='data:image/png;base64,AA'>",
        "<h1>again</h1>",
        "<svg><a xlink:href='javascript:x'></a></svg>",
        "<form action=x>",
        "<base href=x>",
    ],
)
def test_active_html_is_refused_and_nothing_written(tmp_path, bad):
    with pytest.raises(ReportError, match="not written"):
        page_of(
            tmp_path,
            [new_markdown_cell("# T"), new_code_cell("x", outputs=[new_output("display_data", {"text/html": bad})])],
        )
    assert not (tmp_path / "out" / "index.html").exists()


def test_machine_paths_leave_the_page(tmp_path):
    page = page_of(
        tmp_path,
        [
            new_markdown_cell("# T"),
            new_code_cell(
                f"store = '{Path.cwd()}/store'",
                outputs=[new_output("execute_result", {"text/plain": f"{Path.home()}/models"})],
            ),
        ],
    )
    assert str(Path.cwd()) not in page and str(Path.home()) + "/" not in page


def test_a_notebook_without_title_summary_or_provenance(tmp_path):
    page = page_of(tmp_path, [new_code_cell("x", outputs=[new_output("execute_result", {"text/plain": "1"})])])
    assert "<h1>out</h1>" in page and '<section class="first"' not in page and "<footer" not in page


def test_failed_cell_shows_its_message_without_traceback(tmp_path):
    page = page_of(
        tmp_path,
        [
            new_markdown_cell("# T"),
            new_code_cell(
                "x", outputs=[new_output("error", ename="E", evalue="<b>no</b>", traceback=[f"{Path.cwd()}/secret.py"])]
            ),
        ],
    )
    assert "&lt;b&gt;no&lt;/b&gt;" in page and "secret.py" not in page


# --- escaping


@pytest.mark.parametrize("attack", ATTACKS)
def test_esc_leaves_no_markup_and_no_hidden_characters(attack):
    assert not set("<>\"'") & set(esc(attack)) and "\x1b" not in esc(attack) and "\u202e" not in esc(attack)


def test_results_escape_in_jupyter_too(results):
    c = cases(results.graded, examples(), wrong="student/vanilla", right="distilled/cot-rationale", k=20)
    t = Table(
        ATTACKS[0],
        (Column("a", ATTACKS[1], ATTACKS[3], "text"), Column("b", ATTACKS[5], kind="text")),
        (dict(a=ATTACKS[0], b=ATTACKS[4]), dict(a="x", missing=ATTACKS[8])),
        ATTACKS[0],
        ATTACKS[4],
    )
    for x in (c, t):
        assert check_page("<h1>x</h1>" + x._repr_html_()) == [] and "mathjax_ignore" in x._repr_html_()


# --- what is missing


def test_missing_arms_are_rows_with_a_reason():
    r = analyse(
        made_up(arms={a: SKILL[a] for a in ("teacher/cot", "student/vanilla", "distilled/cot-answer")}),
        {"teacher/vanilla": "never <asked>"},
        resamples=100,
    )
    for table in (arm_table(r), cost_table(r)):
        text = table.html()
        assert (
            all((a in text) == (a in PLAIN_ARMS) for a in ARMS)
            and "not available: never &lt;asked&gt;" in text
            and text.count("not available: not part of this run") == 4
        )
    f = findings(r)
    assert "distilled/vanilla did not run" in f.entries[1].verdict and len(f.entries) == len(QUESTIONS)
    assert "not available" in accuracy_alt(r) and len(png(accuracy_figure(r))) > 1000


def test_teacher_equal_to_base_leaves_the_gap_undefined():
    g = made_up(arms={"teacher/cot": 0.4, "student/vanilla": 0.4, "distilled/cot-answer": 0.7})
    r = analyse(g, resamples=100)
    f = findings(r)
    assert (
        f.entries[0].verdict.startswith("Undefined: the teacher is not significantly better")
        and ">undefined<" in arm_table(r).html()
        and "Undefined: the teacher is not significantly better" in arm_table(r).note
    )
    assert "helped" not in f.entries[0].verdict


@pytest.mark.parametrize("n", [1, 2, 5])
def test_tiny_n_claims_nothing(n):
    r = analyse(made_up(n), resamples=100)
    f = findings(r)
    assert (
        f.entries[0].verdict.startswith(("Undefined", "None shown"))
        and f.entries[1].verdict.startswith("Not testable with answers alone")
        and f.entries[2].verdict.startswith("Not testable here, as in question 2")
    )
    json.dumps(to_plain([arm_table(r), f]), allow_nan=False)


@pytest.mark.parametrize("arms", [["student/vanilla"], ["teacher/cot"], ["distilled/vanilla"], []])
def test_hardly_anything_ran(arms):
    g = made_up(arms={a: SKILL[a] for a in arms}) if arms else made_up(0, arms={"student/vanilla": 0.3})
    r = analyse(g, resamples=100)
    f = findings(r)
    for x in (arm_table(r), tests_of(r), cost_table(r), f, first_screen(r, f)):
        assert check_page("<h1>x</h1><h2>y</h2>" + x.html().replace("h1>", "h2>")) == []
    png(accuracy_figure(r))
    assert all(x.verdict and (x.sentences or x.number == 4) for x in f.entries)


def test_unknown_tokens_and_truncation_stay_unknown():
    r = analyse(made_up().assign(tokens=np.nan, truncated=None, stopped=None), resamples=100)
    assert r.arms["teacher/cot"]["tokens"] is None and r.arms["teacher/cot"]["truncated"] is None
    f = findings(r)
    assert "not available" in cost_table(r).html() and "nan" not in (
        arm_table(r).html() + cost_table(r).html() + f.html()
    ).lower().replace("finance", "")


def test_cases_of_missing_arms_and_missing_text():
    g = made_up().assign(text=None, answer=None)
    assert "no answer" in cases(g, examples(), wrong="student/vanilla", right="teacher/cot", k=1).html()
    assert "none of 60 items" in cases(g, examples(), wrong="teacher/cot", right="student/vanilla").html()


# --- sentences


def test_verdicts_follow_the_tests():
    better = findings(analyse(made_up(400), resamples=200))
    assert better.entries[1].verdict.startswith("Yes: trained on reasoned answers 56.2 %, on plain ones 37.5 %.")
    assert better.entries[2].verdict.startswith("Yes")
    worse = findings(analyse(made_up(400, arms=SKILL | {"distilled/cot-answer": 0.1}), resamples=200))
    assert worse.entries[1].verdict.startswith("No") and worse.entries[2].verdict.startswith("No")
    same = findings(analyse(made_up(400, arms=SKILL | {"distilled/cot-answer": 0.42}), resamples=200))
    assert same.entries[1].verdict.startswith("No significant difference") and same.entries[2].verdict.startswith(
        "In part"
    )


def test_strict_extraction_that_changes_a_conclusion_is_named():
    f = findings(analyse(made_up(400, strict={"distilled/cot-answer": 0.2}), resamples=200))
    assert (
        not f.entries[4].verdict.startswith("0 of")
        and "distilled/cot-answer against student/vanilla: higher with flexible extraction" in f.entries[4].sentences[0]
    )


def test_the_gap_is_that_to_the_teachers_better_prompt():
    t = arm_table(analyse(made_up(400, arms=SKILL | {"teacher/vanilla": 0.3}), resamples=200))
    assert "to teacher/cot (100) was closed" in t.note and "undefined" not in t.html()
    assert [r["arm"] for r in t.rows if r["recovered"]] == [a for a in PLAIN_ARMS if "distilled" in a or "gold" in a]


def test_what_prompting_alone_gives_is_said_beside_the_gap():
    asked = findings(analyse(made_up(400, arms=SKILL | {"student/cot": 0.6}), resamples=200)).entries[0]
    assert "; asking alone, without training, " in asked.verdict
    assert "asking alone" not in findings(analyse(made_up(400), resamples=200)).html()  # it gains nothing there


def test_the_verdict_gives_the_gap_of_every_arm_and_picks_none(results):
    verdict = findings(results).entries[0].verdict
    shares = [results.gap(a).text() for a in ("distilled/vanilla", "distilled/cot-answer")]
    assert "by the student trained on reasoning; plain answers" in verdict and all(s in verdict for s in shares)
    arms = ("teacher/cot", "student/vanilla", "distilled/cot-answer")
    alone = analyse(made_up(arms={a: SKILL[a] for a in arms}), resamples=100)
    assert ";" not in findings(alone).entries[0].verdict


def test_money_and_unchecked_things_are_said_plainly(results):
    text = findings(results).html()
    assert (
        "gives no prices" in text
        and "Not measured: another grader (enable with judge: {engine: …})" in text
        and "seeds: [0, 1, 2]" in text
    )


# --- numbers


def test_metrics_are_plain_complete_and_private(tmp_path, results, made):
    found = findings(results)
    c = cases(results.graded, examples(), wrong="student/vanilla", right="distilled/cot-rationale")
    m = metrics(
        results,
        made,
        found=found,
        attrition=ATTRITION,
        labelling={},
        training=TRAINING,
        shown=[c],
        best_path=Path.cwd() / "store" / "x",
        odd=[np.float32(0.5), float("inf"), np.bool_(True)],
    )
    path = write_numbers(m, tmp_path / "metrics.json")
    text = path.read_text(encoding="utf-8")
    back = json.loads(text, parse_constant=lambda x: pytest.fail(f"{x} in metrics.json"))
    assert (
        set(back["arms"]) == set(PLAIN_ARMS)
        and len(back["tests"]) == len(back["tests_strict"])
        and back["odd"] == [0.5, None, True]
        and back["best_path"] == "x"
    )
    assert "/srv" not in text and str(Path.cwd()) not in text and str(Path.home()) + "/" not in text
    p = back["provenance"]
    assert (
        p["seeds"] == dict(training=0, bootstrap=0, data=0)
        and p["versions"]["python"]
        and p["fingerprint"]
        and p["settings"]["teacher"]["engine"] == "recorded:palm.jsonl"
    )


@pytest.mark.parametrize(
    "value, plain",
    [
        ("10/2 = 5", "10/2 = 5"),
        ("HuggingFaceTB/SmolLM2", "HuggingFaceTB/SmolLM2"),
        ("zoo/student-s", "zoo/student-s"),
        ("/srv/ann/x/y.jsonl", "y.jsonl"),
        ("recorded:/srv/a/b.jsonl", "recorded:b.jsonl"),
        (r"C:\Users\ann\x.jsonl", "x.jsonl"),
        (float("nan"), None),
        (np.int64(3), 3),
        ((1, {2}), [1, [2]]),
        (None, None),
        (True, True),
    ],
)
def test_plain_values(value, plain):
    assert to_plain(value) == plain and type(to_plain(value)) is type(plain)


def test_scrub_knows_the_working_folder():
    assert scrub(f"at {Path.cwd()}/a.py") == "at ./a.py"


def test_unwritable_target_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="Choose a folder"):
        write_numbers({}, tmp_path / "file" / "metrics.json")


@pytest.mark.parametrize(
    "formats, said", [((), False), (("float32",), False), (("bfloat16",), True), (("bfloat16", "float32"), True)]
)
def test_bfloat16_and_what_it_means_are_named(formats, said):
    made = provenance(
        combination_from("transformers:zoo/teacher", "zoo/student-s", data="tiny-math"),
        dtypes={"teacher/cot": (), "student/<i>": formats},
    )
    assert ("shared a batch with" in made.html()) == ("Computed in bfloat16: student/&lt;i&gt;." in made.html()) == said
    assert made.to_dict()["number_formats"] == {"teacher/cot": None, "student/<i>": " and ".join(formats) or None}


# --- figures


def test_figures_are_small_repeatable_and_readable(results):
    fig = accuracy_figure(results)
    assert png(fig) == png(accuracy_figure(results)) and len(png(fig)) < 60_000
    sizes = [t.get_fontsize() for t in [*fig.axes[0].texts, *fig.axes[0].get_xticklabels()]]
    # letters of 8 pixels and more on a phone, 360 pixels wide
    assert min(sizes) / 72 * 360 / fig.get_size_inches()[0] >= 8


def test_labels_do_not_overlap(results):
    fig = accuracy_figure(results)
    FigureCanvasAgg(fig).draw()
    boxes = [t.get_window_extent() for t in fig.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(0 <= b.x0 and b.x1 <= fig.bbox.width for b in boxes)


def test_a_picture_needs_an_alt_text_and_has_one_for_dark_pages(results):
    with pytest.raises(ReportError, match="alt is empty"):
        picture(lambda dark: accuracy_figure(results, dark), "")
    html = picture(lambda dark: accuracy_figure(results, dark), '"<x>"', caption="A <b>caption</b>")
    assert check_page(f"<h1>x</h1>{html}") == [] and "(prefers-color-scheme: dark)" in html
    assert "&lt;x&gt;" in html and "&lt;b&gt;" in html


def test_the_item_of_the_first_screen_is_inert_and_the_first_that_shows_the_finding(results):
    told = story(results, examples(), after="distilled/cot-rationale", better=True)
    first = next(i for i in range(60) if SKILL["student/vanilla"] <= np.random.default_rng(0).random(60)[i] < 0.8)
    assert told.steps[0][1].startswith(ATTACKS[first % len(ATTACKS)][:20].strip())
    assert [mark for *_, mark in told.steps[1:]] == [False, True]
    assert check_page("<h1>x</h1>" + told.html()) == []
    won, lost = (int(x) for x in re.findall(r": (\d+)", told.shown)[:2])
    assert lost == 0 and told.shown.endswith(f"Shown: the first of the {won}.")
    worse = analyse(made_up(arms=SKILL | {"distilled/cot-rationale": 0.1}), resamples=100)
    told = story(worse, examples(), after="distilled/cot-rationale", better=False)
    assert [mark for *_, mark in told.steps[1:]] == [True, False] and ": 0 of 60 items; wrong where" in told.shown


def test_a_right_answer_by_false_sums_is_not_what_a_report_shows(results):
    wrote = results.graded.copy()
    trained = wrote["arm"] == "distilled/cot-rationale"
    ids = list(dict.fromkeys(wrote["id"]))
    wrote.loc[trained, "text"] = ["4 + 5 = 8. 8 + 3 = 12. Answer: 12"] * len(ids)
    told = story(replace(results, graded=wrote), examples(), after="distilled/cot-rationale", better=True)
    assert "(0 with every sum in the reasoning right)" in told.shown
    sound = trained & (wrote["id"] == ids[-1])
    wrote.loc[sound, "text"] = "4 + 5 = 9. 9 + 3 = 12. Answer: 12"
    wrote.loc[trained & (wrote["id"] == ids[-1]), "correct"] = True
    wrote.loc[(wrote["arm"] == "student/vanilla") & (wrote["id"] == ids[-1]), "correct"] = False
    told = story(replace(results, graded=wrote), examples(), after="distilled/cot-rationale", better=True)
    assert told.steps[-1][1].startswith("4 + 5 = 9") and told.shown.endswith("Shown: the first of the 1.")


@pytest.mark.parametrize(
    "text, holds",
    [
        ("Monday: 45 - 9 = 36. Tuesday: 36 * 2 = 72.\nAnswer: 72", True),
        ("Monday: 45 - 9 = 34. Tuesday: 34 + 2 = 36.", False),
        ("He pays $3.50 × 2 = $7.00, and 10 ÷ 3 = 3.33.", True),
        ("1,200 + 300 = 1,500 = 1500", True),
        ("half of 10 = 5; x = 5; 50% of 20 = 10; = 3; 3 = ", None),
        ("", None),
        ("9" * 5000 + "+1=2", False),
    ],
)
def test_sums_that_a_text_writes_out(text, holds):
    assert sums_hold(text) is holds


# --- the page of a recipe


def test_index_lists_results_and_failures(tmp_path, results, made):
    m = to_plain(metrics(results, made, found=findings(results)))
    undefined = json.loads(json.dumps(m)) | dict(gaps=[g | dict(value=None, low=None, high=None) for g in m["gaps"]])
    es = [
        entry(m, "a/index.html"),
        entry(undefined, "u/index.html", title="u"),
        entry(None, title=ATTACKS[0], status="failed", error=ATTACKS[1], notebook="b/x.ipynb"),
        entry(None, "c/index.html", title="c"),
    ]
    page = index_page("demo", ATTACKS[3], entries=es, path=tmp_path / "index.html").read_text(encoding="utf-8")
    assert check_page(page) == [] and 'href="a/index.html"' in page and 'href="b/x.ipynb"' in page and "not run" in page
    assert "&lt;script&gt;" in page and "<script" not in page and "<img" not in page
    assert "4 combinations" in page


@pytest.mark.parametrize(
    "href", ["javascript:x", "https://evil.example", "//evil.example", "/etc/passwd", " data:text/html,x"]
)
def test_index_links_stay_inside(tmp_path, results, made, href):
    with pytest.raises(ReportError, match="index.html: not written"):
        index_page(
            "demo",
            "",
            entries=[entry(metrics(results, made, found=findings(results)), href)],
            path=tmp_path / "index.html",
        )


def test_templates_name_no_outside_address():
    for path in templates().rglob("*"):
        if path.is_file() and path.suffix != ".yaml":  # those are texts, no pages
            assert not re.search(
                r"https?://|@import|url\(" + ("" if path.parent.name in ("items", "people") else "|<script"),
                path.read_text(encoding="utf-8"),
            ), path.name  # the pages of items and of grading sheets have the one script
