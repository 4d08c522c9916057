"The page of items: it shows what the report was made from, runs no hostile text, and is driven in a browser."

import json
import re
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from browser import HOOK, WAIT, chromium, wait_until
from hypothesis import given, settings, strategies as st

from distill_study.config import ARMS, Combination, strategies_of
from distill_study.data.load import load_data, resolved
from distill_study.grading.people import inert_json
from distill_study.grading.truth import METRICS, grade, main_metric
from distill_study.report.items import LIMIT, LONGEST, Packed, input_records, item_records, items_page, write_items
from distill_study.store.log import Store
from distill_study.study.run import judge_arms
from distill_study.tasks.families import TASKS
from distill_study.teach.curate import Drop, curate
from distill_study.teach.sampling import Answer, Answers

ATTACK = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028 {{data}} \u202e $& ]]> "
    "<a href='javascript:alert(3)'>x</a>"
)
BASE, TOP, LEARNS = "student/vanilla", "teacher/cot", "distilled/cot-rationale"


def said_by(examples, strategy, texts):
    "What a model would have written, read as its answers are."
    task = TASKS[examples[0].task]

    def answer(e, text):
        p = task.parse(text, strategy, choices=e.choices, words=e.meta.get("words"))
        return Answer(e.id, text, p, task.correct(p.answer, e.gold) if task.graded else None, "stop", 5, 20, 0.1)

    return Answers(strategy, [answer(e, t) for e, t in zip(examples, texts, strict=True)], 0, 0)


def parts(folder, name, arms, write, train=10, test=8, **more):
    "A report's numbers and its run, without a model: `write(example, i, arm)` says what an arm answers."
    c = Combination.parse(
        dict(
            teacher=dict(engine="transformers:zoo/teacher"),
            student=dict(model="zoo/student-s"),
            data=dict(name=name, train=train, test=test),
            min_rows=2,
            arms=arms,
            **more,
        )
    )
    splits = load_data(c.data)
    c = resolved(c, splits.task)
    labels = {
        s: said_by(splits.train, s, [write(e, i, f"teacher/{s}") for i, e in enumerate(splits.train)])
        for s in strategies_of(c)
    }
    curated = {
        a: curate(ARMS[a], splits.train, answers=labels.get(ARMS[a].labels), test=splits.test, settings=c.curate)
        for a in c.arms
        if ARMS[a].model == "trained"
    }
    answers = {
        a: said_by(splits.test, ARMS[a].prompt, [write(e, i, a) for i, e in enumerate(splits.test)])
        for a in c.arms
        if ARMS[a].model != "trained"
    }
    with redirect_stderr(StringIO()):
        said = judge_arms(c, splits, answers=answers, store=Store(folder / "store"))
    numbers = dict(
        metric=dict(key=main_metric(splits.task, splits.test).key),
        best=TOP,
        provenance=dict(settings=c.model_dump(mode="json"), combination=c.name),
    )
    return numbers, SimpleNamespace(
        data=splits,
        labels=labels,
        rows=curated,
        answers=answers,
        graded=grade(splits.test, answers),
        verdicts=said,
        people=None,
    )


def changed(run, **parts):
    "A copy of a run with other parts."
    return SimpleNamespace(**vars(run) | parts)


def solved(e, i, arm):
    "The teacher is wrong on every fourth item and rambles on every fifth, the student right on every third."
    if i % 5 == 4 and arm == TOP:
        return "I do not know."
    right = i % 4 < 3 if arm.startswith("teacher") else i % 3 == 0
    number = e.gold if right else "999"
    return f"First I count, and then I add.\nAnswer: {number}" if arm.endswith("cot") else number


@pytest.fixture(scope="module")
def math(tmp_path_factory):
    return parts(
        tmp_path_factory.mktemp("math"),
        "tiny-math",
        (TOP, BASE, "distilled/vanilla", LEARNS, "control/gold"),
        solved,
        judge=dict(engine="rules:world"),
    )


@pytest.fixture(scope="module")
def summ(tmp_path_factory):
    return parts(
        tmp_path_factory.mktemp("summ"),
        "tiny-summ",
        ("teacher/vanilla", BASE, "distilled/vanilla"),
        lambda e, i, arm: " ".join(e.question.split()[: 12 + i if arm == BASE else 15]),
        3,
        6,
    )


def hostile(r, b):
    "The same with a text in every place that a model or a data set fills."

    def bad(e):
        return replace(e, turns=(dict(role="user", content=ATTACK),), gold=ATTACK)

    answers = {
        a: replace(x, answers=[replace(y, text=ATTACK, parsed=replace(y.parsed, answer=ATTACK)) for y in x])
        for a, x in b.answers.items()
    }
    rows = {
        a: replace(d, rows=[], drops=[Drop(e.id, f"failed: {ATTACK}", ATTACK) for e in b.data.train])
        for a, d in b.rows.items()
    }
    return r, changed(
        b,
        data=replace(b.data, train=[bad(e) for e in b.data.train], test=[bad(e) for e in b.data.test]),
        answers=answers,
        rows=rows,
        graded=b.graded.assign(text=ATTACK, answer=ATTACK),
    )


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def said(data, t):
    return "\n".join(data["texts"][i] for i in t or ())


# --- what is in it


def test_the_page_has_what_the_report_was_made_from(math):
    r, b = math
    data = data_of(items_page(r, b))
    assert [i["id"] for i in data["items"]["test"]] == [e.id for e in b.data.test] and [
        i["id"] for i in data["items"]["train"]
    ] == [e.id for e in b.data.train]
    for item, e in zip(data["items"]["test"], b.data.test):
        assert said(data, item["gold"]) == e.gold and [a["arm"] for a in item["arms"]] == list(b.answers)
        for a in item["arms"]:
            row = b.graded[(b.graded.arm == a["arm"]) & (b.graded.id == e.id)].iloc[0]
            assert (said(data, a.get("text")), a["value"], a["strict"]) == (
                row.text,
                row.correct,
                row.correct_strict,
            ) and e.messages[-1]["content"] in said(data, a["prompt"])
        assert {x[0] for a in item["arms"] for x in a["said"]} == {"judge"}
    assert (
        sum(len(i.get("pairs", ())) for i in data["items"]["test"])
        == b.verdicts.pairwise.groupby(["a", "b", "id"]).ngroups
    )
    for item in data["items"]["train"]:
        taught = {a.id: a for s in b.labels.values() for a in s}
        assert {s["strategy"] for s in item["samples"]} == set(b.labels) and item["id"] in taught
        for a in item["arms"]:
            assert a["kept"] == (item["id"] in b.rows[a["arm"]].kept) and ("row" in a) == a["kept"]


def test_drops_come_with_reason_and_evidence(math):
    r, b = math
    first = b.data.train[0].id
    done = replace(
        b.rows[LEARNS],
        rows=[x for x in b.rows[LEARNS].rows if x["id"] != first],
        drops=[Drop(first, "unreadable", "the end")],
    )
    data = data_of(items_page(r, changed(b, rows=b.rows | {LEARNS: done})))
    row = next(a for a in data["items"]["train"][0]["arms"] if a["arm"] == LEARNS)
    assert (row["kept"], row["reason"], said(data, row["evidence"])) == (
        False,
        "unreadable",
        "the end",
    ) and "no answer could be read" in data["reasons"]["unreadable"]


def test_a_scored_family_shows_its_measure(summ):
    r, b = summ
    data = data_of(items_page(r, b))
    assert not data["graded"] and data["measure"] == METRICS[r["metric"]["key"]].name
    for item in data["items"]["test"]:
        for a in item["arms"]:
            assert a["value"] == pytest.approx(
                b.graded[(b.graded.arm == a["arm"]) & (b.graded.id == item["id"])][r["metric"]["key"]].iloc[0]
            )


@pytest.mark.parametrize("room", [33_000, 36_000, 50_000, LIMIT])
def test_a_page_is_never_larger_than_its_limit_and_says_what_is_cut(math, room):
    page = items_page(*math, limit=room)
    data, cut = data_of(page), "This page holds" in page
    n = {k: len(v) for k, v in data["items"].items()}
    assert len(page.encode()) <= room and cut == (n != dict(test=8, train=10))
    if cut:
        assert f"larger than {room / 1e6:g} MB" in page
    if n["test"] < 8:
        assert f"the first {n['test']} of 8 test items" in page
    if n["train"] < 10:
        assert f"the first {n['train']} of 10 training inputs" in page


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=6), st.integers(0, 400))
def test_packing_gives_back_every_text_and_keeps_to_its_room(texts, room):
    p, clean = Packed(), Packed()
    taken, size = p.take([dict(id=str(i), text=t) for i, t in enumerate(texts)], room)
    assert (
        size <= room
        and len(inert_json(taken)) + len(inert_json(p.texts)) <= size + 8
        and len(set(p.texts)) == len(p.texts)
    )
    for t, own in zip(texts, taken):
        assert (
            said(dict(texts=p.texts), own.get("text")) == said(dict(texts=clean.texts), clean.text(t))
            if t
            else "text" not in own
        )


def test_an_endless_text_is_cut_and_says_so():
    p = Packed()
    assert said(dict(texts=p.texts), p.text("a" * LONGEST)) == "a" * LONGEST and said(
        dict(texts=p.texts), p.text("a" * LONGEST + "bb")
    ).endswith("a\u2026 [2 more characters]")


def test_no_markup_of_an_items_text_reaches_the_page(math):
    page = items_page(*hostile(*math))
    assert (
        page.count("<script"),
        page.count("</script"),
        page.count("<!--"),
        page.count("<img"),
        page.count("javascript:alert(3)'>"),
    ) == (2, 2, 0, 0, 0) and "\u2028" not in page
    data = data_of(page)
    assert said(data, data["items"]["test"][0]["arms"][0]["text"]) == ATTACK.replace("\u202e", "\ufffd")
    for x in item_records(math[1], METRICS["correct"]) + input_records(math[1]):
        json.dumps(x, allow_nan=False)


# --- in a browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as b:
        yield b


@pytest.fixture
def opened(browser, tmp_path):
    "Opens a page of items from a folder; what it tries to load, or says on the console, is a fault."
    faults, contexts = [], []

    def open_(r, b, address="", **options):
        path = write_items(tmp_path, r, run=b)
        contexts.append(browser.new_context(viewport=dict(width=1280, height=900), **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.add_init_script(HOOK)
        for event in ("console", "pageerror"):
            page.on(event, lambda m: faults.append(str(getattr(m, "text", m))))
        page.on("request", lambda q: faults.append(q.url) if not q.url.startswith("file:") else None)
        page.goto(path.as_uri() + address)
        return page

    yield open_
    for c in contexts:
        c.close()
    assert faults == []


def shown(page):
    return [a.partition(" ")[0] for a in page.locator(".list a").all_inner_texts()]


def test_filters_by_outcome_text_and_difficulty(opened, math):
    r, b = math
    page = opened(r, b)
    right = b.graded.pivot(index="id", columns="arm", values="correct").loc[[e.id for e in b.data.test]]
    assert (
        shown(page) == list(right.index)
        and page.locator("#a").input_value() == BASE
        and page.locator("#b").input_value() == TOP
    )
    for label_, hit in (
        (f"{BASE} wrong, {TOP} right", ~right[BASE] & right[TOP]),
        ("both right", right[BASE] & right[TOP]),
        ("both wrong", ~right[BASE] & ~right[TOP]),
    ):
        page.locator("#outcome").select_option(label_)
        assert (
            shown(page) == list(right.index[hit])
            and page.locator(".count").inner_text() == f"{min(1, hit.sum())} of {hit.sum()} that fit, 8 in all"
        )
    page.locator("#outcome").select_option("any outcome")
    e = b.data.test[3]
    page.locator("#hard").select_option(e.difficulty)
    assert shown(page) == [x.id for x in b.data.test if x.difficulty == e.difficulty]
    page.locator("#hard").select_option("any")
    page.locator("#search").fill(e.messages[-1]["content"][:40].upper())
    assert e.id in shown(page) and len(shown(page)) < 8
    page.locator("#search").fill("no such text")
    assert (
        shown(page) == []
        and page.locator("article").inner_text() == "No item fits."
        and page.get_by_role("button", name="Next").is_disabled()
    )


def test_keyboard_buttons_and_addresses(opened, math):
    r, b = math
    ids, inputs = [e.id for e in b.data.test], [e.id for e in b.data.train]
    page = opened(r, b, f"#test/{ids[2]}")

    def at():
        return page.locator("article h2").first.inner_text().partition(" ")[0]

    assert at() == ids[2]
    page.locator(".list a[aria-current]").focus()
    page.keyboard.press("ArrowDown")
    assert (
        at() == ids[3]
        and page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
        and page.url.endswith(f"#test/{ids[3]}")
    )
    page.get_by_role("button", name="Previous").focus()
    page.keyboard.press("Enter")
    assert at() == ids[2]
    page.evaluate("id => { location.hash = `#train/${id}`; }", inputs[4])
    wait_until(page, "id => document.querySelector('article h2').textContent.startsWith(id)", arg=inputs[4])
    assert (
        page.locator("#split").input_value() == "train" and page.evaluate("document.activeElement.tagName") == "ARTICLE"
    )
    for odd in ("#test/none", "#train/%E0%A4%A", "#x", "#test/"):
        page.evaluate("h => { location.hash = h; }", odd)
        page.wait_for_timeout(50)
        assert at() == inputs[4]


def test_from_an_answer_to_what_the_arm_learned_from(opened, math):
    r, b = math
    b = changed(
        b, answers=b.answers | {LEARNS: b.answers[TOP]}, graded=grade(b.data.test, b.answers | {LEARNS: b.answers[TOP]})
    )
    page = opened(r, b)
    page.get_by_role("button", name="What it learned from").click()
    assert page.locator("#split").input_value() == "train" and page.locator("#arm").input_value() == LEARNS
    page.locator("#outcome").select_option("kept")
    assert shown(page) == b.rows[LEARNS].kept
    page.locator("#outcome").select_option("dropped")
    assert shown(page) == [d.id for d in b.rows[LEARNS].drops]


@pytest.mark.parametrize("address", ["", "#train/"])
def test_hostile_text_is_shown_and_not_run(opened, math, address):
    r, b = hostile(*math)
    page = opened(r, b, address + b.data.train[0].id if address else "")
    for d in page.locator("article details").all():
        d.evaluate("d => { d.open = true; }")
    assert (
        page.evaluate("window.ran") == []
        and page.locator("article pre *, article img, article a, article script").count() == 0
    )
    assert (
        "<img src=x onerror=alert(2)>" in page.locator("article pre").first.inner_text()
        and page.evaluate("document.scripts.length") == 2
    )


def test_a_scored_familys_outcomes(opened, summ):
    r, b = summ
    page = opened(r, b)
    value = b.graded.pivot(index="id", columns="arm", values=r["metric"]["key"]).loc[[e.id for e in b.data.test]]
    a, c = BASE, "teacher/vanilla"
    page.locator("#a").select_option(a)
    page.locator("#b").select_option(c)
    page.locator("#outcome").select_option(f"{a} lower, {c} higher")
    assert shown(page) == list(value.index[value[a] < value[c]])


def test_without_javascript_it_points_to_the_report(opened, math):
    page = opened(*math, java_script_enabled=False)
    assert (
        "needs no script" in page.locator("noscript").inner_text() and page.locator("a[href='index.html']").count() == 2
    )
