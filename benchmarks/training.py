"""`fit_student` against TRL's SFTTrainer called directly with the same settings, on the same rows: tokens per second,
peak memory, and what the trained model makes of held-out items: how many it gets right, and its loss on their gold
answers, which tells two models apart long before they are right more often. Every method that is there is tried (qlora
needs bitsandbytes), each run in a process of its own, ours and TRL's in turn. SmolLM2-135M-Instruct comes from the hub
or from `make smollm`.

    python benchmarks/training.py [--methods full lora qlora] [--rounds 3] [--rows 192] [--test 200]
"""

import argparse
import gc
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from _shared import report

from distill_study.config import ARMS, Data, Train
from distill_study.data.load import load_data
from distill_study.models.local import TransformersEngine
from distill_study.models.weights import SMOLLM, device, load_model, load_tokenizer, resolve_model
from distill_study.store.log import Store
from distill_study.teach.curate import curate
from distill_study.teach.sampling import sample_answers, summary
from distill_study.train.methods import mean_loss
from distill_study.train.rows import tokenize_rows
from distill_study.train.save import write_merged
from distill_study.train.sft import fit_student

DATA = "tiny-nli"
METHODS = get_args(Train.model_fields["method"].annotation)
RATES = dict(full=5e-5, lora=5e-4, qlora=5e-4)
CASES = {  # name: (model, rows, settings)
    "zoo/student-s, full": ("zoo/student-s", 2048, Train(method="full", learning_rate=1e-3, epochs=1, batch_size=32)),
    **{
        f"SmolLM2-135M, {m}": (
            SMOLLM,
            192,
            Train(method=m, r=16, alpha=32, learning_rate=RATES[m], epochs=1, batch_size=16),
        )
        for m in METHODS
    },
}
WAYS = ("TRL directly", "fit_student")


def taught(n, test):
    "Rows with gold labels, and the held-out examples."
    splits = load_data(Data(name=DATA, train=n, test=test))
    return curate(ARMS["control/gold"], splits.train, answers=None, test=[]).rows, splits.test


def peak():
    "Most memory of this process so far, in bytes: resident, or allocated on a GPU."
    import torch

    return (
        torch.cuda.max_memory_allocated()
        if device() == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


def ours(rows, model, settings, folder):
    "Seconds in training, peak memory until its last step, precision."
    seen = []
    done = fit_student(rows, model, settings=settings, out=folder, seed=0, progress=lambda *_: seen.append(peak()))
    return done.seconds, max(seen), done.dtype


def direct(rows, model, settings, folder, bf16):
    "TRL as its own documentation has it: conversational rows, loss on the completion, same hyperparameters."
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    base, where = resolve_model(model), device()
    data = Dataset.from_list([dict(prompt=r["messages"][:-1], completion=r["messages"][-1:]) for r in rows])
    adapter = (
        None
        if settings.method == "full"
        else LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
            task_type="CAUSAL_LM",
        )
    )
    args = SFTConfig(
        str(folder / "run"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=bf16,
        seed=0,
        max_length=None,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10_000,
        gradient_checkpointing=settings.gradient_checkpointing,
        use_cpu=where == "cpu",
    )
    numbers = torch.bfloat16 if bf16 else torch.float32
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=numbers
    )
    start = (
        AutoModelForCausalLM.from_pretrained(base, dtype=numbers, quantization_config=four, device_map=where)
        if settings.method == "qlora"
        else load_model(base, torch.float32)
    )
    for m in start.modules():
        if hasattr(m, "support_avx512bf16_for_cpu"):
            m.support_avx512bf16_for_cpu = False  # or bitsandbytes repacks weights on a CPU, and training on them fails
    trainer = SFTTrainer(start, args, train_dataset=data, processing_class=load_tokenizer(base), peft_config=adapter)
    began = time.perf_counter()
    trainer.train()
    seconds, most = time.perf_counter() - began, peak()
    saved = (
        load_model(base).dtype
    )  # as `fit_student` saves it: weights of 32 bits that few steps have moved hold more than these can, see the notes
    if adapter is None:
        trainer.model.to(saved).save_pretrained(folder / "model")
        load_tokenizer(base).save_pretrained(folder / "model")
    else:
        trainer.model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        write_merged(base, folder / "adapter", folder=folder / "model")
    return seconds, most, "bfloat16" if bf16 else "float32"


def scores(model, test, where):
    "Share of the held-out items that a model gets right, and its loss on their gold answers."
    import torch

    folder = resolve_model(str(model))
    tokenizer = load_tokenizer(folder)
    rows = tokenize_rows(
        [dict(id=e.id, messages=[*e.ask("vanilla"), dict(role="assistant", content=e.gold)]) for e in test], tokenizer
    )
    return dict(
        right=summary(
            sample_answers(test, "vanilla", engine=TransformersEngine(str(model)), store=Store(where), split="test")
        )["accuracy"],
        loss=mean_loss(load_model(folder, torch.float32), rows, pad=tokenizer.pad_token_id),
    )


def one(name, way, bf16, score, rows, test):
    "One run, in a process of its own."
    (model, _, settings), say = CASES[name], {}
    rows, test = taught(rows, test)
    with tempfile.TemporaryDirectory() as d:
        go = (
            (lambda rows, to: ours(rows, model, settings, to))
            if way == "fit_student"
            else (lambda rows, to: direct(rows, model, settings, to, bf16))
        )
        if model != SMOLLM:
            go(rows[: 2 * settings.batch_size], Path(d) / "first")
            gc.collect()  # its run is over before libraries have settled
        say["seconds"], say["peak"], say["dtype"] = go(rows, Path(d) / "out")
        if score:
            say |= scores(Path(d) / "out" / "model", test, Path(d) / "store")
    print(json.dumps(say))


def run(name, way, bf16, score, *sizes):
    "What `one` says."
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, way, *(str(int(x)) for x in (bf16, score, *sizes))],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}, {way}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(name, rounds, most, held):
    "Rows of the table for one case."
    model, n, settings = CASES[name]
    if model == SMOLLM and most:
        n = most
    rows, test = taught(n, held)
    tokens = settings.epochs * sum(
        len(r["input_ids"]) for r in tokenize_rows(rows, load_tokenizer(resolve_model(model)))
    )
    got = {w: [] for w in WAYS}
    for k in range(rounds):
        mine = run(name, WAYS[1], False, k == 0, n, held)  # its precision is TRL's, too
        got[WAYS[1]].append(mine)
        got[WAYS[0]].append(run(name, WAYS[0], mine["dtype"] == "bfloat16", k == 0, n, held))
    with tempfile.TemporaryDirectory() as d:
        before = scores(model, test, d)
    rate = {w: tokens / statistics.median(r["seconds"] for r in runs) for w, runs in got.items()}
    return [
        [
            name,
            w,
            f"{rate[w]:.0f}",
            f"{rate[w] / rate[WAYS[0]]:.2f}",
            f"{max(r['peak'] for r in runs) / 2**20:,.0f}",
            runs[0]["dtype"],
            f"{before['right']:.1%} → {runs[0]['right']:.1%}",
            f"{before['loss']:.3f} → {runs[0]['loss']:.3f}",
        ]
        for w, runs in got.items()
    ]


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rows", type=int, help="training items of SmolLM2")
    p.add_argument("--test", type=int, default=200, help="held-out items")
    p.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        one(*a.one[:2], *map(int, a.one[2:]))
    else:
        cases = [
            c
            for c, (model, _, s) in CASES.items()
            if s.method in a.methods and (s.method != "qlora" or importlib.util.find_spec("bitsandbytes"))
        ]
        gone = (
            []
            if len(cases) == len(CASES) or a.methods != METHODS
            else ["qlora is left out: bitsandbytes is not installed."]
        )
        report(
            "training",
            f"Training: median of {a.rounds} runs",
            [
                "case",
                "way",
                "tokens/s",
                "ratio",
                "peak memory, MiB",
                "precision",
                "right, before → after",
                "loss, before → after",
            ],
            [row for name in cases for row in compare(name, a.rounds, a.rows, a.test)],
            [
                (
                    "Same rows, hyperparameters, precision and seed; seconds inside `train`, without loading or saving"
                    f" the model; memory of the process until the last step. Right, and loss: on {a.test} held-out"
                    f" items of {DATA}, after one pass over the gold answers of {a.rows or 192} training items (zoo:"
                    " 2,048)."
                ),
                (
                    "Both ways save the model in the numbers of its base, bfloat16 for SmolLM2. A few steps of full"
                    " fine-tuning at a low rate move weights by less than these numbers can tell: after 4 steps (64"
                    " items) TRL's weights have a loss of 1.55 in 32 bits, and of 2.70 rounded, where ours are at 2.71."
                ),
                *gone,
            ],
        )
