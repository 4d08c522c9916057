"Distilled students on data that they did not learn from: who is asked what, the numbers, the page, and faults."

import json
from concurrent.futures import Future
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from made_up import made_up_transfer

from distill_study import cli
from distill_study.analyse.findings import conclusions
from distill_study.analyse.results import place_of, transfer_results
from distill_study.analyse.stats import wilson
from distill_study.config import ARMS, ConfigError, Data, StudyError
from distill_study.data.load import load_data
from distill_study.report.render import check_page
from distill_study.report.tables import change_map
from distill_study.store.log import Store
from distill_study.study import plan as planner, schedule, schedule as grid
from distill_study.study.plan import pairs, parse_recipe, plan, unread
from distill_study.study.resources import pieces
from distill_study.study.run import ask_others, find
from distill_study.study.workers import run_stage
from distill_study.tasks.families import TASKS

RAW = dict(
    name="two",
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s"],
    data=[dict(name="tiny-qa", train=16, test=6), dict(name="tiny-math", train=16, test=6)],
    min_rows=4,
    bootstrap=100,
    train=dict(method="full", learning_rate=1e-3, epochs=1, batch_size=8),
    arms=["teacher/vanilla", "student/vanilla", "distilled/vanilla"],
    generalization=True,
)
BASE, QA, MATH = (
    ("zoo/student-s", "student/vanilla"),
    ("tiny-qa--teacher--student-s", "distilled/vanilla"),
    ("tiny-math--teacher--student-s", "distilled/vanilla"),
)


# --- who is asked what


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arm", [a for a in ARMS.values() if a.name.startswith("distilled/")], ids=lambda a: a.name)
def test_a_student_is_asked_what_its_prompt_can_be_put_to(arm, task):
    why = unread(arm, "math", task=task)
    assert bool(why) == (
        arm.prompt not in TASKS[task].strategies
        or arm.name == "distilled/cot-after"
        and task in ("summarization", "conversation")
    )
    assert not why or arm.name in why and task in why
    assert bool(unread(arm, "math", task=task, which="family")) == (bool(why) or task != "math") and bool(
        unread(arm, task, task=task, which="family")
    ) == bool(unread(arm, task, task=task))


def test_pairs_of_a_grid():
    wide = parse_recipe(
        RAW
        | dict(
            seeds=[0, 1],
            teachers=["transformers:zoo/teacher", "transformers:zoo/student-m"],
            students=["zoo/student-s", "zoo/student-m"],
        )
    )
    found = pairs(wide)
    assert len(found) == 2 * 2 * 2 * 2 == len({(p.c.name, p.arm, p.data.name) for p in found}) and not any(
        p.why for p in found
    )  # controls and teachers are no students of a teacher
    assert all(p.data != p.c.data for p in found)
    assert len(pieces(wide)) == len(pieces(wide.model_copy(update=dict(generalization=False)))) + len(found)
    kinds = [s.kind for s in plan(wide)]
    assert kinds.count("transfer") == len(found) and kinds.count("page") == 1
    one = parse_recipe(RAW | dict(data=RAW["data"][:1]))
    assert pairs(parse_recipe(RAW | dict(generalization=False))) == []
    assert "transfer" not in {s.kind for s in plan(one)}


def test_the_setting():
    assert [parse_recipe(RAW | dict(generalization=x)).generalization for x in (True, False, "family")] == [
        True,
        False,
        "family",
    ]
    assert (
        parse_recipe(RAW, {"generalization": "family"}).generalization == "family"
        and not parse_recipe({k: v for k, v in RAW.items() if k != "generalization"}).generalization
    )
    with pytest.raises(ConfigError, match="generalization"):
        parse_recipe(RAW | dict(generalization="all of it"))
    assert parse_recipe(RAW).combinations() == parse_recipe(RAW | dict(generalization=False)).combinations(), (
        "it changes no combination"
    )


# --- the numbers


def by_hand(a, b):
    "(difference, exact p) of two lists of right and wrong."
    from scipy.stats import binomtest

    only = [sum(x and not y for x, y in zip(*o)) for o in ((a, b), (b, a))]
    return (sum(b) - sum(a)) / len(a), binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0


def changes(results):
    "Student → its cells of the map of changes."
    table = change_map(results, "zoo/student-s")
    return {row["who"]: [row[c.key] for c in table.columns[1:]] for row in table.rows}


rights = st.lists(st.booleans(), min_size=12, max_size=12)


@settings(max_examples=8, deadline=None)
@given(*[rights] * 6)
def test_the_matrix_is_what_one_gets_by_hand(qa, math, qa_qa, qa_math, math_qa, math_math):
    from statsmodels.stats.multitest import multipletests

    right = {
        (BASE, "tiny-qa"): qa,
        (BASE, "tiny-math"): math,
        (QA, "tiny-qa"): qa_qa,
        (QA, "tiny-math"): qa_math,
        (MATH, "tiny-qa"): math_qa,
        (MATH, "tiny-math"): math_math,
    }
    found, said, splits = made_up_transfer(right, 12)
    cells = transfer_results(found, said, splits=splits, resamples=100)
    at = {(c.trained_on, c.test): c for c in cells}
    assert len(at) == 4 and {k for k, c in at.items() if c.own} == {("tiny-qa",) * 2, ("tiny-math",) * 2}
    for (who, test), said in right.items():
        if who == BASE:
            continue
        c = at[who[0].partition("--")[0], test]
        assert (
            (c.change.difference.value, c.change.p) == pytest.approx(by_hand(right[BASE, test], said))
            and c.score == wilson(sum(said), 12)
            and c.base == wilson(sum(right[BASE, test]), 12)
        )
        assert (c.unread, c.base_unread) == pytest.approx(
            (1 - sum(said) / 12, 1 - sum(right[BASE, test]) / 12)
        )  # what is made up as wrong can't be read either
    off = [at["tiny-qa", "tiny-math"], at["tiny-math", "tiny-qa"]]
    assert sorted(c.change.p_holm for c in off) == pytest.approx(
        sorted(multipletests([c.change.p for c in off], method="holm")[1])
    )
    for c in off:
        assert c.verdict == (
            "can't tell" if c.change.p_holm > 0.05 else "transfer" if c.change.difference.value > 0 else "forgetting"
        )
    first, two = conclusions(cells, [], left={}).text[0], at.values()
    worse, better = (sum(c.verdict == k for c in two) for k in ("forgetting", "transfer"))
    assert f"worse than untouched in {worse} of " in first
    assert f"significantly better in {better or 'none'} (transfer)" in first


def test_items_that_were_trained_on_are_no_test():
    right = {
        (BASE, "tiny-qa"): [True] * 8,
        (BASE, "tiny-math"): [True] * 8,
        (MATH, "tiny-qa"): [True] * 6 + [False] * 2,
        (MATH, "tiny-math"): [True] * 8,
    }
    found, said, splits = made_up_transfer(right, 8)
    splits["tiny-math"] = replace(splits["tiny-math"], train=[*splits["tiny-math"].train, *splits["tiny-qa"].test[6:]])
    c = next(c for c in transfer_results(found, said, splits=splits, resamples=100) if not c.own)
    assert (c.seen, c.change.n, c.score.value, c.change.difference.value, c.verdict) == (2, 6, 1, 0, "can't tell")
    assert "left out, up to 2" in change_map([c], "zoo/student-s").note


def test_scores_that_are_not_right_or_wrong():
    chat = ("tiny-chat--teacher--student-s", "distilled/vanilla")
    right = {
        (BASE, "tiny-chat"): [True] * 6,
        (BASE, "tiny-summ"): [True] * 6,
        (chat, "tiny-chat"): [True] * 6,
        (chat, "tiny-summ"): [True] * 5 + [False],
    }
    found, said, splits = made_up_transfer(right, 6)
    cells = transfer_results(found, said, splits=splits, resamples=100)
    far = next(c for c in cells if c.test == "tiny-summ")
    assert far.metric.key == "rougeLsum" and far.base.value == 1
    assert (
        far.change.difference.value == pytest.approx(-1 / 6)
        and far.verdict == "can't tell"
        and far.difference.startswith("−16.7")
    )
    assert change_map(cells, "zoo/student-s").columns[2].unit.endswith("ROUGE-Lsum, F1 × 100")


def test_what_is_not_there_is_a_dash_and_hostile_names_do_nothing():
    right = {
        (BASE, "tiny-qa"): [True] * 9,
        (BASE, "tiny-math"): [True] * 9,
        (QA, "tiny-qa"): [False] * 9,
        (QA, "tiny-math"): [False] * 9,
        (MATH, "tiny-math"): [True] * 9,
    }
    found, said, splits = made_up_transfer(right, 9)
    cells = transfer_results(found, said, splits=splits, resamples=100)
    rows = changes(cells)
    assert rows["tiny-math, plain answers"] == ["–", "own data"]
    assert rows["tiny-qa, plain answers"][0] == "own data" and rows["tiny-qa, plain answers"][1][2:] == (-1, "lower")
    evil = [replace(c, trained_on="<script>alert(1)</script>") for c in cells]
    for table in (change_map(evil, "zoo/student-s"), conclusions(evil, [], left={"<img src=x>": "<b>"})):
        assert "<script" not in table.html() and "<img" not in table.html()
    assert conclusions([], [], left={}).text[0].endswith("run the recipe first.")


def test_unreadable_answers_and_little_to_forget_are_told():
    right = {(BASE, "tiny-qa"): [True] * 9, (QA, "tiny-qa"): [True] * 9, (BASE, "tiny-math"): [True] * 9}
    found, said, splits = made_up_transfer(right | {(QA, "tiny-math"): [False] * 9}, 9)
    results = transfer_results(found, said, splits=splits, resamples=100)
    lost = next(r for r in results if not r.own)
    told = conclusions([replace(lost, base=wilson(1, 20))], [], left={}).text
    assert "unreadable in 1 of 1 pair: the student" in told[2]
    assert told[-1].startswith("Untouched, zoo/student-s is right on only 5.0")


def test_several_seeds_are_told_apart():
    right = {
        (BASE, "tiny-qa"): [True] * 9,
        (BASE, "tiny-math"): [True] * 9,
        (QA, "tiny-qa"): [True] * 9,
        (QA, "tiny-math"): [False] * 9,
    }
    found, said, splits = made_up_transfer(right, 9)
    cells = transfer_results(found, said, splits=splits, resamples=100)
    both = cells + [
        replace(
            c,
            seed=1,
            combination=c.combination + "--seed1",
            change=replace(c.change, difference=wilson(3, 9), p_holm=1.0),
        )
        for c in cells
    ]
    rows = changes(both)
    assert list(rows) == ["tiny-qa, plain answers, seed 0", "tiny-qa, plain answers, seed 1"]
    assert [cells[1][3] for cells in rows.values()] == ["lower", ""]


def test_points_on_an_axis_are_told_apart_in_words():
    right = {(who, on): [who == BASE] * 9 for who in (BASE, QA) for on in ("tiny-qa", "tiny-math")}
    found, said, splits = made_up_transfer(right, 9)
    cells = transfer_results(found, said, splits=splits, resamples=100)
    few, many = (
        [replace(c, place=place_of(axes)) for c in cells] for axes in ({"data.train": 200}, {"data.train": 3200})
    )
    rows = changes(few + many)
    assert list(rows) == [f"tiny-qa, plain answers, {n} training inputs" for n in ("200", "3,200")]
    told = conclusions(few + many, [], left={}).text[1]
    assert "trained on plain answers of tiny-qa (200 training inputs), on tiny-math" in told
    assert place_of({"data.train": None, "train.r": 16}) == "all training inputs, r = 16"


# --- a run


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "(recipe, store) after all stages but the reports and the page."
    recipe, folder = parse_recipe(RAW), tmp_path_factory.mktemp("transfer") / "store"
    for s in plan(recipe):
        if s.kind not in ("report", "page"):
            run_stage(s, Store(folder))
    return recipe, folder


def lines(store):
    return sum(len(p.read_text().splitlines()) for p in (store / "completions").glob("*.jsonl"))


def test_nothing_is_asked_twice_and_it_can_be_replayed(ran):
    recipe, store = ran
    assert (
        lines(store) == 2 * (16 + 6) + 2 * 6 + 2 * 6 + 2 * 6
    )  # teacher; untouched student; students, on their own data and on the other
    tests = {d.name: load_data(d) for d in recipe.data}
    for kept in (Store(store), Store(store, replay=True)):
        found, left = find(recipe, kept)
        said, gone = ask_others(recipe, found, splits=tests, store=kept)
        assert (len(found), left, gone, len(said), sum(a.new for a in said.values())) == (2, {}, {}, 6, 0)
    for s in plan(recipe):
        if s.kind == "transfer":
            run_stage(s, Store(store))
    assert lines(store) == 2 * 22 + 36
    fits = {f.c.data.name: f.fit.path for f in found}
    assert fits["tiny-qa"] != fits["tiny-math"] and all(p.is_dir() for p in fits.values())


def test_a_student_that_is_gone_is_named_and_the_others_stay(ran, tmp_path):
    recipe, store = ran
    more = parse_recipe(RAW | dict(arms=[*RAW["arms"], "distilled/cot-answer"]))
    found, left = find(more, Store(store, replay=True), skip=("tiny-math--teacher--student-s",))
    assert (
        len(found) == 1
        and left["tiny-math--teacher--student-s"] == "the combination failed"
        and "no such student" in left["tiny-qa--teacher--student-s, distilled/cot-answer"]
    )
    said, gone = ask_others(
        parse_recipe(RAW | dict(data=[RAW["data"][0], dict(name="tiny-nli", train=8, test=4)])),
        found,
        splits={"tiny-qa": load_data(recipe.data[0]), "tiny-nli": load_data(Data(name="tiny-nli", train=8, test=4))},
        store=Store(store, replay=True),
    )
    assert (
        len(said) == 2 and len(gone) == 2 and all("not in the store" in why for why in gone.values())
    )  # what was never asked is left out by name
    stage = next(s for s in plan(recipe) if s.kind == "transfer")
    run_stage(stage, Store(tmp_path))  # no student: its training says why
    assert lines(tmp_path) == 0
    with pytest.raises(StudyError, match="tiny-nli: .*not in the store"):
        run_stage(replace(stage, tests=(Data(name="tiny-nli", train=8, test=4),)), Store(store, replay=True))


def test_the_page_leaves_a_failed_combination_out_and_a_failing_page_spoils_nothing(ran, tmp_path, monkeypatch):
    recipe, store = ran
    folder = tmp_path / "two"
    (folder / "tiny-qa--teacher--student-s").mkdir(parents=True)
    report = folder / "tiny-qa--teacher--student-s" / "metrics.json"
    report.write_text("{}")  # the other combination has none: it failed
    assert grid.run_generalization(recipe, folder, store=store) is None
    page, numbers = (
        (folder / "generalization.html").read_text(encoding="utf-8"),
        json.loads((folder / "generalization.json").read_text(encoding="utf-8")),
    )
    assert (
        check_page(page) == []
        and "Left out: tiny-math--teacher--student-s: the combination failed." in page
        and str(tmp_path) not in page
    )
    assert [(c["trained_on"], c["test"], c["own"]) for c in numbers["cells"]] == [
        ("tiny-qa", "tiny-qa", True),
        ("tiny-qa", "tiny-math", False),
    ] and numbers["left_out"]
    assert all(c["change"]["n"] == c["score"]["n"] == 6 for c in numbers["cells"]) and lines(store) == 2 * 22 + 36
    assert grid.behind(recipe, folder)[0][0] == "generalization.html"
    monkeypatch.setattr(grid, "execute", lambda *args, **kw: "DataError: gone")
    assert grid.run_generalization(recipe, folder, store=store) == "DataError: gone"
    assert (
        not list(folder.glob("generalization.[hj]*"))
        and report.exists()
        and grid.behind(recipe, folder)[0][0] == "generalization.ipynb"
    )


class Instant:
    "Does every stage at once; the page fails."

    lost = ()

    def room(self):
        return True

    def check(self, stages, store):
        pass

    def close(self, now=False):
        pass

    def submit(self, stage, **given):
        f = Future()
        f.set_result(dict(seconds=1.0, error="boom" if stage.kind == "page" else None))
        return f


def test_side_by_side_the_page_is_a_stage_like_any_other(monkeypatch, tmp_path):
    pages, said = [], []
    monkeypatch.setattr(schedule, "write_index", lambda r, o, folder: pages.append(len(o)))
    outcomes = schedule.run_recipe(parse_recipe(RAW), tmp_path, store=tmp_path, executor=Instant(), say=said.append)
    assert [o.error for o in outcomes] == [None, None] and pages == [1, 2, 2]
    rows = json.loads((tmp_path / "two/status.json").read_text())["stages"]
    assert [(r["state"], r["error"]) for r in rows if r["kind"] == "page"] == [("failed", "boom")] and sum(
        r["kind"] == "transfer" for r in rows
    ) == 2
    assert "page generalization of two: failed: boom" in said[-1]


def test_a_page_that_fails_is_told_by_the_command(monkeypatch, tmp_path):
    printed, recipe = [], parse_recipe(RAW)
    outcomes = [schedule.Outcome(c, tmp_path, 1.0) for c in recipe.combinations()]
    monkeypatch.setattr(schedule, "check", lambda *args, **kw: None)
    monkeypatch.setattr(schedule, "run_recipe", lambda *args, **kw: outcomes)
    monkeypatch.setattr(cli, "say", printed.append)
    with pytest.raises(cli.typer.Exit) as e:
        cli._run(recipe, tmp_path / "two.yaml", reports=tmp_path, store=tmp_path, views={}, workers=1)
    assert e.value.exit_code == 1 and "the page about students on other data sets failed" in printed[-1]


@pytest.mark.parametrize("page", [False, True])
def test_where_nothing_has_changed_the_page_is_made_anew_or_stays(monkeypatch, tmp_path, page):
    pages, started = [], []
    monkeypatch.setattr(schedule, "write_index", lambda r, o, folder: pages.append(len(o)))
    monkeypatch.setattr(planner, "receipt_holds", lambda kind, *args, **kw: page if kind == "page" else True)
    for c in parse_recipe(RAW).combinations():
        (tmp_path / "two" / c.name).mkdir(parents=True)
        (tmp_path / "two" / c.name / "index.html").touch()
    where = Instant()
    monkeypatch.setattr(
        where,
        "submit",
        lambda stage, **given: started.append(stage.kind) or Instant.submit(where, stage),
        raising=False,
    )
    outcomes = schedule.run_recipe(parse_recipe(RAW), tmp_path, store=tmp_path, executor=where, say=lambda line: None)
    assert (
        started == ([] if page else ["page"])
        and all(o.seconds == 0 for o in outcomes)
        and pages == ([2] if page else [2, 2])
    )
