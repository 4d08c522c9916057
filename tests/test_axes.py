"Settings that a recipe varies: names, what is shared, what is asked once, and what is refused."

import copy
import csv
import json
import math

import numpy as np
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT

from distill_study.config import ConfigError, Data
from distill_study.data import load
from distill_study.data.load import load_data
from distill_study.report.grid import (
    against,
    axis_tables,
    curve_alt,
    curves,
    in_short,
    leading,
    passings,
    reach,
    sections,
)
from distill_study.report.render import check_page
from distill_study.store.log import Store
from distill_study.study import plan as planner, run, schedule
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


BAD = {
    "an unknown setting": ({"data.trian": [1]}, "data.0.trian: unknown setting. Did you mean 'train'?"),
    "an unknown place": ({"trian.r": [1]}, "axes.trian.r: no setting that can be varied. Did you mean 'train'?"),
    "what has its own list": ({"seeds": [1, 2]}, "axes.seeds: no setting that can be varied"),
    "a group of settings": ({"train": [1, 2]}, "vary one of them, e.g. train.epochs"),
    "how hard a server is asked": ({"endpoint.concurrency": [1, 2]}, "no setting that can be varied"),
    "an empty list": ({"data.train": []}, "axes.data.train: its list is empty"),
    "no list": ({"data.train": 5}, "axes.data.train = 5: an axis has a list of values"),
    "no mapping": ([100], "axes = [100]"),
    "a value twice": ({"data.train": [100, 100]}, "axes.data.train: 100 and 100 are the same value here"),
    "a value twice, as text": ({"train.epochs": ["2", 2.0]}, "'2' and 2.0 are the same value here"),
    "one that touches nothing": ({"vllm.max_model_len": [8, 9]}, "no teacher of this recipe has one"),
    "one setting twice": ({"train.r": [4, 8], "student.train.r": [4, 8]}, "4 and 8 are the same value here"),
    "text for a number": ({"train.r": [4, "x"]}, "axes, train.r = 'x': recipe.students.0.train.r = 'x'"),
    "a truth value for a number": ({"data.train": [True]}, "data.train = True"),
    "a number out of range": ({"data.train": [0]}, "data.train = 0: recipe.data.0.train = 0"),
    "a list for a number": ({"data.train": [[1]]}, "data.train = [1]"),
    "values that don't go together": ({"train.method": ["full"], "train.dora": [True]}, "dora is for adapters"),
    "a judge that isn't there": ({"judge.items": [5]}, "the recipe names no judge"),
    "too many": ({"data.seed": [*range(101)], "train.r": [*range(1, 101)]}, "10,100 combinations of teachers"),
    "names that are one folder": ({"data.license": ["mit", "m-it", "m it"]}, "license = 'm it'"),
}


@pytest.mark.parametrize("axes, why", BAD.values(), ids=BAD)
def test_a_bad_axis_is_one_sentence_before_any_work(axes, why, monkeypatch):
    monkeypatch.setattr(planner, "load_data", None)
    with pytest.raises(ConfigError) as e:
        recipe(axes).combinations()
    assert why in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 300


def test_values_that_make_one_folder_are_refused():
    with pytest.raises(ConfigError, match="the same report folder, '.*terms-a-b'"):
        recipe({"data.terms": ["a b", "a/b"]}).combinations()


def test_a_size_above_the_rows_there_are_says_how_many_are_missing(pairs):
    r = recipe({"data.train": [100, 2911]}, data=[pairs], arms=["teacher/vanilla", "distilled/vanilla"])
    assert [p.partition(" Ask")[0] for p in schedule.problems(r)] == [
        "data.train = 2911: there are only 2910 rows beside the 90 that are held out, 1 too few."
    ]


def test_a_thousand_combinations_are_planned_without_data_and_checked_with_each_set_loaded_once(monkeypatch):
    parsed, loaded, parse = [], [], planner.Recipe.parse.__func__
    monkeypatch.setattr(planner.Recipe, "parse", classmethod(lambda cls, *a: parsed.append(a) or parse(cls, *a)))
    monkeypatch.setattr(planner, "load_data", None)
    r = recipe({"train.learning_rate": [k / 1e4 for k in range(1, 51)], "data.train": [*range(20, 30)]}, seeds=[0, 1])
    assert len(r.combinations()) == len(r.combinations()) == 1000 and len(parsed) == 1 + 50 + 10 + 500
    stages = plan(r)
    assert len(stages) == 1 + 1 + 2000 + 1000 and len(parsed) == 561, "planning reads the recipe no further"
    monkeypatch.setattr(schedule, "load_data", lambda data: loaded.append(data.train) or load_data(data))
    assert schedule.problems(r) == [] and loaded == [*range(20, 30)]


# --- the page ---------------------------------------------------------------------------------------------------------

MATH = json.loads((ROOT / "reports/examples/tiny/tiny-math--teacher--student-s/metrics.json").read_text())


def page(axes, *, right, n=200, seed=0):
    "The numbers of a report at a point, where each arm in `right` has so many of `n` items right, the same ones first."
    m = copy.deepcopy(MATH)
    m["provenance"]["settings"] |= dict(axes=axes, seed=seed)
    m["data"] = [dict(split="train", n=axes.get("data.train", 800))]
    rng = np.random.default_rng(seed)
    m["items"]["arms"] = {a: " ".join((4 * line.split())[:n]) for a, line in m["items"]["arms"].items()}
    for arm, k in right.items():
        hit = np.zeros(n, int)
        hit[rng.permutation(n)[:k] if arm.startswith("distilled") else np.arange(k)] = 1
        m["items"]["arms"][arm] = " ".join(map(str, hit))
        m["arms"][arm] |= dict(n=n, accuracy=dict(value=k / n, low=k / n - 0.05, high=k / n + 0.05, n=n))
    m["items"]["sources"] = " ".join(map(str, range(n)))
    return m


def grown(levels, teacher=80, **more):
    "Pages of three sizes and two seeds, at which training on reasoning gives so many right."
    sizes = (100, 400, 1600)
    return [
        page({"data.train": n} | more, seed=s, right={"distilled/cot-rationale": k + s, "teacher/vanilla": teacher})
        for n, k in zip(sizes, levels)
        for s in (0, 1)
    ]


def test_a_curve_meets_a_level_between_two_sizes_by_the_logarithm():
    levels = np.array([[0.1, 0.3, 0.5], [0.3, 0.2, 0.1], [0.1, 0.1, 0.1], [0.0, 0.25, 0.2]])
    assert reach((100, 400, 1600), levels, goal=0.2).tolist() == [
        pytest.approx(200),
        0,
        math.inf,
        pytest.approx(303.143, abs=1e-3),
    ]
    assert reach((100, 400), np.array([[0.2, 0.2]] * 2), goal=np.array([0.2, 0.3])).tolist() == [0, math.inf]


@pytest.mark.parametrize(
    "levels, at, says",
    [
        ((40, 120, 160), 200, "as good as the teacher answering at once (40.0 %) with 200 training inputs"),
        ((100, 120, 160), 0, "with 100 or fewer training inputs (95 % interval 100 or fewer)"),
        ((20, 30, 40), math.inf, "is not as good as the teacher answering at once (40.0 %) with 1,600 training inputs"),
    ],
)
def test_the_size_from_which_a_curve_is_as_good_as_the_teacher(levels, at, says):
    curve = curves(grown(levels))[0]
    found = next(p for p in passings(curve) if p.other == "teacher/vanilla" and p.arm == "distilled/cot-rationale")
    assert found.at.value == pytest.approx(at, rel=0.05) and found.at.low <= found.at.value <= found.at.high
    assert says in dict(sections(grown(levels)))["Learning curves"].replace("\u00a0", " ")
    assert found == next(p for p in passings(curve) if p.arm == found.arm), "same numbers, same interval"


def test_the_interval_of_a_size_holds_the_truth_in_most_studies_and_narrows_with_items():
    widths, hits = {}, 0
    for n in (100, 1600):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            right = [
                {a: int(rng.binomial(n, p)) for a, p in (("distilled/cot-rationale", q), ("teacher/vanilla", 0.4))}
                for q in (0.2, 0.6, 0.8)
            ]
            found = passings(
                curves([page({"data.train": s}, right=r, n=n, seed=seed) for s, r in zip((100, 400, 1600), right)])[0],
                200,
            )
            at = next(p.at for p in found if p.other == "teacher/vanilla" and p.arm == "distilled/cot-rationale")
            hits += at.low <= 200 <= at.high
            widths.setdefault(n, []).append(math.log(min(at.high, 3200) / max(at.low, 50)))
    assert hits >= 34 and np.mean(widths[1600]) < np.mean(widths[100]) / 2


def test_an_overview_of_several_points_is_of_one_and_says_which():
    few, many = {"data.train": 100, "train.r": 4}, {"data.train": 1600, "train.r": 4}
    right = {"distilled/cot-rationale": 90}
    pages = [page(p, right=right) for p in (few, many, few | {"train.r": 16}, many | {"train.r": 16})]
    own, point = leading(pages)
    assert own == [pages[1]] and point == many
    finding, *limits = in_short(pages)
    assert "the charts other than curves are of 1,600 training inputs, r = 4." in limits[0]
    assert finding.count("Accuracy after training on reasoned answers is 15.6 % with 100 training inputs") == 1
    assert "r = 16" not in finding, "the leading point's curve alone"
    parts = dict(sections(pages))
    assert list(parts)[:3] == ["Learning curves", "Scores", "Settings"] and parts["Scores"].count('class="who"') == 1
    assert len(curves(pages)) == 2 and {c.name for c in curves(pages)} == {"student-s, r = 4", "student-s, r = 16"}
    tables = axis_tables(pages, "train.r")
    assert [c.head for c in tables[0].columns] == ["Model", "r = 4", "r = 16"]
    assert not any("not available" in str(v) for row in tables[0].rows for v in row.values())
    page_html = f"<h1>x</h1>{''.join(f'<h2>{k}</h2>{v}' for k, v in parts.items())}"
    assert check_page(page_html) == []


def test_curves_have_a_description_with_every_number_and_a_picture_for_dark_pages():
    pages = grown((40, 120, 160))
    image = BeautifulSoup(dict(sections(pages))["Learning curves"], "html.parser").select_one("picture")
    alt = image.img["alt"]
    assert alt == curve_alt(curves(pages)[0]) and "Trained on reasoning: 100: 20." in alt and "1,600: 80." in alt
    assert "best constant" in alt and "teacher, at once 40.0" in alt and image.source["srcset"] != image.img["src"]


def test_pages_of_one_size_have_no_curve_and_pages_without_items_no_sentence():
    pages = grown((40, 120, 160))
    assert curves(pages[:2]) == [] and "Learning curves" not in dict(sections([MATH]))
    for m in pages:
        m.pop("items")
    assert passings(curves(pages)[0]) == []


def test_a_value_may_be_several_settings_which_lie_on_those_of_the_recipe():
    ways = [{"select": "random"}, {"keep": 2, "prefer": "shortest"}]
    more = dict(curate=dict(verify=True), sampling=dict(n=3, temperature=0.7), min_rows=5)
    found = {c.point: c for c in recipe({"curate.budget": [10, 20], "curate": ways}, **more).combinations()}
    assert [*found] == [f"budget {n}, {way}" for n in (10, 20) for way in ("select random", "keep 2, prefer shortest")]
    c = found["budget 20, keep 2, prefer shortest"]
    assert (c.curate.verify, c.curate.budget, c.curate.keep, c.curate.prefer) == (True, 20, 2, "shortest")
    assert c.name == "tiny-math--teacher--student-s--budget-20--keep-2--prefer-shortest"
    with pytest.raises(ConfigError, match="the same value"):
        recipe({"curate": [{"keep": 1}, {"select": "random"}]}, **more)


def test_a_budget_of_rows_has_curves_and_a_table_of_every_other_axis_at_each_size():
    levels = dict(random=(40, 120, 160), llkd=(60, 110, 170))
    pages = [
        page({"curate.budget": n, "curate.select": way}, seed=seed, right={"distilled/cot-rationale": k + seed})
        for way, own in levels.items()
        for n, k in zip((100, 400, 1600), own)
        for seed in (0, 1)
    ]
    assert [(c.name, c.unit, c.sizes) for c in curves(pages)] == [
        (f"student-s, select = {way}", "training rows", (100, 400, 1600)) for way in levels
    ]
    tables = axis_tables(pages, "curate.select")
    assert [t.caption for t in tables] == [
        f"tiny-math: accuracy by curate.select, {n} training rows" for n in ("100", "400", "1,600")
    ]
    row = next(r for r in tables[1].rows if "trained on reasoning" in str(r))
    assert [round(100 * row[k].value) for k in ('"random"', '"llkd"')] == [60, 55]
    text = dict(sections(pages))["Learning curves"].replace("\u00a0", " ")
    assert "training rows" in text and "training inputs" not in text


def test_a_table_of_an_axis_says_how_far_each_value_is_from_the_first_over_items_and_seeds():
    def pages(*levels):
        return [
            page({"curate.select": way}, seed=seed, right={"distilled/cot-rationale": k + seed})
            for way, k in zip(("random", "llkd", "diverse"), levels)
            for seed in (0, 1)
        ]

    found = pages(100, 140, 100)
    who = "teacher", "student-s", "distilled/cot-rationale"
    i = against(found[:2], found[2:4])[who]
    assert i.value == pytest.approx(0.2) and i.low < 0.2 < i.high and i.n == 200
    same = against(found[:2], found[4:])[who]
    assert same.value == pytest.approx(0) and same.low <= 0 <= same.high
    assert against(found[:1], found[3:4]) == {}, "of another seed"
    sub = axis_tables(found, "curate.select")[0].sub
    assert "trained on reasoning +20.0" in sub and "trained on reasoning +0.0" in sub
