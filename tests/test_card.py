"""Training rows as data sets.

What is loaded back is what was written, the card says what the recipe says, nothing is pushed unasked.
"""

import json

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from distill_study.config import ARMS, Combination, Data, Student, StudyError, Teacher
from distill_study.data.load import load_data
from distill_study.store.log import Store
from distill_study.study.plan import parse_recipe
from distill_study.study.run import curate_arms, label_inputs
from distill_study.teach.curate import Curated, Drop
from distill_study.tools import share as card

C = Combination(
    teacher=Teacher(engine="transformers:zoo/teacher"),
    student=Student(model="zoo/student-s"),
    data=Data(name="tiny-qa", train=6, test=2),
)
SPLITS = load_data(C.data)
RAW = dict(
    name="small",
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s"],
    data=[dict(name="tiny-qa", train=16, test=4)],
    min_rows=2,
    arms=["distilled/vanilla", "distilled/cot-answer", "distilled/cot-mixed", "control/gold"],
)


def rows(*texts):
    return [
        dict(id=f"i{k}", messages=[dict(role="user", content=t), dict(role="assistant", content=t[::-1] or "x")])
        for k, t in enumerate(texts)
    ]


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def changed(**parts):
    return C.model_copy(update=parts)


def loaded(folder, cache):
    from datasets import load_dataset

    return load_dataset(str(folder), split="train", cache_dir=str(cache))


@settings(max_examples=8, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_what_is_loaded_back_is_what_was_written(tmp_path_factory, texts):
    d = tmp_path_factory.mktemp("rows")
    back = loaded(
        card.write_rows(d / "out", C, splits=SPLITS, done=Curated("distilled/vanilla", rows(*texts), [])), d / "cache"
    )
    assert back.to_list() == rows(*texts)


def test_half_a_character_is_replaced_and_the_folder_is_whole(tmp_path):
    out = card.write_rows(tmp_path / "out", C, splits=SPLITS, done=Curated("distilled/vanilla", rows("a\ud800b"), []))
    assert loaded(out, tmp_path / "cache")[0]["messages"][0]["content"] == "a?b"
    assert {p.name for p in tmp_path.iterdir()} == {"out", "cache"}


def test_nothing_is_overwritten_and_nothing_half_made_is_left(tmp_path):
    done = Curated("distilled/vanilla", rows("a"), [])
    out = card.write_rows(tmp_path / "deep" / "out", C, splits=SPLITS, done=done)
    with pytest.raises(StudyError, match="exists already"):
        card.write_rows(out, C, splits=SPLITS, done=done)
    with pytest.raises(KeyError):
        card.write_rows(tmp_path / "other", C, splits=SPLITS, done=Curated("no such arm", rows("a"), []))
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="can't be written"):
        card.write_rows(tmp_path / "file" / "out", C, splits=SPLITS, done=done)


@pytest.mark.parametrize(
    "data, teacher, license",
    [
        (dict(name="tiny-qa"), dict(engine="transformers:zoo/teacher"), "apache-2.0"),
        (dict(name="a/b", license="mit"), dict(engine="openai:x", license="mit"), "mit"),
        (
            dict(name="a/b", license="cc-by-nc-sa-4.0"),
            dict(engine="openai:x", license="llama3.1"),
            ["cc-by-nc-sa-4.0", "llama3.1"],
        ),
        (dict(name="a/b"), dict(engine="openai:x", license="mit"), "unknown"),
        (dict(name="a/b", license="mit"), dict(engine="openai:x"), "unknown"),
    ],
)
def test_licences_are_those_of_the_recipe(data, teacher, license):
    c = changed(data=Data(task="nlu_qa", **data), teacher=Teacher(**teacher))
    text = card.card(c, SPLITS, done=Curated("distilled/cot-answer", rows("a"), []))
    assert header(text)["license"] == license
    assert ("find out before you share" in text) == (license == "unknown")


def test_the_header_is_what_the_hub_reads():
    done = Curated("distilled/cot-mixed", rows(*"ab") * 600, [])
    h = header(card.card(changed(data=Data(name="tiny-qa", language="de")), SPLITS, done=done))
    assert h["language"] == ["de"]
    assert h["task_categories"] == ["question-answering"]
    assert h["dataset_info"]["splits"] == [dict(name="train", num_examples=1200)]
    assert h["configs"][0]["data_files"] == [dict(split="train", path="data/train-*")]
    assert {"knowledge-distillation", "synthetic", "cot", "nlu_qa"} <= set(h["tags"])
    gold = header(card.card(C, SPLITS, done=Curated("control/gold", rows("a"), [])))
    assert "synthetic" not in gold["tags"]
    assert gold["annotations_creators"] == ["expert-generated"]


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_terms_show_themselves_and_do_nothing_else(terms):
    text = card.card(
        changed(teacher=Teacher(engine="openai:x", terms=terms)),
        SPLITS,
        done=Curated("distilled/vanilla", rows("a"), []),
    )
    line = [line for line in text.split("\n") if line.startswith("| terms of the teacher |")]
    assert len(line) == 1
    assert line[0].endswith(" |")
    assert "<" not in line[0].replace("&lt;", "")
    assert header(text)["license"] == "unknown"


def test_no_folder_of_the_machine_is_on_a_card(tmp_path):
    c = changed(
        data=Data(name=str(tmp_path / "own.jsonl"), task="nlu_qa"),
        teacher=Teacher(engine=f"transformers:{tmp_path}/teacher"),
    )
    text = card.card(
        c, SPLITS, done=Curated("distilled/vanilla", rows("a"), [Drop("x", "failed: http_429", str(tmp_path))])
    )
    assert str(tmp_path.parent) not in text
    assert "own.jsonl" in text
    assert "| 1 | failed: http\\_429 |" in text


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    "A store with a teacher's answers for `RAW`."
    root = tmp_path_factory.mktemp("store")
    c = parse_recipe(RAW).combinations()[0]
    label_inputs(c, load_data(c.data), store=Store(root))
    return root


def test_a_recipe_s_rows_come_from_the_store_alone(stored, tmp_path):
    recipe = parse_recipe(RAW)
    made = card.write_recipe(recipe, tmp_path / "out", store=stored)
    c = recipe.combinations()[0]
    curated, _ = curate_arms(
        c,
        splits := load_data(c.data),
        labels=label_inputs(c, splits, store=Store(stored, replay=True)),
        store=Store(stored, replay=True),
    )
    assert [arm for *_, arm in made] == list(curated) == RAW["arms"]
    for folder, _, arm in made:
        assert loaded(folder, tmp_path / "cache").to_list() == curated[arm].rows
        text = (folder / "README.md").read_text()
        assert f"16 inputs, {len(curated[arm].kept)} kept, {len(curated[arm].rows)} rows." in text
        assert splits.hashes["train"] in text
        assert ("prompt of the teacher" in text) == (ARMS[arm].labels != "gold")
    with pytest.raises(StudyError, match="not in the store"):
        card.write_recipe(parse_recipe(RAW, {"data.train": 17}), tmp_path / "more", store=stored)


def test_a_push_is_checked_before_anything_is_made(monkeypatch):
    recipe = parse_recipe(RAW)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(StudyError, match="HF_TOKEN is not set"):
        card.check_push(recipe, "me")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(StudyError, match="expected a user"):
        card.check_push(recipe, "me/and/you")
    with pytest.raises(StudyError, match="Set data.license"):
        card.check_push(parse_recipe(RAW | dict(data=[dict(name="a/b", task="math", test=1)])), "me")
    assert card.check_push(recipe, "me") == "hf_secret"


def test_the_command_writes_folders_and_refuses_without_a_token(stored, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from distill_study.cli import app

    (tmp_path / "small.yaml").write_text(json.dumps(RAW | dict(arms=["control/gold"])))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    ask = lambda *more: CliRunner().invoke(
        app, ["rows", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out"), "--store", str(stored), *more]
    )
    refused = ask("--push", "me")
    assert isinstance(refused.exception, StudyError)
    assert not (tmp_path / "out").exists()
    done = ask()
    assert done.exit_code == 0
    assert (tmp_path / "out" / "tiny-qa--teacher--student-s" / "control-gold" / "README.md").is_file()
    assert isinstance(ask("-p", "arms=nothing").exception, StudyError)
    assert isinstance(ask().exception, StudyError)
