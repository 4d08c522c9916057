"Every recipe resolves to its last setting without a network, and says of itself what the estimate says."

import math
import re
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig

from distill_study.config import ARMS, ConfigError, strategies_of
from distill_study.data.load import resolved, task_of
from distill_study.study.plan import load_recipe, parse_recipe
from distill_study.study.resources import (
    GPUS,
    SHAPES,
    Budget,
    budget,
    lines,
    model_config,
    parameters,
    parse_hardware,
    pieces,
    processes,
    rows_a_pass,
)
from distill_study.tasks.families import arms_of
from distill_study.train.launch import read_config, shipped
from distill_study.train.methods import default_rate

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
GPU = [p for p in RECIPES if yaml.safe_load(p.read_text(encoding="utf-8")).get("hardware")]
SIZES = {
    "cestwc/conjnli": (512, 256),
    "tau/commonsense_qa": (512, 256),
    "deepmind/aqua_rat": (512, 254),
    "ChilleD/MultiArith": (378, 42),
    "griffin/chain_of_density": (400, 100),
    "HuggingFaceH4/ultrachat_200k": (100, 100),
}
WHOLE = {
    a.name for a in ARMS.values() if not (a.only or a.shuffled or a.after)
}  # those that learn from right, wrong or shuffled labels, or samples of both kinds, have recipes of their own
name = lambda p: p.stem


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    "No hub, and no local copies that another machine would not have."
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for v in ("DISTILL_DATA_DIR", "DISTILL_MODEL_DIR"):
        monkeypatch.delenv(v, raising=False)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_resolves_to_its_last_setting(path):
    r = load_recipe(path)
    grid = [resolved(c) for c in r.combinations()]
    several = (r.teachers, r.students, r.data, r.seeds, *r.axes.values())
    assert len({c.name for c in grid}) == len(grid) == math.prod(map(len, several)) and r.description
    for c in grid:
        assert c.arms and set(c.arms) <= set(arms_of(task_of(c.data))) and strategies_of(c) and c.teacher.strategies
        if c.student.train.launch:
            assert read_config(c.student.train.launch)[0] == shipped()[c.student.train.launch]
    assert pieces(r) and all(s.seconds is None for s in pieces(r))


@pytest.mark.parametrize("path", GPU, ids=name)
def test_a_gpu_recipe_is_the_whole_study_or_curves_of_a_part(path):
    r = load_recipe(path)
    curve = max(r.axes.get("data.train", [0]))
    asked, part = {d.name: (curve or d.train, d.test) for d in r.data}, bool(r.axes)
    assert asked.items() <= SIZES.items() and r.seeds == (0, 1, 2)
    assert part or set(r.arms) == WHOLE and asked == SIZES
    for c in map(resolved, r.combinations()):
        assert part or set(c.arms) == set(arms_of(task_of(c.data))) & WHOLE
        assert set(strategies_of(c)) == set(c.teacher.strategies)
        assert c.teacher.price and c.student.price and c.teacher.license and c.student.license
    assert {s.model for s in r.students} | {m for t in r.teachers if (m := t.engine.partition(":")[2])} <= set(SHAPES)


@pytest.mark.parametrize("path", GPU, ids=name)
def test_what_is_left_open_is_decided(path):
    r = load_recipe(path)
    hw = parse_hardware(r.hardware)
    for s in r.students:
        t, cfg = s.train, AutoConfig.for_model(**SHAPES[s.model])
        assert 1e-6 < default_rate(t.method, cfg, parameters=parameters(s.model)) < 1e-2
        assert (
            t.max_length <= cfg.max_position_embeddings
            and 1 <= processes(t, hw) <= hw.count
            and rows_a_pass(t, hw).batch_size * processes(t, hw) <= t.batch_size * t.gradient_accumulation
        )
        assert processes(t, hw) > 1 or hw.count == 1, "GPUs stand idle"
    for t in r.teachers:
        if t.engine.startswith("vllm:"):
            assert (
                t.vllm.tensor_parallel_size <= hw.count
                and model_config(t.engine.partition(":")[2]).num_key_value_heads % t.vllm.tensor_parallel_size == 0
            )


@pytest.mark.parametrize("path", GPU, ids=name)
def test_training_fits_and_the_head_says_what_the_estimate_says(path):
    b, text = budget(load_recipe(path)), path.read_text(encoding="utf-8")
    assert [e for e in b.memory() if not e.fits] == [], "it does not fit the hardware that it names"
    for line in lines(b):
        assert f"#   {line}\n" in text, f"{path.name}: its head does not say {line!r}"
    assert "Estimated, not measured" in text


@pytest.mark.parametrize("path", [p for p in GPU if "405b" in p.stem], ids=name)
def test_the_other_teacher_in_the_comment_works_too(path):
    text = path.read_text(encoding="utf-8")
    block = re.search(r"^# teachers:\n(?:#   .*\n)+", text, re.M)[0]
    raw = yaml.safe_load(text) | yaml.safe_load(re.sub(r"^# ", "", block, flags=re.M))
    r = parse_recipe(dict(raw, name="x", hardware="8xH100"))
    t = r.teachers[0]
    assert t.engine == "vllm:meta-llama/Llama-3.1-405B-Instruct-FP8" and t.vllm.tensor_parallel_size == 8
    assert (
        parameters(t.engine.partition(":")[2]) / 8 < 0.9 * 80e9
        and Budget(r, parse_hardware("8xH100"), tuple(pieces(r, parse_hardware("8xH100")))).cost > 0
    )


@pytest.mark.parametrize(
    "over",
    [
        {"hardware": "8xH100", "train.launch": "ddp"},
        {"data": "tau/commonsense_qa", "data.train": "512", "data.test": "256"},
        {"teachers": "openai:x/y"},
        {"train.method": "lora", "seeds": "0,1"},
    ],
    ids=str,
)
def test_overrides_that_the_heads_name(over):
    r = load_recipe(ROOT / "recipes/llama31_405b_to_8b.yaml", over)
    assert r.combinations() and budget(r).hours() > 0


def test_more_work_takes_longer_and_shared_work_counts_once():
    path = ROOT / "recipes/llama31_70b_to_8b_one_node.yaml"
    one, three = (budget(load_recipe(path, {"seeds": s})) for s in ("0", "0,1,2"))
    assert (
        one.hours("label") == three.hours("label")
        and 3 * one.hours("train") == pytest.approx(three.hours("train"))
        and 3 * one.students == three.students
    )
    full = budget(load_recipe(path, {"train.epochs": "6"}))
    assert (
        full.tokens("student", "train")[0] == pytest.approx(2 * three.tokens("student", "train")[0], rel=1e-6)
        and full.hours() > three.hours()
        and full.cost > three.cost
    )
    assert budget(load_recipe(path), "8xB200").hours() < three.hours() < budget(load_recipe(path), "8xA100").hours()


def test_what_is_asked_again_counts():
    path = ROOT / "recipes/smollm2_1.7b_to_135m_one_gpu.yaml"
    plain, again = (
        load_recipe(path, over)
        for over in (
            {"seeds": "0"},
            {
                "seeds": "0",
                "pitfalls.wordings": "3",
                "pitfalls.samples": "2",
                "pitfalls.blind": "true",
                "pitfalls.items": "40",
            },
        )
    )
    before, after = pieces(plain), pieces(again)
    more = [s for s in after if s.what.endswith(", again")]
    assert (
        len(after) == len(before) + len(more)
        and sum(s.out for s in after) > sum(s.out for s in before)
        and {s.who for s in more} == {"teacher", "student"}
    )


@pytest.mark.parametrize(
    "spec, says",
    [
        ("H100", "expected how many"),
        ("0xH100", "expected how many"),
        ("8xH10", "Did you mean"),
        ("8x80GB", "is not known"),
        ("", "expected how many"),
    ],
)
def test_a_bad_machine_is_refused(spec, says):
    with pytest.raises(ConfigError, match=says):
        parse_hardware(spec)


def test_gpus_are_ordered_as_they_are_sold():
    for a, b in (("L4", "A100"), ("A100", "H100"), ("H100", "H200"), ("H200", "B200")):
        assert all(getattr(GPUS[a], x) <= getattr(GPUS[b], x) for x in ("gb", "flops", "bandwidth"))


def test_show_prints_the_estimate(monkeypatch, capsys):
    import sys

    from distill_study.cli import main

    monkeypatch.chdir(ROOT)

    def show(*args):
        monkeypatch.setattr(sys, "argv", ["distill-study", "show", *args])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    code, out, _ = show("recipes/smollm2_1.7b_to_135m_one_gpu.yaml")
    assert code == 0 and all(
        line in out for line in lines(budget(load_recipe("recipes/smollm2_1.7b_to_135m_one_gpu.yaml")), memory=False)
    )
    code, out, _ = show("recipes/demo.yaml")
    assert code == 0 and "Hours" not in out and "Tokens" in out
    code, out, _ = show("recipes/demo.yaml", "--gpus", "1xL4")
    assert code == 0 and "Hours on 1 × L4 24 GB" in out
    code, _, err = show("recipes/demo.yaml", "--gpus", "1xL5")
    assert code == 2 and "L5 is not known" in err


def test_half_the_price_in_batches_and_who_has_none():
    def shown(batch):
        endpoint = dict(key_env="SOME_KEY_NAME", batch=batch)
        teacher = dict(engine="openai:m", strategies=["cot"], endpoint=endpoint)
        teacher["price"] = dict(per_million_in=2000, per_million_out=8000)
        recipe = dict(name="x", teachers=teacher, students="zoo/student-s")
        recipe["data"] = dict(name="tiny-math", train=50, test=20)
        found = budget(parse_recipe(recipe))
        return found.cost, next(line for line in lines(found) if line.startswith("Money"))

    (whole, line), (half, other) = shown(False), shown(True)
    assert half == pytest.approx(whole / 2) and whole > 1
    assert line.endswith("; without a price: student")
    assert other.endswith("; without a price: student; batches at half the price")
