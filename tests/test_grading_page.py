"The grading page in a real browser, alone and in a notebook: graded, reloaded, saved, imported; nothing runs."

import json
import re
from pathlib import Path

import pytest
from browser import HOOK, WAIT, chromium, jupyterlab, run_notebook, wait_until
from conftest import ROOT
from made_up import saved_grades

from distill_study.analyse.agreement import human_scores
from distill_study.config import Data
from distill_study.data.load import load_data
from distill_study.grading.people import grades_of, latest_grades
from distill_study.report.items import grading_page
from distill_study.report.render import check_page
from distill_study.store.log import Store
from distill_study.study.plan import combination_from
from distill_study.tasks.families import Parsed, rubric
from distill_study.teach.sampling import Answer, Answers
from distill_study.tools.share import draw_sheets, import_grades


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def said(examples, texts):
    return Answers(
        "vanilla",
        [Answer(e.id, t, Parsed(t, t), None, "stop", 3, 9, None) for e, t in zip(examples, texts, strict=True)],
        0,
        0,
    )


class Sheet:
    "A sheet of a small study, with its store and the page of its only rater."

    def __init__(self, folder, name="tiny-qa", n=4, texts=None, **how):
        self.splits = load_data(Data(name=name, train=2, test=n))
        self.c = combination_from("transformers:zoo/teacher", "zoo/student-s", data=name)
        self.answers = {"teacher/vanilla": said(self.splits.test, texts or [f"Answer {i}." for i in range(n)])}
        self.key, sheets = draw_sheets(self.c, self.splits.test, answers=self.answers, n=n, raters=1, **how)
        self.sheet, self.store = sheets["r1"], Store(folder / "store")
        self.store.put_json("sheet", self.key["sheet"], obj=self.key)
        self.page = folder / "grade-r1.html"
        self.page.write_text(grading_page(self.sheet), encoding="utf-8")
        self.names = [c["name"] for c in self.sheet["criteria"]]

    def imported(self, path):
        "The grades of a file, through the store: item → criterion → grade."
        import_grades(self.store, [path])
        return latest_grades(self.store, self.key["sheet"])["r1"]["grades"]


@pytest.fixture
def opened(browser):
    "Opens a file in a page of a fresh profile, notes what goes wrong in it and every request that leaves it."
    contexts = []

    def go(path, context=None, **how):
        if context is None:
            contexts.append(context := browser.new_context(viewport=dict(width=1000, height=900), **how))
        page = context.new_page()
        page.wrong, page.asked, page.dialogs = [], [], []
        page.on("pageerror", lambda e: page.wrong.append(str(e)))
        page.on("console", lambda m: page.wrong.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: page.asked.append(r.url))
        page.on("dialog", lambda d: (page.dialogs.append(d.message), d.dismiss()))
        page.goto(Path(path).as_uri())
        page.set_default_timeout(WAIT)
        return page

    yield go
    for c in contexts:
        c.close()


def save(page, folder, press=True):
    "The file that the page saves."
    with page.expect_download() as got:
        page.keyboard.press("s") if press else page.get_by_role("button", name="Save grades").click()
    assert got.value.suggested_filename == "grades-r1.json"
    got.value.save_as(folder / "grades-r1.json")
    return folder / "grades-r1.json"


def where(page):
    return page.locator(".where").inner_text()


def status(page):
    return page.get_by_role("status").inner_text()


# --- a whole sheet


def test_a_sheet_graded_by_keyboard_with_a_reload_in_the_middle(opened, tmp_path):
    s = Sheet(tmp_path, "tiny-summ", 4)
    want = {}
    page = opened(s.page)
    for i, x in enumerate(s.sheet["items"]):
        assert where(page) == f"{i + 1} of 4, {i} graded" and page.locator(".answer .words").inner_text() == x["answer"]
        assert page.evaluate("document.activeElement.textContent") == f"Answer {i + 1} of 4", (
            "the focus is on the new answer, for a screen reader to read"
        )
        for j, name in enumerate(s.names):
            grade = 1 + (i + j) % 5
            assert page.locator("fieldset.marked legend").inner_text() == s.sheet["criteria"][j]["question"]
            page.keyboard.press(str(grade))
            want.setdefault(x["item"], {})[name] = grade
        if i == 1:
            page.reload()
            assert where(page) == "3 of 4, 2 graded" and status(page) == "2 of 4 answers were graded before."
    assert where(page) == "4 of 4, 4 graded" and status(page).startswith("All 4 answers are graded")
    assert page.evaluate("document.activeElement.textContent") == "Save grades"
    assert s.imported(save(page, tmp_path)) == want and not page.wrong
    human = grades_of(s.c, s.splits, answers=s.answers, store=s.store)
    assert len(human) == 16 and set(human["criterion"]) == set(s.names)


def test_a_sheet_graded_by_mouse(opened, tmp_path):
    s = Sheet(tmp_path, "tiny-summ", 3)
    page, want = opened(s.page), {}
    for i, x in enumerate(s.sheet["items"]):
        for j, c in enumerate(s.sheet["criteria"]):
            grade = 5 - (i + j) % 5
            page.get_by_role("group", name=c["question"]).locator("label").nth(grade - 1).click()
            want.setdefault(x["item"], {})[c["name"]] = grade
        page.get_by_label("Note").fill(f"note {i}")
        if i < 2:
            page.get_by_role("button", name="Next").click()
    assert where(page) == "3 of 3, 3 graded"
    path = save(page, tmp_path, press=False)
    assert json.loads(path.read_text())["notes"] == {x["item"]: f"note {i}" for i, x in enumerate(s.sheet["items"])}
    assert s.imported(path) == want and not page.wrong


def test_nothing_is_asked_of_the_network(opened, tmp_path):
    page = opened(Sheet(tmp_path).page)
    page.keyboard.press("1")
    assert [u for u in page.asked if not u.startswith(("file:", "blob:"))] == [] and not page.wrong


# --- undo, move, notes, keys


def test_undo_goes_back_to_where_the_grade_was(opened, tmp_path):
    s = Sheet(tmp_path, n=3)
    page = opened(s.page)
    for k in "101":
        page.keyboard.press(k)
    assert where(page) == "3 of 3, 3 graded"
    page.keyboard.press("u")
    assert where(page) == "3 of 3, 2 graded" and status(page) == "Undone: correct of answer 3."
    page.keyboard.press("u")
    assert where(page) == "2 of 3, 1 graded" and page.locator("input:checked").count() == 0
    page.keyboard.press("k")
    page.keyboard.press("0")  # another grade in the place of the first
    page.keyboard.press("u")
    assert where(page) == "1 of 3, 1 graded" and page.locator("input:checked").input_value() == "1"
    page.keyboard.press("u"), page.keyboard.press("u")
    assert status(page) == "There is nothing to undo." and where(page) == "1 of 3, 0 graded"
    assert page.get_by_role("button", name="Undo").is_disabled()


def test_keys_move_and_leave_notes_alone(opened, tmp_path):
    s = Sheet(tmp_path, "tiny-summ", 3)
    page = opened(s.page)
    for key, at in (("j", 2), ("ArrowRight", 3), ("ArrowRight", 3), ("k", 2), ("ArrowLeft", 1), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert where(page) == f"{at} of 3, 0 graded"
    page.keyboard.press("ArrowDown"), page.keyboard.press("4")
    assert page.locator("fieldset").nth(1).locator("input:checked").input_value() == "4"
    page.keyboard.press("9")
    assert status(page) == "9 is not on the scale of this question."
    page.keyboard.press("n"), page.keyboard.type("j1u?")
    assert page.locator("textarea").input_value() == "j1u?" and where(page) == "1 of 3, 0 graded"
    page.keyboard.press("Escape"), page.keyboard.press("j"), page.keyboard.press("k")
    assert page.locator("textarea").input_value() == "j1u?"
    page.keyboard.press("u")
    assert page.locator("textarea").input_value() == ""
    page.keyboard.press("Control+1"), page.keyboard.press("j"), page.keyboard.press("g")
    assert where(page) == "2 of 3, 0 graded" or where(page) == "1 of 3, 0 graded"
    help = page.get_by_role("button", name="Keys")
    assert help.get_attribute("aria-expanded") == "false"
    page.keyboard.press("?")
    assert help.get_attribute("aria-expanded") == "true" and page.get_by_text("grade the marked question").is_visible()


def test_radio_groups_work_as_the_browser_has_them(opened, tmp_path):
    s = Sheet(tmp_path, "tiny-summ", 2)
    page = opened(s.page)
    page.locator("fieldset").nth(2).locator("input").first.focus()
    page.keyboard.press("Space"), page.keyboard.press("ArrowDown")
    assert page.locator("fieldset").nth(2).locator("input:checked").input_value() == "2" and "marked" in page.locator(
        "fieldset"
    ).nth(2).get_attribute("class")
    page.keyboard.press("5")
    assert page.locator("fieldset").nth(2).locator("input:checked").input_value() == "5" and "marked" in page.locator(
        "fieldset"
    ).nth(3).get_attribute("class")


@pytest.mark.parametrize(
    "scale, presses",
    [
        ((0, 10), [("1", 0), ("2", 1), ("0", 9), ("-", 10)]),
        ((-1, 1), [("1", -1), ("2", 0), ("3", 1)]),
        ((1, 10), [("1", 1), ("0", 10)]),
    ],
)
def test_every_grade_of_every_scale_has_a_key(opened, tmp_path, scale, presses):
    splits = load_data(Data(name="tiny-qa", train=2, test=1))
    c = combination_from(
        "transformers:zoo/teacher",
        "zoo/student-s",
        data="tiny-qa",
        options=dict(rubric=[dict(name="own", question="How good is it?", scale=list(scale))]),
    )
    _, sheets = draw_sheets(c, splits.test, answers={"teacher/vanilla": said(splits.test, ["x"])}, n=1, raters=1)
    (tmp_path / "p.html").write_text(grading_page(sheets["r1"]))
    page = opened(tmp_path / "p.html")
    for key, grade in presses:
        page.keyboard.press(key)
        assert page.locator("input:checked").input_value() == str(grade)


# --- files


def test_a_saved_file_is_opened_elsewhere(opened, tmp_path):
    s = Sheet(tmp_path, n=3)
    page = opened(s.page)
    page.keyboard.press("1"), page.keyboard.press("0"), page.keyboard.press("n"), page.keyboard.type("later")
    page.keyboard.press("Escape")
    path = save(page, tmp_path)
    other = opened(s.page)  # another profile: nothing is kept in it
    assert where(other) == "1 of 3, 0 graded"
    other.locator("input[type=file]").set_input_files(path)
    wait_until(other, "document.querySelector('.where').textContent === '3 of 3, 2 graded'")
    assert (
        other.locator("textarea").input_value() == "later"
        and status(other) == "Opened grades-r1.json: 2 of 3 answers graded."
    )
    other.keyboard.press("1")
    assert list(s.imported(save(other, tmp_path)).values()) == [dict(correct=1), dict(correct=0), dict(correct=1)]


def test_a_file_that_is_not_of_this_sheet_changes_nothing(opened, tmp_path):
    s = Sheet(tmp_path, n=2)
    page, first = opened(s.page), s.sheet["items"][0]["item"]
    page.keyboard.press("1")
    own = {k: s.sheet[k] for k in ("sheet", "rater", "rubric")}
    raw = dict(format=1, kind="grades", grades={first: dict(correct=0)}, notes={}) | own
    for text, says in (
        ("{", "it is damaged"),
        (json.dumps(raw | dict(kind="sheet")), "is no file of grades"),
        (json.dumps(raw | dict(sheet="0" * 16)), "belongs to another sheet"),
        (json.dumps(raw | dict(rater="r2")), "is of rater r2"),
        (json.dumps(raw | dict(grades={"q999": {"correct": 1}})), "is not on this sheet"),
        (json.dumps(raw | dict(grades=7)), "it holds no grades"),
        (json.dumps(raw | dict(grades={first: dict(correct=5)})), "off the scale"),
        (json.dumps(raw).replace(first, "__proto__"), "is not on this sheet"),
    ):
        (tmp_path / "bad.json").write_text(text)
        page.locator("input[type=file]").set_input_files(tmp_path / "bad.json")
        wait_until(page, "says => document.querySelector('.live').textContent.includes(says)", arg=says)
        assert where(page) == "2 of 2, 1 graded"
    assert not page.wrong


def test_what_the_browser_kept_is_checked_too(opened, tmp_path):
    s = Sheet(tmp_path, n=2)
    page = opened(s.page)
    for kept in (
        '{"grades": {"q999": {"correct": 1}}}',
        json.dumps(dict(grades={s.sheet["items"][0]["item"]: dict(correct=7)}, notes={})),
        "[1]",
        "null",
        "{",
    ):
        page.evaluate("([k, v]) => localStorage.setItem(k, v)", [f"distill-study {s.key['sheet']} r1", kept])
        page.reload()
        assert where(page) == "1 of 2, 0 graded" and not page.wrong
        page.keyboard.press("1")
        assert where(page) == "2 of 2, 1 graded"


def test_two_sheets_in_one_browser_are_kept_apart(opened, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    a, b = Sheet(tmp_path / "a", n=2), Sheet(tmp_path / "b", n=2, seed=1)
    page = opened(a.page)
    page.keyboard.press("1")
    assert (
        where(opened(b.page, page.context)) == "1 of 2, 0 graded"
        and where(opened(a.page, page.context)) == "2 of 2, 1 graded"
    )


def test_two_tabs_of_one_sheet_know_of_each_other(opened, tmp_path):
    s = Sheet(tmp_path, n=3)
    a = opened(s.page)
    b = opened(s.page, a.context)
    a.keyboard.press("1")
    wait_until(b, "document.querySelector('.where').textContent === '1 of 3, 1 graded'")
    b.keyboard.press("j"), b.keyboard.press("0")
    wait_until(a, "document.querySelector('.where').textContent === '2 of 3, 2 graded'")
    assert (
        list(json.loads(save(a, tmp_path).read_text())["grades"].values()) == [dict(correct=1), dict(correct=0)]
        and not a.wrong + b.wrong
    )


# --- nothing in an answer runs

EVIL = [
    "<script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "[a](javascript:document.title='ran') <a href=\"javascript:document.title='ran'\">go</a>",
    "</script><script>document.title='ran'</script><!--",
    "<!-- <script> --!>\u2028\u2029 */ ${alert(1)} `",
    "\u202egnp.x\u202c <svg onload=alert(1)>",
    "\x00\x07<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "{{script}} {{sheet}} \\u003cscript\\u003e",
    "y" * 100_000,
    "<b>" * 30_000,
    "",
    "  \n",
]


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    "A sheet whose items and answers try to run something."
    folder = tmp_path_factory.mktemp("evil")
    s = Sheet(folder, n=12, texts=EVIL)
    for x, text in zip(s.sheet["items"], EVIL * 2):
        x["parts"].append(dict(heading="Question", text=text[:300]))
    s.page.write_text(grading_page(s.sheet), encoding="utf-8")
    return s


def test_nothing_in_an_answer_runs_on_the_page(browser, evil):
    page = browser.new_page(viewport=dict(width=400, height=800))
    wrong, asked = [], []
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text))
    page.on("request", lambda r: asked.append(r.url))
    page.add_init_script(HOOK)
    page.goto(evil.page.as_uri())
    title = page.title()
    for x in evil.sheet["items"]:
        shown = page.locator(".answer .words").evaluate("e => e.textContent")
        assert (
            shown == re.sub("[\x00\x07\u202e\u202c]", "\ufffd", x["answer"])
            if x["answer"].strip()
            else shown == "(empty)"
        )
        assert page.evaluate("document.querySelectorAll('.words *').length") == 0, "text, no elements"
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.keyboard.press("1")
    assert (
        page.title() == title == "Grading sheet, rater r1"
        and page.evaluate("window.ran") == []
        and wrong == []
        and len(asked) == 1
    )
    assert where(page) == "12 of 12, 12 graded"
    page.evaluate(
        """() => {
            const s = document.createElement('script');
            s.textContent = "document.title = 'ran'";
            document.body.append(s);
            document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="document.title=1">');
        }"""
    )
    page.wait_for_timeout(100)
    assert page.title() == title and wrong, "the policy refuses what the page does not bring along"
    page.close()


def test_nothing_in_an_answer_or_note_runs_in_a_report(browser, evil, tmp_path):
    notes = {x["item"]: t for x, t in zip(evil.sheet["items"], EVIL) if len(t) < 1000}
    (tmp_path / "g.json").write_text(saved_grades(evil.sheet, 0, notes=notes))
    import_grades(evil.store, [tmp_path / "g.json"])
    human = grades_of(evil.c, evil.splits, answers=evil.answers, store=evil.store)
    assert len(human) == 12
    body = "<h1>x</h1>" + human_scores(human, rubric("nlu_qa")).html()
    assert check_page(body) == []
    (tmp_path / "r.html").write_text(f"<title>report</title>{body}")
    page = browser.new_page()
    page.add_init_script(HOOK)
    page.goto((tmp_path / "r.html").as_uri())
    assert page.title() == "report" and page.evaluate("window.ran") == [] and page.locator("table").count() == 1
    page.close()


# --- as it is read and seen


def test_a_screen_reader_finds_its_way(opened, tmp_path):
    page = opened(Sheet(tmp_path, "tiny-summ", 2).page)
    tree = page.locator("body").aria_snapshot()
    for part in (
        'heading "Answer 1 of 2" [level=2]',
        'heading "Answer to grade" [level=3]',
        'group "Do the sentences make one well-ordered text?"',
        'radio "1 a heap of unrelated pieces"',
        'textbox "Note (optional)"',
        "progressbar",
        "status",
        'heading "Grading sheet, rater r1" [level=1]',
    ):
        assert part in tree, tree
    assert page.locator("[aria-live=polite]").count() == 1
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea')]"
        ".filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_with_contrast(opened, tmp_path, scheme):
    page = opened(Sheet(tmp_path, "tiny-summ", 2).page, color_scheme=scheme)
    page.set_viewport_size(dict(width=400, height=800))
    page.keyboard.press("3"), page.keyboard.press("?")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    small = page.evaluate(
        "[...document.querySelectorAll('button, .open, .grades label')].map(e => e.getBoundingClientRect())"
        ".filter(r => r.height < 36 || r.right > 400).length"
    )
    assert small == 0
    ratio = page.evaluate("""() => {
        const rgb = s => s.match(/[\\d.]+/g).map(Number);
        const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const lum = c => { const [r, g, b] = rgb(c).map(part); return .2126 * r + .7152 * g + .0722 * b; };
        const ground = e => {
            for (; e; e = e.parentElement) {
                const c = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)$/.test(c)) return c;
            }
            return 'rgb(255,255,255)';
        };
        const texts = 'h1, h2, h3, p, legend, .anchor, .grade, .words, button:enabled, .open, dt, dd, .note label';
        return Math.min(...[...document.querySelectorAll(texts)].map(e => {
            const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))].sort((x, y) => y - x);
            return (a + .05) / (b + .05);
        }));
    }""")
    assert ratio >= 4.5, f"contrast {ratio:.2f}"


# --- in a notebook


def test_the_page_in_jupyterlab(browser, tmp_path):
    "The study notebook shows a page, keeps what is graded, and saves the file that any other page saves."
    s = Sheet(tmp_path, n=3, texts=EVIL[:3])
    nb = json.loads((ROOT / "nbs/study/human_grading.ipynb").read_text())
    cell = next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = ['page = "grade-r1.html"']
    (tmp_path / "grading.ipynb").write_text(json.dumps(nb))
    with jupyterlab(tmp_path) as url:
        page = browser.new_page(viewport=dict(width=1300, height=1000))
        page.set_default_timeout(WAIT)
        page.add_init_script(HOOK)
        run_notebook(page, url, "grading.ipynb", "iframe[title='Grading page']")
        cells = page.locator(".jp-Notebook .jp-Cell").count()
        inside = page.frame_locator("iframe[title='Grading page']")
        where = inside.locator(".where")
        inside.locator(".item").click()
        for i, key in enumerate("10"):
            page.keyboard.press(key)
            inside.get_by_text(f"{i + 2} of 3, {i + 1} graded").wait_for()
        inside.locator("label", has_text="yes, however").click()
        inside.get_by_text("3 of 3, 3 graded").wait_for()
        assert inside.locator(".words *").count() == 0
        assert page.evaluate("window.ran") == [] and page.title() != "ran"
        assert page.locator(".jp-Notebook .jp-Cell").count() == cells, "the keys are the grader's, not JupyterLab's"
        with page.expect_download() as got:
            inside.get_by_role("button", name="Save grades").click()
        got.value.save_as(tmp_path / "back.json")
        assert list(s.imported(tmp_path / "back.json").values()) == [dict(correct=1), dict(correct=0), dict(correct=1)]
        # the notebook is closed and opened again: the grades are still there
        run_notebook(page, url, "grading.ipynb", "iframe[title='Grading page']")
        where.filter(has_text="3 graded").wait_for()
        page.close()


def test_the_notebook_runs_untouched(tmp_path):
    papermill = pytest.importorskip("papermill")
    done = papermill.execute_notebook(
        ROOT / "nbs/study/human_grading.ipynb",
        tmp_path / "done.ipynb",
        kernel_name="python3",
        progress_bar=False,
        cwd=tmp_path,
    )
    assert "Grading sheet, rater r1" in str([c.get("outputs") for c in done.cells])
