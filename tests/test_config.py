"Settings: what is refused, with which words; what overrides reach; and that no secret gets into a message."

import pytest

from distill_study.config import (
    ARMS,
    Combination,
    ConfigError,
    Curate,
    Data,
    Endpoint,
    Judge,
    Sampling,
    Student,
    Teacher,
    Train,
    arms_under,
    fingerprint,
)
from distill_study.study.plan import combination_from, load_recipe, parse_recipe, stages_of
from distill_study.study.run import answering

RAW = dict(
    name="demo", teachers=["transformers:zoo/teacher"], students=["zoo/student-s"], data=["tiny-math", "tiny-qa"]
)


@pytest.mark.parametrize(
    "cls, settings, why",
    [
        (Train, dict(epochs="many"), "epochs = 'many'"),
        (Train, dict(choose="last", patience=2), "patience is for choosing a checkpoint"),
        (Teacher, dict(engine="llama"), "'engine:model'"),
        (Sampling, dict(n=5), "set a temperature"),
        (Teacher, dict(engine="recorded:x", sampling=dict(n=5, temperature=0.7)), "can't be drawn again"),
        (Teacher, dict(engine="recorded:x", endpoint=dict(concurrency=8)), "leave endpoint out"),
        (Teacher, dict(engine="recorded:x", structured=True), "leave structured out"),
        (
            Teacher,
            dict(engine="vllm:zoo/teacher", vllm=dict(tensor_parallel=2)),
            "vllm.tensor_parallel: unknown setting. Did you mean 'tensor_parallel_size'?",
        ),
        (Endpoint, dict(extra_body=dict(stream=True)), "stream can't be set here"),
        (Judge, dict(engine="openai:j", sampling=dict(n=3)), "set a temperature"),
        (Judge, dict(engine="openai:j", pairs=[["student/vanilla"] * 2]), "against itself"),
        (Judge, dict(engine="openai:j", pairs=[["student/vanila", "control/gold"]]), "Did you mean 'student/vanilla'"),
        (Judge, dict(engine="openai:j", pointwise=False, pairwise=False), "nothing to ask"),
        (Judge, dict(engine="recorded:x"), "recorded"),
        (Judge, dict(engine="openai:j", strategies=["cot"]), "unknown setting"),
        (Judge, dict(engine="openai:j", items=0), "items = 0"),
        (Curate, dict(stated=["I pick ("]), "it is no regular expression"),
        (Curate, dict(stated=["(?i)I pick"] * 2), "it is no regular expression"),
        (Curate, dict(stated=["x" * 201]), "it has 201 characters"),
        (Curate, dict(stated=["I pick", "x*"]), "it matches an empty text"),
        (Curate, dict(stated=["(?P<no>x)"]), "groups are written (?:…)"),
        (Curate, dict(stated=["a)|(?:b"]), "it is no regular expression"),
        (Curate, dict(reasoning="field"), "visible, else hidden"),
        (Data, "mine.jsonl", "expected a mapping of settings, got 'mine.jsonl'"),
    ],
)
def test_what_does_not_fit_is_refused(cls, settings, why):
    with pytest.raises(ConfigError) as e:
        cls.parse(settings)
    assert why in str(e.value)


@pytest.mark.parametrize(
    "settings",
    [dict(key_env="sk-very-secret"), dict(base_url="http://me:very-secret@host/v1"), dict(api_key="very-secret")],
)
def test_a_key_in_the_wrong_place_is_not_repeated(settings):
    with pytest.raises(ConfigError) as e:
        Endpoint.parse(settings, "endpoint")
    assert "secret" not in str(e.value)


def test_arms_are_checked_and_follow_the_strategies():
    c = Combination(
        teacher=Teacher(engine="transformers:zoo/teacher"), student=Student(model="m"), data=Data(name="tiny-math")
    )
    assert "distilled/cot-after" not in c.arms and "distilled/cot-rationale" in c.arms
    assert Combination.parse(c.model_dump() | dict(arms=["distilled/cot-after"])).arms == ("distilled/cot-after",)
    with pytest.raises(ConfigError, match="teacher/cot"):
        Combination.parse(c.model_dump() | dict(arms=["teacher/cob"]))
    assert arms_under(("vanilla", "cod")) == (
        "teacher/vanilla",
        "teacher/cod",
        "student/vanilla",
        "distilled/vanilla",
        "distilled/cod",
        "control/gold",
    )
    assert set(arms_under(("vanilla", "cot", "cod"))) == set(ARMS)


def test_overrides_reach_every_entry_that_has_the_setting():
    r = parse_recipe(RAW | dict(teachers=["openai:llama", "recorded:x"]), {"endpoint.concurrency": "8"})
    assert [t.endpoint and t.endpoint.concurrency for t in r.teachers] == [8, None]
    r = parse_recipe(RAW, {"data.test": "50", "seeds": "0,1"})
    assert [d.test for d in r.data] == [50, 50] and r.seeds == (0, 1)


def test_overrides_of_the_judge():
    judge = {"judge": "transformers:zoo/teacher", "judge.items": "20"}
    r = parse_recipe(RAW, judge | {"judge.sampling.temperature": ".7", "judge.sampling.n": "3"})
    assert {(c.judge.items, c.judge.sampling.n) for c in r.combinations()} == {(20, 3)}
    assert parse_recipe(RAW | dict(judge="rules:world"), {"judge": "null"}).judge is None


@pytest.mark.parametrize(
    "overrides, why",
    [
        ({"judge.items": "5"}, "names no judge"),
        ({"judge": "rules:world", "judge.item": "5"}, "Did you mean 'items'?"),
        ({"judge": "rules:world", "judge.engine.x": "5"}, "has no settings of its own"),
        ({"student": "x"}, "Did you mean 'students'?"),
    ],
)
def test_overrides_that_reach_nothing_are_refused(overrides, why):
    with pytest.raises(ConfigError) as e:
        parse_recipe(RAW, overrides)
    assert why in str(e.value)


@pytest.mark.parametrize(
    "text, why", [("a: [1", "not readable as YAML"), ("- x", "expected a mapping at the top"), ("a: 1", "a: unknown")]
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, text, why):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as e:
        load_recipe(tmp_path / "x.yaml")
    assert str(e.value).startswith(str(tmp_path / "x.yaml")) and why in str(e.value)


def a_file(folder, data):
    "A recipe whose data is written as it is given."
    text = f"teachers: [transformers:zoo/teacher]\nstudents: [zoo/student-s]\ndata: [{{name: tiny-nli, {data}}}]\n"
    (folder / "x.yaml").write_text(text)
    return folder / "x.yaml"


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes", "NO", "true", "false", "y"])
def test_a_key_that_yaml_takes_for_a_truth_value_is_the_word_that_stands_there(tmp_path, word):
    read = load_recipe(a_file(tmp_path, f"labels: {{{word}: neutral, b: entailment}}")).data[0]
    assert read.labels == {word: "neutral", "b": "entailment"}
    (read,) = load_recipe(tmp_path / "x.yaml", {"data.columns": f"{{{word}: a}}"}).data
    assert read.columns == {word: "a"}


@pytest.mark.parametrize("word, typed", [("yes", "yes"), ("off", "no"), ("True", "yes")])
def test_a_truth_value_where_a_text_belongs_is_refused_with_what_to_type(tmp_path, word, typed):
    with pytest.raises(ConfigError, match=f'in quotes, gold: "{typed}"'):
        load_recipe(a_file(tmp_path, f"columns: {{gold: {word}}}"))
    with pytest.raises(ConfigError, match=f'in quotes, gold: "{typed}"'):
        parse_recipe(RAW, {"data.columns.gold": word})


def test_a_truth_value_stays_one_where_it_is_meant():
    assert parse_recipe(RAW, {"generalization": "yes", "train.gradient_checkpointing": "on"}).generalization is True


def test_an_override_that_is_no_yaml_is_named():
    with pytest.raises(ConfigError, match="-p data.labels: not readable as YAML"):
        parse_recipe(RAW, {"data.labels": "{a: b"})


def test_fingerprints_that_stores_have():
    "Values written by earlier versions: a change here is a change of every store."
    assert fingerprint(Train(), Sampling()) == "9d1064147b6e2835"
    assert fingerprint(Curate(), Endpoint()) == "8aad6955c5921e76"
    c = combination_from("openai:m", "zoo/student-s", data="tiny-math", options={"endpoint.base_url": "http://h/v1"})
    assert fingerprint(c) == fingerprint(c.model_dump(mode="json")) == "b6201a2e238ac38f"
    assert fingerprint("\ud800")  # half a character, as broken files have it


def test_a_teacher_answers_test_inputs_greedily_whatever_its_labels_are_drawn_with():
    drawn = dict(n=5, temperature=0.7, top_p=0.9, max_tokens=64)
    t = Teacher(engine="openai:t", sampling=drawn)
    assert t.on_test.sampling == Sampling(max_tokens=64) and t.sampling == Sampling(**drawn)
    assert Teacher(engine="openai:t", sampling=drawn, testing=dict(temperature=0.6)).on_test.sampling.temperature == 0.6
    c = parse_recipe(RAW, {"sampling.n": "3", "sampling.temperature": "0.7"}).combinations()[0]
    times = {(w.kind, w.times) for s in stages_of(c) if s.kind == "label" for w in s.work}
    assert times == {("label", 3), ("answer", 1)}
    assert answering(ARMS["teacher/vanilla"], c, fits={}).sampling == Sampling()
