"""Tokens per second of `student.fit` against TRL's SFTTrainer called directly with the same settings, on the same rows.

    python benchmarks/training.py
"""
import statistics, tempfile, time
from pathlib import Path

from _shared import report
from distill_study.config import ARMS, Data, Train
from distill_study.curate import curate
from distill_study.data import load_data
from distill_study.models import SMOLLM, load_model, load_tokenizer, resolve_model
from distill_study.student import fit

ROUNDS = 3
CASES = {   # name: (model, rows, settings)
    "zoo/student-s, full": ("zoo/student-s", 512, Train(method="full", learning_rate=1e-3, epochs=1, batch_size=32)),
    "SmolLM2-135M, LoRA": (SMOLLM, 48, Train(method="lora", r=16, alpha=32, learning_rate=1e-3, epochs=1, batch_size=16)),
}


def direct(rows, model, settings, bf16):
    "TRL as its own documentation has it: conversational rows, loss on the completion, same hyperparameters. Seconds in `train`."
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer
    folder = resolve_model(model)
    data = Dataset.from_list([dict(prompt=r["messages"][:-1], completion=r["messages"][-1:]) for r in rows])
    lora = LoraConfig(r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=settings.target_modules, task_type="CAUSAL_LM") if settings.method == "lora" else None
    with tempfile.TemporaryDirectory() as d:
        args = SFTConfig(d, num_train_epochs=settings.epochs, per_device_train_batch_size=settings.batch_size, learning_rate=settings.learning_rate, lr_scheduler_type=settings.schedule,
                         warmup_steps=settings.warmup_ratio, weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm, bf16=bf16, seed=0, max_length=None,
                         save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=10_000, gradient_checkpointing=settings.gradient_checkpointing, use_cpu=not torch.cuda.is_available())
        trainer = SFTTrainer(load_model(folder, torch.float32), args, train_dataset=data, processing_class=load_tokenizer(folder), peft_config=lora)
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def compare(name):
    model, n, settings = CASES[name]
    splits = load_data(Data(name="tiny-qa", train=n, test=1))
    rows = curate(ARMS["control/gold"], splits.train, None, []).rows
    for row, example in zip(rows, splits.train): row["messages"][-1]["content"] = f"The right choice is the one with the letter {example.gold}."
    taken = {"TRL directly": [], "student.fit": []}
    for _ in range(ROUNDS + 1):
        with tempfile.TemporaryDirectory() as d: done = fit(rows, model, settings, Path(d)/"run", 0)
        taken["student.fit"].append(done.seconds)
        taken["TRL directly"].append(direct(rows, model, settings, done.dtype == "bfloat16"))
    tokens = done.tokens * settings.epochs
    median = {k: tokens / statistics.median(v[1:]) for k, v in taken.items()}
    return [[name, way, f"{rate:.0f}", f"{rate / median['TRL directly']:.2f}"] for way, rate in median.items()]


if __name__ == "__main__":
    report("training", f"Training: tokens per second, median of {ROUNDS}", ["case", "way", "tokens/s", "ratio"], [row for name in CASES for row in compare(name)],
           ["Same rows, hyperparameters, precision and seed; seconds inside `train`, without loading or saving the model."])
