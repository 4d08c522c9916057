"Fair, blinded draws; files that come back are checked to the last grade; a run shows grades of what its arms say."

import json
import math
import re
import sys
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st
from made_up import saved_grades, sheet_of
from pydantic import ValidationError

from distill_study.analyse.agreement import attention, human_scores, passed
from distill_study.analyse.results import to_plain
from distill_study.analyse.stats import wilson
from distill_study.config import ARMS, Criterion, Data, StudyError
from distill_study.data.load import Example, Splits, load_data
from distill_study.grading import people
from distill_study.grading.people import grades_of, latest_grades, load_key, text_key
from distill_study.report.items import grading_page, legible
from distill_study.store.log import Store
from distill_study.study.plan import combination_from, parse_recipe
from distill_study.tasks.families import Parsed, answer_text, rubric
from distill_study.teach.sampling import Answer, Answers
from distill_study.tools.archive import check_store, to_prune
from distill_study.tools.share import (
    GradesFile,
    draw_answers,
    draw_checks,
    draw_sheets,
    faults,
    import_grades,
    strata,
    systematic_sample,
)

QA = load_data(Data(name="tiny-qa", train=2, test=40))
C = combination_from("transformers:zoo/teacher", "zoo/student-s", data="tiny-qa")


def said(examples, texts, right=None):
    "Answers of one arm."
    return Answers(
        "vanilla",
        [
            Answer(e.id, t, Parsed(t, t), bool(right[i]) if right else t == e.gold, "stop", 3, 9, None)
            for i, (e, t) in enumerate(zip(examples, texts, strict=True))
        ],
        0,
        0,
    )


def arms(n_arms, kinds, examples):
    "Arms whose answers are letters, drawn by the numbers in `kinds`."
    names = list(ARMS)[:n_arms]
    return {
        a: said(
            examples,
            [
                "ABCD"[kinds[(i * 7 + j * 3) % len(kinds)] % 4] if (i + j) % 3 else f"It is {a[-3:]} {i}"
                for i in range(len(examples))
            ],
        )
        for j, a in enumerate(names)
    }


some = st.builds(
    dict,
    n_arms=st.integers(1, 9),
    items=st.integers(1, 40),
    extra=st.integers(0, 60),
    raters=st.integers(1, 6),
    overlap=st.floats(0, 1),
    checks=st.integers(0, 4),
    seed=st.integers(0, 99),
    kinds=st.lists(st.integers(0, 5), min_size=1, max_size=11),
)


# --- drawing


@settings(max_examples=60, deadline=None)
@given(some)
def test_every_draw_is_fair(s):
    examples = QA.test[: s["items"]]
    answers = arms(s["n_arms"], s["kinds"], examples)
    n = len(answers) + s["extra"]
    drawn, by_id = draw_answers(examples, answers, n=n, seed=s["seed"]), {e.id: i for i, e in enumerate(examples)}
    assert 1 <= len(drawn) <= n and len({(d.id, d.text) for d in drawn}) == len(drawn)
    assert all(answers[a].answers[by_id[d.id]].text.strip() == d.text for d in drawn for a in d.arms)
    per = Counter(a for d in drawn for a in d.arms)
    assert set(per) == set(answers) and max(per.values()) - min(per.values()) <= 1
    for arm, kinds in strata(examples, answers).items():  # right and wrong, in the arm's own shares
        have, got = Counter(kinds), Counter(kinds[by_id[d.id]] for d in drawn if arm in d.arms)
        for kind, m in have.items():
            assert abs(got[kind] - per[arm] * m / len(examples)) < 1 + 1e-9
    every = sum(len({answer_text(answers[a].answers[i]) for a in answers}) for i in range(len(examples)))
    if n >= every:
        assert len(drawn) == every, "all there is fits, so all of it is drawn"


@settings(max_examples=60, deadline=None)
@given(some)
def test_sheets_are_blind_shared_out_and_the_same_again(s):
    examples = QA.test[: max(s["items"], 5)]
    answers = arms(s["n_arms"], s["kinds"], examples)
    asked = dict(
        c=C,
        examples=examples,
        answers=answers,
        n=len(answers) + s["extra"],
        raters=s["raters"],
        overlap=s["overlap"],
        checks=s["checks"],
        seed=s["seed"],
    )
    key, sheets = draw_sheets(**asked)
    assert (key, sheets) == draw_sheets(**asked)
    checks = {i for i, x in key["items"].items() if x["check"]}
    items, shares = set(key["items"]) - checks, {r: set(mine) - checks for r, mine in key["raters"].items()}
    assert len(checks) == s["checks"] and set().union(*shares.values()) == items
    for r, mine in key["raters"].items():
        assert len(mine) == len(set(mine)) and checks <= set(mine) and [x["item"] for x in sheets[r]["items"]] == mine
    common = round(s["overlap"] * len(items))
    held = Counter(i for mine in shares.values() for i in mine)
    if len(shares) == s["raters"] > 1:
        assert sum(n == s["raters"] for n in held.values()) == common and set(held.values()) <= {1, s["raters"]}
    assert max(map(len, shares.values())) - min(map(len, shares.values())) <= 1 or len(shares) < s["raters"]
    text = json.dumps(
        [{k: v for k, v in x.items() if k != "items"} for x in sheets.values()] + [x["items"] for x in sheets.values()]
    )
    assert (
        not any(f'"{a}"' in text for a in answers)
        and '"check"' not in text
        and '"arms"' not in text
        and '"gold"' not in text
    )
    by_id = {e.id: e for e in examples}
    for sheet in sheets.values():
        for x in sheet["items"]:
            assert text_key(by_id[key["items"][x["item"]]["id"]], x["answer"]) == key["items"][x["item"]]["text"]


def test_each_answer_has_the_same_chance():
    examples, hits = QA.test[:20], Counter()
    answers = {
        "teacher/vanilla": said(examples, [e.gold for e in examples], [i % 3 for i in range(20)]),
        "student/vanilla": said(examples, [f"x{i}" for i in range(20)]),
    }
    for seed in range(400):
        hits.update(d.id for d in draw_answers(examples, answers, n=10, seed=seed) if "student/vanilla" in d.arms)
    assert len(hits) == 20 and sum(hits.values()) == 2000
    assert all(abs(k - 100) < 4.5 * math.sqrt(400 * 0.25 * 0.75) for k in hits.values()), hits


@given(st.lists(st.integers(), unique=True, min_size=1, max_size=50), st.data())
def test_spread_draws_without_putting_back(items, data):
    n = data.draw(st.integers(0, len(items)))
    got = systematic_sample(n, items, start=data.draw(st.floats(0, 1, exclude_max=True)))
    assert len(got) == n == len(set(got)) and [items.index(x) for x in got] == sorted(items.index(x) for x in got)


def test_order_differs_by_rater_and_ids_tell_nothing():
    key, sheets = draw_sheets(C, QA.test, answers=arms(4, [0, 1, 2], QA.test), n=40, raters=3, overlap=1.0)
    orders = list(key["raters"].values())
    assert len({tuple(o) for o in orders}) == 3 and len({frozenset(o) for o in orders}) == 1
    by_arm = {}
    for i, x in key["items"].items():
        by_arm.setdefault(x["arms"][0], []).append(int(i[1:]))
    assert all(min(v) < 20 < max(v) for v in by_arm.values() if len(v) > 6), "numbers run through all arms"


def test_scored_families_are_spread_over_thirds_of_the_score():
    news = load_data(Data(name="tiny-summ", train=2, test=30)).test
    answers = {
        "teacher/vanilla": said(
            news,
            [
                e.gold if i % 3 == 0 else e.gold[: len(e.gold) // 2] if i % 3 == 1 else "Nothing."
                for i, e in enumerate(news)
            ],
        )
    }
    kinds = strata(news, answers)["teacher/vanilla"]
    assert set(kinds) == {"low", "middle", "high"} or set(kinds) == {"low", "high"} or set(kinds) == {"low", "middle"}
    at = {e.id: kinds[i] for i, e in enumerate(news)}
    got = Counter(at[d.id] for d in draw_answers(news, answers, n=9))
    assert all(abs(got[k] - 9 * m / 30) < 1 + 1e-9 for k, m in Counter(kinds).items())


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(n=2), "n = 2: there are 3 arms"),
        (dict(n=0), "n = 0"),
        (dict(raters=0), "raters = 0: expected 1 to 99"),
        (dict(raters=100), "raters = 100"),
        (dict(overlap=1.2), "overlap = 1.2: expected a share"),
        (dict(overlap=float("nan")), "overlap = nan"),
        (dict(checks=-1), "checks = -1"),
        (dict(checks=41), "checks = 41: 40 of the test items"),
    ],
)
def test_settings_that_no_sheet_can_have(changes, says):
    with pytest.raises(StudyError) as e:
        draw_sheets(C, QA.test, answers=arms(3, [0, 1], QA.test), **changes)
    assert says in str(e.value)


def test_checks_need_truth():
    blind = [Example(e.id, e.task, e.turns, None, e.choices) for e in QA.test[:5]]
    answers = {
        "teacher/vanilla": Answers(
            "vanilla", [Answer(e.id, "A", Parsed("A", "A"), None, "stop", 1, 1, None) for e in blind], 0, 0
        )
    }
    assert draw_sheets(C, blind, answers=answers, n=5)[0]["items"]
    with pytest.raises(StudyError, match="0 of the test items have a gold answer.*Ask for none"):
        draw_sheets(C, blind, answers=answers, n=5, checks=1)


def test_equal_gold_everywhere_leaves_no_wrong_answer():
    same = [Example(str(i), "math", (dict(role="user", content=f"{i}?"),), "7") for i in range(4)]
    with pytest.raises(StudyError, match="all test items have the same gold"):
        draw_checks(same, 2)


@pytest.mark.parametrize("name", ["tiny-math", "tiny-qa", "tiny-nli", "tiny-summ", "tiny-chat"])
def test_every_family_has_attention_checks(name):
    checks = draw_checks(load_data(Data(name=name, train=2, test=8)).test, 6)
    assert [c.check for c in checks] == ["gold", "other"] * 3 and all(c.text.strip() for c in checks)


def test_what_passes_an_attention_check():
    four = rubric("summarization")
    assert passed("gold", dict(coherence=3, consistency=5, fluency=4, relevance=3), criteria=four) and not passed(
        "gold", dict(coherence=5, consistency=2, fluency=5, relevance=5), criteria=four
    )
    assert passed("other", dict(coherence=5, consistency=1, fluency=5, relevance=1), criteria=four) and not passed(
        "other", dict(coherence=5, consistency=4, fluency=5, relevance=3), criteria=four
    )


TRICKS = st.text(st.sampled_from("<>&/!-'\"`\\{}$ \n\r\u2028\u2029\u202e\ufeff\x00sScript"), max_size=40) | st.text(
    max_size=40
)


@settings(max_examples=100, deadline=None)
@given(TRICKS, TRICKS)
def test_no_text_leaves_its_place_in_the_page(asked, answer):
    sheet = dict(
        sheet="0" * 16,
        rater="r1",
        rubric="0" * 16,
        format=1,
        criteria=[],
        items=[dict(item="q001", parts=[dict(heading="Question", text=asked)], answer=answer)],
    )
    inside, around = around_the_sheet(grading_page(sheet))
    assert around == around_the_sheet(grading_page(dict(rater="r1", items=[])))[1], "nothing of it stands anywhere else"
    assert inside.isascii() and not set("<>&") & set(inside) and json.loads(inside) == legible(sheet)


def around_the_sheet(page):
    "(the JSON in a page, all the rest of the page)."
    before, _, rest = page.partition('<script type="application/json" id="sheet">')
    inside, _, after = rest.partition("</script>")
    return inside, before + after


# --- what comes back


@pytest.fixture
def study(tmp_path):
    "A store with a sheet for two raters, and a way to write their files."
    examples = QA.test[:12]
    answers = arms(3, [0, 1, 2, 3], examples)
    key, sheets = draw_sheets(C, examples, answers=answers, n=15, raters=2, overlap=0.4, checks=2)
    store = Store(tmp_path / "store")
    store.put_json("sheet", key["sheet"], obj=key)

    def write(rater="r1", name=None, text=None, **changes):
        raw = (
            dict(
                format=1,
                kind="grades",
                sheet=key["sheet"],
                rater=rater,
                rubric=key["rubric"],
                grades={x["item"]: dict(correct=1) for x in sheets[rater if str(rater) in sheets else "r1"]["items"]},
                notes={},
            )
            | changes
        )
        path = tmp_path / (name or f"grades-{rater}.json")
        path.write_text(json.dumps(raw) if text is None else text, encoding="utf-8")
        return path

    class Study:
        pass

    s = Study()
    s.examples, s.answers, s.key, s.sheets, s.store, s.write = examples, answers, key, sheets, store, write
    s.splits = Splits(**{k: getattr(QA, k) for k in QA.__dataclass_fields__} | dict(test=examples))
    s.whole = lambda rater: {x["item"]: dict(correct=1) for x in sheets[rater]["items"]}
    return s


def refused(s, path, says, **how):
    with pytest.raises(StudyError) as e:
        import_grades(s.store, [path], **how)
    assert says in str(e.value) and path.name in str(e.value), e.value
    assert latest_grades(s.store, s.key["sheet"]) == {}, "nothing of it may be taken"


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "no file of grades (damaged"),
        ("", "no file of grades (damaged"),
        ("[1]", "no file of grades (the whole: "),
        ("null", "no file of grades (the whole: "),
        ("[" * 100_000, "no file of grades (damaged"),
        ('{"kind": "sheet"}', "no file of grades (format: "),
    ],
)
def test_a_file_that_holds_no_grades(study, text, says):
    refused(study, study.write(text=text), says)


def test_faults_of_a_file(study):
    s, first = study, study.sheets["r1"]["items"][0]["item"]
    whole = s.whole("r1")
    less = {i: x for i, x in whole.items() if i != first}
    refused(s, s.write(kind="sheet"), "kind: Input should be 'grades'")
    refused(s, s.write(format=2), "format: Input should be 1")
    refused(s, s.write(sheet="0" * 16), "was not drawn from this store")
    refused(s, s.write(sheet="../../etc"), "was not drawn from this store")
    refused(s, s.write(sheet=None), "sheet: ")
    refused(s, s.write(rubric="0" * 16), "graded by other questions")
    refused(s, s.write("ann@example.org"), "rater 'ann@example.org' has no sheet; these have: r1, r2")
    refused(s, s.write(grades=[]), "grades: ")
    refused(s, s.write(grades={first: 1}), f"grades.{first}: ")
    refused(s, s.write(notes={first: 5}), f"notes.{first}: ")
    refused(s, s.write(notes={first: "x" * 20_001}), "at most 20000 characters")
    refused(s, s.write(notes={"q999": "x"}), "1 unknown item: q999")
    refused(s, s.write(grades=whole | {"q999": dict(correct=1)}), "1 unknown item: q999")
    refused(s, s.write(grades=whole | {first: dict(correct=1, style=1)}), "unknown criterion: style")
    refused(s, s.write(grades={}), "items without all their grades")
    refused(s, s.write(grades={}), "nothing is graded in it", partial=True)
    for v in (0.5, 1.0, True, "1", None, [1], math.nan):
        refused(s, s.write(grades=whole | {first: dict(correct=v)}), f"grades.{first}.correct: ")
    for v in (2, -1):
        refused(s, s.write(grades=whole | {first: dict(correct=v)}), f"off the scale: {first} correct = {v}")
    missing = f"1 of {len(whole)} items without all their grades: {first}; ask the rater to finish, or take what is"
    refused(s, s.write(grades=less), missing)


def test_files_that_are_not_there_or_not_text(study, tmp_path):
    refused(study, tmp_path / "none.json", "No such file")
    refused(study, tmp_path, "")
    path = tmp_path / "grades-r1.json"
    path.write_bytes(b'{"kind": "grades\xff"}')
    refused(study, path, "damaged")


def test_another_recipe_and_another_rubric(study):
    own = [dict(name="brevity", question="Could a word be left out?", scale=[1, 3])]
    raw = dict(name="x", teachers=["transformers:zoo/teacher"], students=["zoo/student-s"], data=["tiny-qa"])
    assert import_grades(study.store, [study.write()], recipe=parse_recipe(raw))[0]["new"]
    for changes, says in ((dict(data=["tiny-nli"]), "not part of this recipe"), (dict(rubric=own), "have changed")):
        with pytest.raises(StudyError, match=says):
            import_grades(study.store, [study.write()], recipe=parse_recipe(raw | changes))


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["q001", "q002", "correct", "x"]), x, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["grades", "notes", "rater", "rubric", "format"]),
)
def test_no_file_breaks_the_check(value, where):
    key = dict(rubric="a", raters=dict(r1=["q001", "q002"]), criteria=[dict(name="correct", scale=[0, 1])])
    raw = dict(format=1, kind="grades", sheet="s", rater="r1", rubric="a", notes={})
    raw["grades"] = dict(q001=dict(correct=1), q002=dict(correct=0))
    assert faults(GradesFile(**raw), key) == []
    try:
        file = GradesFile.model_validate(raw | {where: value})
    except ValidationError:
        return
    grades = file.grades.values()
    assert faults(file, key) or all(set(g) == {"correct"} and g["correct"] in (0, 1) for g in grades)


def test_all_or_none(study):
    with pytest.raises(StudyError):
        import_grades(study.store, [study.write("r1"), study.write("r2", grades={})])
    assert latest_grades(study.store, study.key["sheet"]) == {}
    done = import_grades(study.store, [study.write("r1"), study.write("r2")])
    assert [d["new"] for d in done] == [True, True] and set(latest_grades(study.store, study.key["sheet"])) == {
        "r1",
        "r2",
    }


def test_one_rater_twice(study):
    with pytest.raises(StudyError, match="rater r1 of this sheet stands in .*a.json as well"):
        import_grades(study.store, [study.write("r1", "a.json"), study.write("r1", "b.json")])
    import_grades(study.store, [study.write("r1")])
    assert import_grades(study.store, [study.write("r1")])[0]["new"] is False
    changed = study.whole("r1") | {study.key["raters"]["r1"][0]: dict(correct=0)}
    with pytest.raises(StudyError, match="were imported at .*--replace"):
        import_grades(study.store, [study.write("r1", grades=changed)])
    assert import_grades(study.store, [study.write("r1", grades=changed)], replace=True)[0]["new"] is True
    assert latest_grades(study.store, study.key["sheet"])["r1"]["grades"] == changed


def test_part_of_a_sheet_and_later_the_rest(study):
    part = dict(list(study.whole("r1").items())[:3])
    done = import_grades(study.store, [study.write(grades=part | {study.key["raters"]["r1"][5]: {}})], partial=True)
    assert (done[0]["items"], done[0]["of"]) == (3, len(study.key["raters"]["r1"]))
    assert import_grades(study.store, [study.write()], replace=True)[0]["items"] == done[0]["of"]


def test_a_damaged_book_of_grades_is_found(study):
    import_grades(study.store, [study.write("r1")])
    import_grades(study.store, [study.write("r2")])
    book = study.store.root / "grades" / f"{study.key['sheet']}.jsonl"
    book.write_bytes(book.read_bytes().replace(b'"correct":1', b'"correct":0', 1))
    with pytest.raises(StudyError, match="damaged"):
        grades_of(C, study.splits, answers=study.answers, store=study.store)
    (problem,) = check_store(study.store.root)
    assert problem.lost and problem.path == book and "import what the raters sent once more" in str(problem)


def test_pruning_leaves_grades_alone(study):
    import_grades(study.store, [study.write("r1")])
    with pytest.raises(StudyError, match="no stage of"):
        to_prune(study.store.root, stages=[study.key["sheet"]])
    assert [e for e in to_prune(study.store.root, interrupted=True) if e.kind == "grades"] == []


def test_key_paths_stay_in_the_store(study):
    for name in ("..", "../sheet", "a" * 17, "A" * 16, ""):
        assert load_key(study.store, name) is None


# --- the grades of a run


def test_round_trip(study):
    note = {study.key["raters"]["r1"][0]: "unsure <b>"}
    import_grades(
        study.store,
        [
            study.write("r1", notes=note),
            study.write("r2", grades={i: dict(correct=0) for i in study.key["raters"]["r2"]}),
        ],
    )
    human = grades_of(C, study.splits, answers=study.answers, store=study.store)
    assert (
        list(human.columns) == people.GRADE_COLUMNS and human["grade"].dtype == float and human["check"].dtype == bool
    )
    own = human[~human["check"]]
    want = {
        (a, x["id"], r)
        for r, mine in study.key["raters"].items()
        for i in mine
        for x in [study.key["items"][i]]
        for a in x["arms"]
    }
    assert {(r.arm, r.id, r.rater) for r in own.itertuples()} == want and len(own) == len(want)
    assert all(r.grade == (r.rater == "r1") for r in own.itertuples())
    assert set(human[human["note"] != ""]["note"]) == {"unsure <b>"}
    assert attention(human, rubric("nlu_qa")) == dict(r1=dict(passed=1, n=2), r2=dict(passed=1, n=2))
    assert human.attrs["left_out"] == 0


def test_only_texts_that_the_arms_still_give(study):
    import_grades(study.store, [study.write("r1"), study.write("r2")])
    before = grades_of(C, study.splits, answers=study.answers, store=study.store)
    arm = "student/vanilla" if "student/vanilla" in study.answers else next(iter(study.answers))
    anew = study.answers | {arm: said(study.examples, [a.text + "!" for a in study.answers[arm]])}
    after = grades_of(C, study.splits, answers=anew, store=study.store)
    gone = before[(before["arm"] == arm)]
    assert (
        len(gone) and arm not in set(after["arm"]) and after.attrs["left_out"] == len(gone) == len(before) - len(after)
    )


def test_other_questions_have_other_grades(study):
    import_grades(study.store, [study.write("r1")])
    own = C.model_copy(
        update=dict(rubric=(Criterion(name="brevity", question="Could a word be left out?", scale=(1, 3)),))
    )
    assert grades_of(own, study.splits, answers=study.answers, store=study.store).empty


def test_raters_of_two_sheets_are_told_apart(study):
    key, sheets = draw_sheets(C, study.examples, answers=study.answers, n=15, raters=2, overlap=0.4, checks=2, seed=1)
    study.store.put_json("sheet", key["sheet"], obj=key)
    import_grades(
        study.store,
        [
            study.write("r1"),
            study.write(
                "r1", "other.json", sheet=key["sheet"], grades={i: dict(correct=0) for i in key["raters"]["r1"]}
            ),
        ],
    )
    assert set(grades_of(C, study.splits, answers=study.answers, store=study.store)["rater"]) == {
        f"r1@{k['sheet'][:6]}" for k in (key, study.key)
    }


def test_nobody_has_graded(study):
    human = grades_of(C, study.splits, answers=study.answers, store=study.store)
    assert human.empty and list(human.columns) == people.GRADE_COLUMNS and attention(human, rubric("nlu_qa")) == {}


# --- what a report says of it

LIKERT = (
    Criterion(name="fluency", question="Is it easy to read?", scale=(1, 5)),
    Criterion(name="consistency", question="Does all of it stand in the source?", scale=(1, 5)),
)


def frame(*rows):
    "Grades: (arm, id, criterion, rater, grade)."
    import pandas as pd

    table = pd.DataFrame(
        [(a, i, k, r, float(g), "", a.startswith("check/"), f"{a}{i}") for a, i, k, r, g in rows],
        columns=people.GRADE_COLUMNS,
    )
    return table.astype(dict(grade=float, check=bool))


def test_an_item_with_several_grades_counts_once():
    rows = [("student/vanilla", f"i{i}", "fluency", "r1", 1 + i % 5) for i in range(10)]
    once, often = (
        human_scores(frame(*x), LIKERT[:1], resamples=200).rows[0]
        for x in (rows, rows + [("student/vanilla", "i0", "fluency", f"r{j}", 1) for j in range(2, 40)])
    )
    assert (
        once["fluency"] == often["fluency"]
        and once["n"] == often["n"] == 10
        and once["fluency"].value == 3
        and (once["raters"], often["raters"]) == (1, 39)
    )


def test_shares_have_wilsons_interval_until_raters_differ():
    yes = Criterion(name="correct", question="Is it right?", scale=(0, 1))
    rows = [("student/vanilla", f"i{i}", "correct", r, i < 3) for i in range(4) for r in ("r1", "r2")]
    assert human_scores(frame(*rows), (yes,)).rows[0]["correct"] == wilson(3, 4)
    split = human_scores(frame(*rows, ("student/vanilla", "i3", "correct", "r3", 1)), (yes,), resamples=200).rows[0][
        "correct"
    ]
    assert split.value == pytest.approx((3 + 1 / 3) / 4) and split.low < split.value < split.high
    other = Criterion(name="correct", question="Is it right?", scale=(1, 2))
    assert human_scores(frame(*[(a, i, k, r, g + 1) for a, i, k, r, g in rows]), (other,)).rows[0]["correct"] == wilson(
        3, 4
    )


def test_what_nobody_graded_is_not_available():
    found = human_scores(
        frame(
            ("student/vanilla", "i0", "fluency", "r1", 4),
            ("check/gold", "i1", "fluency", "r1", 1),
            ("check/gold", "i1", "consistency", "r1", 5),
        ),
        LIKERT,
        resamples=200,
    )
    (row,) = found.rows
    assert (
        row["fluency"].value == 4
        and row["fluency"].low is None
        and row["consistency"].value is None
        and "not available" in found.html()
    )
    assert found.checks == dict(r1=dict(passed=0, n=1))
    assert "1 grade by 1 rater. Attention checks passed: r1: 0 of 1." in found.html()
    assert json.loads(json.dumps(to_plain(found)))["rows"][0]["fluency"]["value"] == 4


def test_grades_left_out_are_told():
    none = frame()
    none.attrs["left_out"] = 3
    assert (
        "3 grades are left out" in human_scores(none, LIKERT).html()
        and "Nobody has graded" in human_scores(none, LIKERT).html()
    )


# --- the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A recipe whose arms have answered, in a store."
    from distill_study.data.load import resolved
    from distill_study.study.plan import load_recipe
    from distill_study.study.run import answer_arms, label_inputs

    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(
        "teachers: ['transformers:zoo/teacher']\nstudents: [zoo/student-s]\n"
        "data: [{name: tiny-qa, train: 2, test: 8}]\narms: [teacher/vanilla, student/vanilla]\n"
    )
    for c in load_recipe(folder / "small.yaml").combinations():
        splits, store = load_data(c.data), Store(folder / "store")
        c = resolved(c, splits.task)
        label_inputs(c, splits, store=store), answer_arms(c, splits, fits={}, store=store)
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    "Run a command in this process: (exit status, stdout, stderr)."
    from distill_study.cli import main

    def go(*args):
        monkeypatch.setattr(sys, "argv", ["distill-study", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return go


def test_from_sheets_to_grades_by_commands(run, call, tmp_path):
    recipe, store, out = run / "small.yaml", ("--store", run / "store"), tmp_path / "sheets"
    code, said, err = call("grade-sheet", recipe, "--n", 8, "--raters", 2, "--checks", 2, "--out", out, *store)
    assert code == 0, err
    folder = out / "tiny-qa--teacher--student-s"
    assert {p.name for p in folder.iterdir()} == {f"grade-{r}.html" for r in ("r1", "r2")}
    assert all(str(folder / f"grade-{r}.html") in said for r in ("r1", "r2"))
    handed = "".join(p.read_text() for p in folder.iterdir())
    assert not re.search(r"(teacher|student)/vanilla|student-s|zoo/|\"arms\"", handed), (
        "what raters get names no arm and no model"
    )
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert call("grade-sheet", recipe, "--n", 8, "--raters", 2, "--checks", 2, "--out", out, *store)[
        0
    ] == 0 and before == {p.name: p.read_bytes() for p in folder.iterdir()}
    code, _, err = call("grade-sheet", recipe, "--n", 9, "--raters", 2, "--out", out, *store)
    assert code == 2 and "another sheet, which people may be grading" in err
    backs = []
    for r in ("r1", "r2"):
        backs.append(tmp_path / f"grades-{r}.json")
        backs[-1].write_text(saved_grades(sheet_of(folder / f"grade-{r}.html"), 1))
    raw = json.loads(backs[0].read_text())
    first = next(iter(raw["grades"]))
    (tmp_path / "part.json").write_text(
        json.dumps(raw | dict(grades={k: v for k, v in raw["grades"].items() if k != first}))
    )
    code, _, err = call("grades", "import", recipe, tmp_path / "part.json", *store)
    assert code == 2 and f"items without all their grades: {first}" in err and "--partial" in err
    code, said, _ = call("grades", "import", recipe, *backs, *store)
    assert code == 0 and len(said.splitlines()) == 2 and "rater r2" in said
    assert "imported before" in call("grades", "import", recipe, backs[0], *store)[1]


@pytest.mark.parametrize(
    "args, says",
    [
        (("--n", 1), "n = 1: there are 2 arms"),
        (("--raters", 0), "raters = 0"),
        (("--overlap", 2), "overlap = 2.0"),
        (("--checks", 9), "checks = 9: 8 of the test items"),
        (("-p", "data.test=9"), "`distill-study run` makes them"),
        (
            ("-p", "arms=teacher/vanilla,distilled/vanilla", "-p", "min_rows=1"),
            "A replay trains nothing: `distill-study run` does",
        ),
        (("--store", "nowhere"), "there is no store in this folder"),
    ],
)
def test_what_no_sheet_is_drawn_from(run, call, tmp_path, args, says):
    code, _, err = call("grade-sheet", run / "small.yaml", "--out", tmp_path / "out", "--store", run / "store", *args)
    assert code == 2 and says in err and "Traceback" not in err, err
    assert not (tmp_path / "out").exists()


def test_every_combination_has_its_own_sheet(run, call, tmp_path):
    code, said, err = call(
        "grade-sheet",
        run / "small.yaml",
        "--n",
        6,
        "-p",
        "seeds=0,1",
        "--raters",
        1,
        "--out",
        tmp_path / "two",
        "--store",
        run / "store",
    )
    assert code == 0 and len({sheet_of(p)["sheet"] for p in (tmp_path / "two").glob("*/grade-r1.html")}) == 2, err
