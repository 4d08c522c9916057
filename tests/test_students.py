"""Trained students as folders.

Others load them without this package and get the same answers, the card says what the store says, nothing is pushed
unasked.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given, settings, strategies as st

from distill_study.config import ARMS, Data, Student, StudyError, Teacher
from distill_study.data.load import load_data
from distill_study.store.log import Store
from distill_study.study import run as study
from distill_study.study.plan import parse_recipe
from distill_study.study.run import answer_arms, curate_arms, label_inputs, train_arms
from distill_study.teach.curate import Curated
from distill_study.tools import share as students
from distill_study.train.sft import TrainedStudent

ARM, TEST = "distilled/vanilla", 24


def recipe(method, **changes):
    return parse_recipe(
        dict(
            name="small",
            teachers=["transformers:zoo/teacher"],
            students=["zoo/student-s"],
            data=[dict(name="tiny-qa", train=32, test=TEST)],
            min_rows=2,
            bootstrap=200,
            arms=["teacher/vanilla", "student/vanilla", ARM],
            train=dict(method=method, r=4, learning_rate=3e-3, epochs=1, batch_size=8),
        )
        | changes
    )


def alone(code, cwd, *args, python=sys.executable, **env):
    "What a Python program prints as JSON that can't import this package."
    code = "import sys; sys.modules['distill_study'] = None\n" + code
    env = (
        {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1") | env
    )
    done = subprocess.run([python, "-c", code, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def blocks(folder):
    return re.findall(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), re.S)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    "A store with a student trained whole and one trained with LoRA, and the answers of all; what each said."
    root, said = tmp_path_factory.mktemp("store"), {}
    for method in ("full", "lora"):
        c, store = recipe(method).combinations()[0], Store(root)
        splits = load_data(c.data)
        fits = train_arms(
            c, curate_arms(c, splits, labels=label_inputs(c, splits, store=store), store=store)[0], store=store
        )
        said[method] = [a.text for a in answer_arms(c, splits, fits=fits, store=store)[0][ARM]]
    assert len(set(said["full"])) > 1
    assert said["full"] != said["lora"]
    return root, said, [e.ask("vanilla") for e in splits.test]


@pytest.fixture(scope="module")
def written(stored, tmp_path_factory):
    "Name → folder."
    out = tmp_path_factory.mktemp("out")
    made = {m: students.write_students(recipe(m), out / m, store=stored[0]) for m in ("full", "lora")}
    assert [name for m in made for *_, name in made[m]] == [ARM, ARM, f"{ARM}-adapter"]
    return dict(full=made["full"][0][0], lora=made["lora"][0][0], adapter=made["lora"][1][0])


def test_the_card_s_lines_load_them_without_us_and_they_say_the_same(stored, written, tmp_path):
    "Greedily, on all test items, by transformers and peft."
    todo = [(str(written[k]), "\n".join(blocks(written[k])[:2])) for k in ("full", "lora", "adapter")]
    code = """
import contextlib, io, json
printed, said = [], []
for FOLDER, lines in json.loads(sys.argv[1]):
    names, asked = dict(FOLDER=FOLDER, QUESTION=sys.argv[3]), json.loads(sys.argv[2])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(lines, names)
    printed.append(out.getvalue().strip())
    got = [names["chat"](messages, do_sample=False, max_new_tokens=8) for messages in asked]
    said.append([x[0]["generated_text"][-1]["content"] for x in got])
print(json.dumps([printed, said]))"""
    assert "PeftModel" in todo[2][1]
    printed, said = alone(code, tmp_path, json.dumps(todo), json.dumps(stored[2]), stored[2][0][1]["content"])
    assert printed == [stored[1][m][0] for m in ("full", "lora", "lora")]
    assert said[:2] == [stored[1]["full"], stored[1]["lora"]]
    same = sum(a == b for a, b in zip(said[2], stored[1]["lora"]))
    assert same >= TEST - 1, f"the adapter unmerged says the same to {same} of {TEST}"


def test_vllm_loads_them_without_us_and_they_say_the_same(vllm_installed, stored, written, tmp_path):
    "The folder trained whole, and the adapter on its base, by the card's own lines with settings for a small CPU."
    code = """
import json, os
os.environ |= dict(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1")
def work():
    import vllm
    tiny = dict(dtype="float32", enforce_eager=True, max_model_len=256, kv_cache_memory_bytes=2**28)
    small = lambda *a, **kw: real(*a, **kw, **tiny)
    real, vllm.LLM = vllm.LLM, small
    said = []
    for FOLDER, lines in json.loads(sys.argv[1]):
        names = dict(FOLDER=FOLDER, QUESTION="?", print=lambda *_: None)
        exec(lines, names)
        lora = dict(lora_request=names["LoRARequest"]("student", 1, FOLDER)) if "LoRARequest" in names else {}
        greedy = names["SamplingParams"](temperature=0, max_tokens=8)
        got = names["llm"].chat(json.loads(sys.argv[2]), greedy, use_tqdm=False, **lora)
        said.append([o.outputs[0].text for o in got])
        del names["llm"]
    print(json.dumps(said))
if __name__ == "__main__": work()"""
    todo = [(str(written[k]), "\n".join((blocks(written[k])[0], blocks(written[k])[2]))) for k in ("full", "adapter")]
    said = alone(code, tmp_path, json.dumps(todo), json.dumps(stored[2]))
    for got, method in zip(said, ("full", "lora")):
        same = sum(a == b for a, b in zip(got, stored[1][method]))
        assert same >= TEST - 1, f"{method}: {same} of {TEST} the same"


def test_the_folder_is_what_the_store_has(stored, written):
    base = {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (
        {p.name for p in written["full"].iterdir()}
        == {p.name for p in written["lora"].iterdir()}
        == base | {"README.md"}
    )
    assert {p.name for p in written["adapter"].iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "base",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {p.name for p in (written["adapter"] / "base").iterdir()} == base
    for folder in written.values():
        for p in folder.rglob("*.json"):
            assert str(stored[0]) not in p.read_text()
            assert str(ROOT) not in p.read_text()
        for secret in (str(stored[0]), str(ROOT), str(Path.home())):
            assert secret not in (folder / "README.md").read_text()


def test_a_study_without_merged_copies_says_the_same_and_hands_on_the_same(stored, written, tmp_path):
    r = recipe("lora", train=dict(method="lora", r=4, learning_rate=3e-3, epochs=1, batch_size=8, merged=False))
    c, store = r.combinations()[0], Store(tmp_path / "store")
    splits = load_data(c.data)
    fits = train_arms(
        c, curate_arms(c, splits, labels=label_inputs(c, splits, store=store), store=store)[0], store=store
    )
    assert fits[ARM].path.name == "adapter"
    assert not list((tmp_path / "store").glob("stages/*/model"))
    assert [a.text for a in answer_arms(c, splits, fits=fits, store=store)[0][ARM]] == stored[1]["lora"]
    made = students.write_students(
        r, tmp_path / "out", store=tmp_path / "store"
    )  # in a replay, which finds weights and answers by the adapter
    assert [name for *_, name in made] == [ARM, f"{ARM}-adapter"]
    assert "Not measured: the store" not in (made[0][0] / "README.md").read_text()
    for (folder, *_), other in zip(made, (written["lora"], written["adapter"])):
        assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "README.md"} == {
            p.name: p.read_bytes() for p in other.iterdir() if p.is_file() and p.name != "README.md"
        }


def test_the_card_names_the_versions_that_trained_it(stored, written, tmp_path, monkeypatch):
    import peft
    import torch

    for name in ("lora", "adapter"):
        assert f"| trained with | torch {torch.__version__}" in (written[name] / "README.md").read_text()
        assert f"peft {peft.__version__}" in (written[name] / "README.md").read_text()
    assert "peft" not in next(
        line for line in (written["full"] / "README.md").read_text().splitlines() if "trained with" in line
    )
    load = TrainedStudent.load.__func__
    monkeypatch.setattr(
        TrainedStudent, "load", classmethod(lambda cls, out: replace(load(cls, out), versions=dict(torch="0.1 <b>|x")))
    )
    card = (students.write_students(recipe("full"), tmp_path / "out", store=stored[0])[0][0] / "README.md").read_text()
    assert torch.__version__ not in card
    assert "torch 0.1" in card
    assert "<b>" not in card.split("\n---\n", 1)[1]


def test_the_hub_s_own_reader_reads_the_card(stored, written):
    trained = students.recipe_students(recipe("full"), Store(stored[0], replay=True))[0]
    got = ModelCard.load(written["full"] / "README.md")
    assert isinstance(got.data, ModelCardData)
    assert got.data.license == "apache-2.0"
    assert got.data.language == ["en"]
    assert got.data.pipeline_tag == "text-generation"
    assert got.data.library_name == "transformers"
    text = (written["full"] / "README.md").read_text()
    for arm in ("teacher/vanilla", "student/vanilla", f"**{ARM}**"):
        assert f"| {arm} | {TEST} |" in text
    assert trained.fit.fingerprint in text
    assert trained.splits.hashes["train"] in text
    assert study.weights_of("zoo/student-s", Store(stored[0])) in text
    assert "r 4" not in text
    got = ModelCard.load(written["adapter"] / "README.md")
    assert got.data.library_name == "peft"
    assert "lora" in got.data.tags
    assert got.data.base_model is None
    assert " r 4" in got.text
    assert "log-probabilities differ by at most" in got.text


def made_up(**changes):
    c = recipe("lora").combinations()[0].model_copy(update=changes)
    fit = TrainedStudent(
        c.student.model,
        "lora",
        0,
        "0" * 16,
        8,
        tokens=80,
        supervised_tokens=8,
        max_length=64,
        history=((1, 2.0),),
        seconds=1.0,
    )
    return students.StudentRecord(
        c,
        SPLITS,
        Curated(
            ARM, [dict(id="a", messages=[dict(role="user", content="q"), dict(role="assistant", content="A")])], []
        ),
        fit,
    )


SPLITS = load_data(Data(name="tiny-qa", train=4, test=2))


@pytest.mark.parametrize(
    "model, data, base, sets",
    [
        (
            "meta-llama/Llama-3.1-8B-Instruct",
            "tau/commonsense_qa",
            "meta-llama/Llama-3.1-8B-Instruct",
            ["tau/commonsense_qa"],
        ),
        ("zoo/student-s", "tiny-qa", None, None),
        ("some/deep/folder", "rows.jsonl", None, None),
        ("~/model", "my/rows.jsonl", None, None),
    ],
)
def test_only_what_is_on_the_hub_is_named_as_if_it_were(model, data, base, sets):
    for adapter, relation in ((False, "finetune"), (True, "adapter")):
        got = ModelCard(
            students.student_card(made_up(student=Student(model=model), data=Data(name=data, task="nlu_qa")), adapter)
        ).data
        assert (got.base_model, got.datasets, got.get("base_model_relation")) == (
            base,
            sets,
            relation if base else None,
        )


def test_a_folder_of_that_name_is_not_taken_for_the_hub_s(tmp_path, monkeypatch):
    assert students.hub_id("some/model") == "some/model"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert students.hub_id("some/model") is None


@pytest.mark.parametrize(
    "student, data, teacher, license",
    [
        (dict(), dict(license="mit"), dict(license="mit"), "unknown"),
        (dict(license="mit"), dict(license="mit"), dict(license="mit"), "mit"),
        (dict(license="llama3.1"), dict(license="mit"), dict(license="llama3.1"), ["llama3.1", "mit"]),
        (dict(license="mit"), dict(license="mit"), dict(), "unknown"),
    ],
)
def test_a_student_stands_under_every_licence_of_what_it_is_made_of(student, data, teacher, license):
    t = made_up(
        student=Student(model="a/b", terms="Keep the notice.", **student),
        data=Data(name="c/d", task="nlu_qa", **data),
        teacher=Teacher(engine="openai:x", **teacher),
    )
    text = students.student_card(t)
    assert ModelCard(text).data.license == license
    assert ("find out before you share this model" in text) == (license == "unknown")
    assert "Keep the notice." in text


@settings(max_examples=20, deadline=None)
@given(name=st.text(min_size=1, max_size=40), terms=st.text(max_size=60))
def test_names_and_terms_show_themselves_and_do_nothing_else(name, terms):
    t = made_up(
        student=Student(model=name, terms=terms),
        data=Data(name=f"x{name}", task="nlu_qa"),
        teacher=Teacher(engine="openai:x" + " ".join(name.split()), terms=terms),
    )
    text = students.student_card(t, adapter=True)
    got = ModelCard(text.encode("utf-8", "replace").decode())
    assert got.data.license == "unknown"
    body = re.sub(r"```python\n.*?\n```", "", got.text, flags=re.S)
    assert "<" not in body
    assert "\x00" not in body
    assert body.count("\n# ") + body.startswith("# ") == 1
    for line in body.split("\n"):
        assert not line.startswith("|") or line.endswith("|")
    for b in re.findall(r"```python\n(.*?)\n```", got.text, re.S):
        compile(b, "card", "exec")


def test_the_instruction_stands_where_the_student_learned_it(monkeypatch):
    "In the user's turn, where the model's chat template takes no system turn."
    t, messages = made_up(), {}
    t = replace(t, fit=replace(t.fit, path=Path("student")))
    for notes in ({}, dict(merged="")):
        monkeypatch.setattr(students, "is_here", lambda model: True)
        monkeypatch.setattr(students, "check_template", lambda model, notes=notes: notes)
        code = re.search(r"```python\n(messages = .*?)\n```", students.student_card(t), re.S)[1]
        exec(code, names := dict(QUESTION="Why?"))
        messages[len(notes)] = names["messages"]
    system, user = messages[0]
    assert (system["role"], user) == ("system", dict(role="user", content="Why?"))
    assert messages[1] == [dict(role="user", content=system["content"] + "\n\nWhy?")]


def test_without_answers_there_are_no_results(stored, tmp_path):
    "Trained and not yet asked the test inputs: the card says so, and its header has none."
    root = tmp_path / "store"
    shutil.copytree(stored[0], root)
    for p in (root / "completions").glob("*model*"):
        p.unlink()
    t = students.recipe_students(recipe("full"), Store(root, replay=True))[0]
    assert t.results is None
    assert "Not measured: the store has no answers" in students.student_card(t)


def test_neither_base_model_nor_anything_else_is_looked_for_outside_the_store(stored, tmp_path, monkeypatch):
    def gone(*_):
        raise AssertionError("looked for a model")

    for module in ("train.sft", "study.run", "tools.share", "models.local", "models.weights"):
        monkeypatch.setattr(f"distill_study.{module}.resolve_model", gone, raising=False)
    assert [p for p, *_ in students.write_students(recipe("full"), tmp_path / "out", store=stored[0])] == [
        tmp_path / "out" / "tiny-qa--teacher--student-s" / "distilled-vanilla"
    ]


@pytest.mark.parametrize("harm", ["torn", "gone"])
def test_what_is_damaged_in_the_store_is_not_handed_on(stored, tmp_path, harm):
    root = tmp_path / "store"
    shutil.copytree(stored[0], root)
    bad = students.recipe_students(recipe("lora"), Store(root, replay=True))[0].fit.path / "model.safetensors"
    if harm == "gone":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match="is damaged or missing"):
        students.write_students(recipe("lora"), tmp_path / "out", store=root)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_what_can_t_be_written_says_so(stored, written, tmp_path):
    before = (written["full"] / "README.md").stat().st_mtime_ns
    with pytest.raises(StudyError, match="exists already"):
        students.write_students(recipe("full"), written["full"].parents[1], store=stored[0])
    assert (written["full"] / "README.md").stat().st_mtime_ns == before
    t = students.recipe_students(recipe("full"), Store(stored[0], replay=True))[0]
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="can't be written"):
        students.write_student(tmp_path / "file" / "x", t)
    with pytest.raises(StudyError, match="there is no adapter"):
        students.write_student(tmp_path / "x", t, adapter=True)
    with pytest.raises(StudyError, match="not in the store"):
        students.write_students(recipe("full", seeds=[1]), tmp_path / "y", store=stored[0])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_adapter_names_its_base_so_that_no_stranger_s_model_is_loaded(stored, tmp_path):
    t = students.recipe_students(recipe("lora"), Store(stored[0], replay=True))[0]
    named = lambda model: json.loads(
        (
            students.write_student(
                tmp_path / students.slug(model),
                replace(t, c=t.c.model_copy(update=dict(student=t.c.student.model_copy(update=dict(model=model))))),
                adapter=True,
            )
            / "adapter_config.json"
        ).read_text()
    )["base_model_name_or_path"]
    assert [named(m) for m in ("zoo/student-s", "owner/model", "some/local/folder")] == [
        "./base",
        "owner/model",
        "./base",
    ]
    assert not (tmp_path / "some-local-folder" / "base").exists()


def test_a_push_is_asked_for_checked_and_private(stored, tmp_path, monkeypatch):
    import huggingface_hub
    from typer.testing import CliRunner

    from distill_study.cli import app

    calls = []

    class Api:
        def __init__(self, token):
            self.token = token

        def create_repo(self, repo, **how):
            calls.append((repo, self.token, how))
            return f"https://hub/{repo}"

        def upload_folder(self, **how):
            calls.append(how)
            if os.environ.get("HUB_FAILS"):
                raise RuntimeError(f"403 for {self.token}\nmore")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    raw = recipe("lora").model_dump(mode="json")
    (tmp_path / "small.yaml").write_text(json.dumps(raw))
    ask = lambda out, *more: CliRunner().invoke(
        app, ["students", str(tmp_path / "small.yaml"), "--out", str(tmp_path / out), "--store", str(stored[0]), *more]
    )
    monkeypatch.delenv("HF_TOKEN", raising=False)
    refused = ask("a", "--push", "me")
    assert isinstance(refused.exception, StudyError)
    assert "HF_TOKEN is not set" in str(refused.exception)
    assert not (tmp_path / "a").exists()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    bare = ask("a", "--push", "me", "-p", "student.model=some/model")
    assert "the recipe names no licence of the student. Set student.license" in str(bare.exception)
    assert "nothing without one is pushed" in str(bare.exception)
    assert not calls
    done = ask("a", "--adapter")
    assert done.exit_code == 0
    assert done.stdout.split() == [str(tmp_path / "a" / "tiny-qa--teacher--student-s" / "distilled-vanilla-adapter")]
    assert not calls
    done = ask("b", "--push", "me")
    name = "me/tiny-qa-teacher-student-s-distilled-vanilla"
    assert done.exit_code == 0
    assert [line for line in done.stdout.split() if "hub" in line] == [
        f"https://hub/{name}",
        f"https://hub/{name}-adapter",
    ]
    assert "hf_secret" not in done.output
    assert [c for c in calls if isinstance(c, tuple)] == [
        (n, "hf_secret", dict(repo_type="model", private=True, exist_ok=True)) for n in (name, f"{name}-adapter")
    ]
    assert [(c["repo_type"], Path(c["folder_path"]).name) for c in calls if isinstance(c, dict)] == [
        ("model", "distilled-vanilla"),
        ("model", "distilled-vanilla-adapter"),
    ]
    monkeypatch.setenv("HUB_FAILS", "1")
    failed = ask("c", "--push", "me").exception
    assert isinstance(failed, StudyError)
    assert "the hub refused" in str(failed)
    assert "hf_secret" not in str(failed)
    assert (tmp_path / "c" / "tiny-qa--teacher--student-s" / "distilled-vanilla" / "README.md").is_file()


def test_names_on_the_hub_are_ones_it_takes_and_differ():
    from huggingface_hub.utils import validate_repo_id

    long = (
        recipe("full")
        .combinations()[0]
        .model_copy(update=dict(data=Data(name="some..very--" + "long" * 30 + ".jsonl", task="math")))
    )
    arms = [a for a in ARMS if ARMS[a].model == "trained"]
    names = {students.repo_name("my-team", long, arm=name) for a in arms for name in (a, f"{a}-adapter")}
    assert len(names) == 2 * len(arms)
    for name in names:
        validate_repo_id(name)
