"The GPU benchmark: what it works out, and that its code runs, here with a tiny shape on the CPU."

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_a_chip_s_peak_is_known_or_not_guessed(bench, name, tflops):
    assert bench.chip_peak(name) == (tflops and tflops * 1e12)


def counted(shape, method, supervised=1.0, rows=2, length=16):
    "FLOPs of forward and backward as PyTorch counts them, an adapter on all linear layers but the head."
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, inner, heads, groups, words, tied = shape
    cfg = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(cfg)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.zeros(rows, length, dtype=torch.long)
    with FlopCounterMode(display=False) as count:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    return cfg, sum(p.numel() for p in model.parameters() if p.requires_grad), count.get_total_flops()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_flops_are_those_that_pytorch_counts(bench, method):
    "PyTorch counts both halves of the attention, and under an adapter no gradient for the inputs of the first layer."
    shape = (4, 64, 160, 4, 2, 320, False)
    cfg, trainable, want = counted(shape, method)
    got = (
        bench.flops(cfg, trainable, method, [16, 16], 1.0) + 4 * 6 * 64 * 2 * 16 * 16
    )  # the half that a causal model need not look at
    assert got == pytest.approx(want, rel=0.06)


def test_flops_of_known_models(bench):
    "8.03 B parameters, 0.525 B of them embeddings that multiply nothing: 6 a weight and token when all are trained."
    layers, width, inner, heads, groups, words, _ = bench.SHAPES["Llama-3.1-8B"]
    cfg = SimpleNamespace(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=words,
    )
    assert bench.flops(cfg, 0, "full", [1], 1.0) == pytest.approx(6 * 7.504e9, rel=0.001)
    assert bench.flops(cfg, 0, "lora", [1], 1.0) == pytest.approx(4 * 7.504e9, rel=0.001)


def test_a_row_says_what_failed_or_is_unknown(bench):
    case = dict(
        shape="Llama-3.1-8B", size=(4, 2048), train=dict(method="qlora", packing=True, gradient_checkpointing=True)
    )
    assert bench.line(case, dict(failed="out of memory, at a peak of 79.1 GiB"), 989e12)[:3] == [
        "Llama-3.1-8B, QLoRA, packing, checkpointing",
        "4 × 2048",
        "**out of memory, at a peak of 79.1 GiB**",
    ]
    got = dict(tokens_per_second=12_345.6, flops_per_second=400e12, peak=50e9, estimated=40e9)
    assert (
        bench.line(case, got, 800e12)[2:] == ["12,346", "400.00", "50.0%", "50.00", "40.00", "+25%"]
        and bench.line(case, got, None)[4] == "unknown"
    )
    assert len(bench.line(case, dict(failed="x"), None)) == len(bench.line(case, got, None))


def test_a_case_that_ends_otherwise_says_why(bench):
    assert "no-such-shape" in bench.child("--make", "no-such-shape", "x")["failed"]


def test_the_script_runs(tmp_path, only="packing"):
    "One case, in its own process."
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "gpu.py",
            "--smoke",
            "--only",
            only,
            "--passes",
            "2",
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kept, table = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    (case,) = kept["cases"]
    assert kept["smoke"] and case["model"] == "tiny" and str(tmp_path) not in json.dumps(kept) and table in done.stdout
    assert (
        case["tokens_per_second"] > 0
        and case["peak"] > 1e8
        and case["estimated"] > 1e8
        and case["trainable"] < case["parameters"]
        and "| tiny, bf16 LoRA, packing | 4 × 128 |" in table
    )


def test_without_a_gpu_it_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "gpu.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "no CUDA device here. --smoke" in done.stderr
