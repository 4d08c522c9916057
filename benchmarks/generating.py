"""Tokens per second of the `transformers` engine against a plain loop: same model, same questions of a real data set,
same batch size, greedy, and both give their batches to `generate` of transformers. What differs: rows that have ended
leave the engine's batch, where the loop waits for the last; the engine sorts by length, the longest first, where the
loop takes the questions as they come; and its time includes the making of its records.
Needs DISTILL_DATA_DIR (or the hub).

    DISTILL_DATA_DIR=... python benchmarks/generating.py
"""

import statistics
import time

import torch
from _shared import report

from distill_study.config import Data, Sampling
from distill_study.data.load import load_data
from distill_study.models.engine import open_engine
from distill_study.models.weights import SMOLLM, load_model, load_tokenizer, resolve_model
from distill_study.teach.sampling import requests

BATCH, ITEMS, TOKENS, ROUNDS = 16, 64, 160, 3


def plain(model, tokenizer, asked):
    "Input order, padded to the longest of each batch; returns (seconds, tokens up to the end of turn)."
    start, written = time.perf_counter(), 0
    for i in range(0, len(asked), BATCH):
        batch = [list(map(dict, r.messages)) for r in asked[i : i + BATCH]]
        x = tokenizer.apply_chat_template(
            batch, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        ).to(model.device)
        with torch.inference_mode():
            out = model.generate(**x, max_new_tokens=TOKENS, do_sample=False)
        for row in out[:, x["input_ids"].shape[1] :].tolist():
            ends = [k for k, t in enumerate(row) if t == model.generation_config.eos_token_id]
            written += ends[0] + 1 if ends else len(row)
    return time.perf_counter() - start, written


def ours(engine, asked):
    start = time.perf_counter()
    written = sum(r.completion_tokens for _, r in filter(None, engine.generate(asked)))  # None ends a batch
    return time.perf_counter() - start, written


if __name__ == "__main__":
    folder = resolve_model(SMOLLM)
    engine, tokenizer = open_engine(f"transformers:{SMOLLM}", batch_size=BATCH), load_tokenizer(folder)
    model = load_model(folder, engine.load().dtype)
    asked = requests(
        load_data(Data(name="ChilleD/SVAMP", test=ITEMS)).test, "cot", sampling=Sampling(max_tokens=TOKENS)
    )
    ways, rates = (
        {
            "plain loop, input order": lambda some: plain(model, tokenizer, some),
            "transformers engine": lambda some: ours(engine, some),
        },
        {},
    )
    for i in range(ROUNDS + 1):  # in turn; a first round of four warms up
        for name, go in ways.items():
            seconds, written = go(asked if i else asked[:4])
            if i:
                rates.setdefault(name, []).append(written / seconds)
    median = {name: statistics.median(r) for name, r in rates.items()}
    base = median["plain loop, input order"]
    report(
        "generating",
        f"Generating: SmolLM2-135M-Instruct, {ITEMS} SVAMP questions with chain of thought, batch {BATCH}, at most"
        f" {TOKENS} tokens",
        ["way", f"tokens/s (median of {ROUNDS})", "ratio"],
        [[n, f"{r:.0f}", f"{r / base:.2f}"] for n, r in median.items()],
    )
