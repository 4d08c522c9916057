"The method section follows the settings: each that can change a result changes a sentence, in every recipe."

import re
from types import SimpleNamespace

import pytest
from conftest import ROOT

from distill_study.analyse.findings import methodology
from distill_study.config import ARMS, Combination, Curate, Data, Judge, Pitfalls, Sampling, Teacher, Train
from distill_study.data.load import load_data
from distill_study.study.plan import load_recipe

RAW = dict(
    teacher=dict(engine="vllm:some/teacher", sampling=dict(temperature=0.7), vllm=dict(quantization="fp8")),
    student=dict(model="zoo/student-s", train=dict(method="lora")),
    data=dict(name="mine.jsonl", task="math", train=50, test=20),
    judge=dict(engine="vllm:some/judge", sampling=dict(temperature=0.5)),
    pitfalls=dict(samples=2),
    arms=list(ARMS),
)
# what is changed, and what else has to be so that it counts
CHANGES = {
    "teacher": dict(
        engine="transformers:other/teacher",
        strategies=["vanilla"],
        structured=True,
        reasks=5,
        max_failures=0.1,
        testing=dict(temperature=0.4),
    ),
    "teacher.sampling": dict(temperature=0.3, top_p=0.9, max_tokens=77, stop=["END"], seed=3, n=5),
    "teacher.vllm": dict(dtype="float16", quantization="gptq", max_model_len=4096, lora="some/adapter"),
    "student": dict(model="zoo/student-m", compare=["nf4"], dtype="float32"),
    "student.train": dict(
        method="qlora",
        contrast=dict(beta=0.5),
        r=8,
        alpha=64,
        dropout=0.1,
        target_modules=["q_proj"],
        dora=True,
        rslora=True,
        learning_rate=1e-4,
        schedule="linear",
        warmup_ratio=0.2,
        epochs=2,
        steps=70,
        batch_size=4,
        gradient_accumulation=3,
        tokens_per_step=9000,
        weight_decay=0.1,
        max_grad_norm=0.5,
        max_length=500,
        bf16=False,
        gradient_checkpointing=True,
        packing=True,
        attention="sdpa",
        liger=True,
        choose="gold",
        launch="ddp",
    ),
    "data": dict(
        name="other.jsonl",
        train=40,
        validation=9,
        test=30,
        seed=4,
        columns=dict(question="q"),
        splits=dict(train="more"),
        opening=6,
        labels={"0": "entailment"},
        words=40,
    ),
    "curate": dict(
        match="rows",
        verify=True,
        reasoning="hidden",
        stated=["I pick"],
        agreement=0.5,
        near=0.8,
        shingle=5,
        permutations=64,
        ngram=8,
        contained=0.2,
        given_away=False,
        hard_items=True,
        keep=3,
        prefer="shortest",
        budget=70,
    ),
    "judge": dict(
        engine="vllm:other/judge",
        pointwise=False,
        pairwise=False,
        reason=False,
        items=7,
        arms=["teacher/cot"],
        pairs=[["student/vanilla", "teacher/cot"]],
        reasks=4,
    ),
    "judge.sampling": dict(temperature=0.2, max_tokens=40, n=3),
    "pitfalls": dict(wordings=2, samples=5, temperature=1.1, blind=True, items=6),
    "": dict(
        seed=9,
        arms=["teacher/vanilla", "student/vanilla"],
        min_rows=33,
        bootstrap=700,
        rubric=[dict(name="clear", question="Is it clear?", scale=[1, 3])],
    ),
}
# settings that change speed, money, records or where a thing runs, not what is found; or that another test here covers
LEFT = {
    "teacher": {"sampling", "batch_size", "endpoint", "vllm", "price", "license", "terms", "engine", "dtype"},
    "student.train": {"save_steps", "merged", "report_to", "processes", "max_truncated", "eval_steps", "patience"},
    "data": {"task", "license", "terms", "language"},
    "curate": {"turns", "select", "embedding"},
    "judge": {"sampling", "batch_size", "endpoint", "vllm", "price", "max_failures", "engine", "dtype"},
    "judge.sampling": {"top_p", "stop", "seed", "logprobs"},
    "pitfalls": set(),
    "teacher.sampling": {"logprobs"},
}


def changed(place, name, value, raw=RAW):
    "The settings with one of them changed."
    if not place:
        return raw | {name: value}
    first, _, rest = place.partition(".")
    return raw | {first: changed(rest, name, value, raw.get(first, {}))}


def section(raw):
    return " ".join(methodology(Combination.parse(raw)).text.values())


@pytest.mark.parametrize(
    "place, name, value",
    [(p, n, v) for p, all in CHANGES.items() for n, v in all.items() if (p, n) != ("teacher", "engine")],
)
def test_a_setting_that_changes_changes_the_section(place, name, value):
    assert section(changed(place, name, value)) != section(RAW)


@pytest.mark.parametrize(
    "place, cls",
    [
        ("teacher", Teacher),
        ("teacher.sampling", Sampling),
        ("student.train", Train),
        ("data", Data),
        ("curate", Curate),
        ("judge", Judge),
        ("judge.sampling", Sampling),
        ("pitfalls", Pitfalls),
    ],
)
def test_no_setting_is_forgotten(place, cls):
    "A new setting is either in the section or said to be of no matter to it."
    assert set(cls.model_fields) - LEFT[place] <= set(CHANGES[place])


def test_settings_that_count_only_beside_others():
    train = dict(max_length=500, choose="gold")
    base = section(changed("student", "train", train))
    for more in (dict(max_truncated=0.2), dict(eval_steps=7), dict(patience=3)):
        assert section(changed("student", "train", train | more)) != base
    ways = [dict(), dict(select="llkd"), dict(select="diverse"), dict(select="diverse", embedding="some/encoder")]
    assert (
        len({section(changed("curate", "budget", 70, RAW | dict(curate=way | dict(budget=70)))) for way in ways}) == 4
    )
    talk = changed("data", "task", "conversation")
    assert section(changed("curate", "turns", "last", talk)) != section(talk) and "the assistant is learned" in section(
        talk
    )
    ended = dict(
        RAW,
        teacher=dict(
            engine="openai:some/teacher",
            endpoint=dict(base_url="http://user-host:1/v1", revision="r7", extra_body=dict(seed_mode="x")),
        ),
    )
    assert "revision r7" in section(ended) and "seed_mode" in section(ended) and "user-host" not in section(ended)
    assert section(dict(RAW, teacher=dict(engine="transformers:some/teacher"))) != section(
        dict(RAW, teacher=dict(engine="transformers:other/teacher"))
    )


def test_folders_of_the_machine_are_not_named():
    raw = changed("student", "model", "/srv/people/anna/base") | dict(
        teacher=dict(engine="transformers:/srv/people/anna/teacher")
    )
    said = section(changed("data", "name", "/srv/people/anna/mine.jsonl", raw))
    assert "anna" not in said and "base" in said and "mine.jsonl" in said


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_has_a_whole_section(path, monkeypatch):
    for v in ("DISTILL_DATA_DIR", "DISTILL_MODEL_DIR"):
        monkeypatch.delenv(v, raising=False)
    for c in load_recipe(path).combinations():
        parts = methodology(c).to_dict()
        assert len(parts) == 8
        for text in parts.values():
            assert text.endswith(".") and not re.search(r"None|nan|  |\{|\(\)|, ,|\.\.|<|object at", text), text


def test_with_data_and_students_it_tells_what_came_of_the_settings():
    c = Combination.parse(
        dict(
            teacher=dict(engine="transformers:zoo/teacher"),
            student=dict(model="zoo/student-s"),
            data=dict(name="tiny-math", train=30, test=12),
        )
    )
    splits = load_data(c.data)
    said = methodology(c, splits, fits={"distilled/vanilla": SimpleNamespace(learning_rate=3e-4)})
    assert (
        "with 30 training inputs and 12 test items" in said.text["Data"]
        and "learning rate 0.0003 (by method" in said.text["Students"]
    )
    assert (
        "distilled/vanilla" in said.text["Arms"]
        and "control/gold" not in said.text["Arms"]
        and "sign-flip" not in said.text["Statistics"]
    )
    nli = load_data(Data(name="tiny-nli", train=30, test=40))
    alike = [e.source for e in nli.test]
    assert (
        "over sources"
        in methodology(c.model_copy(update=dict(data=Data(name="tiny-nli", train=30, test=40))), nli).html()
    ) == (len(set(alike)) < len(alike))


def test_a_hostile_name_is_text():
    said = methodology(Combination.parse(changed("data", "name", "<script>alert(1)</script>.jsonl")))
    assert "<script" not in said.html() and "&lt;" in said.html()


@pytest.mark.parametrize("who", ["teacher", "judge"])
def test_a_number_format_is_in_the_section(who):
    raw = RAW | {who: dict(engine="transformers:some/model")}
    assert "computed in float32" in section(changed(who, "dtype", "float32", raw)) and "computed in" not in section(raw)
