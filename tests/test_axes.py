"Settings that a recipe varies: names, what is shared, what is asked once, and what is refused."

import csv

import pytest

from distill_study.config import Data
from distill_study.data import load
from distill_study.data.load import load_data
from distill_study.store.log import Store
from distill_study.study import run
from distill_study.study.plan import combination_from, parse_recipe, plan
from distill_study.study.resources import pieces
from distill_study.study.schedule import parameters

RAW = dict(
    name="axes",
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s"],
    data=[dict(name="tiny-math", test=6)],
    arms=["teacher/vanilla", "student/vanilla", "distilled/vanilla", "control/gold"],
)


def recipe(axes, **more):
    return parse_recipe(RAW | dict(axes=axes) | more)


def kinds(r):
    return {kind: sum(s.kind == kind for s in plan(r)) for kind in ("label", "base", "train", "report")}


def test_every_point_is_a_combination_with_a_folder_of_its_own():
    r = recipe({"data.train": [40, 20], "train.r": [4, 16]}, seeds=[0, 1])
    found = {c.name: (c.data.train, c.student.train.r, c.seed) for c in r.combinations()}
    place = "tiny-math--teacher--student-s--train-"
    assert (
        len(found) == 8 and found[f"{place}40--r-4"] == (40, 4, 0) and found[f"{place}20--r-16--seed1"] == (20, 16, 1)
    )
    assert [n for n, _, _ in found.values()] == [40] * 4 + [20] * 4, "combinations of the same data stand together"
    for c in r.combinations():  # what a notebook is given makes the same combination again
        given = parameters(c, "store", out="out")
        parts = {k: given[k] for k in ("data", "seed", "options")}
        assert combination_from(given["teacher"], given["student"], **parts) == c


def test_an_override_fixes_what_the_recipe_varies_and_an_axis_can_come_from_the_command_line():
    raw = RAW | dict(axes={"data.train": [20, 40]})
    assert [c.data.train for c in parse_recipe(raw, {"data.train": "30"}).combinations()] == [30]
    r = parse_recipe(raw, {"axes.data.train": "10,20,30", "axes.curate.verify": "[true, false]", "axes.train.r": "4"})
    assert r.axes == {"data.train": (10, 20, 30), "curate.verify": (True, False), "train.r": (4,)}


def test_stages_that_an_axis_does_not_touch_are_shared():
    assert kinds(recipe({"data.train": [20, 40, 80]})) == dict(label=1, base=1, train=6, report=3)
    assert kinds(recipe({"train.r": [4, 16], "curate.near": [0.5, 0.9]})) == dict(label=1, base=1, train=8, report=4)
    assert kinds(recipe({"sampling.seed": [1, 2]})) == dict(label=2, base=1, train=3, report=2)  # gold has no teacher
    label = plan(recipe({"data.train": [80, 20]}))[0]
    assert (label.kind, label.combination.data.train) == ("label", 80)


def test_the_estimate_counts_what_is_shared_once():
    small, large = (pieces(recipe({"data.train": sizes})) for sizes in ([80], [20, 40, 80]))
    asked = [[p for p in found if p.kind != "train" and "distilled" not in p.what] for found in (small, large)]
    of_teacher = [[(p.what, p.into) for p in found if p.who == "teacher"] for found in asked]
    assert of_teacher[0] == of_teacher[1] and of_teacher[0]
    assert sum(p.kind == "train" for p in large) == 3 * sum(p.kind == "train" for p in small) == 6
    assert sum(p.what == "student/vanilla" for p in large) == 1


@pytest.mark.parametrize("sizes, new", [((8, 20), (8, 12)), ((20, 8), (20, 0))])
def test_labels_are_asked_once_whichever_size_comes_first(tmp_path, sizes, new):
    store, asked = Store(tmp_path), []
    for size in sizes:
        c = next(c for c in recipe({"data.train": sizes}).combinations() if c.data.train == size)
        answers = run.label_inputs(c, load_data(c.data), store=store)["vanilla"]
        asked.append(answers.new)
        assert len(answers) == size
    assert tuple(asked) == new


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    "A file of premises with several hypotheses each, in a folder that it can be named in."
    monkeypatch.chdir(tmp_path)
    with open("pairs.csv", "w", encoding="utf-8", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["id", "premise", "hypothesis", "label"])
        rows.writerows([f"p{i}", f"Person {i // 4} owns a dog.", f"Claim {i}.", "neutral"] for i in range(3000))
    return dict(name="pairs.csv", task="nli", test=50, validation=40)


def test_a_smaller_training_set_is_part_of_a_larger_one_and_nothing_else_changes(pairs):
    sets = [load_data(Data(**pairs, train=n)) for n in (5, 200, 1500, 2910)]
    ids = [{e.id for e in s.train} for s in sets]
    assert [len(i) for i in ids] == [5, 200, 1500, 2910] and all(a < b for a, b in zip(ids, ids[1:]))
    held = {(s.hashes["validation"], s.hashes["test"]) for s in sets}
    assert len(held) == 1
    apart = [{e.id for e in part} for part in (sets[-1].train, sets[-1].validation, sets[-1].test)]
    assert len(set().union(*apart)) == sum(map(len, apart)) == 3000
    assert {e.id for e in load_data(Data(**pairs, train=200, seed=1)).train} != ids[1]


def test_a_split_that_is_thinned_out_is_nested_too(pairs, monkeypatch):
    from datasets import Dataset

    monkeypatch.setattr(load, "_MOST", 400)
    with open("pairs.csv", encoding="utf-8") as f:
        rows = [*csv.DictReader(f)]
    (load.Path("local/train")).mkdir(parents=True)
    Dataset.from_list(rows).to_parquet("local/train-0.parquet")
    sets = [load_data(Data(**pairs | dict(name="./local"), train=n)) for n in (30, 300, 900)]
    ids = [{e.id for e in s.train} for s in sets]
    assert ids[0] < ids[1] < ids[2] and len({(s.hashes["validation"], s.hashes["test"]) for s in sets}) == 1
