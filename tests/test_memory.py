"""Memory estimates: against measured peaks, exact where they can be, monotone everywhere, and clear about bad input."""

import importlib.util
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, byte_tokenizer
from hypothesis import given, settings as hypothesis_settings, strategies as st
from transformers import GPT2Config, LlamaConfig, Qwen2Config

from distill_study.cli import main
from distill_study.config import Student, StudyError, Train
from distill_study.study import resources
from distill_study.study.resources import (
    Devices,
    count_parameters,
    parameters,
    parse_gpus,
    recommend,
    student_bytes,
    training_memory,
)

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CFG = LlamaConfig(
    vocab_size=1000,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
)
ONE, CPU = Devices(1, 80), Devices(1, 16, "cpu")
few = hypothesis_settings(max_examples=3, deadline=None)


def train(method="lora", **settings):
    return Train(method=method, **settings)


def load_benchmark():
    spec = importlib.util.spec_from_file_location("memory_benchmark", ROOT / "benchmarks" / "memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_estimates_are_within_15_percent_of_measured_peaks(tmp_path):
    bench, tokenizer = load_benchmark(), byte_tokenizer(CHAT)
    model = bench.make_model((6, 256, 704, 8, 4), tmp_path / "m", tokenizer)
    cases = [
        dict(model=model, length=256, train=dict(batch_size=8, bf16=False, **t))
        for t in (dict(method="lora"), dict(method="full", gradient_checkpointing=True))
    ]
    for case, found in zip(cases, bench.in_fresh_process(cases, bench.FIXED), strict=True):
        e, off = bench.compare(case, found, False)
        assert found["peak"] > 50e6 and abs(off) < 0.15, (case["train"], e, found)


# --- exact


@pytest.mark.parametrize("tied", [False, True])
def test_counts_are_those_of_the_real_model(tied):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from distill_study.train.methods import lora_config

    cfg = LlamaConfig(**CFG.to_dict() | dict(tie_word_embeddings=tied))
    model = AutoModelForCausalLM.from_config(cfg)
    assert count_parameters(cfg, train("full")).total == model.num_parameters()
    adapted = get_peft_model(model, lora_config(train(r=4)))
    counts = count_parameters(cfg, train(r=4))
    assert (counts.trainable, counts.total) == adapted.get_nb_trainable_parameters()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [dict(), dict(attention_bias=True, mlp_bias=True, head_dim=48), "qwen2"], ids=str)
@pytest.mark.parametrize("modules", ["all-linear", ("q_proj", "v_proj"), ("o_proj", "down_proj", "o_proj")])
def test_counts_without_a_model_are_those_of_one_on_the_meta_device(kind, tied, modules):
    shape = CFG.to_dict() | dict(tie_word_embeddings=tied)
    qwen = {k: v for k, v in shape.items() if k not in ("head_dim", "model_type", "architectures")}
    cfg = Qwen2Config(**qwen) if kind == "qwen2" else LlamaConfig(**shape | kind)
    for method in [dict(method="full"), dict(method="qlora", r=4), dict(r=3, dora=True)]:
        settings = Train(**method, target_modules=modules)
        assert resources._reckon(cfg, settings) == resources._count(cfg.to_json_string(), settings)


def test_what_is_not_known_without_a_model_is_counted_on_one():
    other = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2)
    for cfg, modules in ((CFG, ("q_proj", "lm_head")), (CFG, r".*\.q_proj"), (other, "all-linear")):
        assert resources._reckon(cfg, train(target_modules=modules)) is None
        assert count_parameters(cfg, train(target_modules=modules)).trainable > 0
    with pytest.raises(StudyError, match="train.target_modules"):
        count_parameters(SimpleNamespace(**CFG.to_dict()), train(target_modules=("wq",)))


def test_a_recipe_is_shown_without_torch(monkeypatch):
    monkeypatch.delenv("DISTILL_DATA_DIR", raising=False)
    code = "from distill_study.cli import main; import sys; sys.argv[1:] = ['show', sys.argv[1]]\ntry: main()\n"
    code += "finally: print(sorted({'torch', 'transformers', 'peft'} & {*sys.modules}))"
    recipe = ROOT / "recipes" / "llama31_405b_to_8b.yaml"
    out = subprocess.run([sys.executable, "-c", code, str(recipe)], capture_output=True, text=True, check=True).stdout
    assert "Hours on 1 × H100" in out and out.endswith("\n[]\n")


def test_parts_are_exact_where_they_can_be():
    n = count_parameters(CFG, train("full")).total
    full, lora, qlora = (
        training_memory(CFG, train(m, batch_size=2), length=64, devices=ONE) for m in ("full", "lora", "qlora")
    )
    assert (full.parts["weights"], full.parts["optimizer"]) == (4 * n, 8 * n)
    a = lora.counts.trainable
    assert (lora.parts["weights"], lora.parts["optimizer"]) == (2 * n + 4 * a, 8 * a)
    linear = 3 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 256)
    assert qlora.counts.linear == linear
    assert qlora.parts["weights"] == int((0.5 + 1 / 64 + 4 / 16384) * linear + 2 * (n - linear) + 4 * a)
    in_32_bits = training_memory(CFG, train(bf16=False, batch_size=2), length=64, devices=ONE)
    assert in_32_bits.parts["weights"] == 4 * (n + a)


def test_accumulated_gradients_stay():
    once, twice = (
        training_memory(CFG, train("full", batch_size=8, gradient_accumulation=g), length=512, devices=ONE)
        for g in (1, 2)
    )
    assert once.moment == twice.moment == "start"
    assert twice.parts["gradients"] == 4 * twice.counts.total > once.parts["gradients"]


# --- properties


@few
@given(
    method=st.sampled_from(["full", "lora", "qlora"]),
    batch=st.integers(1, 8),
    length=st.integers(8, 200),
    checkpointing=st.booleans(),
    kind=st.sampled_from(["cuda", "cpu"]),
)
def test_more_rows_or_longer_ones_need_more(method, batch, length, checkpointing, kind):
    def at(rows, tokens):
        settings = train(method, batch_size=rows, gradient_checkpointing=checkpointing, bf16=False)
        return training_memory(CFG, settings, length=tokens, devices=Devices(1, 80, kind)).total

    assert at(batch, length) <= at(2 * batch + 1, length)
    assert at(batch, length) <= at(batch, 2 * length + 7)
    assert at(batch, length) < at(64, 512)


@few
@given(r=st.integers(1, 32), devices=st.sampled_from([2, 4, 8]), method=st.sampled_from(["full", "lora", "qlora"]))
def test_rank_costs_and_sharding_divides(r, devices, method):
    s = train(method, r=r, batch_size=2)
    alone, parted = (
        training_memory(CFG, s, length=64, devices=ONE),
        training_memory(CFG, s, length=64, devices=Devices(devices, 80), sharded=True),
    )
    for part in ("weights", "optimizer"):
        assert abs(alone.parts[part] / devices - parted.parts[part]) <= 1
    assert parted.parts["gathered"] > 0 or parted.moment == "step"
    if method != "full":
        more = training_memory(CFG, train(method, r=2 * r, batch_size=2), length=64, devices=ONE)
        assert more.counts.trainable == 2 * alone.counts.trainable and more.total > alone.total
    assert min(*alone.parts.values(), *parted.parts.values()) >= 0


def test_switches_save_what_they_promise():
    def at(method="full", **settings):
        settings = train(method, **dict(batch_size=8, bf16=False) | settings)
        return training_memory(CFG, settings, length=1024, devices=ONE)

    assert at("lora").total < at().total and at("qlora", bf16=None).total < at("lora", bf16=None).total
    assert at(gradient_checkpointing=True).parts["activations"] < at().parts["activations"] / 2
    plain, eager = (at("lora", bf16=None, attention=kind).parts["activations"] for kind in ("sdpa", "eager"))
    assert eager - plain > 3 * 8 * 4 * 1024 * 1024 * 4  # the scores of every head and layer, in 32 bits
    few, all_ = (
        training_memory(CFG, train("full", bf16=False), length=512, devices=CPU, supervised=s) for s in (0.1, 1.0)
    )
    assert all_.total - few.total > 0.9 * 16 * 511 * 1000 * 4  # the CPU's loss has logits of supervised tokens only


# --- advice


def test_the_first_that_fits_is_recommended():
    def advised(gb, length=2048, count=1, **more):
        return recommend(CFG, Train(batch_size=4), length=length, devices=Devices(count, gb), **more)

    plenty = advised(80, 64)
    assert (plenty.chosen.settings.method, plenty.chosen.settings.batch_size) == ("full", 4)
    assert not any(e.sharded for e in plenty.tried)
    chosen = advised(0.8).chosen
    assert chosen.fits and chosen.settings.batch_size < 4
    assert chosen.settings.batch_size * chosen.settings.gradient_accumulation == 4
    assert advised(80, 64, methods=("qlora",)).chosen.settings.method == "qlora"
    assert any(e.sharded for e in advised(80, 64, count=4, methods=("lora",)).tried)
    only = recommend(CFG, Train(batch_size=4, gradient_checkpointing=True), length=64, devices=ONE)
    assert all(e.settings.gradient_checkpointing for e in only.tried)


def test_what_fits_nowhere_says_what_would():
    big = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    advice = recommend(big, Train(batch_size=2), length=512, devices=Devices(1, 4), methods=("qlora",))
    assert advice.chosen is None and not advice.recipe
    needed = float(re.search(r"does not fit on 1 × 4 GB: .* needs ([\d.]+) GB on each", advice.hint)[1])
    assert advice.hint in advice._repr_markdown_()
    enough = Devices(1, needed + 0.1)
    assert recommend(big, Train(batch_size=2), length=512, devices=enough, methods=("qlora",)).chosen


# --- bad input


@pytest.mark.parametrize("spec", ["8*80", "80GB", "0x80GB", "-1x80GB", "1x80MB", "1x80GB,1x40GB", ""])
def test_a_bad_gpu_spec_is_refused(spec):
    with pytest.raises(StudyError, match="expected NxSIZEGB"):
        parse_gpus(spec)


@pytest.fixture
def call(monkeypatch, capsys):
    def go(*args):
        monkeypatch.setattr(sys, "argv", ["distill-study", "memory", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return go


@pytest.mark.parametrize(
    "args, says",
    [
        (("zoo/student-s", "--gpus", "8*80"), "--gpus '8*80': expected NxSIZEGB"),
        (("zoo/studnt-s", "--gpus", "1x8GB"), "Did you mean 'zoo/student-s'?"),
        (("no-such-model", "--gpus", "1x8GB"), "model 'no-such-model'"),
        (("nobody/no-such-model", "--gpus", "1x8GB"), "model 'nobody/no-such-model': its config.json can't be had"),
        (("zoo/student-s", "--gpus", "1x8GB", "--length", "1000000"), "tokens, which is the model's context"),
        (("zoo/student-s", "--gpus", "1x8GB", "--length", "0"), "length = 0"),
        (("zoo/student-s", "--gpus", "1x8GB", "--batch-size", "0"), "batch_size = 0"),
        (
            ("zoo/student-s", "--gpus", "1x8GB", "--method", "lorra"),
            "method 'lorra': unknown. Known: full, lora, qlora",
        ),
    ],
)
def test_mistakes_on_the_command_line(call, args, says):
    code, _, err = call(*args)
    assert code == 2 and says in err and "Traceback" not in err, err


def test_the_command_needs_no_weights(call, tmp_path):
    CFG.save_pretrained(tmp_path)
    code, out, _ = call(tmp_path, "--gpus", "2x8GB", "--length", "64", "--json")
    found = json.loads(out)
    assert code == 0 and found["chosen"]["settings"]["method"] == "full"
    assert {"sharded", "parts", "fits"} <= set(found["tried"][0])
    assert found["chosen"]["total"] == sum(found["chosen"]["parts"].values())
    code, out, err = call(tmp_path, "--gpus", "1x0.1GB", "--length", "64", "--method", "lora")
    assert code == 1 and "does not fit" in err


def test_a_model_that_is_no_language_model(tmp_path):
    from transformers import T5Config

    T5Config().save_pretrained(tmp_path)
    with pytest.raises(StudyError, match="no causal language model"):
        training_memory(str(tmp_path), Train(), length=64, devices=ONE)
    with pytest.raises(StudyError, match="train.target_modules = 'nothing'"):
        training_memory(CFG, Train(target_modules="nothing"), length=64, devices=ONE)


def test_an_adapter_of_a_large_model_takes_no_whole_copy_on_the_disk():
    model = "meta-llama/Llama-3.1-8B-Instruct"
    whole, alone = 2 * parameters(model), Student(model=model, train=dict(method="lora", r=16))
    assert student_bytes(Student(model=model, train=dict(method="full"))) == whole
    assert student_bytes(alone) == 4 * 41_943_040  # r (in + out) of seven matrices in 32 layers
    assert student_bytes(alone.model_copy(update=dict(train=Train(merged=True)))) == whole + 4 * 41_943_040
    small = Student(model="zoo/student-s", train=dict(method="lora"))
    assert student_bytes(small) > 2 * parameters("zoo/student-s"), "a small one is kept merged, too"
