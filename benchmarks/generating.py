"""Tokens per second of the `transformers` engine against a plain loop: same model, same questions of a real data set,
same batch size, greedy, and both give their batches to `generate` of transformers. What differs: rows that have ended
leave the engine's batch, where the loop waits for the last; the engine sorts by length, the longest first, where the
loop takes the questions as they come; and its time includes the making of its records. The engine runs in both number
formats, in turn: which one is the default on a machine (`models.local.number_format`) is a choice between speed and
texts that agree with those of other machines. Needs DISTILL_DATA_DIR (or the hub).

    DISTILL_DATA_DIR=... python benchmarks/generating.py
"""

import statistics
import time
from functools import partial

import torch
from _shared import report

from distill_study.config import Data, Sampling
from distill_study.data.load import load_data
from distill_study.models.engine import open_engine
from distill_study.models.local import number_format, parameter_count
from distill_study.models.weights import SMOLLM, device, load_model, load_tokenizer, resolve_model
from distill_study.teach.sampling import requests

BATCH, ITEMS, TOKENS, ROUNDS = 16, 64, 160, 3
FORMATS = ("bfloat16", "float32")


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


def ours(engine, asked, texts):
    "(seconds, tokens); `texts` gets the answers by position."
    start = time.perf_counter()
    records = dict(filter(None, engine.generate(asked)))  # None ends a batch
    seconds = time.perf_counter() - start
    texts |= {i: r.text for i, r in records.items()}
    return seconds, sum(r.completion_tokens for r in records.values())


def measured(ways, asked) -> dict:
    "Way → median tokens per second; in turn, after a first round of four questions that warms up."
    rates = {name: [] for name in ways}
    for i in range(ROUNDS + 1):
        for name, go in ways.items():
            seconds, written = go(asked if i else asked[:4])
            rates[name] += [written / seconds] if i else []
    return {name: statistics.median(r) for name, r in rates.items()}


if __name__ == "__main__":
    folder = resolve_model(SMOLLM)
    engines = {f: open_engine(f"transformers:{SMOLLM}", batch_size=BATCH, dtype=f) for f in FORMATS}
    usual = number_format(parameter_count(folder), device())
    model, tokenizer = load_model(folder, usual), load_tokenizer(folder)
    data = load_data(Data(name="ChilleD/SVAMP", test=ITEMS))
    asked = requests(data.test, "cot", sampling=Sampling(max_tokens=TOKENS))
    texts = {f: {} for f in FORMATS}
    ways = {"plain loop, input order": lambda some: plain(model, tokenizer, some)}
    for f, engine in engines.items():
        ways[f"transformers engine, {f}"] = partial(ours, engine, texts=texts[f])
    rates = measured(ways, asked)
    base = rates["plain loop, input order"]
    same = sum(texts[FORMATS[0]][i] == texts[FORMATS[1]][i] for i in range(len(asked)))
    usual = str(usual).removeprefix("torch.")
    report(
        "generating",
        f"Generating: SmolLM2-135M-Instruct, {ITEMS} SVAMP questions with chain of thought, batch {BATCH}, at most"
        f" {TOKENS} tokens",
        ["way", f"tokens/s (median of {ROUNDS})", "ratio"],
        [[n, f"{r:.0f}", f"{r / base:.2f}"] for n, r in rates.items()],
        [f"The loop computes in {usual}, this machine's default. {same} of {len(asked)} texts are the same in both."],
    )
