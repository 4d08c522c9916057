"""Training on one GPU, as users run it (`fit_student`): tokens per second, model FLOPs utilisation, and peak memory
beside its estimate, for LoRA in bf16 and QLoRA, with and without packing, Liger's kernels and gradient checkpointing.
SmolLM2-135M comes from the hub or from `make smollm`; the Llama-3.1-8B-shaped model has random weights, made on the
device: nothing is downloaded for it, and 16 GB of disk hold it meanwhile.

    python benchmarks/gpu.py [--only WORD ...] [--passes 3] [--out FOLDER]
    python benchmarks/gpu.py --smoke        # the same code on the CPU, with a tiny shape

Each case runs in a process of its own. One that runs out of memory, or that this machine can't do, is a row that
says so.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {  # layers, width, inner width, heads, key-value heads, vocabulary, embeddings tied to the head
    "Llama-3.1-8B": (32, 4096, 14336, 32, 8, 128_256, False),
    "tiny": (2, 64, 128, 2, 1, 1280, True),
}
SIZES = {"SmolLM2-135M": (16, 1024), "Llama-3.1-8B": (4, 2048), "tiny": (4, 128)}  # rows a step, tokens of the longest
SWITCHES = [
    dict(),
    dict(packing=True),
    dict(liger=True),
    dict(gradient_checkpointing=True),
    dict(packing=True, liger=True, gradient_checkpointing=True),
]
SHORT = dict(packing="packing", liger="Liger", gradient_checkpointing="checkpointing")
SPREAD = (0.25, 0.5, 0.75, 1.0)  # lengths of the rows, as shares of the longest
PEAKS = [  # dense bf16 FLOP/s by device name, from NVIDIA's data sheets, first match counts
    (r"\bB200\b", 2250e12),
    (r"H200|GH200", 989e12),
    (r"H100.*PCIe", 756e12),
    (r"H100.*NVL", 835e12),
    (r"\bH100\b", 989e12),
    (r"\bA100\b", 312e12),
    (r"\bA10G?\b", 125e12),
    (r"\bA40\b", 150e12),
    (r"\bL40S\b", 362e12),
    (r"\bL40\b", 181e12),
    (r"\bL4\b", 121e12),
    (r"RTX 6000 Ada", 364e12),
    (r"RTX A6000", 155e12),
    (r"RTX 5090", 209e12),
    (r"RTX 4090", 165e12),
    (r"RTX 3090", 71e12),
]


def chip_peak(name):
    "Most dense bf16 FLOP/s of a device; None where it isn't in the table."
    return next((flops for pattern, flops in PEAKS if re.search(pattern, name)), None)


def flops(cfg, adapters, method, lengths, supervised):
    """FLOPs that one pass over rows of these `lengths` asks of the model.

    Recomputed activations, padding and dequantizing are not counted.
    """
    d, ff, kv = cfg.hidden_size, cfg.intermediate_size, cfg.num_key_value_heads
    hd = getattr(cfg, "head_dim", None) or d // cfg.num_attention_heads
    q, tokens = cfg.num_attention_heads * hd, sum(lengths)
    body = cfg.num_hidden_layers * (2 * d * q + 2 * d * kv * hd + 3 * d * ff)
    head = d * cfg.vocab_size * supervised  # logits of supervised tokens only
    weights = (
        6 if method == "full" else 4
    )  # forward 2, backward 2 to the inputs and 2 to the weights, which are frozen under an adapter
    attention = (
        cfg.num_hidden_layers * 6 * q * sum(n * n for n in lengths)
    )  # scores and their sums, forward 4, backward 8; a token sees half of the row
    return weights * (body + head) * tokens + 6 * (0 if method == "full" else adapters) * tokens + attention


def make_model(shape, folder):
    "A Llama of random weights, made on the device, with the tokenizer of the built-in models."
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from distill_study.models.weights import device, load_tokenizer, resolve_model

    layers, width, inner, heads, groups, words, tied = SHAPES[shape]
    tokenizer = load_tokenizer(resolve_model("zoo/student-s"))
    cfg = LlamaConfig(
        vocab_size=max(words, len(tokenizer)),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(cfg, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(case):
    "Train one case and say what it took."
    import torch
    from memory import make_rows
    from transformers import AutoConfig

    from distill_study.config import StudyError, Train
    from distill_study.models.weights import load_tokenizer, resolve_model
    from distill_study.study.resources import this_machine, training_memory
    from distill_study.train.sft import fit_student

    cuda, folder, (batch, length), passes = (
        torch.cuda.is_available(),
        resolve_model(case["model"]),
        case["size"],
        case["passes"],
    )
    settings, tokenizer, ends, peaks = (
        Train(**case["train"], batch_size=batch, epochs=passes, merged=False, save_steps=10**6),
        load_tokenizer(folder),
        [],
        [],
    )
    rows = [
        dict(r, id=f"{share}-{i}")
        for share in SPREAD
        for i, r in enumerate(make_rows(batch, int(length * share), 0.25, tokenizer))
    ]

    def told(*_):
        if cuda:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        peaks.append(
            torch.cuda.max_memory_allocated()
            if cuda
            else next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
        )

    with tempfile.TemporaryDirectory() as d:
        try:
            done = fit_student(rows, case["model"], settings=settings, out=Path(d) / "run", seed=0, progress=told)
        except StudyError as e:
            return dict(failed=str(e).split(". ")[0])
    of = lambda row: len(
        tokenizer(tokenizer.apply_chat_template(row["messages"], tokenize=False), add_special_tokens=False)["input_ids"]
    )
    lengths = [of(r) for r in rows]
    first = done.steps // passes  # the first pass over the rows is not timed
    seconds, tokens = ends[-1] - ends[first - 1], sum(lengths) * (passes - 1)
    guess = training_memory(
        case["model"], settings, length=done.max_length, devices=this_machine(), supervised=done.supervised_share
    )
    work = flops(
        AutoConfig.from_pretrained(folder), done.trainable, settings.method, lengths, done.supervised_share
    ) * (passes - 1)
    return dict(
        tokens_per_second=tokens / seconds,
        flops_per_second=work / seconds,
        peak=max(peaks),
        estimated=guess.total - guess.parts["process"] if cuda else guess.total,
        dtype=done.dtype,
        parameters=done.parameters,
        trainable=done.trainable,
        seconds=seconds,
    )


def child(*args):
    "What this script says with `args` in a process of its own; where it ends otherwise, why."
    done = subprocess.run(
        [sys.executable, __file__, *args],
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True"),
    )
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return dict(
        failed=(
            "killed: out of memory, maybe"
            if done.returncode < 0
            else lines[-1][:200]
            if lines
            else f"exit code {done.returncode}"
        )
    )


def name_of(case):
    return ", ".join(
        [
            case["shape"],
            "bf16 LoRA" if case["train"]["method"] == "lora" else "QLoRA",
            *(SHORT[k] for k in SHORT if case["train"].get(k)),
        ]
    )


def line(case, got, peak):
    "A row of the table."
    size = f"{case['size'][0]} × {case['size'][1]}"
    if "failed" in got:
        return [name_of(case), size, f"**{got['failed']}**", "", "", "", "", ""]
    off, mfu = got["peak"] / got["estimated"] - 1, f"{got['flops_per_second'] / peak:.1%}" if peak else "unknown"
    return [
        name_of(case),
        size,
        f"{got['tokens_per_second']:,.0f}",
        f"{got['flops_per_second'] / 1e12:,.2f}",
        mfu,
        f"{got['peak'] / 1e9:,.2f}",
        f"{got['estimated'] / 1e9:,.2f}",
        f"{off:+.0%}",
    ]


def main(only=(), passes=3, smoke=False, out=None):
    "All cases, one after the other."
    import torch
    from _shared import RESULTS, report

    if not torch.cuda.is_available() and not smoke:
        raise SystemExit("no CUDA device here. --smoke runs the same code on the CPU with a tiny shape.")
    from distill_study.models.weights import SMOLLM

    device, found = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", []
    peak = chip_peak(device)
    with tempfile.TemporaryDirectory() as d:
        for shape in ("tiny",) if smoke else ("SmolLM2-135M", "Llama-3.1-8B"):
            switches = dict(lora=SWITCHES[:3], qlora=SWITCHES[3:4]) if smoke else dict(lora=SWITCHES, qlora=SWITCHES)
            cases = [
                dict(
                    shape=shape,
                    model=SMOLLM if shape.startswith("SmolLM2") else str(Path(d) / shape),
                    size=SIZES[shape],
                    passes=passes,
                    train=dict(method=m) | s,
                )
                for m in switches
                for s in switches[m]
            ]
            cases = [c for c in cases if all(w.lower() in name_of(c).lower() for w in only)]
            made = child("--make", shape, cases[0]["model"]) if cases and shape in SHAPES else {}
            for case in cases:
                found.append((case, made if "failed" in made else child("--run", json.dumps(case))))
                print(*line(*found[-1], peak), sep=" | ", file=sys.stderr, flush=True)
    where = Path(out) if out else None if not smoke else Path(tempfile.gettempdir())
    notes = [
        f"Device: {device}; "
        + (
            f"peak {peak / 1e12:,.0f} TFLOP/s in bf16, dense."
            if peak
            else "its peak in bf16 is not known here, so there is no MFU: add it to PEAKS."
        ),
        (
            f"Rows of {', '.join(f'{s:.0%}' for s in SPREAD)} of the longest, batched by length; {passes} passes over"
            " them, the first not timed; padding counts as no tokens. MFU: FLOPs the model asks for (4 a weight and"
            " token under an adapter), without what checkpointing computes twice."
        ),
        "Peak: "
        + ("the allocator's" if device != "CPU" else "resident set")
        + " until the last step; the estimate is `memory.training_memory`'s, which knows neither Liger nor packing's"
        " masks.",
    ]
    report(
        "gpu",
        "Training on one GPU",
        ["case", "rows × tokens", "tokens/s", "TFLOP/s", "MFU", "peak GB", "estimated GB", "off by"],
        [line(c, g, peak) for c, g in found],
        notes,
        where,
    )
    (where or RESULTS).joinpath("gpu.json").write_text(
        json.dumps(
            dict(device=device, peak_flops=peak, smoke=smoke, cases=[dict(c, model=c["shape"]) | g for c, g in found]),
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--only", nargs="+", default=(), help="words that a case's name must have, e.g. 8B QLoRA")
    p.add_argument("--passes", type=int, default=3, help="over the rows")
    p.add_argument("--smoke", action="store_true", help="on the CPU if need be, with a tiny shape")
    p.add_argument("--out", help="folder for table and JSON instead of results/")
    p.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    p.add_argument("--run", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.passes < 2:
        raise SystemExit(f"--passes {a.passes}: the first is not timed; ask for 2 or more.")
    if a.make:
        make_model(*a.make)
        print("{}")
    elif a.run:
        print(json.dumps(run(json.loads(a.run))))
    else:
        main(a.only, a.passes, a.smoke, a.out)
