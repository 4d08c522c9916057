"The page of items: it shows what the report was made from, runs no hostile text, and is driven in a browser."

import base64
import json
import re
import zlib
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from browser import HOOK, WAIT, chromium, wait_until
from hypothesis import given, settings, strategies as st

from distill_study.config import ARMS, Combination, strategies_of
from distill_study.data.load import load_data, resolved
from distill_study.grading.truth import METRICS, grade, main_metric
from distill_study.report import items as items_module
from distill_study.report.items import chunks, input_records, item_records, items_page
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
        primary=TOP,
        teacher=TOP,
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


def opened_block(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def data_of(page):
    "(the index of a page, its records: test items and training inputs)."
    blocks = re.findall(r'<script type="text/plain" class="(\w+)">(.*?)</script>', page, re.S)
    records = {k: [r for kind, text in blocks if kind == k for r in opened_block(text)] for k in ("test", "train")}
    return opened_block(next(text for kind, text in blocks if kind == "index")), records


def column(index, split, key, arm=None):
    "A column of the index, its texts in the place of their numbers."
    found = index[split]["arms"][arm][key] if arm else index[split][key]
    texts = key in ("answer", "reason", "gold", "hard")
    return [None if x is None else index["values"][x] for x in found] if texts else found


def prompt(index, numbered, question):
    first, rest = numbered
    return f"{index['prompts'][first]}\n\n{rest.replace(chr(0), question)}"


# --- what is in it


def test_the_page_has_what_the_report_was_made_from(math):
    r, b = math
    index, records = data_of(items_page(r, b))
    for split, examples in (("test", b.data.test), ("train", b.data.train)):
        assert [i["id"] for i in records[split]] == index[split]["id"] == [e.id for e in examples]
        assert column(index, split, "hard") == [e.difficulty for e in examples]
        assert column(index, split, "gold") == [e.gold for e in examples]
    for item, e in zip(records["test"], b.data.test):
        assert item["gold"] == e.gold and [a["arm"] for a in item["arms"]] == list(b.answers)
        for a in item["arms"]:
            row = b.graded[(b.graded.arm == a["arm"]) & (b.graded.id == e.id)].iloc[0]
            assert (a.get("text"), a["value"], a["tokens"]) == (row.text, row.correct, row.tokens)
            asked = e.ask(ARMS[a["arm"]].prompt)
            assert prompt(index, a["prompt"], item["question"]) == "\n\n".join(
                f"[{m['role']}]\n{m['content']}" for m in asked
            )
        assert {x[0] for a in item["arms"] for x in a["graded"]} == {"judge"}
    assert sum(len(i["pairs"]) for i in records["test"]) == b.verdicts.pairwise.groupby(["a", "b", "id"]).ngroups
    for item in records["train"]:
        taught = {a.id: a for s in b.labels.values() for a in s}
        assert set(item["samples"]) == set(b.labels) and item["id"] in taught
        for a in item["arms"]:
            assert a["kept"] == (item["id"] in b.rows[a["arm"]].kept) == ("rows" in a)


def test_its_counts_are_those_of_the_report(math):
    r, b = math
    index, _ = data_of(items_page(r, b))
    for arm, rows in b.graded.groupby("arm"):
        assert sum(column(index, "test", "value", arm)) == rows.correct.sum()
        unread = [bits & 1 for bits in column(index, "test", "marks", arm)]
        assert sum(unread) == (~rows.parsed.astype(bool)).sum()
        lenient = [bits >> 4 & 1 for bits in column(index, "test", "marks", arm)]
        assert sum(lenient) == (rows.correct & ~rows.correct_strict.astype(bool)).sum()


def test_training_rows_are_shown_as_the_student_saw_them(math):
    r, b = math
    index, records = data_of(items_page(r, b))
    rows = {row["id"]: row["messages"] for row in b.rows[LEARNS].rows}
    for item in records["train"]:
        own = next(a for a in item["arms"] if a["arm"] == LEARNS)
        for shown_row in own.get("rows", ()):
            assert prompt(index, shown_row, item["question"]) == "\n\n".join(
                f"[{m['role']}]\n{m['content']}" for m in rows[item["id"]]
            )


def test_drops_come_with_reason_and_evidence(math):
    r, b = math
    first = b.data.train[0].id
    done = replace(
        b.rows[LEARNS],
        rows=[x for x in b.rows[LEARNS].rows if x["id"] != first],
        drops=[Drop(first, "unreadable", "the end")],
    )
    index, records = data_of(items_page(r, changed(b, rows=b.rows | {LEARNS: done})))
    row = next(a for a in records["train"][0]["arms"] if a["arm"] == LEARNS)
    assert (row["kept"], row["reason"], row["evidence"]) == (False, "unreadable", "the end")
    assert "no answer could be read" in index["reasons"]["unreadable"]
    assert column(index, "train", "reason", LEARNS)[0] == "unreadable"


def test_a_scored_family_shows_its_measure(summ):
    r, b = summ
    index, _ = data_of(items_page(r, b))
    assert not index["graded"] and index["measure"] == METRICS[r["metric"]["key"]].name
    for arm, rows in b.graded.groupby("arm"):
        assert column(index, "test", "value", arm) == pytest.approx(rows[r["metric"]["key"]].tolist(), abs=1e-6)


def test_items_beyond_the_most_are_left_out_and_the_page_says_so(math, monkeypatch):
    assert "at most" not in items_page(*math)
    monkeypatch.setattr(items_module, "MOST", 6)
    page = items_page(*math)
    assert {k: len(v) for k, v in data_of(page)[1].items()} == dict(test=6, train=6)
    assert "at most 6 items of a kind, the first ones of 8 test items and 10 training inputs" in page


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=6), st.integers(1, 200))
def test_chunks_hold_every_record_where_the_page_looks_for_it(texts, size):
    records = [dict(id=str(i), text=t) for i, t in enumerate(texts)]
    whole, items_module.CHUNK = items_module.CHUNK, size
    try:
        packed, starts, same = chunks(records)
    finally:
        items_module.CHUNK = whole
    held = [opened_block(p) for p in packed]
    assert [r for c in held for r in c] == same and [r["id"] for r in same] == [r["id"] for r in records]
    assert starts == [int(c[0]["id"]) for c in held]


@pytest.mark.parametrize("before", [0, 70])
def test_keys_do_not_reach_the_page_not_even_cut_off(math, monkeypatch, before):
    r, b = math
    key = 'very-"secret"-key-123'
    monkeypatch.setenv("SOME_API_KEY", key)
    text = f"{'a' * before} {key}"
    index, records = data_of(items_page(r, changed(b, graded=b.graded.assign(text=text, answer=text))))
    assert "very-" not in json.dumps([index, records])
    assert records["test"][0]["arms"][0]["text"] == f"{'a' * before} ***"


def test_no_markup_of_an_items_text_reaches_the_page(math):
    page = items_page(*hostile(*math))
    assert (page.count("<script"), page.count("</script")) == (4, 4)
    assert [page.count(x) for x in ("<!--", "<img", "alert(", "\u2028")] == [0, 0, 0, 0]
    _, records = data_of(page)
    assert records["test"][0]["arms"][0]["text"] == ATTACK.replace("\u202e", "\ufffd")
    shared = {}
    for x in item_records(math[1], METRICS["correct"], shared=shared) + input_records(math[1], shared=shared):
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
        path = tmp_path / "items.html"
        path.write_text(items_page(r, b))
        contexts.append(browser.new_context(viewport=dict(width=1280, height=900), **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.add_init_script(HOOK)
        for event in ("console", "pageerror"):
            page.on(event, lambda m: faults.append(str(getattr(m, "text", m))))
        page.on("request", lambda q: faults.append(q.url) if not q.url.startswith("file:") else None)
        page.goto(path.as_uri() + address)
        if options.get("java_script_enabled", True):
            page.locator("#items[aria-busy=false]").wait_for()
        return page

    yield open_
    for c in contexts:
        c.close()
    assert faults == []


def shown(page):
    return page.locator(".rows .id").all_inner_texts()


def at(page):
    return page.locator("article h2").first.inner_text().partition(" ")[0]


def hidden_state(page):
    "What the address says."
    return page.evaluate("location.hash")


def wait_for_item(page, id):
    wait_until(page, "id => document.querySelector('article h2')?.textContent.startsWith(id)", arg=id)


def wait_for_count(page, text):
    wait_until(page, "t => document.querySelector('.count').textContent.includes(t)", arg=text)


def test_filters_by_outcome_and_difficulty(opened, math):
    r, b = math
    page = opened(r, b)
    right = b.graded.pivot(index="id", columns="arm", values="correct").loc[[e.id for e in b.data.test]]
    assert shown(page) == list(right.index)
    assert (page.locator("#a").input_value(), page.locator("#b").input_value()) == (TOP, BASE)
    for label_, hit in (
        ("A wrong", ~right[TOP]),
        ("A right, B wrong", ~right[BASE] & right[TOP]),
        ("A wrong, B right", right[BASE] & ~right[TOP]),
        ("both right", right[BASE] & right[TOP]),
        ("both wrong", ~right[BASE] & ~right[TOP]),
        ("every arm wrong", ~right.any(axis=1)),
    ):
        page.locator("#outcome").select_option(label_)
        assert shown(page) == list(right.index[hit])
        assert page.locator(".count").inner_text() == f"{min(1, hit.sum())} of {hit.sum()} that fit, 8 in all"
    page.get_by_role("button", name="Clear filters").click()
    e = b.data.test[3]
    page.locator("#level").select_option(e.difficulty)
    assert shown(page) == [x.id for x in b.data.test if x.difficulty == e.difficulty]


def test_counts_of_the_pair_and_of_every_arm(opened, math):
    r, b = math
    page = opened(r, b)
    right = b.graded.pivot(index="id", columns="arm", values="correct")
    for name, n in (
        ("both right", (right[TOP] & right[BASE]).sum()),
        ("only A right", (right[TOP] & ~right[BASE]).sum()),
        ("only B right", (~right[TOP] & right[BASE]).sum()),
        ("both wrong", (~right[TOP] & ~right[BASE]).sum()),
    ):
        chip = page.get_by_role("button", name=f"{name}: {n}")
        chip.click()
        assert chip.get_attribute("aria-pressed") == "true" and len(shown(page)) == n
        chip.click()
        assert len(shown(page)) == 8
    wait_until(page, "document.querySelector('#tables tbody') !== null")
    for line in page.locator("#tables table").first.locator("tbody tr").all():
        arm, n, of, *_ = line.locator("th, td").all_inner_texts()
        assert (int(n), int(of)) == (right[arm].sum(), 8)


def test_filters_by_gold_answer_length_and_what_is_odd(opened, math):
    r, b = math
    page, ids = opened(r, b), [e.id for e in b.data.test]
    own = b.graded[b.graded.arm == TOP].set_index("id").loc[ids]
    page.locator("#more summary").click()
    for name, value, hit in (
        ("gold", b.data.test[2].gold, own.gold == b.data.test[2].gold),
        ("answer", "999", own.answer == "999"),
        ("least", "21", own.tokens >= 21),
        ("most", "20", own.tokens <= 20),
    ):
        page.locator(f"#{name}").fill(value)
        assert shown(page) == list(own.index[hit]), name
        assert f"{name}={value}" in hidden_state(page)
        page.locator(f"#{name}").fill("")
    page.locator("#odd").select_option("no answer could be read")
    assert shown(page) == list(own.index[~own.parsed.astype(bool)]) != []


def test_search_through_all_texts_or_one_arms(opened, math):
    r, b = math
    page, e = opened(r, b), b.data.test[3]
    page.locator("#text").fill(e.messages[-1]["content"][:40].upper())
    wait_for_count(page, "1 of 1 that fit")
    assert shown(page) == [e.id]
    page.locator("#text").fill("i do not KNOW")
    silent = [x.id for i, x in enumerate(b.data.test) if i % 5 == 4]
    wait_for_count(page, f"1 of {len(silent)} that fit")
    assert shown(page) == silent
    page.locator("#within").select_option("the answer of B")
    wait_for_count(page, "0 of 0 that fit")
    assert page.locator("article").inner_text() == "No item fits."
    assert page.get_by_role("button", name="Next").is_disabled()


def test_the_item_whose_id_is_searched_for_comes_first(opened, math):
    r, b = math
    e, other, graded = b.data.test[3], b.data.test[0].id, b.graded.copy()
    graded.loc[graded.id == other, "text"] = f"as in {e.id}"
    page = opened(r, changed(b, graded=graded))
    page.locator("#text").fill(e.id.upper())
    wait_for_count(page, "1 of 2 that fit")
    assert shown(page) == [e.id, other]


def test_the_breakdown_is_open_where_there_is_room(opened, math):
    page = opened(*math)
    assert page.locator("#breakdown").get_attribute("open") is not None
    heights = page.evaluate("['#tables', '#list'].map((s) => document.querySelector(s).getBoundingClientRect().top)")
    assert heights[0] < heights[1] < 900, "the list is not on the first screen"
    page.set_viewport_size(dict(width=400, height=900))
    page.reload()
    page.locator("#items[aria-busy=false]").wait_for()
    assert page.locator("#breakdown").get_attribute("open") is None


def test_keys(opened, math):
    r, b = math
    ids = [e.id for e in b.data.test]
    page = opened(r, b)
    page.keyboard.press("j")
    wait_for_item(page, ids[1])
    page.keyboard.press("k")
    wait_for_item(page, ids[0])
    page.keyboard.press("Enter")  # wherever the focus is
    assert page.evaluate("document.activeElement.id") == "detail"
    page.locator("#row-1").click()
    assert page.evaluate("document.activeElement.id") == "list"
    page.get_by_role("button", name="Previous").click()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("j")
    assert page.locator("#text").input_value() == "j", "a key that is typed moves nothing"
    page.locator("#text").fill("")
    wait_for_count(page, "1 of 8")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("ArrowDown")
    wait_for_item(page, ids[1])
    assert page.locator("#list").get_attribute("aria-activedescendant") == "row-1"
    assert page.locator("#row-1").get_attribute("aria-selected") == "true"
    page.keyboard.press("End")
    wait_for_item(page, ids[-1])
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("k")
    wait_for_item(page, ids[-2])
    page.locator("#keys").uncheck()
    page.keyboard.press("k")
    page.wait_for_timeout(100)
    assert at(page) == ids[-2]


def test_an_address_opens_its_item_and_its_filters(opened, math):
    r, b = math
    ids, inputs = [e.id for e in b.data.test], [e.id for e in b.data.train]
    page = opened(r, b, f"#test/{ids[2]}")
    assert at(page) == ids[2] and len(shown(page)) == 8
    page.locator("#a").select_option(BASE)
    page.locator("#b").select_option("distilled/vanilla" if "distilled/vanilla" in b.answers else TOP)
    page.locator("#outcome").select_option("both-wrong")
    page.get_by_role("button", name="Next").click()
    wait_for_count(page, "2 of")
    state, rows, item = hidden_state(page), shown(page), at(page)
    assert "outcome=both-wrong" in state and item in state
    again = opened(r, b, state)
    assert (shown(again), at(again), hidden_state(again)) == (rows, item, state)
    page.evaluate("id => { location.hash = `#train/${id}`; }", inputs[4])
    wait_for_item(page, inputs[4])
    assert page.locator("#split").input_value() == "train"
    wait_until(page, "document.activeElement.id === 'detail'")


def test_an_address_of_no_item_opens_none(opened, math):
    r, b = math
    first = b.data.test[0].id
    page = opened(r, b, "#test/none")
    assert page.locator("article").inner_text() == "No item of this page has the id none."
    assert len(shown(page)) == 8 and page.locator(".rows [aria-selected=true]").count() == 0
    for odd in ("#train/%E0%A4%A", "#x", "#elsewhere/1"):
        assert at(opened(r, b, f"#test/{first}")) == first
        page.evaluate("h => { location.hash = h; }", odd)
        page.wait_for_timeout(50)
        assert "No item of this page" in page.locator("article").inner_text()


def test_an_address_whose_filters_hide_its_item_still_opens_it(opened, math):
    r, b = math
    right = b.graded.pivot(index="id", columns="arm", values="correct").all(axis=1)
    e = next(e for e in b.data.test if right[e.id])
    page = opened(r, b, f"#test/{e.id}?outcome=all-wrong")
    assert at(page) == e.id and page.locator("#outcome").input_value() == ""


def test_answers_beside_each_other_show_where_they_part(opened, math):
    r, b = math
    i, e = next((i, e) for i, e in enumerate(b.data.test) if i % 4 == 3 and i % 5 < 4)
    texts = {
        TOP: f"First I count, and then I add.\nAnswer: {e.gold}",
        BASE: "First I count, but then I stop.\nAnswer: 1",
    }
    graded = b.graded.copy()
    for arm, text in texts.items():
        graded.loc[(graded.arm == arm) & (graded.id == e.id), ["text", "answer"]] = [text, text.split()[-1]]
    page = opened(r, changed(b, graded=graded), f"#test/{e.id}")
    assert page.locator("article mark").all_inner_texts() == ["and", "but"]
    cards = page.locator(".answer.chosen")
    assert cards.locator("h3").all_inner_texts()[0].startswith(f"A: {TOP}")
    assert "The first 3 words are those of" in cards.first.inner_text()
    page.get_by_role("button", name="Where does the text of A depart").click()
    far = page.locator("#tables table").filter(has_text="first departs").locator("tbody tr")
    quarters = {q: int(n) for q, n, *_ in (r.locator("th, td").all_inner_texts() for r in far.all())}
    assert sum(quarters.values()) == 8 and quarters["in the second quarter"] == 1
    assert page.locator(".answer.first h3").inner_text().startswith(f"A: {TOP}"), "the first arm that differs from B"


def test_from_an_answer_to_what_the_arm_learned_from(opened, math):
    r, b = math
    answers = b.answers | {LEARNS: b.answers[TOP]}
    b = changed(b, answers=answers, graded=grade(b.data.test, answers))
    page = opened(r, b)
    page.get_by_role("link", name="All its training inputs").click()
    wait_until(page, "document.getElementById('split').value === 'train'")
    assert page.locator("#arm").input_value() == LEARNS
    page.locator("#outcome").select_option("kept")
    assert shown(page) == b.rows[LEARNS].kept
    page.locator("#outcome").select_option("dropped")
    assert shown(page) == [d.id for d in b.rows[LEARNS].drops]


def many(math, n):
    "A run of n test items, the ones there are again and again."
    r, b = math
    again = [(k, e) for k in range(n // len(b.data.test)) for e in b.data.test]
    test = [replace(e, id=f"{e.id}-{k}") for k, e in again]
    answers = {
        arm: replace(x, answers=[replace(a, id=f"{a.id}-{k}") for k in range(n // len(b.data.test)) for a in x])
        for arm, x in b.answers.items()
    }
    data = replace(b.data, test=test)
    return r, changed(b, data=data, answers=answers, graded=grade(test, answers), verdicts=None)


def test_a_long_list_has_only_the_rows_in_sight(opened, math, monkeypatch):
    monkeypatch.setattr(items_module, "CHUNK", 50_000)
    r, b = many(math, 2000)
    ids = [e.id for e in b.data.test]
    page = opened(r, b, f"#test/{ids[1500]}")
    assert at(page) == ids[1500] and page.locator("script.test").count() > 5
    assert ids[1500] in shown(page) and len(shown(page)) < 60
    assert page.locator("#row-1500").get_attribute("aria-setsize") == "2000"
    page.locator("#list").focus()
    page.keyboard.press("Home")
    wait_for_item(page, ids[0])
    page.locator("#text").fill(ids[1999])
    wait_for_count(page, "1 of 1 that fit, 2000 in all")
    assert at(page) == ids[1999]


@pytest.mark.parametrize("address", ["", "#train/"])
def test_hostile_text_is_shown_and_not_run(opened, math, address):
    r, b = hostile(*math)
    page = opened(r, b, address + b.data.train[0].id if address else "")
    for d in page.locator("details").all():
        d.evaluate("d => { d.open = true; }")
    assert page.evaluate("window.ran") == []
    assert page.locator("article pre :not(mark), article img, article script, #tables img, .rows img").count() == 0
    assert "<img src=x onerror=alert(2)>" in page.locator("article pre").first.inner_text()
    assert page.locator("script:not([type='text/plain'])").count() == 1


def test_a_scored_familys_outcomes(opened, summ):
    r, b = summ
    page = opened(r, b)
    value = b.graded.pivot(index="id", columns="arm", values=r["metric"]["key"]).loc[[e.id for e in b.data.test]]
    a, c = BASE, "teacher/vanilla"
    page.locator("#a").select_option(a)
    page.locator("#b").select_option(c)
    page.locator("#outcome").select_option("A lower, B higher")
    assert shown(page) == list(value.index[value[a] < value[c]])
    page.locator("#outcome").select_option("any outcome")
    page.locator("#more summary").click()
    page.locator("#order").select_option("lowest A first")
    assert shown(page) == list(value.sort_values(a, kind="stable").index)


def test_without_javascript_it_points_to_the_report(opened, math):
    page = opened(*math, java_script_enabled=False)
    assert "needs no script" in page.locator("noscript").inner_text()
    assert page.locator("a[href='index.html']").count() == 2 and page.locator("main").is_hidden()
